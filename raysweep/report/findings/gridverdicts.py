"""Tests that compare a metric's means over repeats along the values of one column.

docs/findings.md describes each test for those who read its verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from raysweep.report.findings.grids import Grid, build_grid, name_gaps, parse_names, scarcest, too_few
from raysweep.report.findings.intervals import (
    CONFIDENCE,
    DRAWS,
    mean_draws,
    mean_interval,
    rank_correlation,
    trend_chance,
)
from raysweep.report.findings.observations import Observations, mode_of
from raysweep.report.findings.verdicts import (
    Figure,
    Outcome,
    Verdict,
    conjunction,
    either,
    number,
    undecided,
    unit_of,
    unmeasured,
    with_note,
)
from raysweep.spec.claims import (
    BEST_MODES,
    EPOCH_COLUMNS,
    MIN_REPEATS,
    MIN_TREND_TRIALS,
    REPEATS,
    BestAt,
    Trend,
    Within,
)
from raysweep.spec.expressions import Values, parse_expression
from raysweep.spec.space import Scalar
from raysweep.wording import counted, percent


def decide_best_at(claim: BestAt, rows: Observations) -> Outcome:
    """Decide whether the best value of a column is among the claimed ones.

    The claim holds if a claimed value is the best in 95% of the draws of the means. `judge_best` says what refutes it.
    """
    return conjunction({metric: _best_by(claim, metric, rows) for metric in claim.metrics})


def _best_by(claim: BestAt, metric: str, rows: Observations) -> Outcome:
    limits = parse_names(claim.subject_to)
    missing = unmeasured(rows, [metric, *limits])
    if missing:
        return undecided(missing, rows.count, rows.count)
    mode = claim.mode or mode_of(metric, rows.objectives)
    if mode is None:
        return undecided(f"it is not known whether less or more of {metric} is better; give mode: min or max")
    grid = build_grid(rows, claim.over, [metric, *(name for name in limits if name != metric)])
    places = [_place(grid.values, value) for value in claim.values]
    claimed = [place for place in places if place is not None]
    if not claimed and grid.values:
        there = ", ".join(number(value) for value in grid.values)
        reason = f"no trial with a known {metric} has {claim.over} {either(claim.values)}; there are {there}"
        return undecided(with_note(reason, grid.gaps), grid.rows, grid.left_out)
    problem = too_few(grid, claim.over, rows)
    if problem:
        return undecided(with_note(problem, grid.gaps), grid.rows, grid.left_out)
    draws = {text: mean_draws(grid.by_seed(text)) for text in grid.data}
    score = draws[metric] if mode == "max" else -draws[metric]
    allowed = np.ones_like(score, dtype=bool)
    if claim.subject_to:
        condition = parse_expression(claim.subject_to, EPOCH_COLUMNS, "truth", BEST_MODES)
        allowed = condition.evaluate({name: Values.of(draws[name]) for name in limits}, score.shape).true
    contest = judge_best(score, allowed, claimed)
    verdict = contest.verdict
    if verdict is Verdict.REFUTED and None in places:
        verdict = Verdict.UNDECIDED  # the best may be at a claimed value that has no trial
    reason = _told(claim, metric, grid.values, contest, verdict)
    figures = _best_figures(claim, metric, grid, contest.wins, allowed, rows)
    return Outcome(verdict, with_note(reason, grid.gaps), figures, grid.rows, grid.left_out)


@dataclass(frozen=True)
class Contest:
    """The claimed values compared with all others over the draws of means."""

    verdict: Verdict
    wins: NDArray[np.float64]
    """The share of draws in which each value is the best allowed one, [value]."""
    claimed: list[int]
    barred: float
    """The share of draws in which no claimed value is allowed."""
    rival: int | None
    """The other value that beats the claimed ones most often."""
    beaten: float
    """The share of draws in which the rival beats them."""


def judge_best(score: NDArray[np.float64], allowed: NDArray[np.bool_], claimed: list[int]) -> Contest:
    """Decide whether the best value is among the claimed ones.

    If k values are equally good, each is the best in only 1/k of the draws. So a low share of wins does not refute.
    A claim is refuted if (a) one and the same rival is better in 1 - 0.05 / rivals of the draws (Bonferroni), or (b) in
    95% of the draws no claimed value is allowed.

    Args:
        score: [draw, value], more is better.
        allowed: [draw, value], which values take part in a draw.
        claimed: places of the claimed values.
    """
    winner = np.where(allowed, score, -np.inf).argmax(axis=1)[allowed.any(axis=1)]
    wins = np.bincount(winner, minlength=score.shape[1]) / len(score)
    barred: NDArray[np.bool_] = np.logical_not(allowed[:, claimed].any(axis=1))
    # If no claimed value is allowed in a draw, compare their scores anyway: `barred` judges that case.
    bar = np.where(allowed[:, claimed] | barred[:, None], score[:, claimed], -np.inf).max(axis=1)
    rivals = [place for place in range(score.shape[1]) if place not in claimed]
    beats = [float((allowed[:, place] & (score[:, place] > bar)).mean()) for place in rivals]
    most = int(np.argmax(beats)) if rivals else None
    share = 0.0 if most is None else beats[most]
    if float(wins[claimed].sum()) >= CONFIDENCE:
        verdict = Verdict.HOLDS
    elif barred.mean() >= CONFIDENCE or (rivals and share >= 1 - (1 - CONFIDENCE) / len(rivals)):
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.UNDECIDED
    rival = None if most is None else rivals[most]
    return Contest(verdict, wins, claimed, float(barred.mean()), rival, share)


def _told(claim: BestAt, metric: str, values: list[Scalar], contest: Contest, verdict: Verdict) -> str:
    """Return why a value is, or is not, the best."""
    none = 1 - float(contest.wins.sum())
    if none >= CONFIDENCE:
        return f"in {percent(none)} of draws no value of {claim.over} meets `{claim.subject_to}`"
    best, wanted = int(contest.wins.argmax()), either(claim.values)
    reason = f"by {metric} the best {claim.over} is {number(values[best])}, in {percent(contest.wins[best])} of draws"
    if none > 1 - CONFIDENCE:
        reason += f", and none meets `{claim.subject_to}` in {percent(none)}"
    if contest.claimed != [best]:
        reason += f", and {wanted} in {percent(float(contest.wins[contest.claimed].sum()))}"
    if verdict is Verdict.HOLDS:
        return reason
    if contest.barred >= CONFIDENCE:
        reason += f"; {wanted} does not meet `{claim.subject_to}` in {percent(contest.barred)}"
    elif contest.rival is not None:
        reason += f"; {number(values[contest.rival])} beats {wanted} in {percent(contest.beaten)}"
    if verdict is Verdict.REFUTED:
        return reason
    if contest.verdict is Verdict.REFUTED:
        return f"{reason}; but not every claimed value has a trial that counts"
    needed = 1 - (1 - CONFIDENCE) / max(1, len(values) - len(contest.claimed))
    return f"{reason}, where {percent(needed)} would refute it; more seeds would tell"


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
    """Decide whether each metric is equivalent, within its margin, at any two values."""
    return conjunction({metric: _within_by(claim, metric, margin, rows) for metric, margin in claim.margins.items()})


def _within_by(claim: Within, metric: str, margin: float, rows: Observations) -> Outcome:
    missing = unmeasured(rows, [metric])
    if missing:
        return undecided(missing, rows.count, rows.count)
    grid = build_grid(rows, claim.over, [metric])
    data = grid.data[metric]
    if len(grid.values) < 2 or len(data) < MIN_REPEATS:
        problem = too_few(grid, claim.over, rows) or (
            f"only {len(data)} of the points have a trial at each of the {len(grid.values)} values of {claim.over}, "
            f"at least {MIN_REPEATS} are needed{scarcest(grid, claim.over, rows)}; {REPEATS}"
        )
        return undecided(with_note(problem, grid.gaps), grid.rows, grid.left_out)
    pairs = list(combinations(range(len(grid.values)), 2))
    strict = 1 - (1 - CONFIDENCE) / len(pairs)  # the more pairs, the likelier one lies outside by chance
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
    return Outcome(verdict, with_note(reason, grid.gaps), figures, grid.rows, grid.left_out)


def decide_trend(claim: Trend, rows: Observations) -> Outcome:
    """Decide whether the rank correlation is large enough, has the claimed sign, and is unlikely by chance."""
    return conjunction({metric: _trend_by(claim, metric, rows) for metric in claim.metrics})


def _trend_by(claim: Trend, metric: str, rows: Observations) -> Outcome:
    missing = unmeasured(rows, [metric])
    if missing:
        return undecided(missing, rows.count, rows.count)
    ranked = rows.columns[claim.over].known  # null is neither high nor low
    left_out, rows = rows.count - int(ranked.sum()), rows.take(ranked)
    column, values = rows.columns[claim.over], rows.quantity(metric)
    known = column.known & values.known
    unit = unit_of(metric, rows.objectives)
    figures: tuple[Figure, ...] = ()
    if "seed" not in rows.varied and len(np.unique(column.data[known])) >= MIN_TREND_TRIALS:
        x, y = column.data[known].astype(np.float64), values.data[known].astype(np.float64)[None]
        correlations = rank_correlation(x, y)
        resampled = np.random.default_rng(0).integers(len(x), size=(DRAWS, len(x)))
        draws = np.array([rank_correlation(x[draw], y[:, draw])[0] for draw in resampled])
        low, high = (float(quantile) for quantile in np.quantile(draws, [0.025, 0.975]))
        interval, count, used = "95% bootstrap", len(x), len(x)
        of = counted(count, "trial")
    else:
        grid = build_grid(rows, claim.over, [metric])
        problem = too_few(grid, claim.over, rows)
        if problem is None and len(grid.values) < 3:
            problem = f"{claim.over} takes two values; a trend needs at least three, and the test compare takes two"
        if problem:
            return undecided(with_note(problem, grid.gaps), grid.rows, grid.left_out + left_out)
        x, y = np.array(grid.values, dtype=np.float64), grid.by_seed(metric)
        correlations = rank_correlation(x, y)
        low, high = (min(1.0, max(-1.0, end)) for end in mean_interval(correlations))
        interval, count, used = "95% t", len(y), grid.rows
        of = counted(count, "seed")
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
    reason = with_note(reason, name_gaps(rows, claim.over, [metric]))
    reason = with_note(reason, f"{claim.over} null has no rank: left out" if left_out else "")
    return Outcome(verdict, reason, (figure, likely, *figures), used, rows.count - used + left_out)
