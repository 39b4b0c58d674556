"""A model with the user's inputs and outputs and no work between them: the floor of a call."""

from __future__ import annotations

from typing import Any

from harness.errors import UnsupportedError
from harness.variants.files import freeze


def make(source: str, out: str) -> tuple[str, ...]:
    """Write a model whose outputs are copies of inputs where they fit, else zeros of their shape.

    Open axes of an output take the size of the input's axis of that name, or of its place where
    both are the first (the batch). Raises UnsupportedError for an output whose shape depends on
    more than that.
    """
    import onnx
    from onnx import helper

    model = onnx.load(source, load_external_data=False)
    freeze(model)
    inputs = list(model.graph.input)
    nodes: list[Any] = []
    for place, output in enumerate(model.graph.output):
        nodes += _copy(inputs, output) or _zeros(inputs, output, f"floor{place}")
    graph = helper.make_graph(nodes, "call-floor", inputs, list(model.graph.output))
    opset = next(each for each in model.opset_import if each.domain in {"", "ai.onnx"})
    made = helper.make_model(graph, opset_imports=[opset])
    made.ir_version = model.ir_version
    onnx.checker.check_model(made)
    onnx.save(made, out)
    return ()


def _copy(inputs: list[Any], output: Any) -> list[Any]:
    from onnx import helper

    for each in inputs:
        if each.type == output.type and _dims(each):
            return [helper.make_node("Identity", [each.name], [output.name])]
    return []


def _zeros(inputs: list[Any], output: Any, prefix: str) -> list[Any]:
    """A zero, expanded to a shape whose open axes are read off the inputs."""
    import numpy as np
    from onnx import helper, numpy_helper

    if not output.type.HasField("tensor_type"):
        raise UnsupportedError(f"the output {output.name} is no tensor")
    kind = helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type)
    if kind == np.dtype(object):
        raise UnsupportedError(f"the output {output.name} is text")
    constant = numpy_helper.from_array(np.zeros((), kind), f"{prefix}_zero")
    nodes = [helper.make_node("Constant", [], [constant.name], value=constant)]
    parts = []
    for axis, dim in enumerate(_dims(output)):
        name = f"{prefix}_axis{axis}"
        parts.append(name)
        if isinstance(dim, int):
            size = numpy_helper.from_array(np.array([dim], np.int64), name)
            nodes.append(helper.make_node("Constant", [], [name], value=size))
            continue
        source, place = _source(inputs, dim, axis, output.name)
        index = numpy_helper.from_array(np.array([place], np.int64), f"{name}_index")
        nodes += [
            helper.make_node("Constant", [], [index.name], value=index),
            helper.make_node("Shape", [source], [f"{name}_shape"]),
            helper.make_node("Gather", [f"{name}_shape", index.name], [name]),
        ]
    if not parts:
        return [*nodes, helper.make_node("Identity", [constant.name], [output.name])]
    shape = f"{prefix}_shape"
    return [
        *nodes,
        helper.make_node("Concat", parts, [shape], axis=0),
        helper.make_node("Expand", [constant.name, shape], [output.name]),
    ]


def _source(inputs: list[Any], dim: str, axis: int, output: str) -> tuple[str, int]:
    """The input and its axis that tell an open axis of the output."""
    for each in inputs:
        dims = _dims(each)
        if dim and dim in dims:
            return each.name, dims.index(dim)
    for each in inputs:
        dims = _dims(each)
        if axis == 0 and dims and not isinstance(dims[0], int):
            return each.name, 0
    raise UnsupportedError(f"axis {axis} of the output {output} can't be told from the inputs")


def _dims(value: Any) -> list[int | str]:
    """Sizes, and names of open axes ("" where they have none)."""
    return [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else dim.dim_param
        for dim in value.type.tensor_type.shape.dim
    ]
