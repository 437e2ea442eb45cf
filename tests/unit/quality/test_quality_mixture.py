"""The mixture fitted to latents: what it recovers, what it leaves to the prior, and when there is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raysweep.quality import mixture
from raysweep.quality.distances import kid
from raysweep.quality.latents import active_units
from raysweep.quality.mixture import fit_mixture

TURN = torch.tensor([[0.8, -0.6], [0.6, 0.8]])


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def islands(seed: int, count: int) -> Tensor:
    """Two narrow, slanted clusters, three times as many images in the first: [count, 2]."""
    left = torch.arange(count) % 4 < 3
    centres = torch.where(left[:, None], torch.tensor([-3.0, 0.0]), torch.tensor([3.0, 1.0]))
    return centres + (normal(seed, count, 2) * torch.tensor([0.5, 0.05])) @ TURN.T


def every(latents: int) -> Tensor:
    return torch.ones(latents, dtype=torch.bool)


def test_it_recovers_clusters_with_their_weights_and_covariances() -> None:
    fitted = fit_mixture(islands(0, 2000), None, active=every(2), components=2, seed=0)
    assert fitted is not None
    drawn = fitted.sample(20_000, seed=1)
    left = drawn[:, 0] < 0
    assert float(left.float().mean()) == pytest.approx(0.75, abs=0.02)
    wanted = TURN @ torch.diag(torch.tensor([0.25, 0.0025])) @ TURN.T
    for side, centre in ((left, [-3.0, 0.0]), (~left, [3.0, 1.0])):
        assert drawn[side].mean(dim=0).tolist() == pytest.approx(centre, abs=0.04)
        assert torch.allclose(torch.cov(drawn[side].T), wanted, atol=0.02)


@pytest.mark.parametrize("most_rotated", [1024, 0])
def test_diagonal_components_keep_the_moments_of_all_latents(
    most_rotated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too few samples for full covariances; along the latents themselves only the variances are kept."""
    monkeypatch.setattr(mixture, "MOST_ROTATED", most_rotated)
    latents = normal(0, 500, 40) @ (normal(1, 40, 40) / 6) + 2
    fitted = fit_mixture(latents, None, active=every(40), components=3, seed=0)
    assert fitted is not None
    assert fitted.factors.ndim == 2
    drawn = fitted.sample(50_000, seed=1)
    assert torch.allclose(drawn.mean(dim=0), latents.mean(dim=0), atol=0.05)
    wanted, found = torch.cov(latents.T), torch.cov(drawn.T)
    if most_rotated:
        assert float((found - wanted).norm() / wanted.norm()) < 0.1
    else:
        assert torch.allclose(found.diagonal(), wanted.diagonal(), rtol=0.1)


def test_its_samples_are_nearer_to_the_latents_than_the_priors() -> None:
    latents = islands(0, 500)
    fitted = fit_mixture(latents[:300], None, active=every(2), seed=0)
    assert fitted is not None
    of_mixture, of_prior = kid(latents, fitted.sample(500, 1)), kid(latents, normal(2, 500, 2))
    assert of_mixture is not None
    assert of_prior is not None
    assert abs(of_mixture) < 0.05 * of_prior


def test_the_spread_of_the_posteriors_is_part_of_it() -> None:
    fitted = fit_mixture(torch.zeros(2000, 1), torch.full((2000, 1), 2.0).log() * 2, active=every(1), components=1)
    assert fitted is not None
    assert float(fitted.sample(20_000, 0).std()) == pytest.approx(2, rel=0.05)


def test_latents_that_are_not_active_come_from_the_prior() -> None:
    means = torch.cat([islands(0, 400)[:, :1], 0.001 * normal(1, 400, 2), islands(2, 400)[:, 1:] * 5], dim=1)
    active = active_units(means)
    assert active.tolist() == [True, False, False, True]
    fitted = fit_mixture(means, torch.zeros(400, 4) - 5, active=active, seed=0)
    assert fitted is not None
    drawn = fitted.sample(5000, seed=3)
    assert drawn[:, 1:3].mean(dim=0).tolist() == pytest.approx([0, 0], abs=0.06)
    assert drawn[:, 1:3].std(dim=0).tolist() == pytest.approx([1, 1], abs=0.06)
    assert float(drawn[:, 0].abs().min()) > 0.5  # between the clusters there is nothing


def test_without_an_active_latent_it_is_the_prior() -> None:
    fitted = fit_mixture(torch.zeros(50, 3), None, active=~every(3))
    assert fitted is not None
    drawn = fitted.sample(10_000, seed=0)
    assert drawn.mean(dim=0).tolist() == pytest.approx([0] * 3, abs=0.05)
    assert torch.allclose(torch.cov(drawn.T), torch.eye(3), atol=0.05)


def test_the_seeds_decide() -> None:
    latents = islands(0, 300)
    first, again = (fit_mixture(latents, latents * 0 - 3, active=every(2), seed=5) for _ in range(2))
    assert first is not None
    assert again is not None
    assert torch.equal(first.sample(50, 1), again.sample(50, 1))
    assert not torch.equal(first.sample(50, 1), first.sample(50, 2))
    assert first.sample(50, 1).dtype == torch.float32
    assert first.sample(0, 1).shape == (0, 2)


@pytest.mark.parametrize("count", [2, 3, 7, 15])
def test_few_images_have_a_mixture_of_fewer_components(count: int) -> None:
    fitted = fit_mixture(islands(0, count), None, active=every(2), components=10)
    assert fitted is not None
    assert len(fitted.weights) == min(10, count // 2)
    assert bool(torch.isfinite(fitted.sample(100, 0)).all())


@pytest.mark.parametrize("dimensions", [2, 30])
def test_images_that_are_all_alike_have_a_mixture(dimensions: int) -> None:
    """Copies leave k-means with fewer clusters than it was asked for, and covariances of zero."""
    fitted = fit_mixture(torch.ones(1000, dimensions), None, active=every(dimensions))
    assert fitted is not None
    assert torch.allclose(fitted.sample(100, 0), torch.ones(100, dimensions), atol=1e-3)


def test_more_latents_than_images_have_a_mixture() -> None:
    latents = normal(0, 40, 200)
    fitted = fit_mixture(latents, None, active=every(200), components=4)
    assert fitted is not None
    drawn = fitted.sample(2000, 0)
    assert bool(torch.isfinite(drawn).all())
    assert float(drawn.var(dim=0).sum()) == pytest.approx(float(latents.var(dim=0).sum()), rel=0.2)


def test_a_mixture_that_cannot_be_fitted_is_none() -> None:
    latents = islands(0, 30)
    assert fit_mixture(latents[:1], None, active=every(2)) is None
    latents[3, 1] = torch.nan
    assert fit_mixture(latents, None, active=every(2)) is None
    assert fit_mixture(latents, None, active=torch.tensor([True, False])) is not None


def test_no_component_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0"):
        fit_mixture(islands(0, 30), None, active=every(2), components=0)
