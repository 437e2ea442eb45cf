"""Pictures of trials side by side: what a hyperparameter does to reconstructions and to samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

import numpy as np

from raysweep.metrics import TrialState
from raysweep.records import TrialRecord, ranked
from raysweep.report.figures.comparisons import COMPARED_SAID, comparable, compared, sides
from raysweep.report.figures.marks import Drawn, Standing, Weights, short
from raysweep.report.figures.repeats import first_repeats
from raysweep.report.figures.scales import categories_of, compared_parameters
from raysweep.report.figures.strips import Strip, draw_strips, read_reconstructions, read_samples
from raysweep.report.images import Pixels
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import Choices, Range, Scalar
from raysweep.storage.layout import SweepDirectory
from raysweep.wording import counted

MAX_ROWS = 8
MAX_PARAMETERS = 6
"""Only the first searched parameters have tables: each takes half a second to draw, and a reader's time."""


def reconstructions(trials: Standing, spec: SweepSpec, directory: SweepDirectory) -> Drawn | None:
    """Draw the same validation images through trials from the smallest KLD weight to the largest.

    At most 8 trials are drawn: the winner, the first baseline, and the best of each part of the range of weights. If
    all weights are equal, they are trials from the best to the worst.
    """
    order = _with_result(trials)
    read = _Reconstructions(directory, spec.data.image_size)
    must = [record for record in order if record is trials.winner or record in trials.baselines[:1]]
    by_weight = len({record.config.kld_weight for record in order}) > 1
    if by_weight:
        part = _parts("kld_weight", spec, order)
        best = _first_of_each([*must, *order], part, read)
        chosen = list({record.number: record for record in [*filter(read, must), *best]}.values())
        while len(chosen) > MAX_ROWS:
            spare = [record for record in chosen if record not in must]
            chosen.remove(min(spare, key=lambda record: _nearest_weight(record, chosen)))
        chosen.sort(key=lambda record: (record.config.kld_weight, record.number))
    else:
        shown = [record for record in first_repeats(order) if read(record)]
        steps = np.linspace(0, len(shown) - 1, min(len(shown), MAX_ROWS)).round().astype(int)
        chosen = [shown[index] for index in dict.fromkeys(steps.tolist())]
    if not chosen or read.inputs is None:
        return None
    strips = [Strip(read.inputs, "input")]
    for record in chosen:
        config = record.config
        label = f"{_who(trials, record)} · kld_weight {short(config.kld_weight)} · {config.latent_size} latents"
        label += f" · {trials.metric} {short(trials.value(record))}"
        strips.append(Strip(read.strips[record.number], label, record is trials.winner))
    span = [short(record.config.kld_weight) for record in (chosen[0], chosen[-1])]
    by_weight = len({record.config.kld_weight for record in chosen}) > 1
    text = "Reconstructions"
    text += f" by {counted(len(chosen), 'trial')}, kld_weight {span[0]} to {span[1]}" if by_weight else ""
    if trials.winner in chosen:
        text += f"; {trials.metric} {trials.finding}"
    return Drawn(
        "reconstructions", text, draw_strips(strips, text),
        "The first row are validation images, each further row their reconstructions by one trial, "
        + (f"from the {'smallest KLD weight to the largest' if by_weight else 'best to the worst'}. ")
        + "The best trial is framed.",
    )  # fmt: skip


def side_by_side(
    trials: Standing, spec: SweepSpec, directory: SweepDirectory, collapse: Weights | None = None
) -> Iterator[Drawn]:
    """Draw tables of reconstructions and of samples for each searched parameter, one row per value."""
    size = spec.data.image_size
    for name in compared_parameters(spec.trial)[:MAX_PARAMETERS]:
        if name == "seed":
            continue
        # For the KLD weight, the figure `reconstructions` is this table.
        if name != "kld_weight":
            originals = _Reconstructions(directory, size)
            drawn = _table(trials, spec, name, "reconstructions", originals, originals.strips, collapse)
            if drawn is not None:
                yield drawn
        samples: dict[int, Pixels] = {}

        def read(record: TrialRecord, samples: dict[int, Pixels] = samples) -> bool:
            images = read_samples(directory, record.number, size)
            if images is not None:
                samples[record.number] = images
            return images is not None

        drawn = _table(trials, spec, name, "samples", read, samples, collapse)
        if drawn is not None:
            yield drawn


