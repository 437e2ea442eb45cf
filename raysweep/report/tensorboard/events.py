"""TensorBoard's files: the record format, and the summaries of numbers, pictures and text that go into them."""

from __future__ import annotations

import math
import os
import socket
import struct
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event, SourceMetadata
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.util import tensor_util


class EventFile:
    """One file of a run, in TensorBoard's record format; each event is readable as soon as it is added."""

    def __init__(self, run: Path) -> None:
        """Begin a file in a run's directory; make that directory if its parent exists.

        Raises:
            OSError: if the file cannot be written. `add` raises it too.
        """
        run.mkdir(exist_ok=True)
        token = uuid.uuid4().hex[:8]
        name = f"events.out.tfevents.{time.time_ns() / 1e9:017.6f}.{socket.gethostname()}.{os.getpid()}.{token}"
        self.path = run / name
        # Without a buffer: bytes that a full disk refused must not be written later, after other records.
        self._file: BinaryIO = open(self.path, "ab", buffering=0)  # noqa: SIM115
        self._whole_bytes = 0
        source = SourceMetadata(writer="raysweep.report.tensorboard.writer")
        self.add(Event(wall_time=time.time(), file_version="brain.Event:2", source_metadata=source))

    def add(self, event: Event) -> None:
        # A record: length, its masked CRC-32C, the bytes, their masked CRC-32C, all little-endian.
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        crcs = (struct.pack("<I", masked_crc(part)) for part in (length, data))
        record = memoryview(length + next(crcs) + data + next(crcs))
        written = 0
        try:
            while written < len(record):  # a nearly full disk takes a part without an error
                written += self._file.write(record[written:]) or 0
        except OSError:
            # Remove half a record, because a reader cannot get past it.
            with suppress(OSError):
                self._file.truncate(self._whole_bytes)
            raise
        self._whole_bytes += written

    def close(self) -> None:
        self._file.close()


def masked_crc(data: bytes) -> int:
    """Return the CRC-32C of a record's part as stored in the file: rotated by 15 bits, plus a constant.

    TensorBoard's own function is in Python and takes 0.12 ms per kilobyte, most of the time that a picture costs.
    """
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def scalar(tag: str, value: float, description: str) -> Summary.Value:
    """Return a summary of a number."""
    metadata = scalar_metadata.create_summary_metadata(display_name="", description=description)
    # TensorBoard stores float32. A larger loss is made infinite here, because numpy would warn about the cast.
    stored = value if not math.isfinite(value) or abs(value) < 3.4e38 else math.copysign(math.inf, value)
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor_util.make_tensor_proto(stored))


def image(tag: str, picture: tuple[bytes, int, int], description: str) -> Summary.Value:
    """Return a summary of a picture, given as (PNG, width, height)."""
    png, width, height = picture
    metadata = image_metadata.create_summary_metadata(display_name="", description=description)
    tensor = tensor_util.make_tensor_proto([str(width).encode(), str(height).encode(), png])
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def text(tag: str, markdown: str, description: str) -> Summary.Value:
    """Return a summary of a page of Markdown."""
    metadata = text_metadata.create_summary_metadata(display_name="", description=description)
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor_util.make_tensor_proto([markdown.encode()]))
