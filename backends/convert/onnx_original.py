"""The ONNX model that is converted: what is refused, its outputs, and the shapes it is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Union

import numpy as np

from backends.convert import checking, onnxfile
from harness.backend import ConvertRequest, Feed
from harness.errors import BackendError, UnsupportedError
from harness.types import Array, TensorSpec

LARGER = (2, 8)
"""How many times the request's batch an open batch axis is checked at, besides once."""

_LIMIT_BYTES = 2**31 - 1
_QUANTIZED = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"),
    *("ConvInteger", "QLinearConv", "QLinearMatMul"),
)
_RANK = 2  # of a matrix

Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Case:
    """A feed of the model, and the outputs of the model itself."""

    feed: Feed
    wanted: Outputs


@dataclass(frozen=True)
class Original:
    """A model that can be tried.

    batch: inputs whose first axis is the open batch; empty where there is none. own: cases of the
    request's shapes. larger: with batches of more samples.
    """

    request: ConvertRequest
    model: Any
    batch: frozenset[str]
    own: tuple[Case, ...]
    larger: tuple[Case, ...]

    def inputs(self, *, opened: bool) -> tuple[TensorSpec, ...]:
        """Their shapes are the request's, but for the batch where it is opened."""
        shapes = dict(self.request.shapes)
        return tuple(
            replace(
                spec, shape=_merged(spec, shapes[spec.name], opened and spec.name in self.batch)
            )
            for spec in self.request.inputs
        )

    def outputs(self, *, opened: bool) -> tuple[TensorSpec, ...]:
        """As :meth:`inputs`: an axis is open where more samples make it longer."""
        own = self.own[0].wanted
        larger = self.larger[0].wanted if opened and self.larger else own
        return tuple(
            replace(
                spec,
                shape=tuple(
                    dim if more != size else size
                    for dim, size, more in zip(
                        spec.shape, own[spec.name].shape, larger[spec.name].shape
                    )
                ),
            )
            for spec in self.request.outputs
        )

    def shaped(self, scratch: Path, *, opened: bool) -> Any:
        """The model with these inputs, with all that they make constant computed once.

        The tool can't tell shapes that go through nodes; ONNX Runtime computes them.
        """
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        specs = {spec.name: spec for spec in self.inputs(opened=opened)}
        for value in model.graph.input:
            if value.name in specs:
                _set_shape(value, specs[value.name].shape)
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        del model.graph.value_info[:]
        path = scratch / f"shaped-{'open' if opened else 'fixed'}.onnx"
        _add_biases(model.graph)
        onnxfile.session(model.SerializeToString(), path)
        return onnx.shape_inference.infer_shapes(onnx.load(str(path)), data_prop=True)


def read(request: ConvertRequest) -> Original:
    """The model, run on samples of its own and of larger batches.

    Raises UnsupportedError for what isn't to be converted, and BackendError where it can't be run.
    """
    model = _load(request.model)
    _, run = onnxfile.runner(model.SerializeToString())
    own = tuple(Case(feed, run(feed)) for feed in checking.samples(request))
    for name in own[0].wanted:
        if len({case.wanted[name].shape for case in own}) > 1:
            raise UnsupportedError(
                f"the shape of output {name} depends on the inputs' values, which no engine of "
                "fixed shapes can have"
            )
    batch = _batch(request.inputs)
    try:
        larger = tuple(_larger(run, request, batch, own))
    except BackendError:  # the model takes no more samples, or mixes them: it is no batch
        batch, larger = frozenset(), ()
    return Original(request, model, batch, own, larger)


