"""One sweep as a person runs it, and the same one after its driver was killed: the real sweeps of the fast tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import raysweep
from raysweep.metrics import TrialState
from tests.integration.conftest import TINY, call_raysweep, start_raysweep, wait_for
from tests.integration.outcomes import curves


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> raysweep.Sweep:
    """A sweep of one trial at a time, so that another one of the same file comes to the same."""
    place = tmp_path_factory.mktemp("undisturbed")
    (place / "tiny.yaml").write_text(TINY.replace("trials: 5", "trials: 4\n  max_concurrent: 1"))
    ran = call_raysweep("run", "tiny.yaml", cwd=place)
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
    return raysweep.open_sweep(place / "results/tiny")


def test_a_sweep_ends_with_a_best_trial_its_tables_and_its_figures(undisturbed: raysweep.Sweep) -> None:
    best, *_ = undisturbed.best()
    assert best.state is TrialState.COMPLETED
    assert best.final is not None
    assert undisturbed.trials().num_rows == 4
    assert (undisturbed.directory.report / "figures" / "objective.png").stat().st_size > 1000


def test_a_sweep_whose_driver_is_killed_goes_on_to_the_end_that_it_would_have_had(
    undisturbed: raysweep.Sweep, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text((undisturbed.directory.root.parents[1] / "tiny.yaml").read_text())
    process = start_raysweep("run", "tiny.yaml", cwd=tmp_path)
    wait_for(tmp_path / "results/tiny/trials/0000/epoch-000002.safetensors")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    killed = raysweep.open_sweep(tmp_path / "results/tiny")
    assert TrialState.INTERRUPTED in [record.state for record in killed.records]
    resumed = call_raysweep("resume", "results/tiny", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    sweep = raysweep.open_sweep(tmp_path / "results/tiny")
    assert curves(sweep).equals(curves(undisturbed))


def test_the_same_sweep_in_one_process_without_ray_comes_to_the_same(
    undisturbed: raysweep.Sweep, tmp_path: Path
) -> None:
    text = (undisturbed.directory.root.parents[1] / "tiny.yaml").read_text()
    (tmp_path / "tiny.yaml").write_text(f"{text}resources: {{backend: inline}}\n")
    ran = call_raysweep("run", "tiny.yaml", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert curves(raysweep.open_sweep(tmp_path / "results/tiny")).equals(curves(undisturbed))
