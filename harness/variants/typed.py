"""int8 or fp8 products between float16: files whose types an engine takes as they are.

A strongly typed runtime (TensorRT) computes each operator in the type that the file gives it, so
that what isn't quantized has to be float16 in the file itself.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from harness.backend import Calibration
from harness.errors import UnsupportedError
from harness.variants import half, quantized
from harness.variants.excluding import PAIR
from harness.variants.files import initializers, is_large, outline, parts, save

_INT8_MOST = 127
_FP8_MOST = 448  # of float8e4m3fn
_FP8_CHANNELS = 16
_FP8_KERNEL = 32


def make(
    source: str, out: str, params: Mapping[str, str], calibration: Calibration
) -> tuple[str, ...]:
    """Quantize by the calibration samples, then convert the rest; inputs and outputs stay float32.

    Notes as of :func:`harness.variants.make`. Raises UnsupportedError for a model with Q/DQ pairs:
    they could not be told from ours.
    """
    model = outline(source)
    if any(map(_has_pairs, (model.graph, *model.functions))):
        raise UnsupportedError(
            "the model is quantized already (it has QuantizeLinear or DequantizeLinear)",
            "give the float32 model that it was made from",
        )
    fp8 = params["weights"] == "fp8"
    left = _without_kernels(source) if fp8 else []
    if left:
        excluded = {*json.loads(params.get("exclude", "[]")), *left}
        params = {**params, "exclude": json.dumps(sorted(excluded))}
    with tempfile.TemporaryDirectory(dir=Path(out).parent) as folder:
        between = str(Path(folder) / "quantized.onnx")
        notes = quantized.make_static(source, between, params, calibration)
        if fp8:
            _retype(between)
        return (*notes, *half.make(between, out, keep_io=True))


def _has_pairs(graph: Any) -> bool:
    """Whether a graph, or a function, quantizes or dequantizes anything, at any depth."""
    return any(node.op_type in PAIR or any(map(_has_pairs, parts(node))) for node in graph.node)


def _without_kernels(source: str) -> list[str]:
    """What the convolutions compute that TensorRT has no fp8 kernels for, by their weights' shapes.

    Those with few channels, depthwise ones too, or large kernels; NVIDIA's Model Optimizer leaves
    the same. TensorRT-RTX 1.7 takes few channels, and computes large kernels in fp16 all the same.
    """
    graph = outline(source).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes |= {
        node.output[0]: tuple(node.attribute[0].t.dims)
        for node in graph.node
        if node.op_type == "Constant"
    }
    return [
        node.output[0]
        for node in graph.node
        if node.op_type == "Conv"
        and (shape := shapes.get(node.input[1]))
        and (min(shape[:2]) < _FP8_CHANNELS or prod(shape[2:]) > _FP8_KERNEL)
    ]


def _retype(path: str) -> None:
    """Symmetric int8 pairs become float8e4m3fn ones of the same ranges, in place.

    Scales change so that the largest value that was seen is the largest of the type; the type of a
    pair is that of its zero points.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load(path)
    pairs = [node for node in model.graph.node if node.op_type in PAIR]
    scales, zeros = ({node.input[place] for node in pairs} for place in (1, 2))
    for tensor in initializers(model.graph):
        if tensor.name in scales:
            values = numpy_helper.to_array(tensor) * np.float32(_INT8_MOST / _FP8_MOST)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        elif tensor.name in zeros:
            tensor.CopyFrom(_zeros(tensor))
    packed = {node.output[0] for node in pairs if node.op_type == "QuantizeLinear"}
    for value in model.graph.value_info:
        if value.name in packed:
            value.type.tensor_type.elem_type = TensorProto.FLOAT8E4M3FN
    save(model, path, large=is_large(path))


def _zeros(tensor: Any) -> Any:
    """As many zeros in float8e4m3fn."""
    from onnx import TensorProto, helper

    dims = list(tensor.dims)
    return helper.make_tensor(
        tensor.name, TensorProto.FLOAT8E4M3FN, dims, bytes(prod(dims)), raw=True
    )
