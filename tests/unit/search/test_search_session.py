"""A session: what each report of a trial leads to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raysweep.errors import StorageError
from raysweep.layout import SweepDirectory
from raysweep.metrics import TrialState
from raysweep.records import TrialRecord
from raysweep.report.tensorboard.writer import TensorBoardWriter
from raysweep.search.exchange import EpochReport, ImageFile, Share, TestReport
from raysweep.search.ledger import Ledger
from raysweep.search.queue import Queue
from raysweep.search.resources import Slots
from raysweep.search.retries import Fault
from raysweep.search.session import TIME_BUDGET, Session, strip_epochs
from raysweep.spec import EvaluationSpec, SweepSpec
from tests.unit.search.conftest import epoch_metrics, final_metrics

IMAGES = ImageFile(Path("cache.arrow"), "digits", "", 0)


class Watcher:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.epochs: list[tuple[int, int]] = []
        self.ended: list[tuple[int, TrialState]] = []
        self.tested: list[int] = []

    def epoch_done(self, session: Session, record: TrialRecord) -> None:
        self.epochs.append((record.number, len(record.epochs)))

    def trial_ended(self, session: Session, record: TrialRecord) -> None:
        self.ended.append((record.number, record.state))

    def trial_tested(self, session: Session, record: TrialRecord) -> None:
        self.tested.append(record.number)

    def tick(self, session: Session) -> None: ...


OpenSession = Callable[[Ledger], tuple[Session, Watcher]]


@pytest.fixture
def open_session(directory: SweepDirectory, spec: SweepSpec) -> Iterator[OpenSession]:
    with ExitStack() as writers:

        def opened(ledger: Ledger) -> tuple[Session, Watcher]:
            watcher = Watcher()
            writer = writers.enter_context(TensorBoardWriter(directory, spec, ledger.records()))
            return Session(directory, spec, ledger, Slots(1, 0, 8), IMAGES, writer, watcher), watcher

        yield opened


def report(epoch: int, elbo_nats: float, train_loss: float = 0.1) -> EpochReport:
    return EpochReport(epoch_metrics(epoch, elbo_nats, train_loss), "host", "cpu", 1)


def test_orders_carry_the_point_and_the_epochs_at_which_pictures_are_drawn(
    open_session: OpenSession, ledger: Ledger
) -> None:
    session, _ = open_session(ledger)
    assert session.remaining == 6
    order = session.next_order()
    assert order is not None
    assert order.config.kld_weight == 1e-3
    assert order.picture_epochs == {1, 2, 4}
    assert (order.threads, order.share) == (1, Share(1, 0))
    for _ in range(5):
        assert session.next_order() is not None
    assert session.next_order() is None
    assert not session.is_over, "one that is out may come back"


def test_a_trial_that_reaches_its_last_epoch_is_completed(open_session: OpenSession, ledger: Ledger) -> None:
    session, watcher = open_session(ledger)
    session.next_order()
    assert [session.receive(0, report(epoch, 100.0)) for epoch in (1, 2, 3, 4)] == [False, False, False, True]
    assert watcher.ended == [(0, TrialState.COMPLETED)]
    assert ledger.record(0).cause == "all 4 epochs done"


def test_no_more_trials_are_out_than_the_machines_hold_and_their_number_follows_the_machines(
    open_session: OpenSession, ledger: Ledger
) -> None:
    session, _ = open_session(ledger)
    session.resize(Slots(1, 0, 2))
    orders = [session.next_order() for _ in range(3)]
    assert [order.number for order in orders if order] == [0, 1]
    session.resize(Slots(1, 0, 1))
    session.lose([0], Fault.NODE_LOSS, "its machine was lost", "")
    assert session.next_order() is None
    assert not session.is_over
    session.resize(Slots(1, 0, 3))
    orders = [session.next_order() for _ in range(3)]
    assert [order.number for order in orders if order] == [0, 2]


def test_a_process_goes_on_with_the_next_trial_of_its_share_unless_one_waits_for_a_machine(
    open_session: OpenSession, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = open_session(ledger)
    session.resize(Slots(1, 0, 3, Share(2, 0)))
    for _ in range(2):
        session.next_order()
    session.started(0)
    monkeypatch.setattr("raysweep.search.session.START_GRACE_S", -1.0)
    assert session.next_order(Share(1, 0)) is None, "trial 1 was handed out first, and makes do with what 0 had"
    session.started(1)
    assert session.next_order(Share(2, 0)) is None, "a share of another size"
    order = session.next_order(Share(1, 0))
    assert order is not None
    assert order.number == 2


def test_a_process_goes_on_while_that_of_another_trial_starts(open_session: OpenSession, ledger: Ledger) -> None:
    session, _ = open_session(ledger)
    session.resize(Slots(1, 0, 2))
    for _ in range(2):
        session.next_order()
    for number in (0, 2, 3):
        train_to_the_end(session, number)
        order = session.next_order(Share(1, 0))
        assert order is not None, "trial 1 has what it needs, and has yet to start"
        assert order.number == {0: 2, 2: 3, 3: 4}[number]


def test_a_trial_that_is_not_among_the_best_of_its_rung_is_pruned(open_session: OpenSession, ledger: Ledger) -> None:
    session, _ = open_session(ledger)
    for _ in range(3):
        session.next_order()
    assert not session.receive(0, report(1, 100.0)), "the first on a rung goes on"
    assert not session.receive(1, report(1, 200.0)), "better than the first"
    assert session.receive(2, report(1, 50.0)), "third of three where half go on"
    record = ledger.record(2)
    assert record.state is TrialState.PRUNED
    assert record.cause == "not among the best 1/2 of the 3 trials that had reached it at epoch 1"


@pytest.mark.parametrize(
    ("elbo_nats", "train_loss", "named"),
    [
        (math.nan, 0.1, "elbo_nats was nan"),
        (math.inf, 0.1, "elbo_nats was inf"),
        (100.0, math.nan, "train_loss was nan"),
    ],
)
def test_a_value_that_is_not_finite_ends_the_trial_as_diverged(
    open_session: OpenSession, ledger: Ledger, elbo_nats: float, train_loss: float, named: str
) -> None:
    session, _ = open_session(ledger)
    session.next_order()
    assert session.receive(0, report(1, elbo_nats, train_loss))
    assert ledger.record(0).state is TrialState.DIVERGED
    assert str(ledger.record(0).cause).startswith(named)


def fail(session: Session, state: TrialState = TrialState.FAILED) -> None:
    """Trial 0 reports an exception, and its process ends."""
    assert not session.receive(0, EpochReport(None, "host", "cpu", 1, state, "ValueError: no", "Traceback ..."))
    session.lose([0], Fault.DEATH, "its process died", "ActorDiedError")


def test_an_exception_is_tried_again_and_ends_the_trial_with_its_traceback_if_it_repeats(
    open_session: OpenSession, ledger: Ledger
) -> None:
    session, _ = open_session(ledger)
    session.next_order()
    session.receive(0, report(1, 100.0))
    fail(session)
    assert ledger.unfinished() == [0]
    order = session.next_order()
    assert order is not None
    assert (order.number, order.epochs_done) == (0, 1)
    session.receive(0, report(1, 100.0))
    fail(session)
    record = ledger.record(0)
    assert (record.state, record.error) == (TrialState.FAILED, "Traceback ...")
    assert record.cause == "ValueError: no, raised again when tried anew"
    assert len(record.epochs) == 1


def test_an_exception_at_a_later_epoch_is_no_repetition(open_session: OpenSession, ledger: Ledger) -> None:
    session, _ = open_session(ledger)
    for epoch in (1, 2, 3):
        assert session.next_order() is not None
        session.receive(0, report(epoch, 100.0))
        fail(session)
    assert ledger.unfinished() == [0]


def test_a_trial_without_memory_is_tried_once_with_a_larger_share_after_the_others(
    open_session: OpenSession, ledger: Ledger
) -> None:
    session, _ = open_session(ledger)
    session.slots = Slots(1, 0, 8, Share(2, 0))
    session.next_order()
    fail(session, TrialState.OUT_OF_MEMORY)
    orders = [session.next_order() for _ in range(6)]
    assert [order.number for order in orders if order] == [1, 2, 3, 4, 5, 0]
    assert orders[-1] is not None
    assert orders[-1].share == Share(2, 0)
    fail(session, TrialState.OUT_OF_MEMORY)
    assert ledger.record(0).state is TrialState.OUT_OF_MEMORY
    assert ledger.record(0).cause == "ValueError: no (with 2 CPU and 0 GPU)"


def test_a_trial_without_memory_ends_where_no_machine_has_more(open_session: OpenSession, ledger: Ledger) -> None:
    session, _ = open_session(ledger)
    session.next_order()
    fail(session, TrialState.OUT_OF_MEMORY)
    assert ledger.record(0).state is TrialState.OUT_OF_MEMORY
    assert ledger.record(0).cause == "ValueError: no (with 1 CPU and 0 GPU; no machine has more for it)"


def test_a_trial_that_cannot_write_stops_the_sweep_and_stays_unfinished(
    open_session: OpenSession, ledger: Ledger
) -> None:
    session, _ = open_session(ledger)
    session.next_order()
    assert session.receive(0, EpochReport(None, "host", "cpu", 1, cause="disk: no space", storage_failed=True))
    assert session.should_stop()
    assert isinstance(session.failure, StorageError)
    assert ledger.unfinished() == [0]


def test_a_report_sent_again_changes_nothing_but_may_end_the_trial(
    open_session: OpenSession, ledger: Ledger, reopen: Callable[[], Ledger]
) -> None:
    session, _ = open_session(ledger)
    session.next_order()
    for epoch in (1, 2, 3):
        session.receive(0, report(epoch, 100.0))
    ledger.add_epoch(0, epoch_metrics(4, 100.0), "host", "cpu")  # the driver dies before it tells the end
    again, watcher = open_session(reopen())
    order = again.next_order()
    assert order is not None
    assert order.number == 0, "unfinished trials come first"
    assert again.receive(0, report(4, 100.0))
    assert watcher.epochs == []
    assert watcher.ended == [(0, TrialState.COMPLETED)]
    assert again.receive(0, report(4, 100.0)), "a trial that has ended stays ended"


@pytest.mark.parametrize(("fault", "tries"), [(Fault.DEATH, 4), (Fault.HANG, 2), (Fault.NODE_LOSS, 100)])
def test_a_trial_has_failed_whose_process_dies_again_and_again_at_one_epoch(
    open_session: OpenSession, ledger: Ledger, fault: Fault, tries: int
) -> None:
    session, _ = open_session(ledger)
    for _ in range(tries):
        assert ledger.unfinished() in ([], [0])
        assert session.next_order() is not None
        session.lose([0], fault, "it died", "ActorDiedError")
    if fault is Fault.NODE_LOSS:
        assert ledger.unfinished() == [0], "a trial is not at fault for its machine"
    else:
        assert (ledger.record(0).state, ledger.record(0).cause) == (TrialState.FAILED, f"it died, {fault.repeated}")


def test_a_hanging_trial_is_told_by_where_its_threads_stood(
    open_session: OpenSession, ledger: Ledger, directory: SweepDirectory
) -> None:
    session, _ = open_session(ledger)
    directory.trial(0).mkdir(parents=True)
    for _ in range(2):
        session.next_order()
        directory.hang(0).write_text("Thread 0x1 (most recent call first)")
        session.lose([0], Fault.DEATH, "its process died", "ActorDiedError")
        assert not directory.hang(0).exists()
    record = ledger.record(0)
    assert record.cause == "no epoch ended within search.epoch_timeout (3600 s), twice"
    assert record.error == "Thread 0x1 (most recent call first)"


def test_a_session_that_stops_waits_for_epochs_that_can_end_in_time(open_session: OpenSession, ledger: Ledger) -> None:
    session, _ = open_session(ledger)
    for _ in range(2):
        session.next_order()
    session.started(0)
    session.receive(0, report(1, 100.0))
    session.stop("Ctrl-C", signal=2)
    assert session.next_order() is None
    assert not session.should_stop()
    assert session.receive(0, report(2, 100.0)), "its epoch is in, and it goes no further"
    assert len(ledger.record(0).epochs) == 2
    assert session.should_stop(), "trial 1 has not trained an epoch, who knows how long one takes"
    assert ledger.unfinished() == [0, 1]


def test_a_process_that_ends_while_the_session_stops_counts_for_nothing(
    open_session: OpenSession, ledger: Ledger
) -> None:
    session, _ = open_session(ledger)
    session.next_order()
    session.stop("Ctrl-C", signal=2)
    for _ in range(9):
        session.lose([0], Fault.DEATH, "its process died", "")
    assert ledger.unfinished() == [0]


def test_closing_writes_tables_in_which_unfinished_trials_are_interrupted(
    open_session: OpenSession, ledger: Ledger, directory: SweepDirectory
) -> None:
    session, _ = open_session(ledger)
    session.next_order()
    session.next_order()
    for epoch in (1, 2, 3, 4):
        session.receive(0, report(epoch, 100.0))
    session.receive(1, report(1, 150.0))
    session.close()
    states = pq.read_table(directory.trials_parquet).column("state").to_pylist()
    assert states == ["completed", "interrupted"]
    assert pq.read_table(directory.epochs_parquet).num_rows == 5


def test_a_spent_time_budget_stops_the_session(open_session: OpenSession, ledger: Ledger, spec: SweepSpec) -> None:
    session, _ = open_session(ledger)
    assert not session.should_stop()
    session.spec = spec.model_copy(update={"search": spec.search.model_copy(update={"time_budget": 1e-9})})
    assert session.should_stop()
    assert session.stopped_by == "the time budget"


def all_ended(session: Session, values: list[float]) -> None:
    """Lets the session's six trials train to their last epoch with these objectives; the last one diverges."""
    for value in values:
        order = session.next_order()
        assert order is not None
        for epoch in range(1, 5):
            if session.receive(order.number, report(epoch, value)):
                break


