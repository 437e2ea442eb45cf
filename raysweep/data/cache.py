"""Prepared images: found in the cache directory, or built there once, even if many processes ask.

A file belongs to one content (the source's fingerprint), one preprocessing and one format version, and a digest of the
three is part of its name.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from raysweep.clock import timed
from raysweep.data.cachefile import FORMAT_VERSION, CacheInfo, ImageCache, Progress, open_cache, write_cache
from raysweep.data.images import Fitting, Note, Source
from raysweep.data.places import cache_directories, cache_directory, writable_cache_directory
from raysweep.data.sources import PUBLISHED, find_source, open_source
from raysweep.data.splits import SplitSizes, split_sizes
from raysweep.errors import CacheError, DataError, StorageError
from raysweep.profiles import DriverPart
from raysweep.spec.sections import DataSpec
from raysweep.storage.layout import printable, storage_errors

__all__ = [
    "CacheInfo",
    "CachedFile",
    "DataDescription",
    "ImageCache",
    "cache_directory",
    "cached_files",
    "describe",
    "open_cache",
    "prepare",
]

_LOG = logging.getLogger("raysweep")


@dataclass(frozen=True)
class CachedFile:
    """One file of the cache directory, readable or not."""

    path: Path
    dataset: str
    cache_bytes: int
    info: CacheInfo | None
    fault: str | None
    """Why it cannot be used, None if it can; contents are not verified."""

    @property
    def count(self) -> int | None:
        return self.info.count if self.info else None

    @property
    def shape(self) -> tuple[int, int, int] | None:
        return self.info.shape if self.info else None


@dataclass(frozen=True)
class DataDescription:
    """Facts about the images of a specification that are known without preparing them."""

    dataset: str
    origin: str
    is_present: bool
    """False where the data set would be downloaded first; numbers are then the published ones."""
    count: int
    """Images in all; for a folder, before broken ones are left out."""
    classes: tuple[str, ...]
    native_size: str
    """Width and height before preprocessing, such as `28x28`."""
    channels: int
    """After preprocessing."""
    image_size: int
    sizes: SplitSizes
    class_counts: tuple[int, ...]
    """Images of each of `classes`, where they are known; otherwise empty."""
    notes: tuple[Note, ...]
    """How the files were understood, what is not used, and what `fit` cuts off."""
    path: Path | None
    """The cache file, if it has been built; its content is not verified."""


@timed(DriverPart.IMAGES)
def prepare(spec: DataSpec, progress: Progress | None = None, warn: Callable[[str], None] | None = None) -> Path:
    """Return the cache file of a specification; build it if there is none or the one there is damaged.

    When several processes ask at once, one builds and the others wait for it. `warn` receives lines on files that are
    not used and on changes to images that a person may not expect; without it, they go to the log.

    Raises:
        DataUnavailable: if the data set is not on this machine and cannot be fetched.
        DataError: if it is damaged, or does not fit the specification.
        StorageError: if the cache directory is full, read-only or gone.
    """
    source = open_source(spec)
    fitting = _fitting(spec, source)
    found = next((path for path in _paths(source, fitting) if _is_sound(path)), None)
    path = found or writable_cache_directory() / _name(source, fitting)
    if found is None:
        with _locked(path):
            if not _is_sound(path):
                write_cache(path, source, fitting, progress)
    for note in (*_notes(source, fitting), *open_cache(path).info.remarks):
        if note.is_warning:
            line = f"data: {note.subject}: {note.text}"
            if warn is None:
                _LOG.warning("%s", line)
            else:
                warn(line)
    return path


def describe(spec: DataSpec) -> DataDescription:
    """Describe the images of a specification without reading, preparing or fetching them.

    Raises:
        DataUnavailable: if they are not on this machine and may not be fetched.
        DataError: if their files are damaged, or a split would be empty.
    """
    source = find_source(spec)
    if source is None:
        if not spec.download:
            open_source(spec)
        published = PUBLISHED[spec.dataset]
        return DataDescription(
            dataset=spec.dataset,
            origin=f"a download by torchvision ({published.torchvision_name}), which the sweep starts with",
            is_present=False,
            count=published.count,
            classes=published.classes,
            native_size=published.size,
            channels=spec.channels or published.channels,
            image_size=spec.image_size,
            sizes=split_sizes(published.count, published.test_count, spec),
            class_counts=(),
            notes=(),
            path=None,
        )
    fitting = _fitting(spec, source)
    return DataDescription(
        dataset=spec.dataset,
        origin=source.origin,
        is_present=True,
        count=source.counts.images,
        classes=tuple(printable(name) for name in source.classes),
        native_size=source.size,
        channels=spec.channels or source.channels,
        image_size=spec.image_size,
        sizes=_split_sizes(source, spec),
        class_counts=source.class_counts,
        notes=_notes(source, fitting),
        path=next((path for path in _paths(source, fitting) if path.is_file()), None),
    )


def cached_files() -> list[CachedFile]:
    """Return all files of the cache directory, by name; one that cannot be used has a fault."""
    files = []
    for path in [path for directory in cache_directories() for path in sorted(directory.glob("[!.]*.arrow"))]:
        info, fault = None, None
        try:
            info = open_cache(path).info
        except CacheError as error:
            fault = str(error).removeprefix(f"{path}: ")
        files.append(CachedFile(path, path.stem.rpartition("-")[0], path.stat().st_size, info, fault))
    return files


def _fitting(spec: DataSpec, source: Source) -> Fitting:
    return Fitting(spec.image_size, spec.channels or source.channels, spec.fit)


def _split_sizes(source: Source, spec: DataSpec) -> SplitSizes:
    try:
        return split_sizes(*source.counts, spec)
    except DataError as error:
        left_out = [f"; {note.subject}: {note.text}" for note in source.notes if note.is_warning]
        raise DataError(f"{error}{''.join(left_out)}") from None


def _notes(source: Source, fitting: Fitting) -> tuple[Note, ...]:
    fit = fitting.note(source.sides)
    return source.notes if fit is None else (*source.notes, fit)


def _paths(source: Source, fitting: Fitting) -> list[Path]:
    """Return where the cache file may lie."""
    return [directory / _name(source, fitting) for directory in cache_directories()]


def _name(source: Source, fitting: Fitting) -> str:
    identity = {"source": source.name, "content": source.fingerprint, "format": FORMAT_VERSION, **asdict(fitting)}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    return f"{source.name}-{key}.arrow"


def _is_sound(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        open_cache(path, verify=True)
    except CacheError as error:
        _LOG.warning("%s; building it again", error)
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a file against all processes that share the cache directory; the kernel frees a dead process's lock."""
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    with storage_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                _LOG.warning("%s: another process is building it; waiting", path)
                lock.acquire()
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise StorageError(
                f"{path.parent}: images cannot be kept here: {error.strerror or error}; "
                "set RAYSWEEP_CACHE to a directory that can be written"
            ) from error
    try:
        yield
    finally:
        lock.release()
