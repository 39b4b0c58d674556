"""What LiteRT's quantizer (litert-quantizer 0.11) has to find in a file, put there beforehand.

All of it is done in place, to a model as ``flatbuffer_utils`` reads it.
"""

from __future__ import annotations

import copy
from typing import Any

from backends.litert.slots import Slots


def name_apart(model: Any) -> None:
    """Give each tensor a name of its own: the quantizer tells them apart by these."""
    taken: set[bytes] = set()
    for graph in model.subgraphs:
        for number, tensor in enumerate(graph.tensors):
            tensor.name = tensor.name or b"tensor"
            if tensor.name in taken:
                tensor.name += f"#{number}".encode()
            while tensor.name in taken:
                tensor.name += b"#"
            taken.add(tensor.name)


def sign(model: Any, slots: Slots) -> str:
    """Give a file a signature, by which alone the quantizer takes samples; its key."""
    schema = _schema()
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    for kind in ("inputs", "outputs"):
        tensors = []
        for slot in getattr(slots, kind):
            tensor = schema.TensorMapT()
            tensor.name, tensor.tensorIndex = slot.name.encode(), slot.index
            tensors.append(tensor)
        setattr(signature, kind, tensors)
    model.signatureDefs = [signature]
    return "serving_default"


def end_outputs(model: Any) -> None:
    """Where the model itself reads one of its outputs, give out a copy, which nothing reads.

    Of such an output the quantizer gives out the int8 tensor that its reader gets, or makes a file
    that can't be opened. The copy is a CAST of float32 to float32, which it leaves alone.
    """
    graph, kinds = model.subgraphs[0], _schema().TensorType
    read = {int(number) for each in graph.operators or () for number in each.inputs}
    read |= {int(number) for number in graph.inputs}
    copies: dict[int, int] = {}
    for number in dict.fromkeys(int(number) for number in graph.outputs):
        if number in read and graph.tensors[number].type == kinds.FLOAT32:
            copies[number] = _copied(model, number)
    graph.outputs = [copies.get(int(number), int(number)) for number in graph.outputs]
    for signature in model.signatureDefs:
        for each in signature.outputs if signature.subgraphIndex == 0 else ():
            each.tensorIndex = copies.get(each.tensorIndex, each.tensorIndex)


def _copied(model: Any, number: int) -> int:
    """The number of a new tensor, which a new operator copies another one to."""
    schema, graph = _schema(), model.subgraphs[0]
    tensor = copy.copy(graph.tensors[number])
    tensor.name += b" (output)"
    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CAST
    code.version = 1
    operator.opcodeIndex = len(model.operatorCodes)
    operator.inputs, operator.outputs = [number], [len(graph.tensors)]
    operator.builtinOptionsType = schema.BuiltinOptions.CastOptions
    operator.builtinOptions = schema.CastOptionsT()  # whose types are FLOAT32 by default
    model.operatorCodes.append(code)
    graph.operators.append(operator)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _schema() -> Any:
    from ai_edge_litert.tools import flatbuffer_utils

    return flatbuffer_utils.schema_fb
