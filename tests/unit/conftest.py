"""A sweep without Ray: a real ledger on a real journal, fed with reports by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from raysweep.driver.session import Session
from raysweep.messages import EpochReport, ImageFile, Slots, TrialFault
from raysweep.metrics import FINAL_METRICS, EpochMetrics, FinalMetrics, TrialState
from raysweep.records import TrialRecord
from raysweep.report.tensorboard.writer import TensorBoardWriter
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.study.ledger import Ledger

SPACE = """
name: table
data: {dataset: digits}
trial:
  kld_weight: {low: 1e-5, high: 1e-1, log: true}
  latent_size: {choices: [2, 8, 16]}
search:
  trials: 6
  early_stopping: {asha: {max_epochs: 4, grace_epochs: 1, reduction_factor: 2}}
  enqueue: [{kld_weight: 1e-3, latent_size: 8}, {latent_size: 16}]
"""


NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def epoch_metrics(epoch: int, elbo_nats: float, train_loss: float = 0.1) -> EpochMetrics:
    """An epoch's metrics in which only the epoch, the objective and the loss matter."""
    return EpochMetrics(
        epoch=epoch, train_loss=train_loss, val_loss=0.2, elbo_nats=elbo_nats,
        elbo_binary_nats=-120.0, bits_per_dim=7.0, rate_nats=20.0,
        distortion_nats=-600.0, mse=0.01, psnr_db=20.0, r2=0.8, active_units=8, collapsed=False, images_per_s=1e3,
        epoch_s=1.5,
    )  # fmt: skip


def final_metrics(iwae_nats: float) -> FinalMetrics:
    """Final metrics of a trial whose images have no labels."""
    given = {"images": 50, "features": "random", "iwae_nats": iwae_nats, "iwae_samples": 50, "active_units": 2,
             "latent_kl_nats": (1.5, 0.25, 0.0), "measured_s": 2.0}  # fmt: skip
    names = [name.removeprefix("test_") for name in FINAL_METRICS]
    return FinalMetrics(**dict.fromkeys(names) | given)


def play_at_random(session: Session, draw: random.Random) -> Iterator[list[int]]:
    """Train every trial of a session, as many at once as it has slots; yield after each epoch who is being trained.

    Whose epoch is the next one, and what it comes to, is drawn.
    """
    out: list[int] = []
    while not session.is_over:
        while (order := session.next_order()) is not None:
            out.append(order.number)
            session.started(order.number)
        number = draw.choice(out)
        epoch = len(session.ledger.record(number).epochs) + 1
        if session.receive(number, report(epoch, draw.gauss(100, 10))):
            out.remove(number)
        yield out


@pytest.fixture
def spec() -> SweepSpec:
    """The space of the table, whose first trials do not wait for others: one alone trains to its end."""
    return parse_spec(SPACE, "table.yaml").with_rule(promote=False, rejudge=False)


@pytest.fixture
def directory(tmp_path: Path) -> SweepDirectory:
    root = tmp_path / "a sweep, näme"
    root.mkdir()
    return SweepDirectory.at(root)


@pytest.fixture
def ledger(directory: SweepDirectory, spec: SweepSpec) -> Ledger:
    return Ledger.create(directory, spec)


@pytest.fixture
def reopen(directory: SweepDirectory, spec: SweepSpec) -> Callable[[], Ledger]:
    return lambda: Ledger.open(directory, spec, writable=True)


IMAGES = ImageFile(Path("cache.arrow"), "digits", "", 0)


class Watcher:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.epochs: list[tuple[int, int]] = []
        self.ended: list[tuple[int, TrialState]] = []
        self.tested: list[int] = []

    def epoch_done(self, session: Session, record: TrialRecord) -> None:
        self.epochs.append((record.number, len(record.epochs)))

    def trial_ended(self, session: Session, record: TrialRecord) -> None:
        self.ended.append((record.number, record.state))

    def trial_tested(self, session: Session, record: TrialRecord) -> None:
        self.tested.append(record.number)

    def tick(self, session: Session) -> None: ...


OpenSession = Callable[[Ledger], tuple[Session, Watcher]]


@pytest.fixture
def open_session(directory: SweepDirectory, spec: SweepSpec) -> Iterator[OpenSession]:
    with ExitStack() as writers:

        def opened(ledger: Ledger) -> tuple[Session, Watcher]:
            watcher = Watcher()
            writer = writers.enter_context(TensorBoardWriter(directory, spec, ledger.records()))
            return Session(directory, spec, ledger, Slots(1, 0, 8), IMAGES, writer, watcher), watcher

        yield opened


def report(epoch: int, elbo_nats: float, train_loss: float = 0.1) -> EpochReport:
    return EpochReport(epoch_metrics(epoch, elbo_nats, train_loss), "host", "cpu", 1)


def fail(session: Session, state: TrialState = TrialState.FAILED) -> None:
    """Trial 0 reports an exception, and its process ends."""
    assert not session.receive(0, EpochReport(None, "host", "cpu", 1, state, "ValueError: no", "Traceback ..."))
    session.lose([0], TrialFault.DEATH, "its process died", "ActorDiedError")


def train_to_the_end(session: Session, *numbers: int) -> None:
    """Lets trials that are out start and train, one after the other, until each is over."""
    for number in numbers:
        session.started(number)
        assert any(session.receive(number, report(epoch, 1.0)) for epoch in range(1, 5))
