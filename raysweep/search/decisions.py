"""The decisions of early stopping on a trial, replayed from the ledger.

If trials are stopped, a decision immediately follows the epoch that it judges, in the driver's only thread. So the rung
consisted of the trials whose epoch the ledger had recorded before. Only the first trials on the first rung were judged
later, when enough others had arrived. The ledger has the times at which epochs and ends were recorded. Clocks are not
perfect: a driver on another machine, or a clock that was set back, can mix up this order. The cause of a stop says how
many trials stood on the rung; if the replay finds another number, it gives no numbers.

If trials pause, a trial goes on when it is among the best, either when it arrives or when others do. It begins its next
epoch soon after that. The ledger says how long that epoch took.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from raysweep.metrics import TrialState
from raysweep.records import TrialRecord, of_search
from raysweep.search.scheduler import Standing, standing
from raysweep.spec.sections import SweepSpec
from raysweep.wording import ordinal

_STOPPED_AT = re.compile(r"that had reached it at epoch (\d+)")
_ON_THE_RUNG = re.compile(r"of the (\d+) trials that had reached it")


@dataclass(frozen=True)
class RungDecision:
    """The decision on a trial at one rung."""

    epoch: int
    went_on: bool
    standing: Standing | None
    """Its standing when it was judged; None if the order of the ledger's times does not show it."""
    waits: bool = False
    """True if it is paused there and may still go on."""
    after: int | None = None
    """The epoch after which it was judged there again and stopped; None if it was judged on arrival."""
    led: bool = False
    """True if it went on because it was the best there when nothing else was left to train."""


def decisions(record: TrialRecord, records: Sequence[TrialRecord], spec: SweepSpec) -> list[RungDecision]:
    """Return the decision at each rung that a trial has reached, the first rung first; none without early stopping."""
    if spec.asha is None or record.confirms is not None:
        return []
    records = of_search(records)
    decide = _promotion if spec.asha.promote else _stop
    found = []
    for epoch in spec.asha.rungs(spec.max_epochs):
        if len(record.epochs) < epoch or not math.isfinite(_value(record, epoch, spec)):
            break  # a value that is not finite has diverged, and is not judged
        found.append(decide(record, epoch, records, spec))
    rung = _rung_of_the_stop(record)
    if rung is not None and rung < len(record.epochs):
        found.append(_stop_again(record, rung, records, spec))
    return found


def _stop(record: TrialRecord, epoch: int, records: Sequence[TrialRecord], spec: SweepSpec) -> RungDecision:
    """Return the decision on a trial if trials are judged when they arrive at a rung."""
    assert spec.asha is not None
    if spec.asha.rejudge and epoch == spec.asha.rungs(spec.max_epochs)[0]:
        waited = _after_waiting(record, epoch, records, spec)
        if waited is not None:
            return waited
    was_stopped = record.state is TrialState.PRUNED and len(record.epochs) == epoch
    was_stopped = was_stopped and _rung_of_the_stop(record) in (None, epoch)
    judged_at = record.epochs[epoch - 1].recorded_at
    if was_stopped and record.ended_at is not None:
        judged_at = max(judged_at, record.ended_at)  # later than its epoch if the driver died between the two
    rung = _rung(records, epoch, spec, judged_at)
    place = standing(record.number, rung, spec.asha.reduction_factor, spec.search.objective.direction)
    is_known = place.survives != was_stopped and (not was_stopped or _is_of_so_many(record, len(rung)))
    return RungDecision(epoch, not was_stopped, place if is_known else None)


