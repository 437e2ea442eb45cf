"""Stands where Ray's raylet has its dashboard's agent, without which it would not live: does nothing, and ends with it.

It is run as a file, by an interpreter that has read neither raysweep nor any other package.
"""

from __future__ import annotations

import os
import time

if __name__ == "__main__":
    raylet = os.getppid()
    while os.getppid() == raylet:
        time.sleep(1)
