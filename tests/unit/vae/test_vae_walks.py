"""Walks through the latent space: their ends, their one latent at a time, and that they leave the model alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensor_images import discs, small_config

from raysweep.vae.networks import ConvVAE
from raysweep.vae.walks import interpolate, traverse

SHAPE = (3, 8, 16)


@pytest.fixture(scope="module")
def model() -> ConvVAE:
    """A model whose weights are large, so that images differ in their latents and latents in their images."""
    model = ConvVAE.from_config(small_config(batch_norm="all", negative_slope=0.2), SHAPE)
    with torch.no_grad():
        model.posterior.weight.mul_(1000)
        model.decoder[0].weight.mul_(10)
    return model


@given(st.integers(1, 5), st.integers(2, 9))
def test_an_interpolation_starts_and_ends_at_the_reconstructions(model: ConvVAE, pairs: int, steps: int) -> None:
    first, second = discs(pairs, SHAPE), discs(pairs, SHAPE, seed=1)
    images = interpolate(model, first, second, steps)
    assert images.shape == (pairs, steps, *SHAPE)
    assert not images.requires_grad
    assert images.min() >= 0
    assert images.max() <= 1
    assert (images[:, 0] - images[:, -1]).abs().amax() > 1e-3
    torch.testing.assert_close(images[:, 0], model.reconstruct(first))
    torch.testing.assert_close(images[:, -1], model.reconstruct(second))


def test_the_middle_of_an_interpolation_is_decoded_from_the_mean_of_both(model: ConvVAE) -> None:
    first, second = discs(2, SHAPE), discs(2, SHAPE, seed=1)
    model.eval()
    middle = (model.encode(first)[0] + model.encode(second)[0]) / 2
    torch.testing.assert_close(interpolate(model, first, second, 3)[:, 1], model.decode(middle))
    model.train()


@pytest.mark.parametrize(("pairs", "steps"), [((2, 2), 1), ((2, 3), 4)])
def test_a_walk_without_two_ends_is_refused(model: ConvVAE, pairs: tuple[int, int], steps: int) -> None:
    with pytest.raises(ValueError, match=f"got {steps} steps"):
        interpolate(model, discs(pairs[0], SHAPE), discs(pairs[1], SHAPE), steps)


def test_a_traversal_changes_one_latent_and_leaves_the_others_at_the_images_mean(model: ConvVAE) -> None:
    x = discs(1, SHAPE)[0]
    images = traverse(model, x, [2, 0], [-2.0, 0.0, 1.5, 3.0])
    assert images.shape == (2, 4, *SHAPE)
    assert not images.requires_grad
    model.eval()
    z = model.encode(x[None])[0].detach().clone()
    z[0, 0] = 1.5
    torch.testing.assert_close(images[1, 2], model.decode(z)[0])
    model.train()


def test_a_latent_that_there_is_not_is_refused(model: ConvVAE) -> None:
    with pytest.raises(ValueError, match="from 0 to 2, got"):
        traverse(model, discs(1, SHAPE)[0], [3], [0.0])


def test_walking_leaves_the_model_as_it_was(model: ConvVAE) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    interpolate(model, discs(2, SHAPE), discs(2, SHAPE, seed=1), 3)
    traverse(model, discs(1, SHAPE)[0], [0], [1.0])
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
