"""The convolutional VAE: one family of networks, from images to a diagonal Gaussian over latents and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raysweep.spec.config import ConvBlock, TrialConfig, parse_conv_blocks
from raysweep.vae.cpu.convolutions import Conv2d, ConvTranspose2d
from raysweep.vae.cpu.linear import Linear
from raysweep.vae.cpu.narrow import MOST_CHANNELS, NarrowTransposed
from raysweep.vae.likelihoods import mean_image, mean_logits, output_channels

LOGVAR_MIN, LOGVAR_MAX = -15.0, 10.0
"""Bounds of the posterior's log variance: beyond them exp() leaves float32's range long before the KL matters."""

Sides = tuple[int, int]
"""Height and width."""


class ConvVAE(nn.Module):
    """A VAE over images of `shape` [channels, height, width], as the fields of `config` describe it.

    The encoder has the convolutions of `conv_blocks`, then a linear layer to `hidden_size` if there is one. Each is
    followed by batch normalisation, if `batch_norm` says so, and an activation. A last layer gives the mean and the log
    variance of q(z|x). The decoder mirrors the encoder with transposed convolutions; nothing follows its last layer.

    Raises:
        ValueError: if the convolutions halve the image to less than a pixel.
    """

    def __init__(self, config: TrialConfig, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        blocks = parse_conv_blocks(config.conv_blocks)
        halvings = sum(block.halves for block in blocks)
        if min(shape) < 1 or min(height, width) >> halvings < 1:
            raise ValueError(
                f"images of {height}x{width} pixels in {channels} channels are too small for conv_blocks "
                f"{config.conv_blocks!r}, which halve them {halvings} times"
            )
        self.shape = shape
        self.latent_size = config.latent_size
        self.likelihood = config.likelihood
        self.sigma = config.sigma
        widths = [channels, *(block.multiple * config.d_size for block in blocks)]
        sides = _sides_along(blocks, (height, width), config.kernel_size)
        folded = (widths[-1], *sides[-1])
        flat = folded[0] * folded[1] * folded[2]
        hidden = config.hidden_size

        encoder: list[nn.Module] = []
        for block, into, out in zip(blocks, widths[:-1], widths[1:], strict=True):
            normalised = config.batch_norm in ("conv", "all")
            kernel, stride = (config.kernel_size, 2) if block.halves else (3, 1)
            encoder.append(Conv2d(into, out, kernel, stride, padding=1, bias=not normalised))
            encoder += _followers(config, nn.BatchNorm2d(out) if normalised else None)
        encoder.append(nn.Flatten())
        if hidden is not None:
            encoder += _linear(config, flat, hidden)
        self.encoder = nn.Sequential(*encoder)
        self.posterior = Linear(flat if hidden is None else hidden, 2 * config.latent_size)

        decoder: list[nn.Module] = [] if hidden is None else _linear(config, config.latent_size, hidden)
        into, ends = config.latent_size if hidden is None else hidden, output_channels(config.likelihood, channels)
        if blocks:
            decoder += [*_linear(config, into, flat), nn.Unflatten(1, folded)]
            decoder += _transposed(config, blocks, [ends, *widths[1:]], sides)
        else:
            decoder += [Linear(into, ends * height * width), nn.Unflatten(1, (ends, height, width))]
        self.decoder = nn.Sequential(*decoder)

    @classmethod
    def from_config(cls, config: TrialConfig, shape: tuple[int, int, int]) -> Self:
        """Return the network that a trial trains, initialised from the trial's seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return cls(config, shape)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of q(z|x), [batch, latent_size].

        x is [batch, channels, height, width] in [0, 1].
        """
        mean, logvar = self.posterior(self.encoder(x)).chunk(2, dim=1)
        return mean, F.hardtanh(logvar, LOGVAR_MIN, LOGVAR_MAX)  # a clamp whose gradient is one operation

    def decode_output(self, z: Tensor) -> Tensor:
        """Return the decoder's whole output, as `likelihoods` reads it, for latents z [batch, latent_size].

        These are logits [batch, channels, height, width]; for `learned_gaussian` as many channels of log variances
        follow.
        """
        output: Tensor = self.decoder(z)
        return output

    def decode_logits(self, z: Tensor) -> Tensor:
        """Return the pixels' logits, [batch, channels, height, width], for latents z [batch, latent_size].

        The mean image is their sigmoid, except for `continuous_bernoulli`: there it is the parameter lambda.
        """
        return mean_logits(self.decode_output(z), self.likelihood)

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean image in [0, 1], [batch, channels, height, width], for latents z [batch, latent_size]."""
        return mean_image(self.decode_output(z), self.likelihood)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the decoder's output for the reconstruction, and mean and log variance of q(z|x).

        The caller draws `noise` [batch, latent_size] from N(0, I): z = mean + exp(logvar / 2) * noise.
        """
        mean, logvar = self.encode(x)
        return self.decode_output(torch.addcmul(mean, (0.5 * logvar).exp(), noise)), mean, logvar

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return images in [0, 1] decoded from the posterior means of x [batch, channels, height, width] in [0, 1]."""
        with evaluating(self):
            return self.decode(self.encode(x)[0])

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Return images in [0, 1], [count, channels, height, width], decoded from draws of the prior N(0, I)."""
        generator = torch.Generator().manual_seed(seed)
        latents = torch.randn(count, self.latent_size, generator=generator)
        with evaluating(self):
            return self.decode(latents.to(self.posterior.weight.device))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, and restore its mode at the end.

    In evaluation mode batch normalisation does not learn from its inputs.
    """
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _followers(config: TrialConfig, normalisation: nn.Module | None) -> list[nn.Module]:
    """Return the layers that follow a layer: its normalisation, if it has one, and the activation."""
    slope = config.negative_slope
    activation = nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)
    return [activation] if normalisation is None else [normalisation, activation]


