"""Rate against distortion: what each trial paid in one and got for it in the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, to_hex
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from raysweep.metrics import TrialState
from raysweep.records import TrialRecord
from raysweep.report.figures.marks import (
    BLACK,
    BLUE,
    COLLAPSE_SAID,
    FAINT,
    GREY,
    HALO,
    VERMILLION,
    Drawn,
    Standing,
    Weights,
    canvas,
    robust_limits,
    short,
    title,
    to_png,
)
from raysweep.report.figures.repeats import group_repeats


def rate_and_distortion(trials: Standing, collapse: Weights | None = None) -> Drawn | None:
    """Rate against distortion, where lines of equal ELBO are straight (Alemi et al., arXiv:1711.00464)."""
    points = [
        (record, record.final.rate_nats, record.final.distortion_nats)
        for record in trials.drawn
        if record.final and math.isfinite(record.final.rate_nats) and math.isfinite(record.final.distortion_nats)
    ]
    if not points:
        return None
    figure = canvas(7.6, 5.6)
    axes = figure.subplots()
    kept = [point for point in points if trials.is_special(point[0]) or point[0].state is TrialState.COMPLETED]
    rates = robust_limits([0.0, *(rate for _, rate, _ in points)], "min", [rate for _, rate, _ in kept])
    distortions = robust_limits([y for *_, y in points], "min", [y for *_, y in kept])
    axes.set_xlim(*rates)
    axes.set_ylim(*distortions)
    _iso_elbo(axes)
    weights = [record.config.kld_weight for record, *_ in points]
    low = min((weight for weight in weights if weight > 0), default=0.0)
    norm = _weight_norm(weights)
    colours = ScalarMappable(norm, "viridis") if norm else None
    beyond, marked = 0, False
    joined = _join_repeats(axes, [record for record, *_ in points])
    for record, rate, distortion in points:
        x, y = min(rate, rates[1]), min(distortion, distortions[1])
        inside = (x, y) == (rate, distortion)
        beyond += not inside
        colour = to_hex(colours.to_rgba(np.array([max(record.config.kld_weight, low)]))[0]) if colours else BLUE
        done = record.state is TrialState.COMPLETED
        wins, named_here = record is trials.winner, trials.is_special(record)
        shape = "*" if wins else "D" if named_here else "o" if inside else "^" if y < distortion else ">"
        axes.scatter(
            [x], [y], marker=shape, s=260 if wins else 75 if named_here else 55 if done else 26, clip_on=inside,
            facecolors=colour if done or named_here else "none", zorder=6 if named_here else 4,
            edgecolors=VERMILLION if wins else BLACK if named_here else "white" if done else colour,
            linewidths=1.6 if wins else 1.0 if named_here or not done else 0.6,
        )  # fmt: skip
        if named_here:
            text, others = f"{trials.label(record)}: trial {record.number}", [point[1:] for point in points]
            _label_inside(axes, (x, y), text, VERMILLION if wins else BLACK, others)
    axes.set_xlabel("rate_nats: KL divergence of the posterior from the prior [nats/image]")
    axes.set_ylabel("distortion_nats: negative log-likelihood [nats/image]")
    if colours is not None:
        bar = figure.colorbar(colours, ax=axes, pad=0.02, aspect=30)
        bar.set_label("kld_weight")
        bar.outline.set_visible(False)
        marked = collapse is not None and _mark_bar(bar.ax, collapse)
    handles = [
        Line2D([], [], ls="none", marker="o", ms=7, mfc=GREY, mec="white", label="completed"),
        Line2D([], [], ls="none", marker="o", ms=5, mfc="none", mec=GREY, label="stopped early or not finished"),
        Line2D([], [], color=FAINT, lw=1.0, ls=(0, (5, 3)), label="equal ELBO [nats/image]"),
    ]
    if beyond:
        handles.append(Line2D([], [], ls="none", marker="^", ms=6, color=GREY, label=f"off the axes ({beyond})"))
    if marked:
        handles.append(Line2D([], [], color=BLACK, lw=1.6, label="predicted collapse, on the colour bar"))
    columns = 2 if len(handles) == 4 else 3
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handletextpad=0.4)
    best = trials.winner.final if trials.winner else None
    text = "Rate against distortion"
    if trials.winner is not None and best is not None:
        text += (
            f": trial {trials.winner.number} is best, "
            f"rate {short(best.rate_nats)}, distortion {short(best.distortion_nats)} nats"
        )
    title(figure, text)
    return Drawn(
        "rate_distortion", text, to_png(figure),
        "What a trial pays in rate and what it gets for it in distortion, on validation images after its last epoch. "
        "On a dashed line the ELBO, minus the sum of the two, is the same; towards the lower left it grows."
        + (" A line joins the trials of one configuration, which differ in their seed." if joined else "")
        + (f" {COLLAPSE_SAID}" if marked else ""),
    )  # fmt: skip


def _join_repeats(axes: Axes, records: Sequence[TrialRecord]) -> bool:
    """Ties the trials of one configuration together, a line from each to their mean; False if there are no repeats."""
    repeated = [group for group in group_repeats(records) if len(group) > 1]
    for group in repeated:
        places = np.array([(record.final.rate_nats, record.final.distortion_nats) for record in group if record.final])
        for place in places:
            axes.plot(*np.stack([place, places.mean(axis=0)]).T, color=FAINT, lw=1.4, zorder=2)
    return bool(repeated)


def _mark_bar(axes: Axes, collapse: Weights) -> bool:
    """Draws where collapse was predicted on a colour bar of the KLD weight; False if that is off the bar."""
    low, high = axes.get_ylim()
    inside = [weight for weight in dict.fromkeys(collapse) if low <= weight <= high]
    for weight in inside:
        axes.axhline(weight, color=BLACK, lw=1.6)
    return bool(inside)


def _iso_elbo(axes: Axes) -> None:
    """Dashed lines of equal rate + distortion, each with its ELBO where it leaves the picture."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    sums = MaxNLocator(9).tick_values(left + low, right + high)
    for total in sums:
        axes.plot([left, right], [total - left, total - right], color=FAINT, lw=1.0, ls=(0, (5, 3)), zorder=1)
        x, y = (right, total - right) if total - right > low else (total - low, low)
        at_right = x == right
        # A label in a corner would lie on the frame or on its neighbour.
        margin_x, margin_y = 0.08 * (right - left), 0.06 * (high - low)
        if not ((at_right and low < y < high - margin_y) or (left < x < right - margin_x and low <= y)):
            continue
        axes.annotate(
            short(0.0 - float(total)), (x, y), xytext=(-3, 4) if at_right else (2, 4), textcoords="offset points",
            ha="right" if at_right else "left", va="bottom", fontsize=8, color=GREY, path_effects=HALO, zorder=2,
        )  # fmt: skip
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.grid(visible=False)


