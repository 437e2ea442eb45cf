"""The figures of a sweep: its findings, in pictures that explain themselves."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raysweep.profiles import Profile
from raysweep.records import TrialRecord
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory, write_atomically

if TYPE_CHECKING:
    from raysweep.report.explanation.values import Explanation
    from raysweep.report.figures.marks import Drawn

PROFILE_FIGURE = "profile"


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture of the whole sweep."""

    name: str
    """Its file's name without the ending."""
    title: str
    """A title that says what it shows, with the finding."""
    path: Path
    description: str
    """How to read it."""


def draw_figures(
    directory: SweepDirectory,
    spec: SweepSpec,
    records: Sequence[TrialRecord],
    collapse: tuple[float, float] | None = None,
    stuck: Collection[int] = (),
    explanation: Explanation | None = None,
) -> list[Figure]:
    """Draw the figures of a sweep as PNG files under report/figures; leave out those that have nothing to show.

    It reads the trials' pictures and latents, and changes no other file.

    Args:
        collapse: the `kld_weight` at which collapse was predicted, from the least to the most over the search space.
        stuck: numbers of the trials that never left the plateau at the mean image.
        explanation: why the best trial is the best.

    Raises:
        StorageError: if the file system is full, read-only or gone.
    """
    # Import it here, because Matplotlib takes half a second to import and only drawing needs it.
    from raysweep.report.figures.plots import draw_all

    drawn = draw_all(directory, spec, records, collapse, stuck, explanation)
    return [_write(directory, one) for one in drawn]


def draw_profile(directory: SweepDirectory, profile: Profile) -> Figure:
    """Draw where the time of a session went.

    Raises:
        StorageError: if the file system is full, read-only or gone.
    """
    from raysweep.report.figures.timebars import time_bars

    return _write(directory, time_bars(PROFILE_FIGURE, profile))


def _write(directory: SweepDirectory, drawn: Drawn) -> Figure:
    path = directory.figures / f"{drawn.name}.png"
    write_atomically(path, drawn.png)
    return Figure(drawn.name, drawn.title, path, drawn.description)
