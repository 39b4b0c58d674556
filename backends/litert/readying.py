"""What LiteRT's quantizer (litert-quantizer 0.11) has to find in a file, put there beforehand.

All of it is done in place, to a model as ``flatbuffer_utils`` reads it.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Optional

from backends.litert.flatfile import operator_names
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


_CLAMPS = ("RELU", "RELU6", "RELU_N1_TO_1")
_CLAMPED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD"}


def fuse(model: Any, kept: set[str]) -> None:
    """Let operators clamp their outputs themselves, where a RELU alone reads these.

    XNNPACK has no RELU of int8: each would be a kernel of LiteRT's own, between parts of XNNPACK.
    kept: names of values, and types of operators, that have to stay.
    """
    graph, names = model.subgraphs[0], operator_names(model)
    readers = Counter(int(number) for each in graph.operators for number in each.inputs)
    readers.update(int(number) for number in graph.outputs)
    makers = {int(number): each for each in graph.operators for number in each.outputs}
    gone = set()
    for clamp in list(graph.operators):
        kind = names[clamp.opcodeIndex]
        if kind not in _CLAMPS or kind in kept:
            continue
        before, after = int(clamp.inputs[0]), int(clamp.outputs[0])
        options = _unclamped(before, makers, readers, names)
        if options and not {graph.tensors[each].name.decode() for each in (before, after)} & kept:
            options.fusedActivationFunction = getattr(_schema().ActivationFunctionType, kind)
            makers[after] = makers[before]
            makers[after].outputs = [after]
            graph.operators.remove(clamp)
            gone.add(before)
    _drop(model, gone)


def _unclamped(
    number: int, makers: Mapping[int, Any], readers: Mapping[int, int], names: Sequence[str]
) -> Optional[Any]:
    """The options of the operator that makes a value for one reader, if it can clamp that.

    RESHAPEs in between change no value.
    """
    while number in makers and readers[number] == 1:
        maker = makers[number]
        name, options = names[maker.opcodeIndex], maker.builtinOptions
        if name != "RESHAPE":
            free = name in _CLAMPED and options and not options.fusedActivationFunction
            return options if free else None
        number = int(maker.inputs[0])
    return None


def _drop(model: Any, gone: Collection[int]) -> None:
    """Remove tensors that nothing refers to, which the calibration would read in vain."""
    graph = model.subgraphs[0]
    left = [number for number in range(len(graph.tensors)) if number not in gone]
    graph.tensors = [graph.tensors[number] for number in left]
    new = {-1: -1, **{number: place for place, number in enumerate(left)}}
    for each in (graph, *graph.operators):
        for ends in ("inputs", "outputs", "intermediates"):
            if getattr(each, ends, None) is not None:
                setattr(each, ends, [new[int(number)] for number in getattr(each, ends)])
    for signature in model.signatureDefs or ():
        for each in (*signature.inputs, *signature.outputs) if signature.subgraphIndex == 0 else ():
            each.tensorIndex = new[each.tensorIndex]


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
