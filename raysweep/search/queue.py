"""Which trial is trained next: unfinished ones, then new ones, then those that wait for a larger share.

A process may train several trials together, if they are of one shape (`vae/fused.py`). The sampler chooses each point
by itself, of whatever shape: to find one that goes with those a process has, the queue asks it for some ahead, and
keeps those of other shapes for the processes to come. They are unfinished trials like any other: a driver that dies
with some of them leaves them to the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from raysweep.config import TrialConfig
from raysweep.records import TrialRecord
from raysweep.search.ledger import Ledger

GROUPS_PAST = 4
"""How many groups of trials of one shape are handed out while one of another shape waits."""


class Queue:
    """The trials of a sweep that are still to be handed out.

    Args:
        ledger: has the unfinished trials, and the sampler that chooses new ones.
        trials: how many the sweep is to have in all.
    """

    def __init__(self, ledger: Ledger, trials: int) -> None:
        self._ledger = ledger
        self._unfinished = deque(ledger.unfinished())
        self._to_ask = max(0, trials - len(ledger.records()))
        self._put_by: set[int] = set()
        """Those of the unfinished ones that were asked for in vain."""
        self._passed = 0
        """Trials handed out past those, since the longest there was."""
        self._last: deque[int] = deque()
        """To be trained when the others are: those that wait for a larger share, which may have to be left them."""

    def __len__(self) -> int:
        return len(self._unfinished) + self._to_ask + len(self._last)

    def peek(self) -> int | None:
        """The number of the trial that is next; None if that is a new one, or if there is none."""
        if self._unfinished:
            return self._unfinished[0]
        return self._last[0] if self._last and not self._to_ask else None

    def take(self) -> TrialRecord | None:
        """The next trial; None if there is none."""
        self._passed = 0
        if self._unfinished:
            number = self._unfinished.popleft()
            self._put_by.discard(number)
            return self._ledger.record(number)
        if self._to_ask:
            return self._ask()
        return self._ledger.record(self._last.popleft()) if self._last else None

    def take_like(self, is_like: Callable[[int, TrialConfig], bool], ahead: int) -> TrialRecord | None:
        """The next trial of which `is_like` is true, by its number and configuration; None if there is none.

        None, too, if those of other shapes have waited for long: a process that is given no more makes room for them.

        Args:
            ahead: how many trials may be put by, in all, that were asked for in vain.
        """
        if self._put_by and self._passed >= GROUPS_PAST * ahead:
            return None
        for number in self._unfinished:
            record = self._ledger.record(number)
            if is_like(number, record.config):
                self._unfinished.remove(number)
                self._put_by.discard(number)
                self._passed += bool(self._put_by)
                return record
        while self._to_ask and len(self._put_by) < ahead:
            record = self._ask()
            if is_like(record.number, record.config):
                self._passed += bool(self._put_by)
                return record
            self._unfinished.append(record.number)
            self._put_by.add(record.number)
        return None

    def put_back(self, numbers: Iterable[int]) -> None:
        """Has these trials be the next, in this order."""
        self._unfinished.extendleft(reversed(list(numbers)))

    def put_last(self, number: int) -> None:
        """Has this trial be trained after all others."""
        self._last.append(number)

    def _ask(self) -> TrialRecord:
        self._to_ask -= 1
        return self._ledger.ask()
