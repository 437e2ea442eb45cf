"""The look that all figures share: colours, the mark of each kind of trial, axes, numbers and limits."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from raysweep.metrics import METRICS, OBJECTIVES, WITHOUT_RESULT, Mode, TrialState
from raysweep.records import TrialRecord, ranked
from raysweep.report.figures.repeats import configuration
from raysweep.report.images import encode
from raysweep.spec import SweepSpec

# Okabe and Ito's palette, whose colours stay apart under every common colour blindness.
BLUE, VERMILLION, GREEN, BLACK, GREY = "#0072B2", "#D55E00", "#009E73", "#222222", "#8A8F98"
FAINT = "#B9BEC6"

HALO = [withStroke(linewidth=3, foreground="white")]

STYLE: dict[str, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5B6068",
    "axes.labelcolor": BLACK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E8EAED",
    "grid.linewidth": 0.8,
    "xtick.color": "#5B6068",
    "ytick.color": "#5B6068",
    "legend.frameon": False,
    "text.color": BLACK,
}

MOST_DRAWN = 500
"""More marks than these hide each other, and take minutes to draw."""

Weights = tuple[float, float]
"""From the least to the most; one weight if they are equal."""

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
    """The best trial; of those that ran to their end if there are any."""
    baselines: list[TrialRecord]
    """Trials whose point the search space file gave."""
    drawn: list[TrialRecord]
    """Those of the records that have a mark of their own: all, or `MOST_DRAWN` of them."""

    def value(self, record: TrialRecord) -> float:
        """The objective after the trial's last epoch; NaN if there is none."""
        return record.last(self.metric)

    def is_special(self, record: TrialRecord) -> bool:
        """Whether the figures name the trial."""
        return record is self.winner or record.enqueued

    @property
    def special_values(self) -> list[float]:
        """Objectives that are shown wherever they lie."""
        return [self.value(record) for record in self.records if self.is_special(record)]

    @property
    def mode(self) -> Mode:
        """Say whether less or more of the objective is better."""
        return OBJECTIVES[self.metric]

    def repeats(self, record: TrialRecord) -> list[TrialRecord]:
        """The trials of the record's configuration, itself among them, whatever their seed."""
        wanted = configuration(record)
        return [other for other in self.records if configuration(other) == wanted]

    @property
    def choice_said(self) -> str:
        """A sentence on which trials the marks stand for; empty if for all."""
        if len(self.drawn) == len(self.records):
            return ""
        return (
            f" Of the {len(self.records):,} trials {len(self.drawn):,} are drawn: "
            "those given, the best, and an even choice of the others."
        )

    def label(self, record: TrialRecord) -> str:
        return "best" if record is self.winner else "baseline"

    @property
    def finding(self) -> str:
        """The best value and whose it is."""
        if self.winner is None:
            return f"no trial has a finite {self.metric} yet"
        so_far = "" if self.winner.state is TrialState.COMPLETED else ", which has not run to its end"
        values = [value for value in map(self.value, self.repeats(self.winner)) if math.isfinite(value)]
        if len(values) > 1:
            so_far += f"; its {len(values)} seeds {short(min(values))} to {short(max(values))}"
        return f"best {short(self.value(self.winner))} (trial {self.winner.number}{so_far})"


def standing(spec: SweepSpec, records: Sequence[TrialRecord]) -> Standing:
    """Who won, and who was given."""
    metric = spec.search.objective.metric
    ordered = sorted(records, key=lambda record: record.number)
    best = ranked(ordered, metric)
    given = [record for record in ordered if record.enqueued]
    return Standing(metric, ordered, best[0] if best else None, given, _drawn(ordered, [*given, *best]))


