"""IDX files are read whatever their layout, and believed only where header and length agree."""

from __future__ import annotations

import gzip
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from written_data import Bytes, to_idx, write_idx

from raysweep.data.idx import IdxFile
from raysweep.data.sources import open_source
from raysweep.errors import DataError, DataUnavailable
from raysweep.spec.sections import DataSpec


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("layout", ["", "raw", "MNIST/raw"])
def test_every_layout_yields_the_same_images(tmp_path: Path, cache: Path, layout: str, gzipped: bool) -> None:
    contents = write_idx(tmp_path / "mnist" / layout, gzipped=gzipped)
    source = open_source(DataSpec(dataset="mnist", root=str(tmp_path / "mnist")))
    chunks = list(source.chunks(lambda images: images))

    assert (source.counts, source.channels, source.size) == ((80, 20), 1, "28x28")
    images = np.concatenate([chunk.images for chunk in chunks])
    expected = np.concatenate([contents["train-images-idx3-ubyte"], contents["t10k-images-idx3-ubyte"]])
    np.testing.assert_array_equal(images[..., 0], expected)
    assert [len(chunk.images) for chunk in chunks if chunk.official_test] == [20]
    labels = np.concatenate([chunk.labels for chunk in chunks if chunk.labels is not None])
    assert labels.tolist() == [*(number % 10 for number in range(60)), *(number % 10 for number in range(20))]


def test_fashion_mnist_is_found_in_its_own_torchvision_directory(tmp_path: Path, cache: Path) -> None:
    write_idx(tmp_path / "MNIST/raw", train=5, test=3)
    write_idx(tmp_path / "FashionMNIST/raw", train=7, test=4)
    fashion = open_source(DataSpec(dataset="fashion_mnist", root=str(tmp_path)))
    assert fashion.counts.images == 11
    assert fashion.classes[0] == "T-shirt/top"
    assert open_source(DataSpec(dataset="mnist", root=str(tmp_path))).counts.images == 8


def test_files_with_a_dot_in_their_names_are_found_too(tmp_path: Path, cache: Path) -> None:
    write_idx(tmp_path)
    for path in list(tmp_path.glob("*-idx*")):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert open_source(DataSpec(dataset="mnist", root=str(tmp_path))).counts.images == 80


def test_the_download_directory_is_searched_without_a_root(cache: Path) -> None:
    write_idx(cache / "downloads/mnist/MNIST/raw")
    assert open_source(DataSpec(dataset="mnist")).counts.images == 80


def test_the_fingerprint_is_of_the_content(tmp_path: Path, cache: Path) -> None:
    spec = DataSpec(dataset="mnist", root=str(tmp_path))
    write_idx(tmp_path)
    before = open_source(spec).fingerprint
    assert open_source(spec).fingerprint == before
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x03")
    assert open_source(spec).fingerprint != before


def test_a_set_without_one_of_its_files_is_unavailable_and_says_which_files_it_needs(
    tmp_path: Path, cache: Path
) -> None:
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataUnavailable) as raised:
        open_source(DataSpec(dataset="mnist", root=str(tmp_path), download=False))
    message = str(raised.value)
    for part in (str(tmp_path), "t10k-labels-idx1-ubyte", "data.download is false", "mnist-5k", "digits"):
        assert part in message


@given(arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, max_side=12)), st.integers(1, 15), st.booleans())
@settings(deadline=None)
def test_what_is_written_as_idx_is_read_back(values: Bytes, rows: int, gzipped: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "values")
        path.write_bytes(gzip.compress(to_idx(values)) if gzipped else to_idx(values))
        file = IdxFile.open(path, values.ndim)
        np.testing.assert_array_equal(np.concatenate(list(file.rows(rows))), values)


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an IDX header has 16 bytes, the file has 0"),
        (b"\0\0\x08\x03", "the file has 4"),
        (b"not an IDX file at all", "magic number is 0x6e6f7420, expected 0x00000803"),
        (to_idx(np.zeros((2, 4), np.uint8)) + bytes(20), "magic number is 0x00000802"),
        (to_idx(np.zeros((2, 4, 4), np.uint8), (0, 4, 4)), "0 by 4 by 4, which are no images"),
        (to_idx(np.zeros((2, 4, 4), np.uint8), (1, 1, 2**31)), "no images"),
        (to_idx(np.zeros((2, 4, 4), np.uint8), (2**32 - 1, 4096, 4096)), "the header says"),
        (to_idx(np.zeros((2, 4, 4), np.uint8), (3, 4, 4)), "the header says 3 by 4 by 4"),
        (to_idx(np.zeros((2, 4, 4), np.uint8), (1, 4, 4)), "the header says 1 by 4 by 4"),
    ],
)
def test_a_lying_header_is_refused_by_name_and_costs_no_memory(
    tmp_path: Path, content: bytes, reason: str, gzipped: bool
) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(content) if gzipped else content)
    tracemalloc.start()
    with pytest.raises(DataError) as raised:
        list(IdxFile.open(path, 3).rows(1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(raised.value)
    assert reason in str(raised.value)
    assert peak < 1 << 20


def test_a_gzip_file_that_unpacks_to_more_than_promised_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(to_idx(np.zeros((1, 4, 4), np.uint8)) + bytes(64 << 20)))
    tracemalloc.start()
    with pytest.raises(DataError, match="goes on after that"):
        list(IdxFile.open(path, 3).rows(1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_gzip_file_is_an_error_of_ours(tmp_path: Path, damage: str) -> None:
    content = bytearray(gzip.compress(to_idx(np.random.default_rng(0).integers(0, 256, (50, 9, 9), np.uint8))))
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 0xFF
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        list(IdxFile.open(path, 3).rows(1000))


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path, cache: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(to_idx(np.full(60, 10, np.uint8)))
    source = open_source(DataSpec(dataset="mnist", root=str(tmp_path)))
    with pytest.raises(DataError, match="train-labels-idx1-ubyte: label 10, allowed: 0 to 9"):
        list(source.chunks(lambda images: images))


def test_images_and_labels_must_be_as_many(tmp_path: Path, cache: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(to_idx(np.zeros(59, np.uint8)))
    with pytest.raises(DataError, match="60 images, but train-labels-idx1-ubyte has 59 labels"):
        open_source(DataSpec(dataset="mnist", root=str(tmp_path)))
