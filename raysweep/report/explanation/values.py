"""Why the best trial is the best, as values: importances, the model's slices, and how far ahead it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from raysweep.metrics import Mode
from raysweep.spec.space import Scalar

CHANCE = 0.05
"""A parameter stands out if at most this share of random orders of the values makes it as important."""


@dataclass(frozen=True)
class Importance:
    """One parameter's share in what distinguishes the best quarter of the trials from the better half."""

    share: float
    """Of all parameters together; the mean over resamples of the trials."""
    low: float
    high: float
    """Nine of ten resamples lie between `low` and `high`."""
    chance: float
    """Share of random orders of the trials' values in which it is as important."""

    @property
    def stands_out(self) -> bool:
        """True if chance alone would rarely make it as important."""
        return self.chance <= CHANCE


@dataclass(frozen=True)
class Importances:
    """The importance of each parameter, or why there is none."""

    trials: int
    """Trials that were compared."""
    epoch: int | None
    """The epoch at which they were compared; None if each was compared after its own last one."""
    ran_on: int
    """How many of them trained to their end, or as long as the longest."""
    of: Mapping[str, Importance]
    """By parameter, the most important first; empty if there is none."""
    reason: str = ""
    """Why there is none."""


@dataclass(frozen=True)
class Slice:
    """The model's predictions along one parameter while the others stay as they are in the best trial."""

    is_range: bool
    """True if the values come from a range; otherwise each is a choice."""
    values: tuple[Scalar, ...]
    """In order; choices that are not numbers in the order of the search space file."""
    means: tuple[float, ...]
    """The expected objective at the last epoch, for each value."""
    sds: tuple[float, ...]
    """Standard deviation of each mean, without the noise of a single trial."""
    best: Scalar
    """The value at which the mean is best."""
    as_good: tuple[Scalar, ...]
    """The values around the best one, or those choices, whose mean is within one standard deviation of the best."""

    @property
    def is_flat(self) -> bool:
        """True if all values are as good as the best one."""
        return len(self.as_good) == len(self.values)


@dataclass(frozen=True)
class Model:
    """The Gaussian process that was fitted to the trials' curves, or why there is none."""

    trials: int
    """Trials with at least one value."""
    epoch: int
    """The last epoch, at which it predicts."""
    slices: Mapping[str, Slice]
    """By parameter."""
    reason: str = ""
    """Why there is no model."""


@dataclass(frozen=True)
class Noise:
    """The scatter of a trial's objective that its parameters do not explain."""

    sd: float
    """Standard deviation of a trial's value after its last epoch."""
    trials: int
    """Trials from which it was estimated."""
    from_repeats: bool
    """True if it is the spread of trials that differ only in their seed.

    Otherwise it is the model's error when it predicts a trial from all others: the noise plus what the model does not
    know. The noise in the model's covariance is not used: it is that between two epochs of one trial, which is far
    smaller.
    """

    def between(self, one: int = 1, other: int = 1) -> float:
        """Return the difference of the means of `one` and `other` trials that noise exceeds in one case of twenty."""
        return 1.96 * self.sd * math.sqrt(1.0 / max(1, one) + 1.0 / max(1, other))


@dataclass(frozen=True)
class Rival:
    """A trial that is compared with the best one."""

    trial: int
    value: float
    again: int
    """How often it was trained again with another seed; 0 if the best one was not."""
    behind: float
    """How much worse its objective is than the best trial's; means are compared if both were trained again."""
    params: Mapping[str, Scalar]


@dataclass(frozen=True)
class Explanation:
    """Why the best trial of a sweep is the best."""

    metric: str
    mode: Mode
    trials: int
    """Trials of the search."""
    trial: int
    """The best one."""
    value: float
    again: int
    """How often it was trained again with another seed."""
    mean: float
    """Its mean value over these trainings; `value` if there are none."""
    epochs: int
    """Epochs that it trained."""
    params: Mapping[str, Scalar]
    """The best trial's values of the searched parameters that can have more than one."""
    rivals: tuple[Rival, ...]
    """Trials that were trained for as long, the best first."""
    importances: Importances
    model: Model
    noise: Noise | None
    """None if it cannot be estimated."""
