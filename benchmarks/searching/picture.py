"""The picture: how far the incumbent's true end is from the best there is, over the epochs spent."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from raysweep.report.figures import palette
from raysweep.report.figures.marks import PANELS_A_ROW, canvas_of_panels, legend_below, styled, title, to_png
from searching.measures import interquartile_means
from searching.problems import Array

LOOKS = {
    "raysweep GP + ASHA": ("#D55E00", "-"),
    "raysweep GP + ASHA, judged once": ("#56B4E9", "-"),
    "raysweep GP + promotion": ("#009E73", "-"),
    "raysweep TPE + ASHA, judged once": ("#0072B2", "-"),
    "OptunaSearch + ASHA, our rungs": ("#332288", "--"),
    "Optuna TPE + Hyperband": ("#AA4499", "--"),
    "Syne Tune BOHB": ("#999933", "--"),
    "random": (palette.STOPPED, ":"),
}
"""Colour and line of the methods that are drawn; a table has the others."""
LEAST = 0.003
"""Less regret is drawn as this much."""
EVERY = 4
"""Epochs between two points of a line."""
RESAMPLES = 300


def regret_picture(groups: dict[tuple[str, int], dict[str, list[dict[str, Any]]]]) -> bytes:
    """Draw a panel for each problem and number of workers; bands are 95 % bootstrap intervals.

    Raises:
        ValueError: if none of the methods has a look.
    """
    with styled():
        panels = canvas_of_panels(len(groups), 2.9, 1.2, 4.6)
        shown: list[str] = []
        for axes, ((problem, workers), methods) in zip(panels.each, groups.items(), strict=True):
            for method in [name for name in LOOKS if name in methods]:
                colour, line = LOOKS[method]
                regrets = 1 - np.array([row["true_end"] for row in methods[method]])
                epochs = np.arange(EVERY - 1, regrets.shape[1], EVERY)
                middle, low, high = (np.maximum(part, LEAST) for part in bands(regrets[:, epochs]))
                axes.fill_between(epochs + 1, low, high, color=colour, alpha=0.13, lw=0)
                axes.plot(epochs + 1, middle, color=colour, ls=line, lw=1.6)
                shown += [method] if method not in shown else []
            axes.set_yscale("log")
            axes.set_ylim(top=1.3)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_title(f"{problem.split('/')[0]}, {workers} workers", fontsize="medium", loc="left")
        for axes in panels.lowest:
            axes.set_xlabel("epochs spent by all trials")
        for axes in panels.leftmost:
            axes.set_ylabel("regret of the true end")
        handles = [Line2D([], [], color=LOOKS[m][0], ls=LOOKS[m][1], lw=1.6, label=m) for m in LOOKS if m in shown]
        legend_below(panels.figure, handles, min(PANELS_A_ROW, 3))
        title(panels.figure, "How far what a search has found is from the best of the space, over the epochs it spent")
        return to_png(panels.figure)


def bands(regrets: Array) -> tuple[Array, Array, Array]:
    """Return the interquartile mean over seeds and its interval, epoch by epoch: [seed, epoch] to [epoch]."""
    rng = np.random.default_rng(0)
    again = [interquartile_means(regrets[rng.integers(len(regrets), size=len(regrets))]) for _ in range(RESAMPLES)]
    low, high = np.percentile(again, [2.5, 97.5], axis=0)
    return interquartile_means(regrets), low, high
