"""Measures of how straight and how evenly a path of images goes from one image to another."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-6
"""Root mean square of the pixels' changes up to which there is no change, because images are float32."""


@torch.no_grad()
def monotonicity(paths: Tensor) -> float | None:
    """Return the share of steps of paths [pairs, steps, channels, height, width] that go ahead, from 0 to 1.

    A step goes ahead if it does not come closer to the first image and does not move away from the last one, by the
    Euclidean distance of pixels. The share is 1 for a straight line in pixel space, but also for a path that stays
    where it is, so read it together with a measure of the reconstructions. None if there is no pair or no step, or if a
    pixel is not finite.
    """
    pairs, steps = paths.shape[:2]
    if not pairs or steps < 2:
        return None
    flat = paths.flatten(2)
    from_first = _distances(flat, flat[:, :1])
    to_last = _distances(flat, flat[:, -1:])
    if not bool(torch.isfinite(from_first + to_last).all()):
        return None
    ahead = (from_first.diff(dim=1) >= -ROUNDING) & (to_last.diff(dim=1) <= ROUNDING)
    return float(ahead.double().mean())


@torch.no_grad()
def largest_step(paths: Tensor) -> float | None:
    """Return the largest step of paths [pairs, steps, channels, height, width] over their mean step.

    The ratio is averaged over pairs: 1 if a path changes evenly, `steps` - 1 if all of the change is one jump, by the
    Euclidean distance of pixels. Paths that stay where they are have no steps and are left out. None if no path is
    left, or if a pixel is not finite.
    """
    if not len(paths) or paths.shape[1] < 2:
        return None
    taken = paths.flatten(2).diff(dim=1).square().mean(dim=2, dtype=torch.float64).sqrt()
    if not bool(torch.isfinite(taken).all()):
        return None
    taken = taken[taken.mean(dim=1) > ROUNDING]
    return float((taken.amax(dim=1) / taken.mean(dim=1)).mean()) if len(taken) else None


def _distances(paths: Tensor, end: Tensor) -> Tensor:
    """Return the root mean square [pairs, steps] of the pixels' differences to `end`."""
    return (paths - end).square().mean(dim=2, dtype=torch.float64).sqrt()
