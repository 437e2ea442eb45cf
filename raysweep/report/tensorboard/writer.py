"""A sweep in TensorBoard, written live: a run per trial with scalars, pictures and its place in the HParams table.

It uses only the protocol buffers of the `tensorboard` package. The run `sweep` has what concerns all trials.
"""

from __future__ import annotations

import logging
import shutil
import time
import uuid
from bisect import insort
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from raysweep.clock import timed
from raysweep.metrics import METRICS, EpochMetrics, FinalMetrics, Metric, TrialState
from raysweep.profiles import DriverPart
from raysweep.records import EpochRecord, TrialRecord, rank_alone
from raysweep.report.images import enlarge, shrink
from raysweep.report.latents import read_latents
from raysweep.report.tensorboard.events import EventFile, image, scalar, text
from raysweep.report.tensorboard.hparams import (
    EPOCHS_TAG,
    STATUS,
    TEST_GROUP,
    experiment,
    objective_tag,
    scalar_tag,
    session_end,
    session_start,
)
from raysweep.report.tensorboard.projector import choose_projected, write_projector
from raysweep.report.tensorboard.trialpage import tested_metrics, trial_text
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory, storage_errors

if TYPE_CHECKING:
    from raysweep.report.figures.gallery import Figure

_log = logging.getLogger("raysweep")

FIGURE_WIDTH = 700
"""In pixels. Under Images, TensorBoard shows a picture 350 pixels wide without smoothing, so every second pixel is
left; letters in a wider picture lose their strokes."""
MOST_RUNS = 500
"""Limit for runs of ended trials: with more, TensorBoard gets slow, and its list of runs too long to read."""
SWEEP_RUN = "sweep"
"""The run that holds what concerns all trials."""

PICTURE_WIDTH = 1100
"""Approximate, in pixels: grids of 32 x 32 images are too small to judge at their own size."""

LATENTS_DPI = 110
"""Makes a scatter of latents about FIGURE_WIDTH wide."""
LATENTS_COLOURS = 64
"""With all its colours, a picture of thousands of points has four times the bytes and is no clearer."""

_FIGURE_GROUPS = {"latent_kl": "latents", "latents": "latents"}
"""Figures that are not in the group `figures`, because they would be the first by name there."""

FINDINGS_TAG, PROFILE_TAG = "findings", "profile"
BY_EPOCH_TAG = "reconstructions_by_epoch"
_BY_EPOCH_SAID = "Validation images (step 0), and their reconstructions after each epoch (the slider)."


