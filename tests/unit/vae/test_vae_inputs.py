"""What training sees: torchvision's own transforms, drawn for each image of a batch, and repeatable from the seed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensor_images import TensorImages, discs, small_config, small_training
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from raysweep.vae import training as training_module
from raysweep.vae.inputs import (
    InputGenerators,
    adjust_brightness,
    augment,
    autocontrast,
    binarise,
    changes_images,
    corrupt,
    rotate,
    seeded_generator,
    training_pair,
)
from raysweep.vae.likelihoods import data_term
from raysweep.vae.training import Training

CPU = torch.device("cpu")
sides = st.integers(1, 33)


def noise_images(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def near_a_tie(degrees: float, height: int, width: int) -> Tensor:
    """Pixels that come from the border between two others: rounding there is a matter of the last bit."""
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    rows = torch.arange(height, dtype=torch.float64).view(-1, 1) - (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    from_row = angle.sin() * columns + angle.cos() * rows + (height - 1) / 2
    from_column = angle.cos() * columns - angle.sin() * rows + (width - 1) / 2
    return ((from_row % 1 - 0.5).abs() < 1e-4) | ((from_column % 1 - 0.5).abs() < 1e-4)


@given(
    degrees=st.lists(
        st.floats(-180, 180) | st.sampled_from([0.0, 45.0, 60.0, 90.0, -90.0, 180.0]), min_size=1, max_size=4
    ),
    height=sides,
    width=sides,
    channels=st.sampled_from([1, 3]),
)
def test_each_image_is_rotated_as_torchvision_rotates_it(
    degrees: list[float], height: int, width: int, channels: int
) -> None:
    x = noise_images(0, (len(degrees), channels, height, width)) + 0.1
    rotated = rotate(x, torch.tensor(degrees))
    for image, found, angle in zip(x, rotated, degrees, strict=True):
        expected = reference.rotate(image, angle, InterpolationMode.NEAREST)
        differing = (found != expected).any(dim=0) & ~near_a_tie(angle, height, width)
        assert not differing.any(), angle


def test_a_rotation_by_nothing_and_by_a_right_angle_move_whole_pixels() -> None:
    x = noise_images(1, (3, 2, 8, 8))
    assert torch.equal(rotate(x, torch.zeros(3)), x)
    assert torch.equal(rotate(x, torch.full((3,), 90.0)), x.rot90(1, (2, 3)))


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_each_image_gets_torchvisions_autocontrast(seed: int, low: float, high: float) -> None:
    x = low + (high - low) * noise_images(seed, (4, 3, 5, 7))
    x[1] = low  # without contrast
    x[2, 0] = high
    for image, found in zip(x, autocontrast(x), strict=True):
        torch.testing.assert_close(found, reference.autocontrast(image), rtol=0, atol=1e-6)


@given(st.integers(0, 1000), st.lists(st.floats(0, 2), min_size=1, max_size=4))
def test_each_image_gets_torchvisions_brightness(seed: int, factors: list[float]) -> None:
    x = noise_images(seed, (len(factors), 3, 5, 7))
    for image, found, factor in zip(x, adjust_brightness(x, torch.tensor(factors)), factors, strict=True):
        torch.testing.assert_close(found, reference.adjust_brightness(image, factor), rtol=0, atol=1e-6)


def test_rotation_comes_before_contrast_and_contrast_before_brightness() -> None:
    """Pixels of 0.2 to 0.8: black comes in by the rotation, so contrast stretches from 0; then brightness cuts off."""
    x = 0.2 + 0.6 * noise_images(2, (6, 1, 9, 9))
    config = small_config(rotation_degrees=180.0, autocontrast_probability=1.0, brightness_jitter=1.0)
    drawn = generator(7)
    angles = 180 * (2 * torch.rand(6, generator=drawn) - 1)
    torch.rand(6, generator=drawn)
    factors = 1 + (2 * torch.rand(6, generator=drawn) - 1)
    expected = [
        reference.adjust_brightness(reference.autocontrast(reference.rotate(image, float(angle))), float(factor))
        for image, angle, factor in zip(x, angles, factors, strict=True)
    ]
    torch.testing.assert_close(augment(x, config, generator(7)), torch.stack(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"rotation_degrees": 90.0}, {"autocontrast_probability": 0.5}, {"brightness_jitter": 0.5}]
)
def test_every_image_of_a_batch_has_draws_of_its_own(changes: dict[str, float]) -> None:
    """The same image many times over comes out in many ways."""
    x = (0.2 + 0.3 * noise_images(3, (1, 1, 12, 12))).expand(64, -1, -1, -1)
    seen = augment(x, small_config(**changes), generator())
    assert len({tuple(image.flatten().tolist()) for image in seen}) >= (
        2 if "autocontrast_probability" in changes else 50
    )


def test_augmentation_reaches_its_bounds_and_not_beyond() -> None:
    x = torch.full((4000, 1, 1, 1), 0.4)
    factors = augment(x, small_config(brightness_jitter=0.5), generator()) / 0.4
    assert 0.5 <= float(factors.min()) < 0.51
    assert 1.49 < float(factors.max()) <= 1.5 + 1e-6
    x = 0.2 + 0.6 * noise_images(0, (4000, 1, 2, 1))
    stretched = augment(x, small_config(autocontrast_probability=0.25), generator()).amin((1, 2, 3)) == 0
    assert float(stretched.float().mean()) == pytest.approx(0.25, abs=0.03)


def test_a_threshold_makes_pixels_white_from_one_half_on() -> None:
    x = torch.tensor([0.0, 0.3, 0.4999, 0.5, 0.7, 1.0]).view(1, 1, 2, 3)
    assert binarise(x, "threshold").flatten().tolist() == [0, 0, 0, 1, 1, 1]


def test_sampled_pixels_are_white_as_often_as_they_are_bright() -> None:
    x = torch.tensor([0.0, 0.1, 0.6, 1.0]).view(4, 1, 1, 1).expand(-1, -1, 100, 100)
    sampled = binarise(x, "sampled", generator())
    assert set(sampled.unique().tolist()) == {0, 1}
    shares = sampled.mean((1, 2, 3)).tolist()
    assert shares[0] == 0
    assert shares[3] == 1
    assert shares[1:3] == pytest.approx([0.1, 0.6], abs=0.02)


def test_corruption_falls_on_the_input_alone_and_binarising_on_both() -> None:
    x = noise_images(4, (8, 3, 16, 16))
    config = small_config(binarise="sampled", input_dropout=0.3, input_noise=0.1)
    seen, target = training_pair(x, config, InputGenerators.of(0, 0, CPU))
    assert set(target.unique().tolist()) == {0, 1}
    assert not torch.equal(seen, target)
    clean = small_config(binarise="sampled")
    seen, again = training_pair(x, clean, InputGenerators.of(0, 0, CPU))
    assert torch.equal(seen, again)
    assert torch.equal(again, target)  # noise on the input has not changed what binarising drew


def test_dropout_sets_pixels_to_black_without_scaling_the_rest() -> None:
    x = torch.full((10, 3, 32, 32), 0.5)
    dropped = corrupt(x, small_config(input_dropout=0.3), generator())
    assert set(dropped.unique().tolist()) == {0, 0.5}
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.01)


def test_noise_has_the_deviation_asked_for() -> None:
    x = torch.full((10, 3, 32, 32), 0.5)
    noise = corrupt(x, small_config(input_noise=0.2), generator()) - x
    assert float(noise.std()) == pytest.approx(0.2, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.005)


CHANGES: list[dict[str, Any]] = [
    {"rotation_degrees": 10.0},
    {"autocontrast_probability": 0.5},
    {"brightness_jitter": 0.1},
    {"binarise": "threshold"},
    {"binarise": "sampled"},
    {"input_dropout": 0.1},
    {"input_noise": 0.1},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_each_field_changes_what_training_sees_and_only_then(changes: dict[str, Any]) -> None:
    assert not changes_images(small_config())
    assert changes_images(small_config(**changes))
    x = 0.1 + 0.7 * noise_images(5, (8, 1, 9, 9))
    seen, _ = training_pair(x, small_config(**changes), InputGenerators.of(0, 0, CPU))
    assert not torch.equal(seen, x)


def seen_by(training: Training, epochs: int) -> list[Tensor]:
    """The network's inputs in every step of training."""
    inputs: list[Tensor] = []
    training.model.register_forward_pre_hook(lambda model, x: inputs.append(x[0]) if model.training else None)
    for _ in range(epochs):
        training.run_epoch()
    return inputs


