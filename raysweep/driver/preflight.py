"""Before a sweep: settings that depend on its images, and prediction of collapse from one PCA of them."""

from __future__ import annotations

from pathlib import Path

from raysweep.clock import timed
from raysweep.data.cache import describe, open_cache
from raysweep.data.spectrum import training_spectrum
from raysweep.data.splits import split_sizes
from raysweep.profiles import DriverPart
from raysweep.spec.defaults import sized
from raysweep.spec.sections import SweepSpec
from raysweep.vae.preflight import Preflight, Unpredictable, predict, unpredictable


def sized_by_images(spec: SweepSpec) -> SweepSpec:
    """Return the specification with the settings filled in that depend on the number of training images.

    Raises:
        DataUnavailable: if there are such settings, and the images are not on this machine and may not be fetched.
        DataError: if their files are damaged, or a split would be empty.
    """
    return sized(spec, describe(spec.data).sizes.train) if spec.unsized else spec


def count_training_images(spec: SweepSpec, cache: Path) -> int:
    """Return how many images of a cache file a trial learns from. The file has no broken ones.

    Raises:
        CacheError: if the file is missing or damaged.
        DataError: if a split would be empty.
    """
    found = open_cache(cache)
    return split_sizes(len(found.official_test), int(found.official_test.sum()), spec.data).train


@timed(DriverPart.PREFLIGHT)
def preflight(spec: SweepSpec, cache: Path) -> Preflight | Unpredictable:
    """Predict collapse for a sweep on the images of a cache file. `raysweep.data.spectrum` says what this costs.

    Raises:
        CacheError: if the file is missing or damaged.
        DataError: if the training split would be empty.
    """
    reason = unpredictable(spec.trial)
    if reason is not None:
        return reason
    channels, height, width = open_cache(cache).info.shape
    return predict(spec.trial, training_spectrum(cache, spec.data), channels * height * width)
