"""Where the points of trials come from: an Optuna sampler, and what of the sweep it gets to see.

A suggestion is a function of the specification, the number of the trial and what the trials so far came to: a resumed
sweep suggests what the undisturbed one would have. The time of a sampler that learns grows with the trials that it
sees. Beyond `MOST_IN_VIEW` of them it sees the best, which are its model of what is good, and the others evenly thinned
out, which are its model of the rest; benchmarks/suggestions.py measures what that costs and saves.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from bisect import insort
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState as Told

from raysweep.errors import ArgumentError
from raysweep.metrics import Mode
from raysweep.search.past import PastSweep
from raysweep.spec.defaults import settled
from raysweep.spec.hints import value_hint
from raysweep.spec.sections import SAMPLERS, SweepSpec
from raysweep.spec.space import Scalar, optuna_distribution, ordered_choices

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

STARTUP_TRIALS = 8
"""Trials sampled at random before TPE has enough to go by."""
MOST_IN_VIEW = 1000
"""Ended trials that a sampler is shown."""
BEST_IN_VIEW = 25
"""Of these the best ones: as many as Optuna's TPE takes for good, however many there are."""
BEST_FOR_GP = 100
"""Of these the best ones, for the Gaussian process: more than the third of its observations that are the best ones."""
FAILED_FOR_GP = 50
"""Trials that failed, of which the Gaussian process is shown the newest, in order not to try the same again."""


