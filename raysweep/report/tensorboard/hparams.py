"""Summaries for TensorBoard's HParams table: its columns with their domains, and the parameters of each trial.

The table shows every trial (tensorboard#2942) if (a) one experiment summary with all columns and their domains comes
before any trial, and (b) all of a trial's parameters are written before its first scalar, with text in place of None.
A column of a metric may stay empty.
"""

from __future__ import annotations

import time
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata

from raysweep.metrics import FINAL_METRICS, FINAL_PREFIX, METRICS, Metric, TrialState
from raysweep.records import TrialRecord
from raysweep.report.tables import PARAMETERS
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import Choices, Distribution, Scalar

EPOCHS_TAG = "training/epochs_done"

_OBJECTIVE_GROUP = "Objective"
"""Group of the objective's tag: TensorBoard sorts groups by their characters, capitals first, so it comes first."""

_GROUPS = {
    "latents": ("rate_nats", "active_units", "collapsed"),
    "reconstruction": ("distortion_nats", "mse", "psnr_db", "r2"),
    "likelihood": ("elbo_nats", "elbo_binary_nats", "bits_per_dim"),
}
"""Groups of the metrics' tags; metrics in no group have the group `training`."""

TEST_GROUP = "test"
"""Group of the tags of final metrics: `test/kid`."""

_COMPARED = ("iwae_nats", "kid", "coverage", "reconstruction_accuracy", "silhouette")
"""Final metrics that are columns of the HParams table; a trial without them has empty cells there."""

STATUS = {
    TrialState.COMPLETED: api_pb2.STATUS_SUCCESS,
    TrialState.PRUNED: api_pb2.STATUS_SUCCESS,
    TrialState.DIVERGED: api_pb2.STATUS_FAILURE,
    TrialState.OUT_OF_MEMORY: api_pb2.STATUS_FAILURE,
    TrialState.FAILED: api_pb2.STATUS_FAILURE,
}
"""A trial that runs or was interrupted is missing, because it has not ended: raysweep resume continues it."""


def objective_tag(metric: str) -> str:
    """Return the second tag of the objective, which is shown before all other tags."""
    return f"{_OBJECTIVE_GROUP}/{metric}"


def scalar_tag(metric: str) -> str:
    """Return the tag of a metric: its group, then its name. All sweeps share it, so their trials can be compared."""
    group = next((group for group, members in _GROUPS.items() if metric in members), "training")
    return f"{group}/{metric}"


def experiment(spec: SweepSpec) -> Summary.Value:
    """Return the columns of the table, with the domain of each searched parameter."""
    objective = spec.search.objective.metric
    # Five columns are shown at once: the objective, the epochs, and metrics that explain the objective; losses follow.
    explaining = [name for members in _GROUPS.values() for name in members]
    names = list(dict.fromkeys([objective, *explaining, *METRICS]))
    metrics = [_column(scalar_tag(name), name, METRICS[name]) for name in names]
    epochs = api_pb2.MetricInfo(name=api_pb2.MetricName(tag=EPOCHS_TAG), display_name="epochs_done")
    tested = []
    if spec.evaluation.finalists != 0:
        tested = [
            _column(f"{TEST_GROUP}/{name}", FINAL_PREFIX + name, FINAL_METRICS[FINAL_PREFIX + name])
            for name in _COMPARED
        ]
    # If every trial has final metrics, trials are compared by them, so they precede the other metrics.
    first, last = (tested, []) if spec.evaluation.finalists is None else ([], tested)
    table = api_pb2.Experiment(
        description=f"raysweep: {spec.name}",
        time_created_secs=time.time(),
        hparam_infos=[_hparam_info(name, distribution) for name, distribution in spec.trial.searched.items()],
        metric_infos=[metrics[0], epochs, *first, *metrics[1:], *last],
    )
    return _hparams(hparams_metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=table))


def _column(tag: str, name: str, metric: Metric) -> api_pb2.MetricInfo:
    """Return a column of the HParams table."""
    return api_pb2.MetricInfo(
        name=api_pb2.MetricName(tag=tag),
        display_name=f"{name} [{metric.unit}]" if metric.unit else name,
        description=metric.meaning,
    )


def _hparam_info(name: str, distribution: Distribution) -> api_pb2.HParamInfo:
    info = api_pb2.HParamInfo(name=name, display_name=name, description=PARAMETERS[name].meaning)
    if isinstance(distribution, Choices):
        values = [_hparam_value(choice, distribution) for choice in distribution.choices]
        first = values[0]
        info.type = (
            api_pb2.DATA_TYPE_BOOL if isinstance(first, bool)
            else api_pb2.DATA_TYPE_STRING if isinstance(first, str)
            else api_pb2.DATA_TYPE_FLOAT64
        )  # fmt: skip
        info.domain_discrete.extend(values)
    else:
        info.type = api_pb2.DATA_TYPE_FLOAT64
        info.domain_interval.min_value = distribution.low
        info.domain_interval.max_value = distribution.high
    return info


def _hparam_value(value: Scalar, distribution: Distribution | None) -> bool | float | str:
    """Return the value in the type of its HParams column: bool, float or text, never None.

    Args:
        value: value of a parameter.
        distribution: what it was drawn from; None if it is constant.
    """
    domain = distribution.choices if isinstance(distribution, Choices) else (value,)
    if value is not None and all(isinstance(v, bool) for v in domain):
        return bool(value)
    if value is not None and all(isinstance(v, int | float) and not isinstance(v, bool) for v in domain):
        return float(value)
    return "none" if value is None else str(value)


def session_start(record: TrialRecord, spec: SweepSpec, started_s: float) -> Summary.Value:
    """Return a trial's parameters, which make it a row of the table.

    The row has no group name, so TensorBoard uses the path of the trial's run. It averages trials of one group name,
    and a name stored in the file could occur twice if several sweeps, or copies of one, are shown together.
    """
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=started_s)
    # A parameter that is constant here may be a column of another sweep that is shown together with this one.
    for name, set_to in record.config.model_dump().items():
        value = _hparam_value(set_to, spec.trial.searched.get(name))
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, str):
            info.hparams[name].string_value = value
        else:
            info.hparams[name].number_value = value
    data = plugin_data_pb2.HParamsPluginData(session_start_info=info)
    return _hparams(hparams_metadata.SESSION_START_INFO_TAG, data)


def session_end(state: TrialState, ended_s: float) -> Summary.Value:
    """Return how a trial ended; its state must be in `STATUS`."""
    end = plugin_data_pb2.SessionEndInfo(status=STATUS[state], end_time_secs=ended_s)
    data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
    return _hparams(hparams_metadata.SESSION_END_INFO_TAG, data)


def _hparams(tag: str, data: Any) -> Summary.Value:
    metadata = hparams_metadata.create_summary_metadata(data)
    return Summary.Value(tag=tag, metadata=metadata, tensor=hparams_metadata.NULL_TENSOR)
