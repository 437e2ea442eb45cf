"""The order in which trials are trained.

Unfinished trials come first, then paused ones that go on, new ones, ones that get a larger share, and, once the search
is over, those that confirm the best.

A process may train several trials together if they have the same shape (`vae/fusing/training.py`). The sampler chooses
each point by itself, with any shape. To find a trial that fits those of a process, the queue asks the sampler for some
in advance, and keeps those of other shapes for later processes. They are ordinary unfinished trials: if the driver
dies, the next one continues with them.

Trials that pause on a rung (`scheduler.Pausing`) wait in the ledger. The ledger alone determines which of them is next,
so a driver that takes over a sweep chooses as the previous one would have.
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
"""How many groups of trials of one shape are handed out while a trial of another shape waits."""


class Queue:
    """The trials of a sweep that are still to be handed out.

    Args:
        ledger: has the unfinished and the paused trials, and the sampler that chooses new ones.
        spec: says how many trials to train, which of them pause, and how the best are confirmed.
    """

    def __init__(self, ledger: Ledger, spec: SweepSpec) -> None:
        self._ledger = ledger
        self._spec = spec
        self._pausing = pausing_rule(spec)
        self._to_confirm: deque[Confirmation] | None = None
        """Confirmations of the best trials that have not begun; None while the search goes on."""
        self._changes = 0
        """How often a trial was paused or went on."""
        self._found: tuple[tuple[int, ...], list[int]] = ((), [])
        """Cache of `_going_on`: its inputs (the changes, how many trials had reached each rung), and its result."""
        self._unfinished = deque(number for number in ledger.unfinished() if number not in ledger.paused)
        self._to_ask = max(0, spec.trials - ledger.searched)
        self._put_by: set[int] = set()
        """Unfinished trials that the sampler chose in advance, but whose shape did not fit."""
        self._passed = 0
        """Trials that `take_like` handed out while others waited, since `take` last handed out the first in line."""
        self._last: deque[int] = deque()
        """Trials to train after all others: they wait for a larger share, which other processes may have to free."""

    def __len__(self) -> int:
        waiting = len(self._unfinished) + self._to_ask + len(self._last)
        return waiting + len(self.sent_on()) + len(self._confirmations())

    def peek(self) -> int | None:
        """Return the number of the next trial; None if it is a new one, or if there is none."""
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
        """Return the next trial for which `is_like(number, configuration)` is true; None if there is none.

        If trials of other shapes have waited long, return None too: a process that gets no more trials makes room.

        Args:
            ahead: how many trials of other shapes may be kept, in all, that were chosen in advance.
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
        """Pause a trial if it stands on a rung where trials pause; return whether it does."""
        self._changes += 1
        return self._ledger.pause(number)

    def put_back(self, numbers: Iterable[int]) -> None:
        """Make these trials the next ones, in this order. Those that stand on a rung are paused again instead."""
        again = [number for number in numbers if not self.pause(number)]
        self._unfinished.extendleft(reversed(again))

    def put_last(self, number: int) -> None:
        """Train this trial after all others."""
        self._last.append(number)

    def sent_on(self) -> list[int]:
        """Return the paused trials that are to go on, the next one first.

        If there are none, return those that go on when nothing else is left.
        """
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

        They go on while others still train: an idle slot does not end the sweep earlier, and in most cases the same
        trials would be chosen later.
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
        """Begin the next trial of the search, or one that confirms another; return None if there is none."""
        if self._to_ask:
            self._to_ask -= 1
            return self._ledger.ask()
        confirmations = self._confirmations()
        return self._ledger.confirm(confirmations.popleft()) if confirmations else None

    def _confirmations(self) -> deque[Confirmation]:
        """Return the confirmations that have not begun; none until the last trial of the search ends."""
        if self._to_confirm is None:
            if self._ledger.ended < self._spec.trials:
                return deque()
            self._to_confirm = deque(due(self._ledger.records(), self._spec))
        return self._to_confirm
