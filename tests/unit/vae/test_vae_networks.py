"""The network: shapes for every image size it takes, gradients everywhere, initialisation from the seed alone."""

from __future__ import annotations

import pytest
import torch
from tensor_images import small_config

from raysweep.vae.networks import LOGVAR_MAX, LOGVAR_MIN, ConvVAE

SIZES = [(8, 8), (16, 16), (32, 32), (64, 64), (8, 24), (40, 16)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_images_of_any_multiple_of_8_come_back_in_their_shape(channels: int, height: int, width: int) -> None:
    model = ConvVAE(small_config(d_size=2, latent_size=5, hidden_size=7), (channels, height, width))
    x = torch.rand(3, channels, height, width)
    mean, logvar = model.encode(x)
    assert mean.shape == logvar.shape == (3, 5)
    logits, mean, logvar = model(x, torch.zeros(3, 5))
    assert logits.shape == x.shape
    for images in (model.decode(mean), model.reconstruct(x)):
        assert images.shape == x.shape
        assert images.min() >= 0
        assert images.max() <= 1
    assert model.sample(4).shape == (4, channels, height, width)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 7), (7, 8), (0, 8), (-8, 8)])
def test_a_size_that_cannot_be_halved_three_times_is_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"images of {height}x{width} pixels .* are too small"):
        ConvVAE(small_config(), (1, height, width))


def test_every_parameter_gets_a_gradient() -> None:
    model = ConvVAE.from_config(small_config(), (3, 16, 16))
    logits, mean, logvar = model(torch.rand(8, 3, 16, 16), torch.randn(8, 3))
    (logits.square().sum() + mean.square().sum() + logvar.square().sum()).backward()
    silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert not silent


def test_initialisation_depends_on_the_seed_alone() -> None:
    first = ConvVAE.from_config(small_config(seed=1), (1, 8, 8)).state_dict()
    torch.rand(17)
    again = ConvVAE.from_config(small_config(seed=1), (1, 8, 8)).state_dict()
    other = ConvVAE.from_config(small_config(seed=2), (1, 8, 8)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_initialisation_and_sampling_leave_torchs_own_generator_alone() -> None:
    before = torch.get_rng_state()
    ConvVAE.from_config(small_config(), (1, 8, 8)).sample(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_noise_moves_the_latents_by_the_posteriors_standard_deviation() -> None:
    model = ConvVAE.from_config(small_config(), (1, 8, 8))
    x, noise = torch.rand(4, 1, 8, 8), torch.randn(4, 3)
    logits, mean, logvar = model(x, noise)
    torch.testing.assert_close(logits, model.decode_logits(mean + (0.5 * logvar).exp() * noise))
    torch.testing.assert_close(model.reconstruct(x), model(x, torch.zeros(4, 3))[0].sigmoid())


@pytest.mark.parametrize("bias", [-1e4, 1e4])
def test_the_log_variance_stays_within_its_bounds(bias: float) -> None:
    model = ConvVAE.from_config(small_config(), (1, 8, 8))
    with torch.no_grad():
        model.posterior.bias.fill_(bias)
    _, logvar = model.encode(torch.rand(2, 1, 8, 8))
    assert logvar.min() >= LOGVAR_MIN
    assert logvar.max() <= LOGVAR_MAX


def test_samples_are_drawn_from_the_seed() -> None:
    model = ConvVAE.from_config(small_config(), (1, 8, 8))
    assert torch.equal(model.sample(5, seed=3), model.sample(5, seed=3))
    assert not torch.equal(model.sample(5, seed=3), model.sample(5, seed=4))
