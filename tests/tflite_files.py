"""``.tflite`` files made by hand, with the schema's own writer: odd ones among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder

Array = np.ndarray[Any, Any]
Quantization = tuple[Sequence[float], Sequence[int], int]
"""Scales, zero points and the axis that they go along."""

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int64": schema.TensorType.INT64,
    "int32": schema.TensorType.INT32,
    "int16": schema.TensorType.INT16,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "bool": schema.TensorType.BOOL,
    "str": schema.TensorType.STRING,
    "resource": schema.TensorType.RESOURCE,
    "int4": schema.TensorType.INT4,
}


@dataclass(frozen=True)
class Signature:
    """Names of inputs and outputs, each with its tensor."""

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    key: str = "serving_default"
    subgraph: int = 0


class Net:
    """One subgraph, written tensor by tensor and operation by operation."""

    def __init__(self) -> None:
        self.graph = schema.SubGraphT()
        self.graph.name = b"main"
        self.graph.tensors = []
        self.graph.operators = []
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.description = b"by hand"
        self.model.subgraphs = [self.graph]
        self.model.operatorCodes = []
        self.model.buffers = [schema.BufferT()]
        self.model.signatureDefs = []
        self._codes: dict[Any, int] = {}

    def tensor(
        self,
        name: str,
        dtype: str = "float32",
        shape: Sequence[int] = (1, 4),
        *,
        data: Array | None = None,
        quantization: Quantization | None = None,
    ) -> int:
        """Its index. A negative dimension is an open one, as converters write it."""
        tensor = schema.TensorT()
        tensor.name = name.encode()
        tensor.type = _TYPES[dtype]
        tensor.shape = [max(dim, 1) for dim in shape]
        tensor.shapeSignature = list(shape) if min(shape, default=0) < 0 else None
        tensor.hasRank = True
        tensor.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        if quantization is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = list(quantization[0])
            tensor.quantization.zeroPoint = list(quantization[1])
            tensor.quantization.quantizedDimension = quantization[2]
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, name: str, data: Array, quantization: Quantization | None = None) -> int:
        """Weights."""
        return self.tensor(name, data.dtype.name, data.shape, data=data, quantization=quantization)

    def op(
        self,
        kind: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: Any = None,
    ) -> None:
        """A builtin of the schema by its name, else a custom one."""
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(kind)
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            operator.builtinOptions = options
            name = type(options).__name__[:-1]
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
        self.graph.operators.append(operator)

    def _code(self, kind: str) -> int:
        if kind not in self._codes:
            code = schema.OperatorCodeT()
            builtin = getattr(schema.BuiltinOperator, kind, schema.BuiltinOperator.CUSTOM)
            code.builtinCode = builtin
            code.deprecatedBuiltinCode = min(builtin, 127)
            code.version = 1
            if builtin == schema.BuiltinOperator.CUSTOM:
                code.customCode = kind.encode()
            self._codes[kind] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(code)
        return self._codes[kind]

    def bytes(self, inputs: Sequence[int], outputs: Sequence[int], *signatures: Signature) -> bytes:
        """The file."""
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        self.model.signatureDefs = [_signature(each) for each in signatures]
        builder = Builder(1024)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def _signature(signature: Signature) -> Any:
    made = schema.SignatureDefT()
    made.signatureKey = signature.key.encode()
    made.subgraphIndex = signature.subgraph
    made.inputs = [_map(*item) for item in signature.inputs.items()]
    made.outputs = [_map(*item) for item in signature.outputs.items()]
    return made


def _map(name: str, index: int) -> Any:
    made = schema.TensorMapT()
    made.name, made.tensorIndex = name.encode(), index
    return made


def dense(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Weights by output, as TensorFlow Lite has them."""
    return (rng.normal(size=(rows, columns)) / np.sqrt(columns)).astype(np.float32)


def two_by_two(*, batch: int = -1, named: bool = True) -> bytes:
    """``left``, ``right`` [batch, 6] -> ``mixed`` [batch, 5], ``gate`` [batch, 3], float32.

    The operations use the second input and make the second output first, and the signature has
    them in an order of its own: whatever goes by any order but the subgraph's mixes them up.
    """
    rng = np.random.default_rng(3)
    net = Net()
    relu = schema.FullyConnectedOptionsT()
    relu.fusedActivationFunction = schema.ActivationFunctionType.RELU
    plain = schema.FullyConnectedOptionsT
    right = net.tensor("serving_default_right:0", shape=(batch, 6))
    left = net.tensor("serving_default_left:0", shape=(batch, 6))
    gate = net.tensor("StatefulPartitionedCall:1", shape=(batch, 3))
    mixed = net.tensor("StatefulPartitionedCall:0", shape=(batch, 5))
    inner = net.tensor("inner", shape=(batch, 5))
    other = net.tensor("other", shape=(batch, 5))
    weights = [net.constant(f"w{i}", dense(rng, n, 6)) for i, n in enumerate((5, 3, 5))]
    bias = net.constant("bias", rng.normal(size=5).astype(np.float32))
    net.op("FULLY_CONNECTED", [right, weights[0], bias], [inner], relu)
    net.op("FULLY_CONNECTED", [right, weights[1], -1], [gate], plain())
    net.op("FULLY_CONNECTED", [left, weights[2], -1], [other], plain())
    net.op("ADD", [other, inner], [mixed], schema.AddOptionsT())
    signature = Signature({"right": right, "left": left}, {"gate": gate, "mixed": mixed})
    return net.bytes([left, right], [mixed, gate], *([signature] if named else []))


def quantized(*, float_ports: bool = False) -> bytes:
    """``x`` [batch, 16] -> ``y`` [batch, 8] by two layers in full int8; int8 in and out as well.

    float_ports: float32 in and out, quantized inside.
    """
    rng = np.random.default_rng(4)
    net = Net()
    ports = "float32" if float_ports else "int8"
    at = {"x": ([0.03], [-3], 0), "h": ([0.05], [-128], 0), "y": ([0.06], [5], 0)}
    inside = {"x": (-1, 16), "h": (-1, 12), "y": (-1, 8)}
    index = {
        name: net.tensor(f"{name}_q", "int8", inside[name], quantization=at[name]) for name in at
    }
    previous = "x"
    for name in ("h", "y"):
        scales = [0.004 + 0.0005 * row for row in range(inside[name][1])]
        packed = rng.integers(-127, 128, size=(inside[name][1], inside[previous][1]))
        weights = net.constant(f"{name}_w", packed.astype(np.int8), (scales, [0] * len(scales), 0))
        steps = [at[previous][0][0] * scale for scale in scales]
        bias = rng.integers(-2000, 2000, size=len(scales)).astype(np.int32)
        biases = net.constant(f"{name}_b", bias, (steps, [0] * len(steps), 0))
        options = schema.FullyConnectedOptionsT()
        if name == "h":
            options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        net.op("FULLY_CONNECTED", [index[previous], weights, biases], [index[name]], options)
        previous = name
    ends = index
    if float_ports:
        ends = {name: net.tensor(name, ports, inside[name]) for name in ("x", "y")}
        net.op("QUANTIZE", [ends["x"]], [index["x"]])
        net.op("DEQUANTIZE", [index["y"]], [ends["y"]])
        net.graph.operators.insert(0, net.graph.operators.pop(-2))
    signature = Signature({"x": ends["x"]}, {"y": ends["y"]})
    return net.bytes([ends["x"]], [ends["y"]], signature)
