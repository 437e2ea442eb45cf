"""Tensors in a safetensors file: written whole or not at all, and read as untrusted data.

A file is read into memory, not mapped: if a mapped file shrinks or its disk fails, the process ends with a signal that
nothing can catch. Nothing in such a file can run code. No number in its header is trusted before it has been compared
with the file's length.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep.storage.layout import read_bounded, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 16 << 20
"""The header of a checkpoint after 100,000 epochs has 3 MB."""
_KEY = "raysweep"
_MAX_DIMENSIONS = 8


class TensorFileError(ValueError):
    """A file of tensors that is missing, damaged, or of another kind; the message is the reason."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any] | None = None) -> None:
    """Write contiguous tensors, with `header` as JSON beside them, whole or not at all.

    Raises:
        StorageError: if the file system is full, read-only or gone.
    """
    from safetensors.torch import save

    metadata = None if header is None else {_KEY: json.dumps(header)}
    # Not safetensors' own save_file: its errors on a full disk are not OSErrors and have no number.
    write_atomically(path, save(dict(tensors), metadata), parents=False)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file, each in its own memory, and its header, empty if it has none.

    Raises:
        TensorFileError: if it cannot be read, is damaged, or holds something else.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = read_bounded(path, _memory_bytes())
        described = _checked_header(content)
        header = json.loads(described.pop("__metadata__", {}).get(_KEY, "{}"))
        if not isinstance(header, dict):
            raise TensorFileError(f"its header is a {type(header).__name__}, not keys and values")
        tensors = load(content)
    except OSError as error:
        raise TensorFileError(error.strerror or str(error)) from error
    except RecursionError:
        raise TensorFileError("its header is nested too deeply") from None
    except (
        SafetensorError, ValueError, KeyError, TypeError, AttributeError, AssertionError, RuntimeError, OverflowError,
        MemoryError, struct.error, torch.OutOfMemoryError,
    ) as error:  # fmt: skip
        raise TensorFileError(str(error).partition("\n")[0] or type(error).__name__) from error
    return tensors, header


def _checked_header(content: bytes) -> dict[str, Any]:
    """Return the header, after checks that it lies within the file and that the file can hold each shape."""
    if len(content) < 8:
        raise TensorFileError(f"it has {len(content)} bytes")
    length = struct.unpack_from("<Q", content)[0]
    if length > min(MAX_HEADER_BYTES, len(content) - 8):
        raise TensorFileError(f"its header promises {length:,} bytes, the file has {len(content):,}")
    described = json.loads(content[8 : 8 + length])
    if not isinstance(described, dict):
        raise TensorFileError("its header is no table of tensors")
    for name, entry in described.items():
        if name == "__metadata__":
            continue
        shape = entry["shape"]
        if len(shape) > _MAX_DIMENSIONS or not all(isinstance(side, int) and side >= 0 for side in shape):
            raise TensorFileError(f"{name[:80]} has no shape that can be: {str(shape)[:80]}")
        if math.prod(shape) > 8 * len(content):
            raise TensorFileError(
                f"{name[:80]} promises {math.prod(shape):,} numbers, the file has {len(content):,} bytes"
            )
    return described


def _memory_bytes() -> int:
    """Return the memory of this machine; a larger file is refused before it is read."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
