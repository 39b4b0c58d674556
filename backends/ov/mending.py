"""What OpenVINO (2026.4.1) misreads in a ``.tflite`` file, mended in a copy before it reads it.

It takes tensors of one name for one tensor, and computes something else without a word. And it
reads operators' codes where the schema used to have them, so that one which is written by newer
tools alone (litert-quantizer's DEQUANTIZE) is an ADD to it.

A FlatBuffer's offsets point onwards, so new parts can be written behind the old ones, and only the
offsets to them change. Files come here once the harness has seen that they are sound.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Optional, Union

from harness.errors import UnsupportedError

MARK = "#"
"""Stands between the name that a tensor had and its number."""

_IN_ONE_BYTE = 127
"""Codes from here on are in the newer field alone, and this is what the old one says."""

_Bytes = Union[bytearray, mmap.mmap]


def mend(path: str, folder: Path) -> tuple[str, list[str]]:
    """The file, or a mended copy of it in a folder; what was mended.

    Raises:
        UnsupportedError: tensors without a name, which have no place for one.
    """
    try:
        with (
            Path(path).open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            model = _u32(mapped, 0)
            names, codes = _repeated_names(mapped, model), _new_codes(mapped, model)
    except (struct.error, ValueError):  # no such file at all, which OpenVINO says itself
        return path, []
    if not names and not codes:
        return path, []
    data = bytearray(Path(path).read_bytes())
    for field, name in names:
        _point(data, field, _string(data, name))
    for field, version, code, custom in codes:
        _point(data, field, _operator_code(data, version, code, custom))
    copy = folder / "mended.tflite"
    copy.write_bytes(data)
    notes = [f"{len(names)} tensors renamed: they had another's name"] if names else []
    notes += [f"{len(codes)} operator codes written the old way, too"] if codes else []
    return str(copy), notes


def _repeated_names(data: _Bytes, model: int) -> list[tuple[int, str]]:
    """Where the name of a tensor is that another one before it has, and a new one."""
    found = []
    for _, graph in _vector(data, _field(data, model, 2)):
        fields = [_field(data, tensor, 3) for _, tensor in _vector(data, _field(data, graph, 0))]
        if fields.count(None) > 1:
            raise UnsupportedError("OpenVINO needs tensors with names, and these have none")
        names = ["" if field is None else _text(data, field) for field in fields]
        given, taken = set(names), set()
        for index, (field, name) in enumerate(zip(fields, names)):
            if name in taken and field is not None:
                other = f"{name}{MARK}{index}"
                while other in given:
                    other += MARK
                found.append((field, other))
            taken.add(name)
    return found


def _new_codes(data: _Bytes, model: int) -> list[tuple[int, int, int, Optional[str]]]:
    """Where an operator's code is that the old field doesn't say; version, code and own name."""
    found = []
    for field, table in _vector(data, _field(data, model, 1)):
        old, new = _field(data, table, 0), _field(data, table, 3)
        said = struct.unpack_from("<b", data, old)[0] if old is not None else 0
        code = max(said, _u32(data, new) if new is not None else 0)
        if said != min(code, _IN_ONE_BYTE):
            name, version = _field(data, table, 1), _field(data, table, 2)
            custom = None if name is None else _text(data, name)
            found.append((field, 1 if version is None else _u32(data, version), code, custom))
    return found


def _string(data: bytearray, text: str) -> int:
    """Write it behind all else; where it is."""
    encoded = text.encode("utf-8", errors="surrogateescape")
    at = _end(data)
    data += struct.pack("<I", len(encoded)) + encoded + b"\0"
    return at


def _operator_code(data: bytearray, version: int, code: int, custom: Optional[str]) -> int:
    """Write the table behind all else: first the list of its fields, 12 bytes; where it is."""
    at = _end(data) + 12
    data += struct.pack("<HHHHHH", 12, 20, 16, 0 if custom is None else 12, 4, 8)
    data += struct.pack("<iiiIbxxx", 12, version, code, 0, min(code, _IN_ONE_BYTE))
    if custom is not None:
        _point(data, at + 12, _string(data, custom))
    return at


def _end(data: bytearray) -> int:
    data += bytes(-len(data) % 4)
    return len(data)


def _point(data: bytearray, field: int, to: int) -> None:
    struct.pack_into("<I", data, field, to - field)


def _u32(data: _Bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _text(data: _Bytes, field: int) -> str:
    at = field + _u32(data, field)
    return data[at + 4 : at + 4 + _u32(data, at)].decode("utf-8", errors="surrogateescape")


def _field(data: _Bytes, table: int, number: int) -> Optional[int]:
    """Where a table has a field; None where it hasn't."""
    fields = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", data, fields)[0]:
        return None
    offset = struct.unpack_from("<H", data, fields + 4 + 2 * number)[0]
    return table + offset if offset else None


def _vector(data: _Bytes, field: Optional[int]) -> Iterator[tuple[int, int]]:
    """Yield (where its offset is, where it is) of each table of a vector of tables."""
    if field is None:
        return
    at = field + _u32(data, field)
    for index in range(_u32(data, at)):
        place = at + 4 + 4 * index
        yield place, place + _u32(data, place)
