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
from raysweep.metrics import FINAL_METRICS, FINAL_PREFIX, METRICS, EpochMetrics, FinalMetrics, Metric, TrialState
from raysweep.records import EpochRecord, TrialRecord
from raysweep.report.floors import floor_of
from raysweep.report.images import enlarge, shrink
from raysweep.report.latents import read_latents
from raysweep.report.projector import choose_projected, write_projection
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

LATENTS_DPI = 130
"""Makes a scatter of latents nearly FIGURE_WIDTH wide."""
LATENTS_COLOURS = 64
"""A picture of thousands of points is four times as large in all its colours, and no clearer."""

_GROUPS = {
    "latents": ("rate_nats", "active_units", "collapsed"),
    "reconstruction": ("distortion_nats", "mse", "psnr_db", "r2"),
    "likelihood": ("elbo_nats", "elbo_binary_nats", "bits_per_dim"),
}
"""Tags of metrics that are not the objective; those in no group are `training`."""

TEST_GROUP = "test"
"""Group of the tags of final metrics: `test/kid`."""

_COMPARED = ("iwae_nats", "kid", "coverage", "reconstruction_accuracy", "silhouette")
"""Final metrics that are columns of the HParams table; a trial without them has empty cells there."""

BY_EPOCH_TAG = "reconstructions_by_epoch"
_BY_EPOCH_SAID = "Validation images (step 0), and their reconstructions after each epoch (the slider)."

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
        directory: of the sweep; the trials' pictures are read from it.
        spec: the sweep, whose searched parameters and objective become the columns of the HParams table.
        records: trials of earlier sessions. Those that there is no run of are written now.
        runs: where the runs go, one directory each; the sweep's own place for them if it is not given.
    """

    def __init__(
        self,
        directory: SweepDirectory,
        spec: SweepSpec,
        records: Sequence[TrialRecord] = (),
        runs: Path | None = None,
    ) -> None:
        self._sweep = directory
        self._directory = directory.tensorboard if runs is None else runs
        self._spec = spec
        self._objective = spec.search.objective.metric
        self._files: dict[str, _EventFile] = {}
        if not (self._directory / SWEEP_RUN).exists():
            self._write(SWEEP_RUN, time.time(), 0, [_experiment(spec)])
        for record in records:
            if not (self._directory / _run(record)).exists():
                self._write_whole(record)

    def add_epoch(self, record: TrialRecord) -> None:
        """Writes the scalars of the record's last epoch and its picture if there is one; first the parameters."""
        self._start(record)
        self._write_epoch(record, record.epochs[-1])

    def finish_trial(self, record: TrialRecord) -> None:
        """Writes how the trial ended, a page of text about it, and its pictures; a missing picture is left out."""
        self._start(record)
        step, number = len(record.epochs), record.number
        ended_s = _seconds(record.ended_at) if record.ended_at else time.time()
        values = [_text("trial", trial_text(record, self._objective), f"Trial {number}")]
        values += _pictures(
            ("reconstructions", self._sweep.reconstructions(number), "Validation images above their reconstructions."),
            ("samples", self._sweep.samples(number), "Decoded draws from the prior."),
        )
        if record.state in _STATUS:
            end = plugin_data_pb2.SessionEndInfo(status=_STATUS[record.state], end_time_secs=ended_s)
            data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
            values.append(_hparams(hparams_metadata.SESSION_END_INFO_TAG, data))
        self._write(_run(record), ended_s, step, values)
        self._close(_run(record))

    def add_tested(self, record: TrialRecord) -> None:
        """Writes the trial's final metrics, as scalars and into its page of text, and the pictures made with them.

        For a trial that `finish_trial` was called for. Without final metrics only the pictures are written.
        """
        self._start(record)
        values = self._tested_pictures(record)
        if record.tested is not None:
            values += _tested_scalars(record.tested)
            values.append(_text("trial", trial_text(record, self._objective), f"Trial {record.number}"))
        if values:
            self._write(_run(record), time.time(), len(record.epochs), values)
        self._close(_run(record))

    def add_projections(self, records: Sequence[TrialRecord]) -> None:
        """Puts the latents of the best trials, 5 at most, into TensorBoard's Projector; see report/projector.py."""
        for number in choose_projected(self._sweep, records, self._objective):
            try:
                write_projection(self._directory / f"{number:04d}", self._sweep.latents(number),
                                 self._sweep.sprites(number))  # fmt: skip
            except ValueError as error:
                _log.warning("the latents of trial %d are left out of the Projector: %s", number, error)

    def add_text(self, tag: str, markdown: str) -> None:
        """Puts a page of Markdown about the whole sweep into the run `sweep`."""
        self._write(SWEEP_RUN, time.time(), 0, [_text(tag, markdown, "")])

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

    def _write_whole(self, record: TrialRecord) -> None:
        """Writes all that is known of a trial."""
        self._start(record)
        for epoch in record.epochs:
            self._write_epoch(record, epoch)
        if record.state is not TrialState.RUNNING:
            self.finish_trial(record)
            self.add_tested(record)

    def _write_epoch(self, record: TrialRecord, epoch: EpochRecord) -> None:
        run, at, number = _run(record), _seconds(epoch.recorded_at), epoch.metrics.epoch
        if number == 1:
            inputs = self._sweep.epoch_reconstructions(record.number, 0)
            values = _pictures((BY_EPOCH_TAG, inputs, _BY_EPOCH_SAID))
            if values:
                self._write(run, at, 0, values)
        picture = self._sweep.epoch_reconstructions(record.number, number)
        pictures = _pictures((BY_EPOCH_TAG, picture, _BY_EPOCH_SAID))
        self._write(run, at, number, [*self._scalars(epoch.metrics), *pictures])

    def _tested_pictures(self, record: TrialRecord) -> list[Summary.Value]:
        sweep, number = self._sweep, record.number
        values = _pictures(
            ("interpolations", sweep.interpolations(number), "Each row leads from one test image to another."),
            ("traversals", sweep.traversals(number), "Each row varies one latent; the one with the most KL is first."),
            ("samples_shifted", sweep.shifted_samples(number), "Decoded draws from a shifted Gaussian."),
            ("samples_mixture", sweep.mixture_samples(number), "Decoded draws from a mixture fitted to the latents."),
            (
                "reconstructions_sampled",
                sweep.sampled_reconstructions(number),
                "Test images, their reconstructions, and reconstructions sampled pixel by pixel: a row each.",
            ),
        )
        if sweep.latents(number).exists():
            # Matplotlib takes half a second to import, which a sweep without latents should not pay.
            from raysweep.report.latentplots import draw_latents

            try:
                drawn = draw_latents(read_latents(sweep.latents(number)), record, dpi=LATENTS_DPI)
            except ValueError as error:
                _log.warning("%s is left out of TensorBoard: %s", sweep.latents(number), error)
            else:
                values.append(
                    _image("latents", shrink(drawn.png, FIGURE_WIDTH), f"{drawn.title}\n\n{drawn.description}")
                )
        return values

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
            tag = scalar_tag(name, self._objective)
            values.append(_scalar(tag, float(getattr(metrics, name)), _said(metric)))
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
            ordered = sorted(records, key=lambda record: record.number)
            with TensorBoardWriter(directory, spec, ordered, runs=fresh) as writer:
                writer.add_projections(ordered)
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
    if record.tested is not None:
        lines += ["", *_tested_table(record.tested)]
    if record.error:
        lines += ["", "```", record.error.rstrip(), "```"]
    return "\n".join(lines)


