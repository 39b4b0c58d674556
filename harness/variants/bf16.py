"""bfloat16: weights and arithmetic, with inputs and outputs in float32.

Which operators can is what ONNX's schemas say. bfloat16 has float32's range and 8 significant bits,
so that sizes and positions beyond 256 aren't exact: arithmetic on what were integers stays in
float32 up to the first product.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.errors import UnsupportedError
from harness.variants.excluding import WEIGHTED
from harness.variants.files import (
    check,
    inferred,
    initializers,
    is_large,
    opset,
    parts,
    save,
    upgraded,
)

OPSET = 22
"""The first in which convolutions, pooling and recurrences may be of bfloat16."""

_LARGEST = 3.3895314e38  # of bfloat16; beyond it float32 rounds to infinity

_KEPT = frozenset(
    {"ConvTranspose", "GRU", "HardSwish", "LpNormalization"}  # not in TensorRT-RTX 1.7's bfloat16
    | {"CumSum", "Range", "RoiAlign"}  # adding up and locating take more bits
    | {"Bernoulli", "EyeLike", "RandomNormal", "RandomNormalLike"}  # the type is an attribute
    | {"RandomUniform", "RandomUniformLike", "SequenceEmpty"}
)
"""Operators that stay in float32."""

_PRODUCTS = frozenset({*WEIGHTED, "Attention", "Einsum", "GRU", "LSTM", "RNN"})


def make(source: str, out: str) -> tuple[str, ...]:
    """Convert. Notes as of :func:`harness.variants.make`."""
    import onnx
    from onnx import TensorProto
    from onnx.inliner import inline_local_functions

    notes: list[str] = []
    large = is_large(source)
    with tempfile.TemporaryDirectory(dir=Path(out).parent) as folder:
        given = upgraded(source, str(Path(folder) / "upgraded.onnx"), OPSET, notes, large=large)
        model = inferred(given, Path(folder)) if large else onnx.load(given)
    if model.functions:
        model = inline_local_functions(model)
    if not large:
        model = onnx.shape_inference.infer_shapes(model)
    graph = _Graph(model.graph, opset(model))
    graph.convert()
    if not any(each.data_type == TensorProto.BFLOAT16 for each in initializers(model.graph)):
        raise UnsupportedError("the model has no float32 weights that could become bfloat16")
    save(model, out, large=large)
    check(out, source, "the bfloat16 conversion")
    return (*notes, *_told(graph.kept, graph.lowered))


def _told(kept: Counter[str], lowered: Counter[str]) -> Iterator[str]:
    count = sum(lowered.values())
    yield f"{count} of {count + sum(kept.values())} nodes of floats converted to bf16"
    if kept:
        names = ", ".join(f"{count} {name}" for name, count in sorted(kept.items()))
        yield f"{sum(kept.values())} nodes kept in fp32: {names}"


class _Graph:
    """A graph on its way to bfloat16, or a part of one (a loop's body, a branch).

    Each float32 value becomes bfloat16 or stays, as its producer decides, and is cast where a
    consumer wants the other; weights are there in each type that is wanted. What enters or leaves a
    part is bfloat16. kept, lowered: nodes with float32 values that stay, and that don't, by
    operator, with those of the parts.
    """

    def __init__(self, graph: Any, version: int, outer: _Graph | None = None) -> None:
        self.kept: Counter[str] = outer.kept if outer else Counter()
        self.lowered: Counter[str] = outer.lowered if outer else Counter()
        self._graph = graph
        self._version = version
        self.outer = outer
        self._nodes: list[Any] = []
        self.types: dict[str, int] = {}
        self.low: set[str] = set()
        self.exact: set[str] = set()
        self.weights: dict[str, Any] = {}
        self._other: dict[str, str] = {}  # values in the type that they don't have by themselves
        self._wanted: set[str] = set()  # weights that are wanted in float32

    def convert(self) -> None:
        """Rewrite the graph in place."""
        self._enter()
        for node in list(self._graph.node):
            for part in parts(node):
                _Graph(part, self._version, self).convert()
            self._convert_node(node)
            self._nodes.append(node)
        self._leave()

    def _enter(self) -> None:
        """Learn the types of all values; a part's inputs are bfloat16 from here on."""
        from onnx import TensorProto

        graph = self._graph
        _hoist_constants(graph)
        for value in (*graph.value_info, *graph.output, *graph.input):
            self.types[value.name] = value.type.tensor_type.elem_type
        given = {value.name for value in graph.input}
        for tensor in graph.initializer:
            self.types[tensor.name] = tensor.data_type
            if tensor.data_type == TensorProto.FLOAT and tensor.name not in given:
                clip(tensor)
                self.weights[tensor.name] = tensor
        if self.outer:
            self.low |= {name for name in given if self.types[name] == TensorProto.FLOAT}

    def _convert_node(self, node: Any) -> None:
        unknown = next((name for name in node.output if name and name not in self.types), None)
        if unknown is not None:
            raise UnsupportedError(
                f"ONNX can't tell the type of {unknown}, which {node.op_type} computes"
            )
        exact = self._is_exact(node)
        takes, gives = _may_be_low(node.op_type, node.domain, self._version)
        if exact or node.op_type in _KEPT:
            takes = gives = (False,)
        lowered = []
        for place, name in enumerate(node.input):
            if self._is_float(name):
                lowered.append(takes[min(place, len(takes) - 1)])
                node.input[place] = self._owner(name).in_type(name, low=lowered[-1])
        for place, name in enumerate(node.output):
            if self._is_float(name):
                lowered.append(gives[min(place, len(gives) - 1)])
                self.low |= {name} if lowered[-1] else set()
                self.exact |= {name} if exact else set()
        if node.op_type == "GRU" and node.input[0].endswith(_named("", low=False)):
            self._part_from_cast(node)
        if any(lowered):
            _lower_attributes(node)
        if lowered:
            (self.lowered if any(lowered) else self.kept)[node.op_type] += 1

    def _part_from_cast(self, node: Any) -> None:
        """Add zero to what a recurrence reads: TensorRT-RTX 1.7 builds none right after a cast."""
        import numpy as np
        from onnx import helper, numpy_helper

        cast = node.input[0]
        own = next(filter(None, node.output))
        zero, node.input[0] = f"{own}/zero", f"{own}/input"
        self._graph.initializer.append(numpy_helper.from_array(np.float32(0), zero))
        self._nodes.append(helper.make_node("Add", [cast, zero], [node.input[0]], node.input[0]))

    def _leave(self) -> None:
        """Give each output the type that is expected of it, and say in the graph what changed."""
        from onnx import TensorProto

        graph, low = self._graph, self.outer is not None
        for value in graph.output:
            if self._is_float(value.name) and (
                value.name in self.weights or (value.name in self.low) is not low
            ):
                self._cast_output(value.name, low=low)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.name in self.low and self.types[value.name] == TensorProto.FLOAT:
                value.type.tensor_type.elem_type = TensorProto.BFLOAT16
        for name in self.weights.keys() - self._wanted:
            graph.initializer.remove(self.weights[name])
        del graph.node[:]
        graph.node.extend(self._nodes)

    def _cast_output(self, name: str, *, low: bool) -> None:
        """The output is a cast of what was called so."""
        before = _named(name, low=not low and name not in self.weights)
        if name in self.weights:
            self.weights[name].name = before
            self._wanted.add(name)
        _rename(self._nodes, name, before)
        self._nodes.append(_cast(before, name, low=low))
        self.low = self.low | {name} if low else self.low - {name}

    def in_type(self, name: str, *, low: bool) -> str:
        """What a value of this graph is called in bfloat16 (``low``) or in float32."""
        if name in self.weights and not low:
            self._wanted.add(name)
        if (name in self.low) is low:
            return name
        if name not in self._other:
            self._other[name] = other = _named(name, low=low)
            if name in self.weights:
                self._graph.initializer.append(lowered(self.weights[name], other))
            else:
                self._nodes.append(_cast(name, other, low=low))
        return self._other[name]

    def _owner(self, name: str) -> _Graph:
        """The graph that has the value: this one, or one around it."""
        found: _Graph | None = self
        while found is not None and name not in found.types:
            found = found.outer
        if found is None:
            raise UnsupportedError(f"ONNX can't tell the type of {name}")
        return found

    def _is_float(self, name: str) -> bool:
        from onnx import TensorProto

        return bool(name) and self._owner(name).types[name] == TensorProto.FLOAT

    def _is_exact(self, node: Any) -> bool:
        """Whether a node only computes with what were integers, and constants."""
        if node.op_type in _PRODUCTS or next(parts(node), None) is not None:
            return False
        if node.op_type == "Cast":
            return self._was_integer(node.input[0])
        owned = [(name, self._owner(name)) for name in node.input if self._is_float(name)]
        exact = [name in owner.exact for name, owner in owned]
        constant = [name in owner.weights for name, owner in owned]
        return any(exact) and all(a or b for a, b in zip(exact, constant, strict=True))

    def _was_integer(self, name: str) -> bool:
        from onnx import TensorProto

        owner = self._owner(name)
        floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
        return name in owner.exact or owner.types[name] not in floats


def _rename(nodes: Iterable[Any], old: str, new: str) -> None:
    """Of a value, where nodes and the graphs inside them read or write it."""
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
        for part in parts(node):
            _rename(part.node, old, new)


@lru_cache(maxsize=256)
def _may_be_low(op: str, domain: str, version: int) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Which of an operator's inputs, and outputs, may be of bfloat16; the last stands for more."""
    from onnx import defs

    try:
        schema = defs.get_schema(op, version, "" if domain == "ai.onnx" else domain)
    except defs.SchemaError:
        return (False,), (False,)
    kinds = {
        each.type_param_str: "tensor(bfloat16)" in each.allowed_type_strs
        for each in schema.type_constraints
    }
    takes, gives = (
        tuple(kinds.get(each.type_str, False) for each in formals)
        for formals in (schema.inputs, schema.outputs)
    )
    return takes, gives


def _hoist_constants(graph: Any) -> None:
    """Make initializers of constants in float32, which may then be there in both types."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    for node in [node for node in graph.node if node.op_type == "Constant"]:
        (attribute,) = node.attribute
        value = helper.get_attribute_value(attribute)
        if attribute.name in ("value_float", "value_floats"):
            value = numpy_helper.from_array(np.asarray(value, np.float32))
        elif attribute.name != "value" or value.data_type != TensorProto.FLOAT:
            continue
        graph.initializer.add().CopyFrom(value)
        graph.initializer[-1].name = node.output[0]
        graph.node.remove(node)


def _lower_attributes(node: Any) -> None:
    """The types that a node's attributes name."""
    from onnx import TensorProto, helper

    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.BFLOAT16
    if node.op_type == "ConstantOfShape":
        given = [each.t for each in node.attribute]
        zero = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", lowered([*given, zero][0], "value")))


def lowered(tensor: Any, name: str) -> Any:
    """A float32 tensor in bfloat16, rounded to nearest."""
    import ml_dtypes
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
    return numpy_helper.from_array(values, name)


def clip(tensor: Any) -> None:
    """Keep finite what is, where a tensor holds float32's own largest values (as masks do)."""
    import numpy as np
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    beyond = np.isfinite(values) & (np.abs(values) > _LARGEST)
    if beyond.any():
        clipped = np.where(beyond, np.sign(values) * np.float32(_LARGEST), values)
        tensor.CopyFrom(numpy_helper.from_array(clipped.astype(np.float32), tensor.name))


def _named(name: str, *, low: bool) -> str:
    return f"{name}/{'bf16' if low else 'fp32'}"


def _cast(name: str, made: str, *, low: bool) -> Any:
    from onnx import TensorProto, helper

    to = TensorProto.BFLOAT16 if low else TensorProto.FLOAT
    return helper.make_node("Cast", [name], [made], made, to=to)
