"""Checkpoints of a trial in training: one safetensors file per epoch, with the epoch's result inside it.

The file holds the model's and the optimiser's tensors; its header holds the configuration, the epoch's metrics and the
validation losses of all epochs as JSON. Nothing in it can run code. Because state and result are in one file, a trial
that dies between writing its checkpoint and reporting emits the same result again instead of training the epoch twice.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import TypeAdapter

from raysweep.errors import CheckpointError
from raysweep.metrics import Criterion, EpochMetrics
from raysweep.spec.config import TrialConfig
from raysweep.storage.layout import storage_errors
from raysweep.storage.tensorfile import TensorFileError, read_tensors, write_tensors
from raysweep.vae.training import Training

FORMAT = "raysweep-checkpoint-2"
KEEP = 2
_NAME = re.compile(r"epoch-(\d+)\.safetensors")
_METRICS = TypeAdapter(EpochMetrics)
_SHAPE = TypeAdapter(tuple[int, int, int])
_LOSSES = TypeAdapter(tuple[float, ...])
_log = logging.getLogger("raysweep")


class Checkpoint(NamedTuple):
    """The contents of one checkpoint."""

    tensors: dict[str, torch.Tensor]
    config: TrialConfig
    shape: tuple[int, int, int]
    """Of the images: channels, height, width."""
    metrics: EpochMetrics
    val_losses: tuple[float, ...]
    """Of every epoch up to this one."""

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The model's own tensors, by their names in its state."""
        return {k.removeprefix("model."): v for k, v in self.tensors.items() if k.startswith("model.")}


def save_checkpoint(directory: Path, training: Training, metrics: EpochMetrics, best_epoch: int | None = None) -> Path:
    """Write the state after the epoch of `metrics`, whole or not at all, and drop older checkpoints.

    The last two and that of `best_epoch` are kept. A missing `directory` is made, but not its parent: a trial must not
    continue below an empty mount point.

    Raises:
        StorageError: if the file system is full, read-only or gone.
    """
    tensors = {f"model.{name}": value.contiguous() for name, value in training.model.state_dict().items()}
    tensors |= {f"optimizer.{name}": value.contiguous() for name, value in training.optimizer.state().items()}
    header = {
        "format": FORMAT,
        "config": training.config.model_dump(mode="json"),
        "shape": training.train_images.shape,
        "metrics": dataclasses.asdict(metrics),
        "val_losses": training.val_losses,
    }
    path = directory / f"epoch-{metrics.epoch:06d}.safetensors"
    write_tensors(path, tensors, header)
    drop_checkpoints(directory, metrics.epoch, best_epoch)
    return path


def drop_checkpoints(directory: Path, epoch: int, best_epoch: int | None = None) -> None:
    """Drop the checkpoints before that of `epoch`, except the latest of them and the best.

    This is needed after a restore too, because the process that wrote the checkpoint may have died before dropping the
    others.

    Raises:
        StorageError: if the file system is read-only or gone.
    """
    newest, best = (directory / f"epoch-{number:06d}.safetensors" for number in (epoch, best_epoch or 0))
    with storage_errors(directory):
        for old in [path for path in list_checkpoints(directory) if path <= newest][KEEP:]:
            if old != best:
                old.unlink(missing_ok=True)


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints of a trial, the newest first."""
    found = [path for path in directory.glob("epoch-*.safetensors") if _NAME.fullmatch(path.name)]
    return sorted(found, reverse=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: if the file is missing, torn, or not a checkpoint of raysweep.
    """
    try:
        tensors, header = read_tensors(path)
        if header.get("format") != FORMAT:
            raise CheckpointError(f"{path}: is not a checkpoint of this version of raysweep ({FORMAT})")
        checkpoint = Checkpoint(
            tensors,
            TrialConfig.model_validate(header["config"]),
            _SHAPE.validate_python(header["shape"]),
            _METRICS.validate_python(header["metrics"]),
            _LOSSES.validate_python(header["val_losses"]),
        )
        if len(checkpoint.val_losses) != checkpoint.metrics.epoch:
            raise ValueError(f"{len(checkpoint.val_losses)} validation losses of {checkpoint.metrics.epoch} epochs")
        return checkpoint
    except (TensorFileError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: is not a whole checkpoint: {error}") from error


def kept_checkpoint(directory: Path, kept_by: Criterion | None) -> Checkpoint:
    """Return a trial's best whole checkpoint by `kept_by`, or the newest if that is None.

    Of equally good ones it is the later.

    Raises:
        CheckpointError: if no checkpoint is whole.
    """
    best: Checkpoint | None = None
    faults = []
    for path in list_checkpoints(directory):
        try:
            found = read_checkpoint(path)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        if best is None or (kept_by is not None and kept_by.loss(found.metrics) < kept_by.loss(best.metrics)):
            best = found
        if kept_by is None:
            break
    if best is None:
        raise CheckpointError(
            "; ".join(faults) or f"{directory}: holds no checkpoint: it has not trained, or they were taken away"
        )
    return best


def restore_checkpoint(directory: Path, training: Training) -> EpochMetrics | None:
    """Restore `training` from the newest whole checkpoint and return its epoch's result; None if there is none.

    If the newest is torn, an older one is used and the log says so.

    Raises:
        CheckpointError: if a checkpoint belongs to another configuration.
    """
    for path in list_checkpoints(directory):
        try:
            checkpoint = read_checkpoint(path)
        except CheckpointError as error:
            _log.warning("%s; it is passed over", error)
            continue
        if checkpoint.config != training.config or checkpoint.shape != tuple(training.train_images.shape):
            raise CheckpointError(f"{path}: was made by another configuration; move it away to train the trial anew")
        try:
            _load(training, checkpoint.tensors)
        except CheckpointError as error:
            _log.warning("%s: %s; it is passed over", path, error)
            continue
        training.epoch = checkpoint.metrics.epoch
        training.val_losses = list(checkpoint.val_losses)
        return checkpoint.metrics
    return None


def _load(training: Training, tensors: dict[str, torch.Tensor]) -> None:
    """Replace the state of the model and of Adam; change nothing unless every tensor is there and fits."""
    # Parameters, and batch normalisation's running statistics and its count of steps, which is not a float.
    model_state: dict[str, torch.Tensor] = training.model.state_dict()
    wanted = {f"model.{name}": (value.shape, value.dtype) for name, value in model_state.items()}
    wanted |= {f"optimizer.{name}": (value.shape, value.dtype) for name, value in training.optimizer.state().items()}
    found = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    if found != wanted:
        odd = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
        raise CheckpointError(f"tensors are missing, or are not of this model: {', '.join(odd[:4])}")
    with torch.no_grad():
        for name, value in model_state.items():
            value.copy_(tensors[f"model.{name}"])
    training.optimizer.load({k.removeprefix("optimizer."): v for k, v in tensors.items() if k.startswith("optimizer.")})
