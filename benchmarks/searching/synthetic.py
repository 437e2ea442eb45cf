"""Problems whose best is known: five families of smooth functions in 1 to 8 dimensions, with curves that cross."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from raysweep.spec.loading import load_spec
from raysweep.spec.sections import SweepSpec
from searching.problems import Array, Landscape, Point, Problem, features, problem_of

FAMILIES = ("bowl", "ridge", "valley", "ripples", "basins")
DIMENSIONS = (1, 2, 4, 6, 8)
"""Of the five problems of a family."""
EPOCHS = 20
NOISE = 0.01
"""Standard deviation of an end, where 1 lies between the best and the worst."""
FIELDS = {
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "kld_weight": {"low": 1e-6, "high": 1.0, "log": True},
    "input_noise": {"low": 0.0, "high": 1.0},
    "brightness_jitter": {"low": 0.0, "high": 1.0},
    "max_gradient_norm": {"low": 1e-2, "high": 10.0, "log": True},
    "rotation_degrees": {"low": 0.0, "high": 90.0},
    "free_bits_nats": {"low": 0.0, "high": 4.0},
    "sigma": {"low": 1e-2, "high": 1.0, "log": True},
}
"""Names and ranges that the dimensions go by: whatever a search space file may search."""


class Synthetic(Landscape):
    """One function: its optimum, and how fast each point gets near its end, are drawn from the seed."""

    def __init__(self, family: str, dimensions: int, seed: int) -> None:
        rng = np.random.default_rng((FAMILIES.index(family), dimensions, seed))
        self.spec = synthetic_spec(dimensions)
        self._family = family
        self.optimum = rng.uniform(0.15, 0.85, dimensions)
        self._turn, _ = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))
        self._stretch = np.geomspace(1.0, 5.0, dimensions) if dimensions > 1 else np.ones(1)
        self._slope = rng.normal(size=dimensions) / math.sqrt(dimensions)
        self._other = (self.optimum + 0.5) % 1.0

    def ends(self, x: Array) -> Array:
        """Return the value at the end of points of the unit cube: 1 at the optimum, less elsewhere."""
        return np.asarray(self._ends(x), dtype=np.float64)

    def _ends(self, x: Array) -> Any:
        away = x - self.optimum
        distance = np.mean(away**2, axis=1)
        if self._family == "bowl":
            return np.exp(-20 * distance)
        if self._family == "ridge":
            turned = (away @ self._turn) * self._stretch
            return 1 / (1 + 20 * np.mean(turned**2, axis=1))
        if self._family == "valley":
            bent = away[:, 1:] - 2 * away[:, :1] ** 2 if x.shape[1] > 1 else away
            return np.exp(-6 * away[:, 0] ** 2 - 30 * np.mean(bent**2, axis=1))
        if self._family == "ripples":
            return np.exp(-12 * distance) - 0.1 * np.mean(1 - np.cos(6 * np.pi * away), axis=1)
        near = np.exp(-60 * distance)  # basins: a narrow one, and a wide one that is not as good
        return np.maximum(near, 0.7 * np.exp(-8 * np.mean((x - self._other) ** 2, axis=1)))

    def mean(self, points: list[Point]) -> Array:
        x = features(self.spec.trial, points)
        ends = self.ends(x)
        # The higher the end, the slower on average, so that after few epochs others are ahead.
        slowness = np.exp(1.2 * ends - 1.0 + 1.5 * (x - 0.5) @ self._slope)
        time = np.arange(1, EPOCHS + 1) / EPOCHS
        rise = (1 - np.exp(-3 * time / slowness[:, None])) / (1 - np.exp(-3 / slowness))[:, None]
        return np.asarray(ends[:, None] * rise)

    def noise(self, point: Point, rng: np.random.Generator) -> Array:
        lasting, fleeting = rng.normal(0, NOISE), rng.normal(0, NOISE / 2, EPOCHS)
        return np.asarray(lasting + fleeting)

    def epoch_s(self, point: Point) -> float:
        return 1.0


def synthetic_spec(dimensions: int) -> SweepSpec:
    """Return a search space with so many dimensions."""
    return load_spec(
        {
            "name": f"synthetic-{dimensions}",
            "data": {"dataset": "digits"},
            "trial": dict(list(FIELDS.items())[:dimensions]),
            "search": {
                "objective": {"metric": "psnr_db"},
                "early_stopping": {"asha": {"max_epochs": EPOCHS, "grace_epochs": 5, "reduction_factor": 3}},
            },
        }
    )


def synthetic_problem(family: str, seed: int) -> Problem:
    """Return one of the 25 problems."""
    return problem_of(f"{family}-{seed}", Synthetic(family, DIMENSIONS[seed], seed), best=1.0)
