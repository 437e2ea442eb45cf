"""A space as a unit cube: a row of numbers for each point, and back.

An axis is one parameter. A number is placed between `low` and `high`, on a log scale if the space says so.
Choices that are all numbers are ordered; other choices are categories, which have a number but no order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from raysweep.spec.space import ordered_choices

Floats = npt.NDArray[np.float64]

RESAMPLED = 0.2
"""Probability that the category of a point's neighbour is drawn at random."""


class Axis(ABC):
    """One parameter: its values as positions, which are numbers in [0, 1] or the number of a category."""

    is_ordered = True

    @abstractmethod
    def position(self, value: Any) -> float:
        """Return the position of a value.

        Raises:
            ValueError: if the parameter has no such value.
        """

    @abstractmethod
    def value(self, position: float) -> Any:
        """Return the value at a position, or the nearest one."""

    @abstractmethod
    def spread(self, uniform: Floats) -> Floats:
        """Map uniform numbers in [0, 1) to positions of values, so that each value is equally likely."""

    @abstractmethod
    def near(self, generator: np.random.Generator, positions: Floats, scale: float) -> Floats:
        """Return the position of a random neighbouring value for each of `positions`."""


class RealAxis(Axis):
    """Numbers from `low` to `high`."""

    def __init__(self, low: float, high: float, log: bool) -> None:
        self._low, self._high, self._log = low, high, log
        self._start = math.log(low) if log else low
        self._span = (math.log(high) if log else high) - self._start

    def position(self, value: Any) -> float:
        if not self._span:
            return 0.0
        return ((math.log(value) if self._log else float(value)) - self._start) / self._span

    def value(self, position: float) -> float:
        scaled = self._start + position * self._span
        return float(min(self._high, max(self._low, math.exp(scaled) if self._log else scaled)))

    def spread(self, uniform: Floats) -> Floats:
        return uniform

    def near(self, generator: np.random.Generator, positions: Floats, scale: float) -> Floats:
        moved: Floats = np.clip(positions + scale * generator.standard_normal(len(positions)), 0.0, 1.0)
        return moved


class SteppedAxis(Axis):
    """Numbers from `low` to `high` in equal steps; whole numbers if `low` and `step` are whole."""

    def __init__(self, low: float, high: float, step: float) -> None:
        self._low, self._step = low, step
        self._last = round((high - low) / step)
        self._high = high

    def position(self, value: Any) -> float:
        return (float(value) - self._low) / (self._high - self._low) if self._last else 0.0

    def value(self, position: float) -> int | float:
        return min(self._high, self._low + round(position * self._last) * self._step)

    def spread(self, uniform: Floats) -> Floats:
        return np.minimum(np.floor(uniform * (self._last + 1)), self._last) / max(1, self._last)

    def near(self, generator: np.random.Generator, positions: Floats, scale: float) -> Floats:
        steps = max(1, self._last)
        moved = positions + max(scale, 0.6 / steps) * generator.standard_normal(len(positions))
        nearest: Floats = np.rint(np.clip(moved, 0.0, 1.0) * self._last) / steps
        return nearest


