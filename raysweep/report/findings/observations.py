"""The trials of one or several sweeps as columns that claims are tested on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raysweep.metrics import METRICS, OBJECTIVES, TrialState
from raysweep.spec.claims import COLUMNS, EPOCH_COLUMNS, MODES, PARAMETERS
from raysweep.spec.expressions import RELATIVE_TOLERANCE, Expression, Kind, Values, parse_expression
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import Scalar, field_kind

RUN = "run of a file"
"""A column that no claim can name: the sweep, with a number if others have the same name."""

REPEAT = "repeat of a file"
"""A column that no claim can name: how many sweeps of the same file come before this one."""

UNENDED = (TrialState.RUNNING.value, TrialState.PAUSED.value, TrialState.INTERRUPTED.value)


class SweepTables(NamedTuple):
    """A sweep's spec, its tables, and the predicted critical weight."""

    spec: SweepSpec
    trials: pa.Table
    epochs: pa.Table
    critical_weight: tuple[float, float] | None = None
    """The least and the greatest `kld_weight` at which collapse was predicted, before the sweep, to begin."""


@dataclass(frozen=True)
class Observations:
    """Rows that a claim looks at: trials, or epochs of trials."""

    columns: Mapping[str, Values]
    count: int
    objectives: tuple[str, ...]
    """The objectives of the sweeps, each once."""
    critical_weight: tuple[float, float] | None = None

    def take(self, rows: NDArray[Any]) -> Observations:
        """Return the rows that a mask keeps, or those at the given places."""
        columns = {name: Values(v.data[rows], v.known[rows]) for name, v in self.columns.items()}
        count = int(np.count_nonzero(rows)) if rows.dtype == bool else len(rows)
        return replace(self, columns=columns, count=count)

    def evaluate(self, expression: Expression) -> Values:
        return expression.evaluate(self.columns, (self.count,))

    def condition(self, text: str) -> Values:
        return self.evaluate(parse_expression(text, EPOCH_COLUMNS, "truth"))

    def quantity(self, text: str) -> Values:
        return self.evaluate(parse_expression(text, EPOCH_COLUMNS, "number"))

    def value(self, name: str, row: int) -> Scalar:
        """Return one value; None if it is null."""
        column = self.columns[name]
        if not column.known[row]:
            return None
        value: Scalar = column.data[row].item() if isinstance(column.data[row], np.generic) else column.data[row]
        return int(value) if isinstance(value, float) and name in _WHOLE and value.is_integer() else value

    def values(self, name: str) -> list[Scalar]:
        """Return the values that a column takes, each once, sorted; None last."""
        found = {self.value(name, row) for row in range(self.count)}
        return sorted(found, key=lambda value: (value is None, str(value) if isinstance(value, str) else 0, value or 0))

    def equals(self, name: str, value: Scalar) -> NDArray[np.bool_]:
        """Return a mask of the rows in which a column has `value`; for None, those in which it is null."""
        column = self.columns[name]
        if value is None:
            return np.logical_not(column.known)
        if COLUMNS[name] == "number" and not isinstance(value, str):
            data = np.where(column.known, column.data, np.nan).astype(np.float64)
            close: NDArray[np.bool_] = np.isclose(data, float(value), rtol=RELATIVE_TOLERANCE, atol=0.0)
            return close
        same: NDArray[np.bool_] = column.known & np.array([item == value for item in column.data], dtype=bool)
        return same

    def keys(self, names: Iterable[str]) -> list[tuple[Scalar, ...]]:
        """Return each row's values of some columns."""
        names = tuple(names)
        return [tuple(self.value(name, row) for name in names) for row in range(self.count)]

    @cached_property
    def varied(self) -> tuple[str, ...]:
        """The parameters, and `dataset`, that are not the same in all rows."""
        return tuple(name for name in (*PARAMETERS, "dataset") if len(self.values(name)) > 1)

    @cached_property
    def sweeps(self) -> int:
        return len(self.values(RUN))


