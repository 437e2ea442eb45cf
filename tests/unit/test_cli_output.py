"""Standard output on a full disk, in a pipe that nobody reads, and closed; a working directory that is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.test_cli import grid_sweep, grid_text

ROOT = Path(__file__).parents[2]
OUT, ERROR = 1, 2


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> str:
    return grid_sweep(tmp_path_factory.mktemp("sweeps") / "one", grid_text())


def to_a_full_disk(stream: int) -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), stream)


def to_a_pipe_without_a_reader(stream: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, stream)


WAYS: dict[str, tuple[Callable[[int], None], str]] = {
    "full disk": (to_a_full_disk, "No space left on device"),
    "no reader": (to_a_pipe_without_a_reader, "what reads it has ended"),
    "closed": (os.close, "it is closed; to show nothing, add: > /dev/null"),
}


def run(*arguments: str, streams: tuple[int, ...], way: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m raysweep` with these of its standard streams made so."""

    def prepare() -> None:
        for stream in streams:
            WAYS[way][0](stream)

    return subprocess.run(
        [sys.executable, "-m", "raysweep", *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120, check=False, preexec_fn=prepare,
    )  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("command", ["--help", "data list", "best SWEEP"])
def test_an_output_that_cannot_be_written_is_one_message_and_exit_code_1(way: str, command: str, sweep: str) -> None:
    done = run(*command.replace("SWEEP", sweep).split(), streams=(OUT,), way=way)
    assert done.returncode == 1, done.stderr
    assert done.stderr == f"the output cannot be written: {WAYS[way][1]}\n"


@pytest.mark.parametrize("way", ["full disk", "closed"])
def test_where_a_message_cannot_be_written_the_exit_code_is_the_same(way: str, tmp_path: Path) -> None:
    assert run("status", str(tmp_path), streams=(ERROR,), way=way).returncode == 2
    assert run("data", "list", streams=(OUT, ERROR), way=way).returncode == 1


def test_a_reader_that_had_enough_leaves_one_line_of_what_happened(sweep: str) -> None:
    shell = f"{sys.executable} -m raysweep best {sweep} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", shell], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    first, code = done.stdout.splitlines()
    assert "elbo_nats" in first
    assert code in ("0", "1")  # the whole table may have been written before
    assert done.stderr in ("", "the output cannot be written: what reads it has ended\n")


def test_characters_that_the_output_has_not_are_spelled_out(sweep: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from raysweep.cli.output import guarded_output\n"
         "with guarded_output(): print('✓ holds')"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\u2713 holds\n", "")


def test_a_working_directory_that_is_gone_is_one_message(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    shell = f"cd {gone} && rmdir {gone} && exec {sys.executable} -m raysweep check x.yaml"
    done = subprocess.run(
        ["bash", "-c", shell], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "the working directory was removed; type: cd, to one that is there\n"
