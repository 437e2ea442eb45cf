"""The lock of a sweep: one driver writes at a time, and its lock ends with its process."""

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
    """Hold the sweep's lock during a block: one process at a time may write; the lock ends with it.

    Raises:
        SweepDirectoryError: if another process holds it, or something in the directory leads out of it; says which.
    """
    if directory.origin is not None:
        with storage_errors(directory.root):
            directory.root.mkdir(parents=True, exist_ok=True)
    directory.refuse_foreign()
    identity = directory.driver_lock.with_suffix(".json")
    lock = FileLock(directory.driver_lock)
    try:
        with storage_errors(directory.root):
            lock.acquire(timeout=1)  # a reader that checks for a driver holds it for an instant
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
    """Return what the driver at work wrote about itself; nothing if that cannot be read."""
    try:
        holder = json.loads(identity.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def has_driver(directory: SweepDirectory) -> bool:
    """Return whether a driver holds the sweep on this machine."""
    if not directory.driver_lock.exists():
        return False
    try:
        file = open(directory.driver_lock, "rb")  # noqa: SIM115 (closed below)
    except PermissionError:  # another user's sweep, which this user does not drive
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: a reader is not mistaken for a driver
        except BlockingIOError:
            return True
    return False
