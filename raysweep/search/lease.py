"""Who writes a sweep in a bucket: one driver at a time, which keeps renewing an object that names it.

A bucket has no locks. A lease that was not renewed for a while is that of a dead driver; who takes one looks again a
moment later whether it is still the one there, and a driver that finds another's in its place stops.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raysweep.clock import timed
from raysweep.errors import SweepDirectoryError
from raysweep.profiles import DriverPart
from raysweep.remote import RemoteDirectory

RENEWAL_S = 15.0
DEAD_AFTER_S = 4 * RENEWAL_S
SETTLE_S = 1.0
"""After this long, of two drivers that take a free lease at once both see whose it has become."""
NAME = ".driver.json"
_held: set[str] = set()
"""Tokens of the leases that this process keeps renewing; others with its number were left behind."""


class Lease:
    """The right to write a sweep in a bucket, for as long as it is renewed."""

    def __init__(self, remote: RemoteDirectory) -> None:
        self._remote = remote
        self._token = uuid.uuid4().hex
        self._content = json.dumps(
            {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": _machine(),
                "token": self._token,
            }
        ).encode()

    @timed(DriverPart.BUCKET)
    def take(self) -> None:
        """Takes the lease; of a driver that is gone, in its place.

        Raises:
            SweepDirectoryError: naming the driver that has it.
            StorageError: if the bucket does not answer.
        """
        self._refuse(holder(self._remote))
        _held.add(self._token)
        try:
            self._remote.write(NAME, self._content)
            time.sleep(SETTLE_S)
            if self._remote.read(NAME) != self._content:
                self._refuse(holder(self._remote) or {})
        except BaseException:
            self.leave()
            raise

    def renew(self) -> None:
        """Shows that this driver lives.

        Raises:
            SweepDirectoryError: if another driver has taken the lease.
            StorageError: if the bucket does not answer.
        """
        found = self._remote.read(NAME)
        if found not in (None, self._content):
            other = _parsed(found)
            raise SweepDirectoryError(
                f"{self._remote.uri}: process {other.get('pid', '?')} on {other.get('host', '?')} has taken the sweep "
                f"over, for this one showed no sign of life for {DEAD_AFTER_S:.0f} s; what it did since is not sent"
            )
        self._remote.write(NAME, self._content)

    def release(self) -> None:
        """Gives the lease back, if it is this driver's still."""
        if self._remote.read(NAME) == self._content:
            self._remote.delete(NAME)

    def leave(self) -> None:
        """Renews it no more: it is left where it is, as that of a driver which is gone."""
        _held.discard(self._token)

    def _refuse(self, other: dict[str, Any] | None) -> None:
        if other is not None:
            raise SweepDirectoryError(
                f"{self._remote.uri}: another driver is at work here, process {other.get('pid', '?')} on "
                f"{other.get('host', '?')} since {other.get('since', '?')}; wait for it, or stop it with Ctrl-C. "
                f"If it is gone, this can be typed again {DEAD_AFTER_S:.0f} s after its last sign of life"
            )


def holder(remote: RemoteDirectory) -> dict[str, Any] | None:
    """The driver that holds the lease of a sweep; None if there is none that lives.

    A driver of this machine is looked for among its processes; of others the age of the lease decides, by this
    machine's clock.
    """
    there = remote.find(NAME)
    content = remote.read(NAME) if there is not None else None
    if there is None or content is None:
        return None
    found = _parsed(content)
    here = found.get("machine")
    if here is not None and here == _machine() and not _is_alive(found):
        return None
    age_s = (datetime.now(UTC) - there.modified).total_seconds()
    return found if age_s < DEAD_AFTER_S else None


def _parsed(content: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _machine() -> str | None:
    """Names this boot of this machine, and within it the container, whose process numbers are its own."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _is_alive(driver: dict[str, Any]) -> bool:
    """Whether the process of a driver of this machine is there, and this one itself still holds that lease."""
    pid = driver.get("pid")
    if pid == os.getpid():
        return driver.get("token") in _held
    return isinstance(pid, int) and Path(f"/proc/{pid}").exists()
