"""Room on the disk: what a sweep may come to take, and whether there is so much before it starts.

It is a warning and no refusal. What is computed is the most that any trials of the space could take; most sweeps take
much less, early stopping among the reasons, and one that does fill the disk stops with one message and goes on when
there is room.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from raysweep.layout import shown
from raysweep.space import Choices, TrialSpace
from raysweep.spec import SweepSpec

PICTURES_BYTES = 1 << 20
"""Of one trial: a few grids, and a row of reconstructions now and then."""
_SIZES = ("d_size", "latent_size", "hidden_size", "kernel_size")
_ADAM = 3
"""A weight and its two moments."""


def needed_bytes(spec: SweepSpec, shape: tuple[int, int, int], trials: int, concurrent: int) -> int:
    """The most that so many trials of a specification can take in the sweep directory.

    Args:
        shape: of the images: channels, height, width.
        concurrent: trials at once, each of which writes one checkpoint before it drops another.
    """
    from raysweep.vae.checkpoint import KEEP

    checkpoint = _largest_checkpoint_bytes(spec.trial, shape)
    return checkpoint * (KEEP * trials + concurrent) + PICTURES_BYTES * trials


def free_space_fault(directory: Path, needed_bytes: int) -> str | None:
    """Why a sweep might not fit on the disk of its directory, which need not exist yet; None if it fits."""
    place = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free >= needed_bytes:
        return None
    return (
        f"{shown(directory)}: its disk has {_amount(free)} free, the sweep may come to {_amount(needed_bytes)}. It "
        "stops when the disk is full, and raysweep resume goes on when there is room"
    )


def _largest_checkpoint_bytes(space: TrialSpace, shape: tuple[int, int, int]) -> int:
    import torch

    from raysweep.vae.networks import ConvVAE

    largest: dict[str, Any] = {name: _largest(space, name) for name in _SIZES}
    for name, most in (("likelihood", "learned_gaussian"), ("batch_norm", "all")):
        values = space.choices(name)
        largest[name] = most if most in values else values[0]
    sizes = []
    for blocks in space.choices("conv_blocks"):
        config = space.config({**largest, "conv_blocks": blocks, **_others(space, largest)})
        with torch.device("meta"):  # shapes alone, whatever the size
            model = ConvVAE.from_config(config, shape)
        sizes.append(sum(value.numel() * value.element_size() for value in model.state_dict().values()))
    return int(_ADAM * max(sizes))


def _largest(space: TrialSpace, name: str) -> int | None:
    if name in space.searched and not space.choices(name):
        return int(space.ends(name)[1])
    numbers = [int(value) for value in space.choices(name) if isinstance(value, int)]
    return max(numbers, default=None)


def _others(space: TrialSpace, chosen: dict[str, Any]) -> dict[str, Any]:
    """Some value of each searched field that has nothing to do with a network's size."""
    return {
        name: distribution.choices[0] if isinstance(distribution, Choices) else distribution.low
        for name, distribution in space.searched.items()
        if name not in chosen and name != "conv_blocks"
    }


def _amount(amount_bytes: int) -> str:
    return f"{amount_bytes / 1e9:,.1f} GB" if amount_bytes >= 1e8 else f"{amount_bytes / 1e6:,.1f} MB"
