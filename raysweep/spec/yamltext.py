"""The text of a search space file: YAML without its surprises, and its faults with their line numbers."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from raysweep.errors import Fault
from raysweep.storage.plaintext import unseen
from raysweep.wording import counted

KeyPath = tuple[str | int, ...]
"""The path of a key: `("claims", 0, "where")`."""

MAX_DEPTH = 32
"""Deepest nesting of keys and values; a search space file has 5 levels."""


class Loader(yaml.SafeLoader):
    """YAML's safe subset, in which `5e-6` is a number and `yes`, `012` and `1:30` are not booleans, octals or times.

    It refuses (a) aliases, with which a small file could describe a huge value, (b) tags, and (c) nesting deeper than
    `MAX_DEPTH`.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed", problem_mark=mark)
        if getattr(event, "tag", None) not in (None, "!"):
            raise yaml.MarkedYAMLError(problem="tags (!name) are not allowed", problem_mark=mark)
        if self._depth == MAX_DEPTH:
            problem = f"is nested more than {MAX_DEPTH} deep"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^$"), [""])
MOST_DIGITS = 100
"""Most digits of a whole number: a longer one is no sensible count, and may overflow a float."""


def _whole_number(loader: Any, node: Any) -> int:
    if len(node.value) > MOST_DIGITS:
        raise yaml.MarkedYAMLError(
            problem=f"a number of {len(node.value)} digits, {MOST_DIGITS} at most", problem_mark=node.start_mark
        )
    return int(str(node.value))


Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


_IN_PLAIN_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is an unknown key",
    "int_from_float": "must be a valid integer",
    "int_parsing_size": "must be a valid integer of fewer digits",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "none_required": "must be null",
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type", "mapping_type", "dataclass_type"),
                    "must be keys and values"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "iterable_type"), "must be a list"),
    **dict.fromkeys(("too_short", "string_too_short"), "must have at least {min_length}"),
    **dict.fromkeys(("too_long", "string_too_long"), "must have at most {max_length}"),
    **dict.fromkeys(("string_pattern_mismatch", "string_unicode"), "must be a text of another form"),
}  # fmt: skip
"""Messages by pydantic's error types, for errors that it describes by names of its own or Python's classes."""


def in_plain_words(detail: Mapping[str, Any]) -> str:
    """Return the message of a pydantic error in the words of a search space file."""
    plain = _IN_PLAIN_WORDS.get(detail["type"])
    if plain is not None:
        noun = "character" if detail["type"].startswith("string") else "item"
        context = dict(detail.get("ctx", {}))
        lengths = {key: counted(context[key], noun) for key in ("min_length", "max_length") if key in context}
        return plain.format(**context | lengths)
    return re.sub(r"^(Value error|Assertion failed), |^Input should(?= be)", lambda found: "must"
                  if found[1] is None else "", str(detail["msg"]))  # fmt: skip