def _load(path: str) -> Any:
    import onnx

    try:
        model = onnx.load(path)
        size = model.ByteSize()
    except Exception as fault:  # protobuf raises its own kinds
        raise UnsupportedError(f"{path} can't be read as ONNX: {fault}") from fault
    if size > _LIMIT_BYTES:
        raise UnsupportedError(
            f"its weights take {size / 1e9:.1f} GB: a .tflite holds 2 GB at most"
        )
    strings = [
        value.name
        for value in (*model.graph.input, *model.graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.STRING
    ]
    if strings:
        raise UnsupportedError(f"{', '.join(strings)}: strings can't be converted")
    quantized = sorted({node.op_type for node in nodes(model.graph)} & set(_QUANTIZED))
    if quantized:
        raise UnsupportedError(
            f"it is quantized already ({', '.join(quantized)}), which onnx2tf converts wrongly",
            fix="give the float32 model; int8 is made of it for each backend",
        )
    return model


def nodes(graph: Any) -> Iterator[Any]:
    """All nodes of a graph, those in branches and loops as well."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, attribute.g):
                yield from nodes(inner)


def _batch(inputs: Sequence[TensorSpec]) -> frozenset[str]:
    """The inputs whose first axis is open and has the first such axis' name, found nowhere else."""
    first = [spec.shape[0] for spec in inputs if spec.shape and not isinstance(spec.shape[0], int)]
    rest = [dim for spec in inputs for dim in spec.shape[1:] if isinstance(dim, str)]
    if not first or first[0] in rest:
        return frozenset()
    return frozenset(spec.name for spec in inputs if spec.shape and spec.shape[0] == first[0])


def _larger(
    run: onnxfile.Runner, request: ConvertRequest, batch: frozenset[str], own: tuple[Case, ...]
) -> Iterator[Case]:
    """Batches of unlike samples, and what the model gives for each of these by itself.

    Together they would be a worse reference: a model whose float32 is ill-conditioned on random
    inputs differs from itself from batch to batch, by far more than a converted one does.
    """
    if not batch:
        return
    rows = own
    if len(rows) == 1:
        drawn = checking.samples(replace(request, samples=()))
        rows = (*own, *(Case(feed, run(feed)) for feed in drawn))
    for times in LARGER:
        chosen = [rows[number % len(rows)] for number in range(times)]
        feed = {
            name: np.concatenate([row.feed[name] for row in chosen]) if name in batch else value
            for name, value in own[0].feed.items()
        }
        together = run(feed)
        yield Case(feed, {name: _joined(name, chosen, value) for name, value in together.items()})


def _joined(name: str, rows: Sequence[Case], together: Array) -> Array:
    each = [row.wanted[name] for row in rows]
    if each[0].shape == together.shape:
        return together
    joined: Array = np.concatenate(each)
    if joined.shape != together.shape:
        raise BackendError(f"output {name} isn't made of its samples' outputs")
    return joined


def _add_biases(graph: Any) -> None:
    """Add zeros to products with constant matrices that nothing is added to.

    ONNX Runtime makes Gemm of such sums, and the tool FULLY_CONNECTED of these. Of a product alone
    it makes BATCH_MATMUL, which XNNPACK hasn't in float16, and the quantizer not in four bits.
    """
    from onnx import helper, numpy_helper

    constants = {each.name: each for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    sums = [node.input for node in graph.node if node.op_type == "Add"]
    biased = {name for each in sums if constants.keys() & set(each) for name in each}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.append(node)
        weights = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if weights is None or len(weights.dims) != _RANK or node.output[0] in biased:
            continue
        result, product, bias = (f"{node.output[0]}{end}" for end in ("", "/product", "/bias"))
        graph.node[-1].output[0] = product
        graph.node.append(helper.make_node("Add", [product, bias], [result], name=bias))
        zeros = np.zeros(weights.dims[1], helper.tensor_dtype_to_np_dtype(weights.data_type))
        graph.initializer.append(numpy_helper.from_array(zeros, bias))


def _merged(
    spec: TensorSpec, sizes: Sequence[int], opened: bool
) -> tuple[Union[int, str, None], ...]:
    return (*spec.shape[:1], *sizes[1:]) if opened else tuple(sizes)


def _set_shape(value: Any, shape: Sequence[Union[int, str, None]]) -> None:
    dims = value.type.tensor_type.shape
    dims.ClearField("dim")
    for size in shape:
        dim = dims.dim.add()
        if isinstance(size, int):
            dim.dim_value = size
        else:
            dim.dim_param = size or "batch"


__all__ = ["LARGER", "Case", "Original", "nodes", "read"]