def _after_waiting(
    record: TrialRecord, epoch: int, records: Sequence[TrialRecord], spec: SweepSpec
) -> RungDecision | None:
    """Return the decision on a trial that waited on the first rung for others; None if it did not."""
    assert spec.asha is not None
    factor, mode = spec.asha.reduction_factor, spec.search.objective.direction
    arrived = record.epochs[epoch - 1].recorded_at
    if len(_rung(records, epoch, spec, arrived)) >= factor:
        return None
    arrivals = sorted(other.epochs[epoch - 1].recorded_at for other in records if len(other.epochs) >= epoch)
    judged_at = arrivals[factor - 1] if len(arrivals) >= factor else None
    if len(record.epochs) > epoch:
        after = record.epochs[epoch]
        begun = max(arrived, after.recorded_at - timedelta(seconds=after.value("epoch_s")))
        if judged_at is None or (begun < judged_at and _had_all_begun(records, begun, spec)):
            place = standing(record.number, _rung(records, epoch, spec, begun), factor, mode)
            return RungDecision(epoch, True, place, led=True)
    elif record.state is TrialState.PRUNED:
        rung = _rung(records, epoch, spec, max(arrived, record.ended_at or arrived))
        place = standing(record.number, rung, factor, mode)
        is_known = not place.survives and _is_of_so_many(record, len(rung))
        return RungDecision(epoch, False, place if is_known else None)
    elif record.state is TrialState.PAUSED:
        place = standing(record.number, _rung(records, epoch, spec, None), factor, mode, promote=True)
        return RungDecision(epoch, False, place, waits=True)
    elif judged_at is None:
        return None  # a fault ended it before others came
    place = standing(record.number, _rung(records, epoch, spec, judged_at), factor, mode)
    return RungDecision(epoch, True, place if place.survives else None)


def _stop_again(record: TrialRecord, epoch: int, records: Sequence[TrialRecord], spec: SweepSpec) -> RungDecision:
    """Return the decision on a trial that was stopped at a rung it had passed, after others arrived."""
    assert spec.asha is not None
    last = len(record.epochs)
    judged_at = record.epochs[-1].recorded_at
    if record.ended_at is not None:
        judged_at = max(judged_at, record.ended_at)
    rung = _rung(records, epoch, spec, judged_at)
    place = standing(record.number, rung, spec.asha.reduction_factor, spec.search.objective.direction)
    is_known = not place.survives and _is_of_so_many(record, len(rung))
    return RungDecision(epoch, False, place if is_known else None, after=last)


def _rung_of_the_stop(record: TrialRecord) -> int | None:
    """Return the rung that the cause of a stop names; None if there is none, or no stop."""
    said = _STOPPED_AT.search(record.cause or "") if record.state is TrialState.PRUNED else None
    return int(said.group(1)) if said else None


def _promotion(record: TrialRecord, epoch: int, records: Sequence[TrialRecord], spec: SweepSpec) -> RungDecision:
    """Return the decision on a trial if trials pause.

    They are judged again and again, until they go on or nothing is left to do.
    """
    assert spec.asha is not None
    factor, mode = spec.asha.reduction_factor, spec.search.objective.direction
    arrived = record.epochs[epoch - 1].recorded_at
    # If a clock was set back, a trial can have ended before its last epoch was recorded.
    ended = None if record.ended_at is None else max(arrived, record.ended_at)
    went_on = len(record.epochs) > epoch or record.state not in (TrialState.PAUSED, TrialState.PRUNED)
    if not went_on:
        place = standing(record.number, _rung(records, epoch, spec, ended), factor, mode, promote=True)
        return RungDecision(epoch, False, place, waits=record.state is not TrialState.PRUNED)
    begun = ended
    if len(record.epochs) > epoch:
        after = record.epochs[epoch]
        begun = max(arrived, after.recorded_at - timedelta(seconds=after.value("epoch_s")))
    moment = _last_among_the_best(record, epoch, records, spec, begun)
    if moment is not None:
        place = standing(record.number, _rung(records, epoch, spec, moment), factor, mode, promote=True)
        return RungDecision(epoch, True, place)
    led = _had_all_begun(records, begun, spec)
    place = standing(record.number, _rung(records, epoch, spec, begun), factor, mode, promote=True)
    return RungDecision(epoch, True, place if led else None, led=led)


