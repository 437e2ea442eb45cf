"""Signals: how a person, a scheduler or a spot market asks a driver to end."""

from __future__ import annotations

import math
import os
import select
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from raysweep.backend.raythread import kill_processes
from raysweep.storage.layout import SweepDirectory, typed

if TYPE_CHECKING:
    from raysweep.driver.session import Session

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
UNHEARD_S = 5.0
"""How long Python may take to handle a signal; it cannot while the main thread waits inside C, or imports."""
SESSION_UNHEARD_S = 30.0
"""The same for the first signal of a session, which asks for a clean stop: a long write to a bucket may end first."""
AGAIN_UNHEARD_S = 0.5
"""The same after a second signal: no less than the time between the signals that one key press can send."""

_at_work: list[str] = []
"""The sweep that this process trains, as typed on a command line."""
_interrupted_by: list[int] = []
"""Numbers of the signals that have raised `Interrupted`."""
SAME_S = 0.25
"""How long after a signal was handled the note of its arrival may come: the two come in any order."""
AGAIN_S = 0.05
"""After how long a signal is sent again if it came where nothing can be interrupted. In an import half a module would
be left, or torch's C++ would end the process; in a finalizer Python ignores whatever is raised."""


class Interrupted(KeyboardInterrupt):
    """A signal that ends the work at once, wherever it is."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped at once by {name_of(number)}")
        self.number = number


def name_of(number: int) -> str:
    """Return the name by which people know a signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


@contextmanager
def interrupting() -> Iterator[None]:
    """Let a signal raise `Interrupted` during the context: before there is a session to stop, and after it.

    If Python cannot handle a signal, because the call that it waits for does not return, the process ends, too.
    """
    _interrupted_by.clear()
    with _heard_in_time(), _handled_by(_interrupt), _raised_again_after_finalizers():
        try:
            yield
        except KeyboardInterrupt as stop:
            if isinstance(stop, Interrupted) or not _interrupted_by:
                raise
            raise Interrupted(_interrupted_by[0]) from None  # Ray raises its own KeyboardInterrupt instead


@contextmanager
def stopping_on_signals(session: Session) -> Iterator[None]:
    """Stop the session cleanly at the first signal during the context; raise `Interrupted` at the second."""

    def handle(number: int, frame: FrameType | None) -> None:
        if session.signal is not None:
            _interrupt(number, frame)
        _heard()
        session.stop(name_of(number), signal=number)

    with _patient_for(SESSION_UNHEARD_S), _handled_by(handle):
        yield


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        _send_again(number)
        return
    _heard()
    _interrupted_by.append(number)
    raise Interrupted(number)


class _Ear:
    """Counts signals as they arrive, in a thread, and ends the process if one is not handled in time.

    Python's own handlers run in the main thread, between its instructions. They do not run while it waits inside C++
    for a Ray that does not answer, for a file system that is gone, or for an import.
    """

    def __init__(self) -> None:
        self._arrivals, self._writer = socket.socketpair()
        self._arrivals.setblocking(False)
        self._writer.setblocking(False)
        self.descriptor = self._writer.fileno()
        self.patience_s: float | None = None
        """How long the first signal may stay unhandled; UNHEARD_S if None."""
        self._lock = threading.Lock()
        self._unheard: tuple[int, float] | None = None
        """Number of the first signal that is not handled yet, and the deadline for that."""
        self._heard_at = -math.inf
        self._sent_again = 0
        threading.Thread(target=self._listen, name="raysweep-signals", daemon=True).start()

    def heard(self) -> None:
        """Note that Python has handled all signals so far, even those that the thread has not counted yet."""
        with self._lock:
            self._sent_again = max(0, self._sent_again - len(self._read() or b""))
            self._unheard = None
            self._heard_at = time.monotonic()

    def sending_again(self) -> None:
        """Note that the next signal was already counted."""
        with self._lock:
            self._sent_again += 1

    def close(self) -> None:
        self._writer.close()  # which ends the thread

    def _listen(self) -> None:
        with self._arrivals:
            while True:
                with self._lock:
                    unheard = self._unheard
                if unheard is not None and time.monotonic() > unheard[1]:
                    _end_now(unheard[0])
                ready, _, _ = select.select([self._arrivals], [], [], None if unheard is None else 0.1)
                if not ready:
                    continue
                with self._lock:
                    numbers = self._read()
                    if numbers is None:
                        return
                    for number in numbers:
                        if number in SIGNALS:
                            self._arrived(number)

    def _read(self) -> bytes | None:
        """Return the numbers of the signals that have arrived since the last call; None once it is closed."""
        try:
            return self._arrivals.recv(64) or None
        except BlockingIOError:
            return b""

    def _arrived(self, number: int) -> None:
        now = time.monotonic()
        if self._sent_again:
            self._sent_again -= 1
        elif now < self._heard_at + SAME_S:
            return
        elif self._unheard is None:
            self._unheard = number, now + (self.patience_s or UNHEARD_S)
        else:
            self._unheard = number, min(self._unheard[1], now + AGAIN_UNHEARD_S)


