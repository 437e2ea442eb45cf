"""Validation metrics, against a plain second implementation and at the edges: collapse, divergence, a perfect fit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tensor_images import TensorImages, discs, small_config
from torch import Tensor

from raysweep.metrics import METRICS
from raysweep.spec.config import TrialConfig
from raysweep.vae import evaluation
from raysweep.vae.evaluation import evaluate, mean_image_error, summarise
from raysweep.vae.networks import ConvVAE

CPU = torch.device("cpu")
SHAPE = (3, 8, 8)
PIXELS = 192
LIKELIHOODS = ["gaussian", "calibrated_gaussian", "learned_gaussian", "bernoulli", "continuous_bernoulli"]
MEASURED_BY_VALIDATION = set(METRICS) - {"train_loss", "images_per_s", "epoch_s"}


def spread_model(config: TrialConfig) -> ConvVAE:
    """A fresh model whose first latent varies with the image: its weights are scaled up, the others' silenced."""
    model = ConvVAE.from_config(config, SHAPE)
    with torch.no_grad():
        model.posterior.weight[0].mul_(200)
        model.posterior.weight[1 : config.latent_size].zero_()
    return model


def slowly(model: ConvVAE, x: Tensor, noise: Tensor, config: TrialConfig, baseline: Tensor) -> dict[str, Any]:
    """Every validation metric by its definition in docs/metrics.md, one image at a time, in double precision."""
    squared_errors, target_errors, negative_log_likelihoods, binary_entropies, rates, means = [], [], [], [], [], []
    with torch.no_grad():
        for image, epsilon in zip(x, noise, strict=True):
            seen = (image > 0.5).float() if config.binarise == "threshold" else image
            mean, logvar = (value.double() for value in model.encode(seen[None]))
            z = mean + (logvar / 2).exp() * epsilon.double()
            output = model.decode_output(z.float()).double()[0]
            lam = torch.special.expit(output[:3])
            reconstruction = lam
            if config.likelihood == "continuous_bernoulli":
                reconstruction = lam / (2 * lam - 1) + 1 / (2 * torch.atanh(1 - 2 * lam))
            pixel, target = image.double(), seen.double()
            squared_errors.append((reconstruction - pixel).square().sum())
            target_errors.append((reconstruction - target).square())
            nll = -(target * lam.log() + (1 - target) * (1 - lam).log())
            if config.likelihood == "continuous_bernoulli":
                nll = nll - (2 * torch.atanh(1 - 2 * lam) / (1 - 2 * lam)).log()
            if config.likelihood == "learned_gaussian":
                s = (-6 + (1 + (output[3:] / 2 + 6).exp()).log()).exp()
                nll = target_errors[-1] / (2 * s**2) + s.log()
            negative_log_likelihoods.append(nll.sum())
            likely = torch.where(pixel > 0.5, reconstruction, 1 - reconstruction)
            binary_entropies.append(-likely.log().sum())
            rates.append(0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum())
            means.append(mean[0])
    squared_error, rate = torch.stack(squared_errors).mean(), torch.stack(rates).mean()
    mse = squared_error / PIXELS
    sigma = (mse + 1 / (12 * 255**2)).sqrt()
    distortion = squared_error / (2 * sigma**2) + PIXELS / (24 * 255**2) / sigma**2
    distortion += PIXELS * (sigma.log() + 0.5 * math.log(2 * math.pi))
    elbo = -(distortion + rate)
    target_error = torch.stack(target_errors).mean(dim=0).sum()
    log_sigma = -6 + (1 + (0.5 * (target_error / PIXELS).log() + 6).exp()).log()
    data = {
        "gaussian": target_error / (2 * config.sigma**2),
        "calibrated_gaussian": target_error / (2 * (2 * log_sigma).exp()) + PIXELS * log_sigma,
    }.get(config.likelihood, torch.stack(negative_log_likelihoods).mean())
    w = config.kld_weight
    variance = (x.double() - baseline.double()).square().mean()
    return {
        "val_loss": {
            "pixel_mean": data / PIXELS + w * rate,
            "pixel_and_latent_mean": data / PIXELS + w * rate / config.latent_size,
            "sum": data + w * rate,
        }[config.reduction],
        "elbo_nats": elbo,
        "elbo_binary_nats": -(torch.stack(binary_entropies).mean() + rate),
        "bits_per_dim": -elbo / (PIXELS * math.log(2)) + math.log2(255),
        "rate_nats": rate,
        "distortion_nats": distortion,
        "mse": mse,
        "psnr_db": 10 * torch.log10(1 / mse),
        "r2": 1 - mse / variance,
        "active_units": (torch.stack(means).var(dim=0, correction=0) > 0.01).sum(),
        "collapsed": bool(1 - mse / variance < 0.02 or rate < 0.1),
    }


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("reduction", ["pixel_mean", "pixel_and_latent_mean", "sum"])
@pytest.mark.parametrize("binarise", ["none", "threshold"])
def test_the_metrics_are_those_of_a_plain_second_implementation(likelihood: str, reduction: str, binarise: str) -> None:
    config = small_config(
        likelihood=likelihood, reduction=reduction, kld_weight=0.3, sigma=0.2, seed=5, binarise=binarise
    )
    grey = 0.3 * discs(30, SHAPE) + 0.7 * torch.rand(30, *SHAPE, generator=torch.Generator().manual_seed(9))
    model, images = spread_model(config), TensorImages(grey)
    mean = discs(10, SHAPE, seed=2).mean(dim=0)
    noise = torch.randn(30, 3, generator=torch.Generator().manual_seed(5))
    found = evaluate(model, images, config, mean_image_error(images, mean, CPU), CPU)
    expected = slowly(model, images.pixels, noise, config, mean)
    assert set(found) == set(expected) == MEASURED_BY_VALIDATION
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-4
    )
    assert found["active_units"] == 1


