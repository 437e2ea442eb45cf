"""The evidence lower bound and the code length, against models and distributions whose answer is known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, Normal

from raysweep.vae.likelihoods import gaussian_data_term
from raysweep.vae.objective import DEQUANTISATION_VARIANCE, bits_per_dim, calibrated_distortion, kl_per_latent

PIXELS, LATENTS, SIGMA = 12, 3, 0.4
GAUSSIAN_EXCESS_BITS = 0.5 * math.log2(2 * math.pi * math.e / 12)
"""What coding uniform noise as wide as one grey level with a Gaussian costs: about a quarter of a bit."""


class LinearGaussian:
    """z ~ N(0, I), x = W z + N(0, SIGMA^2 I), W of orthogonal columns: its exact posterior is a diagonal Gaussian."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(3)
        columns = torch.linalg.qr(torch.randn(PIXELS, LATENTS, generator=random, dtype=torch.float64)).Q
        self.weight = columns * torch.tensor([2.0, 0.7, 0.1], dtype=torch.float64)
        self.x = self.weight @ torch.randn(LATENTS, generator=random, dtype=torch.float64)
        self.x = self.x + SIGMA * torch.randn(PIXELS, generator=random, dtype=torch.float64)
        precision = 1 + self.weight.square().sum(dim=0) / SIGMA**2
        self.mean = (self.weight.T @ self.x) / SIGMA**2 / precision
        self.logvar = -precision.log()

    def log_evidence(self) -> float:
        covariance = self.weight @ self.weight.T + SIGMA**2 * torch.eye(PIXELS, dtype=torch.float64)
        return float(MultivariateNormal(torch.zeros(PIXELS, dtype=torch.float64), covariance).log_prob(self.x))

    def elbo(self, mean: torch.Tensor, logvar: torch.Tensor) -> float:
        """-(distortion + rate) of q = N(mean, exp(logvar)), of raysweep's own terms."""
        spread = (self.weight.square() * logvar.exp()).sum()
        squared_error = (self.x - self.weight @ mean).square().sum() + spread
        distortion = gaussian_data_term(squared_error, PIXELS, "gaussian", SIGMA)
        distortion += 0.5 * PIXELS * math.log(2 * math.pi * SIGMA**2)
        return -float(distortion + kl_per_latent(mean, logvar).sum())


def test_the_bound_is_the_log_evidence_at_the_exact_posterior() -> None:
    model = LinearGaussian()
    assert model.elbo(model.mean, model.logvar) == pytest.approx(model.log_evidence(), rel=1e-12)


@given(st.lists(st.floats(-3, 3), min_size=2 * LATENTS, max_size=2 * LATENTS))
def test_any_other_posterior_gives_less(shifts: list[float]) -> None:
    model = LinearGaussian()
    mean, logvar = torch.tensor(shifts, dtype=torch.float64).chunk(2)
    assert model.elbo(model.mean + mean, model.logvar + logvar) <= model.log_evidence() + 1e-9


def test_sampling_the_posterior_estimates_the_same_bound() -> None:
    model = LinearGaussian()
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, LATENTS, generator=random, dtype=torch.float64)
    z = model.mean + (0.5 * model.logvar).exp() * noise
    squared_error = (model.x - z @ model.weight.T).square().sum(dim=1).mean()
    distortion = gaussian_data_term(squared_error, PIXELS, "gaussian", SIGMA)
    distortion += 0.5 * PIXELS * math.log(2 * math.pi * SIGMA**2)
    sampled = -float(distortion + kl_per_latent(model.mean, model.logvar).sum())
    assert sampled == pytest.approx(model.log_evidence(), abs=0.1)


@given(st.integers(0, 1000), st.integers(1, 500))
def test_the_calibrated_distortion_is_the_likelihood_at_the_maximum_likelihood_sigma(seed: int, pixels: int) -> None:
    residual = torch.randn(pixels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1e-3
    mean_square = float(residual.square().mean())
    distortion = calibrated_distortion(mean_square - DEQUANTISATION_VARIANCE, pixels)

    def code_length(sigma: float) -> float:
        zero = torch.zeros((), dtype=torch.float64)
        return -float(Normal(zero, zero + sigma).log_prob(residual).sum())

    best = math.sqrt(mean_square)
    assert distortion == pytest.approx(code_length(best), rel=1e-9, abs=1e-9)
    assert distortion < min(code_length(0.8 * best), code_length(1.2 * best))


def test_images_of_uniform_noise_cost_a_little_more_than_8_bits_a_pixel() -> None:
    """The best that can be said of such a pixel is its mean; a Gaussian is not a box, hence the excess."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    mse = float((levels - levels.mean()).square().mean())
    bits = bits_per_dim(-calibrated_distortion(mse, 784), 784)
    assert bits == pytest.approx(8 + GAUSSIAN_EXCESS_BITS, abs=1e-9)


def test_pixels_of_a_known_distribution_cost_barely_more_than_their_entropy() -> None:
    levels = torch.arange(256, dtype=torch.float64)
    share = torch.softmax(-0.5 * ((levels - 128) / 20).square(), dim=0)
    entropy_bits = -float((share * share.log2()).sum())
    mse = float((share * ((levels - 128) / 255).square()).sum())
    bits = bits_per_dim(-calibrated_distortion(mse, 3072), 3072)
    assert entropy_bits < bits < entropy_bits + 0.001


@given(mse=st.floats(0, 1), rate=st.floats(0, 1e4), pixels=st.integers(64, 20_000))
def test_no_image_is_coded_for_nothing(mse: float, rate: float, pixels: int) -> None:
    """Even a perfect reconstruction for free leaves the quarter of a bit between a Gaussian and a grey level."""
    bits = bits_per_dim(-(calibrated_distortion(mse, pixels) + rate), pixels)
    assert bits >= GAUSSIAN_EXCESS_BITS - 1e-9
