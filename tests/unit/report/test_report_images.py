from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from raysweep.report.images import GRID_GREY, enlarge, shrink, tile, untile


@given(st.data())
def test_untile_gives_back_every_pixel(data):
    count, size = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 6))
    channels, columns = data.draw(st.sampled_from([1, 3])), data.draw(st.integers(1, 5))
    padding = data.draw(st.integers(0, 3))
    images = data.draw(arrays(np.uint8, (count, size, size, channels)))
    png = tile(images, columns, padding)
    back = untile(png, size, columns, padding)
    assert len(back) % columns == 0
    np.testing.assert_array_equal(back[:count], images)
    assert (back[count:] == GRID_GREY).all()
    np.testing.assert_array_equal(untile(png, size, padding=padding), back)


def test_a_grid_reads_from_left_to_right():
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    picture = np.asarray(Image.open(io.BytesIO(tile(images, columns=2, padding=1))))
    g = GRID_GREY
    assert picture.tolist() == [[g] * 5, [g, 0, g, 1, g], [g] * 5, [g, 2, g, 3, g], [g] * 5]


def test_a_picture_of_another_grid_is_refused():
    png = tile(np.zeros((4, 8, 8, 1), np.uint8), columns=2)
    with pytest.raises(ValueError, match="22 x 22 pixels is not a grid of 7-pixel images"):
        untile(png, 7)
    with pytest.raises(ValueError, match="not a grid of 4 columns of 8-pixel images"):
        untile(png, 8, columns=4)


@pytest.mark.parametrize("content", [b"", b"not a picture", tile(np.zeros((1, 8, 8, 1), np.uint8), 1)[:40]])
def test_a_broken_picture_is_refused(content, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        untile(path, 8)


@pytest.mark.parametrize("shape", [(8, 8), (0, 8, 8, 1), (1, 8, 8, 4)])
def test_what_is_no_stack_of_images_is_refused(shape):
    with pytest.raises(ValueError, match="images must be uint8"):
        tile(np.zeros(shape, np.uint8), 1)


def test_enlarge_makes_squares_of_pixels():
    png, width, height = enlarge(tile(np.array([[[[7], [9]]]], np.uint8), 1, padding=0), width=7)
    assert (width, height) == (8, 4)
    picture = np.asarray(Image.open(io.BytesIO(png)))
    assert picture.tolist() == [[7, 7, 7, 7, 9, 9, 9, 9]] * 4


@pytest.mark.parametrize("colours", [None, 8])
def test_shrink_keeps_the_proportions_and_no_more_colours_than_asked_for(colours):
    noise = np.random.default_rng(0).integers(0, 256, (1, 20, 40, 3), dtype=np.uint8)
    png, width, height = shrink(tile(noise, 1, padding=0), 10, colours)
    picture = Image.open(io.BytesIO(png))
    assert picture.size == (width, height) == (10, 5)
    assert (len(picture.convert("RGB").getcolors()) <= 8) is (colours == 8)
