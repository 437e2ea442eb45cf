"""Which metrics have a better direction, and that files written for directions of old still load."""

from __future__ import annotations

import pytest
import torch

from raysweep.data.bundled import BundledSource
from raysweep.errors import SpecError
from raysweep.metrics import FINAL_METRICS, FORMER_MODES, METRICS
from raysweep.quality.latents import active_units
from raysweep.quality.sharpness import sharpness
from raysweep.report.findings.verdicts import Verdict
from raysweep.spec.loading import parse_spec
from tests.unit.report.findings_sweeps import decide

CLAIM = "claims: [{name: a, statement: A., test: best_at, over: kld_weight, value: 0.1, metrics: %s%s}]\n"
FILE = "data: {dataset: digits}\ntrial: {kld_weight: {choices: [0.1, 0.2]}}\n"


def test_noise_is_sharper_than_images_so_sharpness_has_no_direction() -> None:
    chunk = next(iter(BundledSource("mnist-5k").chunks(lambda images: images)))
    images = torch.from_numpy(chunk.images[:100]).float().reshape(-1, 1, 28, 28) / 255
    real, noise = sharpness(images) or 0, sharpness(torch.rand(100, 1, 28, 28)) or 0
    assert noise > 1.5 * real > 0
    assert FINAL_METRICS["test_sample_sharpness"].mode is None
    assert FINAL_METRICS["test_reconstruction_sharpness"].mode is None


def test_latents_that_say_nothing_can_all_be_active_so_their_number_has_no_direction() -> None:
    assert active_units(torch.randn(100, 16)).all()
    assert METRICS["active_units"].mode is None
    assert FINAL_METRICS["test_active_units"].mode is None


def test_no_metric_has_a_direction_that_was_taken_from_it() -> None:
    directed = {name for name, metric in (METRICS | FINAL_METRICS).items() if metric.mode}
    assert not directed & set(FORMER_MODES)


def test_a_file_with_an_objective_of_old_still_loads_and_names_no_such_metric_to_others() -> None:
    spec = parse_spec(FILE + "search: {objective: {metric: active_units}}")
    assert spec.search.objective.direction == "max"
    assert spec.as_mapping()["search"]["objective"] == {"metric": "active_units", "mode": "max"}
    with pytest.raises(SpecError) as error:
        parse_spec(FILE + "search: {objective: {metric: rate_nats}}")
    assert "active_units" not in str(error.value)


@pytest.mark.parametrize("metric", ["test_sample_sharpness", "test_density", "active_units"])
def test_a_claim_without_mode_about_what_has_no_direction_loads_and_is_not_decided(metric: str) -> None:
    claim = {"test": "best_at", "over": "kld_weight", "value": 0.05, "metrics": metric}
    finding = decide(claim, lambda point: {metric: 3 + point["seed"]})
    assert finding.verdict is Verdict.UNDECIDED
    assert "give mode: min or max" in finding.outcome.reason


def test_what_has_no_direction_never_had_one_needs_its_mode_at_once() -> None:
    with pytest.raises(SpecError, match="min or max"):
        parse_spec(FILE + "evaluation: {final_metrics: all}\n" + CLAIM % ("test_rate_nats", ""))
    assert parse_spec(FILE + "evaluation: {final_metrics: all}\n" + CLAIM % ("test_rate_nats", ", mode: max")).claims
