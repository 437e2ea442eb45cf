"""A sweep on a cluster: the machines' shares are filled, and trials follow machines that come and go."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import raysweep
from raysweep.metrics import TrialState
from tests.integration.conftest import TINY, Machines, call_raysweep, start_raysweep

SPACE = TINY.replace("early_stopping: {asha: {max_epochs: 4, grace_epochs: 1, reduction_factor: 2}}", "sampler: random")


def test_trials_share_gpus_and_all_gpus_of_a_machine_are_used(machines: Machines, tmp_path: Path) -> None:
    """Logical GPUs: Ray hands them out like real ones, and the trials train on the CPU, and say so."""
    text = SPACE.replace("d_size: 4", "d_size: 4\n  epochs: 8").replace("trials: 5", "trials: 4")
    (tmp_path / "shares.yaml").write_text(text + "resources: {cpu: 0.5, gpu: 0.5}\n")
    machines.add(cpus=4, gpus=2)
    ran = call_raysweep("run", "shares.yaml", "--output", "out", cwd=tmp_path, RAY_ADDRESS=machines.nodes.address)
    assert ran.returncode == 0, ran.stderr
    log = (tmp_path / "out" / "raysweep.log").read_text()
    trains = re.findall(r"trial (\d+) trains on \S+ \(cpu, GPU (\d)\) in process (\d+)", log)
    assert sorted(gpu for _, gpu, _ in trains) == ["0", "0", "1", "1"]
    assert len({process for _, _, process in trains}) == 4, "two on each GPU at once"
    assert "Ray gives it 0.5 GPU, and torch finds none; it trains on the CPU" in log


def test_more_trials_run_at_once_when_a_machine_joins_and_none_is_lost_when_one_leaves(
    machines: Machines, tmp_path: Path
) -> None:
    text = SPACE.replace("d_size: 4", "d_size: 4\n  epochs: 60")
    (tmp_path / "grow.yaml").write_text(text)
    machines.add(cpus=1)
    driver = start_raysweep("run", "grow.yaml", "--output", "out", cwd=tmp_path, RAY_ADDRESS=machines.nodes.address)
    try:
        log = tmp_path / "out" / "raysweep.log"

        def wait_for(text: str) -> None:
            deadline = time.monotonic() + 120
            while not (log.exists() and text in log.read_text()):
                assert driver.poll() is None, driver.communicate()
                assert time.monotonic() < deadline, f"no {text!r}"
                time.sleep(0.1)

        wait_for("trial 0 trains on")
        machines.add(cpus=1)
        wait_for("trials at once: 2 from here on, 1 before")
        wait_for("trial 1 trains on")
        machines.nodes.kill_one(random.Random(0))
        wait_for("trials at once: 1 from here on, 2 before")
        out, err = driver.communicate(timeout=300)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == 0, out + err
    sweep = raysweep.open_sweep(tmp_path / "out")
    assert [record.state for record in sweep.records] == [TrialState.COMPLETED] * 5
    assert all([e.metrics.epoch for e in record.epochs] == list(range(1, 61)) for record in sweep.records)
    # Ray tells of the process first, and of its machine when that has not answered for a while.
    assert re.search(r"its (process died|machine was lost); it goes on from epoch \d", log.read_text())
