"""The thread in which Ray starts, is joined and ends. So the driver can keep deadlines and handle signals.

Ray waits inside C++, where Python handles no signal, for half a minute to several minutes. So one thread makes those
calls, and the driver's own thread waits for it in short steps. The first thread lives as long as the Ray that it
started: if a child is set to end with its parent, Linux ends it with the *thread* that made it.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

POLL_S = 0.05
"""How often to look whether a call has ended. Signals are handled without this delay."""
PREPARED_S = 2.0
"""How long the waiting thread may take to change what signals do."""
LAST_WORD_S = 2.0
"""How long a call may take to end after the Ray processes that it uses were killed."""
R = TypeVar("R")

_all: weakref.WeakSet[RayThread] = weakref.WeakSet()
_stuck: list[RayThread] = []
"""Threads that were given up in the middle of a call."""


class RayProcessDied(Exception):
    """One of Ray's own processes ended while Ray started."""

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self.command = process.args if isinstance(process.args, list) else [str(process.args)]
        self.name = str(self.command[0]).rpartition("/")[2]
        code = process.returncode
        super().__init__(f"its {self.name} ended {f'by signal {-code}' if code < 0 else f'with exit code {code}'}")


class _Call(Generic[R]):
    """A call that the thread makes, and its result."""

    def __init__(self, work: Callable[[], R]) -> None:
        self._work = work
        self._result: R
        self._error: BaseException | None = None
        self.done = threading.Event()

    def make(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 (raised again where the result is asked for)
            self._error = error
        finally:
            self.done.set()

    def result(self) -> R:
        if self._error is not None:
            raise self._error
        return self._result


class RayThread:
    """Makes calls one after another in a thread of its own, each with a deadline.

    Attributes:
        processes: those that Ray started from this thread.
    """

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[Any]] = []
        self.given_up = threading.Event()
        """Set once nobody waits for a call any more: then waits within this thread should end."""
        self.is_deaf = threading.Event()
        """Set by `deaf` while a call lets no other Python thread run."""
        self._is_prepared = threading.Event()
        self._calls: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="raysweep-ray", daemon=True)
        self._thread.start()
        _all.add(self)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call.make()

    def call(self, work: Callable[[], R], timeout_s: float, *, watching: bool = False) -> R:
        """Make a call and wait for it. Give it up if it does not return in time, or a signal ends the wait.

        Args:
            work: what to call.
            timeout_s: how long it may take.
            watching: end the wait as soon as one of `processes` has ended.

        Raises:
            TimeoutError: if it takes longer.
            RayProcessDied: if it cannot return, because one of Ray's processes is gone.
        """
        call = _Call(work)
        self._calls.put(call)
        until = time.monotonic() + timeout_s
        try:
            while not call.done.wait(POLL_S):
                if self.is_deaf.is_set():
                    with signals_ending_the_process():
                        self._is_prepared.set()
                        while self.is_deaf.is_set() and not call.done.wait(POLL_S):
                            pass
                for process in self.processes if watching else ():
                    if process.poll() is not None:
                        raise RayProcessDied(process)
                if time.monotonic() > until:
                    raise TimeoutError(f"it took longer than {timeout_s:g} s")
        except BaseException:
            self._give_up(call)
            raise
        return call.result()

    @contextmanager
    def deaf(self, timeout_s: float, log: Path, message: str) -> Iterator[None]:
        """Guard a part of a call, made in this thread, in which Ray lets no other Python thread run.

        Meanwhile signals end the process at once. If the part takes longer than `timeout_s`, another process prints
        `message` and the end of `log`, and kills this one.
        """
        self._is_prepared.clear()
        self.is_deaf.set()
        self._is_prepared.wait(PREPARED_S)
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("deadline.py"))]
        terminal = None if sys.stderr is sys.__stderr__ else sys.stderr  # the command line's is not descriptor 2
        with subprocess.Popen(  # noqa: S603 (our own file)
            [*command, str(os.getpid()), str(timeout_s), str(log), message], stdin=subprocess.PIPE, stderr=terminal,
            process_group=0,
        ):  # fmt: skip
            try:
                yield
            finally:
                self.is_deaf.clear()

    @property
    def is_stuck(self) -> bool:
        """True if a call was given up and has not returned since."""
        return self in _stuck and self._thread.is_alive()

    def _give_up(self, call: _Call[Any]) -> None:
        """Kill Ray's processes, which ends most calls, and let the thread end after its call."""
        _stuck.append(self)
        self.given_up.set()
        self.kill()
        self._calls.put(None)
        if call.done.wait(LAST_WORD_S):
            self._thread.join(LAST_WORD_S)

    def settle(self, seconds: float) -> None:
        """Wait for a call that was given up. On a busy machine it takes a while to notice that its Ray is gone."""
        self._thread.join(seconds)

    def kill(self) -> None:
        """Kill the processes that Ray started from this thread and that still run."""
        for process in reversed(self.processes):  # the raylet before the GCS, otherwise it would report the GCS's end
            if process.poll() is None:
                process.kill()

    def close(self) -> None:
        """Let the thread end. Those of Ray's processes that still run end with it."""
        self._calls.put(None)
        self._thread.join(LAST_WORD_S)


@contextmanager
def signals_ending_the_process() -> Iterator[None]:
    """Let signals end the process without Python, which cannot run, as long as the context lasts.

    Outside the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def kill_processes() -> None:
    """Kill all processes that Ray has started from this process."""
    for thread in list(_all):
        thread.kill()


def is_stuck() -> bool:
    """Return whether a call into Ray was given up and has not returned.

    If so, the process should end without Python's own clean-up, which would wait for the call or crash.
    """
    return any(thread.is_stuck for thread in _stuck)
