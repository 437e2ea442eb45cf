"""raysweep as a searcher: its own session, ledger, queue, sampler and stopping rule, without Ray and without images."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from raysweep.driver.session import Session
from raysweep.messages import EpochReport, ImageFile, Slots
from raysweep.metrics import EpochMetrics
from raysweep.report.tensorboard.writer import TensorBoardWriter
from raysweep.search.past import PastSweep
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import Scalar
from raysweep.storage.layout import SweepDirectory
from raysweep.study.ledger import Ledger
from searching.problems import changed_spec
from searching.simulation import Job

STOPPING = {"promote": False, "rejudge": True}
STOPPING_ONCE = {"promote": False, "rejudge": False}
PROMOTING = {"promote": True}
"""Forms of raysweep's early stopping, as `search.early_stopping.asha` has them."""
TRIALS = 100_000
"""More than any budget of epochs has."""


class Silent:
    """Stands in for the terminal and for TensorBoard: the session tells them, and decides nothing by them."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


class Raysweep:
    """Drives a `Session` as a driver does; only the trainings behind its orders are simulated."""

    def __init__(
        self, spec: SweepSpec, workers: int, seed: int, sampler: str, rule: Mapping[str, bool],
        past: tuple[PastSweep, ...] = (), prior: Mapping[str, Scalar] | None = None,
    ) -> None:  # fmt: skip
        search: dict[str, Any] = {"trials": TRIALS, "seed": seed, "enqueue": [], "fuse": "off", "sampler": sampler}
        if prior:
            search["prior"] = dict(prior)
        search["early_stopping"] = {"asha": dict(rule)}
        self._spec = changed_spec(spec, {"search": search})
        self._sign = 1.0 if spec.search.objective.direction == "max" else -1.0
        memory = "/dev/shm"
        self._place = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
        directory = SweepDirectory(self._place)
        directory.report.mkdir()
        silent = cast(Any, Silent())
        ledger = Ledger.create(directory, self._spec)
        ledger.start_from(past)
        self._session = Session(
            directory, self._spec, ledger, Slots(1.0, 0.0, workers),
            ImageFile(self._place, "none", "0" * 64, 0), cast(TensorBoardWriter, silent), silent,
        )  # fmt: skip

    def next_job(self) -> Job | None:
        order = self._session.next_order()
        if order is None:
            return None
        self._session.started(order.number)
        return Job(order.number, dict(self._session.ledger.record(order.number).params), order.epochs_done)

    def report(self, trial: int, epoch: int, value: float) -> bool:
        metric = self._spec.search.objective.metric
        report = EpochReport(measured(epoch, metric, self._sign * value), "simulated", "cpu", os.getpid())
        return not self._session.receive(trial, report)

    def close(self) -> None:
        shutil.rmtree(self._place)


def measured(epoch: int, metric: str, value: float) -> EpochMetrics:
    """Return the metrics of an epoch of which only the objective matters."""
    others: dict[str, Any] = {
        "train_loss": 0.0, "val_loss": 0.0, "elbo_nats": 0.0, "bits_per_dim": 0.0, "rate_nats": 1.0,
        "distortion_nats": 0.0, "mse": 0.0, "psnr_db": 0.0, "r2": 1.0, "active_units": 1, "collapsed": False,
        "images_per_s": 1.0, "epoch_s": 1.0,
    }  # fmt: skip
    return EpochMetrics(**{**others, "epoch": epoch, metric: value})
