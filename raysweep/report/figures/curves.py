"""Learning curves: the objective after every epoch of every trial."""

from __future__ import annotations

import math
from collections import Counter

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from raysweep.metrics import TrialState
from raysweep.records import TrialRecord
from raysweep.report.figures import palette
from raysweep.report.figures.marks import (
    SAID,
    WIDTH,
    Drawn,
    Standing,
    canvas,
    kind,
    legend_below,
    named,
    robust_limits,
    title,
    to_png,
    who,
)
from raysweep.spec.sections import SweepSpec


def learning_curves(trials: Standing, spec: SweepSpec) -> Drawn | None:
    """Draw the objective after every epoch of every trial."""
    curves = {
        record.number: [(int(e.value("epoch")), float(e.value(trials.metric))) for e in record.epochs]
        for record in trials.drawn
        if record.epochs
    }
    if not curves:
        return None
    figure = canvas(WIDTH, 4.6)
    axes = figure.subplots()
    last = max(epoch for curve in curves.values() for epoch, _ in curve)
    values_seen = [value for curve in curves.values() for _, value in curve]
    low, high = robust_limits(values_seen, trials.mode, trials.special_values)
    axes.set_xlim(0.7 if last > 1 else 0.5, last + 0.3 if last > 1 else 1.5)
    axes.set_ylim(low, high)
    rungs = [rung for rung in (spec.asha.rungs(spec.max_epochs) if spec.asha else ()) if rung < last]
    pauses = rungs if spec.asha is not None and spec.asha.promote else []
    for rung in rungs:
        axes.axvline(rung, color=palette.AXIS, lw=1.0, ls=":", zorder=1)
    seen: Counter[str] = Counter()
    winners = {record.number for record in trials.repeats(trials.winner)} if trials.winner else set()

    def looks_of(record: TrialRecord) -> tuple[str, str]:
        """Return the kind of the trial's line, and the kind it would have as an unnamed trial."""
        ended = kind(record, trials.value(record))
        looks = trials.label(record) if trials.is_special(record) else ended
        return "best, other seeds" if record.number in winners and looks == "completed" else looks, ended

    for record in trials.records:
        if record.epochs:
            seen.update(set(looks_of(record)))
    for record in trials.drawn:
        if record.number not in curves:
            continue
        epochs, values = zip(*curves[record.number], strict=True)
        special, (looks, _) = trials.is_special(record), looks_of(record)
        colour, width, alpha, order = _LINES[looks]
        axes.plot(epochs, values, color=colour, lw=width, alpha=alpha, zorder=order, solid_capstyle="round")
        finite = [(epoch, value) for epoch, value in curves[record.number] if math.isfinite(value)]
        if not finite:
            continue
        shape = {"no result": "x", "best": "*", "baseline": "D", "paused": "s"}.get(looks, "o")
        axes.plot(
            *finite[-1], marker=shape, ms={"*": 13, "D": 6, "x": 6, "o": 4, "s": 4}[shape], color=colour,
            zorder=order + 1, alpha=1 if special or shape == "x" else alpha, mew=1.4 if shape == "x" else 0,
        )  # fmt: skip
        passed = [(epoch, value) for epoch, value in finite if epoch in pauses and epoch < epochs[-1]]
        if passed:
            axes.plot(
                *zip(*passed, strict=True), ls="none", marker="o", ms=5, mfc="white", mec=colour, mew=width,
                zorder=order + 1, alpha=1 if special else alpha,
            )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel(named(trials.metric))
    handles = [_line_handle(looks, who(trials, looks)) for looks in ("best", "baseline") if seen[looks]]
    if seen["best, other seeds"]:
        handles.append(_line_handle("best, other seeds", f"its other seeds ({seen['best, other seeds']})"))
    for looks in ("completed", "stopped early", "paused", "not finished", "no result"):
        if seen[looks]:
            handles.append(_line_handle(looks, f"{SAID.get(looks, looks)} ({seen[looks]})"))
    if rungs:
        handles.append(Line2D([], [], color=palette.AXIS, lw=1.0, ls=":", label="rung of early stopping"))
    if pauses:
        handles.append(
            Line2D([], [], ls="none", marker="o", ms=5, mfc="white", mec=palette.AXIS, label="paused, then went on")
        )
    legend_below(figure, handles, handlelength=1.6)
    text = f"{trials.metric} by epoch: {trials.finding}; {trials.of_how_many}"
    stopped = sum(record.state is TrialState.PRUNED for record in trials.records)
    if stopped:
        text += f", {stopped} stopped early"
    paused = sum(record.state is TrialState.PAUSED for record in trials.records)
    if paused:
        text += f", {paused} paused"
    title(figure, text)
    judged = "trials pause, and the best go on: a ring is where one did" if pauses else "ASHA compares trials"
    return Drawn(
        "learning_curves", text, to_png(figure),
        "One line a trial, on validation images. Faint lines were stopped early; a cross is where a trial diverged or "
        f"failed. At the rungs {judged}. Values far worse than most are cut off.",
    )  # fmt: skip


_LINES: dict[str, tuple[str, float, float, int]] = {
    "completed": (palette.COMPLETED, 1.3, 0.75, 4),
    "stopped early": (palette.STOPPED, 1.0, 0.5, 3),
    "paused": (palette.UNFINISHED, 1.0, 0.5, 3),
    "not finished": (palette.UNFINISHED, 1.2, 0.8, 3),
    "no result": (palette.NO_RESULT, 1.0, 0.8, 3),
    "baseline": (palette.BASELINE, 2.0, 1.0, 6),
    "best, other seeds": (palette.BEST, 1.3, 0.85, 6),
    "best": (palette.BEST, 2.6, 1.0, 7),
}
"""Colour, width, opacity and order of the curves of each kind of trial."""


def _line_handle(looks: str, label: str) -> Line2D:
    colour, width, alpha, _ = _LINES[looks]
    return Line2D([], [], color=colour, lw=width, alpha=alpha, label=label)
