"""A folder of images of any size: with a subfolder for each class, or without labels.

    root/0001.png                 no labels
    root/cat/0001.png             classes cat, dog, ...; subfolders of a class belong to it
    root/train/cat/0001.png       where root holds both train and test, the images in test are the
    root/test/cat/0001.png        official test images; each with classes, or both without

Hidden files and folders are left out. Images are sorted by path, classes by name.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from raysweep.data.images import Chunk, Counts, Fitting, Images, Source, Transform
from raysweep.errors import DataError, DataUnavailable

_LOG = logging.getLogger("raysweep")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
_SAMPLE = 64
"""Images whose headers decide whether the folder is grey."""
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N"})
_LARGE_PIXELS = 16_000_000
_ONE_LARGE = threading.Lock()
"""Held while a large image is decoded, which takes up to a gigabyte: a folder may be full of them."""
_WINDOW = 64
"""Images that are decoded at once, by threads: Pillow lets go of the interpreter lock while it decodes."""


@dataclass(frozen=True)
class _Entry:
    path: str
    """Below the root, with slashes."""
    label: int
    """-1 where there are no classes."""
    official_test: bool
    size: int
    modified_ns: int


class BrokenImageError(Exception):
    """An image that cannot be decoded; the message is the reason."""


class FolderSource(Source):
    """The images below a folder.

    `channels` is 1 if each of up to 64 images, taken at even distances from the sorted list, has a grey mode by its
    header, else 3: the decision costs no decoding and is the same on every machine.
    """

    name = "folder"

    def __init__(self, root: Path, broken_images: Literal["error", "skip"] = "error") -> None:
        """Lists the files.

        Raises:
            DataUnavailable: if there is no such folder, or no image in it.
            DataError: if it is not clear which images have which class.
        """
        if not root.is_dir():
            what = "is not a directory" if root.exists() else "there is no such directory"
            raise DataUnavailable(f"{root}: {what}; data.root must name the folder of the images")
        self.origin = f"the images in {root}"
        self._root = root
        self._broken_images = broken_images
        self._entries, self.classes = _list_images(root)
        self._skipped = 0
        self.counts = Counts(len(self._entries), sum(entry.official_test for entry in self._entries))
        modes, sizes = self._sample()
        self.channels: Literal[1, 3] = 1 if modes and modes <= _GREY_MODES else 3
        self.size = _describe_sizes(sizes, of_all=self.counts.images <= _SAMPLE)

    @cached_property
    def fingerprint(self) -> str:
        """Over paths, sizes and times of change: reading a million images to know that none changed is too slow."""
        digest = hashlib.sha256(self._broken_images.encode())
        for entry in self._entries:
            line = f"{entry.path}\0{entry.size}\0{entry.modified_ns}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @property
    def skipped(self) -> int:
        return self._skipped

    def chunks(self, transform: Transform) -> Iterator[Chunk]:
        broken: list[str] = []
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
                    labels = np.array([entry.label], np.int32) if self.classes else None
                    yield Chunk(result, labels, entry.official_test)
        self._skipped = len(broken)
        if len(broken) == self.counts.images:
            raise DataError(
                f"{self._root}: none of the {self.counts.images} images can be decoded; the log names the reasons"
            )
        if broken:
            _LOG.warning(
                "%s: left out %d of %d images that cannot be decoded", self._root, len(broken), self.counts.images
            )

    def _report(self, entry: _Entry, broken: BrokenImageError) -> None:
        if self._broken_images == "error":
            raise DataError(
                f"{self._root}: {entry.path} cannot be decoded: {broken}; "
                "mend or remove it, or set data.broken_images: skip to leave out all such images"
            ) from broken
        _LOG.warning("%s: %s left out, cannot be decoded: %s", self._root, entry.path, broken)

    def _try_read(self, entry: _Entry, transform: Transform) -> Images | BrokenImageError:
        try:
            image = decode(self._root / entry.path, self.channels)
        except BrokenImageError as error:
            return error
        try:
            return transform(image[None])
        except DataError as error:
            raise DataError(f"{self._root}: {entry.path}: {error}") from error

    def _sample(self) -> tuple[set[str], list[tuple[int, int]]]:
        positions = np.unique(np.linspace(0, self.counts.images - 1, _SAMPLE).round().astype(int))
        modes, sizes = set(), []
        for position in positions:
            with _pillow_warnings():
                try:
                    with Image.open(self._root / self._entries[position].path, formats=_FORMATS) as image:
                        modes.add(image.mode)
                        sizes.append(image.size)
                except Exception:  # noqa: BLE001, S112  broken: reading it will say so
                    continue
        return modes, sizes


def decode(path: Path, channels: Literal[1, 3]) -> Images:
    """[height, width, channels] of an image, turned upright by its EXIF orientation.

    Of an animation, the first frame. Transparent pixels are put on black. 16-bit grey keeps its upper 8 bits. Pillow's
    warnings about sizes must be errors while it runs (`_pillow_warnings`).

    Raises:
        BrokenImageError: if it cannot be decoded, or is larger than Pillow's limit against decompression bombs.
    """
    try:
        with Image.open(path, formats=_FORMATS) as opened:
            large = opened.width * opened.height > _LARGE_PIXELS
            with _ONE_LARGE if large else nullcontext():
                return _pixels(opened, channels)
    except BrokenImageError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise BrokenImageError(str(error) or type(error).__name__) from error


def _pixels(opened: Image.Image, channels: Literal[1, 3]) -> Images:
    image: Image.Image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        image = Image.fromarray(grey)
    elif image.mode in ("I", "F"):
        raise BrokenImageError(f"its pixels are 32-bit ({image.mode}), which have no common range; save it in 8 bits")
    elif image.has_transparency_data:
        # The blend is with black in every channel: Pillow's own conversion would uncover hidden colours.
        visible = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", visible.size, (0, 0, 0, 255)), visible).convert("RGB")
    image = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(image.height, image.width, channels)


def read_image(path: Path, fitting: Fitting) -> Images:
    """Return the image of one file exactly as a folder's images are prepared, [channels, size, size].

    Raises:
        DataError: if it is missing, cannot be decoded, or does not fit.
    """
    if not path.is_file():
        what = "is not a file" if path.exists() else "there is no such file"
        raise DataError(f"{path}: {what}")
    with _pillow_warnings():
        try:
            image = decode(path, fitting.channels)
        except BrokenImageError as error:
            raise DataError(f"{path}: cannot be decoded: {error}") from error
    try:
        fitted: Images = fitting(image[None])[0]
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return fitted


def image_files(folder: Path) -> list[Path]:
    """Return the images below a folder, sorted by path; hidden files and other endings are left out.

    Raises:
        DataUnavailable: if there are none.
    """
    found = sorted(path for path, _ in _walk(folder))
    if not found:
        raise DataUnavailable(f"{folder}: holds no image; looked for {', '.join(IMAGE_SUFFIXES)}, in subfolders too")
    return [folder / path for path in found]


@contextmanager
def _pillow_warnings() -> Iterator[None]:
    """Makes an image that may be a decompression bomb an error, and silences Pillow's other remarks.

    Filters are of the process, not of a thread: the main thread enters this around the work of the pool.
    """

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _list_images(root: Path) -> tuple[list[_Entry], tuple[str, ...]]:
    """All images below root, sorted by path with the official test images last, and the sorted class names."""
    top = _subfolders(root)
    has_split = {"train", "test"} <= set(top)
    parts = {"train/": False, "test/": True} if has_split else {"": False}
    found: list[tuple[bool, str, os.stat_result]] = []
    for prefix, official_test in parts.items():
        found += [(official_test, prefix + path, stat) for path, stat in _walk(root / prefix)]
    if not found:
        raise DataUnavailable(f"{root}: holds no image; looked for {', '.join(IMAGE_SUFFIXES)}, in subfolders too")
    if has_split:
        strays = [name for name in top if name not in ("train", "test") and next(_walk(root / name), None)]
        strays += [path for path, _ in _walk(root) if "/" not in path]
        if strays:
            raise DataError(
                f"{root}: has train and test, and images in {strays[0]} too; move them into train or test, or elsewhere"
            )
    depth = 1 if has_split else 0
    families = [PurePosixPath(path).parts[depth] if path.count("/") > depth else None for _, path, _ in found]
    loose = next((path for (_, path, _), family in zip(found, families, strict=True) if family is None), None)
    classes = tuple(sorted({family for family in families if family is not None}))
    if loose is not None and classes:
        some = ", ".join([*classes[:3], *(["..."] if len(classes) > 3 else [])])
        raise DataError(
            f"{root}: {loose} lies beside the class folders ({some}); move it into one of them, or elsewhere"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    entries = [
        _Entry(path, -1 if family is None else numbers[family], official_test, stat.st_size, stat.st_mtime_ns)
        for (official_test, path, stat), family in zip(found, families, strict=True)
    ]
    return sorted(entries, key=lambda entry: (entry.official_test, entry.path)), classes


def _subfolders(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and not _is_hidden(child.name))


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Images below the folder: path, with slashes, and the file's status. Follows links, but not in circles."""
    seen: set[str] = set()
    for directory, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in sorted(files):
            path = Path(directory, name)
            if name.lower().endswith(IMAGE_SUFFIXES) and not _is_hidden(name) and path.is_file():
                yield path.relative_to(folder).as_posix(), path.stat()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _describe_sizes(sizes: list[tuple[int, int]], of_all: bool) -> str:
    if not sizes:
        return "unknown"
    smallest = min(sizes, key=lambda size: size[0] * size[1])
    largest = max(sizes, key=lambda size: size[0] * size[1])
    if len(set(sizes)) == 1:
        return f"{smallest[0]}x{smallest[1]}"
    sample = "" if of_all else f" in {len(sizes)} of them"
    return f"{smallest[0]}x{smallest[1]} to {largest[0]}x{largest[1]}{sample}"
