"""The variance of the training images along each of their principal components."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raysweep.data.cachefile import open_cache
from raysweep.data.images import Images
from raysweep.data.splits import split_indices
from raysweep.spec.sections import DataSpec

MAX_IMAGES = 4_000
"""Most images drawn: the largest eigenvalue then has a relative standard error of about sqrt(2 / 4000) = 2%."""

MAX_PIXELS = 100_000_000
"""Most pixels read, of all images together, if that leaves at least `MIN_IMAGES`: 2,034 images of 3x128x128."""

MIN_IMAGES = 500

_BLOCK_PIXELS = 16 << 20


def training_spectrum(path: Path, spec: DataSpec, seed: int = 0) -> NDArray[np.float64]:
    """Return the eigenvalues of the pixels' covariance over a cache file's training split, pixels in [0, 1].

    With D pixels an image and n images drawn, the result is [min(D, n)], descending and never negative; the other D - n
    eigenvalues of the drawn images are 0. The cost is one matrix product of n D min(D, n) and an eigenvalue problem of
    size min(D, n): 0.1 s for 4,000 images of 1x32x32, and about 2 s for 2,034 of 3x128x128, on two cores. Memory holds
    at most the square matrix and two blocks of 64 MiB.

    Raises:
        CacheError: if the file is missing or damaged.
        DataError: if the training split would be empty.
    """
    cache = open_cache(path)
    indices = split_indices(cache.labels, cache.official_test, spec).train
    pixels = cache.info.channels * cache.info.height * cache.info.width
    most = min(MAX_IMAGES, max(MIN_IMAGES, MAX_PIXELS // pixels))
    if len(indices) > most:
        indices = np.sort(np.random.default_rng(seed).choice(indices, most, replace=False))
    return covariance_spectrum(cache.chunks, indices)


def covariance_spectrum(
    chunks: Sequence[Images], indices: NDArray[np.int64], block_pixels: int = _BLOCK_PIXELS
) -> NDArray[np.float64]:
    """Return the eigenvalues, descending, of the covariance of images with pixels in [0, 1].

    The covariance is divided by n, not n - 1. The D x D covariance and the n x n Gram matrix of the centred images have
    the same eigenvalues except for zeros; the smaller of the two is computed.

    Args:
        chunks: [rows, channels, height, width] each, uint8, all but the last with the same rows.
        indices: [n], sorted positions in the chunks laid end to end.
        block_pixels: most pixels that are held as float32 at once.
    """
    count, pixels = len(indices), int(np.prod(chunks[0].shape[1:]))
    if pixels <= count:
        mean = np.zeros(pixels)
        step = max(1, block_pixels // pixels)
        blocks = [indices[start : start + step] for start in range(0, count, step)]
        for block in blocks:
            mean += _read(chunks, block, slice(None)).sum(axis=0, dtype=np.float64)
        centre = (mean / count).astype(np.float32)
        matrix = np.zeros((pixels, pixels))
        for block in blocks:
            centred = _read(chunks, block, slice(None)) - centre
            matrix += centred.T @ centred
    else:
        matrix = np.zeros((count, count))
        step = max(1, block_pixels // count)
        for start in range(0, pixels, step):
            part = _read(chunks, indices, slice(start, start + step))
            part -= part.mean(axis=0, dtype=np.float64).astype(np.float32)
            matrix += part @ part.T
    found: NDArray[np.float64] = np.linalg.eigvalsh(matrix)[::-1] / count
    return found.clip(0)


def _read(chunks: Sequence[Images], indices: NDArray[np.int64], columns: slice) -> NDArray[np.float32]:
    """Return some pixels of some images, [len(indices), columns], float32 in [0, 1]."""
    rows = len(chunks[0])
    parts = []
    for number in np.unique(indices // rows):
        chunk = chunks[number].reshape(len(chunks[number]), -1)
        parts.append(chunk[indices[indices // rows == number] - number * rows, columns])
    return np.concatenate(parts).astype(np.float32) / np.float32(255)
