"""Names of other tools in a search space file: each is told as the key, value or metric that it is here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from raysweep.errors import SpecError
from raysweep.metrics import FINAL_METRICS, METRICS
from raysweep.spec import hints
from raysweep.spec.config import TrialConfig
from raysweep.spec.keys import all_keys
from raysweep.spec.loading import load_spec, parse_spec
from raysweep.spec.sections import Objective
from raysweep.spec.yamltext import Loader
from raysweep.vae.conventions import pixel_mean_weight

SPACE = {
    "data": {"dataset": "digits"},
    "trial": {"kld_weight": {"low": 1e-3, "high": 1e-1, "log": True}},
    "search": {},
    "evaluation": {},
}


def faults_of(**sections: Mapping[str, Any]) -> list[str]:
    """The faults of a small space with more keys in its sections; `top` has those of the whole file."""
    space = {name: {**keys, **sections.get(name, {})} for name, keys in SPACE.items()} | dict(sections.get("top", {}))
    with pytest.raises(SpecError) as caught:
        load_spec(space)
    return [f"{fault.key}: {fault.message}" for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("section", "key", "meant"),
    [
        ("trial", "lr", "learning_rate"),
        ("trial", "latent_dim", "latent_size"),
        ("trial", "z_dim", "latent_size"),
        ("trial", "Z-Dim", "latent_size"),
        ("trial", "bs", "batch_size"),
        ("trial", "n_epochs", "epochs"),
        ("trial", "kl_weight", "kld_weight"),
        ("trial", "beta", "kld_weight"),
        ("trial", "free_bits", "free_bits_nats"),
        ("trial", "loss", "likelihood"),
        ("search", "n_trials", "trials"),
        ("search", "num_samples", "trials"),
        ("search", "timeout", "time_budget"),
        ("search", "scheduler", "early_stopping"),
        ("search", "points_to_evaluate", "enqueue"),
        ("search", "random_state", "seed"),
        ("data", "path", "root"),
        ("data", "resolution", "image_size"),
        ("top", "lr", "trial.learning_rate"),
        ("top", "n_trials", "search.trials"),
        ("top", "search_space", "trial"),
    ],
)
def test_the_key_of_another_tool_is_told_as_the_one_here(section: str, key: str, meant: str) -> None:
    (fault,) = faults_of(**{section: {key: 1}})
    assert f"unknown key; {key} is {meant} here" in fault


@pytest.mark.parametrize(
    ("section", "key", "place"),
    [
        ("trial", "trials", "search: (search.trials)"),
        ("search", "learning_rate", "trial: (trial.learning_rate)"),
        ("trial", "image_size", "data: (data.image_size)"),
        ("top", "epochs", "trial: (trial.epochs)"),
        ("search", "metric", "search.objective: (search.objective.metric)"),
    ],
)
def test_a_key_in_the_wrong_section_is_told_its_own(section: str, key: str, place: str) -> None:
    assert any(f"{key}: unknown key; it stands under {place}" in fault for fault in faults_of(**{section: {key: 1}}))


def test_what_no_key_is_for_says_so() -> None:
    assert "without weight decay" in faults_of(trial={"weight_decay": 1e-4})[0]
    assert "raysweep run FILE --output DIR" in faults_of(top={"output": "there"})[0]


def test_the_keys_of_a_foreign_distribution_are_told_without_what_is_missing_for_it() -> None:
    assert faults_of(trial={"learning_rate": {"min": 1e-4, "max": 1e-2}}) == [
        "trial.learning_rate.max: unknown key; max is high here",
        "trial.learning_rate.min: unknown key; min is low here",
    ]
    assert faults_of(trial={"latent_size": {"values": [2, 8]}}) == [
        "trial.latent_size.values: unknown key; values is choices here"
    ]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("loguniform(1e-4, 1e-2)", "{low: 1e-4, high: 1e-2, log: true}"),
        ("tune.uniform(0.1, 0.5)", "{low: 0.1, high: 0.5}"),
        ("tune.choice([0.1, 0.5])", "{choices: [0.1, 0.5]}"),
        ("trial.suggest_float('x', 1e-4, 1, log=True)", "{low: 1e-4, high: 1, log: true}"),
    ],
)
def test_a_distribution_written_as_a_call_is_told_as_it_is_written_here(text: str, written: str) -> None:
    assert faults_of(trial={"learning_rate": text})[0].endswith(f"; write {written}")


@pytest.mark.parametrize(
    ("section", "key", "value", "meant"),
    [
        ("trial", "likelihood", "bce", "bernoulli"),
        ("trial", "likelihood", "mse", "gaussian"),
        ("trial", "batch_norm", True, "all"),
        ("trial", "precision", "bf16", "bfloat16"),
        ("search", "sampler", "bayes", "tpe"),
        ("data", "dataset", "ImageFolder", "folder"),
    ],
)
def test_the_value_of_another_tool_is_told_as_the_one_here(section: str, key: str, value: Any, meant: str) -> None:
    assert any(fault.endswith(f" is {meant} here") for fault in faults_of(**{section: {key: value}}))


def test_a_value_in_other_letters_is_told() -> None:
    assert faults_of(search={"sampler": "TPE"})[0].endswith("; did you mean tpe?")


@pytest.mark.parametrize(
    "own", [{}, {"sigma": 0.1}, {"sigma": 0.5, "reduction": "sum"}, {"sigma": 1.0, "reduction": "pixel_mean"}]
)
def test_a_beta_is_converted_to_the_weight_that_trains_the_same_model(own: dict[str, Any]) -> None:
    """The weight of the message, in the file's convention, is that of the published one: reduction sum and w = beta."""
    (fault,) = faults_of(data={"image_size": 16}, trial={"beta": 4, **own})
    number = re.search(r"is kld_weight ([\d.e-]*\d)", fault)
    weight = float(number[1]) if number else 4.0
    assert number or "kld_weight is beta itself" in fault
    published = TrialConfig(kld_weight=4.0, sigma=own.get("sigma", 1.0), reduction="sum")
    here = TrialConfig.model_validate({**own, "kld_weight": weight})
    assert pixel_mean_weight(here, 256) == pytest.approx(pixel_mean_weight(published, 256), rel=1e-2)


