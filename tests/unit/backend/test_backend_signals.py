"""Signals before and beside a session: an import is never cut short, and the exit code tells the signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raysweep.backend import signals as stopping
from raysweep.backend.signals import Interrupted, interrupting

SLOW = "import time\nfor _ in range(100):\n    time.sleep(0.01)\nDONE = True\n"
MAIN = """
import sys
from raysweep.backend.signals import Interrupted, interrupting
try:
    with interrupting():
        print("ready", flush=True)
        import slow_module
        import time
        time.sleep(30)
except Interrupted as stop:
    print(stop.number, "slow_module" in sys.modules and slow_module.DONE)
"""
DEAF = """
import hashlib, sys
from raysweep.backend import signals as stopping
stopping.UNHEARD_S = float(sys.argv[1])
with stopping.interrupting():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"in C for minutes", b"", 1 << 30)
"""
HEARD = """
import os, signal, threading, time
from raysweep.backend import signals as stopping
stopping.UNHEARD_S = stopping.SESSION_UNHEARD_S = 0.4

class Session:
    signal = None
    def stop(self, why, signal):
        stopped.append(signal)

stopped = []
busy = threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True)
with stopping.interrupting(), stopping.stopping_on_signals(Session()):
    busy.start()  # has the other threads wait for their turn
    for _ in range(20):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.07)
    time.sleep(1.5)
print(len(stopped), flush=True)
os._exit(0)
"""


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_work_at_once_and_handlers_are_as_before(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as stop, interrupting():
        send(number)
    assert stop.value.number == number
    assert signal.getsignal(number) is before


def test_a_signal_keeps_its_number_where_a_library_raises_an_interrupt_of_its_own() -> None:
    def work() -> None:
        with interrupting():
            try:
                send(signal.SIGTERM)
            except KeyboardInterrupt:
                raise KeyboardInterrupt from None

    with pytest.raises(Interrupted) as stop:
        work()
    assert stop.value.number == signal.SIGTERM


class Finalized:
    def __init__(self, number: int) -> None:
        self._number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self._number)
        for _ in range(1000):  # Python sees to signals between its instructions
            pass


def test_a_signal_that_comes_within_a_finalizer_is_neither_lost_nor_shown(capfd: pytest.CaptureFixture[str]) -> None:
    before = sys.unraisablehook

    def drop_and_go_on() -> None:
        Finalized(signal.SIGTERM)
        time.sleep(5)

    with pytest.raises(Interrupted) as stop, interrupting():
        drop_and_go_on()
    assert stop.value.number == signal.SIGTERM
    assert "Traceback" not in capfd.readouterr().err
    assert sys.unraisablehook is before


def test_a_signal_that_is_handled_before_its_arrival_is_counted_does_not_end_the_process(tmp_path: Path) -> None:
    """Whether the handler or the thread that counts comes first is chance: a busy thread makes both happen."""
    done = subprocess.run(
        [sys.executable, "-c", HEARD], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "20\n")


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_that_python_does_not_come_to_handle_ends_the_process(tmp_path: Path, signals: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF, str(30.0 if signals == 2 else 0.5)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    begun = time.monotonic()
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - begun < 10, "the second does not wait for the deadline of the first"
    assert process.returncode == 128 + signal.SIGTERM
    assert said.startswith("stopped at once")
    assert "Traceback" not in said


def test_an_import_is_finished_before_a_signal_ends_the_work(tmp_path: Path) -> None:
    (tmp_path / "slow_module.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "15 True\n"


def test_whoever_does_not_wait_is_told_the_sweep_by_name_once_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "_at_work", [])
    assert stopping.at_once() == "stopped at once"
    place = tmp_path / "my sweep"
    stopping.at_work_on(place)
    assert stopping.at_once() == "stopped at once", "nothing is there yet to go on with"
    place.mkdir()
    (place / "sweep.yaml").touch()
    message = stopping.at_once()
    for command in ("status", "resume", "report"):
        assert f"raysweep {command} '{place}' " in message
    stopping.at_work_on("s3://bucket/kld")
    assert "raysweep resume s3://bucket/kld goes on" in stopping.at_once()


def test_ctrl_c_while_the_command_line_is_imported_ends_it_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(30)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "raysweep", "--help"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (-signal.SIGINT, "")
