"""How sharp images are, by their second differences."""

from __future__ import annotations

import torch
from torch import Tensor

_LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue, ITU-R BT.601."""
_IMAGES = 256


@torch.no_grad()
def sharpness(images: Tensor) -> float | None:
    """Variance over pixels of the Laplacian, mean over images [n, 1 or 3, height, width] in [0, 1].

    The Laplacian has 4 neighbours and is taken where all of them exist, of the luminance of colour (Pech-Pacheco et
    al., "Diatom autofocusing in brightfield microscopy", 2000). From 0, of an image without edges, to 16. None of no
    images, of sides below 3 pixels, or where a pixel is not finite.

    Raises:
        ValueError: if images have another number of channels.
    """
    count, channels, height, width = images.shape
    if channels not in (1, 3):
        raise ValueError(f"sharpness is of images with 1 or 3 channels, got {channels}")
    if not count or min(height, width) < 3:
        return None
    total = torch.zeros((), dtype=torch.float64, device=images.device)
    for start in range(0, count, _IMAGES):
        x = _luminance(images[start : start + _IMAGES])
        around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
        total += (around - 4 * x[:, 1:-1, 1:-1]).double().var(dim=(1, 2), correction=0).sum()
    return float(total) / count if bool(torch.isfinite(total)) else None


def _luminance(images: Tensor) -> Tensor:
    """[n, height, width] of [n, 1 or 3, height, width]."""
    if images.shape[1] == 1:
        return images[:, 0]
    weights = torch.tensor(_LUMINANCE, dtype=images.dtype, device=images.device)
    return (images * weights[:, None, None]).sum(dim=1)
