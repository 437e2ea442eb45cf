"""The commands that look at sweeps: `best`, `report`, `findings` and `export`."""

from __future__ import annotations

import json
import sys

import click

from raysweep.cli.terminal import PLAIN_WIDTH, plain_console, print_sentences, reports_errors, tensorboard_lines
from raysweep.storage.layout import shown, typed


@click.command()
@click.argument("directories", metavar="DIR...", type=click.Path(), nargs=-1, required=True)
@click.option(
    "--metric", metavar="NAME",
    help="Rank by another metric than the objective, such as psnr_db or, of the test split, test_kid.",
)  # fmt: skip
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="How many are shown.  [default: 10, as JSON 1]")
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True,
    help="A table, or the best one with its configuration and metrics; with --top a list of so many.",
)  # fmt: skip
@click.option(
    "--why", is_flag=True,
    help="Explain the best one of one sweep instead: how far ahead it is, which parameters mattered, and where a model "
    "of all trials sees the best values. --top says how many trials are compared.  [default: 3]",
)  # fmt: skip
@reports_errors
def best(directories: tuple[str, ...], metric: str | None, top: int | None, form: str, why: bool) -> None:
    """Show the best trials of the sweep in DIR, or of several sweeps in one ranking.

    Trials that ran to their end come first. Several sweeps must have one objective, or be ranked by a --metric.
    """
    from raysweep.errors import ArgumentError
    from raysweep.review.sweep import open_sweep, strict_json
    from raysweep.terminal.mappings import explanation_mapping, trial_mapping
    from raysweep.terminal.views import explanation_view, ranking_view

    if why and len(directories) > 1:
        raise ArgumentError(
            f"--why: explains one sweep, got {len(directories)}; type: raysweep best {typed(directories[0])} --why"
        )
    sweeps = [open_sweep(directory) for directory in directories]
    explanation = sweeps[0].why(metric) if why else None
    ranking = sweeps[0].ranking(*sweeps[1:], metric=metric)
    for note in ranking.notes:
        click.echo(f"note     {note}", err=True)
    if form == "table" and explanation is not None:
        from raysweep.report.explanation.sentences import sentences

        console = plain_console()
        lead, *others = sentences(explanation, typed(directories[0]))
        print_sentences(console, lead)
        console.print()
        console.print(explanation_view(explanation, limit=3 if top is None else top))
        for sentence in others:
            console.print()
            print_sentences(console, sentence)
        return
    if form == "table":
        plain_console().print(ranking_view(ranking, limit=10 if top is None else top))
        return
    rows = [trial_mapping(sweep, record, ranking.metric) for sweep, record in ranking.rows[: top or 1]]
    if explanation is not None:
        rows[0]["why"] = explanation_mapping(explanation, typed(directories[0]))
    click.echo(json.dumps(strict_json(rows[0] if top is None else rows), indent=2))


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option(
    "--objective", metavar="NAME",
    help="Write it as if trials were compared by this metric of an epoch; without it, by the sweep's own again.",
)  # fmt: skip
@reports_errors
def report(directory: str, objective: str | None) -> None:
    """Write the report of the sweep in DIR anew, from its ledger and its trials."""
    from raysweep.review.sweep import open_sweep

    own = open_sweep(directory)
    sweep = own if objective is None else own.by_objective(objective)
    for path in sweep.write_report():
        click.echo(f"wrote {shown(path)}")
    if sweep.objective != own.objective:
        click.echo(f"\nby {sweep.objective}. By {own.objective}, which the sweep was run with, again: "
                   f"raysweep report {typed(directory)}")  # fmt: skip
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
    from raysweep.report.findings.page import findings_text
    from raysweep.review.sweep import open_sweep
    from raysweep.spec.loading import load_spec

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
    from raysweep.review.sweep import open_sweep

    record = open_sweep(directory).export(out, trial)
    click.echo(f"wrote trial {record.number} to {out}. To use it:\n")
    click.echo(f'    import raysweep\n    model = raysweep.load_model("{out}")')
