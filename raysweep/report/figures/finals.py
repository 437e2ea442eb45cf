"""The final metrics of trials against a hyperparameter, beside what real images come to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from raysweep.metrics import FINAL_METRICS, FINAL_PREFIX
from raysweep.records import TrialRecord
from raysweep.report.figures.floors import floor_name
from raysweep.report.figures.marks import (
    BLACK,
    BLUE,
    COLLAPSE_SAID,
    GREEN,
    GREY,
    VERMILLION,
    Drawn,
    Standing,
    Weights,
    canvas,
    short,
    title,
    to_png,
)
from raysweep.report.figures.repeats import group_repeats, mean_and_range
from raysweep.report.figures.scales import categories_of, compared_parameters, mark_collapse, parameter_label, scale_x
from raysweep.space import Choices, Scalar
from raysweep.spec import SweepSpec

SHOWN = ("iwae_nats", "kid", "coverage", "recall", "reconstruction_accuracy", "silhouette", "sample_sharpness")
"""Fields of `FinalMetrics` that have a panel; those measured of mixture samples too are in the same panel."""

HUES = (BLUE, VERMILLION, GREEN, "#CC79A7", "#E69F00", BLACK)


class _Series(NamedTuple):
    """Trials of one value of the second parameter."""

    label: str
    colour: str
    groups: list[list[TrialRecord]]
    """Trials by configuration."""


def final_metrics(trials: Standing, spec: SweepSpec, collapse: Weights | None = None) -> Drawn | None:
    """Small multiples of the main final metrics against the KLD weight, or the first searched field."""
    tested = [record for record in trials.records if record.tested is not None]
    names = compared_parameters(spec.trial)
    panels = [name for name in SHOWN if any(math.isfinite(_value(record, name)) for record in tested)]
    if not tested or not names or not panels:
        return None
    x_name = "kld_weight" if "kld_weight" in names else names[0]
    hue = _second(spec, tested, [name for name in names if name != x_name])
    series = _series(spec, hue, tested)
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = canvas(max(6.4, 3.3 * columns), 3.0 * rows + 1.1)
    grid = figure.subplots(rows, columns, squeeze=False)
    marked = mixture = floored = False
    for panel, name in zip(grid.flat, panels, strict=False):
        positions = scale_x(panel, spec.trial, x_name, tested)
        in_order = isinstance(spec.trial.searched[x_name], Choices)
        for index, one in enumerate(series):
            # Beside each other at one category, else they would hide each other.
            shift = 0.14 * (index - (len(series) - 1) / 2) if in_order else None
            _draw(panel, one, name, positions, shift, filled=True)
            if FINAL_PREFIX + f"mixture_{name}" in FINAL_METRICS:
                mixture |= _draw(panel, one, f"mixture_{name}", positions, shift, filled=False)
        floored |= _draw_floor(panel, tested, name)
        metric = FINAL_METRICS[FINAL_PREFIX + name]
        neither = ", best near real images" if floor_name(name) else ""
        arrow = {"max": ", more is better", "min": ", less is better", None: neither}[metric.mode]
        panel.set_title(f"{name}{arrow}", loc="left")
        panel.set_ylabel(metric.unit)
        panel.set_xlabel(parameter_label(x_name))
        panel.margins(y=0.1)
        if x_name == "kld_weight" and collapse is not None:
            marked |= _mark(panel, spec, collapse)
    for panel in list(grid.flat)[len(panels) :]:
        panel.set_visible(False)
    dot: dict[str, Any] = {"marker": "o", "ms": 6}
    handles = [Line2D([], [], ls="none", **dot, color=one.colour, label=one.label) for one in series]
    if mixture:
        handles.append(Line2D([], [], ls="-", **dot, color=GREY, label="filled: samples from the prior"))
        handles.append(Line2D([], [], ls=":", **dot, mfc="white", color=GREY, label="hollow: from the fitted mixture"))
    if floored:
        handles.append(Line2D([], [], ls="--", lw=1.4, color=GREY, label="real images against real images"))
    if marked:
        handles.append(Line2D([], [], ls="none", marker="|", ms=13, mew=1.4, color=GREY, label="predicted collapse"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), handletextpad=0.4)
    text = f"On {tested[0].tested.images if tested[0].tested else 0} test images: {_finding(tested, panels, x_name)}"
    title(figure, text)
    repeats = any(len(group) > 1 for one in series for group in one.groups)
    return Drawn(
        "test_metrics", text, to_png(figure),
        "Final metrics on the test split. "
        + ("A point is the mean over seeds, its bar their range. " if repeats else "A point is a trial. ")
        + "A perfect model would be on the dashed line, if there is one."
        + (f" {COLLAPSE_SAID}" if marked else ""),
    )  # fmt: skip


def _value(record: TrialRecord, name: str) -> float:
    value = getattr(record.tested, name) if record.tested else None
    return math.nan if value is None else float(value)


def _second(spec: SweepSpec, tested: Sequence[TrialRecord], names: Sequence[str]) -> str | None:
    """The field that colours tell apart: the first with choices, of which two to six were measured."""
    for name in names:
        seen = {repr(getattr(record.config, name)) for record in tested}
        if isinstance(spec.trial.searched[name], Choices) and 2 <= len(seen) <= len(HUES):
            return name
    return None


def _series(spec: SweepSpec, hue: str | None, tested: Sequence[TrialRecord]) -> list[_Series]:
    if hue is None:
        return [_Series("trials", BLUE, group_repeats(tested))]
    distribution = spec.trial.searched[hue]
    assert isinstance(distribution, Choices)
    of_value: dict[str, list[TrialRecord]] = {}
    for record in tested:
        of_value.setdefault(repr(getattr(record.config, hue)), []).append(record)
    values: list[Scalar] = [getattr(record.config, hue) for record in tested]
    ordered = [value for value in categories_of(distribution, values) if repr(value) in of_value]
    return [
        _Series(f"{hue} {short(value)}", colour, group_repeats(of_value[repr(value)]))
        for value, colour in zip(ordered, HUES, strict=False)
    ]


def _draw(
    axes: Axes, series: _Series, name: str, positions: Callable[[TrialRecord], float], shift: float | None,
    *, filled: bool,
) -> bool:  # fmt: skip
    """Draws one metric of one series; False if there is nothing to draw.

    `shift` is how far from its category the series stands where it has one value a category, which are joined then;
    None if there are no categories.
    """
    points: list[tuple[float, ...]] = []
    for group in series.groups:
        values = [value for value in (_value(record, name) for record in group) if math.isfinite(value)]
        if values:
            points.append((positions(group[0]), *mean_and_range(values)))
    points.sort()
    if not points:
        return False
    if shift is not None and len({round(x) for x, *_ in points}) == len(points):
        points = [(round(x) + shift, *rest) for x, *rest in points]
        xs, means = [point[0] for point in points], [point[1] for point in points]
        axes.plot(xs, means, color=series.colour, lw=1.2, ls="-" if filled else ":", zorder=3)
    for x, mean, low, high in points:
        axes.plot([x, x], [low, high], color=series.colour, lw=2.2, alpha=0.45, zorder=3)
        axes.plot(
            [x], [mean], marker="o", ms=6, ls="none", color=series.colour, zorder=4,
            mfc=series.colour if filled else "white", mec="white" if filled else series.colour,
        )  # fmt: skip
    return True


def _draw_floor(axes: Axes, tested: Sequence[TrialRecord], name: str) -> bool:
    """Draws what real images come to as a line, or as a band if trials were measured with different ones."""
    floor = floor_name(name)
    values = [value for record in tested if floor and math.isfinite(value := _value(record, floor))]
    if not values:
        return False
    mean, low, high = mean_and_range(values)
    axes.axhline(mean, color=GREY, lw=1.4, ls="--", zorder=2)
    if high > low:
        axes.axhspan(low, high, color=GREY, alpha=0.15, lw=0, zorder=1)
    return True


def _mark(axes: Axes, spec: SweepSpec, collapse: Weights) -> bool:
    marked = mark_collapse(axes, spec.trial, collapse)
    # The legend names the line: above small panels the words would run into the titles.
    for text in list(axes.texts):
        text.remove()
    return marked


def _finding(tested: Sequence[TrialRecord], panels: Sequence[str], x_name: str) -> str:
    """Where each of up to three metrics is best."""
    said: list[str] = []
    for name in panels:
        mode = FINAL_METRICS[FINAL_PREFIX + name].mode
        if len(said) == 3 or mode is None or name == "recall":
            continue
        groups = [
            (mean_and_range(values)[0], group[0])
            for group in group_repeats(tested)
            if (values := [v for record in group if math.isfinite(v := _value(record, name))])
        ]
        best, record = (max if mode == "max" else min)(groups, key=lambda pair: pair[0])
        said.append(f"{name} is best ({short(best)}) at {x_name} {short(getattr(record.config, x_name))}")
    return ", ".join(said)
