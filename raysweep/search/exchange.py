"""What travels between the driver and an actor: an order to train one trial, and a report of each epoch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raysweep.config import TrialConfig
from raysweep.metrics import EpochMetrics, TrialState
from raysweep.spec import DataSpec


@dataclass(frozen=True)
class TrialOrder:
    """All that an actor needs to train one trial; small, since data travels as a path."""

    number: int
    config: TrialConfig
    data: DataSpec
    cache: Path
    directory: Path
    picture_epochs: frozenset[int]
    """Epochs after which the trial may end, and so draws its pictures."""
    threads: int
    gpu: bool


@dataclass(frozen=True)
class EpochReport:
    """What came of an epoch: metrics, or the state in which the trial ended instead."""

    metrics: EpochMetrics | None
    node: str
    device: str
    pid: int
    ended: TrialState | None = None
    cause: str = ""
    error: str | None = None
    notes: tuple[str, ...] = ()
    """What was logged on the way, for the sweep's own log."""
    storage_failed: bool = False
    """Whether the trial could not write: the sweep has to stop, and the trial is not at fault."""