def _linear(config: TrialConfig, into: int, out: int) -> list[nn.Module]:
    normalised = config.batch_norm in ("linear", "all")
    layer = Linear(into, out, bias=not normalised)
    return [layer, *_followers(config, nn.BatchNorm1d(out) if normalised else None)]


def _transposed(
    config: TrialConfig, blocks: tuple[ConvBlock, ...], widths: list[int], sides: list[Sides]
) -> list[nn.Module]:
    """Return the decoder's transposed convolutions, innermost first.

    They end in images of `sides[0]` with `widths[0]` channels.
    """
    unpadded = _unpadded_layers(blocks, sides, config.kernel_size) if config.upsampling == "trimmed" else 0
    layers: list[nn.Module] = []
    for index in reversed(range(len(blocks))):
        normalised = config.batch_norm in ("conv", "all") and index > 0
        kernel, stride = (config.kernel_size, 2) if blocks[index].halves else (3, 1)
        missing = (0, 0)
        if config.upsampling == "mirrored":
            height, width = (
                wanted - _grown(side, kernel, stride, padding=1)
                for wanted, side in zip(sides[index], sides[index + 1], strict=True)
            )
            missing = (height, width)
        is_narrow = index == 0 and widths[0] <= MOST_CHANNELS
        layers.append(
            (NarrowTransposed if is_narrow else ConvTranspose2d)(
                widths[index + 1],
                widths[index],
                kernel,
                stride,
                padding=0 if index < unpadded else 1,
                output_padding=missing,
                bias=not normalised,
            )
        )
        if index > 0:
            layers += _followers(config, nn.BatchNorm2d(widths[index]) if normalised else None)
    return [*layers, Trim(sides[0])] if config.upsampling == "trimmed" else layers


class Trim(nn.Module):
    """A layer that cuts images of `sides` from the middle of larger ones; an odd row or column goes at the end."""

    def __init__(self, sides: Sides) -> None:
        super().__init__()
        self.sides = sides

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.sides
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        return x[:, :, top : top + height, left : left + width]


def _sides_along(blocks: tuple[ConvBlock, ...], sides: Sides, kernel: int) -> list[Sides]:
    """Return the sides of the image, and those after each convolution.

    A convolution that halves rounds up with a kernel of 3, down with 4.
    """
    along = [sides]
    for block in blocks:
        height, width = along[-1]
        if block.halves:
            height, width = (height + 2 - kernel) // 2 + 1, (width + 2 - kernel) // 2 + 1
        along.append((height, width))
    return along


def _grown(side: int, kernel: int, stride: int, padding: int) -> int:
    """Return the length of a side after a transposed convolution without output padding."""
    return (side - 1) * stride - 2 * padding + kernel


def _unpadded_layers(blocks: tuple[ConvBlock, ...], sides: list[Sides], kernel: int) -> int:
    """Return how many of the outermost transposed convolutions go without padding: the fewest that reach the image.

    With padding, a kernel of 3 turns 7 into 13 and 13 into 25, less than 28. Without padding, each end gains a pixel.
    """
    for unpadded in range(len(blocks)):
        reached = list(sides[-1])
        for index in reversed(range(len(blocks))):
            padding = 0 if index < unpadded else 1
            halves = blocks[index].halves
            reached = [_grown(side, kernel if halves else 3, 2 if halves else 1, padding) for side in reached]
        if all(side >= wanted for side, wanted in zip(reached, sides[0], strict=True)):
            return unpadded
    return len(blocks)
