"""The sweep's log file. If it cannot be written, it prints nothing on the terminal."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path


class LogFile(logging.FileHandler):
    """Appends to a file, made with the first line. A line that cannot be written is lost, and counted.

    A full disk ends the sweep with one message; `logging` would print a traceback on the terminal for each line. The
    number of lost lines is written before the next line that can be written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self.lost = 0
        """Lines that could not be written since the last one that could."""

    def emit(self, record: logging.LogRecord) -> None:
        lost, self.lost = self.lost, 0
        try:
            if lost:
                said = f"{lost} lines could not be written here"
                super().emit(logging.makeLogRecord({"name": "raysweep", "levelname": "WARNING", "msg": said}))
            if not self.lost:
                super().emit(record)
                lost = 0
        except OSError:  # the file could not be opened; errors of writing go to handleError
            self.handleError(record)
        self.lost += lost

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        """Count the lost line, and drop the file with what is left in its buffer.

        The next line opens the file again.
        """
        self.lost += 1
        stream, self.stream = self.stream, None
        if stream is not None:
            with suppress(OSError):
                stream.close()

    def close(self) -> None:
        with suppress(OSError):
            super().close()
