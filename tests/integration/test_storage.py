"""A disk that fills up, turns read-only or vanishes under a sweep: one message, nothing truncated, and a resume."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

import raysweep
from raysweep.metrics import TrialState
from tests.integration.conftest import TINY, call_raysweep, start_raysweep
from tests.integration.outcomes import curves

TEXT = (
    TINY.replace("tiny", "long")
    .replace("trials: 5", "trials: 3")
    .replace("d_size: 4", "d_size: 4\n  epochs: 30")
    .replace("early_stopping: {asha: {max_epochs: 4, grace_epochs: 1, reduction_factor: 2}}", "sampler: random")
)


def mount(*arguments: str | Path) -> bool:
    return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB, which every process of the machine sees."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "small disk"
    disk.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=6m", "raysweep-test", disk):
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield disk
    finally:
        while subprocess.run(["umount", "-l", disk], check=False, capture_output=True).returncode == 0:
            pass


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> raysweep.Sweep:
    """The sweep as it is when nothing happens to it: its points depend on the trials' numbers alone."""
    place = tmp_path_factory.mktemp("undisturbed")
    (place / "long.yaml").write_text(TEXT)
    ran = call_raysweep("run", "long.yaml", cwd=place)
    assert ran.returncode == 0, ran.stderr
    return raysweep.open_sweep(place / "results/long")


def fill(disk: Path, leave_bytes: int = 0) -> Path:
    """Takes all room there is on a disk."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
        if leave_bytes:
            file.truncate(file.tell() - leave_bytes)
    return filler


def assert_whole(root: Path) -> None:
    """Every file that a reader can see is whole; of event files and the journal, up to the last line or record."""
    for path in root.rglob("*"):
        if path.name.startswith(".") or path.is_dir():
            continue
        if path.suffix == ".safetensors":
            assert load_file(path)
        elif path.suffix == ".parquet":
            pq.read_table(path)
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif "tfevents" in path.name:
            assert read_records(path.read_bytes()) == path.stat().st_size, path
        elif path.name == "study.journal":
            *lines, _ = path.read_bytes().split(b"\n")
            assert all(isinstance(json.loads(line), dict) for line in lines)


def read_records(content: bytes) -> int:
    """Bytes of whole records at the beginning of an event file."""
    place = 0
    while place + 16 <= len(content):
        length = struct.unpack_from("<Q", content, place)[0]
        data = content[place + 12 : place + 12 + length]
        end = place + 16 + length
        if end > len(content) or struct.unpack_from("<I", content, end - 4)[0] != masked_crc32c(data):
            break
        place = end
    return place


def start_sweep(place: Path, output: Path) -> subprocess.Popen[str]:
    """A sweep that has begun to train, its first trial in the third epoch."""
    (place / "long.yaml").write_text(TEXT)
    process = start_raysweep("run", "long.yaml", "--output", output, cwd=place)
    deadline = time.monotonic() + 120
    while not (output / "trials/0000/epoch-000003.safetensors").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def assert_stopped(process: subprocess.Popen[str], reason: str) -> None:
    """The driver has ended with one message and exit code 1."""
    out, err = process.communicate(timeout=90)
    assert process.returncode == 1, out + err
    assert reason in err
    assert len(err.strip().splitlines()) == 1, err
    assert "Traceback" not in out + err
    assert "Logging error" not in out + err


def assert_same_end(sweep: raysweep.Sweep, undisturbed: raysweep.Sweep) -> None:
    assert [record.state for record in sweep.records] == [TrialState.COMPLETED] * 3
    assert curves(sweep).equals(curves(undisturbed))


def resumed(root: Path, cwd: Path) -> raysweep.Sweep:
    ended = call_raysweep("resume", root, cwd=cwd)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return raysweep.open_sweep(root)


@pytest.mark.parametrize("left_bytes", [0, 40_000, 200_000])
def test_a_full_disk_stops_the_sweep_with_one_message_and_resume_goes_on_when_there_is_room(
    tmp_path: Path, small_disk: Path, undisturbed: raysweep.Sweep, left_bytes: int
) -> None:
    """With some room left, what fails is another file: a picture, a checkpoint's second half, a record."""
    root = small_disk / "results"
    process = start_sweep(tmp_path, root)
    filler = fill(small_disk, left_bytes)
    assert_stopped(process, "No space left on device")
    assert_whole(root)
    # On the full disk still: a reader is not disturbed, a writer says the same.
    assert call_raysweep("status", root, cwd=tmp_path).returncode == 0
    fill(small_disk)
    refused = call_raysweep("resume", root, cwd=tmp_path)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert_whole(root)
    filler.unlink()
    sweep = resumed(root, tmp_path)
    assert_same_end(sweep, undisturbed)
    assert_whole(root)


