"""The axis of a hyperparameter: its scale, its ticks, and where on it a trial stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from raysweep.records import TrialRecord
from raysweep.report.figures import palette
from raysweep.report.figures.lettering import shortened
from raysweep.report.figures.marks import SIZE_SMALL, Weights, short
from raysweep.report.tables import PARAMETERS
from raysweep.spec.space import Choices, Range, Scalar, TrialSpace, field_kind


def scale_x(axes: Axes, space: TrialSpace, name: str, records: Sequence[TrialRecord]) -> Callable[[TrialRecord], float]:
    """Set up the axis of a searched parameter; return the function that gives a trial's position on it.

    Choices are evenly spaced categories. A trial stands exactly at its own category, because a shifted one would seem
    to have another value.
    """
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
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=field_kind(name) == "int", min_n_ticks=1))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(float(value))))
        return lambda record: float(getattr(record.config, name))
    categories = categories_of(distribution, values)
    axes.set_xlim(-0.5, len(categories) - 0.5)
    axes.set_xticks(range(len(categories)), category_labels(categories))
    axes.tick_params(axis="x", length=0)
    for edge in range(1, len(categories)):
        axes.axvline(edge - 0.5, color=palette.GRID, lw=0.8, zorder=0)
    axes.grid(visible=False, axis="x")
    return lambda record: float(categories.index(getattr(record.config, name)))


def place_of(space: TrialSpace, name: str, records: Sequence[TrialRecord], value: Scalar) -> float:
    """Return the position of a value on the axis that `scale_x` set up for these records."""
    distribution = space.searched[name]
    if isinstance(distribution, Range):
        return float(value or 0)
    return float(categories_of(distribution, [getattr(record.config, name) for record in records]).index(value))


def category_labels(categories: Sequence[Scalar], most: int = 14) -> list[str]:
    """Return the names of categories, long ones shortened, all different."""
    labels: list[str] = []
    for name in map(short, categories):
        label, count = shortened(name, most), 1
        while label in labels:
            count += 1
            label = f"{shortened(name, most - 4)} ({count})"
        labels.append(label)
    return labels


def tilt_crowded_ticks(figure: Canvas) -> None:
    """Turn the labels of an axis of categories if two of them would touch."""
    of_categories = [
        axes for axes in figure.axes
        if axes.get_visible() and isinstance(axes.xaxis.get_major_locator(), FixedLocator)
    ]  # fmt: skip
    engine = figure.get_layout_engine()
    if not of_categories or engine is None:
        return
    engine.execute(figure)
    for axes in of_categories:
        labels = [label for label in axes.get_xticklabels() if label.get_text()]
        boxes = [label.get_window_extent() for label in labels]
        room = 3.0 * figure.dpi / 72
        if any(after.x0 - before.x1 < room for before, after in pairwise(boxes)):
            for label in labels:
                label.set(rotation=35, ha="right", rotation_mode="anchor")


def mark_collapse(
    axes: Axes, space: TrialSpace, collapse: Weights, places: Sequence[tuple[float, float]] | None = None,
    records: Sequence[TrialRecord] = (),
) -> bool:  # fmt: skip
    """Shade the predicted collapse on the axis of the KLD weight; return False if it is off the axis.

    The shade covers the predicted weight and all above it. It is half as dark where collapse is predicted for only a
    part of the search space.

    Args:
        axes: as `scale_x` set them up; their limits are final.
        space: what was searched.
        collapse: the weights.
        places: where trials stand in the panel. The name of the shade is written where there are the fewest; without
            `places` a legend must name it.
        records: the trials that `scale_x` was given; their weights may include others than the choices.
    """
    least, most = collapse
    if not least > 0 or not math.isfinite(least):
        return False
    distribution = space.searched["kld_weight"]
    if isinstance(distribution, Choices):
        # Each edge lies between two categories, because they are in order.
        weights = [float(c or 0) for c in categories_of(distribution, [record.config.kld_weight for record in records])]
        least, most = (sum(weight < edge for weight in weights) - 0.5 for edge in collapse)
    left, right = axes.get_xlim()
    if least >= right:
        return False
    least, most = max(least, left), min(max(most, left), right)
    if most > least:
        axes.axvspan(least, most, color=palette.COLLAPSE, alpha=0.5, lw=0, zorder=0.5)
    if right > most:
        axes.axvspan(most, right, color=palette.COLLAPSE, lw=0, zorder=0.5)
    for edge in {least, most} - {left, right}:
        axes.axvline(edge, color=palette.COLLAPSE_INK, lw=1.2, ls=(0, (4, 2)), zorder=1)
    axes.set_xlim(left, right)
    if places is not None:
        _name_collapse(axes, least if most >= right else most, places)
    return True


def _name_collapse(axes: Axes, edge: float, places: Sequence[tuple[float, float]]) -> None:
    """Name the shade beside its edge, towards larger weights, at the height with the fewest trials."""
    to_axes = axes.transData + axes.transAxes.inverted()
    x = float(to_axes.transform((edge, axes.get_ylim()[0]))[0])
    own = [(u, v) for u, v in (to_axes.transform(place) for place in places) if x < u < x + 0.12]
    thirds = {"top": 0.97, "center": 0.5, "bottom": 0.03}
    in_the_way = {where: sum(abs(v - centre) < 0.3 for _, v in own)
                  for where, centre in (("top", 0.75), ("bottom", 0.25), ("center", 0.5))}  # fmt: skip
    where = min(in_the_way, key=lambda place: in_the_way[place])
    axes.annotate(
        "predicted collapse", (edge, thirds[where]), xycoords=axes.get_xaxis_transform(), xytext=(2, 0),
        textcoords="offset points", rotation=90, ha="left", va=where, fontsize=SIZE_SMALL,
        color=palette.COLLAPSE_INK, zorder=1.5,
    )  # fmt: skip


def categories_of(choices: Choices, values: Sequence[Scalar]) -> list[Scalar]:
    """Return the choices and all other values that were tried: numbers sorted, others in the order of the file."""
    categories = list(choices.choices)
    for value in values:
        if value not in categories:
            categories.append(value)
    if all(isinstance(c, int | float) for c in categories):
        categories.sort(key=lambda c: float(c or 0))
    return categories


def _log_ticks(axes: Axes, low: float, high: float) -> None:
    """Set ticks at powers of ten; if the range spans less than a factor of 100, also between them."""
    if high / low >= 100:
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
    else:
        subs = (1, 3) if high / low > 8 else (1, 2, 5) if high / low > 4 else range(1, 10)
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(float(value))))
    axes.xaxis.set_minor_formatter(NullFormatter())


def compared_parameters(space: TrialSpace) -> list[str]:
    """Return the searched fields that have an axis: all except the seed, unless it is the only one."""
    return [name for name in space.searched if name != "seed"] or list(space.searched)


def parameter_label(name: str) -> str:
    """Write an axis label: the field, and its unit if the name does not contain it."""
    unit = PARAMETERS[name].unit
    return f"{name} [{unit}]" if unit and unit not in name else name