def _drawn(records: list[TrialRecord], first: Sequence[TrialRecord]) -> list[TrialRecord]:
    """All records, or as many as are drawn: the foremost of `first`, and an even choice of the others, by number."""
    if len(records) <= MOST_DRAWN:
        return records
    chosen = {record.number for record in first[: MOST_DRAWN // 2]}
    others = [record for record in records if record.number not in chosen]
    wanted = MOST_DRAWN - len(chosen)
    chosen |= {others[index * len(others) // wanted].number for index in range(wanted)}
    return [record for record in records if record.number in chosen]


def canvas(width: float, height: float) -> Canvas:
    """An empty figure of so many inches that belongs to no global state."""
    figure = Canvas(figsize=(width, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr,call-arg]
    return figure


def styled() -> Any:
    """A context in which figures are drawn in the common style."""
    return matplotlib.rc_context(rc=STYLE)  # type: ignore[arg-type]


def title(figure: Canvas, text: str) -> None:
    """Puts the finding above the figure, in as many lines as its width needs."""
    columns = int(figure.get_figwidth() * 10.4)
    lines = textwrap.fill(text, columns, break_long_words=False, break_on_hyphens=False)
    figure.suptitle(lines, x=0.012, ha="left", fontsize=12, fontweight="bold")


def to_png(figure: Canvas, dpi: int | None = None) -> bytes:
    """The figure at twice its nominal resolution, or at another.

    As `savefig` has it, which takes nearly twice as long: it draws twice, of which once is for the layout.
    """
    figure.set_dpi(dpi or STYLE["savefig.dpi"])
    drawn = FigureCanvasAgg(figure)
    drawn.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(drawn.buffer_rgba())[:, :, :3]  # type: ignore[no-untyped-call]
    return encode(pixels, compress_level=3)


def short(value: object) -> str:
    """A number in four digits at most, as one would say it: 712.3, 3.1e-4, 0.0512."""
    if value is None:
        return "none"
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if 1e-2 <= abs(value) < 1e5:
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def named(metric: str) -> str:
    """An axis label: the metric and its unit."""
    unit = METRICS[metric].unit
    return f"{metric} [{unit}]" if unit else metric


def robust_limits(values: Sequence[float], mode: Mode, keep: Sequence[float] = ()) -> tuple[float, float]:
    """Limits of an axis that show the good and the middling values and cut off what is far worse than those.

    Far worse is more than twice as far from the best value as the worst of the better three quarters. What is in
    `keep` is shown however bad it is, if it is finite.
    """
    finite = sorted(value for value in values if math.isfinite(value))
    if not finite:
        return 0.0, 1.0
    if mode == "max":
        low, high = robust_limits([-value for value in finite], "min", [-value for value in keep])
        return -high, -low
    best, usual, worst = finite[0], finite[(3 * (len(finite) - 1) + 3) // 4], finite[-1]
    cut = best + 2 * (usual - best)
    edge = worst if worst <= cut or cut == best else max([cut, *(v for v in keep if math.isfinite(v))])
    margin = 0.06 * (edge - best) or 0.05 * abs(best) or 1.0
    return best - margin, edge + margin


SIZE = 46.0


def mark(axes: Axes, kind: str, xs: Sequence[float], ys: Sequence[float], **more: Any) -> None:
    """Draws trials of one kind; see `MARKS`."""
    if xs:
        axes.scatter(xs, ys, **{**MARKS[kind], **more})


MARKS: dict[str, dict[str, Any]] = {
    "completed": {"s": SIZE, "c": BLUE, "marker": "o", "edgecolors": "white", "linewidths": 0.8, "zorder": 4},
    "stopped early": {"s": SIZE * 0.6, "facecolors": "none", "edgecolors": GREY, "linewidths": 1.1, "zorder": 3},
    "not finished": {"s": SIZE * 0.6, "facecolors": "none", "edgecolors": GREEN, "linewidths": 1.1, "zorder": 3},
    "no result": {"s": SIZE * 0.8, "c": BLACK, "marker": "x", "linewidths": 1.4, "zorder": 4, "clip_on": False},
    "baseline": {"s": SIZE * 1.5, "c": BLACK, "marker": "D", "edgecolors": "white", "linewidths": 1.0, "zorder": 5},
    "best": {"s": SIZE * 5, "c": VERMILLION, "marker": "*", "edgecolors": "white", "linewidths": 1.0, "zorder": 6},
}
"""How each kind of trial looks. In every figure the winner is the red star and what the file gave a black diamond."""


def kind(record: TrialRecord, value: float) -> str:
    """Which of `MARKS` a trial has that neither won nor was given."""
    if record.state in WITHOUT_RESULT or (record.epochs and not math.isfinite(value)):
        return "no result"
    return {TrialState.COMPLETED: "completed", TrialState.PRUNED: "stopped early"}.get(record.state, "not finished")


def legend_handle(kind: str, label: str) -> Line2D:
    """An entry of a legend that shows the mark of a kind."""
    look = MARKS[kind]
    hollow = look.get("facecolors") == "none"
    colour = look["edgecolors"] if hollow else look["c"]
    return Line2D(
        [], [], linestyle="none", marker=look.get("marker", "o"), markersize=math.sqrt(look["s"]) * 0.95, label=label,
        markerfacecolor="none" if hollow else colour, markeredgecolor=colour, markeredgewidth=look["linewidths"],
    )  # fmt: skip


SAID = {"no result": "diverged or failed"}
"""What a legend says of a kind whose own name says too little."""


def who(trials: Standing, looks: str) -> str:
    """The winner's or the baselines' entry in a legend."""
    if looks == "best":
        assert trials.winner is not None
        return f"best: trial {trials.winner.number}, {short(trials.value(trials.winner))}"
    given = [record for record in trials.baselines if record is not trials.winner]
    values = ", ".join(f"{r.number}" for r in given[:4]) + (", …" if len(given) > 4 else "")
    if len(given) == 1 and math.isfinite(trials.value(given[0])):
        values += f", {short(trials.value(given[0]))}"
    return f"baseline: trial {values}" if len(given) == 1 else f"baselines: trials {values}"
