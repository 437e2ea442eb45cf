"""The training loss, and the evidence lower bound by which trials are compared.

The loss adds the data term of an image (`likelihoods.data_term`) and the KL divergence from q(z|x) to the prior,
weighted by w. With D = channels * height * width pixels and L = latent size it is

    pixel_mean              data / D + w KL        "A": mean squared error + w KL
    pixel_and_latent_mean   data / D + w KL / L    "B": the weight of A is w / L
    sum                     data + w KL            "C": the weight of A is w / D

KL is summed over latents. With free bits, a latent whose mean KL over the batch is below them counts as if it had them.

Sources: Kingma and Welling, arXiv:1312.6114 (the bound); Kingma et al., arXiv:1606.04934 (free bits); Bowman et
al., arXiv:1511.06349 (warm-up); Fu et al., arXiv:1903.10145 (cycles of it).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raysweep.spec.config import Reduction, TrialConfig

GREY_LEVELS = 255
"""Steps between the 256 values of an 8-bit pixel; one step is 1/255 of the pixel's range [0, 1]."""

DEQUANTISATION_VARIANCE = 1 / (12 * GREY_LEVELS**2)
"""Variance of uniform noise as wide as one grey level, which turns a density of pixels into a bound on their code
length (Theis et al., arXiv:1511.01844)."""


def kl_per_latent(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mean, exp(logvar)) || N(0, 1)) in nats, elementwise: never negative, 0 at mean 0 and logvar 0."""
    return 0.5 * torch.addcmul(torch.expm1(logvar) - logvar, mean, mean)


def charged_rate(kl: Tensor, free_bits_nats: float) -> Tensor:
    """Return the KL divergence that the loss counts, in nats per image: a scalar.

    `kl` is [batch, latents]. Free bits apply to a latent's mean over the batch: the result is the sum over latents of
    max(free_bits_nats, mean KL).
    """
    if free_bits_nats == 0:
        return kl.sum() / len(kl)
    return kl.mean(dim=0).clamp_min(free_bits_nats).sum()


def charged_rates(kl: Tensor, free_bits_nats: Tensor) -> Tensor:
    """Return `charged_rate` of each of several models, [members], from kl [members, batch, latents].

    `free_bits_nats` is [members, 1], minus infinity where there are none.
    """
    return kl.mean(dim=1).clamp(min=free_bits_nats).sum(dim=1)


def weighted_loss(data: Tensor, rate: Tensor, weight: float, reduction: Reduction, pixels: int, latents: int) -> Tensor:
    """Return the training loss from data term and KL divergence, both in nats per image, averaged over images."""
    over_data, over_rate = loss_divisors(reduction, pixels, latents)
    return torch.add(data / over_data, rate, alpha=weight / over_rate)


def loss_divisors(reduction: Reduction, pixels: int, latents: int) -> tuple[int, int]:
    """Return the numbers by which `weighted_loss` divides the data term and the weighted rate."""
    if reduction == "sum":
        return 1, 1
    return pixels, latents if reduction == "pixel_and_latent_mean" else 1


def gaussian_distortion(mse: float, sigma2: float, pixels: int) -> float:
    """Return -E[log N(x + u; x_hat, sigma2 I)] in nats per image, u the noise that dequantises 8-bit pixels."""
    return 0.5 * pixels * (math.log(2 * math.pi * sigma2) + (mse + DEQUANTISATION_VARIANCE) / sigma2)


def calibrated_distortion(mse: float, pixels: int) -> float:
    """Return `gaussian_distortion` at the best sigma2, which is mse + the variance of the dequantising noise."""
    return gaussian_distortion(mse, mse + DEQUANTISATION_VARIANCE, pixels)


def bits_per_dim(elbo_nats: float, pixels: int) -> float:
    """Return an upper bound on the bits to code one 8-bit pixel.

    It follows from the bound on the density of pixels in [0, 1].
    """
    return -elbo_nats / (pixels * math.log(2)) + math.log2(GREY_LEVELS)


def warmed_weight(config: TrialConfig, step: int, steps_an_epoch: int) -> float:
    """Return the KLD weight in training step `step`, counted from 0 over all epochs.

    It grows linearly over the warm-up. If `kld_cycle_epochs` is not 0, the warm-up starts again every so many epochs.
    """
    warmup = config.kld_warmup_epochs * steps_an_epoch
    if not warmup:
        return config.kld_weight
    cycle = config.kld_cycle_epochs * steps_an_epoch
    return config.kld_weight * min(1.0, ((step % cycle if cycle else step) + 1) / warmup)
