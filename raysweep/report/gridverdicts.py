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
from raysweep.report.intervals import (
    CONFIDENCE,
    MIN_REPEATS,
    bootstrap_indices,
    mean_interval,
    rank_correlation,
)
from raysweep.report.observations import Observations, mode_of
from raysweep.report.verdicts import REPEATS, Figure, Outcome, Verdict, all_of, number, undecided, unit_of, unmeasured
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
        f"{grid.seed_count} seeds have a trial at each of the {len(grid.values)} values of {over}, at least "
        f"{MIN_REPEATS} are needed; {REPEATS}"
    )


def decide_best_at(claim: BestAt, rows: Observations) -> Outcome:
    """Holds if the value wins in 95 % of the draws of seeds, refuted if others win in as many."""
    limits = sorted(parse_expression(claim.subject_to, EPOCH_COLUMNS, "truth", MODES).names) if claim.subject_to else []
    problem = unmeasured(rows, [*claim.metrics, *limits])
    if problem:
        return undecided(problem, rows.count, rows.count)
    outcomes = [_best_by(claim, metric, limits, rows) for metric in claim.metrics]
    return _conjunction(outcomes)


def _best_by(claim: BestAt, metric: str, limits: list[str], rows: Observations) -> Outcome:
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
    draws = bootstrap_indices(grid.seed_count)
    means = {text: grid.by_seed(text)[draws].mean(axis=1) for text in grid.data}  # [draw, value]
    allowed = np.ones_like(means[metric], dtype=bool)
    if claim.subject_to:
        condition = parse_expression(claim.subject_to, EPOCH_COLUMNS, "truth", MODES)
        allowed = condition.evaluate({n: Values.of(means[n]) for n in limits}, means[metric].shape).true
    score = np.where(allowed, means[metric] if mode == "max" else -means[metric], -np.inf)
    winner = np.where(allowed.any(axis=1), score.argmax(axis=1), -1)
    wins = np.bincount(winner[winner >= 0], minlength=len(grid.values)) / len(draws)
    unit = unit_of(metric, rows.objectives)
    figures = []
    for place, value in enumerate(grid.values):
        low, high = np.quantile(means[metric][:, place], [0.025, 0.975])
        label = f"{metric} at {claim.over} {number(value)}, mean"
        mean = float(grid.by_seed(metric)[:, place].mean())
        figures.append(Figure(label, mean, float(low), float(high), "95 % bootstrap", unit, grid.seed_count))
        figures.append(Figure(f"draws in which {number(value)} is best", float(wins[place]), unit="share"))
        if claim.subject_to:
            figures.append(
                Figure(
                    f"draws in which {number(value)} meets the condition", float(allowed[:, place].mean()), unit="share"
                )
            )
    best = int(wins.argmax())
    reason = (
        f"by {metric} the best {claim.over} is {number(grid.values[best])}, in {wins[best]:.0%} of the draws of seeds"
    )
    if best != claimed:
        reason += f"; {number(claim.value)} in {wins[claimed]:.0%}"
        if not allowed[:, claimed].any():
            reason += ", because it never meets the condition"
    if wins[claimed] >= CONFIDENCE:
        verdict = Verdict.HOLDS
    elif wins.sum() - wins[claimed] >= CONFIDENCE:
        verdict = Verdict.REFUTED
    else:
        verdict, reason = Verdict.UNDECIDED, f"{reason}; more seeds would tell"
    return Outcome(verdict, reason, tuple(figures), grid.rows, grid.left_out)


def _place(values: list[Scalar], wanted: Scalar) -> int | None:
    for place, value in enumerate(values):
        numbers = isinstance(value, int | float) and isinstance(wanted, int | float)
        if value == wanted or (numbers and np.isclose(float(value or 0), float(wanted or 0), rtol=1e-9, atol=0.0)):
            return place
    return None


def decide_within(claim: Within, rows: Observations) -> Outcome:
    """Holds if each metric is equivalent, within its margin, at every two values."""
    problem = unmeasured(rows, claim.margins)
    if problem:
        return undecided(problem, rows.count, rows.count)
    return _conjunction([_within_by(claim, metric, margin, rows) for metric, margin in claim.margins.items()])


