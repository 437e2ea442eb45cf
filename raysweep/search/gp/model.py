"""A Gaussian process over points of the unit cube and the logarithm of the epoch, which predicts trials' values.

The covariance of two observations is

    s * matern52(x, x') * (c + (1 - c) * matern52(t, t'))  + noise, if both are the same observation

with a length scale for each parameter. How much a curve's later values resemble its earlier ones is learned from the
curves so far. Two different categories are at distance 1. The parameters of the covariance are those of the largest
posterior density (maximum a posteriori), found by a fixed number of steps from the middle of their priors, so that
the same observations give the same model. Numbers in, numbers out: this module knows neither trials nor spaces.

Other tasks, which are earlier sweeps, have their own models. What such a model expects of a point is its opinion, and

    + sum over the tasks: w * opinion(x, t) * opinion(x', t')

is added to the covariance: the values are a multiple of each opinion, plus a function of their own. The observations
determine how large the multiples are. An opinion that makes them less likely is not used at all, so the model does not
depend on unrelated tasks. (Golovin et al., KDD 2017, section 3.3, and Tighineanu et al., arXiv:2111.11223, stack models
in this way.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack
from scipy.optimize import minimize

Floats = npt.NDArray[np.float64]

ITERATIONS = 20
FITTED = 100
"""Most observations to which the covariance is fitted; of more, an even choice. The posterior uses all of them."""
TOLERANCE = 1e-4
"""Relative change of the density below which its maximisation ends: half as many steps, and the same model."""
HEARD = 1.0
"""An opinion is used if it raises the logarithm of the density by more than this. After the first eleven trials of
simulated sweeps, 12 of 13 opinions of the same task passed, and 2 of 30 of an unrelated one."""
_ROOT5 = math.sqrt(5.0)
_WIDEST = 4.0
"""How many standard deviations a parameter may be away from its prior's mean. It keeps matrices well conditioned."""


@dataclass(frozen=True)
class Prior:
    """A normal prior of a parameter, or of its logarithm."""

    mean: float
    sd: float


LENGTH = Prior(math.log(0.5), 0.8)
"""Prior of the logarithm of a length scale in the unit cube."""
SIGNAL = Prior(0.0, 0.7)
"""Prior of the logarithm of s, in units of the variance of the values."""
NOISE = Prior(math.log(0.02), 1.2)
"""Prior of the logarithm of the noise's variance."""
SHARED = Prior(0.0, 1.0)
"""Prior of the logit of c, the part of the covariance that all epochs of a point share."""
TIME = Prior(math.log(0.7), 0.6)
"""Prior of the logarithm of the length scale of time."""


@dataclass(frozen=True)
class Observations:
    """Observed values [n] of unit-cube rows [n, d] at times [n] from 0 to 1; more is better."""

    rows: Floats
    times: Floats
    values: Floats


class Opinion:
    """The expectation of another task's model, relative to its mean over the space at that time."""

    def __init__(self, posterior: Posterior, sample: Floats, weight: float = 1.0) -> None:
        """Make the opinion of a model.

        Args:
            posterior: the model.
            sample: rows [n, d] that represent the space: an opinion on them has mean 0, and at time 1 deviation 1.
            weight: the prior variance w of its multiple, in units of the values' variance.
        """
        self._posterior, self._sample = posterior, sample
        scale = float(np.std(posterior.mean(sample, np.ones(len(sample)))))
        self._factor = math.sqrt(weight) / scale if scale > 0.0 else 0.0

    def __call__(self, rows: Floats, times: Floats) -> Floats:
        """Return the opinion [n] on rows [n, d] at times [n], multiplied by the square root of its weight."""
        moments, moment_of_row = np.unique(times, return_inverse=True)
        at_moment = [self._posterior.mean(self._sample, np.full(len(self._sample), moment)) for moment in moments]
        usual = np.array([float(np.mean(expected)) for expected in at_moment])
        opinion: Floats = self._factor * (self._posterior.mean(rows, times) - usual[moment_of_row])
        return opinion


