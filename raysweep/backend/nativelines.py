"""What C and C++ libraries write to file descriptor 2, past Python: kept off the terminal and kept for the log.

Ray's C++ half writes there while it starts, is joined and ends (`[2026-11-27 22:04:32,921 W 12663 12683] rpc_client.h:
...`), over a display that draws itself. Only the command line asks for it: in somebody
else's program the descriptor is not ours.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_RAY_LINE = re.compile(r"^\[\d{4}-\d\d-\d\d [\d:,.]+ [EFC] .*?\] (?:\(\S+\) )?\S+: *(.*)$")
"""An error of Ray's C++ half, after time, process and place."""
_OF_EVERY_FAILED_CHECK = re.compile(r"^An unexpected system state has occurred\..*? to fix it\. ")
"""Asks for a report to Ray, whatever the check was."""
_STACK = re.compile(r"\*\*\* |PC: |@ +0x| +\S+\(\+0x")
"""How a line of a stack begins, and one that follows a message on its line."""
_MOST_BYTES = 1 << 20


class NativeLines:
    """Descriptor 2 as it is kept off the terminal, by the one process that this is."""

    def __init__(self) -> None:
        self._terminal = os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
        self._kept: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)

    def turn_off(self) -> None:
        """Send descriptor 2 to a file without a name, and what Python prints as an error to the terminal as before."""
        sys.stderr.flush()
        os.dup2(self._kept.fileno(), 2)
        sys.stderr = self._terminal

    def turn_on(self) -> None:
        """Give descriptor 2 the terminal again. Nothing is closed: a crash would look for it."""
        self._terminal.flush()
        os.dup2(self._terminal.fileno(), 2)

    def follow(self, log: Path) -> None:
        """From here on append to a log, so that also what a crash leaves can be read there."""
        with suppress(OSError):  # a full disk: the lines stay where nobody reads them
            file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.dup2(file, 2)
            os.close(file)

    def unfollow(self) -> None:
        os.dup2(self._kept.fileno(), 2)

    def text(self) -> str:
        """Return what was written that went to no log."""
        size = os.fstat(self._kept.fileno()).st_size
        return os.pread(self._kept.fileno(), _MOST_BYTES, max(0, size - _MOST_BYTES)).decode(errors="replace")


_active: NativeLines | None = None


@contextmanager
def kept_off_the_terminal() -> Iterator[None]:
    """As long as this lasts, what goes to descriptor 2 past Python is kept instead of shown."""
    global _active
    before = sys.stderr
    try:
        is_usual = before.fileno() == 2 and _active is None
    except (AttributeError, OSError, ValueError):  # a notebook's, or a test's: no descriptor of its own
        is_usual = False
    if not is_usual:
        yield
        return
    try:
        lines = NativeLines()
    except OSError:  # no room for a file without a name: then the terminal has them
        yield
        return
    _active = lines
    lines.turn_off()
    try:
        yield
    finally:
        _active = None
        lines.turn_on()
        sys.stderr = before


@contextmanager
def followed_by(log: Path | None) -> Iterator[None]:
    """As long as this lasts, these lines go into a sweep's log, if they are kept off the terminal."""
    lines = _active
    if lines is None or log is None:
        yield
        return
    lines.follow(log)
    try:
        yield
    finally:
        lines.unfollow()


def errors_said() -> list[str]:
    """Return the errors that Ray's C++ half has written to this process's descriptor 2, without time and place."""
    return errors_in(_active.text()) if _active is not None else []


def errors_in(text: str) -> list[str]:
    """Return the errors in what Ray's C++ half wrote, each once."""
    found = (
        _OF_EVERY_FAILED_CHECK.sub("", match.group(1).strip())
        for line in text.splitlines()
        if (match := _RAY_LINE.match(line))
    )
    return list(dict.fromkeys(_STACK.split(line)[0] for line in found if line and not _STACK.match(line)))
