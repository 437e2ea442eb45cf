"""Which trials are tried again after a fault, from their last checkpoint, and which end.

A trial's faults count only as long as it makes no progress: after one more epoch the count starts again. So a machine
that dies every hour costs only that hour, and a trial that fails at the same epoch each time ends.
"""

from __future__ import annotations

from collections import Counter

from raysweep.messages import TrialFault


class Retries:
    """The faults of all trials since they last made progress."""

    def __init__(self) -> None:
        self._faults: dict[int, tuple[int, Counter[TrialFault]]] = {}
        self._enlarged: set[int] = set()

    def allows(self, number: int, fault: TrialFault, epochs: int) -> bool:
        """Count a fault of a trial that has trained `epochs` epochs; return whether to try it again."""
        at, faults = self._faults.get(number, (epochs, Counter()))
        if epochs > at:
            faults = Counter()
        faults[fault] += 1
        self._faults[number] = (epochs, faults)
        return fault.tries is None or faults[fault] < fault.tries

    def enlarges(self, number: int) -> bool:
        """Grant a larger share, once, to a trial that ran out of memory; return whether it is granted."""
        if number in self._enlarged:
            return False
        self._enlarged.add(number)
        return True

    def is_enlarged(self, number: int) -> bool:
        return number in self._enlarged
