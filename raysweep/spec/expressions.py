"""A small language of conditions and figures over the columns of a table; nothing in it can run code.

    abs(test_sampled_mse - test_mse - test_sigma ** 2) < 0.03 * test_sampled_mse
    likelihood in ("gaussian", "bernoulli") and not collapsed
    test_reconstruction_accuracy >= 0.95 * best(test_reconstruction_accuracy)

An expression has the syntax of Python. It is checked against a closed list of nodes and the kinds of the columns, and
computed with numpy for all rows at once. A value that is null, NaN or undefined (1 / 0, log(0)) is unknown, and truth
has three values (Kleene): `false and unknown` is false, `true and unknown` is unknown.
"""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raysweep.metrics import Mode

Kind = Literal["number", "text", "truth"]

MAX_CHARACTERS = 500
MAX_DEPTH = 24
RELATIVE_TOLERANCE = 1e-9
"""Numbers with a smaller relative difference are equal: 0.1 + 0.2 == 0.3."""

KIND_NAMES: dict[Kind, str] = {"number": "a number", "text": "a text", "truth": "true or false"}
_WORDS = {"true": True, "false": False}
_FUNCTIONS = {"abs": (1, 1), "log": (1, 1), "sqrt": (1, 1), "min": (2, 8), "max": (2, 8)}
"""Least and most arguments of each function of numbers."""
_ALLOWED = (
    "columns, numbers, texts in quotes, true, false, + - * / **, < <= == != >= >, in (...), and, or, not, "
    + ", ".join(f"{name}()" for name in _FUNCTIONS)
)


class ExpressionError(ValueError):
    """An expression that cannot be used; the message says what was found, at which character, and what is allowed."""


@dataclass(frozen=True)
class Values:
    """A column of values, or a table of them; `data` means nothing where `known` is false."""

    data: NDArray[Any]
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, data: NDArray[Any], known: NDArray[np.bool_] | None = None) -> Values:
        """Wrap `data`. A value is known if `known` marks it (None marks all) and it is not NaN."""
        known = np.ones(data.shape, dtype=bool) if known is None else known
        if data.dtype.kind == "f":
            known = known & ~np.isnan(data)
        return cls(data, known)

    @property
    def true(self) -> NDArray[np.bool_]:
        """Mask of the values that are known and true."""
        true: NDArray[np.bool_] = self.known & self.data.astype(bool)
        return true


@dataclass(frozen=True)
class Expression:
    """A checked expression: it has a value for any table that has its columns."""

    text: str
    kind: Kind
    names: frozenset[str]
    """The columns it reads."""
    _body: ast.expr
    _modes: Mapping[str, Mode]

    def evaluate(self, columns: Mapping[str, Values], shape: tuple[int, ...]) -> Values:
        """Return the value of the expression for every row.

        Args:
            columns: a column for each of `names`, of a shape that broadcasts to `shape`.
            shape: shape of the result; `best()` looks along the last axis.
        """
        with np.errstate(all="ignore"):
            values = _evaluate(self._body, columns, self._modes)
        return Values(np.broadcast_to(values.data, shape), np.broadcast_to(values.known, shape))


