"""What driver, backend and workers tell each other: orders to train or test a trial, what came of them, faults."""

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
    """What one process that trains holds of a machine."""

    cpu: float
    gpu: float


@dataclass(frozen=True)
class Slots:
    """What is at once: processes that train, with a share of a machine each, and their trials."""

    cpu: float
    gpu: float
    count: int
    """How many of these processes run at once."""
    larger: Share | None = None
    """What a trial is given that ran out of memory; None if no machine has more."""
    fused: int = 1
    """How many trials one of them may train together."""

    @property
    def share(self) -> Share:
        return Share(self.cpu, self.gpu)

    @property
    def threads(self) -> int:
        return max(1, floor(self.cpu))

    @property
    def trials(self) -> int:
        """Most trials at once."""
        return self.count * self.fused


@dataclass(frozen=True)
class ImageFile:
    """The prepared images: where the driver has them, and how another machine gets them and knows them."""

    path: Path
    dataset: str
    checksum: str
    """Of the content, 64 hex digits."""
    size: int
    """Bytes."""
    node: str | None = None
    """Ray's id of the driver's machine; None if every machine reads the same `path`."""
    origin: str | None = None
    """The URI of a sweep in a bucket, which has them too."""

    @property
    def name(self) -> str:
        """In the sweep's bucket."""
        return self.name_of(self.dataset, self.checksum)

    @staticmethod
    def name_of(dataset: str, checksum: str) -> str:
        return f"data/{dataset}-{checksum[:12]}.arrow"


@dataclass(frozen=True)
class TrialOrder:
    """All that an actor needs to train one trial; small, since data travels as a path."""

    number: int
    config: TrialConfig
    data: DataSpec
    images: ImageFile
    directory: Path
    picture_epochs: frozenset[int]
    """Epochs after which the trial may end, and so draws its pictures."""
    strip_epochs: frozenset[int]
    """Epochs after which it draws a row of reconstructions."""
    threads: int
    share: Share
    epochs_done: int = 0
    """Epochs that the ledger has of it: the checkpoints should be that far."""
    kept_by: Criterion | None = None
    """What the epoch is the best by whose checkpoint is kept beside the last; None to keep none."""
    epoch_timeout_s: float | None = None
    """After how many seconds of one epoch the process that trains it ends itself."""
    origin: str | None = None
    """The URI of a sweep in a bucket: `directory` is then the driver's, and the actor has its own."""
    is_profiled: bool = False
    """Whether its reports are to say where the time went."""


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
    gpus: tuple[str, ...] = ()
    """Which of its machine's Ray has given it."""
    spent: Mapping[SlotPart, float] = field(default_factory=dict)
    """Seconds of each part of the step that led to it, or the trial's share of them where several are trained together;
    they add up to the step. Empty unless the order asks for it."""
    process_age_s: float | None = None
    """Of the trial's first process: how old it was when it was given the trial, its share where several were; None if
    another trial had it before."""


@dataclass(frozen=True)
class TestOrder:
    """All that is needed to measure one trial that has ended on the test split."""

    __test__ = False  # for pytest: no class of tests

    number: int
    data: DataSpec
    evaluation: EvaluationSpec
    images: ImageFile
    directory: Path
    projected: bool
    """Whether it is among the few whose latents TensorBoard's Projector shows."""
    threads: int
    gpu: bool
    kept_by: Criterion | None = None
    """What the epoch is the best by whose model is measured; None for the last one."""
    timeout_s: float | None = None
    """After how many seconds the process that measures it ends itself."""
    origin: str | None = None
    """As in `TrialOrder`."""


@dataclass(frozen=True)
class TestReport:
    """What came of measuring a trial: its final metrics, or why there are none."""

    __test__ = False

    metrics: FinalMetrics | None
    node: str
    cause: str = ""
    error: str | None = None
    notes: tuple[str, ...] = ()
    storage_failed: bool = False
    """Whether what was measured could not be written: the sweep has to stop."""
    spent: Mapping[SlotPart, float] = field(default_factory=dict)
    """Seconds of each part of it."""


class TrialFault(Enum):
    """What can interrupt a trial, as (how often it ends the trial at one epoch, how its end is told)."""

    EXCEPTION = (2, "raised again when tried anew")
    OUT_OF_MEMORY = (2, "also with a larger share")
    HANG = (2, "twice")
    DEATH = (4, "4 times at the same epoch")
    NODE_LOSS = (None, "")

    def __init__(self, tries: int | None, repeated: str) -> None:
        self.tries = tries
        """None where the trial is never at fault."""
        self.repeated = repeated
