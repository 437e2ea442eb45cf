"""Tests that look at trials, or epochs, one by one or in pairs.

docs/findings.md describes each test for those who read its verdicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raysweep.metrics import OBJECTIVES, TrialState
from raysweep.report.findings.intervals import mean_interval, wilson_interval
from raysweep.report.findings.observations import REPEAT, RUN, Observations
from raysweep.report.findings.verdicts import (
    Figure,
    Outcome,
    Verdict,
    conjunction,
    number,
    point_text,
    sides,
    taken,
    undecided,
    unit_of,
    unmeasured,
    with_note,
)
from raysweep.spec.claims import BEST, EPOCH_COLUMNS, MIN_REPEATS, REPEATS, Always, Compare, Separates
from raysweep.spec.expressions import Values, parse_expression
from raysweep.spec.space import Scalar
from raysweep.wording import counted


def decide_always(claim: Always, rows: Observations) -> Outcome:
    """Decide whether every row meets the condition; one that does not refutes the claim."""
    truth = rows.condition(claim.condition)
    known = int(truth.known.sum())
    left_out = rows.count - known
    if not known:
        return undecided(unmeasured(rows, [claim.condition]) or "its condition is known for no row", 0, left_out)
    met = int(truth.true.sum())
    noun = "epoch" if claim.each == "epoch" else "trial"
    what = f"{noun}s"
    low, high = wilson_interval(met, known)
    figure = Figure(f"{what} that meet it", met / known, low, high, "95% Wilson", "share", known)
    if met == known:
        reason = f"the only {noun} meets it" if known == 1 else f"all {known} {what} meet it"
        return Outcome(Verdict.HOLDS, reason, (figure,), known, left_out)
    failing = np.flatnonzero(truth.known & ~truth.data.astype(bool))
    where = _examples(rows, failing, parse_expression(claim.condition, EPOCH_COLUMNS).names, claim.each == "epoch")
    reason = f"{known - met} of {counted(known, noun)} do not meet it: {where}"
    return Outcome(Verdict.REFUTED, reason, (figure,), known, left_out)


def _examples(rows: Observations, failing: NDArray[np.int64], names: Iterable[str], epochs: bool) -> str:
    """Return the first rows that contradict a claim, with the values that its condition reads."""
    parts = []
    for row in failing[:3]:
        place = f"trial {rows.value('trial', int(row))}"
        if rows.sweeps > 1:
            place = f"{rows.value(RUN, int(row))}, {place}"
        if epochs:
            place += f" after epoch {rows.value('epoch', int(row))}"
        values = ", ".join(f"{name} {number(rows.value(name, int(row)))}" for name in sorted(names))
        parts.append(f"{place} ({values})")
    return "; ".join(parts) + ("; ..." if len(failing) > 3 else "")


def decide_separates(claim: Separates, rows: Observations) -> Outcome:
    """Decide whether the condition is met by all rows on the claimed side and by none on the other."""
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
    inside_name, outside_name = sides(claim)
    figures = []
    for name, side in ((inside_name, inside), (outside_name, ~inside)):
        count = int(side.sum())
        if count < MIN_REPEATS:
            reason = (
                f"only {counted(count, 'trial')} with {claim.over} {name}, at least {MIN_REPEATS} are needed; {REPEATS}"
            )
            return undecided(reason, rows.count, left_out)
        share = int(met[side].sum())
        low, high = wilson_interval(share, count)
        label = f"trials with {claim.over} {name} that meet the condition"
        figures.append(Figure(label, share / count, low, high, "95% Wilson", "share", count))
    figures.append(_flip(claim.over, over, met))
    if claim.over == "kld_weight" and rows.critical_weight:
        low, high = rows.critical_weight
        label = "kld_weight from which on collapse was predicted before the sweep"
        if low == high:
            figures.append(Figure(label, low))
        else:
            figures.append(Figure(f"{label}, over all that is searched", None, low, high, "range"))
    wrong_inside, wrong_outside = inside & ~met, ~inside & met
    if not wrong_inside.any() and not wrong_outside.any():
        reason = f"all trials with {claim.over} {inside_name} meet the condition"
        reason += f", and none with {claim.over} {outside_name} does"
        return Outcome(Verdict.HOLDS, reason, tuple(figures), rows.count, left_out)
    parts = []
    for wrong, name, verb in ((wrong_inside, inside_name, "is not met"), (wrong_outside, outside_name, "is met")):
        if wrong.any():
            values = ", ".join(number(float(value)) for value in np.unique(over[wrong])[:6])
            trials = f"{counted(int(wrong.sum()), 'trial')} with {claim.over} {name}"
            parts.append(f"the condition {verb} by {trials} (at {values})")
    return Outcome(Verdict.REFUTED, "; ".join(parts), tuple(figures), rows.count, left_out)


def _flip(name: str, over: NDArray[np.float64], met: NDArray[np.bool_]) -> Figure:
    """Return the neighbouring values between which most trials begin, or cease, to meet a condition."""
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


def decide_compare(claim: Compare, rows: Observations, ended: Observations) -> Outcome:
    """Decide whether the confidence interval of the mean paired difference lies where it is expected.

    Args:
        claim: two points.
        rows: completed trials.
        ended: all trials that ended; some may be at a point but not in `rows`.
    """
    if ("objective" in claim.metrics or claim.second == BEST) and len(rows.objectives) > 1:
        return undecided(f"the sweeps have different objectives: {', '.join(rows.objectives)}", rows.count)
    first, named = _at(claim.first, rows)
    second, more = (~first, frozenset[str]()) if claim.second == BEST else _at(claim.second, rows)
    unfinished = _unfinished(claim, ended)
    for point, mask in ((claim.first, first), (claim.second, second)):
        if not mask.any():
            reason = f"no trial is at {point_text(point)}{taken(rows, named | more)}"
            return undecided(with_note(reason, unfinished), rows.count)
    if (first & second).any():
        return undecided(f"{int((first & second).sum())} trials are at both points", rows.count)
    if claim.second == BEST:
        run = REPEAT if "sweep" in named else RUN
        pairing = tuple(name for name in (*(claim.pair_by or ("dataset", "seed")), run) if name not in named)
    else:
        pairing = (*(claim.pair_by or (name for name in rows.varied if name not in named | more)), REPEAT)
    sides = _Sides(first, second, rows.keys(pairing), tuple(name for name in pairing if name not in (RUN, REPEAT)))
    outcome = conjunction({metric: _paired(claim, metric, rows, sides) for metric in claim.metrics})
    return replace(outcome, reason=with_note(outcome.reason, unfinished))


class _Sides(NamedTuple):
    """The rows at both points, and the keys that pair them."""

    first: NDArray[np.bool_]
    second: NDArray[np.bool_]
    keys: list[tuple[Scalar, ...]]
    """One per row; rows with the same key make a pair. The last item is the run, or which repeat of its file it is."""
    pairing: tuple[str, ...]
    """The columns of the keys that a claim can name."""


def _unfinished(claim: Compare, ended: Observations) -> str:
    """Return in words how many trials at the points are left out because they ended early."""
    parts = []
    for point in (claim.first, claim.second):
        if point == BEST:
            continue
        states = ended.take(_at(point, ended)[0] & ~ended.equals("state", TrialState.COMPLETED.value)).keys(["state"])
        if states:
            how = ", ".join(f"{n} {str(state).replace('_', ' ')}" for (state,), n in sorted(Counter(states).items()))
            remedy = "; early_stopping: none lets them run on" if (TrialState.PRUNED.value,) in states else ""
            trials = f"{counted(len(states), 'trial')} at {point_text(point)}"
            parts.append(
                f"{trials} did not run to {'its' if len(states) == 1 else 'their'} end: {how}, left out{remedy}"
            )
    return "; ".join(parts)


def _at(point: Mapping[str, Scalar] | str, rows: Observations) -> tuple[NDArray[np.bool_], frozenset[str]]:
    """Return the rows at a point, and the columns that it names."""
    if isinstance(point, str):
        return rows.condition(point).true, parse_expression(point, EPOCH_COLUMNS).names
    mask = np.ones(rows.count, dtype=bool)
    for name, value in point.items():
        mask &= rows.equals(name, value)
    return mask, frozenset(point)


def _paired(claim: Compare, metric: str, rows: Observations, sides: _Sides) -> Outcome:
    """Decide the comparison by one metric."""
    missing = unmeasured(rows, [metric])
    if missing:
        return undecided(missing, rows.count, rows.count)
    values = rows.quantity(metric)
    first, second, keys, pairing = sides
    either = first | second
    left_out, used = int((either & ~values.known).sum()), int((either & values.known).sum())
    if claim.second == BEST:
        more_is_better = OBJECTIVES[rows.objectives[0]] == "max"
        # Use the best of several trials at the first point too, because a mean cannot be compared with a best value.
        one, other = (
            _best_by_key(values, rows.columns["objective"], side, keys, more_is_better) for side in (first, second)
        )
    else:
        one, other = _by_key(values, first, keys), _by_key(values, second, keys)
    shared = [key for key in one if key in other]
    if claim.second != BEST:
        # A run that only repeats another's numbers (as with the same seed) adds no information.
        shared = list({(key[:-1], one[key], other[key]): key for key in reversed(shared)}.values())[::-1]
    count = counted(len(shared), "pair")
    if len(shared) < MIN_REPEATS and claim.second == BEST:
        each = ", ".join(("sweep", *pairing))
        return undecided(
            f"{count} of the point and the best trial, one for each {each}, at least {MIN_REPEATS} are "
            "needed; run the sweep with other values of search.seed and name all their directories", used, left_out,
        )  # fmt: skip
    if len(shared) < MIN_REPEATS:
        by = f" with the same {', '.join(pairing)}" if pairing else ""
        return undecided(
            f"{count} of trials{by} have {metric} at both points, at least {MIN_REPEATS} are needed; "
            f"{REPEATS}", used, left_out,
        )  # fmt: skip
    pairs = np.array([[one[key], other[key]] for key in shared])
    outcome = _judged(claim, metric, rows, pairs[:, 0] - pairs[:, 1], pairs)
    figures = outcome.figures
    if claim.second == BEST:
        for point, side in ((claim.first, first), (claim.second, second)):
            label = f"trials that {point_text(point)} is chosen from, a pair"
            figures += (Figure(label, float(side.sum()) / len(set(keys))),)
    return replace(outcome, figures=figures, rows=used, left_out=left_out)


def _judged(
    claim: Compare, metric: str, rows: Observations, differences: NDArray[np.float64], pairs: NDArray[np.float64]
) -> Outcome:
    """Return the verdict from the values of pairs, [pair, point]."""
    unit, count = unit_of(metric, rows.objectives), len(differences)
    low, high = mean_interval(differences)
    figures = [
        Figure(f"{metric} at {point_text(claim.first)}, mean", float(pairs[:, 0].mean()), unit=unit, n=count),
        Figure(f"{metric} at {point_text(claim.second)}, mean", float(pairs[:, 1].mean()), unit=unit, n=count),
        Figure(f"{metric}, first minus second", float(differences.mean()), low, high, "95% t", unit, count),
    ]
    margin = claim.margin
    if claim.expect == "equivalent":
        inner = mean_interval(differences, 0.9)
        figures.append(Figure(f"{metric}, first minus second", float(differences.mean()), *inner, "90% t", unit, count))
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
    mean_text = f"{differences.mean():+.3g} {unit}".rstrip()
    reason = f"{metric}, first minus second, is {mean_text} (95% interval {low:+.3g} to {high:+.3g}, {count} pairs)"
    if verdict is Verdict.UNDECIDED:
        reason += "; the interval reaches to both sides, more seeds make it narrower"
    return Outcome(verdict, reason, tuple(figures))


def _by_key(values: Values, rows: NDArray[np.bool_], keys: list[tuple[Scalar, ...]]) -> dict[tuple[Scalar, ...], float]:
    """Return the mean of known values over the rows of each key."""
    found: dict[tuple[Scalar, ...], list[float]] = {}
    for row in np.flatnonzero(rows & values.known):
        found.setdefault(keys[row], []).append(float(values.data[row]))
    return {key: float(np.mean(items)) for key, items in found.items()}


def _best_by_key(
    values: Values, ranking: Values, rows: NDArray[np.bool_], keys: list[tuple[Scalar, ...]], more_is_better: bool
) -> dict[tuple[Scalar, ...], float]:
    """Return for each key the value in the row with the best `ranking`, among rows where both are known."""
    found: dict[tuple[Scalar, ...], int] = {}
    sign = 1.0 if more_is_better else -1.0
    for row in np.flatnonzero(rows & ranking.known & values.known):
        before = found.get(keys[row])
        if before is None or sign * ranking.data[row] > sign * ranking.data[before]:
            found[keys[row]] = int(row)
    return {key: float(values.data[row]) for key, row in found.items()}
