"""Confirmation: the best trials of a search are trained again with other seeds, and the best mean of these wins.

The value of one training is partly luck, and the best of many trainings is the one that had most of it. Trained again
with other seeds, which nobody has chosen by their outcome, a configuration shows what it is worth. The trainings are
trials of their own: they are in the ledger, and say which trial they confirm (`TrialRecord.confirms`). What is to be
trained follows from the trials of the search alone, so a driver that takes over a sweep goes on as the one before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, variance
from typing import Literal, NamedTuple

from raysweep.metrics import TrialState
from raysweep.records import TrialRecord, mode_of, rank_alone
from raysweep.spec.config import TrialConfig
from raysweep.spec.sections import Confirm, SweepSpec
from raysweep.wording import counted

LARGEST_SHARE = 0.15
"""Of the epochs of the search, what `confirm: auto` may cost."""
_CONFIDENCE = 0.95


class Confirmation(NamedTuple):
    """One training that is to be made."""

    confirms: int
    """The trial of the search whose configuration is trained again."""
    seed: int
    """Its `trial.seed`."""
    planned: int
    """How many confirmations the sweep has once all are begun that are due with this one."""


@dataclass(frozen=True)
class Plan:
    """What confirms a search that is over."""

    trials: tuple[int, ...]
    """The trials that are trained again, the best first."""
    seeds: int
    """How often each of them is."""
    epochs: int
    """What that takes."""
    searched: int
    """The epochs of the search."""
    is_wanted: bool

    @property
    def share(self) -> float:
        """Return what it takes, of the epochs of the search."""
        return self.epochs / self.searched if self.searched else math.inf


class Confirmed(NamedTuple):
    """What a configuration comes to when it is trained again."""

    trial: int
    values: tuple[float, ...]
    """The objective of each further training at its last epoch, by the trial's number; NaN if it diverged."""
    mean: float
    half_width: float | None
    """Of the 95 % interval of the mean; None if no configuration was trained again twice."""

    def margin_over(self, other: Confirmed) -> float | None:
        """Return the difference of two means below which seeds alone may make it: of its 95 % interval."""
        if self.half_width is None or other.half_width is None:
            return None
        return math.hypot(self.half_width, other.half_width)


def wanted_by(spec: SweepSpec) -> Confirm | Literal["auto"] | None:
    """Return `search.confirm`, but None in place of `auto` where the search itself trains with several seeds."""
    wanted = spec.search.confirm
    return None if wanted == "auto" and "seed" in spec.trial.searched else wanted


def plan(records: Sequence[TrialRecord], spec: SweepSpec) -> Plan | None:
    """Return what confirms the search; None if nothing does: it is not over, is not to be, or came to nothing.

    The best are those with the best values of their own; what confirmed them does not change who is confirmed. Trials
    that differ in nothing but their seed are one of them, for their confirmations would say the same.
    """
    wanted = wanted_by(spec)
    search = [record for record in records if record.confirms is None]
    if wanted is None or len(search) < spec.trials or any(record.ended_at is None for record in search):
        return None
    count = Confirm() if wanted == "auto" else wanted
    metric = spec.search.objective.metric
    whole = [r for r in search if r.state is TrialState.COMPLETED and math.isfinite(r.last(metric))]
    if not whole or (wanted == "auto" and len(whole) < 2):
        return None
    best_of = dict[TrialConfig, TrialRecord]()
    for record in sorted(whole, key=lambda record: rank_alone(record, metric)):
        best_of.setdefault(record.config.model_copy(update={"seed": 0}), record)
    best = list(best_of.values())[: count.top]
    epochs = count.seeds * sum(record.config.epochs for record in best)
    searched = sum(len(record.epochs) for record in search)
    is_wanted = wanted != "auto" or epochs <= LARGEST_SHARE * searched
    return Plan(tuple(record.number for record in best), count.seeds, epochs, searched, is_wanted)


def most_trainings(spec: SweepSpec) -> int:
    """Return how many trainings confirm the search at most, before it has begun."""
    wanted = wanted_by(spec)
    if wanted is None:
        return 0
    if wanted == "auto":
        return min(Confirm().top * Confirm().seeds, int(LARGEST_SHARE * spec.trials))
    return min(wanted.top, spec.trials) * wanted.seeds


def due(records: Sequence[TrialRecord], spec: SweepSpec) -> list[Confirmation]:
    """Return the trainings that are still to be begun: of each seed those of the best trial first."""
    planned = plan(records, spec)
    if planned is None or not planned.is_wanted:
        return []
    begun = {(record.confirms, record.config.seed) for record in records if record.confirms is not None}
    of = {record.number: record for record in records}
    wanted = [
        (number, another_seed(of[number].config.seed, index))
        for index in range(planned.seeds)
        for number in planned.trials
    ]
    missing = [pair for pair in wanted if pair not in begun]
    return [Confirmation(number, seed, len(begun) + len(missing)) for number, seed in missing]


def another_seed(seed: int, index: int) -> int:
    """Return the seed of a trial's further training, from its own: different for each index, and no small number.

    Seeds that are searched are small numbers mostly, and a training with one of them would be no other one.
    """
    return seed ^ (0x9E3779B9 * (index + 1) % 2**32)


def confirmed(records: Sequence[TrialRecord], spec: SweepSpec, metric: str | None = None) -> list[Confirmed]:
    """Return what the confirmed trials came to, the best mean first.

    The interval is of Student's t over the deviations of all trials from their own means together: seeds are taken to
    spread the values of all configurations alike, which three of each could not tell.

    Args:
        metric: the objective if it is None.
    """
    metric = metric or spec.search.objective.metric
    sign = -1.0 if mode_of(metric) == "max" else 1.0
    found = [(r, values) for r in records if r.confirmed_by and (values := tuple(r.confirmed_values(metric)))]
    if not found:
        return []
    from scipy.special import stdtrit  # it takes a moment, and most sweeps have no confirmation

    finite = [values for _, values in found if all(map(math.isfinite, values))]
    freedom = sum(len(values) - 1 for values in finite)
    sd = math.sqrt(sum((len(v) - 1) * variance(v) for v in finite if len(v) > 1) / freedom) if freedom else None
    quantile = float(stdtrit(freedom, 0.5 + _CONFIDENCE / 2)) if freedom else math.nan
    rows = [
        Confirmed(record.number, values, mean(values), None if sd is None else quantile * sd / math.sqrt(len(values)))
        for record, values in found
    ]
    return sorted(rows, key=lambda row: (sign * row.mean if math.isfinite(row.mean) else math.inf, row.trial))


def plan_text(planned: Plan) -> str:
    """Say what is trained again, and what that costs."""
    trials = f"the best {len(planned.trials)} trials" if len(planned.trials) > 1 else "the best trial"
    return (
        f"{trials} with {counted(planned.seeds, 'other seed')} each: {planned.epochs} epochs, {planned.share:.0%} of "
        f"the {planned.searched} of the search"
    )
