"""The ledger: what is asked, what is told, and what is read back."""

from __future__ import annotations

import dataclasses
import gc
import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import optuna
import pytest

from raysweep.errors import LedgerError
from raysweep.metrics import TrialState
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.study.ledger import STUDY, Ledger
from tests.unit.conftest import SPACE, epoch_metrics, final_metrics

Reopen = Callable[[], Ledger]


def study_of(directory: SweepDirectory) -> optuna.Study:
    """The study as any other program that knows Optuna reads it."""
    backend = optuna.storages.journal.JournalFileBackend(str(directory.journal))
    return optuna.load_study(study_name=STUDY, storage=optuna.storages.JournalStorage(backend))


def test_enqueued_points_come_first_and_the_sampler_fills_what_they_leave_open(ledger: Ledger, spec: SweepSpec) -> None:
    first, second, third = ledger.ask(), ledger.ask(), ledger.ask()
    assert (first.number, first.params, first.enqueued) == (0, {"kld_weight": 1e-3, "latent_size": 8}, True)
    assert second.params["latent_size"] == 16
    assert second.params["kld_weight"] in spec.trial.searched["kld_weight"]
    assert second.enqueued
    assert not third.enqueued
    assert third.config.epochs == 4


@pytest.mark.parametrize(
    ("state", "told", "value"),
    [
        (TrialState.COMPLETED, optuna.trial.TrialState.COMPLETE, 500.0),
        (TrialState.PRUNED, optuna.trial.TrialState.PRUNED, 500.0),
        (TrialState.FAILED, optuna.trial.TrialState.FAIL, None),
        (TrialState.OUT_OF_MEMORY, optuna.trial.TrialState.FAIL, None),
    ],
)
def test_how_an_end_is_told_to_optuna(
    directory: SweepDirectory, ledger: Ledger, state: TrialState, told: optuna.trial.TrialState, value: float | None
) -> None:
    ledger.ask()
    ledger.add_epoch(0, epoch_metrics(1, 400.0), "host", "cpu")
    ledger.add_epoch(0, epoch_metrics(2, 500.0), "host", "cpu")
    ledger.finish(0, state, "because", "traceback")
    (trial,) = study_of(directory).trials
    assert trial.state is told
    assert trial.value == value
    assert trial.intermediate_values == {1: 400.0, 2: 500.0}


def test_a_diverged_trial_is_told_pruned_with_a_nan_step(directory: SweepDirectory, ledger: Ledger) -> None:
    ledger.ask()
    ledger.add_epoch(0, epoch_metrics(1, math.inf), "host", "cpu")
    record = ledger.finish(0, TrialState.DIVERGED, "elbo_nats was inf")
    (trial,) = study_of(directory).trials
    assert trial.state is optuna.trial.TrialState.PRUNED
    assert math.isnan(trial.intermediate_values[1])
    assert trial.constraints == {"diverged": 1.0}, "ranked after every other trial, however late it diverged"
    assert record.state is TrialState.DIVERGED
    assert record.final is not None
    assert record.final.elbo_nats == math.inf


def test_what_is_written_is_read_back_the_same(ledger: Ledger, reopen: Reopen) -> None:
    for number in range(4):
        ledger.ask()
        ledger.add_epoch(number, epoch_metrics(1, 100.0 + number), "host", "cpu")
    ledger.add_epoch(1, epoch_metrics(2, math.nan), "other", "H200")
    ledger.finish(1, TrialState.DIVERGED, "elbo_nats was nan in epoch 2")
    ledger.finish(2, TrialState.FAILED, "ValueError: no", "Traceback ...")
    again = reopen()
    assert repr(again.records()) == repr(ledger.records())
    assert again.unfinished() == ledger.unfinished() == [0, 3]
    assert again.record(2).error == "Traceback ..."
    assert again.record(1).device == "H200"


def test_final_metrics_come_back_whole_and_the_newer_replace_the_older(ledger: Ledger, reopen: Reopen) -> None:
    number = ledger.ask().number
    ledger.add_epoch(number, epoch_metrics(1, 5.0), "host", "cpu")
    ledger.finish(number, TrialState.COMPLETED, "all done")
    ledger.add_tested(number, final_metrics(3.0))
    assert ledger.add_tested(number, final_metrics(4.0)).tested == final_metrics(4.0)
    ledger.ask()
    assert [record.tested for record in reopen().records()] == [final_metrics(4.0), None]


