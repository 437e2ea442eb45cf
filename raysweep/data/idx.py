"""MNIST and Fashion-MNIST: IDX files (http://yann.lecun.com/exdb/mnist, "FILE FORMATS"), gzipped or not.

A header is compared with the length of the file before it is used, so a header that promises too much costs no memory.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from raysweep.data.images import Chunk, Counts, Source, Transform, hash_files
from raysweep.errors import DataError

_UNSIGNED_BYTE = 0x08
_CHUNK_BYTES = 8 << 20
_DEFLATE_LIMIT = 1032
"""A gzip stream expands at most this much (RFC 1951; zlib's technical notes)."""
_LARGEST_SIDE = 4096


@dataclass(frozen=True)
class IdxFile:
    """An IDX file of unsigned bytes whose header agrees with its length."""

    path: Path
    shape: tuple[int, ...]

    @classmethod
    def open(cls, path: Path, dimensions: int) -> IdxFile:
        """Read the header.

        Raises:
            DataError: if it is not an IDX file of bytes with so many dimensions, or its length is not what it says.
        """
        header_bytes = 4 + 4 * dimensions
        with _reading(path) as file:
            header = file.read(header_bytes)
        if len(header) < header_bytes:
            raise DataError(f"{path}: an IDX header has {header_bytes} bytes, the file has {len(header)}")
        zeros, kind, found = struct.unpack_from(">HBB", header)
        if zeros != 0 or kind != _UNSIGNED_BYTE or found != dimensions:
            raise DataError(
                f"{path}: not an IDX file of bytes in {dimensions} dimensions: "
                f"its magic number is 0x{header[:4].hex()}, expected 0x0000{_UNSIGNED_BYTE:02x}{dimensions:02x}"
            )
        shape = struct.unpack_from(f">{dimensions}I", header, 4)
        if any(side == 0 for side in shape) or any(side > _LARGEST_SIDE for side in shape[1:]):
            raise DataError(f"{path}: the header says {_by(shape)}, which are no images")
        promised, size = header_bytes + math.prod(shape), path.stat().st_size
        impossible = promised > size * _DEFLATE_LIMIT if _is_gzip(path) else promised != size
        if impossible:
            raise DataError(f"{path}: the header says {_by(shape)}, {promised} bytes; the file has {size}")
        return cls(path, shape)

    def rows(self, count: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the content in parts of at most `count` rows, [rows, *shape[1:]].

        Raises:
            DataError: if the file ends early, goes on past its last row, or is damaged.
        """
        row_bytes = math.prod(self.shape[1:])
        with _reading(self.path) as file:
            file.read(4 + 4 * len(self.shape))
            for start in range(0, self.shape[0], count):
                rows = min(count, self.shape[0] - start)
                content = file.read(rows * row_bytes)
                if len(content) < rows * row_bytes:
                    raise DataError(
                        f"{self.path}: the header says {_by(self.shape)}, "
                        f"the file ends after {start + len(content) // max(row_bytes, 1)} rows"
                    )
                yield np.frombuffer(content, np.uint8).reshape(rows, *self.shape[1:])
            if file.read(1):
                raise DataError(f"{self.path}: the header says {_by(self.shape)}, the file goes on after that")


class IdxSource(Source):
    """A training pair and an official test pair of IDX files."""

    channels: Literal[1, 3] = 1

    def __init__(self, name: str, directory: Path, classes: tuple[str, ...]) -> None:
        """Open the four files of a directory that `find_idx_directory` found.

        Raises:
            DataError: if a header is wrong, or images and labels differ in number.
        """
        files = locate_idx_files(directory)
        assert files is not None
        self.name = name
        self.origin = f"the IDX files in {directory}"
        self.classes = classes
        self._files = files
        self._pairs = [_open_pair(images, labels) for images, labels in zip(files[::2], files[1::2], strict=True)]
        training, test = (images.shape for images, _ in self._pairs)
        if training[1:] != test[1:]:
            raise DataError(f"{directory}: training images are {_by(training[1:])}, test images {_by(test[1:])}")
        self.counts = Counts(training[0] + test[0], test[0])
        self.size = f"{training[2]}x{training[1]}"

    @cached_property
    def fingerprint(self) -> str:
        return hash_files(self._files)

    def chunks(self, transform: Transform) -> Iterator[Chunk]:
        for (images, labels), official_test in zip(self._pairs, (False, True), strict=True):
            rows = max(1, _CHUNK_BYTES // math.prod(images.shape[1:]))
            for pixels, marks in zip(images.rows(rows), labels.rows(rows), strict=True):
                if marks.max() >= len(self.classes):
                    raise DataError(f"{labels.path}: label {marks.max()}, allowed: 0 to {len(self.classes) - 1}")
                yield Chunk(transform(pixels[..., None]), marks.astype(np.int32), official_test)


IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def locate_idx_files(directory: Path) -> tuple[Path, ...] | None:
    """Return the four files in the order of `IDX_NAMES`, plain before gzipped; None if one is missing."""
    found = []
    for name in IDX_NAMES:
        spellings = (name, f"{name}.gz", name.replace("-idx", ".idx"), f"{name.replace('-idx', '.idx')}.gz")
        candidates = [directory / spelling for spelling in spellings if (directory / spelling).is_file()]
        if not candidates:
            return None
        found.append(candidates[0])
    return tuple(found)


def find_idx_directory(root: Path, torchvision_name: str) -> Path | None:
    """Return the directory at or below `root` with the four files, bare or in torchvision's layout, or None."""
    for directory in (root / torchvision_name / "raw", root / "raw", root):
        if locate_idx_files(directory) is not None:
            return directory
    return None


def _open_pair(images: Path, labels: Path) -> tuple[IdxFile, IdxFile]:
    pictures, marks = IdxFile.open(images, 3), IdxFile.open(labels, 1)
    if pictures.shape[0] != marks.shape[0]:
        raise DataError(f"{images}: {pictures.shape[0]} images, but {labels.name} has {marks.shape[0]} labels")
    return pictures, marks


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """Open a file, unpacked if it is gzipped; turn every error in reading it into a DataError."""
    try:
        if _is_gzip(path):
            with gzip.open(path) as file:
                yield file
        else:
            with open(path, "rb") as plain:
                yield plain
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read, or is a damaged gzip file: {error}") from error


def _by(shape: Sequence[int]) -> str:
    return " by ".join(str(side) for side in shape)
