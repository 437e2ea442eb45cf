"""Early stopping: asynchronous successive halving as a pure function of what the ledger holds.

Nothing is remembered between decisions. A rung is the set of trials that have reached its epoch, read from the ledger,
so that a resumed sweep decides as the undisturbed one would have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from raysweep.metrics import Mode


def survives(number: int, rung: Mapping[int, float], reduction_factor: int, mode: Mode) -> bool:
    """Whether a trial goes on past a rung: it does if it is in the best 1/`reduction_factor` of those that reached it.

    `rung` has the objective of each trial on the rung, `number` among them. Until `reduction_factor` trials stand there
    nobody is stopped: one or two values say nothing about a third (Li et al., arXiv:1810.05934, algorithm 2; Ray Tune
    judges the second arrival against the first alone). Ties go to the lower number; a value that is not finite never
    survives.
    """
    value = rung[number]
    if not math.isfinite(value):
        return False
    if len(rung) < reduction_factor:
        return True
    sign = -1.0 if mode == "max" else 1.0
    ahead = sum((sign * other, index) < (sign * value, number) for index, other in rung.items() if math.isfinite(other))
    return ahead < math.ceil(len(rung) / reduction_factor)
