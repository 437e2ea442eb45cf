"""Every way to end, then resume: the outcome is the one that the undisturbed run has.

What decides it is session and ledger, so these sweeps train inline. Sweeps on Ray that end and go on are in
test_first_sweep.py, test_command_line.py, test_s3.py and tests/chaos.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import raysweep
from raysweep.cli import main
from raysweep.metrics import TrialState
from raysweep.review.sweep import Sweep
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from tests.integration.conftest import TINY
from tests.integration.outcomes import StopsAfter, curves, outcomes

INLINE = ("evaluation:", "resources: {backend: inline}\nevaluation:")
ASHA = "early_stopping: {asha: {max_epochs: 4, grace_epochs: 1, reduction_factor: 2}}"
Tiny = Callable[..., SweepSpec]


@pytest.fixture(scope="module")
def long() -> SweepSpec:
    """Three trials of 20 epochs, whose points depend on their numbers alone."""
    text = TINY.replace("d_size: 4", "d_size: 4\n  epochs: 20").replace("trials: 5", "trials: 3\n  time_budget: 30m")
    return parse_spec(text.replace(ASHA, "sampler: random").replace(*INLINE), "tiny.yaml")


@pytest.fixture(scope="module")
def undisturbed(long: SweepSpec, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return raysweep.run(long, tmp_path_factory.mktemp("undisturbed") / "long")


@pytest.fixture(scope="module")
def stopped(long: SweepSpec, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The same sweep, whose time budget was spent after a few epochs."""
    sweep = raysweep.run(long, tmp_path_factory.mktemp("stopped") / "long", observer=StopsAfter(5))
    assert sweep.stopped_by == "the time budget"
    assert TrialState.INTERRUPTED in [record.state for record in sweep.records]
    return sweep


def test_a_sweep_whose_time_is_spent_goes_on_in_a_copy_elsewhere(
    stopped: Sweep, undisturbed: Sweep, tmp_path: Path
) -> None:
    copy = tmp_path / "eine Köpie, 复制" / "long"
    shutil.copytree(stopped.directory.root, copy)
    unfinished = [record for record in stopped.records if record.epochs]
    assert unfinished
    files = {path: path.stat().st_mtime_ns for path in stopped.directory.root.rglob("*")}
    sweep = raysweep.resume(copy, time_budget=7200.0)
    assert sweep.stopped_by is None
    assert outcomes(sweep) == outcomes(undisturbed)
    assert curves(sweep).equals(curves(undisturbed))
    for record in unfinished:
        kept = [epoch.recorded_at for epoch in record.epochs]
        assert [epoch.recorded_at for epoch in sweep.records[record.number].epochs][: len(kept)] == kept
    assert "search.time_budget: 1800.0 -> 7200.0" in sweep.directory.log.read_text()
    assert yaml.safe_load(sweep.directory.spec.read_text())["spec"]["search"]["time_budget"] == 7200.0
    assert {path: path.stat().st_mtime_ns for path in stopped.directory.root.rglob("*")} == files


def test_a_trial_whose_checkpoints_are_gone_trains_anew_to_the_same_end(
    stopped: Sweep, undisturbed: Sweep, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(stopped.directory.root, tmp_path / "long"))
    number, done = next((record.number, len(record.epochs)) for record in stopped.records if record.epochs)
    checkpoints = list((copy / "trials" / f"{number:04d}").glob("epoch-*.safetensors"))
    assert checkpoints
    for path in checkpoints:
        path.unlink()
    (copy / "sweep.yaml").unlink()
    sweep = raysweep.resume(copy)
    assert outcomes(sweep) == outcomes(undisturbed)
    assert curves(sweep).equals(curves(undisturbed))
    assert (
        f"the ledger has {done} epochs, the newest checkpoint that can be read is none"
        in sweep.directory.log.read_text()
    )
    assert "sweep.yaml was missing, and is written anew from the ledger" in sweep.directory.log.read_text()
    assert (copy / "sweep.yaml").read_text() == (stopped.directory.root / "sweep.yaml").read_text()


def test_a_sweep_whose_trials_pause_goes_on_in_another_place_to_the_same_end(tiny: Tiny, tmp_path: Path) -> None:
    """TPE at one trial at a time, paused trials among what is moved; each goes on from its checkpoint."""
    asha = ("reduction_factor: 2", "reduction_factor: 2, promote: true")
    spec = tiny(INLINE, asha, ("trials: 5", "trials: 6\n  time_budget: 30m\n  max_concurrent: 1"))
    undisturbed = raysweep.run(spec, tmp_path / "undisturbed")
    stopped = raysweep.run(spec, tmp_path / "stopped", observer=StopsAfter(5))
    paused = [record for record in stopped.records if record.state is TrialState.PAUSED]
    assert paused
    assert stopped.trials()["state"].to_pylist().count("paused") == len(paused)
    moved = Path(shutil.move(stopped.directory.root, tmp_path / "elsewhere"))
    sweep = raysweep.resume(moved, time_budget=7200.0)
    assert outcomes(sweep) == outcomes(undisturbed)
    assert curves(sweep).equals(curves(undisturbed))
    assert {record.state for record in sweep.records} == {TrialState.COMPLETED, TrialState.PRUNED}
    assert sweep.records[paused[0].number].cause in {record.cause for record in undisturbed.records}
    assert any(len(record.epochs) > 1 for record in sweep.records if record.state is TrialState.PRUNED)


def test_a_bigger_total_gives_the_trials_of_a_sweep_that_had_it_from_the_start(tiny: Tiny, tmp_path: Path) -> None:
    """TPE at one trial at a time: each suggestion depends on all trials before it."""
    fewer = tiny(INLINE, ("trials: 5", "trials: 8\n  max_concurrent: 1"))
    more = tiny(INLINE, ("trials: 5", "trials: 10\n  max_concurrent: 1"))
    undisturbed = raysweep.run(more, tmp_path / "undisturbed")
    raysweep.run(fewer, tmp_path / "grown")
    grown = raysweep.resume(tmp_path / "grown", 10)
    assert len(grown.records) == 10
    assert outcomes(grown) == outcomes(undisturbed)
    assert curves(grown).equals(curves(undisturbed))

    before = fingerprint(grown.directory.root)
    again = CliRunner().invoke(main, ["resume", str(grown.directory.root)])
    assert (again.exit_code, "all 10 trials have ended; nothing is left to do" in again.stdout) == (0, True)
    assert not raysweep.resume(grown.directory.root).running
    assert fingerprint(grown.directory.root) == before

    description = grown.directory.spec.read_text()
    grown.directory.spec.write_text(description.replace("reduction_factor: 2", "reduction_factor: 3"))
    refused = CliRunner().invoke(main, ["resume", str(grown.directory.root), "--trials", "12"])
    assert refused.exit_code == 2
    assert "\n    search.early_stopping.asha.reduction_factor: 2 -> 3\n" in refused.stderr
    assert not raysweep.open_sweep(grown.directory.root).status().is_open
    grown.directory.spec.write_text(description.replace("max_concurrent: 1", "max_concurrent: 2"))
    taken = CliRunner().invoke(main, ["resume", str(grown.directory.root)])
    assert taken.exit_code == 0, taken.output
    assert "tiny  goes on with another search space:\n    search.max_concurrent: 1 -> 2\n" in taken.stdout


def fingerprint(root: Path) -> dict[str, tuple[str, int]]:
    """Content and time of every file but the driver's lock and name."""
    return {
        str(path.relative_to(root)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(".driver")
    }
