"""Rankings of the trials of one or several sweeps, by the objective or any other measured metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raysweep.errors import ArgumentError, SweepDirectoryError
from raysweep.metrics import FINAL_METRICS, FINAL_PREFIX, METRICS, OBJECTIVES
from raysweep.records import TrialRecord, rank_alone, ranked
from raysweep.spec.loading import searched_in_the_loss
from raysweep.spec.sections import SweepSpec
from raysweep.spec.yamltext import nearest
from raysweep.wording import counted, is_python, option, to_type

if TYPE_CHECKING:
    from raysweep.review.sweep import Sweep

SAME_IMAGES = ("dataset", "image_size", "channels", "fit", "validation_fraction", "test_fraction", "split_seed")
"""Keys of the `data:` section on which a metric's values depend."""


@dataclass(frozen=True)
class Ranking:
    """Trials, the best first, each with its sweep."""

    metric: str
    rows: tuple[tuple[Sweep, TrialRecord], ...]
    notes: tuple[str, ...]
    """Notes that a reader needs before trusting the order."""


def rank_sweeps(sweeps: Sequence[Sweep], metric: str | None = None) -> Ranking:
    """Rank the trials of all sweeps together, those that ran to their end first.

    Args:
        metric: what they are ranked by, also a `test_...` metric; None means the sweeps' objective.

    Raises:
        ArgumentError: if there is no such metric, neither less nor more of it is better, or a sweep is named twice.
        SweepDirectoryError: if the sweeps have different objectives and no metric is given, or no trial has the metric.
    """
    places = [sweep.directory.root.resolve() for sweep in sweeps]
    for sweep, place in zip(sweeps, places, strict=True):
        if places.count(place) > 1:
            raise ArgumentError(f"{sweep.directory.address}: is named twice; name each sweep once")
    metric = _common_objective(sweeps) if metric is None else checked_metric(metric)
    rows = [(sweep, record) for sweep in sweeps for record in ranked(sweep.records, metric)]
    if not rows:
        raise SweepDirectoryError(_nothing_measured(sweeps, metric))
    if len(sweeps) > 1:
        # Ignore confirmations, because some sweeps may have none. If trials are equal, the sweep named first leads.
        rows.sort(key=lambda row: rank_alone(row[1], metric))
    return Ranking(metric, tuple(rows), tuple(_notes(sweeps, metric)))


def checked_metric(metric: str) -> str:
    """Return the name of a metric that trials can be ranked by.

    Raises:
        ArgumentError: if there is no such metric, or neither less nor more of it is better.
    """
    if metric in OBJECTIVES:
        return metric
    allowed = tuple(name for name, known in {**METRICS, **FINAL_METRICS}.items() if known.mode)
    if metric in allowed:
        return metric
    if metric in METRICS or metric in FINAL_METRICS:
        raise ArgumentError(
            f"{option('metric', metric)}: is neither better small nor large, so it ranks nothing; "
            f"allowed: {', '.join(allowed)}"
        )
    tested = FINAL_PREFIX + str(metric)
    hint = f"; did you mean {tested}?" if tested in allowed else nearest(metric, allowed)
    raise ArgumentError(f"{option('metric', metric)}: is not a metric{hint}")


def loss_note(spec: SweepSpec, metric: str) -> str | None:
    """Return a warning if a metric contains searched weights: its best value does not mean the best model."""
    weights = searched_in_the_loss(spec.trial) if metric in ("val_loss", "train_loss") else []
    if not weights:
        return None
    are = "is" if len(weights) == 1 else "are"
    return f"{metric} contains {', '.join(weights)}, which {are} searched: its best value tells the smallest weight"


def _common_objective(sweeps: Sequence[Sweep]) -> str:
    objectives = {sweep.directory.address: sweep.spec.search.objective.metric for sweep in sweeps}
    if len(set(objectives.values())) > 1:
        each = ", ".join(f"{place} by {metric}" for place, metric in objectives.items())
        first = next(iter(objectives.values()))
        raise SweepDirectoryError(
            f"the sweeps have different objectives ({each}); say by which metric to rank: {option('metric', first)}"
        )
    return sweeps[0].spec.search.objective.metric


def _nothing_measured(sweeps: Sequence[Sweep], metric: str) -> str:
    places = ", ".join(sweep.directory.address for sweep in sweeps)
    first = sweeps[0].directory.address
    some = [record for sweep in sweeps for record in ranked(sweep.records, sweep.spec.search.objective.metric)]
    if not some:
        status = "sweep.status() says why" if is_python() else f"{to_type('status', first)} says why"
        return f"{places}: no trial has a result yet; {status}"
    if metric in FINAL_METRICS:
        which = sweeps[0].spec.evaluation.final_metrics
        if any(record.tested for record in some):
            return f"{places}: {metric} is not defined for what these sweeps train on; docs/metrics.md says for what"
        return (
            f"{places}: no trial has {metric}: it is measured of the finalists once all trials have ended "
            f"(evaluation.final_metrics: {which}). To have it measured, set evaluation.final_metrics to best 5 or all "
            f"in {sweeps[0].directory.spec.name}, then type: {to_type('resume', first)}"
        )
    return f"{places}: no trial has a finite {metric}"


def _notes(sweeps: Sequence[Sweep], metric: str) -> list[str]:
    notes = [note for sweep in sweeps if (note := loss_note(sweep.spec, metric))]
    first = sweeps[0]
    for other in sweeps[1:]:
        differing = [
            f"{key} {_shown(getattr(first.spec.data, key))} and {_shown(getattr(other.spec.data, key))}"
            for key in SAME_IMAGES
            if getattr(first.spec.data, key) != getattr(other.spec.data, key)
        ]
        if differing:
            notes.append(
                f"{first.directory.address} and {other.directory.address} have different images "
                f"({'; '.join(differing)}): their values need not compare"
            )
    if metric in FINAL_METRICS:
        untested = sum(not math.isfinite(r.last(metric)) for s in sweeps for r in ranked(s.records, "elbo_nats"))
        if untested:
            left_out = ("is", "it") if untested == 1 else ("are", "them")
            text = f"{counted(untested, 'trial')} {left_out[0]} left out: {metric} was not measured of {left_out[1]}"
            notes.append(text)
    return list(dict.fromkeys(notes))


def _shown(value: object) -> str:
    return "as they are" if value is None else str(value)
