"""The driver's side of a sweep in a bucket: a thread sends its working copy.

It sends the specification, the journal up to its last whole line, the log and the report, every few seconds and at the
end. The machine that trains a trial sends the trial's files (bucket/trialfiles.py); the driver sends them only if that
machine could not. A checkpoint may be ahead of the last journal in the bucket: the trial has the results in between and
reports them again.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from filelock import FileLock

from raysweep.bucket.lease import RENEWAL_S, Lease
from raysweep.bucket.workingcopy import (
    EPOCHS,
    checkpoint_epoch,
    fetch_pictures,
    fetch_profile,
    files_below,
    is_picture,
    is_taken,
    read_epochs,
    remote_of,
    set_aside,
    update,
    whole_lines,
)
from raysweep.errors import RaysweepError, StorageError, SweepDirectoryError
from raysweep.storage.layout import SweepDirectory, shown, storage_errors, typed
from raysweep.storage.remote import RemoteDirectory, is_final

MIRROR_INTERVAL_S = RENEWAL_S
PATIENCE_S = 60.0
"""How long a bucket may fail to answer before the sweep stops."""
RETRY_S = 2.0
_log = logging.getLogger("raysweep")


class Mirror:
    """Keeps a sweep in a bucket equal to its working copy, as long as this process drives it."""

    def __init__(self, directory: SweepDirectory, remote: RemoteDirectory, lease: Lease) -> None:
        self._directory = directory
        self.remote = remote
        self._lease = lease
        self._sent: dict[str, tuple[int, int]] = {}
        """Size and time of change of each file as it was sent."""
        self._unknown = set(remote.list(directory.report.name))
        """Objects of the report that an earlier driver has sent."""
        self._renewed = time.monotonic()
        self._failing_since: float | None = None
        self._over = threading.Event()
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._keep_sending, name="mirror", daemon=True)
        self.failure: RaysweepError | None = None
        """Why the sweep has to stop; None if it need not."""

    def __getstate__(self) -> dict[str, object]:
        """Return nothing, because Tune pickles whatever its searcher refers to."""
        return {}

    def start(self) -> None:
        """Start to send in the background."""
        self._thread.start()

    def flush(self) -> None:
        """Send what has changed.

        Raises:
            StorageError: if the bucket does not answer.
            SweepDirectoryError: if another driver has taken the sweep over.
        """
        with self._sending:
            directory = self._directory
            report = files_below(directory, directory.report)
            for name in [directory.spec.name, directory.journal.name, directory.log.name, *report]:
                self._send(name)
            gone = (self._sent.keys() | self._unknown) - set(report)
            for name in [name for name in gone if name.startswith(f"{directory.report.name}/")]:
                self.remote.delete(name)
                self._sent.pop(name, None)
                self._unknown.discard(name)

    def fetch_trial(self, number: int, node: str | None) -> None:
        """Fetch the pictures of a trial that another machine has made, so that the report can show them."""
        if node == socket.gethostname() and self._directory.trial(number).exists():
            return
        self.fetch_pictures(number)

    def fetch_pictures(self, number: int | None = None) -> bool:
        """Fetch the pictures of other machines' trials, or of one trial; return whether there were any."""
        try:
            return fetch_pictures(self._directory, self.remote, number) > 0
        except StorageError as error:
            _log.warning("pictures are left out of the report: %s", error)
            return False

    def close(self, patience_s: float | None = None) -> None:
        """Send all that is left, also of trials, and give the lease back.

        Raises:
            StorageError: if the bucket repeatedly does not answer; says where everything is.
            SweepDirectoryError: if another driver has taken the sweep over.
        """
        self._end()
        self._lease.leave()
        if isinstance(self.failure, SweepDirectoryError):
            return
        deadline = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
        while True:
            try:
                self._lease.renew()
                self.flush()
                self._send_trials()
                self._lease.release()
                return
            except StorageError as error:
                if is_final(error) or time.monotonic() > deadline:
                    raise self._explained(error) from error
                time.sleep(RETRY_S)

    def abandon(self) -> None:
        """Stop at once, and leave everything in the bucket as it is."""
        self._end(timeout_s=1.0)
        self._lease.leave()

    def _end(self, timeout_s: float | None = None) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _keep_sending(self) -> None:
        while not self._over.wait(MIRROR_INTERVAL_S if self._failing_since is None else RETRY_S):
            try:
                self._renew()
                self.flush()
                self._failing_since = None
            except StorageError as error:
                now = time.monotonic()
                self._failing_since = now if self._failing_since is None else self._failing_since
                if is_final(error) or now - self._failing_since > PATIENCE_S:
                    self.failure = self._explained(error)
                    return
                _log.warning("%s; it is tried again", error)
            except RaysweepError as error:
                self.failure = error
                return
            except Exception as error:  # noqa: BLE001 (a thread that ends unheard would leave the bucket behind)
                _log.exception("sending to %s failed", self.remote.uri)
                self.failure = self._explained(StorageError(f"{self.remote.uri}: {error!r}"))
                return

    def _renew(self) -> None:
        self._lease.renew()
        self._renewed = time.monotonic()

    def _send(self, name: str) -> None:
        path = self._directory.root / name
        try:
            found = path.stat()
            as_it_is = (found.st_size, found.st_mtime_ns)
            if self._sent.get(name) == as_it_is:
                return
            content = path.read_bytes()
        except FileNotFoundError:  # replaced by a newer one, or not there yet
            return
        if time.monotonic() - self._renewed > MIRROR_INTERVAL_S:  # a long report must not look like a dead driver
            self._renew()
        self.remote.write(name, whole_lines(content) if name == self._directory.journal.name else content)
        self._sent[name] = as_it_is

    def _send_trials(self) -> None:
        """Send what the training machines could not: pictures, and all checkpoints of trials with a newer one here."""
        here, there = files_below(self._directory, self._directory.trials), self.remote.list("trials")
        for name in here:
            if is_picture(name) and name not in there:
                self.remote.write(name, (self._directory.root / name).read_bytes())
        kept: dict[str, list[str]] = {}
        for name in here:
            if checkpoint_epoch(name) is not None:
                kept.setdefault(name.rsplit("/", 1)[0], []).append(name)  # they are in order
        for trial, names in kept.items():
            name = names[-1]
            if any(other >= name for other in there if other.startswith(trial) and checkpoint_epoch(other) is not None):
                continue
            epochs = self._directory.root / trial / EPOCHS
            if epochs.exists() and len(read_epochs(epochs.read_bytes())) >= (checkpoint_epoch(name) or 0):
                self.remote.write(f"{trial}/{EPOCHS}", epochs.read_bytes())
                for name in names:
                    self.remote.write(name, (self._directory.root / name).read_bytes())

    def _explained(self, error: StorageError) -> StorageError:
        return StorageError(
            f"{error}\nEverything is kept in {shown(self._directory.root)} on this machine. "
            f"Once the bucket can be written again, type: raysweep resume {typed(self.remote.uri)}"
        )