def _table(
    trials: Standing, spec: SweepSpec, name: str, what: str,
    read: _Reconstructions | Callable[[TrialRecord], bool], images: dict[int, Pixels], collapse: Weights | None,
) -> Drawn | None:  # fmt: skip
    """Draw a row for the best trial of each value, or part of the range, of `name`.

    Return None if there are fewer than two rows.
    """
    order = _with_result(trials)
    part = _parts(name, spec, order)
    best = _first_of_each(order, part, read)[:MAX_ROWS]
    if len(best) < 2:
        return None
    rows = sorted(best, key=lambda record: _place(name, spec, record))
    strips = []
    if isinstance(read, _Reconstructions) and read.inputs is not None:
        strips.append(Strip(read.inputs, "input"))
    for record in rows:
        count = sum(part(other) == part(record) for other in order)
        label = f"{name} {short(getattr(record.config, name))} (n={count}) · {_who(trials, record)}"
        if name != "kld_weight" and "kld_weight" in spec.trial.searched:
            label += f" · kld_weight {short(record.config.kld_weight)}"
        label += f" · {trials.metric} {short(trials.value(record))}"
        if what == "samples" and record.tested and record.tested.kid is not None:
            label += f", kid {short(record.tested.kid)}"
        strips.append(Strip(images[record.number], label, record is trials.winner))
    each = "value" if isinstance(spec.trial.searched[name], Choices) else "part of the range"
    text = f"{what.capitalize()} by {name}, the best trial of each {each}"
    found = sides(spec, comparable(order, name, trials.metric, collapse), name)
    pick = max if trials.mode == "max" else min
    bests = {repr(side.value): pick(map(trials.value, side.records)) for side in found}
    said = compared(found, trials.metric, trials.mode, bests)
    text += f": {said}" if said else ""
    first = "The first row are validation images. " if what == "reconstructions" else ""
    row = "reconstructions of them" if first else "decoded draws from the prior"
    return Drawn(
        f"{what}_by_{name}", text, draw_strips(strips, text),
        f"{first}Each {'further ' if first else ''}row are {row} by the best trial of one {each} of {name}; other "
        "searched parameters may differ from row to row; n is how many trials it "
        "is the best of. The best trial of the sweep is framed."
        + (f" {COMPARED_SAID}" if said else ""),
    )  # fmt: skip


class _Reconstructions:
    """A reader of reconstructions; it skips trials that show other images than the first trial it read."""

    def __init__(self, directory: SweepDirectory, size: int) -> None:
        self.inputs: Pixels | None = None
        self.strips: dict[int, Pixels] = {}
        """By number of the trial."""
        self._directory = directory
        self._size = size

    def __call__(self, record: TrialRecord) -> bool:
        if record.number in self.strips:
            return True
        rows = read_reconstructions(self._directory, record.number, self._size)
        if rows is None or not (self.inputs is None or np.array_equal(self.inputs, rows[0])):
            return False
        self.inputs, self.strips[record.number] = rows
        return True


def _with_result(trials: Standing) -> list[TrialRecord]:
    """Return the trials that are worth a row, best first."""
    return [record for record in ranked(trials.records, trials.metric) if record.state is not TrialState.DIVERGED]


def _first_of_each(
    records: Iterable[TrialRecord], part: Callable[[TrialRecord], Hashable], read: Callable[[TrialRecord], bool]
) -> list[TrialRecord]:
    """Return the first trial of each part that has a picture; read no picture of the trials after it."""
    found: dict[Hashable, TrialRecord] = {}
    for record in records:
        key = part(record)
        if key not in found and read(record):
            found[key] = record
    return list(found.values())


def _parts(name: str, spec: SweepSpec, records: Sequence[TrialRecord]) -> Callable[[TrialRecord], Hashable]:
    """Return the function that gives the part of the values of `name` that a trial belongs to.

    If there are few values, or some are not numbers, each is a part; otherwise a part is an eighth of the span.
    """
    values: list[Scalar] = [getattr(record.config, name) for record in records]
    few = len({(type(value), value) for value in values}) <= MAX_ROWS
    if few or not all(isinstance(value, int | float) for value in values):
        return lambda record: repr(getattr(record.config, name))
    numbers = [float(value or 0) for value in values]
    position = _spacing(numbers)
    low, high = position(min(numbers)), position(max(numbers))

    def part(record: TrialRecord) -> int:
        share = (position(float(getattr(record.config, name))) - low) / ((high - low) or 1.0)
        return min(int(share * MAX_ROWS), MAX_ROWS - 1)

    return part


def _spacing(numbers: Sequence[float]) -> Callable[[float], float]:
    """Return the scale on which numbers are evenly spread: logarithmic if they span a factor of ten."""
    positive = [number for number in numbers if number > 0]
    if not positive or min(numbers) < 0 or max(positive) / min(positive) < 10:
        return lambda number: number
    least = min(positive)
    return lambda number: math.log(max(number, least))


def _place(name: str, spec: SweepSpec, record: TrialRecord) -> tuple[float, int]:
    """Return the key that sorts trials by their value of `name`, then by number."""
    distribution = spec.trial.searched[name]
    value: Scalar = getattr(record.config, name)
    if isinstance(distribution, Range):
        return float(value or 0), record.number
    return float(categories_of(distribution, [value]).index(value)), record.number


def _nearest_weight(record: TrialRecord, others: Sequence[TrialRecord]) -> float:
    """Return the distance between the record's weight and the nearest other one."""
    position = _spacing([other.config.kld_weight for other in others])
    own = position(record.config.kld_weight)
    return min(abs(position(other.config.kld_weight) - own) for other in others if other is not record)


def _who(trials: Standing, record: TrialRecord) -> str:
    """Name a trial, and say why it cannot be compared with others, if so."""
    who = f"{trials.label(record)}: " if trials.is_special(record) else ""
    who += f"trial {record.number}"
    if record.state is not TrialState.COMPLETED:
        how = "stopped early" if record.state is TrialState.PRUNED else str(record.state)
        who += f", {how} after {counted(len(record.epochs), 'epoch')}"
    return who + trials.failing(record)
