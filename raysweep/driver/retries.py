"""Which trials are tried again after a fault, from their last checkpoint, and which have ended by it.

A fault counts against a trial only as long as it comes no further: whoever trains one more epoch between two faults
starts with a clean record. So a machine that dies every hour costs nothing but the hour, and a trial that fails at the
same epoch each time ends.
"""

from __future__ import annotations

from collections import Counter

from raysweep.messages import TrialFault


class Retries:
    """The faults of all trials since they last came further."""

    def __init__(self) -> None:
        self._faults: dict[int, tuple[int, Counter[TrialFault]]] = {}
        self._enlarged: set[int] = set()

    def allows(self, number: int, fault: TrialFault, epochs: int) -> bool:
        """Counts a fault of a trial that has trained `epochs` epochs; whether it is to be tried again."""
        at, faults = self._faults.get(number, (epochs, Counter()))
        if epochs > at:
            faults = Counter()
        faults[fault] += 1
        self._faults[number] = (epochs, faults)
        return fault.tries is None or faults[fault] < fault.tries

    def enlarges(self, number: int) -> bool:
        """Whether a trial that ran out of memory may be given a larger share, which it may once."""
        if number in self._enlarged:
            return False
        self._enlarged.add(number)
        return True

    def is_enlarged(self, number: int) -> bool:
        return number in self._enlarged
