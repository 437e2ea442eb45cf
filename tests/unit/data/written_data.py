"""Data sets in the formats of their makers, written to order."""

from __future__ import annotations

import gzip
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]


def to_idx(values: Bytes, shape: tuple[int, ...] | None = None) -> bytes:
    """An IDX file of the values, whose header promises `shape` instead of theirs if it is given."""
    promised = values.shape if shape is None else shape
    return struct.pack(f">HBB{len(promised)}I", 0, 8, len(promised), *promised) + values.tobytes()


def write_idx(directory: Path, train: int = 60, test: int = 20, *, gzipped: bool = False) -> dict[str, Bytes]:
    """Writes the four files of random 28x28 images, and returns their contents by name."""
    random = np.random.default_rng(0)
    contents = {
        "train-images-idx3-ubyte": random.integers(0, 256, (train, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": (np.arange(train) % 10).astype(np.uint8),
        "t10k-images-idx3-ubyte": random.integers(0, 256, (test, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": (np.arange(test) % 10).astype(np.uint8),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, values in contents.items():
        if gzipped:
            (directory / f"{name}.gz").write_bytes(gzip.compress(to_idx(values)))
        else:
            (directory / name).write_bytes(to_idx(values))
    return contents


def write_cifar(directory: Path, version: str, protocol: int = 2, rows: int = 20) -> list[tuple[Bytes, list[int]]]:
    """Writes six batches of random images, `python` or `binary`; returns pixels [n, 3072] and labels of each."""
    random = np.random.default_rng(0)
    directory.mkdir(parents=True, exist_ok=True)
    batches = []
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        pixels = random.integers(0, 256, (rows, 3072), np.uint8)
        labels = [int(label) for label in random.integers(0, 10, rows)]
        batches.append((pixels, labels))
        if version == "python":
            batch = {b"batch_label": b"a batch", b"labels": labels, b"data": pixels, b"filenames": [b"a.png"] * rows}
            (directory / name).write_bytes(pickle.dumps(batch, protocol))
        else:
            records = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)
            (directory / f"{name}.bin").write_bytes(records.tobytes())
    return batches


def write_image(path: Path, size: tuple[int, int] = (20, 16), mode: str = "RGB", seed: int = 0) -> Path:
    """Writes a random picture, size being (width, height), in the format that the path's suffix says."""
    random = np.random.default_rng(seed)
    bands = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 256, (size[1], size[0], *bands), np.uint8)).save(path)
    return path


def png_of_16_bits(pixels: NDArray[np.int_]) -> bytes:
    """A PNG file of RGB pixels [height, width, 3] with 16 bits a colour, which Pillow reads and cannot write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
