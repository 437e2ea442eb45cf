"""Signals: how a person, a scheduler or a spot market asks a driver to end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raysweep.search.session import Session

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


_interrupted_by: list[int] = []
"""Numbers of the signals that have raised `Interrupted`."""
AGAIN_S = 0.05
"""After how long a signal comes again that came where nothing can be interrupted. In an import half a module would stay
behind, or torch's C++ end the process; in a finalizer Python passes over whatever is raised."""


class Interrupted(KeyboardInterrupt):
    """A signal that ends the work at once, wherever it is."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped at once by {name_of(number)}")
        self.number = number


def name_of(number: int) -> str:
    """What people call a signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


@contextmanager
def interrupting() -> Iterator[None]:
    """As long as this lasts, a signal raises `Interrupted`: before there is a session to stop, and after it."""
    _interrupted_by.clear()
    with _handled_by(_interrupt), _raised_again_after_finalizers():
        try:
            yield
        except KeyboardInterrupt as stop:
            if isinstance(stop, Interrupted) or not _interrupted_by:
                raise
            raise Interrupted(_interrupted_by[0]) from None  # Ray raises one of its own in its place


@contextmanager
def stopping_on_signals(session: Session) -> Iterator[None]:
    """As long as this lasts, the first signal stops the session cleanly; the second raises `Interrupted`."""

    def handle(number: int, frame: FrameType | None) -> None:
        if session.signal is not None:
            _interrupt(number, frame)
        session.stop(name_of(number), signal=number)

    with _handled_by(handle):
        yield


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Holds signals back while this lasts: while Ray starts, which an exception in the middle can crash."""
    caught: list[tuple[int, FrameType | None]] = []
    with _handled_by(lambda number, frame: caught.append((number, frame))):
        yield
    for number, frame in caught[:1]:
        handler = signal.getsignal(number)
        if callable(handler):
            handler(number, frame)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        _send_again(number)
        return
    _interrupted_by.append(number)
    raise Interrupted(number)


def _send_again(number: int) -> None:
    timer = threading.Timer(AGAIN_S, os.kill, (os.getpid(), number))
    timer.daemon = True  # else a process that ends would wait for it, with handlers that are no longer raysweep's
    timer.start()


@contextmanager
def _raised_again_after_finalizers() -> Iterator[None]:
    """As long as this lasts, a signal that came within a finalizer or a callback of a weak reference comes again."""
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
    """Has signals handled so in the main thread, the one that Python gives them to; one that is ignored stays so."""
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
