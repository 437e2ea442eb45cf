"""Pixel likelihoods: mean and variance of a pixel, and the data term of the objective, from the decoder's output.

The output of the network is logits [batch, channels, height, width]. For `learned_gaussian` it has twice the channels;
the second half is the log variance. With D = channels * height * width pixels, x_hat the mean image and SE the squared
error summed over pixels, the data term of one image is, up to constants that no parameter changes,

    gaussian              SE / (2 sigma^2)                     sigma fixed; sqrt(1/2), the default, makes it SE itself
    calibrated_gaussian   SE / (2 s^2) + D log s               s the batch's maximum-likelihood sigma: s^2 = mean SE / D
    learned_gaussian      sum of (x - x_hat)^2 / (2 s_i^2) + log s_i      s_i a second output for each pixel
    bernoulli             cross-entropy summed over pixels     a likelihood of binary pixels only
    continuous_bernoulli  cross-entropy - sum of log C         C its normaliser, so that it is a density on [0, 1]

x_hat is sigmoid(logits), except for `continuous_bernoulli`: there that is the parameter lambda, and not the mean.

Sources: Rybkin et al., arXiv:2006.13202 (the calibrated decoder); Loaiza-Ganem and Cunningham, arXiv:1907.06845 (the
continuous Bernoulli).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raysweep.spec.config import Likelihood

LOG_SIGMA_MIN = -6.0
"""Floor of log sigma where it is fitted or learned: a pixel fitted exactly would drive the likelihood to infinity."""

LOG_SIGMA_MAX = 2.0
"""Ceiling of a learned log sigma, far above any spread of a pixel in [0, 1]: beyond it the variance would overflow."""

SMALLEST_MSE = 1e-30
"""Floor of a batch's mean squared error: keeps its logarithm, and the gradient of that, finite if the error is exactly
0. It is far below exp(2 * LOG_SIGMA_MIN), so it changes nothing else."""

SMALLEST_PROBABILITY = 1e-6
"""Least distance from 0 and 1 of a mean image that is not a sigmoid, if it serves as a probability of white."""

FIT_SQUARED_ERROR = ("gaussian", "calibrated_gaussian")
"""The likelihoods whose data term is a function of the squared error of an image."""

_SERIES_BELOW = 0.5
"""For logits nearer to 0 than this, functions of a continuous Bernoulli use their power series, because their closed
forms are 0/0 at 0. The first term left out is below 1e-7 of the value."""


def output_channels(likelihood: Likelihood, channels: int) -> int:
    """Return the number of channels of the decoder's output for images of `channels`."""
    return 2 * channels if likelihood == "learned_gaussian" else channels


def mean_logits(output: Tensor, likelihood: Likelihood) -> Tensor:
    """Return the part of the decoder's output that determines the mean image, in the images' shape."""
    return output.chunk(2, dim=-3)[0] if likelihood == "learned_gaussian" else output


def mean_image(output: Tensor, likelihood: Likelihood) -> Tensor:
    """Return the mean of each pixel, in [0, 1] and in the images' shape, from the decoder's output."""
    if likelihood == "continuous_bernoulli":
        return continuous_bernoulli_mean(output)
    return mean_logits(output, likelihood).sigmoid()


def pixel_variance(output: Tensor, likelihood: Likelihood, sigma: float, calibrated: float) -> Tensor:
    """Return the variance of each pixel, in the images' shape, from the decoder's output.

    `sigma` is that of `gaussian`; `calibrated` is the variance of `calibrated_gaussian` on the images it is fitted to.
    """
    if likelihood == "gaussian":
        return torch.full_like(output, sigma * sigma)
    if likelihood == "calibrated_gaussian":
        return torch.full_like(output, calibrated)
    if likelihood == "learned_gaussian":
        return (2 * learned_log_sigma(output)).exp()
    if likelihood == "continuous_bernoulli":
        return continuous_bernoulli_variance(output)
    return output.sigmoid() * (-output).sigmoid()


def sample_pixels(output: Tensor, likelihood: Likelihood, variance: Tensor, generator: torch.Generator) -> Tensor:
    """Draw images from the likelihood pixel by pixel, in the images' shape, from the decoder's output.

    `variance` is the result of `pixel_variance`. Only the Gaussians use it; their draws are not clipped to [0, 1].
    `generator` is on the CPU, so that the draws are the same on every device.
    """
    mean = mean_image(output, likelihood)
    if "gaussian" in likelihood:
        return mean + variance.sqrt() * torch.randn(mean.shape, generator=generator).to(mean.device)
    uniform = torch.rand(mean.shape, generator=generator).to(mean.device)
    if likelihood == "bernoulli":
        return (uniform < mean).to(mean.dtype)
    # The inverse of the continuous Bernoulli's distribution function: log(1 + u (exp(a) - 1)) / a.
    near, a = _apart_from_zero(output)
    size = a.abs()
    drawn = 1 + torch.log(uniform + (1 - uniform) * (-size).exp()) / size
    from_one = torch.where(a > 0, drawn, 1 - drawn)
    # Near 0 the density is nearly flat, and this is the inverse up to a^2 / 24.
    return torch.where(near, uniform + 0.5 * output * uniform * (1 - uniform), from_one).clamp(0, 1)


