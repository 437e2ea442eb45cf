"""Training: reproducible from configuration and seed, fed by the training images alone, and it learns."""

from __future__ import annotations

import inspect
import itertools
import math
from typing import Any

import pytest
import torch
from tensor_images import TensorImages, digits, discs, small_config, small_training, untimed
from torch import Tensor

from raysweep.metrics import METRICS, EpochMetrics
from raysweep.spec.config import TrialConfig
from raysweep.vae import training as training_module
from raysweep.vae.training import Training, train

SHAPE = (1, 8, 8)


def run(config: TrialConfig) -> list[EpochMetrics]:
    return list(train(config, TensorImages(discs(40, SHAPE)), TensorImages(discs(20, SHAPE, seed=1))))


def weights(training: Training) -> list[Tensor]:
    return [value.detach().clone() for value in training.model.parameters()]


@pytest.mark.parametrize(
    "likelihood", ["gaussian", "calibrated_gaussian", "learned_gaussian", "bernoulli", "continuous_bernoulli"]
)
def test_the_same_configuration_gives_the_same_bits_twice(likelihood: str) -> None:
    config = small_config(likelihood=likelihood, kld_warmup_epochs=2, max_gradient_norm=0.5)
    first = [untimed(metrics) for metrics in run(config)]
    torch.rand(13)
    assert [untimed(metrics) for metrics in run(config)] == first


def test_another_seed_gives_another_run() -> None:
    first, other = run(small_config(seed=1)), run(small_config(seed=2))
    assert all(a.train_loss != b.train_loss and a.mse != b.mse for a, b in zip(first, other, strict=True))


def recorded_inputs(config: TrialConfig) -> tuple[list[list[int]], list[Tensor]]:
    """The batch orders, one list an epoch, and the noise of every training step of two epochs."""
    training = small_training(config)
    log = training.train_images.log  # type: ignore[attr-defined]
    noise: list[Tensor] = []
    training.model.register_forward_pre_hook(lambda model, inputs: noise.append(inputs[1]) if model.training else None)
    orders = []
    for _ in range(2):
        log.clear()
        training.run_epoch()
        orders.append(torch.cat([indices for _, indices in log]).tolist())
    return orders, noise


def test_an_epoch_sees_every_image_once_in_an_order_of_its_own() -> None:
    (first, second), _ = recorded_inputs(small_config())
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second


@pytest.mark.parametrize("other_seed", [1, 2**31, 2**32 - 1])
def test_batch_order_and_noise_depend_on_the_seed(other_seed: int) -> None:
    """torch's CPU generator ignores the upper half of a 64-bit seed: a seed put there would change nothing."""
    orders, noise = recorded_inputs(small_config(seed=0))
    other_orders, other_noise = recorded_inputs(small_config(seed=other_seed))
    assert all(a != b for a, b in zip(orders, other_orders, strict=True))
    drawn = [*noise, *other_noise]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))


