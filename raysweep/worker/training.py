"""A worker: it opens the images, takes trials, trains them epoch by epoch, and reports.

Most workers train one trial at a time. A worker that gets several of one shape trains them as one batched model, and
each stays a trial of its own, with its own checkpoints and reports (`WorkerTrial`).

Each result of a trial is an `EpochReport`, and so is an exception. A worker that reported an exception is not used
again, so that later trials get a process, and on a GPU a context, in which nothing has gone wrong.
"""

from __future__ import annotations

import logging
import os
import socket
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from raysweep.clock import PartClock
from raysweep.errors import StorageError
from raysweep.messages import EpochReport, TrialOrder
from raysweep.metrics import EpochMetrics, TrialState
from raysweep.profiles import SlotPart
from raysweep.storage.layout import SweepDirectory
from raysweep.worker.process import Notes, ending_hangs
from raysweep.worker.trial import WorkerTrial

if TYPE_CHECKING:
    from raysweep.vae.fusing.training import FusedTraining
    from raysweep.vae.laps import Laps

_log = logging.getLogger("raysweep")


class Worker:
    """The trials that one process trains, one after another or several together. Knows nothing of Ray."""

    def __init__(
        self, orders: Sequence[TrialOrder], notes: Notes | None = None, gpus: tuple[str, ...] = (),
        process_age_s: float | None = None,
    ) -> None:  # fmt: skip
        """Take the first trials.

        Args:
            notes: keeps what is logged here for the driver; None if the driver is this process.
            gpus: identities of the GPUs that the process has, for reports.
            process_age_s: how old the process is, for the profile.
        """
        self._notes = notes
        self._gpus = gpus
        self._trials: dict[int, WorkerTrial] = {}
        self._group: FusedTraining | None = None
        self._laps: Laps | None = None
        self.has_failed = False
        """True if it has reported an exception; then it must not be used again."""
        if notes is not None:
            logging.getLogger("raysweep").addHandler(notes)
        self.take((), orders)
        self._process_age_s = process_age_s

    @property
    def numbers(self) -> list[int]:
        """The numbers of its trials."""
        return list(self._trials)

    def take(self, over: Iterable[int], orders: Sequence[TrialOrder]) -> None:
        """Let go of the trials that are over and take others.

        The part of this that can fail is done in `step`, which reports a failure.
        """
        leaving = [self._trials.pop(number) for number in over]
        self._trials |= {order.number: WorkerTrial(order) for order in orders}
        self._process_age_s = None
        for trial in leaving:
            trial.leave(self._group)

    def close(self) -> None:
        """Let go of all trials."""
        self.take(self.numbers, ())

    def step(self) -> list[tuple[int, EpochReport]]:
        """Train the next epoch of every trial and return what each reports, by its number."""
        self._clock = PartClock(SlotPart.UNACCOUNTED)
        order = self._first
        self._at_fault = self.numbers
        trained: dict[int, EpochMetrics] = {}
        ending: dict[str, Any] = {}
        try:
            with ending_hangs(order.epoch_timeout_s, SweepDirectory(order.directory).hang(order.number)):
                for number, metrics in self._epochs():
                    trained[number] = metrics
        except StorageError as error:
            ending = {"cause": str(error), "storage_failed": True}
        except Exception as error:  # noqa: BLE001 (whatever a trial raises is its result, traceback included)
            ending = self._failure(error)
        return self._reports(trained, self._at_fault if ending else (), ending)

    def _epochs(self) -> Iterator[tuple[int, EpochMetrics]]:
        """Yield the next epoch of every trial, once it is stored.

        If there are epochs that were trained before and not yet reported, yield these alone.
        """
        for trial in self._trials.values():
            if not trial.is_open:
                self._at_fault = [trial.order.number]
                trial.open(self._opened_group, self._clock)
                trial.notes += self._take_notes()
        known = {number: metrics for number, trial in self._trials.items() if (metrics := trial.take_known())}
        if known:
            yield from known.items()
            return
        self._at_fault = self.numbers
        trained = self._opened_group().run_epoch(self._laps)
        if self._laps is not None:
            for part, seconds in self._laps.take().items():
                self._clock.move(part, seconds)
        for (number, trial), metrics in zip(self._trials.items(), trained, strict=True):
            self._at_fault = [number]
            trial.keep(metrics, self._clock)
            trial.notes += self._take_notes()
            yield number, metrics

    @property
    def _first(self) -> TrialOrder:
        return next(iter(self._trials.values())).order

    def _reports(
        self, trained: dict[int, EpochMetrics], failed: Sequence[int], ending: dict[str, Any]
    ) -> list[tuple[int, EpochReport]]:
        """Return the reports of trials that trained an epoch or failed; all trials share the step's time equally."""
        import torch

        order = self._first
        device = torch.cuda.get_device_name() if order.share.gpu and torch.cuda.is_available() else "cpu"
        spent = self._clock.spent() if order.is_profiled else {}
        trials = len(self._trials)
        for trial in self._trials.values():
            trial.spend({part: seconds / trials for part, seconds in spent.items()})
        age_s = None if self._process_age_s is None else self._process_age_s / trials
        report = EpochReport(None, socket.gethostname(), device, os.getpid(), gpus=self._gpus, process_age_s=age_s)
        came: list[tuple[int, dict[str, Any]]] = [(number, {"metrics": metrics}) for number, metrics in trained.items()]
        came += [(number, ending) for number in failed]
        self._trials[came[0][0]].notes += self._take_notes()  # those of no trial in particular
        return [(number, replace(report, **what, **self._trials[number].take_told())) for number, what in came]

    def _take_notes(self) -> tuple[str, ...]:
        return self._notes.take() if self._notes is not None else ()

    def _failure(self, error: Exception) -> dict[str, Any]:
        import torch

        self.has_failed = True
        state = TrialState.FAILED
        no_memory = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        if no_memory or isinstance(error, MemoryError | torch.OutOfMemoryError):
            state = TrialState.OUT_OF_MEMORY
            self._at_fault = self.numbers  # only one asked for more, but all of them use memory
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        return {"ended": state, "cause": cause, "error": traceback.format_exc()}

    def _opened_group(self) -> FusedTraining:
        """Return the trials that this process trains, with its images; the first call opens the images."""
        if self._group is not None:
            return self._group
        order, clock = self._first, self._clock
        with clock.at(SlotPart.IMPORTS):
            from raysweep.worker import warm

            warm.require()
            import torch

            from raysweep.data.tensors import load_splits
            from raysweep.vae.fusing.training import FusedTraining
            from raysweep.vae.laps import laps_on
            from raysweep.worker.delivery import local_images

        has_gpu = bool(order.share.gpu) and torch.cuda.is_available()
        if order.share.gpu and not has_gpu:
            _log.warning("Ray gives it %g GPU, and torch finds none; it trains on the CPU", order.share.gpu)
        device = torch.device("cuda" if has_gpu else "cpu")
        torch.set_num_threads(order.threads)
        if order.is_profiled:
            self._laps = laps_on(device)
        with clock.at(SlotPart.IMAGES):
            splits = load_splits(local_images(order.images), order.data, device)
        self._group = FusedTraining((), splits.train, splits.validation, device)
        return self._group
