"""Every key with its bounds and meaning, and the JSON Schema, both read off the models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from raysweep.cli import main
from raysweep.spec.keys import TOP_LEVEL, all_keys, described_keys
from raysweep.spec.loading import load_spec
from raysweep.spec.schema import json_schema
from raysweep.spec.shipped import shipped_spaces
from raysweep.spec.yamltext import Loader

VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def faults_of(text: str) -> list[jsonschema.ValidationError]:
    return list(VALIDATOR.iter_errors(yaml.load(text, Loader=Loader)))


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def test_the_schema_is_a_schema_and_the_command_prints_it() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    code, output = run("check", "--schema")
    assert (code, json.loads(output)) == (0, json_schema())


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_shipped_search_space_meets_the_schema_as_it_is_and_with_all_defaults(name: str) -> None:
    assert not faults_of(shipped_spaces()[name].read_text())
    assert not list(VALIDATOR.iter_errors(load_spec(name).as_mapping()))


TRIAL = "data: {dataset: digits}\ntrial: {%s}\n"


@pytest.mark.parametrize(
    "text",
    [
        "kld_weight: {low: 1e-5, high: 1, log: true}",
        "latent_size: {low: 2, high: 16, step: 2}",
        "hidden_size: {choices: [null, 16]}",
        "hidden_size: {low: 2, high: 16}",
        "likelihood: {choices: [gaussian, bernoulli]}",
        "learning_rate_epochs: 6",
        "learning_rate_epochs: 6 9",
        "max_gradient_norm: null",
    ],
)
def test_the_schema_takes_values_and_both_kinds_of_distributions(text: str) -> None:
    assert not faults_of(TRIAL % text)


@pytest.mark.parametrize(
    "text",
    [
        TRIAL % "kld_wieght: 1",
        TRIAL % "kld_weight: {low: 1e-5}",
        TRIAL % "kld_weight: {low: 1e-5, hihg: 1}",
        TRIAL % "kld_weight: -1",
        TRIAL % "kld_weight: [1, 2]",
        TRIAL % "latent_size: {choices: [2, eight]}",
        TRIAL % "latent_size: {choices: []}",
        TRIAL % "likelihood: {low: 1, high: 2}",
        TRIAL % "conv_blocks: 3x3",
        "trial: {seed: {choices: [0, 1]}}",
        "data: {dataset: mnits}",
        "data: {dataset: digits}\nsearch: {objective: {metric: test_kid}}",
        "data: {dataset: digits}\nsearch: {time_budget: soon}",
        "data: {dataset: digits}\nsearch: {enqueue: [{kld_wait: 1}]}",
        "data: {dataset: digits}\nresources: {gpu: 2}",
        "data: {dataset: digits}\nevaluation: {final_metrics: best}",
        "data: {dataset: digits}\nclaims: [{test: always, name: a, statement: b, conditoin: c}]",
    ],
)
def test_the_schema_refuses_what_check_refuses(text: str) -> None:
    assert faults_of(text)


def test_every_key_has_a_meaning_and_says_what_it_takes() -> None:
    keys = described_keys()
    assert not [key.path for key in keys if not key.meaning]
    assert not [key.path for key in keys if key.default is not None and not key.values]
    assert {key.path for key in keys} >= set(all_keys())


def test_every_default_that_is_listed_is_the_one_that_an_empty_file_has() -> None:
    spec: Any = load_spec({"data": {"dataset": "digits"}, "trial": {"seed": {"choices": [0, 1]}}}).as_mapping()
    for key in described_keys():
        section, _, name = key.path.partition(".")
        if section in ("data", "trial", "resources", "evaluation") and name not in ("seed", "sigma", "dataset", ""):
            assert yaml.load(key.default or "null", Loader=Loader) == spec[section][name], key.path


def test_the_list_of_fields_has_every_key_with_bound_default_and_meaning() -> None:
    code, output = run("check", "--fields")
    assert code == 0
    lines = output.splitlines()
    assert [line.partition(":")[0] for line in lines if line[:1].isalpha()] == list(TOP_LEVEL)
    assert "  latent_size: 16   # whole number from 1 to 65,536, latents" in lines
    assert "  dataset:   # required; mnist-5k, digits, mnist, fashion_mnist, cifar10 or folder" in lines
    for key in all_keys():
        assert any(line.lstrip().startswith(f"{key.rpartition('.')[2]}:") for line in lines), key
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ("trial.kld_weight", "trial.kld_weight: 0.0005   # number from 0 on"),
        ("kld_weight", "trial.kld_weight: 0.0005   # number from 0 on"),
        ("lr", "lr is trial.learning_rate here:"),
        ("search.early_stopping", "search.early_stopping: null   # null, or keys and values"),
        ("evaluation", "evaluation:"),
        ("margin", "claims.compare.margin: 0   # number from 0 on"),
    ],
)
def test_the_list_of_fields_can_be_of_one_key_or_section(wanted: str, first: str) -> None:
    code, output = run("check", "--fields", wanted)
    assert (code, output.splitlines()[0]) == (0, first)
    assert len(output.splitlines()) < 40


def test_a_seed_is_listed_wherever_there_is_one() -> None:
    output = run("check", "--fields", "seed")[1]
    assert [line for line in output.splitlines() if line[:1].isalpha()] == [
        "trial.seed: 0   # whole number from 0 below 4,294,967,296",
        "search.seed: 0   # whole number from 0 below 4,294,967,296",
    ]


def test_the_list_of_fields_says_what_a_file_has_beside_the_defaults() -> None:
    lines = [line.strip() for line in run("check", "--fields", "kld")[1].splitlines()]
    assert "kld: {low: 5e-06, high: 0.5, log: true}" in lines
    assert "kld: 20" in lines
    assert not [line for line in lines if line == "kld: pixel_mean"]


def test_what_is_neither_a_key_nor_a_file_is_one_message(tmp_path: Path) -> None:
    code, output = run("check", "--fields", "learning_rat")
    assert code == 2
    assert "is neither a key of a search space file nor such a file; did you mean learning_rate?" in output
    assert run("check", "--fields", str(tmp_path / "none.yaml"))[0] == 2
    code, output = run("check")
    assert code == 2
    assert "raysweep new my.yaml" in output
