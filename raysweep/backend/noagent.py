"""A stand-in for the agent of Ray's dashboard, which a raylet needs. It does nothing, and ends with the raylet.

It is run as a file, by an interpreter that imports neither raysweep nor any other package.
"""

from __future__ import annotations

import os
import time

if __name__ == "__main__":
    raylet = os.getppid()
    while os.getppid() == raylet:
        time.sleep(1)
