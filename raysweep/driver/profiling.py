"""The profile of a session: what driver, slots and trials spent their time on, written after the report.

A session that is not profiled uses nothing of this module.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from raysweep.clock import PartClock, process_age_s, running
from raysweep.driver.session import Session
from raysweep.driver.slottime import SlotAccount
from raysweep.messages import EpochReport, Share, Slots, TestOrder, TestReport, TrialFault, TrialOrder
from raysweep.profiles import DriverPart, Profile, SlotPart, Spent
from raysweep.report.profile.page import remove_profile, write_profile
from raysweep.report.tensorboard.writer import PROFILE_TAG


class Profiler:
    """Measures one session, from the typed command on.

    Args:
        command: which command began it, `run` or `resume`.
        age_s: how long ago the command was typed.
    """

    def __init__(self, command: str = "run", age_s: float = 0.0) -> None:
        self.command = command
        self.begun = datetime.now(UTC) - timedelta(seconds=age_s)
        self.clock: PartClock[DriverPart] = PartClock(DriverPart.UNACCOUNTED)
        self.clock.add(DriverPart.COMMAND, age_s)
        self.begun_s = time.monotonic() - age_s
        self.profile: Profile | None = None
        """Where the time went; None until the session is over."""

    @classmethod
    def of_this_process(cls, command: str) -> Profiler:
        """Make a profiler that measures from the start of this process."""
        return cls(command, process_age_s() or 0.0)

    def close(self, slots: int, spent: list[Spent]) -> Profile:
        """End the measurement and return the profile; `spent` is the account of the slots up to now."""
        seconds, busy = self.clock.spent(), self.clock.busy()
        work = min(busy.get(DriverPart.LOOP, 0.0), seconds.get(DriverPart.LOOP, 0.0))
        seconds[DriverPart.WAITING] = seconds.get(DriverPart.LOOP, 0.0) - work
        seconds[DriverPart.LOOP] = work
        driver = [Spent(part, seconds[part]) for part in DriverPart if seconds.get(part, 0.0) > 0]
        self.profile = Profile(self.command, self.begun, slots, (*spent, *driver))
        return self.profile


@contextmanager
def profiling(profiler: Profiler | None) -> Iterator[None]:
    """Measure what the driver does as long as the context lasts, if there is a profiler."""
    if profiler is None:
        yield
        return
    with running(profiler.clock):
        yield


class ProfiledSession(Session):
    """A session that keeps an account of its slots and writes the profile after its report."""

    def __init__(self, profiler: Profiler, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._profiler = profiler
        self._account = SlotAccount(profiler.begun_s)
        self._account.resize(self.slots.count)

    def resize(self, slots: Slots) -> None:
        super().resize(slots)
        self._account.resize(slots.count)

    def next_order(self, within: Share | None = None, beside: Collection[int] = ()) -> TrialOrder | None:
        order = super().next_order(within, beside)
        if order is not None:
            self._account.hand_out(order.number, next(iter(beside), None))
            order = replace(order, is_profiled=True)
        self._say_why_slots_are_idle()
        return order

    def started(self, number: int) -> None:
        super().started(number)
        self._account.start(number)

    def receive(self, number: int, report: EpochReport) -> bool:
        spent, epoch = dict(report.spent), report.metrics.epoch if report.metrics else None
        if report.metrics is None and SlotPart.UNACCOUNTED in spent:
            spent[SlotPart.LOST] = spent.pop(SlotPart.UNACCOUNTED)
        self._account.report(number, spent, epoch, report.process_age_s)
        over = super().receive(number, report)
        if over:
            self._account.give_back(number, SlotPart.EXCHANGE)
            self._say_why_slots_are_idle()
        return over

    def lose(self, numbers: Collection[int], fault: TrialFault, cause: str, error: str) -> None:
        for number in numbers:
            self._account.give_back(number, SlotPart.LOST)
        super().lose(numbers, fault, cause, error)
        self._say_why_slots_are_idle()

    def to_test(self) -> list[int]:
        self._account.take_all_back()
        self._account.idle_as(SlotPart.TESTS)
        return super().to_test()

    def test_order(self, number: int) -> TestOrder:
        self._account.hand_out(number)
        return super().test_order(number)

    def receive_tested(self, number: int, report: TestReport) -> None:
        self._account.report(number, report.spent, None, rest=SlotPart.PROCESS)
        super().receive_tested(number, report)
        self._account.give_back(number, SlotPart.EXCHANGE)

    def lose_test(self, number: int, fault: TrialFault, cause: str, error: str) -> bool:
        self._account.give_back(number, SlotPart.LOST)
        return super().lose_test(number, fault, cause, error)

    def close(self) -> None:
        """Write the report, and then where the time went, up to the end of the report."""
        self._account.take_all_back()
        self._account.idle_as(SlotPart.REPORT)
        remove_profile(self.directory)  # otherwise the report would show that of an earlier session
        super().close()
        profile = self._profiler.close(self._account.most_slots, self._account.spent())
        figure, page = write_profile(self.directory, profile)
        self._writer.add_figures([figure])
        self._writer.add_text(PROFILE_TAG, page)
        self._writer.close()

    def _say_why_slots_are_idle(self) -> None:
        is_more_to_come = self.remaining and self.stopped_by is None
        self._account.idle_as(SlotPart.BETWEEN if is_more_to_come else SlotPart.LAST_TRIALS)
