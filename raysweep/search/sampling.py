"""Where the points of trials come from: an Optuna sampler, and what of the sweep it gets to see.

A suggestion is a function of the specification, the number of the trial and what the trials so far came to: a resumed
sweep suggests what the undisturbed one would have. TPE's time grows with the trials that it sees. Beyond
`MOST_IN_VIEW` of them it sees the best, which are its model of what is good, and the others evenly thinned out, which
are its model of the rest; benchmarks/suggestions.py measures what that costs and saves.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState as Told

from raysweep.metrics import Mode
from raysweep.space import Scalar
from raysweep.spec import SweepSpec

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

STARTUP_TRIALS = 8
"""Trials sampled at random before TPE has enough to go by."""
MOST_IN_VIEW = 1000
"""Ended trials that TPE is shown."""
BEST_IN_VIEW = 25
"""Of these the best ones: as many as Optuna's TPE takes for good, however many there are."""


class Ranking:
    """The ended trials that a sampler learns from, ranked as Optuna's TPE ranks them.

    Completed ones come first, by value; then pruned ones, the further they came the better; then those that diverged.
    """

    def __init__(self, mode: Mode) -> None:
        self._sign = 1.0 if mode == "min" else -1.0
        self._ranked: list[int] = []
        self._trials: dict[int, FrozenTrial] = {}

    def add(self, trial: FrozenTrial) -> None:
        """Takes a trial that has ended; one that failed says nothing about its point, and is left out."""
        if trial.state in (Told.COMPLETE, Told.PRUNED) and trial.number not in self._trials:
            self._trials[trial.number] = trial
            insort(self._ranked, trial.number, key=lambda number: (self._rank(self._trials[number]), number))

    def view(self) -> list[FrozenTrial]:
        """All of them, or the best and an even choice of the others, by number."""
        if len(self._trials) <= MOST_IN_VIEW:
            return [self._trials[number] for number in sorted(self._trials)]
        best = set(self._ranked[:BEST_IN_VIEW])
        others = sorted(self._trials.keys() - best)
        wanted = MOST_IN_VIEW - BEST_IN_VIEW
        chosen = {others[index * len(others) // wanted] for index in range(wanted)}
        return [self._trials[number] for number in sorted(best | chosen)]

    def _rank(self, trial: FrozenTrial) -> tuple[float, ...]:
        violated = sum(value for value in trial.constraints.values() if value > 0)
        if violated:
            return (2.0, violated)
        if trial.state is Told.COMPLETE:
            return (0.0, self._sign * float(trial.values[0]))
        if not trial.intermediate_values:
            return (1.0, 1.0, 0.0)
        step, value = max(trial.intermediate_values.items())
        return (1.0, -step, math.inf if math.isnan(value) else self._sign * value)


class _View(optuna.Study):
    """A study of which a sampler sees some trials."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        vars(self).update(vars(study))
        self._in_view = trials

    def _get_trials(self, deepcopy: bool = True, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        return [trial for trial in self._in_view if states is None or trial.state in states]


class _TPESampler(optuna.samplers.TPESampler):
    """TPE without the message to other drivers that it writes into a trial; one sweep has one driver."""

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return self._sample_relative(study, trial, search_space)


def make_sampler(spec: SweepSpec, number: int) -> BaseSampler:
    """The sampler that suggests trial `number`, seeded from (seed, number)."""
    digest = hashlib.sha256(f"{spec.search.seed}:{number}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    if spec.search.sampler != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True)


def suggest(
    spec: SweepSpec, study: optuna.Study, number: int, given: Mapping[str, Scalar],
    distributions: Mapping[str, BaseDistribution], seen: Iterable[FrozenTrial],
) -> dict[str, Any]:  # fmt: skip
    """The point of trial `number`: what is `given` of it, and the rest from the sampler, which learns from `seen`.

    Args:
        seen: a `Ranking.view` and the trials that are running, in any order.
    """
    sampler = make_sampler(spec, number)
    in_order = sorted(seen, key=lambda trial: trial.number)
    view = _View(study, in_order)
    # Optuna looks for what all have in common. Those of one and the same space, which nearly all are, can be one.
    apart = {id(ended.distributions): ended for ended in in_order if ended.state.is_finished()}
    spaces = _View(study, list(apart.values()))
    trial = optuna.trial.FrozenTrial(
        number=number, trial_id=-1, state=Told.RUNNING, value=None, datetime_start=None, datetime_complete=None,
        params={}, distributions={}, user_attrs={}, system_attrs={}, intermediate_values={},
    )  # fmt: skip
    together: dict[str, Any] | None = None
    point: dict[str, Any] = {}
    for name, distribution in distributions.items():
        if name in given or distribution.single():
            point[name] = given[name] if name in given else _only_value(distribution)
            continue
        if together is None:
            together = sampler.sample_relative(view, trial, sampler.infer_relative_search_space(spaces, trial))
        if name in together:
            point[name] = together[name]
        else:
            point[name] = sampler.sample_independent(view, trial, name, distribution)
    return point


def _only_value(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution)
    return distribution.low
