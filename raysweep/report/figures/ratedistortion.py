"""Rate against distortion: what each trial pays in rate and gains in distortion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, to_hex
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from raysweep.metrics import TrialState
from raysweep.records import TrialRecord
from raysweep.report.figures import palette
from raysweep.report.figures.lettering import Label, place_labels, spare_marks
from raysweep.report.figures.marks import (
    COLLAPSE_SAID,
    HALO,
    SIZE_SMALL,
    WIDTH,
    Drawn,
    Standing,
    Weights,
    canvas,
    legend_below,
    robust_limits,
    short,
    title,
    to_png,
)
from raysweep.report.figures.repeats import group_repeats


def rate_and_distortion(trials: Standing, collapse: Weights | None = None) -> Drawn | None:
    """Draw rate against distortion, where lines of equal ELBO are straight (Alemi et al., arXiv:1711.00464)."""
    points = [
        (record, record.final.rate_nats, record.final.distortion_nats)
        for record in trials.drawn
        if record.final and math.isfinite(record.final.rate_nats) and math.isfinite(record.final.distortion_nats)
    ]
    if not points:
        return None
    figure = canvas(WIDTH, 5.0)
    axes = figure.subplots()
    kept = [point for point in points if trials.is_special(point[0]) or point[0].state is TrialState.COMPLETED]
    special = [point for point in points if trials.is_special(point[0])]
    furthest = robust_limits([rate for _, rate, _ in kept], "min", [rate for _, rate, _ in special])[1]
    highest = robust_limits([y for *_, y in kept], "min", [y for *_, y in special])[1]
    rates = robust_limits(
        [0.0, *(rate for _, rate, _ in points)], "min", [rate for _, rate, _ in kept if rate <= furthest]
    )
    distortions = robust_limits([y for *_, y in points], "min", [y for *_, y in kept if y <= highest])
    axes.set_xlim(*rates)
    axes.set_ylim(*distortions)
    elbos = _iso_elbo(axes)
    weights = [record.config.kld_weight for record, *_ in points]
    low = min((weight for weight in weights if weight > 0), default=0.0)
    norm = _weight_norm(weights)
    colours = ScalarMappable(norm, palette.VALUES) if norm else None
    beyond, marked = 0, False
    labels: list[Label] = []
    places: list[tuple[float, float]] = []
    joined = _join_repeats(axes, [record for record, *_ in points])
    for record, rate, distortion in points:
        x, y = min(rate, rates[1]), min(distortion, distortions[1])
        inside = (x, y) == (rate, distortion)
        beyond += not inside
        colour = (
            to_hex(colours.to_rgba(np.array([max(record.config.kld_weight, low)]))[0]) if colours else palette.COMPLETED
        )
        done = record.state is TrialState.COMPLETED
        wins, named_here = record is trials.winner, trials.is_special(record)
        shape = "*" if wins else "D" if named_here else "o" if inside else "^" if y < distortion else ">"
        places.append((x, y))
        axes.scatter(
            [x], [y], marker=shape, s=260 if wins else 75 if named_here else 60 if done else 34, clip_on=inside,
            facecolors=colour if done or named_here else "none", zorder=6 if named_here else 4,
            edgecolors=palette.BEST if wins else palette.BASELINE if named_here else "white" if done else colour,
            linewidths=1.6 if wins or not done else 1.0 if named_here else 0.6,
        )  # fmt: skip
        if named_here:
            text, ink = f"{trials.label(record)}: trial {record.number}", palette.BEST if wins else palette.BASELINE
            labels.insert(0 if wins else len(labels), Label(text, (x, y), ink, bold=True, apart=11.0))
    axes.set_xlabel("rate [nats/image]")
    axes.set_ylabel("distortion [nats/image]")
    if colours is not None:
        bar = figure.colorbar(colours, ax=axes, pad=0.04, aspect=30)
        bar.set_label("kld_weight")
        bar.outline.set_visible(False)
        bar.formatter = FuncFormatter(lambda value, _: short(float(value)))
        bar.minorformatter = NullFormatter()
        marked = collapse is not None and _mark_bar(bar.ax, collapse)
    handles = [
        Line2D([], [], ls="none", marker="o", ms=7, mfc=palette.AXIS, mec="white", label="completed"),
        Line2D(
            [], [], ls="none", marker="o", ms=6, mfc="none", mec=palette.AXIS, label="stopped early or not finished"
        ),
        Line2D([], [], color=palette.FAINT, lw=1.0, ls=(0, (5, 3)), label="equal ELBO [nats/image]"),
    ]
    if all(record.state is TrialState.COMPLETED for record, *_ in points):
        del handles[1]
    if beyond:
        handles.append(
            Line2D([], [], ls="none", marker="^", ms=6, color=palette.AXIS, label=f"off the axes ({beyond})")
        )
    if marked:
        arrow = Line2D([], [], ls="none", marker="^", ms=8, mfc=palette.COLLAPSE, mec=palette.COLLAPSE_INK)
        arrow.set_label("predicted collapse, on the colour bar")
        handles.append(arrow)
    legend_below(figure, handles)
    best = trials.winner.final if trials.winner else None
    text = "Rate against distortion"
    if trials.winner is not None and best is not None:
        text += (
            f": trial {trials.winner.number} has the best {trials.metric}, "
            f"rate {short(best.rate_nats)}, distortion {short(best.distortion_nats)} nats; {trials.of_how_many}"
        )
    title(figure, text)
    spare_marks(axes, elbos, places, 7.0)
    place_labels(axes, labels, places, SIZE_SMALL, [text for text in elbos if text.get_visible()])
    return Drawn(
        "rate_distortion", text, to_png(figure),
        "What a trial pays in rate, the KL divergence of its posteriors from the prior, and what it gets for it in "
        "distortion, the negative log-likelihood: on validation images, after its last epoch. "
        "On a dashed line the ELBO, minus the sum of the two, is the same; towards the lower left it grows."
        + (" A line joins the trials of one configuration, which differ in their seed." if joined else "")
        + (f" {COLLAPSE_SAID}" if marked else ""),
    )  # fmt: skip


def _join_repeats(axes: Axes, records: Sequence[TrialRecord]) -> bool:
    """Join each trial to the mean of its configuration by a line; return False if there are no repeats."""
    repeated = [group for group in group_repeats(records) if len(group) > 1]
    for group in repeated:
        places = np.array([(record.final.rate_nats, record.final.distortion_nats) for record in group if record.final])
        for place in places:
            axes.plot(*np.stack([place, places.mean(axis=0)]).T, color=palette.FAINT, lw=1.4, zorder=2)
    return bool(repeated)


def _mark_bar(axes: Axes, collapse: Weights) -> bool:
    """Mark the predicted collapse on the KLD weight's colour bar; return False if it is off the bar.

    An arrow points from there to the larger weights, which collapse.
    """
    low, high = axes.get_ylim()
    inside = [weight for weight in dict.fromkeys(collapse) if low <= weight <= high]
    for weight in inside:
        axes.axhline(weight, color=palette.COLLAPSE, lw=2.0)
    if inside:
        axes.annotate(
            "", (0.5, inside[-1]), xycoords=axes.get_yaxis_transform(), xytext=(0, 16), textcoords="offset points",
            arrowprops={"arrowstyle": "<-", "color": palette.COLLAPSE, "lw": 2.0, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
    return bool(inside)


def _iso_elbo(axes: Axes) -> list[Annotation]:
    """Draw lines of equal rate + distortion, each with its ELBO where it leaves the picture; return the texts."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    sums = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(left + low, right + high)
    digits = max(0, -math.floor(math.log10(sums[1] - sums[0])))  # enough to tell neighbouring lines apart
    texts = []
    for total in sums:
        axes.plot([left, right], [total - left, total - right], color=palette.FAINT, lw=1.0, ls=(0, (5, 3)), zorder=1)
        elbo = 0.0 - float(total)
        x, y = (right, total - right) if total - right > low else (total - low, low)
        at_right = x == right
        # A label in a corner would lie on the frame or on its neighbour.
        margin_x, margin_y = 0.15 * (right - left), 0.08 * (high - low)
        if not ((at_right and low < y < high - margin_y) or (left < x < right - margin_x and low <= y)):
            continue
        said = f"{elbo:.{digits}f}" if abs(elbo) < 1e5 else short(elbo)
        texts.append(axes.annotate(
            said, (x, y), xytext=(-3 if at_right else 2, 4), textcoords="offset points",
            ha="right" if at_right else "left", va="bottom", fontsize=SIZE_SMALL, color=palette.AXIS,
            path_effects=HALO, zorder=2,
        ))  # fmt: skip
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.grid(visible=False)
    return texts


def _weight_norm(weights: Sequence[float]) -> Normalize | None:
    """Return the colour scale of the KLD weights; None if they are all equal or none is positive."""
    positive = [weight for weight in weights if weight > 0]
    if len(set(weights)) < 2 or not positive:
        return None
    if max(positive) / min(positive) >= 10:
        return LogNorm(min(positive), max(positive))
    return Normalize(min(weights), max(weights))
