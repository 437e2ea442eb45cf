"""Images for a trained model, read from files and prepared exactly as the images it was trained on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from raysweep.data.decoding import Spans
from raysweep.data.folder import read_image
from raysweep.data.images import Fitting
from raysweep.data.survey import image_files
from raysweep.errors import DataUnavailable, ModelInputError
from raysweep.spec.sections import DataSpec
from raysweep.storage.home import expanded
from raysweep.storage.remote import local_path, to_copy
from raysweep.vae.trained import TrainedVAE
from raysweep.worker.pictures import seen_by_the_encoder

PathLike = str | os.PathLike[str]


def read_images(path: PathLike | Iterable[PathLike], model: TrainedVAE, *, fit: str | None = None) -> Tensor:
    """Read image files as a batch for `model`, prepared as its training images were.

    An image is turned upright by its EXIF orientation, made grey or colour, brought to the model's size as the sweep's
    `data.fit` says, and binarised if the model was trained on binarised images.

    Args:
        path: an image file, a folder (all images below it, sorted by path), or several files.
        model: what `raysweep.load_model` returned.
        fit: how images get to the model's size, instead of what the model says; for an export that does not say it.

    Returns [images, channels, height, width], float32 in [0, 1], on the model's device.

    Raises:
        ArgumentError: if a path is the address of a bucket.
        DataError: if a file is missing or cannot be decoded.
        ModelInputError: if the model does not say how its images were prepared, and `fit` is not given.
    """
    fitting, spans = _fitting(model, fit), _spans(model)
    if isinstance(path, str | os.PathLike):
        given = _file(path)
        if not given.exists():
            raise DataUnavailable(f"{given}: there is no such file or directory")
        files = image_files(given) if given.is_dir() else [given]
    else:
        files = [_file(one) for one in path]
        if not files:
            raise DataUnavailable("path: is an empty list; name at least one image")
    pixels = torch.from_numpy(np.stack([read_image(file, fitting, spans) for file in files]))
    images = pixels.to(model.posterior.weight.device).to(torch.float32).mul_(1 / 255)
    return seen_by_the_encoder(images, model.config)


def _file(path: PathLike) -> Path:
    purpose = "images are read from files of this machine"
    return expanded(local_path(path, purpose, to_copy(os.fspath(path), "images")))


def _fitting(model: TrainedVAE, fit: str | None) -> Fitting:
    """Return how the model's training images were brought to one size and number of channels."""
    if not isinstance(model, TrainedVAE):
        raise ModelInputError(f"model: must be what raysweep.load_model returned, got {type(model).__name__}")
    channels, height, width = model.shape
    section = dict(model.images or {})
    if fit is not None:
        section["fit"] = fit
    if "fit" not in section:
        raise ModelInputError(
            "model: its model.json does not say how its images were prepared (origin.data.fit); export the trial "
            'again, or say it yourself: read_images(path, model, fit="resize")'
        )
    if height != width:
        raise ModelInputError(f"model: takes {height}x{width} pixels; read_images prepares square images alone")
    colours: Literal[1, 3] = 1 if channels == 1 else 3
    wanted = {"dataset": "folder", "root": ".", "image_size": height, "channels": colours, "fit": section["fit"]}
    try:
        spec = DataSpec.model_validate(wanted)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        place = ".".join(map(str, detail["loc"]))
        raise ModelInputError(f"{place}: {detail['msg']}, got {detail['input']!r}") from None
    return Fitting(spec.image_size, colours, spec.fit)


def _spans(model: TrainedVAE) -> Spans | None:
    """Return the values by which training images of more than 8 bits were scaled; None without such images."""
    raw = (model.images or {}).get("spans")
    if raw is None:
        return None
    try:
        return Spans.from_lists(raw)
    except ValueError as error:
        raise ModelInputError(f"model: its model.json is damaged (origin.data.spans): {error}") from None
