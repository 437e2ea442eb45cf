"""The metrics of one pass over the validation images. docs/metrics.md defines each of them."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from raysweep.config import TrialConfig
from raysweep.vae.networks import ConvVAE
from raysweep.vae.objective import (
    bits_per_dim,
    calibrated_distortion,
    data_term,
    gaussian_data_term,
    kl_per_latent,
    weighted_loss,
)

EVALUATION_BATCH = 256
ACTIVE_VARIANCE = 0.01
"""A latent is active if its posterior mean varies over images by more than this (Burda et al., arXiv:1509.00519)."""
COLLAPSED_R2 = 0.02
NO_VARIANCE = 1e-10
"""Below this images are all the same: what is left is rounding of their mean."""
COLLAPSED_RATE_NATS = 0.1


class Images(Protocol):
    """The images of one split, as training sees them."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: Tensor) -> Tensor:
        """Images at `indices` [batch] as float32 [batch, channels, height, width] in [0, 1] on the trial's device."""
        ...

    def mean_image(self) -> Tensor:
        """The mean over all images, float32 [channels, height, width]."""
        ...


def mean_image_error(images: Images, mean: Tensor, device: torch.device) -> float:
    """Mean squared error, a pixel, of predicting `mean` for every image: the variance that `r2` is a share of."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    mean = mean.to(device)
    for batch in torch.arange(len(images), device=device).split(EVALUATION_BATCH):  # type: ignore[no-untyped-call]
        total += (images.gather(batch) - mean).square().sum(dtype=torch.float64)
    return float(total) / (len(images) * math.prod(images.shape))


@torch.no_grad()
def evaluate(
    model: ConvVAE, images: Images, config: TrialConfig, baseline_mse: float, device: torch.device
) -> dict[str, Any]:
    """The validation metrics of `EpochMetrics`, from one pass with latents sampled from the posterior.

    The noise is the same in every epoch and for every trial of the same seed and latent size, so that differences are
    the models'. `baseline_mse` is what `mean_image_error` gives for the training mean. Reads the device once, at the
    end.
    """
    model.eval()
    pixels, latents, count = math.prod(images.shape), config.latent_size, len(images)
    generator = torch.Generator(device).manual_seed(config.seed)
    squared_error = torch.zeros((), dtype=torch.float64, device=device)
    cross_entropy = torch.zeros((), dtype=torch.float64, device=device)
    kl = torch.zeros(latents, dtype=torch.float64, device=device)
    mean_sum = torch.zeros(latents, dtype=torch.float64, device=device)
    mean_square_sum = torch.zeros(latents, dtype=torch.float64, device=device)
    for batch in torch.arange(count, device=device).split(EVALUATION_BATCH):  # type: ignore[no-untyped-call]
        x = images.gather(batch)
        noise = torch.randn(len(x), latents, generator=generator, device=device)
        logits, mean, logvar = model(x, noise)
        squared_error += (logits.sigmoid() - x).square().sum(dtype=torch.float64)
        if config.likelihood == "bernoulli":
            cross_entropy += data_term(logits, x, "bernoulli", config.sigma).double() * len(x)
        kl += kl_per_latent(mean, logvar).sum(dim=0, dtype=torch.float64)
        mean = mean.double()
        mean_sum += mean.sum(dim=0)
        mean_square_sum += mean.square().sum(dim=0)
    model.train()

    rate = kl.sum() / count
    variance = mean_square_sum / count - (mean_sum / count).square()
    if config.likelihood == "bernoulli":
        data = cross_entropy / count
    else:
        data = gaussian_data_term(squared_error / count, pixels, config.likelihood, config.sigma)
    loss = weighted_loss(data, rate, config.kld_weight, config.reduction, pixels, latents)
    val_loss, rate_nats, mse, active = torch.stack(
        [loss, rate, squared_error / (count * pixels), (variance > ACTIVE_VARIANCE).sum().double()]
    ).tolist()
    return summarise(val_loss, rate_nats, mse, int(active), pixels, baseline_mse)


def summarise(
    val_loss: float, rate_nats: float, mse: float, active_units: int, pixels: int, baseline_mse: float
) -> dict[str, Any]:
    """The metrics that follow from the sums of a validation pass."""
    finite = math.isfinite(mse) and math.isfinite(rate_nats)
    distortion = calibrated_distortion(mse, pixels) if finite else math.nan
    elbo = -(distortion + rate_nats)
    r2 = 1 - mse / baseline_mse if baseline_mse > NO_VARIANCE else math.nan
    return {
        "val_loss": val_loss,
        "elbo_nats": elbo,
        "bits_per_dim": bits_per_dim(elbo, pixels),
        "rate_nats": rate_nats,
        "distortion_nats": distortion,
        "mse": mse,
        "psnr_db": _psnr_db(mse) if finite else math.nan,
        "r2": r2,
        "active_units": active_units,
        "collapsed": finite and (r2 < COLLAPSED_R2 or rate_nats < COLLAPSED_RATE_NATS),
    }


def _psnr_db(mse: float) -> float:
    return -10 * math.log10(mse) if mse > 0 else math.inf
