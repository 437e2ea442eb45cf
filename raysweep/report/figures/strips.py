"""Strips: images of one trial in a row, the rows of several trials one above the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from raysweep.report.figures import palette
from raysweep.report.figures.lettering import wrap
from raysweep.report.figures.marks import SIZE_SMALL, WIDTH, canvas, title, title_lines, to_png
from raysweep.report.images import Pixels, untile
from raysweep.storage.layout import SweepDirectory

IMAGES_A_ROW = 10
FEWEST_A_ROW = 6
"""Fewer images leave the rest of their row empty."""


class Strip(NamedTuple):
    """One row of a figure."""

    images: Pixels
    label: str
    wins: bool = False
    """True if it is the best trial's, which is framed."""


def draw_strips(strips: Sequence[Strip], text: str) -> bytes:
    """Draw strips below the title `text`, each with its label above it; return the PNG."""
    room = 72 * (WIDTH - 0.3)
    labels = [wrap(strip.label, room, SIZE_SMALL, strip.wins) for strip in strips]
    lines = sum(map(len, labels))
    above = 0.45 + 0.2 * len(title_lines(text))
    figure = canvas(WIDTH, above + sum(map(_height, strips)) + lines * 1.25 * SIZE_SMALL / 72 + 0.12 * len(strips))
    figure.get_layout_engine().set(h_pad=0.04, hspace=0.0)  # type: ignore[union-attr,call-arg]
    heights = [_height(strip) for strip in strips]
    panels = figure.subplots(len(strips), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for panel, strip, label in zip(panels, strips, labels, strict=True):
        _show(panel, strip.images)
        panel.set_title(
            "\n".join(label), loc="left", fontsize=SIZE_SMALL, pad=5,
            color=palette.BEST if strip.wins else palette.INK, fontweight="bold" if strip.wins else "normal",
        )  # fmt: skip
        for spine in panel.spines.values():
            spine.set(visible=strip.wins, color=palette.BEST, linewidth=2.5)
    title(figure, text)
    return to_png(figure)


def _height(strip: Strip) -> float:
    """Return the height in inches of a row whose images fill the figure's width."""
    count, height, width, _ = strip.images.shape
    return float((WIDTH - 0.3) / max(count, FEWEST_A_ROW) * height / width)


def read_reconstructions(directory: SweepDirectory, number: int, size: int) -> tuple[Pixels, Pixels] | None:
    """Return the first images of a trial's picture and their reconstructions; None if there is no such picture."""
    try:
        images = untile(directory.reconstructions(number), size)
    except (OSError, ValueError):
        return None
    half, rest = divmod(len(images), 2)
    return None if rest else (images[:half][:IMAGES_A_ROW], images[half:][:IMAGES_A_ROW])


def read_samples(directory: SweepDirectory, number: int, size: int) -> Pixels | None:
    """Return the first of a trial's samples; None if there is no picture of them."""
    try:
        return untile(directory.samples(number), size)[:IMAGES_A_ROW]
    except (OSError, ValueError):
        return None


def _show(axes: Axes, images: Pixels) -> None:
    """Draw images side by side with a gap, without an axis."""
    count, height, width, channels = images.shape
    gap = max(1, width // 12)
    strip = np.full((height, count * (width + gap) - gap, 3), 255, np.uint8)
    for index, image in enumerate(images):
        x = index * (width + gap)
        strip[:, x : x + width] = image if channels == 3 else image.repeat(3, axis=2)
    margin = 0.06 * height
    axes.imshow(strip, interpolation="nearest")
    axes.set_anchor("W")
    axes.set_xlim(-0.5 - margin, strip.shape[1] - 0.5 + margin)
    axes.set_ylim(height - 0.5 + margin, -0.5 - margin)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
