"""A session whose processes train several trials: what each is given, and what befalls them together."""

from __future__ import annotations

import pytest

from raysweep.driver.queue import Queue
from raysweep.driver.session import Session
from raysweep.messages import EpochReport, Share, Slots, TrialFault
from raysweep.metrics import TrialState
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.study.ledger import Ledger
from tests.unit.conftest import OpenSession, fail, train_to_the_end


def next_orders(session: Session, within: Share | None = None, held: tuple[int, ...] = ()) -> list[int]:
    """Fills a slot; the numbers of the trials that it is given beside those that it holds."""
    numbers = list(held)
    while (order := session.next_order(within, numbers)) is not None:
        numbers.append(order.number)
    return numbers[len(held) :]


@pytest.fixture
def of_two_shapes(directory: SweepDirectory, spec: SweepSpec) -> Ledger:
    """Trials of latent sizes 8, 16, 8, 16, 8 and 8."""
    points = tuple({"kld_weight": 1e-3, "latent_size": size} for size in (8, 16, 8, 16, 8, 8))
    search = spec.search.model_copy(update={"enqueue": points, "early_stopping": None})
    return Ledger.create(directory, spec.model_copy(update={"search": search}))


def test_a_slot_is_given_trials_of_one_shape_and_others_wait_for_the_next_slot(
    open_session: OpenSession, of_two_shapes: Ledger
) -> None:
    session, _ = open_session(of_two_shapes)
    session.resize(Slots(1, 0, 2, fused=3))
    assert next_orders(session) == [0, 2, 4]
    assert session.remaining == 3
    assert of_two_shapes.unfinished() == [0, 1, 2, 3, 4], "two were asked for in vain"
    assert next_orders(session) == [1, 3]
    assert next_orders(session) == [], "there are two slots"
    assert session.remaining == 1


def test_no_more_trials_are_asked_for_in_vain_than_a_slot_holds(
    open_session: OpenSession, of_two_shapes: Ledger
) -> None:
    session, _ = open_session(of_two_shapes)
    session.resize(Slots(1, 0, 1, fused=2))
    assert next_orders(session) == [0, 2]
    train_to_the_end(session, 0)
    assert next_orders(session, Share(1, 0), (2,)) == [], "two are put by, whose turn comes when the slot is empty"
    assert of_two_shapes.unfinished() == [1, 2, 3]
    train_to_the_end(session, 2)
    assert next_orders(session, Share(1, 0)) == [1, 3]


def test_a_slot_that_holds_one_shape_goes_on_with_the_other_when_it_is_empty(
    open_session: OpenSession, of_two_shapes: Ledger
) -> None:
    session, _ = open_session(of_two_shapes)
    session.resize(Slots(1, 0, 1, fused=6))
    assert next_orders(session) == [0, 2, 4, 5]
    train_to_the_end(session, 0, 2, 4, 5)
    assert next_orders(session, Share(1, 0)) == [1, 3]


def test_trials_are_shared_out_among_the_slots_as_long_as_there_are_enough(
    open_session: OpenSession, of_two_shapes: Ledger
) -> None:
    session, _ = open_session(of_two_shapes)
    session.resize(Slots(1, 0, 3, fused=6))
    assert [next_orders(session) for _ in range(3)] == [[0, 2], [1, 3], [4, 5]]


def test_no_more_trials_are_at_once_than_the_file_allows_also_when_machines_come(
    open_session: OpenSession, of_two_shapes: Ledger
) -> None:
    session, _ = open_session(of_two_shapes)
    session.spec = session.spec.model_copy(
        update={"search": session.spec.search.model_copy(update={"max_concurrent": 3})}
    )
    session.resize(Slots(1, 0, 1, fused=3))
    assert next_orders(session) == [0, 2, 4]
    session.resize(Slots(1, 0, 2, fused=1))
    assert next_orders(session) == []


def test_a_slot_of_several_makes_room_for_one_that_waits_for_a_larger_share(
    open_session: OpenSession, of_two_shapes: Ledger
) -> None:
    session, _ = open_session(of_two_shapes)
    session.resize(Slots(1, 0, 3, Share(2, 0), fused=1))
    session.next_order()
    fail(session, TrialState.OUT_OF_MEMORY)
    session.resize(Slots(1, 0, 3, Share(2, 0), fused=2))
    assert [next_orders(session) for _ in range(3)] == [[1, 3], [2, 4], [5]]
    for number in (4, 5):
        session.started(number)
    train_to_the_end(session, 1, 3, 2)
    assert next_orders(session, Share(1, 0)) == []
    assert next_orders(session) == [0], "in the place of 1 and 3, with the larger share"
    session.lose([5], TrialFault.NODE_LOSS, "its machine was lost", "")
    session.resize(Slots(1, 0, 2, Share(2, 0), fused=2))
    assert next_orders(session, Share(1, 0), (4,)) == []
    session.started(0)
    assert next_orders(session, Share(1, 0), (4,)) == [5]


