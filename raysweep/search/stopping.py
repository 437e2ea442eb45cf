"""Signals: how a person, a scheduler or a spot market asks a driver to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from raysweep.search.session import Session


@contextmanager
def stopping_on_signals(session: Session) -> Iterator[None]:
    """The first INT or TERM stops the session cleanly, the second at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if session.signal is not None:
            raise KeyboardInterrupt
        session.stop("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name, signal=number)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
