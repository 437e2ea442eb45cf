"""A session's finalists: which are tested, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from raysweep.driver.session import TIME_BUDGET, Session
from raysweep.errors import StorageError
from raysweep.messages import Slots, TestReport
from raysweep.metrics import TrialState
from raysweep.spec.sections import EvaluationSpec, SweepSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.study.ledger import Ledger
from tests.unit.conftest import IMAGES, OpenSession, Watcher, final_metrics, report


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
