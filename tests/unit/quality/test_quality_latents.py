"""Active units, divergences, and the separation of classes in latents."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from raysweep.quality.latents import (
    active_units,
    aggregate_kl_nats,
    knn_accuracy,
    latent_kl_nats,
    probe_accuracy,
    silhouette,
)

ALL = torch.ones(2, dtype=torch.bool)
NONE = torch.zeros(2, dtype=torch.bool)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clusters(seed: int, count: int = 120, spread: float = 0.1) -> tuple[Tensor, Tensor]:
    """Three classes at the corners of a triangle: means [count, 2] and labels [count]."""
    labels = torch.arange(count) % 3
    corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    return corners[labels] + spread * drawn(seed, count, 2), labels


def test_a_latent_is_active_if_its_mean_varies_by_more_than_a_hundredth() -> None:
    step = torch.tensor([-1.0, 1.0])[:, None]
    assert active_units(step * torch.tensor([0.0, 0.0999, 0.1001, 3.0])).tolist() == [False, False, True, True]
    assert active_units(torch.empty(0, 3)).tolist() == [False] * 3


moments = st.tuples(st.integers(1, 30), st.integers(1, 12), st.integers(0, 2**31 - 1))


@settings(max_examples=60)
@given(moments)
def test_the_aggregate_divergence_is_that_of_the_gaussian_with_the_same_moments(case: tuple[int, int, int]) -> None:
    count, latents, seed = case
    means, logvars = 2 * drawn(seed, count, latents) + 0.5, drawn(seed ^ 1, count, latents)
    covariance = torch.cov(means.T, correction=0).reshape(latents, latents) + torch.diag(logvars.exp().mean(dim=0))
    aggregate = MultivariateNormal(means.mean(dim=0), covariance)
    prior = MultivariateNormal(torch.zeros(latents, dtype=torch.float64), torch.eye(latents, dtype=torch.float64))
    assert aggregate_kl_nats(means, logvars) == pytest.approx(float(kl_divergence(aggregate, prior)), rel=1e-9)


@settings(max_examples=60)
@given(moments, st.floats(0, 5))
def test_the_aggregate_divergence_lies_between_zero_and_the_rate(case: tuple[int, int, int], scale: float) -> None:
    count, latents, seed = case
    means, logvars = scale * drawn(seed, count, latents), scale * drawn(seed ^ 1, count, latents) - 1
    aggregate, rate = aggregate_kl_nats(means, logvars), latent_kl_nats(means, logvars)
    assert aggregate is not None
    assert rate is not None
    assert 0 <= aggregate <= float(rate.sum()) * (1 + 1e-9)


def test_posteriors_that_are_the_prior_diverge_by_nothing() -> None:
    nothing = torch.zeros(5, 3)
    assert aggregate_kl_nats(nothing, nothing) == 0
    assert latent_kl_nats(nothing, nothing) == pytest.approx([0, 0, 0])


def test_latents_that_together_fill_the_prior_have_a_rate_without_an_aggregate_divergence() -> None:
    means, logvars = math.sqrt(0.99) * drawn(0, 20_000, 2), torch.full((20_000, 2), math.log(0.01))
    aggregate, rate = aggregate_kl_nats(means, logvars), latent_kl_nats(means, logvars)
    assert aggregate is not None
    assert rate is not None
    assert aggregate < 0.001
    assert float(rate.sum()) == pytest.approx(2 * 0.5 * math.log(100), rel=0.02)


@settings(max_examples=30)
@given(moments)
def test_the_divergence_of_each_latent_is_torchs(case: tuple[int, int, int]) -> None:
    count, latents, seed = case
    means, logvars = drawn(seed, count, latents), drawn(seed ^ 1, count, latents)
    expected = kl_divergence(Normal(means, (0.5 * logvars).exp()), Normal(0.0, 1.0)).mean(dim=0)
    assert latent_kl_nats(means, logvars) == pytest.approx(expected, rel=1e-9)


def test_divergences_that_do_not_exist_are_none() -> None:
    empty, fine = torch.empty(0, 3), torch.zeros(4, 3)
    broken = fine.clone()
    broken[0, 0] = torch.nan
    for means, logvars in ((empty, empty), (broken, fine), (fine, broken), (fine, fine + 2000)):
        assert aggregate_kl_nats(means, logvars) is None
        assert latent_kl_nats(means, logvars) is None


def test_silhouette_by_hand() -> None:
    # At 0 and 1 of one class, 5 and 6 of the other: the mean distances to the other class are 5.5, 4.5, 4.5, 5.5.
    means = torch.tensor([[0.0], [1.0], [5.0], [6.0]])
    expected = (2 * (4.5 / 5.5) + 2 * (3.5 / 4.5)) / 4
    found = silhouette(means, torch.tensor([0, 0, 1, 1]), torch.ones(1, dtype=torch.bool))
    assert found == pytest.approx(expected)


def test_knn_takes_the_majority_of_the_neighbours() -> None:
    train = torch.tensor([[0.0, 0], [0.1, 0], [0.2, 0], [5.0, 0], [5.1, 0], [0.05, 0]])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    test, wanted = torch.tensor([[0.05, 0.0], [5.0, 0.0]]), torch.tensor([0, 1])
    assert knn_accuracy(train, labels, test, wanted, ALL, k=3) == 1
    assert knn_accuracy(train, labels, test, wanted, ALL, k=1) == 0.5  # the stray image of class 1 is the nearest


def test_separate_classes_are_found_and_mixed_ones_are_not() -> None:
    (train, labels), (test, wanted) = clusters(0), clusters(1)
    assert knn_accuracy(train, labels, test, wanted, ALL) == 1
    assert probe_accuracy(train, labels, test, wanted, ALL) == 1
    assert (silhouette(test, wanted, ALL) or 0) > 0.85
    noise, other = drawn(0, 600, 2), drawn(1, 600, 2)
    classes = torch.arange(600) % 3
    assert (knn_accuracy(noise, classes, other, classes, ALL) or 1) < 0.45
    assert (probe_accuracy(noise, classes, other, classes, ALL) or 1) < 0.45
    assert abs(silhouette(noise, classes, ALL) or 1) < 0.05


def test_the_scale_of_a_latent_does_not_blind_the_probe() -> None:
    (train, labels), (test, wanted) = clusters(0, spread=0.4), clusters(1, spread=0.4)
    stretch = torch.tensor([1e4, 1e-2], dtype=torch.float64)
    assert probe_accuracy(train * stretch, labels, test * stretch, wanted, ALL) == probe_accuracy(
        train, labels, test, wanted, ALL
    )


def test_the_probe_is_nearly_the_classifier_that_it_would_be_without_a_limit() -> None:
    train, test, weights = drawn(0, 800, 20), drawn(1, 400, 20), 2 * drawn(2, 20, 5)
    labels, wanted = (train @ weights).argmax(dim=1), (test @ weights).argmax(dim=1)
    full = LogisticRegression(max_iter=5000, tol=1e-8).fit(train.numpy(), labels.numpy())
    expected = float((full.predict(test.numpy()) == wanted.numpy()).mean())
    found = probe_accuracy(train, labels, test, wanted, torch.ones(20, dtype=torch.bool))
    assert found == pytest.approx(expected, abs=0.02)


def test_classes_in_a_latent_that_is_not_active_are_not_seen() -> None:
    labels = torch.arange(90) % 3
    means = torch.stack([drawn(0, 90)[:], 0.01 * labels + 1e-4 * drawn(1, 90)], dim=1)
    assert active_units(means).tolist() == [True, False]
    assert knn_accuracy(means[:, 1:], labels, means[:, 1:], labels, ALL[:1]) == 1  # which is why it is masked
    masked = knn_accuracy(means[:45], labels[:45], means[45:], labels[45:], active_units(means))
    assert masked is not None
    assert masked < 0.6


def test_measures_of_classes_that_are_not_defined_are_none() -> None:
    means, labels = clusters(0, 30)
    broken = means.clone()
    broken[0, 0] = torch.inf
    for arguments in ((means, None, ALL), (means, labels, NONE), (broken, labels, ALL), (means, labels * 0, ALL)):
        assert silhouette(*arguments) is None
    assert silhouette(means, torch.arange(30), ALL) is None  # no two images of one class
    for accuracy in (knn_accuracy, probe_accuracy):
        assert accuracy(means, None, means, labels, ALL) is None
        assert accuracy(means, labels, means, None, ALL) is None
        assert accuracy(means, labels, means, labels, NONE) is None
        assert accuracy(broken, labels, means, labels, ALL) is None
        assert accuracy(means, labels, means[:0], labels[:0], ALL) is None
    assert knn_accuracy(means[:4], labels[:4], means, labels, ALL) is None
    assert probe_accuracy(means, labels * 0, means, labels, ALL) is None


def test_all_take_float32_and_gradients() -> None:
    means, labels = clusters(0)
    x = means.float().requires_grad_()
    assert silhouette(x, labels, ALL) == pytest.approx(silhouette(means, labels, ALL), abs=1e-6)
    assert np.isfinite(aggregate_kl_nats(x, torch.zeros_like(x)) or np.nan)
