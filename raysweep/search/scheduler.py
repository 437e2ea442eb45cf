"""Early stopping: asynchronous successive halving as a pure function of what the ledger holds.

Nothing is remembered between decisions. A rung is the set of trials that have reached its epoch, read from the ledger,
so that a resumed sweep decides as the undisturbed one would have.

There are two forms. The stopping form judges a trial when it arrives at a rung, and again when others arrive there,
until it reaches the next rung. The first to arrive at the first rung wait there until there are enough to be judged
(`Waiting`); otherwise they would pass every rung unjudged. The promoting form (`Promotion`, `asha: {promote: true}`)
pauses every trial at every rung, and lets it go on as soon as it is among the best.

In both forms the best trial of the highest rung reached is never stopped, so at least one is trained to its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from raysweep.metrics import Mode
from raysweep.spec.sections import SweepSpec
from raysweep.wording import ordinal

ValuesAt = Callable[[int], Mapping[int, float]]


@dataclass(frozen=True)
class Standing:
    """A trial's place among those that have reached a rung, at the moment when it is judged."""

    value: float
    """Its objective."""
    place: int
    """1 for the best. Ties go to the lower number; trials without a finite value come last."""
    of: int
    """Number of trials on the rung, including this one."""
    go_on: int
    """How many of them go on: the best 1/`reduction_factor`. If there are fewer than `reduction_factor` of them: all,
    or none if trials pause there."""
    needed: float | None
    """The value of the last trial that goes on; None if there is no such trial with a finite value."""

    @property
    def survives(self) -> bool:
        """Return whether the trial goes on past the rung."""
        return math.isfinite(self.value) and self.place <= self.go_on


