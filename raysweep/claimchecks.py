"""Whether claims can be tested on a sweep: known columns, sound expressions, values that the space does take."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from raysweep.claims import (
    BEST,
    COLUMNS,
    EPOCH_COLUMNS,
    MODES,
    PARAMETERS,
    Always,
    BestAt,
    Claim,
    Compare,
    Separates,
    Trend,
    Within,
    metric_texts,
)
from raysweep.expressions import KIND_NAMES, ExpressionError, Kind, parse_expression
from raysweep.metrics import Mode
from raysweep.space import Choices, Distribution, Scalar, TrialSpace

ClaimFault = tuple[tuple[str, ...], str]
"""The key below a claim, and what is wrong with it."""


def claim_faults(
    claim: Claim, space: TrialSpace, datasets: Sequence[str], unknown: Collection[str] = ()
) -> Iterator[ClaimFault]:
    """What cannot be tested of a claim on a sweep of `space`.

    Args:
        datasets: the names of data sets there are.
        unknown: fields of the space that are faulty themselves, of which nothing more is said.
    """
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
        yield from _expression_faults(("subject_to",), claim.subject_to, columns, "truth", MODES)
    for text in metric_texts(claim):
        path = ("margins", text) if isinstance(claim, Within) else ("metrics",)
        yield from _expression_faults(path, text, columns, "number")
        if isinstance(claim, BestAt) and claim.mode is None and text not in MODES and text != "objective":
            yield ("mode",), f"is missing; it is not known whether less or more of {text} is better: min or max"
    yield from _column_faults(claim, space, unknown)
    if isinstance(claim, BestAt):
        yield from _value_faults(("value",), claim.over, claim.value, space, datasets, unknown)
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
    """Whether the columns that a claim runs along, or is tested across, can have several values here."""
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
    """Whether a column ever takes a value."""
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
