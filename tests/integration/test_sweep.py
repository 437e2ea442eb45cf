"""Sweeps of real images on real Ray, through the Python API."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
import ray
from click.testing import CliRunner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import raysweep
from raysweep.cli import main
from raysweep.driver.session import Session
from raysweep.metrics import TrialState
from raysweep.records import TrialRecord
from raysweep.review.sweep import Sweep
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory

pytestmark = [
    pytest.mark.usefixtures("ray_here"),
    # Ray leaves sockets and subprocess handles to the garbage collector
    pytest.mark.filterwarnings("default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning"),
]
Tiny = Callable[..., SweepSpec]


@pytest.fixture(scope="module")
def finished(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """One small sweep that several tests look at."""
    from tests.integration.conftest import TINY

    text = TINY.replace("final_metrics: none", "final_metrics: best 2, images: 60, importance_samples: 3")
    return raysweep.run(parse_spec(text, "tiny.yaml"), tmp_path_factory.mktemp("results") / "tiny sweep, é")


def test_every_trial_ends_and_every_record_of_it_agrees(finished: Sweep) -> None:
    assert len(finished.records) == 5
    assert {record.state for record in finished.records} <= {TrialState.COMPLETED, TrialState.PRUNED}
    for record in finished.records:
        assert [epoch.metrics.epoch for epoch in record.epochs] == list(range(1, len(record.epochs) + 1))
        assert (len(record.epochs) == 4) is (record.state is TrialState.COMPLETED)
    directory = finished.directory
    assert pq.read_table(directory.trials_parquet).equals(finished.trials())
    assert pq.read_table(directory.epochs_parquet).equals(finished.epochs())
    assert raysweep.open_sweep(directory.root).trials().equals(finished.trials())
    assert not finished.running


class ReferenceCount:
    """Watches how many objects Ray keeps for this process after each epoch."""

    def __init__(self) -> None:
        self.after: list[int] = []

    def epoch_done(self, session: Session, record: TrialRecord) -> None:
        self.after.append(len(ray._private.worker.global_worker.core_worker.get_all_reference_counts()))

    def trial_ended(self, session: Session, record: TrialRecord) -> None: ...

    def trial_tested(self, session: Session, record: TrialRecord) -> None: ...

    def tick(self, session: Session) -> None: ...


def test_ray_keeps_no_result_that_the_ledger_has(tiny: Tiny, tmp_path: Path) -> None:
    spec = tiny(("trials: 5", "trials: 4\n  max_concurrent: 1"), ("max_epochs: 4", "max_epochs: 16"))
    watcher = ReferenceCount()
    raysweep.run(spec, tmp_path / "counted", observer=watcher)
    assert len(watcher.after) >= 19
    assert max(watcher.after[4:]) <= max(watcher.after[:4]) + 2


def test_the_parquet_answers_the_question_of_the_sweep(finished: Sweep) -> None:
    rows = duckdb.sql(
        f"SELECT kld_weight, elbo_nats FROM '{finished.directory.trials_parquet}' "
        "WHERE state = 'completed' ORDER BY elbo_nats DESC"
    ).fetchall()
    best = finished.best()[0]
    assert best.final is not None
    assert rows[0] == (best.config.kld_weight, best.final.elbo_nats)
    unique = duckdb.sql(f"SELECT count(*), count(DISTINCT (trial, epoch)) FROM '{finished.directory.epochs_parquet}'")
    assert len(set(unique.fetchall()[0])) == 1


def test_each_trial_leaves_its_last_two_checkpoints_that_of_its_best_epoch_and_its_pictures(finished: Sweep) -> None:
    for record in finished.records:
        names = sorted(path.name for path in finished.directory.trial(record.number).iterdir())
        last = len(record.epochs)
        best = record.best("elbo_nats")
        assert best is not None
        epochs = sorted({best.epoch, last, max(1, last - 1)})
        kept = [f"epoch-{epoch:06d}.safetensors" for epoch in epochs]
        strips = sorted(path.name for path in (finished.directory.trial(record.number) / "epochs").iterdir())
        assert strips == [f"{epoch:06d}.png" for epoch in range(last + 1)]
        assert names[: len(kept) + 1] == sorted([*kept, "epochs"])
        assert {"reconstructions.png", "samples.png"} <= set(names)
        assert ("latents.parquet" in names) is (record.tested is not None)
    assert sum(record.tested is not None for record in finished.records) == 2


def images_of(run: EventAccumulator) -> int:
    """How many of a run's tags are images."""
    return sum(run.SummaryMetadata(tag).plugin_data.plugin_name == "images" for tag in run.Tags()["tensors"])


