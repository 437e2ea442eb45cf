"""The Gaussian process as a sampler of Optuna: from trials to observations, and from a proposal to a point.

In a study of Optuna's own:

    study = optuna.create_study(sampler=CurveSampler(seed=0, last_epoch=20, rungs=(5, 15)))

A suggestion is a pure function of the seed, the number of the trial and the trials so far, in any order.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import ThreadpoolController

from raysweep.search.gp.acquisition import propose
from raysweep.search.gp.cube import Cube, Floats
from raysweep.search.gp.model import Observations, fit

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FIRST_POINTS = 8
"""Trials that are spread evenly before the model has enough to go by."""
MOST_ROWS = 200
"""Observations that the model is conditioned on. Its time grows with their cube."""
MOST_PENDING = 100
"""Points under way that the model expects something of: the newest."""
_SPREADS = 32
"""Even spreads that are drawn, of which the one with the widest gap between its points is taken."""
_WORST = 5.0
"""A value is not taken for worse than so many spreads below the median; the spread is from there to the best."""
_LARGEST = 1e150
"""Absolute value that a value is cut to, so that its square is a number."""
_blas = ThreadpoolController()


def observed_epochs(rungs: Sequence[int], last_epoch: int) -> tuple[int, ...]:
    """Return the epochs at which curves are read: the rungs, or without any the last epoch and thirds of it."""
    if rungs:
        return tuple(rungs)
    epochs, epoch = [last_epoch], last_epoch
    while epoch > 1 and len(epochs) < 3:
        epoch = math.ceil(epoch / 3)
        epochs.append(epoch)
    return tuple(sorted(set(epochs)))


@dataclass(frozen=True)
class _Curve:
    """What is known of one trial."""

    params: Mapping[str, Any]
    steps: Mapping[int, float]
    """Values at the epochs that count, more is better; NaN at the end of one that diverged."""
    is_pending: bool
    """Whether more will come of it, or nothing is known of what it would come to."""


class CurveSampler(optuna.samplers.BaseSampler):
    """A Gaussian process over (point, log epoch), with expected improvement at the last epoch."""

    def __init__(
        self, *, seed: int | None = None, last_epoch: int | None = None, rungs: Sequence[int] = (),
        epochs_name: str | None = None, space: Mapping[str, BaseDistribution] | None = None,
        fixed: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Make a sampler.

        Args:
            seed: with the number of a trial it decides what is random in its point; None draws one.
            last_epoch: the step at which trials are compared; the largest that was reported if it is None.
            rungs: further steps at which curves are read; each trial's last one counts besides.
            epochs_name: the parameter that says how many epochs a trial has, if that is searched too.
            space: the parameters, if they are known beforehand; those that all trials have in common if it is None.
            fixed: values that points have whatever is suggested, from which the other values follow.
        """
        self._seed = seed if seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
        self._last_epoch, self._rungs, self._epochs_name = last_epoch, tuple(rungs), epochs_name
        self._fixed = dict(fixed or {})
        self._space, self._common = space, IntersectionSearchSpace()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that all trials have in common and that have more than one value."""
        space = self._space if self._space is not None else self._common.calculate(study)
        return {name: distribution for name, distribution in space.items() if not distribution.single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the point that promises most at the last epoch."""
        if len(study.directions) > 1:
            raise ValueError(f"{type(self).__name__} is for one objective, this study has {len(study.directions)}")
        if not search_space:
            return {}
        trials = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        sign = -1.0 if study.direction == optuna.study.StudyDirection.MINIMIZE else 1.0
        # One thread: the same sums in the same order whatever OMP_NUM_THREADS says, and the other cores are for trials.
        with _blas.limit(limits=1, user_api="blas"):
            return self._suggest(Cube(search_space), trial.number, trials, sign)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a value at random, for a parameter that not all trials have."""
        words = [self._seed, trial.number, zlib.crc32(param_name.encode())]
        sampler = optuna.samplers.RandomSampler(seed=int(np.random.SeedSequence(words).generate_state(1)[0]))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _suggest(self, cube: Cube, number: int, trials: Sequence[FrozenTrial], sign: float) -> dict[str, Any]:
        last_epoch = self._last_epoch or max((s for t in trials for s in t.intermediate_values), default=1)
        curves = list(self._curves(cube, trials, last_epoch, sign))
        seen = _observations(cube, curves, last_epoch) if number >= FIRST_POINTS else None
        if seen is None:
            return cube.decode(self._even(cube, number))

        def last(rows: Floats) -> Floats:
            if self._epochs_name not in cube.names:
                return np.ones(len(rows))
            column = cube.names.index(self._epochs_name)
            places, place_of_row = np.unique(rows[:, column], return_inverse=True)
            times: Floats = np.array([_time(cube.value_at(column, place), last_epoch) for place in places])
            return times[place_of_row]

        generator = np.random.default_rng([self._seed, number])
        posterior = fit(seen, cube.is_ordered)
        newest = [curve.params for curve in curves if curve.is_pending][-MOST_PENDING:]
        pending = np.array([cube.encode(params) for params in newest])
        if len(pending):
            posterior = posterior.expecting(pending, last(pending))
        known = np.unique(np.concatenate([seen.rows, *([pending] if len(pending) else [])]), axis=0)
        return cube.decode(propose(posterior, cube, known, last, generator, self._fixed))

    def _curves(self, cube: Cube, trials: Sequence[FrozenTrial], last_epoch: int, sign: float) -> Iterable[_Curve]:
        """Return what is known of the trials that have a point of this space, by number."""
        epochs = frozenset(observed_epochs(self._rungs, last_epoch))
        for trial in sorted(trials, key=lambda trial: trial.number):
            if not cube.holds(trial.params):
                continue
            is_over = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
            values = trial.intermediate_values
            reached = max(values, default=0)
            steps = {step: sign * value for step, value in values.items() if step in epochs or step == reached}
            if trial.state is TrialState.COMPLETE and trial.values:
                steps[reached or self._length(trial, last_epoch)] = sign * trial.values[0]
            has_diverged = is_over and (
                any(value > 0 for value in trial.constraints.values()) or not math.isfinite(steps.get(reached, 0.0))
            )
            if has_diverged:
                steps = {self._length(trial, last_epoch): math.nan}
            else:
                steps = {step: value for step, value in steps.items() if math.isfinite(value)}
            # Of one that failed nothing is known. To expect the mean of it keeps it from being tried again and again.
            yield _Curve(trial.params, {} if trial.state is TrialState.FAIL else steps, not is_over)

    def _length(self, trial: FrozenTrial, last_epoch: int) -> int:
        """Return how many epochs a trial has if nothing stops it."""
        return int(trial.params.get(self._epochs_name, last_epoch)) if self._epochs_name else last_epoch

    def _even(self, cube: Cube, number: int) -> Floats:
        """Return a row of a Latin hypercube: of each eight points, one in each eighth of each parameter."""
        block, index = divmod(number, FIRST_POINTS)
        generator = np.random.default_rng([self._seed, block, FIRST_POINTS])
        count = len(cube.names)
        widest, chosen = -1.0, np.empty((FIRST_POINTS, count))
        for _ in range(_SPREADS):
            strata = generator.permuted(np.tile(np.arange(FIRST_POINTS), (count, 1)), axis=1).T
            spread = (strata + generator.random((FIRST_POINTS, count))) / FIRST_POINTS
            squares = np.sum((spread[:, None] - spread) ** 2, axis=2)
            gap = float(np.min(squares[np.triu_indices(FIRST_POINTS, 1)]))
            if gap > widest:
                widest, chosen = gap, spread
        rows = cube.spread(chosen)
        cube.fix(rows, self._fixed)
        row: Floats = rows[index]
        return row


def _time(epoch: float, last_epoch: int) -> float:
    """Return an epoch as the model has it: from 0 for the first to 1 for the last, by the logarithm."""
    return math.log(max(epoch, 1)) / math.log(last_epoch) if last_epoch > 1 else 1.0


def _observations(cube: Cube, curves: Sequence[_Curve], last_epoch: int) -> Observations | None:
    """Return what the model is conditioned on, `MOST_ROWS` at most; None if nothing is known yet."""
    known = [(curve.params, epoch, value) for curve in curves for epoch, value in sorted(curve.steps.items())]
    if not known:
        return None
    values = np.clip([value for _, _, value in known], -_LARGEST, _LARGEST)
    finite = values[np.isfinite(values)]
    worst = max(_floor(finite), float(np.min(finite))) if len(finite) else 0.0
    values = np.where(np.isfinite(values), np.maximum(values, worst), worst)
    chosen = _thinned(values)
    rows = np.array([cube.encode(known[index][0]) for index in chosen])
    times = np.array([_time(known[index][1], last_epoch) for index in chosen])
    return Observations(rows, times, values[chosen])


def _floor(values: Floats) -> float:
    """Return the value below which all count as equally bad: one trial of -1e30 must not level all others."""
    middle = float(np.median(values))
    spread = max(float(np.max(values)) - middle, middle - float(np.quantile(values, 0.25)))
    return middle - _WORST * spread if spread > 0.0 else float(np.min(values))


def _thinned(values: Floats) -> list[int]:
    """Return which observations the model sees: all, or the best and an even choice of the others."""
    count = len(values)
    if count <= MOST_ROWS:
        return list(range(count))
    order = np.argsort(-values, kind="stable")
    best = MOST_ROWS // 3
    others, wanted = np.sort(order[best:]), MOST_ROWS - best
    even = [int(others[index * len(others) // wanted]) for index in range(wanted)]
    return sorted([*(int(index) for index in order[:best]), *even])
