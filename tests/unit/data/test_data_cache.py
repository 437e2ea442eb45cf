"""A cache file holds exactly the images, is built once, is mapped and not copied, and is never trusted when damaged."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_data import write_idx, write_image

from raysweep.data import cachefile
from raysweep.data.cache import cached_files, open_cache, prepare
from raysweep.data.cachefile import write_cache
from raysweep.data.images import Chunk, Counts, Fitting, Source, Transform
from raysweep.errors import CacheError, DataError, StorageError
from raysweep.spec.sections import DataSpec

SMALL = DataSpec(dataset="digits", image_size=8)


class DrawnSource(Source):
    """Random images, cut into chunks at random."""

    name, origin, size, fingerprint = "drawn", "a test", "8x8", "f" * 64

    def __init__(self, seed: int, chunk_sizes: list[int], channels: Any, labelled: bool) -> None:
        random = np.random.default_rng(seed)
        self.channels = channels
        self.classes = ("a", "b", "ü") if labelled else ()
        self.parts = [
            Chunk(
                random.integers(0, 256, (size, 8, 8, channels), np.uint8),
                random.integers(0, 3, size).astype(np.int32) if labelled else None,
                bool(random.integers(2)),
            )
            for size in chunk_sizes
        ]
        self.counts = Counts(sum(chunk_sizes), sum(len(part.images) for part in self.parts if part.official_test))

    def chunks(self, transform: Transform) -> Iterator[Chunk]:
        for part in self.parts:
            yield Chunk(transform(part.images), part.labels, part.official_test)


@given(
    seed=st.integers(0, 1000),
    chunk_sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    channels=st.sampled_from([1, 3]),
    labelled=st.booleans(),
    batch_rows=st.integers(1, 40),
)
@settings(deadline=None, max_examples=60)
def test_what_is_written_is_read_back(
    seed: int, chunk_sizes: list[int], channels: Any, labelled: bool, batch_rows: int
) -> None:
    source = DrawnSource(seed, chunk_sizes, channels, labelled)
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cachefile, "BATCH_BYTES", batch_rows * channels * 64)
        path = Path(directory, "drawn.arrow")
        write_cache(path, source, Fitting(8, channels, "pad"))
        cache = open_cache(path, verify=True)

        images = np.concatenate([part.images for part in source.parts]).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(np.concatenate(cache.chunks), images)
        assert {len(chunk) for chunk in cache.chunks[:-1]} <= {batch_rows}
        assert len(cache.chunks[-1]) <= batch_rows
        tests = [part.official_test for part in source.parts for _ in part.images]
        assert cache.official_test.tolist() == tests
        if labelled:
            assert cache.labels is not None
            assert cache.labels.dtype == np.int32
            labels = [label for part in source.parts if part.labels is not None for label in part.labels]
            assert cache.labels.tolist() == labels
        else:
            assert cache.labels is None
        assert (cache.info.count, cache.info.shape) == (len(images), (channels, 8, 8))
        assert (cache.info.dataset, cache.info.origin, cache.info.classes) == ("drawn", "a test", source.classes)
        assert [file.name for file in Path(directory).iterdir()] == ["drawn.arrow"]


def test_any_arrow_reader_reads_it(cache: Path) -> None:
    with pa.ipc.open_file(prepare(SMALL)) as reader:
        table = reader.read_all()
    assert table.num_rows == 1797
    assert table.schema.names == ["image", "label", "official_test"]
    assert len(table["image"][0]) == 64
    assert table.schema.metadata[b"origin"] == b"digits.csv.gz of the installed scikit-learn package"


def test_official_test_images_are_marked(tmp_path: Path, cache: Path) -> None:
    write_idx(tmp_path / "raw", train=30, test=12)
    opened = open_cache(prepare(DataSpec(dataset="mnist", root=str(tmp_path))))
    assert opened.official_test.tolist() == [False] * 30 + [True] * 12


def test_progress_reaches_the_number_of_images(cache: Path) -> None:
    steps: list[tuple[int, int]] = []
    prepare(DataSpec(dataset="mnist-5k"), lambda done, total: steps.append((done, total)))
    assert steps[-1] == (5000, 5000)
    assert steps == sorted(steps)


def test_a_second_call_finds_the_file_and_builds_nothing(cache: Path) -> None:
    path = prepare(SMALL)
    built = path.stat()
    assert prepare(SMALL, lambda done, total: pytest.fail("built again")) == path
    assert path.stat().st_mtime_ns == built.st_mtime_ns
    assert [file for file in cache.iterdir() if file.suffix == ".arrow"] == [path]


@pytest.mark.parametrize(
    "change", [{"image_size": 16}, {"channels": 3}, {"fit": "pad"}, {"image_size": 32, "dataset": "mnist-5k"}]
)
def test_another_preprocessing_is_another_file(cache: Path, change: dict[str, Any]) -> None:
    assert prepare(SMALL.model_copy(update=change)) != prepare(SMALL)


def test_another_split_is_the_same_file(cache: Path) -> None:
    other = SMALL.model_copy(update={"split_seed": 1, "validation_fraction": 0.2, "channels": 1})
    assert prepare(other) == prepare(SMALL)


def _prepare_at_once(barrier: Barrier, answers: Queue[tuple[str, bool, str]]) -> None:
    built = False

    def note(done: int, total: int) -> None:
        nonlocal built
        built = True

    barrier.wait()
    path = prepare(SMALL, note)
    answers.put((str(path), built, open_cache(path, verify=True).info.checksum))


def test_processes_that_start_at_once_build_it_once_and_agree(cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_prepare_at_once, args=(barrier, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    results = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    answers.close()
    answers.join_thread()
    assert [process.exitcode for process in processes] == [0] * 4
    assert sum(built for _, built, _ in results) == 1
    assert len({(path, checksum) for path, _, checksum in results}) == 1


def test_a_build_that_fails_or_was_killed_leaves_nothing_behind(tmp_path: Path, cache: Path) -> None:
    spec = DataSpec(dataset="folder", root=str(tmp_path / "images"), image_size=8)
    write_image(tmp_path / "images/a.png")
    broken = tmp_path / "images/b.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError):
        prepare(spec)
    assert [file.suffix for file in cache.iterdir()] == [".lock"]

    broken.unlink()
    path = prepare(spec)
    killed = path.with_name(f".{path.name}.12345678.tmp")
    killed.write_bytes(b"half a file")
    path.unlink()
    assert prepare(spec) == path
    assert not killed.exists()


def test_truncation_anywhere_is_refused_by_name(cache: Path, tmp_path: Path) -> None:
    content = prepare(SMALL).read_bytes()
    path = tmp_path / "truncated.arrow"
    offsets = {*range(0, 64, 7), *range(len(content) - 2000, len(content), 97)}
    for offset in offsets | set(np.linspace(0, len(content) - 1, 60, dtype=int).tolist()):
        path.write_bytes(content[:offset])
        with pytest.raises(CacheError, match=r"truncated\.arrow"):
            open_cache(path)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_flipped_byte_is_refused_or_harmless(small_file: bytes, data: st.DataObject) -> None:
    """Padding, and the copy of the schema that only stream readers use, are under no checksum."""
    # Half of the flips hit the file's last part, where the footer with its promises is.
    near_end = st.integers(len(small_file) - 3000, len(small_file) - 1)
    offset = data.draw(st.integers(0, len(small_file) - 1) | near_end)
    damaged = bytearray(small_file)
    damaged[offset] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as directory:
        whole, flipped = Path(directory, "whole.arrow"), Path(directory, "flipped.arrow")
        whole.write_bytes(small_file)
        flipped.write_bytes(damaged)
        expected = open_cache(whole, verify=True)
        before = pa.total_allocated_bytes()
        try:
            found = open_cache(flipped, verify=True)
        except CacheError as error:
            refused = str(error)
            assert "flipped.arrow: " in refused
        else:
            assert found.info == expected.info
            np.testing.assert_array_equal(np.concatenate(found.chunks), np.concatenate(expected.chunks))
        assert pa.total_allocated_bytes() - before < 1 << 20


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYSWEEP_CACHE", str(tmp_path_factory.mktemp("small")))
        patch.setattr(cachefile, "BATCH_BYTES", 64 * 600)
        return prepare(SMALL).read_bytes()


def test_a_flipped_pixel_is_found(cache: Path) -> None:
    path = prepare(SMALL)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    open_cache(path)
    with pytest.raises(CacheError, match="does not match its checksum"):
        open_cache(path, verify=True)


def rewrite(path: Path, **metadata: str) -> None:
    """Writes a cache file again with other metadata."""
    with pa.ipc.open_file(path.read_bytes()) as reader:
        table = reader.read_all()
    schema = table.schema.with_metadata({**table.schema.metadata, **{key.encode(): metadata[key] for key in metadata}})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table.cast(schema))


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"format_version": "0"}, "format version 0, this raysweep reads 1"),
        ({"format_version": "two"}, "format version two, this raysweep reads 1"),
        ({"count": "1000000000000"}, "promises 1000000000000 images of 1x8x8"),
        ({"count": "1796"}, "promises 1796 images"),
        ({"count": "-1"}, "promises -1 images"),
        ({"height": "4"}, "its columns are not those"),
        ({"height": "4", "width": "16"}, "does not match its seal"),
        ({"width": "100000000"}, "promises 1797 images"),
        ({"channels": "three"}, "not a readable cache file"),
        ({"classes": "["}, "not a readable cache file"),
        ({"classes": "[1]"}, "not a readable cache file"),
        ({"classes": '["0"]'}, "does not match its seal"),
        ({"origin": "elsewhere"}, "does not match its seal"),
    ],
)
def test_a_header_that_lies_is_refused_by_name_and_the_file_built_again(
    cache: Path, metadata: dict[str, str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = prepare(SMALL)
    content = path.read_bytes()
    rewrite(path, **metadata)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CacheError) as raised:
        open_cache(path, verify=True)
    assert str(path) in str(raised.value)
    assert reason in str(raised.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000

    with caplog.at_level(logging.WARNING, logger="raysweep"):
        assert prepare(SMALL) == path
    assert path.name in caplog.text
    assert reason in caplog.text
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0", b"no arrow file" * 100])
def test_a_file_of_something_else_is_refused_and_replaced(cache: Path, content: bytes) -> None:
    path = prepare(SMALL)
    path.write_bytes(content)
    with pytest.raises(CacheError, match=path.name):
        open_cache(path)
    assert open_cache(prepare(SMALL), verify=True).info.count == 1797


def test_the_checksum_is_of_the_images_wherever_they_came_from(tmp_path: Path, cache: Path) -> None:
    """A sweep that is resumed on another machine compares it."""
    for number in range(4):
        write_image(tmp_path / f"here/{number % 2}/{number}.png", seed=number)
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)
    os.utime(tmp_path / "there/0/0.png", (1, 1))
    paths = [
        prepare(DataSpec(dataset="folder", root=str(tmp_path / place), image_size=8)) for place in ("here", "there")
    ]
    assert paths[0] != paths[1]
    here, there = (open_cache(path, verify=True).info for path in paths)
    assert here.checksum == there.checksum
    write_image(tmp_path / "there/0/0.png", seed=9)
    changed = open_cache(prepare(DataSpec(dataset="folder", root=str(tmp_path / "there"), image_size=8))).info
    assert changed.checksum != here.checksum


def test_a_missing_file_is_a_cache_error(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"absent\.arrow"):
        open_cache(tmp_path / "absent.arrow")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_images_are_views_of_the_mapped_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cachefile, "BATCH_BYTES", 1 << 20)
    path = prepare(DataSpec(dataset="mnist-5k"))
    allocated = pa.total_allocated_bytes()
    opened = open_cache(path)
    assert pa.total_allocated_bytes() == allocated

    lines = Path("/proc/self/maps").read_text().splitlines()
    ranges = [line.split()[0].split("-") for line in lines if path.name in line]
    maps = [(int(start, 16), int(end, 16)) for start, end in ranges]
    assert len(opened.chunks) == 5
    for chunk in opened.chunks:
        address = chunk.__array_interface__["data"][0]
        assert any(start <= address and address + chunk.nbytes <= end for start, end in maps)
        assert not chunk.flags.writeable
        assert not chunk.flags.owndata


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_all_images_adds_no_private_memory(cache: Path) -> None:
    opened = open_cache(prepare(DataSpec(dataset="mnist-5k", image_size=64)))
    size = sum(chunk.nbytes for chunk in opened.chunks)
    before = _private_bytes()
    assert sum(int(chunk[::, 0, 0, ::16].sum()) for chunk in opened.chunks) >= 0
    assert size > 20_000_000
    assert _private_bytes() - before < size // 4


def _private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


def test_cached_files_lists_the_sound_and_the_broken(cache: Path) -> None:
    assert cached_files() == []
    sound = prepare(SMALL)
    broken = cache / "mnist-5k-000000000000.arrow"
    broken.write_bytes(b"no arrow file")
    (cache / ".digits-1.arrow.spool").write_bytes(b"")

    files = {file.path: file for file in cached_files()}

    assert set(files) == {sound, broken}
    assert (files[sound].dataset, files[sound].count, files[sound].shape) == ("digits", 1797, (1, 8, 8))
    assert files[sound].cache_bytes == sound.stat().st_size
    assert files[sound].fault is None
    assert (files[broken].dataset, files[broken].count, files[broken].shape) == ("mnist-5k", None, None)
    assert files[broken].fault is not None
    assert str(cache) not in files[broken].fault


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_cache_directory_that_cannot_be_made_is_an_error_that_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / place))
    with pytest.raises(StorageError, match="set RAYSWEEP_CACHE to a directory"):
        prepare(SMALL)


def test_a_full_disk_is_a_storage_error_and_leaves_no_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Iterator[pa.RecordBatch]:
        raise OSError(errno.ENOSPC, "no space left")
        yield

    monkeypatch.setattr(cachefile, "_batches", full)
    with pytest.raises(StorageError, match=r"digits-.*arrow: cannot be written: No space left"):
        prepare(SMALL)
    assert [file.suffix for file in cache.iterdir()] == [".lock"]


def test_a_root_whose_name_is_not_utf_8_can_be_prepared(tmp_path: Path, cache: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    for number in range(2):
        write_image(root / os.fsdecode(b"\xff") / f"{number}.png")
    opened = open_cache(prepare(DataSpec(dataset="folder", root=str(root), image_size=8)), verify=True)
    assert opened.info.classes == (os.fsdecode(b"\xff"),)
    assert "caf\\udce9" in opened.info.origin