def test_tensorboard_has_a_run_a_trial_and_the_figures_of_the_sweep(finished: Sweep) -> None:
    root = finished.directory.tensorboard
    assert sorted(path.name for path in root.iterdir()) == ["0000", "0001", "0002", "0003", "0004", "sweep"]
    for record in finished.records:
        run = EventAccumulator(str(root / f"{record.number:04d}"))
        run.Reload()
        values = [event.tensor_proto.float_val[0] for event in run.Tensors("Objective/elbo_nats")]
        assert values == pytest.approx([epoch.metrics.elbo_nats for epoch in record.epochs], rel=1e-6)
        # Reconstructions, samples and the reconstructions by epoch; of a finalist six kinds of picture more.
        assert images_of(run) == (9 if record.tested else 3)
    sweep = EventAccumulator(str(root / "sweep"))
    sweep.Reload()
    assert images_of(sweep) == len(list(finished.directory.figures.glob("*.png"))) >= 4


def test_actors_are_reused(finished: Sweep) -> None:
    log = finished.directory.log.read_text()
    begun = re.findall(r"trial (\d+) trains on .* in process (\d+)", log)
    assert {number for number, _ in begun} == set("01234")
    assert len(begun) <= 5 + len(re.findall(r"trial \d+ paused at epoch 1", log)), "one that waited is begun again"
    assert len({process for _, process in begun}) <= len(os.sched_getaffinity(0))


def test_the_log_of_a_sweep_in_which_nothing_went_wrong_has_no_warning_of_ray_or_tune(finished: Sweep) -> None:
    assert not re.findall(r".* WARNING ray\..*", finished.directory.log.read_text())


def test_the_report_is_rebuilt_from_the_ledger_and_the_trials(finished: Sweep) -> None:
    directory = finished.directory
    before = pq.read_table(directory.trials_parquet)
    for path in (directory.trials_parquet, directory.epochs_parquet, *directory.figures.iterdir()):
        path.unlink()
    written = finished.write_report()
    assert all(path.exists() for path in written)
    assert pq.read_table(directory.trials_parquet).equals(before)
    test_tensorboard_has_a_run_a_trial_and_the_figures_of_the_sweep(finished)


def test_resuming_a_finished_sweep_changes_nothing(finished: Sweep) -> None:
    journal = finished.directory.journal.read_bytes()
    again = raysweep.resume(finished.directory.root)
    assert not again.running
    assert again.trials().equals(finished.trials())
    assert finished.directory.journal.read_bytes() == journal


