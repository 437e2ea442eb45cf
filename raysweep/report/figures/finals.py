"""The final metrics of trials against a hyperparameter, compared with those of real images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from raysweep.metrics import FINAL_METRICS, FINAL_PREFIX
from raysweep.records import TrialRecord
from raysweep.report.figures import palette
from raysweep.report.figures.comparisons import comparable, compared, sides
from raysweep.report.figures.floors import floor_name
from raysweep.report.figures.marks import (
    COLLAPSE_SAID,
    SIZE_TEXT,
    Drawn,
    Standing,
    Weights,
    canvas_of_panels,
    legend_below,
    short,
    title,
    to_png,
)
from raysweep.report.figures.repeats import group_repeats, mean_and_range
from raysweep.report.figures.scales import (
    categories_of,
    compared_parameters,
    mark_collapse,
    parameter_label,
    scale_x,
    tilt_crowded_ticks,
)
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import Choices, Scalar
from raysweep.wording import counted

SHOWN = ("iwae_nats", "kid", "coverage", "recall", "reconstruction_accuracy", "silhouette", "sample_sharpness")
"""Fields of `FinalMetrics` that have a panel; values measured on mixture samples are in the same panel."""

SHAPES = ("o", "s", "^", "D", "v", "P")
"""Marks for the values of a second parameter; each value has its own colour too."""
ALIKE = "trials"
"""The label of the only series, if no second parameter distinguishes trials."""


class _Series(NamedTuple):
    """Trials of one value of the second parameter."""

    label: str
    colour: str
    shape: str
    groups: list[list[TrialRecord]]
    """Trials by configuration."""


def final_metrics(trials: Standing, spec: SweepSpec, collapse: Weights | None = None) -> Drawn | None:
    """Draw the main final metrics, a panel each, against the KLD weight or otherwise the first searched field."""
    tested = [record for record in trials.records if record.tested is not None]
    names = compared_parameters(spec.trial)
    panels = [name for name in SHOWN if any(math.isfinite(_value(record, name)) for record in tested)]
    if not tested or not names or not panels:
        return None
    x_name = "kld_weight" if "kld_weight" in names else names[0]
    hue = _second(spec, tested, [name for name in names if name != x_name])
    series = _series(spec, hue, tested)
    figure, axes, _, lowest = canvas_of_panels(len(panels), row=2.3, rest=1.4, alone=4.2)
    marked = mixture = floored = False
    for panel, name in zip(axes, panels, strict=True):
        positions = scale_x(panel, spec.trial, x_name, tested)
        in_order = isinstance(spec.trial.searched[x_name], Choices)
        for one in series:
            _draw(panel, one, name, positions, filled=True, joined=in_order)
            if FINAL_PREFIX + f"mixture_{name}" in FINAL_METRICS:
                mixture |= _draw(panel, one, f"mixture_{name}", positions, filled=False, joined=in_order)
        floored |= _draw_floor(panel, tested, name)
        metric = FINAL_METRICS[FINAL_PREFIX + name]
        neither = " ≈" if floor_name(name) else ""
        arrow = {"max": " ↑", "min": " ↓", None: neither}[metric.mode]
        panel.set_title(f"{name}{arrow}", loc="left", fontsize=SIZE_TEXT)
        panel.set_ylabel(metric.unit)
        panel.margins(y=0.1)
        if x_name == "kld_weight" and collapse is not None:
            marked |= mark_collapse(panel, spec.trial, collapse, records=tested)
    for panel in lowest:
        panel.set_xlabel(parameter_label(x_name))
    handles: list[Artist] = [
        Line2D([], [], ls="none", marker=one.shape, ms=6, color=one.colour, label=one.label)
        for one in series
        if one.label != ALIKE
    ]
    if mixture:
        dot: dict[str, Any] = {"marker": "o", "ms": 6, "color": palette.AXIS}
        handles.append(Line2D([], [], ls="-", **dot, label="filled: samples from the prior"))
        handles.append(Line2D([], [], ls=":", **dot, mfc="white", label="hollow: from the mixture"))
    if floored:
        handles.append(Line2D([], [], ls="--", lw=1.4, color=palette.AXIS, label="real images"))
    if marked:
        handles.append(Patch(facecolor=palette.COLLAPSE, edgecolor=palette.COLLAPSE_INK, lw=0.8, ls="--",
                             label="predicted collapse"))  # fmt: skip
    if handles:
        legend_below(figure, handles)
    images = tested[0].tested.images if tested[0].tested else 0
    text = f"{counted(len(tested), 'trial')} on {counted(images, 'test image')}, by {x_name}"
    text += "".join(f"; {said}" for said in _findings(spec, tested, panels, x_name, collapse))
    title(figure, text)
    tilt_crowded_ticks(figure)
    repeats = any(len(group) > 1 for one in series for group in one.groups)
    return Drawn(
        "test_metrics", text, to_png(figure),
        "Final metrics on the test split. "
        + ("A point is the mean over seeds, its bar their range. " if repeats else "A point is a trial. ")
        + "An arrow says whether more or less is better, ≈ that a metric is best near real images. "
        + "Trials differ in the other searched parameters too. "
        + "A perfect model would be on the dashed line, if there is one."
        + (f" {COLLAPSE_SAID}" if marked else ""),
    )  # fmt: skip


def _value(record: TrialRecord, name: str) -> float:
    value = getattr(record.tested, name) if record.tested else None
    return math.nan if value is None else float(value)


def _second(spec: SweepSpec, tested: Sequence[TrialRecord], names: Sequence[str]) -> str | None:
    """Return the field that colours show: the first with choices that has two to six measured values, or None."""
    for name in names:
        seen = {repr(getattr(record.config, name)) for record in tested}
        if isinstance(spec.trial.searched[name], Choices) and 2 <= len(seen) <= len(SHAPES):
            return name
    return None


def _series(spec: SweepSpec, hue: str | None, tested: Sequence[TrialRecord]) -> list[_Series]:
    if hue is None:
        return [_Series(ALIKE, palette.COMPLETED, SHAPES[0], group_repeats(tested))]
    distribution = spec.trial.searched[hue]
    assert isinstance(distribution, Choices)
    of_value: dict[str, list[TrialRecord]] = {}
    for record in tested:
        of_value.setdefault(repr(getattr(record.config, hue)), []).append(record)
    values: list[Scalar] = [getattr(record.config, hue) for record in tested]
    ordered = [value for value in categories_of(distribution, values) if repr(value) in of_value]
    looks = zip(palette.value_colours(len(ordered)), SHAPES, strict=False)
    return [
        _Series(f"{hue} {short(value)}", colour, shape, group_repeats(of_value[repr(value)]))
        for value, (colour, shape) in zip(ordered, looks, strict=True)
    ]


def _draw(
    axes: Axes, series: _Series, name: str, positions: Callable[[TrialRecord], float], *, filled: bool, joined: bool
) -> bool:
    """Draw one metric of one series; return False if there is nothing to draw.

    `joined` connects the points of a series that has only one at each position.
    """
    points: list[tuple[float, ...]] = []
    for group in series.groups:
        values = [value for value in (_value(record, name) for record in group) if math.isfinite(value)]
        if values:
            points.append((positions(group[0]), *mean_and_range(values)))
    points.sort()
    if not points:
        return False
    xs, means = [point[0] for point in points], [point[1] for point in points]
    if joined and len(set(xs)) == len(xs):
        axes.plot(xs, means, color=series.colour, lw=1.2, ls="-" if filled else ":", zorder=3)
    for x, mean, low, high in points:
        axes.plot([x, x], [low, high], color=series.colour, lw=2.2, alpha=0.45, zorder=3)
        axes.plot(
            [x], [mean], marker=series.shape, ms=6, ls="none", color=series.colour, zorder=4, alpha=0.85,
            mfc=series.colour if filled else "white", mec="white" if filled else series.colour,
        )  # fmt: skip
    return True


def _draw_floor(axes: Axes, tested: Sequence[TrialRecord], name: str) -> bool:
    """Draw the value of real images as a line, with a band if trials were measured with different ones."""
    floor = floor_name(name)
    values = [value for record in tested if floor and math.isfinite(value := _value(record, floor))]
    if not values:
        return False
    mean, low, high = mean_and_range(values)
    axes.axhline(mean, color=palette.AXIS, lw=1.4, ls="--", zorder=2)
    if high > low:
        axes.axhspan(low, high, color=palette.AXIS, alpha=0.15, lw=0, zorder=1)
    return True


MOST_SAID = 2
"""Most metrics that the title mentions."""


def _findings(
    spec: SweepSpec, tested: Sequence[TrialRecord], panels: Sequence[str], x_name: str, collapse: Weights | None
) -> list[str]:
    """Compare the values of `x_name` in the first metrics; where that is not possible, say which trial is best."""
    said: list[str] = []
    for name in panels:
        mode = FINAL_METRICS[FINAL_PREFIX + name].mode
        if len(said) == MOST_SAID or mode is None or name == "recall":
            continue
        values = {record.number: _value(record, name) for record in tested}
        known = [record for record in tested if math.isfinite(values[record.number])]
        found = sides(spec, comparable(known, x_name, spec.search.objective.metric, collapse), x_name)
        means = {repr(side.value): fmean(values[record.number] for record in side.records) for side in found}
        sentence = compared(found, f"mean {name}", mode, means, at="" if said else x_name)
        if sentence is None and len(known) > 1:
            ordered = sorted((values[record.number], record.number) for record in known)
            value, number = ordered[-1 if mode == "max" else 0]
            sentence = f"trial {number} has the {'most' if mode == 'max' else 'least'} {name}, {short(value)}"
        elif sentence is None:
            sentence = f"{name} {short(values[known[0].number])}"
        said.append(sentence)
    return said
