"""Claims in a search space file: what can be claimed, and what each fault of one is told."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raysweep.errors import SpecError
from raysweep.report.tables import EPOCH_COLUMNS, TRIAL_COLUMNS
from raysweep.spec.claims import CLAIM_KINDS, COLUMN_UNITS, COLUMNS, MODES, PARAMETERS, metric_texts
from raysweep.spec.loading import parse_spec

SPACE = """name: base
data: {dataset: digits}
trial:
  kld_weight: {choices: [5e-1, 5e-2, 5e-3, 5e-4]}
  latent_size: {choices: [16, 256]}
  reduction: {choices: [pixel_mean, sum]}
  learning_rate: {low: 1e-4, high: 1e-2, log: true}
  max_gradient_norm: {choices: [null, 1.0]}
evaluation: {final_metrics: all}
claims:
"""

CLAIMS = {
    "always": "test: always, each: epoch, condition: rate_nats >= 0 and epoch > 0",
    "sampled": "test: always, condition: abs(test_sampled_mse - test_mse - test_sigma ** 2) < 0.03 * test_sampled_mse",
    "separates": "test: separates, condition: r2 > 0.02 and rate_nats > 0.1, over: kld_weight, below: 5e-2",
    "best_at": "test: best_at, over: kld_weight, value: 5e-3, metrics: [test_recall, test_coverage], "
    "across: reduction, subject_to: test_reconstruction_accuracy >= 0.95 * best(test_reconstruction_accuracy)",
    "one_of": "test: best_at, over: kld_weight, value: [5e-2, 5e-3], metrics: elbo_nats",
    "null_value": "test: best_at, over: max_gradient_norm, value: null, metrics: elbo_nats",
    "paired": "test: compare, first: {latent_size: 256}, second: {latent_size: 16}, expect: less, "
    "pair_by: [seed, kld_weight]",
    "compare": "test: compare, first: {latent_size: 256}, second: {latent_size: 16}, metrics: test_silhouette, "
    "expect: not_greater, margin: 0.01",
    "null_point": "test: compare, first: {max_gradient_norm: null}, second: {max_gradient_norm: 1.0}, expect: less",
    "by_hand": "test: compare, first: {enqueued: true}, second: best, expect: not_less",
    "conditions": "test: compare, first: {kld_weight: 5e-4}, second: kld_weight > 5e-4, "
    "metrics: test_kid, expect: greater",
    "elsewhere": "test: compare, first: {dataset: cifar10, conv_blocks: none}, second: {dataset: digits}, expect: less",
    "within": "test: within, over: kld_weight, where: kld_weight <= 5e-3, "
    "margins: {psnr_db: 1.0, test_reconstruction_accuracy: 0.02}",
    "trend": "test: trend, over: learning_rate, metrics: test_silhouette, expect: falls",
}


def with_claims(*claims: str) -> str:
    lines = [f"  - {{name: claim_{index}, statement: It is so., {claim}}}\n" for index, claim in enumerate(claims)]
    return SPACE + "".join(lines)


def faults_of(*claims: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_spec(with_claims(*claims), "space.yaml")
    return [f"{fault.line} {fault.key}: {fault.message}" for fault in caught.value.faults]


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_of_each_kind_loads_and_survives_a_round_trip(name: str) -> None:
    spec = parse_spec(with_claims(CLAIMS[name]))
    again = parse_spec(yaml.safe_dump(spec.as_mapping(), sort_keys=False))
    assert again.claims == spec.claims
    assert again.fingerprint() == spec.fingerprint()


def test_every_kind_is_among_the_examples() -> None:
    spec = parse_spec(with_claims(*CLAIMS.values()))
    assert {claim.test for claim in spec.claims} == set(CLAIM_KINDS)
    assert all(set(metric_texts(claim)) <= set(COLUMNS) for claim in spec.claims)


@pytest.mark.parametrize(
    ("claim", "key", "message"),
    [
        ("condition: r2 > 0", "", "test is missing; it is one of always, separates, best_at"),
        ("test: alwys, condition: r2 > 0", ".test", "unknown test 'alwys'; did you mean always?"),
        ("test: always", ".condition", "is missing"),
        ("test: always, condition: r2 > 0, wehre: r2 > 0", ".wehre", "unknown key; did you mean where?"),
        ("test: always, condition: rat_nats >= 0", ".condition",
         "at character 1: unknown column rat_nats; did you mean rate_nats?; got 'rat_nats >= 0'"),
        ("test: always, condition: epoch > 0", ".condition", "at character 1: unknown column epoch"),
        ("test: always, condition: rate_nats", ".condition", "must be true or false for each row, is a number"),
        ("test: always, condition: 1 < 2", ".condition", "names no column"),
        ("test: always, condition: r2 > 0, where: dataset == cifar10", ".where", "a text stands in quotes"),
        ("test: always, condition: r2 > 0, across: reductoin", ".across",
         "unknown column reductoin; did you mean reduction?"),
        ("test: always, condition: r2 > 0, across: learning_rate", ".across", "takes any value of a range"),
        ("test: always, condition: r2 > best(r2)", ".condition", "best() may stand only in subject_to"),
        ("test: separates, condition: r2 > 0, over: kld_weight", "", "needs either below or above"),
        ("test: separates, condition: r2 > 0, over: kld_weight, below: 5e-4", ".below",
         "must have values of kld_weight on both sides, which goes from 0.0005 to 0.5, got 0.0005"),
        ("test: separates, condition: r2 > 0, over: kld_weight, above: 0.5", ".above", "on both sides"),
        ("test: separates, condition: r2 > 0, over: reduction, below: 1", ".over",
         "reduction is a text; separates needs a column of numbers"),
        ("test: trend, over: d_size, metrics: r2, expect: rises", ".over",
         "d_size is a constant here; give trial.d_size a distribution, or use one of kld_weight"),
        ("test: trend, over: kld_wieght, metrics: r2, expect: rises", ".over",
         "unknown column kld_wieght; did you mean kld_weight?"),
        ("test: trend, over: kld_weight, metrics: [], expect: rises", ".metrics", "at least 1 item"),
        ("test: trend, over: kld_weight, metrics: collapsed, expect: rises", ".metrics",
         "must be a number for each row, is true or false"),
        ("test: trend, over: kld_weight, metrics: r2, expect: up", ".expect", "must be 'rises' or 'falls', got 'up'"),
        ("test: best_at, over: kld_weight, value: 5e-6, metrics: r2", ".value",
         "kld_weight never takes 5e-06 here: it is one of 0.5, 0.05, 0.005, 0.0005"),
        ("test: best_at, over: kld_weight, value: [5e-3, 5e-6], metrics: r2", ".value",
         "kld_weight never takes 5e-06 here: it is one of 0.5, 0.05, 0.005, 0.0005"),
        ("test: best_at, over: kld_weight, value: [], metrics: r2", ".value",
         "must be a value or a list of at least one, got []"),
        ("test: best_at, over: kld_weight, value: {a: 1}, metrics: r2", ".value", "must be a value or a list"),
        ("test: compare, first: {latent_size: 16}, second: best, expect: less, pair_by: [sead]", ".pair_by",
         "unknown column sead; did you mean seed?"),
        ("test: compare, first: {latent_size: 16}, second: best, expect: less, pair_by: latent_size", ".pair_by",
         "latent_size is what a point names"),
        ("test: best_at, over: kld_weight, value: 5e-3, metrics: r2, across: kld_weight", ".across",
         "kld_weight is what the test runs along"),
        ("test: compare, first: {latent_size: 16}, second: {latent_size: 256}, expect: less, across: latent_size",
         ".across", "latent_size is what first fixes"),
        ("test: compare, first: r2 > 0, second: latent_size > 16, expect: less, across: latent_size",
         ".across", "latent_size is what second fixes"),
        ("test: trend, over: latent_size, metrics: r2, expect: rises", ".over",
         "a trend needs at least 3 values, latent_size takes 2 where the claim looks"),
        ("test: trend, over: kld_weight, metrics: r2, expect: rises, where: kld_weight > 5e-3 and r2 > 0", ".over",
         "kld_weight takes 2 where the claim looks"),
        ("test: always, condition: r2 > 0, where: kld_weight > 0.1 and latent_size == 8", ".where",
         "no point of the space meets it, got 'kld_weight > 0.1 and latent_size == 8'"),
        ("test: always, condition: r2 > 0, where: kld_weight > 1 and r2 > 0", ".where", "no point of the space"),
        ("test: always, condition: r2 > 0, where: d_size == 1", ".where", "no point of the space"),
        ("test: best_at, over: kld_weight, value: 5e-3, metrics: rate_nats", ".mode",
         "is missing; it is not known whether less or more of rate_nats is better"),
        ("test: compare, first: {latent_size: 32}, second: best, expect: less", ".first.latent_size",
         "latent_size never takes 32 here: it is one of 16, 256"),
        ("test: compare, first: {latent: 16}, second: best, expect: less", ".first.latent",
         "unknown column; did you mean latent_size?"),
        ("test: compare, first: {dataset: cifar}, second: best, expect: less", ".first.dataset",
         "must be one of mnist-5k, digits, mnist, fashion_mnist, cifar10, folder, got 'cifar'"),
        ("test: compare, first: {enqueued: 1}, second: best, expect: less", ".first.enqueued",
         "enqueued is true or false, got 1"),
        ("test: compare, first: 3, second: best, expect: less", ".first", "must be columns and their values"),
        ("test: compare, first: best, second: r2 > 0, expect: less", "", "first cannot be best"),
        ("test: compare, first: {latent_size: 16}, second: {latent_size: 256}, expect: equivalent", "",
         "expect: equivalent needs margin"),
        ("test: within, over: kld_weight, margins: {psnr: 1}", ".margins.psnr",
         "unknown column psnr; did you mean psnr_db?"),
        ("test: within, over: kld_weight, margins: {psnr_db: 0}", ".margins.psnr_db", "must be greater than 0, got 0"),
        ("test: within, over: kld_weight, margins: {}", ".margins", "at least 1 item"),
    ],
)  # fmt: skip
def test_a_fault_of_a_claim_is_told_with_its_line_and_key(claim: str, key: str, message: str) -> None:
    (fault,) = faults_of(CLAIMS["always"], claim)
    assert fault.startswith(f"12 claims[1]{key}: ")
    assert message in fault


GRID = """data: {dataset: digits}
trial:
  kld_weight: {choices: [5e-1, 5e-2, 5e-3, 5e-4]}
  latent_size: {choices: [16, 256]}
  SEED
