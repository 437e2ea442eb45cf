"""The learning rate of an epoch: torch's own schedulers, as a function of what is known before the epoch."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensor_images import small_config, small_training

from raysweep.spec.config import TrialConfig
from raysweep.vae.schedules import learning_rate
from raysweep.vae.training import Training

losses = st.lists(
    st.floats(-10, 10) | st.sampled_from([1.0, 0.9999, 0.99995, 0.0, math.nan, math.inf, -math.inf]), max_size=40
)


def optimizer(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)


def rates(config: TrialConfig, epochs: int) -> list[float]:
    return [learning_rate(config, [1.0] * done) for done in range(epochs)]


@given(losses, st.integers(0, 6), st.floats(0.01, 0.99), st.floats(1e-6, 1.0))
def test_plateau_is_torchs_reduce_on_plateau(
    val_losses: list[float], patience: int, factor: float, initial: float
) -> None:
    config = TrialConfig(
        learning_rate=initial,
        learning_rate_schedule="plateau",
        learning_rate_factor=factor,
        learning_rate_patience_epochs=patience,
    )
    reference = optimizer(initial)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        reference, factor=factor, patience=patience, threshold=1e-4, threshold_mode="rel"
    )
    for done in range(len(val_losses) + 1):
        assert learning_rate(config, val_losses[:done]) == reference.param_groups[0]["lr"]
        if done < len(val_losses):
            scheduler.step(val_losses[done])


def test_a_plateau_is_left_after_more_epochs_than_the_patience() -> None:
    config = TrialConfig(learning_rate=1.0, learning_rate_schedule="plateau", learning_rate_patience_epochs=2)
    assert rates(config, 8) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01])


@given(st.lists(st.integers(1, 30), unique=True, min_size=1, max_size=4).map(sorted), st.floats(0.01, 0.99))
def test_steps_are_torchs_multi_step(epochs: list[int], factor: float) -> None:
    config = TrialConfig(
        learning_rate=0.5,
        learning_rate_schedule="step",
        learning_rate_epochs=" ".join(map(str, epochs)),
        learning_rate_factor=factor,
    )
    reference = optimizer(0.5)
    # torch counts the epochs done; here epochs count from 1.
    scheduler = torch.optim.lr_scheduler.MultiStepLR(reference, [epoch - 1 for epoch in epochs if epoch > 1], factor)
    started = factor if epochs[0] == 1 else 1.0
    for rate in rates(config, 32):
        assert rate == pytest.approx(started * reference.param_groups[0]["lr"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no step of the optimiser went before
            scheduler.step()


@given(st.integers(1, 200))
def test_a_cosine_falls_from_the_whole_rate_to_nothing_after_the_last_epoch(epochs: int) -> None:
    config = TrialConfig(learning_rate=2.0, learning_rate_schedule="cosine", epochs=epochs)
    reference = optimizer(2.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(reference, epochs)
    found = rates(config, epochs)
    for rate in found:
        assert rate == pytest.approx(reference.param_groups[0]["lr"], rel=1e-6, abs=1e-9)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler.step()
    assert found[0] == 2.0
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0
    assert learning_rate(config, [1.0] * epochs) == pytest.approx(0)


@given(losses)
def test_a_constant_rate_stays_whatever_the_losses(val_losses: list[float]) -> None:
    assert learning_rate(TrialConfig(learning_rate=0.3), val_losses) == 0.3


@pytest.mark.parametrize("schedule", ["constant", "step", "plateau", "cosine"])
def test_losses_that_are_no_numbers_leave_a_rate_that_is_one(schedule: str) -> None:
    config = small_config(learning_rate_schedule=schedule, learning_rate_epochs="3", learning_rate_patience_epochs=0)
    for done in range(10):
        assert 0 <= learning_rate(config, [math.nan] * done) <= config.learning_rate


def used_rates(training: Training, epochs: int) -> list[float]:
    """The learning rate that Adam had in each epoch's steps."""
    found: list[set[float]] = []
    step = training.optimizer.step

    def note() -> None:
        found[-1].add(training.optimizer.learning_rate)
        step()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.optimizer, "step", note)
        for _ in range(epochs):
            found.append(set())
            training.run_epoch()
    assert all(len(rates) == 1 for rates in found)
    return [rates.pop() for rates in found]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"learning_rate_schedule": "step", "learning_rate_epochs": "2 4"}, [1e-2, 1e-3, 1e-3, 1e-4]),
        (
            {"learning_rate_schedule": "cosine"},
            [1e-2, 1e-2 * (2 + math.sqrt(2)) / 4, 5e-3, 1e-2 * (2 - math.sqrt(2)) / 4],
        ),
    ],
)
def test_training_steps_at_the_rate_of_the_schedule(changes: dict[str, Any], expected: list[float]) -> None:
    assert used_rates(small_training(small_config(**changes)), 4) == pytest.approx(expected)


def test_a_plateau_of_the_validation_loss_lowers_the_rate_in_training() -> None:
    """With a rate this small nothing is learnt, so that every epoch but the first is one without a better loss."""
    changes = {"learning_rate": 1e-6, "learning_rate_schedule": "plateau", "learning_rate_patience_epochs": 1}
    training = small_training(small_config(**changes))
    assert used_rates(training, 5) == pytest.approx([1e-6, 1e-6, 1e-6, 1e-7, 1e-7])
    assert len(training.val_losses) == 5
