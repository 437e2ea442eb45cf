"""Grids of small images in one PNG, at native resolution, from which each image can be recovered exactly."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raysweep.storage.layout import read_bounded

GRID_GREY = 128
"""Colour between the images: it shows the border of a black image as well as of a white one."""

PADDING = 2
"""Pixels between the images and around them."""

MAX_PIXELS = 72_000_000
"""Limit for a picture that is read: a grid of 64 images of 1024 x 1024 has 67 million."""
MAX_PNG_BYTES = 256 << 20

Pixels = NDArray[np.uint8]


def tile(images: Pixels, columns: int, padding: int = PADDING) -> bytes:
    """Return a PNG of `images`, row by row.

    Args:
        images: [image, height, width, channel], uint8, with 1 channel (grey) or 3 (RGB).
        columns: images per row; unused places in the last row stay grey.
        padding: grey pixels between the images and around them.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"images must be uint8 [image, height, width, 1 or 3], got {images.dtype} {images.shape}")
    if columns < 1 or padding < 0:
        raise ValueError(f"columns must be at least 1 and padding at least 0, got {columns} and {padding}")
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    canvas = np.full(
        (padding + rows * (height + padding), padding + columns * (width + padding), channels), GRID_GREY, np.uint8
    )
    for index, image in enumerate(images):
        y, x = _corner(index, height, width, columns, padding)
        canvas[y : y + height, x : x + width] = image
    return encode(canvas)


def untile(png: bytes | Path, image_size: int, columns: int | None = None, padding: int = PADDING) -> Pixels:
    """Return the square images of a grid that `tile` made: [image, image_size, image_size, channel].

    Args:
        png: the picture, or its path.
        image_size: height and width of each image.
        columns: images per row; a picture with another number is refused. None takes it from the picture's width.
        padding: the value given to `tile`.

    Unused places in the last row come back as grey images, because a PNG cannot tell the two apart.

    Raises:
        ValueError: if the picture is no PNG, or its size does not fit a grid of such images.
    """
    canvas = _canvas(png)
    pitch = image_size + padding
    height, width, _ = canvas.shape
    rows, rest_y = divmod(height - padding, pitch)
    found, rest_x = divmod(width - padding, pitch)
    if rest_x or rest_y or rows < 1 or found < 1 or columns not in (None, found):
        wanted = "a grid" if columns is None else f"a grid of {columns} columns"
        raise ValueError(f"a picture of {width} x {height} pixels is not {wanted} of {image_size}-pixel images")
    corners = (_corner(index, image_size, image_size, found, padding) for index in range(rows * found))
    return np.stack([canvas[y : y + image_size, x : x + image_size] for y, x in corners])


def enlarge(png: bytes | Path, width: int) -> tuple[bytes, int, int]:
    """Return the picture with each pixel enlarged to a square, about `width` wide: (PNG, width, height).

    Raises:
        ValueError: if the picture is no PNG.
    """
    canvas = _canvas(png)
    most = math.isqrt(max(1, MAX_PIXELS // (canvas.shape[0] * canvas.shape[1])))  # a picture may be narrow and long
    factor = max(1, min(round(width / canvas.shape[1]), most))
    canvas = canvas.repeat(factor, axis=0).repeat(factor, axis=1)
    # For squares of equal pixels, compression level 2 gives a third more bytes in a third of the time.
    return encode(canvas, compress_level=2), canvas.shape[1], canvas.shape[0]


def shrink(png: bytes | Path, width: int, colours: int | None = None) -> tuple[bytes, int, int]:
    """Return the picture smoothly reduced to `width`, if it is wider, and to `colours`: (PNG, width, height).

    Raises:
        ValueError: if the picture is no PNG.
    """
    canvas = _canvas(png)
    if canvas.shape[1] > width:
        height = round(canvas.shape[0] * width / canvas.shape[1])
        canvas = np.asarray(Image.fromarray(canvas).resize((width, height), Image.Resampling.LANCZOS))
    if colours is None:
        return encode(canvas, compress_level=3), canvas.shape[1], canvas.shape[0]
    buffer = io.BytesIO()
    Image.fromarray(canvas).quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG")
    return buffer.getvalue(), canvas.shape[1], canvas.shape[0]


def encode(canvas: Pixels, compress_level: int = 6) -> bytes:
    """Return a picture as PNG: uint8 [height, width, channel], with 1 channel (grey) or 3 (RGB).

    For smooth pictures, compression level 3 gives as few bytes as level 6, in half the time.
    """
    buffer = io.BytesIO()
    image = Image.fromarray(canvas[:, :, 0] if canvas.shape[2] == 1 else canvas)
    image.save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


@contextmanager
def open_picture(png: bytes | Path) -> Iterator[Image.Image]:
    """Open a PNG that may not be raysweep's own; refuse more than `MAX_PIXELS` before decoding.

    Raises:
        ValueError: if it is no PNG, is damaged or too large. Any error while it is open is raised as a ValueError too.
    """
    try:
        content = read_bounded(png, MAX_PNG_BYTES) if isinstance(png, Path) else png
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is the lower one
            picture = Image.open(io.BytesIO(content), formats=["PNG"])
        with picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"it has {picture.width} x {picture.height} pixels")
            yield picture
    except Exception as error:  # Pillow raises nearly anything on a damaged file
        raise ValueError(f"the picture cannot be read: {error or type(error).__name__}") from error


def _corner(index: int, height: int, width: int, columns: int, padding: int) -> tuple[int, int]:
    row, column = divmod(index, columns)
    return padding + row * (height + padding), padding + column * (width + padding)


def _canvas(png: bytes | Path) -> Pixels:
    """Decode a PNG to [height, width, 1 or 3]."""
    with open_picture(png) as image:
        canvas = np.array(image if image.mode in ("L", "RGB") else image.convert("RGB"), dtype=np.uint8)
    return canvas if canvas.ndim == 3 else canvas[:, :, np.newaxis]
