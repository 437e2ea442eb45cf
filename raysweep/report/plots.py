"""How each figure of a sweep is drawn."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from raysweep.layout import SweepDirectory
from raysweep.metrics import TrialState
from raysweep.records import TrialRecord
from raysweep.report.marks import (
    BLACK,
    BLUE,
    COLLAPSE_SAID,
    GREEN,
    GREY,
    HALO,
    VERMILLION,
    Drawn,
    Standing,
    Weights,
    canvas,
    kind,
    legend_handle,
    mark,
    named,
    robust_limits,
    short,
    standing,
    styled,
    title,
    to_png,
)
from raysweep.report.ratedistortion import rate_and_distortion
from raysweep.report.strips import reconstructions
from raysweep.report.tables import PARAMETERS
from raysweep.space import Choices, Range, Scalar, TrialSpace
from raysweep.spec import SweepSpec

MAX_PANELS_A_ROW = 4


def draw_all(
    directory: SweepDirectory, spec: SweepSpec, records: Sequence[TrialRecord], collapse: Weights | None = None
) -> Iterator[Drawn]:
    """Every figure that has something to show; `collapse` are the KLD weights at which it was predicted."""
    trials = standing(spec, records)
    with styled():
        for drawn in (
            objective_by_parameter(trials, spec, collapse),
            rate_and_distortion(trials, collapse),
            reconstructions(trials, spec, directory),
            learning_curves(trials, spec),
        ):
            if drawn is not None:
                yield drawn


def objective_by_parameter(trials: Standing, spec: SweepSpec, collapse: Weights | None = None) -> Drawn | None:
    """The objective against each searched parameter, one panel each."""
    names = list(spec.trial.searched)
    ended = [r for r in trials.records if r.final is not None or r.state is not TrialState.RUNNING]
    if not names or not ended:
        return None
    columns = min(len(names), MAX_PANELS_A_ROW)
    rows = -(-len(names) // columns)
    figure = canvas(max(6.4, 3.3 * columns), 3.6 * rows + 0.9)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    panels = list(grid.flat)
    marked = False
    low, high = _objective_limits(trials, ended)
    floor = low if trials.mode == "max" else high
    shown = Counter(kind(record, trials.value(record)) for record in ended)
    shown.update(trials.label(record) for record in ended if trials.is_special(record))
    off = sum(not low <= trials.value(r) <= high for r in ended if kind(r, trials.value(r)) != "no result")
    for panel, name in zip(panels, names, strict=False):
        positions = _scale_x(panel, spec.trial, name, ended)
        for record in ended:
            x, value = positions(record), trials.value(record)
            looks = kind(record, value)
            if looks == "no result":
                mark(panel, looks, [x], [floor])
            elif not low <= value <= high:
                panel.scatter([x], [floor], s=34, c=GREY, marker="v" if floor == low else "^", clip_on=False, zorder=3)
            elif trials.is_special(record):
                mark(panel, trials.label(record), [x], [value])
                panel.annotate(
                    str(record.number), (x, value), xytext=(7, 7), textcoords="offset points", zorder=7,
                    fontsize=9, fontweight="bold", color=VERMILLION if record is trials.winner else BLACK,
                    path_effects=HALO,
                )  # fmt: skip
            else:
                mark(panel, looks, [x], [value])
        panel.set_ylim(low, high)
        if name == "kld_weight" and collapse is not None:
            marked = _mark_collapse(panel, spec.trial, collapse)
        unit = PARAMETERS[name].unit
        panel.set_xlabel(f"{name} [{unit}]" if unit and unit not in name else name)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    for row in grid:
        row[0].set_ylabel(named(trials.metric))
    entries = 2 * columns if columns > 1 else 3
    figure.legend(handles=_legend(trials, shown, off), loc="outside lower center", ncols=entries, handletextpad=0.3)
    figure.align_xlabels()
    text = f"{trials.metric} by {names[0] if len(names) == 1 else 'parameter'}: {trials.finding}"
    if trials.winner is not None:
        values = {name: short(getattr(trials.winner.config, name)) for name in names}
        text += " at " + ", ".join(v if len(names) == 1 else f"{name} {v}" for name, v in values.items())
    title(figure, text)
    better = "higher" if trials.mode == "max" else "lower"
    return Drawn(
        "objective", text, to_png(figure),
        f"Each point is a trial, at its {trials.metric} after its last epoch; {better} is better. A trial that was "
        "stopped early had fewer epochs. Points at the border lie beyond it or have no finite value."
        + (f" {COLLAPSE_SAID}" if marked else ""),
    )  # fmt: skip


def learning_curves(trials: Standing, spec: SweepSpec) -> Drawn | None:
    """The objective after every epoch of every trial."""
    curves = {
        record.number: [(e.metrics.epoch, float(getattr(e.metrics, trials.metric))) for e in record.epochs]
        for record in trials.records
        if record.epochs
    }
    if not curves:
        return None
    figure = canvas(8.4, 5.0)
    axes = figure.subplots()
    last = max(epoch for curve in curves.values() for epoch, _ in curve)
    values_seen = [value for curve in curves.values() for _, value in curve]
    low, high = robust_limits(values_seen, trials.mode, trials.special_values)
    axes.set_xlim(0.7 if last > 1 else 0.5, last + 0.3 if last > 1 else 1.5)
    axes.set_ylim(low, high)
    for rung in spec.asha.rungs(spec.max_epochs) if spec.asha else ():
        if rung < last:
            axes.axvline(rung, color=GREY, lw=1.0, ls=":", zorder=1)
            axes.annotate(
                "rung", (rung, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                ha="center", fontsize=8.5, color=GREY,
            )  # fmt: skip
    ends: list[tuple[float, str, str]] = []
    seen: Counter[str] = Counter()
    for record in trials.records:
        if record.number not in curves:
            continue
        epochs, values = zip(*curves[record.number], strict=True)
        special = trials.is_special(record)
        looks = trials.label(record) if special else kind(record, trials.value(record))
        seen.update({looks, kind(record, trials.value(record))})
        colour, width, alpha, order = _LINES[looks]
        axes.plot(epochs, values, color=colour, lw=width, alpha=alpha, zorder=order, solid_capstyle="round")
        finite = [(epoch, value) for epoch, value in curves[record.number] if math.isfinite(value)]
        if not finite:
            continue
        shape = "x" if looks == "no result" else "*" if looks == "best" else "D" if looks == "baseline" else "o"
        axes.plot(
            *finite[-1], marker=shape, ms={"*": 13, "D": 6, "x": 6, "o": 4}[shape], color=colour, zorder=order + 1,
            alpha=1 if special or shape == "x" else alpha, mew=1.4 if shape == "x" else 0,
        )  # fmt: skip
        if special and finite[-1][0] == last and low <= finite[-1][1] <= high:
            ends.append((finite[-1][1], f"{looks}: trial {record.number}", colour))
    _label_ends(axes, ends, low, high)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel(named(trials.metric))
    handles = [_line_handle(looks, _who(trials, looks)) for looks in ("best", "baseline") if seen[looks]]
    for looks in ("completed", "stopped early", "not finished", "no result"):
        if seen[looks]:
            handles.append(_line_handle(looks, f"{_SAID.get(looks, looks)} ({seen[looks]})"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=1.6)
    text = f"{trials.metric} by epoch: {trials.finding}"
    stopped = sum(record.state is TrialState.PRUNED for record in trials.records)
    if stopped:
        text += f"; {stopped} of {len(trials.records)} trials stopped early"
    title(figure, text)
    return Drawn(
        "learning_curves", text, to_png(figure),
        "One line a trial, on validation images. Faint lines were stopped early; a cross is where a trial diverged or "
        "failed. Dotted lines are the rungs at which ASHA compares trials. Values far worse than most are cut off.",
    )  # fmt: skip


_LINES: dict[str, tuple[str, float, float, int]] = {
    "completed": (BLUE, 1.3, 0.75, 4),
    "stopped early": (GREY, 1.0, 0.5, 3),
    "not finished": (GREEN, 1.2, 0.8, 3),
    "no result": (GREY, 1.0, 0.8, 3),
    "baseline": (BLACK, 2.0, 1.0, 6),
    "best": (VERMILLION, 2.6, 1.0, 7),
}
"""Colour, width, opacity and order of the curves of each kind of trial."""


def _line_handle(looks: str, label: str) -> Line2D:
    colour, width, alpha, _ = _LINES[looks]
    return Line2D([], [], color=colour, lw=width, alpha=alpha, label=label)


_SAID = {"no result": "diverged or failed"}


def _objective_limits(trials: Standing, records: Sequence[TrialRecord]) -> tuple[float, float]:
    measured = [trials.value(r) for r in records if kind(r, trials.value(r)) != "no result"]
    return robust_limits(measured, trials.mode, trials.special_values)


def _scale_x(
    axes: Axes, space: TrialSpace, name: str, records: Sequence[TrialRecord]
) -> Callable[[TrialRecord], float]:
    """Sets up the axis of a searched parameter; returns where on it a trial stands."""
    distribution = space.searched[name]
    values: list[Scalar] = [getattr(record.config, name) for record in records]
    if isinstance(distribution, Range):
        numbers = [float(v) for v in values if isinstance(v, int | float)]
        low, high = min([distribution.low, *numbers]), max([distribution.high, *numbers])
        if distribution.log:
            axes.set_xscale("log")
            margin = (high / low) ** 0.06
            axes.set_xlim(low / margin, high * margin)
            _log_ticks(axes, low, high)
        else:
            margin = 0.06 * (high - low)
            axes.set_xlim(low - margin, high + margin)
            axes.xaxis.set_major_locator(MaxNLocator(5))
        return lambda record: float(getattr(record.config, name))
    categories = _categories(distribution, values)
    axes.set_xlim(-0.6, len(categories) - 0.4)
    rotation = 30 if sum(len(short(c)) for c in categories) > 30 else 0
    axes.set_xticks(
        range(len(categories)), [short(c) for c in categories], rotation=rotation, ha="right" if rotation else "center"
    )
    axes.grid(visible=False, axis="x")

    # Trials of one category stand side by side, else they would hide each other.
    def position(record: TrialRecord) -> float:
        index = categories.index(getattr(record.config, name))
        return index + 0.36 * ((record.number * 0.6180339887) % 1.0 - 0.5)

    return position


def _mark_collapse(axes: Axes, space: TrialSpace, collapse: Weights) -> bool:
    """Draws where collapse was predicted on the axis of the KLD weight; False if that is off the axis."""
    distribution = space.searched["kld_weight"]
    least, most = collapse
    if isinstance(distribution, Choices):
        # Between two categories, as they are in order.
        weights = [float(c or 0) for c in _categories(distribution, [])]
        least, most = (sum(weight < edge for weight in weights) - 0.5 for edge in collapse)
        if most < 0 or least > len(weights) - 1:
            return False
    left, right = axes.get_xlim()
    if not (least < right and most > left):
        return False
    least, most = max(least, left), min(most, right)
    if most > least:
        axes.axvspan(least, most, color=GREY, alpha=0.18, lw=0, zorder=1)
    else:
        axes.axvline(least, color=GREY, lw=1.2, ls=(0, (4, 2)), zorder=1)
    x = float(axes.transData.transform((most, 0))[0] + axes.transData.transform((least, 0))[0]) / 2
    place = float(axes.transAxes.inverted().transform((x, 0))[0])
    axes.annotate(
        "predicted collapse", (place, 1.0), xycoords="axes fraction", xytext=(0, 3), textcoords="offset points",
        ha="left" if place < 0.25 else "right" if place > 0.75 else "center", fontsize=8.5, color=GREY,
    )  # fmt: skip
    return True


def _categories(choices: Choices, values: Sequence[Scalar]) -> list[Scalar]:
    """The choices, numbers in order, and after them whatever else was tried."""
    categories = list(choices.choices)
    if all(isinstance(c, int | float) for c in categories):
        categories.sort(key=lambda c: float(c or 0))
    for value in values:
        if value not in categories:
            categories.append(value)
    return categories


def _log_ticks(axes: Axes, low: float, high: float) -> None:
    """Powers of ten where the range has two of them, else enough of the numbers between."""
    if high / low >= 100:
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 4 else range(1, 10)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(trials: Standing, shown: Counter[str], off: int) -> list[Line2D]:
    handles = []
    for looks in ("best", "baseline"):
        if shown[looks]:
            handles.append(legend_handle(looks, _who(trials, looks)))
    for looks in ("completed", "stopped early", "not finished"):
        if shown[looks]:
            handles.append(legend_handle(looks, f"{looks} ({shown[looks]})"))
    if off:
        shape = "v" if trials.mode == "max" else "^"
        handles.append(Line2D([], [], ls="none", marker=shape, ms=5.5, color=GREY, label=f"off the axis ({off})"))
    if shown["no result"]:
        handles.append(legend_handle("no result", f"{_SAID['no result']} ({shown['no result']})"))
    return handles


def _who(trials: Standing, looks: str) -> str:
    """The winner's or the baselines' entry in a legend."""
    if looks == "best":
        assert trials.winner is not None
        return f"best: trial {trials.winner.number}, {short(trials.value(trials.winner))}"
    given = [record for record in trials.baselines if record is not trials.winner]
    values = ", ".join(f"{r.number}" for r in given[:4]) + (", …" if len(given) > 4 else "")
    if len(given) == 1 and math.isfinite(trials.value(given[0])):
        values += f", {short(trials.value(given[0]))}"
    return f"baseline: trial {values}" if len(given) == 1 else f"baselines: trials {values}"


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], low: float, high: float) -> None:
    """Writes at the right ends of curves, moved apart where two would touch."""
    room = 0.05 * (high - low)
    below = -math.inf
    for value, text, colour in sorted(ends):
        y = max(value, below + room)
        below = y
        axes.annotate(
            text, (1.0, y), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=9, fontweight="bold", color=colour, annotation_clip=False,
        )  # fmt: skip
