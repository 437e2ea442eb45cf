"""What every training or testing process has: notes for the driver, and a timer against hanging."""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Notes(logging.Handler):
    """Keeps what is logged until it goes to the driver: nobody sees an actor's own output."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())

    def take(self) -> tuple[str, ...]:
        lines, self._lines = tuple(self._lines), []
        return lines


@contextmanager
def ending_hangs(timeout_s: float | None, stacks: Path) -> Iterator[None]:
    """End this process if the block takes longer than `timeout_s`; first write the stack of each thread."""

    def end() -> None:
        try:
            for directory in (stacks.parent.parent, stacks.parent):  # a sweep that is gone is not made again
                directory.mkdir(exist_ok=True)
            with open(stacks, "w") as file:
                faulthandler.dump_traceback(file)
        finally:
            os._exit(1)

    if timeout_s is None:
        yield
        return
    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
