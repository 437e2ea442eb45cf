"""The command line: it parses, calls and prints. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import atexit
import gc

import click

from raysweep import __version__
from raysweep.cli.files import check, cluster, data
from raysweep.cli.new import new
from raysweep.cli.results import best, export, findings, report
from raysweep.cli.status import status
from raysweep.cli.sweeps import resume, run
from raysweep.cli.trial import show

GARBAGE_AFTER = 50_000
"""Objects made before Python looks for garbage again; at its own 700 that takes 0.2 s of what a sweep imports."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="raysweep")
def main() -> None:
    """Hyperparameter search for convolutional VAEs on Ray.

    \b
    raysweep check search_spaces/kld.yaml       what would run, without running it
    raysweep run search_spaces/kld.yaml         run it, here or on the cluster that RAY_ADDRESS names
    tensorboard --logdir results/kld/report     look at it
    """


def command() -> None:
    """`main` in a process of its own, which seldom looks for garbage, and not at its end."""
    gc.set_threshold(GARBAGE_AFTER)
    atexit.register(gc.freeze)  # else the interpreter looks for garbage in all that was imported: 0.6 s
    main()


for _command in (new, run, resume, status, best, show, report, findings, export, check, cluster, data):
    main.add_command(_command)
