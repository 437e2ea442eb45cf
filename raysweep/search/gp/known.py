"""What a sampler knows beforehand: what earlier sweeps expect of points, which were their best, and a person's hint.

All of it may be wrong. So an earlier sweep costs a few points among the first ones, its opinion is listened to only
where it makes this sweep's own observations likelier, and opinion and hint count the less, the more trials there are.
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
"""Trials that are spread evenly before the model has enough to go by."""
MOST_PAST_ROWS = 60
"""Of the observations that models are conditioned on, those of earlier sweeps."""
PAST_POINTS = 2
"""Points among the first ones that are the best of earlier sweeps: what a wrong past costs before it is recognised."""
START_PLACES = (2, 4, 6)
"""Places among the first points of those that are the best of earlier sweeps, or hinted at; the even spread has the
others. Early stopping judges a trial by those before it: after a few others, a poor one ends at the first rung."""
OPINION = 0.5
"""Variance of the multiple of an earlier sweep's opinion that is expected before the first trial has ended. It falls
with the square of the number of trials: the past is a head start, after which this sweep knows better."""
APART = 0.15
"""How far two of the best points lie apart in one parameter at least, as a share of its range, if there are such."""
BELIEF_SD = 0.15
"""Standard deviation of what is believed around a hinted value, as a share of the parameter's range."""
BELIEF_FLOOR = 0.05
"""What a value far away is believed to be worth, compared with the hinted one."""
BELIEF = 0.5
"""Power to which a belief is raised where it multiplies the improvement that is expected, after the first points. It
falls with the square of the number of trials, as an opinion does (in piBO, Hvarfner et al., arXiv:2204.11051, from
which this is, with the number itself)."""
_OTHER = 4.0
"""Squared distance, in standard deviations, of another category from the hinted one."""
_SAMPLE = 256
"""Points that stand for all of the space where an opinion on a point is compared with what is usual."""


def past_rows(past: Sequence[PastSweep]) -> int:
    """Return how many observations of earlier sweeps there are at most."""
    return min(MOST_PAST_ROWS, sum(len(trial.values) for sweep in past for trial in sweep.trials))


def opinions_of(cube: Cube, past: Sequence[PastSweep], sign: float, trials: int) -> list[Opinion]:
    """Return what earlier sweeps expect of points, of those sweeps that tell any apart.

    Args:
        sign: by which values are multiplied, so that more is better.
        trials: how many there are of this sweep, besides those that start from what is known.
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
    """Return what is tried among the first points: the hinted values, and the best different points of earlier sweeps.

    What the hint leaves open is as in the best of the earlier points, if there are any.
    """
    best = _best_of_past(cube, past, sign)
    hinted = {name: value for name, value in prior.items() if name in cube.names}
    return [*([{**(best[0] if best else {}), **hinted}] if hinted else []), *best]


def _best_of_past(cube: Cube, past: Sequence[PastSweep], sign: float) -> list[dict[str, Any]]:
    """Return the best different points of earlier sweeps, in turn of each sweep: `PAST_POINTS` at most."""
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
    """Return by how much less is made of what was known beforehand after so many trials: 1 after the first points."""
    return (FIRST_POINTS / trials) ** 2


def belief_in(cube: Cube, prior: Mapping[str, Any], trials: int) -> Belief | None:
    """Return what is believed of rows after so many trials, by the hinted values; None without any."""
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
