"""Conversion of a KLD weight between the conventions of the training objective. Needs no torch."""

from __future__ import annotations

from raysweep.spec.config import TrialConfig


def pixel_mean_weight(config: TrialConfig, pixels: int) -> float:
    """Return the KLD weight of `config` in the convention mean squared error + weight * KL, to compare sweeps.

    Raises:
        ValueError: if the likelihood's data term is not a fixed multiple of the squared error.
    """
    if config.likelihood != "gaussian":
        raise ValueError(f"a {config.likelihood} likelihood has no equivalent weight of the squared error")
    per_pixel = {"pixel_mean": 1.0, "pixel_and_latent_mean": 1 / config.latent_size, "sum": 1 / pixels}
    return 2 * config.sigma * config.sigma * config.kld_weight * per_pixel[config.reduction]
