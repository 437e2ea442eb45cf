"""Conversion between the ledger's entries (attributes of an Optuna trial) and `TrialRecord`s.

Everything that is read is checked, because a disk can damage a journal and a person can edit it. A wrong value would
get into tables, rungs and the sampler's next suggestion.
"""

from __future__ import annotations

import dataclasses
import math
import re
import struct
import sys
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import optuna

from raysweep.errors import LedgerError
from raysweep.metrics import EpochMetrics, FinalMetrics, TrialState
from raysweep.records import EpochRecord, TrialRecord
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import Choices, Scalar

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

EPOCH, PLACE, OUTCOME, ENQUEUED, TESTED = "epoch:", "place", "outcome", "enqueued", "tested:"
CONFIRMS, SEED, PLANNED = "confirms", "seed", "confirmations"
"""Keys of the attributes; those that end in a colon are followed by six digits."""
TOLD = {
    TrialState.COMPLETED: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
    TrialState.DIVERGED: optuna.trial.TrialState.PRUNED,
    TrialState.OUT_OF_MEMORY: optuna.trial.TrialState.FAIL,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
}
"""The state that Optuna is told when a trial ends; ledger.py has the reasons."""
_NOTHING: dict[Any, Any] = {}
"""One empty mapping that all trials share."""
Row = Mapping[str, Any]
Metrics = TypeVar("Metrics", EpochMetrics, FinalMetrics)


def epoch_key(epoch: int) -> str:
    return f"{EPOCH}{epoch:06d}"


def tested_key(number: int) -> str:
    return f"{TESTED}{number:06d}"


def epoch_row(metrics: EpochMetrics, recorded_at: datetime) -> dict[str, Any]:
    return {**dataclasses.asdict(metrics), "recorded_at": recorded_at.isoformat()}


def read_trial(
    frozen: FrozenTrial, spec: SweepSpec, distributions: Mapping[str, BaseDistribution], unfinished: TrialState,
    tested: FinalMetrics | None,
) -> TrialRecord:  # fmt: skip
    """Return the record of a trial of the study; `unfinished` is its state if it has not ended.

    Raises:
        LedgerError: naming the trial and what in it is missing, unknown or impossible.
    """
    number, attributes = frozen.number, frozen.user_attrs
    ended = frozen.state.is_finished()
    epochs = read_epochs(frozen)
    params = _read_params(frozen, spec, distributions)
    outcome = read_outcome(frozen)
    if ended:
        if outcome is None:
            _refuse(number, "has ended, but its outcome is missing")
        if TOLD[outcome[0]] is not frozen.state:
            _refuse(number, f"is {outcome[0].value} by its outcome, but told as {frozen.state.name}")
    if frozen.state is optuna.trial.TrialState.COMPLETE and not (frozen.values and math.isfinite(frozen.values[0])):
        _refuse(number, "is completed without a value")
    place = attributes.get(PLACE, {"node": None, "device": None})
    if not isinstance(place, dict) or not all(isinstance(place.get(k), str | None) for k in ("node", "device")):
        _refuse(number, f"{PLACE} is no node with a device")
    confirms, seed = attributes.get(CONFIRMS), attributes.get(SEED)
    if (confirms is None) is not (seed is None):
        _refuse(number, f"has {CONFIRMS} without {SEED}, or the other way round")
    if confirms is not None and not (_is_whole(confirms) and confirms < number):
        _refuse(number, f"confirms {_shortened(confirms)}, which is no trial before it")
    planned = attributes.get(PLANNED)
    if confirms is not None and not _is_whole(planned):
        _refuse(number, f"{PLANNED} is {_shortened(planned)}, which is no number of trials")
    if seed is not None and not (_is_whole(seed) and seed < 2**32):
        _refuse(number, f"{SEED} is {_shortened(seed)}, which is no seed")
    return TrialRecord(
        number=number,
        space=spec.trial,
        params={name: params[name] for name in spec.trial.searched if name in params},
        state=outcome[0] if ended and outcome else unfinished,
        epochs=epochs,
        tested=tested,
        confirms=confirms,
        confirms_by=None if confirms is None else (spec.search.objective.metric, int(planned or 0)),
        seed=seed,
        enqueued=attributes.get(ENQUEUED, False) is True,
        cause=outcome[1] if ended and outcome else None,
        error=outcome[2] if ended and outcome else None,
        started_at=_utc(frozen.datetime_start),
        ended_at=_utc(frozen.datetime_complete),
        node=_printable(place.get("node")),
        device=_printable(place.get("device")),
    )


