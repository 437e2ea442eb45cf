"""Records of trials and their epochs."""

from __future__ import annotations

import math
from dataclasses import asdict, fields, replace

from raysweep.metrics import TrialState
from raysweep.records import EpochRecord, TrialRecord, ranked
from raysweep.spec.space import TrialSpace
from tests.unit.conftest import NOW, epoch_metrics


def record(number: int, state: TrialState, *elbo_nats: float) -> TrialRecord:
    epochs = tuple(EpochRecord.of(epoch_metrics(epoch, value), NOW) for epoch, value in enumerate(elbo_nats, start=1))
    return TrialRecord(number, TrialSpace({}, {}), {}, state, epochs)


def test_an_epoch_has_all_its_metrics_as_they_were_given() -> None:
    metrics = replace(epoch_metrics(3, -0.0), rate_nats=math.inf, epoch_s=0.1, collapsed=True, active_units=256)
    epoch = EpochRecord.of(metrics, NOW)
    assert epoch.metrics == metrics
    assert repr(epoch.metrics) == repr(metrics), "types and signs, too"
    assert {f.name: epoch.value(f.name) for f in fields(metrics)} == asdict(metrics)
    assert math.isnan(EpochRecord.of(replace(metrics, mse=math.nan), NOW).metrics.mse)
    assert epoch == EpochRecord.of(metrics, NOW)
    assert epoch != EpochRecord.of(replace(metrics, mse=1e-9), NOW)


def test_trials_that_ran_to_their_end_come_first_then_by_the_metric() -> None:
    records = [
        record(0, TrialState.COMPLETED, 1.0, 5.0),
        record(1, TrialState.PRUNED, 9.0),
        record(2, TrialState.COMPLETED, 2.0, 7.0),
        record(3, TrialState.DIVERGED, 8.0, math.nan),
        record(4, TrialState.FAILED, 99.0),
        record(5, TrialState.RUNNING),
        record(6, TrialState.COMPLETED, 7.0, 7.0),
    ]
    assert [r.number for r in ranked(records, "elbo_nats")] == [2, 6, 0, 1]


def test_a_metric_that_is_better_small_ranks_the_other_way() -> None:
    records = [record(0, TrialState.COMPLETED, 1.0), record(1, TrialState.COMPLETED, 2.0)]
    assert [r.number for r in ranked(records, "train_loss")] == [0, 1]


def test_the_best_epoch_of_a_trial_passes_over_what_is_not_finite() -> None:
    best = record(0, TrialState.DIVERGED, 3.0, 4.0, math.inf).best("elbo_nats")
    assert best is not None
    assert best.epoch == 2
    assert record(0, TrialState.DIVERGED, math.nan).best("elbo_nats") is None
