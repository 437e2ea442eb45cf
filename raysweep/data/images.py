"""Sources of images, and the transform that brings their images to one shape."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raysweep.errors import DataError
from raysweep.spec.sections import Fit

_WORTH_SAYING = 0.1
"""A note says what is cut off if it is at least this share of an image, on average over images."""

if TYPE_CHECKING:
    from raysweep.data.decoding import Spans

Images = NDArray[np.uint8]
Transform = Callable[[Images], Images]
"""Brings images of one size, [n, height, width, channel], to the wanted shape, [n, ...]."""


@dataclass(frozen=True)
class Chunk:
    """Some images of a source, in its order."""

    images: Images
    """[n, ...], as the transform returned them."""
    labels: NDArray[np.int32] | None
    """[n], positions in the source's `classes`; None where there are none."""
    official_test: bool
    """True if the data set's makers put these images aside for tests."""


class Note(NamedTuple):
    """One line about a data set, for whoever checks a search space file or starts a sweep."""

    subject: str
    """What it is about, in a word or two, such as `left out`."""
    text: str
    is_warning: bool = False
    """True if a sweep says it too, not `check` alone."""


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

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Images of each of `classes`, where they are known without reading the data set; otherwise empty."""
        return ()

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        """Width and height of some images before preprocessing, where they differ; otherwise empty."""
        return ()

    @property
    def notes(self) -> tuple[Note, ...]:
        """How the files were understood, and which of them are not used."""
        return ()

    @property
    def remarks(self) -> tuple[Note, ...]:
        """Changes to images, made by the last complete pass over `chunks`, that a person may not expect."""
        return ()

    @property
    def spans(self) -> Spans | None:
        """The value ranges by which the last pass over `chunks` scaled images over 8 bits; None without such images."""
        return None

    @abstractmethod
    def chunks(self, transform: Transform) -> Iterator[Chunk]:
        """Yield all images, transformed, always in the same order, a few MB at a time.

        Raises:
            DataError: if something is not what the format says, or an image does not fit.
        """


def hash_files(files: Iterable[Path]) -> str:
    """Return the SHA-256 over the names, sizes and contents of files, in hex.

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

    An image that has the size already is not touched. Scaling is bilinear, with antialiasing where it shrinks.

    - `crop` scales the shorter side to `size` and keeps the middle of the longer side.
    - `resize` is the same under its older name.
    - `letterbox` scales the longer side to `size` and centres the image on black.
    - `pad` is `letterbox`, but never enlarges: a smaller image keeps its pixels.

    On an odd difference the larger margin is below and right. Colour becomes grey by ITU-R 601 luminance, grey becomes
    colour by repetition.
    """

    size: int
    channels: Literal[1, 3]
    fit: Fit

    def note(self, sides: Sequence[tuple[int, int]]) -> Note | None:
        """Return a note on what images of these widths and heights lose; None if there is nothing to report."""
        if not sides:
            return None
        shares = [min(width, height) / max(width, height) for width, height in sides]
        lost = 1 - sum(shares) / len(shares)
        if self.fit in ("resize", "crop"):
            if lost < _WORTH_SAYING:
                return None
            kept = "fit: letterbox keeps all of them, between black bars"
            if self.fit == "crop":
                return Note("fit", f"crop: images are not square, {lost:.0%} of them is cut off on average; {kept}")
            text = (
                f"resize: images are not square; their middle squares are kept and {lost:.0%} of them is cut off on "
                f"average (fit: crop is the same and says so); {kept}"
            )
            return Note("fit", text, is_warning=True)
        larger = sum(max(width, height) > self.size for width, height in sides) / len(sides)
        if self.fit == "pad" and larger:
            size = f"{self.size}x{self.size}"
            return Note("fit", f"pad: {larger:.0%} of images are larger than {size} and are scaled down first")
        if self.fit == "letterbox" and lost >= _WORTH_SAYING:
            return Note("fit", f"letterbox: images are not square, {lost:.0%} of what is learnt is black bars")
        return None

    def __call__(self, images: Images) -> Images:
        """Transform images of one size, [n, height, width, 1 or 3], uint8."""
        if self.channels == 1 and images.shape[3] == 3:
            images = luminance(images)
        if images.shape[1:3] != (self.size, self.size):
            images = self._crop(images) if self.fit in ("resize", "crop") else self._letterbox(images)
        planes = images.transpose(0, 3, 1, 2)
        if planes.shape[1] != self.channels:
            planes = np.repeat(planes, self.channels, axis=1)
        return np.ascontiguousarray(planes)

    def _letterbox(self, images: Images) -> Images:
        count, height, width, channels = images.shape
        scale = self.size / max(height, width)
        if self.fit == "letterbox" or scale < 1:
            height, width = max(1, round(height * scale)), max(1, round(width * scale))
            images = _scaled(images, height, width)
        top, left = (self.size - height) // 2, (self.size - width) // 2
        padded = np.zeros((count, self.size, self.size, channels), np.uint8)
        padded[:, top : top + height, left : left + width] = images
        return padded

    def _crop(self, images: Images) -> Images:
        _, height, width, _ = images.shape
        side = min(height, width)
        top, left = (height - side) / 2, (width - side) / 2
        return _scaled(images, self.size, self.size, (left, top, left + side, top + side))


def _scaled(images: Images, height: int, width: int, box: tuple[float, float, float, float] | None = None) -> Images:
    """Return the images, or their part within `box` (left, top, right, bottom), in a new size."""
    channels = images.shape[3]
    scaled = np.empty((len(images), height, width, channels), np.uint8)
    for source, target in zip(images, scaled, strict=True):
        picture = Image.fromarray(source[:, :, 0] if channels == 1 else source)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
        target[:] = np.asarray(picture).reshape(target.shape)
    return scaled


def luminance(images: Images) -> Images:
    """Convert [..., 3] to [..., 1] by ITU-R 601 with the fixed-point weights of Pillow's mode L."""
    weights = np.array([19595, 38470, 7471], np.uint32)
    # A chunk is a few MB, so four bytes a channel for a moment are affordable.
    grey = (images.astype(np.uint32) @ weights + 0x8000) >> 16
    return grey.astype(np.uint8)[..., None]
