"""Both versions of CIFAR-10 are read, and no pickle runs code."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written_data import write_cifar

from raysweep.data.cifar import read_batch
from raysweep.data.sources import open_source
from raysweep.errors import DataError, DataUnavailable
from raysweep.spec.sections import DataSpec


@pytest.mark.parametrize(
    ("version", "protocol", "layout"),
    [
        ("python", 2, "cifar-10-batches-py"),
        ("python", 4, "cifar-10-batches-py"),
        ("python", 5, ""),
        ("binary", 0, "cifar-10-batches-bin"),
        ("binary", 0, ""),
    ],
)
def test_every_layout_yields_the_same_images(
    tmp_path: Path, cache: Path, version: str, protocol: int, layout: str
) -> None:
    batches = write_cifar(tmp_path / layout, version, protocol)
    source = open_source(DataSpec(dataset="cifar10", root=str(tmp_path)))
    chunks = list(source.chunks(lambda images: images))

    assert (source.counts, source.channels) == ((120, 20), 3)
    assert [chunk.official_test for chunk in chunks] == [False] * 5 + [True]
    for chunk, (pixels, labels) in zip(chunks, batches, strict=True):
        np.testing.assert_array_equal(chunk.images, pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        assert chunk.labels is not None
        assert chunk.labels.tolist() == labels


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """The published files: text opcodes for bytes, and arrays from `numpy.core.multiarray`."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
    raw = pixels.tobytes()
    content = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87R"
        b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tbU\x06labelsq\x05]q\x06(K\x03K\x07eu."
    )
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    images, labels = read_batch(path)
    np.testing.assert_array_equal(images, pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    assert labels.tolist() == [3, 7]


class _Runs:
    """A pickle that makes a directory when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_does_not_run(tmp_path: Path, cache: Path) -> None:
    write_cifar(tmp_path, "python")
    made = tmp_path / "made by the pickle"
    harmful = pickle.dumps({b"data": _Runs(made), b"labels": [0]}, 2)
    pickle.load(io.BytesIO(harmful))
    assert made.exists(), "the pickle would not have run anyway"
    made.rmdir()

    (tmp_path / "data_batch_3").write_bytes(harmful)
    with pytest.raises(DataError, match=r"data_batch_3: not a CIFAR-10 batch: asks for posix\.mkdir"):
        _ = open_source(DataSpec(dataset="cifar10", root=str(tmp_path))).counts
    assert not made.exists()


@pytest.mark.parametrize(
    "name", ["builtins eval", "builtins getattr", "os system", "numpy load", "numpy.core.multiarray scalar"]
)
def test_nothing_but_arrays_of_bytes_can_be_named(tmp_path: Path, name: str) -> None:
    module, attribute = name.split()
    path = tmp_path / "data_batch_1"
    path.write_bytes(f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(DataError, match=f"asks for {module}.{attribute}"):
        read_batch(path)


@pytest.mark.parametrize(
    "batch",
    [
        [],
        {b"labels": [0]},
        {b"data": b"no array", b"labels": [0]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
        {b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]},
        {b"data": np.zeros((2, 3071), np.uint8), b"labels": [0, 1]},
        {b"data": np.zeros((0, 3072), np.uint8), b"labels": []},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, "cat"]},
    ],
    ids=range(9),
)
def test_a_pickle_of_something_else_is_refused_by_name(tmp_path: Path, batch: Any) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(DataError, match="data_batch_1: "):
        read_batch(path)


@given(st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_pickle_is_refused_or_still_a_batch(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [3]}, 2))
    offset = data.draw(st.integers(0, 250) | st.integers(len(content) - 40, len(content) - 1))
    content[offset] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        images, labels = read_batch(path)
        assert len(images) == len(labels)


def test_a_text_with_a_wrong_escape_is_read_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(b"S'\\y'\n.")
    with pytest.raises(DataError, match="data_batch_1: "):
        read_batch(path)


def test_a_pickle_that_numbers_an_object_in_the_billions_makes_no_table_of_that_size(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\xff.")
    with pytest.raises(DataError, match="not a CIFAR-10 batch: has no 'data'"):
        read_batch(path)


@pytest.mark.parametrize("size", [0, 3072, 3074])
def test_a_binary_batch_must_be_whole_records(tmp_path: Path, cache: Path, size: int) -> None:
    write_cifar(tmp_path, "binary")
    (tmp_path / "test_batch.bin").write_bytes(bytes(size))
    with pytest.raises(DataError, match=f"test_batch.bin: {size} bytes are not a whole number of records"):
        _ = open_source(DataSpec(dataset="cifar10", root=str(tmp_path))).counts


def test_without_files_it_is_unavailable_and_says_where_to_put_them(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataUnavailable, match="cifar-10-batches-py or cifar-10-batches-bin"):
        open_source(DataSpec(dataset="cifar10", root=str(tmp_path), download=False))
