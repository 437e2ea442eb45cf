"""The JSON Schema of a search space file, for editors that complete and check one while it is written.

It is built from the models that validate the file. Rules about several keys, such as low < high, are not in it: only
`raysweep check` tests them.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from raysweep.spec.claims import CLAIM_KINDS
from raysweep.spec.config import TrialConfig
from raysweep.spec.keys import CLAIMS_MEANING, NAME_MEANING, SECTIONS, TOP_LEVEL, TRIAL_MEANING
from raysweep.spec.space import Choices, Range, field_kind

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_FILE = "raysweep.schema.json"
"""The name of the schema file, next to the files that refer to it."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a search space file."""
    models: list[type[BaseModel]] = [*SECTIONS.values(), *CLAIM_KINDS.values(), TrialConfig, Range, Choices]
    _, made = models_json_schema([(model, "validation") for model in models], ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = made["$defs"]
    values = definitions.pop("TrialConfig")["properties"]
    search = definitions["SearchSpec"]["properties"]
    search["early_stopping"]["anyOf"].append({"const": "none"})
    point = _mapping({name: _bare(values[name]) for name in values})
    search["enqueue"]["items"] = point
    search["prior"] |= point
    ranges, choices = definitions.pop("Range"), definitions.pop("Choices")
    definitions["Trial"] = {
        **_mapping({name: _searchable(name, values[name], ranges, choices) for name in values}),
        "description": TRIAL_MEANING,
    }
    sections: dict[str, Any] = {
        name: {"anyOf": [{"$ref": f"#/$defs/{model.__name__}"}, {"type": "null"}]} for name, model in SECTIONS.items()
    }
    sections["trial"] = {"anyOf": [{"$ref": "#/$defs/Trial"}, {"type": "null"}]}
    sections["name"] = {
        "type": "string",
        "pattern": NAME_PATTERN,
        "description": NAME_MEANING,
    }
    kinds = [{"$ref": f"#/$defs/{kind.__name__}"} for kind in CLAIM_KINDS.values()]
    sections["claims"] = {
        "type": ["array", "null"],
        "items": {"oneOf": kinds},
        "description": CLAIMS_MEANING,
    }
    schema = {
        "$schema": DIALECT,
        "title": "raysweep search space",
        **_mapping({name: sections[name] for name in TOP_LEVEL}),
        "required": ["data"],
        "$defs": definitions,
    }
    made_plain: dict[str, Any] = _without_titles(schema)
    return made_plain


def _mapping(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _bare(value: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a value without its description, default and title, for use in another place."""
    return {key: part for key, part in value.items() if key not in ("description", "default", "title")}


def _searchable(name: str, value: dict[str, Any], ranges: dict[str, Any], choices: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field of `trial:`: a value, choices, or a range if it is a number."""
    bare = _bare(value)
    forms = [bare, {**choices, "properties": {"choices": {**choices["properties"]["choices"], "items": bare}}}]
    listed = forms[1]["properties"]["choices"]
    listed |= {"minItems": 1, "uniqueItems": True}
    if field_kind(name) != "other":
        numbers = next((part for part in bare.get("anyOf", [bare]) if part.get("type") != "null"), bare)
        ends = {end: {**ranges["properties"][end], "anyOf": [numbers]} for end in ("low", "high")}
        forms.append({**ranges, "properties": {**ranges["properties"], **ends}})
    return {key: value[key] for key in ("description", "default") if key in value} | {"anyOf": forms}


def _without_titles(part: Any) -> Any:
    """Return a schema without the titles that pydantic makes from field names."""
    if isinstance(part, dict):
        return {
            key: _without_titles(value)
            for key, value in part.items()
            if key != "title" or not isinstance(value, str) or part.get("$schema")
        }
    return [_without_titles(item) for item in part] if isinstance(part, list) else part
