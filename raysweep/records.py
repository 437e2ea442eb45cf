"""The course and outcome of a trial as one value. The ledger yields records; the reports are made from them."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import accumulate
from operator import attrgetter

from raysweep.metrics import (
    FINAL_METRICS,
    FINAL_PREFIX,
    OBJECTIVES,
    WITHOUT_RESULT,
    EpochMetrics,
    FinalMetrics,
    Mode,
    TrialState,
)
from raysweep.spec.config import TrialConfig
from raysweep.spec.space import Scalar, TrialSpace

_CODES = {"int": "q", "float": "d", "bool": "?"}
_FIELDS = {field.name: "<" + _CODES[str(field.type)] for field in fields(EpochMetrics)}
_PACKED = struct.Struct("<" + "".join(code[1:] for code in _FIELDS.values()))
_PLACES = dict(zip(_FIELDS, accumulate(map(struct.calcsize, _FIELDS.values()), initial=0), strict=False))
_values = attrgetter(*_FIELDS)


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch of one trial."""

    packed: bytes
    """Its metrics, packed as bytes: a third of the memory of the numbers themselves."""
    recorded_at: datetime
    """When the ledger recorded it, in UTC."""

    @classmethod
    def of(cls, metrics: EpochMetrics, recorded_at: datetime) -> EpochRecord:
        """Pack the metrics of an epoch.

        Raises:
            struct.error: if a whole number does not fit into 64 bits.
        """
        return cls(_PACKED.pack(*_values(metrics)), recorded_at)

    @property
    def metrics(self) -> EpochMetrics:
        """The metrics of the epoch, unpacked on each access."""
        return EpochMetrics(**dict(zip(_FIELDS, _PACKED.unpack(self.packed), strict=True)))

    def value(self, metric: str) -> float:
        """Return one of its metrics, without unpacking the others."""
        number: float
        (number,) = struct.unpack_from(_FIELDS[metric], self.packed, _PLACES[metric])
        return number

    def __repr__(self) -> str:
        """Show the epoch's number and its `elbo_nats`; `metrics` has all metrics."""
        return f"<epoch {self.value('epoch'):g}: elbo_nats {self.value('elbo_nats'):.5g}>"


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial: its configuration, how far it got, and why it ended.

    The names `trial`, `state`, `params`, `config`, `metrics` and `test_metrics` are those of
    `raysweep best --format json`.
    """

    number: int
    """The trial's number in the study, from 0."""
    space: TrialSpace
    """The searched space; the same for all trials of a sweep."""
    params: dict[str, Scalar]
    """Its point: only the searched fields."""
    state: TrialState
    epochs: tuple[EpochRecord, ...]
    """In order, without gaps, from epoch 1."""
    tested: FinalMetrics | None = None
    """Its metrics on the test split, if they were measured."""
    confirms: int | None = None
    """The trial of the search whose configuration it trains again; None for a trial of the search."""
    confirms_by: tuple[str, int] | None = None
    """The metric by which that trial was among the best, and the planned number of all confirmations."""
    seed: int | None = None
    """The `trial.seed` that replaces its configuration's own, if it confirms another trial."""
    confirmed_by: tuple[TrialRecord, ...] = ()
    """The trials that confirm it, by number."""
    enqueued: bool = False
    """True if the point was given in the search space file rather than chosen by the sampler."""
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
    def trial(self) -> int:
        """The trial's number."""
        return self.number

    @property
    def metrics(self) -> EpochMetrics | None:
        """The metrics of the last epoch."""
        return self.final

    @property
    def test_metrics(self) -> FinalMetrics | None:
        """The metrics on the test split, if they were measured."""
        return self.tested

    @property
    def epochs_done(self) -> int:
        """How many epochs it has trained."""
        return len(self.epochs)

    def __repr__(self) -> str:
        """Show on one line what was tried and the result."""
        parts = [f"{self.state.value}", f"{len(self.epochs)} epoch{'s' * (len(self.epochs) != 1)}"]
        if self.epochs:
            parts.append(f"elbo_nats {self.last('elbo_nats'):.5g}")
        parts += [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.params.items()]
        return f"<trial {self.number}: {', '.join(parts)}>"

    @property
    def config(self) -> TrialConfig:
        """Its configuration, built on each access, because it would take the most memory of a record."""
        config = self.space.config(self.params)
        return config if self.seed is None else config.model_copy(update={"seed": self.seed})

    @property
    def final(self) -> EpochMetrics | None:
        """The metrics of the last epoch."""
        return self.epochs[-1].metrics if self.epochs else None

    def last(self, metric: str) -> float:
        """Return the last epoch's metric, or for `test_...` the test split's; NaN if it was not measured."""
        if metric in FINAL_METRICS:
            value = getattr(self.tested, metric.removeprefix(FINAL_PREFIX)) if self.tested else None
            return math.nan if value is None else float(value)
        return float(self.epochs[-1].value(metric)) if self.epochs else math.nan

    def confirmed_values(self, metric: str) -> list[float]:
        """Return the metric of its finished confirmations, by trial number; NaN for one that diverged.

        Trials that failed are left out, because they say nothing about its configuration. A metric of the test split
        has no values here, because only finalists have one.
        """
        if metric in FINAL_METRICS:
            return []
        ended = [record for record in self.confirmed_by if record.ended_at is not None]
        return [
            math.nan if record.state is TrialState.DIVERGED else record.last(metric)
            for record in ended
            if record.state in (TrialState.COMPLETED, TrialState.DIVERGED)
        ]

    def best(self, metric: str) -> EpochMetrics | None:
        """Return the metrics of the epoch in which `metric` was best; None if it was never finite."""
        finite = [epoch for epoch in self.epochs if math.isfinite(epoch.value(metric))]
        if not finite:
            return None
        pick = max if OBJECTIVES[metric] == "max" else min
        return pick(finite, key=lambda epoch: epoch.value(metric)).metrics


