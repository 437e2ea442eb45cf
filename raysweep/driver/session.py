"""One driver at work on a sweep: every report of a trial passes through `Session.receive`, top to bottom."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from raysweep.clock import timed
from raysweep.driver.queue import Queue
from raysweep.driver.retries import Retries
from raysweep.errors import OutputError, RayLost, RaysweepError, StorageError
from raysweep.messages import EpochReport, ImageFile, Share, Slots, TestOrder, TestReport, TrialFault, TrialOrder
from raysweep.metrics import TrialState
from raysweep.profiles import DriverPart
from raysweep.records import TrialRecord, diverged_by
from raysweep.report.parquet import write_parquet
from raysweep.report.tensorboard.projector import MAX_PROJECTED
from raysweep.report.tensorboard.writer import rebuild
from raysweep.search.scheduler import not_among_the_best, pausing_rule, survives
from raysweep.spec.config import TrialConfig, fusion_key
from raysweep.spec.sections import Asha, SweepSpec
from raysweep.storage.layout import SweepDirectory, typed
from raysweep.study.ledger import Ledger
from raysweep.study.status import sweep_status
from raysweep.vae.plateau import stuck_trials
from raysweep.vae.preflight import Preflight, Unpredictable

if TYPE_CHECKING:
    from raysweep.bucket.mirror import Mirror
    from raysweep.report.figures.gallery import Figure
    from raysweep.report.tensorboard.writer import TensorBoardWriter

REPORT_INTERVAL_S = 2.0
"""Least time between two rewrites of the Parquet files while trials run; every session's end writes them too."""

TIME_BUDGET = "the time budget"

STOP_GRACE_S = 4.0
"""How long a session that is to stop waits for the current epochs of its trials."""
START_GRACE_S = 30.0
"""How long a process may take to start; a trial that waits longer is waiting for a machine."""
HANG_GRACE_S = 15.0
"""A hanging process should end itself; this much later it is ended from outside, because a frozen one cannot."""

STRIP_GROWTH = 1.15
"""Rows of reconstructions are one epoch apart at first; later each epoch is this factor times the one before."""

_log = logging.getLogger("raysweep")


class Observer(Protocol):
    """An observer of a session: the terminal."""

    def epoch_done(self, session: Session, record: TrialRecord) -> None: ...

    def trial_ended(self, session: Session, record: TrialRecord) -> None: ...

    def trial_tested(self, session: Session, record: TrialRecord) -> None: ...

    def tick(self, session: Session) -> None: ...


@dataclass
class _Underway:
    """A trial that was handed out and is not back yet."""

    order: TrialOrder
    slot: int
    """The number of the trial that its slot was given first; all trials of one slot have the same."""
    since: float = field(default_factory=time.monotonic)
    """When it was handed out, by the monotonic clock."""
    process: int | None = None
    heard: float | None = None
    """When it started or last reported, by the monotonic clock; None while it waits for a process, or for a machine."""
    epoch_s: float | None = None
    """Duration of its last epoch."""
    hangs: bool = False
    judged: tuple[int, int] | None = None
    """The rung at which it was judged last, and how many trials had reached that rung."""
    failure: EpochReport | None = None
    """Its last report, if it could not go on."""


