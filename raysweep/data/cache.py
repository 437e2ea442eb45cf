"""Prepared images in one Arrow IPC file, written once and mapped into memory by every trial of a machine.

A file belongs to one content (the source's fingerprint), one preprocessing and one format version, and a digest of the
three is part of its name. Columns:

    image          fixed_size_list<uint8>[channels * height * width], rows of pixels plane by plane
    label          int32, null where images have none
    official_test  bool

All record batches but the last have the same number of rows. Pixels are not compressed, so that a batch of images is
a view of the file.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from raysweep.data.images import Fitting, Images, Source
from raysweep.data.places import cache_directory
from raysweep.data.sources import PUBLISHED, find_source, open_source
from raysweep.data.splits import SplitSizes, split_sizes
from raysweep.errors import CacheError, DataError
from raysweep.layout import replacing, storage_errors
from raysweep.spec import DataSpec

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

FORMAT_VERSION = 1
BATCH_BYTES = 64 << 20
"""Most bytes of pixels in one record batch."""

Progress = Callable[[int, int], None]
"""Called with the images done and the images in all."""


@dataclass(frozen=True)
class CacheInfo:
    """What a cache file says about itself."""

    format_version: int
    dataset: str
    origin: str
    """Where the images came from, as a fragment of a sentence."""
    fingerprint: str
    """Of the source, 64 hex digits."""
    count: int
    skipped: int
    """Broken images that were left out."""
    channels: int
    height: int
    width: int
    fit: str
    classes: tuple[str, ...]
    """Empty where images have no labels."""
    checksum: str
    """SHA-256 over all columns and the other fields, 64 hex digits."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: channels, height, width."""
        return self.channels, self.height, self.width

    def to_metadata(self) -> dict[str, str]:
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: dict[bytes, bytes]) -> CacheInfo:
        """Raises ValueError or KeyError if a field is missing or no such value."""
        texts = {key.decode(): value.decode() for key, value in metadata.items()}
        numbers = ("format_version", "count", "skipped", "channels", "height", "width")
        values: dict[str, Any] = {name: int(texts[name]) for name in numbers}
        classes = json.loads(texts["classes"])
        if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
            raise ValueError("classes are no list of names")
        for name in ("dataset", "origin", "fingerprint", "fit", "checksum"):
            values[name] = texts[name]
        return cls(classes=tuple(classes), **values)


@dataclass(frozen=True)
class ImageCache:
    """A cache file, mapped into memory."""

    path: Path
    info: CacheInfo
    chunks: tuple[Images, ...]
    """Each [rows, channels, height, width], read-only views of the map; all but the last have the same rows."""
    labels: NDArray[np.int32] | None
    """[count], or None where images have none."""
    official_test: NDArray[np.bool_]
    """[count], whether the makers of the data set put the image aside for tests."""


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
    """What a specification's images are, known without preparing them."""

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
    path: Path | None
    """The cache file, if it has been built; its content is not verified."""


def prepare(spec: DataSpec, progress: Progress | None = None) -> Path:
    """The cache file of a specification, built if there is none or if the one there is damaged.

    When several processes ask at once, one builds and the others wait for it.

    Raises:
        DataUnavailable: if the data set is not on this machine and cannot be fetched.
        DataError: if it is damaged, or does not fit the specification.
        StorageError: if the cache directory is full, read-only or gone.
    """
    source = open_source(spec)
    fitting = _fitting(spec, source)
    path = _path(source, fitting)
    if _is_sound(path):
        return path
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _LOG.info("%s: another process is building it; waiting", path)
            lock.acquire()
        try:
            if not _is_sound(path):
                _build(path, source, fitting, progress)
        finally:
            lock.release()
    return path


def open_cache(path: Path, verify: bool = False) -> ImageCache:
    """Maps a cache file; with `verify`, also reads all of it and compares its checksum.

    Raises:
        CacheError: if it is missing, truncated, corrupt or of another format version.
    """
    try:
        cache = _map(path)
    except CacheError:
        raise
    except (OSError, pa.ArrowException, ValueError, KeyError, UnicodeError) as error:
        raise CacheError(f"{path}: not a readable cache file: {_first_line(error)}") from error
    if verify:
        labels = np.full(cache.info.count, -1, np.int32) if cache.labels is None else cache.labels
        found = _Checksum(cache.info)
        start = 0
        for chunk in cache.chunks:
            rows = slice(start, start + len(chunk))
            found.update(chunk, labels[rows], cache.official_test[rows])
            start = rows.stop
        if found.hexdigest() != cache.info.checksum:
            raise CacheError(f"{path}: its content does not match its checksum, it was damaged after it was written")
    return cache


