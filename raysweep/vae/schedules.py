"""The learning rate of an epoch, as a function of the configuration and of the validation losses before it.

Schedules have no state: the losses of the epochs done determine the rate, so that a resumed trial goes on exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from raysweep.spec.config import TrialConfig, parse_epochs

PLATEAU_THRESHOLD = 1e-4
"""A `val_loss` counts as better if it is below the best by this share of it, as in torch's ReduceLROnPlateau."""

SMALLEST_FALL = 1e-8
"""A fall of the learning rate below this is left out, as in torch's ReduceLROnPlateau."""


def learning_rate(config: TrialConfig, val_losses: Sequence[float]) -> float:
    """Return the learning rate of the epoch after those of `val_losses`, which are in order from epoch 1.

    constant    learning_rate
    step        learning_rate * factor^n, n the number of `learning_rate_epochs` up to this epoch
    plateau     learning_rate * factor^n, n how often `val_loss` was not better for more than the patience
    cosine      learning_rate * (1 + cos(pi * done / epochs)) / 2: full in the first epoch, 0 after the last
                (Loshchilov and Hutter, arXiv:1608.03983, without restarts)
    """
    done, rate = len(val_losses), config.learning_rate
    if config.learning_rate_schedule == "step":
        begun = sum(epoch <= done + 1 for epoch in parse_epochs(config.learning_rate_epochs))
        return rate * config.learning_rate_factor**begun
    if config.learning_rate_schedule == "plateau":
        return _after_plateaus(config, val_losses)
    if config.learning_rate_schedule == "cosine":
        return 0.5 * rate * (1 + math.cos(math.pi * min(done / config.epochs, 1)))
    return rate


def _after_plateaus(config: TrialConfig, val_losses: Sequence[float]) -> float:
    """Apply torch's ReduceLROnPlateau (minimum, relative threshold, no cooldown) to all losses; NaN is never better."""
    rate, best, without_better = config.learning_rate, math.inf, 0
    for val_loss in val_losses:
        if val_loss < best * (1 - PLATEAU_THRESHOLD):
            best, without_better = val_loss, 0
        else:
            without_better += 1
        if without_better > config.learning_rate_patience_epochs:
            without_better = 0
            lower = rate * config.learning_rate_factor
            rate = lower if rate - lower > SMALLEST_FALL else rate
    return rate
