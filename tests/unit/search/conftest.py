"""A sweep without Ray: a real ledger on a real journal, fed with reports by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from raysweep.layout import SweepDirectory
from raysweep.loading import parse_spec
from raysweep.metrics import FINAL_METRICS, EpochMetrics, FinalMetrics
from raysweep.search.ledger import Ledger
from raysweep.spec import SweepSpec

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


@pytest.fixture
def spec() -> SweepSpec:
    return parse_spec(SPACE, "table.yaml")


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
