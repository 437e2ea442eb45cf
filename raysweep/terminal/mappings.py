"""Trials and the status of a sweep as mappings of plain values, with the names that `--format json` prints."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import TYPE_CHECKING, Any

from raysweep.confirming import confirmed
from raysweep.records import TrialRecord
from raysweep.report.explanation.sentences import sentences
from raysweep.search.decisions import decisions

if TYPE_CHECKING:
    from raysweep.report.explanation.values import Explanation
    from raysweep.review.sweep import Sweep

RIVALS = 10
"""Most trials that an explanation compares with the best one."""


def trial_mapping(sweep: Sweep, record: TrialRecord, metric: str | None = None) -> dict[str, Any]:
    """Return what is known about a trial, without its epochs; `metric` is what ranked it, if not the objective."""
    objective = sweep.objective
    return {
        "sweep": sweep.name,
        "directory": sweep.directory.address,
        "trial": record.number,
        "state": record.state.value,
        "cause": record.cause,
        "objective": objective,
        "value": record.last(objective),
        **({} if metric in (None, objective) else {"metric": metric, "metric_value": record.last(str(metric))}),
        "params": record.params,
        "config": record.config.model_dump(mode="json"),
        "metrics": dataclasses.asdict(record.metrics) if record.metrics else None,
        "test_metrics": dataclasses.asdict(record.test_metrics) if record.test_metrics else None,
        "epochs_done": record.epochs_done,
        "stuck": sweep.stuck.get(record.number),
        "enqueued": record.enqueued,
        "confirms": record.confirms,
        "confirmed": _confirmed_mapping(sweep, record, metric),
        "started_at": _time(record.started_at),
        "ended_at": _time(record.ended_at),
        "node": record.node,
        "device": record.device,
        "error": record.error,
        "checkpoints": sweep.place_of(record),
    }


def _confirmed_mapping(sweep: Sweep, record: TrialRecord, metric: str | None) -> dict[str, Any] | None:
    """Return the results of a trial's further trainings; None if it was not trained again."""
    found = [row for row in confirmed(sweep.records, sweep.spec, metric) if row.trial == record.number]
    if not found:
        return None
    row = found[0]
    trials = [other.number for other in record.confirmed_by]
    return {"mean": row.mean, "half_width": row.half_width, "values": list(row.values), "trials": trials}


def explanation_mapping(explanation: Explanation, sweep: str) -> dict[str, Any]:
    """Return why the best trial is the best, with the first `RIVALS` trials that are compared with it."""
    mapping = dataclasses.asdict(explanation)
    return {**mapping, "rivals": mapping["rivals"][:RIVALS], "said": sentences(explanation, sweep)}


def story_mapping(sweep: Sweep, record: TrialRecord) -> dict[str, Any]:
    """Return all that is known about a trial, including early stopping's decisions, its epochs and its files."""
    rungs = [
        {
            "epoch": decision.epoch,
            "went_on": decision.went_on,
            **({"waits": True} if decision.waits else {}),
            **({"after": decision.after} if decision.after is not None else {}),
            **(dataclasses.asdict(decision.standing) if decision.standing else {}),
        }
        for decision in decisions(record, sweep.records, sweep.spec)
    ]
    epochs = [{**dataclasses.asdict(epoch.metrics), "recorded_at": _time(epoch.recorded_at)} for epoch in record.epochs]
    return {**trial_mapping(sweep, record), "rungs": rungs, "epochs": epochs, "files": sweep.files_of(record)}


def status_mapping(sweep: Sweep) -> dict[str, Any]:
    """Return the status of a sweep; times are in seconds, and None if they are unknown."""
    status = sweep.status()
    return {
        "sweep": sweep.name,
        "directory": sweep.directory.address,
        "standing": sweep.standing,
        "metric": sweep.objective,
        "direction": sweep.spec.search.objective.direction,
        "trials": status.trials,
        "ended": status.ended,
        "to_do": status.to_do,
        "by_state": {state.value: count for state, count in status.by_state.items()},
        "confirming": [record.number for record in status.confirming],
        "unconfirmed": status.unconfirmed,
        "epochs_done": status.epochs_done,
        "epochs_saved": status.epochs_saved,
        "images_per_s": status.images_per_s,
        "elapsed_s": sweep.elapsed_s(),
        "left_s": sweep.left_s(),
        "best": trial_mapping(sweep, status.best) if status.best else None,
        "running": [_standing_mapping(sweep, record) for record in status.running],
        "paused": [_standing_mapping(sweep, record) for record in status.paused],
        "finalists": [record.number for record in status.finalists],
        "untested": [record.number for record in status.untested],
        "report_is_behind": not sweep.running and sweep.directory.unreported.exists(),
    }  # fmt: skip


def _standing_mapping(sweep: Sweep, record: TrialRecord) -> dict[str, Any]:
    """Return the progress of a trial that has not ended."""
    return {
        "trial": record.number,
        "epochs_done": record.epochs_done,
        "epochs": record.config.epochs,
        "params": record.params,
        "value": record.last(sweep.objective),
    }


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
