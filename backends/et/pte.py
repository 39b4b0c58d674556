"""What an ExecuTorch program (``.pte``) consists of, read from the file itself.

The layouts are those of ``executorch/exir/_serialize/program.fbs`` and of
``executorch/backends/xnnpack/serialization/runtime_schema.fbs``. ExecuTorch's own readers need its
compiler, whose import takes seconds, and run ``flatc``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from backends.flatbuffer import Table
from harness.errors import BackendError
from harness.types import TensorSpec

_IDENTIFIER, _EXTENDED, _XNNPACK = b"ET", b"eh00", b"XH00"
_KERNEL_CALL, _DELEGATE_CALL = 1, 2
_TENSOR = 5  # of the union of values

SCALARS = {
    0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32",
    7: "float64", 11: "bool", 15: "bfloat16", 27: "uint16", 28: "uint32", 29: "uint64",
}  # fmt: skip
"""ExecuTorch's scalar types by number, as numpy names them."""

_PRECISIONS = {
    "float16": "fp16", "float32": "fp32", "float64": "fp64", "bfloat16": "bf16", "int8": "int8",
    "uint8": "int8", "int16": "int16", "int32": "int32", "int64": "int64",
}  # fmt: skip

COMPUTE = frozenset({
    *("convolution", "mm", "bmm", "addmm", "linear", "convolution_backward", "matmul", "baddbmm"),
})  # fmt: skip
"""ATen's convolutions and matrix products, which precisions are told of."""

_NODES = (
    "", "Add", "FullyConnected", "Softmax", "Sigmoid", "StaticTranspose", "Clamp", "Conv2d", "Div",
    "StaticResizeBilinear2D", "StaticConstantPad", "AvgPooling2d", "Minimum", "DepthwiseConv2d",
    "MaxPooling2d", "Multiply", "Subtract", "Floor", "Convert", "GlobalAvgPooling2d",
    "StaticReshape", "ArgMaxPooling2d", "SquareRoot", "Ceiling", "Hardswish", "LeakyReLU",
    "Maximum", "Negate", "Square", "ELU", "Abs", "PReLU", "Concatenate2", "Concatenate3",
    "Concatenate4", "StaticSlice", "ScaledDotProductAttention", "BatchMatrixMultiply",
    "Concatenate5", "ConvTranspose2d", "ReciprocalSquareRoot", "Log", "Gelu", "Tanh", "Exp", "Sin",
    "Copy", "Cos",
)  # fmt: skip
"""XNNPACK's nodes by their number in ExecuTorch's payload."""

_OPERANDS = {
    "FullyConnected": (0, 1),
    "BatchMatrixMultiply": (0, 1),
    "ScaledDotProductAttention": (0, 1),
    "Conv2d": (15, 16),
    "DepthwiseConv2d": (15, 16),
    "ConvTranspose2d": (15, 16),
}
"""The fields of a compute node that hold the ids of its input and its weights."""

_FP32, _FP16, _QDINT8, _BF16 = 1, 2, 9, 14
_INT8, _INT4 = {3, 4, 6}, {8, 10}  # XNNPACK's data types


@dataclass(frozen=True)
class Part:
    """What went to a delegate: its id, and for XNNPACK its nodes by name and their precisions."""

    delegate: str
    nodes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """A program's method ``forward``.

    inputs, outputs: unnamed, with the sizes that memory is planned for. dynamic: for each input,
    whether its shape may be smaller. kernels: (operator, precision) of each call of a kernel of
    ExecuTorch's own, the precision None where it is no compute operation.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dynamic: tuple[bool, ...]
    operators: tuple[str, ...]
    kernels: tuple[tuple[str, Optional[str]], ...]
    parts: tuple[Part, ...]

    def ranges(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """The least and the most of each axis of each input, as far as the file tells."""
        return tuple(
            tuple((1 if dynamic else dim, dim) for dim in spec.shape if isinstance(dim, int))
            for spec, dynamic in zip(self.inputs, self.dynamic)
        )

    def missing(self, there: set[str]) -> list[str]:
        """The operators that are not among the runtime's."""
        return sorted(set(self.operators) - there)


def read(path: str, method: str = "forward") -> Program:
    """Read a file. Raises BackendError where it is no program, or has no such method."""
    try:
        return _read(memoryview(Path(path).read_bytes()), method)
    except (OSError, ValueError, IndexError) as error:
        raise BackendError(f"{path} can't be read: {error}") from error


