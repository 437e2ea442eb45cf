"""What a training step sees of its images: augmented, binarised, and, for the network's input alone, corrupted.

Everything is drawn for each image on its own, in one batch on the device, from generators that are functions of the
trial's seed and the epoch. Augmentation comes first, and what it makes is the image: input and target. So is what
binarising makes of it. Dropout and noise then fall on the input alone, and the loss is against the clean image (Vincent
et al., ICML 2008). Validation images are binarised, and neither augmented nor corrupted.
"""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from raysweep.spec.config import TrialConfig

WHITE_FROM = 0.5
"""The pixel value from which on a pixel is white when it is binarised at a threshold."""


class InputGenerators(NamedTuple):
    """Where the draws of one epoch come from. They are apart, so that adding noise rotates no image otherwise."""

    augmentation: torch.Generator
    binarisation: torch.Generator
    corruption: torch.Generator

    @classmethod
    def of(cls, seed: int, epoch: int, device: torch.device) -> InputGenerators:
        """The generators of epoch `epoch`, counted from 0."""
        return cls(*(seeded_generator(device, seed, epoch, purpose) for purpose in cls._fields))


def seeded_generator(device: torch.device | str, seed: int, epoch: int, purpose: str) -> torch.Generator:
    """A generator on `device` that depends on all three; torch's own generator is neither read nor moved."""
    # 64 bits of a hash, since torch's CPU generator looks at the lower 32 bits of its seed alone.
    mixed = hashlib.blake2b(f"{seed} {epoch} {purpose}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(mixed))


def changes_images(config: TrialConfig) -> bool:
    """Whether a training step sees anything but the images as they are."""
    return bool(
        config.rotation_degrees
        or config.autocontrast_probability
        or config.brightness_jitter
        or config.binarise != "none"
        or config.input_dropout
        or config.input_noise
    )


def training_pair(x: Tensor, config: TrialConfig, generators: InputGenerators) -> tuple[Tensor, Tensor]:
    """The network's input and the target of the loss, both shaped like x [batch, channels, height, width] in [0, 1]."""
    target = binarise(augment(x, config, generators.augmentation), config.binarise, generators.binarisation)
    return corrupt(target, config, generators.corruption), target


def augment(x: Tensor, config: TrialConfig, generator: torch.Generator) -> Tensor:
    """Images rotated, stretched to full contrast and changed in brightness, in this order, each by its own draw."""
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
    """Images whose pixels are 0 or 1: at `WHITE_FROM`, or drawn from `generator` with the pixel as probability of 1."""
    if how == "none":
        return x
    if how == "threshold":
        return (x >= WHITE_FROM).to(x.dtype)
    return (torch.rand(x.shape, generator=generator, device=x.device) < x).to(x.dtype)


def corrupt(x: Tensor, config: TrialConfig, generator: torch.Generator) -> Tensor:
    """Images of which each value is set to 0 with probability `input_dropout` and then gets Gaussian noise.

    The channels of a pixel are drawn apart. What is left is not scaled up, and noise is not cut off at 0 and 1.
    """
    if config.input_dropout:
        x = x * (torch.rand(x.shape, generator=generator, device=x.device) >= config.input_dropout)
    if config.input_noise:
        x = x + config.input_noise * torch.randn(x.shape, generator=generator, device=x.device)
    return x


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """Each image of x rotated counter-clockwise about its centre by its own of `degrees` [batch]; black comes in.

    Nearest neighbours, as torchvision's RandomRotation has it by default: no grey level appears that was not there.
    """
    height, width = x.shape[2:]
    radians = degrees.deg2rad().view(-1, 1, 1)
    cosine, sine = radians.cos(), radians.sin()
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    rows = torch.arange(height, dtype=torch.float32, device=x.device).view(-1, 1) - middle_row
    columns = torch.arange(width, dtype=torch.float32, device=x.device) - middle_column
    # The places that pixels come from, [batch, height, width]; the products are of one axis each, and small.
    from_row = (sine * columns + cosine * rows).add_(middle_row).round_()
    from_column = (cosine * columns - sine * rows).add_(middle_column).round_()
    inside = (from_row >= 0) & (from_row < height) & (from_column >= 0) & (from_column < width)
    position = from_row.mul_(width).add_(from_column).mul_(inside).long()
    rotated = x.flatten(2).gather(2, position.flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1))
    return rotated.view_as(x) * inside.unsqueeze(1)


def autocontrast(x: Tensor) -> Tensor:
    """Each channel of each image stretched so that its darkest pixel is 0 and its brightest 1; one all alike stays."""
    darkest, brightest = x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
    scale = 1 / (brightest - darkest)
    flat = ~scale.isfinite()
    return ((x - darkest.masked_fill(flat, 0)) * scale.masked_fill(flat, 1)).clamp_(0, 1)


def adjust_brightness(x: Tensor, factors: Tensor) -> Tensor:
    """Each image of x times its own of `factors` [batch], cut off at 1."""
    return (x * factors.view(-1, 1, 1, 1)).clamp_(0, 1)


def _uniform(x: Tensor, generator: torch.Generator) -> Tensor:
    """One draw from [0, 1) an image, [batch]."""
    return torch.rand(len(x), generator=generator, device=x.device)
