"""What early stopping decided of a trial, replayed from the ledger as each decision was taken.

A decision follows the epoch it judges at once, in the driver's one thread. So the rung was then made of the trials
whose epoch the ledger had taken before. Epochs carry the time at which they were taken, ends the time at which they
were told. Clocks are not perfect: a driver on another machine, or a clock that was set back, mixes up this order. The
cause of a stop says how many trials stood on the rung; where the replay finds another number, no number is told.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from raysweep.metrics import TrialState
from raysweep.records import TrialRecord
from raysweep.search.scheduler import Standing, standing
from raysweep.spec import SweepSpec

_ON_THE_RUNG = re.compile(r"of the (\d+) trials that had reached it")


@dataclass(frozen=True)
class RungDecision:
    """What a trial came to at one rung."""

    epoch: int
    went_on: bool
    standing: Standing | None
    """Where it stood when it was judged; None if the order of the ledger's times does not tell it."""


def decisions(record: TrialRecord, records: Sequence[TrialRecord], spec: SweepSpec) -> list[RungDecision]:
    """Return the decision at each rung that a trial has reached, the first rung first; none without early stopping."""
    asha = spec.asha
    if asha is None:
        return []
    metric, mode = spec.search.objective.metric, spec.search.objective.direction
    found = []
    for epoch in asha.rungs(record.config.epochs):
        if len(record.epochs) < epoch or not math.isfinite(record.epochs[epoch - 1].value(metric)):
            break  # what is no number has diverged, and is not judged
        was_stopped = record.state is TrialState.PRUNED and len(record.epochs) == epoch
        judged_at = record.epochs[epoch - 1].recorded_at
        if was_stopped and record.ended_at is not None:
            judged_at = max(judged_at, record.ended_at)  # later than its epoch if the driver died between the two
        rung = _rung(records, epoch, metric, judged_at)
        place = standing(record.number, rung, asha.reduction_factor, mode)
        is_known = place.survives != was_stopped and (not was_stopped or _is_of_so_many(record, len(rung)))
        found.append(RungDecision(epoch, not was_stopped, place if is_known else None))
    return found


def _rung(records: Sequence[TrialRecord], epoch: int, metric: str, until: datetime) -> Mapping[int, float]:
    """Return the objective of each trial whose `epoch` the ledger had taken by then, by trial number."""
    return {
        record.number: float(record.epochs[epoch - 1].value(metric))
        for record in records
        if len(record.epochs) >= epoch and record.epochs[epoch - 1].recorded_at <= until
    }


def _is_of_so_many(record: TrialRecord, count: int) -> bool:
    """Return whether the cause of a stop does not speak of another number of trials on its rung."""
    said = _ON_THE_RUNG.search(record.cause or "")
    return said is None or int(said.group(1)) == count


def decision_text(decision: RungDecision, metric: str) -> str:
    """Say what was decided, with the numbers: `stopped at epoch 6: elbo_nats 101.59, 4th of 9, 3 go on, ...`."""
    what = "went on at" if decision.went_on else "stopped at"
    place = decision.standing
    if place is None:
        return f"{what} epoch {decision.epoch}; the ledger's times do not tell against whom"
    value, needed = told_apart(place.value, math.nan if place.needed is None else place.needed)
    goes = "1 goes on" if place.go_on == 1 else f"{place.go_on} go on"
    text = f"{what} epoch {decision.epoch}: {metric} {value}, {ordinal(place.place)} of {place.of}, {goes}"
    return text if decision.went_on or place.needed is None else f"{text}, {needed} was needed"


def told_apart(a: float, b: float) -> tuple[str, str]:
    """Return two numbers with as many digits as tell them apart, five at least."""
    for digits in range(5, 18):
        texts = f"{a:.{digits}g}", f"{b:.{digits}g}"
        if texts[0] != texts[1] or a == b:
            break
    return texts


def ordinal(number: int) -> str:
    """Return `1st`, `2nd`, `3rd`, `4th`, ..."""
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if 10 <= number % 100 <= 20 else endings.get(number % 10, 'th')}"
