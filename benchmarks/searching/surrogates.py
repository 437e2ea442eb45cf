"""Recorded curves as a problem: a model that was fitted to them answers for the points between."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.stats import spearmanr  # type: ignore[import-untyped, unused-ignore]
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.neighbors import KNeighborsRegressor
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]

from raysweep.spec.sections import SweepSpec
from searching.problems import Array, Landscape, Point, features

FOLDS = 5
FLOOR_SHARE = 0.02
"""Values below this quantile of all ends count as it: one that ran away would rule every model."""


@dataclass(frozen=True)
class Recording:
    """The curves of one space, larger values being better."""

    points: list[Point]
    curves: Array
    """[point, epoch]; from where training diverged on, the worst value."""
    epoch_s: Array
    """[point]"""
    repeats: list[Array]
    """Of each point that was trained again: [training, epoch]."""


def read_recording(path: Path, spec: SweepSpec) -> Recording:
    """Read what record_curves.py wrote."""
    table = pq.read_table(path)
    metric, names = spec.search.objective.metric, [*spec.trial.searched]
    sign = 1.0 if spec.search.objective.direction == "max" else -1.0
    is_point = pc.is_null(table["repeats"])
    points, curves, seconds = _trials(table.filter(is_point).to_pylist(), names, metric, spec.max_epochs)
    curves = _bounded(sign * curves, sign * curves)
    again = table.filter(pc.invert(is_point))
    repeats = []
    for number in pc.unique(again["repeats"]).to_pylist():
        rows = again.filter(pc.equal(again["repeats"], number)).to_pylist()
        repeats.append(_bounded(sign * _trials(rows, names, metric, spec.max_epochs)[1], sign * curves))
    return Recording(points, curves, seconds, repeats)


def _trials(rows: list[dict[str, Any]], names: list[str], metric: str, epochs: int) -> tuple[list[Point], Array, Array]:
    """Return point, curve and seconds an epoch of every trial that ended; NaN stands where it diverged."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["trial"], []).append(row)
    kept = [trial for trial in found.values() if len(trial) >= epochs or not np.isfinite(trial[-1][metric])]
    curves = np.full((len(kept), epochs), np.nan)
    for index, trial in enumerate(kept):
        values = [row[metric] for row in trial[:epochs]]
        curves[index, : len(values)] = values
    seconds = np.array([np.median([row["epoch_s"] for row in trial]) for trial in kept])
    return [{name: trial[0][name] for name in names} for trial in kept], curves, seconds


def _bounded(curves: Array, all_curves: Array) -> Array:
    """Return the curves with no value below the floor, which is also what a diverged one comes to."""
    floor = np.nanquantile(all_curves[:, -1], FLOOR_SHARE)
    return np.maximum(np.where(np.isfinite(curves), curves, floor), floor)


class Forest:
    """Extremely randomised trees from point to whole curve."""

    def fit(self, x: Array, curves: Array) -> None:
        self._trees = ExtraTreesRegressor(200, min_samples_leaf=1, max_features=1.0, random_state=0).fit(x, curves)

    def predict(self, x: Array) -> Array:
        return np.asarray(self._trees.predict(x), dtype=np.float64)


class Gaussian:
    """A Gaussian process for each of the first principal components of the curves."""

    COMPONENTS = 4

    def fit(self, x: Array, curves: Array) -> None:
        self._mean = curves.mean(axis=0)
        _, _, axes = np.linalg.svd(curves - self._mean, full_matrices=False)
        self._axes = axes[: self.COMPONENTS]
        weights = (curves - self._mean) @ self._axes.T
        self._scale = weights.std(axis=0) + 1e-12
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(np.full(x.shape[1], 0.5), (0.05, 20.0), nu=2.5)
        kernel = kernel + WhiteKernel(0.05, (1e-4, 1.0))
        # Two threads on matrices this small take twenty times as long as one.
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound: the field does not matter
            self._processes = [
                GaussianProcessRegressor(kernel, random_state=0).fit(x, column) for column in (weights / self._scale).T
            ]

    def predict(self, x: Array) -> Array:
        weights = np.stack([process.predict(x) for process in self._processes], axis=1) * self._scale
        return np.asarray(self._mean + weights @ self._axes, dtype=np.float64)


