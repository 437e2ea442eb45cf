"""Pictures of one trial: what its model makes of images, and what it imagines. See docs/pictures.md."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raysweep.layout import SweepDirectory, write_atomically
from raysweep.report.images import Pixels, tile
from raysweep.vae.inputs import binarise, seeded_generator
from raysweep.vae.walks import traverse

if TYPE_CHECKING:
    from pathlib import Path

    from raysweep.config import TrialConfig
    from raysweep.vae.evaluation import Images
    from raysweep.vae.networks import ConvVAE
    from raysweep.vae.training import Training

RECONSTRUCTED = 16
SAMPLED = 64
IN_A_STRIP = 12
INTERPOLATIONS = 8
INTERPOLATION_STEPS = 10
TRAVERSED = 10
TRAVERSAL_VALUES = (-3.0, -2.25, -1.5, -0.75, 0.0, 0.75, 1.5, 2.25, 3.0)


def to_pixels(images: Tensor) -> Pixels:
    """Images [n, channels, height, width] in [0, 1] as bytes [n, height, width, channels]."""
    pixels: Pixels = images.mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def spread(count: int, over: int) -> Tensor:
    """`count` positions, or fewer if there are not so many, spread evenly over a split of `over` images."""
    return torch.linspace(0, over - 1, min(count, over)).long()


def seen_by_the_encoder(x: Tensor, config: TrialConfig) -> Tensor:
    """Images [n, channels, height, width] in [0, 1] as the trial gives them to its encoder when nothing is added."""
    generator = seeded_generator(x.device, config.seed, 0, "shown") if config.binarise == "sampled" else None
    return binarise(x, config.binarise, generator)


def draw_strip(training: Training, directory: SweepDirectory, number: int) -> None:
    """Writes the row of reconstructions of the epoch just done, and before the first one the images themselves."""
    images = _few(training.validation_images, IN_A_STRIP, training.device)
    inputs = directory.epoch_reconstructions(number, 0)
    if not inputs.exists():
        _write(inputs, images, IN_A_STRIP)
    rebuilt = training.model.reconstruct(seen_by_the_encoder(images, training.config))
    _write(directory.epoch_reconstructions(number, training.epoch), rebuilt, IN_A_STRIP)


def draw_grids(training: Training, directory: SweepDirectory, number: int) -> None:
    """Writes the trial's two grids: validation images above their reconstructions, and samples of the prior."""
    originals = _few(training.validation_images, RECONSTRUCTED, training.device)
    rebuilt = training.model.reconstruct(seen_by_the_encoder(originals, training.config))
    _write(directory.reconstructions(number), torch.cat([originals, rebuilt]), len(originals))
    draw_samples(directory.samples(number), training.model.sample(SAMPLED, seed=training.config.seed))


def draw_interpolations(directory: SweepDirectory, number: int, paths: Tensor) -> None:
    """Writes paths [pairs, steps, channels, height, width] from one image to another, a row each."""
    shown = paths[:INTERPOLATIONS]
    _write(directory.interpolations(number), shown.flatten(0, 1), shown.shape[1])


def draw_traversals(directory: SweepDirectory, number: int, model: ConvVAE, image: Tensor, kl_nats: Tensor) -> None:
    """Writes what each of the latents with the most KL divergence does to one image [channels, height, width]."""
    latents = kl_nats.argsort(descending=True)[:TRAVERSED]
    frames = traverse(model, image, latents.tolist(), TRAVERSAL_VALUES)
    _write(directory.traversals(number), frames.flatten(0, 1), len(TRAVERSAL_VALUES))


def draw_sampled_reconstructions(
    directory: SweepDirectory, number: int, images: Tensor, means: Tensor, sampled: Tensor
) -> None:
    """Writes images, the decoder's mean images, and images sampled from it pixel by pixel: a row each."""
    _write(directory.sampled_reconstructions(number), torch.cat([images, means, sampled]), len(images))


def draw_samples(path: Path, images: Tensor) -> None:
    """Writes a square grid of samples."""
    _write(path, images[:SAMPLED], math.isqrt(SAMPLED))


def _few(images: Images, count: int, device: torch.device) -> Tensor:
    return images.gather(spread(count, len(images)).to(device))


def _write(path: Path, images: Tensor, columns: int) -> None:
    write_atomically(path, tile(to_pixels(images), columns=columns), durable=False)
