"""TensorBoard files, written live: a run per trial with scalars, pictures and its place in the HParams table.

Written with the protocol buffers of the `tensorboard` package alone. Two things make the HParams table show every
trial (tensorboard#2942): one experiment summary with all columns and their domains comes before any trial, and a
trial's parameters are written before its first scalar, each of them, with text in place of None.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import socket
import struct
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tensorboard.compat.proto.event_pb2 import Event, SourceMetadata
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.util import tensor_util

from raysweep.layout import SweepDirectory, storage_errors
from raysweep.metrics import METRICS, EpochMetrics, TrialState
from raysweep.records import TrialRecord
from raysweep.report.images import enlarge, shrink
from raysweep.report.tables import PARAMETERS
from raysweep.space import Choices, Distribution, Scalar
from raysweep.spec import SweepSpec

if TYPE_CHECKING:
    from raysweep.report.figures import Figure

_log = logging.getLogger("raysweep")

FIGURE_WIDTH = 1000
"""Pixels. TensorBoard shows a picture in a card without smoothing, where a wider one is unreadable."""
SWEEP_RUN = "sweep"
"""The run that holds what concerns all trials."""

EPOCHS_TAG = "training/epochs_done"

PICTURE_WIDTH = 1100
"""Pixels, about: grids of 32 x 32 images are too small to judge at their own size."""

_GROUPS = {
    "latents": ("rate_nats", "active_units", "collapsed"),
    "reconstruction": ("distortion_nats", "mse", "psnr_db", "r2"),
    "likelihood": ("elbo_nats", "bits_per_dim"),
}
"""Tags of metrics that are not the objective; those in no group are `training`."""

_STATUS = {
    TrialState.COMPLETED: api_pb2.STATUS_SUCCESS,
    TrialState.PRUNED: api_pb2.STATUS_SUCCESS,
    TrialState.DIVERGED: api_pb2.STATUS_FAILURE,
    TrialState.OUT_OF_MEMORY: api_pb2.STATUS_FAILURE,
    TrialState.FAILED: api_pb2.STATUS_FAILURE,
}
"""A trial that runs or was interrupted has not ended: raysweep resume goes on with it."""


def scalar_tag(metric: str, objective: str) -> str:
    """The tag of a metric: its group, then its name."""
    if metric == objective:
        return f"objective/{metric}"
    group = next((group for group, members in _GROUPS.items() if metric in members), "training")
    return f"{group}/{metric}"


class TensorBoardWriter:
    """Writes the TensorBoard directory of a sweep while it runs; what is written can be seen at once.

    Args:
        directory: where the runs go, one directory each.
        spec: the sweep, whose searched parameters and objective become the columns of the HParams table.
        records: trials of earlier sessions. Those that `directory` has no run of are written now, without pictures.
    """

    def __init__(self, directory: Path, spec: SweepSpec, records: Sequence[TrialRecord] = ()) -> None:
        self._directory = directory
        self._spec = spec
        self._objective = spec.search.objective.metric
        self._files: dict[str, _EventFile] = {}
        if not (directory / SWEEP_RUN).exists():
            self._write(SWEEP_RUN, time.time(), 0, [_experiment(spec)])
        for record in records:
            if not (directory / _run(record)).exists():
                self._write_epochs(record)
                if record.state not in (TrialState.RUNNING, TrialState.INTERRUPTED):
                    self.finish_trial(record)

    def add_epoch(self, record: TrialRecord) -> None:
        """Writes the scalars of the record's last epoch, and its parameters if it is the trial's first."""
        self._start(record)
        last = record.epochs[-1]
        self._write(_run(record), _seconds(last.recorded_at), last.metrics.epoch, self._scalars(last.metrics))

    def finish_trial(
        self, record: TrialRecord, reconstructions: Path | None = None, samples: Path | None = None
    ) -> None:
        """Writes how the trial ended, a page of text about it, and its pictures; a missing picture is left out."""
        self._start(record)
        step = len(record.epochs)
        ended_s = _seconds(record.ended_at) if record.ended_at else time.time()
        values = [_text("trial", trial_text(record, self._objective), f"Trial {record.number}")]
        for tag, path, description in (
            ("reconstructions", reconstructions, "Validation images above their reconstructions."),
            ("samples", samples, "Decoded draws from the prior."),
        ):
            if path is not None and path.exists():
                try:
                    values.append(_image(tag, enlarge(path, PICTURE_WIDTH), description))
                except ValueError as error:
                    _log.warning("%s is left out of TensorBoard: %s", path, error)
        if record.state in _STATUS:
            end = plugin_data_pb2.SessionEndInfo(status=_STATUS[record.state], end_time_secs=ended_s)
            data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
            values.append(_hparams(hparams_metadata.SESSION_END_INFO_TAG, data))
        self._write(_run(record), ended_s, step, values)
        self._close(_run(record))

    def add_tested(self, record: TrialRecord) -> None:
        """Stands in until the writer knows final metrics."""

    def add_figures(self, figures: Sequence[Figure]) -> None:
        """Puts figures of the whole sweep into the run `sweep`."""
        for figure in figures:
            picture, text = shrink(figure.path, FIGURE_WIDTH), f"{figure.title}\n\n{figure.description}"
            self._write(SWEEP_RUN, time.time(), 0, [_image(f"figures/{figure.name}", picture, text)])

    def close(self) -> None:
        """Closes the files of all runs."""
        for run in list(self._files):
            self._close(run)

    def __enter__(self) -> TensorBoardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_epochs(self, record: TrialRecord) -> None:
        self._start(record)
        for epoch in record.epochs:
            self._write(_run(record), _seconds(epoch.recorded_at), epoch.metrics.epoch, self._scalars(epoch.metrics))

    def _start(self, record: TrialRecord) -> None:
        """Writes the trial's parameters, unless its run is there already."""
        run = _run(record)
        if run in self._files or (self._directory / run).exists():
            return
        first = record.started_at or (record.epochs[0].recorded_at if record.epochs else None)
        started_s = _seconds(first) if first else time.time()
        info = plugin_data_pb2.SessionStartInfo(group_name=run, start_time_secs=started_s)
        for name, distribution in self._spec.trial.searched.items():
            value = _hparam_value(getattr(record.config, name), distribution)
            if isinstance(value, bool):
                info.hparams[name].bool_value = value
            elif isinstance(value, str):
                info.hparams[name].string_value = value
            else:
                info.hparams[name].number_value = value
        data = plugin_data_pb2.HParamsPluginData(session_start_info=info)
        self._write(run, started_s, 0, [_hparams(hparams_metadata.SESSION_START_INFO_TAG, data)])

    def _scalars(self, metrics: EpochMetrics) -> list[Summary.Value]:
        values = []
        for name, metric in METRICS.items():
            unit = f" [{metric.unit}]" if metric.unit else ""
            tag = scalar_tag(name, self._objective)
            values.append(_scalar(tag, float(getattr(metrics, name)), f"{metric.meaning}{unit}"))
        return [*values, _scalar(EPOCHS_TAG, float(metrics.epoch), "epochs trained so far")]

    def _write(self, run: str, wall_time_s: float, step: int, values: Sequence[Summary.Value]) -> None:
        with storage_errors(self._directory):
            # `raysweep report` may put a rebuilt directory in the place of this one while the sweep runs.
            if run in self._files and not self._files[run].path.exists():
                self._close(run)
            if run not in self._files:
                self._files[run] = _EventFile(self._directory / run)
            self._files[run].add(Event(wall_time=wall_time_s, step=step, summary=Summary(value=values)))

    def _close(self, run: str) -> None:
        if run in self._files:
            self._files.pop(run).close()


