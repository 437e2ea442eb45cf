"""What can befall a sweep, and when: drawn from a seed, so that a round can be run again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple


class Fault(StrEnum):
    """One thing that goes wrong from outside."""

    INT = "INT"
    TERM = "TERM"
    INT_TWICE = "INT, then another"
    TERM_TWICE = "TERM, then another"
    KILL_DRIVER = "kill -9 of the driver"
    KILL_RAYLET = "kill -9 of the raylet"
    KILL_ACTOR = "kill -9 of an actor"
    KILL_MEASURER = "kill -9 of a measuring task"
    KILL_NODE = "kill -9 of a node"

    @property
    def ends_the_driver(self) -> bool:
        return self not in (Fault.KILL_ACTOR, Fault.KILL_MEASURER, Fault.KILL_NODE)


class Moment(StrEnum):
    """What the sweep is doing when it happens."""

    STARTING = "while it starts"
    TRAINING = "while it trains"
    ASKING = "while the sampler is asked"
    CHECKPOINT = "while a checkpoint is written"
    MEASURING = "while finalists are measured"
    CLOSING = "while the closing report is written"


class Planned(NamedTuple):
    """A fault to come."""

    fault: Fault
    moment: Moment
    epochs: int = 1
    """How many epochs the sweep is to train before it, for the moments among training."""
    delay_s: float = 0.0
    """How long to wait once the moment has come."""
    gap_s: float = 0.2
    """How long after the first signal the second comes."""
    group: bool = True
    """Whether a signal goes to all processes of the driver's group, as from a terminal, or to the driver alone."""

    def __str__(self) -> str:
        return f"{self.fault.value} {self.moment.value}"


DRIVER_FAULTS = {
    Fault.INT: 4, Fault.TERM: 3, Fault.INT_TWICE: 2, Fault.TERM_TWICE: 2, Fault.KILL_DRIVER: 6, Fault.KILL_RAYLET: 2,
}  # fmt: skip
"""Faults that end the driver, and how often each is drawn in proportion."""


def draw_plan(chance: random.Random, count: int, *, cluster: bool, finalists: bool) -> list[Planned]:
    """Some `count` faults in the order of the moments that they wait for: training first, the report at last.

    Of a cluster nodes are killed, of a sweep on this machine its raylet.
    """
    late: list[Planned] = []
    if finalists and chance.random() < 0.5:
        fault = Fault.KILL_MEASURER if chance.random() < 0.4 else _driver_fault(chance, cluster)
        late.append(Planned(fault, Moment.MEASURING, delay_s=chance.uniform(0, 4), gap_s=_gap_s(chance)))
    if chance.random() < 0.4:
        late.append(
            Planned(_driver_fault(chance, cluster), Moment.CLOSING, delay_s=chance.uniform(0, 3), gap_s=_gap_s(chance))
        )
    return [_early(chance, cluster) for _ in range(max(1, count - len(late)))] + late


def _early(chance: random.Random, cluster: bool) -> Planned:
    epochs, delay_s, gap_s, group = chance.randint(1, 7), chance.uniform(0, 0.2), _gap_s(chance), chance.random() < 0.7
    draw = chance.random()
    if cluster and draw < 0.35:
        return Planned(Fault.KILL_NODE, Moment.TRAINING, epochs, delay_s)
    if draw < 0.6:
        moment = chance.choice([Moment.TRAINING, Moment.TRAINING, Moment.CHECKPOINT])
        return Planned(Fault.KILL_ACTOR, moment, epochs, delay_s if moment is Moment.TRAINING else 0.0)
    fault = _driver_fault(chance, cluster)
    moment = chance.choices([Moment.TRAINING, Moment.STARTING, Moment.ASKING, Moment.CHECKPOINT], weights=[5, 3, 2, 2])[
        0
    ]
    if moment is Moment.STARTING:
        return Planned(fault, moment, 0, chance.uniform(0, 8), gap_s, group)
    if moment is Moment.TRAINING:
        return Planned(fault, moment, epochs, delay_s, gap_s, group)
    return Planned(fault, moment, epochs, chance.uniform(0, 0.004), gap_s, group)


def _driver_fault(chance: random.Random, cluster: bool) -> Fault:
    kinds = [fault for fault in DRIVER_FAULTS if not (cluster and fault is Fault.KILL_RAYLET)]
    return chance.choices(kinds, weights=[DRIVER_FAULTS[kind] for kind in kinds])[0]


def _gap_s(chance: random.Random) -> float:
    return chance.choice([0.0, chance.uniform(0, 1.0)])


def tally(faults: Sequence[Planned]) -> dict[str, int]:
    """How often each kind is among them."""
    counts: dict[str, int] = {}
    for planned in faults:
        counts[planned.fault.value] = counts.get(planned.fault.value, 0) + 1
    return counts
