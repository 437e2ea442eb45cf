"""The feature network: what it learns, what it embeds, and the file that keeps it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from raysweep.errors import StorageError
from raysweep.quality.features import (
    FEATURES,
    FeatureNetwork,
    load_features,
    measure_accuracy,
    random_features,
    save_features,
    train_classifier,
)

SHAPE = (1, 12, 12)


def bars(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Noisy images of a horizontal or a vertical bar, and which."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    images = 0.5 * torch.rand(count, *SHAPE, generator=generator)
    for image, label, place in zip(images, labels, torch.randint(2, 9, (count,), generator=generator), strict=True):
        if label:
            image[0, place : place + 2] += 0.5
        else:
            image[0, :, place : place + 2] += 0.5
    return images, labels


def trained(seed: int = 0, steps: int = 60) -> FeatureNetwork:
    images, labels = bars(0, 300)
    return train_classifier(images.__getitem__, labels, SHAPE, 2, seed=seed, device="cpu", steps=steps)


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return trained()


@settings(max_examples=15)
@given(st.sampled_from([1, 3]), st.integers(8, 128), st.integers(8, 128), st.integers(1, 12), st.integers(0, 3))
def test_images_of_every_size_have_64_features(channels: int, height: int, width: int, classes: int, n: int) -> None:
    network = FeatureNetwork((channels, height, width), classes)
    images = torch.rand(n, channels, height, width)
    features, found = network.embed(images), network.classify(images)
    assert features.shape == (n, FEATURES)
    assert bool(torch.isfinite(features).all())
    assert found.shape == (n,)
    assert all(0 <= label < classes for label in found.tolist())


@pytest.mark.parametrize(("shape", "classes"), [((1, 7, 8), 2), ((0, 8, 8), 2), ((1, 8, 8), 0)])
def test_images_that_are_too_small_and_missing_classes_are_refused(shape: tuple[int, int, int], classes: int) -> None:
    with pytest.raises(ValueError, match="sides of 8 pixels or more"):
        FeatureNetwork(shape, classes)


def test_it_learns_classes_that_it_can_see(network: FeatureNetwork) -> None:
    images, labels = bars(1, 300)
    accuracy = measure_accuracy(network, images, labels)
    assert accuracy is not None
    assert accuracy > 0.97
    assert not network.training
    assert measure_accuracy(network, images[:0], labels[:0]) is None


def test_features_of_one_class_are_nearer_to_each_other(network: FeatureNetwork) -> None:
    images, labels = bars(2, 100)
    distance = torch.cdist(network.embed(images), network.embed(images))
    same = labels[:, None] == labels
    assert float(distance[same].mean()) < 0.6 * float(distance[~same].mean())


def test_the_same_seed_trains_the_same_network(network: FeatureNetwork) -> None:
    torch.manual_seed(99)
    torch.rand(7)
    before = torch.random.get_rng_state()
    again, other = trained(), trained(seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))
    assert not torch.equal(other.head.weight, network.head.weight)


def test_an_image_is_embedded_alike_in_every_batch(network: FeatureNetwork) -> None:
    images, _ = bars(3, 300)
    alone = torch.cat([network.embed(image[None]) for image in images[250:270]])
    assert torch.allclose(network.embed(images)[250:270], alone, atol=1e-5)
    assert not network.embed(images).requires_grad


def test_embedding_leaves_the_mode_as_it_was(network: FeatureNetwork) -> None:
    images, _ = bars(3, 10)
    fresh = FeatureNetwork(SHAPE, 2)
    state = {name: value.clone() for name, value in fresh.state_dict().items()}
    fresh.train()
    fresh.embed(images)
    assert fresh.training
    assert all(torch.equal(value, state[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, -1], [0]])
def test_labels_that_are_no_classes_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="labels from 0 to 1"):
        train_classifier(torch.rand(9, *SHAPE).__getitem__, torch.tensor(labels), SHAPE, 2, seed=0, device="cpu")


def test_random_features_are_those_of_their_seed() -> None:
    images, _ = bars(4, 20)
    features = random_features(SHAPE, 0).embed(images)
    assert torch.equal(features, random_features(SHAPE, 0).embed(images))
    assert not torch.allclose(features, random_features(SHAPE, 1).embed(images))
    assert float(features.std(dim=0).max()) > 0.01


def test_random_features_can_take_the_statistics_of_images() -> None:
    images, _ = bars(4, 400)
    network = random_features(SHAPE, 0, images)
    assert network.kind == "random"
    norm = network.body[-2]
    before_relu: list[Tensor] = []
    handle = norm.register_forward_hook(lambda module, inputs, output: before_relu.append(output))
    network.embed(images)
    handle.remove()
    normed = torch.cat(before_relu)
    assert torch.allclose(normed.mean(dim=0), torch.zeros(FEATURES), atol=0.01)
    assert torch.allclose(normed.std(dim=0), torch.ones(FEATURES), atol=0.01)


def test_the_statistics_of_one_image_are_refused() -> None:
    with pytest.raises(ValueError, match="two images or more, got 1"):
        random_features(SHAPE, 0, torch.rand(1, *SHAPE))


def test_a_saved_network_comes_back_whole(network: FeatureNetwork, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "features.safetensors"
    images, labels = bars(5, 50)
    network.accuracy = measure_accuracy(network, images, labels)
    save_features(path, network, "abc")
    found = load_features(path, "abc")
    assert found is not None
    assert (found.kind, found.shape, found.classes) == ("classifier", SHAPE, 2)
    assert found.accuracy == network.accuracy
    assert torch.equal(found.embed(images), network.embed(images))
    assert [file.name for file in path.parent.iterdir()] == ["features.safetensors"]
    save_features(path, random_features(SHAPE, 3), "abc")
    other = load_features(path, "abc")
    assert other is not None
    assert (other.kind, other.accuracy) == ("random", None)


def test_a_missing_file_is_none_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_features(tmp_path / "none.safetensors", "abc") is None
    assert caplog.records == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def with_header(path: Path, **changes: object) -> None:
    tensors = load_file(path)
    header = {"format": "raysweep-features-1", "fingerprint": "abc", "kind": "random", "shape": SHAPE, "classes": 2}
    save_file(tensors, path, metadata={"raysweep": json.dumps({**header, "accuracy": None, **changes})})


def of_another_program(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path, metadata={"format": "pt"})


def without_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors["head.weight"]
    save_file(tensors, path)
    header = {"format": "raysweep-features-1", "fingerprint": "abc", "kind": "random", "shape": SHAPE, "classes": 2}
    save_file(tensors, path, metadata={"raysweep": json.dumps({**header, "accuracy": None})})


DAMAGES = {
    "cut short": cut,
    "empty": empty,
    "of another program": of_another_program,
    "of another version": lambda path: with_header(path, format="raysweep-features-0"),
    "for other data": lambda path: with_header(path, fingerprint="xyz"),
    "of an unknown kind": lambda path: with_header(path, kind="oracle"),
    "of another shape": lambda path: with_header(path, shape=[3, 12, 12]),
    "of a shape that is none": lambda path: with_header(path, shape="wide"),
    "of other classes": lambda path: with_header(path, classes=5),
    "with an accuracy that is none": lambda path: with_header(path, accuracy="high"),
    "without a tensor": without_a_tensor,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_of_no_use_is_none_and_named_in_the_log(
    damage: str, network: FeatureNetwork, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "features.safetensors"
    save_features(path, network, "abc")
    DAMAGES[damage](path)
    with caplog.at_level(logging.WARNING, logger="raysweep"):
        assert load_features(path, "abc") is None
    assert len(caplog.records) == 1
    assert str(path) in caplog.text


def test_a_file_that_cannot_be_written_is_a_storage_error(network: FeatureNetwork, tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        save_features(tmp_path / ("x" * 300), network, "abc")
