"""The explanation of why the best trial of a sweep is the best, computed from its records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance

from raysweep.metrics import TrialState
from raysweep.records import TrialRecord, of_search, ranked
from raysweep.report.explanation.values import Explanation, Noise, Rival
from raysweep.report.figures.repeats import group_repeats
from raysweep.search.explaining.importance import importances
from raysweep.search.explaining.slices import model_and_noise
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import optuna_distribution

FEWEST_REPEATS = 4
"""Least number of repeats from which the noise is estimated, without the first of each configuration."""


def explain(spec: SweepSpec, records: Sequence[TrialRecord]) -> Explanation | None:
    """Return why the best trial is the best by the sweep's objective; None if no trial has a result.

    The seed does not count as a parameter here: the noise is estimated from trials that differ only in it.
    """
    metric, mode = spec.search.objective.metric, spec.search.objective.direction
    ordered = sorted(of_search(records), key=lambda record: record.number)
    by_rank = ranked(ordered, metric)
    if not by_rank:
        return None
    best, *others = by_rank
    sign = 1.0 if mode == "max" else -1.0
    searched = {name: d for name, d in spec.trial.searched.items() if name != "seed"}
    space = {name: optuna_distribution(name, distribution) for name, distribution in searched.items()}
    space = {name: distribution for name, distribution in space.items() if not distribution.single()}
    inside = [r for r in ordered if all(r.params[name] in searched[name] for name in space)]
    value, again = best.last(metric), best.confirmed_values(metric)
    rivals = [_rival(r, best, metric, sign, list(space)) for r in others if _is_as_long(r, best)]
    model, noise = model_and_noise(spec, inside, best, sign, space)
    whole = [record for record in by_rank if _is_as_long(record, best)]
    return Explanation(
        metric, mode, len(ordered), best.number, value, len(again), fmean(again or [value]), len(best.epochs),
        {name: best.params[name] for name in space}, tuple(rivals), importances(inside, metric, sign, space), model,
        _of_repeats(whole, metric) or noise,
    )  # fmt: skip


def _rival(record: TrialRecord, best: TrialRecord, metric: str, sign: float, names: Sequence[str]) -> Rival:
    """Compare a trial with the best one: by the means of their confirmations, if both were confirmed."""
    value, again, of_best = record.last(metric), record.confirmed_values(metric), best.confirmed_values(metric)
    params = {name: record.params[name] for name in names}
    if again and of_best:
        return Rival(record.number, value, len(again), sign * (fmean(of_best) - fmean(again)), params)
    return Rival(record.number, value, 0, sign * (fmean(of_best or [best.last(metric)]) - value), params)


def _of_repeats(records: Sequence[TrialRecord], metric: str) -> Noise | None:
    """Estimate the noise from trials that differ only in their seed; None if there are too few of them."""
    groups = [[record.last(metric) for record in group] for group in group_repeats(records)]
    # A confirmed trial does not count as one of its repeats: it was chosen because its result was good.
    groups += [[value for value in r.confirmed_values(metric) if math.isfinite(value)] for r in records]
    groups = [group for group in groups if len(group) > 1]
    count, freedom = sum(map(len, groups)), sum(len(group) - 1 for group in groups)
    if freedom < FEWEST_REPEATS:
        return None
    squares = sum(variance(group) * (len(group) - 1) for group in groups)
    return Noise(math.sqrt(squares / freedom), count, from_repeats=True)


def _is_as_long(record: TrialRecord, best: TrialRecord) -> bool:
    """Return whether two trials may be compared: both completed, or `record` trained at least as long as `best`."""
    both_whole = record.state is best.state is TrialState.COMPLETED
    return both_whole or len(record.epochs) >= len(best.epochs)
