"""Checkpoints of a trial in training: one safetensors file an epoch, with the epoch's result inside it.

The file holds the model's and the optimiser's tensors; its header holds the configuration, the epoch and the epoch's
metrics as JSON. Nothing in it can run code. Because the result travels with the state that follows from it, a trial
that dies between writing its checkpoint and reporting emits the same result again instead of training the epoch twice.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from raysweep.config import TrialConfig
from raysweep.errors import CheckpointError
from raysweep.layout import write_atomically
from raysweep.metrics import EpochMetrics
from raysweep.vae.training import Training

FORMAT = "raysweep-checkpoint-1"
KEEP = 2
_NAME = re.compile(r"epoch-(\d+)\.safetensors")
_log = logging.getLogger("raysweep")


def save_checkpoint(directory: Path, training: Training, metrics: EpochMetrics) -> Path:
    """Writes the state after the epoch that `metrics` is of, whole or not at all, and drops all but the last two.

    Raises:
        StorageError: if the file system is full, read-only or gone.
    """
    tensors = {f"model.{name}": value.contiguous() for name, value in training.model.state_dict().items()}
    for index, state in training.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value.contiguous() for key, value in state.items()}
    header = {
        "format": FORMAT,
        "config": training.config.model_dump(mode="json"),
        "shape": training.train_images.shape,
        "metrics": dataclasses.asdict(metrics),
    }
    path = directory / f"epoch-{metrics.epoch:06d}.safetensors"
    write_atomically(path, save(tensors, metadata={"raysweep": json.dumps(header)}))
    for old in list_checkpoints(directory)[KEEP:]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of a trial, the newest first."""
    found = [path for path in directory.glob("epoch-*.safetensors") if _NAME.fullmatch(path.name)]
    return sorted(found, reverse=True)


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the header of a checkpoint.

    Raises:
        CheckpointError: if the file is missing, torn, or no checkpoint of raysweep.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("raysweep", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a handle, not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: is not a whole checkpoint: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not a checkpoint of this version of raysweep ({FORMAT})")
    return tensors, header


def restore_checkpoint(directory: Path, training: Training) -> EpochMetrics | None:
    """Brings `training` to the newest whole checkpoint and returns the result of its epoch; None if there is none.

    Falls back to the older one where the newest is torn, and says so in the log.

    Raises:
        CheckpointError: if a checkpoint belongs to another configuration.
    """
    for path in list_checkpoints(directory):
        try:
            tensors, header = read_checkpoint(path)
            config = TrialConfig.model_validate(header["config"])
            metrics = EpochMetrics(**header["metrics"])
        except (CheckpointError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s is passed over: %s", path, error)
            continue
        if config != training.config or tuple(header["shape"]) != training.train_images.shape:
            raise CheckpointError(f"{path}: was made by another configuration; move it away to train the trial anew")
        _load(training, tensors)
        training.epoch = metrics.epoch
        return metrics
    return None


def _load(training: Training, tensors: dict[str, torch.Tensor]) -> None:
    training.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
    training.optimizer.load_state_dict({**training.optimizer.state_dict(), "state": state})