def test_training_leaves_torchs_own_generator_alone() -> None:
    before = torch.get_rng_state()
    run(small_config(epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_loss_falls_on_real_digits() -> None:
    """With 8 epochs rounding told whether the ELBO rose; with 16 six seeds of six are far beyond all bounds."""
    images = digits()
    config = small_config(d_size=8, latent_size=8, hidden_size=64, epochs=16, learning_rate=5e-3, kld_weight=1e-4)
    history = list(train(config, TensorImages(images[:1500]), TensorImages(images[1500:])))
    assert history[-1].train_loss < 0.7 * history[0].train_loss
    assert history[-1].val_loss < history[0].val_loss
    assert history[-1].elbo_nats > history[0].elbo_nats
    assert history[-1].r2 > 0.1
    assert history[-1].active_units > 0
    assert not history[-1].collapsed


def test_a_weight_far_above_the_critical_one_makes_the_posterior_collapse() -> None:
    images = digits()
    config = small_config(batch_size=64, epochs=3, learning_rate=5e-3, kld_weight=10)
    *_, last = train(config, TensorImages(images[:1000]), TensorImages(images[1000:]))
    assert last.collapsed
    assert last.active_units == 0


def test_train_is_a_generator_of_as_many_results_as_epochs() -> None:
    results = train(small_config(epochs=3), TensorImages(discs(20, SHAPE)), TensorImages(discs(10, SHAPE)))
    assert inspect.isgenerator(results)
    assert [metrics.epoch for metrics in results] == [1, 2, 3]


def test_every_metric_is_of_its_declared_type() -> None:
    (metrics,) = run(small_config(epochs=1))
    assert {name: type(getattr(metrics, name)) for name in METRICS} == {n: m.type for n, m in METRICS.items()}
    assert metrics.images_per_s > 0
    assert metrics.epoch_s > 0


def test_an_epoch_trains_on_the_training_images_and_only_then_looks_at_validation() -> None:
    log: list[tuple[str, Tensor]] = []
    training = Training(
        small_config(),
        TensorImages(discs(40, SHAPE), "train", log),
        TensorImages(discs(20, SHAPE, seed=1), "validation", log),
    )
    log.clear()
    training.run_epoch()
    assert [name for name, _ in log] == ["train"] * 3 + ["validation"]


def test_validation_images_leave_no_trace_in_the_model() -> None:
    train_images = TensorImages(discs(40, SHAPE))
    with_discs, with_noise = (
        Training(small_config(), train_images, TensorImages(images))
        for images in (discs(20, SHAPE, seed=1), torch.rand(7, *SHAPE))
    )
    for _ in range(2):
        with_discs.run_epoch()
        with_noise.run_epoch()
    assert all(torch.equal(a, b) for a, b in zip(weights(with_discs), weights(with_noise), strict=True))


def spy_on_losses(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments and the value of every training step's loss."""
    calls: list[dict[str, Any]] = []
    signature = inspect.signature(training_module.weighted_loss)

    def spy(*args: Any) -> Tensor:
        loss = original(*args)
        calls.append({**signature.bind(*args).arguments, "loss": float(loss.detach())})
        return loss

    original = training_module.weighted_loss
    monkeypatch.setattr(training_module, "weighted_loss", spy)
    return calls


def test_the_weight_warms_up_step_by_step_across_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = spy_on_losses(monkeypatch)
    run(small_config(kld_weight=0.6, kld_warmup_epochs=2, epochs=3))
    assert [call["weight"] for call in calls] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6, 0.6])


def test_val_loss_is_at_the_full_weight_even_in_the_warm_up() -> None:
    warming = run(small_config(kld_weight=0.6, kld_warmup_epochs=100, epochs=1))[0]
    assert warming.val_loss == pytest.approx(warming.mse + 0.6 * warming.rate_nats, rel=1e-4)


def test_the_train_loss_is_the_mean_over_images_though_the_last_batch_is_smaller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = spy_on_losses(monkeypatch)
    (metrics,) = run(small_config(epochs=1))
    losses = [call["loss"] for call in calls]
    assert metrics.train_loss == pytest.approx((16 * losses[0] + 16 * losses[1] + 8 * losses[2]) / 40, rel=1e-6)


@pytest.mark.parametrize("reduction", ["pixel_mean", "pixel_and_latent_mean", "sum"])
def test_the_loss_counts_free_bits_and_the_rate_does_not(reduction: str) -> None:
    """1,000 nats a latent are far more than there are, so that the loss has 1,000 of each."""
    free = run(small_config(kld_weight=0.1, free_bits_nats=1000.0, reduction=reduction, epochs=1))[0]
    charged = 0.1 * 3000 / (3 if reduction == "pixel_and_latent_mean" else 1)
    data = free.mse * (64 if reduction == "sum" else 1)
    assert free.val_loss == pytest.approx(data + charged, rel=1e-4)
    assert free.rate_nats < 100


@pytest.mark.parametrize("batch_norm", ["conv", "linear", "all"])
def test_a_last_batch_of_one_image_joins_the_one_before_under_batch_normalisation(batch_norm: str) -> None:
    def sizes(**changes: Any) -> list[int]:
        training = Training(
            small_config(batch_size=8, **changes), TensorImages(discs(17, SHAPE)), TensorImages(discs(5, SHAPE))
        )
        training.run_epoch()
        log = training.train_images.log  # type: ignore[attr-defined]
        assert training.steps_an_epoch == len(log)
        return [len(indices) for _, indices in log]

    assert sizes(batch_norm=batch_norm) == [8, 9]
    assert sizes() == [8, 8, 1]
    assert sizes(batch_norm=batch_norm, kld_warmup_epochs=1) == [8, 9]


@pytest.mark.parametrize(("batch_size", "images"), [(1, 10), (10, 1)])
def test_batch_normalisation_of_one_image_is_refused(batch_size: int, images: int) -> None:
    config = small_config(batch_norm="all", batch_size=batch_size)
    with pytest.raises(ValueError, match=f"needs 2 images a step or more, got batch_size {batch_size} and {images}"):
        Training(config, TensorImages(discs(images, SHAPE)), TensorImages(discs(5, SHAPE)))


@pytest.mark.parametrize(
    "likelihood", ["gaussian", "calibrated_gaussian", "learned_gaussian", "bernoulli", "continuous_bernoulli"]
)
def test_every_likelihood_is_learnt_in_training_and_on_validation_alike(likelihood: str) -> None:
    """With batch normalisation, whose running statistics validation goes by."""
    images = digits()
    config = small_config(
        d_size=8, latent_size=8, epochs=3, learning_rate=5e-3, batch_norm="all",
        likelihood=likelihood, sigma=0.2, reduction="sum", kld_weight=1.0,
    )  # fmt: skip
    first, *_, last = train(config, TensorImages(images[:600]), TensorImages(images[600:800]))
    assert last.train_loss < first.train_loss
    assert last.val_loss < first.val_loss
    assert all(math.isfinite(getattr(last, name)) for name in ("elbo_nats", "elbo_binary_nats", "bits_per_dim"))


@pytest.mark.parametrize("limit", [None, 0.05])
def test_no_gradient_is_longer_than_the_limit(limit: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    training = small_training(small_config(max_gradient_norm=limit, reduction="sum"))
    norms: list[float] = []

    def note() -> None:
        gradients = [value.grad for value in training.model.parameters() if value.grad is not None]
        norms.append(float(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()))
        step()

    step = training.optimizer.step
    monkeypatch.setattr(training.optimizer, "step", note)
    training.run_epoch()
    assert len(norms) == 3
    if limit is None:
        assert min(norms) > 0.05
    else:
        assert max(norms) <= limit * 1.001


def test_a_trial_that_diverges_yields_metrics_that_are_no_numbers() -> None:
    *_, last = run(small_config(learning_rate=1e30, epochs=2))
    assert math.isnan(last.elbo_nats)
    assert not math.isfinite(last.val_loss)


def test_more_images_a_step_than_there_are_is_one_step_an_epoch() -> None:
    training = small_training(small_config(batch_size=1000))
    assert training.steps_an_epoch == 1
    assert training.run_epoch().epoch == 1
