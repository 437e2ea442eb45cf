"""A trial in a bucket, on the machine that trains or tests it: what is fetched and sent.

Checkpoints are written here as for any sweep and sent while the next epoch trains; the bucket keeps two, as a directory
does. An epoch after which the trial may end is sent before it is reported. So when the end is known, the pictures and
the model are in the bucket.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from raysweep.bucket.mirror import PATIENCE_S, RETRY_S
from raysweep.bucket.workingcopy import (
    EPOCHS,
    checkpoint_epoch,
    fetch_checkpoints,
    files_below,
    is_picture,
    read_epochs,
    working_copy,
    write_epochs,
)
from raysweep.errors import StorageError
from raysweep.messages import TestOrder, TrialOrder
from raysweep.metrics import EpochMetrics
from raysweep.storage.layout import SweepDirectory, storage_errors
from raysweep.storage.remote import RemoteDirectory, is_final

_log = logging.getLogger("raysweep")


class TrialFiles:
    """The files of one trial in training, here and in the bucket. Fetches the newest checkpoints when it is made.

    Raises:
        StorageError: if the bucket does not answer, or a file cannot be written.
    """

    def __init__(self, order: TrialOrder) -> None:
        assert order.origin is not None
        self.directory = SweepDirectory(working_copy(order.origin), order.origin)
        self._remote = RemoteDirectory.at(order.origin)
        self._order = order
        self._trial = self.directory.trial(order.number)
        self._name = f"trials/{order.number:04d}"
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="outpost")
        self._sending: Future[None] | None = None
        self._sent: dict[str, tuple[int, int]] = {}
        self._epochs: list[EpochMetrics] = []
        with storage_errors(self._trial):  # a machine's first trial finds nothing of the sweep there
            self._trial.mkdir(parents=True, exist_ok=True)
        _patiently(self._fetch)

    def before(self, restored: EpochMetrics) -> list[EpochMetrics]:
        """Return the results before the restored epoch that the ledger lacks."""
        return self._epochs[self._order.epochs_done : restored.epoch - 1]

    def keep(self, metrics: EpochMetrics) -> None:
        """Write an epoch's result, once the files on their way are in the bucket; its checkpoint comes after.

        Raises:
            StorageError: if those cannot be sent, or the file cannot be written.
        """
        self.wait()
        self._epochs = [*self._epochs[: metrics.epoch - 1], metrics]
        write_epochs(self._trial / EPOCHS, self._epochs)

    def send(self, metrics: EpochMetrics) -> None:
        """Send the trial's files in the background; wait for them after an epoch that may be the trial's last.

        Raises:
            StorageError: if they cannot be sent.
        """
        self._sending = self._sender.submit(_patiently, self._send)
        if metrics.epoch in self._order.picture_epochs:
            self.wait()

    def wait(self) -> None:
        """Wait until the files on their way are in the bucket.

        Raises:
            StorageError: if they cannot be sent.
        """
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.result()

    def close(self) -> None:
        """Wait as `wait` does, and end the thread; the driver sends what could not be sent."""
        try:
            self.wait()
        except (StorageError, OSError) as error:
            _log.warning("%s", error)
        self._sender.shutdown(wait=False)

    def _fetch(self) -> None:
        """Fetch what is newer than the files here, and remove checkpoints that do not follow from the ledger."""
        order, here = self._order, self._trial / EPOCHS
        theirs = self._remote.read(f"{self._name}/{EPOCHS}")
        ours = here.read_bytes() if here.exists() else None
        self._epochs = max(read_epochs(ours), read_epochs(theirs), key=len)
        if self._epochs:
            write_epochs(here, self._epochs)
        fetch_checkpoints(self.directory, self._remote, order.number)
        known = max(order.epochs_done, len(self._epochs)) + 1
        for name in files_below(self.directory, self._trial):
            epoch = checkpoint_epoch(name)
            if epoch is not None and (epoch > known or self._is_of_another(name)):
                self._epochs = read_epochs(theirs)
                _log.warning("%s: is of a course of the sweep that was not kept; it is not used", name)
                (self.directory.root / name).unlink(missing_ok=True)

    def _is_of_another(self, name: str) -> bool:
        """Return whether a checkpoint has other hyperparameters than the trial.

        Then the driver died before its journal reached the bucket, and the sampler has now suggested something else.
        """
        from raysweep.errors import CheckpointError
        from raysweep.vae.checkpoint import read_checkpoint

        try:
            return read_checkpoint(self.directory.root / name).config != self._order.config
        except CheckpointError:  # damaged: reported when it is restored
            return False

    def _send(self) -> None:
        names = files_below(self.directory, self._trial)
        checkpoints = [name for name in names if checkpoint_epoch(name) is not None]
        pictures = [name for name in names if is_picture(name)]
        epochs = [f"{self._name}/{EPOCHS}"] if self._epochs else []
        for name in [*epochs, *checkpoints, *pictures]:
            path = self.directory.root / name
            found = path.stat()
            if self._sent.get(name) != (found.st_size, found.st_mtime_ns):
                self._remote.write(name, path.read_bytes())
                self._sent[name] = (found.st_size, found.st_mtime_ns)
        for name in self._remote.list(self._name):
            if checkpoint_epoch(name) is not None and name not in checkpoints:
                self._remote.delete(name)


@contextmanager
def with_trial_files(order: TestOrder) -> Iterator[TestOrder]:
    """Yield the order with a local directory that has the trial's checkpoint; then send the new pictures.

    Raises:
        StorageError: if the bucket does not answer.
    """
    if order.origin is None:
        yield order
        return
    directory, remote = SweepDirectory(working_copy(order.origin), order.origin), RemoteDirectory.at(order.origin)
    _patiently(lambda: fetch_checkpoints(directory, remote, order.number))
    before = _pictures(directory, order.number)
    yield replace(order, directory=directory.root)
    after = _pictures(directory, order.number)

    def send() -> None:
        for name, changed in after.items():
            if before.get(name) != changed:
                remote.write(name, (directory.root / name).read_bytes())

    _patiently(send)


def _pictures(directory: SweepDirectory, number: int) -> dict[str, int]:
    """Return the files that a trial has made for the report, with their modification times in ns."""
    names = filter(is_picture, files_below(directory, directory.trial(number)))
    return {name: (directory.root / name).stat().st_mtime_ns for name in names}


def _patiently(work: Callable[[], None]) -> None:
    """Do the work; for up to `PATIENCE_S`, repeat it if the bucket does not answer."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return work()
        except StorageError as error:
            if is_final(error) or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)
