"""The findings of a simulated sweep, epoch by epoch, and figures over many of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from searching.problems import Array, Problem
from searching.simulation import History

RESAMPLES = 2000
"""Of a bootstrap interval."""


class Found(NamedTuple):
    """Scores after each epoch spent. The incumbent is the trial whose last epoch measured best so far."""

    in_hand: Array
    """Value that the incumbent measured."""
    true_end: Array
    """Mean of the incumbent's point at its last epoch, over trainings of it."""


def found(problem: Problem, history: History) -> Found:
    """Follow the incumbent through a sweep."""
    last: dict[int, float] = {}
    true_ends: dict[int, float] = {}
    in_hand, true_end = np.empty(len(history.epochs)), np.empty(len(history.epochs))
    for index, epoch in enumerate(history.epochs):
        last[epoch.trial] = epoch.value
        best = max(last, key=lambda trial: (last[trial], -trial))
        if best not in true_ends:
            true_ends[best] = problem.true_end(history.points[best])
        in_hand[index], true_end[index] = last[best], true_ends[best]
    return Found(problem.score(in_hand), problem.score(true_end))


def epochs_to(share: float, true_end: Array) -> float:
    """Return after how many epochs the incumbent's true end first had this score; infinity if it never had."""
    reached = np.flatnonzero(true_end >= share)
    return float(reached[0] + 1) if len(reached) else float("inf")


def interquartile_mean(values: ArrayLike) -> float:
    """Return the mean of the middle half; a value at its border counts with the part that lies within."""
    return float(interquartile_means(np.asarray(values, dtype=np.float64)))


def interquartile_means(values: Array) -> Array:
    """Return the interquartile mean over the first axis, for each place of the others."""
    count = len(values)
    edges = np.arange(count + 1)
    within = np.clip(np.minimum(edges[1:], 0.75 * count) - np.maximum(edges[:-1], 0.25 * count), 0, None)
    return np.asarray(np.tensordot(within / within.sum(), np.sort(values, axis=0), axes=1))


def mean(values: ArrayLike) -> float:
    return float(np.mean(np.asarray(values, dtype=np.float64)))


def fifth_percentile(values: ArrayLike) -> float:
    """Return the value that one sweep in twenty stays below."""
    return float(np.percentile(np.asarray(values, dtype=np.float64), 5))


class Estimate(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def mean_over(groups: Sequence[ArrayLike]) -> Estimate:
    """Return the mean of the groups' means with its bootstrap interval; each group is resampled by itself."""
    rng = np.random.default_rng(0)
    arrays = [np.asarray(values, dtype=np.float64) for values in groups]
    again = np.mean([[mean(a[rng.integers(len(a), size=len(a))]) for _ in range(RESAMPLES)] for a in arrays], axis=0)
    low, high = np.percentile(again, [2.5, 97.5])
    return Estimate(mean([mean(values) for values in arrays]), float(low), float(high))


def estimate(statistic: Callable[[ArrayLike], float], values: ArrayLike) -> Estimate:
    """Return a figure over seeds with its bootstrap interval, by percentiles of resampled seeds."""
    values = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(0)
    again = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(RESAMPLES)]
    low, high = np.percentile(again, [2.5, 97.5])
    return Estimate(statistic(values), float(low), float(high))