def test_every_image_counts_once_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a posterior too narrow for noise to matter, batches of 7, the last of 2, change nothing."""
    config = small_config(likelihood="bernoulli")
    model, images = spread_model(config), TensorImages(discs(30, SHAPE))
    with torch.no_grad():
        model.posterior.bias[3:].fill_(-1e4)
    whole = evaluate(model, images, config, 0.1, CPU)
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 7)
    images.log.clear()
    assert evaluate(model, images, config, 0.1, CPU) == pytest.approx(whole, rel=1e-3)
    assert torch.cat([indices for _, indices in images.log]).tolist() == list(range(30))


def test_the_baseline_of_r2_is_the_variance_about_the_mean_image(monkeypatch: pytest.MonkeyPatch) -> None:
    images = TensorImages(discs(30, SHAPE))
    expected = float(images.pixels.double().var(dim=0, correction=0).mean())
    assert mean_image_error(images, images.mean_image(), CPU) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 7)
    assert mean_image_error(images, images.mean_image(), CPU) == pytest.approx(expected, rel=1e-5)


def test_the_noise_is_the_same_every_time_and_another_for_another_seed() -> None:
    images = TensorImages(discs(30, SHAPE))
    model = spread_model(small_config())
    first, again, other = (evaluate(model, images, small_config(seed=seed), 0.1, CPU) for seed in (0, 0, 1))
    assert first == again
    assert first["mse"] != other["mse"]
    assert first["rate_nats"] == other["rate_nats"]


def test_a_decoder_that_ignores_its_latents_has_collapsed() -> None:
    config = small_config()
    images = TensorImages(discs(30, SHAPE))
    model = spread_model(config)
    with torch.no_grad():
        model.decoder[0].weight.zero_()
    metrics = evaluate(model, images, config, mean_image_error(images, images.mean_image(), CPU), CPU)
    assert metrics["rate_nats"] > 0.1
    assert metrics["collapsed"] is True


def test_a_posterior_that_is_the_prior_has_collapsed_and_has_no_active_units() -> None:
    config = small_config()
    model = spread_model(config)
    with torch.no_grad():
        model.posterior.weight.zero_()
        model.posterior.bias.zero_()
    metrics = evaluate(model, TensorImages(discs(30, SHAPE)), config, 1e9, CPU)
    assert (metrics["rate_nats"], metrics["active_units"], metrics["collapsed"]) == (0, 0, True)


@pytest.mark.parametrize("weight", [math.nan, math.inf, 1e38])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("layer", ["encoder", "decoder"])
def test_weights_that_are_no_numbers_give_metrics_that_are_none(weight: float, likelihood: str, layer: str) -> None:
    config = small_config(likelihood=likelihood)
    model = spread_model(config)
    with torch.no_grad():
        getattr(model, layer)[0].weight.fill_(weight)
        getattr(model, layer)[2].weight.fill_(weight)
    metrics = evaluate(model, TensorImages(discs(30, SHAPE)), config, 0.1, CPU)
    for name in ("val_loss", "elbo_nats", "elbo_binary_nats", "bits_per_dim", "distortion_nats", "psnr_db", "r2"):
        assert math.isnan(metrics[name]), name
    assert metrics["collapsed"] is False


def test_a_perfect_fit_has_a_finite_bound_and_an_infinite_peak_signal_to_noise_ratio() -> None:
    metrics = summarise(0.0, 2.0, 0.0, 5.0, 1, PIXELS, 0.1)
    assert math.isfinite(metrics["elbo_nats"])
    assert metrics["psnr_db"] == math.inf
    assert metrics["r2"] == 1


def test_images_that_do_not_vary_leave_r2_undefined() -> None:
    metrics = summarise(0.0, 2.0, 0.01, 5.0, 1, PIXELS, 0.0)
    assert math.isnan(metrics["r2"])
    assert metrics["collapsed"] is False


def test_evaluating_leaves_the_model_in_training_and_without_gradients() -> None:
    config = small_config()
    model = spread_model(config)
    before = torch.get_rng_state()
    evaluate(model, TensorImages(discs(30, SHAPE)), config, 0.1, CPU)
    assert model.training
    assert all(value.grad is None for value in model.parameters())
    assert torch.equal(torch.get_rng_state(), before)
