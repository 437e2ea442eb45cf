"""The prediction of collapse: Lucas et al.'s line under every convention, and what a search wastes beyond it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raysweep.spec.config import TrialConfig
from raysweep.spec.space import Choices, Range, TrialSpace
from raysweep.vae.conventions import pixel_mean_weight
from raysweep.vae.preflight import (
    Preflight,
    Unpredictable,
    active_latents,
    critical_weight,
    predict,
    summary,
)

EIGENVALUES = np.array([5.12, 2.56, 0.512, 0.0512, 0.0])
"""With D = 1024 latents are active below weights of 1e-2, 5e-3, 1e-3 and 1e-4 in the convention of the pixel mean."""
DECADES = Range(low=1e-5, high=1e-1, log=True)

configs = st.builds(
    TrialConfig,
    latent_size=st.integers(1, 300),
    sigma=st.floats(0.01, 10),
    reduction=st.sampled_from(["pixel_mean", "pixel_and_latent_mean", "sum"]),
    kld_weight=st.floats(0, 100),
)
spectra = st.lists(st.floats(1e-6, 100), min_size=1, max_size=20).map(np.array)


def space(searched: dict[str, Any] | None = None, **constants: Any) -> TrialSpace:
    return TrialSpace(constants, searched or {})


def predicted(searched: dict[str, Any] | None = None, **constants: Any) -> Preflight:
    found = predict(space(searched, **constants), EIGENVALUES, 1024)
    assert isinstance(found, Preflight)
    return found


@given(configs, spectra, st.integers(1, 5000))
def test_a_latent_is_active_below_the_critical_weight_and_none_is_from_it_on(
    config: TrialConfig, eigenvalues: Any, pixels: int
) -> None:
    critical = critical_weight(config, eigenvalues, pixels)
    below, above = (config.model_copy(update={"kld_weight": critical * factor}) for factor in (0.999, 1.001))
    assert active_latents(below, eigenvalues, pixels) >= 1
    assert active_latents(above, eigenvalues, pixels) == 0


@given(configs, st.floats(0, 100), spectra, st.integers(1, 5000))
def test_a_larger_weight_never_has_more_active_latents(
    config: TrialConfig, other: float, eigenvalues: Any, pixels: int
) -> None:
    low, high = sorted([config.kld_weight, other])
    counts = [
        active_latents(config.model_copy(update={"kld_weight": weight}), eigenvalues, pixels) for weight in (low, high)
    ]
    assert config.latent_size >= counts[0] >= counts[1] >= 0


@given(configs, spectra, st.integers(1, 5000))
def test_conventions_agree_on_where_the_same_model_collapses(
    config: TrialConfig, eigenvalues: Any, pixels: int
) -> None:
    critical = config.model_copy(update={"kld_weight": critical_weight(config, eigenvalues, pixels)})
    assert pixel_mean_weight(critical, pixels) == pytest.approx(2 * eigenvalues.max() / pixels, rel=1e-9)


@given(st.floats(1e-6, 1e2), st.floats(1e-6, 1e2), st.booleans(), st.floats(1e-3, 1e2))
def test_the_wasted_share_is_the_part_of_the_range_beyond_the_critical_weight(
    low: float, width: float, log: bool, largest: float
) -> None:
    high = low + width
    found = predict(space({"kld_weight": Range(low=low, high=high, log=log)}), np.array([largest]), 100)
    assert isinstance(found, Preflight)
    scale = math.log if log else float
    critical = min(max(2 * largest / 100, low), high)
    assert found.wasted_share[0] == found.wasted_share[1]
    assert 0 <= found.wasted_share[0] <= 1
    assert found.wasted_share[0] * (scale(high) - scale(low)) == pytest.approx(scale(high) - scale(critical), abs=1e-9)


def test_a_range_of_weights_on_a_logarithmic_scale() -> None:
    found = predicted({"kld_weight": DECADES}, latent_size=3)
    assert found.critical_weight == (pytest.approx(1e-2), pytest.approx(1e-2))
    assert (found.active_at_low, found.active_at_high) == ((3, 3), (0, 0))
    assert found.wasted_share == (pytest.approx(0.25), pytest.approx(0.25))
    assert summary(found, space({"kld_weight": DECADES})) == (
        "predicted from kld_weight 0.01 on; 1 of the 4 decades searched are wasted (25%)",
        "active latents predicted: 3 at 1e-05, none at 0.1",
    )


def test_latents_without_variance_are_not_active_even_at_a_weight_of_zero() -> None:
    weights = {"kld_weight": Range(low=0.0, high=0.02)}
    found = predicted(weights, latent_size=16)
    assert (found.active_at_low, found.active_at_high) == ((4, 4), (0, 0))
    assert summary(found, space(weights)) == (
        "predicted from kld_weight 0.01 on; 50% of the range searched is wasted",
        "active latents predicted: 4 at 0, none at 0.02",
    )


def test_a_range_with_a_step_counts_its_values() -> None:
    assert predicted({"kld_weight": Range(low=0.0, high=0.03, step=0.0075)}).wasted_share[0] == pytest.approx(3 / 5)


def test_choices_of_weights_are_named() -> None:
    weights = {"kld_weight": Choices(choices=(0.5, 1e-3, 2e-2, 5e-4))}
    found = predicted(weights)
    assert (found.lowest_weight, found.highest_weight, found.wasted_share) == (5e-4, 0.5, (0.5, 0.5))
    assert summary(found, space(weights))[0].endswith("of the choices 0.02, 0.5 are wasted")


@pytest.mark.parametrize(
    ("weight", "share", "said"), [(5e-4, 0.0, "0.0005 is below it"), (0.5, 1.0, "every trial is beyond it")]
)
def test_a_weight_that_is_not_searched_is_judged_alone(weight: float, share: float, said: str) -> None:
    found = predicted({"latent_size": Choices(choices=(2, 8))}, kld_weight=weight)
    assert found.wasted_share == (share, share)
    assert said in summary(found, space(kld_weight=weight))[0]


def test_a_range_below_the_line_wastes_nothing() -> None:
    weights = {"kld_weight": Range(low=1e-5, high=1e-3, log=True)}
    assert "all that is searched lies below" in summary(predicted(weights), space(weights))[0]


def test_a_searched_convention_makes_a_range_of_critical_weights() -> None:
    """Under the latents' mean the weight of A is w / L."""
    searched: dict[str, Any] = {"kld_weight": DECADES, "latent_size": Choices(choices=(8, 2, 4))}
    found = predicted(searched, reduction="pixel_and_latent_mean")
    assert found.critical_weight == (pytest.approx(2e-2), pytest.approx(8e-2))
    assert found.wasted_share == (
        pytest.approx(math.log10(0.1 / 8e-2) / 4),
        pytest.approx(math.log10(0.1 / 2e-2) / 4),
    )
    assert found.active_at_low == (2, 4)
    assert "from kld_weight 0.02 to 0.08 on; 0.1 to 0.7 of the 4 decades" in summary(found, space(searched))[0]

    searched = {
        "kld_weight": DECADES,
        "reduction": Choices(choices=("sum", "pixel_mean")),
        "sigma": Range(low=1, high=2),
    }
    found = predicted(searched)
    assert found.critical_weight == (pytest.approx(1e-2 / 8), pytest.approx(1024e-2 / 2))


