"""Lines that report the progress of a sweep: for a program's user, and for a terminal that cannot redraw."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from raysweep.metrics import TrialState
from raysweep.study.status import SweepStatus, remaining_seconds, remaining_test_seconds, sweep_status
from raysweep.terminal.views import (
    causes,
    confirmed_text,
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
    from raysweep.driver.session import Session
    from raysweep.records import TrialRecord
    from raysweep.review.sweep import Sweep
    from raysweep.spec.sections import SweepSpec
    from raysweep.vae.preflight import Preflight, Unpredictable

QUIET_S = 30.0
"""After this many seconds without a line, one says that the sweep goes on."""
IMAGES_EVERY_S = 5.0
_OUTLOOK_SHARE = 0.05
"""Largest share of the driver's time for the outlook in these lines: it reads every epoch of every trial."""
_OUTLOOK_TRIFLE_S = 0.01


class ProgressLines:
    """Lines on the progress of a sweep, one for each event.

    The events are (a) a trial ends, pauses or is tested, (b) the first result, (c) half a minute without a line.

    Args:
        write: prints a line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._written_at = time.monotonic()
        self._has_result = False
        self._outlook_due = 0.0

    def epoch_done(self, session: Session, record: TrialRecord) -> None:
        if record.state is TrialState.PAUSED:
            self._say_state(session, record)
        elif not self._has_result:
            self._say(f"trial {record.number}: {result_text(record, session.spec)} after epoch {len(record.epochs)}")
        self._has_result = True

    def trial_ended(self, session: Session, record: TrialRecord) -> None:
        self._say_state(session, record)

    def _say_state(self, session: Session, record: TrialRecord) -> None:
        """Say how a trial ended, or that it is paused."""
        epochs = counted(len(record.epochs), "epoch")
        standing = _standing(session.ledger.ended, session.spec.trials, len(session.ledger.paused))
        what = params_text(record.params)
        if record.confirms is not None:
            status = sweep_status(session.ledger.records(), session.spec)
            what = f"confirms trial {record.confirms}"
            standing = f"{status.confirmed}/{status.confirmed + status.unconfirmed} confirmations"
        self._say(
            f"trial {record.number} {record.state.value}: {result_text(record, session.spec)} after {epochs}; "
            f"{what}  [{standing}]{self._outlook(session)}"
        )

    def trial_tested(self, session: Session, record: TrialRecord) -> None:
        status = sweep_status(session.ledger.records(), session.spec)
        done = f"{len(status.finalists) - len(status.untested)}/{len(status.finalists)}"
        self._say(f"trial {record.number} tested: {finals_text(record)} [{done}]")

    def tick(self, session: Session) -> None:
        if self._quiet_s > QUIET_S:
            records = session.ledger.records()
            status = sweep_status(records, session.spec)
            begun = sum(record.ended_at is None for record in records) - len(status.paused)
            parts = [_standing(status.ended, status.trials, len(status.paused)), *_outlook(session, status)]
            self._say(f"... {'; '.join([*parts, f'{begun} under way'] if begun else parts)}")

    @property
    def _quiet_s(self) -> float:
        """Seconds since the last line."""
        return time.monotonic() - self._written_at

    def _say(self, line: str) -> None:
        self._written_at = time.monotonic()
        self._write(line)

    def _outlook(self, session: Session) -> str:
        """Say which trial is ahead and how long the rest takes; with thousands of trials only now and then."""
        begun = time.monotonic()
        if begun < self._outlook_due:
            return ""
        text = "; ".join(_outlook(session, sweep_status(session.ledger.records(), session.spec)))
        took = time.monotonic() - begun
        if took > _OUTLOOK_TRIFLE_S:
            self._outlook_due = begun + took / _OUTLOOK_SHARE
        return f"  {text}" if text else ""


class Printing(ProgressLines):
    """All lines that a program's user sees of a sweep: what runs, its progress, and its results."""

    def __init__(self) -> None:
        super().__init__(_print)
        self._spec: SweepSpec | None = None

    def begin(self, spec: SweepSpec, done: int = 0) -> None:
        """Say what runs; `done` trials have ended before."""
        self._spec = spec
        before = f", {done} of them done" if done else ""
        self._say(f"{spec.name}  {what_runs(spec)}{before}")

    def images(self, done: int, total: int) -> None:
        """Say how many images the data cache has."""
        if self._quiet_s > IMAGES_EVERY_S:
            self._say(f"data cache: {done:,} of {total:,} images")

    def announce(self, prediction: Preflight | Unpredictable) -> None:
        """Say where collapse is predicted."""
        assert self._spec is not None
        self._say(f"collapse {summary(prediction, self._spec.trial)[0]}")

    def inform(self, summary: str) -> None:
        """Say what is taken over from an earlier sweep."""
        self._say(f"start from  {summary}")

    def warn(self, warning: str) -> None:
        """Say what may end the sweep early."""
        self._say(f"warning  {warning}")

    def idle(self, sweep: Sweep) -> None:
        """Say that nothing is left to do, and how to add trials."""
        more = to_type("resume", sweep.directory.address, trials="+10")
        self._say(
            f"{sweep.name}  all {sweep.status().ended} trials have ended; nothing is left to do. Ten more: {more}"
        )

    def conclude(self, sweep: Sweep) -> None:
        """Say how the sweep ended and what to call next."""
        status, place = sweep.status(), sweep.directory.address
        self._say(f"{sweep.name}  {sweep.standing}: {summary_lines(status)}; {status.epochs_done} epochs trained")
        for cause in causes(sweep.records):
            self._say(f"    {cause}")
        if status.best is not None:
            best = status.best
            again = confirmed_text(best, sweep.records, sweep.spec)
            result = f"{result_text(best, sweep.spec)}{f', {again}' if again else ''}"
            self._say(f"best     trial {best.number}: {result}  {params_text(best.params)}")
            self._say(f"         sweep.best(), sweep.trials(), sweep.export('exported/{sweep.name}')")
        for remark in sweep.remarks():
            self._say(remark)
        if sweep.standing == "stopped":
            by = f"Stopped by {sweep.stopped_by}. " if sweep.stopped_by else ""
            self._say(f"{by}To go on: {to_type('resume', place)}")


