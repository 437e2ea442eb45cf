"""A problem: a space, and for each of its points a learning curve, as a sweep would see it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc  # type: ignore[import-untyped, unused-ignore]

from raysweep.spec.loading import load_spec
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import Choices, Range, Scalar, TrialSpace, field_kind

Array = NDArray[np.float64]
Point = Mapping[str, Scalar]


class Landscape(Protocol):
    """The curve of every point, which a search does not know; larger values are better."""

    spec: SweepSpec

    def mean(self, points: list[Point]) -> Array:
        """Return the curves without the noise of training: [point, epoch]."""

    def noise(self, point: Point, rng: np.random.Generator) -> Array:
        """Return what one training adds to the curve: [epoch]."""

    def epoch_s(self, point: Point) -> float:
        """Return the seconds of one epoch."""


@dataclass(frozen=True)
class Problem:
    """A landscape with its scale: a score of 1 is the best there is, 0 the median of random points, at their ends."""

    name: str
    landscape: Landscape
    best: float
    median: float

    @property
    def spec(self) -> SweepSpec:
        return self.landscape.spec

    @property
    def max_epochs(self) -> int:
        return self.spec.max_epochs

    def score(self, value: Any) -> Any:
        """Return a value, or an array of them, on the problem's scale."""
        return (value - self.median) / (self.best - self.median)

    def curve(self, point: Point, seed: int, trial: int) -> Array:
        """Return the curve of one training. One seed and trial have the same noise for every method."""
        rng = np.random.default_rng((seed, trial))
        curve: Array = self.landscape.mean([point])[0] + self.landscape.noise(point, rng)
        return curve

    def true_end(self, point: Point) -> float:
        """Return what the point comes to at its last epoch, on average over trainings."""
        return float(self.landscape.mean([point])[0, -1])


def problem_of(name: str, landscape: Landscape, best: float | None = None) -> Problem:
    """Put a landscape on its scale; the best is searched for if it is not known."""
    space = landscape.spec.trial
    cube = qmc.Sobol(cube_size(space), seed=0).random_base2(13)
    ends = landscape.mean([from_cube(space, row) for row in cube])[:, -1]
    median = float(np.median(ends))
    if best is None:
        best = _climb(landscape, cube, ends)
    return Problem(name, landscape, best, median)


def _climb(landscape: Landscape, cube: Array, ends: Array) -> float:
    """Return the largest end that is found from the best of these points by ever smaller steps."""
    rng, space = np.random.default_rng(0), landscape.spec.trial
    for width in (0.1, 0.05, 0.03, 0.02, 0.01, 0.005):
        tops = cube[np.argsort(-ends)[:16]]
        near = np.clip(np.repeat(tops, 32, axis=0) + rng.normal(0, width, (16 * 32, cube.shape[1])), 0, 1 - 1e-9)
        # Half of them move along one axis alone, so that a choice can change by itself.
        alone = np.arange(len(near)) % 2 == 0
        moved = rng.integers(cube.shape[1], size=len(near))
        single = np.repeat(tops, 32, axis=0)
        single[np.arange(len(near)), moved] = rng.random(len(near))
        near[alone] = single[alone]
        cube = np.concatenate([cube, near])
        ends = np.concatenate([ends, landscape.mean([from_cube(space, row) for row in near])[:, -1]])
    return float(ends.max())


def cube_size(space: TrialSpace) -> int:
    """Return how many numbers from 0 to 1 stand for a point of the space: one for each searched field."""
    return len(space.searched)


def from_cube(space: TrialSpace, row: Array) -> dict[str, Scalar]:
    """Return the point at a place of the unit cube."""
    point: dict[str, Scalar] = {}
    for share, (name, searched) in zip(row.tolist(), space.searched.items(), strict=True):
        if isinstance(searched, Choices):
            point[name] = searched.choices[min(int(share * len(searched.choices)), len(searched.choices) - 1)]
            continue
        low, high = float(searched.low), float(searched.high)
        is_whole = field_kind(name) == "int"
        if is_whole:
            low, high = low - 0.5, high + 0.5
        value = math.exp(math.log(low) + share * math.log(high / low)) if searched.log else low + share * (high - low)
        value = min(max(value, float(searched.low)), float(searched.high))
        if searched.step is not None:
            value = searched.low + searched.step * round((value - searched.low) / searched.step)
        point[name] = round(value) if is_whole else value
    return point


def features(space: TrialSpace, points: list[Point]) -> Array:
    """Return what a surrogate sees of points: numbers from 0 to 1, choices without an order as one column each."""
    columns: list[list[float]] = []
    for name, searched in space.searched.items():
        values = [point[name] for point in points]
        if isinstance(searched, Choices):
            numbers = [c for c in searched.choices if isinstance(c, int | float) and not isinstance(c, bool) and c > 0]
            if len(numbers) < len(searched.choices):
                columns += [[float(value == choice) for value in values] for choice in searched.choices]
                continue
            searched = Range(low=min(numbers), high=max(numbers), log=True)
        low, high = float(searched.low), float(searched.high)
        if searched.log:
            columns.append([math.log(float(v) / low) / math.log(high / low) for v in values])  # type: ignore[arg-type]
        else:
            columns.append([(float(v) - low) / (high - low) for v in values])  # type: ignore[arg-type]
    return np.array(columns, dtype=np.float64).T


def changed_spec(spec: SweepSpec, overrides: Mapping[str, Any]) -> SweepSpec:
    """Return the search space with other settings, such as {"search": {"sampler": "random"}}."""
    raw = spec.as_mapping()
    _merge(raw, overrides)
    return load_spec(raw)


def _merge(into: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    for key, value in overrides.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
