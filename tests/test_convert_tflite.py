"""onnx2tf as the converter: outputs, names, layout and batch of many kinds of models."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx2tf")
pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

import onnx
from onnx import TensorProto, helper, numpy_helper

from backends.convert import checking, onnx2tf_tool, onnx_to_tflite, tflite_layout
from backends.convert.onnx_to_tflite import CONVERTER
from backends.litert import flatfile
from harness.backend import ConvertRequest
from harness.errors import BackendError, UnavailableError, UnsupportedError
from harness.testing_models import MODELS, _model, model_specs, random_feed
from harness.types import TensorSpec


class Net:
    """Nodes one after the other: each call adds one and gives the name of its output."""

    def __init__(self) -> None:
        self.nodes, self.constants = [], {}
        self._rng = np.random.default_rng(7)

    def weights(self, *shape: int, fan_in: int = 0):
        fan_in = fan_in or int(np.prod(shape[1:])) or 1
        return (self._rng.normal(size=shape) * np.sqrt(2 / fan_in)).astype(np.float32)

    def __call__(self, kind, *inputs: object, out=None, **attributes):
        names = []
        for value in inputs:
            names.append(value if isinstance(value, str) else f"constant{len(self.constants)}")
            if not isinstance(value, str):
                self.constants[names[-1]] = np.asarray(value)
        outputs = [out or f"value{len(self.nodes)}"] if not isinstance(out, list) else out
        self.nodes.append((kind, names, outputs, attributes))
        return outputs[0] if len(outputs) == 1 else outputs

    def conv(self, x, filters, channels, size, out=None, **attributes):
        pads = [size // 2] * 4
        weights = self.weights(filters, channels, size, size)
        return self("Conv", x, weights, self.weights(filters), out=out, pads=pads, **attributes)

    def norm(self, x, width):
        return self("LayerNormalization", x, np.ones(width, np.float32), self.weights(width))

    def model(self, inputs, outputs):
        return _model("net", self.nodes, self.constants, inputs=inputs, outputs=outputs)


def spec(name, *shape: object, dtype="float32"):
    return TensorSpec(name, dtype, shape)


def ints(*values: int):
    return np.array(values, np.int64)


def mobilenet():
    """Depthwise and pointwise convolutions, residuals, ReLU6, batch norms."""
    net = Net()

    def block(x, channels, filters, stride):
        wide = 4 * channels
        h = net("Clip", net.conv(x, wide, channels, 1), np.float32(0), np.float32(6))
        h = net.conv(h, wide, 1, 3, group=wide, strides=[stride, stride])
        scale, shift = np.ones(wide, np.float32), net.weights(wide)
        h = net("BatchNormalization", h, scale, shift, shift * 0.1, np.abs(shift) + 0.5)
        h = net.conv(net("Clip", h, np.float32(0), np.float32(6)), filters, wide, 1)
        return net("Add", x, h) if stride == 1 and channels == filters else h

    x = net("Relu", net.conv("image", 8, 3, 3, strides=[2, 2]))
    x = block(block(block(x, 8, 8, 1), 8, 16, 2), 16, 16, 1)
    x = net("Flatten", net("GlobalAveragePool", x))
    net("Gemm", x, net.weights(10, 16), net.weights(10), transB=1, out="logits")
    return net.model([spec("image", "batch", 3, 32, 32)], [spec("logits", "batch", 10)])


def transformer():
    """Embedding of int64 tokens, a mask, attention of two heads, GELU of Erf, two outputs."""
    net, length, width, heads = Net(), 12, 16, 2
    x = net("Add", net("Gather", net.weights(50, width, fan_in=1), "ids"), net.weights(1, 12, 16))

    def part(h):
        h = net("Add", net("MatMul", h, net.weights(width, width)), net.weights(width))
        h = net("Reshape", h, ints(0, 0, heads, width // heads))
        return net("Transpose", h, perm=[0, 2, 1, 3])

    h = net.norm(x, width)
    query, key, value = part(h), part(h), part(h)
    scores = net("MatMul", query, net("Transpose", key, perm=[0, 1, 3, 2]))
    mask = net("Unsqueeze", net("Cast", "mask", to=TensorProto.FLOAT), ints(1, 2))
    mask = net("Mul", net("Sub", np.float32(1), mask), np.float32(-1e4))
    h = net("MatMul", net("Softmax", net("Add", scores, mask), axis=-1), value)
    h = net("Reshape", net("Transpose", h, perm=[0, 2, 1, 3]), ints(0, 0, width))
    x = net("Add", x, h)
    h = net("MatMul", net.norm(x, width), net.weights(width, 32))
    erf = net("Add", net("Erf", net("Div", h, np.float32(np.sqrt(2)))), np.float32(1))
    h = net("Mul", net("Mul", h, erf), np.float32(0.5))
    x = net("Add", x, net("MatMul", h, net.weights(32, width)), out="hidden")
    net("ReduceMean", x, axes=[1], keepdims=0, out="pooled")
    tokens = [spec(name, "batch", length, dtype="int64") for name in ("ids", "mask")]
    return net.model(tokens, [spec("hidden", "batch", 12, 16), spec("pooled", "batch", 16)])


def attention():
    """Float sequences as long as they are wide: no axis is told from another by its size."""
    net = Net()
    h = net.norm("x", 12)
    query, key, value = (net("MatMul", h, net.weights(12, 12)) for _ in range(3))
    scores = net("Softmax", net("MatMul", query, net("Transpose", key, perm=[0, 2, 1])), axis=-1)
    net("Add", "x", net("MatMul", scores, value), out="y")
    return net.model([spec("x", "batch", 12, 12)], [spec("y", "batch", 12, 12)])


def conv1d():
    net = Net()
    x = net("Relu", net("Conv", "signal", net.weights(8, 4, 5), net.weights(8), pads=[2, 2]))
    x = net("MaxPool", x, kernel_shape=[2], strides=[2])
    net("Conv", x, net.weights(4, 8, 3), pads=[1, 1], out="out")
    return net.model([spec("signal", "batch", 4, 32)], [spec("out", "batch", 4, 16)])


def conv3d():
    net = Net()
    x = net("Relu", net("Conv", "volume", net.weights(4, 2, 3, 3, 3), pads=[1] * 6))
    net("Conv", x, net.weights(3, 4, 1, 1, 1), out="out")
    return net.model([spec("volume", "batch", 2, 6, 8, 10)], [spec("out", "batch", 3, 6, 8, 10)])


def recurrent(kind, gates):
    net, hidden = Net(), 8
    x = net("Transpose", "x", perm=[1, 0, 2])
    weights = (net.weights(1, gates * hidden, 6), net.weights(1, gates * hidden, hidden))
    bias = net.weights(1, 2 * gates * hidden, fan_in=8)
    names = ["all", "h", "c"] if kind == "LSTM" else ["all", "h"]
    own = {"linear_before_reset": 1} if kind == "GRU" else {}
    net(kind, x, *weights, bias, out=names, hidden_size=hidden, **own)
    net("Transpose", net("Squeeze", "all", ints(1)), perm=[1, 0, 2], out="steps")
    net("MatMul", net("Squeeze", "h", ints(0)), net.weights(hidden, 3), out="last")
    return net.model(
        [spec("x", "batch", 10, 6)], [spec("steps", "batch", 10, 8), spec("last", "batch", 3)]
    )


def unet():
    """Skips, pooling, bilinear upsampling; its output is an image as well."""
    net = Net()
    skip = net("Relu", net.conv("image", 8, 3, 3))
    x = net("MaxPool", skip, kernel_shape=[2, 2], strides=[2, 2])
    x = net("Relu", net.conv(x, 8, 8, 3))
    scales = np.array([1, 1, 2, 2], np.float32)
    x = net("Resize", x, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")
    net("Sigmoid", net.conv(net("Concat", skip, x, axis=1), 2, 16, 1), out="mask")
    return net.model([spec("image", "batch", 3, 16, 24)], [spec("mask", "batch", 2, 16, 24)])


def transposed():
    net = Net()
    x = net("Relu", net.conv("image", 8, 3, 3, strides=[2, 2]))
    kernel = net.weights(8, 4, 4, 4)
    net("ConvTranspose", x, kernel, strides=[2, 2], pads=[1] * 4, out="out")
    return net.model([spec("image", "batch", 3, 16, 20)], [spec("out", "batch", 4, 16, 20)])


def cube():
    """Height, width and channels alike, in and out."""
    net = Net()
    net.conv(net("Relu", net.conv("image", 8, 8, 3)), 8, 8, 3, out="out")
    return net.model([spec("image", "batch", 8, 8, 8)], [spec("out", "batch", 8, 8, 8)])


def vit():
    net, width = Net(), 16
    x = net("Conv", "image", net.weights(width, 3, 4, 4), strides=[4, 4])
    x = net("Transpose", net("Reshape", x, ints(0, width, -1)), perm=[0, 2, 1])
    parts = net(
        "Reshape", net("MatMul", net.norm(x, width), net.weights(16, 48)), ints(0, 16, 3, 2, 8)
    )
    parts = net("Transpose", parts, perm=[2, 0, 3, 1, 4])
    query, key, value = (net("Gather", parts, np.array(n, np.int64), axis=0) for n in range(3))
    scores = net("MatMul", query, net("Transpose", key, perm=[0, 1, 3, 2]))
    h = net("MatMul", net("Softmax", scores, axis=-1), value)
    h = net("Reshape", net("Transpose", h, perm=[0, 2, 1, 3]), ints(0, 16, width))
    net("ReduceMean", net("Add", x, h), axes=[1], keepdims=0, out="out")
    return net.model([spec("image", "batch", 3, 16, 16)], [spec("out", "batch", 16)])


def mixed():
    """An image and a vector; a feature map and scores; names with ``/``, ``:`` and spaces."""
    net = Net()
    net("Relu", net.conv("image", 8, 3, 3), out="/feat/map:0")
    pooled = net("Flatten", net("GlobalAveragePool", "/feat/map:0"))
    net("Add", pooled, net("MatMul", "a vector", net.weights(5, 8)), out="out/of it")
    return net.model(
        [spec("image", "batch", 3, 16, 16), spec("a vector", "batch", 5)],
        [spec("/feat/map:0", "batch", 8, 16, 16), spec("out/of it", "batch", 8)],
    )


def plain():
    """An output that is an input, and one that is a constant."""
    net = Net()
    net("Identity", "x", out="same")
    net("Identity", net.weights(3, 2), out="constant")
    net("Relu", "x", out="positive")
    outputs = [spec("same", "batch", 4), spec("constant", 3, 2), spec("positive", "batch", 4)]
    return net.model([spec("x", "batch", 4)], outputs)


def classes():
    """int64 out of an image."""
    net = Net()
    net("ArgMax", net.conv("image", 5, 3, 3), axis=1, keepdims=0, out="classes")
    return net.model(
        [spec("image", "batch", 3, 8, 10)], [spec("classes", "batch", 8, 10, dtype="int64")]
    )


IMAGES = {
    "mobilenet": mobilenet, "unet": unet, "transposed": transposed, "cube": cube, "vit": vit,
    "classes": classes, "conv1d": conv1d, "conv3d": conv3d, "mixed": mixed,
}  # fmt: skip
OPEN = {**MODELS, **IMAGES, "transformer": transformer, "attention": attention, "plain": plain}


def request_of(path, sizes=None, samples=()):
    inputs, outputs = model_specs(str(path))
    shapes = tuple(
        (
            each.name,
            tuple((sizes or {}).get(d, 1) if not isinstance(d, int) else d for d in each.shape),
        )
        for each in inputs
    )
    return ConvertRequest(str(path), inputs, outputs, shapes, samples)


def convert(model, folder: Path, **more):
    onnx.save(model, folder / "source.onnx")
    (folder / "out").mkdir()
    return CONVERTER.convert(request_of(folder / "source.onnx", **more), str(folder / "out"))


def wanted(path, feed):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, feed)))


def difference(done, source: Path, feed) -> float:
    """Of LiteRT from ONNX Runtime, by the ports, in an interpreter of its own."""
    runner = tflite_layout.Runner(Path(done.path))
    got = checking.from_file(runner.run(checking.to_file(feed, done.ports)), done.ports)
    return checking.difference([got], [wanted(source, feed)])


@pytest.mark.parametrize("name", OPEN)
def test_outputs_are_the_models_at_any_batch(name, tmp_path):
    done = convert(OPEN[name](), tmp_path)
    inputs, outputs = model_specs(str(tmp_path / "source.onnx"))
    assert tuple(port.spec for port in done.ports.inputs) == inputs
    assert tuple(port.spec for port in done.ports.outputs) == outputs
    for batch in (1, 3):
        feed = random_feed(inputs, batch=batch, seed=5)
        feed = {k: v % 2 if v.dtype.kind == "i" else v for k, v in feed.items()}
        assert difference(done, tmp_path / "source.onnx", feed) < 1e-5
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.tflite"]


@pytest.mark.parametrize("name", ["mobilenet", "unet", "cube", "conv3d", "mixed"])
def test_images_are_transposed_by_the_ports_not_by_the_file(name, tmp_path):
    done = convert(IMAGES[name](), tmp_path)
    image = done.ports.inputs[0]
    assert image.axes == tflite_layout.LAST[len(image.spec.shape)]
    kept = 1 if name == "mixed" else 0  # an output in the model's own order
    assert tflite_layout.Graph(Path(done.path)).transposes() == kept


def test_products_with_constant_matrices_are_fully_connected_layers(tmp_path):
    """BATCH_MATMUL has no float16 and no four bits."""
    net = Net()
    x = net("Relu", net("MatMul", "x", net.weights(16, 8)))
    x = net("Add", net("MatMul", x, net.weights(8, 8)), x)
    net("Add", net("MatMul", x, net.weights(8, 4)), net.weights(4), out="y")
    model = net.model([spec("x", "batch", 5, 16)], [spec("y", "batch", 5, 4)])
    (graph,) = flatfile.read(convert(model, tmp_path).path)
    found = Counter(each.name for each in graph.operators)
    assert (found["FULLY_CONNECTED"], found["BATCH_MATMUL"]) == (3, 0)
    assert found["ADD"] == 1  # the residual


def test_sequences_keep_their_order(tmp_path):
    done = convert(attention(), tmp_path)
    assert [port.axes for port in (*done.ports.inputs, *done.ports.outputs)] == [(), ()]


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_a_recurrent_net_forgets_between_runs_and_has_its_batch_fixed(kind, gates, tmp_path):
    done = convert(recurrent(kind, gates), tmp_path)
    assert done.ports.inputs[0].spec == spec("x", 1, 10, 6)
    assert done.ports.outputs[1].spec == spec("last", 1, 3)
    assert any("with other batches" in note for note in done.notes)
    runner = tflite_layout.Runner(Path(done.path))
    for seed in (1, 2):
        feed = random_feed([spec("x", 1, 10, 6)], seed=seed)
        got = runner.run(checking.to_file(feed, done.ports))
        assert checking.difference(
            [checking.from_file(got, done.ports)], [wanted(tmp_path / "source.onnx", feed)]
        ) < 1e-5  # fmt: skip


def test_other_open_axes_are_fixed_as_asked_and_said(tmp_path):
    net = Net()
    net.conv("image", 2, 3, 3, out="out")
    free = net.model([spec("image", "batch", 3, "h", "w")], [spec("out", "batch", 2, "h", "w")])
    done = convert(free, tmp_path, sizes={"h": 16, "w": 24})
    assert done.ports.inputs[0].spec == spec("image", "batch", 3, 16, 24)
    assert done.ports.outputs[0].spec == spec("out", "batch", 2, 16, 24)
    assert any("image: float32[batch, 3, 16, 24]" in note for note in done.notes)


def test_a_model_of_a_fixed_batch_of_several_keeps_it(tmp_path):
    net = Net()
    net("Flatten", net.conv("image", 2, 3, 3), out="out")
    done = convert(net.model([spec("image", 4, 3, 8, 8)], [spec("out", 4, 128)]), tmp_path)
    assert done.ports.inputs[0].spec.shape == (4, 3, 8, 8)
    feed = random_feed([spec("image", 4, 3, 8, 8)])
    assert difference(done, tmp_path / "source.onnx", feed) < 1e-5


def test_scalars_pass(tmp_path):
    net = Net()
    net("ReduceSum", net("Mul", "x", "factor", out="scaled"), keepdims=0, out="total")
    model = net.model([spec("x", 4), spec("factor")], [spec("scaled", 4), spec("total")])
    done = convert(model, tmp_path)
    feed = {"x": np.arange(4, dtype=np.float32), "factor": np.array(3, np.float32)}
    assert difference(done, tmp_path / "source.onnx", feed) == 0


def test_local_functions_are_inlined(tmp_path):
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["y"], domain="own")], "g", value[:1], value[1:]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, functions=[twice], opset_imports=opsets, ir_version=8)
    done = convert(model, tmp_path)
    feed = {"x": np.ones((2, 4), np.float32)}
    assert difference(done, tmp_path / "source.onnx", feed) == 0


def test_the_same_model_gives_the_same_bytes(tmp_path):
    hashes = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        done = convert(mobilenet(), tmp_path / name)
        hashes.add(hashlib.sha256(Path(done.path).read_bytes()).hexdigest())
    assert len(hashes) == 1


def test_nothing_reaches_stdout_or_the_current_folder(tmp_path, capfd, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert(mobilenet(), tmp_path)
    assert not capfd.readouterr().out
    assert not list((tmp_path / "here").iterdir())


def test_the_users_samples_are_checked_on(tmp_path):
    onnx.save(unet(), tmp_path / "source.onnx")
    request = request_of(tmp_path / "source.onnx")
    sample = random_feed(request.inputs, seed=1)
    done = CONVERTER.convert(replace(request, samples=(sample,)), str(tmp_path))
    assert "the ONNX model" in done.notes[0]


def test_unsupported_operators_are_named_with_their_nodes(tmp_path):
    net = Net()
    net("Multinomial", net("Relu", "x"), out="drawn")
    drawing = net.model([spec("x", 1, 5)], [spec("drawn", 1, 1, dtype="int32")])
    with pytest.raises(UnsupportedError, match=r"Multinomial \(multinomial_1\)"):
        convert(drawing, tmp_path)


def test_branches_are_taken_by_the_values(tmp_path):
    def branch(kind):
        result = helper.make_tensor_value_info("result", TensorProto.FLOAT, [4])
        return helper.make_graph([helper.make_node(kind, ["x"], ["result"])], kind, [], [result])

    net = Net()
    positive = net("Greater", net("ReduceSum", "x", keepdims=0), np.float32(0))
    net("If", positive, out="y", then_branch=branch("Relu"), else_branch=branch("Neg"))
    done = convert(net.model([spec("x", 4)], [spec("y", 4)]), tmp_path)
    for value in (1, -1):
        feed = {"x": np.full(4, value, np.float32)}
        assert difference(done, tmp_path / "source.onnx", feed) == 0


def test_an_operator_that_the_tool_stumbles_over_is_named(tmp_path, monkeypatch):
    class Node:
        op_type, name = "MaxPool", "pool_3"

    def stumbling(**_options):
        node = Node()
        return [][len(node.name)]

    monkeypatch.setattr(onnx2tf_tool, "load", lambda: stumbling)
    with pytest.raises(UnsupportedError, match=r"MaxPool \(pool_3\): IndexError"):
        convert(unet(), tmp_path)


@pytest.mark.parametrize("fault", [SystemExit(1), RuntimeError("broken")])
def test_the_tools_own_faults_and_exits_are_errors(fault, tmp_path, monkeypatch):
    def failing(**_options):
        raise fault

    monkeypatch.setattr(onnx2tf_tool, "load", lambda: failing)
    with pytest.raises(BackendError, match="onnx2tf failed") as caught:
        convert(unet(), tmp_path)
    assert not isinstance(caught.value, UnsupportedError)


def test_a_file_that_gives_other_outputs_is_refused(tmp_path, monkeypatch):
    write = onnx2tf_tool.write

    def wrong(model, *rest: object):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        for held in changed.graph.initializer:
            if held.data_type == TensorProto.FLOAT:
                held.CopyFrom(
                    numpy_helper.from_array(numpy_helper.to_array(held) * 1.01, held.name)
                )
        return write(changed, *rest)

    monkeypatch.setattr(onnx2tf_tool, "write", wrong)
    with pytest.raises(BackendError, match="gives other outputs than the ONNX model"):
        convert(unet(), tmp_path)


def test_a_batch_that_is_mixed_up_is_not_called_open(tmp_path, monkeypatch):
    def mixing(self, size):
        """As if nothing had to be opened."""

    monkeypatch.setattr(tflite_layout.Graph, "open_batch", mixing)
    monkeypatch.setattr(
        onnx_to_tflite._Search, "_make",
        lambda self, last, *, opened, made=onnx_to_tflite._Search._make: (
            None if opened else made(self, last, opened=False)
        ),
    )  # fmt: skip
    done = convert(vit(), tmp_path)
    assert done.ports.inputs[0].spec.shape == (1, 3, 16, 16)
    assert any("with other batches" in note for note in done.notes)


def test_what_is_not_to_be_converted_is_refused_by_its_reason(tmp_path):
    net = Net()
    scale, zero = np.float32(0.1), np.int8(0)
    q = net("QuantizeLinear", "x", scale, zero)
    net("DequantizeLinear", q, scale, zero, out="y")
    with pytest.raises(UnsupportedError, match="quantized already"):
        convert(net.model([spec("x", 4)], [spec("y", 4)]), tmp_path)
    (tmp_path / "junk.onnx").write_bytes(b"no model")
    request = ConvertRequest(str(tmp_path / "junk.onnx"), (), (), ())
    with pytest.raises(UnsupportedError, match="ONNX"):
        CONVERTER.convert(request, str(tmp_path))


def test_outputs_whose_shape_depends_on_values_are_refused(tmp_path):
    net = Net()
    net("NonZero", net("Relu", "x"), out="where")
    with pytest.raises(UnsupportedError, match="depends on the inputs' values"):
        convert(net.model([spec("x", 6)], [spec("where", 1, "n", dtype="int64")]), tmp_path)


def test_opsets_that_nobody_knows_are_refused(tmp_path):
    model = mobilenet()
    model.opset_import[0].version = 99
    onnx.save(model, tmp_path / "source.onnx")
    with pytest.raises(UnsupportedError, match="opset"):
        CONVERTER.convert(request_of(tmp_path / "source.onnx"), str(tmp_path))


def test_it_says_what_is_missing(monkeypatch, tmp_path):
    def absent():
        raise ImportError("No module named 'onnx2tf'")

    monkeypatch.setattr(onnx2tf_tool, "load", absent)
    probe = CONVERTER.probe()
    assert "onnx2tf" in (probe.problem or "")
    assert probe.fix == "enginepick setup onnx2tf"
    with pytest.raises(UnavailableError):
        convert(unet(), tmp_path)


def test_a_real_classifier_of_files(tmp_path):
    magika = pytest.importorskip("magika")
    path = Path(magika.__file__).parent / "models" / "standard_v3_3" / "model.onnx"
    rng = np.random.default_rng(3)
    samples = tuple({"bytes": rng.integers(0, 257, (1, 2048)).astype(np.int32)} for _ in range(3))
    done = CONVERTER.convert(request_of(path, samples=samples), str(tmp_path))
    assert not isinstance(done.ports.inputs[0].spec.shape[0], int)
    feed = {"bytes": np.concatenate([each["bytes"] for each in samples])}
    assert difference(done, path, feed) < 1e-3
