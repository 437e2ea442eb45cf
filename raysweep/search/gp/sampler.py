"""The Gaussian process as an Optuna sampler: from trials to observations, and from a proposal to a point.

In a plain Optuna study:

    study = optuna.create_study(sampler=CurveSampler(seed=0, last_epoch=20, rungs=(5, 15)))

A suggestion is a pure function of the seed, the number of the trial and the trials so far, in any order.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import ThreadpoolController

from raysweep.search.gp.acquisition import propose
from raysweep.search.gp.cube import Cube, Floats
from raysweep.search.gp.curves import MOST_ROWS, Curve, last_times, observations, observed_epochs, read_curve
from raysweep.search.gp.known import FIRST_POINTS, START_PLACES, belief_in, opinions_of, past_rows, starting_points
from raysweep.search.gp.model import fit_with_opinions
from raysweep.search.past import PastSweep

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MOST_PENDING = 100
"""Most pending points for which the model assumes its expected value: the newest ones."""
_SPREADS = 32
"""Number of even spreads that are drawn; the one whose closest points are farthest apart is used."""
_blas = ThreadpoolController()


class CurveSampler(optuna.samplers.BaseSampler):
    """A Gaussian process over (point, log epoch), with expected improvement at the last epoch."""

    def __init__(
        self, *, seed: int | None = None, last_epoch: int | None = None, rungs: Sequence[int] = (),
        epochs_name: str | None = None, space: Mapping[str, BaseDistribution] | None = None,
        fixed: Mapping[str, Any] | None = None, past: Sequence[PastSweep] = (), prior: Mapping[str, Any] | None = None,
        given: int = 0, repeats: int = 0,
    ) -> None:  # fmt: skip
        """Make a sampler.

        Args:
            seed: decides, together with the number of a trial, what is random in its point; None draws one.
            last_epoch: the step at which trials are compared; None means the largest that was reported.
            rungs: further steps at which curves are read, in addition to each trial's last one.
            epochs_name: the parameter that says how many epochs a trial has, if that is searched too.
            space: the parameters, if they are known beforehand; None means those that all trials have in common.
            fixed: values that every suggested point must have; the other values are chosen to go with them.
            past: trials of earlier sweeps, as observations of tasks that may be related.
            prior: values of some parameters that are believed to be good.
            given: how many points are given before the first one that is suggested.
            repeats: how many trials before the next one train others again; they do not count as points here.
        """
        self._seed = seed if seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
        self._last_epoch, self._rungs, self._epochs_name = last_epoch, tuple(rungs), epochs_name
        self._fixed = dict(fixed or {})
        self._repeats = repeats
        self._space, self._common = space, IntersectionSearchSpace()
        self._past, self._prior, self._given = tuple(past), dict(prior or {}), given

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that all trials have in common and that have more than one value."""
        space = self._space if self._space is not None else self._common.calculate(study)
        return {name: distribution for name, distribution in space.items() if not distribution.single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the most promising point, judged at the last epoch."""
        if len(study.directions) > 1:
            raise ValueError(f"{type(self).__name__} is for one objective, this study has {len(study.directions)}")
        if not search_space:
            return {}
        trials = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        sign = -1.0 if study.direction == optuna.study.StudyDirection.MINIMIZE else 1.0
        # One thread: the same sums in the same order whatever OMP_NUM_THREADS says, and the other cores are for trials.
        with _blas.limit(limits=1, user_api="blas"):
            return self._suggest(Cube(search_space), trial.number - self._repeats, trials, sign)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random value of a parameter that not all trials have."""
        words = [self._seed, trial.number, zlib.crc32(param_name.encode())]
        sampler = optuna.samplers.RandomSampler(seed=int(np.random.SeedSequence(words).generate_state(1)[0]))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _suggest(self, cube: Cube, number: int, trials: Sequence[FrozenTrial], sign: float) -> dict[str, Any]:
        last_epoch = self._last_epoch or max((s for t in trials for s in t.intermediate_values), default=1)
        curves = list(self._curves(cube, trials, last_epoch, sign))
        starts = starting_points(cube, self._past, sign, self._prior)
        places = [self._given + place for place in START_PLACES[: len(starts)]]
        if number in places:
            return cube.decode(self._completed(cube, number, starts[places.index(number)]))
        # Count without the starting points, so that all points of the even spread are tried.
        place = number - sum(start < number for start in places)
        most = MOST_ROWS - past_rows(self._past)
        seen = observations(cube, curves, last_epoch, most) if place >= FIRST_POINTS else None
        if seen is None:
            return cube.decode(self._even(cube, place))

        last = last_times(cube, self._epochs_name, last_epoch)
        generator = np.random.default_rng([self._seed, number])
        posterior = fit_with_opinions(seen, cube.is_ordered, opinions_of(cube, self._past, sign, place))
        newest = [curve.params for curve in curves if curve.is_pending][-MOST_PENDING:]
        pending = np.array([cube.encode(params) for params in newest])
        if len(pending):
            posterior = posterior.expecting(pending, last(pending))
        known = np.unique(np.concatenate([seen.rows, *([pending] if len(pending) else [])]), axis=0)
        promising = np.array([self._completed(cube, number, start) for start in starts]) if starts else None
        belief = belief_in(cube, self._prior, place)
        return cube.decode(propose(posterior, cube, known, last, generator, self._fixed, belief, promising))

    def _completed(self, cube: Cube, number: int, point: Mapping[str, Any]) -> Floats:
        """Return the row of a point; its missing values come from the even spread."""
        row = self._even(cube, number)[None]
        cube.fix(row, {**point, **self._fixed})
        completed: Floats = row[0]
        return completed

    def _curves(self, cube: Cube, trials: Sequence[FrozenTrial], last_epoch: int, sign: float) -> Iterable[Curve]:
        """Yield the curves of the trials that have a point of this space, by number."""
        epochs = frozenset(observed_epochs(self._rungs, last_epoch))
        for trial in sorted(trials, key=lambda trial: trial.number):
            if not cube.holds(trial.params):
                continue
            is_over = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
            values = {step: sign * value for step, value in trial.intermediate_values.items()}
            length = self._length(trial, last_epoch)
            if trial.state is TrialState.COMPLETE and trial.values:
                values[max(values, default=length)] = sign * trial.values[0]
            yield read_curve(
                trial.params, values, epochs, length, is_over=is_over,
                has_diverged=any(value > 0 for value in trial.constraints.values()),
                has_failed=trial.state is TrialState.FAIL,
            )  # fmt: skip

    def _length(self, trial: FrozenTrial, last_epoch: int) -> int:
        """Return how many epochs a trial has if nothing stops it."""
        return int(trial.params.get(self._epochs_name, last_epoch)) if self._epochs_name else last_epoch

    def _even(self, cube: Cube, number: int) -> Floats:
        """Return a row of a Latin hypercube: every eight points have one in each eighth of each parameter."""
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
