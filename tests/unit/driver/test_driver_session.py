"""A session: what each report of a trial leads to."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.driver.session import Session, strip_epochs
from raysweep.errors import StorageError
from raysweep.messages import EpochReport, Share, Slots, TrialFault
from raysweep.metrics import TrialState
from raysweep.report.tensorboard.writer import TensorBoardWriter
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.study.ledger import Ledger
from raysweep.vae.preflight import Preflight
from tests.unit.conftest import (
    IMAGES,
    SPACE,
    OpenSession,
    Watcher,
    epoch_metrics,
    fail,
    play_at_random,
    report,
    train_to_the_end,
)
from tests.unit.search.test_search_decisions import NoWriter


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
    session.lose([0], TrialFault.NODE_LOSS, "its machine was lost", "")
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
    monkeypatch.setattr("raysweep.driver.session.START_GRACE_S", -1.0)
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


def test_where_trials_are_judged_once_the_first_on_a_rung_trains_to_its_end(
    open_session: OpenSession, ledger: Ledger
) -> None:
    session, _ = open_session(ledger)
    for number in range(2):
        session.next_order()
        assert not session.receive(number, report(1, 90.0 + number))
    assert not session.receive(0, report(2, 95.0))
    assert not session.receive(1, report(2, 96.0))
    assert not session.receive(0, report(3, 1.0))


@given(seed=st.integers(0, 2**32 - 1), at_once=st.integers(1, 6))
def test_whatever_is_reported_one_trial_at_least_is_trained_to_its_end(seed: int, at_once: int) -> None:
    spec = parse_spec(SPACE.replace("trials: 6", "trials: 9\n  sampler: random\n  confirm: none"), "table.yaml")
    with TemporaryDirectory() as root:
        directory = SweepDirectory.at(Path(root))
        ledger = Ledger.create(directory, spec)
        session = Session(directory, spec, ledger, Slots(1, 0, at_once), IMAGES, NoWriter(), Watcher())  # type: ignore[arg-type]
        for _ in play_at_random(session, random.Random(seed)):
            pass
        states = [record.state for record in ledger.records()]
    assert TrialState.COMPLETED in states
    assert set(states) <= {TrialState.COMPLETED, TrialState.PRUNED}


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


@pytest.mark.parametrize(("fault", "tries"), [(TrialFault.DEATH, 4), (TrialFault.HANG, 2), (TrialFault.NODE_LOSS, 100)])
def test_a_trial_has_failed_whose_process_dies_again_and_again_at_one_epoch(
    open_session: OpenSession, ledger: Ledger, fault: TrialFault, tries: int
) -> None:
    session, _ = open_session(ledger)
    for _ in range(tries):
        assert ledger.unfinished() in ([], [0])
        assert session.next_order() is not None
        session.lose([0], fault, "it died", "ActorDiedError")
    if fault is TrialFault.NODE_LOSS:
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
        session.lose([0], TrialFault.DEATH, "its process died", "ActorDiedError")
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
        session.lose([0], TrialFault.DEATH, "its process died", "")
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


def test_a_trial_below_predicted_collapse_that_stays_at_the_mean_image_is_stuck_in_the_tables(
    ledger: Ledger, directory: SweepDirectory, spec: SweepSpec
) -> None:
    predicted = Preflight((0.01, 0.01), 1e-5, 1e-1, (1, 1), (0, 0), (0.2, 0.2))
    with TensorBoardWriter(directory, spec) as writer:
        session = Session(directory, spec, ledger, Slots(1, 0, 8), IMAGES, writer, Watcher(), predicted)
        session.next_order()
        for epoch in (1, 2, 3, 4):
            flat = replace(epoch_metrics(epoch, 10.0), r2=-0.01, rate_nats=0.001, collapsed=True)
            session.receive(0, EpochReport(flat, "host", "cpu", 1))
        assert pq.read_table(directory.trials_parquet)["stuck"].to_pylist() == [True], "while the sweep runs, too"
        session.close()
    assert pq.read_table(directory.trials_parquet)["stuck"].to_pylist() == [True]


def test_a_spent_time_budget_stops_the_session(open_session: OpenSession, ledger: Ledger, spec: SweepSpec) -> None:
    session, _ = open_session(ledger)
    assert not session.should_stop()
    session.spec = spec.model_copy(update={"search": spec.search.model_copy(update={"time_budget": 1e-9})})
    assert session.should_stop()
    assert session.stopped_by == "the time budget"


def test_strips_are_drawn_after_each_of_the_first_epochs_and_the_last() -> None:
    assert strip_epochs(8) == set(range(1, 9))
    drawn = strip_epochs(1000)
    assert {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1000} <= drawn
    assert len(drawn) < 50
