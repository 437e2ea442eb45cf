"""Where the latents put the images: a scatter by class, and how much each latent carries."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from raysweep.metrics import FinalMetrics
from raysweep.records import TrialRecord, ranked
from raysweep.report.figures import palette
from raysweep.report.figures.lettering import Label, place_labels, shortened
from raysweep.report.figures.marks import (
    HALO,
    SIZE_SMALL,
    WIDTH,
    Drawn,
    Standing,
    canvas,
    canvas_of_panels,
    legend_below,
    legend_columns,
    short,
    styled,
    title,
    to_png,
)
from raysweep.report.figures.repeats import first_repeats
from raysweep.report.latents import LatentTable, read_latents
from raysweep.storage.layout import SweepDirectory

CLASS_SHAPES = ("o", "^", "s")
"""Marks of the first, second and third ten classes, which share the same ten colours."""
MAX_CLASSES = len(palette.CLASSES) * len(CLASS_SHAPES)
OTHER = "other classes"
MOST_COLUMNS = 10
"""Most columns of the legend."""
MAX_PANELS = 6
LONGEST_NAME, LONGEST_IN_PLACE = 28, 16
"""Most characters of a class's name, in the legend and among the points."""


def winning_latents(trials: Standing, directory: SweepDirectory) -> Drawn | None:
    """Draw the latents of the best trial that has a readable table of them."""
    for record in ranked(trials.records, trials.metric):
        if directory.latents(record.number).exists():
            try:
                return draw_latents(read_latents(directory.latents(record.number)), record)
            except ValueError:
                continue
    return None


def draw_latents(table: LatentTable, record: TrialRecord, dpi: int | None = None) -> Drawn:
    """Draw posterior means of one trial by class: two latents, or the first two principal components.

    `dpi` is the resolution of the picture, by default that of all figures.
    """
    xs, ys, labels, how = _plane(table)
    with styled():
        names = _classes(table)
        entries = [*(shortened(name, LONGEST_NAME) for name in names), OTHER]
        figure = canvas(WIDTH, 5.0 + 0.2 * -(-len(names) // legend_columns(entries, MOST_COLUMNS)))
        axes = figure.subplots()
        handles, medians = _scatter(axes, xs, ys, table, names)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        if handles:
            legend_below(figure, handles, MOST_COLUMNS, handletextpad=0.2)
        text = f"Latents of trial {record.number}: {len(table.active)} of {table.means.shape[1]} are active"
        text += _separation(record.tested)
        title(figure, text)
        if medians:
            place_labels(axes, medians, (), SIZE_SMALL)
        png = to_png(figure, dpi)
    splits = ", ".join(f"{count} {split}" for split, count in Counter(table.splits).items())
    return Drawn(
        "latents", text, png,
        f"Each point is the posterior mean of one image ({splits}), {how}. "
        + (
            "Names stand at or beside the median of their class; a name without room there is in the legend alone."
            if handles
            else "The images have no classes."
        ),
    )  # fmt: skip


def latent_kl(trials: Standing) -> Drawn | None:
    """Draw the KL divergence of every latent of the best trials with final metrics, a panel each."""
    order = ranked(trials.records, trials.metric)
    tested = [record for record in order if record.tested and record.tested.latent_kl_nats]
    shown = first_repeats(tested)[:MAX_PANELS]
    if not shown:
        return None
    figure, panels, leftmost, lowest = canvas_of_panels(len(shown), row=2.2, rest=1.2, alone=3.8, sharey=True)
    for panel, record in zip(panels, shown, strict=True):
        assert record.tested is not None
        _bars(panel, record.tested)
        wins = record is trials.winner
        panel.set_title(
            f"{'best: ' if wins else ''}trial {record.number}, kld_weight {short(record.config.kld_weight)}",
            fontsize=SIZE_SMALL, color=palette.BEST if wins else palette.INK,
            fontweight="bold" if wins else "normal",
        )  # fmt: skip
    for panel in leftmost:
        panel.set_ylabel("KL [nats/image]")
    for panel in lowest:
        panel.set_xlabel("latents, the largest KL first")
    handles = [
        Line2D([], [], ls="none", marker="s", ms=7, color=palette.ACTIVE, label="active: mean varies by > 0.01"),
        Line2D([], [], ls="none", marker="s", ms=7, color=palette.FAINT, label="inactive"),
    ]
    legend_below(figure, handles)
    best = shown[0].tested
    assert best is not None
    text = (
        f"KL divergence of each latent: trial {shown[0].number} uses {best.active_units} of "
        f"{len(best.latent_kl_nats)} latents, {short(float(sum(best.latent_kl_nats)))} nats in all"
    )
    title(figure, text)
    return Drawn(
        "latent_kl", text, to_png(figure),
        "How many nats of an image each latent carries, on the test split, sorted. Where the bars are flat at 0 the "
        "latent has collapsed to the prior. Of repeats with other seeds the best is shown.",
    )  # fmt: skip


def _bars(axes: Axes, tested: FinalMetrics) -> None:
    values = np.sort(np.array(tested.latent_kl_nats))[::-1]
    places = np.arange(1, len(values) + 1)
    colours = [palette.ACTIVE if place <= tested.active_units else palette.FAINT for place in places]
    axes.bar(places, values, width=0.8 if len(values) <= 64 else 1.0, color=colours, lw=0)
    axes.set_xlim(0.4, len(values) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.grid(visible=False, axis="x")
    axes.annotate(
        f"{tested.active_units} of {len(values)} active", (0.97, 0.95), xycoords="axes fraction", ha="right", va="top",
        fontsize=SIZE_SMALL, path_effects=HALO,
    )  # fmt: skip


def _plane(table: LatentTable) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, str], str]:
    """Return two coordinates of every image, their axis labels, and how they were chosen."""
    means, kl = table.means.astype(np.float64), table.kl_nats
    if means.shape[1] == 1:
        jitter = np.random.default_rng(0).uniform(-1.0, 1.0, len(means))
        return means[:, 0], jitter, (_latent_label(0, kl), "drawn at random"), "along the one latent"
    used = table.active
    if means.shape[1] == 2 or len(used) <= 2:
        first, second = np.argsort(-kl, kind="stable")[:2].tolist() if means.shape[1] > 2 else (0, 1)
        which = "as they are" if means.shape[1] == 2 else "in the two latents with the most KL divergence"
        return means[:, first], means[:, second], (_latent_label(first, kl), _latent_label(second, kl)), which
    active = means[:, used] - means[:, used].mean(axis=0)
    _, singular, directions = np.linalg.svd(active, full_matrices=False)
    shares = singular**2 / (singular**2).sum()
    places = active @ directions[:2].T
    labels = tuple(f"principal component {index + 1}: {shares[index]:.0%} of the variance" for index in range(2))
    return (
        places[:, 0],
        places[:, 1],
        (labels[0], labels[1]),
        "on the first two principal components of the active latents",
    )


def _latent_label(index: int, kl: NDArray[np.float64]) -> str:
    return f"latent {index}: KL {short(float(kl[index]))} nats/image"


def _classes(table: LatentTable) -> list[str]:
    """Return the classes that have their own colour and shape, in order: all of them, or the largest."""
    counts = Counter(label for label in table.labels if label is not None)
    largest = [name for name, _ in counts.most_common(MAX_CLASSES)]
    return sorted(largest, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))


