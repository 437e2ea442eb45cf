"""A whole sweep in one process, without Ray: what a session comes to when trials fail, end, or are debugged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import raysweep
from raysweep.errors import StorageError
from raysweep.metrics import EpochMetrics, TrialState
from raysweep.records import TrialRecord
from raysweep.spec.loading import parse_spec
from raysweep.study.ledger import Ledger
from raysweep.vae.fusing.training import FusedTraining

TINY = """
name: tiny
data: {dataset: digits, image_size: 8}
trial:
  kld_weight: {low: 1e-5, high: 1e-1, log: true}
  d_size: 2
  latent_size: 2
  hidden_size: null
  conv_blocks: d/2
search:
  trials: 4
  sampler: random
  early_stopping: {asha: {max_epochs: 3, grace_epochs: 1, reduction_factor: 2}}
evaluation: {final_metrics: none}
resources: {backend: inline}
"""
ROOT = Path(__file__).parents[3]


def run(directory: Path, text: str = TINY) -> raysweep.Sweep:
    return raysweep.run(parse_spec(text, "tiny.yaml"), directory, progress=False)


def told(sweep: raysweep.Sweep) -> list[tuple[object, ...]]:
    return [(r.number, r.state, r.params, [epoch.metrics.elbo_nats for epoch in r.epochs]) for r in sweep.records]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> raysweep.Sweep:
    return run(tmp_path_factory.mktemp("sweeps") / "undisturbed")


def test_a_sweep_runs_to_its_end_in_a_process_that_never_imports_ray(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY.replace("final_metrics: none", "final_metrics: best 1, images: 50"))
    code = (
        "import sys, raysweep; sweep = raysweep.run(raysweep.load_spec('tiny.yaml'), 'out', progress=False); "
        "print('ray' in sys.modules, [r.state.value for r in sweep.records], sweep.best('test_elbo_nats')[0].number)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("False ["), done.stdout
    assert "'completed'" in done.stdout
    assert (tmp_path / "out" / "report" / "figures" / "objective.png").exists()


def test_early_stopping_is_that_of_any_other_sweep(undisturbed: raysweep.Sweep) -> None:
    states = [record.state for record in undisturbed.records]
    assert set(states) == {TrialState.COMPLETED, TrialState.PRUNED}
    assert undisturbed.standing == "finished"


def test_a_sweep_that_was_stopped_goes_on_to_the_end_it_would_have_had(
    undisturbed: raysweep.Sweep, tmp_path: Path
) -> None:
    epochs = iter(range(100))
    stopped = raysweep.run(
        parse_spec(TINY, "tiny.yaml"), tmp_path / "out", observer=Stopping(lambda: next(epochs) == 2)
    )
    assert stopped.standing == "stopped"
    assert sum(len(record.epochs) for record in stopped.records) == 3
    assert told(raysweep.resume(tmp_path / "out", progress=False)) == told(undisturbed)


def test_a_trial_that_raises_is_tried_twice_and_holds_up_nobody(
    undisturbed: raysweep.Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def failing(self: FusedTraining, laps: Any = None) -> list[EpochMetrics]:
        if self.members[0].config.kld_weight == undisturbed.records[1].params["kld_weight"]:
            tries.append(1)
            raise RuntimeError("the weights are of the wrong shape")
        return run_epoch(self, laps)

    run_epoch = FusedTraining.run_epoch
    monkeypatch.setattr(FusedTraining, "run_epoch", failing)
    sweep = run(tmp_path / "out")
    failed = sweep.trial(1)
    assert failed.state is TrialState.FAILED
    assert failed.cause == "RuntimeError: the weights are of the wrong shape, raised again when tried anew"
    assert "in failing" in str(failed.error)
    assert len(tries) == 2

    assert sweep.standing == "finished"


def test_a_ledger_that_cannot_be_written_ends_the_sweep_which_goes_on_later(
    undisturbed: raysweep.Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def full(self: Ledger) -> TrialRecord:
        asked.append(1)
        if len(asked) == 3:
            raise StorageError("the disk is full")
        return ask(self)

    ask = Ledger.ask
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "ask", full)
        with pytest.raises(StorageError, match="the disk is full"):
            run(tmp_path / "out")
    assert (tmp_path / "out" / "report" / "trials.parquet").exists()
    assert len(raysweep.open_sweep(tmp_path / "out").records) == 2
    assert told(raysweep.resume(tmp_path / "out", progress=False)) == told(undisturbed)


def test_who_leaves_the_debugger_ends_the_sweep_and_can_go_on(undisturbed: raysweep.Sweep, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    code = (
        "import sys, raysweep\n"
        "from raysweep.worker.trial import WorkerTrial\n"
        "keep = WorkerTrial.keep\n"
        "def debugged(self, metrics, clock):\n"
        "    if metrics.epoch == 2: breakpoint()\n"
        "    return keep(self, metrics, clock)\n"
        "WorkerTrial.keep = debugged\n"
        "sweep = raysweep.run(raysweep.load_spec('tiny.yaml'), 'out', progress=False)\n"
        "print('stopped by', sweep.stopped_by)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, input="p 'epoch', metrics.epoch\nq\n", capture_output=True,
        text=True, timeout=300, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "('epoch', 2)" in done.stdout
    assert "stopped by the end of the debugger" in done.stdout
    assert told(raysweep.resume(tmp_path / "out", progress=False)) == told(undisturbed)


class Stopping:
    """An observer in whose sweep an hour passes when the condition holds after an epoch."""

    def __init__(self, condition: Any) -> None:
        self._condition = condition

    def epoch_done(self, session: Any, record: Any) -> None:
        if self._condition():
            session.stop("the time budget")

    def trial_ended(self, session: Any, record: Any) -> None: ...

    def trial_tested(self, session: Any, record: Any) -> None: ...

    def tick(self, session: Any) -> None: ...
