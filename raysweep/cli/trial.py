"""The command `show`: one trial's configuration, its progress, why it ended, and where its files are."""

from __future__ import annotations

import json
import math
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from raysweep.cli.terminal import PLAIN_WIDTH, plain_console, reports_errors
from raysweep.storage.layout import shown, typed
from raysweep.wording import counted

if TYPE_CHECKING:
    from datetime import datetime

    from raysweep.records import TrialRecord
    from raysweep.review.sweep import Sweep
    from raysweep.terminal.views import FittingTable

PLOT_ROWS, PLOT_COLUMNS = 8, 60
MOST_EPOCHS = 16
"""Most epochs whose numbers are shown; if there are more, the first, the last and some between."""
TRACEBACK_LINES = 8
SHOWN = ("val_loss", "elbo_nats", "rate_nats", "distortion_nats", "psnr_db", "active_units")
"""Metrics that are shown by epoch, besides the objective."""


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.argument("trial", metavar="[N]", type=click.IntRange(min=0), required=False)
@click.option("--json", "as_json", is_flag=True, help="All that is known of it as JSON, every epoch's metrics too.")
@reports_errors
def show(directory: str, trial: int | None, as_json: bool) -> None:
    """Show trial N of the sweep in DIR, the best one if N is not given.

    Why it ended, with the numbers of that moment; its configuration; its curve; its pictures and its checkpoint.
    """
    from raysweep.errors import SweepDirectoryError
    from raysweep.review.sweep import open_sweep, strict_json
    from raysweep.terminal.mappings import story_mapping

    sweep = open_sweep(directory)
    if trial is None and not sweep.best():
        raise SweepDirectoryError(
            f"{directory}: no trial has a result yet, so none is the best; name one: raysweep show {typed(directory)} 0"
        )
    record = sweep.best()[0] if trial is None else sweep.trial(trial)
    if as_json:
        click.echo(json.dumps(strict_json(story_mapping(sweep, record)), indent=2))
        return
    console = plain_console()
    console.print(f"trial {record.number} of {sweep.name}  {record.state.value}{_rank(sweep, record)}", soft_wrap=True)
    width = min(shutil.get_terminal_size().columns, PLAIN_WIDTH) if sys.stdout.isatty() else PLAIN_WIDTH
    for line in _reasons(sweep, record):
        for piece in [line] if line.startswith(" ") else _wrapped(line, width - 2):
            console.print(f"  {piece}", soft_wrap=True)
    console.print()
    for head, text in _facts(sweep, record):
        for index, line in enumerate(_wrapped(text, width - 11)):
            console.print(f"{head if index == 0 else '':<10} {line}", soft_wrap=True)
    if record.epochs:
        console.print()
        for line in plot([epoch.value(sweep.objective) for epoch in record.epochs], sweep.objective):
            console.print(line, soft_wrap=True)
        console.print()
        console.print(_epochs_table(sweep, record))
    console.print()
    for head, text in _files(sweep, record):
        console.print(f"{head:<10} {text}", soft_wrap=True)


def _rank(sweep: Sweep, record: TrialRecord) -> str:
    from raysweep.wording import ordinal

    ranking = [other.number for other in sweep.best()]
    if record.number not in ranking:
        return ""
    return f", {ordinal(ranking.index(record.number) + 1)} of {len(ranking)} by {sweep.objective}"


