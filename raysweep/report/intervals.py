"""The few statistics that claims are tested with. scipy is imported where it is needed: it is slow to start."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
MIN_REPEATS = 3
"""Seeds, or pairs, below which nothing is concluded from their spread."""

_EXACT_UP_TO = 5
_DRAWS = 4000


def wilson_interval(successes: int, count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Confidence interval of a share (Wilson 1927); it stays within 0 and 1, and is no point where all agree."""
    from scipy.special import ndtri  # type: ignore[import-untyped, unused-ignore]

    z2 = float(ndtri(0.5 + confidence / 2)) ** 2
    centre = (successes + z2 / 2) / (count + z2)
    half = math.sqrt(z2) / (count + z2) * math.sqrt(successes * (count - successes) / count + z2 / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(sample: NDArray[np.float64], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's confidence interval of the mean of two numbers or more."""
    from scipy.special import stdtrit  # type: ignore[import-untyped, unused-ignore]

    count = len(sample)
    half = float(stdtrit(count - 1, 0.5 + confidence / 2)) * float(sample.std(ddof=1)) / math.sqrt(count)
    mean = float(sample.mean())
    return mean - half, mean + half


def bootstrap_indices(count: int) -> NDArray[np.int64]:
    """Ways to draw `count` repeats with replacement, [draw, repeat].

    All of them, count ** count, up to five repeats; 4,000 at random, always the same ones, beyond.
    """
    if count <= _EXACT_UP_TO:
        return np.array(list(product(range(count), repeat=count)), dtype=np.int64)
    return np.random.default_rng(0).integers(count, size=(_DRAWS, count))


def rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's correlation of `x` [value] with each row of `y` [draw, value]; 0 where a row is constant."""
    from scipy.stats import rankdata  # type: ignore[import-untyped, unused-ignore]

    a, b = rankdata(x), rankdata(y, axis=-1)
    a, b = a - a.mean(), b - b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a**2).sum() * (b**2).sum(axis=-1))
    correlation: NDArray[np.float64] = np.where(scale > 0, (b @ a) / np.where(scale > 0, scale, 1.0), 0.0)
    return correlation
