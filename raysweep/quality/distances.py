"""Distances of a set of generated images from a set of real ones, by their features [n, d].

`real` comes first. Balls are closed, so an image lies in every ball around its own copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_ROWS = 1024
"""Rows of a matrix of pairs that are held in memory at once."""


class PrecisionRecall(NamedTuple):
    """Shares, from 0 to 1; None if one is not defined."""

    precision: float | None
    recall: float | None


class DensityCoverage(NamedTuple):
    """Density, from 0 to n / k for n real images, and coverage, from 0 to 1; None if they are not defined."""

    density: float | None
    coverage: float | None


@torch.no_grad()
def kid(real: Tensor, fake: Tensor) -> float | None:
    """Return the squared kernel distance of features real [n, d] and fake [m, d] (Binkowski et al., arXiv:1801.01401).

    It is the unbiased estimate of MMD^2 under the kernel (x.y / d + 1)^3, over all pairs. It may fall below zero, and
    is zero in expectation if both sets come from one distribution. None if a set has fewer than two rows or features
    are not finite.
    """
    if min(len(real), len(fake)) < 2 or not _finite(real, fake):
        return None
    x, y = real.double(), fake.to(real.device).double()
    within = _kernel_mean_of_distinct(x) + _kernel_mean_of_distinct(y)
    between = _kernel_sum(x, y) / (len(x) * len(y))
    return float(within - 2 * between)


@torch.no_grad()
def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Return precision and recall of features real [n, d] and fake [m, d] (Kynkaanniemi et al., arXiv:1904.06991).

    Each row of `real` has a ball that reaches to its k-th nearest other row of `real`. Precision is the share of `fake`
    within any ball; recall is the same with the roles exchanged. Precision is None unless `real` has more than k rows
    and `fake` one or more; recall is None in the exchanged case. Both are None if features are not finite.

    Raises:
        ValueError: if k is less than 1.
    """
    _require_neighbours(k)
    if not _finite(real, fake):
        return PrecisionRecall(None, None)
    x, y = real.double(), fake.to(real.device).double()
    return PrecisionRecall(_share_within(x, y, k), _share_within(y, x, k))


@torch.no_grad()
def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> DensityCoverage:
    """Return density and coverage of features real [n, d] and fake [m, d] (Naeem et al., arXiv:2002.09797).

    Each row of `real` has a ball that reaches to its k-th nearest other row of `real`. Density is the number of balls
    that contain a row of `fake`, averaged over rows and divided by k. Coverage is the share of balls that contain a row
    of `fake`. Both are None if `real` has k rows or fewer, `fake` has none, or features are not finite.

    Raises:
        ValueError: if k is less than 1.
    """
    _require_neighbours(k)
    if len(real) <= k or not len(fake) or not _finite(real, fake):
        return DensityCoverage(None, None)
    x, y = real.double(), fake.to(real.device).double()
    radii = _radii(x, k)
    pairs = torch.zeros((), dtype=torch.int64, device=x.device)
    covered = torch.zeros((), dtype=torch.int64, device=x.device)
    for rows, distances in _distances(x, y):
        inside = distances <= radii[rows, None]
        pairs += inside.sum()
        covered += inside.any(dim=1).sum()
    return DensityCoverage(int(pairs) / (k * len(y)), int(covered) / len(x))


def _share_within(centres: Tensor, points: Tensor, k: int) -> float | None:
    """Return the share of `points` in any ball around a centre that reaches to its k-th nearest other centre."""
    if len(centres) <= k or not len(points):
        return None
    radii = _radii(centres, k)
    inside = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for rows, distances in _distances(centres, points):
        inside |= (distances <= radii[rows, None]).any(dim=0)
    return float(inside.double().mean())


def _radii(x: Tensor, k: int) -> Tensor:
    """Return the distance [n] of each row of x [n, d] to its k-th nearest other row."""
    radii = torch.empty(len(x), dtype=x.dtype, device=x.device)
    for rows, distances in _distances(x, x):
        # A row is at distance 0 from itself, so its k-th nearest other row has rank k + 1, even if it has copies.
        radii[rows] = distances.kthvalue(k + 1, dim=1).values
    return radii


def _distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield Euclidean distances [rows, m] of rows of x [n, d] to y [m, d], block by block.

    They are computed from differences, not from a product of matrices, because the distance of a row to its copy must
    be exactly 0.
    """
    for start in range(0, len(x), _ROWS):
        rows = slice(start, min(start + _ROWS, len(x)))
        yield rows, torch.cdist(x[rows], y, compute_mode="donot_use_mm_for_euclid_dist")


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    """Return the sum over all pairs of rows of (x.y / d + 1)^3."""
    blocks = (x[start : start + _ROWS] for start in range(0, len(x), _ROWS))
    sums = [(block @ y.T / x.shape[1] + 1).pow(3).sum() for block in blocks]
    return torch.stack(sums).sum()


def _kernel_mean_of_distinct(x: Tensor) -> Tensor:
    """Return the mean of the kernel over pairs of different rows of x."""
    with_itself = (x.square().sum(dim=1) / x.shape[1] + 1).pow(3).sum()
    return (_kernel_sum(x, x) - with_itself) / (len(x) * (len(x) - 1))


def _finite(*features: Tensor) -> bool:
    return all(bool(torch.isfinite(part).all()) for part in features)


def _require_neighbours(k: int) -> None:
    if k < 1:
        raise ValueError(f"the k-th nearest neighbour needs k of 1 or more, got {k}")