class Ranking:
    """The trials that a sampler learns from, ranked as Optuna's TPE ranks them: those that ended, or stand on a rung.

    Completed ones come first, by value; then pruned ones, the further they came the better; then those that diverged.
    One that stands on a rung counts as pruned there. TPE takes what runs for bad, and in a sweep whose trials pause
    nearly all of them run until its end. A trial that has just been sent on counts so until its next epoch: whether it
    has a process is not in the ledger.
    """

    def __init__(self, mode: Mode, best: int = BEST_IN_VIEW, failed: int = 0, rungs: Collection[int] = ()) -> None:
        """Make a ranking without trials.

        Args:
            best: of many trials, how many of the best are seen.
            failed: how many of those that failed are seen, the newest first; they say nothing about their points.
            rungs: the epochs at which trials pause, if those that do are to count as pruned there.
        """
        self._sign = 1.0 if mode == "min" else -1.0
        self._best, self._most_failed = best, failed
        self._rungs = frozenset(rungs)
        self._ranked: list[int] = []
        self._trials: dict[int, FrozenTrial] = {}
        self._failed: dict[int, FrozenTrial] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._trials

    def add(self, trial: FrozenTrial) -> None:
        """Take a trial as it is now; leave it out if it trains. One that failed is kept apart, and seen as such."""
        if trial.state is Told.FAIL and self._most_failed:
            self._failed[trial.number] = trial
            if len(self._failed) > self._most_failed:
                del self._failed[min(self._failed)]
        known, shown = self._trials.get(trial.number), self._shown(trial)
        if shown is known:
            return
        if known is not None:
            self._ranked.remove(trial.number)
            del self._trials[trial.number]
        if shown is not None:
            self._trials[trial.number] = shown
            insort(self._ranked, trial.number, key=lambda number: (self._rank(self._trials[number]), number))

    def _shown(self, trial: FrozenTrial) -> FrozenTrial | None:
        """Return the trial as a sampler sees it; None if it does not."""
        if trial.state in (Told.COMPLETE, Told.PRUNED):
            return trial
        step = max(trial.intermediate_values, default=0)
        if trial.state is not Told.RUNNING or step not in self._rungs:
            return None
        if not math.isfinite(trial.intermediate_values[step]):
            return None
        stopped = copy(trial)
        stopped.state = Told.PRUNED
        return stopped

    def view(self) -> list[FrozenTrial]:
        """Return all of them, or the best and an even choice of the others, by number; those that failed come last."""
        numbers = set(self._trials)
        if len(numbers) > MOST_IN_VIEW:
            best = set(self._ranked[: self._best])
            others = sorted(numbers - best)
            wanted = MOST_IN_VIEW - self._best
            numbers = best | {others[index * len(others) // wanted] for index in range(wanted)}
        failed = [self._failed[number] for number in sorted(self._failed)]
        return [*(self._trials[number] for number in sorted(numbers)), *failed]

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
    """TPE that takes numbers among choices in their order.

    It leaves out the message to other drivers that Optuna's writes into a trial; one sweep has one driver.
    """

    def __init__(self, are_choices_ordered: bool, **options: Any) -> None:
        super().__init__(**options)
        self._are_choices_ordered = are_choices_ordered

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        if self._are_choices_ordered:
            search_space = {name: _with_order(distribution) for name, distribution in search_space.items()}
        return self._sample_relative(study, trial, search_space)


class OrderedChoices(optuna.distributions.IntDistribution):
    """Choices that are numbers, as the whole numbers of their order: TPE models what lies between two that are good."""

    def __init__(self, values: Sequence[int | float]) -> None:
        super().__init__(0, len(values) - 1)
        self.values = tuple(values)

    def to_internal_repr(self, param_value_in_external_repr: Any) -> float:
        return float(self.values.index(param_value_in_external_repr))

    def to_external_repr(self, param_value_in_internal_repr: float) -> Any:
        return self.values[int(param_value_in_internal_repr)]


def _with_order(distribution: BaseDistribution) -> BaseDistribution:
    """Return choices of numbers as ordered ones, any other distribution as it is."""
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        numbers = ordered_choices(distribution.choices)
        if numbers is not None:
            return OrderedChoices(numbers)
    return distribution


@dataclass(frozen=True)
class Asked:
    """What a sampler is made for: one trial of a sweep."""

    spec: SweepSpec
    number: int
    given: Mapping[str, Scalar]
    """Values that the point has whatever is suggested."""
    are_choices_ordered: bool
    """Whether TPE takes numbers among choices in their order. Sweeps begun before it did so go on without."""
    past: tuple[PastSweep, ...] = ()
    """What the sweep took over from earlier ones when it began."""
    repeats: int = 0
    """How many trials before it train others again, and are none of the points that a sampler counts."""

    @property
    def seed(self) -> int:
        digest = hashlib.sha256(f"{self.spec.search.seed}:{self.number}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


def _tpe(asked: Asked) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _TPESampler(
            asked.are_choices_ordered, seed=asked.seed, n_startup_trials=STARTUP_TRIALS, multivariate=True,
            constant_liar=True,
        )  # fmt: skip


def _random(asked: Asked) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=asked.seed)


def _gp(asked: Asked) -> BaseSampler:
    from raysweep.search.gp.sampler import CurveSampler  # it imports scipy, which takes a second

    spec, searched = asked.spec, asked.spec.trial.searched
    return CurveSampler(
        seed=spec.search.seed, last_epoch=spec.max_epochs, rungs=_rungs(spec),
        epochs_name="epochs" if "epochs" in searched else None,
        space={name: optuna_distribution(name, d) for name, d in searched.items()}, fixed=asked.given,
        past=asked.past, prior=spec.search.prior, given=len(spec.search.enqueue), repeats=asked.repeats,
    )  # fmt: skip


_MAKERS: Mapping[str, Callable[[Asked], BaseSampler]] = {
    "gp": _gp,
    "tpe": _tpe,
    "random": _random,
    "grid": _random,  # of a grid only what a point of `enqueue` leaves open is sampled
}


def make_sampler(
    spec: SweepSpec, number: int, given: Mapping[str, Scalar] | None = None, are_choices_ordered: bool = True,
    past: tuple[PastSweep, ...] = (), repeats: int = 0,
) -> BaseSampler:  # fmt: skip
    """Return the sampler that suggests trial `number`, seeded from (seed, number); `Asked` has what the rest means.

    Raises:
        ArgumentError: if there is no such sampler.
    """
    spec = settled(spec)
    name = spec.search.sampler
    if name not in _MAKERS:
        raise ArgumentError(
            f"search.sampler: must be {', '.join(SAMPLERS[:-1])} or {SAMPLERS[-1]}, got {name!r}"
            f"{value_hint('search.sampler', name, SAMPLERS)}"
        )
    return _MAKERS[name](Asked(spec, number, given or {}, are_choices_ordered, past, repeats))


def ranking_for(spec: SweepSpec) -> Ranking:
    """Return the ranking, still empty, of the trials that the sampler of a sweep is to see.

    The Gaussian process reads the values of trials that are running. TPE cannot: it sees those that pause as stopped.
    """
    mode = spec.search.objective.direction
    if spec.search.sampler == "gp":
        return Ranking(mode, BEST_FOR_GP, FAILED_FOR_GP)
    promotes = spec.asha is not None and spec.asha.promote
    return Ranking(mode, rungs=_rungs(spec) if promotes else ())


def epochs_kept(spec: SweepSpec) -> frozenset[int]:
    """Return the epochs whose values the sampler looks at, besides the last one of a trial that was stopped."""
    if spec.search.sampler != "gp":
        return frozenset()
    from raysweep.search.gp.curves import observed_epochs

    return frozenset(observed_epochs(_rungs(spec), spec.max_epochs))


def _rungs(spec: SweepSpec) -> tuple[int, ...]:
    return spec.asha.rungs(spec.max_epochs) if spec.asha is not None else ()


def suggest(
    spec: SweepSpec, study: optuna.Study, number: int, given: Mapping[str, Scalar],
    distributions: Mapping[str, BaseDistribution], seen: Iterable[FrozenTrial], are_choices_ordered: bool = True,
    past: tuple[PastSweep, ...] = (), repeats: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Return the point of trial `number`: what is `given`, and the rest from the sampler, which learns from `seen`.

    Args:
        seen: a `Ranking.view` and the trials that are running, in any order.
        are_choices_ordered, past, repeats: as `Asked` has them.
    """
    sampler = make_sampler(spec, number, given, are_choices_ordered, past, repeats)
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
