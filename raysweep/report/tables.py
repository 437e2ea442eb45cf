"""The two tables of a report: one row per trial, and one row per trial and epoch. docs/schema.md describes them.

Other people's SQL depends on these columns. Adding a column keeps `SCHEMA_VERSION`; removing one, or changing its name,
type, unit or meaning, raises it. No column depends on what a sweep searches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, islice, pairwise
from typing import Any, Literal, NamedTuple, get_args, get_origin

import pyarrow as pa

from raysweep.confirming import Confirmed, confirmed
from raysweep.metrics import FINAL_METRICS, FINAL_PREFIX, METRICS, EpochMetrics, FinalMetrics, Metric, TrialState
from raysweep.records import EpochRecord, TrialRecord
from raysweep.spec.config import UNITS, TrialConfig, meaning
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import field_kind

SCHEMA_VERSION = 1

Stuck = Mapping[int, bool | None]
"""Which trials are stuck, by their numbers; None if that is unknown."""

UTC_TIME = pa.timestamp("us", tz="UTC")


class Parameter(NamedTuple):
    """Unit and meaning of one field of `TrialConfig`."""

    unit: str
    meaning: str


PARAMETERS = {name: Parameter(UNITS.get(name, ""), meaning(name)) for name in TrialConfig.model_fields}
"""Every field of `TrialConfig`: the unit and meaning of its column."""


class Column(NamedTuple):
    """One column of a table."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str
    nullable: bool = False

    @property
    def field(self) -> pa.Field:
        metadata = {"unit": self.unit, "meaning": self.meaning}
        return pa.field(self.name, self.type, nullable=self.nullable, metadata=metadata)


def parameter_type(name: str) -> pa.DataType:
    """Return the Arrow type of the column that holds field `name` of `TrialConfig`."""
    kind = field_kind(name)
    if kind != "other":
        return pa.int64() if kind == "int" else pa.float64()
    annotation = TrialConfig.model_fields[name].annotation
    types = {type(value) for value in get_args(annotation)} if get_origin(annotation) is Literal else {annotation}
    return pa.bool_() if types == {bool} else pa.int64() if types == {int} else pa.string()


def _parameter_column(name: str) -> Column:
    optional = type(None) in get_args(TrialConfig.model_fields[name].annotation)
    return Column(name, parameter_type(name), *PARAMETERS[name], nullable=optional)


_ARROW_TYPES = {
    float: pa.float64(), int: pa.int64(), bool: pa.bool_(), str: pa.string(),
    tuple: pa.list_(pa.field("element", pa.float64())),
}  # fmt: skip


def _metric_columns(metrics: Mapping[str, Metric], prefix: str, suffix: str, *, nullable: bool) -> tuple[Column, ...]:
    return tuple(
        Column(f"{prefix}{metric.name}", _ARROW_TYPES[metric.type], metric.unit, metric.meaning + suffix, nullable)
        for metric in metrics.values()
    )


STUCK_SAID = (
    "it never left the plateau at the mean image, although its KLD weight is below collapse; null where nobody can tell"
)
_STATES = ", ".join(f"`{state}`" for state in TrialState)

TRIAL_COLUMNS: tuple[Column, ...] = (
    Column("trial", pa.int64(), "", "number of the trial in the study, from 0; unique"),
    Column("state", pa.string(), "", f"where the trial stands: {_STATES}"),
    Column("cause", pa.string(), "", "why it ended, in a sentence; null while it runs", nullable=True),
    Column("objective", pa.float64(), "", "the sweep's objective after the last epoch", nullable=True),
    *(_parameter_column(name) for name in TrialConfig.model_fields),
    Column("epochs_done", pa.int32(), "epochs", "epochs trained and evaluated"),
    *_metric_columns(METRICS, "", ", after the last epoch", nullable=True),
    Column("stuck", pa.bool_(), "", STUCK_SAID, nullable=True),
    Column("best_epoch", pa.int32(), "", "epoch, from 1, after which the objective was best", nullable=True),
    *_metric_columns(METRICS, "best_", ", after `best_epoch`", nullable=True),
    *_metric_columns(FINAL_METRICS, "", ", on the test split", nullable=True),
    Column("train_s", pa.float64(), "s", "sum of `epoch_s` over the epochs done"),
    Column("started_at", UTC_TIME, "UTC", "when the trial first started", nullable=True),
    Column("ended_at", UTC_TIME, "UTC", "when it ended; null while it runs", nullable=True),
    Column("confirms", pa.int64(), "", "the trial that it trains again with another seed; null in the search", True),
    Column("confirmations", pa.int32(), "", "how many trials confirm it that came to a value"),
    Column("confirmed_mean", pa.float64(), "", "mean objective of these, at their last epochs", nullable=True),
    Column("confirmed_half_width", pa.float64(), "", "of the 95 % interval of `confirmed_mean`", nullable=True),
    Column("enqueued", pa.bool_(), "", "whether the search space file gave the point and not the sampler"),
    Column("node", pa.string(), "", "host name of the machine that trained it last", nullable=True),
    Column("device", pa.string(), "", "`cpu`, or the name of the GPU", nullable=True),
    Column("error", pa.string(), "", "traceback of a trial that failed", nullable=True),
)

