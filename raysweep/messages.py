"""Messages between driver, backend and workers: orders to train or test a trial, their results, and faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import floor
from pathlib import Path

from raysweep.metrics import Criterion, EpochMetrics, FinalMetrics, TrialState
from raysweep.profiles import SlotPart
from raysweep.spec.config import TrialConfig
from raysweep.spec.sections import DataSpec, EvaluationSpec


@dataclass(frozen=True)
class Share:
    """The part of a machine that one training process has."""

    cpu: float
    gpu: float


@dataclass(frozen=True)
class Slots:
    """The training processes that run at once, with a share of a machine each, and their trials."""

    cpu: float
    gpu: float
    count: int
    """How many of these processes run at once."""
    larger: Share | None = None
    """The share for a trial that ran out of memory; None if no machine has more."""
    fused: int = 1
    """How many trials one process may train together."""

    @property
    def share(self) -> Share:
        return Share(self.cpu, self.gpu)

    @property
    def threads(self) -> int:
        return max(1, floor(self.cpu))

    @property
    def trials(self) -> int:
        """The most trials at once."""
        return self.count * self.fused


@dataclass(frozen=True)
class ImageFile:
    """The prepared images: where the driver has them, and how another machine gets and identifies them."""

    path: Path
    dataset: str
    checksum: str
    """Of the content, 64 hex digits."""
    size: int
    """Bytes."""
    node: str | None = None
    """Ray's id of the driver's machine; None if every machine reads the same `path`."""
    origin: str | None = None
    """The URI of a sweep in a bucket that has the images too."""

    @property
    def name(self) -> str:
        """The name in the sweep's bucket."""
        return self.name_of(self.dataset, self.checksum)

    @staticmethod
    def name_of(dataset: str, checksum: str) -> str:
        return f"data/{dataset}-{checksum[:12]}.arrow"


@dataclass(frozen=True)
class TrialOrder:
    """All that an actor needs to train one trial; small, because the data is passed as a path."""

    number: int
    config: TrialConfig
    data: DataSpec
    images: ImageFile
    directory: Path
    picture_epochs: frozenset[int]
    """Epochs after which the trial may end; it draws its pictures then."""
    strip_epochs: frozenset[int]
    """Epochs after which it draws a row of reconstructions."""
    threads: int
    share: Share
    epochs_done: int = 0
    """How many of its epochs are in the ledger; its checkpoints should have got as far."""
    kept_by: Criterion | None = None
    """Chooses the best epoch, whose checkpoint is kept besides the last one; None to keep only the last."""
    epoch_timeout_s: float | None = None
    """If one epoch takes longer than this, the process that trains the trial ends itself."""
    origin: str | None = None
    """The URI of a sweep in a bucket. `directory` is then the driver's, and the actor has its own."""
    is_profiled: bool = False
    """True if its reports must say where the time went."""


@dataclass(frozen=True)
class EpochReport:
    """The result of an epoch: metrics, or the state in which the trial ended instead."""

    metrics: EpochMetrics | None
    node: str
    device: str
    pid: int
    ended: TrialState | None = None
    cause: str = ""
    error: str | None = None
    notes: tuple[str, ...] = ()
    """Lines logged during the epoch, for the sweep's own log."""
    storage_failed: bool = False
    """True if the trial could not write. The sweep must then stop, and the trial is not at fault."""
    gpus: tuple[str, ...] = ()
    """The GPUs of its machine that Ray assigned to it."""
    spent: Mapping[SlotPart, float] = field(default_factory=dict)
    """Seconds of each part of the step that led to this report; they add up to the step. If several trials are trained
    together, the trial's share of them. Empty unless the order asks for it."""
    process_age_s: float | None = None
    """Age of the trial's first process when it was given the trial. If it was given several at once, the trial's share
    of that age. None if the process had another trial before."""


@dataclass(frozen=True)
class TestOrder:
    """All that is needed to measure one finished trial on the test split."""

    __test__ = False  # tells pytest that this is not a class of tests

    number: int
    data: DataSpec
    evaluation: EvaluationSpec
    images: ImageFile
    directory: Path
    projected: bool
    """True for the few trials whose latents TensorBoard's Projector shows."""
    threads: int
    gpu: bool
    kept_by: Criterion | None = None
    """Chooses the best epoch, whose model is measured; None for the last epoch."""
    timeout_s: float | None = None
    """If the measurement takes longer than this, the process that makes it ends itself."""
    origin: str | None = None
    """As in `TrialOrder`."""


@dataclass(frozen=True)
class TestReport:
    """The result of measuring a trial: its final metrics, or why there are none."""

    __test__ = False

    metrics: FinalMetrics | None
    node: str
    cause: str = ""
    error: str | None = None
    notes: tuple[str, ...] = ()
    storage_failed: bool = False
    """True if the results could not be written. The sweep must then stop."""
    spent: Mapping[SlotPart, float] = field(default_factory=dict)
    """Seconds of each part of the measurement."""


class TrialFault(Enum):
    """A fault that interrupts a trial: (how many at one epoch end the trial, words for that in messages)."""

    EXCEPTION = (2, "raised again when tried anew")
    OUT_OF_MEMORY = (2, "also with a larger share")
    HANG = (2, "twice")
    DEATH = (4, "4 times at the same epoch")
    NODE_LOSS = (None, "")

    def __init__(self, tries: int | None, repeated: str) -> None:
        self.tries = tries
        """None if the trial is never at fault."""
        self.repeated = repeated