def _read(data: memoryview, method: str) -> Program:
    if bytes(data[4:6]) != _IDENTIFIER:
        raise ValueError("it is no ExecuTorch program")
    root = Table.root(data)
    plans = {plan.text(0): plan for plan in root.tables(1)}
    if method not in plans:
        raise ValueError(f"it has no method {method!r}, but: {', '.join(plans) or 'none'}")
    plan = plans[method]
    values = list(plan.tables(2))
    operators = tuple(_operator(each) for each in plan.tables(6))
    payloads = list(_payloads(data, root, plan))
    kernels: list[tuple[str, Optional[str]]] = []
    parts = []
    for chain in plan.tables(5):
        for instruction in chain.tables(2):
            kind, call = instruction.number(0, "<B"), instruction.table(1)
            if call is None:
                continue
            if kind == _KERNEL_CALL:
                kernels.append(_kernel(operators[call.number(0)], call.numbers(1), values))
            elif kind == _DELEGATE_CALL:
                parts.append(_part(*payloads[call.number(0)]))
    ins = [_tensor(values[index]) for index in plan.numbers(3)]
    outs = [_tensor(values[index]) for index in plan.numbers(4)]
    return Program(
        tuple(spec for spec, _ in ins),
        tuple(spec for spec, _ in outs),
        tuple(dynamic for _, dynamic in ins),
        operators,
        tuple(kernels),
        tuple(parts),
    )


def _operator(table: Table) -> str:
    name, overload = table.text(0), table.text(1)
    return f"{name}.{overload}" if overload else name


def _kernel(name: str, args: tuple[int, ...], values: list[Table]) -> tuple[str, Optional[str]]:
    plain = name.rsplit("::", maxsplit=1)[-1].split(".", maxsplit=1)[0]
    if plain not in COMPUTE:
        return name, None
    dtypes = [
        _tensor(values[arg])[0].dtype for arg in args if values[arg].number(0, "<B") == _TENSOR
    ]
    return name, _PRECISIONS.get(dtypes[0], "unknown") if dtypes else "unknown"


def _tensor(value: Table) -> tuple[TensorSpec, bool]:
    if value.number(0, "<B") != _TENSOR:
        raise ValueError("one of its inputs or outputs is no tensor")
    tensor = value.table(1)
    if tensor is None:
        raise ValueError("a tensor has no content")
    dtype = SCALARS.get(tensor.number(0, "<b"), "unknown")
    return TensorSpec("", dtype, tensor.numbers(2)), tensor.number(8, "<b") != 0


def _payloads(data: memoryview, root: Table, plan: Table) -> Iterator[tuple[str, memoryview]]:
    """Each delegate's id and its payload, which lies in the program or in a segment behind it."""
    inline = list(root.tables(3))
    segments = list(root.tables(4))
    base = int.from_bytes(data[24:32], "little") if bytes(data[8:12]) == _EXTENDED else 0
    for delegate in plan.tables(7):
        place = delegate.table(1)
        index = place.number(1) if place else 0
        if place and place.number(0, "<b"):
            start = base + segments[index].number(0, "<Q")
            payload = data[start : start + segments[index].number(1, "<Q")]
        else:
            payload = inline[index].data(0) if index < len(inline) else data[:0]
        yield delegate.text(0), payload


def _part(delegate: str, payload: memoryview) -> Part:
    if bytes(payload[4:8]) != _XNNPACK:
        return Part(delegate)
    graph = Table.root(payload, int.from_bytes(payload[10:14], "little"))
    types = dict(_types(graph))
    nodes, precisions = [], []
    for node in graph.tables(1):
        number, content = node.number(0, "<B"), node.table(1)
        name = _NODES[number] if number < len(_NODES) else f"node {number}"
        nodes.append(name)
        if name in _OPERANDS and content is not None:
            left, right = (types.get(content.number(field), 0) for field in _OPERANDS[name])
            precisions.append(_precision(left, right))
    return Part(delegate, tuple(nodes), tuple(precisions))


def _types(graph: Table) -> Iterator[tuple[int, int]]:
    """XNNPACK's data type of each value, by its id."""
    for value in graph.tables(2):
        quantized, content = value.number(0, "<B") == 2, value.table(1)  # noqa: PLR2004
        tensor = content.table(0) if quantized and content else content
        if tensor is not None:
            yield tensor.number(6), tensor.number(7, "<h") or tensor.number(0, "<h")


def _precision(left: int, right: int) -> str:
    """Of a product of these types: weights of less bits than the input are unpacked in it."""
    if right in _INT4:
        return "int4-weights"
    if right in _INT8:
        return "int8" if left in {*_INT8, _QDINT8} else "int8-weights"
    return {_FP32: "fp32", _FP16: "fp16", _BF16: "bf16"}.get(left, "unknown")


def counted(names: Iterator[str]) -> str:
    """``mean x2, layer_norm``, the most frequent first."""
    found = Counter(names).most_common()
    return ", ".join(f"{name} x{count}" if count > 1 else name for name, count in found)
