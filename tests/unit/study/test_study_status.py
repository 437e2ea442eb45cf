"""Where a sweep stands, and how long the rest of it takes."""

from __future__ import annotations

import pytest

from raysweep.metrics import TrialState
from raysweep.records import EpochRecord, TrialRecord
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import TrialSpace
from raysweep.study.status import epochs_to_come, remaining_seconds, sweep_status
from tests.unit.conftest import NOW, SPACE, epoch_metrics


def record(number: int, state: TrialState, epochs: int) -> TrialRecord:
    """A trial of 4 epochs whose epochs take 1.5 s each."""
    done = tuple(EpochRecord.of(epoch_metrics(epoch, 100.0 * number), NOW) for epoch in range(1, epochs + 1))
    return TrialRecord(number, TrialSpace({"epochs": 4}, {}), {}, state, done)


def test_counts_epochs_and_the_best(spec: SweepSpec) -> None:
    records = [
        record(0, TrialState.COMPLETED, 4),
        record(1, TrialState.PRUNED, 1),
        record(2, TrialState.DIVERGED, 2),
        record(3, TrialState.RUNNING, 1),
    ]
    status = sweep_status(records, spec)
    assert (status.ended, status.to_do, len(status.running)) == (3, 2, 1)
    assert (status.epochs_done, status.epochs_saved) == (8, 5)
    assert status.saved_share == pytest.approx(5 / 13)
    assert status.best is records[0], "a trial that ran to its end comes before those stopped on the way"
    assert status.images_per_s == 1e3


def test_nothing_is_known_of_the_rest_before_the_first_epoch(spec: SweepSpec) -> None:
    assert remaining_seconds([record(0, TrialState.RUNNING, 0)], spec, 2) is None


def test_the_rest_is_what_early_stopping_lets_train_over_the_slots(spec: SweepSpec) -> None:
    # rungs at 1 and 2 of 4 epochs, one in two goes on: 1 + 1/2 + 2/4 = 2 epochs are expected of a trial
    running = [record(0, TrialState.RUNNING, 1)]
    assert remaining_seconds(running, spec, 1) == pytest.approx(1.5 * (5 * 2 + 1))
    assert remaining_seconds(running, spec, 2) == pytest.approx(1.5 * (5 * 2 + 1) / 2)
    ended = [record(number, TrialState.COMPLETED, 4) for number in range(3)]
    assert remaining_seconds(ended, spec, 1) == pytest.approx(1.5 * 3 * (3 * 4 + 3 * 2) / 6)
    everything = [record(number, TrialState.COMPLETED, 4) for number in range(6)]
    assert remaining_seconds(everything, spec, 2) == 0


def test_the_rest_of_a_sweep_whose_trials_pause_is_what_the_rule_sends_on(spec: SweepSpec) -> None:
    """Rungs at 1 and 2 of 4 epochs, one in two goes on: 6 + 3 + 1 x 2 epochs of six trials."""
    text = SPACE.replace("reduction_factor: 2", "reduction_factor: 2, promote: true")
    promoting = parse_spec(text, "table.yaml")
    assert epochs_to_come([], promoting) == 6 + 3 + 2
    records = [record(0, TrialState.PAUSED, 2), record(1, TrialState.PAUSED, 1), record(2, TrialState.RUNNING, 3)]
    assert epochs_to_come(records, promoting) == 3 + 1 + 1
    assert sweep_status(records, promoting).paused == (records[0], records[1])
    assert (sweep_status(records, promoting).ended, sweep_status(records, promoting).to_do) == (0, 3)
    early = [record(number, TrialState.RUNNING, 2) for number in range(5)]
    assert epochs_to_come(early, promoting) == 1 + 0 + 2 * 2, "more went on than one in two of all"
    ended = [record(number, TrialState.DIVERGED, 0) for number in range(6)]
    assert epochs_to_come(ended, promoting) == 0
