"""Trials that never left the plateau at the mean image, although their KLD weight allows it. Needs no torch.

Every training begins there: the decoder's biases learn the mean image within an epoch, long before the latents carry
information. A model whose posterior collapses stays, because its objective asks for it. A stuck model stays because its
training failed: at a large learning rate the first steps of Adam leave activations of the encoder that are 0 for all
images, and no gradient passes through these. docs/metrics.md has the rule, docs/search.md the measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

from raysweep.metrics import COLLAPSED_R2, COLLAPSED_RATE_NATS, TrialState
from raysweep.records import TrialRecord
from raysweep.spec.config import TrialConfig
from raysweep.spec.space import TrialSpace
from raysweep.vae.preflight import Preflight

LEAST_EPOCHS = 4
"""With fewer epochs, a plateau that ends cannot be told from one that does not."""
GROWTH = 1.5
"""A trial is about to leave the plateau if its rate has grown by this factor since half of the epochs ..."""
LEAST_RATE_NATS = COLLAPSED_RATE_NATS / 10
"""... and is at least this; a lower rate is noise."""

NEAR_COLLAPSE = 0.5
"""From this share of the weight at which collapse is predicted, good trainings take long to leave the plateau too."""

_Loss = tuple[str, str, str]


def has_left_plateau(r2: Sequence[float]) -> bool:
    """Return whether the model was better than the mean image after any epoch, by the bound of `collapsed`."""
    return any(value >= COLLAPSED_R2 for value in r2)


def lies_flat(r2: Sequence[float], rate_nats: Sequence[float]) -> bool:
    """Return whether a curve was on the plateau in every epoch and shows no sign of leaving it.

    Args:
        r2: `r2` after each epoch.
        rate_nats: `rate_nats` after each epoch.
    """
    if len(r2) < LEAST_EPOCHS or has_left_plateau(r2) or not all(map(math.isfinite, (*r2, *rate_nats))):
        return False
    half = math.ceil(len(r2) / 2) - 1
    is_learning = r2[-1] - r2[half] >= COLLAPSED_R2
    is_leaving = rate_nats[-1] >= max(LEAST_RATE_NATS, GROWTH * rate_nats[half])
    return not is_learning and not is_leaving


def stuck_trials(records: Sequence[TrialRecord], prediction: Preflight | None) -> dict[int, bool | None]:
    """Return which trials are stuck, by their numbers; None where that cannot be told.

    It cannot be told of a trial on the plateau if (a) it trained for less than `LEAST_EPOCHS`, (b) it failed, or
    (c) its KLD weight is not known to be below collapse: none was predicted, and no trial left the plateau at such a
    weight.

    Args:
        records: the trials of one sweep.
        prediction: the KLD weight at which collapse was predicted before the sweep, if it was.
    """
    learned = _Learned(records)
    return {record.number: _is_stuck(record, prediction, learned) for record in records}


class _Learned:
    """The KLD weights at which trials of a sweep have left the plateau, computed at the first use."""

    def __init__(self, records: Sequence[TrialRecord]) -> None:
        self._records = records

    @cached_property
    def _pulls(self) -> dict[_Loss, list[tuple[float, float]]]:
        """Free bits and pull of each trial that has learned, grouped by its loss."""
        found: dict[_Loss, list[tuple[float, float]]] = {}
        for record in self._records:
            if record.epochs and record.last("r2") >= COLLAPSED_R2:
                config = record.config
                found.setdefault(_loss(config), []).append((config.free_bits_nats, _pull(config)))
        return found

    def reached(self, config: TrialConfig) -> bool:
        """Return whether a trial with the same loss, no more free bits and no smaller pull has learned.

        For such a trial learning was no easier than for one of this configuration.
        """
        most_free, least_pull = config.free_bits_nats, _pull(config)
        return any(free <= most_free and pull >= least_pull for free, pull in self._pulls.get(_loss(config), []))


def _is_stuck(record: TrialRecord, prediction: Preflight | None, learned: _Learned) -> bool | None:
    r2 = [epoch.value("r2") for epoch in record.epochs]
    if has_left_plateau(r2) or record.state is TrialState.DIVERGED:
        return False
    if len(r2) < LEAST_EPOCHS or record.state in (TrialState.FAILED, TrialState.OUT_OF_MEMORY):
        return None
    if not lies_flat(r2, [epoch.value("rate_nats") for epoch in record.epochs]):
        return False
    config = record.config
    line = None if prediction is None else collapse_line(config, record.space, prediction)
    if config.kld_weight == 0 or (line is not None and config.kld_weight < line) or learned.reached(config):
        return True
    return None if line is None else False


def is_near_collapse(record: TrialRecord, prediction: Preflight | None) -> bool:
    """Return whether a trial's KLD weight is near, or beyond, the least at which collapse was predicted."""
    line = None if prediction is None else collapse_line(record.config, record.space, prediction)
    return line is not None and record.config.kld_weight >= NEAR_COLLAPSE * line


def collapse_line(config: TrialConfig, space: TrialSpace, prediction: Preflight) -> float | None:
    """Return the least `kld_weight` at which a trial of this configuration was predicted to collapse.

    The prediction has the least and the most over the space. If several reductions are searched, the result is that
    least, because how reductions relate depends on the number of pixels. None if the prediction does not hold for the
    trial.
    """
    if config.likelihood != "gaussian" or config.free_bits_nats > 0:
        return None
    least = prediction.critical_weight[0]
    if len(space.choices("reduction")) > 1:
        return least
    sigma, latents = float(space.ends("sigma")[1]), int(space.ends("latent_size")[0])
    strongest = config.model_copy(update={"sigma": sigma, "latent_size": latents})
    return least * _pull_of_one(strongest) / _pull_of_one(config)


def _loss(config: TrialConfig) -> _Loss:
    """Return the settings that two trials must share for their KLD weights to be comparable."""
    return config.likelihood, config.reduction, config.binarise


def _pull(config: TrialConfig) -> float:
    """Return how strongly the KL divergence weighs against the data term. Only trials of one `_loss` compare."""
    return config.kld_weight * _pull_of_one(config)


def _pull_of_one(config: TrialConfig) -> float:
    squared = 2 * config.sigma**2 if config.likelihood == "gaussian" else 1.0
    return squared / config.latent_size if config.reduction == "pixel_and_latent_mean" else squared