def parse_expression(
    text: str, columns: Mapping[str, Kind], kind: Kind | None = None, best: Mapping[str, Mode] | None = None
) -> Expression:
    """Parse an expression over `columns`.

    Args:
        columns: the names that are allowed, and the kind of each.
        kind: the kind that its value must have; None for any.
        best: the columns that `best()` accepts, and whether more or less is better; None forbids `best()`.

    Raises:
        ExpressionError: if the text is no such expression; no text raises anything else.
    """
    line = " ".join(text.splitlines()).strip()
    if not line:
        raise ExpressionError("is empty; write a condition such as rate_nats >= 0")
    if len(line) > MAX_CHARACTERS:
        raise ExpressionError(f"has {len(line)} characters, at most {MAX_CHARACTERS} are allowed")
    try:
        with warnings.catch_warnings():  # unknown escapes in texts are plain characters here
            warnings.simplefilter("ignore")
            body = ast.parse(line, mode="eval").body
    except SyntaxError as error:
        raise ExpressionError(f"{_place(error.offset or 1)}is no expression: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"is no expression: {error or 'too deep'}") from None
    checker = _Checker(line, columns, best)
    found = checker.kind_of(body, 1)
    if kind is not None and found != kind:
        raise ExpressionError(f"must be {KIND_NAMES[kind]} for each row, is {KIND_NAMES[found]}")
    return Expression(line, found, frozenset(checker.names), body, best or {})


def _place(character: int) -> str:
    return f"at character {character}: "


class _Checker:
    """A walk over an expression that finds the kind of value of each part."""

    def __init__(self, text: str, columns: Mapping[str, Kind], best: Mapping[str, Mode] | None) -> None:
        self.text = text
        self.columns = columns
        self.best = best
        self.names: set[str] = set()

    def fail(self, node: ast.expr, message: str) -> ExpressionError:
        column = len(self.text.encode()[: node.col_offset].decode(errors="ignore"))  # col_offset counts bytes
        return ExpressionError(_place(column + 1) + message)

    def kind_of(self, node: ast.expr, depth: int) -> Kind:
        if depth > MAX_DEPTH:
            raise self.fail(node, f"is nested deeper than {MAX_DEPTH}")
        deeper = depth + 1
        match node:
            case ast.Constant(value=value):
                return self.constant(node, value)
            case ast.Name(id=name):
                return "truth" if name in _WORDS else self.column(node, name)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self.need(operand, "truth", deeper)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=number):
                return self.need(number, "number", deeper)
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow(), right=right):
                self.need(left, "number", deeper)
                return self.need(right, "number", deeper)
            case ast.BoolOp(values=values):
                for part in values:
                    self.need(part, "truth", deeper)
                return "truth"
            case ast.Compare():
                return self.comparison(node, deeper)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self.call(node, name, arguments, deeper)
        raise self.fail(node, f"{self.source(node)!r} may not stand here; allowed are {_ALLOWED}")

    def source(self, node: ast.expr) -> str:
        part = ast.get_source_segment(self.text, node) or self.text
        return part if len(part) <= 40 else part[:37] + "..."

    def constant(self, node: ast.expr, value: Any) -> Kind:
        if isinstance(value, bool):
            return "truth"
        if isinstance(value, str):
            return "text"
        if isinstance(value, int | float) and abs(value) < 1e300:
            return "number"
        raise self.fail(node, f"{self.source(node)} is no value; a value is a number, a text in quotes, true or false")

    def column(self, node: ast.expr, name: str) -> Kind:
        if name not in self.columns:
            close = difflib.get_close_matches(name, self.columns, n=1, cutoff=0.6)
            hint = f"did you mean {close[0]}?" if close else "docs/schema.md lists them; a text stands in quotes"
            raise self.fail(node, f"unknown column {name}; {hint}")
        self.names.add(name)
        return self.columns[name]

    def need(self, node: ast.expr, kind: Kind, depth: int) -> Kind:
        found = self.kind_of(node, depth)
        if found != kind:
            message = f"{self.source(node)} is {KIND_NAMES[found]}, where {KIND_NAMES[kind]} is needed"
            raise self.fail(node, message)
        return kind

    def comparison(self, node: ast.Compare, depth: int) -> Kind:
        left = self.kind_of(node.left, depth)
        before: ast.expr = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(operator, ast.In | ast.NotIn):
                if not isinstance(right, ast.Tuple | ast.List) or not right.elts:
                    raise self.fail(right, "after in there must be a list of values in parentheses")
                for element in right.elts:
                    if not isinstance(element, ast.Constant | ast.UnaryOp | ast.Name) or (
                        isinstance(element, ast.Name) and element.id not in _WORDS
                    ):
                        raise self.fail(element, f"{self.source(element)} is no value; a text stands in quotes")
                    self.need(element, left, depth)
                if len(node.ops) > 1:
                    raise self.fail(node, "in cannot be chained with another comparison")
                return "truth"
            if isinstance(operator, ast.Is | ast.IsNot):
                raise self.fail(node, "'is' may not stand here; write == or !=")
            if self.kind_of(right, depth) != left:
                kinds = f"{KIND_NAMES[left]} with {KIND_NAMES[self.kind_of(right, depth)]}"
                raise self.fail(before, f"{self.source(before)} and {self.source(right)} cannot be compared: {kinds}")
            if left != "number" and not isinstance(operator, ast.Eq | ast.NotEq):
                raise self.fail(before, f"{self.source(before)} is {KIND_NAMES[left]}, which has no order")
            before = right
        return "truth"

    def call(self, node: ast.expr, name: str, arguments: list[ast.expr], depth: int) -> Kind:
        if name == "best":
            if self.best is None:
                raise self.fail(node, "best() may stand only in subject_to of a claim best_at")
            if len(arguments) != 1 or not isinstance(arguments[0], ast.Name):
                raise self.fail(node, "best() takes the name of one column")
            self.column(arguments[0], arguments[0].id)
            if arguments[0].id not in self.best:
                raise self.fail(node, f"{arguments[0].id} is neither better small nor large; use max() of numbers")
            return "number"
        if name not in _FUNCTIONS:
            close = difflib.get_close_matches(name, [*_FUNCTIONS, "best"], n=1, cutoff=0.6)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(_FUNCTIONS)}"
            raise self.fail(node, f"unknown function {name}; {hint}")
        least, most = _FUNCTIONS[name]
        if not least <= len(arguments) <= most:
            allowed = str(least) if least == most else f"{least} to {most}"
            raise self.fail(node, f"{name}() takes {allowed} values, got {len(arguments)}")
        for argument in arguments:
            self.need(argument, "number", depth)
        return "number"