def lighten(frozen: FrozenTrial, record: TrialRecord, epochs_kept: Collection[int] = ()) -> None:
    """Remove from an ended trial of the study what samplers do not read; its record has it.

    `epochs_kept` are the epochs whose values samplers read, besides the last one of a stopped trial.
    """
    if frozen.params == record.params:
        frozen._params = record.params
    frozen._datetime_start = frozen.datetime_complete = None
    frozen._user_attrs = _NOTHING
    frozen._system_attrs = frozen._system_attrs or _NOTHING
    values = frozen.intermediate_values
    kept = {epoch: values[epoch] for epoch in sorted(epochs_kept) if epoch in values}
    if values and (kept or frozen.state is optuna.trial.TrialState.PRUNED):
        last = max(values)
        kept[last] = values[last]
    frozen.intermediate_values = kept or _NOTHING


def read_epochs(frozen: FrozenTrial) -> tuple[EpochRecord, ...]:
    """Return the epochs of a trial, from 1 without a gap.

    Each parsed epoch replaces its row in `frozen`: it takes a fraction of the memory, and is not parsed again.

    Raises:
        LedgerError: naming the epoch that is missing or damaged.
    """
    epochs: list[EpochRecord] = []
    keys = sorted(key for key in frozen.user_attrs if key.startswith(EPOCH))
    for epoch, key in enumerate(keys, start=1):
        if key != epoch_key(epoch):
            _refuse(frozen.number, f"epoch {epoch} is missing, though {key} is there")
        row = frozen.user_attrs[key]
        if not isinstance(row, EpochRecord):
            row = frozen.user_attrs[key] = _read_epoch(row, frozen.number, key)
        if row.value("epoch") != epoch:
            _refuse(frozen.number, f"{key} is epoch {row.metrics.epoch}")
        epochs.append(row)
    last = max(1, len(epochs))  # a trial that diverged before its first epoch has a step, too
    odd = [step for step in frozen.intermediate_values if not 1 <= step <= last]
    if odd:
        _refuse(frozen.number, f"has a value for epoch {odd[0]}, whose metrics are missing")
    return tuple(epochs)


