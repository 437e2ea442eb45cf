"""The command that writes a search space file: `new`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from raysweep.cli.terminal import reports_errors
from raysweep.storage.layout import typed
from raysweep.wording import counted, given_as

if TYPE_CHECKING:
    from raysweep.spec.sections import DataSpec


@click.command()
@click.argument("file", type=click.Path())
@click.option(
    "--data",
    metavar="FOLDER",
    help="Folder of images, or the name of a data set.  [default: mnist-5k, which is bundled]",
)
@click.option(
    "--from", "origin", metavar="NAME",
    help="Copy this instead: a shipped search space such as kld, a file, or the directory of a sweep that was run.",
)  # fmt: skip
@reports_errors
def new(file: str, data: str | None, origin: str | None) -> None:
    """Write a search space FILE that runs, with a comment on each line.

    With --data it looks at the images and chooses sizes, epochs and batches for them. A file that is there stays.
    """
    from raysweep.errors import SpecError
    from raysweep.spec.loading import parse_spec
    from raysweep.spec.schema import SCHEMA_FILE

    if data is not None and origin is not None:
        raise click.UsageError("--data and --from exclude each other; write the file with one, then change it")
    path = _path_of_new(file)
    text, said = _copied(origin, path.stem) if origin is not None else _for_images(data, path.stem)
    if (path.parent / SCHEMA_FILE).is_file():
        text = f"# yaml-language-server: $schema={SCHEMA_FILE}\n{text}"
    try:
        parse_spec(text, file)
    except SpecError as error:
        if origin is None:  # the text was just made: these images need a key that cannot be chosen for them
            raise
        raise SpecError(origin, error.faults, advice=f"{file} was not written") from None
    _write(path, text)
    click.echo(f"wrote {file}{said}. To see what it would run, then to run it, type:\n")
    click.echo(f"    raysweep check {typed(file)}\n    raysweep run {typed(file)}")


def _path_of_new(file: str) -> Path:
    """Return the path of a new file, after checking that it can be written.

    Raises:
        RaysweepError: if the file exists, its directory does not, or its name is not that of a search space file.
    """
    from raysweep.errors import RaysweepError
    from raysweep.spec.loading import NAME
    from raysweep.storage.remote import local_path

    path = local_path(file, "a search space file is written on this machine", "Name a file, such as my.yaml")
    fault = None
    if path.is_dir():
        fault = f"is a directory; name a file, such as {path / 'my.yaml'}"
    elif path.exists() or path.is_symlink():
        fault = "is there already and stays as it is; name another file, or remove it first"
    elif path.suffix not in (".yaml", ".yml"):
        fault = f"is no name of a search space file; type: raysweep new {typed(f'{file}.yaml')}"
    elif not NAME.fullmatch(path.stem):
        better = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).strip("_.-") or "my"
        fault = f"must be letters, digits, '.', '_' and '-', for it names the results; such as {better}.yaml"
    elif not path.parent.is_dir():
        fault = f"there is no directory {path.parent}; type: mkdir -p {typed(path.parent)}"
    if fault is not None:
        raise RaysweepError(f"{file}: {fault}")
    return path


def _write(path: Path, text: str) -> None:
    from raysweep.errors import RaysweepError, StorageError

    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise RaysweepError(f"{path}: is there already and stays as it is; name another file") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from None


def _for_images(data: str | None, name: str) -> tuple[str, str]:
    """Return the text of a file for an image folder or data set, and a phrase about the images."""
    from raysweep.data.cache import describe
    from raysweep.spec.newspace import Images, space_text, validation_fraction
    from raysweep.spec.sections import DataSpec

    spec = _data_spec(data)
    with given_as("data.root", "--data"):
        description = describe(spec)
    spec = spec.model_copy(update={"validation_fraction": validation_fraction(description.count)})
    description = describe(spec)
    images = Images(
        dataset=spec.dataset,
        root=data if spec.dataset == "folder" else None,
        count=description.count,
        train=description.sizes.train,
        channels=description.channels,
        classes=len(description.classes),
        native=description.native_size,
    )
    fits = tuple(str(way) for way in get_args(DataSpec.model_fields["fit"].annotation))
    of = f"{images.count:,} images of {images.native}, {'colour' if images.channels == 3 else 'grey'}"
    classes = f", in {counted(images.classes, 'class', 'classes')}" if images.classes else ", without classes"
    return space_text(name, images, fits), f" for {of}{classes}"


def _data_spec(data: str | None) -> DataSpec:
    from raysweep.errors import RaysweepError
    from raysweep.spec.hints import value_hint
    from raysweep.spec.loading import parse_data
    from raysweep.spec.sections import Dataset
    from raysweep.storage.remote import local_path, to_copy

    if data is None:
        return parse_data({"dataset": "mnist-5k"}, "raysweep new")
    if data in get_args(Dataset) and data != "folder" and not Path(data).is_dir():
        return parse_data({"dataset": data}, f"raysweep new --data {data}")
    if not Path(data).exists() and Path(data).name == data:
        names = [name for name in get_args(Dataset) if name != "folder"]
        hint = value_hint("data.dataset", data, names) or f"; allowed: {', '.join(names)}"
        raise RaysweepError(f"--data {data}: there is no such folder here, and no data set of that name{hint}")
    folder = local_path(data, "images are read from a folder of this machine", to_copy(data, "images"), "--data")
    return parse_data({"dataset": "folder", "root": str(folder)}, f"raysweep new --data {data}")


def _copied(origin: str, name: str) -> tuple[str, str]:
    """Return a copy of another file or of a sweep's record as text, and a phrase about it."""
    from raysweep.review.sweep import open_sweep
    from raysweep.spec.loading import load_spec
    from raysweep.spec.newspace import record_text, renamed
    from raysweep.spec.shipped import find_shipped
    from raysweep.storage.layout import SweepDirectory
    from raysweep.storage.plaintext import decoded
    from raysweep.study.description import described_spec

    if "://" in origin or (Path(origin).is_dir() and SweepDirectory.at(origin).holds_a_sweep()):
        return record_text(
            name, open_sweep(origin).spec, f"the sweep in {origin}"
        ), f", what the sweep in {origin} was run with"
    path = find_shipped(origin) or Path(origin)
    if path.is_file() and (recorded := described_spec(path)) is not None:
        return record_text(name, recorded, f"the sweep in {origin}"), f", what {origin} is the record of"
    load_spec(origin)  # raises an error that says what is wrong with a file, or which ones there are
    shipped = ", which is shipped with raysweep" if path != Path(origin) else ""
    return renamed(decoded(path.read_bytes(), origin), name, f"{origin}{shipped}"), f", a copy of {origin}{shipped}"
