"""CIFAR-10: the Python and the binary version of https://www.cs.toronto.edu/~kriz/cifar.html.

The Python version consists of pickles, which are read without unpickling them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raysweep.data.images import Chunk, Counts, Images, Source, Transform, hash_files
from raysweep.data.pickled import PickledArray, PickleError, read_pickle
from raysweep.errors import DataError

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PICKLED, _BINARY = "cifar-10-batches-py", "cifar-10-batches-bin"
_PIXELS = 3 * 32 * 32
_LARGEST_BATCH_BYTES = 256 << 20
_ROWS = 2048


class CifarSource(Source):
    """Five training batches and the test batch of CIFAR-10."""

    name = "cifar10"
    channels: Literal[1, 3] = 3
    classes = CIFAR_CLASSES
    size = "32x32"

    def __init__(self, directory: Path) -> None:
        """Locate the batches in a directory that `find_cifar_directory` found."""
        files = locate_cifar_files(directory)
        assert files is not None
        self.origin = f"the CIFAR-10 batches in {directory}"
        self._files = files

    @cached_property
    def counts(self) -> Counts:  # type: ignore[override]  # read only when asked for
        sizes = [_batch_size(path) for path in self._files]
        return Counts(sum(sizes), sizes[-1])

    @cached_property
    def fingerprint(self) -> str:
        return hash_files(self._files)

    def chunks(self, transform: Transform) -> Iterator[Chunk]:
        for path in self._files:
            images, labels = read_batch(path)
            for start in range(0, len(images), _ROWS):
                part = slice(start, start + _ROWS)
                yield Chunk(transform(images[part]), labels[part], official_test=path.stem == "test_batch")


def locate_cifar_files(directory: Path) -> tuple[Path, ...] | None:
    """Return the six batches, the test batch last; None if one is missing."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for suffix in ("", ".bin"):
        files = tuple(directory / f"{name}{suffix}" for name in names)
        if all(file.is_file() for file in files):
            return files
    return None


def find_cifar_directory(root: Path) -> Path | None:
    """Return the directory at or below `root` with the six batches of either version; None if there is none."""
    for directory in (root / _PICKLED, root / _BINARY, root):
        if locate_cifar_files(directory) is not None:
            return directory
    return None


def read_batch(path: Path) -> tuple[Images, NDArray[np.int32]]:
    """Return images [n, 32, 32, 3] and labels [n] of one batch.

    Raises:
        DataError: if it cannot be read or is not a batch.
    """
    content = _content(path)
    pixels, labels = _from_records(path, content) if path.suffix == ".bin" else _from_pickle(path, content)
    if labels.min() < 0 or labels.max() >= len(CIFAR_CLASSES):
        raise DataError(f"{path}: labels from {labels.min()} to {labels.max()}, allowed: 0 to 9")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels.astype(np.int32)


def _batch_size(path: Path) -> int:
    if path.suffix == ".bin":
        return _record_count(path, path.stat().st_size)
    return len(read_batch(path)[0])


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST_BATCH_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes, a CIFAR-10 batch has about 31 million")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _record_count(path: Path, size: int) -> int:
    count, rest = divmod(size, 1 + _PIXELS)
    if count == 0 or rest:
        raise DataError(f"{path}: {size} bytes are not a whole number of records of {1 + _PIXELS} bytes")
    return count


def _from_records(path: Path, content: bytes) -> tuple[Images, NDArray[Any]]:
    records = np.frombuffer(content, np.uint8).reshape(_record_count(path, len(content)), 1 + _PIXELS)
    return records[:, 1:], records[:, 0]


def _from_pickle(path: Path, content: bytes) -> tuple[Images, NDArray[Any]]:
    try:
        batch = read_pickle(content)
        if not isinstance(batch, dict):
            raise PickleError(f"holds a {type(batch).__name__}, not a dictionary")
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        if not isinstance(batch["data"], PickledArray) or not isinstance(batch["labels"], list):
            raise PickleError("its data are no array, or its labels no list")
        pixels = batch["data"].to_numpy()
        labels = np.array(batch["labels"], np.int64)
        if pixels.ndim != 2 or pixels.shape[1] != _PIXELS or labels.shape != (len(pixels),) or len(labels) == 0:
            raise PickleError(f"holds data of shape {pixels.shape} and labels of shape {labels.shape}")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        reason = f"has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise DataError(f"{path}: not a CIFAR-10 batch: {reason}") from error
    return pixels, labels
