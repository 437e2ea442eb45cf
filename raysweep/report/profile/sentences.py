"""A profile in sentences: each names a share of the slots' time and what it depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from raysweep.profiles import IDLE, STEP, DriverPart, Profile, SlotPart
from raysweep.wording import percent

MENTIONED = 0.05
"""A part gets a sentence if it took at least this share of the slots' time."""
MENTIONED_UNACCOUNTED = 0.01
BUSY = 0.7
"""If the driver worked at least this share of its time while trials ran, a sentence says that trials wait for it."""
TRAINING = (SlotPart.DATA, *STEP)


def seconds_text(seconds: float) -> str:
    """Return seconds as `45 ms`, `8.2 s`, `3m 07s` or `2h 05m`."""
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms" if seconds >= 5e-4 else "less than 1 ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60}m {whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h {whole % 3600 // 60:02d}m"


@dataclass(frozen=True)
class Facts:
    """The sums of a profile that the sentences need."""

    profile: Profile
    slots: dict[SlotPart, float]
    """Slot-seconds of each part."""
    driver: dict[DriverPart, float]
    """Seconds of each part."""
    whole: float
    """Slot-seconds in total."""
    epochs: int
    """Epochs trained or sent again."""
    trials: int
    """Trials that worked on epochs."""
    tests: int
    """Finalists measured."""

    @classmethod
    def of(cls, profile: Profile) -> Facts:
        rows = [spent for spent in profile.spent if isinstance(spent.part, SlotPart) and spent.trial is not None]
        return cls(
            profile,
            profile.of(SlotPart),
            profile.of(DriverPart),
            profile.slot_s or 1.0,
            len({(spent.trial, spent.epoch) for spent in rows if spent.epoch is not None}),
            len({spent.trial for spent in rows if spent.epoch is not None}),
            len({spent.trial for spent in rows if spent.part is SlotPart.TEST}),
        )

    def seconds(self, parts: Iterable[SlotPart]) -> float:
        return sum(self.slots[part] for part in parts)

    def share(self, *parts: SlotPart) -> str:
        """Return the share of the slots' time that the parts took, as text."""
        return percent(self.seconds(parts) / self.whole)

    def each(self, count: int, *parts: SlotPart) -> str:
        """Return the mean time of the parts over `count` items, as text."""
        return seconds_text(self.seconds(parts) / max(1, count))

    def longest(self, *parts: SlotPart) -> str:
        """Return the most time that one trial spent on the parts, as text."""
        trials = self.profile.trials().values()
        return seconds_text(max((sum(seconds[part] for part in parts) for seconds in trials), default=0.0))

    @property
    def busy(self) -> float:
        """Share of the driver's time in which it did not wait, while trials ran or were tested."""
        parts = (DriverPart.LEDGER, DriverPart.SAMPLER, DriverPart.TERMINAL, DriverPart.LOOP)
        work, waiting = sum(self.driver[part] for part in parts), self.driver[DriverPart.WAITING]
        return work / (work + waiting) if work + waiting > 0 else 0.0


def overview(profile: Profile) -> str:
    """Return the shares of the slots' time that went to training, to evaluation and to idling, in a sentence."""
    facts = Facts.of(profile)
    slots = "1 slot" if profile.slots == 1 else f"{profile.slots} slots"
    return (
        f"Of the time of {slots} over {seconds_text(profile.wall_s)}, training had {facts.share(*TRAINING)} and "
        f"evaluation {facts.share(SlotPart.EVALUATION)}; {facts.share(*IDLE)} was idle."
    )


def sentences(profile: Profile) -> list[str]:
    """Return a sentence for each part that took much of the slots' time, the largest first.

    Training steps have no sentence. If the driver was busy, the last sentence says that trials wait for it.
    """
    facts = Facts.of(profile)
    found = [
        (facts.seconds(parts), say(facts))
        for parts, say in _SAYINGS
        if facts.seconds(parts) / facts.whole
        >= (MENTIONED_UNACCOUNTED if parts == (SlotPart.UNACCOUNTED,) else MENTIONED)
    ]
    said = [text for _, text in sorted(found, key=lambda pair: -pair[0])]
    if facts.busy >= BUSY and facts.epochs:
        said.append(
            f"While trials ran, the driver was at work {percent(facts.busy)} of its time: it is what trials wait for. "
            "Fewer trials at once (`--max-concurrent`) or longer epochs ask less of it."
        )
    return said


_START = (
    DriverPart.COMMAND, DriverPart.IMAGES, DriverPart.PREFLIGHT, DriverPart.RAY, DriverPart.LEDGER, DriverPart.SAMPLER,
    DriverPart.BUCKET,
)  # fmt: skip


def _start_up(facts: Facts) -> str:
    took = facts.slots[SlotPart.START_UP] / max(1, facts.profile.slots)
    longest = sorted(_START, key=lambda part: -facts.driver[part])[:2]
    of_which = " and ".join(f"{_named(part)} {seconds_text(facts.driver[part])}" for part in longest)
    return (
        f"The slots stood idle {facts.share(SlotPart.START_UP)} of the time before the first trial: start-up took "
        f"{seconds_text(took)}; {of_which}. It is paid once a session."
    )


def _named(part: DriverPart) -> str:
    return {
        DriverPart.COMMAND: "Python, its imports and reading the file took",
        DriverPart.IMAGES: "preparing the images took",
        DriverPart.PREFLIGHT: "predicting collapse took",
        DriverPart.RAY: "importing and starting Ray took",
        DriverPart.LEDGER: "the ledger took, in the whole session,",
        DriverPart.SAMPLER: "choosing points took, in the whole session,",
        DriverPart.BUCKET: "the bucket took, in the whole session,",
    }[part]


def _between(facts: Facts) -> str:
    point = facts.driver[DriverPart.SAMPLER] / max(1, facts.trials)
    return (
        f"Slots stood idle {facts.share(SlotPart.BETWEEN)} of the time between two trials, "
        f"{facts.each(facts.trials, SlotPart.BETWEEN)} a trial: what Ray Tune and the driver need to hand out the next "
        f"one, of which choosing its point is {seconds_text(point)}."
    )


def _last_trials(facts: Facts) -> str:
    return (
        f"Slots stood idle {facts.share(SlotPart.LAST_TRIALS)} of the time with no trial left to hand out, while the "
        "last ones ended. It is some part of one trial's length, however many trials there are: more of them make it "
        "a smaller share."
    )


def _tests(facts: Facts) -> str:
    return (
        f"Slots stood idle {facts.share(SlotPart.TESTS)} of the time while the last finalists were tested: "
        "`evaluation.final_metrics` says how many there are."
    )


def _report(facts: Facts) -> str:
    took = facts.slots[SlotPart.REPORT] / max(1, facts.profile.slots)
    return (
        f"The slots stood idle {facts.share(SlotPart.REPORT)} of the time while the closing report was written, which "
        f"took {seconds_text(took)}. It is paid once a session."
    )


def _machine(facts: Facts) -> str:
    return (
        f"Trials waited {facts.share(SlotPart.MACHINE)} of the slots' time for a machine, one of them "
        f"{facts.longest(SlotPart.MACHINE)}. `min_workers` in a cluster file has machines there before they are needed."
    )


def _process(facts: Facts) -> str:
    parts = (SlotPart.PROCESS, SlotPart.IMPORTS)
    return (
        f"Starting processes, and what they import, took {facts.share(*parts)} of the slots' time, "
        f"{facts.longest(*parts)} for the trial that waited longest. The first trial of each slot pays for it; those "
        "after it take its process over."
    )


def _images(facts: Facts) -> str:
    parts = (SlotPart.IMAGES, SlotPart.MODEL, SlotPart.RESTORE)
    return (
        f"Opening the images and building the model took {facts.share(*parts)} of the slots' time, "
        f"{facts.each(facts.trials, *parts)} a trial: more epochs a trial make it a smaller share."
    )


def _data(facts: Facts) -> str:
    of_training = percent(facts.slots[SlotPart.DATA] / max(facts.seconds(TRAINING), 1e-9))
    return (
        f"Batches of images took {facts.share(SlotPart.DATA)} of the slots' time, {of_training} of training. What "
        "changes images on the way is paid here: rotation, contrast, brightness, binarising, noise."
    )


def _evaluation(facts: Facts) -> str:
    return (
        f"Evaluation took {facts.share(SlotPart.EVALUATION)} of the slots' time, "
        f"{facts.each(facts.epochs, SlotPart.EVALUATION)} an epoch beside {facts.each(facts.epochs, *TRAINING)} of "
        "training: `data.validation_fraction` says of how many images."
    )


def _checkpoint(facts: Facts) -> str:
    return (
        f"Checkpoints took {facts.share(SlotPart.CHECKPOINT)} of the slots' time, "
        f"{facts.each(facts.epochs, SlotPart.CHECKPOINT)} an epoch beside {facts.each(facts.epochs, *TRAINING)} of "
        "training. There is one after every epoch, on the disk before it is reported: a faster disk makes it less, and "
        "epochs of more images a smaller share."
    )


def _pictures(facts: Facts) -> str:
    return (
        f"Pictures took {facts.share(SlotPart.PICTURES)} of the slots' time, "
        f"{facts.each(facts.epochs, SlotPart.PICTURES)} an epoch. They are drawn after the first ten epochs and then "
        "ever more rarely: longer trials make it a smaller share."
    )


def _bucket(facts: Facts) -> str:
    return (
        f"Trials waited {facts.share(SlotPart.BUCKET)} of the slots' time for the sweep's bucket, "
        f"{facts.each(facts.epochs, SlotPart.BUCKET)} an epoch: longer epochs leave the last checkpoint more time to "
        "be sent."
    )


def _exchange(facts: Facts) -> str:
    return (
        f"Ray and the driver had {facts.share(SlotPart.EXCHANGE)} of the slots' time, "
        f"{facts.each(facts.epochs, SlotPart.EXCHANGE)} an epoch: a trial reports each one and waits for the answer. "
        "Epochs of more images make it a smaller share."
    )


def _final_metrics(facts: Facts) -> str:
    return (
        f"Final metrics took {facts.share(SlotPart.TEST)} of the slots' time, {facts.each(facts.tests, SlotPart.TEST)} "
        "a finalist: `evaluation.final_metrics` says of how many, `evaluation.images` and "
        "`evaluation.importance_samples` how exactly."
    )


def _lost(facts: Facts) -> str:
    return (
        f"{facts.share(SlotPart.LOST)} of the slots' time was lost: processes died, failed, or were stopped within an "
        "epoch. raysweep.log names them."
    )


def _unaccounted(facts: Facts) -> str:
    return f"{facts.share(SlotPart.UNACCOUNTED)} of the slots' time is not accounted for: it is none of the parts."


_SAYINGS: tuple[tuple[tuple[SlotPart, ...], Callable[[Facts], str]], ...] = (
    ((SlotPart.START_UP,), _start_up),
    ((SlotPart.BETWEEN,), _between),
    ((SlotPart.LAST_TRIALS,), _last_trials),
    ((SlotPart.TESTS,), _tests),
    ((SlotPart.REPORT,), _report),
    ((SlotPart.MACHINE,), _machine),
    ((SlotPart.PROCESS, SlotPart.IMPORTS), _process),
    ((SlotPart.IMAGES, SlotPart.MODEL, SlotPart.RESTORE), _images),
    ((SlotPart.DATA,), _data),
    ((SlotPart.EVALUATION,), _evaluation),
    ((SlotPart.CHECKPOINT,), _checkpoint),
    ((SlotPart.PICTURES,), _pictures),
    ((SlotPart.BUCKET,), _bucket),
    ((SlotPart.EXCHANGE,), _exchange),
    ((SlotPart.TEST,), _final_metrics),
    ((SlotPart.LOST,), _lost),
    ((SlotPart.UNACCOUNTED,), _unaccounted),
)
"""The sentence for every part except the training steps themselves."""