def describe(spec: DataSpec) -> DataDescription:
    """What the images of a specification are, without reading, preparing or fetching them.

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
            path=None,
        )
    path = _path(source, _fitting(spec, source))
    return DataDescription(
        dataset=spec.dataset,
        origin=source.origin,
        is_present=True,
        count=source.counts.images,
        classes=source.classes,
        native_size=source.size,
        channels=spec.channels or source.channels,
        image_size=spec.image_size,
        sizes=split_sizes(*source.counts, spec),
        path=path if path.is_file() else None,
    )


def cached_files() -> list[CachedFile]:
    """All files of the cache directory, by name; one that cannot be used is listed with its fault."""
    files = []
    for path in sorted(cache_directory().glob("[!.]*.arrow")):
        info, fault = None, None
        try:
            info = open_cache(path).info
        except CacheError as error:
            fault = str(error).removeprefix(f"{path}: ")
        files.append(CachedFile(path, path.stem.rpartition("-")[0], path.stat().st_size, info, fault))
    return files


def _fitting(spec: DataSpec, source: Source) -> Fitting:
    return Fitting(spec.image_size, spec.channels or source.channels, spec.fit)


def _path(source: Source, fitting: Fitting) -> Path:
    identity = {"source": source.name, "content": source.fingerprint, "format": FORMAT_VERSION, **asdict(fitting)}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    return cache_directory() / f"{source.name}-{key}.arrow"


def _is_sound(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        open_cache(path, verify=True)
    except CacheError as error:
        _LOG.warning("%s; building it again", error)
        return False
    return True


def _build(path: Path, source: Source, fitting: Fitting, progress: Progress | None) -> None:
    """Writes twice: count and checksum stand in the file's schema, and are known only after all images were seen."""
    spool = path.with_name(f".{path.name}.spool")
    # Left by processes that were killed; the lock says that none of them is at work.
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)
    shape = (fitting.channels, fitting.size, fitting.size)
    blank = CacheInfo(FORMAT_VERSION, source.name, source.origin, source.fingerprint, 0, 0, *shape, fitting.fit,
                      source.classes, "")  # fmt: skip
    try:
        with pa.OSFile(str(spool), "wb") as sink, pa.ipc.new_file(sink, _schema(blank)) as writer:
            count = 0
            for batch in _batches(source, fitting, _schema(blank), progress):
                writer.write_batch(batch)
                count += len(batch)
        if count == 0:
            raise DataError(f"{source.origin}: there are no images")
        info = replace(blank, count=count, skipped=source.skipped)
        with pa.memory_map(str(spool)) as spooled:
            reader = pa.ipc.open_file(spooled)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            checksum = _Checksum(info)
            for batch in batches:
                checksum.update(*_columns(batch, info))
            info = replace(info, checksum=checksum.hexdigest())
            schema = _schema(info)
            with (
                replacing(path) as temporary,
                pa.OSFile(str(temporary), "wb") as sink,
                pa.ipc.new_file(sink, schema) as writer,
            ):
                for batch in batches:
                    writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    finally:
        spool.unlink(missing_ok=True)
    _LOG.info("%s: %d images of %s", path, info.count, info.origin)


def _schema(info: CacheInfo) -> pa.Schema:
    pixels = pa.list_(pa.field("pixel", pa.uint8(), nullable=False), info.channels * info.height * info.width)
    fields = [
        pa.field("image", pixels, nullable=False),
        pa.field("label", pa.int32()),
        pa.field("official_test", pa.bool_(), nullable=False),
    ]
    return pa.schema(fields, metadata=info.to_metadata())


