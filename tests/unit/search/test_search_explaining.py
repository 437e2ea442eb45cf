"""Why the best trial is the best: importances within the better half, slices of the model, and noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from raysweep.metrics import TrialState
from raysweep.records import EpochRecord, TrialRecord
from raysweep.report.explanation.sentences import as_good_said, importance_said, lead_said, sentences, value_said
from raysweep.report.explanation.values import Explanation, Importances, Noise
from raysweep.search.explaining import importance as importance_module
from raysweep.search.explaining.explain import explain
from raysweep.search.explaining.importance import importances
from raysweep.search.gp.cube import Cube
from raysweep.search.gp.model import Observations, fit
from raysweep.spec.loading import parse_spec
from raysweep.spec.sections import SweepSpec
from raysweep.spec.space import Scalar, optuna_distribution
from tests.unit.conftest import NOW, epoch_metrics

SPACE = """
name: explained
data: {dataset: digits}
trial:
  kld_weight: {low: 1e-5, high: 1e-1, log: true}
  learning_rate: {low: 1e-4, high: 1e-2, log: true}
  latent_size: {choices: [16, 2, 8]}
  likelihood: {choices: [gaussian, calibrated_gaussian]}
  hidden_size: {low: 32, high: 40}
  max_gradient_norm: {choices: [null]}
  seed: {choices: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}
search:
  trials: 24
  objective: {metric: METRIC}
  early_stopping: {asha: {max_epochs: 9, grace_epochs: 3, reduction_factor: 3}}
