"""Images of a split as a tensor: a batch is an index and a conversion, nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from raysweep.data.cachefile import CacheInfo, open_cache
from raysweep.data.images import Images
from raysweep.data.splits import split_indices
from raysweep.errors import CacheError
from raysweep.spec.sections import DataSpec

_BLOCK_BYTES = 8 << 20


class ImageTensors:
    """The images of one split.

    On a CPU a batch is read straight from the mapped cache file, which all processes of a machine share. On
    another device the split's bytes are copied there once.
    """

    def __init__(
        self,
        chunks: Sequence[Images],
        indices: NDArray[np.int64],
        device: torch.device | str,
        labels: NDArray[np.int32] | None = None,
    ) -> None:
        """Select the images of a split; copy them to the device if it is not a CPU.

        Args:
            chunks: [rows, channels, height, width] each, all but the last with the same rows, as in `ImageCache`.
            indices: [n], positions in the chunks laid end to end.
            device: where batches are returned.
            labels: [all images], positions of classes.
        """
        self.device = torch.device(device)
        self.shape: tuple[int, int, int] = chunks[0].shape[1:]
        """Of one image: channels, height, width."""
        self.indices = indices
        """[n], positions of the images in the data set."""
        self.labels: torch.Tensor | None = None
        """[n], int64, on the device; None where images have none."""
        if labels is not None:
            self.labels = torch.from_numpy(labels[indices].astype(np.int64)).to(self.device)
        self._count = len(indices)
        self._chunks = [_view(chunk) for chunk in chunks]
        self._chunk_rows = len(chunks[0])
        self._rows: torch.Tensor | None = torch.from_numpy(np.ascontiguousarray(indices, np.int64))
        if self.device.type != "cpu":
            self._chunks = [self._copy_to_device()]
            self._rows = None

    def __len__(self) -> int:
        return self._count

    def gather(self, indices: torch.Tensor) -> torch.Tensor:
        """Return a batch of images.

        indices: [batch], int64, positions within the split.

        Returns [batch, channels, height, width], float32 in [0, 1], on the device.
        """
        return self._gather_bytes(indices.to(self.device)).to(torch.float32).mul_(1 / 255)

    def mean_image(self) -> torch.Tensor:
        """Return the mean over the split, [channels, height, width], float32 in [0, 1]; summed exactly, by blocks."""
        channels, height, width = self.shape
        block = max(1, _BLOCK_BYTES // (channels * height * width))
        total = torch.zeros(self.shape, dtype=torch.int64, device=self.device)
        for start in range(0, self._count, block):
            rows = torch.arange(start, min(start + block, self._count), device=self.device)
            total += self._gather_bytes(rows).sum(dim=0, dtype=torch.int64)
        return (total.to(torch.float64) / (255 * self._count)).to(torch.float32)

    def _gather_bytes(self, indices: torch.Tensor) -> torch.Tensor:
        rows = indices if self._rows is None else self._rows.index_select(0, indices)
        if len(self._chunks) == 1:
            return self._chunks[0].index_select(0, rows)
        return self._gather_over_chunks(rows)

    def _gather_over_chunks(self, rows: torch.Tensor) -> torch.Tensor:
        """Select rows from each chunk in the order of the chunks, then restore the order asked for."""
        rows, order = rows.sort()
        counts = torch.bincount(rows // self._chunk_rows, minlength=len(self._chunks)).tolist()
        gathered = torch.empty((len(rows), *self.shape), dtype=torch.uint8)
        start = 0
        for number, (chunk, count) in enumerate(zip(self._chunks, counts, strict=True)):
            if count:
                part = slice(start, start + count)
                torch.index_select(chunk, 0, rows[part] - number * self._chunk_rows, out=gathered[part])
                start += count
        return torch.empty_like(gathered).index_copy_(0, order, gathered)

    def _copy_to_device(self) -> torch.Tensor:
        """Copy the split to the device, [n, channels, height, width], uint8, one block at a time in main memory."""
        channels, height, width = self.shape
        block = max(1, _BLOCK_BYTES // (channels * height * width))
        copied = torch.empty((self._count, *self.shape), dtype=torch.uint8, device=self.device)
        for start in range(0, self._count, block):
            rows = torch.arange(start, min(start + block, self._count))
            copied[start : start + len(rows)] = self._gather_bytes(rows).to(self.device)
        return copied


def spread(count: int, over: int) -> torch.Tensor:
    """Return `count` positions, or fewer if there are not so many, spread evenly over a split of `over` images."""
    return torch.linspace(0, over - 1, min(count, over)).long()


@dataclass(frozen=True)
class ImageSplits:
    """The three splits of a cache file."""

    train: ImageTensors
    validation: ImageTensors
    test: ImageTensors
    info: CacheInfo


def load_splits(path: Path, spec: DataSpec, device: torch.device | str) -> ImageSplits:
    """Open a cache file that `prepare` made for this specification, and split it.

    Raises:
        CacheError: if the file is missing, damaged, or was made for another specification.
        DataError: if a split would be empty.
    """
    cache = open_cache(path)
    info = cache.info
    wanted = (spec.channels or info.channels, spec.image_size, spec.image_size)
    if info.dataset != spec.dataset or info.shape != wanted or info.fit != spec.fit:
        raise CacheError(
            f"{path}: holds {info.dataset} as {_by(info.shape)} with fit {info.fit}, "
            f"the specification asks for {spec.dataset} as {_by(wanted)} with fit {spec.fit}"
        )
    splits = split_indices(cache.labels, cache.official_test, spec)
    train, validation, test = (
        ImageTensors(cache.chunks, indices, device, cache.labels)
        for indices in (splits.train, splits.validation, splits.test)
    )
    return ImageSplits(train, validation, test, info)


def _view(chunk: Images) -> torch.Tensor:
    """Return a tensor on the chunk's own memory, which is mapped read-only: writing to it would end the process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writ", UserWarning)
        return torch.from_numpy(chunk)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)
