"""The spectrum of the training images is that of their covariance, whichever way it is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.data import spectrum
from raysweep.data.cache import open_cache, prepare
from raysweep.data.spectrum import covariance_spectrum, training_spectrum
from raysweep.data.splits import split_indices
from raysweep.errors import CacheError
from raysweep.spec.sections import DataSpec


@given(st.data())
@settings(deadline=None)
def test_it_is_the_spectrum_of_the_covariance_however_images_and_pixels_are_cut(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    size = data.draw(st.sampled_from([1, 2, 3, 4]))
    chunk_rows = data.draw(st.integers(1, count))
    images = np.random.default_rng(count).integers(0, 256, (count, 2, size, size), np.uint8)
    chunks = [images[start : start + chunk_rows] for start in range(0, count, chunk_rows)]
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))), np.int64)

    found = covariance_spectrum(chunks, chosen, block_pixels=data.draw(st.integers(1, 200)))

    pixels = images[chosen].reshape(len(chosen), -1) / 255
    expected = np.linalg.eigvalsh(np.cov(pixels.T, bias=True).reshape(2 * size**2, -1))[::-1]
    assert len(found) == min(len(chosen), 2 * size**2)
    np.testing.assert_allclose(found, expected[: len(found)], atol=1e-6)
    assert np.all(np.diff(found) <= 0)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(pixels.var(axis=0).sum(), abs=1e-5)


def test_images_that_are_all_the_same_have_no_variance() -> None:
    for count, size in ((3, 8), (200, 8)):
        images = np.broadcast_to(
            np.arange(size * size, dtype=np.uint8).reshape(1, 1, size, size), (count, 1, size, size)
        )
        assert covariance_spectrum([images], np.arange(count)).max() == 0


def test_only_the_training_split_counts() -> None:
    spec = DataSpec(dataset="digits", image_size=8)
    path = prepare(spec)
    cache = open_cache(path)
    images = np.concatenate(cache.chunks)[split_indices(cache.labels, cache.official_test, spec).train]
    expected = np.linalg.eigvalsh(np.cov(images.reshape(len(images), -1).T / 255, bias=True))[::-1]
    np.testing.assert_allclose(training_spectrum(path, spec), expected, atol=1e-6)


def test_of_many_images_a_sample_is_drawn_that_depends_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DataSpec(dataset="digits", image_size=8)
    path = prepare(spec)
    whole = training_spectrum(path, spec)
    monkeypatch.setattr(spectrum, "MAX_IMAGES", 700)
    first, again, other = (training_spectrum(path, spec, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first[0] == pytest.approx(whole[0], rel=0.2)


def test_of_large_images_fewer_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DataSpec(dataset="digits", image_size=16)
    path = prepare(spec)
    monkeypatch.setattr(spectrum, "MAX_PIXELS", 100 * 256)
    monkeypatch.setattr(spectrum, "MIN_IMAGES", 50)
    assert len(training_spectrum(path, spec)) == 100
    monkeypatch.setattr(spectrum, "MAX_PIXELS", 1)
    assert len(training_spectrum(path, spec)) == 50


def test_mnist_5k_collapses_at_the_published_weight() -> None:
    """2 lambda_1 / D at 32x32, measured apart: above it runs did collapse (docs/metrics.md)."""
    spec = DataSpec(dataset="mnist-5k", image_size=32)
    assert 2 * training_spectrum(prepare(spec), spec)[0] / 1024 == pytest.approx(1.27e-2, rel=0.01)


def test_a_cache_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"none\.arrow"):
        training_spectrum(tmp_path / "none.arrow", DataSpec(dataset="digits"))
