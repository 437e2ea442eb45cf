"""The Gaussian process's expectation along each parameter, fitted to the curves of a sweep's trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from threadpoolctl import threadpool_limits

from raysweep.metrics import TrialState
from raysweep.records import TrialRecord
from raysweep.report.explanation.values import Model, Noise, Slice
from raysweep.search.gp.cube import Cube, Floats
from raysweep.search.gp.curves import Curve, last_times, observations, observed_epochs, read_curve
from raysweep.search.gp.model import Observations, Posterior, fit
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import Scalar
from raysweep.wording import counted

FEWEST_TRIALS = 8
"""Least number of trials with a value: as many as the sampler spreads evenly before it uses the model."""
FEWEST_ERRORS = 4
"""If at least this many trials trained to their end, the noise is estimated only from them."""
PLACES = 65
"""Number of values of a range at which the model is evaluated."""


def model_and_noise(
    spec: SweepSpec, records: Sequence[TrialRecord], best: TrialRecord, sign: float,
    space: Mapping[str, BaseDistribution],
) -> tuple[Model, Noise | None]:  # fmt: skip
    """Return the model of a sweep with its slices through the best trial, and the noise. Any sampler will do.

    Args:
        spec: of the sweep; its objective is modelled.
        records: the trials.
        best: the trial through which slices go.
        sign: 1 if more of the objective is better, -1 if less is.
        space: the parameters.
    """
    last_epoch = spec.max_epochs
    cube = Cube(space)
    curves = [_curve(record, spec, sign) for record in records if cube.holds(record.params)]
    measured = sum(bool(curve.steps) for curve in curves)
    if not space:
        return Model(measured, last_epoch, {}, "nothing but the seed is searched"), None
    if measured < FEWEST_TRIALS:
        have = "no trial has" if measured == 0 else f"only {counted(measured, 'trial')} {_has(measured)}"
        return Model(measured, last_epoch, {}, f"{have} a value; {FEWEST_TRIALS} are needed"), None
    seen = observations(cube, curves, last_epoch)
    assert seen is not None
    # One thread: the same sums in the same order whatever OMP_NUM_THREADS says.
    with threadpool_limits(limits=1, user_api="blas"):
        posterior = fit(seen, cube.is_ordered)
        times = last_times(cube, "epochs", last_epoch)
        point = {name: best.params[name] for name in cube.names}
        slices = {
            name: _slice(posterior, cube, times, point, column, sign, space[name])
            for column, name in enumerate(cube.names)
        }
        noise = _noise(posterior, seen, times(seen.rows))
    return Model(measured, last_epoch, {name: slices[name] for name in space}), noise


def _noise(posterior: Posterior, seen: Observations, last: Floats) -> Noise:
    """Return the root mean square error when the model predicts a trial's last value from all other trials.

    If at least `FEWEST_ERRORS` trials trained to their end, only these count.

    Args:
        posterior: the model.
        seen: its observations.
        last: the time of the last epoch of each row.
    """
    of_point: dict[bytes, list[int]] = {}
    for index in np.argsort(seen.times, kind="stable"):
        of_point.setdefault(seen.rows[index].tobytes(), []).append(int(index))
    groups = list(of_point.values())
    errors = np.array([missed[-1] for missed in posterior.missed_by(groups)])
    is_whole = np.array([seen.times[group[-1]] >= last[group[-1]] for group in groups])
    if np.count_nonzero(is_whole) >= FEWEST_ERRORS:
        errors = errors[is_whole]
    return Noise(float(np.sqrt(np.mean(errors**2))), len(errors), from_repeats=False)


def _has(count: int) -> str:
    return "has" if count == 1 else "have"


def _curve(record: TrialRecord, spec: SweepSpec, sign: float) -> Curve:
    """Return the curve of a trial as the sampler would see it."""
    metric, last_epoch = spec.search.objective.metric, spec.max_epochs
    rungs = spec.asha.rungs(last_epoch) if spec.asha is not None else ()
    length = int(record.params.get("epochs") or last_epoch)
    return read_curve(
        record.params, {epoch: sign * one.value(metric) for epoch, one in enumerate(record.epochs, 1)},
        frozenset(observed_epochs(rungs, last_epoch)), length,
        is_over=record.state in (TrialState.COMPLETED, TrialState.PRUNED, TrialState.DIVERGED),
        has_diverged=record.state is TrialState.DIVERGED,
        has_failed=record.state in (TrialState.FAILED, TrialState.OUT_OF_MEMORY),
    )  # fmt: skip


def _slice(
    posterior: Posterior, cube: Cube, times: Callable[[Floats], Floats], point: Mapping[str, Scalar], column: int,
    sign: float, distribution: BaseDistribution,
) -> Slice:  # fmt: skip
    """Return what the model expects along one column of the cube, with the other columns as in `point`."""
    name = cube.names[column]
    is_range = not isinstance(distribution, CategoricalDistribution)
    if isinstance(distribution, CategoricalDistribution):
        values: list[Scalar] = list(distribution.choices)
        if cube.is_ordered[column]:
            values.sort(key=lambda value: float(value or 0))
    else:
        values = list(dict.fromkeys(cube.value_at(column, place) for place in np.linspace(0.0, 1.0, PLACES)))
    rows = np.array([cube.encode({**point, name: value}) for value in values])
    means, sds = posterior.mean_and_sd(rows, times(rows))
    top = int(np.argmax(means))
    good = means >= means[top] - sds[top]
    if cube.is_ordered[column]:
        first = last = top
        while first > 0 and good[first - 1]:
            first -= 1
        while last + 1 < len(values) and good[last + 1]:
            last += 1
        good = (np.arange(len(values)) >= first) & (np.arange(len(values)) <= last)
    return Slice(
        is_range, tuple(values), tuple(float(sign * mean) for mean in means), tuple(map(float, sds)), values[top],
        tuple(value for value, is_good in zip(values, good, strict=True) if is_good),
    )  # fmt: skip
