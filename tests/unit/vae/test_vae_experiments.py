"""Five published experiments, each as one configuration: a step of training, and images of the exact shape."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tensor_images import TensorImages
from torch import nn

from raysweep.spec.config import TrialConfig
from raysweep.vae.networks import ConvVAE
from raysweep.vae.training import Training

PUBLISHED: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "KLD weights": (
        {"d_size": 32, "latent_size": 256, "learning_rate": 1e-4, "batch_size": 16, "kld_weight": 5e-3,
         "rotation_degrees": 45.0, "autocontrast_probability": 0.5, "brightness_jitter": 0.5},
        (1, 32, 32),
    ),
    "beta by hand": (
        {"d_size": 16, "batch_norm": "conv", "learning_rate": 1e-3, "kld_weight": 0.11,
         "learning_rate_schedule": "step", "learning_rate_epochs": "201", "learning_rate_factor": 0.5},
        (1, 28, 28),
    ),
    "colour": (
        {"d_size": 8, "kernel_size": 4, "hidden_size": None, "latent_size": 20, "batch_size": 32,
         "likelihood": "bernoulli", "reduction": "sum", "kld_weight": 1.0},
        (3, 32, 32),
    ),
    "faces": (
        {"d_size": 8, "conv_blocks": "d/2 2d/2 4d/2 4d/2", "kernel_size": 4, "hidden_size": None, "latent_size": 20,
         "batch_size": 32, "likelihood": "bernoulli", "reduction": "sum", "kld_weight": 1.0},
        (3, 128, 128),
    ),
    "two latents": (
        {"d_size": 32, "conv_blocks": "d 2d/2 2d/2 2d", "negative_slope": 0.01, "hidden_size": None, "latent_size": 2,
         "upsampling": "trimmed", "reduction": "sum", "kld_weight": 1.0, "learning_rate": 5e-4, "batch_size": 32},
        (1, 28, 28),
    ),
    "decoders": (
        {"d_size": 64, "conv_blocks": "d/2 2d/2", "kernel_size": 4, "hidden_size": 1024, "batch_norm": "linear",
         "negative_slope": 0.2, "latent_size": 2, "likelihood": "bernoulli", "binarise": "threshold",
         "input_dropout": 0.2, "reduction": "sum", "kld_weight": 1.0, "learning_rate": 1e-4,
         "learning_rate_schedule": "plateau"},
        (1, 28, 28),
    ),
    "decoders in colour": (
        {"d_size": 64, "conv_blocks": "d/2 2d/2 4d/2", "kernel_size": 4, "hidden_size": 1024, "batch_norm": "linear",
         "negative_slope": 0.2, "latent_size": 10, "likelihood": "learned_gaussian", "reduction": "sum",
         "kld_weight": 1.0, "learning_rate": 3e-4, "learning_rate_schedule": "step", "learning_rate_epochs": "6"},
        (3, 32, 32),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_experiment_trains_a_step_and_decodes_to_its_images_shape(name: str) -> None:
    fields, shape = PUBLISHED[name]
    random = torch.Generator().manual_seed(0)
    count = min(int(fields.get("batch_size", 64)), 16)
    images = TensorImages(torch.rand(count, *shape, generator=random))
    training = Training(TrialConfig.model_validate(fields), images, images)
    assert training.steps_an_epoch == 1
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    metrics = training.run_epoch()
    assert math.isfinite(metrics.train_loss)
    assert math.isfinite(metrics.val_loss)
    assert math.isfinite(metrics.elbo_nats)
    assert metrics.elbo_binary_nats < 0
    changed = {name for name, value in training.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(before)
    assert training.model.reconstruct(images.pixels).shape == (count, *shape)
    assert training.model.sample(2).shape == (2, *shape)


def weights(name: str) -> list[tuple[int, ...]]:
    """The shapes of the weights of convolutions and linear layers, encoder first, at the published width."""
    fields, shape = PUBLISHED[name]
    with torch.device("meta"):
        model = ConvVAE(TrialConfig.model_validate(fields), shape)
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    return [tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, kinds)]


def test_the_layers_of_the_kld_weight_experiment_are_the_published_ones() -> None:
    assert weights("KLD weights") == [
        (32, 1, 3, 3), (64, 32, 3, 3), (128, 64, 3, 3), (256, 2048), (512, 256),
        (256, 256), (2048, 256), (128, 64, 3, 3), (64, 32, 3, 3), (32, 1, 3, 3),
    ]  # fmt: skip


def test_the_layers_of_the_two_latents_are_the_published_ones() -> None:
    assert weights("two latents") == [
        (32, 1, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3), (64, 64, 3, 3), (4, 3136),
        (3136, 2), (64, 64, 3, 3), (64, 64, 3, 3), (64, 32, 3, 3), (32, 1, 3, 3),
    ]  # fmt: skip


def test_the_layers_of_the_decoders_are_the_published_ones() -> None:
    assert weights("decoders") == [
        (64, 1, 4, 4), (128, 64, 4, 4), (1024, 6272), (4, 1024),
        (1024, 2), (6272, 1024), (128, 64, 4, 4), (64, 1, 4, 4),
    ]  # fmt: skip