def data_term(output: Tensor, x: Tensor, likelihood: Likelihood, sigma: float) -> Tensor:
    """Return the data term of the loss, in nats up to a constant, averaged over the batch: a scalar.

    Args:
        output: the decoder's output, [batch, channels or twice the channels, height, width].
        x: [batch, channels, height, width] in [0, 1].
        sigma: of the `gaussian` likelihood; the others have their own or none.
    """
    if likelihood in FIT_SQUARED_ERROR:
        squared_error = F.mse_loss(output.sigmoid(), x, reduction="sum") / len(x)
        return gaussian_data_term(squared_error, x[0].numel(), likelihood, sigma)
    return _pixel_terms(output, x, likelihood).sum() / len(x)


def data_terms(output: Tensor, x: Tensor, likelihood: Likelihood, sigmas: Tensor) -> Tensor:
    """Return the data term of several models in one pass, each as in `data_term`: [members].

    Args:
        output: the decoders' outputs, [batch, members, channels or twice the channels, height, width].
        x: [batch, members, channels, height, width] in [0, 1].
        sigmas: [members], as `sigma` of `data_term`.
    """
    totals = _pixel_terms(output, x, likelihood).sum(dim=(0, 2, 3, 4)) / len(x)
    return (
        gaussian_data_term(totals, x[0, 0].numel(), likelihood, sigmas) if likelihood in FIT_SQUARED_ERROR else totals
    )


def _pixel_terms(output: Tensor, x: Tensor, likelihood: Likelihood) -> Tensor:
    """Return the terms that the data term sums, in the shape of x: squared errors for `FIT_SQUARED_ERROR`."""
    if likelihood == "bernoulli":
        return F.binary_cross_entropy_with_logits(output, x, reduction="none")
    if likelihood == "continuous_bernoulli":
        return _continuous_bernoulli_log_partition(output) - x * output
    if likelihood == "learned_gaussian":
        log_sigma = learned_log_sigma(output)
        squared_error = (mean_image(output, likelihood) - x).square()
        return 0.5 * squared_error * (-2 * log_sigma).exp() + log_sigma
    return F.mse_loss(output.sigmoid(), x, reduction="none")


def gaussian_data_term(squared_error: Tensor, pixels: int, likelihood: Likelihood, sigma: float | Tensor) -> Tensor:
    """Return the data term of `gaussian` or `calibrated_gaussian` from a squared error.

    `squared_error` is summed over an image's pixels and averaged over images.
    """
    if likelihood == "gaussian":
        return squared_error / (2 * sigma**2)
    log_sigma = soft_floor(0.5 * (squared_error / pixels).clamp_min(SMALLEST_MSE).log(), LOG_SIGMA_MIN)
    return 0.5 * squared_error * (-2 * log_sigma).exp() + pixels * log_sigma


def binary_cross_entropy(output: Tensor, white: Tensor, likelihood: Likelihood) -> Tensor:
    """Return the cross-entropy [batch] of binary pixels in nats, summed over pixels.

    The mean image is the probability of white; `white` is boolean, in the images' shape. The result is exact if the
    mean is a sigmoid; otherwise the probability is clamped. An output [batch, members, channels, height, width] gives
    [batch, members].
    """
    if likelihood == "continuous_bernoulli":
        mean = continuous_bernoulli_mean(output).clamp(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
        return -torch.where(white, mean, 1 - mean).log().sum(dim=(-3, -2, -1), dtype=torch.float64)
    logits = mean_logits(output, likelihood)
    return F.softplus(torch.where(white, -logits, logits)).sum(dim=(-3, -2, -1), dtype=torch.float64)


def soft_floor(value: Tensor, floor: float) -> Tensor:
    """Return `value` where it is well above `floor`, bent smoothly so that it never falls below."""
    return floor + F.softplus(value - floor)


def learned_log_sigma(output: Tensor) -> Tensor:
    """Return the log of a pixel's standard deviation under `learned_gaussian`, from the output's second half."""
    return soft_floor(0.5 * output.chunk(2, dim=-3)[1], LOG_SIGMA_MIN).clamp_max(LOG_SIGMA_MAX)


def continuous_bernoulli_mean(logits: Tensor) -> Tensor:
    """Return the mean 1 / (1 - exp(-a)) - 1 / a of a continuous Bernoulli with lambda = sigmoid(a), in [0, 1]."""
    near, a = _apart_from_zero(logits)
    series = 0.5 + logits / 12 - logits**3 / 720 + logits**5 / 30240
    return torch.where(near, series, -1 / torch.expm1(-a) - 1 / a).clamp(0, 1)


def continuous_bernoulli_variance(logits: Tensor) -> Tensor:
    """Return the variance 1 / a^2 - 1 / (4 sinh^2(a / 2)) of a continuous Bernoulli with lambda = sigmoid(a)."""
    near, a = _apart_from_zero(logits)
    series = 1 / 12 - logits**2 / 240 + logits**4 / 6048
    return torch.where(near, series, a.square().reciprocal() - 0.25 * torch.sinh(a / 2).square().reciprocal())


def _continuous_bernoulli_log_partition(logits: Tensor) -> Tensor:
    """Return A = log((exp(a) - 1) / a), so that log p(x) = a x - A.

    With C = a / tanh(a / 2), A is log(1 + exp(a)) - log C: cross-entropy and normaliser in one term. The density is an
    exponential cut off at 0 and 1.
    """
    near, a = _apart_from_zero(logits)
    series = 0.5 * logits + logits**2 / 24 - logits**4 / 2880 + logits**6 / 181440
    size = a.abs()
    return torch.where(near, series, F.relu(a) + torch.log(-torch.expm1(-size)) - size.log())


def _apart_from_zero(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return which logits are near 0, and the logits with those replaced by 1.

    The replacement keeps closed forms and their gradients from being 0/0.
    """
    near = logits.abs() < _SERIES_BELOW
    return near, torch.where(near, 1.0, logits)
