"""The earlier sweeps that a new one starts from: opening them, and refusing those without use for it."""

from __future__ import annotations

from raysweep.bucket.workingcopy import at_hand
from raysweep.errors import Fault, RaysweepError, SpecError
from raysweep.review.sweep import Sweep, read_sweep
from raysweep.search.past import PastSweep, taken_from
from raysweep.spec.sections import SweepSpec
from raysweep.storage.home import expanded
from raysweep.storage.lock import has_driver
from raysweep.storage.remote import is_remote
from raysweep.wording import counted


def gather_past(spec: SweepSpec, source: str | None = None) -> tuple[PastSweep, ...]:
    """Return what a search space takes over from the sweeps of `search.start_from`, without changing them.

    Args:
        spec: the search space.
        source: the file that it came from, for messages.

    Raises:
        SpecError: with one fault for each sweep that does not exist, or from which nothing can be taken.
        StorageError: if a bucket does not answer.
    """
    taken: list[PastSweep] = []
    faults: list[Fault] = []
    for index, place in enumerate(spec.search.start_from):
        try:
            directory = at_hand(place if is_remote(place) or "://" in place else expanded(place))
            earlier = read_sweep(directory, running=has_driver(directory))
        except RaysweepError as error:
            if error.exit_code != 2:
                raise
            faults.append(Fault(0, f"search.start_from[{index}]", str(error)))
            continue
        past = taken_from(place, earlier.spec, earlier.records, spec.trial)
        fault = _fault_of(past, earlier, spec)
        if fault:
            faults.append(Fault(0, f"search.start_from[{index}]", f"{place}: {fault}"))
        taken.append(past)
    if faults:
        raise SpecError(source or spec.name, faults)
    return tuple(taken)


def _fault_of(past: PastSweep, earlier: Sweep, spec: SweepSpec) -> str:
    """Return why nothing can be taken over from an earlier sweep, and what to do; empty if something can."""
    metric, searched = spec.search.objective.metric, spec.trial.searched
    if earlier.objective != metric:
        return (
            f"its trials were compared by {earlier.objective}, those of this sweep are by {metric}; take it out of "
            f"start_from, or write objective: {{metric: {earlier.objective}}}"
        )
    if not searched.keys() & earlier.spec.trial.searched.keys():
        return (
            f"it searched {', '.join(earlier.spec.trial.searched)}, this sweep searches {', '.join(searched)}: they "
            "have no parameter in common; take it out of start_from"
        )
    ended = sum(record.ended_at is not None for record in earlier.records)
    if not ended:
        return (
            f"none of its {counted(len(earlier.records), 'trial')} has ended; let it run on, or take it out of "
            "start_from"
        )
    if not past.trials:
        reasons = "; ".join(f"{count} {reason}" for reason, count in past.left_out.items())
        return f"none of its trials can be taken: {reasons}; take it out of start_from, or widen the ranges"
    return ""
