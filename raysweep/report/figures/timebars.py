"""Where a session's time went, in stacked bars: of all slots, of the driver, and of each trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from raysweep.profiles import IDLE, STEP, DriverPart, Profile, SlotPart
from raysweep.report.figures import palette
from raysweep.report.figures.marks import (
    SIZE_SMALL,
    WIDTH,
    Drawn,
    canvas,
    legend_below,
    styled,
    title,
    to_png,
)
from raysweep.wording import counted, percent

LABELLED = 0.07
"""A piece of a bar has its share written on it if the share is at least this."""
MAX_BARS = 80
"""More trials are drawn as one outline, which takes the same time however many there are."""


class _Band(NamedTuple):
    """Parts that share a colour."""

    label: str
    colour: str
    parts: frozenset[SlotPart | DriverPart]

    @property
    def ink(self) -> str:
        """The colour of texts on it."""
        red, green, blue = to_rgb(self.colour)
        return palette.INK if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"


S, D = SlotPart, DriverPart
_LABELLED_PARTS: tuple[tuple[str, frozenset[SlotPart | DriverPart]], ...] = (
    ("idle before the first trial", frozenset({S.START_UP})),
    ("starting machines, processes, Ray", frozenset({S.MACHINE, S.PROCESS, S.IMPORTS, D.COMMAND, D.RAY})),
    ("images, model, preflight", frozenset({S.IMAGES, S.MODEL, S.RESTORE, D.IMAGES, D.PREFLIGHT})),
    ("training: data", frozenset({S.DATA})),
    ("training: steps", frozenset(STEP)),
    ("evaluation", frozenset({S.EVALUATION})),
    ("checkpoints, bucket", frozenset({S.CHECKPOINT, S.BUCKET, D.BUCKET})),
    ("pictures, report", frozenset({S.PICTURES, D.TENSORBOARD, D.REPORT, D.TERMINAL})),
    ("Ray, driver, ledger, sampler", frozenset({S.EXCHANGE, D.LOOP, D.LEDGER, D.SAMPLER})),
    ("final metrics", frozenset({S.TEST})),
    ("lost, unaccounted", frozenset({S.LOST, S.UNACCOUNTED, D.UNACCOUNTED})),
    ("idle later; the driver: waiting", frozenset({S.BETWEEN, S.LAST_TRIALS, S.TESTS, S.REPORT, D.WAITING})),
)
BANDS = tuple(_Band(label, colour, parts) for (label, parts), colour in zip(_LABELLED_PARTS, palette.TIME, strict=True))


def time_bars(name: str, profile: Profile) -> Drawn:
    """Draw the time of the slots and of the driver by part, and below it that of each trial."""
    trials = profile.trials()
    slots, driver = profile.of(SlotPart), profile.of(DriverPart)
    with styled():
        figure = canvas(WIDTH, 6.4 if trials else 3.6)
        if trials:
            above, below = figure.subplots(2, 1, gridspec_kw={"height_ratios": [1.0, 1.7]})
            _draw_trials(below, trials)
        else:
            above = figure.subplots()
        _draw_bar(above, 1, slots)
        _draw_bar(above, 0, driver)
        count = counted(profile.slots, "slot")
        above.set_yticks([1, 0], [f"{count},\n{profile.slot_s:,.0f} slot-s", f"driver,\n{profile.wall_s:,.0f} s"])
        above.tick_params(axis="y", length=0)
        above.set_xlim(0, 1)
        above.set_ylim(-0.5, 1.5)
        above.xaxis.set_major_formatter(PercentFormatter(1.0))
        above.grid(visible=False, axis="y")
        seen = {part for seconds in (slots, driver) for part, value in seconds.items() if value > 0}
        handles = [
            Patch(facecolor=band.colour, edgecolor=palette.AXIS, linewidth=0.4, label=band.label)
            for band in BANDS
            if band.parts & seen
        ]
        legend_below(figure, handles, handlelength=1.2)
        text = _finding(slots)
        title(figure, text)
        return Drawn(
            name, text, to_png(figure),
            "Above: what the time of all slots was spent on, and that of the driver, from the typed command to the end "
            "of the report. Below: the seconds that each trial had its slot, its test included. report/profile.md has "
            "the figures.",
        )  # fmt: skip


def _finding(slots: Mapping[SlotPart, float]) -> str:
    whole = sum(slots.values()) or 1.0
    shares = [
        ("training", sum(slots[part] for part in (SlotPart.DATA, *STEP)) / whole),
        ("idle", sum(slots[part] for part in IDLE) / whole),
    ]
    others = [(band.label, _of(band, slots) / whole) for band in BANDS if band.parts.isdisjoint({*STEP, S.DATA, *IDLE})]
    most = max(others, key=lambda pair: pair[1])
    return "Where the time went: " + ", ".join(f"{label} {percent(share)}" for label, share in [*shares, most])


def _of(band: _Band, seconds: Mapping[Any, float]) -> float:
    return sum(value for part, value in seconds.items() if part in band.parts)


def _draw_bar(axes: Axes, y: float, seconds: Mapping[Any, float]) -> None:
    """Draw one bar from 0 to 1."""
    whole, left = sum(seconds.values()) or 1.0, 0.0
    for band in BANDS:
        share = _of(band, seconds) / whole
        if share > 0:
            axes.barh(y, share, left=left, height=0.72, color=band.colour, edgecolor=palette.AXIS, linewidth=0.4)
            if share >= LABELLED:
                axes.text(
                    left + share / 2, y, percent(share), ha="center", va="center", color=band.ink, fontsize=SIZE_SMALL
                )
            left += share


def _draw_trials(axes: Axes, trials: Mapping[int, Mapping[SlotPart, float]]) -> None:
    """Draw a column per trial, or one outline if there are more than `MAX_BARS`."""
    numbers = list(trials)
    heights = np.array([[_of(band, trials[number]) for number in numbers] for band in BANDS])
    if len(numbers) <= MAX_BARS:
        bottom = np.zeros(len(numbers))
        for band, height in zip(BANDS, heights, strict=True):
            axes.bar(
                numbers, height, bottom=bottom, width=0.8, color=band.colour, edgecolor=palette.AXIS, linewidth=0.4
            )
            bottom += height
    else:
        axes.stackplot(*_steps(numbers, heights), colors=[band.colour for band in BANDS], linewidth=0)
    axes.set_xlim(numbers[0] - 0.6, numbers[-1] + 0.6)
    axes.set_ylim(0, 1.05 * float(heights.sum(axis=0).max()) or 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("trial")
    axes.set_ylabel("seconds in its slot")


def _steps(numbers: Sequence[int], heights: Any) -> tuple[Any, Any]:
    """Return positions and heights of an outline that goes up and down at the edge of each number."""
    edges = np.array(numbers, dtype=float)
    return np.stack([edges - 0.5, edges + 0.5], axis=1).ravel(), np.repeat(heights, 2, axis=1)
