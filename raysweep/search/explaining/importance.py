"""How important each parameter is within the better half of the trials, and how certain that is.

The measure is PED-ANOVA (Watanabe et al., IJCAI 2023, arXiv:2304.10255), as implemented by Optuna: how differently the
best quarter of the trials and the better half are distributed over a parameter. Unlike fANOVA it is made for a part of
the space. Over all trials, the bad region of a wide range would dominate: there, a parameter is important for not
failing. With few trials the measure is noisy. So (a) the trials are resampled with replacement, and the mean and the
spread of the shares are reported; (b) the values are permuted, which shows how large an importance arises by chance.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from raysweep.metrics import WITHOUT_RESULT, TrialState
from raysweep.records import TrialRecord
from raysweep.report.explanation.values import Importance, Importances
from raysweep.spec.space import ordered_choices
from raysweep.wording import counted

FEWEST_TRIALS = 8
"""Least number of comparable trials that importances need."""
ENOUGH_TRIALS = 16
"""Wanted number of trials at an earlier epoch if too few trained to the end."""
MOST_TRIALS = 200
"""Most comparable trials that are used; if there are more, an even choice by rank."""
BETTER_HALF, BEST_QUARTER = 0.5, 0.25
RESAMPLES = 30
ORDERS = 19
"""Number of random orders of the values. With the true order there are 20, so the smallest chance is 1 in 20."""
_COPIES = 4
"""How often a trial can be in a resample. If it is drawn more often, in 4 of 1,000 cases, it counts this often."""
_WITHIN = (0.05, 0.95)

Floats = npt.NDArray[np.float64]


def importances(
    records: Sequence[TrialRecord], metric: str, sign: float, space: Mapping[str, BaseDistribution]
) -> Importances:
    """Return the importance of each parameter of `space` for `metric`, or why there is none.

    Args:
        records: the trials.
        metric: the objective, a metric of an epoch.
        sign: 1 if more of it is better, -1 if less is.
        space: the parameters.
    """
    epoch, ran_on, values = _comparable(records, metric)
    compared = len(values)
    if compared < FEWEST_TRIALS:
        ran = "no trial" if compared == 0 else f"only {counted(compared, 'trial')}"
        reason = f"{ran} can be compared, which trained equally long; {FEWEST_TRIALS} are needed"
        return Importances(compared, epoch, ran_on, {}, reason)
    values = _chosen(values, sign)
    points = [record.params for record, _ in values]
    numbers = sign * np.array([value for _, value in values])
    varied = {name: d for name, d in space.items() if any(point[name] != points[0][name] for point in points[1:])}
    reason = ""
    if len(varied) < 2:
        reason = f"{next(iter(varied))} alone differs between the trials" if varied else "the trials are all alike"
    elif np.ptp(numbers) == 0.0:
        reason = f"all {compared} comparable trials came to the same {metric}"
    if reason:
        return Importances(compared, epoch, ran_on, {}, reason)
    found = _Divergences(points, varied).importances(numbers)
    if not found:
        reason = f"the better half of the {compared} comparable trials are alike"
    return Importances(compared, epoch, ran_on, found, reason)


def _comparable(records: Sequence[TrialRecord], metric: str) -> tuple[int | None, int, list[tuple[TrialRecord, float]]]:
    """Return at which epoch trials are compared, how many trained to their end, and the trials with their values.

    If enough trials completed, or are as long as the longest, the values are those after the last epoch (None).
    Otherwise they are those of the latest epoch that enough trials have reached.
    """
    with_result = [r for r in records if r.state not in WITHOUT_RESULT and math.isfinite(r.last(metric))]
    longest = max((len(record.epochs) for record in with_result), default=0)
    whole = [r for r in with_result if r.state is TrialState.COMPLETED or len(r.epochs) == longest]
    if len(whole) >= FEWEST_TRIALS:
        return None, len(whole), [(record, record.last(metric)) for record in whole]
    lengths = sorted((len(record.epochs) for record in with_result), reverse=True)
    for enough in (ENOUGH_TRIALS, FEWEST_TRIALS):
        if len(lengths) >= enough:
            epoch = lengths[enough - 1]
            there = [r for r in with_result if len(r.epochs) >= epoch]
            at_epoch = [(record, record.epochs[epoch - 1].value(metric)) for record in there]
            return epoch, len(whole), [pair for pair in at_epoch if math.isfinite(pair[1])]
    return None, len(whole), [(record, record.last(metric)) for record in whole]


def _chosen(values: list[tuple[TrialRecord, float]], sign: float) -> list[tuple[TrialRecord, float]]:
    """Return all trials, or `MOST_TRIALS` of them, evenly by rank, so that quantiles stay where they are."""
    if len(values) <= MOST_TRIALS:
        return values
    by_rank = sorted(values, key=lambda pair: (-sign * pair[1], pair[0].number))
    return [by_rank[index * len(by_rank) // MOST_TRIALS] for index in range(MOST_TRIALS)]


class _Divergences:
    """PED-ANOVA's divergences of fixed points, for any weights and values of these points.

    One Optuna study has several copies of each trial. In a resample some of these copies have values; the others have
    none, and Optuna leaves them out.
    """

    def __init__(self, points: Sequence[Mapping[str, Any]], space: Mapping[str, BaseDistribution]) -> None:
        self._names, self._count = list(space), len(points)
        # Numeric choices are treated as ordered, because the neighbours of a good choice say something about it.
        orders = {name: order for name, d in space.items() if (order := _order_of(d)) is not None}
        places = {name: IntDistribution(0, len(order) - 1) for name, order in orders.items()}
        self._evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_QUARTER, region_quantile=BETTER_HALF)
        self._study = optuna.create_study()
        for point in points:
            params = {n: orders[n].index(point[n]) if n in orders else point[n] for n in self._names}
            trial = optuna.create_trial(params=params, distributions={**space, **places}, value=0.0)
            self._study.add_trials([trial] * _COPIES)

    def importances(self, values: Floats) -> dict[str, Importance]:
        """Return the importance of each parameter, the most important first; none if no parameter has any.

        Args:
            values: the trials' values; more is better.
        """
        once = np.ones(self._count, dtype=int)
        true = self._divergences(values, once)
        if not true.any():
            return {}
        generator = np.random.default_rng(0)
        drawn = (generator.integers(0, self._count, self._count) for _ in range(RESAMPLES))
        resampled = [self._divergences(values, np.bincount(one, minlength=self._count)) for one in drawn]
        shares = np.array([of_all / of_all.sum() for of_all in resampled if of_all.any()] or [true / true.sum()])
        orders = np.array([self._divergences(generator.permutation(values), once) for _ in range(ORDERS)])
        chance = (1 + np.sum(orders >= true, axis=0)) / (1 + ORDERS)
        mean, (low, high) = shares.mean(axis=0), np.quantile(shares, _WITHIN, axis=0)
        found = {
            name: Importance(float(mean[i]), float(low[i]), float(high[i]), float(chance[i]))
            for i, name in enumerate(self._names)
        }
        return dict(sorted(found.items(), key=lambda pair: (-pair[1].share, pair[0])))

    def _divergences(self, values: Floats, times: npt.NDArray[np.int_]) -> Floats:
        """Return each parameter's divergence between the best quarter and the better half.

        Args:
            values: the trials' values; more is better.
            times: how often each trial is in the resample.
        """

        def target(trial: FrozenTrial) -> float:
            index, copy = divmod(trial.number, _COPIES)
            return -float(values[index]) if copy < times[index] else math.nan

        with warnings.catch_warnings():
            # Optuna warns that targets are minimised, that the sum is not 1, and that ties are not told apart.
            warnings.simplefilter("ignore")
            found = get_param_importances(
                self._study, evaluator=self._evaluator, params=self._names, target=target, normalize=False
            )
        return np.array([found[name] for name in self._names])


def _order_of(distribution: BaseDistribution) -> tuple[int | float, ...] | None:
    """Return numeric choices, the smallest first; None for all other distributions."""
    return ordered_choices(distribution.choices) if isinstance(distribution, CategoricalDistribution) else None
