"""Earlier sweeps to start from, right and wrong ones: the same search on a landscape that is changed in a known way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from raysweep.search.past import PastSweep, PastTrial
from raysweep.spec.space import Choices, Scalar
from searching.measures import estimate, fifth_percentile, mean
from searching.ours import STOPPING, Raysweep
from searching.problems import Array, Landscape, Point, Problem, from_cube
from searching.simulation import History, simulate

SHIFT = 0.25
"""By which the optimum lies elsewhere in each parameter, as a share of its range."""
BINS = 8
"""Parts of each parameter's range that are shuffled where the past is unrelated."""


class Changed(Landscape):
    """A landscape at another point of the cube, or upside down."""

    def __init__(self, landscape: Landscape, move: Callable[[Array], Array], sign: float = 1.0) -> None:
        self.spec = landscape.spec
        self._landscape, self._move, self._sign = landscape, move, sign

    def _moved(self, point: Point) -> Point:
        return from_cube(self.spec.trial, self._move(to_cube(self.spec.trial.searched, point)))

    def mean(self, points: list[Point]) -> Array:
        return self._sign * self._landscape.mean([self._moved(point) for point in points])

    def noise(self, point: Point, rng: np.random.Generator) -> Array:
        return self._landscape.noise(self._moved(point), rng)

    def epoch_s(self, point: Point) -> float:
        return self._landscape.epoch_s(point)


def to_cube(searched: Mapping[str, Any], point: Point) -> Array:
    """Return a place of the unit cube where a point is."""
    places = []
    for name, distribution in searched.items():
        if isinstance(distribution, Choices):
            places.append((distribution.choices.index(point[name]) + 0.5) / len(distribution.choices))
        else:
            value, low, high = float(point[name]), float(distribution.low), float(distribution.high)  # type: ignore[arg-type]
            places.append(
                np.log(value / low) / np.log(high / low) if distribution.log else (value - low) / (high - low)
            )
    return np.array(places)


def changed_landscape(kind: str, landscape: Landscape, seed: int) -> Landscape:
    """Return what an earlier sweep of this kind searched."""
    size = len(landscape.spec.trial.searched)
    rng = np.random.default_rng((seed, size))
    if kind == "same":
        return landscape
    if kind == "opposite":
        return Changed(landscape, lambda place: np.clip(place, 0.0, 1.0 - 1e-9), -1.0)
    if kind == "shifted":
        by = SHIFT * rng.choice([-1.0, 1.0], size)

        def shifted(place: Array) -> Array:  # back from the borders, so that every place has one
            there: Array = np.clip(1.0 - np.abs(1.0 - np.abs(place + by)), 0.0, 1.0 - 1e-9)
            return there

        return Changed(landscape, shifted)
    orders = [rng.permutation(BINS) for _ in range(size)]

    def shuffled(place: Array) -> Array:
        bins = np.minimum((place * BINS).astype(int), BINS - 1)
        others = np.array([order[bin] for order, bin in zip(orders, bins, strict=True)])
        there: Array = np.clip((others + place * BINS - bins) / BINS, 0.0, 1.0 - 1e-9)
        return there

    return Changed(landscape, shuffled)


@cache
def past_of(kind: str, problem: Problem, budget: int, seed: int) -> tuple[PastSweep, ...]:
    """Return what an earlier sweep of so many epochs found: raysweep's own search, with another seed and no past."""
    earlier = Problem(problem.name, changed_landscape(kind, problem.landscape, seed), problem.best, problem.median)
    other_seed = seed + 10_000
    searcher = Raysweep(problem.spec, 2, other_seed, "gp", STOPPING)
    try:
        history = simulate(earlier, searcher, 2, budget, other_seed)
    finally:
        searcher.close()
    return (_taken(history, problem),)


def _taken(history: History, problem: Problem) -> PastSweep:
    """Return the trials of a simulated sweep as a sweep that starts from it takes them."""
    asha = problem.spec.asha
    rungs = set(asha.rungs(problem.max_epochs)) if asha else set()
    sign = 1.0 if problem.spec.search.objective.direction == "max" else -1.0
    curves: dict[int, dict[int, float]] = {}
    for epoch in history.epochs:
        curves.setdefault(epoch.trial, {})[epoch.epoch] = sign * epoch.value
    trials = []
    for number, curve in sorted(curves.items()):
        last = max(curve)
        trials.append(PastTrial(history.points[number], {e: v for e, v in curve.items() if e in rungs or e == last}))
    return PastSweep("simulated", problem.max_epochs, tuple(trials), {})


def hint_of(kind: str, problem: Problem, seed: int) -> dict[str, Scalar]:
    """Return a hint at one parameter, another one for each seed: its value at the best of 2,000 points, or far away."""
    space = problem.spec.trial
    places = np.random.default_rng(0).random((2000, len(space.searched)))
    ends = problem.landscape.mean([from_cube(space, place) for place in places])[:, -1]
    best = places[int(np.argmax(ends))]
    if kind == "wrong":
        best = (best + 0.5) % 1.0
    name = list(space.searched)[seed % len(space.searched)]
    return {name: from_cube(space, best)[name]}


def cost_table(rows: Sequence[Mapping[str, Any]], base: str, methods: Sequence[str]) -> str:
    """Return a table of the true end with a past, and of what it is over that of the base at 80 % of the epochs."""
    lines = [
        "| problem | method | true end at 1/3 | at 80 % | at the end | 5th percentile | over none at 80 % | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for problem in dict.fromkeys(row["problem"].split("/")[0] for row in rows):
        of_method: dict[str, dict[tuple[str, int], Array]] = {}
        for row in rows:
            if row["problem"].split("/")[0] == problem:
                of_method.setdefault(row["method"], {})[row["problem"], row["seed"]] = np.array(row["true_end"])
        without = of_method.get(base, {})
        for method in (base, *methods):
            runs = of_method.get(method, {})
            pairs = [(runs[key], without[key]) for key in runs if key in without]
            if not pairs:
                continue
            ends = np.array([run for run, _ in pairs])
            epochs = ends.shape[1]
            early = round(0.8 * epochs) - 1
            figures = [f"{ends[:, place].mean():.3f}" for place in (epochs // 3 - 1, early, -1)]
            over = estimate(mean, [run[-1] - other[early] for run, other in pairs])
            gain = f"{over.value:+.3f} ({over.low:+.3f} to {over.high:+.3f})"
            lowest = f"{fifth_percentile(ends[:, -1]):.3f}"
            lines.append(f"| {problem} | {method} | {' | '.join(figures)} | {lowest} | {gain} | {len(pairs)} |")
    return "\n".join(lines)
