"""The vocabulary of results: what a trial measures after each epoch, and the states in which a trial ends.

This is the one list of metric names. A trial yields an `EpochMetrics`, the objective of a search space file names
one of its fields, and the columns of the reports are its fields. A finished trial may have `FinalMetrics` too, from
the test split: what costs more than an epoch can bear, or what choosing must not touch. docs/metrics.md defines them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal, NamedTuple

Mode = Literal["min", "max"]

ACTIVE_VARIANCE = 0.01
"""A latent is active if its posterior mean varies over images by more than this (Burda et al., arXiv:1509.00519)."""

COLLAPSED_R2 = 0.02
"""A model whose `r2` is below this is no better than the mean image ..."""
COLLAPSED_RATE_NATS = 0.1
"""... and one whose `rate_nats` is below this says nothing of the image: it has collapsed."""


class Metric(NamedTuple):
    """What a reader has to know of one field of `EpochMetrics`."""

    name: str
    type: type
    unit: str
    mode: Mode | None
    """Whether less or more is better; None where neither is, however far it goes: noise is sharper than real images."""
    meaning: str


def _metric(unit: str, mode: Mode | None, meaning: str, **default: Any) -> Any:
    return field(metadata={"unit": unit, "mode": mode, "meaning": meaning}, **default)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """What one epoch of training came to. All but the first and the last two come from one pass over validation."""

    epoch: int
    """Counts from 1."""
    train_loss: float = _metric("", "min", "training objective, mean over the epoch's images")
    val_loss: float = _metric("", "min", "training objective on the validation images, at the full KLD weight")
    elbo_nats: float = _metric("nats/image", "max", "evidence lower bound at beta = 1 with a calibrated decoder")
    elbo_binary_nats: float = _metric(
        "nats/image", "max", "evidence lower bound at beta = 1 on pixels binarised at 0.5", default=math.nan
    )
    bits_per_dim: float = _metric("bits/dim", "min", "upper bound on the code length of an 8-bit pixel")
    rate_nats: float = _metric("nats/image", None, "KL divergence from the posterior to the prior")
    distortion_nats: float = _metric("nats/image", None, "negative log-likelihood under the calibrated decoder")
    mse: float = _metric("", "min", "mean squared error of reconstructions, a pixel in [0, 1]")
    psnr_db: float = _metric("dB", "max", "peak signal-to-noise ratio of the mean squared error")
    r2: float = _metric("", "max", "share of the pixels' variance that reconstructions explain")
    active_units: int = _metric("latents", None, "latents whose posterior mean varies with the image")
    collapsed: bool = _metric("", None, "the decoder ignores the latents: r2 < 0.02 or rate_nats < 0.1")
    images_per_s: float = _metric("images/s", "max", "training images a second, evaluation left out")
    epoch_s: float = _metric("s", None, "wall time of the epoch, training and evaluation")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalMetrics:
    """What a finished trial comes to on the test split; None where a metric is not defined for it.

    A `floor` is the same measure between real images and real images: what a perfect model would have.
    """

    images: int = _metric("images", None, "test images, and samples, that costly metrics look at")
    features: str = _metric("", None, "space in which images are compared: `classifier` or `random`")
    elbo_nats: float | None = _metric("nats/image", "max", "evidence lower bound at beta = 1 with a calibrated decoder")
    elbo_binary_nats: float | None = _metric(
        "nats/image", "max", "evidence lower bound at beta = 1 on pixels binarised at 0.5"
    )
    iwae_nats: float | None = _metric("nats/image", "max", "importance-weighted bound with a calibrated decoder")
    iwae_binary_nats: float | None = _metric(
        "nats/image", "max", "importance-weighted bound on pixels binarised at 0.5, of trials trained on such"
    )
    iwae_samples: int = _metric("samples", None, "latents drawn an image for the importance-weighted bound")
    iwae_bits_per_dim: float | None = _metric("bits/dim", "min", "code length of an 8-bit pixel by `iwae_nats`")
    rate_nats: float | None = _metric("nats/image", None, "KL divergence from the posterior to the prior")
    mse: float | None = _metric("", "min", "mean squared error of reconstructions, a pixel in [0, 1]")
    psnr_db: float | None = _metric("dB", "max", "peak signal-to-noise ratio of the mean squared error")
    r2: float | None = _metric("", "max", "share of the pixels' variance that reconstructions explain")
    sigma: float | None = _metric("", None, "root mean square of the decoder's standard deviation of a pixel")
    sampled_mse: float | None = _metric("", "min", "mean squared error of reconstructions sampled pixel by pixel")
    denoised_mse: float | None = _metric("", "min", "mean squared error of reconstructions from noisy inputs")
    active_units: int = _metric("latents", None, "latents whose posterior mean varies with the image")
    latent_kl_nats: tuple[float, ...] = _metric("nats/image", None, "KL divergence of each latent, in their order")
    aggregate_kl_nats: float | None = _metric(
        "nats", None, "KL divergence to the prior of a Gaussian with the moments of all images' posteriors"
    )
    silhouette: float | None = _metric("", "max", "silhouette of the classes in the active latents")
    knn_accuracy: float | None = _metric("", "max", "accuracy of 5 nearest neighbours on the active latents")
    probe_accuracy: float | None = _metric("", "max", "accuracy of a linear classifier on the active latents")
    reconstruction_accuracy: float | None = _metric("", "max", "accuracy of the classifier on reconstructions")
    floor_reconstruction_accuracy: float | None = _metric("", None, "accuracy of the classifier on the test images")
    kid: float | None = _metric("", "min", "kernel distance of samples to test images, squared")
    mixture_kid: float | None = _metric("", "min", "`kid` of samples from a mixture fitted to the latents")
    floor_kid: float | None = _metric("", None, "`kid` of training images")
    precision: float | None = _metric("", "max", "share of samples that lie among test images")
    mixture_precision: float | None = _metric("", "max", "`precision` of samples from the mixture")
    floor_precision: float | None = _metric("", None, "`precision` of training images")
    recall: float | None = _metric("", "max", "share of test images that lie among samples")
    mixture_recall: float | None = _metric("", "max", "`recall` of samples from the mixture")
    floor_recall: float | None = _metric("", None, "`recall` of training images")
    density: float | None = _metric("", None, "how many test images a sample lies near, over the number expected")
    mixture_density: float | None = _metric("", None, "`density` of samples from the mixture")
    floor_density: float | None = _metric("", None, "`density` of training images")
    coverage: float | None = _metric("", "max", "share of test images that have a sample near them")
    mixture_coverage: float | None = _metric("", "max", "`coverage` of samples from the mixture")
    floor_coverage: float | None = _metric("", None, "`coverage` of training images")
    reconstruction_sharpness: float | None = _metric(
        "", None, "variance of the Laplacian of reconstructions, good where it is near `floor_sharpness`"
    )
    sample_sharpness: float | None = _metric(
        "", None, "variance of the Laplacian of samples from the prior, good where it is near `floor_sharpness`"
    )
    floor_sharpness: float | None = _metric("", None, "variance of the Laplacian of test images")
    interpolation_monotonicity: float | None = _metric(
        "", None, "share of steps between two images that lead away from the one and towards the other"
    )
    interpolation_largest_step: float | None = _metric(
        "", "min", "largest step between two images over the mean step, mean over pairs; 1 is even"
    )
    measured_s: float = _metric("s", None, "wall time that measuring all this took")


FINAL_PREFIX = "test_"
"""What the names of final metrics begin with in tables, figures and claims: `test_kid`."""

_TYPES = {"float": float, "int": int, "bool": bool, "str": str, "tuple": tuple}


def _described(metrics: type, prefix: str = "") -> dict[str, Metric]:
    return {
        prefix + f.name: Metric(
            prefix + f.name,
            _TYPES[re.split(r"\W", str(f.type))[0]],
            f.metadata["unit"],
            f.metadata["mode"],
            f.metadata["meaning"],
        )
        for f in fields(metrics)
        if f.metadata
    }


METRICS = _described(EpochMetrics)
"""Every metric of an epoch by name, in the order of the reports' columns."""

