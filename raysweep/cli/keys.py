"""The page that `raysweep check --fields` prints: every key that a search space file may have."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep.errors import Fault, SpecError

if TYPE_CHECKING:
    from raysweep.spec.keys import Key
    from raysweep.spec.sections import SweepSpec

WIDTH = 100
"""Width of a page that does not go to a terminal, and the largest width on one."""


def fields_page(wanted: str | None) -> str:
    """Return the page of the keys that `wanted` asks for.

    These are (a) all, if it is None, (b) those at or below a key, or (c) all, with the values of a search space file.

    Raises:
        SpecError: if `wanted` is neither a key nor a search space.
    """
    from raysweep.spec.hints import keys_meant, nearest_key
    from raysweep.spec.keys import all_keys, described_keys, find_keys
    from raysweep.spec.loading import load_spec
    from raysweep.spec.shipped import find_shipped

    if wanted is None:
        return "\n".join(_lines(described_keys()))
    if keys := find_keys(wanted):
        return "\n".join(_lines(keys))
    if Path(wanted).exists() or "/" in wanted or wanted.endswith((".yaml", ".yml")) or find_shipped(wanted):
        return "\n".join(_lines(described_keys(), wanted, load_spec(wanted)))
    if meant := keys_meant(wanted):
        keys = [key for path in meant for key in find_keys(path)]
        return "\n".join([f"{wanted} is {' or '.join(meant)} here:", "", *_lines(keys)])
    names = sorted({path.rpartition(".")[2] for path in all_keys()} | set(all_keys()))
    hint = nearest_key(wanted, names, ())
    hint = hint if "did you mean" in hint else "; raysweep check --fields lists all"
    raise SpecError(wanted, [Fault(0, "", f"is neither a key of a search space file nor such a file{hint}")])


def _lines(keys: Sequence[Key], source: str = "", spec: SweepSpec | None = None) -> Iterator[str]:
    """Yield the page's lines; with a specification, also each value in its file that is not the default."""
    width = min(shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH, WIDTH)
    above: list[str] = []
    for key in keys:
        above = [path for path in above if key.path.startswith(f"{path}.")]
        name, depth = key.path if not above else key.name, 2 * len(above)
        above.append(key.path)
        if not depth and key is not keys[0]:
            yield ""
        value = "" if key.default is None else f" {key.default}"
        unit = f", {key.unit}" if key.unit and key.values.startswith(("number", "whole")) else ""
        required = "" if key.default is not None or not key.values else "required; "
        head = f"{' ' * depth}{name}:{value}"
        allowed = f"{required}{key.values}{unit}"
        yield from _head(head, allowed if key.path != "claims" else key.values, width)
        yield from _wrapped(key.meaning, depth + 4, width)
        for option, meaning in key.options:
            yield from _wrapped(f"{option}: {meaning}", depth + 6, width)
        if spec is not None:
            yield from _wrapped(_in_file(key, source, spec), depth + 4, width)


def _head(head: str, allowed: str, width: int) -> Iterator[str]:
    if not allowed:
        yield head
    elif len(head) + 3 + len(allowed) <= width:
        yield f"{head}   # {allowed}"
    else:
        yield head
        indent = " " * (len(head) - len(head.lstrip()) + 4) + "# "
        yield from textwrap.wrap(allowed, width, initial_indent=indent, subsequent_indent=indent)


def _wrapped(text: str, indent: int, width: int) -> Iterator[str]:
    yield from textwrap.wrap(text, max(width, indent + 30), initial_indent=" " * indent, subsequent_indent=" " * indent)


def _in_file(key: Key, source: str, spec: SweepSpec) -> str:
    """Return a file's value of a key; empty if that is the default, a section or a list."""
    from raysweep.spec.keys import as_yaml

    found: Any = spec.as_mapping()
    for part in key.path.split("."):
        if not isinstance(found, dict) or part not in found:
            return ""
        found = found[part]
    if not key.values or (isinstance(found, dict) and not key.path.startswith("trial.")) or isinstance(found, list):
        return ""
    return "" if as_yaml(found) == key.default else f"{source}: {as_yaml(found)}"
