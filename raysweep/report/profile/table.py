"""profile.parquet: one row per trial, epoch and part of the time."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from raysweep.profiles import DriverPart, Profile, SlotPart, Spent
from raysweep.report.parquet import read_bounded_table
from raysweep.report.tables import SCHEMA_VERSION, Column

SLOTS, DRIVER = "slots", "driver"
MAX_BYTES = 1 << 27
"""Limit for the table in memory: about three million rows, from 300,000 epochs."""

PROFILE_COLUMNS: tuple[Column, ...] = (
    Column("scope", pa.string(), "", f"`{SLOTS}` or `{DRIVER}`: which of the two sums the row is part of"),
    Column("trial", pa.int64(), "", "number of the trial; null for idle slots and for the driver", nullable=True),
    Column("epoch", pa.int32(), "", "number of the epoch, from 1; null for what is of no epoch", nullable=True),
    Column("part", pa.string(), "", "what the time was spent on"),
    Column("seconds", pa.float64(), "s", "how much: of one slot, or of the driver"),
)
_PARTS: dict[str, dict[str, SlotPart | DriverPart]] = {
    SLOTS: {part.value: part for part in SlotPart},
    DRIVER: {part.value: part for part in DriverPart},
}
PROFILE_SCHEMA = pa.schema([column.field for column in PROFILE_COLUMNS])


def profile_table(profile: Profile) -> pa.Table:
    """Return a profile with the columns of report/profile.parquet (docs/profile.md)."""
    rows = [
        {
            "scope": SLOTS if isinstance(spent.part, SlotPart) else DRIVER, "trial": spent.trial, "epoch": spent.epoch,
            "part": spent.part.value, "seconds": spent.seconds,
        }
        for spent in profile.spent
    ]  # fmt: skip
    session = {"command": profile.command, "begun": profile.begun.isoformat(), "slots": profile.slots}
    metadata = {"raysweep.schema_version": str(SCHEMA_VERSION), "raysweep.profile": json.dumps(session)}
    return pa.Table.from_pylist(rows, schema=PROFILE_SCHEMA.with_metadata(metadata))


def read_profile(path: Path) -> Profile:
    """Read the profile in a file.

    Raises:
        ValueError: if the file is missing, damaged, or of another version.
    """
    try:
        table = read_bounded_table(path, MAX_BYTES)
        metadata = table.schema.metadata or {}
        if metadata.get(b"raysweep.schema_version") != str(SCHEMA_VERSION).encode():
            raise ValueError(f"it is not of schema version {SCHEMA_VERSION}")
        if not table.schema.equals(PROFILE_SCHEMA):
            raise ValueError(f"its columns are not {', '.join(PROFILE_SCHEMA.names)}")
        session = json.loads(metadata[b"raysweep.profile"])
        command, begun, slots = session["command"], datetime.fromisoformat(session["begun"]), int(session["slots"])
        if command not in ("run", "resume") or begun.tzinfo is None or slots < 0:
            raise ValueError("its session is none")
        return Profile(command, begun, slots, tuple(map(_spent, *_columns(table))))
    except (pa.ArrowException, OSError, MemoryError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: holds no profile: {error}") from error


def _columns(table: pa.Table) -> list[list[Any]]:
    return [column.to_pylist() for column in table.columns]


def _spent(scope: str, trial: int | None, epoch: int | None, part: str, seconds: float) -> Spent:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{part} took {seconds} seconds")
    return Spent(_PARTS[scope][part], seconds, trial, epoch)