"""
SEARCHED = ("kld_weight", "learning_rate", "latent_size", "likelihood", "hidden_size")


def spec_of(metric: str = "elbo_nats", space: str = SPACE) -> SweepSpec:
    return parse_spec(space.replace("METRIC", metric))


SPEC = spec_of()


def points(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "kld_weight": float(10 ** rng.uniform(-5, -1)), "learning_rate": float(10 ** rng.uniform(-4, -2)),
            "latent_size": int(rng.choice([2, 8, 16])),
            "likelihood": str(rng.choice(["gaussian", "calibrated_gaussian"])),
            "hidden_size": int(rng.integers(32, 41)), "max_gradient_norm": None, "seed": int(rng.integers(10)),
        }
        for _ in range(count)
    ]  # fmt: skip


def record(
    number: int, point: dict[str, Scalar], values: Sequence[float], state: TrialState = TrialState.COMPLETED,
    spec: SweepSpec = SPEC,
) -> TrialRecord:  # fmt: skip
    metric = spec.search.objective.metric
    epochs = tuple(
        EpochRecord.of(dataclasses.replace(epoch_metrics(epoch, 0.0), **{metric: value}), NOW)
        for epoch, value in enumerate(values, 1)
    )
    ended = None if state in (TrialState.RUNNING, TrialState.PAUSED) else NOW
    return TrialRecord(number, spec.trial, point, state, epochs, ended_at=ended)


def by_weight(point: Mapping[str, Any]) -> float:
    """Best at a KLD weight of 1e-3, a little better with a small learning rate; nothing else matters."""
    return 100.0 - 20.0 * (math.log10(point["kld_weight"]) + 3) ** 2 - math.log10(point["learning_rate"])


def sweep(
    count: int, value: Callable[[Mapping[str, Any]], float] = by_weight, seed: int = 0, spec: SweepSpec = SPEC
) -> list[TrialRecord]:
    """Trials that all ran to the end, of a curve that rises to its value."""
    found = enumerate(points(count, seed))
    return [record(n, p, [value(p) * (0.5 + e / 18) for e in range(1, 10)], spec=spec) for n, p in found]


def explained(records: Sequence[TrialRecord], spec: SweepSpec = SPEC) -> Explanation:
    found = explain(spec, records)
    assert found is not None
    return found


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importance_module, "RESAMPLES", 10)
        yield


@pytest.fixture(scope="module")
def of_forty() -> Explanation:
    return explained(sweep(40))


def test_the_parameter_that_decides_stands_out_and_inert_ones_do_not(of_forty: Explanation) -> None:
    found = of_forty.importances.of
    assert set(found) == set(SEARCHED), "neither the seed nor what has one value"
    assert next(iter(found)) == "kld_weight"
    assert found["kld_weight"].stands_out
    assert not any(found[name].stands_out for name in ("likelihood", "hidden_size", "latent_size"))
    assert sum(one.share for one in found.values()) == pytest.approx(1.0)
    assert all(0 <= one.low <= one.share <= one.high <= 1 for one in found.values())
    assert of_forty.importances.trials == 40


def test_importances_are_those_of_the_better_half_not_of_failing() -> None:
    """A learning rate that is too large spoils a third of the trials; among the others only the weight counts."""

    def value(point: Mapping[str, Any]) -> float:
        return -1e4 if point["learning_rate"] > 2e-3 else -((math.log10(point["kld_weight"]) + 3) ** 2)

    found = explained(sweep(80, value)).importances.of
    assert found["kld_weight"].share > 2 * found["learning_rate"].share


def test_trials_that_diverged_failed_or_were_stopped_are_not_compared() -> None:
    records = sweep(20)
    others = [TrialState.DIVERGED, TrialState.FAILED, TrialState.PRUNED, TrialState.RUNNING, TrialState.OUT_OF_MEMORY]
    more = [
        record(20 + n, point, [1e6, 1e6] if state is not TrialState.DIVERGED else [1e6, math.nan], state)
        for n, (point, state) in enumerate(zip(points(10, 5), others * 2, strict=True))
    ]
    assert explained(records + more).importances == explained(records).importances


def test_fewer_than_eight_comparable_trials_have_no_importance_and_the_reason_says_so() -> None:
    found = explained(sweep(7))
    assert not found.importances.of
    assert importance_said(found) == (
        "Which parameter mattered most cannot be said: only 7 trials can be compared, which trained equally long; "
        "8 are needed."
    )
    assert found.model.reason == "only 7 trials have a value; 8 are needed"
    assert found.noise is None
    assert explained(sweep(8)).importances.of


def test_where_few_trained_to_the_end_they_are_compared_at_the_last_epoch_that_enough_have_reached() -> None:
    records = sweep(24)
    stopped = [
        record(r.number, r.params, [e.value("elbo_nats") for e in r.epochs[:3]], TrialState.PRUNED) for r in records[4:]
    ]
    found = explained(records[:4] + stopped)
    assert (found.importances.trials, found.importances.epoch, found.importances.ran_on) == (24, 3, 4)
    assert found.importances.of
    assert "the 24 trials that reached epoch 3, at that epoch (only 4 trained to the end)" in importance_said(found)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (lambda point: 5.0, "all 12 comparable trials came to the same elbo_nats"),
        (lambda point: -float(point["kld_weight"] > 1e-2), "the better half of the 12 comparable trials are alike"),
    ],
)  # fmt: skip
def test_equal_values_have_no_importance(value: Callable[[Mapping[str, Any]], float], reason: str) -> None:
    found = explained(sweep(12, value))
    assert found.importances.of == {}
    assert found.importances.reason == reason
    assert found.model.slices


def test_one_parameter_alone_has_no_importance_but_a_slice() -> None:
    text = SPACE.replace("{low: 1e-4, high: 1e-2, log: true}", "1e-3").replace("{choices: [16, 2, 8]}", "8")
    text = text.replace("{choices: [gaussian, calibrated_gaussian]}", "gaussian").replace("{low: 32, high: 40}", "32")
    spec = spec_of(space=text)
    names = ("kld_weight", "max_gradient_norm", "seed")
    of_one = [({name: point[name] for name in names}, by_weight(point)) for point in points(12)]
    records = [record(number, point, [value] * 9, spec=spec) for number, (point, value) in enumerate(of_one)]
    found = explained(records, spec)
    assert found.importances.of == {}
    assert found.importances.reason == "kld_weight alone differs between the trials"
    assert list(found.model.slices) == ["kld_weight"]


def test_a_parameter_of_two_values_can_be_the_important_one() -> None:
    def value(point: Mapping[str, Any]) -> float:
        return 10.0 * (point["likelihood"] == "gaussian") + point["hidden_size"] / 100

    found = explained(sweep(40, value)).importances.of
    # All of the better half have it: within that half it says nothing any more.
    assert next(iter(found)) == "hidden_size"


def test_many_trials_are_thinned_evenly_by_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    true = importance_module._Divergences
    monkeypatch.setattr(importance_module, "RESAMPLES", 1)
    monkeypatch.setattr(importance_module, "ORDERS", 1)
    monkeypatch.setattr(importance_module, "_Divergences", lambda p, s: seen.append(len(p)) or true(p, s))
    space = {name: optuna_distribution(name, SPEC.trial.searched[name]) for name in SEARCHED}
    found = importances(sweep(500), "elbo_nats", 1.0, space)
    assert seen == [200]
    assert (found.trials, next(iter(found.of))) == (500, "kld_weight")


def test_the_same_trials_in_any_order_are_explained_alike(of_forty: Explanation) -> None:
    assert explained(sweep(40)[::-1]) == of_forty


def test_a_slice_has_its_best_value_where_the_trials_do_and_says_how_sure(of_forty: Explanation) -> None:
    one = of_forty.model.slices["kld_weight"]
    assert one.is_range
    assert 3e-4 < float(one.best or 0) < 3e-3
    assert one.values[0] == pytest.approx(1e-5)
    assert one.values[-1] == pytest.approx(1e-1)
    assert one.best in one.as_good
    assert not one.is_flat
    at = dict(zip(one.values, one.means, strict=True))
    assert at[one.best] == max(one.means)
    top = one.values.index(one.best)
    as_good = [value for value in one.values if at[value] >= one.means[top] - one.sds[top]]
    assert list(one.as_good) == as_good, "they lie side by side here"
    for weight, mean, sd in zip(one.values, one.means, one.sds, strict=True):
        assert abs(mean - by_weight({**of_forty.params, "kld_weight": weight})) < 4 * sd + 2.0


def test_choices_have_their_own_values_in_order_and_whole_numbers_stay_whole(of_forty: Explanation) -> None:
    slices = of_forty.model.slices
    assert slices["latent_size"].values == (2, 8, 16)
    assert slices["likelihood"].values == ("gaussian", "calibrated_gaussian")
    assert slices["hidden_size"].values == tuple(range(32, 41))
    assert as_good_said(slices["hidden_size"]) == "anywhere"
    assert as_good_said(slices["likelihood"]) in ("any", str(slices["likelihood"].best))


def test_where_less_is_better_the_slice_s_best_is_its_least() -> None:
    spec = spec_of("bits_per_dim")
    found = explained(sweep(24, lambda point: -by_weight(point), spec=spec), spec)
    one = found.model.slices["kld_weight"]
    assert 3e-4 < float(one.best or 0) < 3e-3
    assert min(one.means) == dict(zip(one.values, one.means, strict=True))[one.best]
    assert found.rivals[0].behind >= 0
    assert next(iter(found.importances.of)) == "kld_weight"


def test_a_trial_that_diverged_drags_its_neighbourhood_down_and_one_that_failed_does_not() -> None:
    records = sweep(20)
    there = {**points(1, 9)[0], "kld_weight": 1e-5}
    diverged = explained([*records, record(20, there, [1.0, math.nan], TrialState.DIVERGED)])
    failed = explained([*records, record(20, there, [], TrialState.FAILED)])
    assert failed.model.slices == explained(records).model.slices
    assert diverged.model.slices["kld_weight"].means[0] != failed.model.slices["kld_weight"].means[0]


def test_noise_is_about_that_of_single_trials_though_their_curves_are_smooth() -> None:
    rng = np.random.default_rng(3)
    found = explained(sweep(30, lambda point: by_weight(point) + 8.0 * rng.standard_normal()))
    assert found.noise is not None
    assert not found.noise.from_repeats
    assert 5.0 < found.noise.sd < 24.0


def test_trials_that_differ_in_their_seed_alone_tell_the_noise() -> None:
    records = sweep(20)
    rng = np.random.default_rng(0)
    same = [
        record(20 + n, {**records[0].params, "seed": n}, [90.0 + 3.0 * rng.standard_normal()] * 9) for n in range(10)
    ]
    noise = explained(records + same).noise
    assert noise is not None
    assert noise.from_repeats
    assert noise.trials in (10, 11)
    assert 1.0 < noise.sd < 20.0


def test_trials_that_were_confirmed_are_compared_by_their_means_and_tell_the_noise() -> None:
    records = sweep(12)
    best, second = sorted(records, key=lambda one: -one.last("elbo_nats"))[:2]

    def confirmed(one: TrialRecord, *values: float) -> TrialRecord:
        again = [
            dataclasses.replace(record(90 + n, one.params, [value] * 9), confirms=one.number, seed=1000 + n)
            for n, value in enumerate(values)
        ]
        return dataclasses.replace(one, confirmed_by=tuple(again))

    both = {best.number: confirmed(best, 60.0, 62.0, 64.0), second.number: confirmed(second, 90.0, 92.0, 94.0)}
    found = explained([both.get(one.number, one) for one in records])
    assert (found.trial, found.again, found.mean) == (second.number, 3, 92.0)
    assert (found.rivals[0].trial, found.rivals[0].again, found.rivals[0].behind) == (best.number, 3, 30.0)
    assert found.noise == Noise(2.0, 6, from_repeats=True)
    said = lead_said(found, "results/kld")
    assert "92 on average of 3 trainings with other seeds, 30 ahead of trial" in said
    assert "differences under 3.201 may be noise" in said


def with_noise(found: Explanation, sd: float) -> Explanation:
    return dataclasses.replace(found, noise=Noise(sd, 12, from_repeats=False))


def test_the_lead_is_told_apart_from_noise_or_not(of_forty: Explanation) -> None:
    first = of_forty.rivals[0]
    clear = lead_said(with_noise(of_forty, first.behind / 10), "results/kld")
    assert f"ahead of trial {first.trial}" in clear
    assert f"trial {of_forty.trial} is ahead of all others by more than that" in clear
    unclear = lead_said(with_noise(of_forty, 1e6), "results/kld")
    assert "it cannot be told apart from trials" in unclear
    assert (
        "and 34 more. To tell them apart, train them again with other seeds: raysweep resume results/kld --confirm 5x3"
        in unclear
    )
    alone = dataclasses.replace(of_forty, rivals=())
    assert "No other trial was trained for as long" in lead_said(alone, "results/kld")


def test_rivals_are_only_trials_that_were_trained_for_as_long() -> None:
    records = sweep(10)
    stopped = [record(10 + n, p, [1e3] * 3, TrialState.PRUNED) for n, p in enumerate(points(3, 4))]
    assert {rival.trial for rival in explained(records + stopped).rivals} < set(range(10))


def test_what_does_not_stand_out_is_not_said_to_matter() -> None:
    rng = np.random.default_rng(1)
    found = explained(sweep(16, lambda point: rng.standard_normal()))
    out = [name for name, one in found.importances.of.items() if one.stands_out]
    said = importance_said(dataclasses.replace(found, importances=_chance(found.importances)))
    assert "no parameter stands out" in said
    assert len(out) <= 1


def _chance(found: Importances) -> Importances:
    return dataclasses.replace(found, of={n: dataclasses.replace(one, chance=0.5) for n, one in found.of.items()})


def test_no_trial_with_a_result_is_nothing_to_explain() -> None:
    assert explain(SPEC, []) is None
    assert explain(SPEC, [record(0, points(1)[0], [], TrialState.FAILED)]) is None


def test_sentences_are_whole_and_short(of_forty: Explanation) -> None:
    for sentence in sentences(of_forty, "results/kld"):
        assert sentence.endswith(".")
        assert "nan" not in sentence


@pytest.mark.parametrize(("value", "said"), [(1.234e-5, "1.23e-5"), (0.0123456, "0.0123"), (None, "none"), (8, "8")])
def test_values_are_written_in_three_digits(value: Scalar, said: str) -> None:
    assert value_said(value) == said


def test_what_a_model_without_a_group_misses_is_what_it_would_miss_had_it_never_seen_it() -> None:
    rng = np.random.default_rng(0)
    cube = Cube({name: optuna_distribution(name, SPEC.trial.searched[name]) for name in SEARCHED})
    rows = np.repeat(cube.spread(rng.random((8, 5))), 2, axis=0)
    seen = Observations(rows, np.tile([0.5, 1.0], 8), rng.standard_normal(16))
    posterior = fit(seen, cube.is_ordered)
    missed = posterior.missed_by([[4, 5]])[0]
    others = [index for index in range(16) if index not in (4, 5)]
    covariance = posterior.covariance
    known = covariance.between(rows[others], seen.times[others], rows[others], seen.times[others])
    known[np.diag_indices(14)] = covariance.signal + covariance.noise
    across = covariance.between(rows[[4, 5]], seen.times[[4, 5]], rows[others], seen.times[others])
    centred = seen.values - np.mean(seen.values)
    expected = across @ np.linalg.solve(known, centred[others])
    assert missed == pytest.approx(centred[[4, 5]] - expected, rel=1e-6)
