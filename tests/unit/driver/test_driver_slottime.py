"""The account of slot-seconds: whatever happens, its parts add up to all that passed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.driver.slottime import SlotAccount
from raysweep.profiles import IDLE, SlotPart, Spent


class Clock:
    """One that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def by_part(spent: list[Spent]) -> dict[SlotPart, float]:
    found: dict[SlotPart, float] = {}
    for one in spent:
        assert isinstance(one.part, SlotPart)
        found[one.part] = found.get(one.part, 0.0) + one.seconds
    return found


NUMBERS = st.integers(0, 4)
SECONDS = st.floats(0, 100)
PARTS = st.dictionaries(st.sampled_from([SlotPart.DATA, SlotPart.FORWARD, SlotPart.MODEL]), SECONDS)
EVENTS = st.one_of(
    st.tuples(st.just("resize"), st.integers(0, 6)),
    st.tuples(st.just("idle_as"), st.sampled_from(IDLE)),
    st.tuples(st.just("hand_out"), NUMBERS, st.none() | NUMBERS),
    st.tuples(st.just("start"), NUMBERS),
    st.tuples(st.just("report"), NUMBERS, PARTS, st.none() | st.integers(1, 9), st.none() | SECONDS),
    st.tuples(st.just("give_back"), NUMBERS, st.sampled_from([SlotPart.EXCHANGE, SlotPart.LOST])),
)


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(0, 4), st.lists(st.tuples(SECONDS, EVENTS), max_size=30), SECONDS)
def test_the_parts_add_up_to_every_slot_second_whatever_happens(slots: int, events, last: float) -> None:  # type: ignore[no-untyped-def]
    """Reports in any order, of trials that hold a slot or none, that say they took longer than has passed."""
    clock = Clock()
    account = SlotAccount(0.0, clock)
    account.resize(slots)
    whole, held = 0.0, dict[int, int]()
    for event, (seconds, (name, *arguments)) in enumerate(events):
        clock.now += seconds
        whole += seconds * max(slots, len(set(held.values())))
        getattr(account, name)(*arguments)
        if name == "resize":
            slots = arguments[0]
        elif name == "hand_out":
            number, beside = arguments
            held.pop(number, None)
            held[number] = held.get(beside, event)
        elif name == "give_back":
            held.pop(arguments[0], None)
    clock.now += last
    whole += last * max(slots, len(set(held.values())))
    spent = account.spent()
    assert sum(one.seconds for one in spent) == pytest.approx(whole, abs=1e-6)
    assert all(one.seconds > 0 for one in spent)
    assert all((one.trial is None) is (one.part in IDLE) for one in spent)


def test_the_time_before_the_slots_are_known_is_that_of_all_of_them() -> None:
    clock = Clock()
    account = SlotAccount(0.0, clock)
    clock.now = 8.0
    account.resize(3)
    account.hand_out(0)
    account.idle_as(SlotPart.BETWEEN)
    clock.now = 9.0
    assert by_part(account.spent()) == {SlotPart.START_UP: 24.0, SlotPart.BETWEEN: 2.0, SlotPart.LOST: 1.0}


def test_a_trial_s_slot_is_divided_as_it_reports_and_the_rest_is_ray_s() -> None:
    clock = Clock()
    account = SlotAccount(0.0, clock)
    account.resize(1)
    account.hand_out(7)
    clock.now = 5.0
    account.start(7)
    clock.now = 9.0
    account.report(7, {SlotPart.MODEL: 0.5, SlotPart.FORWARD: 2.0, SlotPart.UNACCOUNTED: 0.25}, 1, 3.0)
    clock.now = 11.0
    account.report(7, {SlotPart.FORWARD: 1.5}, 2)
    clock.now = 11.5
    account.give_back(7, SlotPart.EXCHANGE)
    assert account.spent() == [
        Spent(SlotPart.MACHINE, 2.0, 7),  # its process was 3 s old when it was given the trial
        Spent(SlotPart.PROCESS, 3.0, 7),
        Spent(SlotPart.MODEL, 0.5, 7),
        Spent(SlotPart.FORWARD, 2.0, 7, 1),
        Spent(SlotPart.EXCHANGE, 1.25, 7, 1),
        Spent(SlotPart.UNACCOUNTED, 0.25, 7, 1),
        Spent(SlotPart.FORWARD, 1.5, 7, 2),
        Spent(SlotPart.EXCHANGE, 1.0, 7, 2),
    ]


