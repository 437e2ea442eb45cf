"""Preparation of a training step's images: augmentation, binarisation, and corruption of the network's input.

Each image has its own draws. A batch is drawn at once on the device, from generators that depend on the trial's seed
and the epoch. Augmentation comes first, then binarisation; both change input and target. Dropout and noise then change
the input only, and the loss is against the clean image (Vincent et al., ICML 2008). Validation images are binarised,
but neither augmented nor corrupted.
"""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from raysweep.spec.config import TrialConfig

WHITE_FROM = 0.5
"""The least value of a pixel that becomes white when it is binarised at a threshold."""


class InputGenerators(NamedTuple):
    """The generators of one epoch's draws. They are separate, so that adding noise does not change the rotations."""

    augmentation: torch.Generator
    binarisation: torch.Generator
    corruption: torch.Generator

    @classmethod
    def of(cls, seed: int, epoch: int, device: torch.device) -> InputGenerators:
        """Return the generators of epoch `epoch`, counted from 0."""
        return cls(*(seeded_generator(device, seed, epoch, purpose) for purpose in cls._fields))


def seeded_generator(device: torch.device | str, seed: int, epoch: int, purpose: str) -> torch.Generator:
    """Return a generator on `device` seeded by seed, epoch and purpose; leave torch's own generator as it is."""
    # Hash to 64 bits, because torch's CPU generator uses only the lower 32 bits of its seed.
    mixed = hashlib.blake2b(f"{seed} {epoch} {purpose}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(mixed))


def changes_images(config: TrialConfig) -> bool:
    """Return whether a training step sees images other than the originals."""
    return bool(
        config.rotation_degrees
        or config.autocontrast_probability
        or config.brightness_jitter
        or config.binarise != "none"
        or config.input_dropout
        or config.input_noise
    )


def training_pair(x: Tensor, config: TrialConfig, generators: InputGenerators) -> tuple[Tensor, Tensor]:
    """Return the network's input and the target of the loss, both shaped like x.

    x is [batch, channels, height, width] in [0, 1].
    """
    target = binarise(augment(x, config, generators.augmentation), config.binarise, generators.binarisation)
    return corrupt(target, config, generators.corruption), target


def augment(x: Tensor, config: TrialConfig, generator: torch.Generator) -> Tensor:
    """Rotate images, stretch them to full contrast and change their brightness, in this order.

    Each image has its own draws.
    """
    if config.rotation_degrees:
        x = rotate(x, config.rotation_degrees * (2 * _uniform(x, generator) - 1))
    if config.autocontrast_probability:
        chosen = _uniform(x, generator) < config.autocontrast_probability
        x = torch.where(chosen.view(-1, 1, 1, 1), autocontrast(x), x)
    if config.brightness_jitter:
        x = adjust_brightness(x, 1 + config.brightness_jitter * (2 * _uniform(x, generator) - 1))
    return x


def binarise(
    x: Tensor, how: Literal["none", "threshold", "sampled"], generator: torch.Generator | None = None
) -> Tensor:
    """Return images with pixels of 0 or 1, unless `how` is `none`.

    `threshold` sets pixels of `WHITE_FROM` or more to 1. `sampled` draws from `generator`, with the pixel as the
    probability of 1.
    """
    if how == "none":
        return x
    if how == "threshold":
        return (x >= WHITE_FROM).to(x.dtype)
    return (torch.rand(x.shape, generator=generator, device=x.device) < x).to(x.dtype)


def corrupt(x: Tensor, config: TrialConfig, generator: torch.Generator) -> Tensor:
    """Set each value to 0 with probability `input_dropout`, then add Gaussian noise.

    Each channel of a pixel has its own draws. Values that stay are not scaled up, and the result is not clipped to
    [0, 1].
    """
    if config.input_dropout:
        x = x * (torch.rand(x.shape, generator=generator, device=x.device) >= config.input_dropout)
    if config.input_noise:
        x = x + config.input_noise * torch.randn(x.shape, generator=generator, device=x.device)
    return x


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """Rotate each image of x counter-clockwise about its centre by its own angle in `degrees` [batch].

    Pixels from outside the image are black. Nearest neighbours are used, as in torchvision's RandomRotation by default,
    so no new grey level appears.
    """
    height, width = x.shape[2:]
    radians = degrees.deg2rad().view(-1, 1, 1)
    cosine, sine = radians.cos(), radians.sin()
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    rows = torch.arange(height, dtype=torch.float32, device=x.device).view(-1, 1) - middle_row
    columns = torch.arange(width, dtype=torch.float32, device=x.device) - middle_column
    # Source positions of the pixels, [batch, height, width]. Each product spans one axis only, so it is small.
    from_row = (sine * columns + cosine * rows).add_(middle_row).round_()
    from_column = (cosine * columns - sine * rows).add_(middle_column).round_()
    inside = (from_row >= 0) & (from_row < height) & (from_column >= 0) & (from_column < width)
    position = from_row.mul_(width).add_(from_column).mul_(inside).long()
    rotated = x.flatten(2).gather(2, position.flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1))
    return rotated.view_as(x) * inside.unsqueeze(1)


def autocontrast(x: Tensor) -> Tensor:
    """Stretch each channel of each image so that its darkest pixel is 0 and its brightest 1.

    A channel whose pixels are all equal stays as it is.
    """
    darkest, brightest = x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
    scale = 1 / (brightest - darkest)
    flat = ~scale.isfinite()
    return ((x - darkest.masked_fill(flat, 0)) * scale.masked_fill(flat, 1)).clamp_(0, 1)


def adjust_brightness(x: Tensor, factors: Tensor) -> Tensor:
    """Multiply each image of x by its own factor in `factors` [batch] and clip it at 1."""
    return (x * factors.view(-1, 1, 1, 1)).clamp_(0, 1)


def _uniform(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one number from [0, 1) for each image, [batch]."""
    return torch.rand(len(x), generator=generator, device=x.device)
