"""What training minimises, and the evidence lower bound that trials are compared by.

With D = channels * height * width pixels, L = latent size, x_hat = sigmoid(logits) and SE the squared error summed over
pixels, the data term of one image is, up to constants that no parameter changes,

    gaussian              SE / (2 sigma^2)                  sigma fixed; sqrt(1/2), the default, makes it SE itself
    calibrated_gaussian   SE / (2 s^2) + D log s            s the batch's maximum-likelihood sigma: s^2 = mean SE / D
    bernoulli             cross-entropy summed over pixels  a likelihood of binary pixels only

and the loss reduces it together with the KL divergence, weighted by w:

    pixel_mean              data / D + w KL        "A": mean squared error + w KL
    pixel_and_latent_mean   data / D + w KL / L    "B": the weight of A is w / L
    sum                     data + w KL            "C": the weight of A is w / D

Sources: Kingma and Welling, arXiv:1312.6114 (the bound); Rybkin et al., arXiv:2006.13202 (the calibrated decoder).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from raysweep.config import Likelihood, Reduction, TrialConfig

LOG_SIGMA_MIN = -6.0
"""Floor of the calibrated log sigma: a batch fitted exactly would otherwise drive the likelihood to infinity."""

SMALLEST_MSE = 1e-30
"""Keeps the logarithm of a batch's mean squared error, and its gradient, finite where the error is exactly 0; far
below exp(2 * LOG_SIGMA_MIN), so that it changes nothing else."""

GREY_LEVELS = 255
"""Steps between the 256 values of an 8-bit pixel; one step is 1/255 of the pixel's range [0, 1]."""

DEQUANTISATION_VARIANCE = 1 / (12 * GREY_LEVELS**2)
"""Variance of uniform noise as wide as one grey level, which turns a density of pixels into a bound on their code
length (Theis et al., arXiv:1511.01844)."""


def kl_per_latent(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats, elementwise: never negative, 0 at mean 0 and logvar 0."""
    return 0.5 * (mean.square() + torch.expm1(logvar) - logvar)


def data_term(logits: Tensor, x: Tensor, likelihood: Likelihood, sigma: float) -> Tensor:
    """The data term of the loss, in nats up to a constant, mean over the batch: a scalar.

    `logits` and `x` are [batch, channels, height, width]; x is in [0, 1].
    """
    if likelihood == "bernoulli":
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
    squared_error = F.mse_loss(logits.sigmoid(), x, reduction="sum") / len(x)
    return gaussian_data_term(squared_error, x[0].numel(), likelihood, sigma)


def gaussian_data_term(squared_error: Tensor, pixels: int, likelihood: Likelihood, sigma: float) -> Tensor:
    """The data term of either Gaussian likelihood from the squared error, summed over pixels, mean over images."""
    if likelihood == "gaussian":
        return squared_error / (2 * sigma**2)
    log_sigma = soft_floor(0.5 * (squared_error / pixels).clamp_min(SMALLEST_MSE).log(), LOG_SIGMA_MIN)
    return 0.5 * squared_error * (-2 * log_sigma).exp() + pixels * log_sigma


def soft_floor(value: Tensor, floor: float) -> Tensor:
    """`value` where it is well above `floor`, bending smoothly so as never to fall below it."""
    return floor + F.softplus(value - floor)


def weighted_loss(data: Tensor, rate: Tensor, weight: float, reduction: Reduction, pixels: int, latents: int) -> Tensor:
    """The training loss from the data term and the KL divergence, both in nats an image, averaged over images."""
    if reduction == "sum":
        return data + weight * rate
    if reduction == "pixel_mean":
        return data / pixels + weight * rate
    return data / pixels + weight * rate / latents


def calibrated_distortion(mse: float, pixels: int) -> float:
    """-E[log N(x; x_hat, sigma^2 I)] in nats an image at the best sigma: sigma^2 = mse + dequantisation variance."""
    return 0.5 * pixels * (math.log(2 * math.pi * (mse + DEQUANTISATION_VARIANCE)) + 1)


def bits_per_dim(elbo_nats: float, pixels: int) -> float:
    """An upper bound on the bits to code one 8-bit pixel, from the bound on the density of pixels in [0, 1]."""
    return -elbo_nats / (pixels * math.log(2)) + math.log2(GREY_LEVELS)


def warmed_weight(config: TrialConfig, step: int, steps_an_epoch: int) -> float:
    """The KLD weight in training step `step`, counted from 0 over all epochs (Bowman et al., arXiv:1511.06349)."""
    warmup = config.kld_warmup_epochs * steps_an_epoch
    return config.kld_weight * min(1.0, (step + 1) / warmup) if warmup else config.kld_weight
