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
from raysweep.search.exchange import EpochReport, TestReport
from raysweep.search.ledger import Ledger
from raysweep.search.resources import Slots
from raysweep.search.session import TIME_BUDGET, Session, strip_epochs
from raysweep.spec import EvaluationSpec, SweepSpec
from tests.unit.search.conftest import epoch_metrics, final_metrics


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
            return Session(directory, spec, ledger, Slots(1, 0, 2), Path("cache.arrow"), writer, watcher), watcher

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
    assert (order.threads, order.gpu) == (1, False)
    for _ in range(5):
        assert session.next_order() is not None
    assert session.next_order() is None


def test_a_trial_that_reaches_its_last_epoch_is_completed(open_session: OpenSession, ledger: Ledger) -> None:
    session, watcher = open_session(ledger)
    session.next_order()
    assert [session.receive(0, report(epoch, 100.0)) for epoch in (1, 2, 3, 4)] == [False, False, False, True]
    assert watcher.ended == [(0, TrialState.COMPLETED)]
    assert ledger.record(0).cause == "all 4 epochs done"


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


@pytest.mark.parametrize("state", [TrialState.FAILED, TrialState.OUT_OF_MEMORY])
def test_an_exception_ends_the_trial_with_its_traceback(
    open_session: OpenSession, ledger: Ledger, state: TrialState
) -> None:
    session, _ = open_session(ledger)
    session.next_order()
    session.receive(0, report(1, 100.0))
    assert session.receive(0, EpochReport(None, "host", "cpu", 1, state, "ValueError: no", "Traceback ..."))
    record = ledger.record(0)
    assert (record.state, record.cause, record.error) == (state, "ValueError: no", "Traceback ...")
    assert len(record.epochs) == 1


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


def test_a_trial_whose_actor_keeps_dying_has_failed(open_session: OpenSession, ledger: Ledger) -> None:
    session, _ = open_session(ledger)
    session.next_order()
    session.lose(0, TrialState.FAILED, "its worker process died 4 times", "ActorDiedError")
    assert ledger.record(0).state is TrialState.FAILED


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
    session = Session(
        directory, spec, ledger, Slots(1, 0, 2), Path("c.arrow"), open_session(ledger)[0]._writer, Watcher()
    )
    all_ended(session, [1.0, 5.0, 4.0, 3.0, 2.0, 0.0])
    assert len(session.to_test()) == count


def test_strips_are_drawn_after_each_of_the_first_epochs_and_the_last() -> None:
    assert strip_epochs(8) == set(range(1, 9))
    drawn = strip_epochs(1000)
    assert {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1000} <= drawn
    assert len(drawn) < 50
