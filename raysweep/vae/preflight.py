"""Prediction, before a sweep, of the KLD weight at which a model of these images collapses. Needs no torch.

The linear VAE of Lucas et al., arXiv:1911.02469, is solved exactly. Under mean squared error + w KL its latent i is
active only if lambda_i > w D / 2, with lambda_i the i-th eigenvalue of the covariance of the pixels in [0, 1] and D
their number. So above w = 2 lambda_1 / D the posterior is the prior. A convolutional VAE leaves the plateau at the mean
image along the same direction, and was measured to collapse above the same weight. With free bits there is no such
weight, because a latent keeps the nats that it is not charged for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from raysweep.spec.config import Reduction, TrialConfig
from raysweep.spec.space import Choices, Range, TrialSpace
from raysweep.vae.conventions import pixel_mean_weight


@dataclass(frozen=True)
class Preflight:
    """A prediction for a search space. Pairs are the least and the most over the `latent_size`, `sigma` and `reduction`
    that are searched; the two are equal if these are constant."""

    critical_weight: tuple[float, float]
    """The least `kld_weight`, in the convention of the file, at which every latent is predicted inactive."""
    lowest_weight: float
    """The smallest `kld_weight` of the space."""
    highest_weight: float
    active_at_low: tuple[int, int]
    """Latents predicted active at the smallest weight; at most `latent_size`."""
    active_at_high: tuple[int, int]
    wasted_share: tuple[float, float]
    """Share of the distribution of `kld_weight` at which every latent is predicted inactive, from 0 to 1. A range
    counts on its own scale, linear or logarithmic; choices count by number."""

    def to_mapping(self) -> dict[str, Any]:
        """Return the prediction as sweep.yaml has it."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_mapping(cls, mapping: Any) -> Preflight | None:
        """Return the prediction in a mapping of `to_mapping`; None for anything else, such as an `Unpredictable`."""
        if not isinstance(mapping, Mapping):
            return None
        try:
            weights = [float(mapping[name]) for name in ("lowest_weight", "highest_weight")]
            critical, share = (_pair(mapping[name], float) for name in ("critical_weight", "wasted_share"))
            low, high = (_pair(mapping[name], int) for name in ("active_at_low", "active_at_high"))
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        return cls(critical, weights[0], weights[1], low, high, share)


@dataclass(frozen=True)
class Unpredictable:
    """The reason why nothing can be predicted for a search space."""

    reason: str

    def to_mapping(self) -> dict[str, Any]:
        return {"not_predicted": self.reason}


def unpredictable(space: TrialSpace) -> Unpredictable | None:
    """Return why nothing can be predicted for any images; None if something can."""
    others = [str(value) for value in space.choices("likelihood") if value != "gaussian"]
    if others:
        return Unpredictable(f"likelihood {' and '.join(others)} has no fixed weight of the squared error")
    if space.ends("free_bits_nats")[1] > 0:
        return Unpredictable("free_bits_nats leave each latent some nats free of charge: no weight makes all collapse")
    return None


def predict(space: TrialSpace, eigenvalues: NDArray[np.float64], pixels: int) -> Preflight | Unpredictable:
    """Return the prediction for a search space and images.

    Args:
        eigenvalues: of the covariance of the training pixels in [0, 1], in any order; those left out are taken as 0.
        pixels: D = channels * height * width.
    """
    reason = unpredictable(space)
    if reason is not None:
        return reason
    if not eigenvalues.max() > 0:
        return Unpredictable("the training images are all the same")
    combinations = _combinations(space)
    critical = [critical_weight(config, eigenvalues, pixels) for config in combinations]
    low, high = (float(weight) for weight in space.ends("kld_weight"))
    at_low, at_high = (
        [active_latents(c.model_copy(update={"kld_weight": weight}), eigenvalues, pixels) for c in combinations]
        for weight in (low, high)
    )
    shares = [_share_from(space, weight) for weight in critical]
    return Preflight(
        (min(critical), max(critical)), low, high,
        (min(at_low), max(at_low)), (min(at_high), max(at_high)), (min(shares), max(shares)),
    )  # fmt: skip


def critical_weight(config: TrialConfig, eigenvalues: NDArray[np.float64], pixels: int) -> float:
    """Return the least KLD weight, in the convention of `config`, at which every latent is predicted inactive."""
    unit = pixel_mean_weight(config.model_copy(update={"kld_weight": 1.0}), pixels)
    return 2 * float(eigenvalues.max()) / pixels / unit if unit > 0 else math.inf