class Silence:
    """An observer that prints nothing."""

    def idle(self, sweep: Sweep) -> None: ...

    def begin(self, spec: SweepSpec, done: int = 0) -> None: ...

    def images(self, done: int, total: int) -> None: ...

    def announce(self, prediction: Preflight | Unpredictable) -> None: ...

    def inform(self, summary: str) -> None: ...

    def warn(self, warning: str) -> None: ...

    def epoch_done(self, session: Session, record: TrialRecord) -> None: ...

    def trial_ended(self, session: Session, record: TrialRecord) -> None: ...

    def trial_tested(self, session: Session, record: TrialRecord) -> None: ...

    def tick(self, session: Session) -> None: ...

    def conclude(self, sweep: Sweep) -> None: ...


def _standing(ended: int, trials: int, paused: int) -> str:
    return f"{ended}/{trials}{f', {paused} paused' if paused else ''}"


def _outlook(session: Session, status: SweepStatus) -> list[str]:
    """Say which trial is ahead, how many finalists were measured, and how long the rest takes."""
    parts = []
    if status.leader is not None:
        parts.append(f"best trial {status.leader.number}, {result_text(status.leader, session.spec)}")
    if session.testing:
        parts.append(f"{len(status.finalists) - len(status.untested)}/{len(status.finalists)} tested")
        rest = remaining_test_seconds(status, session.slots.count)
    else:
        rest = remaining_seconds(session.ledger.records(), session.spec, session.slots.trials)
    if rest:
        parts.append(f"about {duration_text(rest)} left")
    return parts


def result_text(record: TrialRecord, spec: SweepSpec) -> str:
    """Return the objective after the last epoch of a trial, as text."""
    metric = spec.search.objective.metric
    return f"{metric} {value_text(record.last(metric))}" if record.epochs else "no result"


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 (a program that runs a sweep is told so)
