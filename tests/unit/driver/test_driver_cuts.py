"""A driver that dies between any two lines of the journal: what it had begun is done as it would have been."""

from __future__ import annotations

import math
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest

from raysweep.errors import StorageError
from raysweep.metrics import TrialState
from raysweep.search.sampling import STARTUP_TRIALS, make_sampler
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import optuna_distribution
from raysweep.storage.layout import SweepDirectory
from raysweep.study.journal import Journal
from raysweep.study.ledger import STUDY, Ledger
from tests.unit.conftest import epoch_metrics

SPACE = """
name: cuts
data: {dataset: digits}
trial:
  kld_weight: {low: 1e-5, high: 1e-1, log: true}
  learning_rate: {low: 1e-3, high: 1e-2}
  batch_size: {low: 16, high: 64, step: 16}
  latent_size: {choices: [2, 8, 16]}
  d_size: {choices: [8]}
search:
  trials: 30
  sampler: SAMPLER
"""
GRID = SPACE.replace("{low: 1e-5, high: 1e-1, log: true}", "{choices: [1e-4, 1e-3]}").replace(
    "learning_rate: {low: 1e-3, high: 1e-2}", "learning_rate: {choices: [1e-3, 1e-2]}"
)
ENQUEUED = SPACE + "  enqueue: [{kld_weight: 1e-3, latent_size: 8}, {latent_size: 16}, {learning_rate: 2e-3}]\n"
CASES = {
    "tpe while it samples at random": (SPACE.replace("SAMPLER", "tpe"), 3),
    "tpe with enough to go by": (SPACE.replace("SAMPLER", "tpe"), STARTUP_TRIALS + 3),
    "gp with enough to go by": (SPACE.replace("SAMPLER", "gp"), STARTUP_TRIALS + 3),
    "random": (SPACE.replace("SAMPLER", "random"), 2),
    "grid": (GRID.replace("SAMPLER", "grid"), 5),
    "points that are enqueued": (ENQUEUED.replace("SAMPLER", "tpe"), 1),
    "points that are enqueued, at random": (ENQUEUED.replace("SAMPLER", "random"), 2),
}


def run_one(ledger: Ledger, state: TrialState = TrialState.COMPLETED) -> None:
    record = ledger.ask()
    score = -abs(math.log10(float(str(record.params["kld_weight"]))) + 3.5)
    for epoch in range(1, 3):
        ledger.add_epoch(record.number, epoch_metrics(epoch, 100 * score + epoch), "host", "cpu")
    ledger.finish(record.number, state, "because", None)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[SweepSpec, SweepDirectory, Ledger]:
    """A sweep with some trials done, one running, and the next about to be asked for."""
    text, done = CASES[request.param]
    spec = parse_spec(text, "cuts.yaml")
    directory = SweepDirectory.at(tmp_path / "whole")
    directory.root.mkdir()
    ledger = Ledger.create(directory, spec)
    for number in range(done):
        run_one(ledger, TrialState.DIVERGED if number % 4 == 3 else TrialState.COMPLETED)
    return spec, directory, ledger


def all_of(directory: SweepDirectory) -> list[tuple[object, ...]]:
    """Everything that the study has of its trials, but the times of day, as any program that knows Optuna reads it."""
    backend = optuna.storages.journal.JournalFileBackend(str(directory.journal))
    study = optuna.load_study(study_name=STUDY, storage=optuna.storages.JournalStorage(backend))
    return [
        (
            trial.number, trial.state, trial.params, trial.distributions, trial.values, str(trial.intermediate_values),
            trial.constraints, _without_times(trial.user_attrs),
        )
        for trial in study.trials
    ]  # fmt: skip


def _without_times(attributes: dict[str, object]) -> str:
    return str(
        {
            key: {k: v for k, v in value.items() if k != "recorded_at"} if isinstance(value, dict) else value
            for key, value in sorted(attributes.items())
        }
    )