def active_latents(config: TrialConfig, eigenvalues: NDArray[np.float64], pixels: int) -> int:
    """Return how many latents of `config` are predicted active at its KLD weight."""
    # Rounding leaves eigenvalues of 0 slightly positive; at a weight of 0 they would count as active.
    noise = 1e-6 * float(eigenvalues.max())
    line = max(pixel_mean_weight(config, pixels) * pixels / 2, noise)
    return min(config.latent_size, int(np.count_nonzero(eigenvalues > line)))


def summary(prediction: Preflight | Unpredictable, space: TrialSpace) -> tuple[str, ...]:
    """Describe a prediction for a person, in up to three lines; the first says what matters most."""
    if isinstance(prediction, Unpredictable):
        return (f"not predicted: {prediction.reason}",)
    where = f"predicted from kld_weight {_spoken(prediction.critical_weight)} on"
    low, high = (f"{weight:.3g}" for weight in (prediction.lowest_weight, prediction.highest_weight))
    counts = f"active latents predicted: {_spoken(prediction.active_at_low)} at {low}"
    if low != high:
        counts += f", {_spoken(prediction.active_at_high)} at {high}"
    *others, last = _fields_that_change_images(space) or [""]
    changing = f"{', '.join(others)} and {last}" if others else last
    caveat = (f"predicted of the images as they are, before {changing}",) if changing else ()
    return f"{where}; {_wasted(prediction, space)}", counts, *caveat


def _fields_that_change_images(space: TrialSpace) -> list[str]:
    """Return the fields that make training see images other than those of the prediction's spectrum."""
    ranges = ("rotation_degrees", "autocontrast_probability", "brightness_jitter")
    changing = [name for name in ranges if space.ends(name)[1] > 0]
    return changing + ["binarise"] * (space.choices("binarise") != ("none",))


def _wasted(prediction: Preflight, space: TrialSpace) -> str:
    distribution = space.searched.get("kld_weight")
    least, most = prediction.wasted_share
    if distribution is None:
        weight = f"kld_weight {prediction.lowest_weight:.3g}"
        if least == most:
            return f"every trial is beyond it, at {weight}" if least else f"{weight} is below it"
        return f"{weight} is beyond it for some trials"
    if most == 0:
        return "all that is searched lies below"
    if isinstance(distribution, Choices):
        from_on = prediction.critical_weight[1]
        beyond = [value for value in sorted(_numbers(distribution)) if value >= from_on]
        named = ", ".join(f"{value:.3g}" for value in beyond)
        return f"of the choices {named} {'is' if len(beyond) == 1 else 'are'} wasted" if beyond else (
            f"up to {most:.0%} of the choices are wasted"
        )  # fmt: skip
    share = f"{least:.0%}" if f"{least:.0%}" == f"{most:.0%}" else f"{least:.0%} to {most:.0%}"
    if distribution.log:
        decades = math.log10(distribution.high / distribution.low)
        wasted = _spoken((round(least * decades, 1), round(most * decades, 1)))
        return f"{wasted} of the {decades:.3g} decades searched are wasted ({share})"
    return f"{share} of the range searched is wasted"


def _spoken(pair: tuple[float, float]) -> str:
    low, high = (f"{value:.3g}" if value else "none" for value in pair)
    return low if low == high else f"{low} to {high}"


def _combinations(space: TrialSpace) -> list[TrialConfig]:
    """Return the corners of the space spanned by the fields on which the critical weight depends.

    It is monotone in `sigma` and `latent_size`, so the corners have its least and most.
    """
    reductions = [value for value in get_args(Reduction) if value in space.choices("reduction")]
    return [
        TrialConfig(sigma=sigma, latent_size=int(latents), reduction=reduction)
        for sigma, latents, reduction in product(
            dict.fromkeys(space.ends("sigma")), dict.fromkeys(space.ends("latent_size")), reductions
        )
    ]


def _numbers(choices: Choices) -> list[float]:
    return [float(value) for value in choices.choices if isinstance(value, int | float)]


def _share_from(space: TrialSpace, critical: float) -> float:
    """Return the share of the distribution of `kld_weight` that is not below `critical`."""
    distribution = space.searched.get("kld_weight")
    if not isinstance(distribution, Range):
        weights = _numbers(distribution or Choices(choices=space.choices("kld_weight")))
        return sum(weight >= critical for weight in weights) / len(weights)
    low, high = float(distribution.low), float(distribution.high)
    if critical <= low or critical > high:
        return float(critical <= low)
    if distribution.step is not None:
        last = round((high - low) / distribution.step)
        return (last + 1 - math.ceil((critical - low) / distribution.step)) / (last + 1)
    if distribution.log:
        return math.log(high / critical) / math.log(high / low)
    return (high - critical) / (high - low)


def _pair(raw: Any, kind: type) -> Any:
    low, high = raw
    return kind(low), kind(high)
