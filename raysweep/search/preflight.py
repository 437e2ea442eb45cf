"""The prediction of collapse for a sweep: one principal component analysis of its training images, no training."""

from __future__ import annotations

from pathlib import Path

from raysweep.clock import timed
from raysweep.data.cache import open_cache
from raysweep.data.spectrum import training_spectrum
from raysweep.profiles import DriverPart
from raysweep.spec import SweepSpec
from raysweep.vae.preflight import Preflight, Unpredictable, predict, unpredictable


@timed(DriverPart.PREFLIGHT)
def preflight(spec: SweepSpec, cache: Path) -> Preflight | Unpredictable:
    """What is predicted for a sweep on the images of a cache file; `raysweep.data.spectrum` says what it costs.

    Raises:
        CacheError: if the file is missing or damaged.
        DataError: if the training split would be empty.
    """
    reason = unpredictable(spec.trial)
    if reason is not None:
        return reason
    channels, height, width = open_cache(cache).info.shape
    return predict(spec.trial, training_spectrum(cache, spec.data), channels * height * width)
