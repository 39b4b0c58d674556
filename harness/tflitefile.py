"""What a TensorFlow Lite file takes, gives and consists of, read without TensorFlow or LiteRT.

A ``.tflite`` file is a FlatBuffer by TensorFlow Lite's schema, version 3. Of it this reads what
the harness has to know, with every offset, length and index checked, so that no content of a file
leads to anything but :class:`InputError`. The file is mapped: weights are never loaded.

Tools run subgraph 0, the first. A name of an input or output is that of the signature (of several
of that subgraph: of ``serving_default``), where it names all of them, each by a name of its own;
else the tensor's, with a number where another one before it has that, too.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from harness.errors import InputError, Problem
from harness.tfliteops import BUILTINS, CUSTOM, KEEP_STATE
from harness.types import Port, Ports, TensorSpec

IDENTIFIER = b"TFL3"
"""At offset 4 of every such file."""

_VERSION = 3
_SIGNATURE = "serving_default"

_DTYPES = (
    *("float32", "float16", "int32", "uint8", "int64", "str", "bool", "int16", "complex64"),
    *("int8", "float64", "complex128", "uint64", "resource", "variant", "uint32", "uint16"),
    *("int4", "bfloat16", "int2", "uint4", "float8_e4m3fn", "float8_e5m2"),
)
"""numpy's names where it has the type; the position is the code (``TensorType``)."""

_NO_NUMBERS = {"str", "resource", "variant", "int4", "int2", "uint4"}
_NO_NUMBERS |= {"float8_e4m3fn", "float8_e5m2"}

_PRODUCTS = frozenset(
    {"CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"}
)
_INTEGERS = frozenset({"int2", "int4", "uint4", "int8", "uint8", "int16"})

_DAMAGED = "an incomplete or damaged TensorFlow Lite file"
_AGAIN = "download or export it again: it may be cut short"


@dataclass(frozen=True)
class TfliteFile:
    """A sound file.

    ports: subgraph 0's inputs and outputs in its order, under the names that the user knows
    (``spec``) and under the tensors' (``name``). operators: (type, how many), the most frequent
    first, of all subgraphs; ``custom.Name`` for those that aren't builtin. quantized: whether any
    convolution or matrix product takes integers.
    """

    ports: Ports
    operators: tuple[tuple[str, int], ...]
    quantized: bool


