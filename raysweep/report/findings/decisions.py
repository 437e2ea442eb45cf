"""Findings: the claims on one or several sweeps, each with its verdict and what the verdict is based on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from raysweep.metrics import TrialState
from raysweep.report.findings.gridverdicts import decide_best_at, decide_trend, decide_within
from raysweep.report.findings.observations import (
    Observations,
    SweepTables,
    epoch_observations,
    labels,
    trial_observations,
)
from raysweep.report.findings.trialverdicts import decide_always, decide_compare, decide_separates
from raysweep.report.findings.verdicts import (
    Outcome,
    Verdict,
    either,
    number,
    point_text,
    sides,
    taken,
    undecided,
    unit_of,
)
from raysweep.spec.claims import BEST, EPOCH_COLUMNS, Always, BestAt, Claim, Compare, Separates, Trend, Within
from raysweep.spec.expressions import parse_expression
from raysweep.spec.space import Scalar
from raysweep.wording import counted


@dataclass(frozen=True, slots=True)
class Part:
    """The outcome at one value of the column that a claim is tested across."""

    value: Scalar
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim with its test and outcome."""

    claim: Claim
    test: str
    """The test, in words."""
    outcome: Outcome
    parts: tuple[Part, ...]
    """One for each value of `claim.across`; empty without it."""
    sweeps: tuple[str, ...]
    """The sweeps that the claim was tested on, with their data sets and numbers of trials."""

    @property
    def verdict(self) -> Verdict:
        return self.outcome.verdict

    @property
    def counted(self) -> str:
        """Noun for what `rows` of its outcomes counts."""
        return "epochs" if isinstance(self.claim, Always) and self.claim.each == "epoch" else "trials"


def decide_claims(claims: Sequence[Claim], sweeps: Sequence[SweepTables]) -> list[Finding]:
    """Return a finding for each claim, in their order, from the trials of all sweeps together.

    `always` looks at every trial that ended, or at every epoch. The other tests look only at trials that ran to their
    end, because a value after fewer epochs is another measurement.
    """
    trials = trial_observations(sweeps)
    completed = trials.take(trials.equals("state", TrialState.COMPLETED.value))
    epochs: Observations | None = None
    about = tuple(_about(sweep, label) for sweep, label in zip(sweeps, labels(sweeps), strict=True))
    findings = []
    for claim in claims:
        rows = completed
        if isinstance(claim, Always):
            rows = trials
            if claim.each == "epoch":
                epochs = epochs or epoch_observations(sweeps)
                rows = epochs
        outcome, parts = _decide(claim, rows, trials)
        findings.append(Finding(claim, in_words(claim), outcome, parts, about))
    return findings


def _about(sweep: SweepTables, label: str) -> str:
    states = Counter(sweep.trials["state"].to_pylist())
    completed = states.pop(TrialState.COMPLETED.value, 0)
    rest = "".join(f", {count} {state.replace('_', ' ')}" for state, count in sorted(states.items()))
    missing = sweep.spec.trials - sweep.trials.num_rows
    rest += f", {missing} not started" if missing > 0 else ""
    return f"{label}: {completed} of {counted(sweep.spec.trials, 'trial')} on {sweep.spec.data.dataset} completed{rest}"


def _decide(claim: Claim, rows: Observations, ended: Observations) -> tuple[Outcome, tuple[Part, ...]]:
    """Return the outcome on `rows` and its parts; `ended` are all trials that ended, in any way."""
    if not rows.count:
        return undecided("no trial has a result that counts yet"), ()
    left_out = 0
    if claim.where is not None:
        truth = rows.condition(claim.where)
        met = truth.true
        if not met.any():
            names = parse_expression(claim.where, EPOCH_COLUMNS).names
            return undecided(f"no trial meets where: `{claim.where}`{taken(rows, names)}"), ()
        left_out = int((~truth.known).sum())
        rows = rows.take(met)
        if isinstance(claim, Compare):
            ended = ended.take(ended.condition(claim.where).true)
    if claim.across is None:
        return _with_more_left_out(_outcome(claim, rows, ended), left_out), ()
    parts = []
    for value in rows.values(claim.across):
        here, ended_here = (each.take(each.equals(claim.across, value)) for each in (rows, ended))
        parts.append(Part(value, _outcome(claim, here, ended_here)))
    return _with_more_left_out(_across(claim.across, tuple(parts)), left_out), tuple(parts)


