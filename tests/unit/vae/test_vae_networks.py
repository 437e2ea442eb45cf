"""The network: shapes for every image size it takes, gradients everywhere, initialisation from the seed alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensor_images import small_config
from torch import nn

from raysweep.spec.config import TrialConfig, parse_conv_blocks
from raysweep.vae.networks import LOGVAR_MAX, LOGVAR_MIN, ConvVAE, Trim

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


architectures = st.fixed_dictionaries(
    {
        "kernel_size": st.sampled_from([3, 4]),
        "conv_blocks": st.sampled_from(["none", "d", "d/2", "d/2 2d/2 4d/2", "d 2d/2 2d/2 2d", "d/2 d d/2", "2d d/2"]),
        "upsampling": st.sampled_from(["mirrored", "trimmed"]),
        "batch_norm": st.sampled_from(["none", "conv", "linear", "all"]),
        "hidden_size": st.sampled_from([None, 5]),
        "negative_slope": st.sampled_from([0.0, 0.2]),
        "likelihood": st.sampled_from(["gaussian", "learned_gaussian"]),
    }
)


@given(architectures, st.integers(8, 33), st.integers(8, 33), st.sampled_from([1, 3]))
def test_every_architecture_gives_images_back_in_their_own_shape(
    fields: dict[str, Any], height: int, width: int, channels: int
) -> None:
    shape = (channels, height, width)
    model = ConvVAE(small_config(d_size=2, latent_size=2, **fields), shape)
    x = torch.rand(2, *shape)
    output, mean, logvar = model(x, torch.zeros(2, 2))
    assert output.shape == (2, 2 * channels if fields["likelihood"] == "learned_gaussian" else channels, height, width)
    assert mean.shape == logvar.shape == (2, 2)
    assert model.reconstruct(x).shape == model.decode_logits(mean).shape == x.shape
    assert model.sample(3).shape == (3, *shape)


@given(architectures)
def test_the_fields_are_the_layers(fields: dict[str, Any]) -> None:
    """Convolutions as listed, normalisation where it is asked for, an activation each, and nothing after the last."""
    model = ConvVAE(small_config(d_size=2, **fields), (1, 16, 16))
    blocks = parse_conv_blocks(fields["conv_blocks"])
    convolutions = [layer for layer in model.encoder if isinstance(layer, nn.Conv2d)]
    assert [(layer.out_channels, layer.kernel_size[0], layer.stride[0]) for layer in convolutions] == [
        (2 * block.multiple, fields["kernel_size"] if block.halves else 3, 2 if block.halves else 1) for block in blocks
    ]
    mirrored = [layer for layer in model.decoder if isinstance(layer, nn.ConvTranspose2d)]
    assert [(layer.in_channels, layer.kernel_size, layer.stride) for layer in mirrored] == [
        (layer.out_channels, layer.kernel_size, layer.stride) for layer in reversed(convolutions)
    ]
    for layers in (model.encoder, model.decoder):
        kinds = [type(layer) for layer in layers]
        weighty = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
        if layers is model.decoder:
            behind = set(kinds[weighty[-1] + 1 :])
            assert behind <= {Trim, nn.Unflatten}
            assert layers[weighty[-1]].bias is not None
            weighty = weighty[:-1]
        for i in weighty:
            linear = isinstance(layers[i], nn.Linear)
            normalised = fields["batch_norm"] in ("all", "linear" if linear else "conv")
            expected = [nn.BatchNorm1d if linear else nn.BatchNorm2d] if normalised else []
            expected.append(nn.LeakyReLU if fields["negative_slope"] else nn.ReLU)
            assert kinds[i + 1 : i + 1 + len(expected)] == expected
    assert model.posterior.in_features == (fields["hidden_size"] or model.encoder(torch.zeros(2, 1, 16, 16)).shape[1])


def sides_along_the_decoder(model: ConvVAE) -> list[int]:
    """The height after the unfolding and after each transposed convolution."""
    sides: list[int] = []
    for layer in model.decoder:
        if isinstance(layer, nn.Unflatten | nn.ConvTranspose2d):
            layer.register_forward_hook(lambda _, __, output: sides.append(output.shape[2]))
    model.sample(2)
    return sides


@pytest.mark.parametrize(
    ("kernel", "blocks", "side", "upsampling", "expected"),
    [
        (3, "d/2 2d/2 4d/2", 28, "mirrored", [4, 7, 14, 28]),
        (4, "d/2 2d/2", 28, "mirrored", [7, 14, 28]),
        (4, "d/2 2d/2", 31, "mirrored", [7, 15, 31]),
        (3, "d 2d/2 2d/2 2d", 28, "trimmed", [7, 7, 13, 27, 29]),
        (3, "d/2 2d/2 4d/2", 32, "trimmed", [4, 9, 19, 39]),
        (4, "d/2 2d/2", 28, "trimmed", [7, 14, 28]),
    ],
)
def test_the_decoder_passes_the_sizes_of_the_encoder_or_goes_beyond_the_last(
    kernel: int, blocks: str, side: int, upsampling: str, expected: list[int]
) -> None:
    config = small_config(kernel_size=kernel, conv_blocks=blocks, upsampling=upsampling)
    assert sides_along_the_decoder(ConvVAE(config, (1, side, side))) == expected


def test_trimming_keeps_the_middle() -> None:
    x = torch.arange(36.0).view(1, 1, 6, 6)
    assert torch.equal(Trim((4, 2))(x), x[:, :, 1:5, 2:4])
    assert torch.equal(Trim((5, 6))(x), x[:, :, :5])


def test_the_default_network_is_three_strided_convolutions_and_their_mirror() -> None:
    state = ConvVAE(TrialConfig(d_size=8, latent_size=5, hidden_size=32), (3, 32, 32)).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items() if name.endswith("weight")}
    assert shapes == {
        "encoder.0.weight": (8, 3, 3, 3),
        "encoder.2.weight": (16, 8, 3, 3),
        "encoder.4.weight": (32, 16, 3, 3),
        "encoder.7.weight": (32, 512),
        "posterior.weight": (10, 32),
        "decoder.0.weight": (32, 5),
        "decoder.2.weight": (512, 32),
        "decoder.5.weight": (32, 16, 3, 3),
        "decoder.7.weight": (16, 8, 3, 3),
        "decoder.9.weight": (8, 3, 3, 3),
    }


@pytest.mark.parametrize("training", [True, False])
def test_looking_at_images_leaves_batch_normalisation_and_the_mode_alone(training: bool) -> None:
    model = ConvVAE(small_config(batch_norm="all"), (1, 8, 8)).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.rand(4, 1, 8, 8)
    together = model.reconstruct(x)
    torch.testing.assert_close(model.reconstruct(x[:1]), together[:1])  # of itself alone, not of its batch
    model.sample(3)
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@given(architectures.filter(lambda fields: fields["batch_norm"] == "none"))
def test_every_parameter_gets_a_gradient(fields: dict[str, Any]) -> None:
    # Without activations that are 0 below 0, by which all of a layer's few units may be silent.
    model = ConvVAE.from_config(small_config(**fields | {"negative_slope": 0.2}), (3, 16, 16))
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
