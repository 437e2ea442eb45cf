"""The choice of the row of the unit cube to try next: the one with the largest expected improvement."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import erfcx, ndtr

from raysweep.search.gp.cube import Cube, Floats
from raysweep.search.gp.model import Posterior

UNIFORM = 1024
"""Number of candidates anywhere in the cube."""
BEST = 5
"""Number of most promising rows around which further candidates are placed."""
AROUND_SEEN, SCALE_AROUND_SEEN = 40, 0.1
"""Number of candidates around each of the best rows that were seen, and how far away they are."""
ROUNDS = ((30, 0.05), (30, 0.02))
"""Of each round: number of candidates around each of the best candidates so far, and how far away they are."""
_LOG_ROOT_2PI = 0.5 * math.log(2.0 * math.pi)
_TAIL = -1e3

Times = Callable[[Floats], Floats]
"""The time of each row's last epoch."""
Belief = Callable[[Floats], Floats]
"""How good each row is believed to be beforehand: the logarithm of a density that multiplies the improvement."""


def log_expected_improvement(mean: Floats, sd: Floats, best: float) -> Floats:
    """Return the logarithm of E[max(0, f - best)] for normal f (Ament et al., arXiv:2310.20708, equation 9)."""
    z = (mean - best) / sd
    log = np.empty_like(z)
    high, tail = z > -1.0, z < _TAIL
    middle = ~(high | tail)
    log[high] = np.log(np.exp(-0.5 * z[high] ** 2 - _LOG_ROOT_2PI) + z[high] * ndtr(z[high]))
    far = z[middle]
    log[middle] = -0.5 * far**2 - _LOG_ROOT_2PI + np.log1p(far * math.sqrt(math.pi / 2) * erfcx(-far / math.sqrt(2.0)))
    log[tail] = -0.5 * z[tail] ** 2 - _LOG_ROOT_2PI - 2.0 * np.log(-z[tail])
    improvement: Floats = log + np.log(sd)
    return improvement


def propose(
    posterior: Posterior, cube: Cube, seen: Floats, last: Times, generator: np.random.Generator,
    fixed: Mapping[str, Any], belief: Belief | None = None, promising: Floats | None = None,
) -> Floats:  # fmt: skip
    """Return the candidate row with the largest expected improvement at its last epoch.

    Args:
        posterior: the model after all observations, with expected values for the trials under way.
        seen: rows [n, d] of the points tried so far; none is proposed again if there is another candidate.
        fixed: values that the point must have.
        belief: how good the user believes rows to be; None if there is no belief.
        promising: further rows [m, d] around which to look for candidates.
    """
    means = posterior.mean(seen, last(seen))
    best_seen = _best(seen, means)
    taken = {row.tobytes() for row in seen}
    candidates, values = np.empty((0, seen.shape[1])), np.empty(0)

    def consider(rows: Floats) -> None:
        nonlocal candidates, values
        cube.fix(rows, fixed)
        mean, sd = posterior.mean_and_sd(rows, last(rows))
        candidates = np.concatenate([candidates, rows])
        improvement = log_expected_improvement(mean, sd, float(np.max(means)))
        values = np.concatenate([values, improvement if belief is None else improvement + belief(rows)])

    uniform = cube.spread(generator.random((UNIFORM, seen.shape[1])))
    best_known = best_seen if promising is None else np.concatenate([best_seen, promising])
    around = cube.near(generator, np.repeat(best_known, AROUND_SEEN, axis=0), SCALE_AROUND_SEEN)
    consider(np.concatenate([uniform, around]))
    for count, scale in ROUNDS:
        consider(cube.near(generator, np.repeat(_best(candidates, values), count, axis=0), scale))
    order = np.argsort(-values, kind="stable")
    new = next((index for index in order if candidates[index].tobytes() not in taken), order[0])
    row: Floats = candidates[new]
    return row


def _best(rows: Floats, values: Floats) -> Floats:
    """Return the distinct rows with the largest values, at most `BEST` of them."""
    found: dict[bytes, Floats] = {}
    for index in np.argsort(-values, kind="stable"):
        found.setdefault(rows[index].tobytes(), rows[index])
        if len(found) == BEST:
            break
    return np.array(list(found.values()))
