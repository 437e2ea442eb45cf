"""A trial on a page of Markdown."""

from __future__ import annotations

from raysweep.metrics import FINAL_METRICS, FINAL_PREFIX, METRICS, FinalMetrics, Metric
from raysweep.records import TrialRecord
from raysweep.report.figures.floors import floor_of
from raysweep.wording import counted


def trial_text(record: TrialRecord, objective: str) -> str:
    """Return a trial as a page of Markdown: how it ended, its metrics, its parameters."""
    lines = [f"**{record.state}**" + (f": {record.cause}" if record.cause else ""), ""]
    place = ", ".join(part for part in (record.device, record.node) if part)
    lines += [f"{counted(len(record.epochs), 'epoch')}{f' on {place}' if place else ''}", ""]
    if record.tested is not None:
        lines += [*_tested_table(record.tested), ""]
    if record.final is not None:
        lines += ["| metric | after the last epoch | |", "| --- | --- | --- |"]
        for name, metric in METRICS.items():
            value = getattr(record.final, name)
            shown = f"{value:.6g}" if isinstance(value, float) else value
            lines.append(f"| {f'**{name}**' if name == objective else name} | {shown} | {metric.unit} |")
        lines.append("")
    lines += ["| parameter | value |", "| --- | --- |"]
    for name, value in record.config.model_dump().items():
        shown = f"{value:.6g}" if isinstance(value, float) else value
        lines.append(f"| {name} | {f'**{shown}**' if name in record.params else shown} |")
    if record.error:
        lines += ["", "```", record.error.rstrip(), "```"]
    return "\n".join(lines)


def _tested_table(tested: FinalMetrics) -> list[str]:
    """Return the final metrics as a Markdown table, each next to the value for real images."""
    lines = ["| metric | on the test split | real images | |", "| --- | --- | --- | --- |"]
    for name, metric in tested_metrics():
        value = getattr(tested, name)
        if name.startswith("floor_") or value is None or isinstance(value, tuple):
            continue
        floor = floor_of(tested, name)
        shown = f"{value:.6g}" if isinstance(value, float) else value
        lines.append(f"| {name} | {shown} | {'' if floor is None else f'{floor:.6g}'} | {metric.unit} |")
    return lines


def tested_metrics() -> list[tuple[str, Metric]]:
    """Return every field of `FinalMetrics` with its description."""
    return [(name.removeprefix(FINAL_PREFIX), metric) for name, metric in FINAL_METRICS.items()]
