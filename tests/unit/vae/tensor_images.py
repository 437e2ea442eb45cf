"""Images for the tests of training: plain tensors behind the `Images` protocol, drawn shapes and real digits."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysweep.metrics import EpochMetrics
from raysweep.spec.config import TrialConfig
from raysweep.vae.training import Training


class TensorImages:
    """A split that is a tensor, and that notes in `log` which indices were asked of it."""

    def __init__(self, pixels: Tensor, name: str = "", log: list[tuple[str, Tensor]] | None = None) -> None:
        self.pixels = pixels
        self.name = name
        self.log: list[tuple[str, Tensor]] = [] if log is None else log

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.pixels)

    def gather(self, indices: Tensor) -> Tensor:
        self.log.append((self.name, indices))
        return self.pixels[indices]

    def mean_image(self) -> Tensor:
        return self.pixels.mean(dim=0)


def discs(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Bright discs on a dark ground, of 8-bit grey levels: what a latent or three can describe."""
    channels, height, width = shape
    random = torch.Generator().manual_seed(seed)
    x, y, radius = (torch.rand(3, count, 1, 1, 1, generator=random) * 0.5) + 0.25
    rows = torch.linspace(0, 1, height).view(1, 1, -1, 1)
    columns = torch.linspace(0, 1, width).view(1, 1, 1, -1)
    inside = ((rows - y).square() + (columns - x).square()).sqrt() < radius / 2
    return (inside * 0.8 + 0.1).expand(count, channels, height, width).mul(255).round().div(255).contiguous()


def digits() -> Tensor:
    """scikit-learn's 1,797 handwritten digits, [1797, 1, 8, 8], read from its wheel without importing it."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    rows = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",", dtype=np.float32)
    return torch.from_numpy(rows[:, :-1]).view(-1, 1, 8, 8) / 16


def small_config(**changes: Any) -> TrialConfig:
    """A configuration that trains in milliseconds."""
    small = {"d_size": 4, "latent_size": 3, "hidden_size": 16, "batch_size": 16, "epochs": 4, "learning_rate": 0.01}
    return TrialConfig.model_validate(small | changes)


def small_training(config: TrialConfig, shape: tuple[int, int, int] = (3, 8, 16)) -> Training:
    """A trial over 40 discs, validated on 20 others; 16 does not divide 40, so the last batch is smaller."""
    return Training(config, TensorImages(discs(40, shape)), TensorImages(discs(20, shape, seed=1)))


TIMES = ("images_per_s", "epoch_s")


def untimed(metrics: EpochMetrics) -> dict[str, Any]:
    """The metrics that a second run of the same configuration must repeat."""
    return {name: getattr(metrics, name) for name in EpochMetrics.__slots__ if name not in TIMES}