def _scatter(
    axes: Axes, xs: NDArray[np.float64], ys: NDArray[np.float64], table: LatentTable, names: Sequence[str]
) -> tuple[list[Line2D], list[Label]]:
    """Draw the points class by class, in an order that hides no class below another.

    Return the legend's entries, and a label for the median of each class, the largest classes first.
    """
    size = float(np.clip(9000 / len(table), 4.0, 26.0))
    colours = palette.CLASSES
    looks = {name: (colours[i % len(colours)], CLASS_SHAPES[i // len(colours)]) for i, name in enumerate(names)}
    labels = np.array([label if label in looks else None for label in table.labels], dtype=object)
    shuffled = np.random.default_rng(0).permutation(len(table))
    if not names:
        axes.scatter(xs, ys, s=size, c=colours[0], alpha=0.5, linewidths=0)
        return [], []
    handles, medians = [], []
    for shape in CLASS_SHAPES:
        mine = [look[1] == shape if (look := looks.get(label)) else shape == "o" for label in labels]
        chosen = shuffled[np.array(mine)[shuffled]]
        inks = [looks.get(labels[index], (palette.FAINT, "o"))[0] for index in chosen]
        axes.scatter(xs[chosen], ys[chosen], s=size, c=inks, alpha=0.7, linewidths=0, marker=shape)
    for name in names:
        colour, shape = looks[name]
        mine_at = labels == name
        handles.append(Line2D([], [], ls="none", marker=shape, ms=6, color=colour, label=shortened(name, LONGEST_NAME)))
        median = float(np.median(xs[mine_at])), float(np.median(ys[mine_at]))
        medians.append((int(mine_at.sum()), Label(shortened(name, LONGEST_IN_PLACE), median, colour, frame=True)))
    if any(label is None for label in labels):
        handles.append(Line2D([], [], ls="none", marker="o", ms=6, color=palette.FAINT, label=OTHER))
    medians.sort(key=lambda pair: -pair[0])
    return handles, [label for _, label in medians]


def _separation(tested: FinalMetrics | None) -> str:
    """Say how well the classes separate, as far as it was measured."""
    said = []
    if tested is not None and tested.silhouette is not None and math.isfinite(tested.silhouette):
        said.append(f"silhouette {tested.silhouette:.2f}")
    if tested is not None and tested.knn_accuracy is not None and math.isfinite(tested.knn_accuracy):
        said.append(f"5 nearest neighbours are right for {tested.knn_accuracy:.0%} of the images")
    return f"; {', '.join(said)}" if said else ""
