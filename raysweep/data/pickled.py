"""The arrays in a pickle, read without unpickling it.

A pickle is a program for a machine that imports and calls whatever it is told to. This module runs no such machine. It
reads the instructions, which `pickletools` separates, and builds dictionaries, lists, numbers, texts, bytes and arrays
of bytes from them. It imports nothing, calls nothing by name, and refuses an instruction that it does not know.
"""

from __future__ import annotations

import math
import pickletools
import warnings
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MARK = object()
_BYTE_CODES = ("u1", b"u1", "|u1", b"|u1", "uint8")
_LITERALS = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "UNICODE", "SHORT_BINUNICODE",
    "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip
_OLD_TEXTS = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING"})
"""Bytes, written by Python 2."""
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_SILENT = frozenset({"PROTO", "FRAME"})


class PickleError(ValueError):
    """A pickle that is damaged, or asks for more than arrays of bytes need; the message is the reason."""


class _Dtype:
    """A stand-in for numpy.dtype."""

    def __init__(self, code: Any) -> None:
        self.is_byte = isinstance(code, str | bytes) and code in _BYTE_CODES


class PickledArray:
    """A stand-in for numpy.ndarray: the description of an array, which is made only when it is asked for."""

    def __init__(self) -> None:
        self._content: tuple[Any, ...] = ()

    def fill(self, raw: Any, dtype: Any, shape: Any, order: Any) -> None:
        self._content = raw, dtype, shape, order

    def to_numpy(self) -> NDArray[np.uint8]:
        """Return the array; raise PickleError if it does not hold bytes, or its shape does not fit."""
        if not self._content:
            raise PickleError("has an array without content")
        raw, dtype, shape, order = self._content
        if not (isinstance(dtype, _Dtype) and dtype.is_byte):
            raise PickleError("its data are not unsigned bytes")
        if not isinstance(shape, tuple) or not all(isinstance(side, int) and side >= 0 for side in shape):
            raise PickleError("its data have no shape")
        if not (isinstance(raw, bytes | bytearray) and math.prod(shape) == len(raw)):
            raise PickleError("its data are not as long as their shape says")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if order == "F" else "C")


def read_pickle(content: bytes) -> Any:
    """Return the value in a pickle of protocol 0 to 5, with `PickledArray` for an array.

    Raises:
        PickleError: if it is damaged, or holds anything but containers, numbers, texts, bytes and arrays.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about invalid escapes in texts
            return _Reader().read(content)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, PickleError):
            raise
        raise PickleError(str(error).partition("\n")[0] or type(error).__name__) from error


class _Reader:
    """The stack and the memo of the machine that a pickle is written for, without the rest of it."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self, content: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                return self._stack.pop()
            self._take(opcode.name, argument)
        raise PickleError("ends early")

    def _take(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _OLD_TEXTS:
            stack.append(argument.encode("latin1"))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in _TUPLES:
            items = stack[-_TUPLES[name] :]
            del stack[-_TUPLES[name] :]
            stack.append(tuple(items))
        elif name in ("TUPLE", "LIST"):
            stack.append((tuple if name == "TUPLE" else list)(self._to_mark()))
        elif name == "DICT":
            stack.append(_pairs(self._to_mark()))
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self._to_mark()
            _of(list, stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self._to_mark()
            _of(dict, stack[-1]).update(_pairs(items))
        elif name == "GLOBAL":
            module, _, wanted = argument.partition(" ")
            stack.append(_known(module, wanted))
        elif name == "STACK_GLOBAL":
            wanted, module = stack.pop(), stack.pop()
            stack.append(_known(module, wanted))
        elif name == "REDUCE":
            arguments, maker = _of(tuple, stack.pop()), stack.pop()
            stack.append(_made(maker, arguments))
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        elif name not in _SILENT:
            raise PickleError(f"has the instruction {name}, which a batch of images has no use for")

    def _to_mark(self) -> list[Any]:
        """Remove the last mark and all items above it from the stack; return the items."""
        start = len(self._stack) - 1
        while self._stack[start] is not _MARK:  # raises IndexError if there is no mark
            start -= 1
        if start < 0:
            raise PickleError("lacks a mark")
        items = self._stack[start + 1 :]
        del self._stack[start:]
        return items


def _known(module: Any, name: Any) -> _Role:
    """Return the role of a name in a pickle, without importing the name."""
    try:
        return _ROLES[module, name]
    except (KeyError, TypeError):
        raise PickleError(f"asks for {module}.{name}, which a batch of images has no use for") from None


class _Role(Enum):
    ARRAY_TYPE, DTYPE, EMPTY_ARRAY, ARRAY, BYTES = range(5)


_ROLES = {
    ("numpy", "ndarray"): _Role.ARRAY_TYPE,
    ("numpy", "dtype"): _Role.DTYPE,
    ("numpy.core.multiarray", "_reconstruct"): _Role.EMPTY_ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _Role.EMPTY_ARRAY,
    ("numpy.core.numeric", "_frombuffer"): _Role.ARRAY,
    ("numpy._core.numeric", "_frombuffer"): _Role.ARRAY,
    ("_codecs", "encode"): _Role.BYTES,
}


def _made(role: Any, arguments: tuple[Any, ...]) -> Any:
    """Return what a call of the object with this role would return."""
    if role is _Role.DTYPE:
        return _Dtype(arguments[0])
    if role is _Role.EMPTY_ARRAY:
        return PickledArray()
    if role is _Role.ARRAY:
        raw, dtype, shape, *order = arguments
        array = PickledArray()
        array.fill(raw, dtype, shape, order[0] if order else "C")
        return array
    if role is _Role.BYTES:
        text, encoding = arguments
        if encoding not in ("latin1", b"latin1"):
            raise PickleError(f"asks for the codec {encoding}")
        return _of(str, text).encode("latin1")
    raise PickleError("calls what cannot be called")


def _build(target: Any, state: Any) -> None:
    """Set the state of a stand-in; ignore that of a dtype, because bytes have no byte order."""
    if isinstance(target, PickledArray):
        _, shape, dtype, is_fortran, raw = _of(tuple, state)
        target.fill(raw, dtype, shape, "F" if is_fortran else "C")
    elif not isinstance(target, _Dtype):
        raise PickleError(f"gives a state to a {type(target).__name__}")


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise PickleError("has a key without a value")
    return dict(zip(items[::2], items[1::2], strict=True))


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise PickleError(f"has a {type(value).__name__} where a {kind.__name__} belongs")
    return value
