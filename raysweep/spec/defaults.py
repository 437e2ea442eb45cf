"""The search space of a file without a `trial:` section, and how long its trials train on few images.

A model needs steps, not epochs: 300 images in batches of 64 are four steps an epoch, and 40 steps leave a grey blur. So
batch size, epochs and the first rung of such a file follow the number of training images. A file with a `trial:`
section means the same for any images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from raysweep.spec.sections import MAX_GRID, DataSpec, SweepSpec
from raysweep.spec.space import TrialSpace
from raysweep.wording import counted

STEPS = 1260
"""Training steps of a trial of search_spaces/kld.yaml: 63 an epoch, 20 epochs. After them its models are good."""
FIRST_RUNG_STEPS = 315
"""Steps after which early stopping first compares trials of kld.yaml: epoch 5 (docs/design.md says why)."""
FEWEST_EPOCHS = 10
"""Fewest epochs for any number of images: early stopping needs several to choose by."""
BATCH_SIZES = (64, 32, 16, 8)
FEWEST_STEPS_AN_EPOCH = 15
"""Batches shrink until an epoch has this many steps, because validation and a checkpoint follow each epoch."""

_EPOCHS_OF_KLD = 20


def with_default_sections(raw: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fill in the defaults of a file without `trial:`; return its sections and the unsized keys.

    Unsized keys depend on the number of training images (`sized`). Faulty sections stay as they are: validation, which
    comes next, reports them.
    """
    data, search = raw.get("data"), {} if raw.get("search") is None else raw["search"]
    image_size = data.get("image_size") if isinstance(data, Mapping) else None
    if not isinstance(image_size, int) or not 8 <= image_size <= 1024:
        image_size = DataSpec.model_fields["image_size"].default
    trial = default_trial(image_size)
    if not isinstance(search, Mapping):
        return {**raw, "trial": trial}, ()
    search = {"enqueue": default_enqueue(image_size), "early_stopping": {"asha": {}}, **search}
    stopping = search["early_stopping"]
    found = stopping.get("asha") if isinstance(stopping, Mapping) else None
    asha = dict(found) if isinstance(found, Mapping) else {}
    unsized = ["batch_size"]
    if asha.get("max_epochs") is None:
        grace = asha.get("grace_epochs")
        trial["epochs"] = max(_EPOCHS_OF_KLD, grace) if isinstance(grace, int) else _EPOCHS_OF_KLD
        unsized.append("epochs")
    if "grace_epochs" not in asha and isinstance(found, Mapping):
        epochs = trial.get("epochs", asha.get("max_epochs"))
        asha["grace_epochs"] = grace_epochs_for(epochs) if isinstance(epochs, int) else 1
        search["early_stopping"] = {**stopping, "asha": asha}
        unsized.append("grace_epochs")
    return {**raw, "trial": trial, "search": search}, tuple(unsized)


def default_trial(image_size: int) -> dict[str, Any]:
    """Return the `trial:` section of a file that has none.

    In the convention `pixel_mean` the KLD weight is 2 sigma² / pixels for a Gaussian likelihood of standard deviation
    sigma, so good weights scale with 1 / pixels. The range covers sigma from 0.02 to 0.7.
    """
    pixels = image_size**2
    return {
        "kld_weight": {"low": _round(1e-3 / pixels), "high": _round(1.0 / pixels), "log": True},
        "learning_rate": {"low": 5e-4, "high": 5e-3, "log": True},
        "latent_size": {"choices": [8, 16, 32, 64]},
    }


def default_enqueue(image_size: int) -> list[dict[str, Any]]:
    """Return the point that runs first: sigma 0.1, and values that work for most images."""
    return [{"kld_weight": _round(2e-2 / image_size**2), "learning_rate": 1e-3, "latent_size": 16}]


def steps_an_epoch(train_images: int, batch_size: float) -> int:
    """Return the steps of one epoch; its last batch may be smaller than the others."""
    return max(1, math.ceil(train_images / batch_size))


