"""Splits are disjoint, cover everything, keep the shares of the classes, and are the same on every machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from raysweep.data.splits import Splits, split_indices
from raysweep.errors import DataError
from raysweep.spec.sections import DataSpec


def spec_of(validation: float = 0.1, test: float = 0.1, seed: int = 0) -> DataSpec:
    return DataSpec(dataset="digits", validation_fraction=validation, test_fraction=test, split_seed=seed)


def parts(splits: Splits) -> tuple[NDArray[np.int64], ...]:
    return splits.train, splits.validation, splits.test


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[np.int32] | None, NDArray[np.bool_], DataSpec]:
    count = draw(st.integers(20, 200))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    labels = np.sort(random.integers(0, draw(st.integers(1, 6)), count)).astype(np.int32)
    official_test = np.arange(count) >= count - draw(st.sampled_from([0, 0, 5]))
    spec = spec_of(draw(st.floats(0.1, 0.45)), draw(st.floats(0.1, 0.45)), draw(st.integers(0, 2**32 - 1)))
    return (labels if draw(st.booleans()) else None), official_test, spec


@given(cases())
def test_every_image_is_in_exactly_one_split(
    case: tuple[NDArray[np.int32] | None, NDArray[np.bool_], DataSpec],
) -> None:
    labels, official_test, spec = case
    splits = split_indices(labels, official_test, spec)
    together = np.concatenate(parts(splits))
    assert sorted(together) == list(range(len(official_test)))
    for part in parts(splits):
        assert part.dtype == np.int64
        assert len(part) > 0
        assert (np.diff(part) > 0).all()


@given(cases())
def test_sizes_are_the_fractions(case: tuple[NDArray[np.int32] | None, NDArray[np.bool_], DataSpec]) -> None:
    labels, official_test, spec = case
    splits = split_indices(labels, official_test, spec)
    rest = int((~official_test).sum())
    assert abs(len(splits.validation) - spec.validation_fraction * rest) <= 0.5
    if official_test.any():
        np.testing.assert_array_equal(splits.test, np.flatnonzero(official_test))
    else:
        assert abs(len(splits.test) - spec.test_fraction * rest) <= 0.5


@given(cases())
def test_every_class_has_its_share_of_every_split(
    case: tuple[NDArray[np.int32] | None, NDArray[np.bool_], DataSpec],
) -> None:
    labels, official_test, spec = case
    assume(labels is not None)
    assert labels is not None
    splits = split_indices(labels, official_test, spec)
    drawn = [splits.train, splits.validation] + ([] if official_test.any() else [splits.test])
    rest = np.concatenate(drawn)
    for part in drawn:
        for label in np.unique(labels[rest]):
            share = (labels[rest] == label).sum() * len(part) / len(rest)
            assert abs((labels[part] == label).sum() - share) < 2


@given(cases())
def test_the_same_seed_splits_alike(case: tuple[NDArray[np.int32] | None, NDArray[np.bool_], DataSpec]) -> None:
    for once, again in zip(parts(split_indices(*case)), parts(split_indices(*case)), strict=True):
        np.testing.assert_array_equal(once, again)


def test_another_seed_splits_otherwise() -> None:
    official_test = np.zeros(1000, np.bool_)
    first, second = (split_indices(None, official_test, spec_of(seed=seed)).validation for seed in (0, 1))
    assert len(np.intersect1d(first, second)) < 50


def test_the_split_of_a_seed_never_changes() -> None:
    """Figures of older sweeps are on these images; another split would make them incomparable."""
    labels = (np.arange(50) // 10).astype(np.int32)
    splits = split_indices(labels, np.zeros(50, np.bool_), spec_of())
    assert splits.validation.tolist() == [4, 10, 27, 31, 45]
    assert splits.test.tolist() == [2, 11, 28, 38, 41]


@pytest.mark.parametrize(
    ("count", "official", "name"), [(4, 0, "validation"), (3, 3, "training"), (10, 9, "validation"), (12, 0, "none")]
)
def test_an_empty_split_is_an_error_that_says_which(count: int, official: int, name: str) -> None:
    official_test = np.arange(count) < official
    if name == "none":
        split_indices(None, official_test, spec_of())
        return
    with pytest.raises(DataError, match=f"the {name} split of {count} images.* would be empty"):
        split_indices(None, official_test, spec_of())
