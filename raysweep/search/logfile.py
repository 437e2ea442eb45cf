"""The sweep's log file, which says nothing of its own troubles on the terminal."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path


class LogFile(logging.FileHandler):
    """Appends to a file, made with the first line. A line that cannot be written is lost, and counted.

    A full disk ends the sweep with one message; `logging` would print a traceback on the terminal for each line. How
    many were lost stands before the next line that can be written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self.lost:
            lost, self.lost = self.lost, 0
            super().emit(logging.makeLogRecord({
                "name": "raysweep", "levelno": logging.WARNING, "levelname": "WARNING",
                "msg": "%d lines could not be written here", "args": (lost,),
            }))  # fmt: skip
            if self.lost:
                self.lost += lost
                return
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        """Counts the line; the stream is opened anew for the next one, without what is left in its buffer."""
        self.lost += 1
        stream, self.stream = self.stream, None  # type: ignore[assignment]
        if stream is not None:
            with suppress(OSError):
                stream.close()

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()
