"""The results of testing claims, and the words that describe them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from raysweep.report.findings.observations import Observations
from raysweep.spec.claims import BEST, COLUMN_UNITS, EPOCH_COLUMNS, Separates
from raysweep.spec.expressions import parse_expression
from raysweep.spec.space import Scalar
from raysweep.wording import counted


class Verdict(StrEnum):
    """The result of testing a claim."""

    HOLDS = "holds"
    REFUTED = "refuted"
    DEPENDS = "depends on the convention"
    UNDECIDED = "not decidable here"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a verdict is based on."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    """What `low` and `high` are: `95% t`, `95% Wilson`, `95 % bootstrap`, `range`."""
    unit: str = ""
    """`share` for shares, from 0 to 1."""
    n: int | None = None
    """How many rows or pairs it was computed from."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one test."""

    verdict: Verdict
    reason: str
    figures: tuple[Figure, ...] = ()
    rows: int = 0
    """Trials, or epochs, that were looked at."""
    left_out: int = 0
    """Rows left out because a needed value is not known."""


def undecided(reason: str, rows: int = 0, left_out: int = 0) -> Outcome:
    return Outcome(Verdict.UNDECIDED, reason, (), rows, left_out)


def unit_of(metric: str, objectives: tuple[str, ...] = ()) -> str:
    """Return the unit of a metric that is a column; empty for an expression."""
    if metric == "objective" and len(objectives) == 1:
        metric = objectives[0]
    return COLUMN_UNITS.get(metric, "")


def number(value: Scalar) -> str:
    """Return a value as readable text."""
    if value is None:
        return "null"
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def either(values: Sequence[Scalar]) -> str:
    """Return values joined by `or`."""
    return " or ".join(number(value) for value in values)


def point_text(point: Mapping[str, Scalar] | str) -> str:
    """Return a point of a comparison in words."""
    if point == BEST:
        return "the best trial by the objective"
    if isinstance(point, str):
        return f"`{point}`"
    return " and ".join(f"{name} = {number(value)}" for name, value in point.items())


def sides(claim: Separates) -> tuple[str, str]:
    """Return in words where the condition is claimed to be met, and where not."""
    if claim.below is not None:
        return f"below {number(claim.below)}", f"of {number(claim.below)} or more"
    return f"above {number(claim.above)}", f"of {number(claim.above)} or less"


def taken(rows: Observations, names: Iterable[str]) -> str:
    """Return in words which values columns take in these rows."""
    parts = []
    for name in sorted(names):
        values = rows.values(name)
        shown = ", ".join(number(value) for value in values[:6]) + (", ..." if len(values) > 6 else "")
        parts.append(f"{name} is {shown} here")
        if name == "dataset":
            parts.append("it needs a sweep of the other data set, given beside this one")
    return "; " + "; ".join(parts) if parts else ""


def unmeasured(rows: Observations, texts: Iterable[str]) -> str | None:
    """Return why an expression has no value in any row, and what to do about it.

    Return None if every expression has a value in some row.
    """
    for text in texts:
        expression = parse_expression(text, EPOCH_COLUMNS)
        if rows.evaluate(expression).known.any():
            continue
        empty = sorted(name for name in expression.names if not rows.columns[name].known.any())
        if not empty:
            return f"`{text}` has a value for none of {counted(rows.count, 'trial')}"
        remedy = ""
        if any(name.startswith("test_") for name in empty):
            if rows.columns["test_active_units"].known.any():
                remedy = "; it is not defined for these models or images"
            else:
                remedy = "; no final metrics were measured: set evaluation: {final_metrics: all}"
        return f"{' and '.join(empty)} was measured for none of {counted(rows.count, 'trial')}{remedy}"
    return None


def with_note(reason: str, note: str) -> str:
    """Return a reason with a note appended, if there is one."""
    return f"{reason}; {note}" if note else reason


_IT = {Verdict.HOLDS: "holds", Verdict.REFUTED: "is refuted", Verdict.UNDECIDED: "is not decidable here"}


def conjunction(outcomes: Mapping[str, Outcome]) -> Outcome:
    """Combine the outcomes of a claim by several metrics.

    (a) If it is refuted by one metric, it is refuted. (b) If it holds by all, it holds. (c) Otherwise it is undecided.
    If the reasons differ, each stands after the verdict by its metric.
    """
    found = list(outcomes.values())
    verdicts = {outcome.verdict for outcome in found}
    verdict = Verdict.HOLDS if verdicts == {Verdict.HOLDS} else Verdict.UNDECIDED
    reasons = list(dict.fromkeys(outcome.reason for outcome in found))
    if len(reasons) > 1:
        reasons = [f"by {metric} it {_IT[outcome.verdict]}: {outcome.reason}" for metric, outcome in outcomes.items()]
    return Outcome(
        Verdict.REFUTED if Verdict.REFUTED in verdicts else verdict,
        "; ".join(reasons),
        tuple(dict.fromkeys(figure for outcome in found for figure in outcome.figures)),
        max(outcome.rows for outcome in found),
        max(outcome.left_out for outcome in found),
    )