def _weight_norm(weights: Sequence[float]) -> Normalize | None:
    """The colour scale of the KLD weights; None if they are all one."""
    positive = [weight for weight in weights if weight > 0]
    if len(set(weights)) < 2 or not positive:
        return None
    if max(positive) / min(positive) >= 10:
        return LogNorm(min(positive), max(positive))
    return Normalize(min(weights), max(weights))


def _label_inside(
    axes: Axes, point: tuple[float, float], text: str, colour: str, others: Sequence[tuple[float, float]]
) -> None:
    """Writes beside a point, where the fewest of the other points lie under the text."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    width, height = 0.018 * len(text), 0.045  # of the axes, for bold text of 9 points on axes of some 6 inches

    def place(x: float, y: float) -> tuple[float, float]:
        return (x - left) / (right - left), (y - low) / (high - low)

    x, y = place(*point)

    def cost(side: tuple[int, int]) -> float:
        start = x + 0.025 if side[0] > 0 else x - 0.025 - width
        middle = y + 0.045 * side[1]
        covered = (place(*other) for other in others)
        hits = sum(start - 0.02 < u < start + width + 0.02 and abs(v - middle) < height for u, v in covered)
        outside = start < 0 or start + width > 1 or not height / 2 < middle < 1 - height / 2
        return hits + 100.0 * outside

    side = min(((1, 1), (1, -1), (-1, -1), (-1, 1), (1, 0), (-1, 0)), key=cost)
    axes.annotate(
        text, point, xytext=(11 * side[0], 14 * side[1]), textcoords="offset points", va="center", fontsize=9,
        ha="left" if side[0] > 0 else "right", fontweight="bold", color=colour, path_effects=HALO, zorder=7,
    )  # fmt: skip
