"""Decoding of one image file to pixels of 8 bits: upright, without transparency, the first frame only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from raysweep.data.images import Images

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_INTEGER_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
_LARGE_PIXELS = 16_000_000
_ONE_LARGE = threading.Lock()
"""Held while a large image is decoded: each takes up to a gigabyte, and a folder may be full of them."""

Remark = Literal["turned", "first frame", "transparent", "CMYK", "16-bit colour", "rescaled", "made grey"]
"""A change to an image that a person may not expect."""


class BrokenImageError(Exception):
    """An image that cannot be decoded; the message is the reason."""


class Span(NamedTuple):
    """The least and the largest of some values."""

    low: float
    high: float

    def join(self, other: Span | None) -> Span:
        return self if other is None else Span(min(self.low, other.low), max(self.high, other.high))


class Spans(NamedTuple):
    """The value ranges of a folder's images with more than 8 bits a pixel; None without such images.

    One scale serves all images of a folder, so what is brighter in the files is brighter in the tensors.
    """

    integers: Span | None
    floats: Span | None

    @classmethod
    def from_lists(cls, raw: Any) -> Spans:
        """Return spans from parsed JSON or YAML: two pairs of numbers, each of which may be null.

        Raises:
            ValueError: if it is something else.
        """
        pairs = list(raw) if isinstance(raw, list | tuple) else []
        if len(pairs) != 2 or not all(pair is None or _is_pair(pair) for pair in pairs):
            raise ValueError(f"spans must be two pairs of numbers, got {str(raw)[:100]}")
        integers, floats = (None if pair is None else Span(float(pair[0]), float(pair[1])) for pair in pairs)
        return cls(integers, floats)


def _is_pair(raw: Any) -> bool:
    return isinstance(raw, list | tuple) and len(raw) == 2 and all(type(v) in (int, float) for v in raw)


def decode(
    path: Path,
    channels: Literal[1, 3],
    spans: Callable[[], Spans] | None = None,
    remarks: set[Remark] | None = None,
) -> Images:
    """Return an image as [height, width, channels], turned upright by its EXIF orientation.

    Of an animation or a file of several pages, the first frame is read. Transparent pixels are put on black. Pixels of
    more than 8 bits are scaled by `spans`, which is called only for such an image. Without `spans`, integers from 0 to
    65,535 count as 16 bits, and other values are scaled by the image's own range.
    Changes are added to `remarks`. The caller must have turned Pillow's warnings about sizes into errors.

    Raises:
        BrokenImageError: if it cannot be decoded, or is larger than Pillow's limit against decompression bombs.
    """
    remarks = set() if remarks is None else remarks
    with _readable(), Image.open(path, formats=FORMATS) as opened, _turn(opened):
        if _has_more_frames(opened):
            remarks.add("first frame")
        if any(";16" in str(tile[3]) for tile in opened.tile) and opened.mode not in _INTEGER_MODES:
            remarks.add("16-bit colour")
        image = ImageOps.exif_transpose(opened)
        if image is not opened and _is_turned(opened):
            remarks.add("turned")
        values = _deep_values(image)
        if values is None:
            return _flattened(image, channels, remarks)
    # `spans` reads other images, which need the lock if they are large, so it is not held here.
    with _readable():
        grey = _rescaled(values, _own_spans(values) if spans is None else spans(), remarks)
        return np.repeat(grey, channels, axis=2)


def measure(path: Path) -> Spans:
    """Return the least and largest value of an image with more than 8 bits a pixel.

    For an image of 8 bits both spans are None, and only its header is read.

    Raises:
        BrokenImageError: as `decode` does.
    """
    with _readable(), Image.open(path, formats=FORMATS) as opened:
        if opened.mode not in _INTEGER_MODES and opened.mode != "F":
            return Spans(None, None)
        with _turn(opened):
            values = _deep_values(opened)
    return Spans(None, None) if values is None else _spans_of(values)


@contextmanager
def _readable() -> Iterator[None]:
    """Turn every error in reading a file into a BrokenImageError."""
    try:
        yield
    except BrokenImageError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        reason = error.strerror if isinstance(error, OSError) else None
        raise BrokenImageError(reason or str(error) or type(error).__name__) from error


def _turn(opened: Image.Image) -> AbstractContextManager[object]:
    """Return the lock that lets one large image in at a time; for others, a context without effect."""
    return _ONE_LARGE if opened.width * opened.height > _LARGE_PIXELS else nullcontext()


def _has_more_frames(opened: Image.Image) -> bool:
    # Pillow looks for a second frame, which may be damaged although the first is not.
    with suppress(Exception):
        return bool(getattr(opened, "is_animated", False))
    return False


def _is_turned(opened: Image.Image) -> bool:
    return opened.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)


def _deep_values(image: Image.Image) -> NDArray[Any] | None:
    """Return the values of an image with more than 8 bits a pixel, [height, width]; None for any other."""
    if image.mode in _INTEGER_MODES:
        return np.asarray(image)
    if image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise BrokenImageError("some of its pixels are no finite numbers")
        return values
    return None


def _spans_of(values: NDArray[Any]) -> Spans:
    span = Span(float(values.min()), float(values.max()))
    return Spans(None, span) if values.dtype.kind == "f" else Spans(span, None)


def _own_spans(values: NDArray[Any]) -> Spans:
    spans = _spans_of(values)
    is_16_bits = spans.integers is not None and spans.integers.low >= 0 and spans.integers.high < 1 << 16
    return Spans(Span(0, (1 << 16) - 1), None) if is_16_bits else spans


def _rescaled(values: NDArray[Any], spans: Spans, remarks: set[Remark]) -> Images:
    """Scale values to 8 bits, [height, width, 1].

    - Integers, if none is negative, lose their lower bits: as many bits as the largest of all has above 8.
    - Floats from 0 to 1 become 0 to 255; floats from 0 to 255 are rounded.
    - Other values, also negative ones, are spread from the least to the largest.
    """
    is_float = values.dtype.kind == "f"
    span = spans.floats if is_float else spans.integers
    assert span is not None
    if not is_float and span.low >= 0:
        bits = max(8, int(span.high).bit_length())
        if bits not in (8, 16):
            remarks.add("rescaled")
        # An image from outside the folder may have larger values than the folder's images.
        shifted: Images = np.clip(values >> (bits - 8), 0, 255).astype(np.uint8)
        return shifted[..., None]
    remarks.add("rescaled")
    low, high = span
    if is_float and low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    scaled = (values.astype(np.float64) - low) / max(high - low, np.finfo(np.float64).tiny)
    return np.clip(np.rint(255 * scaled), 0, 255).astype(np.uint8)[..., None]


def _flattened(image: Image.Image, channels: Literal[1, 3], remarks: set[Remark]) -> Images:
    """Return an image of 8 bits as [height, width, channels], without its transparency."""
    if image.mode in ("CMYK", "YCCK"):
        remarks.add("CMYK")
    if image.has_transparency_data:
        # Blend every channel with black: Pillow's own conversion would show the colours of transparent pixels.
        visible = image.convert("RGBA")
        if visible.getchannel("A").getextrema() != (255, 255):
            remarks.add("transparent")
        image = Image.alpha_composite(Image.new("RGBA", visible.size, (0, 0, 0, 255)), visible).convert("RGB")
    elif channels == 1 and image.mode not in GREY_MODES:
        image = image.convert("RGB")
    if channels == 1 and image.mode == "RGB" and _has_colour(image):
        remarks.add("made grey")
    image = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(image.height, image.width, channels)


def _has_colour(image: Image.Image) -> bool:
    red, green, blue = (np.asarray(band) for band in image.split())
    return not (np.array_equal(red, green) and np.array_equal(green, blue))
