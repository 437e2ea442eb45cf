"""What is left of a trial whose worker process dies again and again."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

import raysweep
from raysweep.layout import SweepDirectory
from raysweep.metrics import TrialState
from raysweep.search.tuning import MAX_ACTOR_DEATHS
from tests.integration.test_sweep import Tiny

pytestmark = [
    pytest.mark.usefixtures("ray_here"),
    pytest.mark.filterwarnings("default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning"),
]


def test_a_trial_that_dies_once_too_often_has_failed_and_the_others_go_on(tiny: Tiny, tmp_path: Path) -> None:
    spec = tiny(
        ("trials: 5", "trials: 2\n  max_concurrent: 1"),
        ("early_stopping: {asha: {max_epochs: 4, grace_epochs: 1, reduction_factor: 2}}", "early_stopping: none"),
        ("d_size: 4", "d_size: 4\n  epochs: 60"),
    )
    directory = SweepDirectory.at(tmp_path / "lost")
    done = threading.Event()

    def kill() -> None:
        """Kills every process that trains trial 0."""
        killed: set[str] = set()
        while not done.is_set() and len(killed) <= MAX_ACTOR_DEATHS:
            text = directory.log.read_text() if directory.log.exists() else ""
            for pid in re.findall(r"trial 0 trains on .* in process (\d+)", text):
                if pid not in killed:
                    os.kill(int(pid), signal.SIGKILL)
                    killed.add(pid)
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    sweep = raysweep.run(spec, directory.root)
    done.set()
    killer.join()
    lost, other = sweep.records
    assert (lost.state, lost.cause) == (TrialState.FAILED, f"its worker process died {MAX_ACTOR_DEATHS + 1} times")
    assert lost.error
    assert [epoch.metrics.epoch for epoch in lost.epochs] == list(range(1, len(lost.epochs) + 1))
    assert other.state is TrialState.COMPLETED
