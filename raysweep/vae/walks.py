"""Walks through the latent space: from one image to another, and along one latent at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raysweep.vae.networks import ConvVAE, evaluating


@torch.no_grad()
def interpolate(model: ConvVAE, first: Tensor, second: Tensor, steps: int) -> Tensor:
    """Decode equal steps on the lines between the posterior means of pairs of images, ends included.

    `first` and `second` are [pairs, channels, height, width] in [0, 1], as the trial gives them to its encoder.

    Returns [pairs, steps, channels, height, width] in [0, 1], on the model's device.

    Raises:
        ValueError: if there are fewer than 2 steps, or `first` and `second` differ in shape.
    """
    if steps < 2 or first.shape != second.shape:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"needs 2 steps or more between images of one shape, got {steps} steps between {shapes}")
    device = model.posterior.weight.device
    with evaluating(model):
        start, end = (model.encode(images.to(device))[0].unsqueeze(1) for images in (first, second))
        share = torch.linspace(0, 1, steps, device=device).view(1, -1, 1)
        images = model.decode(torch.lerp(start, end, share).flatten(0, 1))
    return images.view(len(first), steps, *model.shape)


@torch.no_grad()
def traverse(model: ConvVAE, x: Tensor, latents: Sequence[int], values: Sequence[float]) -> Tensor:
    """Decode the posterior mean of one image with one latent at a time set to each of `values`.

    `x` is [channels, height, width] in [0, 1], as the trial gives it to its encoder; `latents` are positions from 0.

    Returns [latents, values, channels, height, width] in [0, 1], on the model's device.

    Raises:
        ValueError: if a latent is not one of the model's.
    """
    if not all(0 <= latent < model.latent_size for latent in latents):
        raise ValueError(f"latents must be from 0 to {model.latent_size - 1}, got {list(latents)}")
    device = model.posterior.weight.device
    with evaluating(model):
        mean = model.encode(x.to(device).unsqueeze(0))[0]
        z = mean.expand(len(latents), len(values), -1).clone()
        for row, latent in enumerate(latents):
            z[row, :, latent] = torch.tensor(values, dtype=z.dtype, device=device)
        images = model.decode(z.flatten(0, 1))
    return images.view(len(latents), len(values), *model.shape)
