"""The tables as Parquet files, for SQL, data frames, and readers without raysweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysweep.clock import timed
from raysweep.errors import SweepDirectoryError
from raysweep.profiles import DriverPart
from raysweep.records import TrialRecord
from raysweep.report.pages import promised_bytes
from raysweep.report.tables import SCHEMA_VERSION, Stuck, epochs_table, trials_table
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory, read_bounded, replacing

MAX_TABLE_BYTES = 1 << 31
"""Limit for a table in memory: about 8 million epochs."""


@timed(DriverPart.REPORT)
def write_parquet(
    directory: SweepDirectory, records: Sequence[TrialRecord], spec: SweepSpec, stuck: Stuck | None = None
) -> None:
    """Write report/trials.parquet and report/epochs.parquet; a reader sees the old or the new file, never half.

    Args:
        stuck: which trials are stuck, as for `trials_table`.

    Raises:
        StorageError: if the file system is full, read-only or gone.
    """
    for path, table in (
        (directory.trials_parquet, trials_table(records, spec, stuck)),
        (directory.epochs_parquet, epochs_table(records, spec)),
    ):
        with replacing(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
    del table
    pa.default_memory_pool().release_unused()  # otherwise Arrow keeps the memory for later


def read_bounded_table(path: Path, limit_bytes: int = MAX_TABLE_BYTES) -> pa.Table:
    """Read a Parquet file, but refuse one that takes more than `limit_bytes` of memory.

    A few bytes can stand for a billion rows, so the file's own statements are not trusted. Texts are read as
    dictionaries, so their total length is known before any text is repeated.

    Raises:
        ValueError: if it would take more, or contradicts itself.
        pa.ArrowException, OSError: if it cannot be read.
    """
    # Read the whole file, without memory mapping, because it may be replaced during the checks.
    content = pa.py_buffer(read_bounded(path, limit_bytes))
    promised = promised_bytes(memoryview(content))
    if promised > limit_bytes:
        raise ValueError(f"it promises {promised:,} bytes")
    found = pq.ParquetFile(pa.BufferReader(content))
    rows = found.metadata.num_rows
    if rows * max(1, found.metadata.num_columns) > limit_bytes:
        raise ValueError(f"it promises {rows:,} rows")
    texts = [field.name for field in found.schema_arrow if _is_text(field.type)]
    table = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts).read()
    if table.nbytes > limit_bytes:
        raise ValueError(f"its content takes {table.nbytes:,} bytes")
    decoded = sum(
        pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)).as_py() or 0
        for column in table.columns
        if pa.types.is_dictionary(column.type) and _is_text(column.type.value_type)
        for chunk in column.chunks
    )
    if decoded > limit_bytes:
        raise ValueError(f"its texts take {decoded:,} bytes")
    plain = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(plain, metadata=table.schema.metadata))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def read_table(path: Path) -> pa.Table:
    """Read one of the two tables of a sweep's report.

    Raises:
        SweepDirectoryError: if the file is missing, is not a raysweep table, or was written by a later raysweep.
    """
    remedy = f"raysweep report {path.parent.parent} writes it anew from the ledger"
    if not path.exists():
        raise SweepDirectoryError(f"{path}: there is no such table; {remedy}")
    try:
        table = read_bounded_table(path)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise SweepDirectoryError(f"{path}: is damaged or no Parquet file ({error}); {remedy}") from error
    version = (table.schema.metadata or {}).get(b"raysweep.schema_version", b"")
    if not version.isdigit():
        raise SweepDirectoryError(f"{path}: is no table of raysweep's, its schema has no version; {remedy}")
    if int(version) > SCHEMA_VERSION:
        raise SweepDirectoryError(
            f"{path}: has schema version {int(version)}, this raysweep reads up to {SCHEMA_VERSION}; "
            f"upgrade raysweep, or {remedy}"
        )
    return table
