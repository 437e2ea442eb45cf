"""The lease of a sweep in a bucket: one driver writes, and keeps renewing an object that names it.

A bucket has no locks. A lease that was not renewed for a while belongs to a dead driver. A driver that finds another
driver's lease in place of its own stops. Each write of the lease requires that it is still as this driver saw it, so if
two drivers take it at once, only one succeeds. If a store has no conditional writes, the driver that takes the lease
checks a moment later that it is still its own; two drivers that are slow enough could then both continue for a while.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raysweep.clock import timed
from raysweep.errors import StorageError, SweepDirectoryError
from raysweep.profiles import DriverPart
from raysweep.storage.conditional import Changed, ConditionalObject, NoConditions, Version
from raysweep.storage.remote import RemoteDirectory

RENEWAL_S = 15.0
DEAD_AFTER_S = 4 * RENEWAL_S
SETTLE_S = 1.0
"""Without conditional writes: after this time, two drivers that take a lease at once both see who has it."""
ATTEMPTS = 5
"""How often a driver tries to take the lease if others change it in the same moment."""
NAME = ".driver.json"
RELEASING = "releasing"
"""Marks a lease that its driver is about to remove."""
_held: set[str] = set()
"""Tokens of the leases that this process keeps renewing; others with its process number were left behind."""
_log = logging.getLogger("raysweep")


class Lease:
    """The right to write a sweep in a bucket, for as long as it is renewed."""

    def __init__(self, remote: RemoteDirectory) -> None:
        self._remote = remote
        self._token = uuid.uuid4().hex
        self._driver = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": _machine(),
            "token": self._token,
        }
        self._content = json.dumps(self._driver).encode()
        self._guarded: tuple[ConditionalObject, Version] | None = None
        """The lease as this driver wrote it last; None if the store has no conditional writes."""

    @timed(DriverPart.BUCKET)
    def take(self) -> None:
        """Take the lease if it is free or belongs to a driver that is gone.

        Raises:
            SweepDirectoryError: if another driver has it; names that driver.
            StorageError: if the bucket does not answer.
        """
        try:
            self._guarded = self._take_unchanged()
        except NoConditions as reason:
            _log.info("%s: without conditional writes the lease is looked at twice: %s", self._remote.uri, reason)
            self._take_by_looking()

    def _take_unchanged(self) -> tuple[ConditionalObject, Version]:
        """Write the lease only if it is still the one that was found to be free."""
        lease = self._remote.conditional(NAME)
        for _ in range(ATTEMPTS):
            found = lease.read()
            if found is not None:
                self._refuse(_living(found.content, found.modified))
            with self._held():
                try:
                    version = lease.create(self._content) if found is None else lease.replace(found, self._content)
                except Changed:
                    continue
                if not lease.minds_conditions(version):
                    lease.delete()
                    raise NoConditions("the store takes conditions and ignores them")
                return lease, version
        raise SweepDirectoryError(f"{self._remote.uri}: other drivers are taking it at this moment; try again")

    def _take_by_looking(self) -> None:
        self._refuse(holder(self._remote))
        with self._held():
            self._remote.write(NAME, self._content)
            time.sleep(SETTLE_S)
            if self._remote.read(NAME) != self._content:
                self._refuse(holder(self._remote) or {})

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Mark the lease as that of a living driver; undo this if the block fails."""
        _held.add(self._token)
        try:
            yield
        except BaseException:
            self.leave()
            raise

    def renew(self) -> None:
        """Renew the lease, to show that this driver is alive.

        Raises:
            SweepDirectoryError: if another driver has taken the lease.
            StorageError: if the bucket does not answer.
        """
        if self._guarded is None:
            found = self._remote.read(NAME)
            if found not in (None, self._content):
                raise self._lost(found)
            self._remote.write(NAME, self._content)
            return
        lease, version = self._guarded
        try:
            try:
                renewed = lease.replace(version, self._content)
            except Changed:
                there = lease.read()
                if there is not None:
                    raise self._lost(there.content) from None
                renewed = lease.create(self._content)  # somebody has removed it, and nobody has taken it
        except Changed:
            raise self._lost(None) from None
        except NoConditions as reason:  # the credentials for the bucket have expired
            raise StorageError(f"{self._remote.uri}: the lease cannot be renewed: {reason}") from reason
        self._guarded = lease, renewed

    def _lost(self, found: bytes | None) -> SweepDirectoryError:
        other = _parsed(found)
        return SweepDirectoryError(
            f"{self._remote.uri}: process {other.get('pid', '?')} on {other.get('host', '?')} has taken the sweep "
            f"over, because this one showed no sign of life for {DEAD_AFTER_S:.0f} s; what it did since is not sent"
        )

    def release(self) -> None:
        """Give the lease back if it still belongs to this driver.

        No store can remove an object under a condition. So the lease is first marked, which keeps others from taking it
        for a while, and then removed.

        Raises:
            StorageError: if the bucket does not answer.
        """
        if self._guarded is None:
            if self._remote.read(NAME) == self._content:
                self._remote.delete(NAME)
            return
        lease, version = self._guarded
        try:
            lease.replace(version, json.dumps(self._driver | {RELEASING: True}).encode())
        except Changed:
            return
        except NoConditions as reason:
            raise StorageError(f"{self._remote.uri}: the lease cannot be given back: {reason}") from reason
        lease.delete()

    def leave(self) -> None:
        """Leave the lease where it is, as that of a driver that is gone, and no longer renew it."""
        _held.discard(self._token)

    def _refuse(self, other: dict[str, Any] | None) -> None:
        if other is not None:
            raise SweepDirectoryError(
                f"{self._remote.uri}: another driver is at work here, process {other.get('pid', '?')} on "
                f"{other.get('host', '?')} since {other.get('since', '?')}; wait for it, or stop it with Ctrl-C. "
                f"If it is gone, this can be typed again {DEAD_AFTER_S:.0f} s after its last sign of life"
            )


def holder(remote: RemoteDirectory) -> dict[str, Any] | None:
    """Return the living driver that holds the lease of a sweep; None if there is none.

    A driver of this machine is looked up among its processes. For other machines, the age of the lease decides, by this
    machine's clock.
    """
    there = remote.find(NAME)
    content = remote.read(NAME) if there is not None else None
    return None if there is None or content is None else _living(content, there.modified)


def _living(content: bytes, modified: datetime) -> dict[str, Any] | None:
    """Return the driver that wrote a lease at the time `modified`; None if it is gone."""
    found = _parsed(content)
    here = found.get("machine")
    if here is not None and here == _machine() and not found.get(RELEASING) and not _is_alive(found):
        return None
    age_s = (datetime.now(UTC) - modified).total_seconds()
    return found if age_s < DEAD_AFTER_S else None


def _parsed(content: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _machine() -> str | None:
    """Return an identity of this boot and this container, which has its own process numbers; None if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _is_alive(driver: dict[str, Any]) -> bool:
    """Return whether a driver of this machine is alive; for this process, whether it still holds that lease."""
    pid = driver.get("pid")
    if pid == os.getpid():
        return driver.get("token") in _held
    return isinstance(pid, int) and Path(f"/proc/{pid}").exists()
