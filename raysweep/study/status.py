"""The status of a sweep, computed from its trials: what the terminal shows and `raysweep status` prints."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from raysweep.confirming import due
from raysweep.metrics import TrialState
from raysweep.records import TrialRecord, ranked
from raysweep.spec.sections import SweepSpec

ENDED = (
    TrialState.COMPLETED,
    TrialState.PRUNED,
    TrialState.DIVERGED,
    TrialState.OUT_OF_MEMORY,
    TrialState.FAILED,
)


@dataclass(frozen=True)
class SweepStatus:
    """Counts of trials and epochs, and the best trial so far."""

    trials: int
    """Total trials of the search; those that confirm the best of them are counted separately."""
    by_state: dict[TrialState, int]
    """How many trials of the search are in each state."""
    epochs_done: int
    epochs_saved: int
    """Epochs that pruned and diverged trials would still have trained; a paused trial counts once it is pruned."""
    images_per_s: float
    """Training throughput of the running trials together, from their last epochs."""
    best: TrialRecord | None
    """The first trial by `ranked`, which puts trials that ran to their end before all others."""
    best_ended: TrialRecord | None
    leader: TrialRecord | None
    """The trial with the best latest value among `best_ended` and the trials that run or are paused."""
    running: tuple[TrialRecord, ...]
    paused: tuple[TrialRecord, ...]
    """The trials that wait on a rung of early stopping. The other unfinished trials run, or were interrupted."""
    confirming: tuple[TrialRecord, ...]
    """The trials that confirm the best ones by training them again with other seeds."""
    to_confirm: int
    """How many more of these will start, as far as that is known; 0 until the search is over."""
    finalists: tuple[TrialRecord, ...]
    """The trials whose final metrics are measured on the test split, the best first by validation."""

    def __repr__(self) -> str:
        """Return the counts and the best trial on one line."""
        states = ", ".join(f"{count} {state.value}" for state, count in self.by_state.items())
        return (
            f"<{self.ended} of {self.trials} trials ended ({states or 'none started'}), {self.epochs_done} epochs "
            f"trained, {self.epochs_saved} saved, best {self.best}>"
        )

    @property
    def ended(self) -> int:
        return sum(self.by_state.get(state, 0) for state in ENDED)

    @property
    def to_do(self) -> int:
        return max(0, self.trials - sum(self.by_state.values()))

    @property
    def untested(self) -> tuple[TrialRecord, ...]:
        """The finalists that have no final metrics yet."""
        return tuple(record for record in self.finalists if record.tested is None)

    @property
    def confirmed(self) -> int:
        """Return how many of the trials that confirm others have ended."""
        return sum(record.ended_at is not None for record in self.confirming)

    @property
    def unconfirmed(self) -> int:
        """Return how many of the trials that confirm others have not ended, including those not started."""
        return len(self.confirming) - self.confirmed + self.to_confirm

    @property
    def left(self) -> int:
        """Return how many trials have not ended, including those that confirm others and those not started."""
        return max(0, self.trials - self.ended) + self.unconfirmed

    @property
    def is_open(self) -> bool:
        """Return whether `resume` would find something to do."""
        return bool(self.left or self.untested)

    @property
    def saved_share(self) -> float:
        """Epochs that early stopping saved, as a share of the epochs trained and saved."""
        total = self.epochs_done + self.epochs_saved
        return self.epochs_saved / total if total else 0.0


def sweep_status(records: Sequence[TrialRecord], spec: SweepSpec) -> SweepStatus:
    """Return the status of the sweep of `spec` with these trials."""
    metric = spec.search.objective.metric
    best = ranked(list(records), metric)
    ended = [record for record in best if record.ended_at is not None]
    running = tuple(r for r in records if r.state is TrialState.RUNNING)
    paused = tuple(r for r in records if r.state is TrialState.PAUSED)
    search = [r for r in records if r.confirms is None]
    unended = (TrialState.RUNNING, TrialState.PAUSED)
    best_ended = next((record for record in best if record.state not in unended), None)
    ahead = [r for r in (*running, *paused) if r.confirms is None and math.isfinite(r.last(metric))]
    ahead = [best_ended, *ahead] if best_ended is not None else ahead
    sign = -1.0 if spec.search.objective.direction == "max" else 1.0
    spared = [r for r in records if r.state in (TrialState.PRUNED, TrialState.DIVERGED)]
    return SweepStatus(
        trials=spec.trials,
        by_state=dict(Counter(record.state for record in search)),
        epochs_done=sum(len(record.epochs) for record in records),
        epochs_saved=sum(max(0, record.config.epochs - len(record.epochs)) for record in spared),
        images_per_s=sum(record.final.images_per_s for record in running if record.final),
        best=best[0] if best else None,
        best_ended=best_ended,
        leader=min(ahead, key=lambda record: sign * record.last(metric), default=None),
        confirming=tuple(r for r in records if r.confirms is not None),
        to_confirm=len(due(records, spec)),
        running=running,
        paused=paused,
        finalists=tuple(ended[: spec.evaluation.finalists]),
    )


def remaining_seconds(records: Sequence[TrialRecord], spec: SweepSpec, at_once: int) -> float | None:
    """Estimate the seconds left from the mean time of the epochs so far; None before the first epoch."""
    epochs = [epoch.value("epoch_s") for record in records for epoch in record.epochs]
    if not epochs:
        return None
    left = spec.trials + len(due(records, spec)) - sum(r.state in ENDED and r.confirms is None for r in records)
    left += sum(record.ended_at is None and record.confirms is not None for record in records)
    return epochs_to_come(records, spec) * sum(epochs) / len(epochs) / max(1, min(at_once, left))


def epochs_to_come(records: Sequence[TrialRecord], spec: SweepSpec) -> float:
    """Estimate how many epochs the sweep still has to train.

    If trials pause, the rule says how many pass each rung. Otherwise a future trial is expected to train as many epochs
    as the mean of the ended ones and of `PRIOR_TRIALS` imaginary ones that early stopping treats as its rule says. The
    latter are needed because the first trials of a sweep pass every rung, which says little about the others.
    Confirming trials count once the search is over.
    """
    of = {record.number: record for record in records}
    confirming = [record for record in records if record.confirms is not None and record.ended_at is None]
    to_confirm = sum(record.config.epochs - len(record.epochs) for record in confirming)
    to_confirm += sum(of[confirmation.confirms].config.epochs for confirmation in due(records, spec))
    return to_confirm + _epochs_to_search([record for record in records if record.confirms is None], spec)


def _epochs_to_search(records: Sequence[TrialRecord], spec: SweepSpec) -> float:
    """Estimate how many epochs the search still has to train."""
    if spec.asha is not None and spec.asha.promote:
        return _epochs_to_promote(records, spec)
    ended = [len(record.epochs) for record in records if record.state in ENDED]
    expected = (sum(ended) + PRIOR_TRIALS * _expected_epochs(spec)) / (len(ended) + PRIOR_TRIALS)
    begun = [len(record.epochs) for record in records if record.state not in ENDED]
    return expected * (spec.trials - len(records)) + sum(max(1.0, expected - done) for done in begun)


def _epochs_to_promote(records: Sequence[TrialRecord], spec: SweepSpec) -> float:
    """Estimate the epochs left in a search whose trials pause: at least one in `reduction_factor` passes each rung.

    More may pass, because the first to arrive at a rung go on before the best have come. At least one trial passes all
    rungs.
    """
    assert spec.asha is not None
    if len(records) >= spec.trials and all(record.state in ENDED for record in records):
        return 0.0
    to_come, expected = 0, spec.trials
    for start, stop in pairwise([0, *spec.asha.rungs(spec.max_epochs), spec.max_epochs]):
        begun = [record for record in records if len(record.epochs) > start or start == 0]
        expected = max(expected, len(begun))
        done = sum(min(len(record.epochs), stop) - start for record in begun)
        spared = sum(max(0, stop - len(record.epochs)) for record in begun if record.state in ENDED)
        to_come += expected * (stop - start) - done - spared
        expected = max(1, expected // spec.asha.reduction_factor)
    return float(to_come)


def remaining_test_seconds(status: SweepStatus, at_once: int) -> float | None:
    """Estimate the seconds that testing still takes from the mean of the tested finalists; None before the first."""
    costs = [record.tested.measured_s for record in status.finalists if record.tested is not None]
    if not costs:
        return None
    rounds = math.ceil(len(status.untested) / max(1, at_once))
    return rounds * sum(costs) / len(costs)


PRIOR_TRIALS = 3


def _expected_epochs(spec: SweepSpec) -> float:
    """Return the expected epochs of a trial if one in `reduction_factor` trials passes each rung."""
    most = spec.max_epochs
    if spec.asha is None:
        return float(most)
    stops = [*spec.asha.rungs(most), most]
    spans = [after - before for before, after in pairwise([0, *stops])]
    return sum(span / float(spec.asha.reduction_factor) ** index for index, span in enumerate(spans))
