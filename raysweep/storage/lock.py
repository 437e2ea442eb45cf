"""Who writes a sweep: one driver at a time, which holds a lock that goes with its process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from raysweep.errors import SweepDirectoryError
from raysweep.storage.layout import SweepDirectory, storage_errors, write_atomically


@contextmanager
def locked(directory: SweepDirectory) -> Iterator[None]:
    """The right to write the sweep, held by one process at a time and gone with it.

    Raises:
        SweepDirectoryError: naming the process that holds it, or what in the directory leads out of it.
    """
    if directory.origin is not None:
        with storage_errors(directory.root):
            directory.root.mkdir(parents=True, exist_ok=True)
    directory.refuse_foreign()
    identity = directory.driver_lock.with_suffix(".json")
    lock = FileLock(directory.driver_lock)
    try:
        with storage_errors(directory.root):
            lock.acquire(timeout=1)  # a reader that looks whether a driver is at work holds it for an instant
    except Timeout:
        holder = _holder(identity)
        raise SweepDirectoryError(
            f"{directory.address}: another driver is at work here, process {holder.get('pid', '?')} on "
            f"{holder.get('host', '?')} since {holder.get('since', '?')}; wait for it, or stop it with Ctrl-C"
        ) from None
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        write_atomically(
            identity, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode()
        )
        with storage_errors(directory.root):
            directory.remove_leftovers()
        yield
    finally:
        lock.release()


def _holder(identity: Path) -> dict[str, Any]:
    """What the driver at work wrote of itself; nothing if that cannot be read."""
    try:
        holder = json.loads(identity.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def has_driver(directory: SweepDirectory) -> bool:
    """Whether a driver holds the sweep on this machine."""
    if not directory.driver_lock.exists():
        return False
    try:
        file = open(directory.driver_lock, "rb")  # noqa: SIM115 (closed below)
    except PermissionError:  # of a sweep of somebody else, which this user does not drive
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: readers do not take each other for a driver
        except BlockingIOError:
            return True
    return False
