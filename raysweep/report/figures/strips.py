"""Strips: images of one trial side by side in a row, the rows of several trials one above the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from raysweep.layout import SweepDirectory
from raysweep.report.figures.marks import BLACK, VERMILLION, canvas, title, to_png
from raysweep.report.images import Pixels, untile

SAMPLES_A_ROW = 10


class Strip(NamedTuple):
    """One row of a figure."""

    images: Pixels
    label: str
    wins: bool = False
    """Whether it is the best trial's, which is framed."""


def draw_strips(strips: Sequence[Strip], text: str) -> bytes:
    """A figure of strips below the title `text`, as a PNG."""
    width = max(len(strip.images) for strip in strips)
    figure = canvas(11.0, 0.7 + len(strips) * max(0.64, min(1.0, 9.0 / width)))
    figure.get_layout_engine().set(h_pad=0.05, hspace=0.0, rect=(0.03, 0.0, 0.97, 1.0))  # type: ignore[union-attr,call-arg]
    panels = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
    for panel, strip in zip(panels, strips, strict=True):
        _show(panel, strip.images)
        panel.set_ylabel(
            strip.label, rotation=0, ha="right", va="center", labelpad=8, fontsize=8.8, linespacing=1.35,
            color=VERMILLION if strip.wins else BLACK, fontweight="bold" if strip.wins else "normal",
        )  # fmt: skip
        for spine in panel.spines.values():
            spine.set(visible=strip.wins, color=VERMILLION, linewidth=2.5)
    title(figure, text)
    return to_png(figure)


def read_reconstructions(directory: SweepDirectory, number: int, size: int) -> tuple[Pixels, Pixels] | None:
    """The images of a trial's picture and their reconstructions; None if there is no such picture."""
    try:
        images = untile(directory.reconstructions(number), size)
    except (OSError, ValueError):
        return None
    half, rest = divmod(len(images), 2)
    return None if rest else (images[:half], images[half:])


def read_samples(directory: SweepDirectory, number: int, size: int) -> Pixels | None:
    """The first 10 of a trial's samples; None if there is no picture of them."""
    try:
        return untile(directory.samples(number), size)[:SAMPLES_A_ROW]
    except (OSError, ValueError):
        return None


def _show(axes: Axes, images: Pixels) -> None:
    """Images side by side with a gap, nothing of an axis but its label."""
    count, height, width, channels = images.shape
    gap = max(1, width // 12)
    strip = np.full((height, count * (width + gap) - gap, 3), 255, np.uint8)
    for index, image in enumerate(images):
        x = index * (width + gap)
        strip[:, x : x + width] = image if channels == 3 else image.repeat(3, axis=2)
    margin = 0.06 * height
    axes.imshow(strip, interpolation="nearest")
    axes.set_xlim(-0.5 - margin, strip.shape[1] - 0.5 + margin)
    axes.set_ylim(height - 0.5 + margin, -0.5 - margin)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