def test_a_report_that_a_killed_driver_could_not_write_is_written_by_resume(finished: Sweep, tmp_path: Path) -> None:
    """What is left of a driver that was killed in the middle of its closing report."""
    root = Path(shutil.copytree(finished.directory.root, tmp_path / "tiny"))
    sweep = raysweep.open_sweep(root)
    directory = sweep.directory
    directory.unreported.touch()
    directory.trials_parquet.unlink()
    shutil.rmtree(directory.tensorboard)
    leftovers = [root / ".tensorboard.1a2b3c4d.new", directory.report / ".trials.parquet.1a2b3c4d.tmp"]
    leftovers[0].mkdir()
    leftovers[1].touch()
    journal = directory.journal.read_bytes()

    before = CliRunner().invoke(main, ["status", str(root)])
    assert f"The report is behind. To write it, type: raysweep report {root}" in before.stdout
    again = CliRunner().invoke(main, ["resume", str(root)])
    assert (again.exit_code, "nothing is left to do" in again.stdout) == (0, True)
    assert f"wrote {root / 'report'}, which the last session could not" in again.stdout
    test_tensorboard_has_a_run_a_trial_and_the_figures_of_the_sweep(raysweep.open_sweep(root))
    assert pq.read_table(directory.trials_parquet).equals(pq.read_table(finished.directory.trials_parquet))
    assert not any(path.exists() for path in [*leftovers, directory.unreported])
    assert directory.journal.read_bytes() == journal
    assert "behind" not in CliRunner().invoke(main, ["status", str(root)]).stdout


def test_the_best_model_is_exported_and_opens_in_two_lines(finished: Sweep, tmp_path: Path) -> None:
    record = finished.export(tmp_path / "model")
    model = raysweep.load_model(tmp_path / "model")
    assert record == finished.best()[0]
    assert model.sample(3).shape == (3, 1, 16, 16)


def test_the_same_file_gives_the_same_sweep(tiny: Tiny, tmp_path: Path) -> None:
    spec = tiny(("trials: 5", "trials: 4\n  max_concurrent: 1"))
    tables = [raysweep.run(spec, tmp_path / name).epochs() for name in ("one", "two")]
    timed = ["images_per_s", "epoch_s", "time_s", "recorded_at"]
    one, two = (table.drop_columns(timed) for table in tables)
    assert one.equals(two)


def test_trials_that_go_wrong_end_in_their_own_state_and_hold_up_nobody(tiny: Tiny, tmp_path: Path) -> None:
    spec = tiny(
        ("learning_rate: {low: 1e-3, high: 1e-2, log: true}", "learning_rate: {choices: [1e-3, 1e30]}"),
        ("hidden_size: 16", "hidden_size: {choices: [16, 65536]}"),
        ("d_size: 4", "d_size: {choices: [4, 1024]}"),
        ("image_size: 16", "image_size: 64"),
        ("trials: 5", "trials: 3"),
        (
            "[{kld_weight: 1e-4, learning_rate: 3e-3}]",
            "[{learning_rate: 1e30, hidden_size: 16, d_size: 4}, {hidden_size: 65536, d_size: 1024}, "
            "{learning_rate: 1e-3, hidden_size: 16, d_size: 4}]",
        ),
    )
    sweep = raysweep.run(spec, tmp_path / "wrong")
    assert [record.state for record in sweep.records] == [
        TrialState.DIVERGED,
        TrialState.OUT_OF_MEMORY,
        TrialState.COMPLETED,
    ]
    assert "train_loss was" in str(sweep.records[0].cause)
    assert "allocate" in str(sweep.records[1].error)
    assert [record.number for record in sweep.best()] == [2]


def test_a_killed_trial_goes_on_at_its_last_epoch(tiny: Tiny, tmp_path: Path) -> None:
    spec = tiny(
        ("trials: 5", "trials: 1"),
        ("early_stopping: {asha: {max_epochs: 4, grace_epochs: 1, reduction_factor: 2}}", "early_stopping: none"),
        ("d_size: 4", "d_size: 4\n  epochs: 20"),
    )
    directory = SweepDirectory.at(tmp_path / "killed")

    def kill_once() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if directory.trial(0).exists() and (directory.trial(0) / "epoch-000003.safetensors").exists():
                pid = re.findall(r"in process (\d+)", directory.log.read_text())[0]
                os.kill(int(pid), signal.SIGKILL)
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill_once)
    killer.start()
    sweep = raysweep.run(spec, directory.root)
    killer.join()
    (record,) = sweep.records
    assert record.state is TrialState.COMPLETED
    assert [epoch.metrics.epoch for epoch in record.epochs] == list(range(1, 21))
    undisturbed = raysweep.run(spec, tmp_path / "undisturbed")
    timed = ["images_per_s", "epoch_s", "time_s", "recorded_at"]
    assert sweep.epochs().drop_columns(timed).equals(undisturbed.epochs().drop_columns(timed))


