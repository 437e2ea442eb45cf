"""What is remarked of a sweep before it is run and once it has ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raysweep.metrics import TrialState
from raysweep.records import EpochRecord, TrialRecord
from raysweep.review.remarks import is_improving, remarks_after, remarks_before, steps_text
from raysweep.spec.loading import load_spec, parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import Scalar
from raysweep.vae.preflight import Preflight
from tests.unit.conftest import NOW, epoch_metrics, final_metrics

FILE = """
data: {dataset: folder, root: my_images}
trial:
  kld_weight: {low: 1e-5, high: 1e-1, log: true}
  latent_size: {choices: [2, 8, 16]}
"""
SHIPPED = sorted((Path(__file__).parents[3] / "search_spaces").glob("*.yaml"))
FLAT = [0.0, 100.0, 101.0, 100.0, 100.5, 100.9, 100.2, 100.4, 100.1, 100.0]
CLIMBING = [10.0 * epoch for epoch in range(10)]


def trial(
    number: int, values: list[float], state: TrialState = TrialState.COMPLETED, *, kld_weight: float = 1e-3,
    latent_size: int = 8, kid: float | None = None, **metrics: Any,
) -> TrialRecord:  # fmt: skip
    epochs = tuple(
        EpochRecord.of(replace(epoch_metrics(index, value), **metrics), NOW) for index, value in enumerate(values, 1)
    )
    params: dict[str, Scalar] = {"kld_weight": kld_weight, "latent_size": latent_size}
    tested = None if kid is None else replace(final_metrics(1.0), kid=kid)
    return TrialRecord(number, parse_spec(FILE).trial, params, state, epochs, tested, ended_at=NOW)


def after(*records: TrialRecord, prediction: Preflight | None = None, text: str = FILE) -> str:
    return "\n".join(remarks_after(parse_spec(text), records, records, prediction, 240))


def beyond(spec: SweepSpec) -> Preflight:
    low, high = spec.trial.ends("kld_weight")
    return Preflight((0.012, 0.013), low, high, (0, 0), (0, 0), (1.0, 1.0))


def test_few_steps_are_warned_of_with_what_to_change() -> None:
    spec = parse_spec(FILE)
    assert steps_text(spec, 240) == "40 steps a trial, 4 an epoch; kld.yaml has 1,260"
    (warning,) = remarks_before(spec, 240, None)
    assert warning.startswith("40 steps a trial are few: kld.yaml has 1,260")
    assert "trial.epochs: 315, or trial.batch_size: 16 and trial.epochs: 84" in warning


@pytest.mark.parametrize("instead", ["epochs: 315", "batch_size: 16\n  epochs: 84"])
def test_what_the_warning_says_to_change_ends_it(instead: str) -> None:
    assert remarks_before(parse_spec(f"{FILE}  {instead}\n"), 240, None) == []


def test_steps_are_counted_for_the_worst_of_what_is_searched() -> None:
    spec = parse_spec(FILE + "  batch_size: {choices: [8, 64]}\n  epochs: {low: 10, high: 100}\n")
    assert steps_text(spec, 240) == "40 to 3,000 steps a trial, 4 to 30 an epoch; kld.yaml has 1,260"
    assert "40 steps a trial are few" in remarks_before(spec, 240, None)[0]


def test_a_first_rung_before_anything_is_learned_is_warned_of() -> None:
    spec = parse_spec(FILE + "search: {early_stopping: {asha: {max_epochs: 315}}}\n")
    (warning,) = remarks_before(spec, 240, None)
    assert "after 4 steps for the first time, kld.yaml after 315" in warning
    assert "search.early_stopping.asha.grace_epochs: 78" in warning
    better = FILE + "search: {early_stopping: {asha: {max_epochs: 315, grace_epochs: 78}}}\n"
    assert remarks_before(parse_spec(better), 240, None) == []


def test_the_key_that_holds_the_epochs_is_the_one_named() -> None:
    spec = parse_spec(FILE + "search: {early_stopping: {asha: {max_epochs: 10, grace_epochs: 10}}}\n")
    assert "Train longer: search.early_stopping.asha.max_epochs: 315" in remarks_before(spec, 240, None)[0]


def test_weights_that_all_lie_beyond_collapse_are_warned_of() -> None:
    spec = parse_spec(FILE.replace("1e-5", "5e-2") + "  epochs: 315\n")
    (warning,) = remarks_before(spec, 240, beyond(spec))
    assert "every kld_weight searched (0.05 to 0.1) is beyond collapse, predicted from 0.012 on" in warning
    assert "trial.kld_weight: {low: 1e-06, high: 0.006, log: true}" in warning
    some = replace(beyond(spec), wasted_share=(0.9, 1.0))
    assert remarks_before(spec, 240, some) == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_no_shipped_file_is_warned_of(path: Path) -> None:
    spec = load_spec(path)
    images = {"digits": 1437, "mnist-5k": 4000, "folder": 4000}.get(spec.data.dataset, 50_000)
    assert remarks_before(spec, images, None) == []


def test_a_claim_without_a_direction_is_warned_of_before_it_is_run() -> None:
    claim = (
        "claims: [{name: sharp, statement: A., test: best_at, over: latent_size, value: 2, metrics: active_units}]\n"
    )
    spec = parse_spec(FILE + "  epochs: 315\n" + claim)
    assert "claim sharp cannot be decided" in remarks_before(spec, 240, None)[0]


@pytest.mark.parametrize(
    ("values", "direction", "expected"),
    [
        (CLIMBING, "max", True),
        (CLIMBING, "min", False),
        ([-value for value in CLIMBING], "min", True),
        (FLAT, "max", False),
        ([0.0, 100.0], "max", True),
        ([0.0], "max", False),
        ([], "max", False),
        ([0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999, 99.99999, 99.999999], "max", False),
        ([0.0, float("nan")], "max", False),
        ([5.0, 5.0], "max", False),
    ],
)
def test_a_trial_is_improving_while_its_last_epochs_gain(values: list[float], direction: str, expected: bool) -> None:
    assert is_improving(trial(0, values), "elbo_nats", direction) is expected


def test_trials_that_still_improve_are_counted_with_how_long_to_train() -> None:
    told = after(trial(0, CLIMBING), trial(1, FLAT), trial(2, CLIMBING), trial(3, CLIMBING[:4], TrialState.PRUNED))
    assert "2 of the 3 trials that trained all their epochs were still improving at the last one" in told
    assert "trial.epochs: 315" in told
    assert "still improving" not in after(trial(0, FLAT), trial(1, FLAT))
    assert "The one trial that trained all its epochs was still improving" in after(trial(0, CLIMBING))


def test_a_best_trial_that_has_not_learned_yet_is_called_grey_and_needs_time_rather_than_another_weight() -> None:
    told = after(*(trial(number, CLIMBING, collapsed=True) for number in range(3)))
    assert "3 of the 3 trials" in told
    assert "the best one among them" in told
    assert "reconstructs each image as about the same grey one" in told
    assert "kld_weight" not in told


def test_trials_that_all_collapsed_are_told_with_the_weights_to_search() -> None:
    spec = parse_spec(FILE)
    told = after(*(trial(number, FLAT, collapsed=True) for number in range(3)), prediction=beyond(spec))
    assert "All trials had collapsed at the last epoch" in told
    assert "search trial.kld_weight: {low: 1e-06, high: 0.006, log: true}" in told
    few = after(trial(0, FLAT, collapsed=True), *(trial(number, [0, 200.0, 200.0]) for number in (1, 2)))
    assert "collapsed" not in few


GREY = {"collapsed": True, "r2": -0.01, "rate_nats": 0.002}
"""Metrics of a model that is no better than the mean image."""
LEAKY = FILE + "  negative_slope: 0.1\n"


def test_trials_that_never_left_the_mean_image_are_named_with_what_mends_it() -> None:
    predicted = beyond(parse_spec(FILE))
    learned = trial(0, [0, 200.0, 200.0])
    told = after(learned, *(trial(number, FLAT, **GREY) for number in (1, 2)), prediction=predicted)
    assert "2 of 3 trials never left the plateau at the mean image (trials 1, 2), although their kld_weight is" in told
    assert "at learning_rate 0.001. In a new sweep: trial.negative_slope: 0.1" in told
    assert "a smaller trial.learning_rate, up to 0.0005" in told
    assert "collapsed" not in told, "their weight is not at fault"
    slowly = after(learned, trial(1, CLIMBING, **GREY), prediction=predicted)
    assert "still improving" not in slowly, "more epochs would not help it"
    assert "Trial 1 never left" in after(learned, trial(1, FLAT, **GREY), prediction=predicted)
    leaky = after(learned, trial(1, FLAT, **GREY), prediction=predicted, text=LEAKY)
    assert "In a new sweep: a smaller trial.learning_rate" in leaky


def test_trials_stuck_near_collapse_are_told_to_train_longer_or_to_weigh_less() -> None:
    told = after(*(trial(n, FLAT, kld_weight=0.01, **GREY) for n in range(9)), prediction=beyond(parse_spec(FILE)))
    assert "9 of 9 trials never left the plateau at the mean image (trials 0, 1, 2, 3, 4, 5, 6, 7 and 1 more)" in told
    assert "by less than a factor of 2" in told
    assert "trial.epochs: 20, or search trial.kld_weight: {low: 1e-06, high: 0.006, log: true}" in told
    assert "negative_slope" not in told


def test_trials_beyond_collapse_are_not_called_stuck() -> None:
    heavy = [trial(number, FLAT, kld_weight=0.05, **GREY) for number in range(3)]
    told = after(*heavy, prediction=beyond(parse_spec(FILE)))
    assert "All trials had collapsed" in told
    assert "never left" not in told


def test_the_winner_by_the_bound_and_the_one_for_samples_are_both_named() -> None:
    told = after(trial(0, [0, 200.0, 200.0], kid=6.3), trial(1, FLAT, kid=2.6), trial(2, FLAT))
    assert "Trial 0 is the best by elbo_nats" in told
    assert "for samples trial 1 is the best of the 2 tested (test_kid 2.6 against 6.3, less is better)" in told
    assert "raysweep export DIR exported/text-samples --trial 1" in told
    same = after(trial(0, [0, 200.0, 200.0], kid=1.5), trial(1, FLAT, kid=2.6))
    assert "Trial 0 is the best by elbo_nats, and of the 2 tested its samples are the best too (test_kid 1.5)" in same
    assert "for samples" not in after(trial(0, FLAT), trial(1, FLAT))


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({"kld_weight": 1.2e-5}, "kld_weight 1.2e-05 of trial 0, the best, is at the low end of 1e-05 to 0.1"),
        ({"kld_weight": 9e-2}, "at the high end of 1e-05 to 0.1"),
        ({"latent_size": 16}, "latent_size 16 of trial 0, the best, is the largest of 2, 8, 16"),
        ({"latent_size": 2}, "is the smallest of 2, 8, 16"),
    ],
)
def test_a_winner_at_the_end_of_what_was_searched_is_told(point: dict[str, Any], said: str) -> None:
    others = [trial(number, FLAT) for number in (1, 2)]
    assert said in after(trial(0, [0, 200.0, 200.0], **point), *others)
    assert "the best, is" not in after(trial(0, [0, 200.0, 200.0]), *others)


def test_no_larger_weight_is_proposed_beyond_collapse_nor_anything_of_models_that_learned_nothing() -> None:
    others = [trial(number, FLAT) for number in (1, 2)]
    heavy = trial(0, [0, 200.0, 200.0], kld_weight=9e-2)
    assert "the best, is at the high end" in after(heavy, *others)
    predicted = beyond(parse_spec(FILE))
    assert "the best, is" not in after(heavy, *others, prediction=predicted)
    light = trial(0, [0, 200.0, 200.0], kld_weight=1e-5)
    assert "search from 1e-06 on" in after(light, *others, prediction=predicted)
    assert "the best, is" not in after(trial(0, [0, 200.0, 200.0], latent_size=2, collapsed=True), *others)


def test_what_lies_beyond_an_end_is_what_the_field_may_have() -> None:
    text = FILE + "  input_dropout: {low: 0.0, high: 0.5}\n"
    best = trial(0, [0, 200.0, 200.0])
    best.params["input_dropout"] = 0.0
    assert "the best, is" not in after(best, trial(1, FLAT), trial(2, FLAT), text=text), "less than 0 is none"
    best.params["input_dropout"] = 0.5
    assert "up to 0.75" in after(best, trial(1, FLAT), trial(2, FLAT), text=text)


def test_a_sweep_without_a_result_is_not_remarked_on() -> None:
    assert after() == ""
    assert after(trial(0, [], TrialState.FAILED)) == ""
