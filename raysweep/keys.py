"""Every key that a search space file may have, read off the models that validate it."""

from __future__ import annotations

from functools import cache
from typing import get_args

from pydantic import BaseModel

from raysweep.config import TrialConfig
from raysweep.spec import DataSpec, EvaluationSpec, ResourcesSpec, SearchSpec

SECTIONS: dict[str, type[BaseModel]] = {
    "data": DataSpec, "search": SearchSpec, "resources": ResourcesSpec, "evaluation": EvaluationSpec,
}  # fmt: skip
"""The sections that a model validates as they stand; in `trial:` there are distributions besides values."""

TOP_LEVEL = ("name", "data", "trial", "search", "resources", "evaluation", "claims")


def models_in(annotation: object) -> list[type[BaseModel]]:
    """Return the models that an annotation is, or is a union of."""
    options = [annotation, *get_args(annotation)]
    return [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]


@cache
def all_keys() -> tuple[str, ...]:
    """Return the dotted path of every key but those of a claim: `data`, `data.dataset`, ..., section by section."""
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
