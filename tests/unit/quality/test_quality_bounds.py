"""The importance-weighted bound, against a linear-Gaussian model whose likelihood is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from raysweep.quality.bounds import importance_weighted_bound

NOISE = 0.5


class LinearGaussian:
    """x = W z + N(0, 0.25), z of N(0, I), and a posterior that is too wide by a factor and off its place."""

    def __init__(self, width: float = 1.0, offset: float = 0.0, pixels: int = 4, latents: int = 2) -> None:
        generator = torch.Generator().manual_seed(3)
        self.weights = torch.randn(pixels, latents, generator=generator)
        precision = torch.eye(latents) + self.weights.T @ self.weights / NOISE**2
        self.to_mean = torch.linalg.inv(precision) @ self.weights.T / NOISE**2
        self.logvar = 2 * math.log(width) - precision.diagonal().log()
        self.offset = offset
        self.largest_batch = 0

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x @ self.to_mean.T + self.offset
        return mean, self.logvar.expand_as(mean)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        self.largest_batch = max(self.largest_batch, len(z))
        assert len(x) == len(z)
        error = (x - z @ self.weights.T).square().sum(dim=1)
        return -0.5 * error / NOISE**2 - x.shape[1] * math.log(NOISE * math.sqrt(2 * math.pi))

    def bound(self, x: Tensor, samples: int, seed: int = 0, batch: int = 256) -> float:
        found = importance_weighted_bound(self.encode, self.log_likelihood, x, samples, seed, batch)
        assert found is not None
        return found

    def exact(self, x: Tensor) -> float:
        covariance = self.weights @ self.weights.T + NOISE**2 * torch.eye(len(self.weights))
        return float(MultivariateNormal(torch.zeros(len(self.weights)), covariance).log_prob(x).mean())

    def elbo(self, x: Tensor) -> float:
        mean, logvar = self.encode(x)
        error = (x - mean @ self.weights.T).square().sum(dim=1) + (self.weights.square() @ logvar.exp().T).sum(dim=0)
        distortion = 0.5 * error / NOISE**2 + x.shape[1] * math.log(NOISE * math.sqrt(2 * math.pi))
        rate = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=1)
        return float(-(distortion + rate).mean())


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(4)
    model = LinearGaussian()
    latents = torch.randn(300, 2, generator=generator)
    return latents @ model.weights.T + NOISE * torch.randn(300, 4, generator=generator)


def test_one_sample_gives_the_elbo_in_expectation(images: Tensor) -> None:
    model = LinearGaussian(width=1.5, offset=0.1)
    bounds = torch.tensor([model.bound(images, 1, seed) for seed in range(60)])
    error = float(bounds.std()) / math.sqrt(60)
    assert float(bounds.mean()) == pytest.approx(model.elbo(images), abs=4 * error)


def test_more_samples_tighten_the_bound_in_expectation(images: Tensor) -> None:
    model = LinearGaussian(width=1.5, offset=0.3)
    means = [
        sum(model.bound(images, samples, seed, batch=3000) for seed in range(20)) / 20 for samples in (1, 2, 5, 20, 100)
    ]
    assert means == sorted(means)
    assert means[0] < means[-1] - 0.1
    assert means[-1] < model.exact(images) + 0.01


def test_it_converges_to_the_exact_likelihood(images: Tensor) -> None:
    model = LinearGaussian(width=1.5, offset=0.2)
    exact = model.exact(images)
    assert model.elbo(images) < exact - 0.2
    assert model.bound(images, 5000, batch=30_000) == pytest.approx(exact, abs=0.005)


def test_the_batch_bounds_what_is_decoded_at_once_and_changes_nothing(images: Tensor) -> None:
    for count in (1, 10, 300):
        bounds = []
        for batch in (1, 7, 64, 1000):
            model = LinearGaussian(width=1.3)
            bounds.append(model.bound(images[:count], 9, batch=batch))
            assert model.largest_batch <= batch
        assert bounds == pytest.approx([bounds[0]] * 4, rel=1e-5)


def test_likelihoods_far_below_what_exp_can_hold_do_not_underflow(images: Tensor) -> None:
    model = LinearGaussian()
    shifted = importance_weighted_bound(
        model.encode, lambda x, z: model.log_likelihood(x, z).double() - 1e6, images, 20, 0
    )
    assert shifted == pytest.approx(model.bound(images, 20) - 1e6, abs=1e-3)


def test_the_seed_decides(images: Tensor) -> None:
    model = LinearGaussian()
    assert model.bound(images, 3, seed=1) == model.bound(images, 3, seed=1)
    assert LinearGaussian(1.5).bound(images, 3, seed=1) != LinearGaussian(1.5).bound(images, 3, seed=2)


def test_a_bound_that_does_not_exist_is_none(images: Tensor) -> None:
    model = LinearGaussian()
    assert importance_weighted_bound(model.encode, model.log_likelihood, images[:0], 3, 0) is None
    broken = importance_weighted_bound(model.encode, lambda x, z: model.log_likelihood(x, z) * math.nan, images, 3, 0)
    assert broken is None


@pytest.mark.parametrize(("samples", "batch"), [(0, 8), (3, 0)])
def test_no_sample_and_no_batch_are_refused(images: Tensor, samples: int, batch: int) -> None:
    model = LinearGaussian()
    with pytest.raises(ValueError, match="1 or more"):
        importance_weighted_bound(model.encode, model.log_likelihood, images, samples, 0, batch)
