"""The sharpness of images, by their second differences."""

from __future__ import annotations

import torch
from torch import Tensor

_LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue, ITU-R BT.601."""
_IMAGES = 256


@torch.no_grad()
def sharpness(images: Tensor) -> float | None:
    """Return the variance over pixels of the Laplacian, averaged over images.

    Images are [n, 1 or 3, height, width] in [0, 1]; of colour images the luminance is used. The Laplacian has 4
    neighbours and is taken where all of them exist (Pech-Pacheco et al., "Diatom autofocusing in brightfield
    microscopy", 2000). The variance goes from 0, for an image without edges, to 16. None if there are no images, a side
    is below 3 pixels, or a pixel is not finite.

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
    """Return the luminance [n, height, width] of images [n, 1 or 3, height, width]."""
    if images.shape[1] == 1:
        return images[:, 0]
    weights = torch.tensor(_LUMINANCE, dtype=images.dtype, device=images.device)
    return (images * weights[:, None, None]).sum(dim=1)
