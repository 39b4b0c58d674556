"""A reader of FlatBuffers, as far as the backends need one of their own.

Offsets are checked against the buffer, so that a broken file is a ValueError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Optional

_MOST_ITEMS = 10_000_000


class Table:
    """One table. Fields go by their place in the schema; a union takes two, its type and value."""

    def __init__(self, data: memoryview, at: int) -> None:
        self._data = data
        self._at = at
        self._fields = at - self._number("<i", at)
        self._size = self._number("<H", self._fields)

    @classmethod
    def root(cls, data: memoryview, at: int = 0) -> Table:
        """The table that a buffer, which starts at ``at``, is of."""
        (offset,) = _unpack("<I", data, at)
        return cls(data, at + offset)

    def number(self, field: int, code: str = "<I", default: int = 0) -> int:
        """A scalar; ``code`` is struct's."""
        place = self.place(field)
        return default if place is None else self._number(code, place)

    def table(self, field: int) -> Optional[Table]:
        """Another table; None where there is none."""
        place = self.place(field)
        return None if place is None else Table(self._data, self._follow(place))

    def tables(self, field: int) -> Iterator[Table]:
        """A vector of tables."""
        return (table for _, table in self.placed(field))

    def placed(self, field: int) -> Iterator[tuple[int, Table]]:
        """A vector of tables, each with the place of the offset that leads to it."""
        start, count = self._vector(field)
        for place in range(start, start + 4 * count, 4):
            yield place, Table(self._data, self._follow(place))

    def numbers(self, field: int, code: str = "i") -> tuple[int, ...]:
        """A vector of scalars; ``code`` is struct's, without the order of bytes."""
        start, count = self._vector(field)
        return _unpack(f"<{count}{code}", self._data, start)

    def data(self, field: int) -> memoryview:
        """A vector of bytes, or a string."""
        start, count = self._vector(field)
        if start + count > len(self._data):
            raise ValueError("a vector ends beyond the file")
        return self._data[start : start + count]

    def text(self, field: int) -> str:
        """A string."""
        return bytes(self.data(field)).decode("utf-8", "replace")

    def place(self, field: int) -> Optional[int]:
        """Where a field is; None where there is none."""
        entry = 4 + 2 * field
        if entry >= self._size:
            return None
        offset = self._number("<H", self._fields + entry)
        return self._at + offset if offset else None

    def _vector(self, field: int) -> tuple[int, int]:
        place = self.place(field)
        if place is None:
            return 0, 0
        start = self._follow(place)
        count = self._number("<I", start)
        if count > _MOST_ITEMS and count > len(self._data):
            raise ValueError("a vector is longer than the file")
        return start + 4, count

    def _follow(self, place: int) -> int:
        return place + self._number("<I", place)

    def _number(self, code: str, at: int) -> int:
        (value,) = _unpack(code, self._data, at)
        return value


def _unpack(code: str, data: memoryview, at: int) -> tuple[int, ...]:
    if at < 0:
        raise ValueError("an offset points before the file")
    try:
        return struct.unpack_from(code, data, at)
    except struct.error as error:
        raise ValueError(f"an offset points beyond the file: {error}") from error
