"""The command `status`: show the status of a sweep, once or until it ends."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from raysweep.cli.terminal import plain_console, reports_errors
from raysweep.storage.layout import typed
from raysweep.wording import counted

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from raysweep.review.sweep import Sweep

LOOK_S = 1.0
"""Least seconds between two looks at a sweep."""
LOOK_SHARE = 0.1
"""Largest share of the time spent on looking: the journal of a large sweep takes seconds to read."""


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--watch", is_flag=True, help="Show it again and again till the sweep ends; Ctrl-C ends the watching.")
@click.option(
    "--json", "as_json", is_flag=True, help="As JSON, with the seconds elapsed and left; with --watch, a line each."
)
@reports_errors
def status(directory: str, watch: bool, as_json: bool) -> None:
    """Show where the sweep in DIR stands."""
    from raysweep.review.sweep import open_sweep

    if not watch:
        sweep = open_sweep(directory)
        if as_json:
            click.echo(_json_of(sweep, indent=2))
        else:
            console = plain_console()
            for part in _view(sweep, directory):
                _show(console, part)
        return
    try:
        _watch(directory, as_json)
    except KeyboardInterrupt as stop:  # the sweep goes on, so no message is needed
        raise SystemExit(128 + getattr(stop, "number", 2)) from None


def _watch(directory: str, as_json: bool) -> None:
    """Show a sweep until no driver is at work on it."""
    from rich.console import Group
    from rich.live import Live

    from raysweep.review.sweep import open_sweep

    console = plain_console()
    live = Live(console=console, auto_refresh=False) if console.is_terminal and not as_json else None
    shown_before: object = None
    try:
        while True:
            began = time.monotonic()
            sweep = open_sweep(directory)
            news = (sweep.running, [(r.state, len(r.epochs), r.tested is None) for r in sweep.records])
            if live is not None:
                live.start()
                live.update(Group(*_view(sweep, directory)), refresh=True)
            elif news != shown_before:
                if as_json:
                    click.echo(_json_of(sweep))
                else:
                    for part in (*([""] if shown_before else []), *_view(sweep, directory)):
                        _show(console, part)
                shown_before = news
            if not sweep.running:
                return
            time.sleep(max(LOOK_S, (time.monotonic() - began) / LOOK_SHARE))
    finally:
        if live is not None:
            live.stop()


def _show(console: Console, part: RenderableType) -> None:
    """Print a line, a table or a sentence. On a terminal, sentences break between words; lines stay whole."""
    from rich.text import Text

    is_sentence = isinstance(part, Text)
    console.print(part, soft_wrap=isinstance(part, str) or (is_sentence and not console.is_terminal))


def _json_of(sweep: Sweep, indent: int | None = None) -> str:
    from raysweep.review.sweep import strict_json
    from raysweep.terminal.mappings import status_mapping

    return json.dumps(strict_json(status_mapping(sweep)), indent=indent)


def _view(sweep: Sweep, directory: str) -> list[RenderableType]:
    """Return the lines, tables and sentences that show the status of a sweep."""
    from rich.text import Text

    from raysweep.terminal.views import (
        causes,
        duration_text,
        finals_view,
        params_text,
        summary_lines,
        trials_view,
        value_text,
    )

    state, standing = sweep.status(), sweep.standing
    elapsed, left = sweep.elapsed_s(), sweep.left_s()
    saved = f"{state.epochs_saved} saved by early stopping ({state.saved_share:.0%})"
    parts: list[RenderableType] = [
        f"{sweep.name}  {standing}, {state.ended} of {counted(state.trials, 'trial')} ended",
        f"trials   {summary_lines(state)}",
        f"epochs   {state.epochs_done} trained, {saved}",
    ]
    if elapsed is not None and sweep.running:
        rest = f", about {duration_text(left)} left" if left else ""
        parts.append(f"time     {duration_text(elapsed)} since the first trial started{rest}")
    elif elapsed is not None:
        parts.append(f"time     {duration_text(elapsed)} from the first trial's start to the last news")
    if not state.left and state.finalists:
        done = len(state.finalists) - len(state.untested)
        parts.append(f"tested   {done} of {counted(len(state.finalists), 'finalist')}")
    for record in state.running:
        result = value_text(record.last(sweep.objective)) if record.epochs else "no result yet"
        epochs = f"epoch {len(record.epochs)}/{record.config.epochs}"
        what = params_text(record.params) if record.confirms is None else f"confirms trial {record.confirms}"
        parts.append(f"running  trial {record.number}, {epochs}: {result}  {what}")
    parts += [f"causes   {cause}" for cause in causes(sweep.records)]
    if sweep.best():
        parts += ["", trials_view(sweep.best(), sweep.spec)]
    if len(state.untested) < len(state.finalists):
        parts += ["\nOn the test split, beside real images:", finals_view(state.finalists)]
    remarks = sweep.remarks() if standing == "finished" else []
    parts += ["", *map(Text, remarks)] if remarks else []
    if not sweep.running and sweep.directory.unreported.exists():
        parts.append(f"\nThe report is behind. To write it, type: raysweep report {typed(directory)}")
    if standing == "stopped":
        parts.append(f"\nTo go on, type: raysweep resume {typed(directory)}")
    return parts
