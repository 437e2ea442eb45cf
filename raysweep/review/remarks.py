"""Remarks about what a sweep's tables do not say: before it is run, and after it has ended."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import ValidationError

from raysweep.confirming import Confirmed, Plan, confirmed, plan, plan_text
from raysweep.metrics import FINAL_PREFIX, FORMER_MODES, TrialState
from raysweep.records import TrialRecord, of_search, rank_alone, ranked
from raysweep.spec.claims import BestAt
from raysweep.spec.defaults import (
    FIRST_RUNG_STEPS,
    STEPS,
    batch_size_for,
    epochs_for,
    grace_epochs_for,
    steps_an_epoch,
)
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import Choices, Range, Scalar, field_adapter, field_kind
from raysweep.vae.plateau import NEAR_COLLAPSE, is_near_collapse, stuck_trials
from raysweep.vae.preflight import Preflight, Unpredictable
from raysweep.wording import counted

FEW = 4
"""Trials with less than 1/`FEW` of kld.yaml's steps cause a warning: most of them end in a grey blur."""
LAST_PART = 5
"""A trial is still improving if its objective gained in the last 1/`LAST_PART` of its epochs ..."""
LEAST_GAIN = 0.01
"""... at least this share of what it gained since its first epoch."""
LEAKY_SLOPE = 0.1
"""A `negative_slope` at which stuck trials leave the plateau: docs/search.md has the measurement."""
MOST_NAMED = 8
"""Most stuck trials that a remark names."""
END_SHARE = 0.05
"""A value is at an end of its range within this share of it, on the range's own scale."""


def steps_text(spec: SweepSpec, train_images: int) -> str:
    """Return how many training steps a trial makes, in words."""
    (few, many), an_epoch = _steps(spec, train_images), _steps_an_epoch(spec, train_images)
    trial = f"{few:,}" if few == many else f"{few:,} to {many:,}"
    epoch = f"{an_epoch[0]:,}" if an_epoch[0] == an_epoch[1] else f"{an_epoch[0]:,} to {an_epoch[1]:,}"
    return f"{trial} steps a trial, {epoch} an epoch; kld.yaml has {STEPS:,}"


def remarks_before(spec: SweepSpec, train_images: int, prediction: Preflight | Unpredictable | None) -> list[str]:
    """Return the weaknesses of a sweep that has not run yet, each with what to type instead."""
    return [
        *_of_few_steps(spec, train_images),
        *_of_an_early_rung(spec, train_images),
        *_of_collapse_everywhere(spec, prediction),
        *_of_undirected_claims(spec),
    ]


def remarks_after(
    spec: SweepSpec, records: Sequence[TrialRecord], finalists: Sequence[TrialRecord], prediction: Preflight | None,
    train_images: int | None, address: str = "DIR",
) -> list[str]:  # fmt: skip
    """Return what the tables do not say about the trials of a sweep, each with what to type next.

    `address` is the sweep's directory as typed in a command.
    """
    found = confirmed(records, spec)
    planned = None if found else plan(records, spec)
    records = of_search(records)
    verdicts = stuck_trials(records, prediction)
    stuck = [record for record in records if verdicts[record.number]]
    return [
        *_of_confirmation(spec, records, found, planned, address),
        *_of_two_winners(spec, records, finalists, address),
        *_of_unfinished_learning(spec, records, stuck, train_images),
        *_of_stuck_trials(spec, records, stuck, prediction),
        *_of_collapsed_trials(spec, records, stuck, prediction),
        *_of_a_winner_at_an_end(spec, records, prediction),
    ]


