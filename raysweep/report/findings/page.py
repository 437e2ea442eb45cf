"""Findings for people and programs: the Markdown page, the terminal's text, and the table."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raysweep.report.findings.decisions import Finding
from raysweep.report.findings.verdicts import Figure, Outcome, Verdict, number
from raysweep.report.tables import SCHEMA_VERSION
from raysweep.spec.claims import EPOCH_COLUMNS
from raysweep.storage.layout import SweepDirectory, replacing, write_atomically
from raysweep.wording import percent

MARKS = {Verdict.HOLDS: "✓", Verdict.REFUTED: "✗", Verdict.DEPENDS: "±", Verdict.UNDECIDED: "?"}
"""Shown next to the words, never instead of them."""

_FIGURE = pa.struct(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("interval", pa.string(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("n", pa.int64()),
    ]
)

FINDINGS_SCHEMA = pa.schema(
    [
        pa.field("claim", pa.string(), nullable=False),
        pa.field("across", pa.string()),
        pa.field("across_value", pa.string()),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("statement", pa.string(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("test", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("figures", pa.list_(_FIGURE), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("left_out", pa.int64(), nullable=False),
        pa.field("counted", pa.string(), nullable=False),
        pa.field("sweeps", pa.list_(pa.string()), nullable=False),
    ],
    metadata={"raysweep.schema_version": str(SCHEMA_VERSION)},
)
"""findings.parquet: one row per claim, then one for each value that it was tested across. See docs/findings.md."""


def write_findings(directory: SweepDirectory, findings: Sequence[Finding]) -> None:
    """Write report/findings.parquet and report/findings.md.

    Raises:
        StorageError: if the file system is full, read-only or gone.
    """
    with replacing(directory.findings_parquet) as temporary:
        pq.write_table(findings_table(findings), temporary, compression="zstd")
    write_atomically(directory.findings_markdown, findings_markdown(findings).encode())


def findings_table(findings: Sequence[Finding]) -> pa.Table:
    """Return the findings with the columns of report/findings.parquet (docs/findings.md)."""
    rows = []
    for finding in findings:
        rows.append(_row(finding, finding.outcome, None))
        rows += [_row(finding, part.outcome, number(part.value)) for part in finding.parts]
    return pa.Table.from_pylist(rows, schema=FINDINGS_SCHEMA)


def _row(finding: Finding, outcome: Outcome, value: str | None) -> dict[str, Any]:
    claim = finding.claim
    return {
        "claim": claim.name, "across": claim.across, "across_value": value, "kind": claim.test,
        "statement": claim.statement, "source": claim.source, "test": finding.test, "verdict": outcome.verdict.value,
        "reason": outcome.reason, "figures": [asdict(figure) for figure in outcome.figures], "rows": outcome.rows,
        "left_out": outcome.left_out, "counted": finding.counted, "sweeps": list(finding.sweeps),
    }  # fmt: skip


def findings_markdown(findings: Sequence[Finding]) -> str:
    """Return the findings as a page: a table of the verdicts, then each claim with its test and figures."""
    lines = ["# Findings", "", f"{tally(findings)}.", ""]
    lines += [f"- {line}" for line in _sweeps(findings)]
    lines += ["", "| verdict | claim | |", "| --- | --- | --- |"]
    for finding in findings:
        verdict = f"{MARKS[finding.verdict]} {finding.verdict}"
        lines.append(f"| {verdict} | {_cell(finding.claim.name)} | {_cell(finding.claim.statement)} |")
    for finding in findings:
        claim = finding.claim
        lines += ["", f"## {claim.name}: {finding.verdict}", "", f"> {' '.join(claim.statement.split())}", ""]
        if claim.source:
            lines.append(f"- Source: {' '.join(claim.source.split())}")
        lines += [f"- Test: {finding.test}", f"- {MARKS[finding.verdict]} {_sentence(finding.outcome.reason)}"]
        lines.append(f"- {_counted(finding, finding.outcome)}")
        lines += _markdown_figures(finding.outcome.figures)
        for part in finding.parts:
            head = f"{claim.across} = {number(part.value)}: {part.outcome.verdict}"
            lines += ["", f"### {head}", "", f"- {MARKS[part.outcome.verdict]} {_sentence(part.outcome.reason)}"]
            lines += [f"- {_counted(finding, part.outcome)}", *_markdown_figures(part.outcome.figures)]
    return "\n".join(lines) + "\n"


def _markdown_figures(figures: Sequence[Figure]) -> list[str]:
    if not figures:
        return []
    lines = ["", "| figure | value | interval | n |", "| --- | --- | --- | --- |"]
    for figure in figures:
        name, value, interval, n = cells(figure)
        lines.append(f"| {_cell(name)} | {value} | {interval} | {n} |")
    return lines


def findings_text(findings: Sequence[Finding], width: int = 100) -> str:
    """Return the findings for a terminal: the content of `findings_markdown` as plain text."""
    lines = [*_sweeps(findings), f"{tally(findings)}", ""]
    names = max((len(finding.claim.name) for finding in findings), default=0)
    verdicts = max((len(finding.verdict) for finding in findings), default=0)
    for finding in findings:
        head = f"{MARKS[finding.verdict]} {finding.verdict:<{verdicts}}  {finding.claim.name:<{names}}  "
        lines += _wrapped(finding.claim.statement, width, head)
    for finding in findings:
        claim = finding.claim
        lines += ["", f"{claim.name}: {finding.verdict}"]
        lines += _wrapped(claim.statement, width, "  claim    ")
        if claim.source:
            lines += _wrapped(claim.source, width, "  source   ")
        lines += _wrapped(finding.test, width, "  test     ")
        lines += _wrapped(f"{_sentence(finding.outcome.reason)} {_counted(finding, finding.outcome)}", width,
                          "  because  ")  # fmt: skip
        lines += _text_figures(finding.outcome.figures)
        for part in finding.parts:
            lines.append(f"  {claim.across} = {number(part.value)}: {part.outcome.verdict}")
            lines += _wrapped(f"{_sentence(part.outcome.reason)} {_counted(finding, part.outcome)}", width,
                              "    because  ")  # fmt: skip
            lines += _text_figures(part.outcome.figures, "      ")
    return "\n".join(line.rstrip() for line in lines)


def _text_figures(figures: Sequence[Figure], indent: str = "    ") -> list[str]:
    rows = [cells(figure) for figure in figures]
    widths = [max((len(row[place]) for row in rows), default=0) for place in range(4)]
    return [
        f"{indent}{name:<{widths[0]}}  {value:>{widths[1]}}  {interval:<{widths[2]}}  {f'n = {n}' if n else ''}"
        for name, value, interval, n in rows
    ]


def _wrapped(text: str, width: int, head: str) -> list[str]:
    room = max(30, width - len(head))
    lines = textwrap.wrap(" ".join(text.split()), room, break_long_words=False, break_on_hyphens=False) or [""]
    return [head + lines[0], *(" " * len(head) + line for line in lines[1:])]


def tally(findings: Sequence[Finding]) -> str:
    """Return how many claims have each verdict, in a line."""
    counts = Counter(finding.verdict for finding in findings)
    parts = [f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict]]
    return f"{len(findings)} {'claim' if len(findings) == 1 else 'claims'}: {', '.join(parts)}"


def _sweeps(findings: Sequence[Finding]) -> tuple[str, ...]:
    return findings[0].sweeps if findings else ()


def _counted(finding: Finding, outcome: Outcome) -> str:
    left_out = f"; {outcome.left_out} left out, which lack a value or a counterpart" if outcome.left_out else ""
    return f"Looked at: {outcome.rows} {finding.counted}{left_out}."


def cells(figure: Figure) -> tuple[str, str, str, str]:
    """Return a figure as its name, its value with unit, its interval, and n."""
    unit = "" if figure.unit == "share" else figure.unit
    value = "" if figure.value is None else f"{_written(figure.value, figure.unit)} {unit}".rstrip()
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f"{_written(figure.low, figure.unit)} to {_written(figure.high, figure.unit)}"
        if figure.interval != "range":
            interval += f" ({figure.interval})"
    return figure.name, value, interval, "" if figure.n is None else str(figure.n)


def _written(value: float, unit: str) -> str:
    return percent(value) if unit == "share" else f"{value:.4g}"


def _sentence(text: str) -> str:
    first = text.partition(" ")[0].rstrip(",")
    start = text[:1] if first in EPOCH_COLUMNS or first.startswith("`") else text[:1].upper()
    text = " ".join(text.split())
    return start + text[1:] + ("" if text.endswith(".") else ".")


def _cell(text: str) -> str:
    """Return a text that fits into a cell of a Markdown table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")
