"""Search space files: what loads, and what each kind of fault is told."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raysweep.errors import SpecError
from raysweep.spec.config import TrialConfig
from raysweep.spec.keys import all_keys
from raysweep.spec.loading import MAX_FILE_BYTES, load_spec, parse_spec
from raysweep.spec.space import Choices, Range

SEARCH_SPACES = Path(__file__).parents[3] / "search_spaces"

BASE = """
name: base
data: {dataset: digits}
trial:
  kld_weight: {low: 5e-6, high: 5e-1, log: true}
  latent_size: {choices: [2, 8, 16]}
search: {trials: 4}
"""


def faults_of(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "space.yaml")
    return [f"{fault.key}: {fault.message}" if fault.key else fault.message for fault in caught.value.faults]


@pytest.mark.parametrize("path", sorted(SEARCH_SPACES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_search_space_loads_and_survives_a_round_trip(path: Path) -> None:
    spec = load_spec(path)
    again = parse_spec(yaml.safe_dump(spec.as_mapping()), "again.yaml")
    assert again.as_mapping() == spec.as_mapping()
    assert again.fingerprint() == spec.fingerprint()


def test_the_flagship_searches_what_the_design_says() -> None:
    spec = load_spec(SEARCH_SPACES / "kld.yaml")
    assert spec.trial.searched["kld_weight"] == Range(low=5e-6, high=5e-1, log=True)
    assert spec.trial.searched["latent_size"] == Choices(choices=(2, 8, 16, 64, 256))
    assert spec.trials == 24
    assert spec.trial.config({"kld_weight": 1e-3}).epochs == 20


@pytest.mark.parametrize("text", ["5e-6", "5E-6", "+5e-6", "5.e-6", "0.5e-5", "1e-3"])
def test_a_number_in_scientific_notation_is_a_number(text: str) -> None:
    spec = parse_spec(BASE.replace("search: {trials: 4}", f"  learning_rate: {text}\nsearch: {{trials: 4}}"))
    assert spec.trial.config({}).learning_rate == float(text)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("kld_weight:", "kld_wieght:"), "trial.kld_wieght: unknown key; did you mean kld_weight?"),
        (("trials: 4", "trails: 4"), "search.trails: unknown key; did you mean trials?"),
        (("name: base", "nmae: base"), "nmae: unknown key; did you mean name?"),
        (("log: true", "logg: true"), "trial.kld_weight.logg: unknown key; did you mean log?"),
        (("trials: 4", "trials: four"), "search.trials: must be a valid integer, got 'four'"),
        (("trials: 4", "trials: true"), "search.trials: must be a valid integer, got True"),
        (("low: 5e-6", "low: 5"), "trial.kld_weight: low must be less than high, got low 5 and high 0.5"),
        (("low: 5e-6", "low: 0"), "trial.kld_weight: low must be greater than 0 on a log scale, got 0"),
        (("low: 5e-6", "low: -1"), "trial.kld_weight: low must be greater than 0 on a log scale, got -1"),
        (("low: 5e-6", "low: .nan"), "trial.kld_weight: low and high must be finite, got nan and 0.5"),
        (("low: 5e-6", 'low: "5e-6"'), "trial.kld_weight.low: must be a valid"),
        (
            ("{choices: [2, 8, 16]}", "{low: 2, high: 16, step: 3}"),
            "trial.latent_size: step 3 does not divide the range from 2 to 16; high could be 14",
        ),
        (("{choices: [2, 8, 16]}", "{low: 2, high: 16.5}"), "trial.latent_size.high: must be a valid integer"),
        (("{choices: [2, 8, 16]}", "{low: 2, high: 16, step: 0}"), "trial.latent_size: step must be greater than 0"),
        (
            ("{choices: [2, 8, 16]}", "{low: 2, high: 16, log: true, step: 2}"),
            "trial.latent_size: a log scale has no step",
        ),
        (("[2, 8, 16]", "[2, 8, 8]"), "trial.latent_size: each choice may stand once, got 8 twice"),
        (("[2, 8, 16]", "[]"), "trial.latent_size: choices must be a list of at least one value, got []"),
        (("[2, 8, 16]", "[2, eight]"), "trial.latent_size.choices[1]: must be a valid integer, got 'eight'"),
        (
            ("{choices: [2, 8, 16]}", "[2, 8]"),
            "trial.latent_size: must be a value or a distribution, got [2, 8]; write",
        ),
        (("{choices: [2, 8, 16]}", "-3"), "trial.latent_size: must be greater than or equal to 1, got -3"),
        (
            ("digits", "digit"),
            "data.dataset: must be 'mnist-5k', 'digits', 'mnist', 'fashion_mnist', 'cifar10' or 'folder'",
        ),
        (("data: {dataset: digits}", ""), "data: is missing; for example data: {dataset: mnist-5k}"),
        (("digits", "folder"), "data: dataset: folder needs root"),
        (
            ("search: {", "  conv_blocks: d/2 2d/2 2d/2 2d/2 2d/2 2d/2\nsearch: {"),
            "trial.conv_blocks: 'd/2 2d/2 2d/2 2d/2 2d/2 2d/2' halves an image of 32 pixels 6 times, to nothing",
        ),
        (
            ("search: {", "  conv_blocks: 3x3\nsearch: {"),
            "trial.conv_blocks: must list the convolutions as multiples of d_size",
        ),
        (
            ("search: {", "  batch_norm: conv\n  batch_size: 1\nsearch: {"),
            "trial.batch_size: must be 2 or more with batch_norm",
        ),
        (("search: {", "  learning_rate_schedule: step\nsearch: {"), "trial.learning_rate_epochs: is missing"),
        (
            ("search: {", "  learning_rate_schedule: step\n  learning_rate_epochs: 6 3\nsearch: {"),
            "trial.learning_rate_epochs: must list epochs from 1 on that grow",
        ),
        (
            ("search: {", "  sigma: 0.5\n  likelihood: bernoulli\nsearch: {"),
            "trial.sigma: has no effect without likelihood",
        ),
        (
            ("search: {", "  kernel_size: {choices: [3, 4]}\n  conv_blocks: none\nsearch: {"),
            "trial.kernel_size: has no effect with conv_blocks: none",
        ),
        (("search: {", "  learning_rate_epochs: 6\nsearch: {"), "trial.learning_rate_epochs: has no effect without"),
        (
            ("search: {", "  kld_warmup_epochs: 4\n  kld_cycle_epochs: 3\nsearch: {"),
            "trial.kld_cycle_epochs: must not be less than kld_warmup_epochs",
        ),
        (
            ("{trials: 4}", "{trials: 4}\nevaluation: {final_metrics: best}"),
            "evaluation.final_metrics: must be all, none or best N, such as best 5, got 'best'",
        ),
        (("trials: 4", "objective: {metric: elbo}"), "search.objective: metric 'elbo' is not a metric; allowed: "),
        (("trials: 4", "objective: {metric: rate_nats}"), "search.objective: metric rate_nats is neither better small"),
        (
            ("trials: 4", "objective: {metric: elbo_nats, mode: min}"),
            "search.objective: elbo_nats is better when it is larger",
        ),
        (
            ("trials: 4", "objective: {metric: val_loss}"),
            "search.objective.metric: val_loss contains kld_weight, which is searched",
        ),
        (
            ("trials: 4", "early_stopping: {asha: {max_epochs: 2, grace_epochs: 3}}"),
            "search.early_stopping.asha.grace_epochs: must not exceed max_epochs, 2, got 3",
        ),
        (
            ("search: {trials: 4}", "  kld_warmup_epochs: 3\nsearch: {early_stopping: {asha: {grace_epochs: 2}}}"),
            "search.early_stopping.asha.grace_epochs: must cover the warm-up",
        ),
        (
            ("trials: 4", "enqueue: [{kld_weight: 5.0}]"),
            "search.enqueue[0].kld_weight: must be within what is searched, 5e-06 to 0.5, log scale, got 5.0",
        ),
        (
            ("trials: 4", "enqueue: [{latent_size: 3}]"),
            "search.enqueue[0].latent_size: must be within what is searched, one of 2, 8, 16, got 3",
        ),
        (
            ("trials: 4", "enqueue: [{kld_wait: 1}]"),
            "search.enqueue[0].kld_wait: unknown name; did you mean kld_weight?",
        ),
        (("trials: 4", "enqueue: [{d_size: 16}]"), "search.enqueue[0].d_size: trial.d_size is a constant"),
        (("trials: 4", "sampler: grid"), "trial.kld_weight: a grid needs {choices: [...]} or a range with a step"),
        (
            ("trials: 4", "trials: 1, enqueue: [{latent_size: 2}, {latent_size: 8}]"),
            "search.trials: 2 points are to run first, got 1; some would never run",
        ),
        (
            (
                "search: {trials: 4}",
                "  kld_warmup_epochs: {low: 0, high: 2000000000}\nsearch: {early_stopping: {asha: {grace_epochs: 2}}}",
            ),
            "search.early_stopping.asha.grace_epochs: must cover the warm-up",
        ),
        (("trials: 4", "time_budget: soon"), "search.time_budget: must be a duration such as 90s"),
        (
            ("search:", "resources: {gpu: 2}\nsearch:"),
            "resources.gpu: must be auto or a share of one GPU, from 0 to 1, got 2",
        ),
        (("search:", "resources: {cpu: 0}\nsearch:"), "resources.cpu: must be greater than 0, got 0"),
        (("name: base", "name: ../up"), "name: must be letters, digits"),
        (("name: base", "name: base\nname: other"), "name: stands twice"),
    ],
)
def test_a_fault_is_told_with_its_key(change: tuple[str, str], expected: str) -> None:
    assert change[0] in BASE
    faults = faults_of(BASE.replace(*change))
    assert any(fault.startswith(expected) for fault in faults), faults


def test_all_faults_of_a_file_come_in_one_message_with_their_lines() -> None:
    text = (
        BASE.replace("digits", "digit").replace("low: 5e-6", "low: 5").replace("trials: 4", "trials: 0, sampler: best")
    )
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "space.yaml")
    message = str(caught.value)
    assert message.startswith("space.yaml: 4 faults, nothing was started\n")
    assert [fault.line for fault in caught.value.faults] == [3, 5, 7, 7]
    assert message.endswith("Correct it, then type: raysweep check space.yaml")


def test_cross_checks_run_even_where_another_key_is_at_fault() -> None:
    text = BASE.replace(
        "trials: 4", "trials: 0, enqueue: [{latent_size: 3}], early_stopping: {asha: {grace_epochs: 99}}"
    )
    assert len(faults_of(text)) == 3


def test_val_loss_is_refused_where_the_reduction_divides_by_what_is_searched() -> None:
    text = BASE.replace("{low: 5e-6, high: 5e-1, log: true}", "1e-4\n  reduction: pixel_and_latent_mean")
    assert faults_of(text.replace("trials: 4", "objective: {metric: val_loss}"))[0].startswith(
        "search.objective.metric: val_loss contains latent_size, which is searched"
    )


def test_val_loss_is_an_objective_where_no_loss_weight_is_searched() -> None:
    text = BASE.replace("{low: 5e-6, high: 5e-1, log: true}", "1e-4").replace(
        "trials: 4", "objective: {metric: val_loss}"
    )
    assert parse_spec(text).search.objective.direction == "min"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n- b\n", "must be keys and values, got a list"),
        ("just a sentence", "must be keys and values, got 'just a sentence'"),
        ("a: [1, 2", "is not YAML"),
        ("a: b: c", "is not YAML"),
        ("\tname: x", "is not YAML"),
        ("!!python/object/apply:os.system [true]", "is not YAML"),
        ("a: &x [1]\nb: *x\n", "aliases (*name) are not allowed"),
    ],
)
def test_a_text_that_is_no_search_space_is_one_fault(text: str, expected: str) -> None:
    (fault,) = faults_of(text)
    assert expected in fault


def test_files_that_cannot_be_read_are_one_fault_each(tmp_path: Path) -> None:
    (tmp_path / "kld.yaml").write_text(BASE)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge.yaml").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    for name, expected in {
        "kdl.yaml": f"there is no such file; did you mean {tmp_path / 'kld.yaml'}?",
        ".": "is a directory, not a file; there are ",
        "binary.yaml": "is not a text in UTF-8",
        "huge.yaml": "is larger than",
    }.items():
        with pytest.raises(SpecError) as caught:
            load_spec(tmp_path / name)
        assert expected in str(caught.value)


def test_options_of_the_command_line_replace_keys_of_the_search(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(BASE)
    spec = load_spec(path, {"trials": 9, "seed": 3, "time_budget": None})
    assert (spec.trials, spec.search.seed, spec.search.time_budget) == (9, 3, None)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("45m", 2700), ("2h", 7200), ("1h30m", 5400), ("30", 30)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_spec(BASE.replace("trials: 4", f"time_budget: {text}")).search.time_budget == seconds


def test_a_grid_has_every_point_once_and_sets_the_number_of_trials() -> None:
    text = BASE.replace("{low: 5e-6, high: 5e-1, log: true}", "{low: 0.1, high: 0.3, step: 0.1}").replace(
        "trials: 4", "sampler: grid"
    )
    spec = parse_spec(text)
    points = list(spec.trial.grid())
    assert spec.trials == len(points) == 9
    assert len({tuple(point.values()) for point in points}) == 9
    assert all(spec.trial.searched[name].__contains__(value) for point in points for name, value in point.items())


def test_a_grid_too_large_to_run_is_refused_without_being_built() -> None:
    trial = "trial: {seed: {low: 0, high: 4000000000}, d_size: {low: 1, high: 4000}}"
    (fault,) = faults_of(f"data: {{dataset: digits}}\n{trial}\nsearch: {{sampler: grid}}\n")
    assert fault == "search.sampler: a grid has at most 100,000 points, this one has 16,000,000,004,000"


@given(
    low=st.floats(1e-9, 1e3),
    factor=st.floats(1.001, 1e6),
    log=st.booleans(),
    choices=st.lists(st.integers(1, 512), min_size=1, max_size=5, unique=True),
    batch_size=st.integers(1, 4096),
)
def test_any_sound_specification_survives_a_round_trip_through_yaml(
    low: float, factor: float, log: bool, choices: list[int], batch_size: int
) -> None:
    mapping = {
        "name": "any",
        "data": {"dataset": "digits"},
        "trial": {
            "kld_weight": {"low": low, "high": low * factor, "log": log},
            "latent_size": {"choices": choices},
            "batch_size": batch_size,
        },
    }
    spec = parse_spec(yaml.safe_dump(mapping))
    again = parse_spec(yaml.safe_dump(spec.as_mapping()))
    assert again.as_mapping() == spec.as_mapping()


@given(st.text(max_size=200))
def test_any_text_loads_or_is_refused_with_faults(text: str) -> None:
    with suppress(SpecError):  # and nothing else
        parse_spec(text)


def test_defaults_stand_in_one_place() -> None:
    spec = parse_spec(BASE)
    assert spec.trial.config({}) == TrialConfig()
    assert math.isclose(spec.trial.config({}).sigma, math.sqrt(0.5))


def test_a_mapping_loads_as_the_file_of_the_same_text_does() -> None:
    for path in (SEARCH_SPACES / "kld.yaml", SEARCH_SPACES / "decoders.yaml"):
        spec = load_spec(path)
        assert load_spec(spec.as_mapping()).fingerprint() == spec.fingerprint()
    assert (
        load_spec(
            {"name": "x", "data": {"dataset": "digits"}, "trial": {"seed": {"choices": [1]}}}, {"trials": 9}
        ).trials
        == 9
    )


def test_a_mapping_may_have_what_python_has_for_lists_texts_and_numbers(tmp_path: Path) -> None:
    spec = load_spec(
        {
            "data": {"dataset": "folder", "root": tmp_path},
            "trial": {
                "latent_size": {"choices": (2, np.int64(8))},
                "kld_weight": {"choices": np.array([0.5, 1.0])},
                "learning_rate": np.float64(1e-3),
            },
            "search": {"enqueue": ({"latent_size": np.int64(2)},)},
        }
    )
    assert spec.name == "sweep"
    assert spec.data.root == str(tmp_path)
    assert spec.trial.searched["latent_size"] == Choices(choices=(2, 8))
    assert spec.trial.searched["kld_weight"] == Choices(choices=(0.5, 1.0))
    assert spec.as_mapping() == parse_spec(yaml.safe_dump(spec.as_mapping())).as_mapping()


def test_the_faults_of_a_mapping_name_their_keys_and_no_file() -> None:
    itself: dict[str, Any] = {}
    itself["data"] = itself
    for mapping, expected in (
        ({"data": {"dataset": "digits"}, "trial": {"kld_weight": {"low": "one", "high": 2}}}, "trial.kld_weight.low: "),
        ({"data": {"dataset": "digits", "root": {1, 2}}}, "data.root: must be a valid string, got {1, 2}"),
        ({1: 2}, "1: unknown key"),
        (itself, "contains itself"),
    ):
        with pytest.raises(SpecError) as caught:
            load_spec(mapping)  # type: ignore[arg-type]
        assert str(caught.value).startswith("the mapping given to load_spec: ")
        assert expected in str(caught.value)
        assert "raysweep check the mapping" not in str(caught.value)


def test_a_value_that_fits_no_member_of_a_union_is_one_fault() -> None:
    assert faults_of(BASE.replace("low: 5e-6", "low: one")) == [
        "trial.kld_weight.low: must be a valid integer or a valid number, got 'one'"
    ]


def test_a_number_that_pyyaml_took_for_a_text_is_told_so() -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(yaml.safe_load(BASE))
    fault = caught.value.faults[0]
    assert fault.key == "trial.kld_weight.high"
    assert fault.message.endswith(
        "got '5e-1'; a number is expected (yaml.safe_load takes 5e-6 for a text: load_spec(PATH) does not)"
    )


@pytest.mark.parametrize(
    ("section", "most"),
    [
        ("search: {trials: N}", 1_000_000),
        ("search: {max_concurrent: N}", 1_000_000),
        ("search: {early_stopping: {asha: {max_epochs: N}}}", 100_000),
        ("search: {early_stopping: {asha: {grace_epochs: N}}}", 100_000),
        ("search: {early_stopping: {asha: {reduction_factor: N}}}", 1_000_000),
        ("evaluation: {images: N}", 10_000_000),
        ("evaluation: {importance_samples: N}", 100_000),
        ("trial: {kld_weight: {low: 1, high: 2}, batch_size: N}", 10_000_000),
        ("trial: {kld_weight: {low: 1, high: 2}, kld_warmup_epochs: N}", 2**31 - 1),
        ("trial: {kld_weight: {low: 1, high: 2}, kld_cycle_epochs: N}", 2**31 - 1),
        ("trial: {kld_weight: {low: 1, high: 2}, learning_rate_patience_epochs: N}", 2**31 - 1),
    ],
)
def test_a_count_that_nobody_can_mean_is_refused_with_what_is_allowed(section: str, most: int) -> None:
    text = "name: x\ndata: {dataset: digits}\n"
    text += "" if section.startswith("trial") else "trial: {kld_weight: {low: 1, high: 2}}\n"
    for count in (most + 1, 10**23):
        with pytest.raises(SpecError, match=f"must be less than or equal to {most}, got {count}"):
            parse_spec(text + section.replace("N", str(count)))


def test_numbers_beyond_all_bounds_are_faults_and_no_overflow() -> None:
    start = "name: x\ndata: {dataset: digits}\ntrial: "
    for trial, message in {
        f"{{kld_weight: {{low: 1, high: {'9' * 400}}}}}": "a number of 400 digits, 100 at most",
        f"{{kld_weight: {{low: 1, high: {'9' * 5000}}}}}": "a number of 5000 digits, 100 at most",
        "{kld_weight: {low: 0, high: 1e300, step: 1e-300}}": "step 1e-300 is too small",
    }.items():
        with pytest.raises(SpecError, match=message):
            parse_spec(start + trial)
    with pytest.raises(SpecError, match="time_budget: must be less than or equal to 1000000000"):
        parse_spec(start + "{kld_weight: {low: 1, high: 2}}\nsearch: {time_budget: 1e300}")


FOREIGN = re.compile(
    r"Input should|instance of|dictionary|tuple|Field required|Extra inputs|Unable to parse|Value error|Assertion|"
    r"should have|should match|pydantic|boolean|NoneType|_type\b|with a fractional part"
)
"""Words of pydantic and of Python, which no message has."""


@pytest.mark.parametrize("value", ["3", "2.5", "true", "text", "[1, [2]]", "{a: {b: 1}}", "null", ".nan", "-1", "[]"])
def test_no_message_has_the_words_of_a_library(value: str) -> None:
    for key in [*all_keys(), "trial.kld_weight.low", "search.enqueue.0", "claims.0.first"]:
        check_words(key, value)


def check_words(key: str, value: str) -> None:
    text = value
    for part in reversed(key.split(".")):
        text = f"[{text}]" if part == "0" else f"{{{part}: {text}}}"
    if key.startswith("claims.0"):
        text = f"{{claims: [{{name: a, statement: b, test: compare, expect: less, first: {value}}}]}}"
    try:
        parse_spec(f"--- {text}")
    except SpecError as error:
        for fault in error.faults:
            assert not FOREIGN.search(fault.message.split(", got ")[0]), fault
