"""Monotonicity of paths between images."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raysweep.quality.paths import largest_step, monotonicity


def along(*positions: float) -> Tensor:
    """One path of images of one pixel."""
    return torch.tensor(positions).view(1, -1, 1, 1, 1)


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(2, 30), st.sampled_from([1, 3]), st.integers(1, 16), st.integers(0, 2**31 - 1))
def test_a_straight_line_goes_ahead_in_every_step(pairs: int, steps: int, channels: int, side: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, last = torch.rand(2, pairs, 1, channels, side, side, generator=generator)
    share = torch.linspace(0, 1, steps).view(1, -1, 1, 1, 1)
    assert monotonicity((1 - share) * first + share * last) == 1


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(2, 9), st.integers(0, 2**31 - 1))
def test_it_is_a_share_and_the_way_back_has_the_same(pairs: int, steps: int, seed: int) -> None:
    paths = torch.rand(pairs, steps, 1, 3, 3, generator=torch.Generator().manual_seed(seed))
    share = monotonicity(paths)
    assert share is not None
    assert 0 <= share <= 1
    assert share * pairs * (steps - 1) == pytest.approx(round(share * pairs * (steps - 1)))
    assert monotonicity(paths.flip(1)) == share


def test_steps_by_hand() -> None:
    assert monotonicity(along(0.0, 0.2, 0.6, 1.0)) == 1
    assert monotonicity(along(0.0, 0.4, 0.2, 1.0)) == pytest.approx(2 / 3)  # the second comes back
    assert monotonicity(along(0.5, 0.2, 0.8, 1.0)) == pytest.approx(2 / 3)  # the first moves away from the last
    assert monotonicity(along(0.0, 0.0, 1.0, 1.0)) == 1  # a jump is monotone
    assert monotonicity(torch.cat([along(0.0, 0.5, 1.0), along(1.0, 0.0, 1.0)])) == pytest.approx(0.5)


def test_rounding_is_no_way_back() -> None:
    assert monotonicity(along(0.0, 0.5, 0.5 - 1e-7, 1.0)) == 1
    assert monotonicity(along(0.0, 0.5, 0.5 - 1e-5, 1.0)) == pytest.approx(2 / 3)


def test_a_detour_through_another_image_does_not_go_ahead() -> None:
    first, aside, last = torch.eye(3).view(3, 1, 1, 3)
    beside = 0.9 * first + 0.3 * aside
    assert monotonicity(torch.stack([first, beside, 3 * aside, last])[None]) == pytest.approx(1 / 3)


def test_a_path_without_a_step_has_none() -> None:
    assert monotonicity(torch.rand(3, 1, 1, 4, 4)) is None
    assert monotonicity(torch.rand(0, 5, 1, 4, 4)) is None
    assert monotonicity(along(0.0, torch.nan, 1.0)) is None


def test_the_largest_step_is_one_of_an_even_path_and_all_of_a_jump() -> None:
    grey = torch.linspace(0, 1, 10).view(1, 10, 1, 1, 1).expand(3, 10, 1, 4, 4)
    assert largest_step(grey) == pytest.approx(1.0)
    jump = (grey > 0.5).float()
    assert largest_step(jump) == pytest.approx(9.0)
    by_hand = torch.tensor([0.0, 0.1, 0.5, 0.6]).view(1, 4, 1, 1, 1)
    assert largest_step(by_hand) == pytest.approx(0.4 / 0.2)


def test_paths_that_stay_where_they_are_have_no_steps() -> None:
    still = torch.zeros(2, 5, 1, 4, 4)
    moving = torch.linspace(0, 1, 5).view(1, 5, 1, 1, 1).expand(1, 5, 1, 4, 4)
    assert largest_step(still) is None
    assert largest_step(torch.cat([still, moving])) == pytest.approx(1.0)
    assert largest_step(torch.full((1, 5, 1, 4, 4), math.nan)) is None
    assert largest_step(moving[:, :1]) is None
