"""Claims and their verdicts: each test on sweeps in which the truth is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from raysweep.metrics import TrialState
from raysweep.report.findings.decisions import Finding, decide_claims
from raysweep.report.findings.gridverdicts import judge_best
from raysweep.report.findings.intervals import mean_draws
from raysweep.report.findings.observations import SweepTables
from raysweep.report.findings.page import findings_markdown, findings_table, findings_text, write_findings
from raysweep.storage.layout import SweepDirectory
from tests.unit.report.findings_sweeps import WEIGHTS, decide, epoch, grid, space, tables, trial

REDUCTIONS = {"reduction": {"choices": ["pixel_mean", "pixel_and_latent_mean"]}}

OTHER_DATA = "it needs a sweep of the other data set, given beside this one"


def trial_section(**fields: Any) -> dict[str, Any]:
    return {"kld_weight": {"choices": WEIGHTS}, "seed": {"choices": [0, 1, 2]}} | fields


def verdict(claim: Mapping[str, Any], measure: Any, **sections: Any) -> str:
    return str(decide(claim, measure, **sections).verdict)


def figure(finding: Finding, start: str) -> Any:
    return next(figure for figure in finding.outcome.figures if figure.name.startswith(start))


ALWAYS = {"test": "always", "condition": "rate_nats >= 0"}


def test_always_holds_where_every_trial_meets_the_condition_and_one_that_does_not_refutes_it() -> None:
    finding = decide(ALWAYS, lambda p: {"rate_nats": 1.0})
    assert finding.verdict == "holds"
    (share,) = finding.outcome.figures
    assert (share.value, share.n) == (1.0, 12)
    assert share.low == pytest.approx(0.757, abs=1e-3), "Wilson's interval of 12 of 12"
    finding = decide(ALWAYS, lambda p: {"rate_nats": -1.0 if p["seed"] == 2 and p["kld_weight"] == 0.5 else 1.0})
    assert finding.verdict == "refuted"
    assert finding.outcome.reason == "1 of 12 trials do not meet it: trial 11 (rate_nats -1)"


def test_always_sees_every_epoch_and_names_the_one_that_contradicts() -> None:
    spec = space([ALWAYS | {"each": "epoch"}])
    record = trial(spec, 0, {"kld_weight": 0.5, "seed": 0}, {})
    bad = trial(spec, 1, {"kld_weight": 0.5, "seed": 1}, {}, state=TrialState.DIVERGED)
    object.__setattr__(bad, "epochs", (epoch(1, rate_nats=-0.077), epoch(2)))
    (finding,) = decide_claims(spec.claims, [tables(spec, [record, bad])])
    assert finding.verdict == "refuted"
    assert "trial 1 after epoch 1 (rate_nats -0.077)" in finding.outcome.reason
    (finding,) = decide_claims(spec.claims, [tables(spec, [record])])
    assert (str(finding.verdict), finding.outcome.rows) == ("holds", 2)


def test_always_can_speak_of_how_trials_ended() -> None:
    spec = space([{"test": "always", "condition": "state == 'diverged'", "where": "kld_weight == 0.5"}])
    records = [
        trial(spec, n, {"kld_weight": 0.5, "seed": n}, {"rate_nats": math.nan}, state=TrialState.DIVERGED)
        for n in range(3)
    ]
    running = trial(spec, 3, {"kld_weight": 0.5, "seed": 0}, {}, state=TrialState.RUNNING)
    (finding,) = decide_claims(spec.claims, [tables(spec, [*records, running])])
    assert (str(finding.verdict), finding.outcome.rows) == ("holds", 3), "a running trial has not ended in any way"


def test_a_null_is_left_out_and_counted() -> None:
    claim = {"test": "always", "condition": "test_kid < 1"}
    finding = decide(claim, lambda p: {"test_kid": None if p["seed"] else 0.5})
    assert (str(finding.verdict), finding.outcome.rows, finding.outcome.left_out) == ("holds", 4, 8)


SEPARATES = {"test": "separates", "condition": "r2 > 0.02", "over": "kld_weight", "below": 0.05}


def test_separates_holds_where_the_condition_turns_at_the_value() -> None:
    finding = decide(SEPARATES, lambda p: {"r2": 0.5 if p["kld_weight"] < 0.04 else 0.0})
    assert finding.verdict == "holds"
    turn = figure(finding, "kld_weight between which")
    assert (turn.low, turn.high) == (0.005, 0.05)
    assert figure(finding, "kld_weight from which on collapse was predicted").value == 0.0147


def test_separates_is_refuted_by_where_the_condition_turns_in_fact() -> None:
    finding = decide(SEPARATES, lambda p: {"r2": 0.5 if p["kld_weight"] < 0.004 else 0.0})
    assert finding.verdict == "refuted"
    assert finding.outcome.reason == "the condition is not met by 3 trials with kld_weight below 0.05 (at 0.005)"
    turn = figure(finding, "kld_weight between which")
    assert (turn.low, turn.high) == (0.0005, 0.005)


def test_separates_above_is_below_turned_round() -> None:
    claim = {key: value for key, value in SEPARATES.items() if key != "below"} | {"above": 0.005}
    assert verdict(claim, lambda p: {"r2": 0.5 if p["kld_weight"] > 0.005 else 0.0}) == "holds"
    assert verdict(claim, lambda p: {"r2": 0.5 if p["kld_weight"] > 0.0005 else 0.0}) == "refuted"


def test_a_value_of_a_grid_that_rounding_moved_is_still_the_value() -> None:
    claim = {key: value for key, value in SEPARATES.items() if key != "below"} | {"above": 0.3}
    steps = {"kld_weight": {"low": 0.1, "high": 0.5, "step": 0.1}, "seed": {"choices": [0, 1, 2]}}
    assert verdict(claim, lambda p: {"r2": 0.5 if p["kld_weight"] > 0.35 else 0.0}, trial=steps) == "holds"


BEST_AT = {"test": "best_at", "over": "kld_weight", "value": 0.005, "metrics": "test_recall"}


def near(value: float, seed: int, spread: float = 0.01) -> float:
    return value + spread * (seed - 1)


def recall(point: Mapping[str, Any]) -> dict[str, float]:
    means = {0.0005: 0.4, 0.005: 0.7, 0.05: 0.2, 0.5: 0.0}
    return {"test_recall": near(means[point["kld_weight"]], point["seed"])}


def test_best_at_holds_refutes_or_asks_for_more_seeds() -> None:
    assert verdict(BEST_AT, recall) == "holds"
    assert verdict(BEST_AT | {"value": 0.05}, recall) == "refuted"
    noise = [0.3, -0.4, 0.2]

    def noisy(point: Mapping[str, Any]) -> dict[str, float]:
        sign = 1 if point["kld_weight"] == 0.005 else -1
        return {"test_recall": recall(point)["test_recall"] + sign * noise[point["seed"]]}

    finding = decide(BEST_AT, noisy)
    assert finding.verdict == "not decidable here"
    assert finding.outcome.reason.endswith("more seeds would tell")


def test_best_at_follows_the_metric_s_direction_and_an_expression_needs_one() -> None:
    def kid(point: Mapping[str, Any]) -> dict[str, float]:
        return {"test_kid": 1 - recall(point)["test_recall"]}

    assert verdict(BEST_AT | {"metrics": "test_kid"}, kid) == "holds"
    assert verdict(BEST_AT | {"metrics": "1 - test_kid", "mode": "max"}, kid) == "holds"
    assert verdict(BEST_AT | {"metrics": "1 - test_kid", "mode": "min"}, kid) == "refuted"


def test_best_at_leaves_out_values_that_do_not_meet_its_condition() -> None:
    claim = BEST_AT | {"subject_to": "test_reconstruction_accuracy >= 0.95 * best(test_reconstruction_accuracy)"}

    def measured(accuracy: float) -> Any:
        return lambda p: (
            recall(p) | {"test_reconstruction_accuracy": near(accuracy if p["kld_weight"] == 0.005 else 0.9, p["seed"])}
        )

    assert verdict(claim, measured(0.9)) == "holds"
    finding = decide(claim, measured(0.6))
    assert finding.verdict == "refuted", "it is the best, but not among those whose reconstructions are good"
    assert figure(finding, "draws in which kld_weight 0.005 meets").value == 0
    assert verdict(claim | {"subject_to": "test_reconstruction_accuracy > 2"}, measured(0.9)) == "refuted"


def test_best_at_means_all_its_metrics() -> None:
    def both(point: Mapping[str, Any]) -> dict[str, float]:
        return recall(point) | {"test_coverage": near(point["kld_weight"], point["seed"], 1e-5)}

    assert verdict(BEST_AT | {"metrics": ["test_recall", "test_coverage"]}, both) == "refuted"


def test_a_claim_that_depends_on_the_convention_says_where_it_holds() -> None:
    def diverse(point: Mapping[str, Any]) -> dict[str, float]:
        best = 0.005 if point["reduction"] == "pixel_and_latent_mean" else 0.0005
        return {"test_recall": near(0.7 if point["kld_weight"] == best else 0.2, point["seed"])}

    finding = decide(BEST_AT | {"across": "reduction"}, diverse, trial=trial_section(**REDUCTIONS))
    assert finding.verdict == "depends on the convention"
    assert finding.outcome.reason == (
        "holds at reduction pixel_and_latent_mean; refuted at reduction pixel_mean"
    )  # fmt: skip
    assert [str(part.outcome.verdict) for part in finding.parts] == ["holds", "refuted"]


def test_a_claim_across_conventions_that_agree_has_their_verdict() -> None:
    finding = decide(BEST_AT | {"across": "reduction"}, recall, trial=trial_section(**REDUCTIONS))
    assert finding.verdict == "holds"
    finding = decide(BEST_AT | {"across": "reduction"}, recall)
    assert finding.verdict == "holds"
    assert "pixel_mean, the only one here; search reduction" in finding.outcome.reason


LATENTS = {"trial": {"latent_size": {"choices": [16, 256]}, "seed": {"choices": [0, 1, 2]}, "kld_weight": 0.005}}
COMPARE = {
    "test": "compare",
    "first": {"latent_size": 256},
    "second": {"latent_size": 16},
    "metrics": "test_silhouette",
}


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        (0.1, {"greater": "holds", "less": "refuted", "not_greater": "refuted", "not_less": "holds",
               "equivalent": "refuted"}),
        (-0.1, {"greater": "refuted", "less": "holds", "not_greater": "holds", "not_less": "refuted",
                "equivalent": "refuted"}),
        (0.0, {"greater": "refuted", "less": "refuted", "not_greater": "holds", "not_less": "holds",
               "equivalent": "holds"}),
        (0.05, dict.fromkeys(["greater", "less", "not_greater", "not_less", "equivalent"], "not decidable here")
               | {"less": "refuted", "not_less": "holds"}),
        (-0.051, dict.fromkeys(["less", "not_less", "equivalent"], "not decidable here")
                 | {"greater": "refuted", "not_greater": "holds"}),
        (0.048, dict.fromkeys(["greater", "not_greater", "equivalent"], "not decidable here")
                | {"less": "refuted", "not_less": "holds"}),
    ],
)  # fmt: skip
def test_compare_reads_its_verdict_off_the_interval(difference: float, expected: dict[str, str]) -> None:
    def silhouette(point: Mapping[str, Any]) -> dict[str, float]:
        seed = point["seed"]  # large differences between seeds do not matter: pairs have the same
        value = 10.0 * seed + (difference + 0.001 * seed if point["latent_size"] == 256 else 0.0)
        return {"test_silhouette": value}

    found = {
        expect: verdict(COMPARE | {"expect": expect, "margin": 0.05}, silhouette, **LATENTS) for expect in expected
    }
    assert found == expected


def test_compare_means_what_a_t_interval_says() -> None:
    finding = decide(
        COMPARE | {"expect": "greater"},
        lambda p: {"test_silhouette": [0.1, 0.2, 0.4][p["seed"]] if p["latent_size"] == 256 else 0.0}, **LATENTS,
    )  # fmt: skip
    found = figure(finding, "test_silhouette, first minus second")
    assert (found.value, found.n) == (pytest.approx(0.2333, abs=1e-4), 3)
    assert (found.low, found.high) == (pytest.approx(-0.1461, abs=1e-4), pytest.approx(0.6128, abs=1e-4))
    assert finding.verdict == "not decidable here"


def test_compare_with_too_few_seeds_says_what_to_run() -> None:
    spec = space([COMPARE | {"expect": "greater"}], **LATENTS)
    points = [point for point in spec.trial.grid() if point["seed"] < 2]
    records = [trial(spec, n, point, {"test_silhouette": 0.1}) for n, point in enumerate(points)]
    (finding,) = decide_claims(spec.claims, [tables(spec, records)])
    assert finding.verdict == "not decidable here"
    assert "2 pairs" in finding.outcome.reason
    assert "at least 3 are needed; search seed as well" in finding.outcome.reason


def test_compare_takes_conditions_for_points() -> None:
    claim = {"test": "compare", "first": {"kld_weight": 0.5}, "second": "kld_weight <= 0.005", "metrics": "test_kid",
             "expect": "greater"}  # fmt: skip
    finding = decide(claim, lambda p: {"test_kid": near(p["kld_weight"], p["seed"])})
    assert finding.verdict == "holds"
    assert figure(finding, "test_kid at `kld_weight <= 0.005`").value == pytest.approx((0.0005 + 0.005) / 2)


def test_points_that_share_trials_cannot_be_compared() -> None:
    claim = {"test": "compare", "first": "kld_weight <= 0.05", "second": "kld_weight >= 0.05", "expect": "less"}
    finding = decide(claim, lambda p: {})
    assert (str(finding.verdict), finding.outcome.reason) == ("not decidable here", "3 trials are at both points")


def hand_picked(claimed: Mapping[str, Any], hand: float, found: float, sweeps: int) -> Finding:
    """Sweeps of six random trials each and a point that was given."""
    sections = {
        "trial": {"kld_weight": {"low": 1e-5, "high": 1e-1, "log": True}},
        "search": {"trials": 7, "enqueue": [{"kld_weight": 0.01}]},
    }
    several = []
    for sweep in range(sweeps):
        spec = space([claimed], **sections)
        records = [trial(spec, 0, {"kld_weight": 0.01}, {"elbo_nats": near(hand, sweep)}, enqueued=True)]
        records += [
            trial(spec, n, {"kld_weight": 1e-4 * n}, {"elbo_nats": near(found, sweep) - n}) for n in range(1, 7)
        ]
        several.append(tables(spec, records))
    (finding,) = decide_claims(several[0].spec.claims, several)
    return finding


def test_a_hand_picked_point_is_compared_with_the_sampler_s_best_of_each_sweep() -> None:
    claim = {"test": "compare", "first": {"enqueued": True}, "second": "best", "expect": "not_less"}
    assert hand_picked(claim, 20.0, 19.0, 3).verdict == "holds"
    finding = hand_picked(claim, 20.0, 25.0, 3)
    assert finding.verdict == "refuted"
    assert figure(finding, "objective, first minus second").value == pytest.approx(-4.0)
    assert figure(finding, "trials that the best trial by the objective is chosen from").value == 6
    alone = hand_picked(claim, 20.0, 25.0, 1)
    assert alone.verdict == "not decidable here"
    assert "name all their directories" in alone.outcome.reason


def test_sweeps_of_two_data_sets_are_compared_seed_by_seed() -> None:
    claim = {"test": "compare", "first": {"dataset": "cifar10"}, "second": {"dataset": "digits"}, "expect": "less",
             "metrics": "test_reconstruction_sharpness / test_floor_sharpness"}  # fmt: skip

    def sharpness(ratio: float) -> Any:
        return lambda p: {"test_reconstruction_sharpness": near(ratio, p["seed"]) * 3, "test_floor_sharpness": 3.0}

    section = {"trial": {"seed": {"choices": [0, 1, 2]}}}
    digits, colour = space([claim], **section), space([claim], data={"dataset": "cifar10"}, **section)
    both = [grid(digits, sharpness(0.8)), grid(colour, sharpness(0.3))]
    (finding,) = decide_claims(digits.claims, both)
    assert finding.verdict == "holds"
    assert finding.sweeps[1] == "grid (2): 3 of 3 trials on cifar10 completed"
    (finding,) = decide_claims(digits.claims, both[:1])
    assert finding.verdict == "not decidable here"
    assert finding.outcome.reason == f"no trial is at dataset = cifar10; dataset is digits here; {OTHER_DATA}"


WITHIN = {"test": "within", "over": "kld_weight", "margins": {"psnr_db": 1.0}, "where": "kld_weight <= 5e-3"}


def test_within_holds_only_where_the_margin_contains_the_intervals() -> None:
    def psnr(gap: float, spread: float) -> Any:
        return lambda p: {"psnr_db": 20 + gap * (p["kld_weight"] == 0.005) * (1 + spread * (p["seed"] - 1))}

    assert verdict(WITHIN, psnr(0.3, 0.2)) == "holds"
    assert verdict(WITHIN, psnr(3.0, 0.1)) == "refuted"
    assert verdict(WITHIN, psnr(0.9, 0.9)) == "not decidable here"
    assert verdict(WITHIN, psnr(0.9, 0.08)) == "not decidable here", "its 90% interval ends at 1.02"
    assert verdict(WITHIN, psnr(1.1, 0.3)) == "not decidable here", "its 95% interval begins at 0.28"
    assert verdict({**WITHIN, "where": "kld_weight >= 5e-3"}, psnr(0.3, 0.2)) == "holds", "0.05 and 0.5 are the same"


def test_a_metric_beyond_its_margin_refutes_whatever_was_not_measured() -> None:
    claim = WITHIN | {"margins": {"psnr_db": 1.0, "test_reconstruction_accuracy": 0.02}}
    assert verdict(claim, lambda p: {"psnr_db": near(300 * p["kld_weight"], p["seed"])}) == "refuted"
    finding = decide(claim, lambda p: {"psnr_db": near(20, p["seed"])})
    assert finding.verdict == "not decidable here"
    assert "set evaluation: {final_metrics: all}" in finding.outcome.reason


TREND = {"test": "trend", "over": "kld_weight", "metrics": "rate_nats", "expect": "falls"}


def test_a_trend_holds_is_refuted_or_stays_open() -> None:
    def rate(sign: int) -> Any:
        return lambda p: {"rate_nats": sign * math.log(p["kld_weight"]) + p["seed"]}

    finding = decide(TREND, rate(-1))
    assert finding.verdict == "holds"
    assert figure(finding, "rank correlation").value == pytest.approx(-1)
    assert verdict(TREND, rate(1)) == "refuted"
    scrambled = {0: [3, 1, 4, 2], 1: [1, 2, 4, 3], 2: [4, 3, 2, 1]}
    finding = decide(TREND, lambda p: {"rate_nats": scrambled[p["seed"]][WEIGHTS.index(p["kld_weight"])]})
    assert finding.verdict == "not decidable here"


def test_the_opposite_trend_refutes_however_wide_the_interval_is() -> None:
    orders = {0: [1, 2, 3, 4], 1: [1, 2, 3, 4], 2: [2, 4, 1, 3]}

    def rising(point: Mapping[str, Any]) -> dict[str, float]:
        return {"rate_nats": orders[point["seed"]][WEIGHTS.index(point["kld_weight"])]}

    finding = decide(TREND | {"min_correlation": 0.01}, rising)
    assert finding.verdict == "refuted"
    assert figure(finding, "rank correlation").low < -0.01, "by the interval alone it would be open"


def test_a_trend_of_random_trials_needs_no_repeats() -> None:
    spec = space([TREND], trial={"kld_weight": {"low": 1e-5, "high": 1e-1, "log": True}}, search={"trials": 20})
    records = [trial(spec, n, {"kld_weight": 10 ** (-5 + n / 5)}, {"rate_nats": 50.0 - n}) for n in range(20)]
    (finding,) = decide_claims(spec.claims, [tables(spec, records)])
    assert (str(finding.verdict), finding.outcome.rows) == ("holds", 20)
    (finding,) = decide_claims(spec.claims, [tables(spec, records[:5])])
    assert finding.verdict == "not decidable here"


def test_trials_that_were_stopped_early_are_not_compared() -> None:
    spec = space([TREND])
    records = [
        trial(spec, n, point, {"rate_nats": -math.log(point["kld_weight"])}, state=TrialState.PRUNED)
        for n, point in enumerate(spec.trial.grid())
    ]
    (finding,) = decide_claims(spec.claims, [tables(spec, records)])
    assert finding.verdict == "not decidable here"
    assert finding.outcome.reason == "no trial has a result that counts yet"
    assert finding.sweeps == ("grid: 0 of 12 trials on digits completed, 12 pruned",)


def test_a_point_that_lacks_a_trial_is_left_out_of_a_grid() -> None:
    spec = space([BEST_AT])
    records = [trial(spec, n, point, recall(point)) for n, point in enumerate(spec.trial.grid())]
    (finding,) = decide_claims(spec.claims, [tables(spec, records[:-1])])
    assert finding.verdict == "not decidable here"
    assert "only 2 of the seeds have a trial at each of the 4 values of kld_weight" in finding.outcome.reason
    assert (finding.outcome.rows, finding.outcome.left_out) == (8, 3)


def test_a_region_without_trials_says_what_there_is() -> None:
    finding = decide(WITHIN | {"where": "dataset == 'cifar10'"}, lambda p: {})
    assert finding.verdict == "not decidable here"
    assert (
        finding.outcome.reason == f"no trial meets where: `dataset == 'cifar10'`; dataset is digits here; {OTHER_DATA}"
    )


def test_a_value_as_good_as_others_is_not_refuted_for_being_best_seldom() -> None:
    spread = {0: [0.3, -0.2, 0.1, -0.2], 1: [-0.3, 0.2, 0.2, -0.1], 2: [0.1, 0.1, -0.3, 0.2]}

    def equal(point: Mapping[str, Any]) -> dict[str, float]:
        return {"test_recall": spread[point["seed"]][WEIGHTS.index(point["kld_weight"])]}

    assert {verdict(BEST_AT | {"value": value}, equal) for value in WEIGHTS} == {"not decidable here"}


def test_a_value_is_refuted_by_one_rival_that_beats_it_though_two_rivals_are_equal() -> None:
    def twins(point: Mapping[str, Any]) -> dict[str, float]:
        at = WEIGHTS.index(point["kld_weight"])
        return {"test_recall": [0.2, 0.7, 0.7, 0.0][at] + 0.01 * (point["seed"] - 1) * (-1) ** at}

    finding = decide(BEST_AT | {"value": 0.5}, twins)
    assert finding.verdict == "refuted"
    assert "beats 0.5 in 100%" in finding.outcome.reason
    assert verdict(BEST_AT, twins) == "not decidable here"


def test_best_at_may_claim_one_of_several_values() -> None:
    def twins(point: Mapping[str, Any]) -> dict[str, float]:
        at = WEIGHTS.index(point["kld_weight"])
        return {"test_recall": [0.2, 0.7, 0.7, 0.0][at] + 0.01 * (point["seed"] - 1) * (-1) ** at}

    finding = decide(BEST_AT | {"value": [0.005, 0.05]}, twins)
    assert finding.verdict == "holds"
    assert "The best kld_weight by the mean test_recall is 0.005 or 0.05" in finding.test
    assert verdict(BEST_AT | {"value": [0.0005, 0.5]}, twins) == "refuted", "either twin beats both ends"
    assert verdict(BEST_AT | {"value": [0.005, 0.5]}, twins) == "not decidable here"


@pytest.mark.parametrize(("count", "repeats"), [(2, 3), (6, 3), (8, 5), (20, 3)])
def test_a_best_value_is_seldom_refuted_and_so_is_one_of_equals(count: int, repeats: int) -> None:
    generator = np.random.default_rng(3)
    refuted = {0.0: 0, 0.5: 0}
    for gap in refuted:
        for _ in range(150):
            sample = generator.standard_normal((repeats, count))
            sample[:, 0] += gap
            draws = mean_draws(sample)
            refuted[gap] += judge_best(draws, np.ones(draws.shape, dtype=bool), [0]).verdict == "refuted"
    assert refuted[0.5] / 150 <= 0.05
    assert refuted[0.0] / 150 <= 0.09, "some 5%; of 20 equals 77% were by how seldom they win"


def test_values_at_which_a_metric_is_never_known_are_named() -> None:
    def gappy(point: Mapping[str, Any]) -> dict[str, Any]:
        collapsed = point["kld_weight"] == 0.5
        return {"test_knn_accuracy": None if collapsed else near(-math.log(point["kld_weight"]), point["seed"])}

    note = "kld_weight 0.5 has no test_knn_accuracy: left out"
    three = [
        {"test": "trend", "over": "kld_weight", "metrics": "test_knn_accuracy", "expect": "falls"},
        {"test": "best_at", "over": "kld_weight", "value": 0.0005, "metrics": "test_knn_accuracy"},
        {"test": "within", "over": "kld_weight", "margins": {"test_knn_accuracy": 99.0}},
    ]
    for claim in three:
        finding = decide(claim, gappy)
        assert finding.verdict == "holds"
        assert note in finding.outcome.reason
        assert finding.outcome.left_out == 3
    finding = decide(three[1] | {"value": 0.5}, gappy)
    assert finding.verdict == "not decidable here"
    assert note in finding.outcome.reason
    finding = decide(three[1] | {"value": [0.005, 0.5]}, gappy)
    assert finding.verdict == "not decidable here", "the best may be where nothing is known"
    assert "not every claimed value has a trial that counts" in finding.outcome.reason
    spec = space([three[0]], trial={"kld_weight": {"low": 1e-5, "high": 1e-1, "log": True}}, search={"trials": 20})
    records = [
        trial(spec, n, {"kld_weight": 10 ** (-5 + n / 5)}, {"test_knn_accuracy": 1.0 - n / 20 if n < 19 else None})
        for n in range(20)
    ]
    (finding,) = decide_claims(spec.claims, [tables(spec, records)])
    assert finding.verdict == "holds"
    assert "kld_weight 0.0631 has no test_knn_accuracy: left out" in finding.outcome.reason


def test_a_value_whose_metric_is_known_for_one_seed_is_named_where_seeds_are_too_few() -> None:
    def gappy(point: Mapping[str, Any]) -> dict[str, Any]:
        lost = point["kld_weight"] == 0.5 and point["seed"] > 0
        return {"test_knn_accuracy": None if lost else 0.5}

    claim = {"test": "trend", "over": "kld_weight", "metrics": "test_knn_accuracy", "expect": "falls"}
    finding = decide(claim, gappy)
    assert finding.verdict == "not decidable here"
    assert "test_knn_accuracy is known for 1 of 3 trials at kld_weight 0.5" in finding.outcome.reason


def test_null_is_a_value_of_a_parameter() -> None:
    section = {"hidden_size": {"choices": [None, 64]}, "seed": {"choices": [0, 1, 2]}}
    claim = {"test": "best_at", "over": "hidden_size", "value": None, "metrics": "psnr_db"}

    def psnr(point: Mapping[str, Any]) -> dict[str, float]:
        return {"psnr_db": near(20 if point["hidden_size"] is None else 10, point["seed"])}

    assert verdict(claim, psnr, trial=section) == "holds"
    assert verdict(claim | {"value": 64}, psnr, trial=section) == "refuted"


def test_each_metric_of_several_has_its_own_verdict_in_the_reason() -> None:
    claim = WITHIN | {"margins": {"psnr_db": 1.0, "r2": 0.1, "mse": 1.0}}

    def measured(point: Mapping[str, Any]) -> dict[str, float]:
        high = point["kld_weight"] == 0.005
        return {"psnr_db": near(20 + 3 * high, point["seed"]), "r2": high * [0.1, -0.1, 0.3][point["seed"]]}

    finding = decide(claim, measured)
    assert finding.verdict == "refuted"
    by_mse, by_psnr, by_r2 = finding.outcome.reason.split("; by ")
    assert by_mse.startswith("by mse it holds: mse differs")
    assert by_psnr.startswith("psnr_db it is refuted: psnr_db differs by up to 3 dB")
    assert "narrower" not in by_psnr
    assert by_r2.startswith("r2 it is not decidable here: r2 differs")
    assert by_r2.endswith("more seeds make them narrower")


def test_separates_names_the_column_on_both_sides() -> None:
    finding = decide(SEPARATES, lambda p: {"r2": 0.5 if p["kld_weight"] < 0.04 else 0.0})
    assert finding.outcome.reason == (
        "all trials with kld_weight below 0.05 meet the condition, and none with kld_weight of 0.05 or more does"
    )


def test_sweeps_that_differ_in_more_than_the_points_name_are_paired_by_columns() -> None:
    claim = {"test": "compare", "first": {"dataset": "cifar10"}, "second": {"dataset": "digits"}, "expect": "less",
             "metrics": "test_r2"}  # fmt: skip
    seeds = {"seed": {"choices": [0, 1, 2]}}
    digits = space([claim], trial=seeds | {"epochs": 10, "latent_size": {"choices": [2, 10]}})
    colour = space([claim], trial=seeds | {"epochs": 50}, data={"dataset": "cifar10"})
    pair = [
        grid(digits, lambda p: {"test_r2": near(0.8, p["seed"]) + 0.01 * p["latent_size"]}),
        grid(colour, lambda p: {"test_r2": near(0.4, p["seed"])}),
    ]
    (finding,) = decide_claims(digits.claims, pair)
    assert finding.verdict == "not decidable here"
    (paired,) = space([claim | {"pair_by": ["seed"]}]).claims
    (finding,) = decide_claims([paired], pair)
    assert finding.verdict == "holds"
    assert "in pairs that agree in seed" in finding.test
    found = figure(finding, "test_r2, first minus second")
    assert (found.value, found.n) == (pytest.approx(0.4 - 0.86), 3), "two latent sizes of one seed are averaged"


def by_hand(records: list[list[tuple[float, bool, TrialState]]], **more: Any) -> Finding:
    """Sweeps of trials that were enqueued or not, by their ELBO."""
    claim = {"test": "compare", "first": {"enqueued": True}, "second": "best", "expect": "not_less"} | more
    spec = space([claim], trial={"kld_weight": {"low": 1e-5, "high": 1e-1, "log": True}}, search={"trials": 4})
    sweeps = []
    for rows in records:
        sweeps.append(tables(spec, [
            trial(spec, n, {"kld_weight": 1e-4 * (n + 1)}, {"elbo_nats": elbo}, enqueued=enqueued, state=state)
            for n, (elbo, enqueued, state) in enumerate(rows)
        ]))  # fmt: skip
    (finding,) = decide_claims(spec.claims, sweeps)
    return finding


DONE = TrialState.COMPLETED


def test_the_better_of_two_hand_picked_points_is_compared_with_the_best() -> None:
    rows = [[(near(20, n), True, DONE), (-50.0, True, DONE), (near(19, n), False, DONE)] for n in range(3)]
    finding = by_hand(rows)
    assert finding.verdict == "holds"
    assert figure(finding, "objective, first minus second").value == pytest.approx(1.0)
    assert figure(finding, "trials that enqueued = true is chosen from").value == 2


def test_a_pruned_hand_picked_point_does_not_drop_out_silently() -> None:
    pruned = TrialState.PRUNED
    rows = [[(20.0, True, DONE), (-50.0, True, pruned), (near(19, n), False, DONE)] for n in range(3)]
    finding = by_hand(rows)
    assert finding.verdict == "holds"
    note = "trials at enqueued = true did not run to their end:"
    remedy = "left out; early_stopping: none lets them run on"
    assert f"3 {note} 3 pruned, {remedy}" in finding.outcome.reason
    rows = [[(20.0, True, pruned), (-50.0, True, pruned), (near(19, n), False, DONE)] for n in range(3)]
    finding = by_hand(rows)
    assert finding.verdict == "not decidable here"
    assert f"6 {note} 6 pruned, {remedy}" in finding.outcome.reason


def test_runs_of_one_file_are_repeats_and_copies_of_a_run_are_not() -> None:
    claim = {"test": "compare", "first": {"kld_weight": 0.5}, "second": {"kld_weight": 0.005}, "expect": "less"}
    spec = space([claim, BEST_AT | {"metrics": "elbo_nats"}, {**WITHIN, "margins": {"elbo_nats": 99.0}}])
    one_seed = [point for point in spec.trial.grid() if point["seed"] == 0]

    def run(shift: float) -> SweepTables:
        worse = {0.0005: 5.0, 0.005: 0.0, 0.05: 10.0, 0.5: 20.0}
        return tables(spec, [
            trial(spec, n, point, {"elbo_nats": 30.0 + shift - (1 + shift) * worse[point["kld_weight"]]})
            for n, point in enumerate(one_seed)
        ])  # fmt: skip

    repeats = decide_claims(spec.claims, [run(0.0), run(0.1), run(0.2)])
    assert [str(finding.verdict) for finding in repeats] == ["holds", "holds", "holds"]
    copies = decide_claims(spec.claims, [run(0.0), run(0.0), run(0.0)])
    assert {str(finding.verdict) for finding in copies} == {"not decidable here"}
    assert "1 pair of trials" in copies[0].outcome.reason


def test_a_condition_on_the_name_of_a_sweep_means_all_its_runs() -> None:
    spec = space([ALWAYS | {"where": "sweep == 'grid'"}])
    runs = [grid(spec, lambda p: {"rate_nats": 1.0}), grid(spec, lambda p: {"rate_nats": -1.0})]
    (finding,) = decide_claims(spec.claims, runs)
    assert finding.outcome.rows == 24
    assert "grid (2), trial 0" in finding.outcome.reason


def every_kind() -> list[Finding]:
    claims = [
        ALWAYS, SEPARATES, BEST_AT, TREND, WITHIN | {"source": "a table of another paper | page 3"},
        BEST_AT | {"across": "reduction"},
        {"test": "compare", "first": {"kld_weight": 0.5}, "second": {"kld_weight": 0.05}, "metrics": ["r2", "psnr_db"],
         "expect": "equivalent", "margin": 0.1},
    ]  # fmt: skip
    spec = space(claims)
    return decide_claims(spec.claims, [grid(spec, lambda p: recall(p) | {"r2": 0.1 * p["seed"]}, 0.0147)])


def test_the_page_and_the_terminal_say_every_verdict_and_its_reason() -> None:
    findings = every_kind()
    for page in (findings_markdown(findings), findings_text(findings, width=1000)):
        for finding in findings:
            assert f"{finding.claim.name}: {finding.verdict}" in page
            assert finding.test in page
            assert finding.outcome.reason[1:] in page
    markdown = findings_markdown(findings)
    rows = [line.replace("\\|", "") for line in markdown.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} <= {4, 5}
    assert all(len(line) <= 80 or " " not in line.strip() for line in findings_text(findings, 80).splitlines()
               if not line.startswith("    "))  # fmt: skip


def test_the_table_has_a_row_a_claim_and_one_a_value_it_was_tested_across(tmp_path: Path) -> None:
    findings = every_kind()
    directory = SweepDirectory.at(tmp_path)
    write_findings(directory, findings)
    table = pq.read_table(directory.findings_parquet)
    assert table.equals(findings_table(findings))
    assert table.num_rows == len(findings) + 1
    across = table.filter([name == "claim_5" for name in table["claim"].to_pylist()]).to_pylist()
    assert [(row["across"], row["across_value"]) for row in across] == [
        ("reduction", None),
        ("reduction", "pixel_mean"),
    ]
    assert across[1]["figures"][0]["unit"] == ""
    assert directory.findings_markdown.read_text() == findings_markdown(findings)
