"""An account of the slot-seconds of a session, in which each belongs to one part.

Times are by the driver's clock alone. A trial's own report says how long its parts took, so the clocks of two machines
need not agree. The rest of the time that the driver waited was spent by Ray, on the way there and back, and by the
driver.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from raysweep.profiles import EPOCH, SlotPart, Spent


class _Slot:
    """A slot and the trials that hold it; its seconds are divided equally among them."""

    def __init__(self, now: float) -> None:
        self._at = now
        self._each = 0.0
        self._holders = 0

    def each(self, now: float) -> float:
        """Return the seconds, up to now, of one holder that has been there from the start."""
        if self._holders:
            self._each += (now - self._at) / self._holders
        self._at = now
        return self._each

    def change(self, now: float, by: int) -> bool:
        """Change the number of holders from now on; return whether there are any."""
        self.each(now)
        self._holders += by
        return self._holders > 0


@dataclass
class _SlotUse:
    """A trial, or the test of one, that has a slot or a part of one. Its times are those of `_Slot.each`."""

    slot: _Slot
    settled: float
    """Its time up to here is in the account."""
    started: float | None = None
    """When its process was ready; None before, and once the time until then is in the account."""
    epoch: int | None = None
    """The last epoch that it reported."""


class SlotAccount:
    """Adds up slot-seconds by part, trial and epoch.

    If machines went away, trials may hold more slots than there are; then the slots that are held count.

    Args:
        begun: when the first slot-second began. The number of slots that the first `resize` sets counts from then on.
        now: the clock, in seconds.
    """

    def __init__(self, begun: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._at = begun
        self._slots: int | None = None
        self._idle = SlotPart.START_UP
        self._uses: dict[int, _SlotUse] = {}
        self._taken = 0
        """Slots that are held."""
        self._spent: defaultdict[tuple[SlotPart, int | None, int | None], float] = defaultdict(float)
        self.most_slots = 0

    def resize(self, slots: int) -> None:
        """Set the number of slots from now on."""
        if self._slots is not None:
            self._advance()
        self._slots = slots
        self.most_slots = max(self.most_slots, slots)

    def idle_as(self, part: SlotPart) -> None:
        """Set the part to which the time of idle slots belongs from now on."""
        self._advance()
        self._idle = part

    def hand_out(self, number: int, beside: int | None = None) -> None:
        """Give a slot to a trial, or to its test. If trial `beside` holds a slot, give a part of that one."""
        self.give_back(number, SlotPart.LOST)
        now = self._advance()
        neighbour = None if beside is None else self._uses.get(beside)
        slot = neighbour.slot if neighbour else _Slot(now)
        slot.change(now, +1)
        self._taken += neighbour is None
        self._uses[number] = _SlotUse(slot, slot.each(now))

    def start(self, number: int) -> None:
        """Note that the process of a trial is ready."""
        use = self._uses.get(number)
        if use is not None:
            use.started = use.slot.each(self._now())

    def report(
        self, number: int, spent: Mapping[SlotPart, float], epoch: int | None, process_age_s: float | None = None,
        rest: SlotPart = SlotPart.EXCHANGE,
    ) -> None:  # fmt: skip
        """Add a trial's time since its last report to the account.

        Args:
            spent: seconds of each part, by the clock of its machine; if it shares the slot, its share of them. They are
                scaled down if they exceed the time that passed here.
            epoch: the epoch of the report; None if there is none.
            process_age_s: if the trial is its process's first, how old the process was when it got it; its share.
            rest: the part for the time that is in no part of `spent`.
        """
        use = self._uses.get(number)
        if use is None:
            return
        if use.started is not None:
            waited = use.started - use.settled
            process = waited if process_age_s is None else min(waited, process_age_s)
            self._add(SlotPart.PROCESS, process, number)
            self._add(SlotPart.MACHINE, waited - process, number)
            use.settled, use.started = use.started, None
        now = use.slot.each(self._now())
        passed, said = now - use.settled, sum(spent.values())
        scale = passed / said if said > passed else 1.0
        for part, seconds in spent.items():
            self._add(part, seconds * scale, number, epoch)
        self._add(rest, passed - said * scale, number, epoch)
        use.settled, use.epoch = now, epoch

    def give_back(self, number: int, rest: SlotPart) -> None:
        """Take the slot of a trial back; the time that it has not reported belongs to `rest`."""
        use = self._uses.get(number)
        if use is not None:
            now = self._advance()
            del self._uses[number]
            self._add(rest, use.slot.each(now) - use.settled, number, use.epoch)
            self._taken -= not use.slot.change(now, -1)

    def take_all_back(self) -> None:
        """Take all slots back; the unreported time of trials that still hold one is lost."""
        for number in list(self._uses):
            self.give_back(number, SlotPart.LOST)

    def spent(self) -> list[Spent]:
        """Take all slots back and return the account up to now, in order of trials, then of epochs."""
        self.take_all_back()
        self._advance()
        order = list(SlotPart)
        keys = sorted(self._spent, key=lambda key: (-1 if key[1] is None else key[1], key[2] or 0, order.index(key[0])))
        return [Spent(part, self._spent[part, trial, epoch], trial, epoch) for part, trial, epoch in keys]

    def _advance(self) -> float:
        """Bring the account of idle slots up to now; return the current time."""
        now = self._now()
        idle = max(0, (self._slots or 0) - self._taken)
        self._add(self._idle, idle * (now - self._at), None)
        self._at = now
        return now

    def _add(self, part: SlotPart, seconds: float, number: int | None, epoch: int | None = None) -> None:
        if seconds > 0:
            self._spent[part, number, epoch if part in EPOCH else None] += seconds
