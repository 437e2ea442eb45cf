"""`python -m raysweep`, and the command `raysweep`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path


def run() -> None:
    """Run the command line; Ctrl-C ends it without a traceback while it is still being imported."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not where it is ignored, as after `&` in a script
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from raysweep.cli import command

    signal.signal(signal.SIGINT, before)
    command()


if __name__ == "__main__":
    if Path(sys.path[0]) != Path(__file__).parents[1]:
        del sys.path[0]  # the working directory, whose files may bear the names of libraries
    run()
