"""An estimate of a Parquet file's size in memory, counted page by page before pyarrow reads any page.

A page of a few bytes can stand for a billion equal values, and pyarrow allocates memory for all of them. Its own reader
of column metadata cannot be used to count them, because some damaged footers make it end the process. The layout is
that of https://parquet.apache.org/docs/file-format/, whose headers are structs in Thrift's compact protocol.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

_MAGIC = b"PAR1"
_MAX_DEPTH = 16

_ROW_GROUPS, _COLUMNS, _COLUMN_METADATA = 4, 1, 3
_COMPRESSED_BYTES, _DATA_OFFSET, _DICTIONARY_OFFSET = 7, 9, 11
"""Fields of a column's metadata."""
_UNCOMPRESSED_PAGE_BYTES, _COMPRESSED_PAGE_BYTES = 2, 3
_PAGE_KINDS = (5, 7, 8)
"""Fields of a page's header that describe a data page, a dictionary, and a data page of the second version."""
_VALUES = 1


def promised_bytes(file: memoryview, value_bytes: int = 8) -> int:
    """Estimate the memory that a Parquet file takes: `value_bytes` for each value, plus its pages unpacked.

    A text counts as one value, whatever its length.

    Raises:
        ValueError: if it is not a Parquet file, or its headers contradict its length.
    """
    file = file.cast("B")  # Arrow's buffers hold signed bytes
    if len(file) < 12 or bytes(file[:4]) != _MAGIC or bytes(file[-4:]) != _MAGIC:
        raise ValueError("it does not begin and end as a Parquet file")
    start = len(file) - 8 - struct.unpack_from("<I", file, len(file) - 8)[0]
    if start < 4:
        raise ValueError("its footer is longer than the file")
    try:
        footer = _Struct(file, start, len(file) - 8).read()
        return sum(
            page.get(_UNCOMPRESSED_PAGE_BYTES, 0) + value_bytes * _values_of(page)
            for group in footer.get(_ROW_GROUPS, ())
            for column in group[_COLUMNS]
            for page in _pages(file, column[_COLUMN_METADATA])
        )
    except (KeyError, TypeError, AttributeError, IndexError, struct.error) as error:
        raise ValueError(f"its headers are damaged: {error!r}") from None


def _values_of(page: dict[int, Any]) -> int:
    values = sum(page[kind][_VALUES] for kind in _PAGE_KINDS if kind in page)
    if values < 0 or page.get(_UNCOMPRESSED_PAGE_BYTES, 0) < 0:
        raise ValueError("a page promises less than nothing")
    return int(values)


def _pages(file: memoryview, column: dict[int, Any]) -> Iterator[dict[int, Any]]:
    """Yield the headers of a column's pages."""
    # A column without values may have no page, or only a dictionary.
    if column[_COMPRESSED_BYTES] == 0:
        return
    offsets = (column[_DATA_OFFSET], column.get(_DICTIONARY_OFFSET, 0))
    place = min((offset for offset in offsets if offset > 0), default=0)
    end = place + column[_COMPRESSED_BYTES]
    if not 4 <= place <= end <= len(file):
        raise ValueError("a column lies outside of the file")
    while place < end:
        header = _Struct(file, place, end)
        page = header.read()
        size = page[_COMPRESSED_PAGE_BYTES]
        if size < 0:
            raise ValueError("a page promises less than nothing")
        yield page
        place = header.place + size


class _Struct:
    """Reader of structs in Thrift's compact protocol; it returns values by field number."""

    def __init__(self, file: memoryview, place: int, end: int) -> None:
        self.place = place
        """Offset of the next byte to read."""
        self._file = file
        self._end = end

    def read(self, depth: int = 0) -> dict[int, Any]:
        if depth > _MAX_DEPTH:
            raise ValueError("its headers are nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._varint())
        if kind in (9, 10):
            head = self._byte()
            count = self._varint() if head >> 4 == 15 else head >> 4
            return [self._value(head & 15, depth + 1) for _ in range(self._bounded(count))]
        if kind == 11:
            count = self._bounded(self._varint())
            kinds = self._byte() if count else 0
            return [(self._value(kinds >> 4, depth + 1), self._value(kinds & 15, depth + 1)) for _ in range(count)]
        if kind == 12:
            return self.read(depth + 1)
        raise ValueError(f"its headers have a value of kind {kind}")

    def _bounded(self, count: int) -> int:
        if count > self._end - self.place:  # each entry takes at least one byte
            raise ValueError(f"its headers promise {count:,} entries")
        return count

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, count: int) -> memoryview:
        place = self.place
        self.place += count
        if self.place > self._end:
            raise ValueError("its headers end early")
        return self._file[place : self.place]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("its headers have a number of more than 64 bits")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