@pytest.mark.parametrize(
    "likelihood",
    [
        "bernoulli",
        "calibrated_gaussian",
        "learned_gaussian",
        "continuous_bernoulli",
        Choices(choices=("gaussian", "bernoulli")),
    ],
)
def test_other_likelihoods_have_no_prediction_and_say_so(likelihood: Any) -> None:
    searched = {"likelihood": likelihood} if isinstance(likelihood, Choices) else {}
    constants = {} if searched else {"likelihood": likelihood}
    found = predict(space(searched, **constants), EIGENVALUES, 1024)
    assert isinstance(found, Unpredictable)
    assert "has no fixed weight of the squared error" in summary(found, space())[0]
    assert Preflight.from_mapping(found.to_mapping()) is None


@pytest.mark.parametrize("free_bits", [0.5, Range(low=0.0, high=1.0)])
def test_free_bits_have_no_weight_from_which_on_all_collapses_and_say_so(free_bits: Any) -> None:
    searched = {"free_bits_nats": free_bits} if isinstance(free_bits, Range) else {}
    found = predict(space(searched, **({} if searched else {"free_bits_nats": free_bits})), EIGENVALUES, 1024)
    assert isinstance(found, Unpredictable)
    assert "no weight makes all collapse" in summary(found, space())[0]


def test_a_prediction_says_that_it_is_of_the_plain_images_where_training_sees_others() -> None:
    augmented = space({"rotation_degrees": Range(low=0.0, high=45.0)}, brightness_jitter=0.5, binarise="threshold")
    found = predict(augmented, EIGENVALUES, 1024)
    plain = predict(space(), EIGENVALUES, 1024)
    assert found == plain
    *lines, caveat = summary(found, augmented)
    assert tuple(lines) == summary(plain, space())
    assert caveat == "predicted of the images as they are, before rotation_degrees, brightness_jitter and binarise"


def test_images_that_are_all_the_same_have_no_prediction() -> None:
    assert predict(space(), np.zeros(3), 9) == Unpredictable("the training images are all the same")


def test_a_prediction_survives_a_file() -> None:
    found = predicted({"kld_weight": DECADES, "latent_size": Choices(choices=(2, 256))})
    assert Preflight.from_mapping(yaml.safe_load(yaml.safe_dump(found.to_mapping()))) == found


@pytest.mark.parametrize("damaged", [None, {}, [], "text", {"critical_weight": 3}])
def test_a_file_of_before_or_a_damaged_one_has_no_prediction(damaged: Any) -> None:
    assert Preflight.from_mapping(damaged) is None
    whole = predicted({"kld_weight": DECADES}).to_mapping()
    assert Preflight.from_mapping({**whole, "active_at_low": [math.inf, "x"]}) is None
