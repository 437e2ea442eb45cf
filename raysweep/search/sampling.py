"""The origin of trials' points: an Optuna sampler, and the part of the sweep that it sees.

A suggestion is a function of the specification, the number of the trial and the results so far: a resumed sweep
suggests what the undisturbed one would have. The time of a sampler that learns grows with the trials that it sees. If
there are more than `MOST_IN_VIEW`, it sees (a) the best, its model of what is good, and (b) an even choice of the
others, its model of the rest. benchmarks/suggestions.py measures what that costs and saves.
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
"""Number of trials that are sampled at random before TPE starts."""
MOST_IN_VIEW = 1000
"""Most ended trials that a sampler is shown."""
BEST_IN_VIEW = 25
"""How many of these are the best ones: as many as Optuna's TPE treats as good, however many there are."""
BEST_FOR_GP = 100
"""The same for the Gaussian process: more than the third of its observations that are the best ones."""
FAILED_FOR_GP = 50
"""Most failed trials, the newest ones, that the Gaussian process is shown, so that it does not try the same again."""


class Ranking:
    """The trials that a sampler learns from (ended, or on a rung), ranked as Optuna's TPE ranks them.

    Completed ones come first, by value; then pruned ones, by the epoch reached; then those that diverged. A trial that
    stands on a rung counts as pruned there, because TPE treats running trials as bad, and in a sweep whose trials pause
    nearly all of them run until its end. A trial that has just been sent on also counts as pruned until its next epoch,
    because the ledger does not say whether it has a process.
    """

    def __init__(self, mode: Mode, best: int = BEST_IN_VIEW, failed: int = 0, rungs: Collection[int] = ()) -> None:
        """Make an empty ranking.

        Args:
            best: how many of the best trials are seen if there are many trials.
            failed: how many of the failed trials are seen, the newest first; they say nothing about their points.
            rungs: the epochs at which trials pause, if paused trials should count as pruned there.
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
        """Add or update a trial; leave it out if it trains. A failed trial is kept separately, and seen as failed."""
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
        """Return the trial as a sampler sees it; None if it does not see it."""
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
        """Return all trials, or the best and an even choice of the others, by number; failed trials come last."""
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
    """A study that shows a sampler only some of its trials."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        vars(self).update(vars(study))
        self._in_view = trials

    def _get_trials(self, deepcopy: bool = True, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        return [trial for trial in self._in_view if states is None or trial.state in states]


class _TPESampler(optuna.samplers.TPESampler):
    """TPE that treats numeric choices as ordered.

    Unlike Optuna's, it does not write a message to other drivers into a trial, because one sweep has one driver.
    """

    def __init__(self, are_choices_ordered: bool, **options: Any) -> None:
        super().__init__(**options)
        self._are_choices_ordered = are_choices_ordered

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        if self._are_choices_ordered:
            search_space = {name: _with_order(distribution) for name, distribution in search_space.items()}
        return self._sample_relative(study, trial, search_space)


class OrderedChoices(optuna.distributions.IntDistribution):
    """Numeric choices as whole numbers in their order, so that TPE models what lies between two good ones."""

    def __init__(self, values: Sequence[int | float]) -> None:
        super().__init__(0, len(values) - 1)
        self.values = tuple(values)

    def to_internal_repr(self, param_value_in_external_repr: Any) -> float:
        return float(self.values.index(param_value_in_external_repr))

    def to_external_repr(self, param_value_in_internal_repr: float) -> Any:
        return self.values[int(param_value_in_internal_repr)]


def _with_order(distribution: BaseDistribution) -> BaseDistribution:
    """Return numeric choices as ordered ones, and any other distribution unchanged."""
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        numbers = ordered_choices(distribution.choices)
        if numbers is not None:
            return OrderedChoices(numbers)
    return distribution


@dataclass(frozen=True)
class Asked:
    """The trial of a sweep for which a sampler is made."""

    spec: SweepSpec
    number: int
    given: Mapping[str, Scalar]
    """Values that the point must have."""
    are_choices_ordered: bool
    """True if TPE treats numeric choices as ordered. Sweeps that began before it did so go on without."""
    past: tuple[PastSweep, ...] = ()
    """What the sweep took over from earlier ones when it began."""
    repeats: int = 0
    """How many trials before it train others again; a sampler does not count them as points."""

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
    "grid": _random,  # samples only the values that a point of `enqueue` leaves open
}


def make_sampler(
    spec: SweepSpec, number: int, given: Mapping[str, Scalar] | None = None, are_choices_ordered: bool = True,
    past: tuple[PastSweep, ...] = (), repeats: int = 0,
) -> BaseSampler:  # fmt: skip
    """Return the sampler that suggests trial `number`, seeded from (seed, number); `Asked` explains the arguments.

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
    """Return an empty ranking for the trials that the sampler of a sweep will see.

    The Gaussian process reads the values of running trials. TPE cannot, so it sees paused trials as stopped.
    """
    mode = spec.search.objective.direction
    if spec.search.sampler == "gp":
        return Ranking(mode, BEST_FOR_GP, FAILED_FOR_GP)
    promotes = spec.asha is not None and spec.asha.promote
    return Ranking(mode, rungs=_rungs(spec) if promotes else ())


def epochs_kept(spec: SweepSpec) -> frozenset[int]:
    """Return the epochs whose values the sampler reads, besides the last one of a stopped trial."""
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
    """Return the point of trial `number`: the `given` values, and the rest from the sampler, which learns from `seen`.

    Args:
        seen: a `Ranking.view` and the trials that are running, in any order.
        are_choices_ordered, past, repeats: see `Asked`.
    """
    sampler = make_sampler(spec, number, given, are_choices_ordered, past, repeats)
    in_order = sorted(seen, key=lambda trial: trial.number)
    view = _View(study, in_order)
    # Optuna computes what all spaces have in common. One trial for each space object is enough; nearly all share one.
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
