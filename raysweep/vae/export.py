"""Export of a trained model to a folder that does not need the sweep it came from."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import torch

from raysweep.errors import CheckpointError, StorageError
from raysweep.metrics import Criterion
from raysweep.spec.config import TrialConfig
from raysweep.storage.layout import read_bounded, write_atomically
from raysweep.storage.remote import local_path, to_copy
from raysweep.storage.tensorfile import TensorFileError, read_tensors, write_tensors
from raysweep.vae.checkpoint import kept_checkpoint
from raysweep.vae.trained import TrainedVAE

_log = logging.getLogger("raysweep")

FORMAT = "raysweep-model-1"
WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
MAX_DESCRIPTION_BYTES = 1 << 20

_README = """# {title}

A convolutional VAE of {shape[0]}x{shape[1]}x{shape[2]} images, {latent_size} latents, {epoch} epochs of training.

    import raysweep
    model = raysweep.load_model({folder!r})    # or wherever you have moved this folder

    x = raysweep.read_images("photo.png", model)            # a file, a folder or a list, prepared as in training
    mean, logvar = model.encode(x)                          # of q(z|x), [batch, {latent_size}]
    images = model.decode(mean)                             # [batch, {shape[0]}, {shape[1]}, {shape[2]}] in [0, 1]
    images = model.interpolate(x[0], images[0], steps=8)    # on the line between two images' latents
    images = model.sample(16, seed=0)                       # decoded from draws of the prior

{binarised}Images are floating point in [0, 1], [batch, channels, height, width]; other shapes and ranges are refused.
`model.json` has the configuration, where it comes from, and its metrics on the validation images:

{metrics}
"""

_BINARISED = """It was trained on binarised images: give it an x of 0 and 1, such as `(x >= 0.5).float()`. `read_images`
does it.

"""


def export_model(checkpoints: Path, out: Path, origin: dict[str, Any], kept_by: Criterion | None = None) -> Path:
    """Write the best checkpoint by `kept_by`, or the newest, below `checkpoints` as a model folder at `out`.

    `origin` says where the model comes from; it is written into model.json. Its `data` is the `data:` section, by which
    `raysweep.read_images` prepares images.

    Raises:
        CheckpointError: if no checkpoint is whole, or `out` is a file or not empty.
        StorageError: if `out` cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: is not empty; name a folder that does not exist yet")
    checkpoint = kept_checkpoint(checkpoints, kept_by)
    metrics = dataclasses.asdict(checkpoint.metrics)
    description = {
        "format": FORMAT,
        "shape": checkpoint.shape,
        "config": checkpoint.config.model_dump(mode="json"),
        "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
        "origin": origin,
    }
    readme = _README.format(
        title=f"Sweep {origin.get('sweep')}, trial {origin.get('trial')}",
        shape=checkpoint.shape,
        latent_size=checkpoint.config.latent_size,
        epoch=checkpoint.metrics.epoch,
        binarised="" if checkpoint.config.binarise == "none" else _BINARISED,
        folder=str(out.absolute()),
        metrics="\n".join(f"    {name} {value}" for name, value in metrics.items()),
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "README.md", readme.encode())
        write_tensors(out / WEIGHTS, {name: value.contiguous() for name, value in checkpoint.weights.items()})
        write_atomically(out / DESCRIPTION, (json.dumps(description, indent=2) + "\n").encode())
    except OSError as error:
        raise StorageError(f"{out}: cannot be written: {error.strerror}") from error
    return out


def load_model(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> TrainedVAE:
    """Load the model that `raysweep export` wrote, ready to encode, decode, reconstruct, interpolate and sample.

    Raises:
        ArgumentError: if `folder` is the address of a bucket.
        CheckpointError: if the folder holds no model, or a damaged one.
    """
    root = local_path(folder, "a model is read from a folder of this machine", to_copy(os.fspath(folder), "model"))
    try:
        description = json.loads(read_bounded(root / DESCRIPTION, MAX_DESCRIPTION_BYTES))
        if description["format"] != FORMAT:
            raise CheckpointError(f"{root}: is a model of another version: {description['format']}, not {FORMAT}")
        config = TrialConfig.model_validate(description["config"])
        channels, height, width = description["shape"]
        with torch.device("meta"):  # take no memory and draw no weights before the file's are known to fit
            model: TrainedVAE = TrainedVAE.from_config(config, (channels, height, width))
        tensors, _ = read_tensors(root / WEIGHTS)
        for name, value in model.state_dict().items():
            if name in tensors and tensors[name].dtype != value.dtype:  # assign=True would adopt it
                raise ValueError(f"{name} is {tensors[name].dtype}, not {value.dtype}")
        model.load_state_dict(tensors, assign=True)
        origin = description.get("origin")
        model.config, model.origin = config, origin if isinstance(origin, dict) else {}
        images = model.origin.get("data")
        model.images = images if isinstance(images, dict) else None
        if "fit" not in (model.images or {}):
            _log.warning(
                "%s: does not say how its images were prepared (origin.data in model.json), which raysweep.read_images "
                "then has to be told: fit=...; exporting the trial again writes it", root,
            )  # fmt: skip
    except (
        TensorFileError, OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"{root}: holds no model that can be read ({error}); raysweep export DIR OUT makes one"
        ) from error
    return model.to(device).eval()
