"""KID, precision, recall, density and coverage: by hand, by the papers' formulas, by published code, and their laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from raysweep.quality import distances
from raysweep.quality.distances import density_coverage, kid, precision_recall

Array = NDArray[np.float64]


def normal(seed: int, rows: int, columns: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    return torch.from_numpy(shift + scale * np.random.RandomState(seed).standard_normal((rows, columns)))


def line(*positions: float) -> Tensor:
    return torch.tensor(positions)[:, None]


def kid_by_loops(x: Array, y: Array) -> float:
    def k(a: Array, b: Array) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(k(x[i], y[j]) for i in range(n) for j in range(m)) / (n * m)
    return xx + yy - 2 * xy


def radius_by_loops(x: Array, i: int, k: int) -> float:
    return sorted(float(np.linalg.norm(x[i] - x[j])) for j in range(len(x)) if j != i)[k - 1]


def shares_by_loops(x: Array, y: Array, k: int) -> tuple[float, float, float]:
    """Precision of y by x, density and coverage."""
    inside = np.array(
        [[np.linalg.norm(a - b) <= radius_by_loops(x, i, k) for b in y] for i, a in enumerate(x)], dtype=bool
    )
    return float(inside.any(axis=0).mean()), float(inside.sum() / (k * len(y))), float(inside.any(axis=1).mean())


sizes = st.integers(6, 12)
seeds = st.integers(0, 2**31 - 1)


@settings(max_examples=30)
@given(sizes, sizes, seeds, st.integers(1, 4), st.integers(1, 5))
def test_all_follow_the_formulas_of_the_papers(n: int, m: int, seed: int, d: int, k: int) -> None:
    real, fake = normal(seed, n, d), normal(seed ^ 1, m, d, 0.7, 0.4)
    x, y = real.numpy(), fake.numpy()
    precision, density, coverage = shares_by_loops(x, y, k)
    recall = shares_by_loops(y, x, k)[0]
    assert kid(real, fake) == pytest.approx(kid_by_loops(x, y), rel=1e-9, abs=1e-9)
    assert precision_recall(real, fake, k) == pytest.approx((precision, recall))
    assert density_coverage(real, fake, k) == pytest.approx((density, coverage))


def test_published_implementations_give_the_same() -> None:
    """What prdc 0.2 and torch-fidelity 0.4.0 gave for these very numbers; the second swaps precision and recall."""
    numbers = np.random.RandomState(7)
    real = torch.from_numpy(numbers.standard_normal((60, 8)))
    fake = torch.from_numpy(0.8 * numbers.standard_normal((60, 8)) + 0.5)
    assert kid(real, fake) == pytest.approx(1.1833645111938789, rel=1e-12)
    assert precision_recall(real, fake, k=3) == pytest.approx((0.9, 0.26666666666666666))
    assert precision_recall(real, fake, k=5) == pytest.approx((0.95, 0.38333333333333336))
    assert density_coverage(real, fake, k=3) == pytest.approx((1.0444444444444443, 0.65))
    assert density_coverage(real, fake, k=5) == pytest.approx((1.0566666666666666, 0.8333333333333334))


def test_kid_by_hand() -> None:
    # k(0, 0) = 1, k(1, 1) = 8, k(0, 1) = 1, and k(2, 0) = 1, k(2, 1) = 27, k(2, 2) = 125 of one dimension.
    assert kid(line(0, 1), line(2, 2)) == pytest.approx(1 + 125 - 2 * (1 + 1 + 27 + 27) / 4)


def test_precision_and_recall_by_hand() -> None:
    # Nearest neighbours: balls [-1, 1], [0, 2], [-1, 7] of the real 0, 1, 3 ... with k = 1: radii 1, 1, 2.
    real, fake = line(0, 1, 3), line(0.5, 4.5, 9)
    # Fake radii: 4, 4, 4.5, so the balls are [-3.5, 4.5], [0.5, 8.5], [4.5, 13.5].
    assert precision_recall(real, fake, k=1) == pytest.approx((2 / 3, 1.0))


def test_density_and_coverage_by_hand() -> None:
    # Balls [-1, 1], [0, 2], [1, 5]: 0.5 lies in two of them, 4.5 in one, 9 in none.
    assert density_coverage(line(0, 1, 3), line(0.5, 4.5, 9), k=1) == pytest.approx((1.0, 1.0))
    assert density_coverage(line(0, 1, 3), line(-0.5, -0.5), k=1) == pytest.approx((1.0, 1 / 3))


@settings(max_examples=25)
@given(sizes, sizes, seeds)
def test_the_order_of_images_changes_nothing(n: int, m: int, seed: int) -> None:
    real, fake = normal(seed, n, 3), normal(seed ^ 1, m, 3, 1.3)
    order = torch.Generator().manual_seed(seed)
    mixed, others = real[torch.randperm(n, generator=order)], fake[torch.randperm(m, generator=order)]
    assert kid(mixed, others) == pytest.approx(kid(real, fake), rel=1e-9, abs=1e-12)
    assert precision_recall(mixed, others) == precision_recall(real, fake)
    assert density_coverage(mixed, others) == density_coverage(real, fake)


@settings(max_examples=25)
@given(st.integers(2, 30), sizes, seeds, st.integers(1, 5))
def test_shares_are_shares_and_density_has_its_bound(n: int, m: int, seed: int, k: int) -> None:
    real, fake = normal(seed, n, 2), normal(seed ^ 1, m, 2)
    for share in (*precision_recall(real, fake, k), density_coverage(real, fake, k).coverage):
        assert share is None or 0 <= share <= 1
    density = density_coverage(real, fake, k).density
    assert (density is None) == (n <= k)
    assert density is None or 0 <= density <= n / k


@settings(max_examples=25)
@given(sizes, seeds, st.integers(1, 4))
def test_a_set_covers_itself(n: int, seed: int, k: int) -> None:
    same = normal(seed, n, 4).float()
    assert precision_recall(same, same.clone(), k) == (1, 1)
    found = density_coverage(same, same.clone(), k)
    assert found.coverage == 1
    assert found.density == pytest.approx((k + 1) / k)  # itself and its k neighbours' worth of balls, on average


@settings(max_examples=25)
@given(sizes, sizes, seeds)
def test_kid_is_symmetric(n: int, m: int, seed: int) -> None:
    x, y = normal(seed, n, 3), normal(seed ^ 1, m, 3)
    assert kid(x, y) == pytest.approx(kid(y, x), rel=1e-9, abs=1e-12)


def test_kid_has_no_bias_between_two_draws_of_one_distribution() -> None:
    values = np.array([kid(normal(seed, 20, 4), normal(seed + 1000, 20, 4)) for seed in range(400)], dtype=float)
    assert abs(values.mean()) < 3 * values.std() / 20
    assert values.min() < 0 < values.max()


def test_samples_that_are_all_alike_have_precision_without_recall_or_coverage() -> None:
    real = normal(0, 200, 4)
    fake = real[:1].expand(100, 4)
    assert precision_recall(real, fake) == (1, 1 / 200)
    coverage = density_coverage(real, fake).coverage
    assert coverage is not None
    assert coverage < 0.2


def test_blocks_of_rows_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = normal(0, 50, 3), normal(1, 40, 3, 0.5)
    whole = kid(real, fake), precision_recall(real, fake), density_coverage(real, fake)
    monkeypatch.setattr(distances, "_ROWS", 7)
    assert kid(real, fake) == pytest.approx(whole[0], rel=1e-12)
    assert (precision_recall(real, fake), density_coverage(real, fake)) == whole[1:]


def test_too_few_images_have_no_measure() -> None:
    one, many = normal(0, 1, 3), normal(1, 10, 3)
    assert kid(one, many) is None
    assert kid(many, one) is None
    assert precision_recall(many, one) == (0.0, None) or precision_recall(many, one) == (1.0, None)
    assert precision_recall(one, many).precision is None
    assert precision_recall(many, many[:0]) == (None, None)
    assert density_coverage(one, many) == (None, None)
    assert density_coverage(many, many[:0]) == (None, None)


def test_features_that_are_not_finite_have_no_measure() -> None:
    real = normal(0, 10, 3)
    for bad in (torch.nan, torch.inf):
        fake = real.clone()
        fake[3, 1] = bad
        assert kid(real, fake) is None
        assert precision_recall(real, fake) == (None, None)
        assert density_coverage(fake, real) == (None, None)


def test_no_neighbour_at_all_is_refused() -> None:
    real = normal(0, 10, 3)
    with pytest.raises(ValueError, match="k of 1 or more, got 0"):
        precision_recall(real, real, k=0)
    with pytest.raises(ValueError, match="k of 1 or more, got -1"):
        density_coverage(real, real, k=-1)