def _outcome(claim: Claim, rows: Observations, ended: Observations) -> Outcome:
    """Run the test for the kind of claim; only this function maps kinds to tests."""
    match claim:
        case Always():
            return decide_always(claim, rows)
        case Separates():
            return decide_separates(claim, rows)
        case BestAt():
            return decide_best_at(claim, rows)
        case Compare():
            return decide_compare(claim, rows, ended)
        case Within():
            return decide_within(claim, rows)
        case Trend():
            return decide_trend(claim, rows)


def _across(column: str, parts: tuple[Part, ...]) -> Outcome:
    """Return the verdict on a claim that was tested at each value of a column."""
    by_verdict: dict[Verdict, list[str]] = {}
    for part in parts:
        by_verdict.setdefault(part.outcome.verdict, []).append(number(part.value))
    reason = "; ".join(f"{verdict} at {column} {', '.join(values)}" for verdict, values in by_verdict.items())
    if len(parts) == 1:
        reason += f", the only one here; search {column} to see whether the verdict depends on it"
    if {Verdict.HOLDS, Verdict.REFUTED} <= set(by_verdict):
        verdict = Verdict.DEPENDS
    elif Verdict.UNDECIDED in by_verdict:
        verdict = Verdict.UNDECIDED
    else:
        (verdict,) = by_verdict
    rows = sum(part.outcome.rows for part in parts)
    return Outcome(verdict, reason, (), rows, sum(part.outcome.left_out for part in parts))


def _with_more_left_out(outcome: Outcome, more: int) -> Outcome:
    return Outcome(outcome.verdict, outcome.reason, outcome.figures, outcome.rows, outcome.left_out + more)


def in_words(claim: Claim) -> str:
    """Return what is tested, in a sentence."""
    text = _test_in_words(claim)
    if claim.where is not None:
        text += f", where `{claim.where}`"
    if claim.across is not None:
        text += f", apart for each {claim.across}"
    return " ".join(text.split()) + "."


def _test_in_words(claim: Claim) -> str:
    match claim:
        case Always():
            return f"`{claim.condition}` for every {'epoch of every trial' if claim.each == 'epoch' else 'trial'}"
        case Separates():
            inside, outside = sides(claim)
            return f"`{claim.condition}` for every trial with {claim.over} {inside} and for none with one {outside}"
        case BestAt():
            limit = f", of the values at which `{claim.subject_to}`," if claim.subject_to else ""
            return (
                f"The best {claim.over} by the mean {_listed(claim.metrics)}{limit} is {either(claim.values)}, "
                "in 95% of draws of the means over seeds"
            )
        case Compare():
            margin = f" by more than {claim.margin:g}" if claim.margin else ""
            relation = {
                "greater": f"greater{margin} than",
                "less": f"less{margin} than",
                "not_greater": f"not greater{margin} than",
                "not_less": f"not less{margin} than",
                "equivalent": f"within {claim.margin:g} of",
            }[claim.expect]
            several = len(claim.metrics) > 1
            verb = f"are {relation} those" if several else f"is {relation} that"
            named = "all else" if claim.pair_by is None else _listed(claim.pair_by)
            agreeing = "in pairs from the same sweep" if claim.second == BEST else f"in pairs that agree in {named}"
            level = "two one-sided tests at 5%" if claim.expect == "equivalent" else "95% t interval"
            return (
                f"{_listed(claim.metrics)} at {point_text(claim.first)} {verb} at "
                f"{point_text(claim.second)}, {agreeing} ({level})"
            )
        case Within():
            margins = [f"{name} {margin:g} {unit_of(name)}".rstrip() for name, margin in claim.margins.items()]
            return (
                f"Between any two values of {claim.over} the mean difference is within its margin: "
                f"{_listed(margins)} (two one-sided tests at 5% for each two values)"
            )
        case Trend():
            return (
                f"{_listed(claim.metrics)} {claim.expect} with {claim.over}: rank correlation at least "
                f"{claim.min_correlation:g} in that direction, mean over seeds, and at most 5% likely by chance"
            )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)