class Session:
    """The state of one driver: what is still to run, and whether to stop."""

    def __init__(
        self, directory: SweepDirectory, spec: SweepSpec, ledger: Ledger, slots: Slots, images: ImageFile,
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
        self.begun = time.monotonic()
        self.mirror: Mirror | None = None
        """Sends the sweep to its bucket, if it has one."""
        self.testing = False
        """True once training is over and finalists are measured."""
        self.untested: dict[int, str] = {}
        """Finalists whose final metrics could not be measured, and why."""
        self._images = images
        self._writer = writer
        self._prediction = prediction
        self._observer = observer
        self._pausing = pausing_rule(spec)
        self._queue = Queue(ledger, spec)
        self._retries = Retries()
        self._alone: set[int] = set()
        """Trials that are trained alone, because something went wrong when they were trained with others."""
        self._most_fused = math.inf
        """Most trials that a process may train together; lowered when more of them ran out of memory."""
        self._underway: dict[int, _Underway] = {}
        self._stop_at = math.inf
        self._last_report = -math.inf
        self._report_cost_s = 0.0
        self._end_paused()  # the previous driver may have begun this

    def __getstate__(self) -> dict[str, object]:
        """Return nothing to pickle: Tune pickles its searcher and callbacks, but the ledger is what lasts."""
        return {}

    @property
    def remaining(self) -> int:
        """Number of trials that this session has still to hand out."""
        return len(self._queue)

    @property
    def training(self) -> Collection[int]:
        """Numbers of the trials that are handed out. Unfinished ones of an earlier session may still wait."""
        return self._underway.keys()

    @property
    def is_over(self) -> bool:
        """True if the session was stopped, or no trial is, or will be, handed out."""
        return self.stopped_by is not None or not (self._underway or self.remaining)

    def next_order(self, within: Share | None = None, beside: Collection[int] = ()) -> TrialOrder | None:
        """Hand out the next trial: unfinished ones first, then new ones, then those that wait for a larger share.

        Return None if (a) there is none now (one that is out may come back to be tried again), (b) all places are
        taken, or (c) a process has the share `within`, but the next trial needs another share, or an earlier one still
        waits for another share or for a machine. In case (c) the process makes room.

        For a process that trains the trials `beside`, hand out the next one that can be fused with them; None if the
        process has as many as are fused.
        """
        most = self.spec.search.max_concurrent
        if self.stopped_by is not None or (most is not None and len(self._underway) >= most):
            return None
        if beside:
            first = self._underway[next(iter(beside))]
            record = self._next_beside(first) if len(beside) < self._fair_part else None
        elif len({underway.slot for underway in self._underway.values()}) >= self.slots.count:
            return None
        elif within is not None and (within != self._next_share() or self._is_wanted(within)):
            return None
        else:
            first, record = None, self._queue.take()
        if record is None:
            return None
        order = self._order(record)
        self._underway[record.number] = _Underway(order, first.slot if first else record.number)
        return order

    def _next_beside(self, underway: _Underway) -> TrialRecord | None:
        """Return the next trial that can be trained together with one that is out.

        Return None if a trial needs the place: it waits for a larger share of a machine than processes usually have.
        """
        key, share = fusion_key(underway.order.config), self.slots.share
        waits = any(other.heard is None and other.order.share != share for other in self._underway.values())
        if waits or underway.order.number in self._alone or underway.order.share != share:
            return None

        def is_like(number: int, config: TrialConfig) -> bool:
            return number not in self._alone and self._share(number) == share and fusion_key(config) == key

        return self._queue.take_like(is_like, self.slots.fused)

    def _order(self, record: TrialRecord) -> TrialOrder:
        asha = self.spec.asha
        ends = {record.config.epochs, *(asha.rungs(record.config.epochs) if asha else ())}
        return TrialOrder(
            number=record.number,
            config=record.config,
            data=self.spec.data,
            images=self._images,
            directory=self.directory.root,
            picture_epochs=frozenset(ends),
            strip_epochs=strip_epochs(record.config.epochs),
            threads=self.slots.threads,
            share=self._share(record.number),
            epochs_done=len(record.epochs),
            kept_by=self.spec.kept_by,
            epoch_timeout_s=self.spec.search.epoch_timeout,
            origin=self.directory.origin,
        )

    def resize(self, slots: Slots) -> None:
        """Set how many trials may be out at once, from what the machines hold now or may hold later."""
        if slots.trials != self.slots.trials:
            _log.info("trials at once: %d from here on, %d before", slots.trials, self.slots.trials)
        self.slots = slots

    def started(self, number: int) -> None:
        """Note that a trial that was handed out has its process now."""
        underway = self._underway.get(number)
        if underway is not None and underway.heard is None:
            underway.heard = time.monotonic()

    def receive(self, number: int, report: EpochReport) -> bool:
        """Take a trial's report; return True if its process must not train it further."""
        over = self._take(number, report)
        if over:
            self._underway.pop(number, None)
        self._end_paused()
        return over

    def _take(self, number: int, report: EpochReport) -> bool:
        for note in report.notes:
            _log.warning("trial %d on %s: %s", number, report.node, note)
        if report.storage_failed:
            self.stop("a file system that cannot be written", StorageError(report.cause))
            return True
        record = self.ledger.record(number)
        underway = self._underway.get(number)
        if record.ended_at is not None or underway is None:
            return True
        if report.metrics is None:
            underway.failure = report  # its process ends itself next, and then `lose` is called
            return self.stopped_by is not None
        if underway.process != report.pid:
            device = report.device + "".join(f", GPU {gpu}" for gpu in report.gpus)
            _log.info("trial %d trains on %s (%s) in process %d", number, report.node, device, report.pid)
        underway.process, underway.heard, underway.epoch_s = report.pid, time.monotonic(), report.metrics.epoch_s
        is_new = report.metrics.epoch > len(record.epochs)
        record = self.ledger.add_epoch(number, report.metrics, report.node, report.device)
        if is_new:
            self._writer.add_epoch(record)
        verdict = self._verdict(record, is_new)
        # A trial that goes on from a rung may first send that rung's result again, from its checkpoint.
        has_come_further = report.metrics.epoch > underway.order.epochs_done
        pauses = verdict is None and has_come_further and self._pauses(number)
        record = self.ledger.record(number)
        if is_new:
            self._tell(self._observer.epoch_done, record)
        if pauses:
            self._rest(record)
        if verdict is not None:
            self._finish(number, *verdict)
        return verdict is not None or pauses or self.stopped_by is not None

    def lose(self, numbers: Collection[int], fault: TrialFault, cause: str, error: str) -> None:
        """Handle the end of the process that trained these trials.

        If it trained several, and not exactly one reported a failure, we cannot tell which one is at fault. So all go
        on from their checkpoints: (a) if memory was short, with half as many together from then on, because others
        would be too many, too; (b) if the machine was lost, as before; (c) otherwise the suspects train alone, so that
        a fault that repeats belongs to one trial.
        """
        lost = {number: underway for number in numbers if (underway := self._underway.pop(number, None))}
        failed = {number: underway for number, underway in lost.items() if underway.failure}
        stacks = "".join(self._take_stacks(number) for number in lost)
        if self.stopped_by is not None:
            return
        suspects = failed or lost
        others = [number for number in lost if number not in suspects]
        if len(suspects) > 1:
            others = list(lost)
            fault, cause, error = self._judged(next(iter(suspects.values())), fault, cause, error, stacks)
            names = ", ".join(map(str, lost))
            _log.warning("trials %s, trained together: %s; they go on\n%s", names, cause, error.rstrip())
            if fault is TrialFault.OUT_OF_MEMORY:
                self._most_fused = len(lost) // 2
            elif fault is not TrialFault.NODE_LOSS:
                self._alone.update(suspects)
        else:
            for number, underway in suspects.items():
                self._fail(number, *self._judged(underway, fault, cause, error, stacks))
        self._queue.put_back(others)
        self._end_paused()

    def _judged(
        self, underway: _Underway, fault: TrialFault, cause: str, error: str, stacks: str
    ) -> tuple[TrialFault, str, str]:
        """Return the fault that ended a trial's process, with cause and traceback.

        They come from what Ray, the trial and the watch for hanging processes say.
        """
        if underway.failure is not None:
            no_memory = underway.failure.ended is TrialState.OUT_OF_MEMORY
            fault = TrialFault.OUT_OF_MEMORY if no_memory else TrialFault.EXCEPTION
            return fault, underway.failure.cause, underway.failure.error or error
        limit = self.spec.search.epoch_timeout
        since = underway.heard if underway.heard is not None else math.inf
        is_late = limit is not None and time.monotonic() - since >= limit  # on another machine it writes no stacks here
        if limit is not None and fault is TrialFault.DEATH and (underway.hangs or stacks or is_late):
            return TrialFault.HANG, f"no epoch ended within search.epoch_timeout ({limit:g} s)", stacks or error
        return fault, cause, error

    def _take_stacks(self, number: int) -> str:
        """Return and delete the stacks that a trial's process wrote when it ended itself for hanging.

        Return an empty text if there are none.
        """
        path = self.directory.hang(number)
        if not path.exists():
            return ""
        stacks = path.read_text(errors="replace")
        path.unlink()
        return stacks

    def release(self, numbers: Iterable[int]) -> None:
        """Note that a process trains these trials no further, because the session stops."""
        for number in numbers:
            self._underway.pop(number, None)

    def overdue(self) -> list[int]:
        """Mark and return the trials that hang. Their processes are to be ended, and then `lose` is called."""
        found = [
            n
            for n, underway in self._underway.items()
            if underway.heard is not None and self.is_overdue(underway.heard)
        ]
        for number in found:
            self._underway[number].hangs = True
        return found

    def is_overdue(self, since: float) -> bool:
        """Return whether what began at `since` (monotonic clock) should have ended itself for hanging by now."""
        timeout = self.spec.search.epoch_timeout
        return timeout is not None and time.monotonic() - since > timeout + HANG_GRACE_S

    def to_test(self) -> list[int]:
        """Return the numbers of the finalists that have no final metrics yet, the best first."""
        return [record.number for record in sweep_status(self.ledger.records(), self.spec).untested]

    def test_order(self, number: int) -> TestOrder:
        best = sweep_status(self.ledger.records(), self.spec).finalists[:MAX_PROJECTED]
        return TestOrder(
            number=number,
            data=self.spec.data,
            evaluation=self.spec.evaluation,
            images=self._images,
            directory=self.directory.root,
            projected=number in [record.number for record in best],
            threads=self.slots.threads,
            gpu=self.slots.gpu > 0,
            kept_by=self.spec.kept_by,
            timeout_s=self.spec.search.epoch_timeout,
            origin=self.directory.origin,
        )

    def receive_tested(self, number: int, report: TestReport) -> None:
        """Record the final metrics of a trial, or why there are none; `resume` tries such a trial again."""
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
        if self.mirror is not None:
            self.mirror.fetch_trial(number, report.node)
        self._writer.add_tested(record)
        self._tell(self._observer.trial_tested, record)

    def lose_test(self, number: int, fault: TrialFault, cause: str, error: str) -> bool:
        """Handle the end of the process that measured a finalist; return whether to measure it again."""
        stacks = self._take_stacks(number)
        if stacks:
            fault, error, cause = TrialFault.HANG, stacks, "it did not end within search.epoch_timeout"
        if self._retries.allows(number, fault, len(self.ledger.record(number).epochs)):
            _log.warning("test of trial %d: %s; it is done again\n%s", number, cause, error.rstrip())
            return True
        self.receive_tested(number, TestReport(None, "?", cause=f"{cause}, {fault.repeated}", error=error))
        return False

    def lose_ray(self) -> None:
        """Stop because Ray is gone. That is no failure if a signal stops the session: Ray may have died of it."""
        where = self.directory.address
        cause = f"{where}: Ray ended in the middle: its processes were killed, or their machine ran out of memory"
        advice = f"What was done is kept. To go on, type: raysweep resume {typed(self.directory.address)}"
        self.stop("the end of Ray", None if self.signal else RayLost(f"{cause}\n{advice}"))

    def stop(self, reason: str, failure: RaysweepError | None = None, signal: int | None = None) -> None:
        """Ask for the end of the session. Unfinished trials stay unfinished, and `resume` continues them."""
        self.signal = self.signal or signal
        self.stopped_by = self.stopped_by or reason
        self.failure = self.failure or failure
        self._stop_at = min(self._stop_at, time.monotonic() + STOP_GRACE_S)

    def should_stop(self) -> bool:
        """Return whether to end all processes now.

        After `stop` that is true once no trial can still end its epoch within `STOP_GRACE_S`; after a failure, at once.
        """
        budget = self.spec.search.time_budget
        if budget is not None and time.monotonic() - self.begun > budget:
            self.stop(TIME_BUDGET)
        if self.stopped_by is None or self.failure is not None:
            return self.stopped_by is not None
        return time.monotonic() > self._stop_at or not any(
            underway.heard is not None
            and underway.epoch_s is not None
            and underway.heard + underway.epoch_s < self._stop_at
            for underway in self._underway.values()
        )

    def should_stop_testing(self) -> bool:
        """Return whether to stop measuring finalists. A spent time budget only ends training."""
        return self.signal is not None or self.failure is not None or self.stopped_by not in (None, TIME_BUDGET)

    def _tell(self, observe: Callable[..., None], *what: TrialRecord) -> None:
        """Tell the observer. If it cannot show anything any more, stop the session; what is done is kept."""
        try:
            observe(self, *what)
        except OutputError as error:
            self.stop("an error", error)

    def tick(self) -> None:
        self._tell(self._observer.tick)
        if self.mirror is not None and self.mirror.failure is not None:
            self.stop("a bucket that cannot be written", self.mirror.failure)

    def close(self) -> None:
        """Write the report as it is now. Trials that have not ended count as interrupted from here on."""
        for number in list(self._underway):
            self.ledger.pause(number)
        records = [
            replace(r, state=TrialState.INTERRUPTED) if r.state is TrialState.RUNNING else r
            for r in self.ledger.records()
        ]
        pictures_came = self.mirror is not None and self.mirror.fetch_pictures()
        figures, texts = self._compose_report(records)
        self._writer.add_projections(records)
        self._writer.add_figures(figures)
        for tag, markdown in texts.items():
            self._writer.add_text(tag, markdown)
        self._writer.close()
        if pictures_came:
            rebuild(self.directory, self.spec, records, figures, texts)
        self.directory.unreported.unlink(missing_ok=True)

    @timed(DriverPart.REPORT)
    def _compose_report(self, records: list[TrialRecord]) -> tuple[list[Figure], dict[str, str]]:
        from raysweep.report.composition import compose_report
        from raysweep.search.explaining.explain import explain

        critical = self._preflight.critical_weight if self._preflight else None
        stuck = stuck_trials(records, self._preflight)
        return compose_report(self.directory, self.spec, records, stuck, critical, explain(self.spec, records))

    @property
    def _preflight(self) -> Preflight | None:
        """The prediction of collapse, if there is one."""
        return self._prediction if isinstance(self._prediction, Preflight) else None

    def _verdict(self, record: TrialRecord, is_new: bool) -> tuple[TrialState, str] | None:
        """Return how a trial ends at its latest epoch; None if it goes on.

        An epoch that is sent again, from a checkpoint, was judged when it was new, unless the driver died before that.
        """
        metric = self.spec.search.objective.metric
        metrics = record.final
        assert metrics is not None
        name = diverged_by(record.epochs[-1], metric)
        if name is not None:
            return TrialState.DIVERGED, f"{name} was {getattr(metrics, name)} in epoch {metrics.epoch}"
        if metrics.epoch >= record.config.epochs:
            return (
                TrialState.COMPLETED,
                f"all {metrics.epoch} epochs done" if metrics.epoch > 1 else "its one epoch done",
            )
        asha = self.spec.asha if record.confirms is None else None
        if asha is None or asha.promote:
            return None
        rung = max((rung for rung in asha.rungs(record.config.epochs) if rung <= metrics.epoch), default=None)
        if rung is None or not self._is_to_judge(record, rung, asha, is_new):
            return None
        reached = self.ledger.values_at(rung)
        if survives(record.number, reached, asha.reduction_factor, self.spec.search.objective.direction):
            return None
        again = f", judged again after epoch {metrics.epoch}" if metrics.epoch > rung else ""
        return TrialState.PRUNED, f"{not_among_the_best(asha.reduction_factor, len(reached), rung)}{again}"

    def _is_to_judge(self, record: TrialRecord, rung: int, asha: Asha, is_new: bool) -> bool:
        """Return whether to judge a trial now, at the last rung that it has reached.

        It is judged when it arrives there and, with `rejudge`, after a new epoch if others have arrived since.
        """
        underway, arrived = self._underway[record.number], len(self.ledger.values_at(rung))
        is_past = len(record.epochs) > rung
        if is_past and (not asha.rejudge or not is_new or underway.judged == (rung, arrived)):
            return False
        underway.judged = (rung, arrived)
        return True

    def _pauses(self, number: int) -> bool:
        """Pause a trial if it stands on a rung; return whether it stops training.

        Return False if it stands on no rung where trials pause, or if it is the next to go on.
        """
        if not self._queue.pause(number):
            return False
        if self.stopped_by is not None or self._queue.peek() != number:
            return True
        self._queue.take()
        _log.info("trial %d goes on past epoch %d at once", number, len(self.ledger.record(number).epochs))
        return False

    def _rest(self, record: TrialRecord) -> None:
        """Report a trial that has been paused."""
        _log.info("trial %d paused at epoch %d", record.number, len(record.epochs))
        if self.mirror is not None:
            self.mirror.fetch_trial(record.number, record.node)
        self._writer.pause_trial(record)
        self._write_tables()

    def _end_paused(self) -> None:
        """End the paused trials that will not go on."""
        if self._pausing is None or not self.ledger.paused or self.stopped_by is not None:
            return
        for number, cause in self._pausing.ending(self.ledger.values_at, self.ledger.paused, self.is_over):
            self._finish(number, TrialState.PRUNED, cause)
            if self.stopped_by is not None:
                return

    @property
    def _fair_part(self) -> int:
        """Most trials that one slot takes together, so that the other slots get as many."""
        part = math.ceil((self.remaining + len(self._underway)) / self.slots.count)
        return int(min(self._most_fused, self.slots.fused, part))

    def _is_wanted(self, share: Share) -> bool:
        """Return whether a process with this share keeps a waiting trial from getting its process."""
        now = time.monotonic()
        waiting = [underway for underway in self._underway.values() if underway.heard is None]
        return any(underway.order.share != share or now - underway.since > START_GRACE_S for underway in waiting)

    def _next_share(self) -> Share:
        """Return the share of the trial that is handed out next."""
        number = self._queue.peek()
        return self.slots.share if number is None else self._share(number)

    def _share(self, number: int) -> Share:
        enlarged = self.slots.larger if self._retries.is_enlarged(number) else None
        return enlarged or self.slots.share

    def _fail(self, number: int, fault: TrialFault, cause: str, error: str | None) -> None:
        """End a trial because of a fault, or queue it to go on from its last checkpoint."""
        epochs = len(self.ledger.record(number).epochs)
        if fault is TrialFault.OUT_OF_MEMORY:
            share = self._share(number)
            wanted = f"with {share.cpu:g} CPU and {share.gpu:g} GPU"
            if self.slots.larger is None:
                wanted += "; no machine has more for it"
            elif self._retries.enlarges(number):
                larger = self.slots.larger
                _log.warning("trial %d ran out of memory %s: %s; it goes on later with %g CPU and %g GPU",
                             number, wanted, cause, larger.cpu, larger.gpu)  # fmt: skip
                self._queue.put_last(number)
                return
            self._finish(number, TrialState.OUT_OF_MEMORY, f"{cause} ({wanted})", error)
        elif self._retries.allows(number, fault, epochs):
            said = f"\n{error.rstrip()}" if error else ""
            _log.warning("trial %d: %s; it goes on from epoch %d%s", number, cause, epochs, said)
            self._queue.put_back([number])
        else:
            self._finish(number, TrialState.FAILED, f"{cause}, {fault.repeated}", error)

    def _finish(self, number: int, state: TrialState, cause: str, error: str | None = None) -> None:
        record = self.ledger.finish(number, state, cause, error)
        _log.info("trial %d %s: %s", number, state.value, cause)
        if self.mirror is not None:
            self.mirror.fetch_trial(number, record.node)
        self._writer.finish_trial(record)
        self._tell(self._observer.trial_ended, record)
        self._write_tables()

    def _write_tables(self) -> None:
        """Write the Parquet files as they now are, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._last_report > max(REPORT_INTERVAL_S, 20 * self._report_cost_s):
            records = self.ledger.records()
            write_parquet(self.directory, records, self.spec, stuck_trials(records, self._preflight))
            self._last_report = time.monotonic()
            self._report_cost_s = self._last_report - now


def strip_epochs(epochs: int) -> frozenset[int]:
    """Return the epochs after which a trial draws a row of reconstructions.

    They are the first ten, then fewer and fewer, and the last.
    """
    chosen = [1]
    while chosen[-1] < epochs:
        chosen.append(min(epochs, max(chosen[-1] + 1, round(chosen[-1] * STRIP_GROWTH))))
    return frozenset(chosen)
