"""The latents of a trial's images in a Parquet file, and the images themselves in one picture next to it."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from raysweep.metrics import ACTIVE_VARIANCE
from raysweep.report.images import Pixels
from raysweep.report.parquet import read_bounded_table
from raysweep.storage.layout import replacing

LATENTS_VERSION = 1
MAX_ROWS = 10_000
"""More points tell nothing more in a picture, and a browser shows them slowly."""

MAX_SHEET_SIDE = 8192
"""In pixels: the largest texture that every browser accepts."""

_KL = b"raysweep.latent_kl_nats"
_VERSION = b"raysweep.latents_version"


@dataclass(frozen=True, slots=True)
class LatentTable:
    """Content of `latents.parquet`: one row per image."""

    means: NDArray[np.float32]
    """Means of the posteriors, [image, latent]."""
    kl_nats: NDArray[np.float64]
    """KL divergence of each latent, averaged over images."""
    labels: tuple[str | None, ...]
    """Class names; None for an image without a label."""
    splits: tuple[str, ...]
    images: NDArray[np.int64]
    """Positions in the data set."""

    def __len__(self) -> int:
        return len(self.means)

    @property
    def active(self) -> NDArray[np.intp]:
        """Indices of the active latents, the one with the most KL divergence first."""
        varies: NDArray[np.bool_] = self.means.var(axis=0, dtype=np.float64) > ACTIVE_VARIANCE
        order: NDArray[np.intp] = np.argsort(-self.kl_nats, kind="stable")
        found: NDArray[np.intp] = order[varies[order]]
        return found


def write_latents(
    path: Path,
    means: NDArray[np.float32],
    kl_nats: NDArray[np.floating],
    labels: Sequence[str | None] | None,
    splits: Sequence[str],
    images: Sequence[int] | NDArray[np.integer],
) -> None:
    """Write the posterior means of at most 10,000 images as a Parquet file, whole or not at all.

    Args:
        path: the file to write.
        means: [image, latent], finite.
        kl_nats: [latent], each latent's KL divergence from the prior in nats/image.
        labels: each image's class by name; None for images without labels.
        splits: each image's split: `train`, `validation` or `test`.
        images: each image's position in the data set.

    Raises:
        StorageError: if the file system is full, read-only or gone.
    """
    means = np.ascontiguousarray(means, dtype=np.float32)
    if means.ndim != 2 or 0 in means.shape or len(means) > MAX_ROWS:
        raise ValueError(f"means must be [image, latent] with 1 to {MAX_ROWS} images, got {means.shape}")
    count, latents = means.shape
    names = [None] * count if labels is None else list(labels)
    lengths = {"labels": len(names), "splits": len(splits), "images": len(images)}
    if len(kl_nats) != latents or set(lengths.values()) != {count}:
        raise ValueError(f"means are {means.shape}, but there are {len(kl_nats)} KL divergences and {lengths}")
    if not np.isfinite(means).all():
        raise ValueError("means must be finite")
    columns = {
        "image": pa.array(np.asarray(images, dtype=np.int64)),
        "split": pa.array(list(splits), pa.string()),
        "label": pa.array(names, pa.string()),
        "latent": pa.FixedSizeListArray.from_arrays(pa.array(means.reshape(-1)), latents),
    }
    schema = pa.schema(
        [pa.field(name, column.type, nullable=name == "label") for name, column in columns.items()],
        metadata={
            _VERSION: str(LATENTS_VERSION),
            _KL: " ".join(repr(float(value)) for value in kl_nats),
        },
    )
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_arrays(list(columns.values()), schema=schema), temporary, compression="zstd")


def read_latents(path: Path) -> LatentTable:
    """Read what `write_latents` wrote.

    Raises:
        ValueError: if the file is missing, damaged, not a table of latents, or of a later version.
    """
    try:
        table = read_bounded_table(path)
        metadata = table.schema.metadata or {}
        version = int(metadata[_VERSION])
        if version > LATENTS_VERSION:
            raise ValueError(f"{path}: has version {version} of latents, this raysweep reads up to {LATENTS_VERSION}")
        found = _checked(table, [float(value) for value in metadata[_KL].split()])
    except (OSError, pa.ArrowException, KeyError, ValueError, MemoryError, _Foreign) as error:
        raise ValueError(f"{path}: is no table of latents: {error}") from error
    return found


class _Foreign(Exception):
    """A table that is not what `write_latents` writes."""


def _checked(table: pa.Table, kl_nats: list[float]) -> LatentTable:
    """Return the content of a table after checking the types, lengths and nulls of its columns."""
    latent = table.column("latent").combine_chunks()
    if not pa.types.is_fixed_size_list(latent.type) or not pa.types.is_floating(latent.type.value_type):
        raise _Foreign(f"column latent must be lists of numbers, all equally long, got {latent.type}")
    for name, holds, type_name in (
        ("label", pa.types.is_string, "texts"),
        ("split", pa.types.is_string, "texts"),
        ("image", pa.types.is_integer, "whole numbers"),
    ):
        if not holds(table.column(name).type):
            raise _Foreign(f"column {name} must be {type_name}, got {table.column(name).type}")
    for name in ("split", "image", "latent"):
        if table.column(name).null_count:
            raise _Foreign(f"column {name} has {table.column(name).null_count} nulls")
    width, count = latent.type.list_size, len(latent)
    # Not latent.values, which would include rows outside of a slice.
    means = np.asarray(latent.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
    if not count or not width or len(means) != count * width or len(kl_nats) != width:
        raise _Foreign(f"{count} rows of {width} latents with {len(means)} values and {len(kl_nats)} KL divergences")
    if not np.isfinite(means).all():
        raise _Foreign("latents must be finite")
    return LatentTable(
        means.reshape(count, width),
        np.array(kl_nats),
        tuple(table.column("label").to_pylist()),
        tuple(table.column("split").to_pylist()),
        table.column("image").to_numpy().astype(np.int64),
    )


def sprite_sheet(images: Pixels, max_side: int = MAX_SHEET_SIDE) -> bytes:
    """Return `images` as one PNG for TensorBoard's Projector: row by row in a square of cells, without gaps.

    Images are made smaller if the sheet would be wider or higher than `max_side` pixels.

    Args:
        images: [image, height, width, channel], uint8, with 1 channel (grey) or 3 (RGB).
        max_side: most pixels of the sheet's width or height.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"images must be uint8 [image, height, width, 1 or 3], got {images.dtype} {images.shape}")
    count, height, width, channels = images.shape
    cells = cells_a_row(count)
    scale = min(1.0, max_side // cells / max(height, width))
    if scale < 1:
        height, width = max(1, int(height * scale)), max(1, int(width * scale))
    sheet = np.zeros((cells * height, cells * width, channels), np.uint8)
    for index, image in enumerate(images):
        y, x = (place * side for place, side in zip(divmod(index, cells), (height, width), strict=True))
        sheet[y : y + height, x : x + width] = image if scale == 1 else _resized(image, width, height)
    buffer = io.BytesIO()
    Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet).save(buffer, "PNG")
    return buffer.getvalue()


def cells_a_row(count: int) -> int:
    """Return the number of images per row of a sheet of `count` images; it has as many rows."""
    return math.isqrt(count - 1) + 1


def _resized(image: Pixels, width: int, height: int) -> Pixels:
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    small = np.asarray(picture.resize((width, height), Image.Resampling.BOX), dtype=np.uint8)
    return small.reshape(height, width, image.shape[2])
