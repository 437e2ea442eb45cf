"""How each figure of a sweep is drawn, and the objective against each searched parameter."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from matplotlib.lines import Line2D

from raysweep.layout import SweepDirectory
from raysweep.metrics import TrialState
from raysweep.records import TrialRecord
from raysweep.report.figures.curves import learning_curves
from raysweep.report.figures.finals import final_metrics
from raysweep.report.figures.marks import (
    BLACK,
    COLLAPSE_SAID,
    FAINT,
    GREY,
    HALO,
    SAID,
    VERMILLION,
    Drawn,
    Standing,
    Weights,
    canvas,
    kind,
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
from raysweep.report.figures.scales import compared_parameters, mark_collapse, parameter_label, scale_x
from raysweep.report.figures.scatter import latent_kl, winning_latents
from raysweep.report.figures.sidebyside import reconstructions, side_by_side
from raysweep.spec import SweepSpec

MAX_PANELS_A_ROW = 4


def draw_all(
    directory: SweepDirectory, spec: SweepSpec, records: Sequence[TrialRecord], collapse: Weights | None = None
) -> Iterator[Drawn]:
    """Every figure that has something to show; `collapse` are the KLD weights at which it was predicted."""
    trials = standing(spec, records)
    with styled():
        for drawn in (
            objective_by_parameter(trials, spec, collapse),
            rate_and_distortion(trials, collapse),
            reconstructions(trials, spec, directory),
            learning_curves(trials, spec),
            final_metrics(trials, spec, collapse),
            winning_latents(trials, directory),
            latent_kl(trials),
            *side_by_side(trials, spec, directory),
        ):
            if drawn is not None:
                yield drawn._replace(description=drawn.description + trials.choice_said)


def objective_by_parameter(trials: Standing, spec: SweepSpec, collapse: Weights | None = None) -> Drawn | None:
    """The objective against each searched parameter, one panel each."""
    names = compared_parameters(spec.trial)
    ended = [r for r in trials.records if r.final is not None or r.state is not TrialState.RUNNING]
    if not names or not ended:
        return None
    pictured = [record for record in trials.drawn if record.final is not None or record.state is not TrialState.RUNNING]
    columns = min(len(names), MAX_PANELS_A_ROW)
    rows = -(-len(names) // columns)
    figure = canvas(max(6.4, 3.3 * columns), 3.6 * rows + 0.9)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    panels = list(grid.flat)
    marked = False
    low, high = _objective_limits(trials, ended)
    floor = low if trials.mode == "max" else high
    shown = Counter(kind(record, trials.value(record)) for record in ended)
    shown.update(trials.label(record) for record in ended if trials.is_special(record))
    off = sum(not low <= trials.value(r) <= high for r in ended if kind(r, trials.value(r)) != "no result")
    for panel, name in zip(panels, names, strict=False):
        positions = scale_x(panel, spec.trial, name, ended)
        for group in group_repeats(record for record in pictured if low <= trials.value(record) <= high):
            if len(group) > 1:
                ends = [pick(map(trials.value, group)) for pick in (min, max)]
                panel.plot([positions(group[0])] * 2, ends, color=FAINT, lw=1.6, zorder=2)
        points: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for record in pictured:
            x, value = positions(record), trials.value(record)
            looks = kind(record, value)
            if looks == "no result":
                points[looks].append((x, floor))
            elif not low <= value <= high:
                points["beyond"].append((x, floor))
            elif trials.is_special(record):
                points[trials.label(record)].append((x, value))
                panel.annotate(
                    str(record.number), (x, value), xytext=(7, 7), textcoords="offset points", zorder=7,
                    fontsize=9, fontweight="bold", color=VERMILLION if record is trials.winner else BLACK,
                    path_effects=HALO,
                )  # fmt: skip
            else:
                points[looks].append((x, value))
        beyond = points.pop("beyond", [])
        if beyond:
            shape = "v" if floor == low else "^"
            panel.scatter(*zip(*beyond, strict=True), s=34, c=GREY, marker=shape, clip_on=False, zorder=3)
        for looks, places in points.items():
            mark(panel, looks, *map(list, zip(*places, strict=True)))
        panel.set_ylim(low, high)
        if name == "kld_weight" and collapse is not None:
            marked = mark_collapse(panel, spec.trial, collapse)
        panel.set_xlabel(parameter_label(name))
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    for row in grid:
        row[0].set_ylabel(named(trials.metric))
    entries = 2 * columns if columns > 1 else 3
    figure.legend(handles=_legend(trials, shown, off), loc="outside lower center", ncols=entries, handletextpad=0.3)
    figure.align_xlabels()
    text = f"{trials.metric} by {names[0] if len(names) == 1 else 'parameter'}: {trials.finding}"
    if trials.winner is not None:
        values = {name: short(getattr(trials.winner.config, name)) for name in names}
        text += " at " + ", ".join(v if len(names) == 1 else f"{name} {v}" for name, v in values.items())
    title(figure, text)
    better = "higher" if trials.mode == "max" else "lower"
    return Drawn(
        "objective", text, to_png(figure),
        f"Each point is a trial, at its {trials.metric} after its last epoch; {better} is better. A trial that was "
        "stopped early had fewer epochs. Points at the border lie beyond it or have no finite value."
        + (f" {COLLAPSE_SAID}" if marked else ""),
    )  # fmt: skip


def _objective_limits(trials: Standing, records: Sequence[TrialRecord]) -> tuple[float, float]:
    measured = [trials.value(r) for r in records if kind(r, trials.value(r)) != "no result"]
    return robust_limits(measured, trials.mode, trials.special_values)


def _legend(trials: Standing, shown: Counter[str], off: int) -> list[Line2D]:
    handles = []
    for looks in ("best", "baseline"):
        if shown[looks]:
            handles.append(legend_handle(looks, who(trials, looks)))
    for looks in ("completed", "stopped early", "not finished"):
        if shown[looks]:
            handles.append(legend_handle(looks, f"{looks} ({shown[looks]})"))
    if off:
        shape = "v" if trials.mode == "max" else "^"
        handles.append(Line2D([], [], ls="none", marker=shape, ms=5.5, color=GREY, label=f"off the axis ({off})"))
    if shown["no result"]:
        handles.append(legend_handle("no result", f"{SAID['no result']} ({shown['no result']})"))
    return handles