class Faults:
    """The faults found so far, each with the line of the key it concerns."""

    def __init__(self, source: str, root: yaml.Node | None, raw: Any = None) -> None:
        self.source = source
        self.root = root
        self.raw: Mapping[Any, Any] = raw if isinstance(raw, Mapping) else {}
        """The whole file as read, faulty or not, for messages that need other keys of it."""
        self.found: list[Fault] = []

    def add(self, path: KeyPath, message: str) -> None:
        self.found.append(Fault(self._line(path), dotted(path), message))

    def add_validation(
        self, path: KeyPath, error: ValidationError, raw: Any, hint: Callable[[str, Any, str], str] | None = None
    ) -> None:
        """Add the faults that pydantic found below `path`.

        `hint` returns the end of a message, given the key, its value and pydantic's message.
        """
        found: dict[KeyPath, list[str]] = {}
        ends: dict[KeyPath, str] = {}
        for detail in error.errors(include_url=False):
            below = tuple(part for part in detail["loc"] if _exists(raw, part, detail["loc"]))
            message = in_plain_words(detail)
            if detail["type"] == "missing":
                below = (*below, detail["loc"][-1])
            key = (*path, *below)
            messages = found.setdefault(key, [])
            if message not in messages:
                messages.append(message)
            if detail["type"] not in ("missing", "value_error"):
                ends[key] = f", got {shown(detail['input'])}"
                ends[key] += hint(dotted(key), detail["input"], detail["msg"]) if hint is not None else ""
        for key, messages in found.items():
            # A union has one message for each member. Join them, because a value of any member would be valid.
            self.add(
                key,
                " or ".join([messages[0], *(text.removeprefix("must be ") for text in messages[1:])])
                + ends.get(key, ""),
            )

    def _line(self, path: KeyPath) -> int:
        """Return the line of the deepest part of `path` that the file has; 0 if it has none."""
        node, line = self.root, 0
        for part in path:
            if isinstance(node, yaml.MappingNode):
                pair = next(((k, v) for k, v in node.value if k.value == part), None)
                if pair is None:
                    break
                line, node = pair[0].start_mark.line + 1, pair[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                break
        return line


def as_written(value: Any) -> Any:
    """Return a value from Python as a file would have it, with lists for tuples and texts for paths.

    A value that no file can have stays as it is: the model of its key refuses it.
    """
    if isinstance(value, Mapping):
        return {key: as_written(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [as_written(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return value


def yaml_fault(error: Exception, text: str) -> Fault:
    """Return the fault of a text that is not YAML: its line, and the likely reason in plain words."""
    mark: Any = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return Fault(line, "", f"is not YAML: has the character U+{error.character:04X}, which no text has; remove it")
    if mark is None:
        return Fault(0, "", f"is not YAML: {problem}")
    lines = text.split("\n")
    if "'\\t' that cannot start any token" in problem:
        return Fault(mark.line + 1, "", "is not YAML: has a tab for a blank; indent with blanks alone")
    said = [n for n, line in enumerate(lines[: mark.line + 1]) if line.strip() and not line.lstrip().startswith("#")]
    for number in reversed(said[-2:]):  # YAML may notice such a character only one line later
        for _, name in unseen(lines[number].lstrip("\ufeff")):
            return Fault(number + 1, "", f"is not YAML: has a {name}, which is no blank; type a blank in its place")
    return Fault(mark.line + 1, "", f"is not YAML: {problem}")


def check_unseen(node: Any, path: KeyPath, found: list[Fault]) -> None:
    """Add a fault for each key or bare value with a character that only looks like a blank.

    Inside a value it may be intended, as in `10\u00a0nats`; at its ends, and in a key, it is a mistake.
    """
    waiting = [(path, node)]
    while waiting:
        key, node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                _add_unseen(name, key, str(name.value), found)
                waiting.append(((*key, str(name.value)), value))
        elif isinstance(node, yaml.SequenceNode):
            waiting += [((*key, index), item) for index, item in enumerate(node.value)]
        elif node.style is None:
            _add_unseen(node, key, str(node.value)[:1] + str(node.value)[-1:], found)


def _add_unseen(node: yaml.Node, path: KeyPath, text: str, found: list[Fault]) -> None:
    mark: Any = node.start_mark
    for _, name in unseen(text):
        found.append(Fault(mark.line + 1, dotted(path), f"has a {name}, which is no blank; type a blank in its place"))
        return


def check_duplicates(node: Any, path: KeyPath, faults: Faults) -> None:
    """Add a fault for each key that stands twice below `node`; YAML itself silently keeps the last one."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                faults.found.append(Fault(key.start_mark.line + 1, dotted((*path, key.value)), "stands twice"))
            seen.add(str(key.value))
            check_duplicates(value, (*path, str(key.value)), faults)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            check_duplicates(value, (*path, index), faults)


def _exists(raw: Any, part: str | int, loc: tuple[str | int, ...]) -> bool:
    """Return whether `part` of a pydantic location is a key of the file, not a union's member."""
    node = raw
    for step in loc:
        if isinstance(node, Mapping) and step in node:
            node = node[step]
        elif isinstance(node, list | tuple) and isinstance(step, int) and step < len(node):
            node = node[step]
        else:
            return False
        if step == part:
            return True
    return False


def dotted(path: KeyPath) -> str:
    """Return a key as messages show it: `claims[0].where`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def shown(value: Any) -> str:
    """Return a value of a file as text that is short enough for a message."""
    text = repr(value) if isinstance(value, str) else str(value)
    kind = "keys and values" if isinstance(value, dict) else "a list" if isinstance(value, list) else None
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"{kind}: {text}" if kind else text


def nearest(got: Any, allowed: tuple[str, ...]) -> str:
    """Return the end of a message about an unknown name: the likely one, or all that are allowed."""
    close = difflib.get_close_matches(str(got), allowed, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else f"; allowed: {', '.join(allowed)}"