def test_a_process_that_was_there_before_the_trial_was_not_waited_for() -> None:
    for age_s in (None, 60.0):
        clock = Clock()
        account = SlotAccount(0.0, clock)
        account.resize(1)
        account.hand_out(0)
        clock.now = 2.0
        account.start(0)
        account.report(0, {}, 1, age_s)
        assert by_part(account.spent()) == {SlotPart.PROCESS: 2.0}


def test_a_trial_whose_process_dies_has_lost_what_it_did_since_its_last_report() -> None:
    clock = Clock()
    account = SlotAccount(0.0, clock)
    account.resize(1)
    account.hand_out(0)
    account.start(0)
    clock.now = 1.0
    account.report(0, {SlotPart.FORWARD: 1.0}, 1)
    clock.now = 4.0
    account.give_back(0, SlotPart.LOST)
    account.hand_out(0)
    clock.now = 5.0
    account.start(0)
    clock.now = 7.0
    account.report(0, {SlotPart.FORWARD: 2.0}, 2)
    spent = by_part(account.spent())
    assert spent == {SlotPart.FORWARD: 3.0, SlotPart.LOST: 3.0, SlotPart.PROCESS: 1.0}


def test_a_clock_that_goes_faster_elsewhere_takes_no_more_than_has_passed_here() -> None:
    clock = Clock()
    account = SlotAccount(0.0, clock)
    account.resize(1)
    account.hand_out(0)
    clock.now = 3.0
    account.report(0, {SlotPart.FORWARD: 3.0, SlotPart.BACKWARD: 1.0}, 1)
    assert by_part(account.spent()) == pytest.approx({SlotPart.FORWARD: 2.25, SlotPart.BACKWARD: 0.75})


def test_machines_that_go_leave_no_slot_below_those_that_are_held() -> None:
    clock = Clock()
    account = SlotAccount(0.0, clock)
    account.resize(4)
    account.hand_out(0)
    account.hand_out(1)
    account.idle_as(SlotPart.LAST_TRIALS)
    account.resize(1)
    clock.now = 10.0
    account.give_back(0, SlotPart.EXCHANGE)
    account.give_back(1, SlotPart.EXCHANGE)
    clock.now = 12.0
    spent = by_part(account.spent())
    assert spent == {SlotPart.EXCHANGE: 20.0, SlotPart.LAST_TRIALS: 2.0}
    assert account.most_slots == 4


def test_trials_that_are_trained_together_have_an_equal_part_each_of_their_slot_s_seconds() -> None:
    clock = Clock()
    account = SlotAccount(0.0, clock)
    account.resize(2)
    account.hand_out(0)
    account.hand_out(1, beside=0)
    account.idle_as(SlotPart.LAST_TRIALS)
    clock.now = 4.0
    for number in (0, 1):
        account.start(number)
    clock.now = 10.0
    for number in (0, 1):
        account.report(number, {SlotPart.FORWARD: 3.0}, 1, process_age_s=1.5)
    account.give_back(0, SlotPart.EXCHANGE)
    account.hand_out(2, beside=1)
    clock.now = 12.0
    account.give_back(2, SlotPart.LOST)
    clock.now = 15.0
    account.report(1, {SlotPart.FORWARD: 4.0}, 2)
    assert account.spent() == [
        Spent(SlotPart.LAST_TRIALS, 15.0),
        Spent(SlotPart.MACHINE, 0.5, 0),
        Spent(SlotPart.PROCESS, 1.5, 0),
        Spent(SlotPart.FORWARD, 3.0, 0, 1),
        Spent(SlotPart.MACHINE, 0.5, 1),
        Spent(SlotPart.PROCESS, 1.5, 1),
        Spent(SlotPart.FORWARD, 3.0, 1, 1),
        Spent(SlotPart.FORWARD, 4.0, 1, 2),  # 1 s of the two that it shared, and all of the three after them
        Spent(SlotPart.LOST, 1.0, 2),
    ]
