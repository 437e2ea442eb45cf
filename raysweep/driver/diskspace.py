"""Disk space: the most that a sweep can take, and whether that much is free before it starts.

The check only warns. It computes the most that any trials of the space could take. Most sweeps take much less, for
example because of early stopping. A sweep that does fill the disk stops with one message and goes on when there is
room.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from raysweep.spec.config import ConvBlock, parse_conv_blocks
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import TrialSpace
from raysweep.storage.layout import shown

KEPT = 3
"""Checkpoints of a trial: `vae.checkpoint.KEEP`, which cannot be imported without torch, and that of its best epoch. A
test checks the bound."""
PICTURES_BYTES = 1 << 20
"""Pictures of one trial: a few grids, and a row of reconstructions now and then."""
_ADAM = 3
"""Numbers per weight: the weight and its two moments."""
_FLOAT_BYTES = 4
_NORMALISED = 5
"""Bound for a channel's other numbers: a bias, or scale, shift, mean and variance of its normalisation."""


def needed_bytes(spec: SweepSpec, shape: tuple[int, int, int], trials: int, concurrent: int) -> int:
    """Return the most bytes that this number of trials can take in the sweep directory.

    Args:
        shape: channels, height and width of the images.
        concurrent: trials at once; each writes one checkpoint before it drops another.
    """
    checkpoint = _largest_checkpoint_bytes(spec.trial, shape)
    return checkpoint * (KEPT * trials + concurrent) + PICTURES_BYTES * trials


def free_space_fault(directory: Path, needed_bytes: int) -> str | None:
    """Return why a sweep might not fit on the disk of its directory; None if it fits.

    The directory need not exist yet.
    """
    place = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free >= needed_bytes:
        return None
    return (
        f"{shown(directory)}: its disk has {_amount(free)} free, the sweep may come to {_amount(needed_bytes)}. It "
        "stops when the disk is full, and raysweep resume goes on when there is room"
    )


def _largest_checkpoint_bytes(space: TrialSpace, shape: tuple[int, int, int]) -> int:
    """Return the bytes of a checkpoint of the space's largest network.

    They are counted without torch, because a driver needs torch for nothing else.
    """
    width, kernel = _largest(space, "d_size"), _largest(space, "kernel_size")
    latents, hidden = _largest(space, "latent_size"), _largest(space, "hidden_size")
    without = None in space.choices("hidden_size")
    sizes = {size for size, is_possible in ((hidden, hidden > 0), (None, without)) if is_possible}
    numbers = [
        _network_numbers(parse_conv_blocks(str(blocks)), shape, width, kernel, latents, size)
        for blocks in space.choices("conv_blocks")
        for size in sizes
    ]
    return _ADAM * _FLOAT_BYTES * max(numbers)


def _network_numbers(
    blocks: Sequence[ConvBlock], shape: tuple[int, int, int], width: int, kernel: int, latents: int, hidden: int | None
) -> int:
    """Return the most numbers that a `ConvVAE` of these blocks can have.

    That is if everything is normalised and there are two output values per pixel.
    """
    channels, height, side = shape
    widths = [channels]
    numbers = 0
    for block in blocks:
        into, out = widths[-1], block.multiple * width
        edge = kernel if block.halves else 3
        ends = into if len(widths) > 1 else 2 * into  # output channels of the transposed convolution
        numbers += (into + ends) * out * edge * edge + _NORMALISED * (ends + out)
        if block.halves:
            height, side = (height + 1) // 2, (side + 1) // 2
        widths.append(out)
    flat = widths[-1] * height * side
    outer = hidden or flat
    if hidden:
        numbers += (flat + _NORMALISED) * hidden + (latents + _NORMALISED) * hidden
    numbers += (outer + 1) * 2 * latents
    return numbers + ((hidden or latents) + _NORMALISED) * (flat if blocks else 2 * flat)


def _largest(space: TrialSpace, name: str) -> int:
    """Return the largest value that a field can have; 0 if it can only be None."""
    if name in space.searched and not space.choices(name):
        return int(space.ends(name)[1])
    return max((int(value) for value in space.choices(name) if isinstance(value, int)), default=0)


def _amount(amount_bytes: int) -> str:
    return f"{amount_bytes / 1e9:,.1f} GB" if amount_bytes >= 1e8 else f"{amount_bytes / 1e6:,.1f} MB"
