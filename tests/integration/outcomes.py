"""Sweeps that are stopped in their midst, and what such a sweep and an undisturbed one have to have in common."""

from __future__ import annotations

import pyarrow as pa

from raysweep.driver.session import Session
from raysweep.records import TrialRecord
from raysweep.review.sweep import Sweep

TIMED = ["images_per_s", "epoch_s", "time_s", "recorded_at"]


def curves(sweep: Sweep) -> pa.Table:
    return sweep.epochs().drop_columns(TIMED)


def outcomes(sweep: Sweep) -> list[tuple[object, ...]]:
    return [(r.number, r.state, r.params, r.cause, r.enqueued, len(r.epochs)) for r in sweep.records]


class StopsAfter:
    """An observer in whose sweep an hour passes with its n-th epoch."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def epoch_done(self, session: Session, record: TrialRecord) -> None:
        self.left -= 1
        if self.left == 0:
            session.begun -= 3600

    def trial_ended(self, session: Session, record: TrialRecord) -> None: ...

    def trial_tested(self, session: Session, record: TrialRecord) -> None: ...

    def tick(self, session: Session) -> None: ...
