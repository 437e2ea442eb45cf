"""Entry point of `python -m raysweep` and of the command `raysweep`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path


def run() -> None:
    """Run the command line. Until its imports are done, Ctrl-C ends it without a traceback."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not if it is ignored, as after `&` in a script
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from raysweep.cli import command

    signal.signal(signal.SIGINT, before)
    command()


if __name__ == "__main__":
    if Path(sys.path[0]) != Path(__file__).parents[1]:
        del sys.path[0]  # the working directory: a file there may have the name of a library
    run()
