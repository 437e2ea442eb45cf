"""Early stopping: asynchronous successive halving as a pure function of what the ledger holds.

Nothing is remembered between decisions. A rung is the set of trials that have reached its epoch, read from the ledger,
so that a resumed sweep decides as the undisturbed one would have.

There are two forms. The stopping one judges a trial when it arrives at a rung, and there again when others have come,
until it reaches the next rung: otherwise the first ones would pass every rung unjudged. The promoting one
(`Promotion`, `asha: {promote: true}`) pauses every trial at a rung, and lets it go on as soon as it is among the best.

Either way the best trial of the highest rung that was reached is never stopped, so one at least is trained to its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from raysweep.metrics import Mode
from raysweep.spec import SweepSpec

ValuesAt = Callable[[int], Mapping[int, float]]


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
    """How many of them go on: the best 1/`reduction_factor`. While they are fewer than that: all, or none if trials
    pause there."""
    needed: float | None
    """The value of the last that goes on; None if there is no such trial with a finite value."""

    @property
    def survives(self) -> bool:
        """Return whether the trial goes on past the rung."""
        return math.isfinite(self.value) and self.place <= self.go_on


def standing(
    number: int, rung: Mapping[int, float], reduction_factor: int, mode: Mode, promote: bool = False
) -> Standing:
    """Judge a trial on a rung, which has the objective of each trial on it, `number` among them.

    A trial goes on if it is in the best 1/`reduction_factor` of those that reached the rung. Until `reduction_factor`
    trials stand there nobody is stopped: one or two values say nothing about a third (Li et al., arXiv:1810.05934,
    algorithm 2; Ray Tune judges the second arrival against the first alone). Where trials pause (`promote`), they wait
    until there are so many.
    """
    ranking = _ranking(rung, mode)
    value = rung[number]
    place = ranking.index(number) + 1 if math.isfinite(value) else len(rung)
    if promote:
        go_on = len(rung) // reduction_factor
    else:
        go_on = len(rung) if len(rung) < reduction_factor else math.ceil(len(rung) / reduction_factor)
    last = min(go_on, len(ranking))
    return Standing(value, place, len(rung), go_on, rung[ranking[last - 1]] if last else None)


def survives(number: int, rung: Mapping[int, float], reduction_factor: int, mode: Mode) -> bool:
    """Return whether a trial goes on past a rung; a value that is not finite never does. See `standing`."""
    return standing(number, rung, reduction_factor, mode).survives


@dataclass(frozen=True)
class Promotion:
    """The promoting form: which of the paused trials goes on (Li et al., arXiv:1810.05934, algorithm 2).

    The rungs are looked at from the highest down. Of the n trials that have reached a rung, whatever became of them,
    the best floor(n / factor) are to go on; those of them that are paused there do, the best first.
    """

    rungs: tuple[int, ...]
    reduction_factor: int
    mode: Mode

    @classmethod
    def of(cls, spec: SweepSpec) -> Promotion | None:
        """Return the rule of a sweep; None if its trials do not pause."""
        if spec.asha is None or not spec.asha.promote:
            return None
        return cls(spec.asha.rungs(spec.max_epochs), spec.asha.reduction_factor, spec.search.objective.direction)

    def going_on(self, values_at: ValuesAt, paused: Mapping[int, int]) -> list[int]:
        """Return the numbers of the paused trials that are to go on, the next one first.

        Args:
            values_at: gives the objective of every trial that has reached an epoch, by number.
            paused: the epoch at which each paused trial stands, by number.
        """
        found = []
        for epoch in reversed(self.rungs):
            rung = values_at(epoch)
            best = _ranking(rung, self.mode)[: len(rung) // self.reduction_factor]
            found += [number for number in best if paused.get(number) == epoch]
        return found

    def leader(self, values_at: ValuesAt, is_alive: Callable[[int], bool]) -> int | None:
        """Return the trial that has to be trained to its end when nothing else is left to do; None if there is none.

        It is the best one at the highest rung that a trial has reached which is alive: paused, running or completed.
        """
        for epoch in reversed(self.rungs):
            alive = (number for number in _ranking(values_at(epoch), self.mode) if is_alive(number))
            if (best := next(alive, None)) is not None:
                return best
        return None


def _ranking(rung: Mapping[int, float], mode: Mode) -> list[int]:
    """Return the trials on a rung that have a finite value, the best first; ties go to the lower number."""
    sign = -1.0 if mode == "max" else 1.0
    finite = (number for number, value in rung.items() if math.isfinite(value))
    return sorted(finite, key=lambda number: (sign * rung[number], number))
