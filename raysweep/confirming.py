"""Confirmation: train the best trials of a search again with other seeds; the best mean wins.

The value of one training is partly luck, and the best of many trainings had the most luck. Training a configuration
again with other seeds, which nobody chose by their results, shows what it is worth. These trainings are trials of their
own: they are in the ledger and say which trial they confirm (`TrialRecord.confirms`). Only the trials of the search
decide what is trained, so a driver that takes over a sweep continues as the one before it.
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
"""The most that `confirm: auto` may cost, as a share of the epochs of the search."""
_CONFIDENCE = 0.95


class Confirmation(NamedTuple):
    """One training that has yet to be made."""

    confirms: int
    """The trial of the search whose configuration is trained again."""
    seed: int
    """Its `trial.seed`."""
    planned: int
    """How many confirmations the sweep has once all that are due together with this one have begun."""


@dataclass(frozen=True)
class Plan:
    """The trainings that confirm a finished search."""

    trials: tuple[int, ...]
    """The trials that are trained again, the best first."""
    seeds: int
    """How often each of them is trained again."""
    epochs: int
    """How many epochs that takes."""
    searched: int
    """The epochs of the search."""
    is_wanted: bool

    @property
    def share(self) -> float:
        """The cost, as a share of the epochs of the search."""
        return self.epochs / self.searched if self.searched else math.inf


class Confirmed(NamedTuple):
    """The results of training a configuration again."""

    trial: int
    values: tuple[float, ...]
    """The metric of each further training at its last epoch, by trial number; NaN if it diverged."""
    mean: float
    half_width: float | None
    """Half the width of the mean's 95 % interval; None if no configuration was trained again twice."""

    def margin_over(self, other: Confirmed) -> float | None:
        """Return how far two means may differ by seeds alone: half the width of their difference's 95 % interval."""
        if self.half_width is None or other.half_width is None:
            return None
        return math.hypot(self.half_width, other.half_width)


def wanted_by(spec: SweepSpec) -> Confirm | Literal["auto"] | None:
    """Return `search.confirm`; None instead of `auto` if the search itself trains with several seeds."""
    wanted = spec.search.confirm
    return None if wanted == "auto" and "seed" in spec.trial.searched else wanted


def plan(records: Sequence[TrialRecord], spec: SweepSpec) -> Plan | None:
    """Return the plan that confirms the search; None if there is none.

    There is none if (a) the search is not over, (b) its specification asks for none, or (c) too few trials have a
    result: none, or for `auto` fewer than two. The best trials are those with the best values of their own;
    confirmations do not change the choice. Of trials that differ only in their seed the best is taken, because their
    confirmations would say the same.
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
    """Return the largest possible number of confirming trainings, known before the search begins."""
    wanted = wanted_by(spec)
    if wanted is None:
        return 0
    if wanted == "auto":
        return min(Confirm().top * Confirm().seeds, int(LARGEST_SHARE * spec.trials))
    return min(wanted.top, spec.trials) * wanted.seeds


def due(records: Sequence[TrialRecord], spec: SweepSpec) -> list[Confirmation]:
    """Return the trainings not yet begun: seed by seed, the best trial first."""
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
    """Derive the seed of a trial's further training from its own: different for each index, and large.

    Searched seeds are mostly small numbers, and a training with one of them could repeat one of the search.
    """
    return seed ^ (0x9E3779B9 * (index + 1) % 2**32)


def confirmed(records: Sequence[TrialRecord], spec: SweepSpec, metric: str | None = None) -> list[Confirmed]:
    """Return the results of the confirmed trials, the best mean first.

    The interval uses Student's t with the pooled deviations of all trials from their own means. It assumes that seeds
    spread the values of all configurations alike; three seeds each are too few to tell.

    Args:
        metric: the objective if it is None.
    """
    metric = metric or spec.search.objective.metric
    sign = -1.0 if mode_of(metric) == "max" else 1.0
    found = [(r, values) for r in records if r.confirmed_by and (values := tuple(r.confirmed_values(metric)))]
    if not found:
        return []
    from scipy.special import stdtrit  # slow to import, and most sweeps have no confirmation

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
