"""Sentences that compare the values of a hyperparameter, and the rule for when they may be written.

Readers take a sentence such as "873.7 at 64 latents, 11.6 at 8" for an effect of the latents. It is written only about
values with `MIN_SIDE` comparable trials each, and gives their number; otherwise a title says what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from raysweep.metrics import Mode, TrialState
from raysweep.records import TrialRecord
from raysweep.report.figures.marks import Weights, short
from raysweep.report.figures.scales import categories_of
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import Choices, Scalar

MIN_SIDE = 3
"""Comparable trials that a value needs to be compared with another."""

COMPARED_SAID = (
    "The title compares the best of n trials a value, which ran to their end, as long as the longest, and did not "
    "collapse; other parameters differ among them."
)


class Side(NamedTuple):
    """A value of a hyperparameter and the comparable trials that have it."""

    value: Scalar
    records: list[TrialRecord]


def comparable(
    records: Sequence[TrialRecord], name: str, metric: str, collapse: Weights | None = None
) -> list[TrialRecord]:
    """Return the trials whose `metric` may be compared between values of the hyperparameter `name`.

    They (a) ran to their end and have a finite value, (b) were trained for as many epochs as the longest of them,
    unless epochs are compared, and (c) neither collapsed nor were predicted to, unless the KLD weight is compared: a
    collapsed model says nothing about its other hyperparameters.
    """
    ended = [r for r in records if r.state is TrialState.COMPLETED and math.isfinite(r.last(metric))]
    if name != "epochs":
        longest = max((len(record.epochs) for record in ended), default=0)
        ended = [record for record in ended if len(record.epochs) == longest]
    if name != "kld_weight":
        ended = [record for record in ended if not _is_collapsed(record, collapse)]
    return ended


def _is_collapsed(record: TrialRecord, collapse: Weights | None) -> bool:
    if record.final is not None and record.final.collapsed:
        return True
    return collapse is not None and 0 < collapse[0] <= record.config.kld_weight


def sides(spec: SweepSpec, records: Sequence[TrialRecord], name: str) -> list[Side]:
    """Return the values of a searched parameter that have enough trials to be compared, in their order.

    A range has none, because each of its values has a single trial.
    """
    distribution = spec.trial.searched[name]
    if not isinstance(distribution, Choices):
        return []
    values: list[Scalar] = [getattr(record.config, name) for record in records]
    found = [
        Side(value, [record for record, own in zip(records, values, strict=True) if _same(own, value)])
        for value in categories_of(distribution, values)
    ]
    return [side for side in found if len(side.records) >= MIN_SIDE]


def _same(one: Scalar, other: Scalar) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def compared(
    found: Sequence[Side], metric: str, mode: Mode, summaries: Mapping[str, float], at: str = ""
) -> str | None:
    """Say the best and the worst value of several sides, with their trials; None for fewer than two sides.

    Args:
        found: the sides, as `sides` returns them.
        metric: what is compared, in words.
        mode: whether more or less of it is better.
        summaries: one number of each side, by the `repr` of its value.
        at: the text before the first value.
    """
    if len(found) < 2:
        return None
    ordered = sorted(found, key=lambda side: summaries[repr(side.value)], reverse=mode == "max")
    first, last = (f"{short(side.value)} (n={len(side.records)})" for side in (ordered[0], ordered[-1]))
    best, worst = (short(summaries[repr(side.value)]) for side in (ordered[0], ordered[-1]))
    return f"{metric} {best} at {f'{at} ' if at else ''}{first}, {worst} at {last}"
