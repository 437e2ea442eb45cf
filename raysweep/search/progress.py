"""The terminal during a sweep: one live display, or plain lines where the output is no terminal."""

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

from raysweep.metrics import WITHOUT_RESULT, TrialState
from raysweep.records import TrialRecord
from raysweep.search.status import ENDED, SweepStatus, remaining_seconds, sweep_status
from raysweep.space import Scalar

if TYPE_CHECKING:
    from raysweep.data.cache import DataDescription
    from raysweep.search.resources import Slots
    from raysweep.search.session import Session
    from raysweep.spec import SweepSpec

STATE_STYLES = {
    TrialState.RUNNING: "cyan",
    TrialState.COMPLETED: "green",
    TrialState.PRUNED: "yellow",
    TrialState.DIVERGED: "red",
    TrialState.OUT_OF_MEMORY: "red",
    TrialState.FAILED: "red",
    TrialState.INTERRUPTED: "magenta",
}
_REDRAW_S = 0.25


class LiveDisplay:
    """Redraws the state of the sweep in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn = -_REDRAW_S

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

    def tick(self, session: Session) -> None:
        now = time.monotonic()
        if now - self._drawn >= _REDRAW_S:
            self._drawn = now
            self._live.start()  # on the first tick: until then the bar of the data cache may have the terminal
            self._live.update(_live_view(session), refresh=True)


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
        status = sweep_status(session.ledger.records(), session.spec)
        self._print(
            f"trial {record.number} {record.state.value}: {_result(record, session.spec)} after "
            f"{_count(len(record.epochs), 'epoch')}; {params_text(record.params)} [{status.ended}/{status.trials}]"
        )

    def trial_tested(self, session: Session, record: TrialRecord) -> None:
        status = sweep_status(session.ledger.records(), session.spec)
        done = f"{len(status.finalists) - len(status.untested)}/{len(status.finalists)}"
        self._print(f"trial {record.number} tested: {_test_result(record)} [{done}]")

    def tick(self, session: Session) -> None:
        return None

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _live_view(session: Session) -> RenderableType:
    records = session.ledger.records()
    spec = session.spec
    status = sweep_status(records, spec)
    elapsed = time.monotonic() - session.started
    rest = remaining_seconds(records, spec, session.slots.count)

    head = Table.grid(expand=True)
    head.add_column(ratio=1)
    head.add_column(justify="right")
    left = f", about {duration_text(rest)} left" if rest is not None else ""
    head.add_row(
        Text.assemble((spec.name, "bold"), f"  {_count(status.trials, 'trial')}, {session.slots.count} at once"),
        Text(f"{duration_text(elapsed)}{left}", style="dim"),
    )
    body = Table.grid(padding=(0, 2))
    body.add_column(style="dim", no_wrap=True)
    body.add_column()
    body.add_row("trials", _counts(status))
    body.add_row("best", _best(status, spec))
    saved = f"{_count(status.epochs_saved, 'epoch')} of training saved by early stopping ({status.saved_share:.0%})"
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
        body.add_row("testing", f"{done} of {_count(len(status.finalists), 'finalist')} measured on the test split")
    if session.stopped_by:
        body.add_row("", Text(f"stopping: {session.stopped_by}", style="bold yellow"))
    bar = Padding(ProgressBar(total=max(1, status.trials), completed=status.ended), 0)
    return Group(head, bar, body)


def _test_result(record: TrialRecord) -> str:
    """The final metrics that say most, on one line."""
    assert record.tested is not None
    names = ("elbo_nats", "iwae_nats", "kid", "coverage", "reconstruction_accuracy")
    values = [(name, getattr(record.tested, name)) for name in names]
    return "  ".join(f"{name} {value_text(value)}" for name, value in values if value is not None)


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


def params_text(params: dict[str, Scalar]) -> str:
    """Parameters on one line."""
    return "  ".join(f"{name} {value_text(value)}" for name, value in params.items())


def value_text(value: Scalar) -> str:
    """A number as a person reads it: four significant digits, no trailing zeros."""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.1f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def duration_text(seconds: float) -> str:
    """Seconds as `42s`, `3m 07s` or `2h 05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def trials_view(records: list[TrialRecord], spec: SweepSpec, limit: int = 5) -> Table:
    """The table of the best trials, the best first."""
    metric = spec.search.objective.metric
    extra = [name for name in ("elbo_nats", "bits_per_dim", "psnr_db", "active_units") if name != metric]
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("trial", justify="right")
    table.add_column("state")
    table.add_column("epochs", justify="right")
    for name in (metric, *extra):
        table.add_column(name, justify="right", style="bold" if name == metric else "")
    for name in spec.trial.searched:
        table.add_column(name, justify="right")
    for index, record in enumerate(records[:limit]):
        assert record.final is not None
        measured = [value_text(getattr(record.final, name)) for name in (metric, *extra)]
        params = [value_text(record.params.get(name)) for name in spec.trial.searched]
        state = Text(record.state.value + (" (baseline)" if record.enqueued else ""), STATE_STYLES[record.state])
        table.add_row(
            str(record.number), state, str(len(record.epochs)), *measured, *params, style="green" if index == 0 else ""
        )
    return table


def summary_lines(status: SweepStatus) -> str:
    """The counts by state on one line."""
    order = [*ENDED, TrialState.RUNNING, TrialState.INTERRUPTED]
    parts = [f"{status.by_state[state]} {state.value}" for state in order if status.by_state.get(state)]
    if status.to_do:
        parts.append(f"{status.to_do} not started")
    return ", ".join(parts) or "no trial has started"


def causes(records: list[TrialRecord]) -> list[str]:
    """Why trials ended without a result, each cause once, with the trials it ended."""
    found: dict[tuple[str, str], list[int]] = {}
    for record in records:
        if record.state in WITHOUT_RESULT:
            found.setdefault((record.state.value, record.cause or ""), []).append(record.number)
    return [
        f"{state}: trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}: {cause}"
        for (state, cause), numbers in found.items()
    ]


def what_runs(spec: SweepSpec) -> str:
    return f"{spec.trials} trials on {spec.data.dataset}, sampled by {spec.search.sampler}"


def plan_view(spec: SweepSpec, data: DataDescription, collapse: Sequence[str], slots: Slots, where: str) -> Table:
    """What a search space file would run, a row a subject; `collapse` says at which KLD weight it is predicted."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("sweep", f"{spec.name}: {what_runs(spec)}")
    size = f"{data.native_size} brought to {data.image_size}x{data.image_size}"
    table.add_row("data", f"{spec.data.dataset}, {data.count:,} images of {size}, from {data.origin}")
    split = data.sizes
    table.add_row("", f"{split.train:,} to train on, {split.validation:,} to validate, {split.test:,} kept apart")
    for index, (name, distribution) in enumerate(spec.trial.searched.items()):
        table.add_row("searched" if index == 0 else "", f"{name}  {distribution}")
    constants = [
        f"{name} {'none' if value is None else value_text(value)}"
        for name, value in spec.trial.as_mapping().items()
        if name not in spec.trial.searched
    ]
    table.add_row("constant", ", ".join(constants))
    objective = spec.search.objective
    better = "largest" if objective.direction == "max" else "smallest"
    table.add_row("objective", f"{objective.metric}, {better} is best")
    if spec.asha is not None:
        rungs = " and ".join(str(epoch) for epoch in spec.asha.rungs(spec.max_epochs))
        rule = f"one in {spec.asha.reduction_factor} goes on past epoch {rungs}" if rungs else "never: grace covers all"
        table.add_row("stopping", f"asha: {rule}, {spec.max_epochs} epochs at most")
    for index, line in enumerate(collapse):
        table.add_row("collapse" if index == 0 else "", line)
    for index, point in enumerate(spec.search.enqueue):
        table.add_row("first" if index == 0 else "", ", ".join(f"{k} {value_text(v)}" for k, v in point.items()))
    gpu = f" and {slots.gpu:g} GPU" if slots.gpu else ", no GPU"
    table.add_row("resources", f"a trial takes {slots.cpu:g} CPU{gpu}; {slots.count} run at once on {where}")
    return table