def mode_of(metric: str) -> Mode | None:
    """Return whether less or more of a metric, also a `test_...` one, is better; None if neither is."""
    return FINAL_METRICS[metric].mode if metric in FINAL_METRICS else OBJECTIVES.get(metric)


def of_search(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the trials of the search, without those that confirm one of them."""
    return [record for record in records if record.confirms is None]


def ranked(records: list[TrialRecord], metric: str) -> list[TrialRecord]:
    """Return the trials that have a finite final value of `metric`, the best first.

    Completed trials come before those that were stopped early, whatever their values, because a value after fewer
    epochs is a different measurement. Once all confirmations have ended, the confirmed trials come first, by the mean
    of their confirmations. The confirmations themselves are left out.
    """
    measured = [r for r in of_search(records) if math.isfinite(r.last(metric)) and r.state not in WITHOUT_RESULT]
    key = _rank_confirmed if is_confirmed(measured, metric) else rank_alone
    return sorted(measured, key=lambda record: key(record, metric))


def is_confirmed(records: Iterable[TrialRecord], metric: str) -> bool:
    """Return whether these trials are ranked, by this metric, by their means over other seeds.

    They are if (a) the search compared trials by the metric, (b) all planned confirmations have ended, and (c) each
    confirmed trial has at least one value from them. Its own value does not compare with these: the trial was chosen by
    it, so it is better by luck.
    """
    originals = [record for record in records if record.confirmed_by]
    confirming = [other for record in originals for other in record.confirmed_by]
    if not confirming or any(other.ended_at is None for other in confirming):
        return False
    told = [other.confirms_by for other in confirming if other.confirms_by is not None]
    if any(by != metric for by, _ in told) or len(confirming) < max((planned for _, planned in told), default=0):
        return False
    return all(record.confirmed_values(metric) for record in originals)


def _rank_confirmed(record: TrialRecord, metric: str) -> tuple[int, float, int]:
    """Return a trial's sort key if some are confirmed; diverged ones come after completed ones without confirmation."""
    values = record.confirmed_values(metric)
    is_stopped, alone, number = rank_alone(record, metric)
    if not values:
        return (3 if is_stopped else 1, alone, number)
    sign = -1.0 if mode_of(metric) == "max" else 1.0
    mean = sum(values) / len(values)
    return (0, sign * mean, number) if math.isfinite(mean) else (2, alone, number)


def rank_alone(record: TrialRecord, metric: str) -> tuple[bool, float, int]:
    """Return a trial's sort key if none is confirmed; its value is infinity if it is not finite."""
    value = record.last(metric) if record.state not in WITHOUT_RESULT else math.nan
    sign = -1.0 if mode_of(metric) == "max" else 1.0
    return (record.state is not TrialState.COMPLETED, sign * value if math.isfinite(value) else math.inf, record.number)


def diverged_by(epoch: EpochRecord, metric: str) -> str | None:
    """Return which loss or `metric` shows that the trial diverged in this epoch; None if all are finite."""
    names = ("train_loss", "val_loss", metric)
    return next((name for name in names if not math.isfinite(epoch.value(name))), None)