def batch_size_for(train_images: int) -> int:
    """Return the largest batch size that gives `FEWEST_STEPS_AN_EPOCH` steps; the smallest one if none does."""
    enough = [size for size in BATCH_SIZES if steps_an_epoch(train_images, size) >= FEWEST_STEPS_AN_EPOCH]
    return max(enough, default=min(BATCH_SIZES))


def epochs_for(train_images: int, batch_size: float) -> int:
    """Return the epochs that give a trial as many steps as one of kld.yaml; at least `FEWEST_EPOCHS`."""
    return max(FEWEST_EPOCHS, math.ceil(STEPS / steps_an_epoch(train_images, batch_size)))


def grace_epochs_for(epochs: int) -> int:
    """Return the first rung: after a quarter of the epochs, as in kld.yaml."""
    return max(1, epochs // 4)


def sized(spec: SweepSpec, train_images: int) -> SweepSpec:
    """Return the specification with its unsized keys set from the number of training images; explicit values stay."""
    if not spec.unsized:
        return spec
    constants = dict(spec.trial.constants)
    if "batch_size" in spec.unsized:
        constants["batch_size"] = batch_size_for(train_images)
    given = spec.asha.grace_epochs if spec.asha and "grace_epochs" not in spec.unsized else 1
    if "epochs" in spec.unsized:
        batch_size = TrialSpace(constants, spec.trial.searched).ends("batch_size")[1]
        constants["epochs"] = max(given, epochs_for(train_images, batch_size))
    return _with(spec, constants, grace_epochs_for(int(TrialSpace(constants, {}).ends("epochs")[1])))


def sized_like(spec: SweepSpec, other: SweepSpec) -> SweepSpec:
    """Return the specification with its unsized keys set as in an earlier sweep."""
    constants = dict(spec.trial.constants)
    for name in ("batch_size", "epochs"):
        if name in spec.unsized and name not in other.trial.searched:
            constants[name] = other.trial.choices(name)[0]
    return _with(spec, constants, other.asha.grace_epochs if other.asha else None)


def settled(spec: SweepSpec) -> SweepSpec:
    """Return the specification with the sampler that `auto` takes, and why; a sampler that is named stays.

    A grid has no more trials than points, because training the same point again gives the same result. A space of one
    point is not a grid: it gets all the trials that the file asks for.
    """
    search, space = spec.search, spec.trial
    if search.sampler != "auto":
        return spec
    taken: dict[str, Any] = {"sampler": "gp"}
    reason = "it learns from curves; the space has more points than trials"
    if all(space.is_finite(name) for name in space.searched):
        points, enqueued = space.grid_size(), len(search.enqueue)
        if points == 1:
            reason = "the space has one point"
        elif points <= MAX_GRID and points + enqueued <= spec.trials:
            taken = {"sampler": "grid", "trials": points + enqueued}
            reason = f"{counted(spec.trials, 'trial')} are enough for all {points} points"
    return spec.model_copy(update={"search": search.model_copy(update=taken), "sampler_reason": reason})


def settled_like(spec: SweepSpec, other: SweepSpec) -> SweepSpec:
    """Return the specification with the sampler of an earlier sweep, if its file leaves it to raysweep."""
    if not spec.sampler_reason:
        return spec
    search = spec.search.model_copy(update={"sampler": other.search.sampler})
    if search.sampler == "grid":
        search = search.model_copy(update={"trials": min(spec.trials, spec.trial.grid_size() + len(search.enqueue))})
    return spec.model_copy(update={"search": search, "sampler_reason": ""})


def _with(spec: SweepSpec, constants: dict[str, Any], grace_epochs: int | None) -> SweepSpec:
    search = spec.search
    if "grace_epochs" in spec.unsized and search.early_stopping is not None and grace_epochs is not None:
        asha = search.early_stopping.asha.model_copy(update={"grace_epochs": grace_epochs})
        search = search.model_copy(update={"early_stopping": search.early_stopping.model_copy(update={"asha": asha})})
    space = TrialSpace(constants, spec.trial.searched)
    return spec.model_copy(update={"trial": space, "search": search, "unsized": ()})


def _round(number: float) -> float:
    return float(f"{number:.1g}")