EPOCH_COLUMNS: tuple[Column, ...] = (
    Column("trial", pa.int64(), "", "number of the trial in the study, from 0"),
    Column("epoch", pa.int32(), "", "number of the epoch, from 1; unique within a trial"),
    *_metric_columns(METRICS, "", "", nullable=False),
    Column("time_s", pa.float64(), "s", "sum of `epoch_s` over the trial's epochs up to this one"),
    Column("recorded_at", UTC_TIME, "UTC", "when the ledger took the epoch"),
)


_ROWS_AT_ONCE = 256


def trials_schema(spec: SweepSpec | None = None) -> pa.Schema:
    """Return the schema of trials.parquet; its metadata has the version and, if given, the sweep's spec."""
    return _schema(TRIAL_COLUMNS, spec)


def epochs_schema(spec: SweepSpec | None = None) -> pa.Schema:
    """Return the schema of epochs.parquet; its metadata has the version and, if given, the sweep's spec."""
    return _schema(EPOCH_COLUMNS, spec)


def _schema(columns: Sequence[Column], spec: SweepSpec | None) -> pa.Schema:
    metadata = {"raysweep.schema_version": str(SCHEMA_VERSION)}
    if spec is not None:
        metadata["raysweep.sweep"] = spec.name
        metadata["raysweep.objective"] = spec.search.objective.metric
        metadata["raysweep.spec"] = json.dumps(spec.as_mapping())
    return pa.schema([column.field for column in columns], metadata=metadata)


def trials_table(records: Sequence[TrialRecord], spec: SweepSpec, stuck: Stuck | None = None) -> pa.Table:
    """Return one row per trial, in the order of their numbers.

    A NaN stays a NaN; a value that was never measured is null.

    Args:
        stuck: which trials are stuck, by their numbers; for a trial that is missing it is unknown.
    """
    objective, stuck = spec.search.objective.metric, stuck or {}
    ordered = _unique(records, lambda record: record.number)
    found = {row.trial: row for row in confirmed(records, spec)}
    rows = (_trial_row(record, objective, stuck.get(record.number), found.get(record.number)) for record in ordered)
    return _table(rows, trials_schema(spec))


def epochs_table(records: Sequence[TrialRecord], spec: SweepSpec) -> pa.Table:
    """Return one row per trial and epoch, in the order of trials and then epochs."""
    ordered = _unique(records, lambda record: record.number)
    return _table((row for record in ordered for row in _epoch_rows(record)), epochs_schema(spec))


def _table(rows: Iterator[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Build a table a few rows at a time, because Python objects take ten times the memory."""
    batches = []
    while some := list(islice(rows, _ROWS_AT_ONCE)):
        batches.append(pa.RecordBatch.from_pylist(some, schema=schema))
    return pa.Table.from_batches(batches, schema=schema).combine_chunks()


def _epoch_rows(record: TrialRecord) -> Iterator[dict[str, Any]]:
    epochs: list[EpochRecord] = _unique(record.epochs, lambda epoch: epoch.value("epoch"))
    times_s = accumulate(epoch.value("epoch_s") for epoch in epochs)
    for epoch, time_s in zip(epochs, times_s, strict=True):
        row = {"trial": record.number, "epoch": epoch.value("epoch"), **_metrics(epoch.metrics)}
        yield {**row, "time_s": time_s, "recorded_at": epoch.recorded_at}


def _trial_row(record: TrialRecord, objective: str, stuck: bool | None, found: Confirmed | None) -> dict[str, Any]:
    final, best = record.final, record.best(objective)
    return {
        "trial": record.number,
        "state": str(record.state),
        "cause": record.cause,
        "objective": None if final is None else float(getattr(final, objective)),
        **record.config.model_dump(),
        "epochs_done": len(record.epochs),
        **(_metrics(final) if final else {}),
        "stuck": stuck,
        "best_epoch": best.epoch if best else None,
        **({f"best_{name}": value for name, value in _metrics(best).items()} if best else {}),
        **(_final_metrics(record.tested) if record.tested else {}),
        "train_s": sum((epoch.value("epoch_s") for epoch in record.epochs), start=0.0),
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "confirms": record.confirms,
        "confirmations": len(found.values) if found else 0,
        "confirmed_mean": found.mean if found else None,
        "confirmed_half_width": found.half_width if found else None,
        "enqueued": record.enqueued,
        "node": record.node,
        "device": record.device,
        "error": record.error,
    }


def _metrics(metrics: EpochMetrics) -> dict[str, float | int | bool]:
    return {name: metric.type(getattr(metrics, name)) for name, metric in METRICS.items()}


def _final_metrics(metrics: FinalMetrics) -> dict[str, Any]:
    return {name: getattr(metrics, name.removeprefix(FINAL_PREFIX)) for name in FINAL_METRICS}


def _unique(items: Sequence[Any], key: Callable[[Any], int]) -> list[Any]:
    """Return `items` sorted by `key`; raise ValueError if two have the same key, because readers join by it."""
    ordered = sorted(items, key=key)
    for before, after in pairwise(ordered):
        if key(before) == key(after):
            raise ValueError(f"two {type(after).__name__}s have number {key(after)}")
    return ordered
