"""Functions that all commands share: for their errors, their options, and the terminal that they print to."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from raysweep.backend.nativelines import kept_off_the_terminal
from raysweep.backend.signals import at_once, end_at_next_signal, interrupting, sweep_at_work
from raysweep.cli.output import tell
from raysweep.errors import OutputError, RaysweepError
from raysweep.storage.layout import typed
from raysweep.wording import worded_for

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from raysweep.spec.sections import SweepSpec

PLAIN_WIDTH = 160
P = ParamSpec("P")
R = TypeVar("R")


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn raysweep's own errors into their message and exit code; no other place does this."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            _require_working_directory()
            with worded_for("terminal"), interrupting(), kept_off_the_terminal():
                return command(*args, **kwargs)
        except OutputError as error:
            sweep = sweep_at_work()
            tell(f"{error}\nThe sweep is kept. To go on, type: raysweep resume {sweep}" if sweep else str(error))
            raise SystemExit(error.exit_code) from error
        except RaysweepError as error:
            tell(str(error))
            raise SystemExit(error.exit_code) from error
        except KeyboardInterrupt as stop:
            end_at_next_signal()
            number = getattr(stop, "number", signal.SIGINT)
            tell(at_once())
            raise SystemExit(128 + number) from None

    return wrapped


def _require_working_directory() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise RaysweepError("the working directory was removed; type: cd, to one that is there") from None


def tensorboard_lines(runs: Path) -> list[str]:
    """Return what to type and do so that TensorBoard shows all of the runs in a directory.

    The address turns off smoothing, because it moves each curve away from its last value. The box cannot be set in the
    address, because its setting stays in the browser. By default the axis ends below the highest 5 % of all points.
    """
    return [
        f"tensorboard --logdir {typed(runs)}",
        "    at http://localhost:6006/?smoothing=0 open Settings and untick",
        '    "Ignore outliers in chart scaling", which cuts the best trials off',
    ]


class Duration(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A time such as `90s` or `1h30m`, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from raysweep.spec.sections import parse_duration

        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)
        if not seconds > 0:
            self.fail("must be more than nothing", param, ctx)
        return float(seconds)


def plain_console() -> Console:
    from rich.console import Console

    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    console = Console(width=None if is_terminal else PLAIN_WIDTH, markup=False, highlight=False)
    if console.is_dumb_terminal:
        console.size = shutil.get_terminal_size()  # rich assumes a width of 80 for each dumb terminal
    return console


def display_of(console: Console, spec: SweepSpec) -> Any:
    """Return the display of a running sweep: live, or lines for a pipe and for the inline backend (debuggers)."""
    from raysweep.terminal.progress import LiveDisplay, PlainDisplay

    is_live = can_redraw(console) and spec.resources.backend != "inline"
    return LiveDisplay(console) if is_live else PlainDisplay(console)


def can_redraw(console: Console) -> bool:
    """Return whether output can be redrawn in place: not in a pipe, and not on a terminal with TERM=dumb."""
    return console.is_terminal and not console.is_dumb_terminal


def warner(console: Console) -> Callable[[str], None]:
    return lambda warning: print_sentences(console, f"warning  {warning}")


def print_sentences(console: Console, text: str) -> None:
    """Print text that breaks between words on a terminal. Commands, and all output into a pipe, are not broken."""
    for line in text.splitlines():
        console.print(line, soft_wrap=line.startswith("    ") or not console.is_terminal, markup=False)


@contextmanager
def preparing(console: Console) -> Iterator[Callable[[int, int], None] | None]:
    """Show a progress bar, but only while a data cache is built."""
    if not can_redraw(console):
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    bar = Bar(TextColumn("data cache"), BarColumn(), MofNCompleteColumn(), console=console, transient=True)
    task = bar.add_task("", total=None)

    def progress(done: int, total: int) -> None:
        if done < total:
            bar.start()
        bar.update(task, completed=done, total=total)
        if done >= total:
            bar.stop()

    try:
        yield progress
    finally:
        bar.stop()
