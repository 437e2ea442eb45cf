"""Batches are the images of the cache, in [0, 1], without a copy of the data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.data.cache import prepare
from raysweep.data.tensors import ImageTensors, load_splits
from raysweep.errors import CacheError
from raysweep.spec.sections import DataSpec


@given(st.data())
@settings(deadline=None)
def test_gather_returns_the_images_that_were_asked_for_however_the_chunks_are_cut(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 40))
    chunk_rows = data.draw(st.integers(1, count))
    images = np.random.default_rng(count).integers(0, 256, (count, 3, 2, 2), np.uint8)
    labels = np.arange(count, dtype=np.int32)
    chunks = [images[start : start + chunk_rows] for start in range(0, count, chunk_rows)]
    split = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))), np.int64)
    wanted = data.draw(st.lists(st.integers(0, len(split) - 1), max_size=50))

    tensors = ImageTensors(chunks, split, "cpu", labels)
    batch = tensors.gather(torch.tensor(wanted, dtype=torch.int64))

    expected = torch.from_numpy(images[split[wanted]]).to(torch.float32) / 255
    torch.testing.assert_close(batch, expected)
    assert batch.dtype == torch.float32
    assert len(tensors) == len(split)
    assert tensors.shape == (3, 2, 2)
    assert tensors.labels is not None
    assert tensors.labels.tolist() == split.tolist()


def test_every_byte_becomes_a_number_in_the_unit_interval() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    batch = ImageTensors([images], np.arange(256), "cpu").gather(torch.arange(256)).flatten()
    assert batch[0] == 0
    assert batch[255] == 1
    assert (batch.diff() > 0).all()


@pytest.mark.parametrize("chunk_rows", [7, 1000])
def test_the_mean_image_is_the_mean_of_the_split_only(chunk_rows: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1000, 1, 4, 4), np.uint8)
    chunks = [images[start : start + chunk_rows] for start in range(0, 1000, chunk_rows)]
    split = np.arange(0, 1000, 3)
    mean = ImageTensors(chunks, split, "cpu").mean_image()
    assert mean.shape == (1, 4, 4)
    np.testing.assert_allclose(mean.numpy(), images[split].mean(axis=0) / 255, atol=1e-6)


def test_a_batch_is_the_callers_own_and_writing_to_it_leaves_the_file_alone(cache: Path) -> None:
    spec = DataSpec(dataset="digits")
    splits = load_splits(prepare(spec), spec, "cpu")
    before = splits.train.gather(torch.arange(4))
    splits.train.gather(torch.arange(4)).fill_(0.5)
    torch.testing.assert_close(splits.train.gather(torch.arange(4)), before)


def test_splits_of_a_cache_file_cover_it(cache: Path) -> None:
    spec = DataSpec(dataset="digits", image_size=8, channels=3)
    splits = load_splits(prepare(spec), spec, "cpu")
    assert len(splits.train) + len(splits.validation) + len(splits.test) == splits.info.count == 1797
    assert splits.train.shape == (3, 8, 8)


def test_a_tensor_on_the_cpu_shares_the_memory_of_the_map(cache: Path) -> None:
    spec = DataSpec(dataset="digits")
    splits = load_splits(prepare(spec), spec, "cpu")
    mapped = {part._chunks[0].data_ptr() for part in (splits.train, splits.validation, splits.test)}
    assert len(mapped) == 1, "each split made its own copy"


def test_a_file_of_another_specification_is_refused_by_name(cache: Path) -> None:
    path = prepare(DataSpec(dataset="digits", image_size=8))
    with pytest.raises(CacheError, match=r"digits-.*arrow: holds digits as 1x8x8.* asks for digits as 1x32x32"):
        load_splits(path, DataSpec(dataset="digits"), "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("chunk_rows", [100, 1000])
def test_a_gpu_yields_the_same_batches_as_the_cpu(chunk_rows: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1000, 3, 8, 8), np.uint8)
    labels = (np.arange(1000) % 10).astype(np.int32)
    chunks = [images[start : start + chunk_rows] for start in range(0, 1000, chunk_rows)]
    split = np.arange(0, 1000, 3)
    wanted = torch.randperm(len(split))
    on_cpu, on_gpu = (ImageTensors(chunks, split, device, labels) for device in ("cpu", "cuda"))
    assert on_gpu.gather(wanted).is_cuda
    torch.testing.assert_close(on_gpu.gather(wanted.cuda()).cpu(), on_cpu.gather(wanted))
    torch.testing.assert_close(on_gpu.mean_image().cpu(), on_cpu.mean_image())
