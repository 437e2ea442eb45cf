"""Who watches a sweep that a program started: lines on standard output, the same in a script and in a notebook."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from raysweep.search.status import remaining_seconds, remaining_test_seconds, sweep_status
from raysweep.search.views import (
    causes,
    duration_text,
    finals_text,
    params_text,
    summary_lines,
    value_text,
    what_runs,
)
from raysweep.vae.preflight import summary
from raysweep.wording import counted, to_type

if TYPE_CHECKING:
    from raysweep.records import TrialRecord
    from raysweep.search.review import Sweep
    from raysweep.search.session import Session
    from raysweep.spec import SweepSpec
    from raysweep.vae.preflight import Preflight, Unpredictable

QUIET_S = 30.0
"""After how long without a line one says that it goes on."""
IMAGES_EVERY_S = 5.0


class Printing:
    """One line when a trial ends, one for the very first result, and one in half a minute without either."""

    def __init__(self) -> None:
        self._printed_at = time.monotonic()
        self._spec: SweepSpec | None = None
        self._has_result = False

    def begin(self, spec: SweepSpec, done: int = 0) -> None:
        """Say what runs, of which `done` trials have ended before."""
        self._spec = spec
        before = f", {done} of them done" if done else ""
        self._print(f"{spec.name}  {what_runs(spec)}{before}")

    def images(self, done: int, total: int) -> None:
        """Say how far the data cache is."""
        if time.monotonic() - self._printed_at > IMAGES_EVERY_S:
            self._print(f"data cache: {done:,} of {total:,} images")

    def announce(self, prediction: Preflight | Unpredictable) -> None:
        """Say where collapse is predicted."""
        assert self._spec is not None
        self._print(f"collapse {summary(prediction, self._spec.trial)[0]}")

    def warn(self, warning: str) -> None:
        """Say what may end the sweep early."""
        self._print(f"warning  {warning}")

    def epoch_done(self, session: Session, record: TrialRecord) -> None:
        if not self._has_result:
            self._has_result = True
            self._print(f"trial {record.number}: {_result(record, session.spec)} after epoch {len(record.epochs)}")

    def trial_ended(self, session: Session, record: TrialRecord) -> None:
        epochs = counted(len(record.epochs), "epoch")
        self._print(
            f"trial {record.number} {record.state.value}: {_result(record, session.spec)} after {epochs}; "
            f"{params_text(record.params)}  [{standing_text(session)}]"
        )

    def trial_tested(self, session: Session, record: TrialRecord) -> None:
        status = sweep_status(session.ledger.records(), session.spec)
        done = f"{len(status.finalists) - len(status.untested)}/{len(status.finalists)}"
        self._print(f"trial {record.number} tested: {finals_text(record)} [{done}]")

    def tick(self, session: Session) -> None:
        if time.monotonic() - self._printed_at > QUIET_S:
            begun = sum(record.ended_at is None for record in session.ledger.records())
            self._print(f"... {standing_text(session)}; {begun} under way")

    def idle(self, sweep: Sweep) -> None:
        """Say that nothing was left to do, and how more is done."""
        more = to_type("resume", sweep.directory.address, trials="+10")
        self._print(
            f"{sweep.name}  all {sweep.status().ended} trials have ended; nothing is left to do. Ten more: {more}"
        )

    def conclude(self, sweep: Sweep) -> None:
        """Say what came of it and what to call next."""
        status, place = sweep.status(), sweep.directory.address
        self._print(f"{sweep.name}  {sweep.standing}: {summary_lines(status)}; {status.epochs_done} epochs trained")
        for cause in causes(sweep.records):
            self._print(f"    {cause}")
        if status.best is not None:
            best = status.best
            self._print(f"best     trial {best.number}: {_result(best, sweep.spec)}  {params_text(best.params)}")
            self._print(f"         sweep.best(), sweep.trials(), sweep.export('exported/{sweep.name}')")
        for remark in sweep.remarks():
            self._print(remark)
        if sweep.standing == "stopped":
            by = f"Stopped by {sweep.stopped_by}. " if sweep.stopped_by else ""
            self._print(f"{by}To go on: {to_type('resume', place)}")

    def _print(self, line: str) -> None:
        self._printed_at = time.monotonic()
        print(line, flush=True)  # noqa: T201 (it is what this class is for)


class Silence:
    """Nobody watches."""

    def idle(self, sweep: Sweep) -> None: ...

    def begin(self, spec: SweepSpec, done: int = 0) -> None: ...

    def images(self, done: int, total: int) -> None: ...

    def announce(self, prediction: Preflight | Unpredictable) -> None: ...

    def warn(self, warning: str) -> None: ...

    def epoch_done(self, session: Session, record: TrialRecord) -> None: ...

    def trial_ended(self, session: Session, record: TrialRecord) -> None: ...

    def trial_tested(self, session: Session, record: TrialRecord) -> None: ...

    def tick(self, session: Session) -> None: ...

    def conclude(self, sweep: Sweep) -> None: ...


def standing_text(session: Session) -> str:
    """Say how many trials have ended, or finalists were measured, which trial is ahead, and how long the rest takes."""
    records, spec = session.ledger.records(), session.spec
    status = sweep_status(records, spec)
    parts = [f"{status.ended}/{status.trials}"]
    if status.leader is not None:
        parts.append(f"best trial {status.leader.number}, {_result(status.leader, spec)}")
    rest = remaining_seconds(records, spec, session.slots.trials)
    if session.testing:
        parts.append(f"{len(status.finalists) - len(status.untested)}/{len(status.finalists)} tested")
        rest = remaining_test_seconds(status, session.slots.count)
    if rest:
        parts.append(f"about {duration_text(rest)} left")
    return "; ".join(parts)


def _result(record: TrialRecord, spec: SweepSpec) -> str:
    metric = spec.search.objective.metric
    return f"{metric} {value_text(record.last(metric))}" if record.epochs else "no result"