def rebuild(
    directory: SweepDirectory, spec: SweepSpec, records: Sequence[TrialRecord], figures: Sequence[Figure] = ()
) -> None:
    """Writes the whole TensorBoard directory anew and puts it in the place of the old one.

    Raises:
        StorageError: if the file system is full, read-only or gone.
    """
    token = uuid.uuid4().hex[:8]
    # Beside report/, not in it: a TensorBoard that watches report/ would list the unfinished runs.
    fresh, old = (directory.root / f".tensorboard.{token}.{kind}" for kind in ("new", "old"))
    try:
        with storage_errors(directory.tensorboard):
            with TensorBoardWriter(fresh, spec) as writer:
                for record in sorted(records, key=lambda record: record.number):
                    writer._write_epochs(record)
                    if record.state is not TrialState.RUNNING:
                        number = record.number
                        writer.finish_trial(record, directory.reconstructions(number), directory.samples(number))
                writer.add_figures(figures)
            directory.report.mkdir(parents=True, exist_ok=True)
            if directory.tensorboard.exists():
                directory.tensorboard.rename(old)
            # A live writer may make a run again between the two renames; what it wrote there is in the ledger too.
            shutil.rmtree(directory.tensorboard, ignore_errors=True)
            fresh.rename(directory.tensorboard)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def trial_text(record: TrialRecord, objective: str) -> str:
    """A trial on a page of Markdown: how it ended, its parameters, its last metrics."""
    lines = [f"**{record.state}**" + (f": {record.cause}" if record.cause else ""), ""]
    place = ", ".join(part for part in (record.device, record.node) if part)
    lines += [f"{len(record.epochs)} epochs{f' on {place}' if place else ''}", ""]
    lines += ["| parameter | value |", "| --- | --- |"]
    for name, value in record.config.model_dump().items():
        shown = f"{value:.6g}" if isinstance(value, float) else value
        lines.append(f"| {name} | {f'**{shown}**' if name in record.params else shown} |")
    if record.final is not None:
        lines += ["", "| metric | after the last epoch | |", "| --- | --- | --- |"]
        for name, metric in METRICS.items():
            value = getattr(record.final, name)
            shown = f"{value:.6g}" if isinstance(value, float) else value
            lines.append(f"| {f'**{name}**' if name == objective else name} | {shown} | {metric.unit} |")
    if record.error:
        lines += ["", "```", record.error.rstrip(), "```"]
    return "\n".join(lines)