@dataclass(frozen=True)
class Covariance:
    """The covariance with its parameters."""

    is_ordered: npt.NDArray[np.bool_]
    """For each column, whether its numbers have an order; otherwise they are categories."""
    lengths: Floats
    signal: float
    noise: float
    shared: float
    time_length: float

    def between(self, rows: Floats, times: Floats, others: Floats, other_times: Floats) -> Floats:
        """Return the covariances [n, m] of the function values, without noise."""
        ordered = self.is_ordered
        a, b = rows[:, ordered] / self.lengths[ordered], others[:, ordered] / self.lengths[ordered]
        squares = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b) - 2.0 * (a @ b.T)
        for column in np.flatnonzero(~ordered):
            squares += (rows[:, column, None] != others[:, column]) / self.lengths[column] ** 2
        if np.ptp(times) == 0.0:  # candidates are judged at their last epoch, which is usually the same for all
            over_time = _matern((times[:1, None] - other_times) ** 2 / self.time_length**2)[0]
        else:
            over_time = _matern((times[:, None] - other_times) ** 2 / self.time_length**2)[0]
        covariances: Floats = _matern(np.maximum(squares, 0.0))[0]
        covariances *= self.signal * (self.shared + (1.0 - self.shared) * over_time)
        return covariances


class Posterior:
    """The model after its observations. Means and deviations are in the units of the values."""

    def __init__(
        self, covariance: Covariance, seen: Observations, centre: float, scale: float, factor: Floats, weights: Floats,
        density: float, opinions: Sequence[Opinion] = (),
    ) -> None:  # fmt: skip
        self.covariance = covariance
        self.density = density
        """The logarithm of the density of observations and parameters, up to a constant."""
        self._opinions = tuple(opinions)
        self._rows, self._times, self._weights = seen.rows, seen.times, weights
        self._centre, self._scale = centre, scale
        self._factor = factor
        """Cholesky factor of the covariance of seen and expected rows: upper triangle, Fortran order."""
        self._all_rows, self._all_times = seen.rows, seen.times
        self._all_opinions = _views(opinions, seen.rows, seen.times)
        """Opinions on seen and expected rows, [n, tasks]."""

    def missed_by(self, groups: Sequence[Sequence[int]]) -> list[Floats]:
        """Return by how much each group's values exceed their prediction from the other observations.

        Rasmussen and Williams (2006), equation 5.12, for several observations at once. The covariance does not change.

        Args:
            groups: the indices of each group's observations. This posterior must not come from `expecting`.
        """
        inverse, _ = lapack.dpotri(self._factor, lower=0)
        inverse = np.triu(inverse) + np.triu(inverse, 1).T
        return [self._scale * np.linalg.solve(inverse[np.ix_(group, group)], self._weights[group]) for group in groups]

    def mean(self, rows: Floats, times: Floats) -> Floats:
        """Return the expected values [m] of rows [m, d] at times [m]."""
        covariances = self.covariance.between(rows, times, self._rows, self._times)
        if self._opinions:
            covariances += _views(self._opinions, rows, times) @ self._all_opinions[: len(self._rows)].T
        return self._mean(covariances)

    def mean_and_sd(self, rows: Floats, times: Floats) -> tuple[Floats, Floats]:
        """Return the expected values of rows at times, and their standard deviations without noise."""
        covariances = self.covariance.between(rows, times, self._all_rows, self._all_times)
        prior: float | Floats = self.covariance.signal
        if self._opinions:
            views = _views(self._opinions, rows, times)
            covariances += views @ self._all_opinions.T
            prior = prior + np.einsum("ij,ij->i", views, views)
        solved, _ = lapack.dtrtrs(self._factor, covariances.T, trans=1)
        variances = prior - np.einsum("ij,ij->j", solved, solved)
        sd = self._scale * np.sqrt(np.maximum(variances, 1e-12))
        return self._mean(covariances[:, : len(self._rows)]), sd

    @property
    def multiples(self) -> Floats:
        """Return the expected multiple [tasks] of each opinion after the observations.

        It is near 0 for a useless opinion, and below 0 for an opposite one.
        """
        multiples: Floats = self._all_opinions[: len(self._rows)].T @ self._weights
        return multiples

    def expecting(self, rows: Floats, times: Floats) -> Posterior:
        """Return the posterior if these rows get their expected values: the same means, smaller deviations."""
        if not len(rows):
            return self
        known, new = len(self._all_rows), len(rows)
        after = Posterior.__new__(Posterior)
        after.__dict__.update(self.__dict__)
        after._all_rows = np.concatenate([self._all_rows, rows])
        after._all_times = np.concatenate([self._all_times, times])
        across = self.covariance.between(self._all_rows, self._all_times, rows, times)
        among = self.covariance.between(rows, times, rows, times)
        if self._opinions:
            views = _views(self._opinions, rows, times)
            across += self._all_opinions @ views.T
            among += views @ views.T
            after._all_opinions = np.concatenate([self._all_opinions, views])
        solved, _ = lapack.dtrtrs(self._factor, across, trans=1)
        left = among - solved.T @ solved
        left[np.diag_indices(new)] += self.covariance.noise
        corner, failed = lapack.dpotrf(left, lower=0, clean=1)
        assert not failed, "noise keeps the matrix positive definite"
        after._factor = np.zeros((known + new, known + new), order="F")
        after._factor[:known, :known] = self._factor
        after._factor[:known, known:] = solved
        after._factor[known:, known:] = corner
        return after

    def _mean(self, covariances: Floats) -> Floats:
        means: Floats = self._centre + self._scale * (covariances @ self._weights)
        return means