def test_the_best_trials_that_ended_are_tested_each_once(
    open_session: OpenSession, ledger: Ledger, reopen: Callable[[], Ledger]
) -> None:
    session, watcher = open_session(ledger)
    assert session.to_test() == []
    all_ended(session, [1.0, 5.0, 4.0, 3.0, 2.0, math.nan])
    states = {record.number: record.state for record in session.ledger.records()}
    chosen = session.to_test()
    assert len(chosen) == 5
    assert chosen[0] == 1
    assert 5 not in chosen
    completed = [number for number in chosen if states[number] is TrialState.COMPLETED]
    assert chosen[: len(completed)] == completed
    session.receive_tested(chosen[0], TestReport(final_metrics(1.0), "host"))
    assert watcher.tested == chosen[:1]
    assert session.to_test() == chosen[1:]
    again, _ = open_session(reopen())
    assert again.to_test() == chosen[1:]


def test_a_trial_that_cannot_be_tested_is_named_and_stays_to_be_tested(
    open_session: OpenSession, ledger: Ledger
) -> None:
    session, watcher = open_session(ledger)
    all_ended(session, [1.0, 5.0, 4.0, 3.0, 2.0, 0.0])
    number = session.to_test()[0]
    session.receive_tested(number, TestReport(None, "host", cause="ValueError: no", error="Traceback"))
    assert session.untested == {number: "ValueError: no"}
    assert session.to_test()[0] == number
    assert watcher.tested == []
    assert session.stopped_by is None