def _reasons(sweep: Sweep, record: TrialRecord) -> list[str]:
    """Say why a trial ended, with the end of any traceback, or where it stands now."""
    from raysweep.metrics import TrialState
    from raysweep.search.decisions import decision_text, decisions

    done, most = len(record.epochs), record.config.epochs
    to_go_on = f"to go on, type: raysweep resume {typed(sweep.directory.address)}"
    if record.state is TrialState.RUNNING:
        return [f"in epoch {done + 1} of {most}"]
    if record.state is TrialState.INTERRUPTED:
        return [f"interrupted after {done} of {counted(most, 'epoch')}; {to_go_on}"]
    judged = decisions(record, sweep.records, sweep.spec)
    if record.state is TrialState.PAUSED and judged:
        waits = "it goes on if it is among the best there, or ahead when nothing else is left to train"
        if sweep.spec.asha is not None and not sweep.spec.asha.promote:
            waits = f"it is judged as soon as {sweep.spec.asha.reduction_factor} trials have come as far"
        stopped = [] if sweep.running else [f"the sweep was stopped; {to_go_on}"]
        return [decision_text(judged[-1], sweep.objective), waits, *stopped]
    if record.state is TrialState.PRUNED and judged and judged[-1].standing is not None:
        return [decision_text(judged[-1], sweep.objective)]
    lines = [record.cause or "the ledger does not say why it ended"]
    if record.error:
        traceback = record.error.rstrip().splitlines()
        kept = traceback[-TRACEBACK_LINES:]
        lines += ["", *(["    ..."] if len(kept) < len(traceback) else []), *(f"    {line}" for line in kept), ""]
        if len(kept) < len(traceback):
            lines.append(f"the whole traceback: raysweep show {typed(sweep.directory.address)} {record.number} --json")
    if record.error or record.state not in (TrialState.COMPLETED, TrialState.PRUNED, TrialState.DIVERGED):
        lines.append(f"the log: {shown(sweep.directory.log)}")
    return lines


def _facts(sweep: Sweep, record: TrialRecord) -> list[tuple[str, str]]:
    """Return a trial's configuration and results, as heads and texts."""
    from raysweep.search.decisions import decision_text, decisions
    from raysweep.terminal.views import confirmed_text, duration_text, finals_text, params_text, value_text

    config = record.config.model_dump()
    constants = {name: value for name, value in config.items() if name not in record.params and value != ""}
    seconds = sum(epoch.value("epoch_s") for epoch in record.epochs)
    where = f", on {record.node} ({record.device})" if record.node else ""
    facts = [
        ("searched", params_text(record.params) + ("  (the file's own point)" if record.enqueued else "")),
        ("constant", "  ".join(f"{k} {'none' if v is None else value_text(v)}" for k, v in constants.items())),
        (
            "trained",
            f"{len(record.epochs)} of {counted(record.config.epochs, 'epoch')}, {duration_text(seconds)}{where}",
        ),
        ("when", _span(record.started_at, record.ended_at)),
    ]
    for index, decision in enumerate(decisions(record, sweep.records, sweep.spec)):
        facts.append(("rungs" if index == 0 else "", decision_text(decision, sweep.objective)))
    if sweep.stuck.get(record.number):
        facts.append(("stuck", "no better than the mean image in any epoch, although its kld_weight is below collapse"))
    if record.confirms is not None:
        facts.append(("confirms", f"trial {record.confirms}, of which it is another training, with seed {record.seed}"))
    again = confirmed_text(record, sweep.records, sweep.spec)
    if again:
        numbers = ", ".join(str(other.number) for other in record.confirmed_by)
        facts.append(("confirmed", f"{sweep.objective} {again} (trials {numbers})"))
    if record.tested is not None:
        facts.append(("tested", finals_text(record)))
    best = record.best(sweep.objective)
    if best is not None and best.epoch != len(record.epochs):
        value = value_text(getattr(best, sweep.objective))
        facts.append(("best", f"{sweep.objective} {value} at epoch {best.epoch}, better than at its last one"))
    return facts


def _span(started: datetime | None, ended: datetime | None) -> str:
    if started is None:
        return "not known"
    begin = f"{started:%Y-%m-%d %H:%M:%S}"
    if ended is None:
        return f"since {begin} UTC"
    return f"{begin} to {ended:%H:%M:%S} UTC" if ended.date() == started.date() else f"{begin} to {ended:%F %T} UTC"


