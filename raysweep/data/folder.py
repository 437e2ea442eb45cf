"""A folder of images of any size: with a subfolder for each class, or without labels (raysweep.data.survey).

Hidden files and folders are left out. Images are sorted by path, classes by name.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from raysweep.data.decoding import FORMATS, GREY_MODES, BrokenImageError, Remark, Spans, decode, measure
from raysweep.data.images import Chunk, Counts, Fitting, Images, Note, Source, Transform
from raysweep.data.survey import ARCHIVE_SUFFIXES, Entry, survey
from raysweep.errors import DataError, DataUnavailable
from raysweep.storage.layout import printable
from raysweep.wording import key_given

_LOG = logging.getLogger("raysweep")

READING = 2
"""Increase this when the same files come out as other pixels or labels: caches of older readings are not used."""
_SAMPLE = 64
"""Images whose headers decide whether the folder is grey."""
_WINDOW = 64
"""Images that are decoded at once, by threads: Pillow releases the interpreter lock while it decodes."""
_NEARLY_BLACK = 32
"""If no pixel of a folder is as bright as this, of 255, its images are nearly black."""
_REMARKS: dict[Remark, tuple[str, bool]] = {
    "turned": ("turned upright, as their camera noted (EXIF)", False),
    "first frame": ("with several frames or pages, of which the first is used", False),
    "transparent": ("with transparent parts, which are put on black", False),
    "CMYK": ("in CMYK, converted to RGB without a colour profile", False),
    "16-bit colour": ("with 16 bits a colour, of which the upper 8 are used", False),
    "rescaled": ("with more than 8 bits a pixel", False),
    "made grey": (
        "in colour that are made grey, because the images looked at first are grey (set data.channels: 3 to keep the "
        "colours, or data.channels: 1 if grey is meant)",
        True,
    ),
}
"""The text for each remark, and whether a sweep shows it too, not `check` alone."""


class _Read(NamedTuple):
    """One image of a window."""

    images: Images
    """[1, ...], transformed."""
    low: int
    high: int
    remarks: set[Remark]


class FolderSource(Source):
    """The images below a folder.

    `channels` is 3 if the caller asks for 3. Otherwise it is 1 if each of up to 64 images, taken at even distances from
    the sorted list, has a grey mode in its header, and 3 if not. This needs no decoding and gives the same on every
    machine.
    """

    name = "folder"

    def __init__(
        self, root: Path, broken_images: Literal["error", "skip"] = "error", channels: Literal[1, 3] | None = None
    ) -> None:
        """List the files.

        Raises:
            DataUnavailable: if there is no such folder, or no image in it.
            DataError: if it is not clear which images have which class.
        """
        if not root.is_dir():
            what = "is not a directory" if root.exists() else "there is no such directory"
            if root.name.lower().endswith(ARCHIVE_SUFFIXES) and root.exists():
                what = "is an archive, which is not opened; unpack it"
            elif root.is_symlink() and not root.exists():
                what = f"is a link to {printable(root.readlink())}, which is not there"
            raise DataUnavailable(
                f"{printable(root)}: {what}; {key_given('data.root')} must name the folder of the images"
            )
        self.origin = f"the images in {printable(root)}"
        self._root = root
        self._broken_images = broken_images
        found = survey(root)
        self._entries, self.classes, self._missing = found.entries, found.classes, found.missing
        self._notes = found.notes
        self._skipped = 0
        self._remarks: tuple[Note, ...] = ()
        self._measuring = threading.Lock()
        self.counts = Counts(len(self._entries), sum(entry.official_test for entry in self._entries))
        modes, self._sides = self._sample()
        grey = bool(modes) and modes <= GREY_MODES
        # If grey is asked for and the images are in colour, decode them in colour: `Fitting` makes them grey.
        self.channels: Literal[1, 3] = 1 if grey and channels != 3 else 3
        self._may_have_colour = grey and channels is None
        self.size = _describe_sizes(self._sides, of_all=self.counts.images <= _SAMPLE)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of paths, sizes and times of change, because reading a million images is too slow.

        Nobody can set the time at which a file's status changed, so images that were replaced under the same names,
        sizes and dates are noticed. Copying the folder or a chmod changes that time too, and the images are read again.
        A sweep compares images by the checksum of what was read.
        """
        digest = hashlib.sha256(f"{READING} {self._broken_images} {self.channels}".encode())
        for entry in self._entries:
            line = f"{entry.path}\0{entry.label}\0{entry.size}\0{entry.modified_ns}\0{entry.changed_ns}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @property
    def skipped(self) -> int:
        return self._skipped

    @property
    def class_counts(self) -> tuple[int, ...]:
        if not self.classes:
            return ()
        return tuple(np.bincount([entry.label for entry in self._entries], minlength=len(self.classes)).tolist())

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        return self._sides

    @property
    def notes(self) -> tuple[Note, ...]:
        missing = () if self._missing is None else (Note("left out", self._missing, is_warning=True),)
        return (*self._notes, *missing)

    @property
    def remarks(self) -> tuple[Note, ...]:
        return self._remarks

    def chunks(self, transform: Transform) -> Iterator[Chunk]:
        if self._missing is not None and self._broken_images == "error":
            raise DataError(
                f"{printable(self._root)}: {self._missing}. Or set data.broken_images: skip to leave them out"
            )
        broken: list[str] = []
        remarks: Counter[Remark] = Counter()
        blank, darkest, brightest = 0, 255, 0
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, self.counts.images, _WINDOW):
                entries = self._entries[start : start + _WINDOW]
                with _pillow_warnings():
                    results = list(pool.map(lambda entry: self._try_read(entry, transform), entries))
                for entry, result in zip(entries, results, strict=True):
                    if isinstance(result, BrokenImageError):
                        self._report(entry, result)
                        broken.append(entry.path)
                        continue
                    remarks.update(result.remarks)
                    blank += result.low == result.high
                    darkest, brightest = min(darkest, result.low), max(brightest, result.high)
                    labels = np.array([entry.label], np.int32) if self.classes else None
                    yield Chunk(result.images, labels, entry.official_test)
        self._skipped = len(broken)
        if len(broken) == self.counts.images:
            raise DataError(
                f"{printable(self._root)}: none of the {self.counts.images} images can be decoded; "
                "the log names the reasons"
            )
        if broken:
            _LOG.warning(
                "%s: left out %d of %d images that cannot be decoded",
                printable(self._root), len(broken), self.counts.images,
            )  # fmt: skip
        self._remarks = tuple(self._remarked(remarks, blank, darkest, brightest, broken))

    def _report(self, entry: Entry, broken: BrokenImageError) -> None:
        root, path = printable(self._root), printable(entry.path)
        if self._broken_images == "error":
            raise DataError(
                f"{root}: {path} cannot be decoded: {broken}; "
                "mend or remove it, or set data.broken_images: skip to leave out all such images"
            ) from broken
        _LOG.warning("%s: %s left out, cannot be decoded: %s", root, path, broken)

    def _try_read(self, entry: Entry, transform: Transform) -> _Read | BrokenImageError:
        remarks: set[Remark] = set()
        try:
            pixels = decode(self._root / entry.path, self.channels, self._all_spans, remarks)
        except BrokenImageError as error:
            return error
        try:
            images = transform(pixels[None])
        except DataError as error:
            raise DataError(f"{printable(self._root)}: {printable(entry.path)}: {error}") from error
        return _Read(images, int(pixels.min()), int(pixels.max()), remarks)

    @property
    def spans(self) -> Spans | None:
        """The value ranges of all images of more than 8 bits; None if no such image was read."""
        measured: Spans | None = vars(self).get("_spans")
        return measured

    def _all_spans(self) -> Spans:
        """Return the spans of all images of more than 8 bits; the first call reads all images."""
        with self._measuring:
            return self._spans

    @cached_property
    def _spans(self) -> Spans:
        spans = Spans(None, None)
        for entry in self._entries:
            try:
                found = measure(self._root / entry.path)
            except BrokenImageError:  # reading it will say so
                continue
            spans = Spans(
                spans.integers if found.integers is None else found.integers.join(spans.integers),
                spans.floats if found.floats is None else found.floats.join(spans.floats),
            )
        return spans

    def _remarked(
        self, remarks: Counter[Remark], blank: int, darkest: int, brightest: int, broken: list[str]
    ) -> Iterator[Note]:
        """Yield notes on what the last pass did to images."""
        if broken:
            count = f"{len(broken):,} of {self.counts.images:,} images"
            yield Note("left out", f"{count} that cannot be decoded, such as {printable(broken[0])}", is_warning=True)
        for remark, (text, is_warning) in _REMARKS.items():
            if remark == "made grey" and not self._may_have_colour:
                continue
            if remarks[remark]:
                count = f"{remarks[remark]:,} of {self.counts.images:,}"
                yield Note("images", f"{text}{self._scale(remark)}: {count}", is_warning)
        if darkest == brightest:
            yield Note("images", f"all are of one and the same value, {darkest} of 255: nothing to learn", True)
        elif brightest < _NEARLY_BLACK:
            yield Note(
                "images",
                f"all are nearly black: the brightest pixel is {brightest} of 255; stretch their values first, "
                "for example: mogrify -auto-level -depth 8 *.png",
                is_warning=True,
            )
        elif blank == self.counts.images - len(broken):
            yield Note("images", "each is of one value throughout: there is little to learn", is_warning=True)

    def _scale(self, remark: Remark) -> str:
        """Say by which values images of more than 8 bits were scaled."""
        if remark != "rescaled":
            return ""
        spans = [span for span in self._spans if span is not None]
        values = " and ".join(f"{span.low:g} to {span.high:g}" for span in spans)
        return f", whose values, {values} over all images, are scaled to 0 to 255"

    def _sample(self) -> tuple[set[str], tuple[tuple[int, int], ...]]:
        positions = np.unique(np.linspace(0, self.counts.images - 1, _SAMPLE).round().astype(int))
        modes, sizes = set(), []
        for position in positions:
            with _pillow_warnings():
                try:
                    with Image.open(self._root / self._entries[position].path, formats=FORMATS) as image:
                        modes.add(image.mode)
                        sizes.append(image.size)
                except Exception:  # noqa: BLE001, S112  broken: reading it will say so
                    continue
        return modes, tuple(sizes)


