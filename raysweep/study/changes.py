"""Changes of a sweep's specification: which of them keep its trials comparable, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysweep.errors import SweepDirectoryError
from raysweep.spec.sections import SweepSpec
from raysweep.spec.yamltext import shown as shown_value
from raysweep.storage.layout import SweepDirectory, shown
from raysweep.wording import counted, is_python, option, to_type

COMPATIBLE = (
    "search.trials", "search.confirm", "search.time_budget", "search.epoch_timeout", "search.max_concurrent",
    "search.fuse", "resources", "evaluation.final_metrics", "evaluation.keep", "claims", "data.root", "data.download",
    "data.broken_images",
)  # fmt: skip
"""Keys that do not affect any trial's outcome. Images are compared by their checksum, wherever they come from."""
_ABSENT = object()


@dataclass(frozen=True)
class Change:
    """One key of a specification whose value has changed."""

    key: str
    """Dotted path, such as `trial.kld_weight.low`."""
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {_text(self.before)} -> {_text(self.now)}"

    @property
    def is_compatible(self) -> bool:
        """Return whether trials from before and after the change can be compared, and no trial is removed."""
        if self.key == "search.trials":
            return isinstance(self.now, int) and isinstance(self.before, int) and self.now > self.before
        return any(self.key == key or self.key.startswith((f"{key}.", f"{key}[")) for key in COMPATIBLE)


def changes_between(before: SweepSpec, now: SweepSpec) -> list[Change]:
    """Return every key at which two resolved specifications differ, in the order of the file."""
    return list(_changes("", before.as_mapping(), now.as_mapping()))


def require_compatible(directory: SweepDirectory, changes: Sequence[Change]) -> None:
    """Raise SweepDirectoryError, with every difference, unless the sweep can go on with these changes."""
    if all(change.is_compatible for change in changes):
        return
    name = directory.address
    fewer = [change for change in changes if change.key == "search.trials" and not change.is_compatible]
    if fewer and all(change.is_compatible for change in changes if change not in fewer):
        total = fewer[0].before
        raise SweepDirectoryError(
            f"{name}: is a sweep of {counted(total, 'trial')}; a total can only grow, got {fewer[0].now}. Nothing was "
            f"changed. Give a total of {total} or more with {option('trials')}, or how many more: "
            f"{option('trials', '+10')}"
        )
    objective = _objective_among(changes)
    refused = [change for change in changes if not change.is_compatible and not _is_of_objective(change)]
    why = "trials of the two would not compare, so nothing was changed"
    if objective is not None and not refused:
        why = (
            f"its trials compare by {objective.now} too, but its sampler and its early stopping chose them by "
            f"{objective.before}, so nothing was changed"
        )
    raise SweepDirectoryError(
        f"{name}: was run with another search space; {why}:\n"
        + listed(changes)
        + f"\nWhat may change is {', '.join(COMPATIBLE)}, of which trials can only grow.\n"
        + (_rerank_advice(directory, str(objective.now)) if objective is not None else "")
        + f"Take the rest back, in FILE or in {shown(directory.spec)}, and type: {to_type('resume', name)}\n"
        "or start a new sweep: raysweep run FILE --output DIR"
    )


def _is_of_objective(change: Change) -> bool:
    return change.key.startswith("search.objective.")


def _objective_among(changes: Sequence[Change]) -> Change | None:
    """Return the change of the metric that trials are compared by; None if it has not changed."""
    return next((change for change in changes if change.key == "search.objective.metric"), None)


def _rerank_advice(directory: SweepDirectory, metric: str) -> str:
    """Say how to rank and report the existing trials by another metric, which was measured in every epoch."""
    name = directory.address
    if is_python():
        sweep = f"raysweep.open_sweep({name!r})"
        rank, report = f"{sweep}.best({metric!r})", f"{sweep}.by_objective({metric!r}).write_report()"
    else:
        rank, report = to_type("best", name, metric=metric), to_type("report", name, objective=metric)
    head = f"{metric} was measured in every epoch. To rank the trials by it, type: {rank}"
    return f"{head}\nFor the report by it: {report}\n"


def taken_message(directory: SweepDirectory, before: SweepSpec, now: SweepSpec, source: str | None = None) -> str:
    """Say why `run` refuses a directory that holds a sweep, what differs, and what to type next."""
    name = directory.address
    changes = changes_between(before, now)
    otherwise = f"For a new one, give another directory with {option('output')}, or move {name} away"
    here = "give resume=True, or type: " if is_python() else "type: "
    if not changes:
        return (
            f"{name}: holds a sweep already, run with this very search space. To go on with it, {here}"
            f"{to_type('resume', name)}\n{otherwise}"
        )
    head = f"{name}: holds a sweep already, and this search space differs from the one it was run with:\n"
    head += listed(changes)
    if all(change.is_compatible for change in changes):
        keys = {change.key for change in changes}
        options: dict[str, Any] = {}
        if keys - {"search.trials"}:
            options["file"] = source or "FILE"
        if "search.trials" in keys:
            options["trials"] = now.trials
        return f"{head}\nTo go on with it so changed, {here}{to_type('resume', name, **options)}\n{otherwise}"
    objective = _objective_among(changes)
    as_it_was = f"To go on with the sweep as it was, type: {to_type('resume', name)}\n{otherwise}"
    if objective is not None and all(change.is_compatible or _is_of_objective(change) for change in changes):
        return f"{head}\n{_rerank_advice(directory, str(objective.now))}{as_it_was}"
    if all(change.is_compatible or change.key == "search.trials" for change in changes):
        return f"{head}\nA total can only grow. {as_it_was}"
    return f"{head}\nTheir trials would not compare. {as_it_was}"


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
