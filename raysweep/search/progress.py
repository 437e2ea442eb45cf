"""The terminal during a sweep: one live display, or plain lines where the output is no terminal."""

from __future__ import annotations

import time
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
from raysweep.search.status import ENDED, SweepStatus, remaining_seconds, sweep_status
from raysweep.search.views import STATE_STYLES, count_text, duration_text, finals_text, params_text, value_text

if TYPE_CHECKING:
    from raysweep.search.session import Session
    from raysweep.spec import SweepSpec

_REDRAW_S = 0.25
_REDRAW_SHARE = 0.05
"""Most of the driver's time that redrawing takes: with ten thousand trials a look at all of them is no trifle."""


class LiveDisplay:
    """Redraws the state of the sweep in place."""

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
            self._live.start()  # on the first tick: until then the bar of the data cache may have the terminal
            self._live.update(_live_view(session), refresh=True)
            self._due = now + max(_REDRAW_S, (time.monotonic() - now) / _REDRAW_SHARE)


class PlainDisplay:
    """One line when a trial ends, and one for the very first result."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._first = True

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def epoch_done(self, session: Session, record: TrialRecord) -> None:
        if self._first:
            self._first = False
            self._print(f"trial {record.number}: {_result(record, session.spec)} after epoch 1")

    def trial_ended(self, session: Session, record: TrialRecord) -> None:
        count = f"[{session.ledger.ended}/{session.spec.trials}]"
        self._print(
            f"trial {record.number} {record.state.value}: {_result(record, session.spec)} after "
            f"{count_text(len(record.epochs), 'epoch')}; {params_text(record.params)} {count}"
        )

    def trial_tested(self, session: Session, record: TrialRecord) -> None:
        status = sweep_status(session.ledger.records(), session.spec)
        done = f"{len(status.finalists) - len(status.untested)}/{len(status.finalists)}"
        self._print(f"trial {record.number} tested: {finals_text(record)} [{done}]")

    def tick(self, session: Session) -> None:
        return None

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _live_view(session: Session) -> RenderableType:
    records = session.ledger.records()
    spec = session.spec
    status = sweep_status(records, spec)
    elapsed = time.monotonic() - session.begun
    rest = remaining_seconds(records, spec, session.slots.trials)

    head = Table.grid(expand=True)
    head.add_column(ratio=1)
    head.add_column(justify="right")
    left = f", about {duration_text(rest)} left" if rest is not None else ""
    head.add_row(
        Text.assemble((spec.name, "bold"), f"  {count_text(status.trials, 'trial')}, {session.slots.trials} at once"),
        Text(f"{duration_text(elapsed)}{left}", style="dim"),
    )
    body = Table.grid(padding=(0, 2))
    body.add_column(style="dim", no_wrap=True)
    body.add_column()
    body.add_row("trials", _counts(status))
    body.add_row("best", _best(status, spec))
    saved = f"{count_text(status.epochs_saved, 'epoch')} of training saved by early stopping ({status.saved_share:.0%})"
    body.add_row("saved", saved)
    body.add_row("speed", f"{status.images_per_s:,.0f} images/s")
    for index, record in enumerate(status.running):
        epoch = f"epoch {len(record.epochs)}/{record.config.epochs}"
        text = Text.assemble(
            (f"{record.number:>3}", "cyan"), f"  {epoch:<12}  {_result(record, spec):<24}  ",
            (params_text(record.params), "dim"),
        )  # fmt: skip
        text.no_wrap, text.overflow = True, "ellipsis"
        body.add_row("running" if index == 0 else "", text)
    if status.ended >= status.trials:
        done = len(status.finalists) - len(status.untested)
        body.add_row("testing", f"{done} of {count_text(len(status.finalists), 'finalist')} measured on the test split")
    if session.stopped_by:
        body.add_row("", Text(f"stopping: {session.stopped_by}", style="bold yellow"))
    bar = Padding(ProgressBar(total=max(1, status.trials), completed=status.ended), 0)
    return Group(head, bar, body)


def _counts(status: SweepStatus) -> Text:
    parts = [(f"{status.ended} done", "bold")]
    parts += [(f"{n} {s.value}", STATE_STYLES[s]) for s in ENDED if (n := status.by_state.get(s, 0))]
    parts += [(f"{len(status.running)} running", STATE_STYLES[TrialState.RUNNING])]
    parts += [(f"{status.to_do} to do", "dim")]
    return Text("  ").join(Text(text, style=style) for text, style in parts)


def _best(status: SweepStatus, spec: SweepSpec) -> Text:
    if status.best is None:
        return Text("no result yet", style="dim")
    record = status.best
    return Text.assemble(
        (_result(record, spec), "bold green"), f"  trial {record.number}, epoch {len(record.epochs)}  ",
        params_text(record.params),
    )  # fmt: skip


def _result(record: TrialRecord, spec: SweepSpec) -> str:
    metric = spec.search.objective.metric
    if record.final is None:
        return "no result yet"
    return f"{metric} {value_text(getattr(record.final, metric))}"
