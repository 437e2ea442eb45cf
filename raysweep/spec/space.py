"""Distributions: the values that a field of the `trial:` section may take, and the space they span."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Strict, TypeAdapter, model_validator

from raysweep.spec.config import TrialConfig

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Number = Annotated[int, Strict()] | Annotated[float, Strict()]
Scalar = bool | int | float | str | None
Kind = Literal["int", "float", "other"]
MOST_STEPS = 1e9
"""Most steps of a range that has a step."""


class Range(BaseModel):
    """Numbers from `low` to `high`, both included; uniform, or uniform in the logarithm."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    low: Number
    """The least value, included."""
    high: Number
    """The largest value, included."""
    log: Annotated[bool, Strict()] = False
    """True if the logarithm is uniform: for a scale of several decades, from above 0."""
    step: Number | None = None
    """Distance between the values; null takes all numbers, or all whole ones. Not with `log`."""

    @model_validator(mode="after")
    def _consistent(self) -> Range:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"low and high must be finite, got {self.low} and {self.high}")
        if self.low >= self.high:
            raise ValueError(f"low must be less than high, got low {self.low} and high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be greater than 0 on a log scale, got {self.low}")
        if self.step is not None:
            if self.log:
                raise ValueError("a log scale has no step; take one of them out")
            if not self.step > 0:
                raise ValueError(f"step must be greater than 0, got {self.step}")
            steps = (self.high - self.low) / self.step
            if steps > MOST_STEPS:
                raise ValueError(f"step {self.step} is too small: from {self.low} to {self.high} are too many values")
            if abs(steps - round(steps)) > 1e-9 * max(1.0, steps):
                raise ValueError(
                    f"step {self.step} does not divide the range from {self.low} to {self.high}; "
                    f"high could be {self.low + math.floor(steps) * self.step:g}"
                )
        return self

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return abs(steps - round(steps)) <= 1e-9 * max(1.0, steps)

    def __str__(self) -> str:
        scale = ", log scale" if self.log else f", step {self.step:g}" if self.step is not None else ""
        return f"{self.low:g} to {self.high:g}{scale}"


class Choices(BaseModel):
    """A list of values. Samplers take numbers in the order of their size, all other values without an order."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    choices: tuple[Scalar, ...]
    """The values, each once, of which one is chosen."""

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, raw: Any) -> Any:
        values = raw.get("choices") if isinstance(raw, Mapping) else None
        if not isinstance(values, list | tuple) or not values:
            raise ValueError(f"choices must be a list of at least one value, got {values!r}")
        for index, value in enumerate(values):
            if not isinstance(value, bool | int | float | str | None):
                raise ValueError(f"a choice is a number, a text, true, false or null, got {value!r}")
            if any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values[:index]):
                raise ValueError(f"each choice may stand once, got {value!r} twice")
        return raw

    def __contains__(self, value: object) -> bool:
        return any(value == c and isinstance(value, bool) == isinstance(c, bool) for c in self.choices)

    def __str__(self) -> str:
        return "one of " + ", ".join(str(choice) for choice in self.choices)


Distribution = Range | Choices


def ordered_choices(choices: Sequence[Scalar]) -> tuple[int | float, ...] | None:
    """Return the choices sorted if all are numbers; otherwise None, because they have no order."""
    numbers = [c for c in choices if isinstance(c, int | float) and not isinstance(c, bool) and math.isfinite(c)]
    return tuple(sorted(numbers)) if len(numbers) == len(choices) else None


@cache
def field_adapter(name: str) -> TypeAdapter[Any]:
    """Return a validator for values of one field of `TrialConfig`, with the field's bounds."""
    info = TrialConfig.model_fields[name]
    annotation: Any = info.annotation
    return TypeAdapter(Annotated[annotation, *info.metadata] if info.metadata else annotation)


@cache
def field_kind(name: str) -> Kind:
    """Return the kind of a field of `TrialConfig`: int, float, or other, which only choices can vary."""
    annotation: Any = TrialConfig.model_fields[name].annotation
    options = [arg for arg in get_args(annotation) if arg is not type(None)] or [annotation]
    bare = {getattr(option, "__origin__", option) for option in options}
    return "int" if bare == {int} else "float" if bare == {float} else "other"


def optuna_distribution(name: str, distribution: Distribution) -> BaseDistribution:
    """Return the Optuna distribution that samples field `name` of `TrialConfig`."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, Choices):
        return CategoricalDistribution(distribution.choices)
    low, high, step = distribution.low, distribution.high, distribution.step
    if field_kind(name) == "int":
        return IntDistribution(int(low), int(high), log=distribution.log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=distribution.log, step=None if step is None else float(step))


@dataclass(frozen=True)
class TrialSpace:
    """The `trial:` section: the fields held constant and the fields searched. Fields in neither keep their default."""

    constants: Mapping[str, Scalar]
    searched: Mapping[str, Distribution]

    def config(self, params: Mapping[str, Scalar]) -> TrialConfig:
        """Return the configuration at one point of the space."""
        return TrialConfig.model_validate({**self.constants, **params})

    def choices(self, name: str) -> tuple[Scalar, ...]:
        """Return the values that field `name` can take if it is constant or has choices; empty for a range."""
        distribution = self.searched.get(name)
        if distribution is None:
            return (self.constants.get(name, TrialConfig.model_fields[name].default),)
        return distribution.choices if isinstance(distribution, Choices) else ()

    def ends(self, name: str) -> tuple[float, float]:
        """Return the smallest and the largest value of field `name`, which must be a number."""
        distribution = self.searched.get(name)
        if isinstance(distribution, Range):
            return distribution.low, distribution.high
        numbers = [value for value in self.choices(name) if isinstance(value, int | float)]
        return min(numbers), max(numbers)

    def _grid_values(self, name: str) -> Sequence[Scalar]:
        """Return the values of field `name` in a grid; `is_finite` must hold."""
        distribution = self.searched[name]
        if isinstance(distribution, Choices):
            return distribution.choices
        count = self._grid_count(name)
        step = (distribution.high - distribution.low) / (count - 1)
        if field_kind(name) == "int":
            return range(int(distribution.low), int(distribution.high) + 1, round(step))
        return [min(distribution.high, distribution.low + index * step) for index in range(count)]

    def _grid_count(self, name: str) -> int:
        distribution = self.searched[name]
        if isinstance(distribution, Choices):
            return len(distribution.choices)
        return round((distribution.high - distribution.low) / (distribution.step or 1)) + 1

    def is_finite(self, name: str) -> bool:
        """Return whether a grid can visit every value of field `name`."""
        distribution = self.searched.get(name)
        if not isinstance(distribution, Range):
            return True
        return distribution.step is not None or (field_kind(name) == "int" and not distribution.log)

    def grid_size(self) -> int:
        """Return the number of points of the grid over the searched fields, which must all be finite."""
        return math.prod(self._grid_count(name) for name in self.searched)

    def grid(self) -> Iterator[dict[str, Scalar]]:
        """Yield every point of the grid; the last field named varies fastest."""
        names = list(self.searched)
        for point in product(*(self._grid_values(name) for name in names)):
            yield dict(zip(names, point, strict=True))

    def as_mapping(self) -> dict[str, Any]:
        """Return the section as written in a file: searched fields in their order, then every other field."""
        section: dict[str, Any] = {}
        for name, distribution in self.searched.items():
            dumped = distribution.model_dump(exclude_defaults=True)
            section[name] = {key: list(v) if isinstance(v, tuple) else v for key, v in dumped.items()}
        for name, info in TrialConfig.model_fields.items():
            if name not in section:
                section[name] = self.constants.get(name, info.default)
        return section