def test_each_end_of_a_range_of_betas_is_converted_for_the_images_of_the_file() -> None:
    (fault,) = faults_of(data={"dataset": "cifar10"}, trial={"beta": {"low": 1, "high": 10, "log": True}})
    assert "D = 3,072 (3x32x32)" in fault
    assert "beta 1 at sigma 1 is kld_weight 0.000651, beta 10 at sigma 1 is kld_weight 0.00651" in fault


@pytest.mark.parametrize(
    ("metric", "meant"),
    [
        ("elbo", "elbo_nats"), ("ELBO", "elbo_nats"), ("loss", "elbo_nats"), ("bpd", "bits_per_dim"),
        ("recon_loss", "mse"), ("psnr", "psnr_db"), ("kl", "rate_nats"), ("fid", "test_kid"), ("elbo_nat", "elbo_nats"),
    ],
)  # fmt: skip
def test_an_objective_of_another_name_is_told_as_the_metric_here(metric: str, meant: str) -> None:
    (fault,) = faults_of(search={"objective": {"metric": metric}})
    assert re.search(rf"\b{meant}\b", fault.partition("; allowed: ")[2].partition("; ")[2])


@pytest.mark.parametrize("metric", FINAL_METRICS)
def test_a_final_metric_is_refused_as_objective_with_the_reason_and_the_nearest_possible(metric: str) -> None:
    (fault,) = faults_of(search={"objective": {"metric": metric}})
    assert "is measured on the test split" in fault
    nearest = re.search(r"The nearest objective is (\w+);", fault)
    assert nearest
    Objective(metric=nearest[1])


def test_every_key_value_and_metric_of_the_table_is_there() -> None:
    known = {*all_keys(), ""}
    assert {row.key for row in hints._KEYS} <= known
    assert set(hints._METRICS) <= {*METRICS, *FINAL_METRICS}
    for key, values in hints._VALUES.items():
        assert key in known
        for value in values:
            section, _, name = key.partition(".")
            keys = {"objective": {"mode": value}} if key == "search.objective.mode" else {name: value}
            if value == "folder":
                keys["root"] = "."
            if value == "grid":
                continue  # needs a space of its own
            if value == "step":
                keys["learning_rate_epochs"] = 3
            if value == "min":
                keys["objective"] = {"mode": value, "metric": "mse"}
            parse_spec(yaml.safe_dump({**SPACE, section: {**SPACE.get(section, {}), **keys}}))


def test_no_foreign_name_is_a_key_of_its_own_section() -> None:
    keys = set(all_keys())
    for row in hints._KEYS:
        section = row.key.rpartition(".")[0]
        for name in row.names.split():
            assert not section or f"{section}.{name}" not in keys - {row.key}, (row.key, name)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("1/1024", "; write 0.000976562"),
        ("2**-10", "; write 0.000976562"),
        ("10^-3", "; write 0.001"),
        ("1_000", "; write 1000"),
        ("1,000,000", "; write 1000000"),
        ("0.5", "; numbers stand without quotes"),
        ("1/0", ""),
        ("0^-1", ""),
        ("many", ""),
    ],
)
def test_a_text_that_means_a_number_is_told_as_it_is_written(text: str, written: str) -> None:
    assert hints.number_hint(text) == written


@pytest.mark.parametrize(
    ("section", "value", "written"),
    [
        ("data", "digits", "; write data: {dataset: digits}"),
        ("data", "my_images", "; write data: {dataset: folder, root: my_images}"),
        ("search", 20, "; write search: {trials: 20}"),
        ("trial", 3, "; for example trial: {kld_weight: {low: 1e-5, high: 1e-2, log: true}}"),
        ("resources", 2, "; for example resources: {cpu: 2}"),
    ],
)
def test_a_bare_value_in_place_of_a_section_is_told_as_it_is_written(section: str, value: Any, written: str) -> None:
    faults = faults_of(top={section: value})
    assert any(
        fault.startswith(f"{section}: must be keys and values, got ") and fault.endswith(written) for fault in faults
    )
    text = written.partition("write ")[2] or written.partition("example ")[2]
    load_spec({**SPACE, **yaml.load(text, Loader=Loader)})


@pytest.mark.parametrize(
    ("section", "key", "value", "end"),
    [
        ("search", "early_stopping", True, "write early_stopping: {asha: {grace_epochs: 5}}"),
        ("search", "objective", "elbo_nats", "write objective: {metric: elbo_nats}"),
        ("search", "enqueue", {"kld_weight": 1e-2}, "write enqueue: [{kld_weight: 5e-3, learning_rate: 1e-4}]"),
        ("evaluation", "final_metrics", 5, "write final_metrics: best 5"),
        ("evaluation", "final_metrics", ["test_kid"], "write final_metrics: all, none, or best 5"),
        ("trial", "learning_rate", None, "nothing stands after its colon"),
        ("trial", "learning_rate", {"low": 1e-4, "high": 1e-2, "log": "yes"}, "write true"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_as_it_is_written(section: str, key: str, value: Any, end: str) -> None:
    assert any(fault.endswith(f"; {end}") for fault in faults_of(**{section: {key: value}}))
