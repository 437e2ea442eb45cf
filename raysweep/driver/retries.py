"""Which trials are tried again after a fault, from their last checkpoint, and which have ended by it.

A fault counts against a trial only as long as it comes no further: whoever trains one more epoch between two faults
starts with a clean record. So a machine that dies every hour costs nothing but the hour, and a trial that fails at the
same epoch each time ends.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum


class Fault(Enum):
    """What can interrupt a trial, as (how often it ends the trial at one epoch, how its end is told)."""

    EXCEPTION = (2, "raised again when tried anew")
    OUT_OF_MEMORY = (2, "also with a larger share")
    HANG = (2, "twice")
    DEATH = (4, "4 times at the same epoch")
    NODE_LOSS = (None, "")

    def __init__(self, tries: int | None, repeated: str) -> None:
        self.tries = tries
        """None where the trial is never at fault."""
        self.repeated = repeated


class Retries:
    """The faults of all trials since they last came further."""

    def __init__(self) -> None:
        self._faults: dict[int, tuple[int, Counter[Fault]]] = {}
        self._enlarged: set[int] = set()

    def allows(self, number: int, fault: Fault, epochs: int) -> bool:
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
