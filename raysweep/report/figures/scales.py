"""The axis of a hyperparameter: its scale, its ticks, and where on it a trial stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from raysweep.records import TrialRecord
from raysweep.report.figures.marks import GREY, Weights, short
from raysweep.report.figures.repeats import Key, configuration
from raysweep.report.tables import PARAMETERS
from raysweep.space import Choices, Range, Scalar, TrialSpace


def scale_x(axes: Axes, space: TrialSpace, name: str, records: Sequence[TrialRecord]) -> Callable[[TrialRecord], float]:
    """Sets up the axis of a searched parameter; returns where on it a trial stands.

    Among categories, repeats of one configuration stand one above the other.
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
            axes.xaxis.set_major_locator(MaxNLocator(5))
        return lambda record: float(getattr(record.config, name))
    categories = categories_of(distribution, values)
    axes.set_xlim(-0.6, len(categories) - 0.4)
    rotation = 30 if sum(len(short(c)) for c in categories) > 30 else 0
    axes.set_xticks(
        range(len(categories)), [short(c) for c in categories], rotation=rotation, ha="right" if rotation else "center"
    )
    axes.grid(visible=False, axis="x")

    # Configurations of one category stand side by side, else they would hide each other.
    column: dict[Key, int] = {}
    for record in records:
        column.setdefault(configuration(record), record.number)

    def position(record: TrialRecord) -> float:
        index = categories.index(getattr(record.config, name))
        return index + 0.36 * ((column[configuration(record)] * 0.6180339887) % 1.0 - 0.5)

    return position


def mark_collapse(axes: Axes, space: TrialSpace, collapse: Weights) -> bool:
    """Draws where collapse was predicted on the axis of the KLD weight; False if that is off the axis."""
    distribution = space.searched["kld_weight"]
    least, most = collapse
    if isinstance(distribution, Choices):
        # Between two categories, as they are in order.
        weights = [float(c or 0) for c in categories_of(distribution, [])]
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


def categories_of(choices: Choices, values: Sequence[Scalar]) -> list[Scalar]:
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


def compared_parameters(space: TrialSpace) -> list[str]:
    """The searched fields that are worth an axis: all but the seed, unless it is the only one."""
    return [name for name in space.searched if name != "seed"] or list(space.searched)


def parameter_label(name: str) -> str:
    """An axis label: the field and its unit, unless the name has it."""
    unit = PARAMETERS[name].unit
    return f"{name} [{unit}]" if unit and unit not in name else name
