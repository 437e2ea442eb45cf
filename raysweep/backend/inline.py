"""Training in the driver's own process, one trial at a time, without Ray.

It is for debugging, and for machines where Ray cannot run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from raysweep.backend.resources import fit, local_nodes
from raysweep.clock import timed
from raysweep.data.cachefile import open_cache
from raysweep.driver.session import Session
from raysweep.errors import RaysweepError
from raysweep.messages import EpochReport, ImageFile, Slots, TrialFault, TrialOrder
from raysweep.metrics import TrialState
from raysweep.profiles import DriverPart
from raysweep.spec.sections import SweepSpec
from raysweep.worker.measuring import measure
from raysweep.worker.training import Worker

DEBUGGER_LEFT = "BdbQuit"
"""Beginning of a trial's cause of failure if the user typed `q` at the debugger."""


class InlineBackend:
    """Trains in this process. `search.epoch_timeout` does nothing: it would end the driver, and debugging takes long.

    See `raysweep.driver.backends.Backend`.
    """

    def require(self) -> None:
        """Do nothing: there is no cluster."""

    def opened(
        self, spec: SweepSpec, trials: int, *, log: Path | None = None, warn: Callable[[str], None] | None = None
    ) -> AbstractContextManager[None]:
        return nullcontext()

    def slots(self, spec: SweepSpec) -> Slots:
        return replace(fit(spec, local_nodes()), count=1, fused=1, larger=None)

    def machines(self) -> list[dict[str, float]]:
        return local_nodes()

    def image_file(self, cache: Path, origin: str | None) -> ImageFile:
        info = open_cache(cache).info
        return ImageFile(cache, info.dataset, info.checksum, cache.stat().st_size, None, origin)

    @timed(DriverPart.LOOP)
    def train(self, session: Session) -> None:
        worker: Worker | None = None
        while not (session.should_stop() or session.is_over):
            try:
                order = session.next_order()
            except RaysweepError as error:
                session.stop("an error", error)
                return
            assert order is not None, "with no trial handed out, the next one waits for none"
            order = replace(order, epoch_timeout_s=None)
            if worker is None:
                worker = Worker([order])
            else:
                worker.take((), [order])
            session.started(order.number)
            if not _train_one(session, worker, order):
                worker = None

    @timed(DriverPart.LOOP)
    def test(self, session: Session) -> None:
        session.testing = True
        for number in session.to_test():
            if session.should_stop_testing():
                return
            session.receive_tested(number, measure(replace(session.test_order(number), timeout_s=None)))
            session.tick()


def _train_one(session: Session, worker: Worker, order: TrialOrder) -> bool:
    """Train a trial as long as the session wants it; return whether the worker can take another one."""
    is_over = False
    while not is_over:
        ((number, report),) = worker.step()
        try:
            is_over = session.receive(number, report)
            if worker.has_failed:
                session.lose([number], *_what_happened(report), report.error or "")
                is_over = True
            session.tick()
        except RaysweepError as error:
            session.stop("an error", error)
        if report.cause.startswith(DEBUGGER_LEFT):
            session.stop("the end of the debugger")
        if session.should_stop():
            session.release([number])
            is_over = True
    worker.take([order.number], ())
    return not worker.has_failed


def _what_happened(report: EpochReport) -> tuple[TrialFault, str]:
    no_memory = report.ended is TrialState.OUT_OF_MEMORY
    return TrialFault.OUT_OF_MEMORY if no_memory else TrialFault.EXCEPTION, report.cause
