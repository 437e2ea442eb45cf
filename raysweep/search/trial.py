"""One trial as a Ray actor: it opens the data cache, trains epoch by epoch, checkpoints, draws, and reports.

What a trial reports is a value: an `EpochReport`. An exception is one too; the actor that reported it ends itself when
it is asked for more, so that what comes after gets a process, and on a GPU a context, that nothing has gone wrong in.
"""

from __future__ import annotations

import faulthandler
import logging
import math
import os
import socket
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune

from raysweep.clock import PartClock, process_age_s
from raysweep.errors import StorageError
from raysweep.layout import SweepDirectory, storage_errors
from raysweep.metrics import EpochMetrics, TrialState
from raysweep.profiles import SlotPart
from raysweep.search.exchange import EpochReport, TrialOrder
from raysweep.search.outpost import Outpost

REPORT = "report"
"""Key of the `EpochReport` in a result, and of the `TrialOrder` in a trial's configuration."""
ORDER = "order"
_log = logging.getLogger("raysweep")


class TrialFailure(Exception):
    """Ends the actor of a trial that has reported why it cannot go on."""


class Notes(logging.Handler):
    """Keeps what is logged until it goes to the driver: an actor's own output is seen by nobody."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())

    def take(self) -> tuple[str, ...]:
        lines, self._lines = tuple(self._lines), []
        return lines


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """Trains one trial after another: what Tune takes for a trial is a slot, which holds many of raysweep's."""

    def setup(self, config: dict[str, Any]) -> None:
        self._notes = Notes()
        self._raylet = os.getppid()
        self._outpost: Outpost | None = None
        logging.getLogger("raysweep").addHandler(self._notes)
        self.take(config[ORDER])
        self._process_age_s = process_age_s() if self._order.is_profiled else None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.take(new_config[ORDER])
        return True

    def take(self, order: TrialOrder) -> None:
        """Only takes the order: what can fail happens in `step`, where a failure is reported rather than retried."""
        self.cleanup()
        self._order = order
        self._training: Any = None
        self._laps: Any = None
        self._process_age_s = None
        self._resent: list[EpochMetrics] = []
        self._failed = False

    def cleanup(self) -> None:
        if self._outpost is not None:
            self._outpost.close()
            self._outpost = None

    def step(self) -> dict[str, Any]:
        self._clock = PartClock(SlotPart.UNACCOUNTED)
        with self._clock.at(SlotPart.IMPORTS):
            import torch

        order = self._order
        if self._failed:
            raise TrialFailure
        if os.getppid() != self._raylet:  # its node is lost to the cluster, and the trial goes on elsewhere
            os._exit(1)
        try:
            with ending_hangs(order.epoch_timeout_s, SweepDirectory(order.directory).hang(order.number)):
                return {REPORT: self._report(self._next_epoch())}
        except StorageError as error:
            return {REPORT: self._report(None, cause=str(error), storage_failed=True)}
        except (MemoryError, torch.OutOfMemoryError) as error:
            report = self._failure(TrialState.OUT_OF_MEMORY, error)
        except RuntimeError as error:
            no_memory = "can't allocate memory" in str(error)
            report = self._failure(TrialState.OUT_OF_MEMORY if no_memory else TrialState.FAILED, error)
        except Exception as error:  # noqa: BLE001 (whatever a trial raises is its result, traceback included)
            report = self._failure(TrialState.FAILED, error)
        self._failed = True
        return {REPORT: report}

    def _report(self, metrics: EpochMetrics | None, **ending: Any) -> EpochReport:
        import torch

        device = torch.cuda.get_device_name() if self._order.share.gpu and torch.cuda.is_available() else "cpu"
        gpus = tuple(map(str, ray.get_gpu_ids()))
        notes = self._notes.take()
        spent = self._clock.spent() if self._order.is_profiled else {}
        return EpochReport(
            metrics, socket.gethostname(), device, os.getpid(), notes=notes, gpus=gpus, spent=spent,
            process_age_s=self._process_age_s, **ending,
        )  # fmt: skip

    def _failure(self, state: TrialState, error: BaseException) -> EpochReport:
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        return self._report(None, ended=state, cause=cause, error=traceback.format_exc())

    def _next_epoch(self) -> EpochMetrics:
        """The result of the next epoch: of the checkpoint's, re-sent, where there is one; else of a fresh one."""
        order, clock = self._order, self._clock
        with clock.at(SlotPart.IMPORTS):
            from raysweep.vae.checkpoint import restore_checkpoint, save_checkpoint

        if self._resent:
            return self._resent.pop(0)
        if order.origin is not None and self._outpost is None:
            with clock.at(SlotPart.BUCKET):
                self._outpost = Outpost(order)
        trial_directory = self._directory.trial(order.number)
        if self._training is None:
            if order.origin is None and not self._directory.holds_a_sweep():
                raise StorageError(
                    f"{order.directory}: the sweep is not there on {socket.gethostname()}. If that is another machine "
                    "than the driver's, the sweep needs a directory that all of them share under one path, or a "
                    "bucket: --output s3://bucket/path; else it was moved, or its disk taken away"
                )
            with storage_errors(trial_directory):
                self._directory.trials.mkdir(exist_ok=True)
            for stray in trial_directory.rglob(".*.tmp"):  # of a process that died while it wrote; no other writes here
                stray.unlink(missing_ok=True)
            training = self._open()
            with clock.at(SlotPart.RESTORE):
                restored = restore_checkpoint(trial_directory, training)
            self._training = training
            if training.epoch < order.epochs_done:
                self._warn_of_lost_checkpoints(training.epoch)
            if restored is not None:
                self._resent = [*(self._outpost.before(restored) if self._outpost else ()), restored]
                self._draw(restored.epoch)  # the process that wrote the checkpoint may have died before its pictures
                self._send(restored)
                return self._resent.pop(0)
        metrics: EpochMetrics = self._training.run_epoch(self._laps)
        if self._laps is not None:
            for part, seconds in self._laps.take().items():
                clock.move(part, seconds)
        if math.isfinite(metrics.train_loss) and math.isfinite(metrics.val_loss):
            if self._outpost is not None:
                with clock.at(SlotPart.BUCKET):
                    self._outpost.keep(metrics)
            else:
                self._directory.require_present()  # at the first epoch, too, whose directory would be made anew
            with clock.at(SlotPart.CHECKPOINT):
                save_checkpoint(trial_directory, self._training, metrics)
            self._draw(metrics.epoch)
            self._send(metrics)
        return metrics

    def _send(self, metrics: EpochMetrics) -> None:
        """Sends the trial's files to its bucket, if it has one."""
        if self._outpost is not None:
            with self._clock.at(SlotPart.BUCKET):
                self._outpost.send(metrics)

    @property
    def _directory(self) -> SweepDirectory:
        """Where this machine has the sweep."""
        return self._outpost.directory if self._outpost else SweepDirectory(self._order.directory)

    def _draw(self, epoch: int) -> None:
        """Draws the pictures that are due after an epoch, the one the training stands at."""
        order, directory = self._order, self._directory
        with self._clock.at(SlotPart.PICTURES):
            from raysweep.search.pictures import draw_grids, draw_strip

            if epoch in order.strip_epochs:
                draw_strip(self._training, directory, order.number)
            if epoch in order.picture_epochs:
                draw_grids(self._training, directory, order.number)

    def _warn_of_lost_checkpoints(self, epoch: int) -> None:
        where = f"the ledger has {self._order.epochs_done} epochs, the newest checkpoint that can be read"
        found = f"is of epoch {epoch}" if epoch else "is none"
        _log.warning("%s %s; what lies between is trained again", where, found)

    def _open(self) -> Any:
        order, clock = self._order, self._clock
        with clock.at(SlotPart.IMPORTS):
            import torch

            from raysweep.data.tensors import load_splits
            from raysweep.search.delivery import local_images
            from raysweep.vae.laps import laps_on
            from raysweep.vae.training import Training

        has_gpu = bool(order.share.gpu) and torch.cuda.is_available()
        if order.share.gpu and not has_gpu:
            _log.warning("Ray gives it %g GPU, and torch finds none; it trains on the CPU", order.share.gpu)
        device = torch.device("cuda" if has_gpu else "cpu")
        torch.set_num_threads(order.threads)
        if order.is_profiled:
            self._laps = laps_on(device)
        with clock.at(SlotPart.IMAGES):
            splits = load_splits(local_images(order.images), order.data, device)
        with clock.at(SlotPart.MODEL):
            return Training(order.config, splits.train, splits.validation, device)


@contextmanager
def ending_hangs(timeout_s: float | None, stacks: Path) -> Iterator[None]:
    """Ends this process if the block takes longer than `timeout_s`, after writing where each of its threads stands."""

    def end() -> None:
        try:
            stacks.parent.mkdir(parents=True, exist_ok=True)
            with open(stacks, "w") as file:
                faulthandler.dump_traceback(file)
        finally:
            os._exit(1)

    if timeout_s is None:
        yield
        return
    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
