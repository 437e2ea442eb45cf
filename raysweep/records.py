"""What became of a trial, as one value: the ledger yields records, the reports are made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from raysweep.config import TrialConfig
from raysweep.metrics import METRICS, WITHOUT_RESULT, EpochMetrics, FinalMetrics, TrialState
from raysweep.space import Scalar, TrialSpace


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch of one trial."""

    metrics: EpochMetrics
    recorded_at: datetime
    """When the ledger took it, in UTC."""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial: its configuration, how far it came, and why it ended."""

    number: int
    """The trial's number in the study, from 0."""
    space: TrialSpace
    """What was searched; one for all trials of a sweep."""
    params: dict[str, Scalar]
    """Its point: the searched fields alone."""
    state: TrialState
    epochs: tuple[EpochRecord, ...]
    """In order, without gaps, from epoch 1."""
    tested: FinalMetrics | None = None
    """Its metrics on the test split, if they were measured."""
    enqueued: bool = False
    """Whether the point was given in the search space file rather than chosen by the sampler."""
    cause: str | None = None
    """Why the trial ended, in a sentence; None while it runs."""
    error: str | None = None
    """The traceback of a trial that failed."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    node: str | None = None
    """Host name of the machine that trained it last."""
    device: str | None = None
    """`cpu`, or the name of the GPU."""

    @property
    def config(self) -> TrialConfig:
        """Its configuration, made anew each time: of all that is known of a trial it would take the most memory."""
        return self.space.config(self.params)

    @property
    def final(self) -> EpochMetrics | None:
        """The metrics of the last epoch."""
        return self.epochs[-1].metrics if self.epochs else None

    def best(self, metric: str) -> EpochMetrics | None:
        """The metrics of the epoch in which `metric` was best; None if it never was a finite number."""
        mode = METRICS[metric].mode
        assert mode is not None
        finite = [e.metrics for e in self.epochs if math.isfinite(getattr(e.metrics, metric))]
        if not finite:
            return None
        pick = max if mode == "max" else min
        return pick(finite, key=lambda metrics: float(getattr(metrics, metric)))


def ranked(records: list[TrialRecord], metric: str) -> list[TrialRecord]:
    """The trials that have a finite final value of `metric`, best first.

    Trials that ran to their end come before those that were stopped on the way, whatever their values: a value after
    fewer epochs is another measurement.
    """
    measured = [r for r in records if r.final is not None and math.isfinite(getattr(r.final, metric))]
    return sorted((r for r in measured if r.state not in WITHOUT_RESULT), key=lambda record: rank(record, metric))


def rank(record: TrialRecord, metric: str) -> tuple[bool, float, int]:
    """By which trials are sorted, the best first; an infinity for one without a finite final value of `metric`."""
    value = float(getattr(record.final, metric)) if record.final and record.state not in WITHOUT_RESULT else math.nan
    sign = -1.0 if METRICS[metric].mode == "max" else 1.0
    return (record.state is not TrialState.COMPLETED, sign * value if math.isfinite(value) else math.inf, record.number)