def test_a_full_disk_while_testing_stops_the_session(open_session: OpenSession, ledger: Ledger) -> None:
    session, _ = open_session(ledger)
    all_ended(session, [1.0] * 6)
    session.receive_tested(session.to_test()[0], TestReport(None, "host", cause="full", storage_failed=True))
    assert session.should_stop_testing()
    assert isinstance(session.failure, StorageError)


def test_a_spent_time_budget_ends_training_but_not_testing(open_session: OpenSession, ledger: Ledger) -> None:
    session, _ = open_session(ledger)
    session.stop(TIME_BUDGET)
    assert session.should_stop()
    assert not session.should_stop_testing()
    session.stop("Ctrl-C", signal=2)
    assert session.should_stop_testing()


def test_a_full_disk_stops_testing_also_after_the_time_budget(open_session: OpenSession, ledger: Ledger) -> None:
    session, _ = open_session(ledger)
    session.stop(TIME_BUDGET)
    session.stop("an error", StorageError("full"))
    assert session.should_stop_testing()


@pytest.mark.parametrize(("final_metrics", "count"), [("none", 0), ("best 2", 2), ("all", 6)])
def test_how_many_are_tested_is_the_files_to_say(
    directory: SweepDirectory, spec: SweepSpec, open_session: OpenSession, final_metrics: str, count: int
) -> None:
    spec = spec.model_copy(update={"evaluation": EvaluationSpec(final_metrics=final_metrics)})
    ledger = Ledger.create(directory, spec)
    session = Session(directory, spec, ledger, Slots(1, 0, 2), IMAGES, open_session(ledger)[0]._writer, Watcher())
    all_ended(session, [1.0, 5.0, 4.0, 3.0, 2.0, 0.0])
    assert len(session.to_test()) == count


