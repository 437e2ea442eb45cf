"""What every process of a sweep has, whether it trains or tests: notes for the driver, and an end if it hangs."""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Notes(logging.Handler):
    """Keeps what is logged until it goes to the driver: an actor's own output is seen by nobody."""

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
    """Ends this process if the block takes longer than `timeout_s`, after writing where each of its threads stands."""

    def end() -> None:
        try:
            for directory in (stacks.parent.parent, stacks.parent):  # the sweep itself is not made anew
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
