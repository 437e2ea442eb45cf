"""Latents in TensorBoard's Projector: files that its plugin reads from the directory of a trial's run.

The plugin reads `projector_config.pbtxt` there, and follows the paths in it only below that directory. Values are text:
the plugin takes a binary file for text if its bytes happen to be UTF-8, as those of zeros are, and then shows no run.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from raysweep.layout import SweepDirectory, storage_errors, write_atomically
from raysweep.records import TrialRecord, ranked
from raysweep.report.images import open_picture
from raysweep.report.latents import LatentTable, cells_a_row, read_latents

CONFIG = "projector_config.pbtxt"
MAX_PROJECTED = 5
"""Trials: the best ones. A browser holds one at a time, and each is some megabytes."""

MAX_LATENTS = 64
MAX_SPRITE_BYTES = 8_000_000


def choose_projected(directory: SweepDirectory, records: Sequence[TrialRecord], objective: str) -> list[int]:
    """The numbers of the best trials that have latents, 5 at most, the best first."""
    order = [record.number for record in ranked(list(records), objective)]
    return [number for number in order if directory.latents(number).exists()][:MAX_PROJECTED]


def write_projection(run: Path, latents: Path, sprites: Path) -> None:
    """Puts one trial's latents into the Projector: the active ones, 64 at most, those with the most KL first.

    Args:
        run: directory of the trial's run in TensorBoard.
        latents: the trial's latents.parquet.
        sprites: the sheet of its images, `sprite_sheet`'s; points are shown as dots if there is none.

    Raises:
        ValueError: if the latents cannot be read.
        StorageError: if the file system is full, read-only or gone.
    """
    table = read_latents(latents)
    chosen = table.active[:MAX_LATENTS]
    if not len(chosen):
        chosen = np.argsort(-table.kl_nats, kind="stable")[:MAX_LATENTS]
    # The Projector opens with three principal components, and shows no point where there are but two.
    points = np.pad(table.means[:, chosen], ((0, 0), (0, max(0, 3 - len(chosen)))))
    values = io.StringIO()
    np.savetxt(values, points, fmt="%.4g", delimiter="\t")
    write_atomically(run / "latents.tsv", values.getvalue().encode())
    write_atomically(run / "latents_metadata.tsv", _metadata(table).encode())
    config = [
        f'tensor_name: "{"latents" if len(chosen) == table.means.shape[1] else "active latents"}"',
        'tensor_path: "latents.tsv"',
        f"tensor_shape: [{len(points)}, {points.shape[1]}]",
        'metadata_path: "latents_metadata.tsv"',
    ]
    cell = _place_sprites(sprites, run / "sprites.png", len(table))
    if cell is not None:
        config.append(f'sprite {{ image_path: "sprites.png" single_image_dim: [{cell[0]}, {cell[1]}] }}')
    # Last: what it names is there.
    write_atomically(run / CONFIG, "\n".join(["embeddings {", *config, "}", ""]).encode())


def _metadata(table: LatentTable) -> str:
    """Columns by which points can be coloured and searched; the first line names them."""
    lines = ["label\tsplit\timage"]
    for label, split, image in zip(table.labels, table.splits, table.images, strict=True):
        name = "none" if label is None else " ".join(label.split()) or "none"
        # A column of numbers would not be taken for the points' names.
        name = f"class {name}" if name.isdecimal() else name
        lines.append(f"{name}\t{split}\t{image}")
    return "\n".join(lines) + "\n"


def _place_sprites(source: Path, target: Path, count: int) -> tuple[int, int] | None:
    """Puts the sheet of `count` images at `target`; width and height of one image, None if there is no such sheet."""
    cells = cells_a_row(count)
    try:
        with open_picture(source) as sheet:
            width, height = sheet.size
            if width % cells or height % cells:
                return None
            cell = (width // cells, height // cells)
            if source.stat().st_size > MAX_SPRITE_BYTES:
                # Every image to half its size: 10,000 colour images of 32 x 32 are 30 MB.
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
            # The same file under a second name costs no space.
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    return cell
