"""Kills a driver whose call into Ray does not return. Run as a file, by an interpreter that imports no package.

Ray connects a driver inside C++ and blocks Python meanwhile, so no thread of the driver can keep a deadline. The driver
closes this process's standard input when the call has returned.
"""

from __future__ import annotations

import os
import select
import signal
import sys


def main(driver: int, seconds: float, log: str, message: str) -> None:
    """Wait for the end of standard input. If it does not come in time, say why and kill the driver."""
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    if readable or os.getppid() != driver:
        return
    try:
        with open(log, errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
    except OSError:  # Ray has not made it yet
        lines = []
    sys.stderr.write("".join([message, *(f"  {line[:300]}\n" for line in lines[-3:])]))
    sys.stderr.flush()
    os.kill(driver, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4])
