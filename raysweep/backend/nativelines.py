"""Lines that C and C++ libraries write to file descriptor 2: kept off the terminal, for the log.

They bypass Python's `sys.stderr`. Ray's C++ half writes there while it starts, is joined and ends
(`[2026-11-27 22:04:32,921 W 12663 12683] rpc_client.h: ...`), and would overwrite the live display. Only the command
line uses this module: in another program the descriptor is not ours.
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
"""An error of Ray's C++ half: the message follows time, process and place."""
_OF_EVERY_FAILED_CHECK = re.compile(r"^An unexpected system state has occurred\..*? to fix it\. ")
"""The part of every failed check's message that asks for a report to Ray."""
_STACK = re.compile(r"\*\*\* |PC: |@ +0x| +\S+\(\+0x")
"""Beginning of a stack's line, and of a stack that follows a message on the same line."""
_MOST_BYTES = 1 << 20


class NativeLines:
    """Keeps this process's descriptor 2 off the terminal."""

    def __init__(self) -> None:
        self._terminal = os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
        self._kept: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)

    def turn_off(self) -> None:
        """Send descriptor 2 to a file without a name; what Python prints to stderr still goes to the terminal."""
        sys.stderr.flush()
        os.dup2(self._kept.fileno(), 2)
        sys.stderr = self._terminal

    def turn_on(self) -> None:
        """Give descriptor 2 the terminal again. Close nothing, because a crash would still use it."""
        self._terminal.flush()
        os.dup2(self._terminal.fileno(), 2)

    def follow(self, log: Path) -> None:
        """Append to a log from now on, so that what a crash writes can be read there, too."""
        with suppress(OSError):  # a full disk: the lines stay in the file without a name
            file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.dup2(file, 2)
            os.close(file)

    def unfollow(self) -> None:
        os.dup2(self._kept.fileno(), 2)

    def text(self) -> str:
        """Return the end of what was written to the file without a name, not to a log."""
        size = os.fstat(self._kept.fileno()).st_size
        return os.pread(self._kept.fileno(), _MOST_BYTES, max(0, size - _MOST_BYTES)).decode(errors="replace")


_active: NativeLines | None = None


@contextmanager
def kept_off_the_terminal() -> Iterator[None]:
    """Keep what libraries write to descriptor 2, instead of showing it, as long as the context lasts."""
    global _active
    before = sys.stderr
    try:
        is_usual = before.fileno() == 2 and _active is None
    except (AttributeError, OSError, ValueError):  # the stderr of a notebook or a test has no descriptor
        is_usual = False
    if not is_usual:
        yield
        return
    try:
        lines = NativeLines()
    except OSError:  # no room for a file without a name: the lines go to the terminal
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
    """Write these lines to a sweep's log during the context, if they are kept off the terminal."""
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
