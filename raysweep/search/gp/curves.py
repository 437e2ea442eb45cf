"""The model's observations of trials: the values of their curves at the epochs that count."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raysweep.search.gp.cube import Cube, Floats
from raysweep.search.gp.model import Observations

MOST_ROWS = 200
"""Most observations that the model is conditioned on. Its time grows with the cube of their number."""
_WORST = 5.0
"""Worse values count as this many spreads below the median; `_floor` defines the spread."""
_LARGEST = 1e150
"""Largest absolute value; larger ones are clipped, so that their squares are finite."""


@dataclass(frozen=True)
class Curve:
    """The known part of one trial's curve."""

    params: Mapping[str, Any]
    steps: Mapping[int, float]
    """Values at the epochs that count, more is better; NaN at the last epoch if the trial diverged."""
    is_pending: bool
    """True if its final value is unknown: it has not ended, or failed for a reason that says nothing of its point."""


def observed_epochs(rungs: Sequence[int], last_epoch: int) -> tuple[int, ...]:
    """Return the epochs at which curves are read: the rungs, or the last epoch, its third and its ninth."""
    if rungs:
        return tuple(rungs)
    epochs, epoch = [last_epoch], last_epoch
    while epoch > 1 and len(epochs) < 3:
        epoch = math.ceil(epoch / 3)
        epochs.append(epoch)
    return tuple(sorted(set(epochs)))


def read_curve(
    params: Mapping[str, Any], values: Mapping[int, float], epochs: Collection[int], length: int, *,
    is_over: bool, has_diverged: bool, has_failed: bool,
) -> Curve:  # fmt: skip
    """Return what is known about a trial.

    Args:
        params: its point.
        values: its objective by epoch; more is better.
        epochs: those that count, besides its last one.
        length: how many epochs it has if nothing stops it.
        is_over: whether it has ended with a result, or diverged.
        has_diverged: whether it is known to have diverged. If it is over and its last value is not finite, it has, too.
        has_failed: whether it ended for a reason that says nothing about its point.
    """
    reached = max(values, default=0)
    steps = {epoch: value for epoch, value in values.items() if epoch in epochs or epoch == reached}
    if is_over and (has_diverged or not math.isfinite(steps.get(reached, 0.0))):
        steps = {length: math.nan}
    else:
        steps = {epoch: value for epoch, value in steps.items() if math.isfinite(value)}
    # Nothing is known of a failed trial. The model expects its mean there, so the point is not tried again and again.
    return Curve(params, {} if has_failed else steps, not is_over)


def observations(cube: Cube, curves: Sequence[Curve], last_epoch: int, most: int = MOST_ROWS) -> Observations | None:
    """Return the observations that the model is conditioned on, at most `most`; None if nothing is known yet."""
    known = [(curve.params, epoch, value) for curve in curves for epoch, value in sorted(curve.steps.items())]
    if not known:
        return None
    values = np.clip([value for _, _, value in known], -_LARGEST, _LARGEST)
    finite = values[np.isfinite(values)]
    worst = max(_floor(finite), float(np.min(finite))) if len(finite) else 0.0
    values = np.where(np.isfinite(values), np.maximum(values, worst), worst)
    chosen = _thinned(values, most)
    rows = np.array([cube.encode(known[index][0]) for index in chosen])
    times = np.array([_time(known[index][1], last_epoch) for index in chosen])
    return Observations(rows, times, values[chosen])


def last_times(cube: Cube, epochs_name: str | None, last_epoch: int) -> Callable[[Floats], Floats]:
    """Return the function that gives the time of each row's last epoch.

    Args:
        cube: the space of the rows.
        epochs_name: the parameter that says how many epochs a trial has. If it is not an axis, all have `last_epoch`.
        last_epoch: the most epochs that a trial has.
    """

    def times_of(rows: Floats) -> Floats:
        if epochs_name not in cube.names:
            return np.ones(len(rows))
        column = cube.names.index(epochs_name)
        places, place_of_row = np.unique(rows[:, column], return_inverse=True)
        times: Floats = np.array([_time(cube.value_at(column, place), last_epoch) for place in places])
        return times[place_of_row]

    return times_of


def _time(epoch: float, last_epoch: int) -> float:
    """Return the model's time of an epoch: logarithmic, from 0 for the first to 1 for the last."""
    return math.log(max(epoch, 1)) / math.log(last_epoch) if last_epoch > 1 else 1.0


def _floor(values: Floats) -> float:
    """Return the value below which all count as equally bad: one trial of -1e30 must not level all others.

    The spread is the distance from the median to the best value, or to the lower quartile if that is farther.
    """
    middle = float(np.median(values))
    spread = max(float(np.max(values)) - middle, middle - float(np.quantile(values, 0.25)))
    return middle - _WORST * spread if spread > 0.0 else float(np.min(values))


def _thinned(values: Floats, most: int) -> list[int]:
    """Return which observations the model sees: all, or the best and an even choice of the others."""
    count = len(values)
    if count <= most:
        return list(range(count))
    order = np.argsort(-values, kind="stable")
    best = most // 3
    others, wanted = np.sort(order[best:]), most - best
    even = [int(others[index * len(others) // wanted]) for index in range(wanted)]
    return sorted([*(int(index) for index in order[:best]), *even])
