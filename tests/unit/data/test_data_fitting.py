"""Images of any size and colour come out as [n, channel, size, size]."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raysweep.data.images import Fitting, luminance
from raysweep.spec.sections import Fit


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_an_image_of_the_size_is_not_touched() -> None:
    images = drawn(3, 16, 16, 3)
    np.testing.assert_array_equal(Fitting(16, 3, "resize")(images), images.transpose(0, 3, 1, 2))


def test_28_pixels_are_centred_in_32_and_surrounded_by_black() -> None:
    images = drawn(2, 28, 28, 1)
    padded = Fitting(32, 1, "pad")(images)
    np.testing.assert_array_equal(padded[:, 0, 2:30, 2:30], images[..., 0])
    assert padded.sum() == images.sum()


def test_28_pixels_resized_to_32_are_what_pillow_makes_of_them() -> None:
    images = drawn(2, 28, 28, 1)
    expected = Image.fromarray(images[1, ..., 0]).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(Fitting(32, 1, "resize")(images)[1, 0], np.asarray(expected))


def test_resize_takes_the_centred_square() -> None:
    images = np.zeros((1, 20, 60, 3), np.uint8)
    images[:, :, 16:44] = 200  # with the pixels beside the square that interpolation at its edge looks at
    assert (Fitting(8, 3, "resize")(images) == 200).all()
    assert (Fitting(8, 3, "resize")(images.transpose(0, 2, 1, 3)) == 200).all()


def test_grey_becomes_colour_by_repetition() -> None:
    images = drawn(2, 8, 8, 1)
    planes = Fitting(8, 3, "resize")(images)
    assert planes.shape == (2, 3, 8, 8)
    for plane in range(3):
        np.testing.assert_array_equal(planes[:, plane], images[..., 0])


def test_colour_becomes_grey_as_pillow_does_it() -> None:
    images = drawn(1, 64, 64, 3)
    np.testing.assert_array_equal(luminance(images)[0, ..., 0], np.asarray(Image.fromarray(images[0]).convert("L")))


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 3]),
    st.sampled_from([8, 16]),
    st.sampled_from(["resize", "crop", "letterbox", "pad"]),
)
@settings(deadline=None)
def test_every_size_and_colour_comes_out_in_one_shape(
    height: int, width: int, native: int, channels: int, size: int, fit: Fit
) -> None:
    fitted = Fitting(size, channels, fit)(drawn(2, height, width, native))  # type: ignore[arg-type]
    assert fitted.shape == (2, channels, size, size)
    assert fitted.dtype == np.uint8
    assert fitted.flags.c_contiguous


@given(st.integers(1, 16), st.integers(1, 16))
@settings(deadline=None)
def test_padding_keeps_every_pixel(height: int, width: int) -> None:
    images = drawn(1, height, width, 1)
    padded = Fitting(16, 1, "pad")(images)
    top, left = (16 - height) // 2, (16 - width) // 2
    np.testing.assert_array_equal(padded[0, 0, top : top + height, left : left + width], images[0, ..., 0])
    assert padded.sum() == images.sum()


def test_padding_takes_larger_images_down_first_and_keeps_all_of_them() -> None:
    images = np.full((1, 20, 40, 1), 200, np.uint8)
    padded = Fitting(16, 1, "pad")(images)[0, 0]
    assert (padded[4:12] == 200).all()
    assert padded.sum() == 8 * 16 * 200


@pytest.mark.parametrize(("height", "width"), [(20, 40), (4, 8)])
def test_letterbox_brings_the_longer_side_to_the_size_between_black_bars(height: int, width: int) -> None:
    images = np.full((2, height, width, 3), 200, np.uint8)
    boxed = Fitting(16, 3, "letterbox")(images)
    assert (boxed[:, :, 4:12] == 200).all()
    assert boxed.sum() == 2 * 3 * 8 * 16 * 200
    upright = Fitting(16, 3, "letterbox")(images.transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(upright, boxed.transpose(0, 1, 3, 2))


def test_padding_never_enlarges() -> None:
    images = drawn(1, 4, 8, 1)
    np.testing.assert_array_equal(Fitting(16, 1, "pad")(images)[0, 0, 6:10, 4:12], images[0, ..., 0])


def test_crop_and_resize_are_two_names_of_one_thing() -> None:
    images = drawn(2, 20, 61, 3)
    np.testing.assert_array_equal(Fitting(8, 3, "crop")(images), Fitting(8, 3, "resize")(images))


def test_what_is_cut_off_is_said_with_the_way_to_keep_it() -> None:
    photos = ((4032, 3024), (3024, 4032))
    note = Fitting(64, 3, "resize").note(photos)
    assert note is not None
    assert note.is_warning
    assert "25% of them is cut off" in note.text
    assert "fit: crop" in note.text
    assert "fit: letterbox" in note.text
    chosen = Fitting(64, 3, "crop").note(photos)
    assert chosen is not None
    assert not chosen.is_warning
    for fit in ("resize", "crop", "letterbox", "pad"):
        assert Fitting(64, 3, fit).note(((64, 64), (63, 64))) is None