def test_final_metrics_of_an_older_raysweep_are_read_without_what_it_did_not_measure(
    ledger: Ledger, reopen: Reopen
) -> None:
    number = ledger.ask().number
    row = dataclasses.asdict(final_metrics(3.0)) | {"of_a_later_version": 1.0}
    del row["kid"]
    ledger._study.set_user_attr(f"tested:{number:06d}", row)
    assert reopen().record(number).tested == final_metrics(3.0)


def test_an_epoch_sent_twice_is_taken_once(ledger: Ledger, reopen: Reopen) -> None:
    ledger.ask()
    ledger.add_epoch(0, epoch_metrics(1, 100.0), "host", "cpu")
    ledger.add_epoch(0, epoch_metrics(1, 100.0), "host", "cpu")
    assert [e.metrics.epoch for e in ledger.record(0).epochs] == [1]
    assert [e.metrics.epoch for e in reopen().record(0).epochs] == [1]


def test_a_gap_between_epochs_is_refused(ledger: Ledger) -> None:
    ledger.ask()
    with pytest.raises(LedgerError, match="epoch 2 came after epoch 0"):
        ledger.add_epoch(0, epoch_metrics(2, 100.0), "host", "cpu")


def test_rungs_are_read_from_the_trials(ledger: Ledger, reopen: Reopen) -> None:
    for number, epochs in enumerate((3, 1, 2)):
        ledger.ask()
        for epoch in range(1, epochs + 1):
            ledger.add_epoch(number, epoch_metrics(epoch, 10.0 * number + epoch), "host", "cpu")
    for at in (ledger, reopen()):
        assert at.values_at(1) == {0: 1.0, 1: 11.0, 2: 21.0}
        assert at.values_at(2) == {0: 2.0, 2: 22.0}
        assert at.values_at(3) == {0: 3.0}


def run_to(ledger: Ledger, trials: int) -> list[dict[str, object]]:
    """Runs trials one after another, each scored by its own parameters."""
    while len(ledger.records()) < trials:
        record = ledger.ask()
        weight = record.params["kld_weight"]
        assert isinstance(weight, float)
        score = -abs(math.log10(weight) + 3.5)
        for epoch in range(1, 3):
            ledger.add_epoch(record.number, epoch_metrics(epoch, score * 100 + epoch), "host", "cpu")
        ledger.finish(record.number, TrialState.COMPLETED, "all epochs done")
    return [dict(record.params) for record in ledger.records()]


def test_a_reopened_ledger_suggests_what_the_undisturbed_one_would_have(
    tmp_path_factory: pytest.TempPathFactory, spec: SweepSpec
) -> None:
    whole = Ledger.create(SweepDirectory.at(tmp_path_factory.mktemp("whole")), spec)
    undisturbed = run_to(whole, 16)
    directory = SweepDirectory.at(tmp_path_factory.mktemp("cut"))
    run_to(Ledger.create(directory, spec), 5)
    run_to(Ledger.open(directory, spec, writable=True), 13)
    assert run_to(Ledger.open(directory, spec, writable=True), 16) == undisturbed


def test_another_seed_suggests_other_points(tmp_path_factory: pytest.TempPathFactory, spec: SweepSpec) -> None:
    other = replace_search(spec, seed=1)
    one = run_to(Ledger.create(SweepDirectory.at(tmp_path_factory.mktemp("one")), spec), 6)
    two = run_to(Ledger.create(SweepDirectory.at(tmp_path_factory.mktemp("two")), other), 6)
    assert one[0] == two[0], "the enqueued point"
    assert one[2:] != two[2:]


def replace_search(spec: SweepSpec, **changes: object) -> SweepSpec:
    return spec.model_copy(update={"search": spec.search.model_copy(update=changes)})


def test_tpe_moves_towards_what_scores_well(tmp_path_factory: pytest.TempPathFactory, spec: SweepSpec) -> None:
    def distance(sampler: str) -> float:
        """Mean distance of the later suggestions from the best weight, in decades."""
        changed = replace_search(spec, sampler=sampler, trials=60)
        ledger = Ledger.create(SweepDirectory.at(tmp_path_factory.mktemp(sampler)), changed)
        weights = [float(str(params["kld_weight"])) for params in run_to(ledger, 60)[30:]]
        return sum(abs(math.log10(weight) + 3.5) for weight in weights) / len(weights)

    assert distance("tpe") < 0.6 * distance("random")


