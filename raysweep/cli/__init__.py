"""The command line: it parses, calls and prints. Slow imports are made only by the command that needs them."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
from contextlib import suppress

import click

from raysweep import __version__
from raysweep.backend.raythread import is_stuck
from raysweep.backend.signals import end_at_next_signal
from raysweep.cli.files import check, cluster, data
from raysweep.cli.new import new
from raysweep.cli.output import guarded_output
from raysweep.cli.results import best, export, findings, report
from raysweep.cli.standing import status
from raysweep.cli.sweeps import resume, run
from raysweep.cli.trial import show
from raysweep.errors import OutputError

GARBAGE_AFTER = 50_000
"""New objects before Python collects garbage again; with the default of 700, it takes 0.2 s of a sweep's imports."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="raysweep")
def main() -> None:
    """Hyperparameter search for convolutional VAEs on Ray.

    \b
    raysweep run quickstart                     a minute on what comes with the installation
    raysweep new my.yaml --data my_images       write a search space for images of your own
    raysweep check my.yaml                      what would run, without running it
    raysweep run my.yaml                        run it, here or on the cluster that RAY_ADDRESS names
    tensorboard --logdir results/my/report      look at it
    """


def command() -> None:
    """Run `main` as the whole process: with rare garbage collection, and without messages of libraries at the end."""
    gc.set_threshold(GARBAGE_AFTER)
    _leave_to_the_log()
    code = 1  # for an unexpected error
    atexit.register(_close_the_terminal)  # registered first, so called last
    atexit.register(gc.freeze)  # otherwise the interpreter collects garbage in all that was imported: 0.6 s
    try:
        with guarded_output():
            main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        raise
    finally:
        end_at_next_signal()
        if is_stuck():  # what Python calls at its end would wait for the same call into Ray
            error = sys.exc_info()
            if error[0] is not None and not isinstance(error[1], SystemExit):
                sys.excepthook(*error)
            _end(code)


def _end(code: int) -> None:
    """Flush the output and end this process without Python's clean-up."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, OutputError):  # the reader may be gone, such as `head`
            stream.flush()
    os._exit(code)


def _close_the_terminal() -> None:
    """Hide what libraries print after the interpreter has ended: their leaks, 34 lines by triton."""
    with suppress(OSError, ValueError):
        sys.stderr.flush()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)


def _leave_to_the_log() -> None:
    """Keep warnings and messages of libraries off the terminal; a sweep's log has them."""
    logging.captureWarnings(True)
    for name in ("matplotlib", "py.warnings"):
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False


for _command in (new, run, resume, status, best, show, report, findings, export, check, cluster, data):
    main.add_command(_command)
