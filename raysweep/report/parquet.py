"""The tables as Parquet files, for SQL, data frames, and whoever reads a sweep without raysweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raysweep.errors import SweepDirectoryError
from raysweep.layout import SweepDirectory, replacing
from raysweep.records import TrialRecord
from raysweep.report.tables import SCHEMA_VERSION, epochs_table, trials_table
from raysweep.spec import SweepSpec


def write_parquet(directory: SweepDirectory, records: Sequence[TrialRecord], spec: SweepSpec) -> None:
    """Writes report/trials.parquet and report/epochs.parquet; a reader sees each old or new, never half.

    Raises:
        StorageError: if the file system is full, read-only or gone.
    """
    for path, table in (
        (directory.trials_parquet, trials_table(records, spec)),
        (directory.epochs_parquet, epochs_table(records, spec)),
    ):
        with replacing(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")


def read_table(path: Path) -> pa.Table:
    """One of the two tables of a sweep's report.

    Raises:
        SweepDirectoryError: if there is no such file, it is no table of ours, or a later raysweep wrote it.
    """
    remedy = f"raysweep report {path.parent.parent} writes it anew from the ledger"
    if not path.exists():
        raise SweepDirectoryError(f"{path}: there is no such table; {remedy}")
    try:
        # Without memory mapping: a table that is replaced while it is read must not change underfoot.
        table: pa.Table = pq.ParquetFile(path, memory_map=False).read()
    except (pa.ArrowException, OSError) as error:
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
