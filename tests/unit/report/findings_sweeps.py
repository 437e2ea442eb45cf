"""Sweeps that never ran, whose metrics are what a test of a claim needs them to be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import yaml

from raysweep.metrics import EpochMetrics, FinalMetrics, TrialState
from raysweep.records import EpochRecord, TrialRecord
from raysweep.report.findings.decisions import Finding, decide_claims
from raysweep.report.findings.observations import SweepTables
from raysweep.report.tables import epochs_table, trials_table
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec

Measure = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From the parameters of a trial to its metrics; those of the test split begin with `test_`."""

WEIGHTS = [0.0005, 0.005, 0.05, 0.5]
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def space(claims: Iterable[Mapping[str, Any]] = (), **sections: Any) -> SweepSpec:
    """A grid of four weights and three seeds, unless told otherwise."""
    mapping: dict[str, Any] = {
        "name": "grid",
        "data": {"dataset": "digits", "image_size": 16},
        "trial": {"kld_weight": {"choices": WEIGHTS}, "seed": {"choices": [0, 1, 2]}},
        "search": {"sampler": "grid"},
        "evaluation": {"final_metrics": "all"},
        "claims": [{"name": f"claim_{index}", "statement": "It is so."} | dict(c) for index, c in enumerate(claims)],
    }
    return parse_spec(yaml.safe_dump(mapping | sections))


def epoch(number: int, **metrics: Any) -> EpochRecord:
    values: dict[str, Any] = {
        "train_loss": 0.1, "val_loss": 0.1, "elbo_nats": 20.0, "bits_per_dim": 3.0, "rate_nats": 10.0,
        "distortion_nats": -30.0, "mse": 0.01, "psnr_db": 20.0, "r2": 0.6, "active_units": 5, "collapsed": False,
        "images_per_s": 900.0, "epoch_s": 1.5,
    } | metrics  # fmt: skip
    return EpochRecord.of(EpochMetrics(epoch=number, **values), NOW)


def final(**metrics: Any) -> FinalMetrics:
    values: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(FinalMetrics))
    values |= {
        "images": 100, "features": "classifier", "iwae_samples": 50, "active_units": 5, "latent_kl_nats": (1.0,),
        "measured_s": 2.0,
    }  # fmt: skip
    return FinalMetrics(**values | metrics)


def trial(
    spec: SweepSpec, number: int, params: Mapping[str, Any], metrics: Mapping[str, Any], **more: Any
) -> TrialRecord:
    """One trial of two epochs, the metrics the last one's."""
    own = {name: value for name, value in metrics.items() if not name.startswith("test_")}
    tested = {name.removeprefix("test_"): value for name, value in metrics.items() if name.startswith("test_")}
    values: dict[str, Any] = {"state": TrialState.COMPLETED, "tested": final(**tested) if tested else None} | more
    return TrialRecord(number, spec.trial, dict(params), epochs=(epoch(1), epoch(2, **own)), **values)


def tables(spec: SweepSpec, records: list[TrialRecord], critical: float | None = None) -> SweepTables:
    pair = None if critical is None else (critical, critical)
    return SweepTables(spec, trials_table(records, spec), epochs_table(records, spec), pair)


def grid(spec: SweepSpec, measure: Measure, critical: float | None = None) -> SweepTables:
    """Every trial of a grid, completed."""
    records = [trial(spec, number, point, measure(point)) for number, point in enumerate(spec.trial.grid())]
    return tables(spec, records, critical)


def decide(claim: Mapping[str, Any], measure: Measure, **sections: Any) -> Finding:
    """The finding on one claim, on a grid."""
    spec = space([claim], **sections)
    (finding,) = decide_claims(spec.claims, [grid(spec, measure, 0.0147)])
    return finding
