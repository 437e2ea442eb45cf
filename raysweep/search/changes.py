"""What may change of a sweep's specification while its trials stay comparable, and how a difference is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysweep.errors import SweepDirectoryError
from raysweep.layout import SweepDirectory, shown, typed
from raysweep.spec import SweepSpec
from raysweep.yamltext import shown as shown_value

COMPATIBLE = (
    "search.trials", "search.time_budget", "search.epoch_timeout", "search.max_concurrent", "search.fuse",
    "resources", "evaluation.final_metrics", "claims", "data.root", "data.download",
    "data.broken_images",
)  # fmt: skip
"""Keys that no trial's outcome depends on. The images are compared by their checksum, however they were found."""
_ABSENT = object()


@dataclass(frozen=True)
class Change:
    """One key of a specification whose value is another one now."""

    key: str
    """Dotted path, such as `trial.kld_weight.low`."""
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {_text(self.before)} -> {_text(self.now)}"

    @property
    def is_compatible(self) -> bool:
        """Whether trials from before and after it compare, and none is taken away."""
        if self.key == "search.trials":
            return isinstance(self.now, int) and isinstance(self.before, int) and self.now > self.before
        return any(self.key == key or self.key.startswith((f"{key}.", f"{key}[")) for key in COMPATIBLE)


def changes_between(before: SweepSpec, now: SweepSpec) -> list[Change]:
    """Every key at which two resolved specifications differ, in the order of the file."""
    return list(_changes("", before.as_mapping(), now.as_mapping()))


def require_compatible(directory: SweepDirectory, changes: Sequence[Change]) -> None:
    """Raises SweepDirectoryError, with every difference, if trials from before and after them would not compare."""
    if all(change.is_compatible for change in changes):
        return
    name, root = directory.address, typed(directory.address)
    fewer = [change for change in changes if change.key == "search.trials" and not change.is_compatible]
    if fewer and all(change.is_compatible for change in changes if change not in fewer):
        raise SweepDirectoryError(
            f"{name}: is a sweep of {fewer[0].before} trials; a total can only grow, got {fewer[0].now}. Nothing was "
            f"changed. Give a total of {fewer[0].before} or more with --trials"
        )
    raise SweepDirectoryError(
        f"{name}: was run with another search space; trials of the two would not compare, so nothing was changed:\n"
        + listed(changes)
        + f"\nWhat may change is {', '.join(COMPATIBLE)}, of which trials can only grow.\n"
        f"Take the rest back, in FILE or in {shown(directory.spec)}, and type: raysweep resume {root}\n"
        "or start a new sweep: raysweep run FILE --output DIR"
    )


def taken_message(directory: SweepDirectory, before: SweepSpec, now: SweepSpec, source: str | None = None) -> str:
    """Why `run` refuses a directory with a sweep, how what it was to run differs, and what to type next."""
    name, root = directory.address, typed(directory.address)
    changes = changes_between(before, now)
    otherwise = f"For a new one, give another directory with --output, or move {name} away"
    if not changes:
        return (
            f"{name}: holds a sweep already, run with this very search space. To go on with it, type: "
            f"raysweep resume {root}\n{otherwise}"
        )
    head = f"{name}: holds a sweep already, and this search space differs from the one it was run with:\n"
    head += listed(changes)
    if all(change.is_compatible for change in changes):
        command = f"raysweep resume {root}"
        keys = {change.key for change in changes}
        if keys - {"search.trials"}:
            command += f" --file {typed(source) if source else 'FILE'}"
        if "search.trials" in keys:
            command += f" --trials {now.trials}"
        return f"{head}\nTo go on with it so changed, type: {command}\n{otherwise}"
    return (
        f"{head}\nTheir trials would not compare. To go on with the sweep as it was, type: raysweep resume {root}\n"
        f"{otherwise}"
    )


def listed(changes: Sequence[Change]) -> str:
    return "\n".join(f"    {change}" for change in changes)


def _changes(key: str, before: Any, now: Any) -> Sequence[Change]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        names = [*before, *(name for name in now if name not in before)]
        return [
            change
            for name in names
            for change in _changes(
                f"{key}.{name}" if key else str(name), before.get(name, _ABSENT), now.get(name, _ABSENT)
            )
        ]
    if _is_list(before) and _is_list(now) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [change for index, (a, b) in pairs for change in _changes(f"{key}[{index}]", a, b)]
    is_same = before == now and isinstance(before, bool) == isinstance(now, bool)
    return [] if is_same else [Change(key, before, now)]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _text(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else shown_value(value)