FINAL_METRICS = _described(FinalMetrics, FINAL_PREFIX)
"""Every final metric by its name in tables, in the order of the reports' columns."""


FORMER_MODES: dict[str, Mode] = {
    "active_units": "max",
    "best_active_units": "max",
    "test_active_units": "max",
    "test_aggregate_kl_nats": "min",
    "test_density": "max",
    "test_mixture_density": "max",
    "test_reconstruction_sharpness": "max",
    "test_sample_sharpness": "max",
    "test_interpolation_monotonicity": "max",
}
"""Directions that raysweep 0.1 gave to metrics of which a poor model can have the most, or the least.

Noise is sharp, a tiny KLD weight keeps all latents active, a collapsed model has no divergence and smooth paths. Files
that were written for these directions still load.
"""

OBJECTIVES: dict[str, Mode] = {
    name: mode for name, metric in METRICS.items() if (mode := metric.mode or FORMER_MODES.get(name))
}
"""Every metric of an epoch that a search can have as its objective, with its direction."""


class Criterion(NamedTuple):
    """What epochs and trials are compared by."""

    metric: str
    """One of `METRICS`."""
    mode: Mode

    def loss(self, metrics: EpochMetrics) -> float:
        """Return the metric as a number of which less is better; infinity if it is none."""
        value = float(getattr(metrics, self.metric))
        return (value if self.mode == "min" else -value) if math.isfinite(value) else math.inf


class TrialState(StrEnum):
    """Where a trial stands: it runs, is paused, has ended, or was interrupted together with its sweep."""

    RUNNING = "running"
    PAUSED = "paused"
    """It stands on a rung of early stopping, without a process; it goes on if it is among the best there."""
    COMPLETED = "completed"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


WITHOUT_RESULT = frozenset({TrialState.DIVERGED, TrialState.OUT_OF_MEMORY, TrialState.FAILED})
"""States of trials whose last value says nothing of their configuration."""