def read_image(path: Path, fitting: Fitting, spans: Spans | None = None) -> Images:
    """Return the image of one file exactly as a folder's images are prepared, [channels, size, size].

    `spans` are those of the folder, if it has images of more than 8 bits; without them an image is scaled by its own.

    Raises:
        DataError: if it is missing or cannot be decoded.
    """
    if not path.is_file():
        what = "is not a file" if path.exists() else "there is no such file"
        raise DataError(f"{printable(path)}: {what}")
    with _pillow_warnings():
        try:
            image = decode(path, fitting.channels, None if spans is None else lambda: spans)
        except BrokenImageError as error:
            raise DataError(f"{printable(path)}: cannot be decoded: {error}") from error
    fitted: Images = fitting(image[None])[0]
    return fitted


@contextmanager
def _pillow_warnings() -> Iterator[None]:
    """Make an image that may be a decompression bomb an error, and silence Pillow's other remarks.

    Warning filters belong to the process, not to a thread, so the main thread enters this around the work of the pool.
    """

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _describe_sizes(sizes: tuple[tuple[int, int], ...], of_all: bool) -> str:
    if not sizes:
        return "unknown"
    smallest = min(sizes, key=lambda size: size[0] * size[1])
    largest = max(sizes, key=lambda size: size[0] * size[1])
    if len(set(sizes)) == 1:
        return f"{smallest[0]}x{smallest[1]}"
    sample = "" if of_all else f" in {len(sizes)} of them"
    return f"{smallest[0]}x{smallest[1]} to {largest[0]}x{largest[1]}{sample}"
