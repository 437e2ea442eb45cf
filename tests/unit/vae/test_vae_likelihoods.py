"""What the decoder says of a pixel, against numerical integrals, torch's distributions and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tensor_images import small_config
from torch import Tensor
from torch.distributions import ContinuousBernoulli, Normal

from raysweep.spec.config import Likelihood
from raysweep.vae.likelihoods import (
    LOG_SIGMA_MAX,
    LOG_SIGMA_MIN,
    binary_cross_entropy,
    continuous_bernoulli_mean,
    continuous_bernoulli_variance,
    data_term,
    mean_image,
    mean_logits,
    output_channels,
    pixel_variance,
    sample_pixels,
    soft_floor,
)
from raysweep.vae.networks import ConvVAE

LIKELIHOODS: tuple[Likelihood, ...] = (
    "gaussian", "calibrated_gaussian", "learned_gaussian", "bernoulli", "continuous_bernoulli",
)  # fmt: skip
logits = st.floats(-60, 60) | st.floats(-0.6, 0.6) | st.sampled_from([0.0, 0.5, -0.5, 1e-6, -1e-30])


def image(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64).view(1, 1, 1, 1)


def outputs(likelihood: Likelihood, scale: float = 3.0, seed: int = 0) -> Tensor:
    """A decoder's output for 5 images of [2, 6, 6]."""
    shape = (5, output_channels(likelihood, 2), 6, 6)
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def grey(seed: int = 0) -> Tensor:
    return torch.rand(5, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


def moment(logit: float, power: int) -> float:
    """The integral over [0, 1] of x^power exp(-data term) by the midpoint rule, in double precision."""
    x = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    # The data term is linear in x: its values at 0 and 1 give all of it.
    at_0, at_1 = (float(data_term(image(logit), image(end), "continuous_bernoulli", 1.0)) for end in (0.0, 1.0))
    return float((x**power * (-(at_0 + (at_1 - at_0) * x)).exp()).mean())


@given(logits)
def test_the_continuous_bernoulli_is_a_density_with_the_mean_and_variance_stated(logit: float) -> None:
    assert moment(logit, 0) == pytest.approx(1, abs=1e-6)
    mean = float(continuous_bernoulli_mean(image(logit)))
    assert mean == pytest.approx(moment(logit, 1), abs=1e-6)
    assert float(continuous_bernoulli_variance(image(logit))) == pytest.approx(moment(logit, 2) - mean**2, abs=1e-6)


@given(st.floats(-15, 15).filter(lambda logit: abs(logit) > 0.1), st.floats(0, 1))
def test_the_continuous_bernoulli_is_torchs(logit: float, x: float) -> None:
    reference = ContinuousBernoulli(logits=image(logit), lims=(0.4999, 0.5001))
    found = data_term(image(logit), image(x), "continuous_bernoulli", 1.0)
    assert float(found) == pytest.approx(-float(reference.log_prob(image(x))), abs=1e-8)
    assert float(continuous_bernoulli_mean(image(logit))) == pytest.approx(float(reference.mean), abs=1e-6)


@given(st.integers(0, 100))
def test_the_continuous_bernoulli_is_cross_entropy_less_the_log_of_its_normaliser(seed: int) -> None:
    """C = 2 artanh(1 - 2 lambda) / (1 - 2 lambda), as in arXiv:1907.06845."""
    output, x = outputs("bernoulli", seed=seed).double(), grey(seed).double()
    lam = output.sigmoid()
    normaliser = 2 * torch.atanh(1 - 2 * lam) / (1 - 2 * lam)
    expected = data_term(output, x, "bernoulli", 1.0) - normaliser.log().sum() / len(x)
    torch.testing.assert_close(data_term(output, x, "continuous_bernoulli", 1.0), expected)


@given(logits)
def test_the_continuous_bernoulli_is_as_sound_in_single_precision(logit: float) -> None:
    """Either side of the switch to power series, and where logits are far out."""
    for function in (continuous_bernoulli_mean, continuous_bernoulli_variance):
        exact = float(function(image(logit)))
        assert float(function(image(logit).float())) == pytest.approx(exact, abs=1e-5)
    exact = float(data_term(image(logit), image(0.3), "continuous_bernoulli", 1.0))
    assert float(data_term(image(logit).float(), image(0.3).float(), "continuous_bernoulli", 1.0)) == pytest.approx(
        exact, rel=1e-5, abs=1e-5
    )


@given(logits, st.floats(0, 1))
def test_the_gradient_of_the_continuous_bernoulli_is_mean_less_pixel_everywhere(logit: float, x: float) -> None:
    """So it is in any exponential family; at lambda = 0.5, where the closed form is 0/0, too."""
    output = image(logit).float().requires_grad_()
    data_term(output, image(x).float(), "continuous_bernoulli", 1.0).backward()
    expected = float(continuous_bernoulli_mean(image(logit))) - x
    assert float(output.grad) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_mean_image_is_in_the_images_shape_and_range(likelihood: Likelihood) -> None:
    for scale in (0.0, 1.0, 30.0, 1e4):
        mean = mean_image(outputs(likelihood, scale), likelihood)
        assert mean.shape == (5, 2, 6, 6)
        assert mean.min() >= 0
        assert mean.max() <= 1


def test_the_learned_gaussian_is_the_negative_log_likelihood_up_to_a_constant() -> None:
    output, x = outputs("learned_gaussian"), grey()
    mean, logvar = output.chunk(2, dim=1)
    sigma = soft_floor(0.5 * logvar, LOG_SIGMA_MIN).clamp_max(LOG_SIGMA_MAX).exp()
    nll = -Normal(mean.sigmoid(), sigma).log_prob(x).flatten(1).sum(dim=1).mean()
    constant = 72 * 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(data_term(output, x, "learned_gaussian", 1.0), nll - constant)


@given(st.floats(-1e4, 1e4, width=32))
def test_no_output_makes_a_learned_variance_negative_or_its_loss_no_number(raw: float) -> None:
    """The published mistake: the logarithm of a sigma that the network put out itself."""
    output = torch.cat([torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), raw)], dim=1).requires_grad_()
    variance = pixel_variance(output, "learned_gaussian", 1.0, 0.0)
    assert variance is not None
    assert (variance >= math.exp(2 * LOG_SIGMA_MIN) * (1 - 1e-5)).all()
    loss = data_term(output, torch.full((1, 1, 2, 2), 0.5), "learned_gaussian", 1.0)
    loss.backward()
    assert loss.item() >= 4 * LOG_SIGMA_MIN
    assert output.grad is not None
    assert output.grad.isfinite().all()


