"""Standard output that can fail: a file on a full disk, a pipe without a reader, a closed stream.

If output cannot be written, the command ends with one message on standard error and exit code 1. Python and click alone
would end in a traceback or say nothing, depending on the moment.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from raysweep.errors import OutputError


class Output(io.TextIOWrapper):
    """A text stream that reports once that it cannot be written, and then discards all further text."""

    is_lost = False

    def write(self, text: str) -> int:
        try:
            return len(text) if self.is_lost else super().write(text)
        except OSError as error:
            raise self._lost(error) from error

    def flush(self) -> None:
        try:
            if not self.is_lost:
                super().flush()
        except OSError as error:
            raise self._lost(error) from error

    def _lost(self, error: OSError) -> OutputError:
        self.is_lost = True
        with suppress(OSError):  # otherwise Python would try the buffered text again at its end, and complain
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.close(null)
        reason = {
            errno.EPIPE: "what reads it has ended",
            errno.EBADF: "it is closed; to show nothing, add: > /dev/null",
        }.get(error.errno or 0, error.strerror)
        return OutputError(f"the output cannot be written: {reason}")


class _Closed(io.RawIOBase):
    """A substitute for a standard output that was closed before the start."""

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


@contextmanager
def guarded_output() -> Iterator[None]:
    """Turn any failure to write standard output into one message and exit code 1."""
    is_closed = sys.stdout is None
    _fill_standard_descriptors()
    if is_closed:
        sys.stdout = Output(io.BufferedWriter(_Closed()), encoding="utf-8", errors="backslashreplace")
    else:
        sys.stdout = Output(
            sys.stdout.buffer, encoding=sys.stdout.encoding, errors="backslashreplace",
            line_buffering=bool(sys.stdout.line_buffering),
        )  # fmt: skip
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OutputError as error:
        tell(str(error))
        raise SystemExit(error.exit_code) from error


def tell(message: str) -> None:
    """Write a message to standard error; if that fails, only the exit code reports the error."""
    try:
        print(message, file=sys.stderr, flush=True)  # noqa: T201 (to a terminal that click may not reach either)
    except OSError:
        with suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            os.close(null)


def _fill_standard_descriptors() -> None:
    """Open /dev/null for each closed standard stream; otherwise the next file opened would take its place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)
