"""The vocabulary of results: what a trial measures after each epoch, and the states in which a trial ends.

This is the only list of metric names. A trial yields an `EpochMetrics`, the objective of a search space file names
one of its fields, and the columns of the reports are its fields. A finished trial may also have `FinalMetrics` from
the test split: (a) metrics too expensive to measure every epoch, and (b) metrics that must not influence which trial
is chosen. docs/metrics.md defines them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal, NamedTuple

Mode = Literal["min", "max"]

ACTIVE_VARIANCE = 0.01
"""A latent is active if its posterior mean has a larger variance over images (Burda et al., arXiv:1509.00519)."""

COLLAPSED_R2 = 0.02
"""A model with a lower `r2` has collapsed: it is no better than the mean image."""
COLLAPSED_RATE_NATS = 0.1
"""A model with a lower `rate_nats` has collapsed: its latents say nothing about the image."""


class Metric(NamedTuple):
    """The description of one field of `EpochMetrics` or `FinalMetrics`."""

    name: str
    type: type
    unit: str
    mode: Mode | None
    """Direction of better values; None if neither is always better: noise is sharper than real images."""
    meaning: str


def _metric(unit: str, mode: Mode | None, meaning: str, **default: Any) -> Any:
    return field(metadata={"unit": unit, "mode": mode, "meaning": meaning}, **default)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """The results of one epoch of training.

    All except `train_loss`, `images_per_s` and `epoch_s` come from one pass over the validation images.
    """

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
    """The results of a finished trial on the test split; None if a metric is not defined for it.

    A `floor` is the same measure between real images and real images: the value of a perfect model.
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
"""Prefix of the names of final metrics in tables, figures and claims, such as `test_kid`."""

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
"""Directions that raysweep 0.1 gave to metrics whose best value a poor model can have.

Examples: noise is sharp, a tiny KLD weight keeps all latents active, a collapsed model has no divergence and smooth
paths. Files that were written for these directions still load.
"""

OBJECTIVES: dict[str, Mode] = {
    name: mode for name, metric in METRICS.items() if (mode := metric.mode or FORMER_MODES.get(name))
}
"""Every metric of an epoch that can be the objective of a search, with its direction."""


class Criterion(NamedTuple):
    """The metric and direction by which epochs and trials are compared."""

    metric: str
    """One of `METRICS`."""
    mode: Mode

    def loss(self, metrics: EpochMetrics) -> float:
        """Return the metric as a loss: less is better; infinity if it is not finite."""
        value = float(getattr(metrics, self.metric))
        return (value if self.mode == "min" else -value) if math.isfinite(value) else math.inf


class TrialState(StrEnum):
    """The state of a trial: it runs, is paused, has ended, or was interrupted together with its sweep."""

    RUNNING = "running"
    PAUSED = "paused"
    """Waits at a rung of early stopping, without a process; continues if it is among the best there."""
    COMPLETED = "completed"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


WITHOUT_RESULT = frozenset({TrialState.DIVERGED, TrialState.OUT_OF_MEMORY, TrialState.FAILED})
"""States of trials whose last value says nothing about their configuration."""
