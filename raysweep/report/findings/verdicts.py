"""What a test of a claim comes to, and the words it is told in."""

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
    """What is to be thought of a claim."""

    HOLDS = "holds"
    REFUTED = "refuted"
    DEPENDS = "depends on the convention"
    UNDECIDED = "not decidable here"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a verdict rests on."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    """What `low` and `high` are: `95% t`, `95% Wilson`, `95 % bootstrap`, `range`."""
    unit: str = ""
    """`share` for shares, from 0 to 1."""
    n: int | None = None
    """How many rows or pairs it is made of."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one test comes to."""

    verdict: Verdict
    reason: str
    figures: tuple[Figure, ...] = ()
    rows: int = 0
    """Trials, or epochs, that were looked at."""
    left_out: int = 0
    """Rows left out because a value that matters is not known."""


def undecided(reason: str, rows: int = 0, left_out: int = 0) -> Outcome:
    return Outcome(Verdict.UNDECIDED, reason, (), rows, left_out)


def unit_of(metric: str, objectives: tuple[str, ...] = ()) -> str:
    """The unit of a metric that is a column; none of an expression."""
    if metric == "objective" and len(objectives) == 1:
        metric = objectives[0]
    return COLUMN_UNITS.get(metric, "")


def number(value: Scalar) -> str:
    """A value as a reader wants it."""
    if value is None:
        return "null"
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def either(values: Sequence[Scalar]) -> str:
    """Values of which one is meant."""
    return " or ".join(number(value) for value in values)


def point_text(point: Mapping[str, Scalar] | str) -> str:
    """A point of a comparison in words."""
    if point == BEST:
        return "the best trial by the objective"
    if isinstance(point, str):
        return f"`{point}`"
    return " and ".join(f"{name} = {number(value)}" for name, value in point.items())


def sides(claim: Separates) -> tuple[str, str]:
    """Where the condition is claimed to be met, and where not."""
    if claim.below is not None:
        return f"below {number(claim.below)}", f"of {number(claim.below)} or more"
    return f"above {number(claim.above)}", f"of {number(claim.above)} or less"


def taken(rows: Observations, names: Iterable[str]) -> str:
    """The values that columns do take."""
    parts = []
    for name in sorted(names):
        values = rows.values(name)
        shown = ", ".join(number(value) for value in values[:6]) + (", ..." if len(values) > 6 else "")
        parts.append(f"{name} is {shown} here")
        if name == "dataset":
            parts.append("it needs a sweep of the other data set, given beside this one")
    return "; " + "; ".join(parts) if parts else ""


def unmeasured(rows: Observations, texts: Iterable[str]) -> str | None:
    """Why expressions have a value in no row, and what to do about it; None if all have one in some row."""
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
    """A reason with what else its reader has to know."""
    return f"{reason}; {note}" if note else reason


_IT = {Verdict.HOLDS: "holds", Verdict.REFUTED: "is refuted", Verdict.UNDECIDED: "is not decidable here"}


def conjunction(outcomes: Mapping[str, Outcome]) -> Outcome:
    """A claim on several metrics: one of which it is refuted refutes it, and it has to hold of all to hold.

    Where there are several, each one's reason stands behind its own verdict.
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