def _had_all_begun(records: Sequence[TrialRecord], moment: datetime | None, spec: SweepSpec) -> bool:
    """Return whether all trials of the search had begun at `moment` (None: now): none was left to hand out."""
    starts = [record.started_at for record in records if record.started_at is not None]
    return len(records) >= spec.trials and (moment is None or all(start <= moment for start in starts))


def _last_among_the_best(
    record: TrialRecord, epoch: int, records: Sequence[TrialRecord], spec: SweepSpec, until: datetime | None
) -> datetime | None:
    """Return the time of the last arrival, up to `until`, after which a trial was among a rung's best.

    It is None if there is no such arrival. Others may have arrived after the trial was sent on and before it began its
    next epoch.
    """
    assert spec.asha is not None
    sign = -1.0 if spec.search.objective.direction == "max" else 1.0
    arrivals = sorted(
        (other.epochs[epoch - 1].recorded_at, sign * _value(other, epoch, spec), other.number)
        for other in records
        if len(other.epochs) >= epoch and (until is None or other.epochs[epoch - 1].recorded_at <= until)
    )
    own = (sign * _value(record, epoch, spec), record.number)
    better = sum((value, number) < own for _, value, number in arrivals)
    while arrivals:
        if better < len(arrivals) // spec.asha.reduction_factor:
            return arrivals[-1][0]
        _, *last = arrivals.pop()
        if tuple(last) == own:
            return None
        better -= tuple(last) < own
    return None


def _value(record: TrialRecord, epoch: int, spec: SweepSpec) -> float:
    return float(record.epochs[epoch - 1].value(spec.search.objective.metric))


def _rung(records: Sequence[TrialRecord], epoch: int, spec: SweepSpec, until: datetime | None) -> Mapping[int, float]:
    """Return the objective of each trial whose `epoch` was recorded up to `until` (None: now), by trial number."""
    return {
        record.number: _value(record, epoch, spec)
        for record in records
        if len(record.epochs) >= epoch and (until is None or record.epochs[epoch - 1].recorded_at <= until)
    }


def _is_of_so_many(record: TrialRecord, count: int) -> bool:
    """Return whether the cause of a stop names `count` trials on its rung, or no number of trials."""
    said = _ON_THE_RUNG.search(record.cause or "")
    return said is None or int(said.group(1)) == count


def decision_text(decision: RungDecision, metric: str) -> str:
    """Describe a decision with its numbers: `stopped at epoch 6: elbo_nats 101.59, 4th of 9, 3 go on, ...`."""
    what = f"{outcome_of(decision)} at epoch {decision.epoch}"
    if decision.after is not None:
        what = f"{outcome_of(decision)} after epoch {decision.after}, judged again at epoch {decision.epoch}"
    place = decision.standing
    if place is None:
        return f"{what}; the ledger's times do not tell against whom"
    value, needed = told_apart(place.value, math.nan if place.needed is None else place.needed)
    goes = {0: "none goes on yet", 1: "1 goes on"}.get(place.go_on, f"{place.go_on} go on")
    if decision.led:
        goes = "nothing else was left to train"
    text = f"{what}: {metric} {value}, {ordinal(place.place)} of {place.of}, {goes}"
    if decision.went_on or place.survives or place.needed is None:
        return text
    return f"{text}, {needed} {'is' if decision.waits else 'was'} needed"


def outcome_of(decision: RungDecision) -> str:
    """Return the outcome of a decision: `went on`, `paused` or `stopped`."""
    return "went on" if decision.went_on else "paused" if decision.waits else "stopped"


def told_apart(a: float, b: float) -> tuple[str, str]:
    """Format two numbers with enough digits to tell them apart, at least five."""
    for digits in range(5, 18):
        texts = f"{a:.{digits}g}", f"{b:.{digits}g}"
        if texts[0] != texts[1] or a == b:
            break
    return texts
