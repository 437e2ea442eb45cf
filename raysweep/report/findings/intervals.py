"""The statistics that claims are tested with. scipy is imported inside functions, because it is slow to start."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
DRAWS = 4000


def wilson_interval(successes: int, count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return a share's confidence interval (Wilson 1927): within 0 and 1, not a point if all agree."""
    from scipy.special import ndtri  # type: ignore[import-untyped, unused-ignore]

    z2 = float(ndtri(0.5 + confidence / 2)) ** 2
    centre = (successes + z2 / 2) / (count + z2)
    half = math.sqrt(z2) / (count + z2) * math.sqrt(successes * (count - successes) / count + z2 / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(sample: NDArray[np.float64], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Student's confidence interval of the mean of two or more numbers."""
    from scipy.special import stdtrit  # type: ignore[import-untyped, unused-ignore]

    count = len(sample)
    half = float(stdtrit(count - 1, 0.5 + confidence / 2)) * float(sample.std(ddof=1)) / math.sqrt(count)
    mean = float(sample.mean())
    return mean - half, mean + half


def mean_draws(sample: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw the means of columns, with the uncertainty that the repeats leave.

    They follow Student's t jointly: in a draw, differences between columns spread as a paired t interval of them does.
    Calls with equally many repeats draw the same deviations. A plain bootstrap spreads too little: with three seeds and
    two columns without a difference, it declares a winner, at 95 %, in 37 % of cases. These draws do so in 10 %, as two
    tests at 5 % each should.

    Args:
        sample: [repeat, column], two repeats or more.

    Returns:
        [draw, column], always the same 4,000 draws.
    """
    count = len(sample)
    generator = np.random.default_rng(0)
    normal = generator.standard_normal((DRAWS, count))
    scale = np.sqrt(generator.chisquare(count - 1, DRAWS) / (count - 1))
    residuals = sample - sample.mean(axis=0)
    spread = normal @ residuals / math.sqrt(count * (count - 1))
    draws: NDArray[np.float64] = sample.mean(axis=0) + spread / scale[:, None]
    return draws


def rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Spearman's correlation of `x` [value] with each row of `y` [draw, value]; 0 for a constant row."""
    from scipy.stats import rankdata  # type: ignore[import-untyped, unused-ignore]

    a, b = rankdata(x), rankdata(y, axis=-1)
    a, b = a - a.mean(), b - b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a**2).sum() * (b**2).sum(axis=-1))
    correlation: NDArray[np.float64] = np.where(scale > 0, (b @ a) / np.where(scale > 0, scale, 1.0), 0.0)
    return correlation


def trend_chance(correlations: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return how often chance alone gives rank correlations whose mean is as large.

    This is Page's test for ordered values: by chance, the values of a repeat have any order with the same probability
    (Page 1963, J. Am. Stat. Assoc. 58).

    Args:
        correlations: those of `x` with each row of `y`.
        x: [value].
        y: [repeat, value].
    """
    generator = np.random.default_rng(0)
    total = np.zeros(DRAWS)
    for row in y:
        total += rank_correlation(x, generator.permuted(np.tile(row, (DRAWS, 1)), axis=1))
    reached = np.count_nonzero(total / len(y) >= correlations.mean() - 1e-9)
    return (reached + 1) / (DRAWS + 1)
