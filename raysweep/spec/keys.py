"""All keys that a search space file may have, read from the models that validate it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from raysweep.metrics import METRICS, OBJECTIVES
from raysweep.spec.claims import CLAIM_KINDS
from raysweep.spec.config import UNITS, TrialConfig
from raysweep.spec.sections import DataSpec, EvaluationSpec, ResourcesSpec, SearchSpec

SECTIONS: dict[str, type[BaseModel]] = {
    "data": DataSpec, "search": SearchSpec, "resources": ResourcesSpec, "evaluation": EvaluationSpec,
}  # fmt: skip
"""The sections that one model validates; `trial:` is not among them, because it may hold distributions too."""

TOP_LEVEL = ("name", "data", "trial", "search", "resources", "evaluation", "claims")

NAME_MEANING = "Names the sweep, and its directory below results/."
TRIAL_MEANING = (
    "The configuration of each trial. A key is constant with a value, and searched with {low, high}, to which "
    "log: true and step may be added, or with {choices: [...]}; what is left out has its default."
)
CLAIMS_MEANING = "Statements about the results, which raysweep findings decides (docs/findings.md)."
"""Descriptions, for users, of the keys that have no model of their own."""

METRIC_OPTIONS = tuple(
    (name, f"{METRICS[name].meaning}; {'more' if mode == 'max' else 'less'} is better")
    for name, mode in OBJECTIVES.items()
)


def models_in(annotation: object) -> list[type[BaseModel]]:
    """Return the pydantic models in an annotation, which may be a union."""
    options = [annotation, *get_args(annotation)]
    return [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]


@cache
def all_keys() -> tuple[str, ...]:
    """Return the dotted path of every key except those of claims, by section: `data`, `data.dataset`, ..."""
    found: list[str] = []
    for name in TOP_LEVEL:
        found.append(name)
        if name == "trial":
            found += [f"trial.{field}" for field in TrialConfig.model_fields]
        elif name in SECTIONS:
            found += _keys_below(name, SECTIONS[name])
    return tuple(found)


def _keys_below(path: str, model: type[BaseModel]) -> list[str]:
    found: list[str] = []
    for name, info in model.model_fields.items():
        found.append(f"{path}.{name}")
        for nested in models_in(info.annotation):
            found += _keys_below(f"{path}.{name}", nested)
    return found


@dataclass(frozen=True)
class Key:
    """A key, described for users who write it."""

    path: str
    """Dotted, such as `trial.kld_weight`. A claim's keys have the word under `test:`, as in `claims.compare.margin`."""
    values: str
    """Allowed values with bounds, such as `number above 0`; empty for a key that has keys of its own."""
    unit: str
    default: str | None
    """As written in a file; None for a key without a default."""
    meaning: str
    options: tuple[tuple[str, str], ...] = ()
    """Values whose names do not explain them, each with its meaning."""

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]


@cache
def described_keys() -> tuple[Key, ...]:
    """Return every key with its bounds, default and meaning, as in the models and their docstrings."""
    found = [Key("name", "letters, digits, '.', '_' and '-'", "", "the file's name", NAME_MEANING)]
    for section in TOP_LEVEL[1:]:
        if section == "trial":
            found.append(Key("trial", "", "", None, TRIAL_MEANING))
            found += _described("trial", TrialConfig)
        elif section in SECTIONS:
            found.append(Key(section, "", "", None, _doc(SECTIONS[section])))
            found += _described(section, SECTIONS[section])
    found.append(Key("claims", "a list, each with a test:", "", None, CLAIMS_MEANING))
    for word, kind in CLAIM_KINDS.items():
        found.append(Key(f"claims.{word}", "", "", None, _doc(kind)))
        found += [key for key in _described(f"claims.{word}", kind) if key.name != "test"]
    return tuple(found)


def find_keys(wanted: str) -> list[Key]:
    """Return the keys with that path or name, and all keys below them; empty if there are none."""
    keys = described_keys()
    paths = [key.path for key in keys if wanted in (key.path, key.name)]
    return [key for key in keys if any(key.path == path or key.path.startswith(f"{path}.") for path in paths)]


def _doc(model: type[BaseModel]) -> str:
    """Return the first paragraph of a model's docstring, without the section name at its start."""
    text = " ".join((model.__doc__ or "").split("\n\n")[0].split())
    text = re.sub(r"^`[\w.]+:` ", "", text)
    return text[:1].upper() + text[1:]


def _described(path: str, model: type[BaseModel]) -> list[Key]:
    schema = model.model_json_schema()
    found: list[Key] = []
    for name, info in model.model_fields.items():
        here, nested = f"{path}.{name}", models_in(info.annotation)
        units = UNITS if path == "trial" else {}
        meaning = " ".join((info.description or "").split())
        values = "" if nested else _values(schema["properties"][name], schema.get("$defs", {}))
        others = get_args(info.annotation) if nested else ()
        if type(None) in others:
            words = [word for other in others if get_origin(other) is Literal for word in get_args(other)]
            values = f"{', '.join([*words, 'null'])}, or keys and values"
        has_no_default = info.is_required() or isinstance(info.default, BaseModel)
        default = None if has_no_default else as_yaml(info.default)
        options = METRIC_OPTIONS if here == "search.objective.metric" else ()
        found.append(Key(here, values, units.get(name, ""), default, meaning, options))
        for below in nested:
            found += _described(here, below)
    return found


def as_yaml(value: object) -> str:
    """Return a value as written in a search space file, on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else f"{value:.4g}" if value > 1e-3 else repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_yaml(item)}" for key, item in value.items()) + "}"
    return str(value) if isinstance(value, int) or value != "" else '""'


def _values(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Describe the values that a JSON Schema allows."""
    if "$ref" in schema:
        return _values(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_values(part, definitions) for part in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        words = [as_yaml(word) for word in schema.get("enum", [schema.get("const")])]
        return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    kind = schema.get("type")
    if isinstance(kind, list):
        return "a value"
    if kind in ("integer", "number"):
        return f"{'whole number' if kind == 'integer' else 'number'}{_bounds(schema)}"
    if kind == "array":
        return f"list of {_values(schema.get('items', {}), definitions)}"
    if kind == "string":
        examples = schema.get("examples")
        return f"text such as {', '.join(examples)}" if examples else "text"
    if kind == "object":
        return "keys and values"
    return {"boolean": "true or false", "null": "null"}.get(str(kind), "a value")


def _bounds(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    low = f"from {least:g}" if least is not None else f"above {above:g}" if above is not None else ""
    high = f"to {most:,}" if most is not None else f"below {below:,}" if below is not None else ""
    if low and not high:
        return f" {low} on" if least is not None else f" {low}"
    return "".join(f" {part}" for part in (low, high) if part)
