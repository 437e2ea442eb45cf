"""Figures of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raysweep.layout import SweepDirectory
from raysweep.records import TrialRecord
from raysweep.spec import SweepSpec


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture of the whole sweep."""

    name: str
    """Its file's name without the ending."""
    title: str
    """What it shows, with the finding."""
    path: Path
    description: str
    """How to read it."""


def draw_figures(directory: SweepDirectory, spec: SweepSpec, records: Sequence[TrialRecord]) -> list[Figure]:
    """Draws the figures of a sweep as PNG files under report/figures."""
    return []