def test_a_plain_trial_trains_on_the_very_tensors_that_were_gathered() -> None:
    gathered: list[Tensor] = []

    class Noted(TensorImages):
        def gather(self, indices: Tensor) -> Tensor:
            gathered.append(super().gather(indices))
            return gathered[-1]

    training = Training(small_config(), Noted(discs(40, (1, 8, 8))), TensorImages(discs(20, (1, 8, 8))))
    gathered.clear()
    inputs = seen_by(training, 1)
    assert len(inputs) == 3
    assert all(seen is plain for seen, plain in zip(inputs, gathered, strict=True))


def test_images_are_drawn_anew_in_every_epoch_and_alike_for_the_same_seed() -> None:
    """The sum over all images is the same for every order, so that it differs by what is drawn alone."""
    changes: dict[str, Any] = {"rotation_degrees": 90.0, "brightness_jitter": 0.5, "batch_size": 40}
    first, again, other = (
        [batch.sum(0) for batch in seen_by(small_training(small_config(seed=seed, **changes)), 2)] for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    drawn = [*first, *other]
    assert not any(torch.allclose(a, b, rtol=1e-3) for a, b in itertools.combinations(drawn, 2))


def test_the_loss_is_against_the_clean_image_of_a_corrupted_input(monkeypatch: pytest.MonkeyPatch) -> None:
    targets: list[Tensor] = []

    def spy(output: Tensor, x: Tensor, *rest: Any) -> Tensor:
        targets.append(x)
        return data_term(output, x, *rest)

    monkeypatch.setattr(training_module, "data_term", spy)
    inputs = seen_by(small_training(small_config(input_dropout=0.5, binarise="threshold")), 1)
    assert len(inputs) == len(targets) == 3
    for seen, target in zip(inputs, targets, strict=True):
        assert set(target.unique().tolist()) == {0, 1}
        assert (seen <= target).all()
        assert 0.3 < float(seen.sum() / target.sum()) < 0.7


def test_validation_sees_binarised_images_the_same_every_time_and_nothing_else_is_done_to_them() -> None:
    changes: dict[str, Any] = {"rotation_degrees": 90.0, "input_noise": 0.3, "input_dropout": 0.3}
    for how in ("none", "sampled"):
        training = small_training(small_config(binarise=how, **changes), (1, 8, 8))
        inputs: list[Tensor] = []
        training.model.register_forward_pre_hook(
            lambda model, x, inputs=inputs: None if model.training else inputs.append(x[0])
        )
        training.run_epoch()
        training.run_epoch()
        first, second = inputs
        assert torch.equal(first, second)
        plain = training.validation_images.pixels  # type: ignore[attr-defined]
        assert torch.equal(first, plain) == (how == "none")
        assert how == "none" or set(first.unique().tolist()) == {0, 1}


@given(st.integers(0, 2**32 - 1), st.integers(0, 100_000))
def test_a_generator_depends_on_seed_epoch_and_purpose(seed: int, epoch: int) -> None:
    def draw(seed: int, epoch: int, purpose: str) -> list[float]:
        return torch.rand(4, generator=seeded_generator("cpu", seed, epoch, purpose)).tolist()

    here = draw(seed, epoch, "order")
    assert here == draw(seed, epoch, "order")
    assert here not in (draw(seed ^ 1, epoch, "order"), draw(seed, epoch + 1, "order"), draw(seed, epoch, "noise"))