def _tested_table(tested: FinalMetrics) -> list[str]:
    """The final metrics in Markdown, each beside what real images come to."""
    lines = ["| metric | on the test split | real images | |", "| --- | --- | --- | --- |"]
    for name, metric in _tested_metrics():
        value = getattr(tested, name)
        if name.startswith("floor_") or value is None or isinstance(value, tuple):
            continue
        floor = floor_of(tested, name)
        shown = f"{value:.6g}" if isinstance(value, float) else value
        lines.append(f"| {name} | {shown} | {'' if floor is None else f'{floor:.6g}'} | {metric.unit} |")
    return lines


def _tested_scalars(tested: FinalMetrics) -> list[Summary.Value]:
    values = []
    for name, metric in _tested_metrics():
        value = getattr(tested, name)
        if isinstance(value, int | float):
            values.append(_scalar(f"{TEST_GROUP}/{name}", float(value), _said(metric)))
    return values


def _tested_metrics() -> list[tuple[str, Metric]]:
    """Every field of `FinalMetrics` and what it is."""
    return [(name.removeprefix(FINAL_PREFIX), metric) for name, metric in FINAL_METRICS.items()]


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
    metrics = [_column(scalar_tag(name, objective), name, METRICS[name]) for name in names]
    epochs = api_pb2.MetricInfo(name=api_pb2.MetricName(tag=EPOCHS_TAG), display_name="epochs_done")
    tested = []
    if spec.evaluation.finalists != 0:
        tested = [
            _column(f"{TEST_GROUP}/{name}", FINAL_PREFIX + name, FINAL_METRICS[FINAL_PREFIX + name])
            for name in _COMPARED
        ]
    # Where every trial has them they are what one compares by.
    first, last = (tested, []) if spec.evaluation.finalists is None else ([], tested)
    experiment = api_pb2.Experiment(
        description=f"raysweep: {spec.name}",
        time_created_secs=time.time(),
        hparam_infos=[_hparam_info(name, distribution) for name, distribution in spec.trial.searched.items()],
        metric_infos=[metrics[0], epochs, *first, *metrics[1:], *last],
    )
    return _hparams(hparams_metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))


def _column(tag: str, name: str, metric: Metric) -> api_pb2.MetricInfo:
    """A column of the HParams table."""
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


def _said(metric: Metric) -> str:
    return f"{metric.meaning} [{metric.unit}]" if metric.unit else metric.meaning


def _scalar(tag: str, value: float, description: str) -> Summary.Value:
    metadata = scalar_metadata.create_summary_metadata(display_name="", description=description)
    # A loss that overflows float32, TensorBoard's type, is an infinity there; numpy would warn of the cast.
    stored = value if not math.isfinite(value) or abs(value) < 3.4e38 else math.copysign(math.inf, value)
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor_util.make_tensor_proto(stored))


def _pictures(*pictures: tuple[str, Path, str]) -> list[Summary.Value]:
    """Those of the pictures (tag, path, description) that are there, enlarged."""
    values = []
    for tag, path, description in pictures:
        if path.exists():
            try:
                values.append(_image(tag, enlarge(path, PICTURE_WIDTH), description))
            except ValueError as error:
                _log.warning("%s is left out of TensorBoard: %s", path, error)
    return values


def _image(tag: str, picture: tuple[bytes, int, int], description: str) -> Summary.Value:
    png, width, height = picture
    metadata = image_metadata.create_summary_metadata(display_name="", description=description)
    tensor = tensor_util.make_tensor_proto([str(width).encode(), str(height).encode(), png])
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _text(tag: str, markdown: str, description: str) -> Summary.Value:
    metadata = text_metadata.create_summary_metadata(display_name="", description=description)
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor_util.make_tensor_proto([markdown.encode()]))