def test_a_disk_that_turns_read_only_stops_the_sweep_and_resume_goes_on(
    tmp_path: Path, small_disk: Path, undisturbed: raysweep.Sweep
) -> None:
    root = small_disk / "results"
    process = start_sweep(tmp_path, root)
    # The kernel turns no file system read-only while it is written; a second view of it on top, it does.
    assert mount("--bind", small_disk, small_disk)
    deadline = time.monotonic() + 30
    while not mount("-o", "remount,bind,ro", small_disk):  # nor a view through which a file is just being written
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert_stopped(process, "Read-only file system")
    assert_whole(root)
    assert call_raysweep("status", root, cwd=tmp_path).returncode == 0
    refused = call_raysweep("resume", root, cwd=tmp_path)
    assert refused.returncode == 1
    assert "Read-only file system" in refused.stderr
    assert "Traceback" not in refused.stderr
    subprocess.run(["umount", "-l", small_disk], check=True)
    assert_same_end(resumed(root, tmp_path), undisturbed)


def test_a_disk_that_is_unmounted_leaves_no_second_sweep_at_its_mount_point(
    tmp_path: Path, small_disk: Path, undisturbed: raysweep.Sweep
) -> None:
    """The sweep's own directory is the mount point, which stays when the disk is gone: writing there would succeed."""
    kept = tmp_path / "the same disk"
    kept.mkdir()
    assert mount("--bind", small_disk, kept)
    process = start_sweep(tmp_path, small_disk)
    subprocess.run(["umount", "-l", small_disk], check=True)
    try:
        assert_stopped(process, "taken away?")
        assert list(small_disk.rglob("*")) == []
        assert_whole(kept)
        assert_same_end(resumed(kept, tmp_path), undisturbed)
    finally:
        subprocess.run(["umount", "-l", kept], check=True)


def test_a_directory_that_is_moved_away_is_not_made_anew_and_goes_on_where_it_is_now(
    tmp_path: Path, undisturbed: raysweep.Sweep
) -> None:
    root = tmp_path / "results" / "long"
    process = start_sweep(tmp_path, root)
    root.rename(tmp_path / "elsewhere")
    assert_stopped(process, "moved")
    assert not root.exists()
    assert_whole(tmp_path / "elsewhere")
    assert_same_end(resumed(tmp_path / "elsewhere", tmp_path), undisturbed)


def test_a_full_disk_of_the_cache_stops_before_the_sweep_begins(tmp_path: Path, small_disk: Path) -> None:
    fill(small_disk, 100_000)
    (tmp_path / "long.yaml").write_text(TEXT)
    ran = call_raysweep("run", "long.yaml", cwd=tmp_path, RAYSWEEP_CACHE=str(small_disk / "cache"))
    assert ran.returncode == 1
    assert "No space left on device" in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1, ran.stderr
    assert not (tmp_path / "results").exists()
    assert [path for path in (small_disk / "cache").iterdir() if path.suffix != ".lock"] == []


def test_a_report_on_a_full_disk_is_one_message_and_leaves_the_old_one(
    tmp_path: Path, small_disk: Path, undisturbed: raysweep.Sweep
) -> None:
    import shutil

    root = small_disk / "results"
    shutil.copytree(undisturbed.directory.root, root)
    before = contents(root / "report")
    fill(small_disk)
    ran = call_raysweep("report", root, cwd=tmp_path)
    assert ran.returncode == 1
    assert "No space left on device" in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1, ran.stderr
    assert contents(root / "report") == before
    assert [path for path in root.iterdir() if path.name.startswith(".tensorboard")] == []


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
