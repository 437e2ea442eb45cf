"""What a source of images is, and how its images are brought to one shape."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raysweep.errors import DataError

Images = NDArray[np.uint8]
Transform = Callable[[Images], Images]
"""Takes images of one size, [n, height, width, channel], to the shape that is wanted, [n, ...]."""


@dataclass(frozen=True)
class Chunk:
    """Some images of a source, in its order."""

    images: Images
    """[n, ...], as the transform returned them."""
    labels: NDArray[np.int32] | None
    """[n], positions in the source's `classes`; None where there are none."""
    official_test: bool
    """Whether the data set's makers put these images aside for tests."""


class Counts(NamedTuple):
    """Numbers of images."""

    images: int
    """In all."""
    official_test: int
    """Those of them that are official test images."""


class Source(ABC):
    """A data set as it lies on this machine. Making one reads names and headers, not images."""

    name: str
    """The data set's name in a search space file."""
    origin: str
    """Where the images come from, as a fragment of a sentence."""
    counts: Counts
    """For a folder, before broken images are left out."""
    channels: Literal[1, 3]
    size: str
    """Height and width before preprocessing, as a text."""
    classes: tuple[str, ...]
    """Empty where images have no labels."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """64 hex digits that change when the content does."""

    @property
    def skipped(self) -> int:
        """How many images the last complete pass over `chunks` left out."""
        return 0

    @abstractmethod
    def chunks(self, transform: Transform) -> Iterator[Chunk]:
        """All images, transformed, always in the same order, a few MB at a time.

        Raises:
            DataError: if something is not what the format says, or an image does not fit.
        """


def hash_files(files: Iterable[Path]) -> str:
    """SHA-256 over the names, sizes and contents of files, in hex.

    Raises:
        DataError: if one cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
        digest.update(f"{path.name}\0{size}\0{content}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@dataclass(frozen=True)
class Fitting:
    """The transform to [n, channels, size, size].

    An image that has the size already is not touched. `resize` brings the shorter side to `size`, bilinearly and with
    antialiasing where it shrinks, and keeps the middle of the longer side: a square image keeps everything. `pad`
    centres the image on black; on an odd difference the larger margin is below and right. Colour becomes grey by
    ITU-R 601 luminance, grey becomes colour by repetition.
    """

    size: int
    channels: Literal[1, 3]
    fit: Literal["resize", "pad"]

    def __call__(self, images: Images) -> Images:
        """images: [n, height, width, 1 or 3], uint8.

        Raises:
            DataError: if `fit` is `pad` and the images are larger than `size`.
        """
        if self.channels == 1 and images.shape[3] == 3:
            images = luminance(images)
        if images.shape[1:3] != (self.size, self.size):
            images = self._pad(images) if self.fit == "pad" else self._resize(images)
        planes = images.transpose(0, 3, 1, 2)
        if planes.shape[1] != self.channels:
            planes = np.repeat(planes, self.channels, axis=1)
        return np.ascontiguousarray(planes)

    def _pad(self, images: Images) -> Images:
        count, height, width, channels = images.shape
        if height > self.size or width > self.size:
            raise DataError(
                f"{width}x{height} pixels do not fit into image_size {self.size} by padding; "
                "set data.fit: resize, or a larger data.image_size"
            )
        top, left = (self.size - height) // 2, (self.size - width) // 2
        padded = np.zeros((count, self.size, self.size, channels), np.uint8)
        padded[:, top : top + height, left : left + width] = images
        return padded

    def _resize(self, images: Images) -> Images:
        count, height, width, channels = images.shape
        side = min(height, width)
        top, left = (height - side) / 2, (width - side) / 2
        box = (left, top, left + side, top + side)
        resized = np.empty((count, self.size, self.size, channels), np.uint8)
        for source, target in zip(images, resized, strict=True):
            picture = Image.fromarray(source[:, :, 0] if channels == 1 else source)
            picture = picture.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
            target[:] = np.asarray(picture).reshape(target.shape)
        return resized


def luminance(images: Images) -> Images:
    """[..., 3] to [..., 1] by ITU-R 601 with the fixed-point weights of Pillow's mode L."""
    weights = np.array([19595, 38470, 7471], np.uint32)
    # A chunk is a few MB, so four bytes a channel for a moment are affordable.
    grey = (images.astype(np.uint32) @ weights + 0x8000) >> 16
    return grey.astype(np.uint8)[..., None]