@contextmanager
def mirroring(directory: SweepDirectory, *, new: bool) -> Iterator[Mirror | None]:
    """Drive a sweep in a bucket during a block: hold its lease, and send its copy until the end.

    The copy is brought up to date first. For a sweep of this machine, this does nothing. The caller holds the lock of
    the working copy.

    Raises:
        SweepDirectoryError: if (a) another driver is at work, (b) there is a sweep already (`new`), or (c) there is
            none (not `new`).
        StorageError: if the bucket does not answer; everything stays in the working copy.
    """
    remote = remote_of(directory)
    if remote is None:
        yield None
        return
    remote.require_access()
    if not new and not is_taken(directory):
        update(directory, remote)  # raises, before a lease is written where there is no sweep
    lease = Lease(remote)
    lease.take()
    try:
        mirror = Mirror(directory, remote, lease)
        _prepare(directory, remote, new)
    except RaysweepError:
        with suppress(StorageError):
            lease.release()
        raise
    mirror.start()
    try:
        yield mirror
    except KeyboardInterrupt:
        mirror.abandon()
        raise
    except BaseException as error:
        try:
            mirror.close(patience_s=0)
        except RaysweepError as second:
            if mirror.failure is None:
                raise second from error
        raise
    mirror.close()


def _prepare(directory: SweepDirectory, remote: RemoteDirectory, new: bool) -> None:
    with storage_errors(directory.root), FileLock(directory.root / ".fetch.lock"):
        if new:
            if is_taken(directory):
                raise SweepDirectoryError(f"{remote.uri}: another driver has begun a sweep here meanwhile")
            set_aside(directory)
            return
        was_newer = update(directory, remote)
        fetch_pictures(directory, remote)
        fetch_profile(directory, remote)
        if not was_newer:
            remote.fetch(directory.log.name, directory.log)
