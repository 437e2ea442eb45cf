"""The look that all figures share: sizes, titles, legends, the mark of each kind of trial, numbers and limits."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from raysweep.metrics import METRICS, OBJECTIVES, WITHOUT_RESULT, Mode, TrialState
from raysweep.records import TrialRecord, ranked
from raysweep.report.figures import palette
from raysweep.report.figures.lettering import plain, text_width, wrap
from raysweep.report.figures.repeats import configuration
from raysweep.report.images import encode
from raysweep.spec.sections import SweepSpec
from raysweep.wording import counted

HALO = [withStroke(linewidth=3, foreground="white")]

WIDTH = 6.4
"""Inches, for every figure. TensorBoard shows each figure in a card of about 450 pixels, whatever its own width, so
letters in a figure of twice the width would have half the size there."""
PANELS_A_ROW = 2
"""Panels in a row of a figure with several panels of one kind."""

SIZE_TITLE, SIZE_TEXT, SIZE_SMALL = 12.5, 11.0, 10.0
"""Points. In a card of 450 pixels the smallest are 10 pixels high."""

STYLE: dict[str, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "font.size": SIZE_TEXT,
    "axes.titlesize": SIZE_TEXT,
    "axes.labelsize": SIZE_TEXT,
    "xtick.labelsize": SIZE_SMALL,
    "ytick.labelsize": SIZE_SMALL,
    "legend.fontsize": SIZE_SMALL,
    "legend.title_fontsize": SIZE_SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": palette.AXIS,
    "axes.labelcolor": palette.INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    # Readers overlook an offset such as "+8.801" above an axis, and take its ticks for the values.
    "axes.formatter.useoffset": False,
    "grid.color": palette.GRID,
    "grid.linewidth": 0.8,
    "xtick.color": palette.AXIS,
    "ytick.color": palette.AXIS,
    "legend.frameon": False,
    "text.color": palette.INK,
    # Choices and names of classes come from the user and may contain dollar signs.
    "text.parse_math": False,
}

MOST_DRAWN = 500
"""More marks than this hide each other and take minutes to draw."""

Weights = tuple[float, float]
"""The least and the most; a single weight if they are equal."""

COLLAPSE_SAID = (
    "From the predicted collapse on, a linear model of the training images has no active latent (docs/metrics.md)."
)


class Drawn(NamedTuple):
    """A finished figure."""

    name: str
    title: str
    png: bytes
    description: str


class Standing(NamedTuple):
    """The trials of a sweep as the figures need them."""

    metric: str
    records: list[TrialRecord]
    winner: TrialRecord | None
    """The best trial, among those that ran to their end if there are any."""
    baselines: list[TrialRecord]
    """Trials whose point the search space file gave."""
    drawn: list[TrialRecord]
    """The records that have a mark of their own: all, or `MOST_DRAWN` of them."""
    stuck: frozenset[int] = frozenset()
    """Numbers of the trials that never left the plateau at the mean image, although their KLD weight lets them."""

    def value(self, record: TrialRecord) -> float:
        """Return the objective after the trial's last epoch; NaN if there is none."""
        return record.last(self.metric)

    def is_special(self, record: TrialRecord) -> bool:
        """Return whether the figures name the trial."""
        return record is self.winner or record.enqueued

    def failing(self, record: TrialRecord) -> str:
        """Say, after a comma, that a trial is stuck or has collapsed; otherwise return an empty text."""
        if record.number in self.stuck:
            return ", stuck at the mean image"
        return ", collapsed" if record.final is not None and record.final.collapsed else ""

    @property
    def special_values(self) -> list[float]:
        """Objectives that are shown however bad they are."""
        return [self.value(record) for record in self.records if self.is_special(record)]

    @property
    def mode(self) -> Mode:
        """Say whether less or more of the objective is better."""
        return OBJECTIVES[self.metric]

    def repeats(self, record: TrialRecord) -> list[TrialRecord]:
        """Return the trials of the record's configuration, including itself, whatever their seed."""
        wanted = configuration(record)
        return [other for other in self.records if configuration(other) == wanted]

    @property
    def choice_said(self) -> str:
        """A sentence that says which trials are drawn; empty if all are."""
        if len(self.drawn) == len(self.records):
            return ""
        return (
            f" Of the {len(self.records):,} trials {len(self.drawn):,} are drawn: "
            "those given, the best, and an even choice of the others."
        )

    def label(self, record: TrialRecord) -> str:
        return "best" if record is self.winner else "baseline"

    @property
    def completed(self) -> list[TrialRecord]:
        """The trials that ran to their end and have a finite objective."""
        return [r for r in self.records if r.state is TrialState.COMPLETED and math.isfinite(self.value(r))]

    @property
    def finding(self) -> str:
        """The best value, its trial, and what a reader must know about that trial."""
        if self.winner is None:
            return f"no trial has a finite {self.metric} yet"
        more = (
            "" if self.winner.state is TrialState.COMPLETED else f", after {counted(len(self.winner.epochs), 'epoch')}"
        )
        more += self.failing(self.winner)
        values = [value for value in map(self.value, self.repeats(self.winner)) if math.isfinite(value)]
        if len(values) > 1:
            more += f"; its {len(values)} seeds {short(min(values))} to {short(max(values))}"
        return f"best {short(self.value(self.winner))} (trial {self.winner.number}{more})"

    @property
    def of_how_many(self) -> str:
        """How many of the trials completed, in words."""
        return f"{len(self.completed)} of {counted(len(self.records), 'trial')} completed"