_WHOLE = frozenset(
    {"trial", "epoch", "epochs_done", "best_epoch", "kernel_size"}
    | {name for name in PARAMETERS if field_kind(name) == "int"}
)


def mode_of(metric: str, objectives: Sequence[str]) -> str | None:
    """Return whether less or more of a metric is better, `min` or `max`; None if unknown."""
    if metric == "objective":
        return OBJECTIVES[objectives[0]] if len(objectives) == 1 else None
    return MODES.get(metric)


def labels(sweeps: Sequence[SweepTables]) -> list[str]:
    """Return the name of each sweep, with a number if several have the same name."""
    names = [sweep.spec.name for sweep in sweeps]
    return [
        f"{name} ({names[: index + 1].count(name)})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


def _repeats(sweeps: Sequence[SweepTables]) -> list[int]:
    """Return for each sweep how many earlier ones have the same name, data set and space.

    Runs of one file are repeats of each other.
    """
    files = [(spec.name, spec.data.dataset, spec.trial) for spec in (sweep.spec for sweep in sweeps)]
    return [files[:index].count(file) for index, file in enumerate(files)]


def trial_observations(sweeps: Sequence[SweepTables]) -> Observations:
    """Return every trial that ended, from all sweeps."""
    parts = [_trial_columns(*each) for each in zip(sweeps, labels(sweeps), _repeats(sweeps), strict=True)]
    found = _joined(parts, sweeps)
    states = found.columns["state"].data
    return found.take(np.array([state not in UNENDED for state in states], dtype=bool))


def epoch_observations(sweeps: Sequence[SweepTables]) -> Observations:
    """Return every epoch of every trial, from all sweeps; a metric's bare name means the epoch's value."""
    parts = []
    for sweep, label, repeat in zip(sweeps, labels(sweeps), _repeats(sweeps), strict=True):
        trials = _trial_columns(sweep, label, repeat)
        places = {number: row for row, number in enumerate(sweep.trials["trial"].to_pylist())}
        rows = np.array([places[number] for number in sweep.epochs["trial"].to_pylist()], dtype=np.int64)
        columns = {name: Values(v.data[rows], v.known[rows]) for name, v in trials.items()}
        for name in (*METRICS, "epoch", "time_s"):
            columns[name] = _values(sweep.epochs[name], EPOCH_COLUMNS[name])
        parts.append(columns)
    return _joined(parts, sweeps)


def _trial_columns(sweep: SweepTables, label: str, repeat: int) -> dict[str, Values]:
    count = sweep.trials.num_rows
    columns = {name: _values(sweep.trials[name], kind) for name, kind in COLUMNS.items() if name in _STORED}
    for name, text in (("dataset", sweep.spec.data.dataset), ("sweep", sweep.spec.name), (RUN, label)):
        columns[name] = Values.of(np.array([text] * count, dtype=object))
    columns[REPEAT] = Values.of(np.full(count, repeat))
    return columns


_STORED = frozenset(COLUMNS) - {"dataset", "sweep"}
_BLANKS: dict[Kind, Any] = {"number": np.nan, "text": "", "truth": False}
_TYPES: dict[Kind, Any] = {"number": np.float64, "text": object, "truth": np.bool_}


def _values(column: pa.ChunkedArray, kind: Kind) -> Values:
    items = column.to_pylist()
    known = np.array([item is not None for item in items], dtype=bool)
    data = np.array([_BLANKS[kind] if item is None else item for item in items], dtype=_TYPES[kind])
    return Values.of(data, known)


def _joined(parts: Sequence[Mapping[str, Values]], sweeps: Sequence[SweepTables]) -> Observations:
    columns = {
        name: Values(
            np.concatenate([part[name].data for part in parts]), np.concatenate([part[name].known for part in parts])
        )
        for name in parts[0]
    }
    predicted = [weight for sweep in sweeps if sweep.critical_weight for weight in sweep.critical_weight]
    objectives = tuple(dict.fromkeys(sweep.spec.search.objective.metric for sweep in sweeps))
    critical = (min(predicted), max(predicted)) if predicted else None
    return Observations(columns, len(columns["state"].data), objectives, critical)
