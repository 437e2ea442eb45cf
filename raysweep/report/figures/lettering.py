"""Texts in figures: cleaned, measured, broken into lines, and placed beside points without covering each other."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.textpath import text_to_path
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from raysweep.report.figures import palette

_FRAME = 0.2
"""Gap between a text and its frame, as a share of the font size."""
_CLEAR = 2.0
"""Least gap in points between two texts, and between a text and the border of its axes."""


def plain(text: str) -> str:
    """Return the text on one line, without control characters."""
    kept = (" " if char.isspace() else char for char in text if char.isspace() or unicodedata.category(char)[0] != "C")
    return " ".join("".join(kept).split())


def shortened(text: str, most: int) -> str:
    """Return a text of at most so many characters; a longer one keeps its beginning and its end."""
    text = plain(text)
    if len(text) <= most:
        return text
    tail = (most - 1) // 3
    return f"{text[: most - 1 - tail].rstrip()}…{text[len(text) - tail :].lstrip()}"


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, bold: bool = False) -> float:
    """Return the width of a line of text in points."""
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) * 1.02  # Agg rounds letters to whole pixels


def wrap(text: str, room: float, size: float, bold: bool = False) -> list[str]:
    """Break a text into lines of at most `room` points; break longer words too."""
    lines: list[str] = []
    line = ""
    for word in plain(text).split():
        longer = f"{line} {word}" if line else word
        if text_width(longer, size, bold) <= room:
            line = longer
            continue
        if line:
            lines.append(line)
        while text_width(word, size, bold) > room and len(word) > 1:
            fits = max(1, sum(text_width(word[: end + 1], size, bold) <= room for end in range(len(word))))
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [*lines, line] if line or not lines else lines


class Label(NamedTuple):
    """A text that belongs to a point."""

    text: str
    point: tuple[float, float]
    """In the coordinates of the data."""
    colour: str
    bold: bool = False
    frame: bool = False
    """True if it stands in a box of its colour, which may lie on the point itself."""
    apart: float = 7.0
    """Points between the middle of the point's mark and the text."""


def settled(axes: Axes) -> Figure:
    """Fix the layout of the figure of these axes, so that texts can be measured and placed; return it."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    return figure


_DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))


def place_labels(
    axes: Axes, labels: Sequence[Label], marks: Iterable[tuple[float, float]], size: float,
    taken: Sequence[Text] = (),
) -> list[Annotation]:  # fmt: skip
    """Write labels beside their points, within the axes, over no other text and as few marks as possible.

    The first labels choose first. A label that finds no room is left out, so a legend must say the same. Call this
    after everything else is drawn, because it fixes the layout first.

    Args:
        marks: the points that are drawn.
        taken: texts that are drawn within the axes.
    """
    figure = settled(axes)
    per_point = figure.dpi / 72
    inside = axes.get_window_extent().padded(-_CLEAR * per_point)
    places = _pixels(axes, list(marks))
    boxes = [text.get_window_extent() for text in taken]
    written = []
    for label in labels:
        x, y = (float(value) for value in _pixels(axes, [label.point])[0])
        frame = {"boxstyle": f"round,pad={_FRAME}", "fc": "white", "ec": label.colour, "lw": 1.8}
        text = axes.annotate(
            label.text, label.point, xytext=(0, 0), textcoords="offset points", ha="center", va="center",
            fontsize=size, color=palette.INK if label.frame else label.colour,
            fontweight="bold" if label.bold else "normal", zorder=8,
            bbox=frame if label.frame else None,
            path_effects=None if label.frame else [withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
        text.set_in_layout(False)
        extent = text.get_window_extent().padded((_FRAME * size + 1.0) * per_point if label.frame else 0.0)
        best = _best_place(extent, (x, y), label, per_point, inside, boxes, places)
        if best is None:
            text.remove()
            continue
        text.set_position(((best.x0 + best.x1 - 2 * x) / 2 / per_point, (best.y0 + best.y1 - 2 * y) / 2 / per_point))
        boxes.append(best)
        if label.frame and not best.contains(x, y):
            middle = ((best.x0 + best.x1) / 2, (best.y0 + best.y1) / 2)
            xs, ys = zip(label.point, axes.transData.inverted().transform(middle), strict=True)
            axes.plot(xs, ys, color=label.colour, lw=1.2, zorder=7.5, scalex=False, scaley=False)
        written.append(text)
    return written


def spare_marks(axes: Axes, texts: Sequence[Text], marks: Sequence[tuple[float, float]], apart: float) -> None:
    """Hide texts of the axes that lie within `apart` points of a mark, or on an earlier text.

    It fixes the figure's layout first.
    """
    figure = settled(axes)
    places = _pixels(axes, marks)
    shown: list[Bbox] = []
    for text in texts:
        box = text.get_window_extent()
        if _within(places, box.padded(apart * figure.dpi / 72)).any() or any(box.overlaps(other) for other in shown):
            text.set_visible(False)
        else:
            shown.append(box)


def _best_place(
    extent: Bbox, point: tuple[float, float], label: Label, per_point: float, inside: Bbox, boxes: Sequence[Bbox],
    marks: NDArray[np.float64],
) -> Bbox | None:  # fmt: skip
    """Return the box, in pixels, where a text covers the fewest marks; None if there is no room."""
    candidates = [(0.0, 0.0)] if label.frame else []
    for ring in range(4):
        gap = (label.apart + ring * 10.0) * per_point
        for right, up in _DIRECTIONS:
            slant = 0.75 if right and up else 1.0
            candidates.append((right * (slant * gap + extent.width / 2), up * (slant * gap + extent.height / 2)))
    best, least = None, np.inf
    for rank, (dx, dy) in enumerate(candidates):
        x, y = point[0] + dx, point[1] + dy
        box = Bbox.from_bounds(x - extent.width / 2, y - extent.height / 2, extent.width, extent.height)
        if box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1:
            continue
        roomy = box.padded(_CLEAR * per_point)
        if any(roomy.overlaps(other) for other in boxes):
            continue
        # A text far from its point seems to belong to another point: a place further out must cover fewer marks.
        covered = 0 if label.frame else int(_within(marks, box.padded(3.0 * per_point)).sum())
        cost = covered + 0.25 * rank
        if cost < least:
            best, least = box, cost
    return best


def _within(points: NDArray[np.float64], box: Bbox) -> NDArray[np.bool_]:
    if not len(points):
        return np.zeros(0, dtype=bool)
    inside: NDArray[np.bool_] = (
        (points[:, 0] > box.x0) & (points[:, 0] < box.x1) & (points[:, 1] > box.y0) & (points[:, 1] < box.y1)
    )
    return inside


def _pixels(axes: Axes, points: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """Return the pixels of the figure at which points of the data are, [point, 2]."""
    if not points:
        return np.zeros((0, 2))
    places: NDArray[np.float64] = axes.transData.transform(np.asarray(points, dtype=np.float64))
    return places
