"""Early stopping: asynchronous successive halving as a pure function of what the ledger holds.

Nothing is remembered between decisions. A rung is the set of trials that have reached its epoch, read from the ledger,
so that a resumed sweep decides as the undisturbed one would have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from raysweep.metrics import Mode


@dataclass(frozen=True)
class Standing:
    """Where a trial stands among those that have reached a rung, at the moment at which it is judged."""

    value: float
    """Its objective."""
    place: int
    """1 for the best. Ties go to the lower number; trials without a finite value come last."""
    of: int
    """Trials on the rung, itself among them."""
    go_on: int
    """How many of them go on: the best 1/`reduction_factor`, or all while they are fewer than that."""
    needed: float | None
    """The value of the last that goes on; None if there is no such trial with a finite value."""

    @property
    def survives(self) -> bool:
        """Return whether the trial goes on past the rung."""
        return math.isfinite(self.value) and self.place <= self.go_on


def standing(number: int, rung: Mapping[int, float], reduction_factor: int, mode: Mode) -> Standing:
    """Judge a trial on a rung, which has the objective of each trial on it, `number` among them.

    A trial goes on if it is in the best 1/`reduction_factor` of those that reached the rung. Until `reduction_factor`
    trials stand there nobody is stopped: one or two values say nothing about a third (Li et al., arXiv:1810.05934,
    algorithm 2; Ray Tune judges the second arrival against the first alone).
    """
    sign = -1.0 if mode == "max" else 1.0
    ranking = sorted((sign * value, index) for index, value in rung.items() if math.isfinite(value))
    value = rung[number]
    place = ranking.index((sign * value, number)) + 1 if math.isfinite(value) else len(rung)
    go_on = len(rung) if len(rung) < reduction_factor else math.ceil(len(rung) / reduction_factor)
    last = min(go_on, len(ranking))
    return Standing(value, place, len(rung), go_on, sign * ranking[last - 1][0] if last else None)


def survives(number: int, rung: Mapping[int, float], reduction_factor: int, mode: Mode) -> bool:
    """Return whether a trial goes on past a rung; a value that is not finite never does. See `standing`."""
    return standing(number, rung, reduction_factor, mode).survives
