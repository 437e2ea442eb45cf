"""The part of earlier sweeps that a sweep takes over: their ended trials, as points of its space.

It is copied into the ledger when the sweep begins. From then on the earlier sweeps may be moved, changed or deleted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysweep.errors import LedgerError
from raysweep.metrics import TrialState
from raysweep.records import TrialRecord
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import Scalar, TrialSpace
from raysweep.wording import counted

MOST_TRIALS = 100
"""Most trials taken from one sweep: the best, and an even choice of the others. It limits the ledger's line."""
_BEST = 40
"""How many of these are the best ones."""


@dataclass(frozen=True)
class PastTrial:
    """One ended trial of an earlier sweep."""

    point: Mapping[str, Scalar]
    """Its value of every parameter that this sweep searches."""
    values: Mapping[int, float]
    """The objective at the earlier sweep's rungs and at the trial's last epoch; NaN where it diverged."""


@dataclass(frozen=True)
class PastSweep:
    """The trials that are taken over from one earlier sweep."""

    sweep: str
    """Where it was: a path or an address."""
    last_epoch: int
    """Epochs of its longest trial."""
    trials: tuple[PastTrial, ...]
    left_out: Mapping[str, int]
    """Trials that were not taken, by reason."""

    @property
    def summary(self) -> str:
        """Say how many trials are taken, and how many are left out and why."""
        reasons = "; ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        left = sum(self.left_out.values())
        rest = f", {left} left out: {reasons}" if left else ""
        return f"{self.sweep}: {counted(len(self.trials), 'trial')} taken{rest}"

    def as_mapping(self) -> dict[str, Any]:
        """Return it as JSON for the ledger, with null for values that are not finite."""
        trials = [
            {"point": dict(t.point), "values": {str(e): v if math.isfinite(v) else None for e, v in t.values.items()}}
            for t in self.trials
        ]
        return {
            "sweep": self.sweep, "last_epoch": self.last_epoch, "trials": trials, "left_out": dict(self.left_out),
        }  # fmt: skip


def past_from(mappings: Any) -> tuple[PastSweep, ...]:
    """Restore the sweeps from which `PastSweep.as_mapping` made these mappings.

    Raises:
        LedgerError: if a mapping is damaged.
    """
    try:
        return tuple(
            PastSweep(
                str(one["sweep"]), int(one["last_epoch"]),
                tuple(
                    PastTrial(
                        dict(t["point"]), {int(e): math.nan if v is None else float(v) for e, v in t["values"].items()}
                    )
                    for t in one["trials"]
                ),
                {str(reason): int(count) for reason, count in one["left_out"].items()},
            )
            for one in mappings
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerError(f"the trials of earlier sweeps (search.start_from) are damaged: {error!r}") from error


def taken_from(sweep: str, before: SweepSpec, records: Sequence[TrialRecord], space: TrialSpace) -> PastSweep:
    """Return the trials of an earlier sweep that are points of this space.

    A parameter that the earlier sweep did not search gets the value that all its trials had.
    """
    metric = before.search.objective.metric
    rungs = frozenset(before.asha.rungs(before.max_epochs)) if before.asha is not None else frozenset()
    trials: list[PastTrial] = []
    reasons: Counter[str] = Counter()
    for record in records:
        reason = _unfit(record)
        point: dict[str, Scalar] = {}
        if not reason:
            config = record.config
            point = {name: getattr(config, name) for name in space.searched}
            outside = [name for name, value in point.items() if value not in space.searched[name]]
            reason = f"with {outside[0]} outside of {space.searched[outside[0]]}" if outside else ""
        if reason:
            reasons[reason] += 1
            continue
        reached = len(record.epochs)
        values = {
            epoch.metrics.epoch: float(getattr(epoch.metrics, metric))
            for epoch in record.epochs
            if epoch.metrics.epoch in rungs or epoch.metrics.epoch == reached
        }
        if record.state is TrialState.DIVERGED:
            values = {before.max_epochs: math.nan}
        trials.append(PastTrial(point, values))
    sign = 1.0 if before.search.objective.direction == "max" else -1.0
    chosen = _chosen(trials, sign)
    if len(chosen) < len(trials):
        reasons[f"more than the {MOST_TRIALS} that are taken of a sweep"] = len(trials) - len(chosen)
    return PastSweep(sweep, before.max_epochs, tuple(chosen), dict(reasons))


def _unfit(record: TrialRecord) -> str:
    """Return why a trial cannot be used, whatever its point is; empty if it can."""
    if record.ended_at is None:
        return "not ended"
    if record.state in (TrialState.FAILED, TrialState.OUT_OF_MEMORY):
        return "failed"
    if not record.epochs and record.state is not TrialState.DIVERGED:
        return "without an epoch"
    return ""


def _chosen(trials: Sequence[PastTrial], sign: float) -> list[PastTrial]:
    """Return all trials, or the best and an even choice of the others, in their order."""
    if len(trials) <= MOST_TRIALS:
        return list(trials)
    order = by_rank(trials, sign)
    others, wanted = sorted(order[_BEST:]), MOST_TRIALS - _BEST
    kept = {*order[:_BEST], *(others[index * len(others) // wanted] for index in range(wanted))}
    return [trials[index] for index in sorted(kept)]


def by_rank(trials: Sequence[PastTrial], sign: float) -> list[int]:
    """Return the indices of trials, the best first: by the epoch reached, then the last value; diverged ones last."""

    def rank(index: int) -> tuple[bool, int, float]:
        epoch, value = max(trials[index].values.items())
        return (math.isnan(value), -epoch, -sign * value if math.isfinite(value) else 0.0)

    return sorted(range(len(trials)), key=rank)
