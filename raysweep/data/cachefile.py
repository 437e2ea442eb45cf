"""The file of prepared images: Arrow IPC, written once and mapped into memory by every trial of a machine.

    image          fixed_size_list<uint8>[channels * height * width], rows of pixels plane by plane
    label          int32, null where images have none
    official_test  bool

All record batches but the last have the same number of rows. Pixels are not compressed, so that a batch of images is
a view of the file. The schema's metadata are the fields of `CacheInfo`.
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
from numpy.typing import NDArray

from raysweep.data.decoding import Spans
from raysweep.data.framing import refuse_compression
from raysweep.data.images import Fitting, Images, Note, Source
from raysweep.errors import CacheError, DataError
from raysweep.storage.layout import printable, replacing, storage_errors

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
    """SHA-256 over all columns, the shape and the classes, 64 hex digits; the images' origin is not part of it."""
    remarks: tuple[Note, ...] = ()
    """Changes to images, made while preparing them, that a person may not expect."""
    spans: Spans | None = None
    """The value ranges by which a folder's images of more than 8 bits were scaled; None without such images."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """`classes` in a form that can be printed and stored, because a folder's name need not be UTF-8."""
        return tuple(printable(name) for name in self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: channels, height, width."""
        return self.channels, self.height, self.width

    def to_metadata(self) -> dict[str, str]:
        """Return all fields as texts, and a seal that shows a damaged field without reading the images."""
        values = asdict(self)
        if not self.remarks:  # older files do not have this field, and their seal must still match
            del values["remarks"]
        if self.spans is None:
            del values["spans"]
        fields = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
        seal = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
        return {**fields, "seal": seal}

    @classmethod
    def from_metadata(cls, metadata: dict[bytes, bytes]) -> CacheInfo:
        """Read the fields from metadata; raise ValueError, TypeError or KeyError if one is missing or invalid."""
        texts = {key.decode(): value.decode() for key, value in metadata.items()}
        numbers = ("format_version", "count", "skipped", "channels", "height", "width")
        values: dict[str, Any] = {name: int(texts[name]) for name in numbers}
        classes = json.loads(texts["classes"])
        if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
            raise ValueError("classes are no list of names")
        remarks = json.loads(texts.get("remarks", "[]"))
        values["remarks"] = tuple(Note(str(subject), str(text), bool(warns)) for subject, text, warns in remarks)
        if "spans" in texts:
            values["spans"] = Spans.from_lists(json.loads(texts["spans"]))
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


def open_cache(path: Path, verify: bool = False) -> ImageCache:
    """Map a cache file; with `verify`, also read all of it and compare its checksum.

    Raises:
        CacheError: if it is missing, truncated, corrupt or of another format version.
    """
    try:
        cache = _map(path)
    except CacheError:
        raise
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError, UnicodeError) as error:
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


def write_cache(path: Path, source: Source, fitting: Fitting, progress: Progress | None = None) -> None:
    """Write all images of a source to a cache file; nobody else may be writing it.

    They are written twice, because the schema holds their count and checksum, which are known only at the end.

    Raises:
        DataError: if the source is damaged, or an image does not fit.
        StorageError: if the file system is full, read-only or gone.
    """
    spool = path.with_name(f".{path.name}.spool")
    # Left by processes that were killed: the caller holds the lock, so no process is still writing them.
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)
    shape = (fitting.channels, fitting.size, fitting.size)
    blank = CacheInfo(FORMAT_VERSION, source.name, printable(source.origin), source.fingerprint, 0, 0, *shape,
                      fitting.fit, source.classes, "")  # fmt: skip
    try:
        with storage_errors(path), pa.OSFile(str(spool), "wb") as sink, pa.ipc.new_file(sink, _schema(blank)) as writer:
            count = 0
            for batch in _batches(source, fitting, _schema(blank), progress):
                writer.write_batch(batch)
                count += len(batch)
        if count == 0:
            raise DataError(f"{source.origin}: there are no images")
        info = replace(blank, count=count, skipped=source.skipped, remarks=source.remarks, spans=source.spans)
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
    """Yield the source's images in record batches of equal size; only the last may be smaller."""
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
                # The caller writes a batch before the next one is filled, so one buffer is enough.
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
    """Return a batch that shares the memory of its arguments."""
    return pa.record_batch(
        [
            pa.FixedSizeListArray.from_arrays(pa.array(images.reshape(-1)), type=schema.field("image").type),
            pa.array(labels, mask=labels < 0),
            pa.array(official_test),
        ],
        schema=schema,
    )


def _map(path: Path) -> ImageCache:
    """Map a cache file; compare each number in its header with the file before allocating that size."""
    if not path.is_file():  # opening a pipe would wait
        raise FileNotFoundError("there is no such file")
    with pa.memory_map(str(path)) as file:
        refuse_compression(memoryview(file.read_buffer()))
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
    if metadata.get(b"seal", b"").decode() != info.to_metadata()["seal"]:
        raise CacheError(f"{path}: its header does not match its seal, it was damaged after it was written")
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
    """Return images as a view of the batch, labels with -1 for null, and the marks of official tests.

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
    """The checksum of the columns and of count, shape and classes; how batches are cut does not change it."""

    def __init__(self, info: CacheInfo) -> None:
        self._meaning = json.dumps([info.count, info.shape, info.classes]).encode()
        self._columns = tuple(hashlib.sha256() for _ in range(3))

    def update(self, images: Images, labels: NDArray[np.int32], official_test: NDArray[np.bool_]) -> None:
        for digest, column in zip(self._columns, (images, labels, official_test), strict=True):
            digest.update(np.ascontiguousarray(column).data)

    def hexdigest(self) -> str:
        digest = hashlib.sha256(self._meaning)
        for column in self._columns:
            digest.update(column.digest())
        return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
