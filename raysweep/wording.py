"""How messages name what a reader can change: flags and commands in a terminal, arguments and calls in Python.

The command line sets the reader to a terminal. The public functions set it to a program, which has no effect if the
command line called them. A message made outside both is worded for a terminal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Literal

from raysweep.storage.layout import typed

Reader = Literal["terminal", "python"]
_reader: ContextVar[Reader | None] = ContextVar("reader", default=None)
_given_as: ContextVar[Mapping[str, str]] = ContextVar("given_as", default=MappingProxyType({}))


@contextmanager
def worded_for(reader: Reader) -> Iterator[None]:
    """Word messages for this reader during a block or a decorated function, unless a reader is already set."""
    if _reader.get() is not None:
        yield
        return
    token = _reader.set(reader)
    try:
        yield
    finally:
        _reader.reset(token)


@contextmanager
def given_as(key: str, flag: str) -> Iterator[None]:
    """Name a key of a search space file by the flag that gave its value, during a block."""
    token = _given_as.set({**_given_as.get(), key: flag})
    try:
        yield
    finally:
        _given_as.reset(token)


def key_given(key: str) -> str:
    """Return the key itself, such as `data.root`, or the flag that gave its value, such as `--data`."""
    return _given_as.get().get(key, key)


def counted(number: int, noun: str, several: str | None = None) -> str:
    """Return a number with its noun, such as `1 trial`, `2,000 trials` or `3 classes`."""
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"


def ordinal(number: int) -> str:
    """Return `1st`, `2nd`, `3rd`, `4th`, ..."""
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if 10 <= number % 100 <= 20 else endings.get(number % 10, 'th')}"


def percent(share: float) -> str:
    """Return a share as text in percent, with one decimal if it is close to 0 or 100 %."""
    if 1e-6 < share < 0.001:
        return "<0.1%"
    return f"{share:.0%}" if 0.01 <= share <= 0.99 or round(share, 3) in (0.0, 1.0) else f"{share:.1%}"


def is_python() -> bool:
    """Return whether the reader is a program."""
    return _reader.get() == "python"


def option(name: str, value: object = None) -> str:
    """Return `--name value` in a terminal, `name=value` in Python; without a value `--name` and `name=...`."""
    if is_python():
        return f"{name.replace('-', '_')}={'...' if value is None else repr(value)}"
    return f"--{name}" if value is None else f"--{name} {typed(value) if isinstance(value, str) else value}"


def to_type(command: str, *places: str | os.PathLike[str], **options: object) -> str:
    """Return a raysweep command with its options; in Python, preceded by the call that does the same."""
    given = {name: value for name, value in options.items() if value is not None}
    words = [f"--{name.replace('_', '-')} {typed(v) if isinstance(v, str) else v}" for name, v in given.items()]
    in_terminal = " ".join(["raysweep", command, *(typed(os.fspath(place)) for place in places), *words])
    if not is_python():
        return in_terminal
    arguments = [*(repr(os.fspath(place)) for place in places), *(f"{name}={v!r}" for name, v in given.items())]
    return f"raysweep.{command}({', '.join(arguments)}), in a terminal: {in_terminal}"
