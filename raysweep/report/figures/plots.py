"""The drawing of all figures of a sweep, and the figure of the objective against each searched parameter."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from raysweep.metrics import Mode, TrialState
from raysweep.records import TrialRecord
from raysweep.report.explanation.sentences import expected_said, importance_said, share_said
from raysweep.report.explanation.values import Explanation, Importance, Slice
from raysweep.report.figures import palette
from raysweep.report.figures.curves import learning_curves
from raysweep.report.figures.finals import final_metrics
from raysweep.report.figures.lettering import Label, place_labels
from raysweep.report.figures.marks import (
    COLLAPSE_SAID,
    HALO,
    SAID,
    SIZE_SMALL,
    Drawn,
    Standing,
    Weights,
    canvas_of_panels,
    kind,
    legend_below,
    legend_handle,
    mark,
    named,
    robust_limits,
    short,
    standing,
    styled,
    title,
    to_png,
    who,
)
from raysweep.report.figures.ratedistortion import rate_and_distortion
from raysweep.report.figures.repeats import group_repeats
from raysweep.report.figures.scales import (
    compared_parameters,
    mark_collapse,
    parameter_label,
    place_of,
    scale_x,
    tilt_crowded_ticks,
)
from raysweep.report.figures.scatter import latent_kl, winning_latents
from raysweep.report.figures.sidebyside import reconstructions, side_by_side
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import Choices
from raysweep.storage.layout import SweepDirectory

MOST_VALUES_IN_A_TITLE = 2
"""Most values of the best trial in a title; if more parameters are searched, they stand in the description."""


def draw_all(
    directory: SweepDirectory, spec: SweepSpec, records: Sequence[TrialRecord], collapse: Weights | None = None,
    stuck: Collection[int] = (), explanation: Explanation | None = None,
) -> Iterator[Drawn]:  # fmt: skip
    """Draw every figure that has something to show.

    Args:
        collapse: the KLD weights at which collapse was predicted.
        stuck: numbers of the trials that are stuck.
        explanation: why the best trial is the best.
    """
    trials = standing(spec, records, stuck)
    with styled():
        for drawn in (
            objective_by_parameter(trials, spec, collapse, explanation),
            rate_and_distortion(trials, collapse),
            reconstructions(trials, spec, directory),
            learning_curves(trials, spec),
            final_metrics(trials, spec, collapse),
            winning_latents(trials, directory),
            latent_kl(trials),
            *side_by_side(trials, spec, directory, collapse),
        ):
            if drawn is not None:
                yield drawn._replace(description=drawn.description + trials.choice_said)


def objective_by_parameter(
    trials: Standing, spec: SweepSpec, collapse: Weights | None = None, explanation: Explanation | None = None
) -> Drawn | None:
    """Draw the objective against each searched parameter, a panel each, with the model's mean and importances."""
    names = compared_parameters(spec.trial)
    ended = [r for r in trials.records if r.final is not None or r.state is not TrialState.RUNNING]
    if not names or not ended:
        return None
    pictured = [record for record in trials.drawn if record.final is not None or record.state is not TrialState.RUNNING]
    figure, panels, leftmost, _ = canvas_of_panels(len(names), row=2.7, rest=1.3, alone=4.4, sharey=True)
    marked = False
    low, high = _objective_limits(trials, ended)
    shown = Counter(kind(record, trials.value(record)) for record in ended)
    shown.update(trials.label(record) for record in ended if trials.is_special(record))
    off = sum(not low <= trials.value(r) <= high for r in ended if kind(r, trials.value(r)) != "no result")
    several_given = len([record for record in trials.baselines if record is not trials.winner]) > 1
    places: dict[Axes, list[_Place]] = {}
    slices = explanation.model.slices if explanation is not None else {}
    found = explanation.importances.of if explanation is not None else {}
    for panel, name in zip(panels, names, strict=True):
        panel.set_ylim(low, high)
        places[panel] = _draw_panel(panel, trials, spec, name, ended, pictured)
        if name == "kld_weight" and collapse is not None:
            marks = [(one.x, one.y) for one in places[panel]]
            marked = mark_collapse(panel, spec.trial, collapse, marks, ended)
        if name in slices:
            _draw_slice(panel, slices[name], [place_of(spec.trial, name, ended, v) for v in slices[name].values])
        if name in found:
            _write_importance(panel, found[name])
        panel.set_xlabel(parameter_label(name))
    for panel in leftmost:
        panel.set_ylabel(named(trials.metric))
    band = Patch(facecolor=palette.MODEL, edgecolor=palette.MODEL_INK, lw=0.8, label="model: mean ± 2 sd")
    legend_below(figure, [*_legend(trials, shown, off), *([band] if slices else [])])
    figure.align_xlabels()
    text = f"{trials.metric} by {names[0] if len(names) == 1 else 'parameter'}: {trials.finding}"
    point = ""
    if trials.winner is not None:
        values = {name: short(getattr(trials.winner.config, name)) for name in names}
        point = ", ".join(v if len(names) == 1 else f"{name} {v}" for name, v in values.items())
        if len(names) <= MOST_VALUES_IN_A_TITLE:
            text, point = f"{text} at {point}", ""
    text += f"; {trials.of_how_many}"
    title(figure, text)
    tilt_crowded_ticks(figure)
    if several_given:  # the legend does not say which of several diamonds is which
        for panel, here in places.items():
            numbers = [
                Label(str(one.record.number), (one.x, one.y), palette.BASELINE, bold=True)
                for one in here
                if one.record.enqueued and one.record is not trials.winner and one.inside
            ]
            place_labels(panel, numbers, [(one.x, one.y) for one in here], SIZE_SMALL, list(panel.texts))
    better = "higher" if trials.mode == "max" else "lower"
    return Drawn(
        "objective", text, to_png(figure),
        f"Each point is a trial, at its {trials.metric} after its last epoch; {better} is better. A trial that was "
        "stopped early had fewer epochs. Trials of one panel differ in the other parameters too. Points at the border "
        "lie beyond it or have no finite value."
        + (f" The best trial has {point}." if point else "")
        + (f" {COLLAPSE_SAID}" if marked else "")
        + (_explained(explanation, names) if explanation is not None else ""),
    )  # fmt: skip