class LogIntegerAxis(Axis):
    """Whole numbers from `low` to `high`, uniform in the logarithm."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high
        self._start, self._span = math.log(low), math.log(high) - math.log(low)
        self._ends = math.log(low - 0.5), math.log(high + 0.5)

    def position(self, value: Any) -> float:
        return (math.log(value) - self._start) / self._span if self._span else 0.0

    def value(self, position: float) -> int:
        return int(min(self._high, max(self._low, round(math.exp(self._start + position * self._span)))))

    def spread(self, uniform: Floats) -> Floats:
        low, high = self._ends
        return self._nearest(low + uniform * (high - low))

    def near(self, generator: np.random.Generator, positions: Floats, scale: float) -> Floats:
        moved = self._start + (positions + scale * generator.standard_normal(len(positions))) * self._span
        return self._nearest(moved)

    def _nearest(self, logarithms: Floats) -> Floats:
        ends = self._ends
        numbers = np.clip(np.rint(np.exp(np.clip(logarithms, *ends))), self._low, self._high)
        positions: Floats = (np.log(numbers) - self._start) / (self._span or 1.0)
        return positions


class OrderedAxis(Axis):
    """Numeric choices: placed by their logarithm if all are positive, otherwise evenly spaced."""

    def __init__(self, choices: Sequence[Any]) -> None:
        self._choices = sorted(choices)
        count = len(choices)
        if self._choices[0] > 0 and count > 1:
            logs = np.log([float(choice) for choice in self._choices])
            self._positions = (logs - logs[0]) / (logs[-1] - logs[0])
        else:
            self._positions = np.arange(count) / max(1, count - 1)

    def position(self, value: Any) -> float:
        return float(self._positions[self._choices.index(value)])

    def value(self, position: float) -> Any:
        return self._choices[int(np.argmin(np.abs(self._positions - position)))]

    def spread(self, uniform: Floats) -> Floats:
        count = len(self._choices)
        spread: Floats = self._positions[np.minimum((uniform * count).astype(int), count - 1)]
        return spread

    def near(self, generator: np.random.Generator, positions: Floats, scale: float) -> Floats:
        count = len(self._choices)
        scale = max(scale, 0.6 / max(1, count - 1))
        moved = positions + scale * generator.standard_normal(len(positions))
        nearest: Floats = self._positions[np.argmin(np.abs(self._positions - moved[:, None]), axis=1)]
        return nearest


class CategoryAxis(Axis):
    """Choices without an order; a position is the number of a choice."""

    is_ordered = False

    def __init__(self, choices: Sequence[Any]) -> None:
        self._choices = list(choices)

    def position(self, value: Any) -> float:
        for index, choice in enumerate(self._choices):
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return float(index)
        raise ValueError(f"{value!r} is none of the choices")

    def value(self, position: float) -> Any:
        return self._choices[int(position)]

    def spread(self, uniform: Floats) -> Floats:
        count = len(self._choices)
        return np.minimum(np.floor(uniform * count), count - 1)

    def near(self, generator: np.random.Generator, positions: Floats, scale: float) -> Floats:
        others = self.spread(generator.random(len(positions)))
        return np.where(generator.random(len(positions)) < RESAMPLED, others, positions)


def axis_of(distribution: BaseDistribution) -> Axis:
    """Return the axis of a parameter with this distribution."""
    if isinstance(distribution, CategoricalDistribution):
        is_ordered = ordered_choices(distribution.choices) is not None
        return OrderedAxis(distribution.choices) if is_ordered else CategoryAxis(distribution.choices)
    if isinstance(distribution, IntDistribution):
        if distribution.log:
            return LogIntegerAxis(distribution.low, distribution.high)
        return SteppedAxis(distribution.low, distribution.high, distribution.step)
    if isinstance(distribution, FloatDistribution):
        if distribution.step is not None:
            return SteppedAxis(distribution.low, distribution.high, distribution.step)
        return RealAxis(distribution.low, distribution.high, distribution.log)
    raise TypeError(f"{type(distribution).__name__} is no distribution that Optuna had when this was written")


class Cube:
    """A space: parameters sorted by name, whatever order they are given in."""

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self.names = sorted(space)
        self._axes = [axis_of(space[name]) for name in self.names]
        self._names = set(self.names)
        choices = ((n, d.choices) for n, d in space.items() if isinstance(d, CategoricalDistribution))
        self._choices = list(choices)
        self.is_ordered = np.array([axis.is_ordered for axis in self._axes], dtype=bool)

    def holds(self, point: Mapping[str, Any]) -> bool:
        """Return whether a point has a value of every parameter, and for choices an existing one."""
        return point.keys() >= self._names and all(point[name] in values for name, values in self._choices)

    def encode(self, point: Mapping[str, Any]) -> list[float]:
        """Return the row of a point.

        Raises:
            KeyError: if the point has no value of a parameter.
            ValueError: if it has a value that the space does not have.
        """
        return [axis.position(point[name]) for name, axis in zip(self.names, self._axes, strict=True)]

    def decode(self, row: Floats) -> dict[str, Any]:
        """Return the point of a row."""
        positions = zip(self.names, self._axes, row, strict=True)
        return {name: axis.value(float(position)) for name, axis, position in positions}

    def value_at(self, column: int, position: float) -> Any:
        """Return the value of one parameter at a position."""
        return self._axes[column].value(float(position))

    def spread(self, uniform: Floats) -> Floats:
        """Map uniform numbers [n, d] to rows, so that each value of a parameter is equally likely."""
        rows = np.empty_like(uniform)
        for column, axis in enumerate(self._axes):
            rows[:, column] = axis.spread(uniform[:, column])
        return rows

    def near(self, generator: np.random.Generator, rows: Floats, scale: float) -> Floats:
        """Return a neighbour of each row [n, d], about `scale` away in each ordered parameter."""
        neighbours = np.empty_like(rows)
        for column, axis in enumerate(self._axes):
            neighbours[:, column] = axis.near(generator, rows[:, column], scale)
        return neighbours

    def fix(self, rows: Floats, values: Mapping[str, Any]) -> None:
        """Set the fixed values in rows, in place."""
        for column, (name, axis) in enumerate(zip(self.names, self._axes, strict=True)):
            if name in values:
                rows[:, column] = axis.position(values[name])