def _batches(
    source: Source, fitting: Fitting, schema: pa.Schema, progress: Progress | None
) -> Iterator[pa.RecordBatch]:
    """The source's images in record batches of equal size; only the last may be smaller."""
    shape = (fitting.channels, fitting.size, fitting.size)
    image_bytes = fitting.channels * fitting.size * fitting.size
    rows = max(1, min(source.counts.images, BATCH_BYTES // image_bytes))
    images, labels = np.empty((rows, *shape), np.uint8), np.full(rows, -1, np.int32)
    official_test = np.zeros(rows, np.bool_)
    filled = done = 0
    for chunk in source.chunks(fitting):
        taken = 0
        while taken < len(chunk.images):
            part = min(rows - filled, len(chunk.images) - taken)
            images[filled : filled + part] = chunk.images[taken : taken + part]
            if chunk.labels is not None:
                labels[filled : filled + part] = chunk.labels[taken : taken + part]
            official_test[filled : filled + part] = chunk.official_test
            filled, taken = filled + part, taken + part
            if filled == rows:
                # Written before the next one is filled, so one buffer serves all.
                yield _record_batch(schema, images, labels, official_test)
                filled = 0
        done += len(chunk.images)
        if progress is not None:
            progress(done, source.counts.images)
    if filled:
        yield _record_batch(schema, images[:filled], labels[:filled], official_test[:filled])


def _record_batch(
    schema: pa.Schema, images: Images, labels: NDArray[np.int32], official_test: NDArray[np.bool_]
) -> pa.RecordBatch:
    """A batch that shares the memory of its arguments."""
    return pa.record_batch(
        [
            pa.FixedSizeListArray.from_arrays(pa.array(images.reshape(-1)), type=schema.field("image").type),
            pa.array(labels, mask=labels < 0),
            pa.array(official_test),
        ],
        schema=schema,
    )


def _map(path: Path) -> ImageCache:
    """Every number in a header is compared with what the file holds before anything is made of that size."""
    with pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_file(file)
        metadata = reader.schema.metadata or {}
        version = metadata.get(b"format_version", b"").decode()
        if version != str(FORMAT_VERSION):
            raise CacheError(f"{path}: format version {version or 'unknown'}, this raysweep reads {FORMAT_VERSION}")
        info = CacheInfo.from_metadata(metadata)
        image_bytes = info.channels * info.height * info.width
        if min(info.count, info.channels, info.height, info.width) < 1 or info.count * image_bytes > file.size():
            raise CacheError(
                f"{path}: its header promises {info.count} images of {info.channels}x{info.height}x{info.width}, "
                f"the file has {file.size()} bytes"
            )
        if not reader.schema.equals(_schema(info)):
            raise CacheError(f"{path}: its columns are not those of format version {FORMAT_VERSION}")
        parts = [_columns(reader.get_batch(number), info) for number in range(reader.num_record_batches)]
    rows = [len(images) for images, _, _ in parts]
    if sum(rows) != info.count or any(count != rows[0] for count in rows[:-1]) or rows[-1] > rows[0]:
        raise CacheError(f"{path}: its header promises {info.count} images, its batches have {rows[:8]}")
    labels = np.concatenate([labels for _, labels, _ in parts])
    if info.classes and not (labels.min() >= 0 and labels.max() < len(info.classes)):
        raise CacheError(f"{path}: labels from {labels.min()} to {labels.max()} for {len(info.classes)} classes")
    return ImageCache(
        path=path,
        info=info,
        chunks=tuple(images for images, _, _ in parts),
        labels=labels if info.classes else None,
        official_test=np.concatenate([official_test for _, _, official_test in parts]),
    )


def _columns(batch: pa.RecordBatch, info: CacheInfo) -> tuple[Images, NDArray[np.int32], NDArray[np.bool_]]:
    """Images as a view of the batch, labels with -1 for null, and the marks of official tests.

    Raises:
        ValueError, pa.ArrowException: if buffers are shorter than the batch says.
    """
    batch.validate()
    image, label, official_test = batch.columns
    pixels = image.values.to_numpy(zero_copy_only=True)
    if (
        len(batch) == 0
        or image.null_count
        or official_test.null_count
        or pixels.size != len(batch) * image.type.list_size
    ):
        raise ValueError("a batch is empty, or has nulls where none belong")
    if label.null_count not in (0, len(batch)):
        raise ValueError("some images of a batch have labels, others none")
    labels = label.to_numpy() if label.null_count == 0 else np.full(len(batch), -1, np.int32)
    return pixels.reshape(len(batch), *info.shape), labels, official_test.to_numpy(zero_copy_only=False)


class _Checksum:
    """Over the columns, however they are cut into batches, and over what the schema says."""

    def __init__(self, info: CacheInfo) -> None:
        self._metadata = json.dumps(replace(info, checksum="").to_metadata(), sort_keys=True).encode()
        self._columns = tuple(hashlib.sha256() for _ in range(3))

    def update(self, images: Images, labels: NDArray[np.int32], official_test: NDArray[np.bool_]) -> None:
        for digest, column in zip(self._columns, (images, labels, official_test), strict=True):
            digest.update(np.ascontiguousarray(column).data)

    def hexdigest(self) -> str:
        digest = hashlib.sha256(self._metadata)
        for column in self._columns:
            digest.update(column.digest())
        return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
