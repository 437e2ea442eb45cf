"""Sharpness: by hand, by another convolution, and its laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, laplace

from raysweep.quality.sharpness import sharpness


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_one_bright_pixel_by_hand() -> None:
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1
    # Over the 9 inner pixels the Laplacian is -4 once, 1 four times, 0 four times: mean 0, mean square 20 / 9.
    assert sharpness(image) == pytest.approx(20 / 9)


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(3, 20), st.integers(3, 20), st.integers(0, 2**31 - 1))
def test_it_is_the_variance_of_scipys_laplacian(n: int, height: int, width: int, seed: int) -> None:
    images = noise(seed, n, 1, height, width)
    expected = [laplace(image.double().numpy())[1:-1, 1:-1].var() for image in images[:, 0]]
    assert sharpness(images) == pytest.approx(float(np.mean(expected)), rel=1e-4, abs=1e-12)


def test_more_images_than_are_taken_at_once_add_up() -> None:
    images = noise(0, 600, 1, 6, 6)
    each = [sharpness(image[None]) for image in images]
    assert sharpness(images) == pytest.approx(float(np.mean([value for value in each if value is not None])))


def test_colour_is_measured_by_its_luminance() -> None:
    grey = noise(0, 4, 1, 9, 9)
    assert sharpness(grey.expand(4, 3, 9, 9)) == pytest.approx(sharpness(grey), rel=1e-4)
    green = torch.zeros(4, 3, 9, 9)
    green[:, 1:2] = grey
    assert sharpness(green) == pytest.approx(0.587**2 * (sharpness(grey) or 0), rel=1e-4)


def test_blurring_makes_it_smaller() -> None:
    images = noise(0, 3, 1, 32, 32)
    values = [sharpness(images)] + [
        sharpness(torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, sigma, sigma)))) for sigma in (0.5, 1.0, 2.0)
    ]
    assert values == sorted(values, key=lambda value: -(value or 0))
    assert (values[-1] or 1) < 0.01 * (values[0] or 0)


def test_slopes_without_an_edge_have_none() -> None:
    slope = torch.linspace(0, 1, 8).expand(1, 1, 8, 8)
    assert sharpness(slope) == pytest.approx(0, abs=1e-12)


def test_a_checkerboard_has_the_most() -> None:
    board = ((torch.arange(10)[:, None] + torch.arange(10)) % 2).float().expand(1, 1, 10, 10)
    assert sharpness(board) == pytest.approx(16)


def test_images_without_an_inner_pixel_have_none() -> None:
    assert sharpness(torch.rand(3, 1, 2, 9)) is None
    assert sharpness(torch.rand(0, 1, 9, 9)) is None
    assert sharpness(torch.full((2, 3, 9, 9), torch.nan)) is None


def test_two_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2"):
        sharpness(torch.rand(1, 2, 9, 9))
