"""What the commands print of a sweep: tables and lines for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from raysweep.layout import typed
from raysweep.metrics import FINAL_PREFIX, WITHOUT_RESULT, TrialState
from raysweep.records import TrialRecord
from raysweep.search.status import ENDED, SweepStatus
from raysweep.space import Scalar

if TYPE_CHECKING:
    from raysweep.data.cache import DataDescription
    from raysweep.search.resources import Slots
    from raysweep.search.review import Sweep
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
SHOWN_FINALS = {
    "elbo_nats": None,
    "iwae_nats": None,
    "kid": "floor_kid",
    "mixture_kid": "floor_kid",
    "coverage": "floor_coverage",
    "reconstruction_accuracy": "floor_reconstruction_accuracy",
    "silhouette": None,
}
"""The final metrics that say most, each with its floor."""


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


def count_text(number: int, noun: str) -> str:
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


def finals_view(finalists: Sequence[TrialRecord], limit: int = 5) -> Table:
    """The table of final metrics of the best trials that have been tested, with what real images come to below them."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("trial", justify="right")
    for name in SHOWN_FINALS:
        table.add_column(FINAL_PREFIX + name, justify="right")
    tested = [record for record in finalists if record.tested is not None][:limit]
    for record in tested:
        values = [getattr(record.tested, name) for name in SHOWN_FINALS]
        table.add_row(str(record.number), *("" if value is None else value_text(value) for value in values))
    if tested:
        floors = [getattr(tested[0].tested, floor) if floor else None for floor in SHOWN_FINALS.values()]
        table.add_row("real", *("" if value is None else value_text(value) for value in floors), style="dim")
    return table


def finals_text(record: TrialRecord) -> str:
    """The final metrics that say most, on one line."""
    values = [(name, getattr(record.tested, name)) for name in SHOWN_FINALS]
    return "  ".join(f"{name} {value_text(value)}" for name, value in values if value is not None)


def summary_lines(status: SweepStatus) -> str:
    """The counts by state on one line."""
    order = [*ENDED, TrialState.RUNNING, TrialState.INTERRUPTED]
    parts = [f"{status.by_state[state]} {state.value}" for state in order if status.by_state.get(state)]
    if status.to_do:
        parts.append(f"{status.to_do} not started")
    return ", ".join(parts) or "no trial has started"


def profile_lines(sweep: Sweep) -> list[str]:
    """Where the time of a run went, in three lines; none if it was not profiled."""
    from raysweep.report.profile.sentences import overview, sentences

    if sweep.profile is None:
        return []
    page = typed(sweep.directory.profile_markdown)
    return [overview(sweep.profile), *sentences(sweep.profile)[:1], f"{page} has the rest."]


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
        if name not in spec.trial.searched and value != ""
    ]
    table.add_row("constant", ", ".join(constants))
    objective = spec.search.objective
    better = "largest" if objective.direction == "max" else "smallest"
    table.add_row("objective", f"{objective.metric}, {better} is best")
    if spec.asha is not None:
        rungs = " and ".join(str(epoch) for epoch in spec.asha.rungs(spec.max_epochs))
        rule = f"one in {spec.asha.reduction_factor} goes on past epoch {rungs}" if rungs else "never: grace covers all"
        table.add_row("stopping", f"asha: {rule}, {spec.max_epochs} epochs at most")
    table.add_row("tested", f"{spec.evaluation.final_metrics} on the test split, once all trials have ended")
    for index, claim in enumerate(spec.claims):
        table.add_row("claims" if index == 0 else "", claim.statement)
    for index, line in enumerate(collapse):
        table.add_row("collapse" if index == 0 else "", line)
    for index, point in enumerate(spec.search.enqueue):
        table.add_row("first" if index == 0 else "", ", ".join(f"{k} {value_text(v)}" for k, v in point.items()))
    gpu = f" and {slots.gpu:g} GPU" if slots.gpu else ", no GPU"
    takes = f"{slots.cpu:g} CPU{gpu}"
    if slots.fused > 1:
        together = f"up to {slots.fused} trials of one shape together take {takes}; up to {slots.trials} are"
    else:
        together = f"a trial takes {takes}; {slots.count} run"
    table.add_row("resources", f"{together} at once on {where}")
    return table