class Neighbours:
    """The mean of the nearest points, the nearer the more."""

    def __init__(self, count: int = 5) -> None:
        self._count = count

    def fit(self, x: Array, curves: Array) -> None:
        self._model = KNeighborsRegressor(self._count, weights="distance").fit(x, curves)

    def predict(self, x: Array) -> Array:
        return np.asarray(self._model.predict(x), dtype=np.float64)


MODELS: dict[str, Callable[[], Any]] = {
    "forest": Forest, "gaussian": Gaussian, "neighbours": Neighbours, "nearest": lambda: Neighbours(1),
}  # fmt: skip
"""By name; `nearest` returns the recorded curves themselves, noise included, and no others."""


class HeldOut(NamedTuple):
    """Measures of how well a model predicts the ends of points that it was not fitted to."""

    error: float
    """Root mean square error of the end, over the standard deviation of the ends."""
    rank: float
    """Rank correlation of predicted and recorded ends."""
    error_of_best: float
    """The error among the best tenth of the recorded points, over the same standard deviation."""


def held_out(name: str, x: Array, curves: Array) -> HeldOut:
    """Measure a model by cross-validation in `FOLDS` parts."""
    fold = np.random.default_rng(0).permutation(len(x)) % FOLDS
    predicted = np.empty(len(x))
    for part in range(FOLDS):
        model = MODELS[name]()
        model.fit(x[fold != part], curves[fold != part])
        predicted[fold == part] = model.predict(x[fold == part])[:, -1]
    ends = curves[:, -1]
    wrong, best = predicted - ends, ends >= np.quantile(ends, 0.9)
    rank = float(spearmanr(predicted, ends).statistic)
    return HeldOut(
        float(np.sqrt(np.mean(wrong**2)) / ends.std()), rank, float(np.sqrt(np.mean(wrong[best] ** 2)) / ends.std())
    )


class Surrogate(Landscape):
    """A landscape that a model makes of recorded curves, with noise as it was recorded.

    The noise of a training is how one of the repeats departed from the mean of its point: of the repeated point whose
    end is nearest. Where no point was repeated, it is how a recorded curve departs from the model: one of the
    `NEAREST` whose ends are nearest. Without it, early epochs would tell more of the end than they do.
    """

    NEAREST = 15

    def __init__(self, spec: SweepSpec, recording: Recording, model: str) -> None:
        self.spec = spec
        self._x = features(spec.trial, recording.points)
        self._model = MODELS[model]()
        self._model.fit(self._x, recording.curves)
        self._seconds = Neighbours()
        self._seconds.fit(self._x, np.log(recording.epoch_s)[:, None])
        self._levels, self._noises = self._recorded_noise(recording)
        if model == "nearest":  # its curves have the noise of their own training in them
            self._levels, self._noises = np.zeros(1), [np.zeros((1, spec.max_epochs))]

    def _recorded_noise(self, recording: Recording) -> tuple[Array, list[Array]]:
        """Return the ends of the points whose noise is known, and the noise of each: [training, epoch]."""
        if recording.repeats:
            noises = [group - group.mean(axis=0) for group in recording.repeats]
            return np.array([np.median(group[:, -1]) for group in recording.repeats]), noises
        modelled = np.asarray(self._model.predict(self._x))
        departures = recording.curves - modelled
        ends = modelled[:, -1]
        near = np.argsort(np.abs(ends[:, None] - ends), axis=1)[:, : self.NEAREST]
        return ends, list(departures[near])

    def mean(self, points: list[Point]) -> Array:
        return np.asarray(self._model.predict(features(self.spec.trial, points)), dtype=np.float64)

    def noise(self, point: Point, rng: np.random.Generator) -> Array:
        nearest = int(np.argmin(np.abs(self._levels - self.mean([point])[0, -1])))
        return np.asarray(rng.choice(self._noises[nearest], axis=0))

    def epoch_s(self, point: Point) -> float:
        return float(np.exp(self._seconds.predict(features(self.spec.trial, [point]))[0, 0]))


def rank_correlations(curves: Array, ends: Array, epochs: list[int]) -> list[float]:
    """Return how well the order after each of these epochs, from 1, tells the order of the ends."""
    return [float(spearmanr(curves[:, epoch - 1], ends).statistic) for epoch in epochs]