def test_the_variance_of_a_pixel_is_that_of_its_distribution() -> None:
    p = outputs("bernoulli").sigmoid()
    found = {name: pixel_variance(outputs(name), name, 0.3, 0.04) for name in LIKELIHOODS}
    torch.testing.assert_close(found["bernoulli"], p * (1 - p), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found["gaussian"], torch.full((5, 2, 6, 6), 0.09))
    log_sigma = soft_floor(0.5 * outputs("learned_gaussian").chunk(2, dim=1)[1], LOG_SIGMA_MIN).clamp_max(LOG_SIGMA_MAX)
    torch.testing.assert_close(found["learned_gaussian"], log_sigma.exp().square())
    torch.testing.assert_close(found["calibrated_gaussian"], torch.full((5, 2, 6, 6), 0.04))
    assert all(value.shape == (5, 2, 6, 6) for value in found.values())


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_sampled_pixels_have_the_mean_and_the_variance_of_the_likelihood(likelihood: Likelihood) -> None:
    output = outputs(likelihood)[:1, :, :3, :3].repeat(40_000, 1, 1, 1)
    mean, variance = mean_image(output, likelihood), pixel_variance(output, likelihood, 0.3, 0.04)
    drawn = sample_pixels(output, likelihood, variance, torch.Generator().manual_seed(0))
    error = 5 * (variance[0] / len(output)).sqrt()
    assert bool(((drawn.mean(dim=0) - mean[0]).abs() <= error).all())
    ratio = (drawn - mean).square().mean(dim=0) / variance[0]
    assert float((ratio - 1).abs().max()) < 0.2


def test_a_learned_variance_cannot_overflow() -> None:
    output = torch.full((1, 2, 2, 2), 1e4)
    assert pixel_variance(output, "learned_gaussian", 1.0, 0.0).isfinite().all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_binary_cross_entropy_reads_the_mean_image_as_probability_of_white(likelihood: Likelihood) -> None:
    output, white = outputs(likelihood), grey() >= 0.5
    probability = mean_image(output.double(), likelihood)
    expected = F.binary_cross_entropy(probability, white.double(), reduction="none").flatten(1).sum(dim=1)
    torch.testing.assert_close(binary_cross_entropy(output, white, likelihood), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_pixel_that_is_certain_and_wrong_costs_a_finite_amount(likelihood: Likelihood) -> None:
    output = torch.full_like(outputs(likelihood), 1e6)
    assert binary_cross_entropy(output, torch.zeros(5, 2, 6, 6, dtype=torch.bool), likelihood).isfinite().all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_model_decodes_what_its_likelihood_says(likelihood: Likelihood) -> None:
    model = ConvVAE.from_config(small_config(likelihood=likelihood, sigma=0.2), (2, 8, 8))
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    output = model.decode_output(z)
    assert torch.equal(model.decode(z), mean_image(output, likelihood))
    assert torch.equal(model.decode_logits(z), mean_logits(output, likelihood))
