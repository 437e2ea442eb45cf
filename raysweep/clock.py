"""Where a process's time goes: at any moment it is at one part of its work, and a clock adds up the seconds of each.

The driver's clock is found by what it calls, however deep: `timed` counts for the clock that runs in its thread, and
for none if none runs. So a profile needs no argument through every layer, and without one there is nothing to pay.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Generic

from raysweep.profiles import DriverPart, P


class PartClock(Generic[P]):
    """Adds up the seconds of a process, or of one thread of it, by part; parts within parts take theirs off.

    Args:
        base: the part that time belongs to that is given to no other.
    """

    def __init__(self, base: P) -> None:
        self._parts = [base]
        self._spent: dict[P, float] = {}
        self._busy: dict[P, float] = {}
        self._at, self._busy_at = time.monotonic(), time.thread_time()

    @contextmanager
    def at(self, part: P) -> Iterator[None]:
        """Has the time of a block belong to a part."""
        self._settle()
        self._parts.append(part)
        try:
            yield
        finally:
            self._settle()
            self._parts.pop()

    def add(self, part: P, seconds: float) -> None:
        """Adds time that passed before the clock was made."""
        self._spent[part] = self._spent.get(part, 0.0) + seconds

    def move(self, part: P, seconds: float) -> None:
        """Gives a part what was measured otherwise, out of the time of the part that is on now; no more than it has."""
        self._settle()
        there = self._spent[self._parts[-1]]
        moved = min(seconds, there)
        self._spent[self._parts[-1]] = there - moved
        self.add(part, moved)

    def spent(self) -> dict[P, float]:
        """Seconds of each part up to now."""
        self._settle()
        return dict(self._spent)

    def busy(self) -> dict[P, float]:
        """The same in processor time of the thread that asks: what is missing was waited for."""
        self._settle()
        return dict(self._busy)

    def _settle(self) -> None:
        now, busy = time.monotonic(), time.thread_time()
        part = self._parts[-1]
        self.add(part, now - self._at)
        self._busy[part] = self._busy.get(part, 0.0) + busy - self._busy_at
        self._at, self._busy_at = now, busy


_running: ContextVar[PartClock[DriverPart] | None] = ContextVar("driver clock", default=None)


@contextmanager
def running(clock: PartClock[DriverPart]) -> Iterator[None]:
    """As long as this lasts, `timed` counts for this clock: in this thread, and in no other."""
    token = _running.set(clock)
    try:
        yield
    finally:
        _running.reset(token)


@contextmanager
def timed(part: DriverPart) -> Iterator[None]:
    """Has the time of a block, or of a function that it decorates, belong to a part of the driver's time."""
    clock = _running.get()
    if clock is None:
        yield
        return
    with clock.at(part):
        yield


def process_age_s() -> float | None:
    """How long ago this process started, to a hundredth of a second; None where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError, AttributeError):
        return None
