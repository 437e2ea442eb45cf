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

from raysweep.layout import SweepDirectory
from raysweep.metrics import FinalMetrics
from raysweep.records import TrialRecord, ranked
from raysweep.report.figures.marks import (
    BLACK,
    BLUE,
    FAINT,
    HALO,
    VERMILLION,
    Drawn,
    Standing,
    canvas,
    short,
    styled,
    title,
    to_png,
)
from raysweep.report.figures.repeats import first_repeats
from raysweep.report.latents import LatentTable, read_latents

# Paul Tol's muted palette and black: ten colours that stay apart under every common colour blindness.
CLASS_COLOURS = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#222222",
)  # fmt: skip
CLASS_SHAPES = ("o", "^", "s")
"""The second and the third ten of classes have the same colours in other shapes."""
MAX_CLASSES = len(CLASS_COLOURS) * len(CLASS_SHAPES)
OTHER = "other"
MAX_PANELS = 8


def winning_latents(trials: Standing, directory: SweepDirectory) -> Drawn | None:
    """The latents of the best trial that has a table of them."""
    for record in ranked(trials.records, trials.metric):
        if directory.latents(record.number).exists():
            try:
                return draw_latents(read_latents(directory.latents(record.number)), record)
            except ValueError:
                continue
    return None


def draw_latents(table: LatentTable, record: TrialRecord, dpi: int | None = None) -> Drawn:
    """Posterior means of one trial by class: two latents as they are, or the first two principal components.

    `dpi` is the resolution of the picture, the figures' own if it is not given.
    """
    xs, ys, labels, how = _plane(table)
    with styled():
        figure = canvas(7.6, 6.0)
        axes = figure.subplots()
        names = _classes(table)
        handles = _scatter(axes, xs, ys, table, names)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        if handles:
            axes.legend(
                handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.2, title="class",
                ncols=1 if len(handles) <= 20 else 2,
            )  # fmt: skip
        text = f"Latents of trial {record.number}: {len(table.active)} of {table.means.shape[1]} are active"
        text += _separation(record.tested)
        title(figure, text)
        png = to_png(figure, dpi)
    splits = ", ".join(f"{count} {split}" for split, count in Counter(table.splits).items())
    return Drawn(
        "latents", text, png,
        f"Each point is the posterior mean of one image ({splits}), {how}. "
        + ("Names stand at the median of their class." if handles else "The images have no classes."),
    )  # fmt: skip


def latent_kl(trials: Standing) -> Drawn | None:
    """The KL divergence of every latent of the best trials with final metrics, a panel each."""
    order = ranked(trials.records, trials.metric)
    tested = [record for record in order if record.tested and record.tested.latent_kl_nats]
    shown = first_repeats(tested)[:MAX_PANELS]
    if not shown:
        return None
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = canvas(max(6.4, 3.0 * columns), 2.5 * rows + 1.0)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for panel, record in zip(grid.flat, shown, strict=False):
        assert record.tested is not None
        _bars(panel, record.tested)
        wins = record is trials.winner
        panel.set_title(
            f"{'best: ' if wins else ''}trial {record.number}, {trials.metric} {short(trials.value(record))}\n"
            f"kld_weight {short(record.config.kld_weight)}",
            fontsize=9, color=VERMILLION if wins else BLACK, fontweight="bold" if wins else "normal",
        )  # fmt: skip
    for panel in list(grid.flat)[len(shown) :]:
        panel.set_visible(False)
    for row in grid:
        row[0].set_ylabel("KL divergence [nats/image]")
    for column in range(columns):
        last = max(row for row in range(rows) if row * columns + column < len(shown))
        grid[last][column].set_xlabel("latents, the largest KL first")
    handles = [
        Line2D([], [], ls="none", marker="s", ms=7, color=BLUE, label="active: its mean varies by more than 0.01"),
        Line2D([], [], ls="none", marker="s", ms=7, color=FAINT, label="inactive"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, handletextpad=0.3)
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
    colours = [BLUE if place <= tested.active_units else FAINT for place in places]
    axes.bar(places, values, width=0.8 if len(values) <= 64 else 1.0, color=colours, lw=0)
    axes.set_xlim(0.4, len(values) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.grid(visible=False, axis="x")
    axes.annotate(
        f"{tested.active_units} of {len(values)} active", (0.97, 0.95), xycoords="axes fraction", ha="right", va="top",
        fontsize=9, path_effects=HALO,
    )  # fmt: skip


def _plane(table: LatentTable) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, str], str]:
    """Two coordinates of every image, their axis labels, and how they came about."""
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
    labels = tuple(
        f"principal component {index + 1} of the active latents: {shares[index]:.0%} of their variance"
        for index in range(2)
    )
    return places[:, 0], places[:, 1], (labels[0], labels[1]), "on the first two principal components"


def _latent_label(index: int, kl: NDArray[np.float64]) -> str:
    return f"latent {index}: KL divergence {short(float(kl[index]))} nats/image"


def _classes(table: LatentTable) -> list[str]:
    """The classes that have a look of their own, in order: all of them, or the largest."""
    counts = Counter(label for label in table.labels if label is not None)
    largest = [name for name, _ in counts.most_common(MAX_CLASSES)]
    return sorted(largest, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))


def _scatter(
    axes: Axes, xs: NDArray[np.float64], ys: NDArray[np.float64], table: LatentTable, names: Sequence[str]
) -> list[Line2D]:
    """Draws the points class by class, in an order that hides no class below another; the legend's entries."""
    size = float(np.clip(9000 / len(table), 4.0, 26.0))
    looks = {name: (CLASS_COLOURS[i % 10], CLASS_SHAPES[i // 10]) for i, name in enumerate(names)}
    labels = np.array([label if label in looks else OTHER for label in table.labels])
    shuffled = np.random.default_rng(0).permutation(len(table))
    if not names:
        axes.scatter(xs, ys, s=size, c=BLUE, alpha=0.5, linewidths=0)
        return []
    handles = []
    for shape in CLASS_SHAPES:
        mine = [name for name, look in looks.items() if look[1] == shape] + [OTHER] * (shape == "o")
        chosen = shuffled[np.isin(labels[shuffled], mine)]
        colours = [looks.get(labels[index], (FAINT, "o"))[0] for index in chosen]
        axes.scatter(xs[chosen], ys[chosen], s=size, c=colours, alpha=0.7, linewidths=0, marker=shape)
    for name in names:
        colour, shape = looks[name]
        mine_at = labels == name
        handles.append(Line2D([], [], ls="none", marker=shape, ms=6, color=colour, label=name))
        axes.annotate(
            name, (float(np.median(xs[mine_at])), float(np.median(ys[mine_at]))), ha="center", va="center",
            fontsize=10 if len(name) <= 3 else 8.5, color=BLACK, zorder=5,
            bbox={"boxstyle": "round,pad=0.25", "fc": "white", "ec": colour, "lw": 1.8, "alpha": 0.9},
        )  # fmt: skip
    if OTHER in labels:
        handles.append(Line2D([], [], ls="none", marker="o", ms=6, color=FAINT, label=OTHER))
    return handles


def _separation(tested: FinalMetrics | None) -> str:
    """How well the classes separate, as far as it was measured."""
    said = []
    if tested is not None and tested.silhouette is not None and math.isfinite(tested.silhouette):
        said.append(f"silhouette {tested.silhouette:.2f}")
    if tested is not None and tested.knn_accuracy is not None and math.isfinite(tested.knn_accuracy):
        said.append(f"5 nearest neighbours name {tested.knn_accuracy:.0%} of the classes")
    return f"; {', '.join(said)}" if said else ""
