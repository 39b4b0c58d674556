"""What is in a ``.tflite`` file, as its schema has it: the interpreter shows int4 as int8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from harness.errors import BackendError

FLOATS = ("FLOAT32", "FLOAT16", "BFLOAT16", "FLOAT64")

COMPUTE = {
    "CONV_2D": (0, 1), "DEPTHWISE_CONV_2D": (0, 1), "CONV_3D": (0, 1), "FULLY_CONNECTED": (0, 1),
    "BATCH_MATMUL": (0, 1), "TRANSPOSE_CONV": (2, 1), "CONV_3D_TRANSPOSE": (2, 1),
    "LSTM": (0, 1), "UNIDIRECTIONAL_SEQUENCE_LSTM": (0, 1), "BIDIRECTIONAL_SEQUENCE_LSTM": (0, 1),
    "RNN": (0, 1), "UNIDIRECTIONAL_SEQUENCE_RNN": (0, 1), "SVDF": (0, 1),
}  # fmt: skip
"""Operators of products, with the places of their activations and their weights.

LSTM's first weights may be left out; the next ones have the same type.
"""

_PRECISIONS = {
    "FLOAT32": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "FLOAT64": "fp64",
    "INT8": "int8", "UINT8": "int8", "INT16": "int16", "INT32": "int32", "INT4": "int4",
    "INT2": "int2",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """type: the schema's (``INT4``). constant: it is in the file. scaled: it has a scale."""

    name: str
    type: str
    rank: int
    constant: bool
    scaled: bool


@dataclass(frozen=True)
class Operator:
    """One operator; inputs and outputs are numbers of tensors, -1 where one is left out."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """A subgraph; the first one is the model, others are bodies of its operators."""

    operators: tuple[Operator, ...]
    tensors: tuple[Tensor, ...]

    def precision(self, operator: Operator) -> Optional[str]:
        """What a compute operator multiplies in; None where it is none.

        Integer weights beside float activations: the kernels quantize these as they come, and
        multiply integers. With 4 bits that is the precision of weights alone.
        """
        places = COMPUTE.get(operator.name)
        if places is None:
            return None
        activations = self.tensors[operator.inputs[places[0]]].type
        given = [number for number in operator.inputs[places[1] :] if number >= 0]
        weights = self.tensors[given[0]].type if given else activations
        if weights in ("INT4", "INT2"):
            return f"{_PRECISIONS[weights]}-weights"
        narrow = activations if activations not in FLOATS else weights
        return _PRECISIONS.get(narrow, narrow.lower())

    @property
    def unpacked(self) -> tuple[str, ...]:
        """The types of stored weights that DEQUANTIZE turns into float32 before they are used."""
        return tuple(
            self.tensors[operator.inputs[0]].type.lower()
            for operator in self.operators
            if operator.name == "DEQUANTIZE" and self.tensors[operator.inputs[0]].constant
        )

    @property
    def quantized(self) -> tuple[str, ...]:
        """The operators that have quantized tensors, or weights stored as fewer bits."""
        odd = {
            number
            for number, tensor in enumerate(self.tensors)
            if (tensor.scaled and tensor.type not in FLOATS)
            or (tensor.constant and tensor.type in ("FLOAT16", "BFLOAT16"))
        }
        return tuple(
            operator.name
            for operator in self.operators
            if odd & {*operator.inputs, *operator.outputs}
        )


def parse(path: str) -> Any:
    """The file as objects of its schema. Raises BackendError where it isn't one.

    Only for files that the interpreter has opened, which verifies them.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    try:
        return flatbuffer_utils.read_model(path)
    except Exception as fault:  # whatever damaged bytes lead to
        raise BackendError(f"{path} can't be read as a .tflite file: {fault}") from fault


def read(path: str) -> tuple[Graph, ...]:
    """The subgraphs of a file; see :func:`graphs`."""
    return graphs(parse(path))


def graphs(model: Any) -> tuple[Graph, ...]:
    """The subgraphs of a parsed file, but for those where other signatures begin."""
    from ai_edge_litert.tools import flatbuffer_utils

    others = {each.subgraphIndex for each in model.signatureDefs or ()} - {0}
    types = _names(flatbuffer_utils.schema_fb.TensorType)
    codes = operator_names(model)
    return tuple(
        Graph(
            tuple(
                Operator(codes[op.opcodeIndex], _numbers(op.inputs), _numbers(op.outputs))
                for op in subgraph.operators or ()
            ),
            tuple(_tensor(model, tensor, types) for tensor in subgraph.tensors),
        )
        for number, subgraph in enumerate(model.subgraphs)
        if number not in others
    )


def operator_names(model: Any) -> list[str]:
    """By the numbers of a parsed file's operator codes; custom ones have names of their own."""
    from ai_edge_litert.tools import flatbuffer_utils

    return [
        code.customCode.decode("utf-8", errors="replace")
        if code.customCode
        else str(flatbuffer_utils.opcode_to_name(model, number) or f"operator {code.builtinCode}")
        for number, code in enumerate(model.operatorCodes)
    ]


def _tensor(model: Any, tensor: Any, types: dict[int, str]) -> Tensor:
    data = model.buffers[tensor.buffer].data
    scale = tensor.quantization.scale if tensor.quantization is not None else None
    return Tensor(
        name=(tensor.name or b"").decode("utf-8", errors="replace"),
        type=types.get(tensor.type, f"type {tensor.type}"),
        rank=len(_numbers(tensor.shape)),
        constant=data is not None and len(data) > 0,
        scaled=scale is not None and len(scale) > 0,
    )


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _numbers(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in (values if values is not None else ()))