def standing(
    number: int, rung: Mapping[int, float], reduction_factor: int, mode: Mode, promote: bool = False
) -> Standing:
    """Judge trial `number` on a rung, which maps each trial on it, including this one, to its objective.

    A trial goes on if it is in the best 1/`reduction_factor` of those that reached the rung. Until `reduction_factor`
    trials are there, none is stopped: one or two values say nothing about a third (Li et al., arXiv:1810.05934,
    algorithm 2; Ray Tune judges the second arrival against the first alone). If trials pause (`promote`), they wait
    until that many are there.
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


class Pausing(Protocol):
    """A rule by which trials pause on rungs."""

    @property
    def rungs(self) -> tuple[int, ...]:
        """Return the epochs at which trials may pause."""

    def holds(self, number: int, epoch: int, values_at: ValuesAt) -> bool:
        """Return whether a trial that has reached an epoch, and has no process, pauses there."""

    def going_on(self, values_at: ValuesAt, paused: Mapping[int, int]) -> list[int]:
        """Return the numbers of the paused trials that should go on, the next one first.

        Args:
            values_at: gives the objective of every trial that has reached an epoch, by number.
            paused: the epoch at which each paused trial stands, by number.
        """

    def left_over(self, values_at: ValuesAt, paused: Mapping[int, int], is_alive: Callable[[int], bool]) -> list[int]:
        """Return the paused trials that go on when nothing else is left to do, the next one first."""

    def ending(self, values_at: ValuesAt, paused: Mapping[int, int], is_over: bool) -> list[tuple[int, str]]:
        """Return the paused trials that should end, with the causes.

        Args:
            values_at, paused: as for `going_on`.
            is_over: whether no trial is being trained, and none will be.
        """


def pausing_rule(spec: SweepSpec) -> Pausing | None:
    """Return the rule by which trials of a sweep pause; None if none does."""
    if spec.asha is None or not (rungs := spec.asha.rungs(spec.max_epochs)):
        return None
    factor, mode = spec.asha.reduction_factor, spec.search.objective.direction
    if spec.asha.promote:
        return Promotion(rungs, factor, mode)
    return Waiting(rungs[0], factor, mode) if spec.asha.rejudge else None


@dataclass(frozen=True)
class Waiting:
    """The stopping form's rule for its first trials: they wait on the first rung until `reduction_factor` are there.

    Then all of these are judged together. On later rungs no trial waits, because it was judged on the first one.
    """

    rung: int
    reduction_factor: int
    mode: Mode

    @property
    def rungs(self) -> tuple[int, ...]:
        """Return the first rung."""
        return (self.rung,)

    def holds(self, number: int, epoch: int, values_at: ValuesAt) -> bool:
        """Return whether a trial is on the first rung, and has not been found among the best there."""
        return epoch == self.rung and not self._goes_on(number, values_at(epoch))

    def going_on(self, values_at: ValuesAt, paused: Mapping[int, int]) -> list[int]:
        """Return the paused trials that are among the best now that enough have come, the best first."""
        rung = values_at(self.rung) if paused else {}
        return [number for number in _ranking(rung, self.mode) if number in paused and self._goes_on(number, rung)]

    def left_over(self, values_at: ValuesAt, paused: Mapping[int, int], is_alive: Callable[[int], bool]) -> list[int]:
        """Return all trials that wait for others, the best first, because no others will come."""
        rung = values_at(self.rung) if paused else {}
        return [number for number in _ranking(rung, self.mode) if number in paused and not self._is_judged(rung)]

    def ending(self, values_at: ValuesAt, paused: Mapping[int, int], is_over: bool) -> list[tuple[int, str]]:
        """Return the paused trials that are not among the best now that enough have come."""
        rung = values_at(self.rung) if paused else {}
        if not self._is_judged(rung):
            return []
        cause = not_among_the_best(self.reduction_factor, len(rung), self.rung)
        return [(number, cause) for number in sorted(paused) if not self._goes_on(number, rung)]

    def _is_judged(self, rung: Mapping[int, float]) -> bool:
        return len(rung) >= self.reduction_factor

    def _goes_on(self, number: int, rung: Mapping[int, float]) -> bool:
        return self._is_judged(rung) and survives(number, rung, self.reduction_factor, self.mode)


@dataclass(frozen=True)
class Promotion:
    """The promoting form: which of the paused trials goes on (Li et al., arXiv:1810.05934, algorithm 2).

    The rungs are examined from the highest down. Of the n trials that have reached a rung, whatever their state, the
    best floor(n / factor) should go on; those of them that are paused there do, the best first.
    """

    rungs: tuple[int, ...]
    reduction_factor: int
    mode: Mode

    def holds(self, number: int, epoch: int, values_at: ValuesAt) -> bool:
        """Return whether the epoch is a rung."""
        return epoch in self.rungs

    def going_on(self, values_at: ValuesAt, paused: Mapping[int, int]) -> list[int]:
        """Return the paused trials that should go on: from the highest rung down, on each the best first."""
        found = []
        for epoch in reversed(self.rungs):
            rung = values_at(epoch)
            best = _ranking(rung, self.mode)[: len(rung) // self.reduction_factor]
            found += [number for number in best if paused.get(number) == epoch]
        return found

    def left_over(self, values_at: ValuesAt, paused: Mapping[int, int], is_alive: Callable[[int], bool]) -> list[int]:
        """Return the leader, if it is paused: at least one trial is trained to its end.

        A trial is alive if it is paused, running or completed. The leader is the best one at the highest rung that an
        alive trial has reached.
        """
        for epoch in reversed(self.rungs):
            alive = (number for number in _ranking(values_at(epoch), self.mode) if is_alive(number))
            if (best := next(alive, None)) is not None:
                return [best] if best in paused else []
        return []

    def ending(self, values_at: ValuesAt, paused: Mapping[int, int], is_over: bool) -> list[tuple[int, str]]:
        """Return all paused trials when nothing is left to train."""
        found = []
        for number, epoch in sorted(paused.items()) if is_over else ():
            place = standing(number, values_at(epoch), self.reduction_factor, self.mode, promote=True)
            goes = "goes" if place.go_on == 1 else "go"
            cause = (
                f"paused at epoch {epoch}, {ordinal(place.place)} of the {place.of} trials that had reached it, of "
                f"which the best {place.go_on} {goes} on"
            )
            found.append((number, cause))
        return found


def not_among_the_best(reduction_factor: int, count: int, epoch: int) -> str:
    """Return the cause of a stop: `not among the best 1/3 of the 9 trials that had reached it at epoch 5`."""
    return f"not among the best 1/{reduction_factor} of the {count} trials that had reached it at epoch {epoch}"


def _ranking(rung: Mapping[int, float], mode: Mode) -> list[int]:
    """Return the trials on a rung with a finite value, the best first; ties go to the lower number."""
    sign = -1.0 if mode == "max" else 1.0
    finite = (number for number, value in rung.items() if math.isfinite(value))
    return sorted(finite, key=lambda number: (sign * rung[number], number))