search: {sampler: grid}
EVALUATION
claims:
  - {name: claim, statement: It is so., CLAIM}
"""


def grid_faults(claim: str, seed: str = "seed: {choices: [0, 1, 2]}", evaluation: str = "") -> list[str]:
    text = GRID.replace("SEED", seed).replace("EVALUATION", evaluation).replace("CLAIM", claim)
    try:
        parse_spec(text)
    except SpecError as error:
        return [f"{fault.line} {fault.key}: {fault.message}" for fault in error.faults]
    return []


TESTED = [
    "test: always, condition: test_kid > 0",
    "test: always, condition: r2 > 0, where: test_kid > 0",
    "test: separates, condition: test_r2 > 0, over: kld_weight, below: 5e-3",
    "test: best_at, over: kld_weight, value: 5e-3, metrics: test_kid",
    "test: best_at, over: kld_weight, value: 5e-3, metrics: r2, subject_to: test_r2 > 0",
    "test: compare, first: {latent_size: 16}, second: {latent_size: 256}, metrics: test_kid, expect: less",
    "test: within, over: kld_weight, margins: {psnr_db: 1, test_kid: 1}",
    "test: trend, over: kld_weight, metrics: [r2, test_kid / test_floor_kid], expect: falls",
]


@pytest.mark.parametrize("claim", TESTED)
def test_a_claim_on_the_test_split_needs_it_measured_for_all(claim: str) -> None:
    for evaluation in ("", "evaluation: {final_metrics: best 3}", "evaluation: {final_metrics: none}"):
        (fault,) = grid_faults(claim, evaluation=evaluation)
        assert fault.startswith("9 claims[0]."), fault
        assert "set evaluation: {final_metrics: all}" in fault
    assert grid_faults(claim, evaluation="evaluation: {final_metrics: all}") == []


REPEATED = [
    ("test: best_at, over: kld_weight, value: 5e-3, metrics: r2", "3 seeds, the grid has"),
    ("test: trend, over: kld_weight, metrics: r2, expect: falls", "3 seeds, the grid has"),
    ("test: within, over: kld_weight, margins: {r2: 1}, where: latent_size == 16", "3 points that differ in more"),
    ("test: compare, first: {kld_weight: 5e-3}, second: {kld_weight: 5e-4}, expect: less", "3 pairs of trials"),
    ("test: compare, first: kld_weight > 5e-3, second: kld_weight < 5e-3, expect: less, across: latent_size",
     "3 pairs of trials at the two points, the grid has"),
    ("test: compare, first: {latent_size: 16}, second: {latent_size: 256}, expect: less, pair_by: seed",
     "3 pairs of trials"),
]  # fmt: skip


@pytest.mark.parametrize(("claim", "message"), REPEATED)
def test_a_grid_without_repeats_cannot_decide_a_test_of_means(claim: str, message: str) -> None:
    (fault,) = grid_faults(claim, seed="")
    assert fault.startswith("9 claims[0].test: "), fault
    assert message in fault
    assert "search seed as well" in fault
    assert grid_faults(claim) == []


@pytest.mark.parametrize(
    "claim",
    [
        "test: compare, first: {latent_size: 16}, second: {latent_size: 256}, expect: less",
        "test: compare, first: {latent_size: 16}, second: best, expect: less",
        "test: compare, first: r2 > 0.5, second: r2 < 0.5, expect: less",
        "test: within, over: latent_size, margins: {r2: 1}",
        "test: compare, first: {dataset: cifar10}, second: {dataset: digits}, expect: less",
        "test: compare, first: dataset == 'cifar10' and latent_size == 3, second: dataset == 'digits', expect: less",
        "test: trend, over: kld_weight, metrics: r2, expect: falls, where: dataset == 'cifar10'",
        "test: always, condition: rate_nats >= 0, each: epoch, where: epoch > 3",
    ],
)
def test_points_that_differ_in_something_else_or_of_another_sweep_are_repeats(claim: str) -> None:
    assert grid_faults(claim, seed="") == []


def test_ten_values_are_a_trend_without_seeds() -> None:
    claim = "test: trend, over: rotation_degrees, metrics: r2, expect: falls"
    seed = "rotation_degrees: {low: 0, high: HIGH, step: 5}"
    assert grid_faults(claim, seed=seed.replace("HIGH", "45")) == []
    (fault,) = grid_faults(claim, seed=seed.replace("HIGH", "40"))
    assert "needs at least 3 seeds, the grid has 1" in fault


def test_separates_needs_three_trials_on_each_side_of_a_grid() -> None:
    claim = "test: separates, condition: r2 > 0, over: kld_weight, below: 5e-1"
    assert grid_faults(claim) == []
    (fault,) = grid_faults(claim, seed="")
    assert fault.startswith("9 claims[0].below: the grid has 6 trials on the claimed side of 0.5 and 2 on the other")
    (fault,) = grid_faults(claim + ", across: latent_size", seed="seed: {choices: [0, 1]}")
    assert "the grid has 6 trials on the claimed side of 0.5 and 2 on the other" in fault


def test_a_claimed_value_or_a_point_that_where_excludes_is_a_fault() -> None:
    (fault,) = grid_faults("test: best_at, over: kld_weight, value: 5e-1, metrics: r2, where: kld_weight < 5e-1")
    assert "claims[0].value: no point of the grid that meets where has kld_weight 0.5" in fault
    (fault,) = grid_faults("test: compare, first: {kld_weight: 5e-1}, second: {kld_weight: 5e-2}, expect: less, "
                           "where: kld_weight < 5e-1")  # fmt: skip
    assert "claims[0].first: no point of the grid where the claim looks is at it" in fault


def test_all_faults_of_all_claims_come_in_one_message() -> None:
    faults = faults_of("test: always, condition: nope > 0", "test: best, over: 3", CLAIMS["trend"], "statement: 3")
    assert [fault.split(":")[0] for fault in faults] == [
        "11 claims[0].condition", "12 claims[1].test", "14 claims[3]", "14 claims[3].statement",
    ]  # fmt: skip


def test_two_claims_of_one_name_are_a_fault() -> None:
    text = SPACE + "  - {name: same, statement: So., test: always, condition: r2 > 0}\n" * 2
    with pytest.raises(SpecError, match=r"line 12: claims\[1\].name: same stands twice"):
        parse_spec(text)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{name: x}", "must be a list of claims"),
        ("[3]", "must be keys and values"),
        ("[[]]", "must be keys and values"),
    ],
)
def test_a_section_that_is_no_list_of_claims_is_one_fault(section: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec(SPACE.replace("claims:\n", f"claims: {section}\n"))


def test_of_a_parameter_that_is_faulty_itself_no_claim_is_blamed() -> None:
    text = with_claims("test: trend, over: kld_weight, metrics: r2, expect: rises").replace("5e-1,", "much,")
    with pytest.raises(SpecError) as caught:
        parse_spec(text)
    assert [fault.key for fault in caught.value.faults] == ["trial.kld_weight.choices[0]"]


def test_a_claim_can_speak_of_the_columns_of_the_tables_and_of_no_others() -> None:
    stored = {column.name for column in TRIAL_COLUMNS}
    assert set(COLUMNS) - stored == {"dataset", "sweep"}
    kinds = {"number": ("int64", "double", "int32"), "text": ("string",), "truth": ("bool",)}
    for column in TRIAL_COLUMNS:
        if column.name in COLUMNS:
            assert str(column.type) in kinds[COLUMNS[column.name]], column.name
            assert COLUMN_UNITS.get(column.name, "") == column.unit, column.name
    assert {"epoch", "time_s"} <= {column.name for column in EPOCH_COLUMNS}
    assert set(MODES) <= set(COLUMNS)
    assert set(PARAMETERS) <= stored


VALUES: Any = st.one_of(
    st.text(max_size=12), st.integers(-3, 300), st.floats(allow_nan=False), st.none(), st.booleans(),
    st.sampled_from(["kld_weight", "r2", "best", "r2 > 0", "less", "pixel_mean"]),
    st.lists(st.text(max_size=5), max_size=2),
    st.dictionaries(st.sampled_from(["r2", "latent_size", "x"]), st.integers()),
)  # fmt: skip
KEYS = sorted({name for kind in CLAIM_KINDS.values() for name in kind.model_fields} - {"test"})


@given(st.sampled_from(sorted(CLAIM_KINDS)), st.dictionaries(st.sampled_from([*KEYS, "nope"]), VALUES, max_size=8))
def test_any_claim_loads_or_is_refused_with_faults(kind: str, fields: dict[str, Any]) -> None:
    claim = {"name": "any", "statement": "So.", "test": kind, **fields}
    text = SPACE.replace("claims:\n", "") + yaml.safe_dump({"claims": [claim]})
    with suppress(SpecError):  # and nothing else
        spec = parse_spec(text)
        assert parse_spec(yaml.safe_dump(spec.as_mapping())).claims == spec.claims