def _within_by(claim: Within, metric: str, margin: float, rows: Observations) -> Outcome:
    grid = build_grid(rows, claim.over, [metric])
    data = grid.data[metric]
    if len(grid.values) < 2 or len(data) < MIN_REPEATS:
        problem = _too_few(grid, claim.over, rows) or (
            f"{len(data)} points have a trial at each of the {len(grid.values)} values of {claim.over}, "
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
        Figure(f"{metric}, largest difference, from {claim.over} {ends}", float(difference.mean()), low, high, "90 % t",
               unit, len(data)),
        Figure(f"{metric}, margin", margin, unit=unit),
    )  # fmt: skip
    verdict = Verdict.HOLDS if holds else Verdict.REFUTED if refuted else Verdict.UNDECIDED
    reason = (
        f"{metric} differs by up to {abs(difference.mean()):.3g}{f' {unit}' if unit else ''} "
        f"(from {claim.over} {ends}), margin {margin:g}"
    )
    if verdict is Verdict.UNDECIDED:
        reason += "; the intervals reach over the margin, more seeds make them narrower"
    return Outcome(verdict, reason, figures, grid.rows, grid.left_out)


def decide_trend(claim: Trend, rows: Observations) -> Outcome:
    """Holds if the rank correlation is large enough, with the claimed sign, in 95 % of the draws."""
    problem = unmeasured(rows, claim.metrics)
    if problem:
        return undecided(problem, rows.count, rows.count)
    return _conjunction([_trend_by(claim, metric, rows) for metric in claim.metrics])


def _trend_by(claim: Trend, metric: str, rows: Observations) -> Outcome:
    column, values = rows.columns[claim.over], rows.quantity(metric)
    known = column.known & values.known
    distinct = len(np.unique(column.data[known]))
    if "seed" not in rows.varied and distinct >= MIN_TRIALS:
        x, y = column.data[known].astype(np.float64), values.data[known].astype(np.float64)
        draws = np.random.default_rng(0).integers(len(x), size=(2000, len(x)))
        found = np.array([rank_correlation(x[draw], y[draw][None])[0] for draw in draws])
        rho, count, of, used, left_out = float(rank_correlation(x, y[None])[0]), len(x), "trials", len(x), 0
        left_out = rows.count - len(x)
        ends: tuple[Figure, ...] = ()
    else:
        unit = unit_of(metric, rows.objectives)
        grid = build_grid(rows, claim.over, [metric])
        problem = _too_few(grid, claim.over, rows)
        if problem is None and len(grid.values) < 3:
            problem = f"{claim.over} takes two values; a trend needs at least three, compare tests two"
        if problem:
            return undecided(problem, grid.rows, grid.left_out)
        x, by_seed = np.array(grid.values, dtype=np.float64), grid.by_seed(metric)
        found = rank_correlation(x, by_seed[bootstrap_indices(len(by_seed))].mean(axis=1))
        rho, count, of = float(rank_correlation(x, by_seed.mean(axis=0)[None])[0]), len(by_seed), "seeds"
        used, left_out = grid.rows, grid.left_out
        ends = tuple(
            Figure(f"{metric} at {claim.over} {number(value)}, mean", float(mean), unit=unit, n=count)
            for value, mean in zip(grid.values, by_seed.mean(axis=0), strict=True)
        )
    low, high = (float(q) for q in np.quantile(found, [0.025, 0.975]))
    sign = 1.0 if claim.expect == "rises" else -1.0
    share = float((sign * found >= claim.min_correlation - 1e-9).mean())
    figure = Figure(f"rank correlation of {metric} with {claim.over}", rho, low, high, "95 % bootstrap", "", count)
    if share >= CONFIDENCE:
        verdict = Verdict.HOLDS
    else:
        verdict = Verdict.REFUTED if share <= 1 - CONFIDENCE else Verdict.UNDECIDED
    direction = "rises" if rho > 0 else "falls" if rho < 0 else "neither rises nor falls"
    reason = (
        f"{metric} {direction} with {claim.over}, rank correlation {rho:.2f}; it {claim.expect} by the claimed "
        f"{claim.min_correlation:g} or more in {share:.0%} of the draws of {of}"
    )
    return Outcome(verdict, reason, (figure, *ends), used, left_out)


def _conjunction(outcomes: list[Outcome]) -> Outcome:
    """The claim on several metrics: all have to hold."""
    return Outcome(
        all_of(outcome.verdict for outcome in outcomes),
        "; ".join(dict.fromkeys(outcome.reason for outcome in outcomes)),
        tuple(figure for outcome in outcomes for figure in outcome.figures),
        max(outcome.rows for outcome in outcomes),
        max(outcome.left_out for outcome in outcomes),
    )
