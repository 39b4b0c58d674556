"""Models of the kinds that people deploy, small and with random weights, for building engines.

A CNN, a residual CNN with depthwise convolutions, a transformer encoder, recurrent layers and
control flow; and the real models of two packages, where these are installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from harness.testing_models import MemoryCalibration, model_specs, random_feed
from harness.types import ShapeRange, TensorSpec

OPSET = 17
VOCABULARY = 512  # of the transformer; random inputs stay far below


class Graph:
    """An ONNX graph that grows node by node; each method gives the name of its output."""

    def __init__(self, name: str, seed: int = 0) -> None:
        self.name = name
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add one; its output."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        made = [f"{name}_out{index or ''}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, made, name, **attributes))
        return made[0]

    def weight(self, *shape: int, fan_in: int) -> str:
        """Random weights, as He et al. 2015 start them."""
        values = self.rng.normal(size=shape) * np.sqrt(2 / fan_in)
        return self.constant(values.astype(np.float32))

    def constant(self, values: Any) -> str:
        """Add a constant."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def conv(self, x: str, inner: int, outer: int, size: int = 3, **attributes: Any) -> str:
        """A convolution that keeps the size but for its strides."""
        per_group = inner // attributes.get("group", 1)
        weight = self.weight(outer, per_group, size, size, fan_in=per_group * size * size)
        pads = [size // 2] * 4
        return self.node(
            "Conv", x, weight, self.weight(outer, fan_in=outer), pads=pads, **attributes
        )

    def linear(self, x: str, inner: int, outer: int) -> str:
        """A matrix product and an addition."""
        product = self.node("MatMul", x, self.weight(inner, outer, fan_in=inner))
        return self.node("Add", product, self.weight(outer, fan_in=outer))

    def gemm(self, x: str, inner: int, outer: int) -> str:
        """The two as one operator."""
        weight, bias = self.weight(inner, outer, fan_in=inner), self.weight(outer, fan_in=outer)
        return self.node("Gemm", x, weight, bias)

    def model(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> onnx.ModelProto:
        """inputs, outputs: (numpy's dtype, shape) by name."""
        graph = helper.make_graph(
            self.nodes, self.name, infos(inputs), infos(outputs), initializer=self.weights
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 8
        onnx.checker.check_model(model, full_check=True)
        return model


def infos(values: Mapping[str, Any]) -> list[onnx.ValueInfoProto]:
    """As ONNX describes them; (dtype, shape) by name."""
    return [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
        for name, (kind, shape) in values.items()
    ]


def cnn() -> onnx.ModelProto:
    """Convolutions, pooling and two fully connected layers."""
    graph = Graph("cnn")
    x = "image"
    for inner, outer in ((3, 32), (32, 64), (64, 128)):
        x = graph.node("Relu", graph.conv(x, inner, outer))
        x = graph.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = graph.node("Flatten", x)
    x = graph.node("Relu", graph.gemm(x, 2048, 256))
    graph.node("Identity", graph.gemm(x, 256, 10))
    graph.nodes[-1].output[0] = "scores"
    return graph.model(
        {"image": ("float32", ["batch", 3, 32, 32])}, {"scores": ("float32", ["batch", 10])}
    )


def mobile() -> onnx.ModelProto:
    """Inverted residual blocks with depthwise convolutions, as of MobileNetV2."""
    graph = Graph("mobile", 1)
    zero, six = graph.constant(np.float32(0)), graph.constant(np.float32(6))

    def relu6(x: str) -> str:
        return graph.node("Clip", x, zero, six)

    x = relu6(graph.conv("image", 3, 16, strides=[2, 2]))
    inner = 16
    for outer, stride in ((24, 2), (24, 1), (48, 2), (48, 1), (96, 1)):
        wide = inner * 6
        y = relu6(graph.conv(x, inner, wide, 1))
        y = relu6(graph.conv(y, wide, wide, group=wide, strides=[stride, stride]))
        y = graph.conv(y, wide, outer, 1)
        x = graph.node("Add", x, y) if (stride, inner) == (1, outer) else y
        inner = outer
    x = relu6(graph.conv(x, inner, 320, 1))
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    graph.node("Identity", graph.gemm(x, 320, 100))
    graph.nodes[-1].output[0] = "scores"
    return graph.model(
        {"image": ("float32", ["batch", 3, 64, 64])}, {"scores": ("float32", ["batch", 100])}
    )


def transformer(layers: int = 2, width: int = 128, heads: int = 4) -> onnx.ModelProto:
    """An encoder over tokens, of open batch and length, with a classifier."""
    graph = Graph("transformer", 2)
    head = width // heads

    def norm(x: str) -> str:
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
        return graph.node("LayerNormalization", x, graph.constant(ones), graph.constant(zeros))

    def split(x: str, order: list[int]) -> str:
        shape = graph.constant(np.array([0, 0, heads, head], np.int64))
        return graph.node("Transpose", graph.node("Reshape", x, shape), perm=order)

    def gelu(x: str) -> str:
        root, one, half = (graph.constant(np.float32(v)) for v in (np.sqrt(2), 1.0, 0.5))
        error = graph.node("Erf", graph.node("Div", x, root))
        return graph.node("Mul", graph.node("Mul", x, graph.node("Add", error, one)), half)

    x = graph.node("Gather", graph.weight(VOCABULARY, width, fan_in=2), "tokens", axis=0)
    for _ in range(layers):
        y = norm(x)
        query = split(graph.linear(y, width, width), [0, 2, 1, 3])
        key = split(graph.linear(y, width, width), [0, 2, 3, 1])
        value = split(graph.linear(y, width, width), [0, 2, 1, 3])
        scale = graph.constant(np.float32(1 / np.sqrt(head)))
        weights = graph.node("Mul", graph.node("MatMul", query, key), scale)
        weights = graph.node("Softmax", weights, axis=-1)
        mixed = graph.node("Transpose", graph.node("MatMul", weights, value), perm=[0, 2, 1, 3])
        mixed = graph.node("Reshape", mixed, graph.constant(np.array([0, 0, width], np.int64)))
        x = graph.node("Add", x, graph.linear(mixed, width, width))
        y = gelu(graph.linear(norm(x), width, 4 * width))
        x = graph.node("Add", x, graph.linear(y, 4 * width, width))
    pooled = graph.node("ReduceMean", norm(x), axes=[1], keepdims=0)
    graph.node("Identity", graph.gemm(pooled, width, 16))
    graph.nodes[-1].output[0] = "scores"
    return graph.model(
        {"tokens": ("int64", ["batch", "length"])}, {"scores": ("float32", ["batch", 16])}
    )


def recurrent(width: int = 96) -> onnx.ModelProto:
    """A GRU, a bidirectional LSTM and a classifier, over 12 steps."""
    graph = Graph("recurrent", 3)
    x = graph.node("Transpose", "signal", perm=[1, 0, 2])
    gates = [graph.weight(1, 3 * width, size, fan_in=width) for size in (24, width)]
    x = graph.node("GRU", x, *gates, hidden_size=width, linear_before_reset=1)
    x = graph.node("Squeeze", x, graph.constant(np.array([1], np.int64)))
    gates = [graph.weight(2, 4 * width, width, fan_in=width) for _ in range(2)]
    x = graph.node("LSTM", x, *gates, hidden_size=width, direction="bidirectional")
    last = graph.node("Gather", x, graph.constant(np.int64(-1)), axis=0)
    last = graph.node("Transpose", last, perm=[1, 0, 2])
    last = graph.node("Reshape", last, graph.constant(np.array([-1, 2 * width], np.int64)))
    hidden = graph.node("Relu", graph.gemm(last, 2 * width, 128))
    graph.node("Identity", graph.gemm(hidden, 128, 8))
    graph.nodes[-1].output[0] = "scores"
    return graph.model(
        {"signal": ("float32", ["batch", 12, 24])}, {"scores": ("float32", ["batch", 8])}
    )


def branching(width: int = 64) -> onnx.ModelProto:
    """A Loop of four steps and an If, each around a matrix product."""
    graph = Graph("branching", 4)
    x = graph.node("Relu", graph.gemm("features", 32, width))
    weight = graph.weight(width, width, fan_in=width)
    step = helper.make_graph(
        [
            helper.make_node("MatMul", ["state_in", weight], ["moved"], "loop_matmul"),
            helper.make_node("Tanh", ["moved"], ["state_out"], "loop_tanh"),
            helper.make_node("Identity", ["go_in"], ["go_out"], "loop_go"),
        ],
        "step",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_in", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, None),
        ],
    )
    four, go = graph.constant(np.int64(4)), graph.constant(np.array(True))
    x = graph.node("Loop", four, go, x, body=step)
    other = graph.weight(width, width, fan_in=width)

    def branch(name: str, weight: str) -> onnx.GraphProto:
        product = helper.make_node("MatMul", [x, weight], [f"{name}_out"], f"{name}_matmul")
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph([product], name, [], [out])

    mean = graph.node("ReduceMean", x, keepdims=0)
    which = graph.node("Greater", mean, graph.constant(np.float32(0)))
    x = graph.node("If", which, then_branch=branch("yes", weight), else_branch=branch("no", other))
    graph.node("Identity", graph.gemm(x, width, 8))
    graph.nodes[-1].output[0] = "scores"
    return graph.model(
        {"features": ("float32", ["batch", 32])}, {"scores": ("float32", ["batch", 8])}
    )


MADE: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "cnn": cnn,
    "mobile": mobile,
    "transformer": transformer,
    "recurrent": recurrent,
    "branching": branching,
}


@dataclass(frozen=True)
class Case:
    """A model to build: its file, and the least, usual and largest size of its inner open axes."""

    name: str
    path: Path
    sizes: tuple[int, int, int] = (4, 32, 64)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """As the model declares them."""
        return model_specs(str(self.path))[0]

    def shape(self, spec: TensorSpec, batch: int, size: int) -> tuple[int, ...]:
        """An input's shape with its open axes filled in."""
        first, *rest = spec.shape
        filled = [dim if isinstance(dim, int) else size for dim in rest]
        return (first if isinstance(first, int) else batch, *filled)

    def profile(self) -> tuple[ShapeRange, ...]:
        """Batches from 1 to 8, tuned for 4."""
        least, usual, most = self.sizes
        return tuple(
            ShapeRange(
                spec.name,
                self.shape(spec, 1, least),
                self.shape(spec, 4, usual),
                self.shape(spec, 8, most),
            )
            for spec in self.inputs
        )

    def calibration(self, count: int = 8) -> MemoryCalibration:
        """Random samples of the usual size."""
        fixed = [replace(each, shape=self.shape(each, 1, self.sizes[1])) for each in self.inputs]
        return MemoryCalibration([random_feed(fixed, seed=seed) for seed in range(count)])


def made(folder: Path, names: Iterable[str] = tuple(MADE)) -> Iterator[Case]:
    """Our own models, written to a folder."""
    for name in names:
        path = folder / f"{name}.onnx"
        onnx.save(MADE[name](), path)
        yield Case(name, path)


def real() -> Iterator[Case]:
    """The models that installed packages carry."""
    for name, package, pattern, sizes in (
        ("magika", "magika", "**/standard_v*/model.onnx", (2048, 2048, 2048)),
        ("ocr-recognition", "rapidocr", "**/PP-OCRv6_rec_small.onnx", (64, 320, 640)),
        ("ocr-detection", "rapidocr", "**/PP-OCRv6_det_small.onnx", (64, 160, 320)),
    ):
        spec = importlib.util.find_spec(package)
        files = sorted(Path(str(spec.origin)).parent.glob(pattern)) if spec else []
        if files:
            yield Case(name, files[-1], sizes)
