"""The latents of a tested trial, and small pictures of their images, for scatter plots and the Projector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from raysweep.data.tensors import ImageTensors, spread
from raysweep.report.images import Pixels
from raysweep.report.latents import MAX_ROWS, sprite_sheet, write_latents
from raysweep.spec.config import TrialConfig
from raysweep.storage.layout import SweepDirectory, write_atomically
from raysweep.vae.networks import ConvVAE
from raysweep.worker.pictures import seen_by_the_encoder, shown_generator, to_pixels

BATCH = 256
SPRITE_SIDE = 48
"""Side in pixels to which the pictures of latents are shrunk if the images are larger."""
UNPROJECTED_ROWS = 1000
"""Number of latents that are kept of a trial that is not among the few best."""


@dataclass(frozen=True)
class Posteriors:
    """q(z|x) of some images of a split."""

    images: ImageTensors
    positions: Tensor
    """[n], within the split."""
    means: Tensor
    """[n, latent]."""
    logvars: Tensor

    @property
    def labels(self) -> Tensor | None:
        return None if self.images.labels is None else self.images.labels[self.positions]


@torch.no_grad()
def posteriors(model: ConvVAE, config: TrialConfig, images: ImageTensors) -> Posteriors:
    """Compute q(z|x) of at most `MAX_ROWS` images of a split, spread evenly over it."""
    positions = spread(MAX_ROWS, len(images)).to(images.device)
    generator = shown_generator(config, images.device)
    batches = (images.gather(rows) for rows in positions.split(BATCH))  # type: ignore[no-untyped-call]
    seen = (seen_by_the_encoder(x, config, generator) for x in batches)
    means, logvars = (torch.cat(parts) for parts in zip(*(model.encode(x) for x in seen), strict=True))
    return Posteriors(images, positions, means, logvars)


def keep_latents(
    directory: SweepDirectory, number: int, splits: Sequence[tuple[str, Posteriors]], kl_nats: Tensor,
    classes: Sequence[str], projected: bool,
) -> None:  # fmt: skip
    """Write the latents of images of these splits, one split after the other, as many as a file holds.

    If the trial is not `projected`, write only `UNPROJECTED_ROWS`, without sprites. If a latent is not finite, write
    nothing.

    Raises:
        StorageError: if they cannot be written.
    """
    room = MAX_ROWS if projected else UNPROJECTED_ROWS
    means, labels, names, positions, sprites = [], [], [], [], []
    for name, found in splits:
        chosen = spread(room, len(found.means)).to(found.means.device)
        room -= len(chosen)
        rows = found.positions[chosen]
        means.append(found.means[chosen].float().cpu().numpy())
        positions.append(found.images.indices[rows.cpu().numpy()])
        names += [name] * len(rows)
        if found.labels is not None:
            labels += [classes[label] for label in found.labels[chosen].tolist()]
        if projected:
            sprites += [_small(found.images.gather(part)) for part in rows.split(BATCH) if len(part)]  # type: ignore[no-untyped-call]
    table = np.concatenate(means)
    if not np.isfinite(table).all():
        return
    write_latents(directory.latents(number), table, kl_nats.numpy(), labels or None, names, np.concatenate(positions))
    if sprites:
        write_atomically(directory.sprites(number), sprite_sheet(np.concatenate(sprites)))


def _small(images: Tensor) -> Pixels:
    side = max(images.shape[-2:])
    if side > SPRITE_SIDE:
        images = functional.interpolate(images, scale_factor=SPRITE_SIDE / side, mode="bilinear", antialias=True)
    return to_pixels(images)
