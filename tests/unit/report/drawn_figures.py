"""Figures as they are drawn, and what is to be seen of their texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from raysweep.report.figures import marks


@contextmanager
def recorded() -> Iterator[list[Figure]]:
    """Collect every figure that is drawn while in this context."""
    drawn: list[Figure] = []

    class Recording(FigureCanvasAgg):
        def draw(self) -> None:
            super().draw()
            drawn.append(self.figure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marks, "FigureCanvasAgg", Recording)
        yield drawn


def texts_of(figure: Figure) -> list[tuple[Text, Bbox]]:
    """Return the texts that can be seen, and where they are in pixels."""
    found: list[Text] = list(figure.texts)
    found += [figure._suptitle] if figure._suptitle is not None else []
    for legend in figure.legends:
        found += legend.get_texts()
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        found += [axes.title, axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if low <= tick.get_loc() <= high:
                    found += [label for label in (tick.label1, tick.label2) if label.get_visible()]
    seen = [text for text in dict.fromkeys(found) if text.get_visible() and text.get_text().strip()]
    return [(text, text.get_window_extent()) for text in seen]


def collisions(figure: Figure) -> list[str]:
    """Say which texts lie on each other, or reach out of the figure."""
    texts = texts_of(figure)
    faults = []
    for text, box in texts:
        if box.x0 < -1 or box.y0 < -1 or box.x1 > figure.bbox.x1 + 1 or box.y1 > figure.bbox.y1 + 1:
            faults.append(f"{text.get_text()!r} reaches out of the figure")
    for (one, box), (other, place) in combinations(texts, 2):
        tilted = any(text.get_rotation() % 90 for text in (one, other))
        if not tilted and box.padded(-0.5).overlaps(place.padded(-0.5)):
            faults.append(f"{one.get_text()!r} lies on {other.get_text()!r}")
    return faults
