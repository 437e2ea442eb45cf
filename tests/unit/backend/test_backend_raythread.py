"""Calls that may hang: each has a deadline, hears signals, and ends with the processes that it waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from raysweep.backend import raythread
from raysweep.backend.raythread import RayProcessDied, RayThread, is_stuck
from raysweep.backend.signals import Interrupted, interrupting


def hang_until(event: threading.Event) -> None:
    event.wait(30)


def test_a_call_gives_what_it_returns_and_raises_what_it_raises() -> None:
    thread = RayThread()
    assert thread.call(lambda: threading.current_thread().name, 5) == "raysweep-ray"
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 // 0, 5)
    assert thread.call(lambda: "still there", 5) == "still there"
    thread.close()
    assert not is_stuck()


def test_a_call_that_does_not_come_back_is_given_up_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raythread, "LAST_WORD_S", 0.1)
    let_go, thread = threading.Event(), RayThread()
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"longer than 0\.2 s"):
        thread.call(lambda: hang_until(let_go), 0.2)
    assert time.monotonic() - begun < 2
    assert thread.is_stuck
    assert is_stuck()
    let_go.set()
    thread.close()
    assert not is_stuck(), "it came back after all"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_for_a_call_that_hangs_and_kills_what_it_had_started(number: signal.Signals) -> None:
    thread = RayThread()
    with subprocess.Popen(["sleep", "60"]) as child:
        thread.processes.append(child)
        begun = time.monotonic()
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        with pytest.raises(Interrupted) as stop, interrupting():
            thread.call(child.wait, 30)
        assert time.monotonic() - begun < 5
        assert stop.value.number == number
        assert child.wait(5) == -signal.SIGKILL
    thread.close()
    assert not is_stuck(), "what it waited for is gone"


def test_a_process_that_dies_ends_the_wait_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raythread, "LAST_WORD_S", 0.1)
    let_go, thread = threading.Event(), RayThread()
    with subprocess.Popen(["/bin/false"]) as child:
        thread.processes.append(child)
        with pytest.raises(RayProcessDied, match="its false ended with exit code 1"):
            thread.call(lambda: hang_until(let_go), 30, watching=True)
    assert thread.given_up.is_set()
    let_go.set()
    thread.close()


DEAF = """
import ctypes, sys
from pathlib import Path
from raysweep.backend.raythread import RayThread
thread = RayThread()
def connect():
    with thread.deaf(float(sys.argv[1]), Path("raylet.err"), "it did not start\\n"):
        print("deaf", flush=True)
        ctypes.PyDLL(None).sleep(int(sys.argv[2]))  # no other thread of Python runs meanwhile
    return "came back"
print(thread.call(connect, 60), flush=True)
"""


def deaf(tmp_path: Path, timeout_s: float, seconds: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DEAF, str(timeout_s), str(seconds)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_process_all_of_whose_threads_wait_for_ray(number: signal.Signals, tmp_path: Path) -> None:
    process = deaf(tmp_path, 60, 60)
    assert process.stdout is not None
    assert process.stdout.readline() == "deaf\n"
    process.send_signal(number)
    assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == -number


def test_a_process_all_of_whose_threads_wait_for_ray_is_ended_at_a_deadline_with_the_end_of_rays_log(
    tmp_path: Path,
) -> None:
    (tmp_path / "raylet.err").write_text("one\ntwo\n\nthree\na worker could not be started\n")
    process = deaf(tmp_path, 0.3, 60)
    said = process.communicate(timeout=20)[1]
    assert said == "it did not start\n  two\n  three\n  a worker could not be started\n"
    assert process.returncode == -signal.SIGKILL


def test_a_call_that_comes_back_before_the_deadline_goes_on(tmp_path: Path) -> None:
    process = deaf(tmp_path, 30, 0)
    assert process.communicate(timeout=20) == ("deaf\ncame back\n", "")
    assert process.returncode == 0
