"""Sweeps whose processes train several trials together: each trial is still one of its own, whatever becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import raysweep
from raysweep.driver.profiling import Profiler
from raysweep.metrics import TrialState
from raysweep.storage.layout import SweepDirectory
from tests.integration.test_lost_actors import NO_EARLY_STOPPING, SLOW_EPOCHS, epochs_of, kill, watching
from tests.integration.test_sweep import Tiny

pytestmark = [
    pytest.mark.usefixtures("ray_here"),
    pytest.mark.filterwarnings("default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning"),
]
RANDOM = ("  enqueue: [{kld_weight: 1e-4, learning_rate: 3e-3}]\n", "  sampler: random\n")
ONE_SLOT = ("search:\n", "resources: {cpu: 2}\nsearch:\n")
EPOCHS = ("d_size: 4", "d_size: 4\n  epochs: 3")


def trained_together(sweep: raysweep.Sweep) -> list[int]:
    """How many trials shared each epoch of the sweep's processes: members of a group have its time."""
    times = [epoch.metrics.epoch_s for record in sweep.records for epoch in record.epochs]
    return sorted(times.count(time) for time in set(times))


def test_a_fused_sweep_comes_to_what_trials_come_to_by_themselves(tiny: Tiny, tmp_path: Path) -> None:
    shapes = ("latent_size: 4", "latent_size: {choices: [2, 4]}")
    sweeps = [
        raysweep.run(
            tiny(("trials: 5", f"trials: 7\n  max_concurrent: {most}\n  fuse: {fuse}"), NO_EARLY_STOPPING, RANDOM,
                 EPOCHS, shapes),
            tmp_path / str(fuse),
        )
        for most, fuse in ((2, "off"), (6, 3))
    ]  # fmt: skip
    alone, fused = sweeps
    assert [record.params for record in fused.records] == [record.params for record in alone.records]
    assert {record.state for record in fused.records} == {TrialState.COMPLETED}
    for one, other in zip(fused.records, alone.records, strict=True):
        assert epochs_of(one) == epochs_of(other) == [1, 2, 3]
        for epoch, expected in zip(one.epochs, other.epochs, strict=True):
            assert epoch.metrics.elbo_nats == pytest.approx(expected.metrics.elbo_nats, rel=1e-3)
    assert set(trained_together(alone)) == {1}
    assert max(trained_together(fused)) == 3
    assert len({epoch.metrics.epoch_s for record in fused.records for epoch in record.epochs}) < 21


def test_trials_of_a_fused_process_are_stopped_early_and_others_take_their_place(tiny: Tiny, tmp_path: Path) -> None:
    spec = tiny(("trials: 5", "trials: 12\n  max_concurrent: 4\n  fuse: 4"), ONE_SLOT, RANDOM)
    profiler = Profiler()
    sweep = raysweep.run(spec, tmp_path / "stopped", profiler=profiler)
    states = [record.state for record in sweep.records]
    assert states.count(TrialState.PRUNED) >= 3
    assert states.count(TrialState.COMPLETED) + states.count(TrialState.PRUNED) == 12
    assert trained_together(sweep).count(4) > 2, "a place that becomes free is taken"
    profile = profiler.profile
    assert profile is not None
    assert profile.slots == 1
    assert profile.slot_s == pytest.approx(profile.wall_s, rel=1e-3)
    assert sorted(profile.trials()) == list(range(12))


def test_a_trial_that_diverges_ends_alone(tiny: Tiny, tmp_path: Path) -> None:
    points = "[{learning_rate: 3e-3}, {learning_rate: 1e18}, {learning_rate: 5e-3}]"
    spec = tiny(
        ("trials: 5", "trials: 3\n  max_concurrent: 3\n  fuse: 3"), NO_EARLY_STOPPING, EPOCHS,
        ("high: 1e-2", "high: 1e20"), ("enqueue: [{kld_weight: 1e-4, learning_rate: 3e-3}]", f"enqueue: {points}"),
        ONE_SLOT,
    )  # fmt: skip
    sweep = raysweep.run(spec, tmp_path / "diverged")
    assert [record.state for record in sweep.records] == [
        TrialState.COMPLETED, TrialState.DIVERGED, TrialState.COMPLETED,
    ]  # fmt: skip
    assert trained_together(sweep)[-1] == 3


def test_trials_whose_common_process_dies_go_on_by_themselves(tiny: Tiny, tmp_path: Path) -> None:
    spec = tiny(
        ("trials: 5", "trials: 3\n  max_concurrent: 3\n  fuse: 3"), NO_EARLY_STOPPING, *SLOW_EPOCHS,
        ONE_SLOT,
    )  # fmt: skip
    directory = SweepDirectory.at(tmp_path / "killed")
    killed: list[str] = []

    def kill_once(pid: str) -> None:
        if not killed:
            killed.append(pid)
            kill(pid)

    with watching(directory.log, r"trial 2 trains on .* in process (\d+)", kill_once):
        sweep = raysweep.run(spec, directory.root)
    log = directory.log.read_text()
    assert "trials 0, 1, 2, trained together: its process died; they go on" in log
    assert [record.state for record in sweep.records] == [TrialState.COMPLETED] * 3
    assert all(epochs_of(record) == [1, 2, 3, 4, 5, 6] for record in sweep.records)
    assert trained_together(sweep)[-1] == 3
    assert trained_together(sweep)[0] == 1
