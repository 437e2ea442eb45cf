"""Which trial is trained next.

Unfinished ones, paused ones that are to go on, new ones, ones that get a larger share, and those that confirm the best
once the search is over.

A process may train several trials together if they are of one shape (`vae/fusing/training.py`). The sampler chooses
each point by itself, of whatever shape. To find one that goes with those a process has, the queue asks it for some
ahead, and keeps those of other shapes for later processes. They are unfinished trials like any other: if the driver
dies, the next one takes them up.

Trials that pause on a rung (`scheduler.Pausing`) wait in the ledger. Who of them is next follows from the ledger
alone, so a driver that takes over a sweep chooses as the one before it would have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from raysweep.confirming import Confirmation, due
from raysweep.metrics import TrialState
from raysweep.records import TrialRecord
from raysweep.search.scheduler import pausing_rule
from raysweep.spec.config import TrialConfig
from raysweep.spec.sections import SweepSpec
from raysweep.study.ledger import Ledger

GROUPS_PAST = 4
"""How many groups of trials of one shape are handed out while one of another shape waits."""


class Queue:
    """The trials of a sweep that are still to be handed out.

    Args:
        ledger: has the unfinished and the paused trials, and the sampler that chooses new ones.
        spec: how many trials there are to be, which of them pause, and what confirms the best.
    """

    def __init__(self, ledger: Ledger, spec: SweepSpec) -> None:
        self._ledger = ledger
        self._spec = spec
        self._pausing = pausing_rule(spec)
        self._to_confirm: deque[Confirmation] | None = None
        """What confirms the best trials and is still to be begun; None while the search goes on."""
        self._changes = 0
        """How often a trial was paused or went on."""
        self._found: tuple[tuple[int, ...], list[int]] = ((), [])
        """Who goes on, and what that was computed from: the changes, and how many trials had reached each rung."""
        self._unfinished = deque(number for number in ledger.unfinished() if number not in ledger.paused)
        self._to_ask = max(0, spec.trials - ledger.searched)
        self._put_by: set[int] = set()
        """Those of the unfinished ones that were asked for in vain."""
        self._passed = 0
        """Trials handed out past those, since the longest there was."""
        self._last: deque[int] = deque()
        """To be trained when the others are: those that wait for a larger share, which may have to be left them."""

    def __len__(self) -> int:
        waiting = len(self._unfinished) + self._to_ask + len(self._last)
        return waiting + len(self.sent_on()) + len(self._confirmations())

    def peek(self) -> int | None:
        """Return the number of the trial that is next; None if that is a new one, or if there is none."""
        if self._unfinished:
            return self._unfinished[0]
        if going_on := self._going_on():
            return going_on[0]
        if self._to_ask or self._confirmations():
            return None
        return next(iter(self._last or self._left_over()), None)

    def take(self) -> TrialRecord | None:
        """Return the next trial; None if there is none."""
        self._passed = 0
        number = self.peek()
        if number is None:
            return self._new()
        if number in self._ledger.paused:
            return self._go_on(number)
        (self._unfinished or self._last).popleft()
        self._put_by.discard(number)
        return self._ledger.record(number)

    def take_like(self, is_like: Callable[[int, TrialConfig], bool], ahead: int) -> TrialRecord | None:
        """Return the next trial of which `is_like` is true, by its number and configuration; None if there is none.

        None, too, if those of other shapes have waited for long: a process that is given no more makes room for them.

        Args:
            ahead: how many trials may be put by, in all, that were asked for in vain.
        """
        going_on = self.sent_on()
        others_wait = bool(self._put_by or going_on)
        if others_wait and self._passed >= GROUPS_PAST * ahead:
            return None
        for number in (*self._unfinished, *going_on):
            record = self._ledger.record(number)
            if is_like(number, record.config):
                if number in self._ledger.paused:
                    self._passed += others_wait and len(going_on) > 1
                    return self._go_on(number)
                self._unfinished.remove(number)
                self._put_by.discard(number)
                self._passed += bool(self._put_by or going_on)
                return record
        while len(self._put_by) < ahead and (new := self._new()) is not None:
            if is_like(new.number, new.config):
                self._passed += bool(self._put_by or going_on)
                return new
            self._unfinished.append(new.number)
            self._put_by.add(new.number)
        return None

    def pause(self, number: int) -> bool:
        """Let a trial wait where it is, if that is a rung where trials pause; return whether it does."""
        self._changes += 1
        return self._ledger.pause(number)

    def put_back(self, numbers: Iterable[int]) -> None:
        """Make these trials the next, in this order. Those that stand on a rung are paused there again instead."""
        again = [number for number in numbers if not self.pause(number)]
        self._unfinished.extendleft(reversed(again))

    def put_last(self, number: int) -> None:
        """Train this trial after all others."""
        self._last.append(number)

    def sent_on(self) -> list[int]:
        """Return the paused trials that are to go on, the next one first. Some do if nothing else is left."""
        return self._going_on() or self._left_over()

    def _going_on(self) -> list[int]:
        """Return the paused trials that are to go on, the next one first."""
        if self._pausing is None:
            return []
        values_at = self._ledger.values_at
        computed_from = (self._changes, *(len(values_at(epoch)) for epoch in self._pausing.rungs))
        if self._found[0] != computed_from:
            self._found = computed_from, self._pausing.going_on(values_at, self._ledger.paused)
        return self._found[1]

    def _left_over(self) -> list[int]:
        """Return the paused trials that go on if nothing else is left to hand out.

        They do while others still train: an idle slot finishes no sweep earlier, and mostly they are the ones.
        """
        if self._pausing is None or self._to_ask or self._unfinished or self._last:
            return []
        return self._pausing.left_over(self._ledger.values_at, self._ledger.paused, self._is_alive)

    def _go_on(self, number: int) -> TrialRecord:
        self._changes += 1
        return self._ledger.go_on(number)

    def _is_alive(self, number: int) -> bool:
        record = self._ledger.record(number)
        return record.ended_at is None or record.state is TrialState.COMPLETED

    def _new(self) -> TrialRecord | None:
        """Begin a trial: the next of the search, or one that confirms another; None if there is none."""
        if self._to_ask:
            self._to_ask -= 1
            return self._ledger.ask()
        confirmations = self._confirmations()
        return self._ledger.confirm(confirmations.popleft()) if confirmations else None

    def _confirmations(self) -> deque[Confirmation]:
        """Return what confirms the best trials and is still to be begun; nothing until the last of the search ends."""
        if self._to_confirm is None:
            if self._ledger.ended < self._spec.trials:
                return deque()
            self._to_confirm = deque(due(self._ledger.records(), self._spec))
        return self._to_confirm