class TensorBoardWriter:
    """Writer of a sweep's TensorBoard directory while the sweep runs; what it writes is visible at once.

    Args:
        directory: the sweep's directory; the trials' pictures are read from it.
        spec: the sweep, whose searched parameters and objective become the columns of the HParams table.
        records: trials of earlier sessions. Those without a run are written now.
        runs: where the runs go, one directory each; if not given, the sweep's own place for them.
    """

    @timed(DriverPart.TENSORBOARD)
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
        self._files: dict[str, EventFile] = {}
        self._kept: list[tuple[tuple[bool, float, int], str]] = []
        """Runs of trials that have ended or are paused, the best first."""
        self._paused: set[int] = set()
        """Trials whose runs say that they are paused."""
        with storage_errors(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
        if not (self._directory / SWEEP_RUN).exists():
            self._write(SWEEP_RUN, time.time(), 0, [experiment(spec)])
        self._paused.update(record.number for record in records if record.state is TrialState.PAUSED)
        for record in sorted(records, key=lambda record: rank_alone(record, self._objective)):
            if (self._directory / _run(record)).exists():
                if self._may_go(record):
                    self._keep_the_best(record)
            elif len(self._kept) < MOST_RUNS or not self._may_go(record):
                self._write_whole(record)

    @timed(DriverPart.TENSORBOARD)
    def add_epoch(self, record: TrialRecord) -> None:
        """Write the scalars and any picture of the record's last epoch; in a new run, the parameters first."""
        if record.number in self._paused:
            self._take_up(record)
        self._start(record)
        self._write_epoch(record, record.epochs[-1])

    @timed(DriverPart.TENSORBOARD)
    def finish_trial(self, record: TrialRecord) -> None:
        """Write how the trial ended, a page of text about it, and its pictures; leave out missing ones.

        If the trial was paused, `pause_trial` has already written the pictures.
        """
        self._start(record)
        values = self._page(record)
        if record.number not in self._paused:
            values += self._trial_pictures(record)
        if record.state in STATUS:
            values.append(session_end(record.state, _ended_s(record)))
        self._put_away(record, values)

    @timed(DriverPart.TENSORBOARD)
    def pause_trial(self, record: TrialRecord) -> None:
        """Write the page and the pictures of a trial that was paused, as for one that ended."""
        self._start(record)
        self._put_away(record, [*self._page(record), *self._trial_pictures(record)])
        self._paused.add(record.number)

    def _put_away(self, record: TrialRecord, values: Sequence[Summary.Value]) -> None:
        """Write a trial's last values for now, and close its file."""
        self._write(_run(record), _ended_s(record), len(record.epochs), values)
        self._close(_run(record))
        if self._may_go(record):
            self._keep_the_best(record)

    def _page(self, record: TrialRecord) -> list[Summary.Value]:
        return [text("trial", trial_text(record, self._objective), f"Trial {record.number}")]

    def _trial_pictures(self, record: TrialRecord) -> list[Summary.Value]:
        number = record.number
        return _pictures(
            ("reconstructions", self._sweep.reconstructions(number), "Validation images above their reconstructions."),
            ("samples", self._sweep.samples(number), "Decoded draws from the prior."),
        )

    @timed(DriverPart.TENSORBOARD)
    def add_tested(self, record: TrialRecord) -> None:
        """Write the trial's final metrics, as scalars and on its page, and the pictures made with them.

        Call `finish_trial` for the trial first. Without final metrics only the pictures are written.
        """
        self._start(record)
        page = text("trial", trial_text(record, self._objective), f"Trial {record.number}")
        self._write_tested(record, [page] if record.tested else [])

    @timed(DriverPart.TENSORBOARD)
    def add_projections(self, records: Sequence[TrialRecord]) -> None:
        """Put the latents of the best trials, 5 at most, into TensorBoard's Projector; see projector.py."""
        write_projector(self._directory / SWEEP_RUN, choose_projected(self._sweep, records, self._objective))

    @timed(DriverPart.TENSORBOARD)
    def add_text(self, tag: str, markdown: str) -> None:
        """Put a page of Markdown about the whole sweep into the run `sweep`."""
        self._write(SWEEP_RUN, time.time(), 0, [text(tag, markdown, "")])

    @timed(DriverPart.TENSORBOARD)
    def add_figures(self, figures: Sequence[Figure]) -> None:
        """Put figures of the whole sweep into the run `sweep`."""
        for figure in figures:
            said = f"{figure.title}\n\n{figure.description}"
            picture = shrink(figure.path, FIGURE_WIDTH)
            tag = f"{_FIGURE_GROUPS.get(figure.name, 'figures')}/{figure.name}"
            self._write(SWEEP_RUN, time.time(), 0, [image(tag, picture, said)])

    def close(self) -> None:
        """Close the files of all runs."""
        for run in list(self._files):
            self._close(run)

    def __enter__(self) -> TensorBoardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _may_go(record: TrialRecord) -> bool:
        """Return whether the trial's run may be deleted if there are too many.

        It stays (a) while the trial trains, and (b) if the search space file gave its point.
        """
        return record.state is not TrialState.RUNNING and not record.enqueued

    def _keep_the_best(self, record: TrialRecord) -> None:
        """Add a trial to the kept runs; if there are more than `MOST_RUNS`, delete the worst run."""
        place = (rank_alone(record, self._objective), _run(record))
        if place not in self._kept:
            insort(self._kept, place)
        if len(self._kept) > MOST_RUNS:
            _, worst = self._kept.pop()
            with storage_errors(self._directory):
                shutil.rmtree(self._directory / worst)

    def _take_up(self, record: TrialRecord) -> None:
        """Complete the run of a paused trial that trained one more epoch: the run may have been deleted."""
        self._paused.discard(record.number)
        self._kept = [kept for kept in self._kept if kept[1] != _run(record)]
        if not (self._directory / _run(record)).exists():
            self._start(record)
            for epoch in record.epochs[:-1]:
                self._write_epoch(record, epoch)

    def _write_whole(self, record: TrialRecord) -> None:
        """Write all that is known about a trial."""
        self._start(record)
        for epoch in record.epochs:
            self._write_epoch(record, epoch)
        if record.state is TrialState.PAUSED:
            self.pause_trial(record)
        elif record.state is not TrialState.RUNNING:
            self.finish_trial(record)
            self._write_tested(record, [])

    def _write_epoch(self, record: TrialRecord, epoch: EpochRecord) -> None:
        run, at, number = _run(record), _seconds(epoch.recorded_at), int(epoch.value("epoch"))
        if number == 1:
            inputs = self._sweep.epoch_reconstructions(record.number, 0)
            values = _pictures((BY_EPOCH_TAG, inputs, _BY_EPOCH_SAID))
            if values:
                self._write(run, at, 0, values)
        picture = self._sweep.epoch_reconstructions(record.number, number)
        pictures = _pictures((BY_EPOCH_TAG, picture, _BY_EPOCH_SAID))
        self._write(run, at, number, [*self._scalars(epoch.metrics), *pictures])

    def _write_tested(self, record: TrialRecord, more: list[Summary.Value]) -> None:
        values = [*more, *self._tested_pictures(record)]
        if record.tested is not None:
            values += _tested_scalars(record.tested)
        if values:
            self._write(_run(record), _ended_s(record), len(record.epochs), values)
        self._close(_run(record))

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
            from raysweep.report.figures.scatter import draw_latents

            try:
                drawn = draw_latents(read_latents(sweep.latents(number)), record, dpi=LATENTS_DPI)
            except ValueError as error:
                _log.warning("%s is left out of TensorBoard: %s", sweep.latents(number), error)
            else:
                picture = shrink(drawn.png, FIGURE_WIDTH, LATENTS_COLOURS)
                values.append(image("latents", picture, f"{drawn.title}\n\n{drawn.description}"))
        return values

    def _start(self, record: TrialRecord) -> None:
        """Write the trial's parameters, unless its run exists already."""
        run = _run(record)
        if run in self._files or (self._directory / run).exists():
            return
        first = record.started_at or (record.epochs[0].recorded_at if record.epochs else None)
        started_s = _seconds(first) if first else time.time()
        self._write(run, started_s, 0, [session_start(record, self._spec, started_s)])

    def _scalars(self, metrics: EpochMetrics) -> list[Summary.Value]:
        values = []
        for name, metric in METRICS.items():
            tags = [scalar_tag(name), *([objective_tag(name)] if name == self._objective else [])]
            values += [scalar(tag, float(getattr(metrics, name)), _said(metric)) for tag in tags]
        return [*values, scalar(EPOCHS_TAG, float(metrics.epoch), "epochs trained so far")]

    def _write(self, run: str, wall_time_s: float, step: int, values: Sequence[Summary.Value]) -> None:
        with storage_errors(self._directory):
            # `raysweep report` may replace this directory with a rebuilt one while the sweep runs.
            if run in self._files and not self._files[run].path.exists():
                self._close(run)
            if run not in self._files:
                self._files[run] = EventFile(self._directory / run)
            self._files[run].add(Event(wall_time=wall_time_s, step=step, summary=Summary(value=values)))

    def _close(self, run: str) -> None:
        if run in self._files:
            self._files.pop(run).close()


@timed(DriverPart.TENSORBOARD)
def rebuild(
    directory: SweepDirectory,
    spec: SweepSpec,
    records: Sequence[TrialRecord],
    figures: Sequence[Figure] = (),
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write the whole TensorBoard directory again and replace the old one.

    `texts` are pages of Markdown about the whole sweep, by tag.

    Raises:
        StorageError: if the file system is full, read-only or gone.
    """
    token = uuid.uuid4().hex[:8]
    # Outside report/, because a TensorBoard that watches report/ would list the unfinished runs.
    fresh, old = (directory.root / f".tensorboard.{token}.{kind}" for kind in ("new", "old"))
    try:
        with storage_errors(directory.tensorboard):
            ordered = sorted(records, key=lambda record: record.number)
            with TensorBoardWriter(directory, spec, ordered, runs=fresh) as writer:
                writer.add_projections(ordered)
                writer.add_figures(figures)
                for tag, markdown in (texts or {}).items():
                    writer.add_text(tag, markdown)
            directory.report.mkdir(parents=True, exist_ok=True)
            if directory.tensorboard.exists():
                directory.tensorboard.rename(old)
            # A live writer may create a run between the two renames. What it wrote there is also in the ledger.
            shutil.rmtree(directory.tensorboard, ignore_errors=True)
            fresh.rename(directory.tensorboard)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _run(record: TrialRecord) -> str:
    return f"{record.number:04d}"


def _ended_s(record: TrialRecord) -> float:
    """Return when the trial ended, or now, in seconds since 1970."""
    return _seconds(record.ended_at) if record.ended_at else time.time()


def _seconds(moment: datetime) -> float:
    """Return seconds since 1970; a moment without a time zone is UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _pictures(*pictures: tuple[str, Path, str]) -> list[Summary.Value]:
    """Return the pictures (tag, path, description) that exist, enlarged."""
    values = []
    for tag, path, description in pictures:
        if path.exists():
            try:
                values.append(image(tag, enlarge(path, PICTURE_WIDTH), description))
            except ValueError as error:
                _log.warning("%s is left out of TensorBoard: %s", path, error)
    return values


def _tested_scalars(tested: FinalMetrics) -> list[Summary.Value]:
    values = []
    for name, metric in tested_metrics():
        value = getattr(tested, name)
        if isinstance(value, int | float):
            values.append(scalar(f"{TEST_GROUP}/{name}", float(value), _said(metric)))
    return values


def _said(metric: Metric) -> str:
    return f"{metric.meaning} [{metric.unit}]" if metric.unit else metric.meaning
