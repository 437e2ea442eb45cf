"""Latents in TensorBoard's Projector: files that its plugin reads from the directory of the run `sweep`.

The plugin reads `projector_config.pbtxt` there, and follows the paths in it only below that directory. Values are text,
because the plugin mistakes a binary file for text if its bytes happen to be UTF-8 (zeros are), and then shows no run.

All trials are tensors of that one run. The Projector opens the first run by name, and in it the tensor with the most
rows, then the first by name. Runs of trials sort by number, so the best trial's run could not be made the first.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from raysweep.records import TrialRecord, ranked
from raysweep.report.images import open_picture
from raysweep.report.latents import LatentTable, cells_a_row, read_latents
from raysweep.storage.layout import SweepDirectory, storage_errors, write_atomically

_log = logging.getLogger("raysweep")

CONFIG = "projector_config.pbtxt"
FOLDER = "projector"
"""In the run's directory; it contains a folder for each trial."""

MAX_PROJECTED = 5
"""The best trials are shown. A browser holds one at a time, and each takes several megabytes."""

MAX_LATENTS = 64
MAX_SPRITE_BYTES = 8_000_000


@dataclass(frozen=True, slots=True)
class Projection:
    """One trial as the Projector lists it."""

    number: int
    name: str
    """Name in the list of tensors, which is sorted by it."""
    table: LatentTable
    sprites: Path
    """Its images on one sheet, from `sprite_sheet`; without one, points are shown as dots."""


def choose_projected(directory: SweepDirectory, records: Sequence[TrialRecord], objective: str) -> list[Projection]:
    """Return the best trials that have latents, 5 at most, the best first.

    A trial without active latents is left out: the Projector scales every component to the same spread, so noise around
    the prior would look like clusters.
    """
    chosen: list[Projection] = []
    for record in ranked(list(records), objective):
        path = directory.latents(record.number)
        if len(chosen) == MAX_PROJECTED or not path.exists():
            continue
        try:
            table = read_latents(path)
        except ValueError as error:
            _log.warning("the latents of trial %d are left out of the Projector: %s", record.number, error)
            continue
        if len(table.active):
            name = f"{len(chosen) + 1}. trial {record.number}, {objective} {record.last(objective):.4g}"
            chosen.append(Projection(record.number, name, table, directory.sprites(record.number)))
    return chosen


def write_projector(run: Path, projections: Sequence[Projection]) -> None:
    """Write the Projector's files again, with at most 64 active latents per trial, the most KL first.

    Args:
        run: existing directory of the run in TensorBoard.
        projections: what is shown; if there are none, the Projector shows nothing of the run.

    Raises:
        StorageError: if the file system is full, read-only or gone.
    """
    config = "".join(_write_projection(run, projection) for projection in projections)
    # Written last, when the files that it names exist.
    if config:
        write_atomically(run / CONFIG, config.encode())
    else:
        with storage_errors(run):
            (run / CONFIG).unlink(missing_ok=True)
    kept = {_folder(projection) for projection in projections}
    with storage_errors(run):
        for folder in (run / FOLDER).glob("*"):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def _folder(projection: Projection) -> str:
    return f"{projection.number:04d}"


def _write_projection(run: Path, projection: Projection) -> str:
    """Write one trial's files, and return their entry in the configuration."""
    place, table = f"{FOLDER}/{_folder(projection)}", projection.table
    chosen = table.active[:MAX_LATENTS]
    # The Projector opens with three principal components, and shows no points if there are only two.
    points = np.pad(table.means[:, chosen], ((0, 0), (0, max(0, 3 - len(chosen)))))
    values = io.StringIO()
    np.savetxt(values, points, fmt="%.4g", delimiter="\t")
    write_atomically(run / place / "latents.tsv", values.getvalue().encode())
    write_atomically(run / place / "metadata.tsv", _metadata(table).encode())
    config = [
        f'tensor_name: "{projection.name}"',
        f'tensor_path: "{place}/latents.tsv"',
        f"tensor_shape: [{len(points)}, {points.shape[1]}]",
        f'metadata_path: "{place}/metadata.tsv"',
    ]
    cell = _place_sprites(projection.sprites, run / place / "sprites.png", len(table))
    if cell is not None:
        config.append(f'sprite {{ image_path: "{place}/sprites.png" single_image_dim: [{cell[0]}, {cell[1]}] }}')
    return "\n".join(["embeddings {", *config, "}", ""])


def _metadata(table: LatentTable) -> str:
    """Return columns by which points can be coloured and searched; the first line names them."""
    lines = ["label\tsplit\timage"]
    for label, split, image in zip(table.labels, table.splits, table.images, strict=True):
        name = "none" if label is None else " ".join(label.split()) or "none"
        # The Projector does not use a column of numbers as the points' names.
        name = f"class {name}" if name.isdecimal() else name
        lines.append(f"{name}\t{split}\t{image}")
    return "\n".join(lines) + "\n"


def _place_sprites(source: Path, target: Path, count: int) -> tuple[int, int] | None:
    """Put the sheet of `count` images at `target`. Return the size of one image, or None without such a sheet."""
    cells = cells_a_row(count)
    try:
        with open_picture(source) as sheet:
            width, height = sheet.size
            if width % cells or height % cells:
                return None
            cell = (width // cells, height // cells)
            if source.stat().st_size > MAX_SPRITE_BYTES:
                # Halve the size of every image: 10,000 colour images of 32 x 32 are 30 MB.
                cell = (max(1, cell[0] // 2), max(1, cell[1] // 2))
                small = io.BytesIO()
                size = (cell[0] * cells, cell[1] * cells)
                sheet.resize(size, Image.Resampling.BOX).save(small, "PNG")
            else:
                small = None
    except ValueError:
        return None
    if small is not None:
        write_atomically(target, small.getvalue())
        return cell
    with storage_errors(target):
        target.unlink(missing_ok=True)
        try:
            # A second name for the same file takes no space.
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    return cell