def read(path: str) -> TfliteFile:
    """Read and check a file that begins as one. Raises InputError with every problem found."""
    with (
        Path(path).open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        try:
            return _Reader(_Bytes(data, len(data)), path).file()
        except _DamagedError as error:
            what = f"{_DAMAGED}: {error}"
            raise InputError([Problem(path, what, _AGAIN)]) from error


class _DamagedError(Exception):
    """The bytes aren't what the schema says."""


class _Bytes:
    """The file's bytes. Raises _DamagedError for whatever lies outside.

    Shared parts are legal in a FlatBuffer, and a few bytes could stand for any amount of work; so
    all that is read of strings and vectors together may be ``8 * size`` bytes.
    """

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self._data = data
        self.size = size
        self._left = 8 * size

    def number(self, form: str, at: int) -> int:
        """One integer, by its little-endian format of :mod:`struct`."""
        value: int = self.numbers(form, at, 1)[0]
        return value

    def numbers(self, form: str, at: int, count: int) -> tuple[int, ...]:
        """So many of them."""
        width = struct.calcsize("<" + form) * count
        self.check(at, width)
        self._left -= width
        if self._left < 0:
            raise _DamagedError("its parts refer to each other without end")
        return struct.unpack_from(f"<{count}{form}", self._data, at)

    def text(self, at: int, count: int) -> str:
        """A string of that many bytes."""
        return bytes(self.numbers("B", at, count)).decode("utf-8", errors="replace")

    def check(self, at: int, width: int) -> None:
        """That these bytes are there."""
        if at < 0 or at + width > self.size:
            raise _DamagedError(f"it refers to byte {at + width}, and has {self.size}")


class _Table:
    """A FlatBuffer's table: fields by their number in the schema, each of which may be absent."""

    def __init__(self, data: _Bytes, at: int) -> None:
        self._data = data
        self._at = at
        self._fields_at = at - data.number("i", at)
        length = data.number("H", self._fields_at)
        if length < 4 or length % 2:  # noqa: PLR2004  # its own length, and the table's
            raise _DamagedError("a table without a list of its fields")
        data.check(self._fields_at, length)
        self._count = (length - 4) // 2

    def number(self, field: int, form: str, default: int = 0) -> int:
        """A scalar."""
        at = self._field(field)
        return default if at is None else self._data.number(form, at)

    def table(self, field: int) -> Optional[_Table]:
        """Another table."""
        at = self._target(field)
        return None if at is None else _Table(self._data, at)

    def text(self, field: int) -> str:
        """A string; empty where it is absent."""
        at = self._target(field)
        return "" if at is None else self._data.text(at + 4, self._data.number("I", at))

    def numbers(self, field: int, form: str = "i") -> tuple[int, ...]:
        """A vector of scalars; empty where it is absent."""
        at = self._target(field)
        return () if at is None else self._data.numbers(form, at + 4, self._data.number("I", at))

    def tables(self, field: int) -> list[_Table]:
        """A vector of tables."""
        at = self._target(field)
        if at is None:
            return []
        offsets = self._data.numbers("I", at + 4, self._data.number("I", at))
        return [
            _Table(self._data, at + 4 + 4 * index + offset) for index, offset in enumerate(offsets)
        ]

    def length(self, field: int) -> int:
        """How many bytes a vector of bytes has, which are all there, and aren't read."""
        at = self._target(field)
        if at is None:
            return 0
        count = self._data.number("I", at)
        self._data.check(at + 4, count)
        return count

    def _field(self, field: int) -> Optional[int]:
        if field >= self._count:
            return None
        offset = self._data.number("H", self._fields_at + 4 + 2 * field)
        return self._at + offset if offset else None

    def _target(self, field: int) -> Optional[int]:
        at = self._field(field)
        return None if at is None else at + self._data.number("I", at)


@dataclass(frozen=True)
class _Tensor:
    """shape: None where it is open. buffer: of its values."""

    name: str
    dtype: str
    shape: tuple[Optional[int], ...]
    buffer: int
    variable: bool


class _Reader:
    """Walks one file, and collects what is wrong with it. Field numbers are the schema's."""

    def __init__(self, data: _Bytes, where: str) -> None:
        self._data = data
        self._where = where
        self._problems: list[Problem] = []

    def file(self) -> TfliteFile:
        """All of it."""
        model = _Table(self._data, self._data.number("I", 0))
        version = model.number(0, "I")
        if version != _VERSION:
            what = f"version {version} of TensorFlow Lite's schema; tools read version {_VERSION}"
            self._problem(self._where, what, "convert the model again with a current converter")
        graphs = model.tables(2)
        if not graphs:
            raise _DamagedError("it has no subgraph")
        buffers = self._buffers(model)
        codes = [self._code(each) for each in model.tables(1)]
        tables = [each.tables(0) for each in graphs]
        for each in (tensor for tensors in tables for tensor in tensors):
            _index(each.number(2, "I"), buffers, "buffer")
        tensors = [self._tensor(each) for each in tables[0]]
        operators: Counter[str] = Counter()
        for graph, its in zip(graphs, tables):
            operators += self._operators(graph, codes, len(its))
        quantized = any(
            codes[each.number(0, "I")] in _PRODUCTS
            and any(tensors[i].dtype in _INTEGERS for i in each.numbers(1) if i != -1)
            for each in graphs[0].tables(3)
        )
        inputs = [_index(each, len(tensors), "tensor") for each in graphs[0].numbers(1)]
        outputs = [_index(each, len(tensors), "tensor") for each in graphs[0].numbers(2)]
        self._check_ends(tensors, inputs, outputs)
        self._check_state(tensors, operators)
        signatures = [self._signature(each, len(graphs)) for each in model.tables(7)]
        if self._problems:
            raise InputError(self._problems)
        names = _names(tensors, inputs, outputs, signatures)
        return TfliteFile(
            ports=Ports(_ports(tensors, inputs, names[0]), _ports(tensors, outputs, names[1])),
            operators=tuple(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
            quantized=quantized,
        )

    def _problem(self, where: str, what: str, fix: str) -> None:
        self._problems.append(Problem(where, what, fix))

    def _buffers(self, model: _Table) -> int:
        """How many there are, once it is sure that the file holds all of each."""
        buffers = model.tables(4)
        for each in buffers:
            each.length(0)
            offset, size = each.number(1, "Q"), each.number(2, "Q")
            if offset > 1 and size > 1:  # of large models, behind the FlatBuffer
                self._data.check(offset, size)
        if model.tables(9):
            self._problem(
                self._where,
                "its weights are in other files, which TensorFlow Lite's tools don't all read",
                "convert the model again into one file",
            )
        return len(buffers)

    @staticmethod
    def _code(table: _Table) -> str:
        """The operator's name. Codes up to 127 used to be in a byte of their own."""
        code = max(table.number(0, "b"), table.number(3, "i"))
        if code == CUSTOM:
            return f"custom.{table.text(1) or 'unnamed'}"
        return BUILTINS[code] if 0 <= code < len(BUILTINS) else f"BUILTIN_{code}"

    def _operators(self, graph: _Table, codes: Sequence[str], tensors: int) -> Counter[str]:
        counts: Counter[str] = Counter()
        for each in graph.tables(3):
            code = _index(each.number(0, "I"), len(codes), "operator code")
            for index in (*each.numbers(1), *each.numbers(2)):
                if index != -1:  # an optional input that is left out
                    _index(index, tensors, "tensor")
            counts[codes[code]] += 1
        return counts

    @staticmethod
    def _tensor(table: _Table) -> _Tensor:
        code = table.number(1, "b")
        if not 0 <= code < len(_DTYPES):
            raise _DamagedError(f"a tensor of the unknown type {code}")
        shape, signature = table.numbers(0), table.numbers(7)
        declared = signature if len(signature) == len(shape) else shape
        return _Tensor(
            name=table.text(3),
            dtype=_DTYPES[code],
            shape=tuple(dim if dim >= 0 else None for dim in declared),
            buffer=table.number(2, "I"),
            variable=bool(table.number(5, "B")),
        )

    def _check_ends(
        self, tensors: Sequence[_Tensor], inputs: Sequence[int], outputs: Sequence[int]
    ) -> None:
        if len(set(inputs)) < len(inputs):
            what = "one tensor is more than one of the model's inputs"
            self._problem(self._where, what, "convert it again with each input once")
        for kind, ends in (("input", inputs), ("output", outputs)):
            if not ends:
                what = f"the model has no {kind}s"
                self._problem(self._where, what, "convert it again with its inputs and outputs")
            for position, index in enumerate(dict.fromkeys(ends)):
                tensor = tensors[index]
                where = f"{self._where}: {tensor.name or f'{kind} {position}'}"
                if tensor.dtype in _NO_NUMBERS:
                    what = f"an {kind} of type {tensor.dtype}; expected one that numpy has"
                    fix = "convert the part of the model that computes with numbers"
                    self._problem(where, what, fix)

    def _check_state(self, tensors: Sequence[_Tensor], operators: Counter[str]) -> None:
        """State that outlives an inference: outputs would depend on what ran before."""
        fix = "convert it with its state as inputs and outputs"
        found = sorted(KEEP_STATE & set(operators))
        if found:
            what = f"it keeps variables from one inference to the next ({', '.join(found)})"
            self._problem(self._where, what, fix)
        kept = [tensor.name for tensor in tensors if tensor.variable]
        if kept:
            named = ", ".join(kept[:3]) + (" ..." if len(kept) > 3 else "")  # noqa: PLR2004
            what = f"{len(kept)} tensors keep state from one inference to the next: {named}"
            self._problem(self._where, what, fix)

    @staticmethod
    def _signature(table: _Table, graphs: int) -> _Signature:
        return _Signature(
            key=table.text(2),
            subgraph=_index(table.number(4, "I"), graphs, "subgraph"),
            inputs=tuple((each.number(1, "I"), each.text(0)) for each in table.tables(0)),
            outputs=tuple((each.number(1, "I"), each.text(0)) for each in table.tables(1)),
        )


@dataclass(frozen=True)
class _Signature:
    """inputs, outputs: (tensor, name), in an order of their own."""

    key: str
    subgraph: int
    inputs: tuple[tuple[int, str], ...]
    outputs: tuple[tuple[int, str], ...]


def _index(index: int, count: int, what: str) -> int:
    if not 0 <= index < count:
        raise _DamagedError(f"it refers to {what} {index} of {count}")
    return index


def _names(
    tensors: Sequence[_Tensor],
    inputs: Sequence[int],
    outputs: Sequence[int],
    signatures: Sequence[_Signature],
) -> tuple[list[str], list[str]]:
    """What the inputs and the outputs are called; see the module."""
    known = [each for each in signatures if each.subgraph == 0]
    if len(known) > 1:
        known = [each for each in known if each.key == _SIGNATURE]
    if len(known) == 1:
        named, given = _mapped(inputs, known[0].inputs), _mapped(outputs, known[0].outputs)
        if named is not None and given is not None and not set(named) & set(given):
            return named, given
    wanted = [tensors[each].name or f"input_{i}" for i, each in enumerate(inputs)]
    wanted += [tensors[each].name or f"output_{i}" for i, each in enumerate(outputs)]
    unique = _unique(wanted)
    return unique[: len(inputs)], unique[len(inputs) :]


def _mapped(ends: Sequence[int], pairs: Sequence[tuple[int, str]]) -> Optional[list[str]]:
    """A signature's name of each, in their order; None where it doesn't name all, each its own."""
    waiting: dict[int, list[str]] = {}
    for index, name in reversed(pairs):
        waiting.setdefault(index, []).append(name)
    named = [waiting[each].pop() for each in ends if waiting.get(each)]
    whole = len(named) == len(ends) == len(pairs) == len(set(named)) and "" not in named
    return named if whole else None


def _unique(names: Sequence[str]) -> list[str]:
    """Each as it is, but for those that were there before: these with a number."""
    found: dict[str, None] = {}
    given = set(names)
    for position, name in enumerate(names):
        unique = name
        while unique in found or (unique != name and unique in given):
            unique = f"{unique}_{position}"
        found[unique] = None
    return list(found)


def _ports(
    tensors: Sequence[_Tensor], indices: Sequence[int], names: Sequence[str]
) -> tuple[Port, ...]:
    return tuple(
        Port(TensorSpec(name, tensor.dtype, tensor.shape), tensor.name, tensor.dtype)
        for name, tensor in ((name, tensors[index]) for name, index in zip(names, indices))
    )