def _draw_slice(axes: Axes, slice_: Slice, xs: Sequence[float]) -> None:
    """Draw the model's mean and two standard deviations along one parameter, behind the trials."""
    means, sds = np.array(slice_.means), np.array(slice_.sds)
    parts = [(np.array(xs), means, sds)]
    if not slice_.is_range:  # a block for each choice
        blocks = zip(xs, means, sds, strict=True)
        parts = [(np.array([x - 0.3, x + 0.3]), np.full(2, mean), np.full(2, sd)) for x, mean, sd in blocks]
    for at, mean, sd in parts:
        axes.fill_between(at, mean - 2 * sd, mean + 2 * sd, color=palette.MODEL, alpha=0.7, lw=0, zorder=0.8)
        axes.plot(at, mean, color=palette.MODEL_INK, lw=1.4, zorder=1.2, solid_capstyle="butt")


def _write_importance(axes: Axes, importance: Importance) -> None:
    """Write above a panel how important its parameter is, in grey if that may be chance."""
    said = f"importance {share_said(importance)}"
    axes.set_title(
        said if importance.stands_out else f"{said}: chance?", loc="right", fontsize=SIZE_SMALL, pad=4,
        color=palette.INK if importance.stands_out else palette.AXIS,
    )  # fmt: skip


def _explained(explanation: Explanation, names: Sequence[str]) -> str:
    """Say what the model is, where it expects the best values, and which parameters mattered."""
    said = ""
    slices = {name: one for name, one in explanation.model.slices.items() if name in names}
    if slices:
        said = (
            " The band is what a Gaussian process fitted to all curves expects after epoch "
            f"{explanation.model.epoch} while the other parameters stay as in trial {explanation.trial}: its mean and "
            f"two standard deviations. It is best at {expected_said(slices)}; in brackets what is as good."
        )
    return f"{said} {importance_said(explanation)}" if explanation.importances.of else said