def test_a_grid_visits_every_point_once_also_when_reopened(tmp_path_factory: pytest.TempPathFactory) -> None:
    text = SPACE.replace("{low: 1e-5, high: 1e-1, log: true}", "{choices: [1e-3, 1e-2]}").replace(
        "trials: 6", "sampler: grid"
    )
    spec = parse_spec(text.replace("enqueue: [{kld_weight: 1e-3, latent_size: 8}, {latent_size: 16}]", ""))
    directory = SweepDirectory.at(tmp_path_factory.mktemp("grid"))
    run_to(Ledger.create(directory, spec), 4)
    points = run_to(Ledger.open(directory, spec, writable=True), spec.trials)
    assert len(points) == 6
    assert points == list(spec.trial.grid())


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_is_cut_off_and_the_rest_stays(
    directory: SweepDirectory, ledger: Ledger, reopen: Reopen, cut: int
) -> None:
    ledger.ask()
    ledger.add_epoch(0, epoch_metrics(1, 100.0), "host", "cpu")
    whole = directory.journal.read_bytes()
    directory.journal.write_bytes(whole + whole.splitlines()[-1][:cut])
    again = reopen()
    assert repr(again.records()) == repr(ledger.records())
    again.add_epoch(0, epoch_metrics(2, 200.0), "host", "cpu")
    assert len(reopen().record(0).epochs) == 2


def test_a_damaged_line_in_the_middle_is_refused_by_number(
    directory: SweepDirectory, ledger: Ledger, reopen: Reopen
) -> None:
    ledger.ask()
    lines = directory.journal.read_bytes().splitlines(keepends=True)
    directory.journal.write_bytes(b"".join([*lines[:2], b'{"op_code": 4, \n', *lines[2:]]))
    with pytest.raises(LedgerError, match="line 3 is damaged"):
        reopen()


def test_a_lock_that_a_killed_writer_left_costs_no_time(
    directory: SweepDirectory, ledger: Ledger, reopen: Reopen
) -> None:
    lock = directory.root / f"{directory.journal.name}.lock"
    lock.symlink_to(directory.journal)
    again = reopen()
    assert not lock.is_symlink()
    again.ask()


@pytest.mark.parametrize("content", [b"{}\n", b"[1]\n", b'{"op_code": 99, "worker_id": "x"}\n', b"hello\n"])
def test_a_file_that_is_no_journal_is_refused(directory: SweepDirectory, reopen: Reopen, content: bytes) -> None:
    directory.journal.write_bytes(content)
    with pytest.raises(LedgerError, match=r"study\.journal"):
        reopen()


@pytest.mark.parametrize("content", [None, b"", b'{"op_code": 0, "work'])
def test_a_sweep_whose_driver_died_before_the_first_trial_starts_anew(
    directory: SweepDirectory, reopen: Reopen, content: bytes | None
) -> None:
    if content is not None:
        directory.journal.write_bytes(content)
    assert reopen().records() == []
    assert reopen().ask().number == 0


def test_a_journal_that_is_gone_while_trials_are_there_is_not_made_anew(
    directory: SweepDirectory, reopen: Reopen
) -> None:
    directory.trial(0).mkdir(parents=True)
    with pytest.raises(LedgerError, match="bring it back"):
        reopen()


def test_unfinished_trials_of_a_sweep_without_a_driver_are_interrupted(
    directory: SweepDirectory, ledger: Ledger, spec: SweepSpec
) -> None:
    ledger.ask()
    (record,) = Ledger.open(directory, spec, writable=False, running=False).records()
    assert record.state is TrialState.INTERRUPTED
    assert replace(record, state=TrialState.RUNNING) == ledger.record(0)


def test_a_trial_that_has_ended_takes_under_sixteen_hundred_bytes(directory: SweepDirectory, spec: SweepSpec) -> None:
    # TPE has caches, which it fills for some hundred trials
    ledger = Ledger.create(directory, replace_search(spec, sampler="random"))

    def train(trials: int) -> None:
        for _ in range(trials):
            number = ledger.ask().number
            ledger.add_epoch(number, epoch_metrics(1, 500.0 - number), "host", "cpu")
            ledger.finish(number, TrialState.COMPLETED, "all 1 epochs done")
        gc.collect()

    train(20)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        train(100)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / 100 < 1600
