"""What a test of a claim comes to, and the tests that look at trials one by one or in pairs.

docs/findings.md describes each test for those who read its verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from raysweep.claims import BEST, COLUMN_UNITS, EPOCH_COLUMNS, MODES, Always, Compare, Separates
from raysweep.expressions import Values, parse_expression
from raysweep.report.intervals import MIN_REPEATS, mean_interval, wilson_interval
from raysweep.report.observations import Observations
from raysweep.space import Scalar


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
    """What `low` and `high` are: `95 % t`, `95 % Wilson`, `95 % bootstrap`, `range`."""
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


REPEATS = "search seed as well, such as seed: {choices: [0, 1, 2]} with sampler: grid"
"""What to run where repeats are missing."""


def undecided(reason: str, rows: int = 0, left_out: int = 0) -> Outcome:
    return Outcome(Verdict.UNDECIDED, reason, (), rows, left_out)


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on a conjunction: one refuted part refutes it, and all must hold for it to hold."""
    verdicts = set(verdicts)
    if Verdict.REFUTED in verdicts:
        return Verdict.REFUTED
    return Verdict.HOLDS if verdicts == {Verdict.HOLDS} else Verdict.UNDECIDED


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


def point_text(point: Mapping[str, Scalar] | str) -> str:
    """A point of a comparison in words."""
    if point == BEST:
        return "the best trial by the objective"
    if isinstance(point, str):
        return f"`{point}`"
    return " and ".join(f"{name} = {number(value)}" for name, value in point.items())


def unmeasured(rows: Observations, texts: Iterable[str]) -> str | None:
    """Why expressions have a value in no row, and what to do about it; None if all have one in some row."""
    for text in texts:
        expression = parse_expression(text, EPOCH_COLUMNS)
        if rows.evaluate(expression).known.any():
            continue
        empty = sorted(name for name in expression.names if not rows.columns[name].known.any())
        if not empty:
            return f"`{text}` has a value for none of the {rows.count} trials"
        remedy = ""
        if any(name.startswith("test_") for name in empty):
            if rows.columns["test_active_units"].known.any():
                remedy = "; it is not defined for these models or images"
            else:
                remedy = "; no final metrics were measured: set evaluation: {final_metrics: all}"
        return f"{' and '.join(empty)} was measured for none of the {rows.count} trials{remedy}"
    return None


def decide_always(claim: Always, rows: Observations) -> Outcome:
    """Holds if every row meets the condition, refuted by one that does not."""
    truth = rows.condition(claim.condition)
    known = int(truth.known.sum())
    left_out = rows.count - known
    if not known:
        return undecided(unmeasured(rows, [claim.condition]) or "its condition is known for no row", 0, left_out)
    met = int(truth.true.sum())
    what = "epochs" if claim.each == "epoch" else "trials"
    low, high = wilson_interval(met, known)
    figure = Figure(f"{what} that meet it", met / known, low, high, "95 % Wilson", "share", known)
    if met == known:
        return Outcome(Verdict.HOLDS, f"all {known} {what} meet it", (figure,), known, left_out)
    failing = np.flatnonzero(truth.known & ~truth.data.astype(bool))
    where = _examples(rows, failing, parse_expression(claim.condition, EPOCH_COLUMNS).names, claim.each == "epoch")
    reason = f"{known - met} of {known} {what} do not meet it: {where}"
    return Outcome(Verdict.REFUTED, reason, (figure,), known, left_out)


def _examples(rows: Observations, failing: NDArray[np.int64], names: Iterable[str], epochs: bool) -> str:
    """The first rows that contradict a claim, with the values that its condition reads."""
    parts = []
    for row in failing[:3]:
        place = f"trial {rows.value('trial', int(row))}"
        if rows.sweeps > 1:
            place = f"{rows.value('sweep', int(row))}, {place}"
        if epochs:
            place += f" after epoch {rows.value('epoch', int(row))}"
        values = ", ".join(f"{name} {number(rows.value(name, int(row)))}" for name in sorted(names))
        parts.append(f"{place} ({values})")
    return "; ".join(parts) + ("; ..." if len(failing) > 3 else "")


