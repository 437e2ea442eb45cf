"""Find the data set that a specification names: bundled, on this machine, or downloaded."""

from __future__ import annotations

import contextlib
import io
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from raysweep.data.bundled import BundledSource
from raysweep.data.cifar import CifarSource, find_cifar_directory
from raysweep.data.folder import FolderSource
from raysweep.data.idx import IDX_NAMES, IdxSource, find_idx_directory
from raysweep.data.images import Source
from raysweep.data.places import download_directories, download_directory
from raysweep.errors import DataUnavailable
from raysweep.spec.sections import BUNDLED, DataSpec
from raysweep.storage.home import expanded
from raysweep.storage.layout import storage_errors
from raysweep.wording import key_given

_DOWNLOAD_TIMEOUT_S = 15
_DIGITS = tuple(str(digit) for digit in range(10))
_GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class Published:
    """A data set that others publish, described as it is once it is on this machine."""

    torchvision_name: str
    """Name of the class in torchvision.datasets; for IDX files also of torchvision's directory."""
    files: str
    """The files it consists of, for a person who fetches them by hand."""
    find: Callable[[Path], Path | None]
    """Function that returns the directory of the files at or below a root, or None."""
    open: Callable[[Path], Source]
    count: int
    test_count: int
    channels: int
    size: str
    classes: tuple[str, ...]


def _idx_set(name: str, torchvision_name: str, classes: tuple[str, ...]) -> Published:
    return Published(
        torchvision_name=torchvision_name,
        files=f"{', '.join(IDX_NAMES)} (gzipped or not), in the directory itself or in {torchvision_name}/raw",
        find=lambda root: find_idx_directory(root, torchvision_name),
        open=lambda directory: IdxSource(name, directory, classes),
        count=70_000,
        test_count=10_000,
        channels=1,
        size="28x28",
        classes=classes,
    )


PUBLISHED = {
    "mnist": _idx_set("mnist", "MNIST", _DIGITS),
    "fashion_mnist": _idx_set("fashion_mnist", "FashionMNIST", _GARMENTS),
    "cifar10": Published(
        torchvision_name="CIFAR10",
        files="cifar-10-batches-py or cifar-10-batches-bin (data_batch_1 to data_batch_5 and test_batch, unpacked)",
        find=find_cifar_directory,
        open=CifarSource,
        count=60_000,
        test_count=10_000,
        channels=3,
        size="32x32",
        classes=CifarSource.classes,
    ),
}


def open_source(spec: DataSpec) -> Source:
    """Return the data set of a specification; fetch it if it is not here and `spec.download` allows it.

    Raises:
        DataUnavailable: if it is not on this machine and cannot be fetched.
        DataError: if its files are not what they should be.
    """
    source = find_source(spec)
    if source is not None:
        return source
    published = PUBLISHED[spec.dataset]
    tried = _download(spec.dataset, published) if spec.download else "data.download is false"
    directory = published.find(download_directory(spec.dataset)) if tried is None else None
    if directory is None:
        raise _unavailable(spec, published, tried or "the download left other files than expected")
    return published.open(directory)


def find_source(spec: DataSpec) -> Source | None:
    """Return the data set of a specification if it is on this machine; None if it must be fetched.

    Raises:
        DataUnavailable: if it is not here and is not one that can be fetched, or may not be read.
        DataError: if its files are not what they should be.
    """
    try:
        return _find_source(spec)
    except PermissionError as error:
        raise DataUnavailable(f"data set {spec.dataset}: {error.filename} may not be read by this user") from error


def _find_source(spec: DataSpec) -> Source | None:
    if spec.dataset in BUNDLED:
        return BundledSource(spec.dataset)
    if spec.dataset == "folder":
        assert spec.root is not None
        return FolderSource(expanded(spec.root), spec.broken_images, spec.channels)
    published = PUBLISHED[spec.dataset]
    for place in _places(spec):
        directory = published.find(place)
        if directory is not None:
            return published.open(directory)
    return None


def _places(spec: DataSpec) -> list[Path]:
    own = [expanded(spec.root)] if spec.root is not None else []
    return [*own, *download_directories(spec.dataset)]


def _unavailable(spec: DataSpec, published: Published, tried: str) -> DataUnavailable:
    looked = " and ".join(str(place) for place in _places(spec))
    other = "" if spec.root else f", or any directory that {key_given('data.root')} names"
    return DataUnavailable(
        f"data set {spec.dataset} is not on this machine: looked in {looked}; {tried}.\n"
        f"  Put these files into {_places(spec)[0]}{other}: {published.files}.\n"
        f"  These run without any files: {', '.join(f'dataset: {name}' for name in BUNDLED)}"
    )


def _download(dataset: str, published: Published) -> str | None:
    """Fetch a data set into its download directory, whole files only; return why it failed, or None."""
    target = download_directory(dataset)
    partial = target.with_name(f".{dataset}.partial")
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{dataset}.lock")):
            if published.find(target) is not None:
                return None
            shutil.rmtree(partial, ignore_errors=True)
            try:
                reason = _fetch(published.torchvision_name, partial)
                if reason is None:
                    _move_files(partial, target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return reason


def _move_files(source: Path, target: Path) -> None:
    """Move each file to the same place below `target`; keep other files there, because they are somebody's."""
    for file in [path for path in source.rglob("*") if path.is_file()]:
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)


def _fetch(torchvision_name: str, directory: Path) -> str | None:
    """Let torchvision fetch a data set; return why it failed, or None."""
    waited = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)
    printed = io.StringIO()
    try:
        # Import it here, because it takes seconds and only a download needs it.
        import torchvision.datasets

        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            getattr(torchvision.datasets, torchvision_name)(str(directory), download=True)
    except (ImportError, OSError, RuntimeError) as error:
        causes = " ".join(line for line in printed.getvalue().splitlines() if "rror" in line)
        return f"the download by torchvision failed: {' '.join(str(error).split())} {causes}".rstrip(" .")
    finally:
        socket.setdefaulttimeout(waited)
    return None
