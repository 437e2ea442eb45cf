"""The terms of the training objective: laws that hold for any value, and the conventions of the KLD weight."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from raysweep.spec.config import UNIT_SQUARED_ERROR_SIGMA, TrialConfig
from raysweep.vae.conventions import pixel_mean_weight
from raysweep.vae.likelihoods import LOG_SIGMA_MIN, data_term, gaussian_data_term, soft_floor
from raysweep.vae.networks import LOGVAR_MAX, LOGVAR_MIN
from raysweep.vae.objective import charged_rate, kl_per_latent, warmed_weight, weighted_loss

means = st.floats(-100, 100, width=32)
logvars = st.floats(LOGVAR_MIN, LOGVAR_MAX, width=32)
nats = st.floats(0, 1e4)
weights = st.floats(1e-6, 1e2)
pixel_counts = st.integers(1, 20_000)
latent_counts = st.integers(1, 1_000)


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def random_batch(seed: int, shape: tuple[int, ...] = (5, 2, 8, 8)) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and images."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random) * 3, torch.rand(shape, generator=random)


@given(means, logvars)
def test_the_kl_divergence_is_never_negative_in_single_precision(mean: float, logvar: float) -> None:
    kl = kl_per_latent(torch.full((20,), mean), torch.full((20,), logvar))
    assert (kl >= 0).all()


def test_the_kl_divergence_is_exactly_zero_at_the_prior() -> None:
    assert torch.equal(kl_per_latent(torch.zeros(3, 4), torch.zeros(3, 4)), torch.zeros(3, 4))


@given(means, logvars)
def test_the_kl_divergence_is_that_of_torch(mean: float, logvar: float) -> None:
    posterior = Normal(scalar(mean), (scalar(logvar) / 2).exp())
    expected = kl_divergence(posterior, Normal(scalar(0.0), scalar(1.0)))
    torch.testing.assert_close(kl_per_latent(scalar(mean), scalar(logvar)), expected, rtol=1e-9, atol=1e-9)


@given(nats, nats, weights, pixel_counts, latent_counts)
def test_the_reductions_map_onto_each_other(data: float, rate: float, weight: float, pixels: int, latents: int) -> None:
    def loss(reduction, weight):
        return float(weighted_loss(scalar(data), scalar(rate), weight, reduction, pixels, latents))

    assert pixels * loss("pixel_mean", weight / pixels) == pytest.approx(loss("sum", weight), rel=1e-12)
    assert loss("pixel_and_latent_mean", weight) == pytest.approx(loss("pixel_mean", weight / latents), rel=1e-12)


@pytest.mark.parametrize("reduction", ["pixel_mean", "pixel_and_latent_mean", "sum"])
@given(sigma=st.floats(0.01, 10), weight=weights, pixels=pixel_counts, latents=latent_counts)
def test_the_equivalent_weight_makes_the_gradients_parallel(
    reduction: str, sigma: float, weight: float, pixels: int, latents: int
) -> None:
    """Two losses train alike, up to the step size, if squared error and rate pull in the same proportion."""
    config = TrialConfig(kld_weight=weight, sigma=sigma, reduction=reduction, latent_size=latents)  # type: ignore[arg-type]

    def pull(config):
        squared_error = scalar(3.0).requires_grad_()
        rate = scalar(7.0).requires_grad_()
        data = gaussian_data_term(squared_error, pixels, "gaussian", config.sigma)
        weighted_loss(data, rate, config.kld_weight, config.reduction, pixels, config.latent_size).backward()
        return float(rate.grad) / float(squared_error.grad)

    equivalent = TrialConfig(kld_weight=pixel_mean_weight(config, pixels), latent_size=latents)
    assert pull(config) == pytest.approx(pull(equivalent), rel=1e-9)


def test_a_unit_variance_gaussian_elbo_is_the_weight_2_over_the_pixels() -> None:
    config = TrialConfig(sigma=1.0, reduction="sum", kld_weight=1.0)
    assert pixel_mean_weight(config, 1024) == pytest.approx(2 / 1024, rel=1e-12)


def test_beta_at_a_sigma_is_the_weight_2_sigma_squared_beta_over_the_pixels() -> None:
    config = TrialConfig(sigma=0.1, reduction="sum", kld_weight=4.0)
    assert pixel_mean_weight(config, 1024) == pytest.approx(2 * 0.1**2 * 4 / 1024, rel=1e-12)


def test_the_default_conventions_weight_is_its_own_equivalent() -> None:
    assert pixel_mean_weight(TrialConfig(kld_weight=5e-4), 1024) == pytest.approx(5e-4, rel=1e-12)


@pytest.mark.parametrize("likelihood", ["calibrated_gaussian", "learned_gaussian", "bernoulli", "continuous_bernoulli"])
def test_a_likelihood_without_a_fixed_sigma_has_no_equivalent_weight(likelihood: str) -> None:
    with pytest.raises(ValueError, match=likelihood):
        pixel_mean_weight(TrialConfig(likelihood=likelihood), 1024)  # type: ignore[arg-type]


def test_the_gaussian_data_term_at_the_default_sigma_is_the_squared_error() -> None:
    logits, x = random_batch(0)
    expected = (logits.sigmoid() - x).square().flatten(1).sum(dim=1).mean()
    torch.testing.assert_close(data_term(logits, x, "gaussian", UNIT_SQUARED_ERROR_SIGMA), expected)


@pytest.mark.parametrize("likelihood", ["gaussian", "calibrated_gaussian"])
def test_the_gradient_of_a_squared_error_is_that_of_its_operations(likelihood: str) -> None:
    logits, x = (value.double() for value in random_batch(2))
    logits.requires_grad_()
    squared_error = (logits.sigmoid() - x).square().sum() / len(x)
    expected = gaussian_data_term(squared_error, x[0].numel(), likelihood, 0.3)  # type: ignore[arg-type]
    found = data_term(logits, x, likelihood, 0.3)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    (one,), (other,) = torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_the_gaussian_data_term_is_the_negative_log_likelihood_up_to_a_constant() -> None:
    logits, x = random_batch(1)
    nll = -Normal(logits.sigmoid(), 0.3).log_prob(x).flatten(1).sum(dim=1).mean()
    constant = 128 * (math.log(0.3) + 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(data_term(logits, x, "gaussian", 0.3), nll - constant)


@given(mse=st.floats(1e-3, 1), pixels=pixel_counts, shift=st.floats(-2, 2))
def test_no_sigma_is_better_than_the_calibrated_one(mse: float, pixels: int, shift: float) -> None:
    calibrated = float(gaussian_data_term(scalar(mse * pixels), pixels, "calibrated_gaussian", 1.0))
    log_sigma = 0.5 * math.log(mse)
    closed_form = 0.5 * pixels + pixels * log_sigma
    assert calibrated == pytest.approx(closed_form, abs=pixels * 1e-2)  # the floor is near: log sigma >= -3.5 here
    other = log_sigma + shift
    assert pixels * (0.5 * mse * math.exp(-2 * other) + other) >= closed_form - 1e-9 * pixels


def test_the_calibrated_data_term_is_its_closed_form_far_above_the_floor() -> None:
    calibrated = float(gaussian_data_term(scalar(0.25 * 1024), 1024, "calibrated_gaussian", 1.0))
    assert calibrated == pytest.approx(1024 * (0.5 + math.log(0.5)), rel=2e-4)


@given(st.floats(-1e3, 1e3), st.floats(-10, 10))
def test_the_soft_floor_is_never_undercut_and_never_far_away(value: float, floor: float) -> None:
    bent = float(soft_floor(scalar(value), floor))
    assert bent >= floor
    assert bent == pytest.approx(max(value, floor), abs=math.log(2) + 1e-9)
    if value - floor > 10:
        assert bent == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_a_batch_fitted_exactly_has_a_finite_calibrated_loss_and_gradient(logit: float) -> None:
    logits = torch.full((2, 1, 8, 8), logit, requires_grad=True)
    x = logits.detach().sigmoid()
    loss = data_term(logits, x, "calibrated_gaussian", 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(64 * LOG_SIGMA_MIN, rel=1e-3)
    assert torch.equal(logits.grad, torch.zeros_like(x))


def test_the_calibrated_gradient_is_that_of_a_gaussian_at_the_batchs_sigma() -> None:
    logits, x = random_batch(2)
    logits.requires_grad_()
    mse = (logits.detach().sigmoid() - x).square().mean()
    (calibrated,) = torch.autograd.grad(data_term(logits, x, "calibrated_gaussian", 1.0), logits)
    (fixed,) = torch.autograd.grad(data_term(logits, x, "gaussian", float(mse.sqrt())), logits)
    torch.testing.assert_close(calibrated, fixed, rtol=1e-2, atol=1e-6)


@given(st.integers(0, 1000))
def test_the_bernoulli_data_term_is_torchs_cross_entropy(seed: int) -> None:
    logits, x = random_batch(seed)
    expected = F.binary_cross_entropy(logits.sigmoid().double(), x.double(), reduction="none").flatten(1).sum(1).mean()
    torch.testing.assert_close(data_term(logits, x, "bernoulli", 1.0).double(), expected, rtol=1e-4, atol=1e-4)


@given(st.integers(1, 20), st.integers(1, 50), weights)
def test_the_weight_grows_linearly_over_the_warm_up_and_then_stays(epochs: int, steps: int, weight: float) -> None:
    assume(epochs * steps > 1)
    config = TrialConfig(kld_weight=weight, kld_warmup_epochs=epochs)
    ramp = [warmed_weight(config, step, steps) for step in range(epochs * steps + 3)]
    assert ramp[0] == pytest.approx(weight / (epochs * steps))
    assert ramp[epochs * steps - 1 :] == [weight] * 4
    differences = [after - before for before, after in itertools.pairwise(ramp[: epochs * steps])]
    assert differences == pytest.approx([weight / (epochs * steps)] * len(differences))


@given(st.integers(1, 5), st.integers(0, 5), st.integers(1, 10), st.integers(0, 200))
def test_the_warm_up_starts_again_with_every_cycle(warmup: int, rest: int, steps: int, step: int) -> None:
    once = TrialConfig(kld_weight=0.5, kld_warmup_epochs=warmup)
    cycles = TrialConfig(kld_weight=0.5, kld_warmup_epochs=warmup, kld_cycle_epochs=warmup + rest)
    cycle = (warmup + rest) * steps
    assert warmed_weight(cycles, step, steps) == warmed_weight(once, step % cycle, steps)
    assert warmed_weight(cycles, step, steps) == warmed_weight(cycles, step + cycle, steps)


def test_cycles_of_two_epochs_with_a_warm_up_of_one() -> None:
    config = TrialConfig(kld_weight=1.0, kld_warmup_epochs=1, kld_cycle_epochs=2)
    assert [warmed_weight(config, step, 2) for step in range(8)] == [0.5, 1, 1, 1, 0.5, 1, 1, 1]


@given(st.lists(st.lists(st.floats(0, 20), min_size=3, max_size=3), min_size=1, max_size=6), st.floats(0, 5))
def test_a_latent_below_its_free_bits_counts_as_if_it_had_them(kl: list[list[float]], free: float) -> None:
    means = [sum(column) / len(kl) for column in zip(*kl, strict=True)]
    found = float(charged_rate(torch.tensor(kl, dtype=torch.float64), free))
    assert found == pytest.approx(sum(max(free, mean) for mean in means), abs=1e-9)
    assert found >= float(charged_rate(torch.tensor(kl, dtype=torch.float64), 0.0)) - 1e-9


def test_free_bits_neither_push_nor_pull_a_latent_that_is_below_them() -> None:
    kl = torch.tensor([[0.1, 3.0], [0.3, 1.0]], requires_grad=True)
    charged_rate(kl, 1.0).backward()
    assert torch.equal(kl.grad, torch.tensor([[0.0, 0.5], [0.0, 0.5]]))


def test_log_sigma_in_place_of_log_variance_would_make_the_kl_divergence_negative_and_ours_cannot_be() -> None:
    """The broken term s^2 - 1 - log s, with s where s^2 belongs in one place only, has its minimum below 0."""
    sigma = torch.linspace(0.01, 3, 30_000, dtype=torch.float64)
    broken = 0.5 * (sigma.square() - 1 - sigma.log())
    assert float(broken.min()) == pytest.approx(-0.0767, abs=1e-4)
    assert float(kl_per_latent(torch.zeros_like(sigma), 2 * sigma.log()).min()) >= 0


@pytest.mark.parametrize("reduction", ["pixel_mean", "pixel_and_latent_mean", "sum"])
@pytest.mark.parametrize(
    "likelihood", ["gaussian", "calibrated_gaussian", "learned_gaussian", "bernoulli", "continuous_bernoulli"]
)
def test_no_posterior_drives_the_loss_below_that_of_the_data_alone(likelihood: str, reduction: str) -> None:
    """Whatever the network puts out, sigma is an exponential and the rate a sum of terms that are never negative."""
    x = random_batch(3)[1]
    channels = 2 * x.shape[1] if likelihood == "learned_gaussian" else x.shape[1]
    data = data_term(torch.full((5, channels, 8, 8), -3.0), x, likelihood, 0.5)  # type: ignore[arg-type]
    without = weighted_loss(data, torch.zeros(()), 1.0, reduction, 128, 4)  # type: ignore[arg-type]
    for mean, logvar in itertools.product((-5.0, 0.0, 5.0), torch.linspace(LOGVAR_MIN, LOGVAR_MAX, 101)):
        kl = kl_per_latent(torch.full((5, 4), mean), logvar.expand(5, 4))
        loss = weighted_loss(data, charged_rate(kl, 0.0), 1.0, reduction, 128, 4)  # type: ignore[arg-type]
        assert loss.isfinite()
        assert loss >= without


def test_without_a_warm_up_the_weight_is_whole_from_the_first_step() -> None:
    assert warmed_weight(TrialConfig(kld_weight=0.5), 0, 10) == 0.5
