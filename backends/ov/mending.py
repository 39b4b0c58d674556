"""What OpenVINO (2026.4.1) misreads in a ``.tflite`` file, mended in a copy before it reads it.

It takes tensors of one name for one tensor, and computes something else without a word. And it
reads operators' codes where the schema used to have them, so that one which is written by newer
tools alone (litert-quantizer's DEQUANTIZE) is an ADD to it.

A FlatBuffer's offsets point onwards, so new parts can be written behind the old ones, and only the
offsets to them change.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Optional

from backends.flatbuffer import Table
from harness.errors import UnsupportedError

MARK = "#"
"""Stands between the name that a tensor had and its number."""

_IN_ONE_BYTE = 127
"""Codes from here on are in the newer field alone, and this is what the old one says."""


def mend(path: str, folder: Path) -> tuple[str, list[str]]:
    """The file, or a mended copy of it in a folder; what was mended.

    Raises:
        UnsupportedError: tensors without a name, which have no place for one.
    """
    try:
        with (
            Path(path).open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as data,
        ):
            model = Table.root(data)
            names, codes = _repeated_names(model), _new_codes(model)
    except ValueError:  # no such file at all, which OpenVINO says itself
        return path, []
    if not names and not codes:
        return path, []
    content = bytearray(Path(path).read_bytes())
    for field, name in names:
        _point(content, field, _string(content, name))
    for field, version, code, custom in codes:
        _point(content, field, _operator_code(content, version, code, custom))
    copy = folder / "mended.tflite"
    copy.write_bytes(content)
    notes = [f"{len(names)} tensors renamed: they had another's name"] if names else []
    notes += [f"{len(codes)} operator codes written the old way, too"] if codes else []
    return str(copy), notes


def _repeated_names(model: Table) -> list[tuple[int, str]]:
    """Where the name of a tensor is that another one before it has, and a new one."""
    found = []
    for graph in model.tables(2):
        tensors = [(tensor.place(3), tensor.text(3)) for tensor in graph.tables(0)]
        if sum(field is None for field, _ in tensors) > 1:
            raise UnsupportedError("OpenVINO needs tensors with names, and these have none")
        given, taken = {name for _, name in tensors}, set()
        for index, (field, name) in enumerate(tensors):
            if name in taken and field is not None:
                other = f"{name}{MARK}{index}"
                while other in given:
                    other += MARK
                found.append((field, other))
            taken.add(name)
    return found


def _new_codes(model: Table) -> list[tuple[int, int, int, Optional[str]]]:
    """Where an operator's code is that the old field doesn't say; version, code and own name."""
    found = []
    for field, table in model.placed(1):
        said = table.number(0, "<b")
        code = max(said, table.number(3))
        if said != min(code, _IN_ONE_BYTE):
            custom = None if table.place(1) is None else table.text(1)
            found.append((field, table.number(2, default=1), code, custom))
    return found


def _string(data: bytearray, text: str) -> int:
    """Write it behind all else; where it is."""
    encoded = text.encode()
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
