"""The commands that look at a sweep: `status`, `best`, `report`, `findings` and `export`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from raysweep.cli.terminal import PLAIN_WIDTH, plain_console, reports_errors, tensorboard_lines
from raysweep.layout import shown, typed

if TYPE_CHECKING:
    from raysweep.search.review import Sweep


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@reports_errors
def status(directory: str) -> None:
    """Show where the sweep in DIR stands."""
    from raysweep.search.review import open_sweep
    from raysweep.search.views import (
        causes,
        count_text,
        finals_view,
        params_text,
        summary_lines,
        trials_view,
        value_text,
    )

    sweep = open_sweep(directory)
    state = sweep.status()
    console = plain_console()
    standing = "running" if sweep.running else "stopped" if state.is_open else "finished"
    console.print(f"{sweep.spec.name}  {standing}, {state.ended} of {state.trials} trials ended")
    console.print(f"trials   {summary_lines(state)}")
    saved = f"{state.epochs_saved} saved by early stopping ({state.saved_share:.0%})"
    console.print(f"epochs   {state.epochs_done} trained, {saved}")
    if state.ended >= state.trials and state.finalists:
        done = len(state.finalists) - len(state.untested)
        console.print(f"tested   {done} of {count_text(len(state.finalists), 'finalist')}")
    for record in state.running:
        result = (
            value_text(getattr(record.final, sweep.spec.search.objective.metric)) if record.final else "no result yet"
        )
        epochs = f"epoch {len(record.epochs)}/{record.config.epochs}"
        console.print(
            f"running  trial {record.number}, {epochs}: {result}  {params_text(record.params)}", soft_wrap=True
        )
    for cause in causes(sweep.records):
        console.print(f"causes   {cause}", soft_wrap=True)
    if sweep.best():
        console.print()
        console.print(trials_view(sweep.best(), sweep.spec))
    if len(state.untested) < len(state.finalists):
        console.print("\nOn the test split, beside real images:")
        console.print(finals_view(state.finalists))
    if not sweep.running and sweep.directory.unreported.exists():
        console.print(f"\nThe report is behind. To write it, type: raysweep report {typed(directory)}", soft_wrap=True)
    if standing == "stopped":
        console.print(f"\nTo go on, type: raysweep resume {typed(directory)}", soft_wrap=True)


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True,
    help="A table of the best ten, or the best one with its configuration and metrics.",
)  # fmt: skip
@reports_errors
def best(directory: str, form: str) -> None:
    """Show the best trials of the sweep in DIR, or the best one as JSON."""
    import dataclasses

    from raysweep.errors import SweepDirectoryError
    from raysweep.search.review import open_sweep, strict_json
    from raysweep.search.views import trials_view

    sweep = open_sweep(directory)
    ranking = sweep.best()
    if not ranking:
        raise SweepDirectoryError(
            f"{directory}: no trial has a result yet; raysweep status {typed(directory)} says why"
        )
    if form == "table":
        plain_console().print(trials_view(ranking, sweep.spec, limit=10))
        return
    record = ranking[0]
    assert record.final is not None
    answer = {
        "sweep": sweep.spec.name,
        "trial": record.number,
        "state": record.state.value,
        "objective": sweep.spec.search.objective.metric,
        "params": record.params,
        "config": record.config.model_dump(mode="json"),
        "metrics": dataclasses.asdict(record.final),
        "checkpoints": _checkpoints_of(sweep, record.number),
    }
    click.echo(json.dumps(strict_json(answer), indent=2))


def _checkpoints_of(sweep: Sweep, number: int) -> str:
    place, origin = sweep.directory.trial(number), sweep.directory.origin
    return str(place) if origin is None else f"{origin}/{place.relative_to(sweep.directory.root)}"


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@reports_errors
def report(directory: str) -> None:
    """Write the report of the sweep in DIR anew, from its ledger and its trials."""
    from raysweep.search.review import open_sweep

    sweep = open_sweep(directory)
    for path in sweep.write_report():
        click.echo(f"wrote {shown(path)}")
    if sweep.directory.origin is not None:
        click.echo(f"\nand sent it to {sweep.directory.origin}. To look at it, type:")
        for line in tensorboard_lines(sweep.directory.tensorboard):
            click.echo(f"    {line}")


@click.command()
@click.argument("directories", metavar="DIR...", type=click.Path(), nargs=-1, required=True)
@click.option(
    "--claims", "file", type=click.Path(), metavar="FILE",
    help="Search space file whose claims are tested, in place of those that the sweeps were run with.",
)  # fmt: skip
@reports_errors
def findings(directories: tuple[str, ...], file: str | None) -> None:
    """Decide the claims that a search space file makes of the sweep in DIR.

    A claim holds, is refuted, depends on the convention, or cannot be decided here, with the figures that say so.
    Several sweeps are put together as one. The page and the table go to the report of the first DIR.
    """
    import shutil

    from raysweep.errors import Fault, SpecError
    from raysweep.loading import load_spec
    from raysweep.report.findings.page import findings_text
    from raysweep.search.review import open_sweep

    claims = None
    if file is not None:
        claims = load_spec(file).claims
        if not claims:
            raise SpecError(file, [Fault(0, "claims", "is missing; docs/findings.md says how to write one")])
    sweeps = [open_sweep(directory) for directory in directories]
    found = sweeps[0].findings(*sweeps[1:], claims=claims)
    written = sweeps[0].write_findings(found)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_WIDTH
    click.echo(findings_text(found, min(width, PLAIN_WIDTH)))
    click.echo()
    for path in written:
        click.echo(f"wrote {shown(path)}")


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.argument("out", metavar="OUT", type=click.Path())
@click.option("--trial", type=click.IntRange(min=0), metavar="N", help="Number of the trial.  [default: the best one]")
@reports_errors
def export(directory: str, out: str, trial: int | None) -> None:
    """Write the model of a trial of the sweep in DIR as a folder OUT that needs nothing else."""
    from raysweep.search.review import open_sweep

    record = open_sweep(directory).export(out, trial)
    click.echo(f"wrote trial {record.number} to {out}. To use it:\n")
    click.echo(f'    import raysweep\n    model = raysweep.load_model("{out}")')