def _read_epoch(row: Any, number: int, key: str) -> EpochRecord:
    metrics = _read_metrics(EpochMetrics, row, number, key)
    try:
        recorded_at = datetime.fromisoformat(row["recorded_at"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError):
        _refuse(number, f"{key}: recorded_at is missing or no time")
    try:
        return EpochRecord.of(metrics, recorded_at)
    except struct.error:
        _refuse(number, f"{key}: a whole number does not fit into 64 bits")


def read_outcome(frozen: FrozenTrial) -> tuple[TrialState, str | None, str | None] | None:
    """Return state, cause and traceback of a trial that ended or was about to; None if it goes on.

    Raises:
        LedgerError: if the state is not one in which a trial ends, or the cause is not text.
    """
    outcome = frozen.user_attrs.get(OUTCOME)
    if outcome is None:
        return None
    allowed = {state.value: state for state in TOLD}
    state = outcome.get("state") if isinstance(outcome, dict) else None
    if not isinstance(state, str) or state not in allowed:
        _refuse(frozen.number, f"its outcome is none of {', '.join(allowed)}")
    cause, error = outcome.get("cause"), outcome.get("error")
    if not isinstance(cause, str | None) or not isinstance(error, str | None):
        _refuse(frozen.number, "the cause of its outcome is no text")
    return allowed[state], _printable(cause), _printable(error)


def read_tested(attributes: Mapping[str, Any], trials: int) -> dict[int, FinalMetrics]:
    """Return the final metrics by trial number, from the attributes of a study with `trials` trials.

    Rows of a raysweep with fewer or other metrics can be read, too: see `_read_metrics`.

    Raises:
        LedgerError: naming the trial whose final metrics are damaged.
    """
    found = {}
    for key, row in attributes.items():
        if not key.startswith(TESTED):
            continue
        digits = key.removeprefix(TESTED)
        if not re.fullmatch("[0-9]{1,9}", digits) or int(digits) >= trials:
            raise LedgerError(f"{key}: these are final metrics of a trial that there is not")
        found[int(digits)] = _read_metrics(FinalMetrics, row, int(digits), key)
    return found


def _read_metrics(kind: type[Metrics], row: Any, number: int, key: str) -> Metrics:
    """Return the metrics in a row. Unknown metrics are ignored, and metrics that may be None may be missing."""
    if not isinstance(row, dict):
        _refuse(number, f"{key}: is no row of metrics")
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        wanted = str(field.type)
        if field.name in row:
            try:
                values[field.name] = _convert(row[field.name], wanted)
            except (TypeError, ValueError, OverflowError):
                _refuse(number, f"{key}: {field.name} is not {wanted}: {_shortened(row[field.name])}")
        elif wanted.endswith("| None"):
            values[field.name] = None
        elif field.default is dataclasses.MISSING:
            _refuse(number, f"{key}: {field.name} is missing")
    return kind(**values)


def _convert(value: Any, wanted: str) -> Any:
    """Convert `value` to the type that the annotation `wanted` names; raise TypeError if it is of another type."""
    if value is None and wanted.endswith("| None"):
        return None
    bare = wanted.removesuffix("| None").strip()
    if bare == "tuple[float, ...]" and isinstance(value, list):
        return tuple(_convert(item, "float") for item in value)
    if bare == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value).__name__ != bare:
        raise TypeError
    return _printable(value) if isinstance(value, str) else value


def _read_params(
    frozen: FrozenTrial, spec: SweepSpec, distributions: Mapping[str, BaseDistribution]
) -> dict[str, Scalar]:
    """Return the parameters of a trial that are set, with their values as in the search space file."""
    params: dict[str, Scalar] = {}
    for name, value in frozen.params.items():
        distribution = distributions.get(name)
        if distribution is None:
            _refuse(frozen.number, f"has a value of {name}, which is not searched")
        try:
            within = distribution._contains(distribution.to_internal_repr(value))
        except (TypeError, ValueError, OverflowError):
            within = False
        if not within:
            searched = spec.trial.searched[name]
            _refuse(frozen.number, f"{name} is {_shortened(value)}, which is outside of what is searched, {searched}")
        params[name] = _as_written(spec, name, value)
    return params


def _as_written(spec: SweepSpec, name: str, value: Any) -> Scalar:
    """Return a value as in the search space file: the file's own choice, or a range's plain number."""
    distribution = spec.trial.searched.get(name)
    if isinstance(distribution, Choices):
        return next(choice for choice in distribution.choices if choice == value and type(choice) is type(value))
    return value  # type: ignore[no-any-return]


def _printable(text: str | None) -> str | None:
    """Return the text without lone surrogates: a path may contain them, JSON can hold them, a UTF-8 file cannot.

    Many trials have the same machine or cause, so they share one string.
    """
    return None if text is None else sys.intern(text.encode("utf-8", "replace").decode())


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _utc(moment: datetime | None) -> datetime | None:
    """Convert a time of Optuna's, which is naive and local, to UTC."""
    return None if moment is None else moment.astimezone(UTC)


def _refuse(number: int, reason: str) -> NoReturn:
    raise LedgerError(f"trial {number}: {reason}")
