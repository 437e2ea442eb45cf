"""The reconstructions of the same images by several trials, one row each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes

from raysweep.layout import SweepDirectory
from raysweep.metrics import TrialState
from raysweep.records import TrialRecord, ranked
from raysweep.report.images import Pixels, untile
from raysweep.report.marks import BLACK, VERMILLION, Drawn, Standing, canvas, short, title, to_png
from raysweep.spec import SweepSpec

MAX_TRIALS = 8


def reconstructions(trials: Standing, spec: SweepSpec, directory: SweepDirectory) -> Drawn | None:
    """The same validation images through trials from the smallest KLD weight to the largest."""
    pictures: dict[int, tuple[Pixels, Pixels]] = {}
    for record in trials.records:
        if math.isfinite(trials.value(record)) and record.state is not TrialState.DIVERGED:
            rows = _read_rows(directory, record.number, spec.data.image_size)
            if rows is not None:
                pictures[record.number] = rows
    chosen = _spread(trials, spec, [record for record in trials.records if record.number in pictures])
    if not chosen:
        return None
    inputs = pictures[chosen[0].number][0]
    chosen = [record for record in chosen if np.array_equal(pictures[record.number][0], inputs)]
    strips = [inputs, *(pictures[record.number][1] for record in chosen)]
    figure = canvas(11.0, 0.7 + len(strips) * max(0.64, min(1.0, 9.0 / len(inputs))))
    figure.get_layout_engine().set(h_pad=0.05, hspace=0.0, rect=(0.03, 0.0, 0.97, 1.0))  # type: ignore[union-attr,call-arg]
    panels = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
    by_weight = len({record.config.kld_weight for record in chosen}) > 1
    labels = ["input", *(_strip_label(trials, record) for record in chosen)]
    winning = [False, *(record is trials.winner for record in chosen)]
    for panel, strip, label, wins in zip(panels, strips, labels, winning, strict=True):
        _show_strip(panel, strip)
        panel.set_ylabel(
            label, rotation=0, ha="right", va="center", labelpad=8, fontsize=8.8, linespacing=1.35,
            color=VERMILLION if wins else BLACK, fontweight="bold" if wins else "normal",
        )  # fmt: skip
        for spine in panel.spines.values():
            spine.set(visible=wins, color=VERMILLION, linewidth=2.5)
    span = [short(record.config.kld_weight) for record in (chosen[0], chosen[-1])]
    text = f"Reconstructions from kld_weight {span[0]} to {span[1]}" if by_weight else "Reconstructions"
    if trials.winner in chosen:
        text += f": {trials.metric} is {trials.finding}"
        if by_weight and trials.winner is not None:
            text += f" at {short(trials.winner.config.kld_weight)}"
    title(figure, text)
    return Drawn(
        "reconstructions", text, to_png(figure),
        "The first row are validation images, each further row their reconstructions by one trial, "
        + (f"from the {'smallest KLD weight to the largest' if by_weight else 'best to the worst'}. ")
        + "The best trial is framed.",
    )  # fmt: skip


def _read_rows(directory: SweepDirectory, number: int, size: int) -> tuple[Pixels, Pixels] | None:
    """The images of a trial's picture and their reconstructions; None if there is no such picture."""
    try:
        images = untile(directory.reconstructions(number), size)
    except (OSError, ValueError):
        return None
    half, rest = divmod(len(images), 2)
    return None if rest else (images[:half], images[half:])


def _spread(trials: Standing, spec: SweepSpec, candidates: Sequence[TrialRecord]) -> list[TrialRecord]:
    """At most 8 trials over the whole range of KLD weights, among them the winner and the first baseline.

    Of each part of the range the best trial. Where all weights are one, trials from the best to the worst.
    """
    if not candidates:
        return []
    places = {record.number: place for place, record in enumerate(ranked(list(candidates), trials.metric))}
    order = sorted((record for record in candidates if record.number in places), key=lambda r: places[r.number])
    must = [record for record in order if record is trials.winner or record in trials.baselines[:1]]
    if len({record.config.kld_weight for record in candidates}) == 1:
        steps = np.linspace(0, len(order) - 1, min(len(order), MAX_TRIALS)).round().astype(int)
        return [order[index] for index in dict.fromkeys(steps.tolist())]
    weights = [record.config.kld_weight for record in order]
    positive = [weight for weight in weights if weight > 0]
    use_log = max(positive) / min(positive) >= 10

    def place(weight: float) -> float:
        return math.log(max(weight, min(positive))) if use_log else weight

    low, high = place(min(weights)), place(max(weights))
    parts: dict[int, TrialRecord] = {}
    for record in [*must, *order]:
        part = min(int((place(record.config.kld_weight) - low) / ((high - low) or 1.0) * 8), 7)
        parts.setdefault(part, record)
    chosen = {record.number: record for record in [*must, *parts.values()]}
    while len(chosen) > MAX_TRIALS:
        spare = [record for record in chosen.values() if record not in must]
        del chosen[min(spare, key=lambda record: _nearest_weight(record, chosen.values(), place)).number]
    return sorted(chosen.values(), key=lambda record: (record.config.kld_weight, record.number))


def _nearest_weight(record: TrialRecord, others: Iterable[TrialRecord], place: Callable[[float], float]) -> float:
    """How far the next weight is from the record's."""
    own = place(record.config.kld_weight)
    return min(abs(place(other.config.kld_weight) - own) for other in others if other is not record)


def _strip_label(trials: Standing, record: TrialRecord) -> str:
    who = f"trial {record.number}"
    if trials.is_special(record):
        who = f"{trials.label(record)}: {who}"
    elif record.state is not TrialState.COMPLETED:
        who += f", {len(record.epochs)} epoch{'s' * (len(record.epochs) > 1)}"
    config = record.config
    return (
        f"{who}\nkld_weight {short(config.kld_weight)}, {config.latent_size} latents"
        f"\n{trials.metric} {short(trials.value(record))}"
    )


def _show_strip(axes: Axes, images: Pixels) -> None:
    """Images side by side with a gap, nothing of an axis but its label."""
    count, height, width, channels = images.shape
    gap = max(1, width // 12)
    strip = np.full((height, count * (width + gap) - gap, 3), 255, np.uint8)
    for index, image in enumerate(images):
        x = index * (width + gap)
        strip[:, x : x + width] = image if channels == 3 else image.repeat(3, axis=2)
    margin = 0.06 * height
    axes.imshow(strip, interpolation="nearest")
    axes.set_xlim(-0.5 - margin, strip.shape[1] - 0.5 + margin)
    axes.set_ylim(height - 0.5 + margin, -0.5 - margin)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