def fit(
    seen: Observations, is_ordered: npt.NDArray[np.bool_], iterations: int = ITERATIONS,
    opinions: Sequence[Opinion] = (),
) -> Posterior:  # fmt: skip
    """Fit the covariance to the observations, of which there must be at least one, and return the posterior.

    Args:
        opinions: used whether or not they make the observations likelier; see `fit_with_opinions`.
    """
    centre, scale = float(np.mean(seen.values)), float(np.std(seen.values))
    if not scale > 1e-12 * max(1.0, abs(centre)):
        scale = 1.0
    values = (seen.values - centre) / scale
    chosen = np.arange(min(len(values), FITTED)) * len(values) // min(len(values), FITTED)
    views = _views(opinions, seen.rows, seen.times)
    density = _Density(Observations(seen.rows[chosen], seen.times[chosen], values[chosen]), is_ordered, views[chosen])
    found = minimize(
        density, density.means, jac=True, method="L-BFGS-B", bounds=density.bounds,
        options={"maxiter": iterations, "maxfun": 2 * iterations, "ftol": TOLERANCE},
    )  # fmt: skip
    covariance = density.covariance(found.x)
    matrix = covariance.between(seen.rows, seen.times, seen.rows, seen.times)
    matrix[np.diag_indices(len(values))] = covariance.signal + covariance.noise
    if opinions:
        matrix += views @ views.T
    factor, failed = lapack.dpotrf(np.asfortranarray(matrix), lower=0, clean=1)
    assert not failed, "noise keeps the matrix positive definite"
    weights, _ = lapack.dpotrs(factor, values, lower=0)
    return Posterior(covariance, seen, centre, scale, factor, weights, -float(found.fun), opinions)


def fit_with_opinions(seen: Observations, is_ordered: npt.NDArray[np.bool_], opinions: Sequence[Opinion]) -> Posterior:
    """Return the posterior with those opinions that each raise the log density by more than `HEARD`."""
    alone = fit(seen, is_ordered)
    with_one = [fit(seen, is_ordered, opinions=[opinion]) for opinion in opinions]
    heard = [opinion for opinion, one in zip(opinions, with_one, strict=True) if one.density > alone.density + HEARD]
    if not heard:
        return alone
    return with_one[opinions.index(heard[0])] if len(heard) == 1 else fit(seen, is_ordered, opinions=heard)


def _views(opinions: Sequence[Opinion], rows: Floats, times: Floats) -> Floats:
    """Return the values of all opinions on rows at times, [n, tasks]."""
    return np.column_stack([opinion(rows, times) for opinion in opinions]) if opinions else np.empty((len(rows), 0))