def decide_separates(claim: Separates, rows: Observations) -> Outcome:
    """Holds if the condition is met by all rows on the claimed side and by none on the other."""
    truth = rows.condition(claim.condition)
    column = rows.columns[claim.over]
    known = truth.known & column.known
    left_out = rows.count - int(known.sum())
    if not known.any():
        return undecided(unmeasured(rows, [claim.condition, claim.over]) or "nothing is known", 0, left_out)
    rows, met, over = rows.take(known), truth.data[known].astype(bool), column.data[known].astype(np.float64)
    edge = claim.below if claim.below is not None else claim.above
    assert edge is not None
    at_edge = rows.equals(claim.over, edge)
    inside = (over < edge) & ~at_edge if claim.below is not None else (over > edge) & ~at_edge
    inside_name, outside_name = ("below", "from") if claim.below is not None else ("above", "up to")
    figures = []
    for name, side in ((inside_name, inside), (outside_name, ~inside)):
        count = int(side.sum())
        if count < MIN_REPEATS:
            where = f"{claim.over} {name} {number(edge)}"
            return undecided(
                f"{count} trials have {where}, at least {MIN_REPEATS} are needed; search {claim.over} on both sides "
                f"of {number(edge)}",
                rows.count, left_out,
            )  # fmt: skip
        share = int(met[side].sum())
        low, high = wilson_interval(share, count)
        label = f"trials with {claim.over} {name} {number(edge)} that meet the condition"
        figures.append(Figure(label, share / count, low, high, "95 % Wilson", "share", count))
    figures.append(_flip(claim.over, over, met))
    if claim.over == "kld_weight" and rows.critical_weight:
        low, high = rows.critical_weight
        figures.append(Figure("kld_weight from which on collapse was predicted before the sweep",
                              low if low == high else None, low, high, "" if low == high else "range"))  # fmt: skip
    wrong_inside, wrong_outside = inside & ~met, ~inside & met
    if not wrong_inside.any() and not wrong_outside.any():
        reason = f"all trials {inside_name} {number(edge)} meet the condition, and none {outside_name} it does"
        if claim.below is None:
            reason = f"all trials above {number(edge)} meet the condition, and none up to it does"
        return Outcome(Verdict.HOLDS, reason, tuple(figures), rows.count, left_out)
    parts = []
    for wrong, name, verb in ((wrong_inside, inside_name, "do not meet"), (wrong_outside, outside_name, "meet")):
        if wrong.any():
            values = ", ".join(number(float(value)) for value in np.unique(over[wrong])[:6])
            parts.append(f"{wrong.sum()} trials {name} {number(edge)} {verb} the condition (at {claim.over} {values})")
    return Outcome(Verdict.REFUTED, "; ".join(parts), tuple(figures), rows.count, left_out)


def _flip(name: str, over: NDArray[np.float64], met: NDArray[np.bool_]) -> Figure:
    """Between which neighbouring values most trials change from meeting a condition to not meeting it."""
    values = np.unique(over)
    most = np.array([met[over == value].mean() > 0.5 for value in values])
    changes = np.flatnonzero(most[1:] != most[:-1])
    if len(changes) == 0:
        label = f"{name}: most trials {'meet' if most[0] else 'do not meet'} the condition over the whole range"
        return Figure(label, None, float(values[0]), float(values[-1]), "range")
    if len(changes) > 1:
        return Figure(f"{name}: the condition changes {len(changes)} times between",
                      None, float(values[changes[0]]), float(values[changes[-1] + 1]), "range")  # fmt: skip
    place = int(changes[0])
    return Figure(
        f"{name} between which it changes in fact", None, float(values[place]), float(values[place + 1]), "range"
    )


def decide_compare(claim: Compare, rows: Observations) -> Outcome:
    """Holds if the confidence interval of the mean paired difference lies where it is expected."""
    problem = unmeasured(rows, claim.metrics)
    if problem:
        return undecided(problem, rows.count, rows.count)
    if ("objective" in claim.metrics or claim.second == BEST) and len(rows.objectives) > 1:
        return undecided(f"the sweeps have different objectives: {', '.join(rows.objectives)}", rows.count)
    first, named = _at(claim.first, rows)
    second, more = (~first, frozenset[str]()) if claim.second == BEST else _at(claim.second, rows)
    for point, mask in ((claim.first, first), (claim.second, second)):
        if not mask.any():
            return undecided(f"no trial is at {point_text(point)}{taken(rows, named | more)}", rows.count)
    if (first & second).any():
        return undecided(f"{int((first & second).sum())} trials are at both points", rows.count)
    if claim.second == BEST:
        pairing = tuple(name for name in ("sweep", "dataset", "seed") if name not in named)
    else:
        pairing = tuple(name for name in rows.varied if name not in named | more)
    keys = rows.keys(pairing)
    outcomes = []
    for metric in claim.metrics:
        outcomes.append(_paired(claim, metric, rows, first, second, keys, pairing))
    figures = tuple(figure for outcome in outcomes for figure in outcome.figures)
    reason = "; ".join(dict.fromkeys(outcome.reason for outcome in outcomes))
    used = max(outcome.rows for outcome in outcomes)
    left_out = max(outcome.left_out for outcome in outcomes)
    return Outcome(all_of(outcome.verdict for outcome in outcomes), reason, figures, used, left_out)


