"""One driver at work on a sweep: every report of a trial passes through `Session.receive`, top to bottom."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from raysweep.errors import RaysweepError, StorageError
from raysweep.layout import SweepDirectory
from raysweep.metrics import TrialState
from raysweep.records import TrialRecord
from raysweep.report.parquet import write_parquet
from raysweep.report.tensorboard.projector import MAX_PROJECTED
from raysweep.report.tensorboard.writer import FINDINGS_TAG
from raysweep.search.exchange import EpochReport, TestOrder, TestReport, TrialOrder
from raysweep.search.ledger import Ledger
from raysweep.search.resources import Slots
from raysweep.search.review import Sweep
from raysweep.search.scheduler import survives
from raysweep.search.status import sweep_status
from raysweep.spec import SweepSpec
from raysweep.vae.preflight import Preflight, Unpredictable

if TYPE_CHECKING:
    from pathlib import Path

    from raysweep.report.tensorboard.writer import TensorBoardWriter

REPORT_INTERVAL_S = 2.0
"""Least time between two rewrites of the Parquet files while trials run; they are also written at every end."""

TIME_BUDGET = "the time budget"

STRIP_GROWTH = 1.15
"""Rows of reconstructions follow each other by one epoch at first, later by this factor."""

_log = logging.getLogger("raysweep")


class Observer(Protocol):
    """Who watches a session: the terminal."""

    def epoch_done(self, session: Session, record: TrialRecord) -> None: ...

    def trial_ended(self, session: Session, record: TrialRecord) -> None: ...

    def trial_tested(self, session: Session, record: TrialRecord) -> None: ...

    def tick(self, session: Session) -> None: ...


class Session:
    """The state of one driver: what is still to run, and whether to stop."""

    def __init__(
        self, directory: SweepDirectory, spec: SweepSpec, ledger: Ledger, slots: Slots, cache: Path,
        writer: TensorBoardWriter, observer: Observer, prediction: Preflight | Unpredictable | None = None,
    ) -> None:  # fmt: skip
        self.directory = directory
        self.spec = spec
        self.ledger = ledger
        self.slots = slots
        self.stopped_by: str | None = None
        self.signal: int | None = None
        """Number of the signal that stopped the session, if one did."""
        self.failure: RaysweepError | None = None
        self.started = time.monotonic()
        self.untested: dict[int, str] = {}
        """Finalists whose final metrics could not be measured, and why."""
        self._cache = cache
        self._writer = writer
        self._prediction = prediction
        self._observer = observer
        self._unfinished = ledger.unfinished()
        self._to_ask = max(0, spec.trials - len(ledger.records()))
        self._processes: dict[int, int] = {}
        self._last_report = -math.inf
        self._report_cost_s = 0.0

    def __getstate__(self) -> dict[str, object]:
        """Nothing: Tune pickles the searcher and the callbacks it is given, and the ledger is what lasts."""
        return {}

    @property
    def remaining(self) -> int:
        """Trials that this session is still to hand out."""
        return len(self._unfinished) + self._to_ask

    def next_order(self) -> TrialOrder | None:
        """The next trial to train, unfinished ones first; None when all are handed out."""
        if self._unfinished:
            record = self.ledger.complete_point(self._unfinished.pop(0))
        elif self._to_ask:
            self._to_ask -= 1
            record = self.ledger.ask()
        else:
            return None
        asha = self.spec.asha
        ends = {record.config.epochs, *(asha.rungs(record.config.epochs) if asha else ())}
        return TrialOrder(
            number=record.number,
            config=record.config,
            data=self.spec.data,
            cache=self._cache,
            directory=self.directory.root,
            picture_epochs=frozenset(ends),
            strip_epochs=strip_epochs(record.config.epochs),
            threads=self.slots.threads,
            gpu=self.slots.gpu > 0,
        )

    def receive(self, number: int, report: EpochReport) -> bool:
        """Takes what a trial reports. True if the trial is over."""
        for note in report.notes:
            _log.warning("trial %d on %s: %s", number, report.node, note)
        if report.storage_failed:
            self.stop("a file system that cannot be written", StorageError(report.cause))
            return True
        record = self.ledger.record(number)
        if record.ended_at is not None:
            return True
        if report.metrics is None:
            assert report.ended is not None
            self._finish(number, report.ended, report.cause, report.error)
            return True
        if self._processes.get(number) != report.pid:
            self._processes[number] = report.pid
            _log.info("trial %d trains on %s (%s) in process %d", number, report.node, report.device, report.pid)
        is_new = report.metrics.epoch > len(record.epochs)
        record = self.ledger.add_epoch(number, report.metrics, report.node, report.device)
        if is_new:
            self._writer.add_epoch(record)
            self._observer.epoch_done(self, record)
        verdict = self._verdict(record)
        if verdict is not None:
            self._finish(number, *verdict)
        return verdict is not None

    def to_test(self) -> list[int]:
        """Numbers of the finalists that have no final metrics yet, the best first."""
        return [record.number for record in sweep_status(self.ledger.records(), self.spec).untested]

    def test_order(self, number: int) -> TestOrder:
        best = sweep_status(self.ledger.records(), self.spec).finalists[:MAX_PROJECTED]
        return TestOrder(
            number=number,
            data=self.spec.data,
            evaluation=self.spec.evaluation,
            cache=self._cache,
            directory=self.directory.root,
            projected=number in [record.number for record in best],
            threads=self.slots.threads,
            gpu=self.slots.gpu > 0,
        )

    def receive_tested(self, number: int, report: TestReport) -> None:
        """Takes the final metrics of a trial, or why there are none: such a trial is tried again by `resume`."""
        for note in report.notes:
            _log.warning("trial %d on %s: %s", number, report.node, note)
        if report.storage_failed:
            self.stop("a file system that cannot be written", StorageError(report.cause))
            return
        if report.metrics is None:
            self.untested[number] = report.cause
            _log.error("trial %d could not be tested on %s: %s\n%s", number, report.node, report.cause, report.error)
            return
        record = self.ledger.add_tested(number, report.metrics)
        _log.info("trial %d tested on %s in %.1f s", number, report.node, report.metrics.measured_s)
        self._writer.add_tested(record)
        self._observer.trial_tested(self, record)

    def lose(self, number: int, state: TrialState, cause: str, error: str) -> None:
        """Ends a trial whose actor died more often than is retried."""
        if self.ledger.record(number).ended_at is None:
            self._finish(number, state, cause, error)

    def stop(self, reason: str, failure: RaysweepError | None = None, signal: int | None = None) -> None:
        """Asks for the end of the session; unfinished trials stay so and `resume` takes them up."""
        self.signal = self.signal or signal
        self.stopped_by = self.stopped_by or reason
        self.failure = self.failure or failure

    def should_stop(self) -> bool:
        budget = self.spec.search.time_budget
        if budget is not None and time.monotonic() - self.started > budget:
            self.stop(TIME_BUDGET)
        return self.stopped_by is not None

    def should_stop_testing(self) -> bool:
        """Whether finalists must not be measured any more; a spent time budget only ends training."""
        return self.signal is not None or self.failure is not None or self.stopped_by not in (None, TIME_BUDGET)

    def tick(self) -> None:
        self._observer.tick(self)

    def close(self) -> None:
        """Writes the report as it now is: trials that have not ended are interrupted from here on."""
        records = [
            replace(r, state=TrialState.INTERRUPTED) if r.state is TrialState.RUNNING else r
            for r in self.ledger.records()
        ]
        prediction = self._prediction if isinstance(self._prediction, Preflight) else None
        figures, findings = Sweep(self.directory, self.spec, records, False, prediction).write_pages()
        self._writer.add_projections(records)
        self._writer.add_figures(figures)
        if findings is not None:
            self._writer.add_text(FINDINGS_TAG, findings)
        self._writer.close()

    def _verdict(self, record: TrialRecord) -> tuple[TrialState, str] | None:
        """How a trial ends at its latest epoch; None if it goes on."""
        metric = self.spec.search.objective.metric
        metrics = record.final
        assert metrics is not None
        for name in ("train_loss", "val_loss", metric):
            if not math.isfinite(getattr(metrics, name)):
                return TrialState.DIVERGED, f"{name} was {getattr(metrics, name)} in epoch {metrics.epoch}"
        if metrics.epoch >= record.config.epochs:
            return TrialState.COMPLETED, f"all {metrics.epoch} epochs done"
        asha = self.spec.asha
        if asha is not None and metrics.epoch in asha.rungs(record.config.epochs):
            rung = self.ledger.values_at(metrics.epoch)
            if not survives(record.number, rung, asha.reduction_factor, self.spec.search.objective.direction):
                share = f"the best 1/{asha.reduction_factor} of the {len(rung)} trials that had reached it"
                return TrialState.PRUNED, f"not among {share} at epoch {metrics.epoch}"
        return None

    def _finish(self, number: int, state: TrialState, cause: str, error: str | None = None) -> None:
        record = self.ledger.finish(number, state, cause, error)
        _log.info("trial %d %s: %s", number, state.value, cause)
        self._writer.finish_trial(record)
        self._observer.trial_ended(self, record)
        now = time.monotonic()
        if now - self._last_report > max(REPORT_INTERVAL_S, 20 * self._report_cost_s):
            write_parquet(self.directory, self.ledger.records(), self.spec)
            self._last_report = time.monotonic()
            self._report_cost_s = self._last_report - now


def strip_epochs(epochs: int) -> frozenset[int]:
    """Epochs after which a trial draws a row of reconstructions: the first ten, then ever more rarely, and the last."""
    chosen = [1]
    while chosen[-1] < epochs:
        chosen.append(min(epochs, max(chosen[-1] + 1, round(chosen[-1] * STRIP_GROWTH))))
    return frozenset(chosen)
