"""Files that cannot be written any further: what was whole stays whole, and what failed is said once.

A limit on the size of files stands for the end of the disk, which every user may set: the write that crosses it fails.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from raysweep.driver.logfile import LogFile
from raysweep.errors import StorageError
from raysweep.report.tensorboard.events import EventFile
from raysweep.storage.layout import storage_errors, write_atomically
from raysweep.storage.tensorfile import read_tensors, write_tensors


@contextmanager
def files_end_at(limit_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def record_lengths(content: bytes) -> list[int]:
    """Of an event file that is whole to its end."""
    lengths, place = [], 0
    while place < len(content):
        length = int.from_bytes(content[place : place + 8], "little")
        end = place + 16 + length
        assert end <= len(content), "half a record"
        assert int.from_bytes(content[end - 4 : end], "little") == masked_crc32c(content[place + 12 : end - 4])
        lengths.append(length)
        place = end
    return lengths


def event(step: int) -> Event:
    return Event(step=step, summary=Summary(value=[Summary.Value(tag="x" * 50, simple_value=1.0)]))


def test_an_event_file_on_a_full_disk_keeps_its_whole_records_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "run")
    file.add(event(1))
    size = file.path.stat().st_size
    for room in (0, 1, 11, 12, 40):
        with files_end_at(size + room), pytest.raises(OSError, match="File too large"):
            file.add(event(2))
        assert file.path.stat().st_size == size
    file.add(event(3))
    file.close()
    assert len(record_lengths(file.path.read_bytes())) == 3


def test_a_run_of_a_sweep_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        EventFile(tmp_path / "gone" / "tensorboard" / "0000")
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_do_not_fit_leave_the_file_before_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "epoch-000001.safetensors"
    write_tensors(path, {"x": torch.ones(10)}, {"a": 1})
    with files_end_at(5_000), pytest.raises(StorageError, match="File too large"):
        write_tensors(path, {"x": torch.zeros(10_000)}, {"a": 2})
    tensors, header = read_tensors(path)
    assert header == {"a": 1}
    assert torch.equal(tensors["x"], torch.ones(10))
    assert [place.name for place in tmp_path.iterdir()] == [path.name]


def test_a_log_that_cannot_be_written_is_silent_and_says_later_what_it_lacks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "raysweep.log"
    logger = logging.Logger("full", logging.INFO)
    handler = LogFile(path)
    logger.addHandler(handler)
    logger.info("before")
    with files_end_at(path.stat().st_size):
        for _ in range(3):
            logger.info("lost")
    logger.info("after")
    handler.close()
    assert path.read_text() == "before\n3 lines could not be written here\nafter\n"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("place", ["no/such/folder/raysweep.log", "a file/raysweep.log"])
def test_a_log_that_cannot_be_opened_disturbs_nobody(
    tmp_path: Path, place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").touch()
    logger = logging.Logger("nowhere", logging.INFO)
    handler = LogFile(tmp_path / place)
    logger.addHandler(handler)
    logger.info("one")
    logger.info("two")
    assert handler.lost == 2
    handler.close()
    assert capfd.readouterr() == ("", "")


def test_a_log_begins_again_where_its_directory_comes_back(tmp_path: Path) -> None:
    logger = logging.Logger("back", logging.INFO)
    handler = LogFile(tmp_path / "later" / "raysweep.log")
    logger.addHandler(handler)
    logger.info("lost")
    (tmp_path / "later").mkdir()
    logger.info("kept")
    handler.close()
    assert handler.baseFilename == str(tmp_path / "later" / "raysweep.log")
    assert (tmp_path / "later" / "raysweep.log").read_text().endswith("kept\n")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "x"), "No space left on device"),
        (OSError(2, "x"), "was the directory moved, or its disk taken away?"),
        (OSError(107, "x"), "was the directory moved, or its disk taken away?"),
        (OSError("pyarrow says: no space\nsecond line"), "cannot be written: pyarrow says: no space$"),
    ],
)
def test_every_way_of_not_writing_is_one_line(tmp_path: Path, error: OSError, reason: str) -> None:
    with pytest.raises(StorageError, match=reason) as caught, storage_errors(tmp_path):
        raise error
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_cannot_be_removed_either_hides_no_error(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "file"
    path.parent.mkdir()
    with pytest.raises(StorageError, match="No such file or directory"):
        _write_while_it_is_moved(path)


def _write_while_it_is_moved(path: Path) -> None:
    from raysweep.storage.layout import replacing

    with replacing(path) as temporary:
        path.parent.rename(path.parent.with_name("elsewhere"))
        temporary.write_bytes(b"x")


def test_writing_on_works_after_a_failure(tmp_path: Path) -> None:
    with files_end_at(10), pytest.raises(StorageError):
        write_atomically(tmp_path / "file", bytes(100))
    write_atomically(tmp_path / "file", bytes(100))
    assert (tmp_path / "file").stat().st_size == 100
