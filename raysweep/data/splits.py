"""The splits of a data set: images to learn from, images to compare trials on, and images kept apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raysweep.errors import DataError
from raysweep.spec.sections import DataSpec


@dataclass(frozen=True)
class SplitSizes:
    """Images in each split."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Splits:
    """Sorted positions in the data set; each image is in exactly one of the three."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def split_sizes(count: int, official_test_count: int, spec: DataSpec) -> SplitSizes:
    """Return how many images each split gets.

    If there are official test images, they are the test split: `spec.test_fraction` is not used, and
    `spec.validation_fraction` is a share of the other images. Otherwise both fractions are shares of all images.

    Raises:
        DataError: if a split would be empty.
    """
    rest = count - official_test_count if official_test_count else count
    validation = round(spec.validation_fraction * rest)
    test = official_test_count or round(spec.test_fraction * rest)
    train = count - validation - test
    for name, size in (("training", train), ("validation", validation), ("test", test)):
        if size < 1:
            official = f", {official_test_count} of them official test images" if official_test_count else ""
            raise DataError(
                f"data: the {name} split of {count} images{official} would be empty with "
                f"validation_fraction {spec.validation_fraction} and test_fraction {spec.test_fraction}; "
                "use more images or other fractions"
            )
    return SplitSizes(train, validation, test)


def split_indices(labels: NDArray[np.int32] | None, official_test: NDArray[np.bool_], spec: DataSpec) -> Splits:
    """Split a data set of `len(official_test)` images at random by `spec.split_seed`, in the sizes of `split_sizes`.

    If there are labels, a class's share of a split differs from its share of the images by at most one image.

    Raises:
        DataError: if a split would be empty.
    """
    sizes = split_sizes(len(official_test), int(official_test.sum()), spec)
    official = np.flatnonzero(official_test)
    order = _interleave(np.flatnonzero(~official_test), labels, spec.split_seed)
    test_size = 0 if len(official) else sizes.test
    drawn, validation, train = np.split(order, [test_size, test_size + sizes.validation])
    return Splits(np.sort(train), np.sort(validation), np.sort(official if len(official) else drawn))


def _interleave(indices: NDArray[np.int64], labels: NDArray[np.int32] | None, seed: int) -> NDArray[np.int64]:
    """Return the indices in random order, with every class spread evenly over it."""
    # RandomState's stream is frozen for good (NEP 19), so nodes with different NumPy versions split alike.
    shuffled = indices[np.random.RandomState(seed).permutation(len(indices))]
    if labels is None:
        return shuffled
    # The k-th of n images of a class belongs at (k + 1/2) / n of the whole.
    places = np.empty(len(shuffled))
    classes = labels[shuffled]
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        places[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled[np.argsort(places, kind="stable")]