def test_strips_are_drawn_after_each_of_the_first_epochs_and_the_last() -> None:
    assert strip_epochs(8) == set(range(1, 9))
    drawn = strip_epochs(1000)
    assert {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1000} <= drawn
    assert len(drawn) < 50


def next_orders(session: Session, within: Share | None = None, held: tuple[int, ...] = ()) -> list[int]:
    """Fills a slot; the numbers of the trials that it is given beside those that it holds."""
    numbers = list(held)
    while (order := session.next_order(within, numbers)) is not None:
        numbers.append(order.number)
    return numbers[len(held) :]


def train_to_the_end(session: Session, *numbers: int) -> None:
    """Lets trials that are out start and train, one after the other, until each is over."""
    for number in numbers:
        session.started(number)
        assert any(session.receive(number, report(epoch, 1.0)) for epoch in range(1, 5))


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
    session.lose([5], Fault.NODE_LOSS, "its machine was lost", "")
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
        session.lose([0, 2, 4], Fault.NODE_LOSS, "its machine was lost", "")


@pytest.mark.parametrize("fault", [Fault.DEATH, Fault.HANG])
def test_what_befalls_trials_together_is_the_fault_of_none_of_them_and_each_goes_on_by_itself(
    open_session: OpenSession, of_two_shapes: Ledger, directory: SweepDirectory, fault: Fault
) -> None:
    session, _ = open_session(of_two_shapes)
    session.resize(Slots(1, 0, 1, fused=3))
    assert next_orders(session) == [0, 2, 4]
    if fault is Fault.HANG:
        directory.trial(0).mkdir(parents=True)
        directory.hang(0).write_text("Thread 0x1 (most recent call first)")
    session.lose([0, 2, 4], Fault.DEATH, "its process died", "ActorDiedError")
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
    session.lose([0, 2, 4], Fault.DEATH, "its process died", "ActorDiedError")
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
    session.lose([0, 2, 4, 5], Fault.DEATH, "its process died", "ActorDiedError")
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
    session.spec, session._queue = long, Queue(session.ledger, len(points))
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
        session.lose([0, 2, 4], Fault.DEATH, "its process died", "ActorDiedError")
    assert of_two_shapes.record(0).state is TrialState.FAILED
    assert next_orders(session) == [2, 4, 5]
