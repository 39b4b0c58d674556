"""A quantized model whose exact answer is known: do products of bytes saturate on the way?

Kernels that add two products of bytes in 16 bits stop at 32,767, where 2 x 255 x 127 is 64,770.
"""

from __future__ import annotations

from typing import Any

import numpy as np

TERMS = 64
"""Products in each sum."""
SIDE = 3
"""Of the convolution's kernel and image: TERMS x 9 products."""
FEED = {
    "rows": np.ones((1, TERMS), np.float32),
    "image": np.ones((1, TERMS, SIDE, SIDE), np.float32),
}
"""The inputs: 255 and -128 from zero in each element, once quantized."""
EXACT = {
    "product": np.full((1, TERMS), TERMS, np.float32),
    "convolved": np.full((1, TERMS, 1, 1), TERMS * SIDE * SIDE, np.float32),
}
"""The outputs that all sums of 32 bits give. Saturated ones are about half of it."""


def make(out: str) -> tuple[str, ...]:
    """Write the model: inputs of 255, weights of 127, one MatMul and one Conv, in Q/DQ form."""
    import onnx
    from onnx import helper, numpy_helper

    nodes: list[Any] = []
    weights: list[Any] = []

    def constant(name: str, value: Any) -> str:
        weights.append(numpy_helper.from_array(value, name))
        return name

    def scaled(name: str, largest: float, zero: Any) -> list[str]:
        top = np.iinfo(zero.dtype).max
        scale = constant(f"{name}_scale", np.array(largest / top, np.float32))
        return [scale, constant(f"{name}_zero", zero)]

    def pair(name: str, largest: float, result: str) -> str:
        parameters = scaled(name, largest, np.array(0, np.uint8))
        nodes.append(helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [result]))
        return result

    def layer(kind: str, given: str, shape: tuple[int, ...], result: str) -> None:
        packed = constant(f"{result}_weight", np.full(shape, 127, np.int8))
        parameters = scaled(packed, 1.0, np.array(0, np.int8))
        nodes.append(
            helper.make_node("DequantizeLinear", [packed, *parameters], [f"{packed}_float"])
        )
        given = pair(given, 1.0, f"{given}_float")
        nodes.append(helper.make_node(kind, [given, f"{packed}_float"], [f"{result}_raw"]))
        pair(f"{result}_raw", float(EXACT[result].max()), result)

    layer("MatMul", "rows", (TERMS, TERMS), "product")
    layer("Conv", "image", (TERMS, TERMS, SIDE, SIDE), "convolved")

    def values(arrays: dict[str, Any]) -> list[Any]:
        kind = onnx.TensorProto.FLOAT
        return [helper.make_tensor_value_info(k, kind, v.shape) for k, v in arrays.items()]

    graph = helper.make_graph(nodes, "saturation", values(FEED), values(EXACT), weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, out)
    return ()
