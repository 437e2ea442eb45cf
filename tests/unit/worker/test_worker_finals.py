"""The final metrics of one trial, measured on real digits without Ray."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raysweep.data.cache import prepare
from raysweep.data.tensors import load_splits
from raysweep.errors import CheckpointError
from raysweep.messages import ImageFile, TestOrder
from raysweep.metrics import FinalMetrics
from raysweep.report.images import untile
from raysweep.report.latents import read_latents
from raysweep.spec.config import TrialConfig
from raysweep.spec.sections import DataSpec, EvaluationSpec
from raysweep.storage.layout import SweepDirectory
from raysweep.vae.checkpoint import save_checkpoint
from raysweep.vae.training import Training
from raysweep.worker import finals
from raysweep.worker.features import feature_space
from raysweep.worker.finals import measure_trial
from tests.s3server import BUCKET, s3_server
from tests.unit.data.written_data import write_image

DIGITS = DataSpec(dataset="digits", image_size=16)
SMALL = TrialConfig(d_size=4, latent_size=4, hidden_size=16, conv_blocks="d/2 2d/2", kld_weight=1e-4, epochs=4)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As a trial has on a CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "cache"))


def trained(
    root: Path, config: TrialConfig = SMALL, data: DataSpec = DIGITS, epochs: int = 2, projected: bool = True
) -> TestOrder:
    """An order to test trial 3, which has trained a little."""
    cache = prepare(data)
    splits = load_splits(cache, data, "cpu")
    training = Training(config, splits.train, splits.validation)
    for _ in range(epochs):
        SweepDirectory(root).trials.mkdir(parents=True, exist_ok=True)
        save_checkpoint(SweepDirectory(root).trial(3), training, training.run_epoch())
    evaluation = EvaluationSpec(images=100, importance_samples=5)
    return TestOrder(
        3, data, evaluation, ImageFile(cache, data.dataset, "", 0), root, projected=projected, threads=1, gpu=False
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[TestOrder, FinalMetrics]:
    order = trained(tmp_path_factory.mktemp("sweep"), epochs=4)
    return order, measure_trial(order)


def test_every_metric_of_labelled_images_has_a_value(digits: tuple[TestOrder, FinalMetrics]) -> None:
    _, metrics = digits
    values = dataclasses.asdict(metrics)
    assert [name for name, value in values.items() if value is None] == ["iwae_binary_nats", "denoised_mse"]
    assert all(math.isfinite(value) for value in values.values() if isinstance(value, float))
    assert metrics.features == "classifier"
    assert metrics.images == 100
    assert len(metrics.latent_kl_nats) == 4


def test_bounds_and_errors_agree_with_each_other(digits: tuple[TestOrder, FinalMetrics]) -> None:
    _, metrics = digits
    assert metrics.iwae_nats is not None
    assert metrics.elbo_nats is not None
    assert metrics.sampled_mse is not None
    assert metrics.mse is not None
    assert metrics.sigma is not None
    assert metrics.rate_nats is not None
    assert metrics.elbo_nats - 1 < metrics.iwae_nats < metrics.elbo_nats + metrics.rate_nats
    assert sum(metrics.latent_kl_nats) == pytest.approx(metrics.rate_nats, rel=1e-3)
    assert metrics.sigma == pytest.approx(SMALL.sigma)
    assert metrics.sampled_mse == pytest.approx(metrics.mse + metrics.sigma**2, rel=0.03)


def test_real_images_are_nearer_to_real_images_than_samples_are(digits: tuple[TestOrder, FinalMetrics]) -> None:
    _, metrics = digits
    assert metrics.kid is not None
    assert metrics.floor_kid is not None
    assert metrics.coverage is not None
    assert metrics.floor_coverage is not None
    assert metrics.floor_kid < metrics.kid
    assert metrics.floor_coverage > max(metrics.coverage, 0.8)
    assert metrics.floor_reconstruction_accuracy is not None
    assert metrics.reconstruction_accuracy is not None
    assert 0.9 < metrics.floor_reconstruction_accuracy > metrics.reconstruction_accuracy


def test_measuring_again_gives_the_same(digits: tuple[TestOrder, FinalMetrics]) -> None:
    order, metrics = digits
    again = measure_trial(order)
    assert dataclasses.replace(again, measured_s=0.0) == dataclasses.replace(metrics, measured_s=0.0)


def test_the_pictures_and_the_latents_are_those_of_the_test_split(digits: tuple[TestOrder, FinalMetrics]) -> None:
    order, metrics = digits
    directory = SweepDirectory(order.directory)
    assert len(untile(directory.interpolations(3), 16, columns=10)) == 80
    assert len(untile(directory.traversals(3), 16, columns=9)) == 4 * 9
    for path in (directory.shifted_samples(3), directory.mixture_samples(3)):
        assert len(untile(path, 16, columns=8)) == 64
    rows = untile(directory.sampled_reconstructions(3), 16, columns=16)
    assert len(rows) == 48
    splits = load_splits(order.images.path, order.data, "cpu")
    table = read_latents(directory.latents(3))
    assert len(table.means) == len(splits.test) + len(splits.train)
    assert table.splits[: len(splits.test)] == ("test",) * len(splits.test)
    assert sorted(table.images) == sorted([*splits.test.indices, *splits.train.indices])
    assert table.kl_nats == pytest.approx(metrics.latent_kl_nats, rel=1e-3)
    assert directory.sprites(3).exists()


def test_a_trial_that_is_not_projected_keeps_fewer_latents_and_no_sprites(tmp_path: Path) -> None:
    order = trained(tmp_path, projected=False)
    measure_trial(order)
    directory = SweepDirectory(tmp_path)
    assert len(read_latents(directory.latents(3)).means) == 1000
    assert not directory.sprites(3).exists()


@pytest.mark.parametrize(
    "change",
    [
        {"likelihood": "bernoulli", "binarise": "threshold", "reduction": "sum", "kld_weight": 1.0},
        {"likelihood": "learned_gaussian", "input_noise": 0.2},
        {"likelihood": "continuous_bernoulli", "binarise": "sampled", "input_dropout": 0.2},
        {"likelihood": "calibrated_gaussian", "conv_blocks": "none", "batch_norm": "all"},
    ],
    ids=lambda change: change["likelihood"],
)
def test_every_likelihood_and_input_can_be_tested(tmp_path: Path, change: dict[str, object]) -> None:
    config = TrialConfig.model_validate({**SMALL.model_dump(), **change})
    metrics = measure_trial(trained(tmp_path, config))
    noisy = config.input_noise > 0 or config.input_dropout > 0
    assert (metrics.denoised_mse is not None) is noisy
    assert metrics.sampled_mse is not None
    assert metrics.mse is not None
    assert metrics.sigma is not None
    assert metrics.sampled_mse > metrics.mse
    if "gaussian" in config.likelihood:
        assert metrics.sampled_mse == pytest.approx(metrics.mse + metrics.sigma**2, rel=0.05)
    assert metrics.elbo_binary_nats is not None
    assert metrics.elbo_binary_nats < 0
    if config.binarise == "threshold":
        assert metrics.iwae_binary_nats is not None
        assert metrics.elbo_binary_nats < metrics.iwae_binary_nats < 0
    else:
        assert metrics.iwae_binary_nats is None


def test_images_without_labels_are_compared_in_random_features(tmp_path: Path) -> None:
    for number in range(300):
        write_image(tmp_path / "images" / f"{number:03d}.png", (16, 16), seed=number)
    data = DataSpec(dataset="folder", root=str(tmp_path / "images"), image_size=16, test_fraction=0.3)
    metrics = measure_trial(trained(tmp_path / "sweep", data=data))
    assert metrics.features == "random"
    without = ("silhouette", "knn_accuracy", "probe_accuracy", "reconstruction_accuracy")
    assert all(getattr(metrics, name) is None for name in without)
    assert metrics.kid is not None
    assert metrics.floor_kid is not None
    assert metrics.floor_kid < metrics.kid


def test_one_importance_sample_gives_the_elbo_also_where_the_error_is_far_below_a_grey_level(tmp_path: Path) -> None:
    order = trained(tmp_path)
    whole = DIGITS.model_copy(update={"validation_fraction": 0.1, "test_fraction": 0.1})
    order = dataclasses.replace(order, data=whole, evaluation=EvaluationSpec(images=1000, importance_samples=1))
    metrics = measure_trial(order)
    assert metrics.iwae_nats is not None
    assert metrics.elbo_nats is not None
    assert metrics.iwae_nats == pytest.approx(metrics.elbo_nats, abs=1.0)


@pytest.mark.parametrize(("fractions", "test_images"), [((0.2, 0.7), 1258), ((0.4, 0.001), 2)])
def test_a_split_may_be_larger_or_smaller_than_what_is_compared(
    tmp_path: Path, fractions: tuple[float, float], test_images: int
) -> None:
    data = DIGITS.model_copy(update={"validation_fraction": fractions[0], "test_fraction": fractions[1]})
    order = trained(tmp_path, data=data)
    metrics = measure_trial(dataclasses.replace(order, evaluation=EvaluationSpec(images=1000, importance_samples=2)))
    assert metrics.images == min(1000, test_images)


def test_one_colour_image_is_enough_of_a_test_split(tmp_path: Path) -> None:
    for number in range(12):
        write_image(tmp_path / "images" / f"{number:03d}.png", (16, 16), seed=number)
    data = DataSpec(dataset="folder", root=str(tmp_path / "images"), image_size=16)
    metrics = measure_trial(trained(tmp_path / "sweep", data=data))
    assert metrics.images == 1
    assert metrics.kid is None
    assert metrics.interpolation_monotonicity is None
    assert metrics.mse is not None


def test_sampled_binarisation_does_not_depend_on_how_images_are_batched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SMALL.model_copy(update={"binarise": "sampled", "likelihood": "bernoulli"})
    order = trained(tmp_path, config)
    whole = measure_trial(order)
    monkeypatch.setattr(finals, "BATCH", 7)
    batched = measure_trial(order)
    assert batched.kid == pytest.approx(whole.kid, rel=1e-4)
    assert batched.reconstruction_sharpness == pytest.approx(whole.reconstruction_sharpness, rel=1e-4)


def test_a_collapsed_trial_has_no_active_latent_to_judge(tmp_path: Path) -> None:
    metrics = measure_trial(trained(tmp_path, SMALL.model_copy(update={"kld_weight": 10.0}), epochs=3))
    assert metrics.active_units == 0
    assert metrics.silhouette is None
    assert metrics.knn_accuracy is None
    assert metrics.aggregate_kl_nats == pytest.approx(0, abs=0.05)


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    order = trained(tmp_path)
    whole = measure_trial(order)
    directory = SweepDirectory(tmp_path).trial(3)
    newest = directory / "epoch-000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert measure_trial(order).elbo_nats != whole.elbo_nats
    (directory / "epoch-000001.safetensors").unlink()
    with pytest.raises(CheckpointError, match="epoch-000002"):
        measure_trial(order)


@pytest.mark.usefixtures("own_cache")
def test_the_features_of_a_split_are_made_once_and_never_of_its_test_images(tmp_path: Path) -> None:
    cache = prepare(DIGITS)

    def features(name: str, data: DataSpec = DIGITS) -> np.ndarray[Any, Any]:
        (tmp_path / name).mkdir(exist_ok=True)
        splits = load_splits(cache, data, "cpu")
        network = feature_space(cache, data, splits, torch.device("cpu"), SweepDirectory(tmp_path / name))
        return np.asarray(network.embed(splits.test.gather(torch.arange(5))))

    first = features("one")
    (path,) = [p for p in cache.parent.glob("digits*.features.safetensors") if p.stat().st_size]
    written = path.stat().st_mtime_ns
    assert np.array_equal(first, features("another"))
    assert path.stat().st_mtime_ns == written
    path.unlink()
    assert np.array_equal(first, features("one")), "a sweep keeps its own"
    assert not path.exists()
    features("two", DIGITS.model_copy(update={"split_seed": 1}))
    assert len(list(cache.parent.glob("digits*.features.safetensors"))) == 1


def test_machines_of_a_sweep_in_a_bucket_see_with_the_same_eyes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own copy of the images; whoever comes second takes what the first has put there."""
    cache = prepare(DIGITS)
    splits = load_splits(cache, DIGITS, "cpu")
    with s3_server() as address:
        uri = f"s3://{BUCKET}/sweep?endpoint_override={address}&region=us-east-1"
        content = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            copy = Path(shutil.copy(cache, tmp_path / name))
            torch.manual_seed(len(content))
            feature_space(copy, DIGITS, splits, torch.device("cpu"), SweepDirectory(tmp_path / name, uri))
            content.append((tmp_path / name / "features.safetensors").read_bytes())
        assert content[0] == content[1]
        assert not list((tmp_path / "two").glob("digits*.features.safetensors")), "nothing was made a second time"
