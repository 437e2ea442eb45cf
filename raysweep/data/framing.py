"""The headers of the batches in an Arrow IPC file, read from the bytes before Arrow reads any batch.

Arrow allocates as much memory as a compressed buffer promises, and fills it: a file of a few kilobytes can expand to
terabytes. raysweep's caches are not compressed, so that they can be mapped, but Arrow has no option to refuse
compression. The layout is that of https://arrow.apache.org/docs/format/Columnar.html and of
https://flatbuffers.dev/internals.
"""

from __future__ import annotations

import struct

_MAGIC = b"ARROW1"
_DICTIONARIES, _RECORD_BATCHES = 2, 3
"""Fields of a footer."""
_HEADER = 2
"""Field of a message: the table that it is about."""
_COMPRESSION = 3
"""Field of a record batch."""
_BLOCK_BYTES = 24


def refuse_compression(file: memoryview) -> None:
    """Raise ValueError if a file has compressed batches or dictionaries, or is not an Arrow IPC file."""
    if bytes(file[: len(_MAGIC)]) != _MAGIC or bytes(file[-len(_MAGIC) :]) != _MAGIC:
        raise ValueError("it does not begin and end as an Arrow file")
    try:
        end = len(file) - len(_MAGIC) - 4
        footer = _root(file, end - _number(file, "<i", end))
        if _blocks(file, footer, _DICTIONARIES):
            raise ValueError("it has dictionaries, which no images have")
        for place in _blocks(file, footer, _RECORD_BATCHES):
            # A message begins with its length; in newer files a mark of 4 bytes comes before the length.
            start = place + (8 if _number(file, "<I", place) == 0xFFFFFFFF else 4)
            message = _root(file, start)
            header = _field(file, message, _HEADER)
            if header is None:
                raise ValueError("a batch has no header")
            if _field(file, header + _number(file, "<I", header), _COMPRESSION) is not None:
                raise ValueError("its batches are compressed")
    except (struct.error, IndexError) as error:
        raise ValueError(f"its footer leads nowhere: {error}") from None


def _blocks(file: memoryview, footer: int, field: int) -> list[int]:
    """Return where the messages that a footer lists begin."""
    place = _field(file, footer, field)
    if place is None:
        return []
    vector = place + _number(file, "<I", place)
    count = _number(file, "<I", vector)
    if count * _BLOCK_BYTES > len(file):
        raise ValueError(f"its footer promises {count} batches")
    # The blocks follow a count of 4 bytes and are aligned to 8 bytes.
    return [_number(file, "<q", vector + 4 + index * _BLOCK_BYTES) for index in range(count)]


def _root(file: memoryview, place: int) -> int:
    return place + _number(file, "<I", place)


def _field(file: memoryview, table: int, index: int) -> int | None:
    """Return the position of a field of a table; None if the table does not have it."""
    directory = table - _number(file, "<i", table)
    slot = 4 + 2 * index
    if slot + 2 > _number(file, "<H", directory):
        return None
    offset = _number(file, "<H", directory + slot)
    return table + offset if offset else None


def _number(file: memoryview, form: str, place: int) -> int:
    if place < 0:
        raise IndexError(f"byte {place}")
    return int(struct.unpack_from(form, file, place)[0])
