"""Pictures of one trial: reconstructions of images, samples, and walks in latent space. See docs/pictures.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raysweep.data.tensors import spread
from raysweep.report.images import Pixels, tile
from raysweep.storage.layout import SweepDirectory, write_atomically
from raysweep.vae.inputs import binarise, seeded_generator
from raysweep.vae.likelihoods import mean_image, pixel_variance, sample_pixels
from raysweep.vae.precision import products_in
from raysweep.vae.walks import traverse

if TYPE_CHECKING:
    from pathlib import Path

    from raysweep.quality.mixture import LatentMixture
    from raysweep.spec.config import TrialConfig
    from raysweep.vae.evaluation import Images
    from raysweep.vae.networks import ConvVAE
    from raysweep.vae.training import Training

RECONSTRUCTED = 16
SAMPLED = 64
IN_A_STRIP = 12
INTERPOLATIONS = 8
INTERPOLATION_STEPS = 10
TRAVERSED = 10
SHIFTED_MEAN, SHIFTED_SIGMA = 1.0, 2.0
"""Mean and standard deviation of the Gaussian, other than the prior, whose draws are shown."""
TRAVERSAL_VALUES = (-3.0, -2.25, -1.5, -0.75, 0.0, 0.75, 1.5, 2.25, 3.0)


def to_pixels(images: Tensor) -> Pixels:
    """Convert images [n, channels, height, width] in [0, 1] to bytes [n, height, width, channels]."""
    pixels: Pixels = images.mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def seen_by_the_encoder(x: Tensor, config: TrialConfig, generator: torch.Generator | None = None) -> Tensor:
    """Return images [n, channels, height, width] in [0, 1] as the trial's encoder sees them without added noise.

    If pixels are binarised by chance, they are drawn from `generator`; all batches of one set of images share it.
    """
    if generator is None and config.binarise == "sampled":
        generator = shown_generator(config, x.device)
    return binarise(x, config.binarise, generator)


def shown_generator(config: TrialConfig, device: torch.device) -> torch.Generator:
    """Return the generator that draws the pixels of shown images; the same each time."""
    return seeded_generator(device, config.seed, 0, "shown")


@products_in("float32")
def draw_strip(training: Training, directory: SweepDirectory, number: int) -> None:
    """Write the row of reconstructions of the epoch just done; before the first row, the images themselves."""
    images = _few(training.validation_images, IN_A_STRIP, training.device)
    inputs = directory.epoch_reconstructions(number, 0)
    if not inputs.exists():
        _write(inputs, images, IN_A_STRIP)
    rebuilt = training.model.reconstruct(seen_by_the_encoder(images, training.config))
    _write(directory.epoch_reconstructions(number, training.epoch), rebuilt, IN_A_STRIP)


@products_in("float32")
def draw_grids(training: Training, directory: SweepDirectory, number: int) -> None:
    """Write the trial's two grids: validation images above their reconstructions, and samples of the prior."""
    originals = _few(training.validation_images, RECONSTRUCTED, training.device)
    rebuilt = training.model.reconstruct(seen_by_the_encoder(originals, training.config))
    _write(directory.reconstructions(number), torch.cat([originals, rebuilt]), len(originals))
    draw_samples(directory.samples(number), training.model.sample(SAMPLED, seed=training.config.seed))


@dataclass(frozen=True)
class Portrait:
    """A trained model and what its last pictures are made of."""

    model: ConvVAE
    config: TrialConfig
    shown: Tensor
    """Test images [n, channels, height, width]."""
    seen: Tensor
    """The same images, as the encoder is given them."""
    paths: Tensor
    """[pairs, steps, channels, height, width], from one test image to another."""
    kl_nats: Tensor
    """[latent], KL divergence of each."""
    mixture: LatentMixture | None
    sigma2: float
    """The variance of a pixel, where the decoder is calibrated."""


@torch.no_grad()
def draw_portrait(portrait: Portrait, directory: SweepDirectory, number: int) -> None:
    """Write the grids of a tested trial: interpolations, traversals, samples, and sampled reconstructions.

    Raises:
        StorageError: if they cannot be written.
    """
    model, config = portrait.model, portrait.config
    device = portrait.shown.device
    if len(portrait.paths):
        shown = portrait.paths[:INTERPOLATIONS]
        _write(directory.interpolations(number), shown.flatten(0, 1), shown.shape[1])
    latents = portrait.kl_nats.argsort(descending=True)[:TRAVERSED].tolist()
    frames = traverse(model, portrait.seen[0], latents, TRAVERSAL_VALUES)
    _write(directory.traversals(number), frames.flatten(0, 1), len(TRAVERSAL_VALUES))
    generator = torch.Generator().manual_seed(config.seed)
    noise = torch.randn(SAMPLED, config.latent_size, generator=generator)
    draw_samples(directory.shifted_samples(number), model.decode((SHIFTED_MEAN + SHIFTED_SIGMA * noise).to(device)))
    if portrait.mixture is not None:
        drawn = portrait.mixture.sample(SAMPLED, config.seed).to(device)
        draw_samples(directory.mixture_samples(number), model.decode(drawn))
    some = spread(RECONSTRUCTED, len(portrait.shown)).to(device)
    output = model.decode_output(model.encode(portrait.seen[some])[0])
    variance = pixel_variance(output, config.likelihood, config.sigma, portrait.sigma2)
    sampled = sample_pixels(output, config.likelihood, variance, generator)
    rows = torch.cat([portrait.shown[some], mean_image(output, config.likelihood), sampled])
    _write(directory.sampled_reconstructions(number), rows, len(some))


def draw_samples(path: Path, images: Tensor) -> None:
    """Write a square grid of samples."""
    _write(path, images, math.isqrt(SAMPLED))


def _few(images: Images, count: int, device: torch.device) -> Tensor:
    return images.gather(spread(count, len(images)).to(device))


def _write(path: Path, images: Tensor, columns: int) -> None:
    write_atomically(path, tile(to_pixels(images), columns=columns), durable=False, parents=False)