def cuts(directory: SweepDirectory, before: bytes, root: Path) -> Iterator[SweepDirectory]:
    """Copies of a sweep whose journal is cut after each line that came to `before`, and in the middle of each."""
    lines = directory.journal.read_bytes()[len(before) :].splitlines(keepends=True)
    assert lines
    kept = before
    for index, line in enumerate(lines):
        for part in (b"", line[: len(line) // 2], line[:-1]):
            copy = SweepDirectory.at(root / f"{index}-{len(part)}")
            shutil.copytree(directory.root, copy.root)
            copy.journal.write_bytes(kept + part)
            yield copy
        kept += line


def check_all(
    case: tuple[SweepSpec, SweepDirectory, Ledger], tmp_path: Path,
    act: Callable[[Ledger], object], again: Callable[[Ledger], object],
) -> None:  # fmt: skip
    """Does `act`, then `again` after a cut at each line of it: the study and the next suggestion are the same."""
    spec, directory, ledger = case
    before = directory.journal.read_bytes()
    act(ledger)
    whole = SweepDirectory.at(shutil.copytree(directory.root, tmp_path / "next"))
    following = Ledger.open(whole, spec, writable=True)
    following.ask()
    count = 0
    for cut in cuts(directory, before, tmp_path / "cuts"):
        reopened = Ledger.open(cut, spec, writable=True)
        again(reopened)
        assert all_of(cut) == all_of(directory), cut
        expected = [(r.number, r.state, r.params, r.enqueued, r.cause, len(r.epochs)) for r in ledger.records()]
        assert [
            (r.number, r.state, r.params, r.enqueued, r.cause, len(r.epochs)) for r in reopened.records()
        ] == expected
        reopened.ask()
        assert all_of(cut) == all_of(whole), f"another suggestion after {cut}"
        count += 1
    assert count >= 3


def test_an_ask_cut_anywhere_gives_the_point_of_the_undisturbed_one(
    case: tuple[SweepSpec, SweepDirectory, Ledger], tmp_path: Path
) -> None:
    asked = len(case[2].records())

    def again(ledger: Ledger) -> None:
        if len(ledger.records()) == asked:
            ledger.ask()

    check_all(case, tmp_path, Ledger.ask, again)


def test_an_epoch_cut_anywhere_is_whole_once_it_is_sent_again(
    case: tuple[SweepSpec, SweepDirectory, Ledger], tmp_path: Path
) -> None:
    number = case[2].ask().number

    def add(ledger: Ledger) -> None:
        ledger.add_epoch(number, epoch_metrics(1, -77.0), "host", "cpu")

    check_all(case, tmp_path, add, add)


@pytest.mark.parametrize(
    "state", [TrialState.COMPLETED, TrialState.PRUNED, TrialState.DIVERGED, TrialState.FAILED], ids=str
)
def test_an_end_cut_anywhere_is_told_once_and_as_it_would_have_been(
    case: tuple[SweepSpec, SweepDirectory, Ledger], tmp_path: Path, state: TrialState
) -> None:
    number = case[2].ask().number
    case[2].add_epoch(number, epoch_metrics(1, -77.0), "host", "cpu")

    def finish(ledger: Ledger) -> None:
        if number in ledger.unfinished():
            ledger.finish(number, state, "because", "Traceback")

    check_all(case, tmp_path, finish, finish)


def ask_value_by_value(directory: SweepDirectory, spec: SweepSpec, number: int) -> None:
    """A trial in as many lines as earlier versions wrote: the point to run, its start, then each value."""
    backend = optuna.storages.journal.JournalFileBackend(str(directory.journal))
    study = optuna.load_study(study_name=STUDY, storage=optuna.storages.JournalStorage(backend))
    study.sampler = make_sampler(spec, number)
    search = spec.search
    points = [*search.enqueue, *(spec.trial.grid() if search.sampler == "grid" else ())]
    if number < len(points):
        study.enqueue_trial(dict(points[number]), user_attrs={"enqueued": number < len(search.enqueue)})
    study.ask({name: optuna_distribution(name, d) for name, d in spec.trial.searched.items()})


def test_a_point_that_an_earlier_version_wrote_in_part_is_completed_to_what_it_would_have_been(
    case: tuple[SweepSpec, SweepDirectory, Ledger], tmp_path: Path
) -> None:
    spec, directory, ledger = case
    number = len(ledger.records())
    before = directory.journal.read_bytes()
    ask_value_by_value(directory, spec, number)
    asked = Ledger.open(directory, spec, writable=True).record(number)
    lines = directory.journal.read_bytes()[len(before) :].splitlines()
    assert len(lines) >= 1 + len(spec.trial.searched)
    for cut in cuts(directory, before, tmp_path / "cuts"):
        readers = Ledger.open(cut, spec, writable=False).records()
        assert len(readers) == number, "readers wait for the whole point"
        reopened = Ledger.open(cut, spec, writable=True)
        record = reopened.record(number) if number in reopened.unfinished() else reopened.ask()
        assert (record.number, record.params, record.enqueued) == (number, asked.params, asked.enqueued), cut
        assert reopened.ask().number == number + 1
    assert ledger.ask().params == asked.params, "and it is the point that is asked for today"


def test_what_is_written_at_once_is_not_written_at_all_if_it_comes_to_an_error(
    directory: SweepDirectory, ledger: Ledger
) -> None:
    journal, whole = Journal(directory.journal), directory.journal.read_bytes()

    def fail() -> None:
        with journal.at_once():
            journal.append_logs([{"op_code": 3}])
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert directory.journal.read_bytes() == whole
    assert ledger.ask().number == 0


def test_a_write_for_which_there_is_no_room_leaves_no_half_line(
    directory: SweepDirectory, ledger: Ledger, spec: SweepSpec
) -> None:
    """The limit on a file's size stands for a full disk: it too lets the first part of a write through."""
    ledger.ask()
    ledger.add_epoch(0, epoch_metrics(1, -77.0), "host", "cpu")
    whole = directory.journal.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, hard))
        with pytest.raises(StorageError, match="cannot be written"):
            ledger.add_epoch(0, epoch_metrics(2, -70.0), "host", "cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert directory.journal.read_bytes() == whole
    ledger.add_epoch(0, epoch_metrics(2, -70.0), "host", "cpu")
    assert repr(Ledger.open(directory, spec, writable=True).records()) == repr(ledger.records())


def test_a_journal_that_vanishes_is_one_error_and_not_begun_anew(directory: SweepDirectory, ledger: Ledger) -> None:
    ledger.ask()
    directory.journal.unlink()
    with pytest.raises(StorageError, match="was the directory moved, or its disk taken away"):
        ledger.add_epoch(0, epoch_metrics(1, -77.0), "host", "cpu")
    assert not directory.journal.exists()