class _Place(NamedTuple):
    """Where a trial stands in a panel."""

    record: TrialRecord
    x: float
    y: float
    inside: bool
    """False at the border: the value lies beyond it, or there is none."""


def _draw_panel(
    axes: Axes, trials: Standing, spec: SweepSpec, name: str, ended: Sequence[TrialRecord],
    pictured: Sequence[TrialRecord],
) -> list[_Place]:  # fmt: skip
    """Draw the trials against one parameter; the limits of the objective must be set already."""
    low, high = axes.get_ylim()
    floor = low if trials.mode == "max" else high
    positions = scale_x(axes, spec.trial, name, ended)
    for group in group_repeats(record for record in pictured if low <= trials.value(record) <= high):
        if len(group) > 1:
            ends = [pick(map(trials.value, group)) for pick in (min, max)]
            axes.plot([positions(group[0])] * 2, ends, color=palette.FAINT, lw=1.6, zorder=2)
    of_kind: dict[str, list[_Place]] = defaultdict(list)
    for record in pictured:
        x, value = positions(record), trials.value(record)
        looks = kind(record, value)
        if looks == "no result" or not low <= value <= high:
            of_kind["no result" if looks == "no result" else "beyond"].append(_Place(record, x, floor, False))
        else:
            special = trials.is_special(record)
            of_kind[trials.label(record) if special else looks].append(_Place(record, x, value, True))
    for looks, places in of_kind.items():
        xs, ys = [place.x for place in places], [place.y for place in places]
        if looks == "beyond":
            shape = "v" if floor == low else "^"
            axes.scatter(xs, ys, s=34, c=palette.STOPPED, marker=shape, clip_on=False, zorder=3)
        else:
            mark(axes, looks, xs, ys)
        if looks in ("beyond", "no result") and isinstance(spec.trial.searched[name], Choices):
            # Marks of one category lie on each other at the border.
            _count_piles(axes, xs, floor, trials.mode, "left" if looks == "beyond" else "right")
    return [place for places in of_kind.values() for place in places]


def _count_piles(axes: Axes, xs: Sequence[float], floor: float, mode: Mode, side: Literal["left", "right"]) -> None:
    """Write beside marks at the border how many lie on each other.

    `side` is the edge of the number that is next to the marks.
    """
    for x, count in Counter(xs).items():
        if count > 1:
            axes.annotate(
                f"×{count}", (x, floor), xytext=(5 if side == "left" else -5, 3 if mode == "max" else -3),
                textcoords="offset points", ha=side, va="bottom" if mode == "max" else "top", fontsize=SIZE_SMALL,
                color=palette.AXIS, path_effects=HALO, zorder=5,
            )  # fmt: skip


def _objective_limits(trials: Standing, records: Sequence[TrialRecord]) -> tuple[float, float]:
    measured = [trials.value(r) for r in records if kind(r, trials.value(r)) != "no result"]
    return robust_limits(measured, trials.mode, trials.special_values)


def _legend(trials: Standing, shown: Counter[str], off: int) -> list[Line2D]:
    handles = []
    for looks in ("best", "baseline"):
        if shown[looks]:
            handles.append(legend_handle(looks, who(trials, looks)))
    for looks in ("completed", "stopped early", "paused", "not finished"):
        if shown[looks]:
            handles.append(legend_handle(looks, f"{looks} ({shown[looks]})"))
    if off:
        shape = "v" if trials.mode == "max" else "^"
        handles.append(
            Line2D([], [], ls="none", marker=shape, ms=5.5, color=palette.STOPPED, label=f"off the axis ({off})")
        )
    if shown["no result"]:
        handles.append(legend_handle("no result", f"{SAID['no result']} ({shown['no result']})"))
    return handles
