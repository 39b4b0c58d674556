"""Tiny models for tests: they build in milliseconds, and each has something to stumble over.

All are ONNX with float32 weights of sane ranges, drawn from a seed, and a symbolic first axis
``batch``. They need the ``onnx`` package; nothing else here does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Union

import numpy as np

from harness.backend import Feed
from harness.types import Array, TensorSpec

OPSET = 17
IR_VERSION = 8  # what opset 17 came with: old runtimes refuse a newer one
VOCABULARY = 50
"""Integer inputs are indices below this."""


def conv_model(seed: int = 0) -> Any:
    """A small CNN: ``image`` float32 [batch, 3, 16, 16] -> ``scores`` float32 [batch, 10]."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": _weights(rng, (8, 3, 3, 3), fan_in=27),
        "b1": _weights(rng, (8,), fan_in=8),
        "w2": _weights(rng, (16, 8, 3, 3), fan_in=72),
        "b2": _weights(rng, (16,), fan_in=16),
        "w3": _weights(rng, (10, 16), fan_in=16),
        "b3": _weights(rng, (10,), fan_in=10),
    }
    nodes: list[_Node] = [
        ("Conv", ["image", "w1", "b1"], ["c1"], {"pads": [1, 1, 1, 1]}),
        ("Relu", ["c1"], ["r1"], {}),
        ("Conv", ["r1", "w2", "b2"], ["c2"], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("Relu", ["c2"], ["r2"], {}),
        ("GlobalAveragePool", ["r2"], ["pooled"], {}),
        ("Flatten", ["pooled"], ["flat"], {"axis": 1}),
        ("Gemm", ["flat", "w3", "b3"], ["scores"], {"transB": 1}),
    ]
    return _model(
        "conv",
        nodes,
        weights,
        inputs=[TensorSpec("image", "float32", ("batch", 3, 16, 16))],
        outputs=[TensorSpec("scores", "float32", ("batch", 10))],
    )


def mlp_model(seed: int = 1) -> Any:
    """Two layers: ``features`` float32 [batch, 32] -> ``scores`` float32 [batch, 8]."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": _weights(rng, (32, 64), fan_in=32),
        "b1": _weights(rng, (64,), fan_in=64),
        "w2": _weights(rng, (64, 8), fan_in=64),
        "b2": _weights(rng, (8,), fan_in=8),
    }
    nodes: list[_Node] = [
        ("MatMul", ["features", "w1"], ["m1"], {}),
        ("Add", ["m1", "b1"], ["a1"], {}),
        ("Relu", ["a1"], ["r1"], {}),
        ("MatMul", ["r1", "w2"], ["m2"], {}),
        ("Add", ["m2", "b2"], ["scores"], {}),
    ]
    return _model(
        "mlp",
        nodes,
        weights,
        inputs=[TensorSpec("features", "float32", ("batch", 32))],
        outputs=[TensorSpec("scores", "float32", ("batch", 8))],
    )


def two_inputs_two_outputs_model(seed: int = 2) -> Any:
    """``left``, ``right`` float32 [batch, 16] -> ``mixed`` [batch, 8], ``gate`` [batch, 4].

    The inputs are not interchangeable: swapping them changes both outputs.
    """
    rng = np.random.default_rng(seed)
    weights = {
        "wl": _weights(rng, (16, 8), fan_in=16),
        "wr": _weights(rng, (16, 8), fan_in=16),
        "wg": _weights(rng, (8, 4), fan_in=8),
    }
    nodes: list[_Node] = [
        ("MatMul", ["left", "wl"], ["pl"], {}),
        ("MatMul", ["right", "wr"], ["pr"], {}),
        ("Relu", ["pr"], ["rr"], {}),
        ("Add", ["pl", "rr"], ["mixed"], {}),
        ("MatMul", ["mixed", "wg"], ["logits"], {}),
        ("Sigmoid", ["logits"], ["gate"], {}),
    ]
    return _model(
        "two",
        nodes,
        weights,
        inputs=[TensorSpec(name, "float32", ("batch", 16)) for name in ("left", "right")],
        outputs=[
            TensorSpec("mixed", "float32", ("batch", 8)),
            TensorSpec("gate", "float32", ("batch", 4)),
        ],
    )


def embedding_model(seed: int = 3) -> Any:
    """A bag of words: ``tokens`` int64 [batch, 12] -> ``scores`` float32 [batch, 6]."""
    rng = np.random.default_rng(seed)
    weights = {
        "table": rng.normal(size=(VOCABULARY, 16)).astype(np.float32),
        "w1": _weights(rng, (16, 32), fan_in=16),
        "w2": _weights(rng, (32, 6), fan_in=32),
    }
    nodes: list[_Node] = [
        ("Gather", ["table", "tokens"], ["vectors"], {"axis": 0}),
        ("ReduceMean", ["vectors"], ["mean"], {"axes": [1], "keepdims": 0}),
        ("MatMul", ["mean", "w1"], ["m1"], {}),
        ("Relu", ["m1"], ["r1"], {}),
        ("MatMul", ["r1", "w2"], ["scores"], {}),
    ]
    return _model(
        "embedding",
        nodes,
        weights,
        inputs=[TensorSpec("tokens", "int64", ("batch", 12))],
        outputs=[TensorSpec("scores", "float32", ("batch", 6))],
    )


def recurrent_model(seed: int = 4) -> Any:
    """One step of a gated recurrent cell: ``frame`` [batch, 6] and ``h_in`` [batch, 8] float32.

    Its outputs are the state, ``h_out`` [batch, 8], before ``scores`` [batch, 4]; the state that is
    carried decides these as much as the frame does.
    """
    rng = np.random.default_rng(seed)
    shapes = {"wz": (6, 8), "uz": (8, 8), "wn": (6, 8), "un": (8, 8), "wo": (8, 4)}
    weights = {name: 2 * _weights(rng, s, fan_in=s[0]) for name, s in shapes.items()}
    weights["one"] = np.ones(1, np.float32)
    nodes: list[_Node] = [
        ("MatMul", ["frame", "wz"], ["fz"], {}),
        ("MatMul", ["h_in", "uz"], ["hz"], {}),
        ("Add", ["fz", "hz"], ["az"], {}),
        ("Sigmoid", ["az"], ["z"], {}),
        ("MatMul", ["frame", "wn"], ["fn"], {}),
        ("MatMul", ["h_in", "un"], ["hn"], {}),
        ("Add", ["fn", "hn"], ["an"], {}),
        ("Tanh", ["an"], ["n"], {}),
        ("Mul", ["z", "h_in"], ["kept"], {}),
        ("Sub", ["one", "z"], ["open"], {}),
        ("Mul", ["open", "n"], ["new"], {}),
        ("Add", ["kept", "new"], ["h_out"], {}),
        ("MatMul", ["h_out", "wo"], ["scores"], {}),
    ]
    return _model(
        "recurrent",
        nodes,
        weights,
        inputs=[
            TensorSpec("frame", "float32", ("batch", 6)),
            TensorSpec("h_in", "float32", ("batch", 8)),
        ],
        outputs=[
            TensorSpec("h_out", "float32", ("batch", 8)),
            TensorSpec("scores", "float32", ("batch", 4)),
        ],
    )


MODELS: Mapping[str, Callable[[], Any]] = {
    "conv": conv_model,
    "mlp": mlp_model,
    "two": two_inputs_two_outputs_model,
    "embedding": embedding_model,
}
"""The models of the contract suite, by name; each call makes the same ``onnx.ModelProto``."""


def random_feed(inputs: Sequence[TensorSpec], batch: int = 1, seed: int = 0) -> dict[str, Array]:
    """Inputs that fit ``inputs``, the same for the same seed; every open axis gets ``batch``."""
    rng = np.random.default_rng(seed)
    feed: dict[str, Array] = {}
    for spec in inputs:
        shape = tuple(dim if isinstance(dim, int) else batch for dim in spec.shape)
        if np.issubdtype(np.dtype(spec.dtype), np.integer):
            feed[spec.name] = rng.integers(0, VOCABULARY, size=shape).astype(spec.dtype)
        else:
            feed[spec.name] = rng.normal(size=shape).astype(spec.dtype)
    return feed


class MemoryCalibration:
    """A :class:`harness.backend.Calibration` of feeds held in memory."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = tuple(feeds)

    def feeds(self) -> Iterator[Feed]:
        """Yield the feeds from the start."""
        return iter(self._feeds)

    def __len__(self) -> int:
        return len(self._feeds)


def random_calibration(inputs: Sequence[TensorSpec], count: int = 16) -> MemoryCalibration:
    """``count`` samples of one each, none of which :func:`random_feed` gives for small seeds."""
    return MemoryCalibration([random_feed(inputs, seed=10_000 + i) for i in range(count)])


def model_specs(model: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs that an ONNX model (a path or a ``ModelProto``) declares."""
    import onnx

    proto = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
    held = {initializer.name for initializer in proto.graph.initializer}
    inputs = tuple(_spec(value) for value in proto.graph.input if value.name not in held)
    return inputs, tuple(_spec(value) for value in proto.graph.output)


_Node = tuple[str, list[str], list[str], dict[str, Any]]


def _weights(rng: np.random.Generator, shape: tuple[int, ...], *, fan_in: int) -> Array:
    """Normal weights whose layer keeps the variance of its input (He et al. 2015)."""
    weights: Array = (rng.normal(size=shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)
    return weights


def _model(
    name: str,
    nodes: Sequence[_Node],
    weights: Mapping[str, Array],
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> Any:
    from onnx import checker, helper, numpy_helper

    def values(specs: Sequence[TensorSpec]) -> list[Any]:
        return [
            helper.make_tensor_value_info(
                spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), list(spec.shape)
            )
            for spec in specs
        ]

    graph = helper.make_graph(
        [
            helper.make_node(kind, ins, outs, name=f"{kind.lower()}_{index}", **attributes)
            for index, (kind, ins, outs, attributes) in enumerate(nodes)
        ],
        name,
        values(inputs),
        values(outputs),
        initializer=[numpy_helper.from_array(array, key) for key, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    checker.check_model(model, full_check=True)
    return model


def _spec(value: Any) -> TensorSpec:
    from onnx import helper

    kind = value.type.tensor_type
    dims: list[Union[int, str, None]] = []
    for dim in kind.shape.dim:
        fixed = dim.HasField("dim_value")
        dims.append(dim.dim_value if fixed else (dim.dim_param or None))
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    return TensorSpec(value.name, dtype, tuple(dims))
