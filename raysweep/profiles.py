"""Where a sweep's time goes: the parts of that time, and the profile with the seconds of each.

There are two sums: (a) the slots', in slot-seconds: while `n` trials may run at once, `n` slot-seconds pass each
second, whether the slots are busy or idle; (b) the driver's, in seconds of the driver. In each sum, every moment
belongs to one part, so the parts add up to the whole. docs/profile.md says how each is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TypeVar


class _Part(Enum):
    """A part's name in tables, with its label and meaning. Parts of the two sums differ, even if named alike."""

    value: str

    label: str
    """Its name for people."""
    meaning: str

    def __new__(cls, name: str, label: str, meaning: str) -> _Part:
        part = object.__new__(cls)
        part._value_ = name
        part.label, part.meaning = label, meaning
        return part

    def __str__(self) -> str:
        return self.value


class SlotPart(_Part):
    """The parts of a slot's time."""

    START_UP = "idle_start_up", "idle: start-up", "no trial was handed out yet"
    BETWEEN = "idle_between_trials", "idle: between trials", "a trial was still to be handed out"
    LAST_TRIALS = "idle_last_trials", "idle: last trials", "no trial was left to hand out; others were at work"
    TESTS = "idle_tests", "idle: last tests", "no finalist was left to test; others were tested"
    REPORT = "idle_report", "idle: report", "the driver wrote the closing report"
    MACHINE = "machine", "waiting for a machine", "its trial waited for a machine, until a process could start"
    PROCESS = "process", "starting a process", "its trial's process started, or took over from the trial before"
    IMPORTS = "imports", "imports", "the process imported torch and raysweep"
    IMAGES = "images", "opening the images", "opened, split, and fetched or copied to the GPU where they were not"
    MODEL = "model", "building the model", "made and moved to the device; the mean image was predicted once"
    RESTORE = "restore", "looking for checkpoints", "looked for a checkpoint and read it"
    DATA = "data", "training: data", "batches were ordered, gathered and augmented, and noise drawn"
    FORWARD = "forward", "training: forward", "the network and the loss"
    BACKWARD = "backward", "training: backward", "the gradient"
    OPTIMISER = "optimiser", "training: optimiser", "Adam's step, and clipping where the trial asks for it"
    EVALUATION = "evaluation", "evaluation", "one pass over the validation images"
    CHECKPOINT = "checkpoint", "checkpoints", "one was written and an older one dropped"
    PICTURES = "pictures", "pictures", "reconstructions and samples were drawn"
    BUCKET = "bucket", "waiting for the bucket", "checkpoints were fetched, or what was on its way had to arrive"
    EXCHANGE = "exchange", "Ray and the driver", "a report was on its way, or the driver's answer to it"
    TEST = "test", "final metrics", "a finalist was measured on the test split"
    LOST = "lost", "lost", "a process died, failed or was stopped before it could report what it was at"
    UNACCOUNTED = "unaccounted", "unaccounted", "the rest of a trial's time in its process"


class DriverPart(_Part):
    """The parts of the driver's time."""

    COMMAND = "command", "command", "from the typed command until the sweep began: Python, imports, the file"
    IMAGES = "images", "images", "the prepared images were found, or built"
    PREFLIGHT = "preflight", "preflight", "collapse was predicted"
    RAY = "ray", "Ray's start", "Ray and Ray Tune were imported, and Ray started or joined"
    LEDGER = "ledger", "ledger", "trials, epochs and ends were written to the journal; sweep.yaml"
    SAMPLER = "sampler", "sampler", "the next point was chosen"
    TENSORBOARD = "tensorboard", "TensorBoard", "scalars, pictures and text were written"
    REPORT = "report", "tables and figures", "Parquet files, figures and findings were written"
    TERMINAL = "terminal", "terminal", "the live display was drawn"
    BUCKET = "bucket", "bucket", "the sweep's bucket was asked or written to, other than in the background"
    LOOP = "loop", "Ray Tune", "processor time of Ray's and Ray Tune's own loop while trials ran or were tested"
    WAITING = "waiting", "waiting", "the same loop waited for trials"
    UNACCOUNTED = "unaccounted", "unaccounted", "the rest"


IDLE = (SlotPart.START_UP, SlotPart.BETWEEN, SlotPart.LAST_TRIALS, SlotPart.TESTS, SlotPart.REPORT)
"""Parts in which no trial and no test has the slot."""
STEP = (SlotPart.FORWARD, SlotPart.BACKWARD, SlotPart.OPTIMISER)
"""Parts of a training step, once it has its batch."""
EPOCH = (
    SlotPart.DATA, *STEP, SlotPart.EVALUATION, SlotPart.CHECKPOINT, SlotPart.PICTURES, SlotPart.BUCKET,
    SlotPart.EXCHANGE, SlotPart.UNACCOUNTED,
)  # fmt: skip
"""Parts that belong to one epoch of a trial. The other parts of its time belong to the trial as a whole."""

P = TypeVar("P", bound=_Part)


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one part: of the slots for a `SlotPart`, of the driver for a `DriverPart`."""

    part: SlotPart | DriverPart
    seconds: float
    trial: int | None = None
    """None for an idle slot and for the driver."""
    epoch: int | None = None
    """From 1; None for what belongs to the whole trial."""


@dataclass(frozen=True)
class Profile:
    """Where the time of one session went, from the typed command to the end of its report."""

    command: str
    """`run` or `resume`."""
    begun: datetime
    """When the command was typed, in UTC."""
    slots: int
    """Trials at once; the maximum if that changed."""
    spent: Sequence[Spent]

    @property
    def slot_s(self) -> float:
        """Total slot-seconds."""
        return sum(self.of(SlotPart).values())

    @property
    def wall_s(self) -> float:
        """Total seconds of the driver."""
        return sum(self.of(DriverPart).values())

    def of(self, parts: type[P]) -> dict[P, float]:
        """Return the seconds of every part of one kind, in the order of the parts."""
        seconds = dict.fromkeys(parts, 0.0)
        for spent in self.spent:
            if isinstance(spent.part, parts):
                seconds[spent.part] += spent.seconds
        return seconds

    def trials(self) -> dict[int, dict[SlotPart, float]]:
        """Return the seconds of every part of each trial, by trial number."""
        found: dict[int, dict[SlotPart, float]] = {}
        for spent in self.spent:
            if spent.trial is not None and isinstance(spent.part, SlotPart):
                seconds = found.setdefault(spent.trial, dict.fromkeys(SlotPart, 0.0))
                seconds[spent.part] += spent.seconds
        return dict(sorted(found.items()))