def standing(spec: SweepSpec, records: Sequence[TrialRecord], stuck: Collection[int] = ()) -> Standing:
    """Rank the trials of a sweep: find the best one, and those that were given.

    Args:
        stuck: numbers of the trials that are stuck.
    """
    metric = spec.search.objective.metric
    ordered = sorted(records, key=lambda record: record.number)
    best = ranked(ordered, metric)
    given = [record for record in ordered if record.enqueued]
    drawn = _drawn(ordered, [*given, *best])
    return Standing(metric, ordered, best[0] if best else None, given, drawn, frozenset(stuck))


def _drawn(records: list[TrialRecord], first: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return all records, or `MOST_DRAWN` of them: the head of `first` and an even choice of the others."""
    if len(records) <= MOST_DRAWN:
        return records
    chosen = {record.number for record in first[: MOST_DRAWN // 2]}
    others = [record for record in records if record.number not in chosen]
    wanted = MOST_DRAWN - len(chosen)
    chosen |= {others[index * len(others) // wanted].number for index in range(wanted)}
    return [record for record in records if record.number in chosen]


def canvas(width: float, height: float) -> Canvas:
    """Make an empty figure, sizes in inches, that belongs to no global state."""
    figure = Canvas(figsize=(width, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr,call-arg]
    FigureCanvasAgg(figure)  # needed to measure texts
    return figure


class Panels(NamedTuple):
    """A figure of several panels of one kind."""

    figure: Canvas
    each: list[Axes]
    """Row by row."""
    leftmost: list[Axes]
    """The first of each row."""
    lowest: list[Axes]
    """The last of each column."""


def canvas_of_panels(count: int, row: float, rest: float, alone: float, *, sharey: bool = False) -> Panels:
    """Make an empty figure of `count` panels, `PANELS_A_ROW` in a row.

    Args:
        count: panels, at least one.
        row: height of a row of panels in inches.
        rest: height of title and legend in inches.
        alone: height of the figure in inches if it has a single panel.
        sharey: give all panels one vertical axis.
    """
    columns = min(PANELS_A_ROW, count)
    rows = -(-count // columns)
    figure = canvas(WIDTH, row * rows + rest if columns > 1 else alone)
    grid = figure.subplots(rows, columns, sharey=sharey, squeeze=False)
    panels = list(grid.flat)
    for panel in panels[count:]:
        panel.set_visible(False)
    return Panels(figure, panels[:count], list(grid[:, 0]), panels[count - columns : count])


@contextmanager
def styled() -> Iterator[None]:
    """Draw figures in the common style while in this context."""
    with matplotlib.rc_context(rc=STYLE):  # type: ignore[arg-type]
        yield


def title(figure: Canvas, text: str) -> None:
    """Put a title above the figure, in as many lines as its width needs."""
    lines = title_lines(text, figure.get_figwidth())
    figure.suptitle("\n".join(lines), x=_TITLE_AT, ha="left", fontsize=SIZE_TITLE, fontweight="bold")


def title_lines(text: str, width: float = WIDTH) -> list[str]:
    """Return the lines of a title for a figure of this width in inches."""
    return wrap(text, 72 * width * (1 - 2 * _TITLE_AT) - 2, SIZE_TITLE, bold=True)


_TITLE_AT = 0.012


def legend_below(figure: Canvas, handles: Sequence[Artist], most_columns: int = 3, **more: Any) -> None:
    """Put a legend below the figure, in as many columns as fit into its width."""
    columns = legend_columns([str(handle.get_label()) for handle in handles], most_columns)
    looks = {"handletextpad": 0.5, "columnspacing": 1.4, **more}
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns, **looks)


def legend_columns(labels: Sequence[str], most: int = 3) -> int:
    """Return how many columns of a legend fit below a figure, in rows of about the same length."""
    widest = max(text_width(label, SIZE_SMALL) for label in labels) + 4.2 * SIZE_SMALL
    fit = max(1, min(len(labels), most, int(72 * WIDTH // widest)))
    rows = -(-len(labels) // fit)
    return -(-len(labels) // rows)


def to_png(figure: Canvas, dpi: int | None = None) -> bytes:
    """Return the figure as a PNG, at twice its nominal resolution or at `dpi`.

    The pixels are those of `savefig`, which takes nearly twice as long because it draws a second time for the layout.
    """
    figure.set_dpi(dpi or STYLE["savefig.dpi"])
    drawn = FigureCanvasAgg(figure)
    drawn.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(drawn.buffer_rgba())[:, :, :3]  # type: ignore[no-untyped-call]
    return encode(pixels, compress_level=3)


def short(value: object) -> str:
    """Write a number in at most four digits, such as 712.3, 3.1e-4 or 0.0512; keep other values."""
    if value is None:
        return "none"
    if not isinstance(value, float) or not math.isfinite(value):
        return plain(str(value))
    if value == 0:
        return "0"
    if 1e-2 <= abs(value) < 1e5:
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def named(metric: str) -> str:
    """Write an axis label: the metric and its unit."""
    unit = METRICS[metric].unit
    return f"{metric} [{unit}]" if unit else metric


def robust_limits(values: Sequence[float], mode: Mode, keep: Sequence[float] = ()) -> tuple[float, float]:
    """Return limits of an axis that show the good and the middling values and cut off far worse ones.

    A value is far worse if it is more than twice as far from the best value as the worst of the better three quarters.
    If that one is more than a hundred times as far as the median, the median takes its place. Finite values in `keep`
    are shown however bad they are.
    """
    finite = sorted(value for value in values if math.isfinite(value))
    if not finite:
        return 0.0, 1.0
    if mode == "max":
        low, high = robust_limits([-value for value in finite], "min", [-value for value in keep])
        return -high, -low
    best, usual, worst = finite[0], finite[(3 * (len(finite) - 1) + 3) // 4], finite[-1]
    median = finite[(len(finite) - 1) // 2]
    if usual - best > 100 * (median - best) > 0:  # a few trials, one with a value of 1e27
        usual = median
    cut = best + 2 * (usual - best)
    edge = worst if worst <= cut or cut == best else max([cut, *(v for v in keep if math.isfinite(v))])
    margin = 0.06 * (edge - best) or 0.05 * abs(best) or 1.0
    return best - margin, edge + margin


SIZE = 46.0


def mark(axes: Axes, kind: str, xs: Sequence[float], ys: Sequence[float], **more: Any) -> None:
    """Draw trials of one kind; see `MARKS`."""
    if xs:
        axes.scatter(xs, ys, **{"zorder": _ORDER.get(kind, 4.0), **MARKS[kind], **more})


MARKS: dict[str, dict[str, Any]] = {
    "completed": {"s": SIZE, "c": palette.COMPLETED, "marker": "o", "edgecolors": "white", "linewidths": 0.8},
    "stopped early": {"s": SIZE * 0.6, "facecolors": "none", "edgecolors": palette.STOPPED, "linewidths": 1.3},
    "not finished": {"s": SIZE * 0.6, "facecolors": "none", "edgecolors": palette.UNFINISHED, "linewidths": 1.3},
    "paused": {
        "s": SIZE * 0.5,
        "facecolors": "none",
        "edgecolors": palette.UNFINISHED,
        "linewidths": 1.3,
        "marker": "s",
    },
    "no result": {"s": SIZE * 0.8, "c": palette.NO_RESULT, "marker": "x", "linewidths": 1.4, "clip_on": False},
    "baseline": {"s": SIZE * 1.5, "c": palette.BASELINE, "marker": "D", "edgecolors": "white", "linewidths": 1.0},
    "best": {"s": SIZE * 5, "c": palette.BEST, "marker": "*", "edgecolors": "white", "linewidths": 1.0},
}
"""How each kind of trial looks. In every figure the best is an orange star, and a trial that was given is a black
diamond."""

_ORDER = {"stopped early": 3.0, "not finished": 3.0, "paused": 3.0, "baseline": 5.0, "best": 6.0}
"""Marks with a higher number lie on others; all other kinds have 4."""


def kind(record: TrialRecord, value: float) -> str:
    """Return the key in `MARKS` of a trial that is neither the best nor given."""
    if record.state in WITHOUT_RESULT or (record.epochs and not math.isfinite(value)):
        return "no result"
    ended = {TrialState.COMPLETED: "completed", TrialState.PRUNED: "stopped early", TrialState.PAUSED: "paused"}
    return ended.get(record.state, "not finished")


def legend_handle(kind: str, label: str) -> Line2D:
    """Make a legend entry that shows the mark of a kind."""
    look = MARKS[kind]
    hollow = look.get("facecolors") == "none"
    colour = look["edgecolors"] if hollow else look["c"]
    return Line2D(
        [], [], linestyle="none", marker=look.get("marker", "o"), markersize=math.sqrt(look["s"]) * 0.95, label=label,
        markerfacecolor="none" if hollow else colour, markeredgecolor=colour, markeredgewidth=look["linewidths"],
    )  # fmt: skip


SAID = {"no result": "diverged or failed"}
"""Legend texts of kinds whose own name says too little."""


def who(trials: Standing, looks: str) -> str:
    """Write the legend entry of the best trial or of the baselines."""
    if looks == "best":
        assert trials.winner is not None
        return f"best: trial {trials.winner.number}, {short(trials.value(trials.winner))}"
    given = [record for record in trials.baselines if record is not trials.winner]
    values = ", ".join(f"{r.number}" for r in given[:4]) + (", …" if len(given) > 4 else "")
    if len(given) == 1 and math.isfinite(trials.value(given[0])):
        values += f", {short(trials.value(given[0]))}"
    return f"baseline: trial {values}" if len(given) == 1 else f"baselines: trials {values}"
