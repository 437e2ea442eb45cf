"""Prior knowledge of a sampler: what earlier sweeps expect of points, their best points, and the user's hint.

All of it may be wrong. So (a) an earlier sweep sets only a few of the first points, (b) its opinion is used only if it
makes this sweep's own observations likelier, and (c) opinion and hint lose weight as the number of trials grows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from raysweep.search.gp.acquisition import Belief
from raysweep.search.gp.cube import Cube, Floats
from raysweep.search.gp.curves import Curve, observations
from raysweep.search.gp.model import Opinion, fit
from raysweep.search.past import PastSweep, by_rank

FIRST_POINTS = 8
"""Number of trials that are spread evenly before the model is used."""
MOST_PAST_ROWS = 60
"""Most observations of earlier sweeps among those that models are conditioned on."""
PAST_POINTS = 2
"""How many of the first points are the best of earlier sweeps: the cost of a wrong past before it is recognised."""
START_PLACES = (2, 4, 6)
"""Places among the first points for the hinted one and the best of earlier sweeps; the even spread has the others.
They do not come first, because early stopping compares a trial with those before it: after a few others, a poor one
ends at the first rung."""
OPINION = 0.5
"""Prior variance of the multiple of an earlier sweep's opinion, directly after the first points. It falls with the
square of the number of trials: the past is a head start, after which this sweep knows better."""
APART = 0.15
"""Least distance of two of the best points in some parameter, as a share of its range, if there are such points."""
BELIEF_SD = 0.15
"""Standard deviation of the belief around a hinted value, as a share of the parameter's range."""
BELIEF_FLOOR = 0.05
"""Belief in a value far away, relative to the belief in the hinted one."""
BELIEF = 0.5
"""Exponent of the belief that multiplies the expected improvement, directly after the first points. It falls with the
square of the number of trials, as an opinion does. The method is piBO (Hvarfner et al., arXiv:2204.11051), in which it
falls with the number itself."""
_OTHER = 4.0
"""Squared distance, in standard deviations, of another category from the hinted one."""
_SAMPLE = 256
"""Number of points that represent the whole space when an opinion on a point is compared with the usual one."""


def past_rows(past: Sequence[PastSweep]) -> int:
    """Return the largest possible number of observations of earlier sweeps."""
    return min(MOST_PAST_ROWS, sum(len(trial.values) for sweep in past for trial in sweep.trials))


def opinions_of(cube: Cube, past: Sequence[PastSweep], sign: float, trials: int) -> list[Opinion]:
    """Return the opinions of the earlier sweeps whose values are not all the same.

    Args:
        sign: the factor of values that makes more better.
        trials: how many trials this sweep has, besides those that start from prior knowledge.
    """
    opinions: list[Opinion] = []
    sample = cube.spread(np.random.default_rng(_SAMPLE).random((_SAMPLE, len(cube.names))))
    for sweep in past:
        curves = [
            Curve(trial.point, {epoch: sign * value for epoch, value in trial.values.items()}, is_pending=False)
            for trial in sweep.trials
            if cube.holds(trial.point)
        ]
        seen = observations(cube, curves, sweep.last_epoch, MOST_PAST_ROWS // len(past))
        if seen is not None and np.ptp(seen.values) > 0.0:
            opinions.append(Opinion(fit(seen, cube.is_ordered), sample, OPINION * fading(trials)))
    return opinions


def starting_points(
    cube: Cube, past: Sequence[PastSweep], sign: float, prior: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the first points that come from prior knowledge: the hinted one, and the best distinct earlier ones.

    Parameters without a hint get their values from the best earlier point, if there is one.
    """
    best = _best_of_past(cube, past, sign)
    hinted = {name: value for name, value in prior.items() if name in cube.names}
    return [*([{**(best[0] if best else {}), **hinted}] if hinted else []), *best]


def _best_of_past(cube: Cube, past: Sequence[PastSweep], sign: float) -> list[dict[str, Any]]:
    """Return the best distinct points of earlier sweeps, from each sweep in turn: at most `PAST_POINTS`."""
    ranked = [[dict(sweep.trials[place].point) for place in by_rank(sweep.trials, sign)] for sweep in past]
    in_turn = [point for places in zip_longest(*ranked) for point in places if point is not None and cube.holds(point)]
    chosen: list[dict[str, Any]] = []
    for least in (APART, 1e-9):
        for point in in_turn:
            row = np.array(cube.encode(point))
            if all(np.max(np.abs(row - cube.encode(other))) >= least for other in chosen):
                chosen.append(point)
            if len(chosen) == PAST_POINTS:
                return chosen
    return chosen


def fading(trials: int) -> float:
    """Return the weight of prior knowledge after this many trials: 1 directly after the first points."""
    return (FIRST_POINTS / trials) ** 2


def belief_in(cube: Cube, prior: Mapping[str, Any], trials: int) -> Belief | None:
    """Return the belief in rows that the hinted values give after this many trials; None without a hint."""
    columns = [column for column, name in enumerate(cube.names) if name in prior]
    if not columns:
        return None
    hinted = np.array(cube.encode({**cube.decode(np.zeros(len(cube.names))), **prior}))[columns]
    ordered = cube.is_ordered[columns]
    weight = BELIEF * fading(trials)

    def belief(rows: Floats) -> Floats:
        away = rows[:, columns] - hinted
        squares = np.where(ordered, (away / BELIEF_SD) ** 2, np.where(away != 0.0, _OTHER, 0.0))
        density = BELIEF_FLOOR + (1.0 - BELIEF_FLOOR) * np.exp(-0.5 * np.mean(squares, axis=1))
        weighted: Floats = weight * np.log(density)
        return weighted

    return belief
