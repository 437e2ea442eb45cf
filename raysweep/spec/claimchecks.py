"""Checks that the claims of a file can be tested on its sweep.

A claim needs known columns, valid expressions, values that the space can take, and enough trials for a verdict.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysweep.metrics import FINAL_METRICS, Mode
from raysweep.spec.claims import (
    BEST,
    BEST_MODES,
    COLUMNS,
    EPOCH_COLUMNS,
    MIN_REPEATS,
    MIN_TREND_TRIALS,
    PARAMETERS,
    REPEATS,
    Always,
    BestAt,
    Claim,
    Compare,
    Separates,
    Trend,
    Within,
    metric_texts,
)
from raysweep.spec.expressions import KIND_NAMES, ExpressionError, Kind, Values, parse_expression
from raysweep.spec.sections import EvaluationSpec, SearchSpec
from raysweep.spec.space import Choices, Distribution, Scalar, TrialSpace
from raysweep.wording import counted

MOST_POINTS = 100_000
"""Spaces with more points than this are not listed; a grid has at most this many."""

ClaimFault = tuple[tuple[str, ...], str]
"""The key below a claim, and what is wrong with it."""


def claim_faults(
    claim: Claim,
    space: TrialSpace,
    datasets: Sequence[str],
    unknown: Collection[str] = (),
    search: SearchSpec | None = None,
    evaluation: EvaluationSpec | None = None,
) -> Iterator[ClaimFault]:
    """Yield what keeps a claim from being tested on a sweep of `space`.

    Args:
        claim: a claim of the file.
        space: the space that the sweep searches.
        datasets: the names of the known data sets.
        unknown: fields of the space that are faulty themselves; they are not reported again.
        search: how the space is searched; None skips the checks that need it.
        evaluation: what is measured on the test split; None skips the checks that need it.
    """
    faults = list(_faults_of_words(claim, space, datasets, unknown))
    yield from faults
    if not faults and not unknown:
        yield from _faults_of_reach(claim, space, search, evaluation)


def _faults_of_words(
    claim: Claim, space: TrialSpace, datasets: Sequence[str], unknown: Collection[str]
) -> Iterator[ClaimFault]:
    """Yield the faults of single columns, expressions and values of a claim."""
    columns = EPOCH_COLUMNS if isinstance(claim, Always) and claim.each == "epoch" else COLUMNS
    conditions: dict[str, Any] = {"where": claim.where}
    if isinstance(claim, Always | Separates):
        conditions["condition"] = claim.condition
    if isinstance(claim, Compare):
        conditions |= {"first": claim.first, "second": claim.second}
    for key, text in conditions.items():
        if isinstance(text, str) and text != BEST:
            yield from _expression_faults((key,), text, columns, "truth")
    if isinstance(claim, BestAt) and claim.subject_to is not None:
        yield from _expression_faults(("subject_to",), claim.subject_to, columns, "truth", BEST_MODES)
    for text in metric_texts(claim):
        path = ("margins", text) if isinstance(claim, Within) else ("metrics",)
        yield from _expression_faults(path, text, columns, "number")
        if isinstance(claim, BestAt) and claim.mode is None and text not in BEST_MODES and text != "objective":
            yield ("mode",), f"is missing; it is not known whether less or more of {text} is better: min or max"
    yield from _column_faults(claim, space, unknown)
    if isinstance(claim, BestAt):
        for value in claim.values:
            yield from _value_faults(("value",), claim.over, value, space, datasets, unknown)
    if isinstance(claim, Separates):
        yield from _edge_faults(claim, space, unknown)
    if isinstance(claim, Compare):
        points = {key: point for key, point in conditions.items() if isinstance(point, dict)}
        # A point of another data set or sweep may lie outside this file's space.
        elsewhere = any({"dataset", "sweep"} & set(point) for point in points.values())
        for key, point in points.items():
            for name, value in point.items():
                if name not in COLUMNS:
                    yield (key, name), f"unknown column{_nearest_column(name)}"
                elif not elsewhere or name == "dataset":
                    yield from _value_faults((key, name), name, value, space, datasets, unknown)
        for name in claim.pair_by or ():
            if name not in COLUMNS:
                yield ("pair_by",), f"unknown column {name}{_nearest_column(name)}"
            elif any(name in point for point in points.values()):
                yield ("pair_by",), f"{name} is what a point names, in which the trials of a pair cannot agree"


def _nearest_column(name: str) -> str:
    close = difflib.get_close_matches(name, COLUMNS, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; docs/findings.md says what a claim can speak of"


def _expression_faults(
    key: tuple[str, ...], text: str, columns: Mapping[str, Kind], kind: Kind, best: Mapping[str, Mode] | None = None
) -> Iterator[ClaimFault]:
    try:
        expression = parse_expression(text, columns, kind, best)
    except ExpressionError as error:
        yield key, f"{error}; got {text!r}"
        return
    if not expression.names:
        yield key, f"names no column, so it says nothing about the sweep; got {text!r}"


def _column_faults(claim: Claim, space: TrialSpace, unknown: Collection[str]) -> Iterator[ClaimFault]:
    """Yield the faults of the columns in `over` and `across`, such as a column that is constant here."""
    over = None if isinstance(claim, Always | Compare) else claim.over
    for key, name in (("over", over), ("across", claim.across)):
        if name is None or name in unknown:
            continue
        if name not in COLUMNS:
            yield (key,), f"unknown column {name}{_nearest_column(name)}"
        elif key == "over" and isinstance(claim, Separates | Trend) and COLUMNS[name] != "number":
            yield (key,), f"{name} is {KIND_NAMES[COLUMNS[name]]}; {claim.test} needs a column of numbers"
        elif key == "over" and name in PARAMETERS and name not in space.searched:
            searched = ", ".join(space.searched)
            yield (key,), f"{name} is a constant here; give trial.{name} a distribution, or use one of {searched}"
        elif key == "across" and not space.is_finite(name):
            yield (key,), f"{name} takes any value of a range; a claim can be tested across choices"


def _value_faults(
    key: tuple[str, ...], name: str, value: Scalar, space: TrialSpace, datasets: Sequence[str], unknown: Collection[str]
) -> Iterator[ClaimFault]:
    """Yield a fault if column `name` can never take `value`."""
    if name in unknown or name not in COLUMNS:
        return
    if name == "dataset":
        if value not in datasets:
            yield key, f"must be one of {', '.join(datasets)}, got {value!r}"
    elif name in PARAMETERS:
        distribution: Distribution = space.searched.get(name) or Choices(choices=space.choices(name))
        if value not in distribution:
            yield key, f"{name} never takes {value!r} here: it is {distribution}"
    else:
        kinds: dict[Kind, type | tuple[type, ...]] = {"number": (int, float), "text": str, "truth": bool}
        kind = COLUMNS[name]
        if not isinstance(value, kinds[kind]) or (kind == "number" and isinstance(value, bool)):
            yield key, f"{name} is {KIND_NAMES[kind]}, got {value!r}"


def _edge_faults(claim: Separates, space: TrialSpace, unknown: Collection[str]) -> Iterator[ClaimFault]:
    if claim.over not in space.searched or claim.over in unknown or COLUMNS[claim.over] != "number":
        return
    low, high = space.ends(claim.over)
    if claim.below is not None and not low < claim.below <= high:
        key, edge = "below", claim.below
    elif claim.above is not None and not low <= claim.above < high:
        key, edge = "above", claim.above
    else:
        return
    yield (key,), f"must have values of {claim.over} on both sides, which goes from {low:g} to {high:g}, got {edge:g}"


def _faults_of_reach(
    claim: Claim, space: TrialSpace, search: SearchSpec | None, evaluation: EvaluationSpec | None
) -> Iterator[ClaimFault]:
    """Yield what makes a claim undecidable although each of its parts is valid."""
    names = _names_read(claim)
    if evaluation is not None and evaluation.finalists is not None:
        for key, read in names.items():
            tested = sorted(read & FINAL_METRICS.keys())
            if tested:
                yield (
                    key,
                    f"{tested[0]} is measured for '{evaluation.final_metrics}' alone; "
                    "set evaluation: {final_metrics: all}",
                )
                break
    over = None if isinstance(claim, Always | Compare) else claim.over
    if claim.across is not None and claim.across == over:
        yield ("across",), f"{over} is what the test runs along, so no part would have two values of it"
        return
    for key in (("first",), ("second",)):
        if claim.across in names.get(key, ()):
            yield ("across",), f"{claim.across} is what {key[0]} fixes, so no part would have both points"
            return
    if any({"dataset", "sweep"} & read for read in names.values()):
        return  # the claim also reads trials of other sweeps, which this file does not describe
    yield from _faults_of_counts(claim, space, search, over)


def _names_read(claim: Claim) -> dict[tuple[str, ...], frozenset[str]]:
    """Return the columns that each key of a claim reads; all keys must be valid."""
    points = {("first",): claim.first, ("second",): claim.second} if isinstance(claim, Compare) else {}
    texts: dict[tuple[str, ...], str | None] = {("where",): claim.where}
    texts |= {key: point for key, point in points.items() if isinstance(point, str) and point != BEST}
    if isinstance(claim, Always | Separates):
        texts[("condition",)] = claim.condition
    if isinstance(claim, BestAt):
        texts[("subject_to",)] = claim.subject_to
    names = {
        key: parse_expression(text, EPOCH_COLUMNS, "truth", BEST_MODES).names for key, text in texts.items() if text
    }
    names |= {key: frozenset(point) for key, point in points.items() if isinstance(point, dict)}
    for text in metric_texts(claim):
        key = ("margins", text) if isinstance(claim, Within) else ("metrics",)
        names[key] = names.get(key, frozenset()) | parse_expression(text, EPOCH_COLUMNS, "number").names
    for place, column in (("over", getattr(claim, "over", None)), ("across", claim.across)):
        if column is not None:
            names[(place,)] = frozenset({column})
    return names


Points = list[dict[str, Scalar]]
"""Points of a space, each with values for some of the searched fields."""


def _points(space: TrialSpace, names: Collection[str]) -> Points | None:
    """Return all combinations of values of the finite searched fields among `names`; None if there are too many."""
    searched = {name: space.searched[name] for name in space.searched if name in names and space.is_finite(name)}
    part = TrialSpace(space.constants, searched)
    return list(part.grid()) if part.grid_size() <= MOST_POINTS else None


def _may_meet(condition: str, space: TrialSpace, points: Points) -> NDArray[np.bool_]:
    """Return a mask of the points at which a condition is true or unknown."""
    expression = parse_expression(condition, EPOCH_COLUMNS, "truth")
    blanks: dict[Kind, Any] = {"number": np.nan, "text": "", "truth": False}
    types: dict[Kind, Any] = {"number": np.float64, "text": object, "truth": np.bool_}
    columns = {}
    for name in expression.names:
        kind = EPOCH_COLUMNS[name]
        items: list[Scalar] = [None] * len(points)
        if name in PARAMETERS:
            constant = None if name in space.searched else space.choices(name)[0]
            items = [point.get(name, constant) for point in points]
        known = np.array([item is not None for item in items], dtype=bool)
        data = np.array([blanks[kind] if item is None else item for item in items], dtype=types[kind])
        columns[name] = Values.of(data, known)
    truth = expression.evaluate(columns, (len(points),))
    possible: NDArray[np.bool_] = ~(truth.known & ~truth.data.astype(bool))
    return possible


def _met(condition: str | None, space: TrialSpace, points: Points) -> Points:
    if condition is None:
        return points
    return [point for point, may in zip(points, _may_meet(condition, space, points), strict=True) if may]


def _faults_of_counts(
    claim: Claim, space: TrialSpace, search: SearchSpec | None, over: str | None
) -> Iterator[ClaimFault]:
    """Yield a fault if there are too few values, trials or repeats where a claim looks."""
    read = parse_expression(claim.where, EPOCH_COLUMNS, "truth").names if claim.where else frozenset[str]()
    points = _points(space, read | ({over} if over else set()))
    if points is None:
        return
    points = _met(claim.where, space, points)
    if not points:
        yield ("where",), f"no point of the space meets it, got {claim.where!r}"
        return
    if isinstance(claim, Trend) and claim.over in space.searched and space.is_finite(claim.over):
        values = {point[claim.over] for point in points}
        if len(values) < MIN_REPEATS:
            few = f"{claim.over} takes {len(values)} where the claim looks; the test compare takes two"
            yield ("over",), f"a trend needs at least {MIN_REPEATS} values, {few}"
            return
    if search is None or search.sampler != "grid" or not all(space.is_finite(name) for name in space.searched):
        return
    grid = _points(space, space.searched)
    if grid is None:
        return
    grid = _met(claim.where, space, [*grid, *(dict(p) for p in search.enqueue if set(p) == set(space.searched))])
    parts: dict[Scalar, Points] = {}
    for point in grid:
        parts.setdefault(point.get(claim.across) if claim.across else None, []).append(point)
    for value, part in parts.items():
        fault = _fault_of_part(claim, space, part)
        if fault is not None:
            at = f" at {claim.across} {value}" if len(parts) > 1 else ""
            yield fault[0], f"{fault[1]}{at}; {REPEATS}"
            return


def _fault_of_part(claim: Claim, space: TrialSpace, points: Points) -> ClaimFault | None:
    """Return a fault if the grid has too few points for a test; otherwise None."""
    if isinstance(claim, Always) or (isinstance(claim, Compare) and claim.second == BEST):
        return None
    if isinstance(claim, Compare):
        return _fault_of_pairs(claim, space, points)
    if claim.over not in space.searched:
        return None
    if isinstance(claim, Separates):
        edge, key = (claim.below, "below") if claim.below is not None else (claim.above, "above")
        assert edge is not None
        over = [float(point[claim.over] or 0) for point in points]
        inside = sum(value < edge if key == "below" else value > edge for value in over)
        if min(inside, len(over) - inside) < MIN_REPEATS:
            sides = f"{counted(inside, 'trial')} on the claimed side of {edge:g} and {len(over) - inside} on the other"
            return (key,), f"the grid has {sides}, at least {MIN_REPEATS} each are needed"
        return None
    values = {point[claim.over] for point in points}
    if isinstance(claim, BestAt) and not any(value in values for value in claim.values):
        return ("value",), f"no point of the grid that meets where has {claim.over} {claim.value}"
    if len(values) < 2:
        return ("over",), f"{claim.over} takes one value where the claim looks, at least two are needed"
    if isinstance(claim, Within):
        units = {tuple((name, point[name]) for name in space.searched if name != claim.over) for point in points}
        kind, count = "points that differ in more than it", len(units)
    else:
        kind, count = "seeds", len({point.get("seed") for point in points})
        if isinstance(claim, Trend) and count == 1 and len(values) >= MIN_TREND_TRIALS:
            return None
    if count < MIN_REPEATS:
        return ("test",), f"{claim.test} over {claim.over} needs at least {MIN_REPEATS} {kind}, the grid has {count}"
    return None


def _fault_of_pairs(claim: Compare, space: TrialSpace, points: Points) -> ClaimFault | None:
    named: set[str] = set()
    found: list[Points] = []
    for key, point in (("first", claim.first), ("second", claim.second)):
        names = parse_expression(point, EPOCH_COLUMNS, "truth").names if isinstance(point, str) else set(point)
        if not names <= PARAMETERS.keys():
            return None  # only the results show which trials are at this point
        named |= names
        if isinstance(point, str):
            here = _met(point, space, points)
        else:
            here = [p for p in points if all(p.get(name, wanted) == wanted for name, wanted in point.items())]
        if not here:
            return (key,), f"no point of the grid where the claim looks is at it, got {point!r}"
        found.append(here)
    pairing = claim.pair_by or tuple(name for name in space.searched if name not in named)
    first, second = ({tuple(point.get(name) for name in pairing) for point in here} for here in found)
    if len(first & second) < MIN_REPEATS and set(pairing) <= PARAMETERS.keys():
        count = f"the grid has {len(first & second)}"
        return ("test",), f"compare needs at least {MIN_REPEATS} pairs of trials at the two points, {count}"
    return None
