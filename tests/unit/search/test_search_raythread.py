"""Calls that may hang: each has a deadline, hears signals, and ends with the processes that it waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

import pytest

from raysweep.search import raythread
from raysweep.search.raythread import RayProcessDied, RayThread, is_stuck
from raysweep.search.stopping import Interrupted, interrupting


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
