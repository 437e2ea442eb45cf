"""One trial in its process: what is done for it alone, apart from the training, which it may share.

The trial goes on from its checkpoint. Each epoch's result is stored before it is reported: the checkpoint, the
pictures, and all files in the bucket, if the sweep is in one.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from raysweep.bucket.trialfiles import TrialFiles
from raysweep.clock import PartClock
from raysweep.errors import StorageError
from raysweep.messages import TrialOrder
from raysweep.metrics import EpochMetrics
from raysweep.profiles import SlotPart
from raysweep.storage.layout import SweepDirectory, storage_errors

if TYPE_CHECKING:
    from raysweep.vae.fusing.training import FusedTraining
    from raysweep.vae.training import Training

_log = logging.getLogger("raysweep")


class WorkerTrial:
    """One trial in this process, from when it is handed out until it is over or goes elsewhere."""

    def __init__(self, order: TrialOrder) -> None:
        self.order = order
        self._training: Training | None = None
        self._files: TrialFiles | None = None
        self._known: list[EpochMetrics] = []
        self.notes: tuple[str, ...] = ()
        """Lines logged about it that are not reported yet."""
        self._spent: dict[SlotPart, float] = {}
        self._best: EpochMetrics | None = None
        """Metrics of the best epoch, whose checkpoint is kept beside the last."""

    @property
    def is_open(self) -> bool:
        """True if its trial is among those that the process trains."""
        return self._training is not None

    def open(self, group: Callable[[], FusedTraining], clock: PartClock[SlotPart]) -> None:
        """Add the trial, at its last checkpoint, to the group that this process trains.

        Args:
            group: returns the group; called only once it is sure that the sweep is there.
            clock: the clock of this process.

        Raises:
            StorageError: if the sweep is not there, or cannot be written.
            CheckpointError: if the trial's checkpoint is of another configuration.
            ValueError: if the trial cannot be trained.
        """
        order = self.order
        with clock.at(SlotPart.IMPORTS):
            from raysweep.vae.checkpoint import drop_checkpoints, kept_checkpoint, restore_checkpoint

        if order.origin is not None:
            with clock.at(SlotPart.BUCKET):
                self._files = TrialFiles(order)
        elif not self._directory.holds_a_sweep():
            raise StorageError(
                f"{order.directory}: the sweep is not there on {socket.gethostname()}. If that is another machine "
                "than the driver's, the sweep needs a directory that all of them share under one path, or a "
                "bucket: --output s3://bucket/path; else it was moved, or its disk taken away"
            )
        trial_directory = self._directory.trial(order.number)
        with storage_errors(trial_directory):
            self._directory.trials.mkdir(exist_ok=True)
        for stray in trial_directory.rglob(".*.tmp"):  # of a process that died while writing; no other writes here
            stray.unlink(missing_ok=True)
        opened = group()
        with clock.at(SlotPart.MODEL):
            training = opened.add(order.config)
        self._training = training
        with clock.at(SlotPart.RESTORE):
            restored = restore_checkpoint(trial_directory, training)
            if restored is not None:
                if order.kept_by is not None:
                    self._best = kept_checkpoint(trial_directory, order.kept_by).metrics
                drop_checkpoints(trial_directory, restored.epoch, self._best_epoch)
        if training.epoch < order.epochs_done:
            self._warn_of_lost_checkpoints(training.epoch)
        if restored is not None:
            self._known = [*(self._files.before(restored) if self._files else ()), restored]
            self._draw(restored.epoch, clock)  # the process that wrote the checkpoint may have died before its pictures
            self._send(restored, clock)

    def spend(self, seconds: Mapping[SlotPart, float]) -> None:
        """Add the trial's share of the process's time, by part."""
        for part, more in seconds.items():
            self._spent[part] = self._spent.get(part, 0.0) + more

    def take_told(self) -> dict[str, Any]:
        """Return, and reset, the report fields that cover the time since the last report: seconds spent, and notes."""
        told = {"spent": self._spent, "notes": self.notes}
        self._spent, self.notes = {}, ()
        return told

    def take_known(self) -> EpochMetrics | None:
        """Return the next epoch's result that was trained before and is not reported yet; None if there is none."""
        return self._known.pop(0) if self._known else None

    def keep(self, metrics: EpochMetrics, clock: PartClock[SlotPart]) -> None:
        """Store the epoch that the trial has just trained, unless a loss is not finite.

        Raises:
            StorageError: if it cannot be written.
        """
        if not (math.isfinite(metrics.train_loss) and math.isfinite(metrics.val_loss)):
            return
        from raysweep.vae.checkpoint import save_checkpoint

        assert self._training is not None
        if self._files is not None:
            with clock.at(SlotPart.BUCKET):
                self._files.keep(metrics)
        else:
            self._directory.require_present()  # at the first epoch, too: saving would make the directory again
        kept_by = self.order.kept_by
        # A best epoch after the restored one belongs to epochs that are now trained again.
        if kept_by is not None and (
            self._best is None or self._best.epoch >= metrics.epoch or kept_by.loss(metrics) <= kept_by.loss(self._best)
        ):
            self._best = metrics
        with clock.at(SlotPart.CHECKPOINT):
            save_checkpoint(self._directory.trial(self.order.number), self._training, metrics, self._best_epoch)
        self._draw(metrics.epoch, clock)
        self._send(metrics, clock)

    def leave(self, group: FusedTraining | None) -> None:
        """Take the trial out of the group and end what runs for it."""
        if self._training is not None and group is not None:
            group.discard(self._training)
            self._training = None
        if self._files is not None:
            self._files.close()
            self._files = None

    @property
    def _directory(self) -> SweepDirectory:
        """The sweep's directory on this machine."""
        return self._files.directory if self._files else SweepDirectory(self.order.directory)

    @property
    def _best_epoch(self) -> int | None:
        return None if self._best is None else self._best.epoch

    def _draw(self, epoch: int, clock: PartClock[SlotPart]) -> None:
        """Draw the pictures that are due after an epoch, which is the training's current one."""
        order, directory = self.order, self._directory
        with clock.at(SlotPart.PICTURES):
            from raysweep.worker.pictures import draw_grids, draw_strip

            assert self._training is not None
            if epoch in order.strip_epochs:
                draw_strip(self._training, directory, order.number)
            if epoch in order.picture_epochs:
                draw_grids(self._training, directory, order.number)

    def _send(self, metrics: EpochMetrics, clock: PartClock[SlotPart]) -> None:
        """Send the trial's files to its bucket, if it has one."""
        if self._files is not None:
            with clock.at(SlotPart.BUCKET):
                self._files.send(metrics)

    def _warn_of_lost_checkpoints(self, epoch: int) -> None:
        where = f"the ledger has {self.order.epochs_done} epochs, the newest checkpoint that can be read"
        found = f"is of epoch {epoch}" if epoch else "is none"
        _log.warning("%s %s; what lies between is trained again", where, found)