def _at(point: Mapping[str, Scalar] | str, rows: Observations) -> tuple[NDArray[np.bool_], frozenset[str]]:
    """The rows at a point, and the columns that it names."""
    if isinstance(point, str):
        return rows.condition(point).true, parse_expression(point, EPOCH_COLUMNS).names
    mask = np.ones(rows.count, dtype=bool)
    for name, value in point.items():
        mask &= rows.equals(name, value)
    return mask, frozenset(point)


def taken(rows: Observations, names: Iterable[str]) -> str:
    """The values that columns do take."""
    parts = []
    for name in sorted(names):
        values = rows.values(name)
        shown = ", ".join(number(value) for value in values[:6]) + (", ..." if len(values) > 6 else "")
        parts.append(f"{name} is {shown} here")
    return "; " + "; ".join(parts) if parts else ""


def _paired(
    claim: Compare, metric: str, rows: Observations, first: NDArray[np.bool_], second: NDArray[np.bool_],
    keys: list[tuple[Scalar, ...]], pairing: tuple[str, ...],
) -> Outcome:  # fmt: skip
    """The comparison by one metric."""
    values = rows.quantity(metric)
    ranking = rows.columns["objective"] if claim.second == BEST else None
    left_out = int(((first | second) & ~values.known).sum())
    one = _by_key(values, first, keys)
    if ranking is None:
        other = _by_key(values, second, keys)
    else:
        best = _best_by_key(ranking, second & values.known, keys, MODES[rows.objectives[0]] == "max")
        other = {key: float(values.data[row]) for key, row in best.items()}
    shared = [key for key in one if key in other]
    used = int(((first | second) & values.known).sum())
    if len(shared) < MIN_REPEATS:
        by = f" with the same {', '.join(pairing)}" if pairing else ""
        return undecided(
            f"{len(shared)} pairs of trials{by} have {metric} at both points, at least {MIN_REPEATS} are needed; "
            f"{REPEATS}", used, left_out,
        )  # fmt: skip
    differences = np.array([one[key] - other[key] for key in shared])
    return _judged(claim, metric, rows, differences, [one[key] for key in shared], [other[key] for key in shared],
                   used, left_out)  # fmt: skip


def _judged(
    claim: Compare, metric: str, rows: Observations, differences: NDArray[np.float64], one: list[float],
    other: list[float], used: int, left_out: int,
) -> Outcome:  # fmt: skip
    unit, count = unit_of(metric, rows.objectives), len(differences)
    low, high = mean_interval(differences)
    figures = [
        Figure(f"{metric} at {point_text(claim.first)}, mean", float(np.mean(one)), unit=unit, n=count),
        Figure(f"{metric} at {point_text(claim.second)}, mean", float(np.mean(other)), unit=unit, n=count),
        Figure(f"{metric}, first minus second", float(differences.mean()), low, high, "95 % t", unit, count),
    ]
    margin = claim.margin
    if claim.expect == "equivalent":
        inner = mean_interval(differences, 0.9)
        figures.append(
            Figure(f"{metric}, first minus second", float(differences.mean()), *inner, "90 % t", unit, count)
        )
        holds, refuted = -margin < inner[0] and inner[1] < margin, low > margin or high < -margin
    elif claim.expect == "greater":
        holds, refuted = low > margin, high <= margin
    elif claim.expect == "less":
        holds, refuted = high < -margin, low >= -margin
    elif claim.expect == "not_greater":
        holds, refuted = high <= margin, low > margin
    else:
        holds, refuted = low >= -margin, high < -margin
    verdict = Verdict.HOLDS if holds else Verdict.REFUTED if refuted else Verdict.UNDECIDED
    reason = f"{metric} differs by {differences.mean():.3g}{f' {unit}' if unit else ''} ({low:.3g} to {high:.3g})"
    if verdict is Verdict.UNDECIDED:
        reason += f"; {count} pairs are too few to tell: more seeds make the interval narrower"
    return Outcome(verdict, reason, tuple(figures), used, left_out)


def _by_key(values: Values, rows: NDArray[np.bool_], keys: list[tuple[Scalar, ...]]) -> dict[tuple[Scalar, ...], float]:
    """The mean of known values over the rows of each key."""
    found: dict[tuple[Scalar, ...], list[float]] = {}
    for row in np.flatnonzero(rows & values.known):
        found.setdefault(keys[row], []).append(float(values.data[row]))
    return {key: float(np.mean(items)) for key, items in found.items()}


def _best_by_key(
    ranking: Values, rows: NDArray[np.bool_], keys: list[tuple[Scalar, ...]], more_is_better: bool
) -> dict[tuple[Scalar, ...], int]:
    """The row of each key whose `ranking` is best."""
    found: dict[tuple[Scalar, ...], int] = {}
    sign = 1.0 if more_is_better else -1.0
    for row in np.flatnonzero(rows & ranking.known):
        before = found.get(keys[row])
        if before is None or sign * ranking.data[row] > sign * ranking.data[before]:
            found[keys[row]] = int(row)
    return found
