"""A profiled session, fed with reports by hand: what it does is what the plain one does, and its time has its parts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from raysweep.driver.profiling import ProfiledSession, Profiler, profiling
from raysweep.driver.session import Session
from raysweep.errors import StorageError
from raysweep.messages import EpochReport, ImageFile, Slots, TestReport, TrialFault
from raysweep.metrics import TrialState
from raysweep.profiles import IDLE, DriverPart, Profile, SlotPart
from raysweep.report.profile.table import read_profile
from raysweep.report.tensorboard.writer import TensorBoardWriter
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.study.ledger import Ledger
from raysweep.terminal.printing import Silence
from tests.unit.conftest import epoch_metrics, final_metrics

SPENT = {SlotPart.FORWARD: 1e-6, SlotPart.UNACCOUNTED: 1e-6}


@pytest.fixture
def profiler() -> Iterator[Profiler]:
    profiler = Profiler(age_s=2.0)
    with profiling(profiler):
        yield profiler


@pytest.fixture
def session(
    profiler: Profiler, directory: SweepDirectory, spec: SweepSpec, ledger: Ledger
) -> Iterator[ProfiledSession]:
    (directory.root / "sweep.yaml").touch()
    with ExitStack() as writers:
        writer = writers.enter_context(TensorBoardWriter(directory, spec))
        images = ImageFile(Path("cache.arrow"), "digits", "", 0)
        yield ProfiledSession(profiler, directory, spec, ledger, Slots(1, 0, 2), images, writer, Silence())


def report(epoch: int, elbo_nats: float = 100.0) -> EpochReport:
    return EpochReport(epoch_metrics(epoch, elbo_nats), "host", "cpu", 1, spent=SPENT)


def train(session: Session) -> int:
    """Lets the session's next trial train to its end; its number."""
    order = session.next_order()
    assert order is not None
    session.started(order.number)
    for epoch in range(1, 5):
        if session.receive(order.number, report(epoch)):
            break
    return order.number


def closed(session: ProfiledSession, profiler: Profiler) -> Profile:
    session.close()
    assert profiler.profile is not None
    return profiler.profile


def test_orders_of_a_profiled_session_alone_ask_for_times(session: ProfiledSession, ledger: Ledger) -> None:
    plain = Session(
        session.directory, session.spec, ledger, Slots(1, 0, 8), session._images, session._writer, Silence()
    )
    asked, unasked = session.next_order(), plain.next_order()
    assert asked is not None
    assert unasked is not None
    assert (asked.is_profiled, unasked.is_profiled) == (True, False)


def test_the_two_sums_are_the_time_that_passed(session: ProfiledSession, profiler: Profiler) -> None:
    while session.remaining:
        train(session)
    for number in session.to_test():
        session.test_order(number)
        session.receive_tested(number, TestReport(final_metrics(1.0), "host", spent={SlotPart.TEST: 1e-6}))
    profile = closed(session, profiler)
    assert profile.slots == 2
    assert profile.wall_s > 2.0
    assert profile.slot_s == pytest.approx(2 * profile.wall_s, rel=1e-3)
    slots, driver = profile.of(SlotPart), profile.of(DriverPart)
    assert slots[SlotPart.START_UP] >= 4.0, "both slots, from the typed command on"
    assert driver[DriverPart.COMMAND] == 2.0
    for part in (*IDLE, SlotPart.PROCESS, SlotPart.FORWARD, SlotPart.EXCHANGE, SlotPart.TEST):
        assert slots[part] > 0, part
    for part in (DriverPart.LEDGER, DriverPart.SAMPLER, DriverPart.TENSORBOARD, DriverPart.REPORT):
        assert driver[part] > 0, part
    assert slots[SlotPart.LOST] == 0
    assert sorted(profile.trials()) == list(range(6))


def test_the_profile_is_in_the_report_and_takes_the_place_of_an_earlier_one(
    session: ProfiledSession, profiler: Profiler, caplog: pytest.LogCaptureFixture
) -> None:
    directory = session.directory
    directory.report.mkdir(exist_ok=True)
    directory.profile_parquet.write_bytes(b"of an earlier session")
    train(session)
    profile = closed(session, profiler)
    assert read_profile(directory.profile_parquet) == profile
    assert directory.profile_markdown.read_text().startswith("# Where the time went")
    assert (directory.figures / "profile.png").exists()
    assert "left out" not in caplog.text, "the earlier one is not shown beside it"


def test_a_step_that_fails_is_lost_but_for_its_parts(session: ProfiledSession, profiler: Profiler) -> None:
    handed_out = time.monotonic()
    order = session.next_order()
    assert order is not None
    session.started(order.number)
    failure = EpochReport(None, "host", "cpu", 1, TrialState.FAILED, "ValueError: no", "Traceback", spent=SPENT)
    session.receive(order.number, failure)
    session.lose([order.number], TrialFault.DEATH, "its process died", "")
    lost = time.monotonic()
    time.sleep(0.02)
    spent = closed(session, profiler).trials()[order.number]
    assert 1e-6 < spent[SlotPart.LOST] <= lost - handed_out, "the slot is free from then on"
    assert spent[SlotPart.UNACCOUNTED] == 0
    assert spent[SlotPart.FORWARD] == pytest.approx(1e-6)


def test_trials_that_are_cut_off_and_tests_that_die_have_lost_their_time(
    session: ProfiledSession, profiler: Profiler
) -> None:
    tested = train(session)
    cut = session.next_order()
    assert cut is not None
    session.stop("Ctrl-C", signal=2)
    assert session.to_test() == [tested]
    session.test_order(tested)
    session.lose_test(tested, TrialFault.DEATH, "its process died", "")
    trials = closed(session, profiler).trials()
    assert trials[cut.number][SlotPart.LOST] > 0
    assert trials[tested][SlotPart.LOST] > 0
    assert trials[tested][SlotPart.TEST] == 0


def test_slots_stand_idle_between_trials_only_while_there_are_more_to_come(
    session: ProfiledSession, profiler: Profiler
) -> None:
    for _ in range(5):
        train(session)
    before = {spent.part for spent in session._account.spent()}
    train(session)
    after = {spent.part for spent in session._account.spent()}
    assert SlotPart.BETWEEN in before
    assert SlotPart.LAST_TRIALS not in before
    assert SlotPart.LAST_TRIALS in after


def test_a_report_that_cannot_be_written_leaves_no_profile(
    session: ProfiledSession, profiler: Profiler, directory: SweepDirectory
) -> None:
    train(session)
    for path in (directory.spec, directory.journal):
        path.unlink()
    with pytest.raises(StorageError, match="no longer there"):
        session.close()
    assert profiler.profile is None
    assert not directory.profile_parquet.exists()
