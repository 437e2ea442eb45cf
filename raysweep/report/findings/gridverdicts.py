"""The tests that look at a metric's means over repeats, along the values of one column.

docs/findings.md describes each test for those who read its verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from raysweep.claims import EPOCH_COLUMNS, MODES, BestAt, Trend, Within
from raysweep.expressions import Values, parse_expression
from raysweep.report.findings.intervals import (
    CONFIDENCE,
    DRAWS,
    MIN_REPEATS,
    mean_draws,
    mean_interval,
    rank_correlation,
    trend_chance,
)
from raysweep.report.findings.observations import Observations, mode_of
from raysweep.report.findings.verdicts import (
    REPEATS,
    Figure,
    Outcome,
    Verdict,
    conjunction,
    number,
    percent,
    undecided,
    unit_of,
    unmeasured,
)
from raysweep.space import Scalar

MIN_TRIALS = 10
"""Trials at different values that a trend without repeats is tested on."""


@dataclass(frozen=True)
class Grid:
    """Quantities at the values of a column, for each unit: the same point otherwise, the same seed included."""

    values: list[Scalar]
    """Of the column; in the order of the last axis."""
    seeds: list[Scalar]
    """Of each unit."""
    data: dict[str, NDArray[np.float64]]
    """Of each quantity: [unit, value]. No number is missing."""
    rows: int
    left_out: int

    def by_seed(self, name: str) -> NDArray[np.float64]:
        """The means of a quantity over the units of each seed, [seed, value]."""
        seeds = list(dict.fromkeys(self.seeds))
        of_unit = np.array([seeds.index(seed) for seed in self.seeds])
        return np.stack([self.data[name][of_unit == index].mean(axis=0) for index in range(len(seeds))])

    @property
    def seed_count(self) -> int:
        return len(set(self.seeds))


def build_grid(rows: Observations, over: str, quantities: list[str]) -> Grid:
    """The rows as a grid.

    Values at which a quantity is never known are left out, and so are units that lack one of the values that remain.
    """
    known = rows.columns[over].known.copy()
    found: dict[str, Values] = {}
    for text in quantities:
        found[text] = rows.evaluate(parse_expression(text, EPOCH_COLUMNS))
        known &= found[text].known
    others = tuple(name for name in rows.varied if name != over)
    units: dict[tuple[Scalar, ...], dict[Scalar, list[int]]] = {}
    for row, key in enumerate(rows.keys(others)):
        if known[row]:
            units.setdefault(key, {}).setdefault(rows.value(over, row), []).append(row)
    present = {value for unit in units.values() for value in unit}
    values = [value for value in rows.values(over) if value in present]
    complete = {key: unit for key, unit in units.items() if len(unit) == len(values)}
    used = sum(len(places) for unit in complete.values() for places in unit.values())
    data = {
        text: np.array(
            [[np.mean(column.data[unit[value]].astype(np.float64)) for value in values] for unit in complete.values()]
        ).reshape(len(complete), len(values))
        for text, column in found.items()
    }
    seeds = [key[others.index("seed")] if "seed" in others else rows.value("seed", 0) for key in complete]
    return Grid(values, seeds, data, used, rows.count - used)


def _too_few(grid: Grid, over: str, rows: Observations) -> str | None:
    """Why a grid does not carry a test over seeds."""
    if len(grid.values) < 2:
        only = f"only {number(grid.values[0])}" if grid.values else "no value"
        return f"{over} takes {only} among the {rows.count} trials that count; search at least two values"
    if grid.seed_count >= MIN_REPEATS:
        return None
    return (
        f"only {grid.seed_count} of the seeds have a trial at each of the {len(grid.values)} values of {over}, "
        f"at least {MIN_REPEATS} are needed; {REPEATS}"
    )


def decide_best_at(claim: BestAt, rows: Observations) -> Outcome:
    """Holds if the value is best in 95% of the draws of the means, refuted if it is not in as many."""
    limits = sorted(parse_expression(claim.subject_to, EPOCH_COLUMNS, "truth", MODES).names) if claim.subject_to else []
    return conjunction([_best_by(claim, metric, limits, rows) for metric in claim.metrics])


def _best_by(claim: BestAt, metric: str, limits: list[str], rows: Observations) -> Outcome:
    missing = unmeasured(rows, [metric, *limits])
    if missing:
        return undecided(missing, rows.count, rows.count)
    mode = claim.mode or mode_of(metric, rows.objectives)
    if mode is None:
        return undecided(f"it is not known whether less or more of {metric} is better; give mode: min or max")
    grid = build_grid(rows, claim.over, [metric, *(name for name in limits if name != metric)])
    problem = _too_few(grid, claim.over, rows)
    if problem:
        return undecided(problem, grid.rows, grid.left_out)
    claimed = _place(grid.values, claim.value)
    if claimed is None:
        values = ", ".join(number(value) for value in grid.values)
        reason = f"no trial with a known {metric} has {claim.over} {number(claim.value)}; there are {values}"
        return undecided(reason, grid.rows, grid.left_out)
    draws = {text: mean_draws(grid.by_seed(text)) for text in grid.data}
    score = draws[metric] if mode == "max" else -draws[metric]
    allowed = np.ones_like(score, dtype=bool)
    if claim.subject_to:
        condition = parse_expression(claim.subject_to, EPOCH_COLUMNS, "truth", MODES)
        allowed = condition.evaluate({name: Values.of(draws[name]) for name in limits}, score.shape).true
    winner = np.where(allowed, score, -np.inf).argmax(axis=1)[allowed.any(axis=1)]
    wins = np.bincount(winner, minlength=len(grid.values)) / len(score)
    verdict, reason = _won(claim, metric, grid.values, wins, claimed)
    return Outcome(verdict, reason, _best_figures(claim, metric, grid, wins, allowed, rows), grid.rows, grid.left_out)


def _won(
    claim: BestAt, metric: str, values: list[Scalar], wins: NDArray[np.float64], claimed: int
) -> tuple[Verdict, str]:
    """The verdict from the share of draws in which each value is the best."""
    best = int(wins.argmax())
    none = 1 - float(wins.sum())
    if none >= CONFIDENCE:
        return Verdict.REFUTED, f"in {percent(none)} of draws no value of {claim.over} meets `{claim.subject_to}`"
    reason = f"by {metric} the best {claim.over} is {number(values[best])}, in {percent(wins[best])} of draws"
    if none > 1 - CONFIDENCE:
        reason += f", and none meets `{claim.subject_to}` in {percent(none)}"
    if best != claimed:
        reason += f", and {number(claim.value)} in {percent(wins[claimed])}"
    if wins[claimed] >= CONFIDENCE:
        return Verdict.HOLDS, reason
    if 1 - wins[claimed] >= CONFIDENCE:
        return Verdict.REFUTED, reason
    return Verdict.UNDECIDED, f"{reason}; more seeds would tell"


def _best_figures(
    claim: BestAt, metric: str, grid: Grid, wins: NDArray[np.float64], allowed: NDArray[np.bool_], rows: Observations
) -> tuple[Figure, ...]:
    unit, by_seed = unit_of(metric, rows.objectives), grid.by_seed(metric)
    means, shares, limits = [], [], []
    for place, value in enumerate(grid.values):
        low, high = mean_interval(by_seed[:, place])
        label = f"{metric} at {claim.over} {number(value)}, mean"
        means.append(Figure(label, float(by_seed[:, place].mean()), low, high, "95% t", unit, grid.seed_count))
        if claim.subject_to:
            met = float(allowed[:, place].mean())
            limits.append(Figure(f"draws in which {claim.over} {number(value)} meets the condition", met, unit="share"))
        label = f"draws in which {claim.over} {number(value)} is best by {metric}"
        shares.append(Figure(label, float(wins[place]), unit="share"))
    return (*means, *shares, *limits)


def _place(values: list[Scalar], wanted: Scalar) -> int | None:
    for place, value in enumerate(values):
        numbers = isinstance(value, int | float) and isinstance(wanted, int | float)
        if value == wanted or (numbers and np.isclose(float(value or 0), float(wanted or 0), rtol=1e-9, atol=0.0)):
            return place
    return None


def decide_within(claim: Within, rows: Observations) -> Outcome:
    """Holds if each metric is equivalent, within its margin, at every two values."""
    return conjunction([_within_by(claim, metric, margin, rows) for metric, margin in claim.margins.items()])


def _within_by(claim: Within, metric: str, margin: float, rows: Observations) -> Outcome:
    missing = unmeasured(rows, [metric])
    if missing:
        return undecided(missing, rows.count, rows.count)
    grid = build_grid(rows, claim.over, [metric])
    data = grid.data[metric]
    if len(grid.values) < 2 or len(data) < MIN_REPEATS:
        problem = _too_few(grid, claim.over, rows) or (
            f"only {len(data)} of the points have a trial at each of the {len(grid.values)} values of {claim.over}, "
            f"at least {MIN_REPEATS} are needed; {REPEATS}"
        )
        return undecided(problem, grid.rows, grid.left_out)
    pairs = list(combinations(range(len(grid.values)), 2))
    strict = 1 - (1 - CONFIDENCE) / len(pairs)  # one of many pairs lies outside by chance more often than one pair
    holds, refuted, widest = True, False, (0, 1)
    for one, other in pairs:
        difference = data[:, other] - data[:, one]
        low, high = mean_interval(difference, 0.9)
        holds &= -margin < low and high < margin
        low, high = mean_interval(difference, strict)
        refuted |= low > margin or high < -margin
        if abs(difference.mean()) > abs((data[:, widest[1]] - data[:, widest[0]]).mean()):
            widest = (one, other)
    difference = data[:, widest[1]] - data[:, widest[0]]
    low, high = mean_interval(difference, 0.9)
    unit = unit_of(metric)
    ends = f"{number(grid.values[widest[0]])} to {number(grid.values[widest[1]])}"
    figures = (
        Figure(f"{metric}, largest difference, from {claim.over} {ends}", float(difference.mean()), low, high, "90% t",
               unit, len(data)),
        Figure(f"{metric}, margin", margin, unit=unit),
    )  # fmt: skip
    verdict = Verdict.HOLDS if holds else Verdict.REFUTED if refuted else Verdict.UNDECIDED
    reason = (
        f"{metric} differs by up to {abs(difference.mean()):.3g}{f' {unit}' if unit else ''} "
        f"(from {claim.over} {ends}), margin {f'{margin:g} {unit}'.rstrip()}"
    )
    if verdict is Verdict.UNDECIDED:
        reason += "; the intervals reach over the margin, more seeds make them narrower"
    return Outcome(verdict, reason, figures, grid.rows, grid.left_out)


def decide_trend(claim: Trend, rows: Observations) -> Outcome:
    """Holds if the rank correlation is large enough, has the claimed sign, and is no work of chance."""
    return conjunction([_trend_by(claim, metric, rows) for metric in claim.metrics])


def _trend_by(claim: Trend, metric: str, rows: Observations) -> Outcome:
    missing = unmeasured(rows, [metric])
    if missing:
        return undecided(missing, rows.count, rows.count)
    column, values = rows.columns[claim.over], rows.quantity(metric)
    known = column.known & values.known
    unit = unit_of(metric, rows.objectives)
    figures: tuple[Figure, ...] = ()
    if "seed" not in rows.varied and len(np.unique(column.data[known])) >= MIN_TRIALS:
        x, y = column.data[known].astype(np.float64), values.data[known].astype(np.float64)[None]
        correlations = rank_correlation(x, y)
        resampled = np.random.default_rng(0).integers(len(x), size=(DRAWS, len(x)))
        draws = np.array([rank_correlation(x[draw], y[:, draw])[0] for draw in resampled])
        low, high = (float(quantile) for quantile in np.quantile(draws, [0.025, 0.975]))
        interval, count, used = "95% bootstrap", len(x), len(x)
        of = f"{count} trials"
    else:
        grid = build_grid(rows, claim.over, [metric])
        problem = _too_few(grid, claim.over, rows)
        if problem is None and len(grid.values) < 3:
            problem = f"{claim.over} takes two values; a trend needs at least three, and the test compare takes two"
        if problem:
            return undecided(problem, grid.rows, grid.left_out)
        x, y = np.array(grid.values, dtype=np.float64), grid.by_seed(metric)
        correlations = rank_correlation(x, y)
        low, high = (min(1.0, max(-1.0, end)) for end in mean_interval(correlations))
        interval, count, used = "95% t", len(y), grid.rows
        of = f"{count} seeds"
        means = zip(grid.values, y.mean(axis=0), strict=True)
        figures = tuple(
            Figure(f"{metric} at {claim.over} {number(value)}, mean", float(mean), unit=unit, n=count)
            for value, mean in means
        )
    sign = 1.0 if claim.expect == "rises" else -1.0
    rho = float(correlations.mean())
    chance = trend_chance(sign * correlations, sign * x, y)
    against = trend_chance(-sign * correlations, -sign * x, y)
    most = sign * (high if sign > 0 else low)
    holds = sign * rho >= claim.min_correlation and chance <= 1 - CONFIDENCE
    refuted = against <= 1 - CONFIDENCE or most < claim.min_correlation
    verdict = Verdict.HOLDS if holds else Verdict.REFUTED if refuted else Verdict.UNDECIDED
    direction = "rises" if rho > 0 else "falls" if rho < 0 else "neither rises nor falls"
    reason = (
        f"{metric} {direction} with {claim.over}: rank correlation {rho:.2f} over {of}; chance alone makes it as large "
        f"in the claimed direction in {percent(chance)} of cases"
    )
    if verdict is Verdict.UNDECIDED:
        reason += "; more seeds or values would tell"
    figure = Figure(f"rank correlation of {metric} with {claim.over}", rho, low, high, interval, "", count)
    likely = Figure("chance of such a correlation without a trend", chance, unit="share")
    return Outcome(verdict, reason, (figure, likely, *figures), used, rows.count - used)