def _wrapped(text: str, width: int) -> list[str]:
    """Break a line of pairs at the double spaces between them, and a sentence between its words."""
    lines = [""]
    for part in text.split("  "):
        joined = f"{lines[-1]}  {part}" if lines[-1] else part
        if lines[-1] and len(joined) > max(20, width):
            lines.append(part)
        else:
            lines[-1] = joined
    wrapper = textwrap.TextWrapper(max(20, width), break_long_words=False, break_on_hyphens=False)
    return [piece for line in lines for piece in wrapper.wrap(line) or [""]]


def plot(values: Sequence[float], name: str, rows: int = PLOT_ROWS, columns: int = PLOT_COLUMNS) -> list[str]:
    """Draw values by epoch, the first at the left: one star each. If a value is not finite, its place is empty."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return []
    low, high = min(finite), max(finite)
    step = max(1, min(6, columns // len(values)))
    places = [round(index * (columns - 1) / (len(values) - 1)) if len(values) > columns else index * step
              for index in range(len(values))]  # fmt: skip
    grid = [[" "] * (places[-1] + 1) for _ in range(rows)]
    for place, value in zip(places, values, strict=True):
        if math.isfinite(value):
            row = round((high - value) / (high - low) * (rows - 1)) if high > low else rows - 1
            grid[row][place] = "*"
    labels = [f"{high:.5g}", *[""] * (rows - 2), f"{low:.5g}"]
    wide = max(map(len, labels))
    lines = [f"{name} by epoch"]
    lines += [f"  {label:>{wide}} |{''.join(line).rstrip()}" for label, line in zip(labels, grid, strict=True)]
    last = str(len(values))
    return [*lines, f"  {'':>{wide}}  1{last:>{max(len(last) + 1, places[-1])}}"]


def _epochs_table(sweep: Sweep, record: TrialRecord) -> FittingTable:
    """Return the table of metrics by epoch, including every rung."""
    from raysweep.search.decisions import decisions, outcome_of
    from raysweep.terminal.views import Column, FittingTable, value_text

    rungs = {d.epoch: outcome_of(d) for d in decisions(record, sweep.records, sweep.spec)}
    names = [sweep.objective, *(name for name in SHOWN if name != sweep.objective)]
    count = len(record.epochs)
    chosen = set(range(1, count + 1))
    if count > MOST_EPOCHS:
        chosen = {1 + round(index * (count - 1) / (MOST_EPOCHS - 1)) for index in range(MOST_EPOCHS)} | set(rungs)
    shown_epochs = sorted(chosen)
    metrics = [record.epochs[epoch - 1].metrics for epoch in shown_epochs]
    columns = [Column("epoch", tuple(map(str, shown_epochs)))]
    for name in names:
        cells = tuple(value_text(getattr(one, name)) for one in metrics)
        columns.append(Column(name, cells, style="bold" if name == sweep.objective else ""))
    if rungs:
        columns.append(Column("rung", tuple(rungs.get(epoch, "") for epoch in shown_epochs), "left"))
    elsewhere = f"raysweep show {typed(sweep.directory.address)} {record.number} --json has all"
    return FittingTable(columns, ("distortion_nats", "psnr_db", *reversed(names[1:])), [""] * len(metrics), elsewhere)


def _files(sweep: Sweep, record: TrialRecord) -> list[tuple[str, str]]:
    """Return where a trial's checkpoint and pictures are."""
    if sweep.directory.origin is not None:
        return [("files", f"{sweep.place_of(record)}/  (checkpoints and pictures)")]
    found, lines = sweep.files_of(record), []
    checkpoints = found["checkpoints"]
    lines.append(("checkpoint", checkpoints[0] if checkpoints else "none"))
    for index, picture in enumerate(found["pictures"]):
        lines.append(("pictures" if index == 0 else "", picture))
    if found["strips"]:
        strips = shown(sweep.directory.epoch_reconstructions(record.number, 0).parent)
        lines.append(("" if found["pictures"] else "pictures", f"{strips}/*.png  (a row an epoch)"))
    if checkpoints:
        out = f"exported/{sweep.name}-{record.number}"
        address = typed(sweep.directory.address)
        lines.append(("its model", f"raysweep export {address} {typed(out)} --trial {record.number}"))
    return lines
