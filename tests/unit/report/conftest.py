"""Sweeps that never ran: records as the ledger would yield them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from raysweep.metrics import EpochMetrics, FinalMetrics, TrialState
from raysweep.records import EpochRecord, TrialRecord
from raysweep.report.images import tile
from raysweep.report.latents import sprite_sheet, write_latents
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import Scalar
from raysweep.storage.layout import SweepDirectory, write_atomically

SPEC = """
name: synthetic
data: {dataset: digits, image_size: 16}
trial:
  kld_weight: {low: 1e-5, high: 1e-1, log: true}
  likelihood: {choices: [gaussian, calibrated_gaussian]}
  max_gradient_norm: {choices: [null, 1.0]}
  hidden_size: {low: 32, high: 128}
search:
  early_stopping: {asha: {max_epochs: 9, grace_epochs: 1, reduction_factor: 3}}
"""


def epoch_metrics(epoch: int, elbo_nats: float, rate_nats: float = 20.0) -> EpochMetrics:
    mse = 0.02 if math.isfinite(elbo_nats) else math.nan
    return EpochMetrics(
        epoch=epoch, train_loss=mse, val_loss=mse, elbo_nats=elbo_nats,
        elbo_binary_nats=-120.0, bits_per_dim=3.0, rate_nats=rate_nats,
        distortion_nats=-elbo_nats - rate_nats, mse=mse, psnr_db=17.0, r2=0.6, active_units=5, collapsed=False,
        images_per_s=900.0, epoch_s=1.5,
    )  # fmt: skip


def _final_metrics(**more: Any) -> FinalMetrics:
    """Plausible final metrics of a trial with 3 latents; `more` replaces some."""
    return FinalMetrics(
        **{
            "images": 100, "features": "classifier", "elbo_nats": 20.0, "elbo_binary_nats": None, "iwae_nats": 25.0,
            "iwae_binary_nats": None,
            "iwae_samples": 50, "iwae_bits_per_dim": 3.0, "rate_nats": 6.0, "mse": 0.02, "psnr_db": 17.0, "r2": 0.6,
            "sigma": 0.14, "sampled_mse": 0.04, "denoised_mse": None, "active_units": 2,
            "latent_kl_nats": (1.0, 0.0, 5.0), "aggregate_kl_nats": 0.5, "silhouette": 0.1, "knn_accuracy": 0.9,
            "probe_accuracy": 0.8, "reconstruction_accuracy": 0.75, "floor_reconstruction_accuracy": 0.98, "kid": 1.5,
            "mixture_kid": 0.5, "floor_kid": 0.01, "precision": 0.5, "mixture_precision": 0.6,
            "floor_precision": 0.9, "recall": 0.6, "mixture_recall": 0.7, "floor_recall": 0.9, "density": 0.7,
            "mixture_density": 0.8, "floor_density": 1.0, "coverage": 0.4, "mixture_coverage": 0.5,
            "floor_coverage": 0.95, "reconstruction_sharpness": 0.01, "sample_sharpness": 0.008,
            "floor_sharpness": 0.03, "interpolation_monotonicity": 0.9,
            "interpolation_largest_step": 1.2, "measured_s": 2.0,
            **more,
        }
    )  # fmt: skip


def _latent_means(count: int = 30, latents: int = 3, seed: int = 0) -> NDArray[np.float32]:
    """[image, latent], of which the second of three hardly varies."""
    means = np.random.default_rng(seed).normal(size=(count, latents)).astype(np.float32)
    if latents > 1:
        means[:, 1] *= 0.01
    return means


Record = Callable[..., TrialRecord]


@pytest.fixture
def final_metrics() -> Callable[..., FinalMetrics]:
    """Makes final metrics; see `_final_metrics`."""
    return _final_metrics


@pytest.fixture
def latent_means() -> NDArray[np.float32]:
    """Of 30 images with 3 latents, of which the second is inactive."""
    return _latent_means()


@pytest.fixture
def spec() -> SweepSpec:
    return parse_spec(SPEC)


@pytest.fixture
def record() -> Record:
    """Makes one record; `elbos` are its objective after each epoch."""

    def make(
        number: int,
        elbos: Sequence[float] = (10.0, 30.0, 20.0),
        state: TrialState = TrialState.COMPLETED,
        params: dict[str, Scalar] | None = None,
        of: SweepSpec | None = None,
        **more: Any,
    ) -> TrialRecord:
        start = datetime(2026, 3, 1, 12, number % 60, tzinfo=UTC)
        rng = np.random.default_rng(number)
        if params is None:
            params = {
                "kld_weight": float(10 ** rng.uniform(-5, -1)),
                "likelihood": ("gaussian", "calibrated_gaussian")[number % 2],
                "max_gradient_norm": (None, 1.0)[number % 2],
                "hidden_size": int(rng.integers(32, 129)),
            }
        epochs = tuple(
            EpochRecord.of(epoch_metrics(epoch, elbo, rate_nats=5.0 + number), start + timedelta(seconds=2 * epoch))
            for epoch, elbo in enumerate(elbos, start=1)
        )
        more = {
            "started_at": start,
            "ended_at": None if state is TrialState.RUNNING else start + timedelta(seconds=30),
            "node": "host",
            "device": "cpu",
            **more,
        }
        return TrialRecord(number, (of or parse_spec(SPEC)).trial, params, state, epochs, **more)

    return make


@pytest.fixture
def sweep_records(record: Record) -> list[TrialRecord]:
    """A trial in each state, and some more that completed."""
    states = [
        record(0, (1.0, 2.0, 3.0), enqueued=True, cause="trained for all 3 epochs"),
        record(1, (5.0,), TrialState.PRUNED, cause="below the rung at 1 epoch"),
        record(2, (5.0, math.nan), TrialState.DIVERGED, cause="elbo_nats was nan after epoch 2"),
        record(3, (), TrialState.FAILED, cause="ValueError: no", error="Traceback\nValueError: no"),
        record(4, (), TrialState.OUT_OF_MEMORY, cause="out of memory"),
        record(5, (8.0, 9.0), TrialState.RUNNING),
        record(6, (7.0,), TrialState.INTERRUPTED),
    ]
    return states + [record(n, (n - 5.0, 2.0 * n, 3.0 * n)) for n in range(7, 12)]


@pytest.fixture
def draw_pictures() -> Callable[[SweepDirectory, SweepSpec, Sequence[TrialRecord]], None]:
    """Writes the pictures of trials as trials write them."""

    def draw(directory: SweepDirectory, spec: SweepSpec, records: Sequence[TrialRecord]) -> None:
        size, channels = spec.data.image_size, spec.data.channels or 1
        inputs = np.random.default_rng(0).integers(0, 256, (16, size, size, channels), dtype=np.uint8)
        for one in records:
            if one.epochs:
                both = np.concatenate([inputs, inputs // 2])
                write_atomically(directory.reconstructions(one.number), tile(both, 16))
                write_atomically(directory.samples(one.number), tile(np.repeat(inputs, 4, axis=0), 8))

    return draw


@pytest.fixture
def draw_tested_pictures() -> Callable[[SweepDirectory, SweepSpec, Sequence[TrialRecord]], None]:
    """Writes what is drawn of trials whose final metrics have been measured, and the pictures of each epoch."""

    def draw(directory: SweepDirectory, spec: SweepSpec, records: Sequence[TrialRecord]) -> None:
        size, channels, means = spec.data.image_size, spec.data.channels or 1, _latent_means()
        images = np.random.default_rng(1).integers(0, 256, (len(means), size, size, channels), dtype=np.uint8)
        for one in records:
            number = one.number
            for epoch in range(len(one.epochs) + 1):
                write_atomically(directory.epoch_reconstructions(number, epoch), tile(images[epoch : epoch + 12], 12))
            for path in (
                directory.interpolations(number), directory.traversals(number), directory.shifted_samples(number),
                directory.mixture_samples(number), directory.sampled_reconstructions(number),
            ):  # fmt: skip
                write_atomically(path, tile(images[:24], 8))
            labels = [str(index % 3) for index in range(len(means))]
            splits = ["train"] * 20 + ["test"] * 10
            write_latents(directory.latents(number), means, np.array([1.0, 0.0, 5.0]), labels, splits, range(30))
            write_atomically(directory.sprites(number), sprite_sheet(images))

    return draw
