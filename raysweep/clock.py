"""Clocks that add up the seconds a process spends in each part of its work.

At any moment a process is in one part. `timed` finds the driver's clock at any call depth: it counts for the clock
that runs in its thread, and for none if none runs. So a profile needs no argument through every layer, and without a
profile there is no cost.
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
    """Adds up the seconds of a process, or of one of its threads, by part. Time in a nested part counts only there.

    Args:
        base: the part for time that belongs to no other part.
    """

    def __init__(self, base: P) -> None:
        self._parts = [base]
        self._spent: dict[P, float] = {}
        self._busy: dict[P, float] = {}
        self._at, self._busy_at = time.monotonic(), time.thread_time()

    @contextmanager
    def at(self, part: P) -> Iterator[None]:
        """Count the time of a block for a part."""
        self._settle()
        self._parts.append(part)
        try:
            yield
        finally:
            self._settle()
            self._parts.pop()

    def add(self, part: P, seconds: float) -> None:
        """Add time that passed before the clock was made."""
        self._spent[part] = self._spent.get(part, 0.0) + seconds

    def move(self, part: P, seconds: float) -> None:
        """Move `seconds`, measured in another way, from the current part to `part`; at most all it has."""
        self._settle()
        there = self._spent[self._parts[-1]]
        moved = min(seconds, there)
        self._spent[self._parts[-1]] = there - moved
        self.add(part, moved)

    def spent(self) -> dict[P, float]:
        """Return the seconds of each part up to now."""
        self._settle()
        return dict(self._spent)

    def busy(self) -> dict[P, float]:
        """Return the same in processor time of the calling thread; the difference was spent waiting."""
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
    """Make `timed` count for this clock during a block, in this thread only."""
    token = _running.set(clock)
    try:
        yield
    finally:
        _running.reset(token)


@contextmanager
def timed(part: DriverPart) -> Iterator[None]:
    """Count the time of a block, or of a decorated function, for a part of the driver's time."""
    clock = _running.get()
    if clock is None:
        yield
        return
    with clock.at(part):
        yield


def process_age_s() -> float | None:
    """Return the seconds since this process started, to 0.01 s; None if the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError, AttributeError):
        return None
