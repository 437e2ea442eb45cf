"""The finalists of a sweep on real Ray: who is tested, and that nothing is lost when testing is cut short."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import raysweep
from raysweep.driver.session import Session
from raysweep.metrics import FinalMetrics
from raysweep.records import TrialRecord
from raysweep.review.sweep import Sweep
from raysweep.spec.sections import SweepSpec

pytestmark = [
    pytest.mark.usefixtures("ray_here"),
    # Ray leaves sockets and subprocess handles to the garbage collector
    pytest.mark.filterwarnings("default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning"),
]
Tiny = Callable[..., SweepSpec]
FINALISTS = """evaluation: {final_metrics: best 2, images: 60, importance_samples: 3}
claims:
  - name: rate_is_a_divergence
    statement: The KL divergence is never negative.
    test: always
    condition: rate_nats >= 0
    each: epoch
"""


class Watch:
    """An observer that stops the session, or does something else, at the first trial that was tested."""

    def __init__(self, at_first: Callable[[Session], None] = lambda session: None) -> None:
        self.at_first = at_first
        self.tested: list[int] = []

    def epoch_done(self, session: Session, record: Any) -> None: ...

    def trial_ended(self, session: Session, record: Any) -> None: ...

    def tick(self, session: Session) -> None: ...

    def trial_tested(self, session: Session, record: TrialRecord) -> None:
        self.tested.append(record.number)
        if len(self.tested) == 1:
            self.at_first(session)


@pytest.fixture
def spec(tiny: Tiny) -> SweepSpec:
    return tiny(("evaluation: {final_metrics: none}\n", FINALISTS), ("trials: 5", "trials: 5\n  max_concurrent: 1"))


def measured(sweep: Sweep) -> dict[int, FinalMetrics]:
    """The final metrics of a sweep by trial, but for the time they took."""
    return {r.number: dataclasses.replace(r.tested, measured_s=0.0) for r in sweep.records if r.tested}


def test_the_best_are_tested_and_a_sweep_stopped_meanwhile_goes_on_where_it_was(
    spec: SweepSpec, tmp_path: Path
) -> None:
    whole_watch, first, second = Watch(), Watch(lambda session: session.stop("the test")), Watch()
    whole = raysweep.run(spec, tmp_path / "whole", observer=whole_watch)
    best = [record.number for record in whole.best()[:2]]
    assert sorted(whole_watch.tested) == sorted(best)
    assert sorted(measured(whole)) == sorted(best)

    stopped = raysweep.run(spec, tmp_path / "stopped", observer=first)
    assert (stopped.stopped_by, len(measured(stopped))) == ("the test", 1)
    assert stopped.status().is_open
    resumed = raysweep.resume(tmp_path / "stopped", observer=second)
    assert sorted([*first.tested, *second.tested]) == sorted(best)
    assert measured(resumed) == measured(whole)
    assert not resumed.status().is_open


def test_final_metrics_findings_and_pictures_reach_the_report(spec: SweepSpec, tmp_path: Path) -> None:
    sweep = raysweep.run(spec, tmp_path / "sweep")
    directory = sweep.directory
    table = pq.read_table(directory.trials_parquet).to_pylist()
    assert sorted(row["trial"] for row in table if row["test_kid"] is not None) == sorted(measured(sweep))
    assert all(row["test_images"] in (None, 60) for row in table)
    assert "holds" in directory.findings_markdown.read_text()
    assert pq.read_table(directory.findings_parquet).column("verdict").to_pylist() == ["holds"]
    for number in measured(sweep):
        run = EventAccumulator(str(directory.tensorboard / f"{number:04d}"), size_guidance={"tensors": 0})
        run.Reload()
        tags = set(run.Tags()["tensors"])
        assert {"test/kid", "interpolations", "traversals", "samples_mixture", "reconstructions_by_epoch"} <= tags
    page = EventAccumulator(str(directory.tensorboard / "sweep"), size_guidance={"tensors": 0})
    page.Reload()
    assert "findings" in page.Tags()["tensors"]


def test_a_finalist_that_cannot_be_tested_is_named_and_the_others_are_tested(spec: SweepSpec, tmp_path: Path) -> None:
    def lose_the_other(session: Session) -> None:
        (left,) = session.to_test()
        for path in session.directory.trial(left).glob("*.safetensors"):
            path.unlink()

    sweep = raysweep.run(spec, tmp_path / "sweep", observer=Watch(lose_the_other))
    assert len(measured(sweep)) == 1
    ((number, cause),) = sweep.untested.items()
    assert cause.startswith("CheckpointError: ")
    assert cause.endswith(f"{number:04d}: holds no checkpoint: it has not trained, or they were taken away")
    assert "CheckpointError" in sweep.directory.log.read_text()
