"""A model of one operator, made in memory: what a device is tried with."""

from __future__ import annotations

from typing import Any


def content() -> bytes:
    """``y = x + x``, float32 [1, 4], as a ``.tflite`` file."""
    from ai_edge_litert.tools import flatbuffer_utils

    schema = flatbuffer_utils.schema_fb
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    code.version = 1
    add = schema.OperatorT()
    add.inputs, add.outputs = [0, 0], [1]
    add.builtinOptionsType, add.builtinOptions = (
        schema.BuiltinOptions.AddOptions,
        schema.AddOptionsT(),
    )
    graph = schema.SubGraphT()
    graph.tensors = [_tensor(schema, b"x"), _tensor(schema, b"y")]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [add]
    model = schema.ModelT()
    model.version = 3
    model.operatorCodes, model.subgraphs, model.buffers = [code], [graph], [schema.BufferT()]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _tensor(schema: Any, name: bytes) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name, [1, 4], 0
    tensor.type = schema.TensorType.FLOAT32
    return tensor