def test_trials_lost_with_their_machine_are_trained_together_again(
    open_session: OpenSession, of_two_shapes: Ledger
) -> None:
    session, _ = open_session(of_two_shapes)
    session.resize(Slots(1, 0, 1, fused=3))
    for _ in range(9):
        assert next_orders(session) == [0, 2, 4]
        session.lose([0, 2, 4], TrialFault.NODE_LOSS, "its machine was lost", "")


@pytest.mark.parametrize("fault", [TrialFault.DEATH, TrialFault.HANG])
def test_what_befalls_trials_together_is_the_fault_of_none_of_them_and_each_goes_on_by_itself(
    open_session: OpenSession, of_two_shapes: Ledger, directory: SweepDirectory, fault: TrialFault
) -> None:
    session, _ = open_session(of_two_shapes)
    session.resize(Slots(1, 0, 1, fused=3))
    assert next_orders(session) == [0, 2, 4]
    if fault is TrialFault.HANG:
        directory.trial(0).mkdir(parents=True)
        directory.hang(0).write_text("Thread 0x1 (most recent call first)")
    session.lose([0, 2, 4], TrialFault.DEATH, "its process died", "ActorDiedError")
    assert not directory.hang(0).exists()
    assert next_orders(session) == [0]
    assert fault.tries is not None
    for _ in range(fault.tries - 1):
        session.lose([0], fault, "it died", "ActorDiedError")
        assert next_orders(session) == [0]
    session.lose([0], fault, "it died", "ActorDiedError")
    assert of_two_shapes.record(0).cause == f"it died, {fault.repeated}"
    assert next_orders(session) == [2]


def test_memory_that_lacks_trials_together_costs_none_of_them_a_try(
    open_session: OpenSession, of_two_shapes: Ledger
) -> None:
    session, _ = open_session(of_two_shapes)
    session.resize(Slots(1, 0, 1, Share(2, 0), fused=3))
    assert next_orders(session) == [0, 2, 4]
    failure = EpochReport(None, "host", "cpu", 1, TrialState.OUT_OF_MEMORY, "MemoryError: no", "Traceback ...")
    for number in (0, 2, 4):
        assert not session.receive(number, failure)
    session.lose([0, 2, 4], TrialFault.DEATH, "its process died", "ActorDiedError")
    order = session.next_order()
    assert order is not None
    assert (order.number, order.share) == (0, Share(1, 0))
    assert session.next_order(beside=[0]) is None
    fail(session, TrialState.OUT_OF_MEMORY)
    assert ("out_of_memory", 0) not in [(record.state.value, record.number) for record in of_two_shapes.records()]


def test_where_memory_was_short_half_as_many_trials_are_trained_together(
    open_session: OpenSession, of_two_shapes: Ledger
) -> None:
    session, _ = open_session(of_two_shapes)
    session.resize(Slots(1, 0, 1, fused=6))
    assert next_orders(session) == [0, 2, 4, 5]
    failure = EpochReport(None, "host", "cpu", 1, TrialState.OUT_OF_MEMORY, "MemoryError: no", "Traceback ...")
    for number in (0, 2, 4, 5):
        assert not session.receive(number, failure)
    session.lose([0, 2, 4, 5], TrialFault.DEATH, "its process died", "ActorDiedError")
    assert next_orders(session) == [0, 2]
    train_to_the_end(session, 0, 2)
    assert next_orders(session, Share(1, 0)) == [4, 5]


def test_trials_of_another_shape_do_not_wait_for_as_long_as_the_sampler_suggests_the_first(
    open_session: OpenSession, directory: SweepDirectory, spec: SweepSpec
) -> None:
    points = tuple({"kld_weight": 1e-3, "latent_size": size} for size in (8, 16, *[8] * 30))
    search = spec.search.model_copy(update={"enqueue": points, "early_stopping": None, "trials": len(points)})
    long = spec.model_copy(update={"search": search})
    session, _ = open_session(Ledger.create(directory, long))
    session.spec, session._queue = long, Queue(session.ledger, long)
    session.resize(Slots(1, 0, 1, fused=2))
    held = next_orders(session)
    assert held == [0, 2]
    for _ in range(32):
        train_to_the_end(session, held.pop(0))
        held += next_orders(session, Share(1, 0), tuple(held))
        if held[0] == 1:
            break
    assert held == [1]
    assert 8 <= session.ledger.records()[-1].number <= 12, "after four groups of two"


def test_a_trial_that_fails_is_judged_and_those_beside_it_go_on_together(
    open_session: OpenSession, of_two_shapes: Ledger
) -> None:
    session, _ = open_session(of_two_shapes)
    session.resize(Slots(1, 0, 1, fused=3))
    for _ in range(2):
        assert sorted(next_orders(session)) == [0, 2, 4]
        assert not session.receive(0, EpochReport(None, "host", "cpu", 1, TrialState.FAILED, "ValueError: no", "..."))
        session.lose([0, 2, 4], TrialFault.DEATH, "its process died", "ActorDiedError")
    assert of_two_shapes.record(0).state is TrialState.FAILED
    assert next_orders(session) == [2, 4, 5]