class _Density:
    """The negative logarithm of the posterior density of the covariance's parameters, and its gradient.

    The parameters are the logarithms of the length scales, of s and of the noise, the logit of c, and the logarithm of
    the length scale of time. Matrices are symmetric, so only the pairs below the diagonal are computed.
    """

    def __init__(self, seen: Observations, is_ordered: npt.NDArray[np.bool_], views: Floats | None = None) -> None:
        self._is_ordered, self._values = is_ordered, seen.values
        self._count, self._columns = seen.rows.shape
        first, second = np.tril_indices(self._count, -1)
        self._pairs = first * self._count + second
        differences = seen.rows[first] - seen.rows[second]
        squares = np.where(is_ordered, differences**2, differences != 0.0)
        self._squares = np.ascontiguousarray(squares.T)  # [d, pairs]
        gaps = (seen.times[first] - seen.times[second]) ** 2
        self._gaps, self._gap_of_pair = np.unique(gaps, return_inverse=True)  # few rungs have few different gaps
        self._agreement = views @ views.T if views is not None and views.shape[1] else None
        priors = [*[LENGTH] * self._columns, SIGNAL, NOISE, SHARED, TIME]
        self.means = np.array([prior.mean for prior in priors])
        self._sds = np.array([prior.sd for prior in priors])
        self.bounds = [(prior.mean - _WIDEST * prior.sd, prior.mean + _WIDEST * prior.sd) for prior in priors]

    def covariance(self, parameters: Floats) -> Covariance:
        signal, noise, shared, time = (float(parameter) for parameter in parameters[self._columns :])
        return Covariance(
            self._is_ordered, np.exp(parameters[: self._columns]), math.exp(signal), math.exp(noise),
            1.0 / (1.0 + math.exp(-shared)), math.exp(time),
        )  # fmt: skip

    def __call__(self, parameters: Floats) -> tuple[float, Floats]:
        covariance, count = self.covariance(parameters), self._count
        shared, signal, noise = covariance.shared, covariance.signal, covariance.noise
        inverse_lengths, inverse_time = covariance.lengths**-2, covariance.time_length**-2
        of_point, slope_of_point = _matern(inverse_lengths @ self._squares)
        of_gap, slope_of_gap = _matern(inverse_time * self._gaps)
        of_time = of_gap.take(self._gap_of_pair)
        blend = shared + (1.0 - shared) * of_time
        smooth = signal * of_point * blend
        matrix = np.zeros((count, count))
        matrix.ravel()[self._pairs] = smooth
        matrix.ravel()[:: count + 1] = signal + noise
        if self._agreement is not None:
            matrix += self._agreement
        # Rows below the diagonal in C order are columns above it in Fortran order, which LAPACK takes without a copy.
        factor, failed = lapack.dpotrf(matrix.T, lower=0, clean=0, overwrite_a=1)
        assert not failed, "noise keeps the matrix positive definite"
        log_determinant = 2.0 * float(np.sum(np.log(np.diagonal(factor))))
        weights, _ = lapack.dpotrs(factor, self._values, lower=0)
        away = (parameters - self.means) / self._sds
        density = 0.5 * float(self._values @ weights) + 0.5 * log_determinant + 0.5 * float(away @ away)
        inverse, _ = lapack.dpotri(factor, lower=0, overwrite_c=1)
        inverse = inverse.T  # in C order again, below the diagonal
        outer = np.outer(weights, weights)
        change = inverse.ravel()[self._pairs] - outer.ravel()[self._pairs]
        on_diagonal = 0.5 * float(np.sum(np.diagonal(inverse) - weights**2))
        gradient = np.empty_like(parameters)
        of_squares = (-2.0 * signal) * change * blend * slope_of_point
        gradient[: self._columns] = (self._squares @ of_squares) * inverse_lengths
        gradient[self._columns] = float(change @ smooth) + on_diagonal * signal
        gradient[self._columns + 1] = on_diagonal * noise
        by_point = signal * change * of_point
        gradient[self._columns + 2] = float(by_point @ (1.0 - of_time)) * shared * (1.0 - shared)
        of_gaps = float(by_point @ (slope_of_gap * self._gaps).take(self._gap_of_pair))
        gradient[self._columns + 3] = -2.0 * (1.0 - shared) * inverse_time * of_gaps
        return density, gradient + away / self._sds


def _matern(squares: Floats) -> tuple[Floats, Floats]:
    """Return the Matern covariance of smoothness 5/2 at squared distances, and its derivative with respect to them."""
    scaled = np.sqrt(squares)
    scaled *= _ROOT5
    decay = np.exp(-scaled)
    scaled += 1.0
    scaled *= decay
    value = squares * decay
    value *= 5.0 / 3.0
    value += scaled
    scaled *= -5.0 / 6.0
    return value, scaled
