"""Tables and lines for people that the commands print about a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from raysweep.confirming import LARGEST_SHARE, Confirmed, confirmed, wanted_by
from raysweep.metrics import FINAL_PREFIX, WITHOUT_RESULT, TrialState
from raysweep.records import TrialRecord
from raysweep.report.explanation.sentences import as_good_said, spread_said, value_said
from raysweep.review.remarks import steps_text
from raysweep.spec.sections import Confirm
from raysweep.spec.space import Scalar
from raysweep.storage.layout import typed
from raysweep.study.status import ENDED, SweepStatus
from raysweep.wording import counted, percent

if TYPE_CHECKING:
    from raysweep.data.cache import DataDescription
    from raysweep.data.images import Note
    from raysweep.messages import Slots
    from raysweep.report.explanation.values import Explanation
    from raysweep.review.ranking import Ranking
    from raysweep.review.sweep import Sweep
    from raysweep.search.past import PastSweep
    from raysweep.spec.sections import SweepSpec

STATE_STYLES = {
    TrialState.RUNNING: "cyan",
    TrialState.PAUSED: "blue",
    TrialState.COMPLETED: "green",
    TrialState.PRUNED: "yellow",
    TrialState.DIVERGED: "red",
    TrialState.OUT_OF_MEMORY: "red",
    TrialState.FAILED: "red",
    TrialState.INTERRUPTED: "magenta",
}
SHOWN_CLASSES = 12
SHOWN_FINALS = {
    "elbo_nats": None,
    "iwae_nats": None,
    "kid": "floor_kid",
    "mixture_kid": "floor_kid",
    "coverage": "floor_coverage",
    "reconstruction_accuracy": "floor_reconstruction_accuracy",
    "silhouette": None,
}
"""The most informative final metrics, each with its floor: the value of real images."""
_LEAST_NEEDED_FINALS = ("silhouette", "reconstruction_accuracy", "mixture_kid", "coverage", "elbo_nats", "iwae_nats")
"""Final metrics that are left out on a narrow terminal, in this order."""

GAP = 2
"""Spaces between two columns, and between two parts of a line."""


@dataclass(frozen=True)
class Column:
    """One column of a `FittingTable`."""

    name: str
    cells: tuple[str | Text, ...]
    justify: JustifyMethod = "right"
    style: str = ""

    @property
    def width(self) -> int:
        return max(cell_len(str(text)) for text in (self.name, *self.cells))


class FittingTable:
    """A table of numbers that leaves out whole columns on a narrow terminal, and never cuts a digit."""

    def __init__(
        self, columns: Sequence[Column], least_needed: Sequence[str], row_styles: Sequence[str], elsewhere: str
    ) -> None:
        self._columns = tuple(columns)
        self._least_needed = tuple(least_needed)
        self._row_styles = tuple(row_styles)
        self._elsewhere = elsewhere

    def fitting(self, width: int) -> list[Column]:
        """Return the columns that fit into `width` cells, after leaving out `least_needed` ones in that order."""
        kept = list(self._columns)
        for name in self._least_needed:
            if sum(column.width for column in kept) + GAP * (len(kept) - 1) <= width:
                break
            kept = [column for column in kept if column.name != name]
        return kept

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        kept = self.fitting(options.max_width)
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, GAP, 0, 0))
        for column in kept:
            table.add_column(column.name, justify=column.justify, style=column.style, overflow="fold")
        for index, style in enumerate(self._row_styles):
            table.add_row(*(column.cells[index] for column in kept), style=style)
        yield table
        left_out = [column.name for column in self._columns if column not in kept]
        if left_out:
            count = counted(len(left_out), "more column")
            yield Text(f"... and {count} ({', '.join(left_out)}); {self._elsewhere}", style="dim")


class FittingLine:
    """Parts of one line, which may end in spaces to align. Parts that do not fit are counted instead of cut."""

    def __init__(self, parts: Sequence[Text | str]) -> None:
        self._parts = [Text(part) if isinstance(part, str) else part for part in parts]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        kept = list(self._parts)
        if cell_len(self._joined(kept).plain) > options.max_width:
            for part in kept:
                part.rstrip()
        while len(kept) > 1 and cell_len(self._joined(kept).plain) > options.max_width:
            kept.pop()
        yield self._joined(kept)

    def _joined(self, kept: Sequence[Text]) -> Text:
        left_out = len(self._parts) - len(kept)
        return Text(" " * GAP).join([*kept, Text(f"+{left_out} more", style="dim")] if left_out else kept)


def params_text(params: dict[str, Scalar]) -> str:
    """Return parameters on one line."""
    return "  ".join(param_texts(params))


def param_texts(params: dict[str, Scalar]) -> list[str]:
    """Return parameters, each as its name and value."""
    return [f"{name} {value_text(value)}" for name, value in params.items()]


def value_text(value: Scalar) -> str:
    """Format a number for people: four significant digits, no trailing zeros; one decimal from 1,000 to a million."""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.1f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def duration_text(seconds: float) -> str:
    """Format seconds as `42s`, `3m 07s` or `2h 05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def trials_view(records: list[TrialRecord], spec: SweepSpec, limit: int = 5) -> FittingTable:
    """Return the table of the best trials, the best first."""
    metric = spec.search.objective.metric
    extra = [name for name in ("elbo_nats", "bits_per_dim", "psnr_db", "active_units") if name != metric]
    shown = [(record, record.final) for record in records[:limit] if record.final is not None]
    columns = [
        Column("trial", tuple(str(record.number) for record, _ in shown)),
        Column("state", tuple(_state_text(record) for record, _ in shown), "left"),
        Column("epochs", tuple(str(len(record.epochs)) for record, _ in shown)),
    ]
    for name in (metric, *extra):
        cells = tuple(value_text(getattr(final, name)) for _, final in shown)
        columns.append(Column(name, cells, style="bold" if name == metric else ""))
    again = {row.trial: row for row in confirmed(records, spec)}
    if any(record.number in again for record, _ in shown):
        rows = [again.get(record.number) for record, _ in shown]
        columns.insert(4, Column("confirmed", tuple(_mean_text(row) for row in rows), style="bold"))
    searched = list(spec.trial.searched)
    columns += [Column(name, tuple(value_text(record.params.get(name)) for record, _ in shown)) for name in searched]
    least_needed = (*reversed(extra), "epochs", "state", *reversed(searched))
    styles = ["green" if index == 0 else "" for index in range(len(shown))]
    return FittingTable(columns, least_needed, styles, "raysweep best DIR --format json has all")


def _mean_text(row: Confirmed | None) -> str:
    """Write a mean over other seeds with its 95 % interval."""
    if row is None:
        return ""
    return value_text(row.mean) + ("" if row.half_width is None else f" ± {row.half_width:.3g}")


def confirmed_text(record: TrialRecord, records: Sequence[TrialRecord], spec: SweepSpec) -> str:
    """Return the result of a trial's further trainings: `841.2 ± 23.1 over 3 other seeds`; "" if there are none."""
    row = next((row for row in confirmed(records, spec) if row.trial == record.number), None)
    if row is None:
        return ""
    return f"{_mean_text(row)} over {counted(len(row.values), 'other seed')}"


def _state_text(record: TrialRecord) -> Text:
    return Text(record.state.value + (" (baseline)" if record.enqueued else ""), STATE_STYLES[record.state])


def ranking_view(ranking: Ranking, limit: int) -> FittingTable:
    """Return the table of a ranking, with each trial's sweep if there are several, and all searched parameters."""
    rows = ranking.rows[:limit]
    extra = [name for name in ("elbo_nats", "bits_per_dim", "psnr_db", "active_units") if name != ranking.metric]
    searched = list(dict.fromkeys(name for sweep, _ in ranking.rows for name in sweep.spec.trial.searched))
    columns = [
        Column("trial", tuple(str(record.number) for _, record in rows)),
        Column("state", tuple(_state_text(record) for _, record in rows), "left"),
        Column("epochs", tuple(str(len(record.epochs)) for _, record in rows)),
    ]
    if len({sweep.directory.address for sweep, _ in ranking.rows}) > 1:
        columns.insert(0, Column("sweep", tuple(sweep.directory.address for sweep, _ in rows), "left"))
    for name in (ranking.metric, *extra):
        cells = tuple(value_text(_as_measured(record, name)) for _, record in rows)
        columns.append(Column(name, cells, style="bold" if name == ranking.metric else ""))
    again = [_confirmed_in(sweep, record, ranking.metric) for sweep, record in rows]
    if any(again):
        index = next(index for index, column in enumerate(columns) if column.name == ranking.metric)
        columns.insert(index + 1, Column("confirmed", tuple(map(_mean_text, again)), style="bold"))
    configs = [record.config for _, record in rows]
    columns += [Column(name, tuple(value_text(getattr(config, name)) for config in configs)) for name in searched]
    least_needed = (*reversed(extra), "epochs", "state", *reversed(searched))
    styles = ["green" if index == 0 else "" for index in range(len(rows))]
    return FittingTable(columns, least_needed, styles, "raysweep best DIR --format json has all")


def _confirmed_in(sweep: Sweep, record: TrialRecord, metric: str) -> Confirmed | None:
    """Return the result of the further trainings of a sweep's trial; None if there are none."""
    if not record.confirmed_by:
        return None
    return next((row for row in confirmed(sweep.records, sweep.spec, metric) if row.trial == record.number), None)


def explanation_view(explanation: Explanation, limit: int = 3) -> FittingTable:
    """Return the table of parameters: their importances, the model's best values, and the values of trials.

    `limit` is how many trials have a column, including the best one.
    """
    names, found, slices = list(explanation.params), explanation.importances.of, explanation.model.slices
    names.sort(key=lambda name: -found[name].share if name in found else 0.0)
    columns = [Column("parameter", tuple(names), "left")]
    if found:
        known = [found.get(name) for name in names]
        columns.append(Column("importance", tuple(percent(one.share) if one else "" for one in known)))
        columns.append(Column("spread", tuple(spread_said(one) if one else "" for one in known)))
    if slices:
        columns.append(Column("model's best", tuple(value_said(slices[name].best) for name in names)))
        columns.append(Column("as good", tuple(as_good_said(slices[name]) for name in names), "left"))
    trials = [(explanation.trial, explanation.params), *((one.trial, one.params) for one in explanation.rivals)]
    heads = [f"trial {trial}" for trial, _ in trials[:limit]]
    for head, (_, params) in zip(heads, trials[:limit], strict=True):
        columns.append(Column(head, tuple(value_said(params[name]) for name in names)))
    values = [explanation.value, *(rival.value for rival in explanation.rivals)]
    filled = [Column(one.name, (*one.cells, ""), one.justify) for one in columns]
    ends = {"parameter": explanation.metric, **dict(zip(heads, map(value_text, values), strict=False))}
    for index, column in enumerate(filled):
        if column.name in ends:
            filled[index] = Column(column.name, (*column.cells[:-1], ends[column.name]), column.justify)
    least_needed = (*reversed(heads[2:]), "spread", *heads[1:2], "as good", "importance")
    styles = [""] * len(names) + ["bold"]
    return FittingTable(filled, least_needed, styles, "raysweep best DIR --why --format json has all")


def _as_measured(record: TrialRecord, metric: str) -> Scalar:
    """Return a metric of the last epoch or the test split in its own type: active units are integers."""
    value = record.last(metric)
    return int(value) if metric.endswith("active_units") and value == value // 1 else value


def finals_view(finalists: Sequence[TrialRecord], limit: int = 5) -> FittingTable:
    """Return the table of final metrics of the best tested trials, with the values of real images below them.

    A metric that none of them has, such as an accuracy on images without labels, has no column.
    """
    tested = [(record, record.tested) for record in finalists if record.tested is not None][:limit]
    columns = [Column("trial", (*(str(record.number) for record, _ in tested), "real"))]
    for name, floor in SHOWN_FINALS.items():
        values = [getattr(final, name) for _, final in tested]
        if any(value is not None for value in values):
            values.append(getattr(tested[0][1], floor) if floor else None)
            cells = tuple("" if value is None else value_text(value) for value in values)
            columns.append(Column(FINAL_PREFIX + name, cells))
    least_needed = [FINAL_PREFIX + name for name in _LEAST_NEEDED_FINALS]
    return FittingTable(columns, least_needed, [""] * len(tested) + ["dim"], "report/trials.parquet has all")


def finals_text(record: TrialRecord) -> str:
    """Return the most informative final metrics, on one line."""
    return "  ".join(finals_texts(record))


def finals_texts(record: TrialRecord) -> list[str]:
    """Return the most informative final metrics, each as its name and value."""
    values = [(name, getattr(record.tested, name)) for name in SHOWN_FINALS]
    return [f"{name} {value_text(value)}" for name, value in values if value is not None]


def summary_lines(status: SweepStatus) -> str:
    """Return the counts by state on one line."""
    order = [*ENDED, TrialState.RUNNING, TrialState.PAUSED, TrialState.INTERRUPTED]
    parts = [f"{status.by_state[state]} {state.value}" for state in order if status.by_state.get(state)]
    if status.to_do:
        parts.append(f"{status.to_do} not started")
    if status.confirming or status.to_confirm:
        parts.append(f"{status.confirmed} of {counted(status.confirmed + status.unconfirmed, 'confirmation')} done")
    return ", ".join(parts) or "no trial has started"


def profile_lines(sweep: Sweep) -> list[str]:
    """Return how a run spent its time, in three lines; none if it was not profiled."""
    from raysweep.report.profile.sentences import overview, sentences

    if sweep.profile is None:
        return []
    page = typed(sweep.directory.profile_markdown)
    return [overview(sweep.profile), *sentences(sweep.profile)[:1], f"{page} has the rest."]


def causes(records: list[TrialRecord]) -> list[str]:
    """Return why trials ended without a result: each cause once, with the trials it ended."""
    found: dict[tuple[str, str], list[int]] = {}
    for record in records:
        if record.state in WITHOUT_RESULT:
            found.setdefault((record.state.value, record.cause or ""), []).append(record.number)
    return [
        f"{state}: trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}: {cause}"
        for (state, cause), numbers in found.items()
    ]


def what_runs(spec: SweepSpec) -> str:
    """Say how many trials run, on which data, and which sampler chooses them; with `auto` also why this one."""
    reason = f" (auto: {spec.sampler_reason})" if spec.sampler_reason else ""
    return f"{counted(spec.trials, 'trial')} on {spec.data.dataset}, sampled by {spec.search.sampler}{reason}"


def data_lines(data: DataDescription, remarks: Sequence[Note]) -> Iterator[tuple[str, str]]:
    """Yield subject and text of lines on the classes, how files were read, and what is left out."""
    if data.class_counts:
        pairs = [f"{name} {count:,}" for name, count in zip(data.classes, data.class_counts, strict=True)]
        more = f", and {len(pairs) - SHOWN_CLASSES:,} more" if len(pairs) > SHOWN_CLASSES else ""
        yield "classes", f"{len(pairs):,}: {', '.join(pairs[:SHOWN_CLASSES])}{more}"
    elif data.dataset == "folder":
        yield "classes", "none: the images lie in no class folders"
    last = "classes"
    for note in (*data.notes, *remarks):
        yield ("" if note.subject == last else note.subject), note.text
        last = note.subject


def _confirm_text(spec: SweepSpec) -> str:
    """Say which trials are trained again when the search is over."""
    wanted, is_auto = wanted_by(spec), spec.search.confirm == "auto"
    if wanted is None:
        return "none: the seed is searched, so the search trains with other seeds itself"
    count = Confirm() if wanted == "auto" else wanted
    where = f", if that costs less than {LARGEST_SHARE:.0%} of the epochs of the search" if is_auto else ""
    return f"the best {count.top}, by {counted(count.seeds, 'training')} more of each with other seeds{where}"


def plan_view(
    spec: SweepSpec, data: DataDescription, collapse: Sequence[str], slots: Slots, where: str,
    remarks: Sequence[Note] = (), past: Sequence[PastSweep] = (),
) -> Table:  # fmt: skip
    """Return a table of what a search space file would run, with a row per subject.

    Args:
        collapse: at which KLD weight collapse is predicted.
        remarks: how preparing the images changed them.
        past: what is taken over from earlier sweeps.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("sweep", f"{spec.name}: {what_runs(spec)}")
    size = f"{data.native_size} brought to {data.image_size}x{data.image_size}"
    table.add_row("data", f"{spec.data.dataset}, {data.count:,} images of {size}, from {data.origin}")
    split = data.sizes
    table.add_row("", f"{split.train:,} to train on, {split.validation:,} to validate, {split.test:,} kept apart")
    for subject, text in data_lines(data, remarks):
        table.add_row(subject, text)
    for index, (name, distribution) in enumerate(spec.trial.searched.items()):
        table.add_row("searched" if index == 0 else "", f"{name}  {distribution}")
    constants = [
        f"{name} {'none' if value is None else value_text(value)}"
        for name, value in spec.trial.as_mapping().items()
        if name not in spec.trial.searched and value != ""
    ]
    table.add_row("constant", ", ".join(constants))
    table.add_row("training", steps_text(spec, split.train))
    objective = spec.search.objective
    better = "largest" if objective.direction == "max" else "smallest"
    table.add_row("objective", f"{objective.metric}, {better} is best")
    if spec.asha is not None:
        rungs = " and ".join(str(epoch) for epoch in spec.asha.rungs(spec.max_epochs))
        rule = f"one in {spec.asha.reduction_factor} goes on past epoch {rungs}" if rungs else "never: grace covers all"
        if rungs and spec.asha.rejudge and not spec.asha.promote:
            enough = spec.asha.reduction_factor
            first = spec.asha.rungs(spec.max_epochs)[0]
            rule += f", judged again as others come; at epoch {first} the first wait until {enough} are there"
        if rungs and spec.asha.promote:
            rule = f"trials pause at epoch {rungs}, the best one in {spec.asha.reduction_factor} there goes on"
        table.add_row("stopping", f"asha: {rule}, {spec.max_epochs} epochs at most")
    if spec.search.confirm is not None:
        table.add_row("confirmed", _confirm_text(spec))
    table.add_row("tested", f"{spec.evaluation.final_metrics} on the test split, once all trials have ended")
    for index, claim in enumerate(spec.claims):
        table.add_row("claims" if index == 0 else "", claim.statement)
    for index, line in enumerate(collapse):
        table.add_row("collapse" if index == 0 else "", line)
    for index, point in enumerate(spec.search.enqueue):
        table.add_row("first" if index == 0 else "", ", ".join(f"{k} {value_text(v)}" for k, v in point.items()))
    for index, earlier in enumerate(past):
        table.add_row("start from" if index == 0 else "", earlier.summary)
    if spec.search.prior:
        hint = ", ".join(f"{name} {value_text(value)}" for name, value in spec.search.prior.items())
        table.add_row("hint", hint)
    gpu = f" and {slots.gpu:g} GPU" if slots.gpu else ", no GPU"
    takes = f"{slots.cpu:g} CPU{gpu}"
    if slots.fused > 1:
        together = f"up to {slots.fused} trials of one shape together take {takes}; up to {slots.trials} are"
    else:
        together = f"a trial takes {takes}; {slots.count} run"
    table.add_row("resources", f"{together} at once {where}")
    return table
