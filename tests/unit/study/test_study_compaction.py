"""A compacted journal: the same study, the same ledger, the same next suggestion, in a line a trial."""

from __future__ import annotations

import logging
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage

from raysweep.metrics import TrialState
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.study import compaction
from raysweep.study.journal import Journal
from raysweep.study.ledger import Ledger
from tests.unit.conftest import epoch_metrics, final_metrics

Reopen = Callable[[], Ledger]
ENDS = {
    0: TrialState.COMPLETED,
    1: TrialState.PRUNED,
    2: TrialState.DIVERGED,
    3: TrialState.FAILED,
    4: TrialState.OUT_OF_MEMORY,
}


@pytest.fixture
def used(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Six trials: one of each end, one that is under way; one was tested. It is long enough to be compacted."""
    monkeypatch.setattr(compaction, "FROM_LINES", 10)
    for number in range(6):
        ledger.ask()
        for epoch in range(1, 4):
            value = float("nan") if (number, epoch) == (2, 3) else 100.0 * number + epoch
            ledger.add_epoch(number, epoch_metrics(epoch, value), "hôst", "cpu")
    for number, state in ENDS.items():
        ledger.finish(number, state, "as it came", "Traceback" if state is TrialState.FAILED else None)
    ledger.add_tested(0, final_metrics(3.0))
    return ledger


def lines_of(directory: SweepDirectory) -> int:
    return directory.journal.read_bytes().count(b"\n")


def study_in(journal: Path) -> optuna.Study:
    return optuna.load_study(study_name="raysweep", storage=JournalStorage(Journal(journal)))


def test_a_long_journal_is_compacted_when_it_is_opened_to_go_on(
    directory: SweepDirectory, used: Ledger, reopen: Reopen, tmp_path: Path
) -> None:
    study_in(directory.journal)._storage.set_study_system_attr(0, "dashboard:note", "by hand")
    long = shutil.copy(directory.journal, tmp_path / "long.journal")
    before = study_in(long)
    again = reopen()
    assert repr(again.records()) == repr(used.records())
    assert lines_of(directory) == 1 + len(before.user_attrs) + 1 + 6 < lines_of_file(long)
    after = study_in(directory.journal)
    assert after.get_trials() == before.get_trials()
    assert after.user_attrs == before.user_attrs
    assert after._storage.get_study_system_attrs(0) == {"dashboard:note": "by hand"}
    assert after.direction == before.direction


def lines_of_file(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def test_a_compacted_ledger_goes_on_as_the_long_one_would_have(
    directory: SweepDirectory, used: Ledger, spec: SweepSpec, reopen: Reopen, tmp_path: Path
) -> None:
    long = SweepDirectory.at(tmp_path / "long")
    shutil.copytree(directory.root, long.root)
    compacted = reopen()
    with_long_journal = Ledger.open(long, spec, writable=False)
    assert lines_of(directory) < lines_of(long)
    for ledger in (compacted, with_long_journal):
        ledger.add_epoch(5, epoch_metrics(4, 7.0), "host", "cpu")
        ledger.finish(5, TrialState.COMPLETED, "all epochs done")
    assert compacted.ask().params == with_long_journal.ask().params
    assert compacted.values_at(4) == with_long_journal.values_at(4)
    assert reopen().record(5).state is TrialState.COMPLETED


def test_what_was_compacted_or_is_short_stays_as_it_is(
    directory: SweepDirectory, used: Ledger, reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "FROM_LINES", lines_of(directory) + 1)
    before = directory.journal.read_bytes()
    reopen()
    assert directory.journal.read_bytes() == before
    monkeypatch.setattr(compaction, "FROM_LINES", 1)
    reopen()
    compacted = directory.journal.read_bytes()
    assert compacted != before
    reopen()
    assert directory.journal.read_bytes() == compacted


def test_a_reader_compacts_nothing(directory: SweepDirectory, used: Ledger, spec: SweepSpec) -> None:
    before = directory.journal.read_bytes()
    Ledger.open(directory, spec, writable=False)
    assert directory.journal.read_bytes() == before


def test_a_sweep_in_a_bucket_keeps_its_journal_as_it_was_sent(
    directory: SweepDirectory, used: Ledger, spec: SweepSpec
) -> None:
    before = directory.journal.read_bytes()
    Ledger.open(SweepDirectory(directory.root, "s3://bucket/sweep"), spec, writable=True)
    assert directory.journal.read_bytes() == before


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As long as this lasts the system lets no file grow beyond `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_without_room_for_it_leaves_the_journal_as_it_is_and_the_sweep_goes_on(
    directory: SweepDirectory, used: Ledger, reopen: Reopen, caplog: pytest.LogCaptureFixture
) -> None:
    before = directory.journal.read_bytes()
    with caplog.at_level(logging.WARNING, "raysweep"), files_of_at_most(1000):
        again = reopen()
    assert directory.journal.read_bytes() == before
    assert [path for path in directory.root.iterdir() if "journal" in path.name] == [directory.journal]
    assert "the journal could not be compacted: " in caplog.text
    assert repr(again.records()) == repr(used.records())
    again.add_epoch(5, epoch_metrics(4, 7.0), "host", "cpu")