def is_improving(record: TrialRecord, metric: str, direction: str) -> bool:
    """Return whether a trial's objective was still improving when its epochs ended."""
    sign = 1.0 if direction == "max" else -1.0
    values = [sign * epoch.value(metric) for epoch in record.epochs]
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return False
    last = max(1, len(values) // LAST_PART)
    gain = max(values[-last:]) - max(values[:-last])
    return gain > 0 and gain >= LEAST_GAIN * (max(values) - values[0])


def _of_few_steps(spec: SweepSpec, train_images: int) -> list[str]:
    few, _ = _steps(spec, train_images)
    if few * FEW >= STEPS:
        return []
    batch_size = batch_size_for(train_images)
    largest = spec.trial.ends("batch_size")[1]
    epochs = epochs_for(train_images, largest)
    instead = f"{epochs_key(spec)}: {epochs}"
    if batch_size < largest:
        instead += f", or trial.batch_size: {batch_size} and {epochs_key(spec)}: {epochs_for(train_images, batch_size)}"
    return [
        f"{few:,} steps a trial are few: kld.yaml has {STEPS:,}, and models of so few are often a grey blur. "
        f"Train longer: {instead}"
    ]


def epochs_key(spec: SweepSpec) -> str:
    """Return the key of a search space file that says how long its trials train."""
    is_ashas = spec.asha is not None and spec.asha.max_epochs is not None
    return "search.early_stopping.asha.max_epochs" if is_ashas else "trial.epochs"


def _of_an_early_rung(spec: SweepSpec, train_images: int) -> list[str]:
    if spec.asha is None or not spec.asha.rungs(spec.max_epochs):
        return []
    an_epoch = _steps_an_epoch(spec, train_images)[0]
    first = spec.asha.grace_epochs * an_epoch
    if first * FEW >= FIRST_RUNG_STEPS:
        return []
    longest = max(spec.max_epochs, epochs_for(train_images, spec.trial.ends("batch_size")[1]))
    grace = min(math.ceil(FIRST_RUNG_STEPS / an_epoch), grace_epochs_for(longest))
    return [
        f"early stopping compares trials after {first:,} steps for the first time, kld.yaml after {FIRST_RUNG_STEPS}: "
        f"it {'pauses' if spec.asha.promote else 'stops'} them before they have learned what tells them apart. "
        f"Let them train longer: search.early_stopping.asha.grace_epochs: {grace}"
    ]


def _of_collapse_everywhere(spec: SweepSpec, prediction: Preflight | Unpredictable | None) -> list[str]:
    if not isinstance(prediction, Preflight) or prediction.wasted_share[0] < 1:
        return []
    low, high = prediction.lowest_weight, prediction.highest_weight
    searched = f"every kld_weight searched ({low:.3g} to {high:.3g}) is" if low != high else f"kld_weight {low:.3g} is"
    return [
        f"{searched} beyond collapse, predicted from {prediction.critical_weight[0]:.3g} on: no model will use its "
        f"latents, all reconstructions will be one grey image. Search below it: {below(prediction)}"
    ]


def below(prediction: Preflight) -> str:
    """Return a range of KLD weights below predicted collapse, as text for a search space file."""
    critical = prediction.critical_weight[0]
    return f"trial.kld_weight: {{low: {critical / 1e4:.1g}, high: {critical / 2:.1g}, log: true}}"


def _of_undirected_claims(spec: SweepSpec) -> list[str]:
    return [
        f"claim {claim.name} cannot be decided: neither less nor more of {metric} is better; give it mode: min or max"
        for claim in spec.claims
        if isinstance(claim, BestAt) and claim.mode is None
        for metric in claim.metrics
        if metric in FORMER_MODES
    ]


def _of_confirmation(
    spec: SweepSpec, records: Sequence[TrialRecord], found: Sequence[Confirmed], planned: Plan | None, address: str
) -> list[str]:
    """Say whether the winner is best by more than luck, or how to find out."""
    if planned is not None and not planned.is_wanted:
        count = f"{len(planned.trials)}x{planned.seeds}"
        return [
            f"The best value is of one training, and partly luck. To train {plan_text(planned)}, type:\n"
            f"    raysweep resume {address} --confirm {count}"
        ]
    if not found or not math.isfinite(found[0].mean):
        return []
    metric = spec.search.objective.metric
    first, *others = found
    within = "" if first.half_width is None else f" ± {first.half_width:.3g}"
    text = (
        f"Trained again with {counted(len(first.values), 'other seed')}, trial {first.trial} comes to {metric} "
        f"{first.mean:.5g}{within} on average"
    )
    if others:
        second = others[0]
        text += f", trial {second.trial}, the second, to {second.mean:.5g}"
        margin = first.margin_over(second)
        if margin is not None and abs(first.mean - second.mean) < margin:
            text += f": seeds spread them too far to tell the two apart (it takes {margin:.3g})"
    alone = min(records, key=lambda record: rank_alone(record, metric))
    if alone.number != first.trial:
        text += f". By one training alone trial {alone.number} was ahead, with {alone.last(metric):.5g}"
    return [text]


def _of_two_winners(
    spec: SweepSpec, records: Sequence[TrialRecord], finalists: Sequence[TrialRecord], address: str
) -> list[str]:
    """Name the best trial by the objective and, if samples were measured, the best one by samples."""
    best = ranked(list(records), spec.search.objective.metric)
    measured = [(record.tested.kid, record) for record in finalists if record.tested and record.tested.kid is not None]
    if len(measured) < 2 or not best:
        return []
    kid, sampler = min(measured, key=lambda pair: pair[0])
    of_best = next((kid for kid, record in measured if record.number == best[0].number), None)
    winner = f"Trial {best[0].number} is the best by {spec.search.objective.metric}"
    name = f"{FINAL_PREFIX}kid"
    if sampler.number == best[0].number:
        return [f"{winner}, and of the {len(measured)} tested its samples are the best too ({name} {kid:.4g})"]
    other = f" against {of_best:.4g}" if of_best is not None else ""
    return [
        f"{winner}; for samples trial {sampler.number} is the best of the {len(measured)} tested ({name} {kid:.4g}"
        f"{other}, less is better). To have that one:\n"
        f"    raysweep export {address} exported/{spec.name}-samples --trial {sampler.number}"
    ]


def _of_unfinished_learning(
    spec: SweepSpec, records: Sequence[TrialRecord], stuck: Sequence[TrialRecord], train_images: int | None
) -> list[str]:
    metric, direction = spec.search.objective.metric, spec.search.objective.direction
    whole = [record for record in records if record.state is TrialState.COMPLETED and len(record.epochs) > 1]
    improving = [record for record in whole if is_improving(record, metric, direction) and record not in stuck]
    if not improving:
        return []
    epochs = max(2 * spec.max_epochs, epochs_for(train_images, spec.trial.ends("batch_size")[1]) if train_images else 0)
    of = f"{len(improving)} of the {len(whole)} trials that trained all their epochs"
    if len(whole) == 1:
        of = "The one trial that trained all its epochs"
    were = "was" if len(improving) == 1 else "were"
    best = ranked(list(records), metric)[0]
    included = ", the best one among them" if len(improving) > 1 and len(whole) > 1 and best in improving else ""
    is_grey = best in improving and best.final is not None and best.final.collapsed
    which = "Even the best one" if len(whole) > 1 else "It"
    blur = f" {which} still reconstructs each image as about the same grey one." if is_grey else ""
    return [
        f"{of} {were} still improving at the last one{included}: longer training finds better models.{blur} "
        f"In a new sweep: {epochs_key(spec)}: {epochs}"
    ]


def _of_stuck_trials(
    spec: SweepSpec, records: Sequence[TrialRecord], stuck: Sequence[TrialRecord], prediction: Preflight | None
) -> list[str]:
    """Name the trials that never left the plateau at the mean image, and say how to leave it."""
    slow = [record for record in stuck if is_near_collapse(record, prediction)]
    failed = [record for record in stuck if record not in slow]
    said = []
    if failed:
        rates = sorted(record.config.learning_rate for record in failed)
        at = f"{rates[0]:.2g}" + (f" to {rates[-1]:.2g}" if f"{rates[-1]:.2g}" != f"{rates[0]:.2g}" else "")
        instead = f"a smaller trial.learning_rate, up to {rates[0] / 2:.1g}"
        if spec.trial.ends("negative_slope")[1] < LEAKY_SLOPE:
            instead = f"trial.negative_slope: {LEAKY_SLOPE}, which keeps activations from dying, or {instead}"
        weight, training = ("its kld_weight", "its") if len(failed) == 1 else ("their kld_weight", "their")
        said.append(
            f"{_never_left(failed, records)}, although {weight} is well below collapse: {training} training failed, "
            f"at learning_rate {at}. In a new sweep: {instead}"
        )
    if slow and prediction is not None:
        weights = "its kld_weight" if len(slow) == 1 else "their kld_weight"
        said.append(
            f"{_never_left(slow, records)}: {weights} is below predicted collapse by less than a factor of "
            f"{1 / NEAR_COLLAPSE:g}, where a model takes long to leave it and gains little. In a new sweep: "
            f"{epochs_key(spec)}: {2 * spec.max_epochs}, or search {below(prediction)}"
        )
    return said


def _never_left(stuck: Sequence[TrialRecord], records: Sequence[TrialRecord]) -> str:
    """Say how many of the trials are stuck, and which."""
    numbers = ", ".join(str(record.number) for record in stuck[:MOST_NAMED])
    if len(stuck) == 1:
        return f"Trial {numbers} never left the plateau at the mean image"
    if len(stuck) > MOST_NAMED:
        numbers += f" and {len(stuck) - MOST_NAMED} more"
    return f"{len(stuck)} of {len(records)} trials never left the plateau at the mean image (trials {numbers})"


def _of_collapsed_trials(
    spec: SweepSpec, records: Sequence[TrialRecord], stuck: Sequence[TrialRecord], prediction: Preflight | None
) -> list[str]:
    measured = [record for record in records if record.final is not None and record.state is not TrialState.DIVERGED]
    metric, direction = spec.search.objective.metric, spec.search.objective.direction
    collapsed = [
        # A trial that is still improving has not learned yet: it needs longer training.
        record for record in measured
        if record.final is not None and record.final.collapsed and not is_improving(record, metric, direction)
        and record not in stuck
    ]  # fmt: skip
    best = ranked(list(records), metric)
    if not collapsed or not best:
        return []
    is_best_collapsed = best[0] in collapsed
    if not is_best_collapsed and 2 * len(collapsed) < len(measured):
        return []
    if len(collapsed) == len(measured):
        of = "All trials" if len(measured) > 1 else "The trial"
    else:
        of = f"{len(collapsed)} of {len(measured)} trials"
    included = ", the best one too" if is_best_collapsed and len(collapsed) < len(measured) else ""
    instead = below(prediction) if prediction else "a smaller trial.kld_weight"
    return [
        f"{of} had collapsed at the last epoch{included}: their decoders ignore the latents, and each image is "
        f"reconstructed as the same grey one. In a new sweep, search {instead}"
    ]


def _of_a_winner_at_an_end(spec: SweepSpec, records: Sequence[TrialRecord], prediction: Preflight | None) -> list[str]:
    best = ranked(list(records), spec.search.objective.metric)
    if len(best) < 3 or best[0].final is None or best[0].final.collapsed:
        return []  # the best of models that learned nothing does not show where to search
    most = {"kld_weight": prediction.critical_weight[0]} if prediction else {}
    return [
        f"{name} {_text(best[0].params[name])} of trial {best[0].number}, the best, is {where}: a better model may lie "
        f"beyond. In a new sweep, search {further}"
        for name, distribution in spec.trial.searched.items()
        if name in best[0].params and name != "seed"
        for where, further in _end_reached(name, distribution, best[0].params[name], most.get(name, math.inf))
    ]


def _end_reached(name: str, distribution: Range | Choices, value: Scalar, most: float) -> list[tuple[str, str]]:
    """Return at which end of the searched values `value` is, and what to search beyond it, below `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return []
    if isinstance(distribution, Choices):
        numbers = sorted(c for c in distribution.choices if isinstance(c, int | float) and not isinstance(c, bool))
        if len(numbers) < 3 or len(numbers) < len(distribution.choices) or value not in (numbers[0], numbers[-1]):
            return []
        at_low = value == numbers[0]
        beyond = numbers[0] ** 2 / numbers[1] if at_low else numbers[-1] ** 2 / numbers[-2]
        if min(numbers) <= 0:
            beyond = 2 * numbers[0] - numbers[1] if at_low else 2 * numbers[-1] - numbers[-2]
        where = f"the {'smallest' if at_low else 'largest'} of {', '.join(map(_text, numbers))}"
        return _within_bounds(name, numbers[0] if at_low else numbers[-1], beyond, most, where, "{} too")
    low, high = float(distribution.low), float(distribution.high)
    place = math.log(value / low) / math.log(high / low) if distribution.log else (value - low) / (high - low)
    if END_SHARE < place < 1 - END_SHARE:
        return []
    at_low = place < 0.5
    factor = min(10.0, high / low) if distribution.log else 0.0
    if distribution.log:
        beyond = low / factor if at_low else high * factor
    else:
        beyond = low - (high - low) if at_low else high + (high - low)
    where = f"at the {'low' if at_low else 'high'} end of {distribution}"
    further = "from {} on" if at_low else "up to {}"
    return _within_bounds(name, low if at_low else high, beyond, most, where, further)


def _within_bounds(
    name: str, end: float, beyond: float, most: float, where: str, further: str
) -> list[tuple[str, str]]:
    """Return the pair of texts with an allowed value of the field beyond `end`; nothing if there is none."""
    for wanted in (beyond, (end + beyond) / 2, 0.0 if beyond < end else end + 1):
        candidate: int | float = round(wanted) if field_kind(name) == "int" else float(f"{wanted:.3g}")
        if candidate == end or candidate >= most:
            continue
        try:
            field_adapter(name).validate_python(candidate)
        except ValidationError:
            continue
        return [(where, further.format(_text(candidate)))]
    return []


def _text(value: Scalar) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _steps_an_epoch(spec: SweepSpec, train_images: int) -> tuple[int, int]:
    """Return the fewest and the most steps an epoch can have."""
    small, large = spec.trial.ends("batch_size")
    return steps_an_epoch(train_images, large), steps_an_epoch(train_images, small)


def _steps(spec: SweepSpec, train_images: int) -> tuple[int, int]:
    """Return the fewest and the most steps of a trial that is never stopped."""
    (short, long), (few, many) = spec.trial.ends("epochs"), _steps_an_epoch(spec, train_images)
    return int(short) * few, int(long) * many
