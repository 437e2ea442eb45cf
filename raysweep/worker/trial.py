"""The actor that trains: it opens the images, seats the trials it is given, trains them epoch by epoch, and reports.

Most processes train one trial at a time. One that is given several of one shape trains them as one batched model, and
each stays a trial of its own: its seat has its checkpoints, and it reports for itself.

What a trial reports is a value: an `EpochReport`. An exception is one too; the actor that reported it ends itself when
it is asked for more, so that what comes after gets a process, and on a GPU a context, that nothing has gone wrong in.
"""

from __future__ import annotations

import logging
import os
import socket
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from raysweep.clock import PartClock, process_age_s
from raysweep.errors import StorageError
from raysweep.messages import EpochReport, TrialOrder
from raysweep.metrics import EpochMetrics, TrialState
from raysweep.profiles import SlotPart
from raysweep.storage.layout import SweepDirectory
from raysweep.vae.cpu.allocator import keep_freed_memory
from raysweep.worker.process import Notes, ending_hangs
from raysweep.worker.seat import Seat

if TYPE_CHECKING:
    from raysweep.vae.fusing.training import FusedTraining
    from raysweep.vae.laps import Laps

REPORTS = "reports"
"""Key of the `EpochReport`s of a result, each with the number of its trial; no mapping, for Tune flattens those."""
ORDERS = "orders"
"""Key of the `TrialOrder`s that a process begins with."""
_log = logging.getLogger("raysweep")


class TrialFailure(Exception):
    """Ends the actor of a trial that has reported why it cannot go on."""


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """Trains trials, one after another or several together: what Tune takes for a trial is a slot, which holds them."""

    def setup(self, config: dict[str, Any]) -> None:
        keep_freed_memory()
        self._notes = Notes()
        self._raylet = os.getppid()
        self._seats: dict[int, Seat] = {}
        self._group: FusedTraining | None = None
        self._laps: Laps | None = None
        self._failed = False
        logging.getLogger("raysweep").addHandler(self._notes)
        self.take((), config[ORDERS])
        self._process_age_s = process_age_s() if config[ORDERS][0].is_profiled else None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.take(list(self._seats), new_config[ORDERS])
        return True

    def take(self, over: Iterable[int], orders: Sequence[TrialOrder]) -> None:
        """Lets go of the trials that are over and seats others. What can fail of it happens in `step`, which reports
        a failure rather than have it retried.
        """
        leaving = [self._seats.pop(number) for number in over]
        self._seats |= {order.number: Seat(order) for order in orders}
        self._process_age_s = None
        for seat in leaving:
            seat.leave(self._group)

    def cleanup(self) -> None:
        self.take(list(self._seats), ())

    def step(self) -> dict[str, Any]:
        self._clock = PartClock(SlotPart.UNACCOUNTED)
        if self._failed:
            raise TrialFailure
        if os.getppid() != self._raylet:  # its node is lost to the cluster, and its trials go on elsewhere
            os._exit(1)
        order = self._first
        self._at_fault = list(self._seats)
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
        return {REPORTS: self._reports(trained, self._at_fault if ending else (), ending)}

    def _epochs(self) -> Iterator[tuple[int, EpochMetrics]]:
        """The next epoch of every trial, once it is safe. Those that were trained before come first, without others."""
        for seat in self._seats.values():
            if not seat.is_open:
                self._at_fault = [seat.order.number]
                seat.open(self._opened_group, self._clock)
                seat.notes += self._notes.take()
        known = {number: metrics for number, seat in self._seats.items() if (metrics := seat.take_known())}
        if known:
            yield from known.items()
            return
        self._at_fault = list(self._seats)
        trained = self._opened_group().run_epoch(self._laps)
        if self._laps is not None:
            for part, seconds in self._laps.take().items():
                self._clock.move(part, seconds)
        for (number, seat), metrics in zip(self._seats.items(), trained, strict=True):
            self._at_fault = [number]
            seat.keep(metrics, self._clock)
            seat.notes += self._notes.take()
            yield number, metrics

    @property
    def _first(self) -> TrialOrder:
        return next(iter(self._seats.values())).order

    def _reports(
        self, trained: dict[int, EpochMetrics], failed: Sequence[int], ending: dict[str, Any]
    ) -> list[tuple[int, EpochReport]]:
        """Of each trial that trained an epoch, and of each that failed; all that are seated share the step's time."""
        import torch

        order = self._first
        device = torch.cuda.get_device_name() if order.share.gpu and torch.cuda.is_available() else "cpu"
        gpus = tuple(map(str, ray.get_gpu_ids()))
        spent = self._clock.spent() if order.is_profiled else {}
        seats = len(self._seats)
        for seat in self._seats.values():
            seat.spend({part: seconds / seats for part, seconds in spent.items()})
        age_s = None if self._process_age_s is None else self._process_age_s / seats
        report = EpochReport(None, socket.gethostname(), device, os.getpid(), gpus=gpus, process_age_s=age_s)
        came: list[tuple[int, dict[str, Any]]] = [(number, {"metrics": metrics}) for number, metrics in trained.items()]
        came += [(number, ending) for number in failed]
        self._seats[came[0][0]].notes += self._notes.take()  # of what is no one's in particular
        return [(number, replace(report, **what, **self._seats[number].take_told())) for number, what in came]

    def _failure(self, error: Exception) -> dict[str, Any]:
        import torch

        self._failed = True
        state = TrialState.FAILED
        no_memory = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        if no_memory or isinstance(error, MemoryError | torch.OutOfMemoryError):
            state = TrialState.OUT_OF_MEMORY
            self._at_fault = list(self._seats)  # whoever asked for more, all of them have taken it
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        return {"ended": state, "cause": cause, "error": traceback.format_exc()}

    def _opened_group(self) -> FusedTraining:
        """The trials that this process trains, over its images, which are opened at the first."""
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