_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide, ast.Pow: np.power,
}  # fmt: skip
_UNARY: dict[str, Callable[[Any], Any]] = {"abs": np.abs, "log": np.log, "sqrt": np.sqrt}
_MANY: dict[str, Callable[[Any, Any], Any]] = {"min": np.minimum, "max": np.maximum}


def _evaluate(node: ast.expr, columns: Mapping[str, Values], modes: Mapping[str, Mode]) -> Values:
    """Return the value of a checked node."""

    def value(part: ast.expr) -> Values:
        return _evaluate(part, columns, modes)

    match node:
        case ast.Constant(value=constant):
            return _constant(constant)
        case ast.Name(id=name):
            return _constant(_WORDS[name]) if name in _WORDS else columns[name]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            truth = value(operand)
            return Values(~truth.data.astype(bool), truth.known)
        case ast.UnaryOp(op=operator, operand=operand):
            number = value(operand)
            return Values(-_numbers(number), number.known) if isinstance(operator, ast.USub) else number
        case ast.BinOp(left=left, op=operator, right=right):
            a, b = value(left), value(right)
            return _finite(_ARITHMETIC[type(operator)](_numbers(a), _numbers(b)), a.known & b.known)
        case ast.BoolOp(op=operator, values=parts):
            return _all(*map(value, parts)) if isinstance(operator, ast.And) else _any(*map(value, parts))
        case ast.Compare(left=left, ops=operators, comparators=rights):
            terms = [value(left)]
            truths = []
            for comparison, right in zip(operators, rights, strict=True):
                if isinstance(right, ast.Tuple | ast.List):
                    found = _any(*(_compare(ast.Eq(), terms[-1], value(element)) for element in right.elts))
                    is_in = isinstance(comparison, ast.In)
                    truths.append(found if is_in else Values(~found.data.astype(bool), found.known))
                    continue
                terms.append(value(right))
                truths.append(_compare(comparison, terms[-2], terms[-1]))
            return _all(*truths)
        case ast.Call(func=ast.Name(id="best"), args=[ast.Name(id=name)]):
            return _best(columns[name], modes[name])
        case ast.Call(func=ast.Name(id=name), args=arguments):
            values = [value(argument) for argument in arguments]
            if name in _UNARY:
                return _finite(_UNARY[name](_numbers(values[0])), values[0].known)
            total = values[0]
            for other in values[1:]:
                total = Values(_MANY[name](_numbers(total), _numbers(other)), total.known & other.known)
            return total
    raise AssertionError(ast.dump(node))


def _constant(constant: Any) -> Values:
    if isinstance(constant, str):
        data: NDArray[Any] = np.empty((), dtype=object)
        data[()] = constant
    else:
        data = np.array(constant if isinstance(constant, bool) else float(constant))
    return Values(data, np.ones((), dtype=bool))


def _numbers(values: Values) -> NDArray[np.float64]:
    return np.where(values.known, values.data, 1.0).astype(np.float64)


def _finite(data: NDArray[np.float64], known: NDArray[np.bool_]) -> Values:
    """Mark values that are not finite, such as 1 / 0, as unknown."""
    return Values(data, known & np.isfinite(data))


def _compare(operator: ast.cmpop, a: Values, b: Values) -> Values:
    known = a.known & b.known
    if isinstance(operator, ast.Eq | ast.NotEq):
        if a.data.dtype.kind in "OUSb" or b.data.dtype.kind in "OUSb":
            equal = np.asarray(a.data == b.data, dtype=bool)
        else:
            equal = np.isclose(_numbers(a), _numbers(b), rtol=RELATIVE_TOLERANCE, atol=0.0)
        return Values(equal if isinstance(operator, ast.Eq) else ~equal, known)
    compare: dict[type, Callable[[Any, Any], Any]] = {
        ast.Lt: np.less, ast.LtE: np.less_equal, ast.Gt: np.greater, ast.GtE: np.greater_equal,
    }  # fmt: skip
    return Values(compare[type(operator)](_numbers(a), _numbers(b)), known)


def _all(*truths: Values) -> Values:
    """Return the conjunction of three-valued truths: one that is known and false decides."""
    false, known = np.zeros((), dtype=bool), np.ones((), dtype=bool)
    for truth in truths:
        false = false | (truth.known & ~truth.data.astype(bool))
        known = known & truth.known
    return Values(~false, known | false)


def _any(*truths: Values) -> Values:
    """Return the disjunction of three-valued truths: one that is known and true decides."""
    true, known = np.zeros((), dtype=bool), np.ones((), dtype=bool)
    for truth in truths:
        true = true | truth.true
        known = known & truth.known
    return Values(true, known | true)


def _best(values: Values, mode: Mode) -> Values:
    """Return the best known value along the last axis."""
    worst = -np.inf if mode == "max" else np.inf
    data = np.where(values.known, _numbers(values), worst)
    data = data.max(axis=-1, keepdims=True) if mode == "max" else data.min(axis=-1, keepdims=True)
    return Values(data, np.isfinite(data))
