"""A file that says nothing of trials: what it searches, and how long its trials train on few images and on many."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raysweep.errors import SpecError
from raysweep.spec.config import TrialConfig
from raysweep.spec.defaults import FEWEST_EPOCHS, STEPS, settled, settled_like, sized, sized_like, steps_an_epoch
from raysweep.spec.loading import load_spec, parse_spec
from raysweep.spec.sections import SweepSpec

MINIMAL = "data: {dataset: folder, root: my_images}\n"


def trained(spec: SweepSpec) -> tuple[int, int]:
    """Batch size and epochs."""
    return int(spec.trial.ends("batch_size")[0]), spec.max_epochs


def test_the_smallest_file_searches_what_matters_most_and_stops_poor_trials() -> None:
    spec = load_spec({"data": {"dataset": "digits"}})
    assert set(spec.trial.searched) == {"kld_weight", "learning_rate", "latent_size"}
    assert spec.search.objective.metric == "elbo_nats"
    assert spec.asha is not None
    assert len(spec.search.enqueue) == 1


@given(st.integers(1, 200_000))
def test_a_trial_makes_about_as_many_steps_as_one_of_kld_yaml_and_more_on_many_images(images: int) -> None:
    spec = sized(parse_spec(MINIMAL), images)
    batch_size, epochs = trained(spec)
    steps = epochs * steps_an_epoch(images, batch_size)
    assert steps >= STEPS
    assert steps < 1.25 * STEPS or epochs == FEWEST_EPOCHS
    assert spec.asha is not None
    assert 1 <= spec.asha.grace_epochs <= epochs
    assert not spec.unsized


@pytest.mark.parametrize(
    ("images", "expected"), [(240, (16, 84)), (4000, (64, 20)), (60_000, (64, 10)), (8, (8, 1260))]
)
def test_few_images_are_trained_on_in_small_batches_for_many_epochs(images: int, expected: tuple[int, int]) -> None:
    assert trained(sized(parse_spec(MINIMAL), images)) == expected


def test_the_first_rung_is_as_late_as_that_of_kld_yaml() -> None:
    spec = sized(parse_spec(MINIMAL), 240)
    assert spec.asha is not None
    assert spec.asha.grace_epochs * 15 == 315


def test_what_the_file_says_stays() -> None:
    given_ = "search: {trials: 3, early_stopping: {asha: {max_epochs: 7, grace_epochs: 2}}, enqueue: []}\n"
    spec = sized(parse_spec(MINIMAL + given_), 240)
    assert (spec.trials, spec.max_epochs, spec.search.enqueue) == (3, 7, ())
    assert spec.asha is not None
    assert spec.asha.grace_epochs == 2
    late = sized(parse_spec(MINIMAL + "search: {early_stopping: {asha: {grace_epochs: 50}}}"), 60_000)
    assert late.asha is not None
    assert late.asha.grace_epochs == 50 <= late.max_epochs
    never = sized(parse_spec(MINIMAL + "search: {early_stopping: none}"), 240)
    assert never.asha is None
    assert trained(never) == (16, 84)


def test_a_file_with_a_trial_section_means_the_same_whatever_its_images() -> None:
    spec = parse_spec(MINIMAL + "trial: {kld_weight: {low: 0.1, high: 0.2}}\n")
    assert sized(spec, 240) is spec
    defaults = TrialConfig()
    assert trained(spec) == (defaults.batch_size, defaults.epochs)
    assert spec.asha is None
    assert spec.search.enqueue == ()


def test_the_resolved_file_loads_as_the_same_sweep() -> None:
    spec = sized(parse_spec(MINIMAL), 240)
    again = parse_spec(yaml.safe_dump(spec.as_mapping()))
    assert again.as_mapping() == spec.as_mapping()
    assert not again.unsized
    assert again.fingerprint() == spec.fingerprint()


def test_going_on_with_the_smallest_file_takes_the_sweeps_own_epochs() -> None:
    before = sized(parse_spec(MINIMAL), 240)
    assert sized_like(parse_spec(MINIMAL), before).as_mapping() == before.as_mapping()


@pytest.mark.parametrize("size", [8, 16, 32, 64, 128])
def test_the_default_weights_follow_the_number_of_pixels(size: int) -> None:
    spec = parse_spec(f"data: {{dataset: folder, root: x, image_size: {size}}}")
    low, high = spec.trial.ends("kld_weight")
    assert low * size**2 == pytest.approx(1e-3, rel=0.3)
    assert high * size**2 == pytest.approx(1, rel=0.3)
    assert low < float(str(spec.search.enqueue[0]["kld_weight"])) < high


@pytest.mark.parametrize("text", ["trial:\n", "trial: {}\n"])
def test_an_empty_trial_section_is_none(text: str) -> None:
    assert parse_spec(MINIMAL + text).unsized


def test_a_trial_section_in_which_nothing_is_searched_says_what_to_do() -> None:
    with pytest.raises(SpecError, match="leave trial out for the default space"):
        parse_spec(MINIMAL + "trial: {epochs: 5}\n")


@pytest.mark.parametrize("section", ["3", "{early_stopping: 3}", "{early_stopping: {asha: 3}}",
                                     "{early_stopping: {asha: {grace_epochs: x}}}"])  # fmt: skip
def test_faults_beside_the_default_space_are_told_as_ever(section: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_spec(f"{MINIMAL}search: {section}\n")
    assert {fault.key.split(".")[0] for fault in error.value.faults} == {"search"}


def searching(trial: str, search: str) -> SweepSpec:
    return parse_spec(f"data: {{dataset: digits}}\ntrial: {trial}\nsearch: {search}")


SIX = "{latent_size: {choices: [2, 8, 16]}, d_size: {choices: [8, 16]}}"


@pytest.mark.parametrize(
    ("trial", "search", "sampler", "trials", "reason"),
    [
        (SIX, "{}", "grid", 6, "20 trials are enough for all 6 points"),
        (SIX, "{trials: 6}", "grid", 6, "6 trials are enough for all 6 points"),
        (SIX, "{trials: 7, enqueue: [{latent_size: 8}]}", "grid", 7, "7 trials are enough for all 6 points"),
        (SIX, "{trials: 6, enqueue: [{latent_size: 8}]}", "gp", 6, "more points than trials"),
        (SIX, "{trials: 5}", "gp", 5, "more points than trials"),
        ("{latent_size: {low: 8, high: 64}}", "{}", "gp", 20, "more points than trials"),
        ("{kld_weight: {low: 0.1, high: 1.0}}", "{trials: 5000}", "gp", 5000, "more points than trials"),
        ("{latent_size: {choices: [8]}}", "{trials: 3}", "gp", 3, "the space has one point"),
    ],
)
def test_auto_takes_a_grid_if_there_are_enough_trials_for_it_and_says_why(
    trial: str, search: str, sampler: str, trials: int, reason: str
) -> None:
    spec = searching(trial, search)
    assert (spec.search.sampler, spec.trials) == (sampler, trials)
    assert spec.sampler_reason.endswith(reason)
    assert settled(spec) is spec
    again = parse_spec(yaml.safe_dump(spec.as_mapping()))
    assert again.as_mapping() == spec.as_mapping()
    assert not again.sampler_reason


@pytest.mark.parametrize("sampler", ["gp", "tpe", "random", "grid"])
def test_a_sampler_that_the_file_names_stays(sampler: str) -> None:
    spec = searching(SIX, f"{{trials: 6, sampler: {sampler}}}")
    assert (spec.search.sampler, spec.sampler_reason) == (sampler, "")


def test_a_file_that_leaves_the_sampler_open_goes_on_with_the_one_that_the_sweep_has() -> None:
    before = searching(SIX, "{trials: 5, sampler: tpe}")
    assert settled_like(searching(SIX, "{trials: 9}"), before).search.sampler == "tpe"
    assert settled_like(searching(SIX, "{trials: 9, sampler: random}"), before).search.sampler == "random"
    grid = searching(SIX, "{}")
    assert settled_like(searching(SIX, "{trials: 9}"), grid).as_mapping() == grid.as_mapping()
