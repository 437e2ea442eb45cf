"""A metric's values as a table, units by values of one column, and what was left out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raysweep.report.findings.observations import REPEAT, Observations
from raysweep.report.findings.verdicts import number
from raysweep.spec.claims import BEST_MODES, EPOCH_COLUMNS, MIN_REPEATS, PARAMETERS, REPEATS
from raysweep.spec.expressions import Values, parse_expression
from raysweep.spec.space import Scalar

Repeat = tuple[Scalar, Scalar]
"""A seed, and the run of its search space file that it belongs to."""


@dataclass(frozen=True)
class Grid:
    """Quantities at each value of a column, for each unit. Within a unit all else is the same, also the seed."""

    values: list[Scalar]
    """The column's values, in the order of the last axis."""
    repeats: list[Repeat]
    """The repeat of each unit."""
    data: dict[str, NDArray[np.float64]]
    """By quantity: [unit, value]. No number is missing."""
    rows: int
    left_out: int
    gaps: str
    """Which values of the column were left out, and why; empty if none was."""

    def by_seed(self, name: str) -> NDArray[np.float64]:
        """Return the means of a quantity over the units of each seed of each run, [seed, value]."""
        repeats = list(dict.fromkeys(self.repeats))
        of_unit = np.array([repeats.index(repeat) for repeat in self.repeats])
        return np.stack([self.data[name][of_unit == index].mean(axis=0) for index in range(len(repeats))])

    @property
    def seed_count(self) -> int:
        return len(set(self.repeats))


def build_grid(rows: Observations, over: str, quantities: list[str]) -> Grid:
    """Build a grid from the rows.

    Values at which a quantity is never known are left out, and so are units that lack one of the remaining values.
    If a second run of the same file measured a unit again with the same numbers, the unit counts once.
    """
    # For a parameter, null is a value. For a metric, null means no value.
    known = np.ones(rows.count, dtype=bool) if over in PARAMETERS else rows.columns[over].known.copy()
    found: dict[str, Values] = {}
    for text in quantities:
        found[text] = rows.quantity(text)
        known &= found[text].known
    others = tuple(name for name in rows.varied if name != over)
    units: dict[tuple[Scalar, ...], dict[Scalar, list[int]]] = {}
    for row, key in enumerate(rows.keys((*others, REPEAT))):
        if known[row]:
            units.setdefault(key, {}).setdefault(rows.value(over, row), []).append(row)
    present = {value for unit in units.values() for value in unit}
    values = [value for value in rows.values(over) if value in present]
    complete = {key: unit for key, unit in units.items() if len(unit) == len(values)}
    numbers: dict[tuple[Scalar, ...], NDArray[np.float64]] = {}
    seen: set[tuple[tuple[Scalar, ...], bytes]] = set()
    for key, unit in complete.items():
        table = np.array(
            [[np.mean(found[text].data[unit[value]].astype(np.float64)) for value in values] for text in quantities]
        )
        if (key[:-1], table.tobytes()) not in seen:
            numbers[key] = table
            seen.add((key[:-1], table.tobytes()))
    used = sum(len(places) for key in numbers for places in complete[key].values())
    data = {
        text: np.array([table[place] for table in numbers.values()]).reshape(len(numbers), len(values))
        for place, text in enumerate(quantities)
    }
    repeats: list[Repeat] = [
        (key[others.index("seed")] if "seed" in others else rows.value("seed", 0), key[-1]) for key in numbers
    ]
    return Grid(values, repeats, data, used, rows.count - used, name_gaps(rows, over, quantities))


def name_gaps(rows: Observations, over: str, quantities: list[str]) -> str:
    """Name the values of a column at which a quantity is never known; empty if there are none."""
    parts = []
    for text in quantities:
        known = rows.quantity(text).known
        at = {rows.value(over, int(row)) for row in np.flatnonzero(known)}
        if not at:
            continue
        without = [
            value for value in rows.values(over) if value not in at and (value is not None or over in PARAMETERS)
        ]
        if without:
            shown = ", ".join(number(value) for value in without[:6]) + (", ..." if len(without) > 6 else "")
            parts.append(f"{over} {shown} {'has' if len(without) == 1 else 'have'} no {_missing(rows, text)}: left out")
    return "; ".join(parts)


def _missing(rows: Observations, text: str) -> str:
    """Name a missing quantity: a column as it is, an expression between backticks."""
    return text if text in rows.columns else f"`{text}`"


def too_few(grid: Grid, over: str, rows: Observations) -> str | None:
    """Return why a grid has too few values or seeds for a test; None if it has enough."""
    if len(grid.values) < 2:
        only = f"only {number(grid.values[0])}" if grid.values else "no value"
        return f"{over} takes {only} among the trials that count; compare at least two values"
    if grid.seed_count >= MIN_REPEATS:
        return None
    return (
        f"only {grid.seed_count} of the seeds have a trial at each of the {len(grid.values)} values of {over}, "
        f"at least {MIN_REPEATS} are needed{scarcest(grid, over, rows)}; {REPEATS}"
    )


def scarcest(grid: Grid, over: str, rows: Observations) -> str:
    """Name the column's value at which the fewest rows have every quantity; empty if no row lacks one."""
    known = np.ones(rows.count, dtype=bool)
    for text in grid.data:
        known &= rows.quantity(text).known
    counts = []
    for value in grid.values:
        at = rows.equals(over, value)
        counts.append((int((at & known).sum()), int(at.sum()), value))
    least = min(counts, key=lambda count: count[0])
    if least[0] == least[1]:
        return ""
    return f" ({' and '.join(grid.data)} is known for {least[0]} of {least[1]} trials at {over} {number(least[2])})"


def parse_names(text: str | None) -> list[str]:
    """Return the columns that a condition on means reads, in a fixed order."""
    return sorted(parse_expression(text, EPOCH_COLUMNS, "truth", BEST_MODES).names) if text else []
