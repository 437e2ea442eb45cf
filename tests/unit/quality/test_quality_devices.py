"""Measures on a GPU are those on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raysweep.quality.bounds import importance_weighted_bound
from raysweep.quality.distances import density_coverage, kid, precision_recall
from raysweep.quality.features import measure_accuracy, random_features, train_classifier
from raysweep.quality.latents import (
    active_units,
    aggregate_kl_nats,
    knn_accuracy,
    latent_kl_nats,
    probe_accuracy,
    silhouette,
)
from raysweep.quality.mixture import fit_mixture
from raysweep.quality.paths import monotonicity
from raysweep.quality.sharpness import sharpness

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def measured(device: str) -> list[float]:
    """Every measure of the same tensors on a device; those that are lists laid end to end."""
    real, fake = normal(0, 200, 16).to(device), (0.8 * normal(1, 200, 16) + 0.3).to(device)
    labels = (torch.arange(200) % 3).to(device)
    means, logvars = real + labels[:, None], fake - 2
    active = active_units(means)
    images = torch.rand(50, 3, 16, 16, generator=torch.Generator().manual_seed(2)).to(device)
    weights = normal(3, 16, 3 * 16 * 16).to(device)

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.flatten(1) @ weights.T / 100
        return mean, torch.zeros_like(mean)

    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        return -0.5 * (x.flatten(1) - z @ weights / 100).square().sum(dim=1)

    mixture = fit_mixture(means, logvars, active=active, components=3)
    assert mixture is not None
    per_latent = latent_kl_nats(means, logvars)
    assert per_latent is not None
    found = [
        kid(real, fake),
        *precision_recall(real, fake),
        *density_coverage(real, fake),
        aggregate_kl_nats(means, logvars),
        *per_latent.tolist(),
        silhouette(means, labels, active),
        knn_accuracy(means[:100], labels[:100], means[100:], labels[100:], active),
        probe_accuracy(means[:100], labels[:100], means[100:], labels[100:], active),
        *mixture.sample(5, 0).flatten().tolist(),
        importance_weighted_bound(encode, log_likelihood, images, 5, 0, batch=20),
        sharpness(images),
        monotonicity(images.view(5, 10, 3, 16, 16)),
    ]
    assert None not in found
    return [float(value or 0) for value in found]


def test_every_measure_is_the_same_on_a_gpu() -> None:
    assert measured("cuda") == pytest.approx(measured("cpu"), rel=1e-3, abs=1e-4)


def test_features_are_trained_and_taken_on_a_gpu() -> None:
    labels = torch.arange(256) % 2
    images = 0.5 * torch.rand(256, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    images[:, :, :8] += 0.4 * labels[:, None, None, None]
    on_gpu = images.cuda()
    network = train_classifier(on_gpu.__getitem__, labels.cuda(), (1, 16, 16), 2, seed=0, device="cuda", steps=40)
    assert measure_accuracy(network, images, labels) == 1
    assert network.embed(images).is_cuda
    features = random_features((1, 16, 16), 0, on_gpu).embed(on_gpu).cpu()
    torch.testing.assert_close(features, random_features((1, 16, 16), 0, images).embed(images), rtol=0.05, atol=0.05)