class _EventFile:
    """One file of a run, in TensorBoard's record format; each event is readable as soon as it is added."""

    def __init__(self, run: Path) -> None:
        run.mkdir(parents=True, exist_ok=True)
        token = uuid.uuid4().hex[:8]
        name = f"events.out.tfevents.{time.time_ns() / 1e9:017.6f}.{socket.gethostname()}.{os.getpid()}.{token}"
        self.path = run / name
        self._file: BinaryIO = open(self.path, "ab")  # noqa: SIM115
        source = SourceMetadata(writer="raysweep.report.tensorboard")
        self.add(Event(wall_time=time.time(), file_version="brain.Event:2", source_metadata=source))

    def add(self, event: Event) -> None:
        # A record: length, its masked CRC-32C, the bytes, their masked CRC-32C, all little-endian.
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        crcs = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
        self._file.write(length + next(crcs) + data + next(crcs))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _run(record: TrialRecord) -> str:
    return f"{record.number:04d}"


def _seconds(moment: datetime) -> float:
    """Seconds since 1970; a moment without a time zone is UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _experiment(spec: SweepSpec) -> Summary.Value:
    objective = spec.search.objective.metric
    # The table shows the first five at once: the objective, the epochs, and what explains it before the losses.
    explaining = [name for members in _GROUPS.values() for name in members]
    names = list(dict.fromkeys([objective, *explaining, *METRICS]))
    metrics = [
        api_pb2.MetricInfo(
            name=api_pb2.MetricName(tag=scalar_tag(name, objective)),
            display_name=f"{name} [{METRICS[name].unit}]" if METRICS[name].unit else name,
            description=METRICS[name].meaning,
        )
        for name in names
    ]
    epochs = api_pb2.MetricInfo(name=api_pb2.MetricName(tag=EPOCHS_TAG), display_name="epochs_done")
    experiment = api_pb2.Experiment(
        description=f"raysweep: {spec.name}",
        time_created_secs=time.time(),
        hparam_infos=[_hparam_info(name, distribution) for name, distribution in spec.trial.searched.items()],
        metric_infos=[metrics[0], epochs, *metrics[1:]],
    )
    return _hparams(hparams_metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))


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


def _hparam_value(value: Scalar, distribution: Distribution) -> bool | float | str:
    """The value as a column of the HParams table takes it: a column has one type, and none of them is None."""
    domain = distribution.choices if isinstance(distribution, Choices) else (value,)
    if value is not None and all(isinstance(v, bool) for v in domain):
        return bool(value)
    if value is not None and all(isinstance(v, int | float) and not isinstance(v, bool) for v in domain):
        return float(value)
    return "none" if value is None else str(value)


def _hparams(tag: str, data: Any) -> Summary.Value:
    metadata = hparams_metadata.create_summary_metadata(data)
    return Summary.Value(tag=tag, metadata=metadata, tensor=hparams_metadata.NULL_TENSOR)


def _scalar(tag: str, value: float, description: str) -> Summary.Value:
    metadata = scalar_metadata.create_summary_metadata(display_name="", description=description)
    # A loss that overflows float32, TensorBoard's type, is an infinity there; numpy would warn of the cast.
    stored = value if not math.isfinite(value) or abs(value) < 3.4e38 else math.copysign(math.inf, value)
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor_util.make_tensor_proto(stored))


def _image(tag: str, picture: tuple[bytes, int, int], description: str) -> Summary.Value:
    png, width, height = picture
    metadata = image_metadata.create_summary_metadata(display_name="", description=description)
    tensor = tensor_util.make_tensor_proto([str(width).encode(), str(height).encode(), png])
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _text(tag: str, markdown: str, description: str) -> Summary.Value:
    metadata = text_metadata.create_summary_metadata(display_name="", description=description)
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor_util.make_tensor_proto([markdown.encode()]))
