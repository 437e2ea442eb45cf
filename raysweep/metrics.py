"""The vocabulary of results: what a trial measures after each epoch, and the states in which a trial ends.

This is the one list of metric names. A trial yields an `EpochMetrics`, the objective of a search space file names
one of its fields, and the columns of the reports are its fields. docs/metrics.md defines each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal, NamedTuple

Mode = Literal["min", "max"]


class Metric(NamedTuple):
    """What a reader has to know of one field of `EpochMetrics`."""

    name: str
    type: type
    unit: str
    mode: Mode | None
    """Whether less or more is better; None for a metric that is no objective."""
    meaning: str


def _metric(unit: str, mode: Mode | None, meaning: str) -> Any:
    return field(metadata={"unit": unit, "mode": mode, "meaning": meaning})


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """What one epoch of training came to. All but the first and the last two come from one pass over validation."""

    epoch: int
    """Counts from 1."""
    train_loss: float = _metric("", "min", "training objective, mean over the epoch's images")
    val_loss: float = _metric("", "min", "training objective on the validation images, at the full KLD weight")
    elbo_nats: float = _metric("nats/image", "max", "evidence lower bound at beta = 1 with a calibrated decoder")
    bits_per_dim: float = _metric("bits/dim", "min", "upper bound on the code length of an 8-bit pixel")
    rate_nats: float = _metric("nats/image", None, "KL divergence from the posterior to the prior")
    distortion_nats: float = _metric("nats/image", None, "negative log-likelihood under the calibrated decoder")
    mse: float = _metric("", "min", "mean squared error of reconstructions, a pixel in [0, 1]")
    psnr_db: float = _metric("dB", "max", "peak signal-to-noise ratio of the mean squared error")
    r2: float = _metric("", "max", "share of the pixels' variance that reconstructions explain")
    active_units: int = _metric("latents", "max", "latents whose posterior mean varies with the image")
    collapsed: bool = _metric("", None, "the decoder ignores the latents: r2 < 0.02 or rate_nats < 0.1")
    images_per_s: float = _metric("images/s", "max", "training images a second, evaluation left out")
    epoch_s: float = _metric("s", None, "wall time of the epoch, training and evaluation")


METRICS: dict[str, Metric] = {
    f.name: Metric(
        f.name,
        {"float": float, "int": int, "bool": bool}[str(f.type)],
        f.metadata["unit"],
        f.metadata["mode"],
        f.metadata["meaning"],
    )
    for f in fields(EpochMetrics)
    if f.metadata
}
"""Every metric by name, in the order of the reports' columns."""


class TrialState(StrEnum):
    """Where a trial stands. Every trial of a sweep that is not running ends in one of the last six."""

    RUNNING = "running"
    COMPLETED = "completed"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


WITHOUT_RESULT = frozenset({TrialState.DIVERGED, TrialState.OUT_OF_MEMORY, TrialState.FAILED})
"""States of trials whose last value says nothing of their configuration."""