_ear: _Ear | None = None


def _heard() -> None:
    if _ear is not None:
        _ear.heard()


@contextmanager
def _heard_in_time() -> Iterator[None]:
    """End the process at once if Python does not handle a signal within seconds during the context."""
    global _ear
    if threading.current_thread() is not threading.main_thread() or _ear is not None:
        yield
        return
    ear = _Ear()
    before = signal.set_wakeup_fd(ear.descriptor, warn_on_full_buffer=False)
    _ear = ear
    try:
        yield
    finally:
        _ear = None
        signal.set_wakeup_fd(before)
        ear.close()


@contextmanager
def _patient_for(seconds: float) -> Iterator[None]:
    """Let Python take this long to handle the first signal, as long as the context lasts."""
    if _ear is None:
        yield
        return
    before, _ear.patience_s = _ear.patience_s, seconds
    try:
        yield
    finally:
        if _ear is not None:
            _ear.patience_s = before


def _end_now(number: int) -> None:
    """End this process and its Ray without Python's clean-up: files on the disk are complete at any moment."""
    kill_processes()
    with suppress(OSError, ValueError):
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # a display that draws itself has hidden the cursor
        os.write(sys.stderr.fileno(), f"{at_once()}\n".encode())
    os._exit(128 + number)


def at_work_on(address: Path | str) -> None:
    """Let messages name the sweep that this process trains from now on."""
    _at_work[:] = [typed(address)]


def sweep_at_work() -> str | None:
    """Return the sweep that this process trains, as typed on a command line; None if there is none yet."""
    for sweep in _at_work:
        if "://" in sweep or SweepDirectory(Path(*shlex.split(sweep))).holds_a_sweep():
            return sweep
    return None


def at_once() -> str:
    """Return the message for a person who does not wait for a clean stop."""
    sweep = sweep_at_work()
    if sweep is None:
        return "stopped at once"
    return (
        f"stopped at once; raysweep status {sweep} says what is done, raysweep resume {sweep} goes on, and raysweep "
        f"report {sweep} writes the report"
    )


def end_at_next_signal() -> None:
    """Let the next signal end the process at once, in the short time after its work and its messages."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


def _send_again(number: int) -> None:
    if _ear is not None:
        _ear.sending_again()
    timer = threading.Timer(AGAIN_S, os.kill, (os.getpid(), number))
    timer.daemon = True  # otherwise a process that ends would wait for it, after raysweep's handlers are removed
    timer.start()


@contextmanager
def _raised_again_after_finalizers() -> Iterator[None]:
    """Send a signal again if it came within a finalizer or a weak reference's callback during the context."""
    previous = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, Interrupted):
            _send_again(unraisable.exc_value.number)
        else:
            previous(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


@contextmanager
def _handled_by(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle signals by `handle` during the context; a signal that is ignored stays ignored.

    Outside the main thread nothing changes: Python gives signals only to the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:  # as nohup does
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