def mapped_bytes(pid: str, suffix: str) -> dict[str, int]:
    """What the kernel says of a process's mappings of a file: bytes by kind, such as `Pss` and `Private_Dirty`."""
    totals: dict[str, int] = {}
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(suffix)
        elif inside and line.endswith(" kB"):
            kind, amount = line.split(":")
            totals[kind] = totals.get(kind, 0) + 1024 * int(amount.split()[0])
    return totals


def test_four_trials_share_one_copy_of_the_data(tiny: Tiny, tmp_path: Path) -> None:
    spec = tiny(
        ("trials: 5", "trials: 4"),
        ("early_stopping: {asha: {max_epochs: 4, grace_epochs: 1, reduction_factor: 2}}", "early_stopping: none"),
        ("d_size: 4", "d_size: 4\n  epochs: 40"),
        ("name: tiny", f"name: tiny\nresources: {{cpu: {len(os.sched_getaffinity(0)) / 4}}}"),
    )
    directory = SweepDirectory.at(tmp_path / "shared")
    seen: list[dict[str, int]] = []

    def look() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not seen:
            text = directory.log.read_text() if directory.log.exists() else ""
            processes = set(re.findall(r"in process (\d+)", text))
            if len(processes) == 4:
                seen.extend(mapped_bytes(pid, ".arrow") for pid in processes)
            time.sleep(0.02)

    looker = threading.Thread(target=look)
    looker.start()
    raysweep.run(spec, directory.root)
    looker.join()
    assert len(seen) == 4
    image_bytes = 1797 * 16 * 16
    assert all(mapping["Rss"] > 0.7 * image_bytes for mapping in seen), "each trial reads its images from the map"
    assert sum(mapping["Private_Dirty"] for mapping in seen) == 0
    assert sum(mapping["Pss"] for mapping in seen) < 1.5 * image_bytes, "and all maps are one copy in memory"


class Remover:
    """An observer that takes a directory away after the first epoch."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def epoch_done(self, session: Session, record: TrialRecord) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def trial_ended(self, session: Session, record: TrialRecord) -> None: ...

    def trial_tested(self, session: Session, record: TrialRecord) -> None: ...

    def tick(self, session: Session) -> None: ...


def test_a_sweep_starts_from_an_earlier_one_and_needs_it_no_more(finished: Sweep, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    for path in (finished.directory.spec, finished.directory.journal):
        shutil.copy(path, earlier)
    spec = parse_spec(
        "data: {dataset: digits, image_size: 16}\n"
        "trial: {kld_weight: {low: 1e-5, high: 1e-1, log: true}, learning_rate: {low: 1e-3, high: 1e-2, log: true}, "
        "d_size: 4, latent_size: 4, hidden_size: 16, epochs: 1}\n"
        f"search: {{trials: 3, max_concurrent: 1, start_from: [{str(earlier)!r}]}}\n"
        "evaluation: {final_metrics: none}"
    )
    told: list[str] = []
    sweep = raysweep.run(spec, tmp_path / "next", observer=Remover(earlier), inform=told.append)
    assert not earlier.exists()
    assert told == [f"{earlier}: 5 trials taken"]
    assert f"start_from:\n- '{told[0]}'" in sweep.directory.spec.read_text()
    assert [record.state for record in sweep.records] == [TrialState.COMPLETED] * 3
    assert sweep.records[2].params == pytest.approx(finished.best()[0].params), "after two points anywhere"
