"""The terminal during a sweep: one live display, or plain lines if the output cannot be redrawn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raysweep.clock import timed
from raysweep.metrics import TrialState
from raysweep.profiles import DriverPart
from raysweep.records import TrialRecord
from raysweep.study.status import (
    ENDED,
    SweepStatus,
    epochs_to_come,
    remaining_seconds,
    remaining_test_seconds,
    sweep_status,
)
from raysweep.terminal.printing import ProgressLines, result_text
from raysweep.terminal.views import (
    GAP,
    STATE_STYLES,
    FittingLine,
    duration_text,
    finals_texts,
    param_texts,
)
from raysweep.wording import counted

if TYPE_CHECKING:
    from raysweep.driver.session import Session
    from raysweep.spec.sections import SweepSpec

_REDRAW_S = 0.25
_REDRAW_SHARE = 0.05
"""Largest share of the driver's time for redrawing: with ten thousand trials, reading all of them is slow."""
_FIXED_LINES = 11
"""Lines that the view keeps for everything except the running trials. The terminal would cut a longer view."""


class LiveDisplay:
    """A display that redraws the state of the sweep in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._due = 0.0

    def __enter__(self) -> LiveDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def epoch_done(self, session: Session, record: TrialRecord) -> None:
        self.tick(session)

    def trial_ended(self, session: Session, record: TrialRecord) -> None:
        self.tick(session)

    def trial_tested(self, session: Session, record: TrialRecord) -> None:
        self.tick(session)

    @timed(DriverPart.TERMINAL)
    def tick(self, session: Session) -> None:
        now = time.monotonic()
        if now >= self._due:
            self._live.start()  # on the first tick: until then the bar of the data cache may use the terminal
            self._live.update(_live_view(session, self._console.height), refresh=True)
            self._due = now + max(_REDRAW_S, (time.monotonic() - now) / _REDRAW_SHARE)


class PlainDisplay(ProgressLines):
    """Lines for output that cannot be redrawn: a pipe, a terminal with TERM=dumb, or one shared with a debugger."""

    def __init__(self, console: Console) -> None:
        is_pipe = not console.is_terminal  # which does not wrap lines
        super().__init__(lambda line: console.print(line, highlight=False, markup=False, soft_wrap=is_pipe))

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def _live_view(session: Session, height: int) -> RenderableType:
    """Return what the terminal shows now, for a terminal of `height` lines."""
    records = session.ledger.records()
    spec = session.spec
    status = sweep_status(records, spec)
    head = Table.grid(expand=True)
    head.add_column(ratio=1)
    head.add_column(justify="right")
    at_once = f", {session.slots.trials} at once" if status.trials > 1 else ""
    elapsed = duration_text(time.monotonic() - session.begun)
    head.add_row(
        Text.assemble((spec.name, "bold"), f"  {counted(status.trials, 'trial')}{at_once}"),
        Text(f"{elapsed}{_left(session, status, records)}", style="dim"),
    )
    body = Table.grid(padding=(0, GAP))
    body.add_column(style="dim", no_wrap=True)
    body.add_column()
    body.add_row("trials", _counts(session, status))
    for index, record in enumerate(_leaders(status)):
        body.add_row("" if index else "best", _standing(record, spec, "" if index else "bold green"))
    if status.leader is None:
        body.add_row("best", Text("no result yet", style="dim"))
    saved = f"{counted(status.epochs_saved, 'epoch')} of training, by early stopping ({status.saved_share:.0%})"
    body.add_row("saved", saved)
    bar = ProgressBar(*_training_done(status, records, spec))
    if session.testing:
        done = len(status.finalists) - len(status.untested)
        failed = f", {len(session.untested)} could not be" if session.untested else ""
        of = counted(len(status.finalists), "finalist")
        body.add_row("testing", f"{done} of {of} measured on the test split{failed}")
        for record in [r for r in status.finalists if r.tested is not None][: max(1, height - _FIXED_LINES)]:
            body.add_row("", FittingLine([f"trial {record.number}", *finals_texts(record)]))
        bar = ProgressBar(total=max(1, len(status.finalists)), completed=done)
    else:
        training = [record for record in status.running if record.number in session.training]
        speed = sum(record.last("images_per_s") for record in training if record.epochs)
        if speed:
            body.add_row("speed", f"{speed:,.0f} images/s")
        shown = training[: max(1, height - _FIXED_LINES)]
        for index, record in enumerate(shown):
            body.add_row("running" if index == 0 else "", _running(record, spec))
        if len(training) > len(shown):
            body.add_row("", Text(f"and {len(training) - len(shown)} more", style="dim"))
    if session.stopped_by:
        body.add_row("", Text(f"stopping: {session.stopped_by}", style="bold yellow"))
    return Group(head, Padding(bar, 0), body)


def _training_done(status: SweepStatus, records: Sequence[TrialRecord], spec: SweepSpec) -> tuple[float, float]:
    """Return a sweep's total training and the part done: in trials, or in epochs if trials pause.

    Paused trials would not show the progress, because nearly all of them end together when nothing is left to train.
    """
    if spec.asha is None or not spec.asha.promote:
        of = status.trials + len(status.confirming) + status.to_confirm
        return max(1, of), status.ended + status.confirmed
    return max(1.0, status.epochs_done + epochs_to_come(records, spec)), status.epochs_done


def _left(session: Session, status: SweepStatus, records: Sequence[TrialRecord]) -> str:
    """Return how long the rest of the current phase will take, as text; empty before its first measurement."""
    if session.testing:
        rest = remaining_test_seconds(status, session.slots.count)
    else:
        rest = remaining_seconds(records, session.spec, session.slots.trials)
    if not rest:
        return ""
    return f", about {duration_text(max(1.0, rest))} left"


def _counts(session: Session, status: SweepStatus) -> Text:
    training = sum(record.number in session.training for record in status.running)
    waiting = len(status.running) - training
    parts = [(f"{status.ended} done", "bold")]
    parts += [(f"{n} {s.value}", STATE_STYLES[s]) for s in ENDED if (n := status.by_state.get(s, 0))]
    parts += [(f"{training} running", STATE_STYLES[TrialState.RUNNING])]
    parts += [(f"{len(status.paused)} paused", STATE_STYLES[TrialState.PAUSED])] if status.paused else []
    parts += [(f"{waiting} unfinished", STATE_STYLES[TrialState.INTERRUPTED])] if waiting else []
    parts += [(f"{status.to_do} to do", "dim")] if status.to_do or not status.confirming else []
    if status.confirming or status.to_confirm:
        parts += [(f"{status.confirmed} of {status.confirmed + status.unconfirmed} confirmations", "bold")]
    return Text("  ").join(Text(text, style=style) for text, style in parts)


def _leaders(status: SweepStatus) -> list[TrialRecord]:
    """Return the trial that is ahead now and, if it has not ended, the best ended one."""
    return [record for record in (status.leader, status.best_ended) if record is not None][
        : 1 if status.leader is status.best_ended else 2
    ]


def _standing(record: TrialRecord, spec: SweepSpec, style: str) -> FittingLine:
    epochs = f"epoch {len(record.epochs)}/{record.config.epochs}, {record.state.value}"
    return FittingLine(
        [Text(_result(record, spec), style=style), f"trial {record.number}, {epochs}", *param_texts(record.params)]
    )


def _running(record: TrialRecord, spec: SweepSpec) -> FittingLine:
    number, epoch = Text(f"{record.number:>3}", style="cyan"), f"epoch {len(record.epochs)}/{record.config.epochs}"
    texts = param_texts(record.params) if record.confirms is None else [f"confirms trial {record.confirms}"]
    params = [Text(text, style="dim") for text in texts]
    return FittingLine([number, f"{epoch:<12}", f"{_result(record, spec):<24}", *params])


def _result(record: TrialRecord, spec: SweepSpec) -> str:
    return result_text(record, spec) if record.epochs else "no result yet"
