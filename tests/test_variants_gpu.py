"""Variants for runtimes that compute in the types of the file: what is in them, and their outputs.

No runtime here runs bfloat16: onnx's own evaluator does, and ONNX Runtime runs the same file with
its weights rounded and its arithmetic in float32. Engines are built by TensorRT-RTX where it is
installed, for GPUs that aren't here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from harness import testing_models as models
from harness import variants
from harness.backend import BuildRequest, Feed
from harness.errors import UnsupportedError
from harness.recovery import search
from harness.types import Precision
from harness.variants import bf16, files, quantized

BENCHMARKS = str(Path(__file__).parent.parent / "benchmarks")
sys.path.insert(0, BENCHMARKS)
import trt_models  # noqa: E402

sys.path.remove(BENCHMARKS)

PRECISIONS = {"bf16": Precision.BF16, "qdq-fp16": Precision.INT8, "fp8": Precision.FP8}
DEMO = Path(__file__).parent.parent / "harness" / "demo"
FLOAT, BF16, INT64 = TensorProto.FLOAT, TensorProto.BFLOAT16, TensorProto.INT64


def recipe(name: str, **wishes: Any) -> variants.Recipe:
    asked = variants.Wishes(**wishes)
    return variants.resolve(
        name, PRECISIONS[name], isa=frozenset(), device="gpu:0", wishes=asked, saturates=False
    )


def made(name: str, model: Any, folder: Path, **wishes: Any) -> tuple[str, tuple[str, ...]]:
    source, out = folder / "source.onnx", folder / f"{name}.onnx"
    onnx.save(model, source)
    samples = models.random_calibration(models.model_specs(model)[0])
    notes = variants.make(recipe(name, **wishes), str(source), str(out), samples)
    onnx.checker.check_model(str(out), full_check=True)
    return str(out), notes


def run(path: str, feed: Feed) -> list[Any]:
    """As the file says: ONNX Runtime 1.32's optimizations change what float8 computes."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed)))


def widened(path: str) -> str:
    """A bfloat16 file with float32 in its place; the weights keep their rounded values."""

    def widen(graph: Any) -> None:
        for tensor in files.initializers(graph):
            if tensor.data_type == BF16:
                values = numpy_helper.to_array(tensor).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        for value in (*graph.value_info, *graph.input, *graph.output):
            if value.type.tensor_type.elem_type == BF16:
                value.type.tensor_type.elem_type = FLOAT
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == BF16:
                    attribute.i = FLOAT
                widen(attribute.g)

    model = onnx.load(path)
    widen(model.graph)
    onnx.save(model, f"{path}.wide")
    return f"{path}.wide"


def cosine(left: Any, right: Any) -> float:
    a, b = (np.asarray(each, np.float64).ravel() for each in (left, right))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def graph_model(
    nodes: Sequence[Any],
    weights: dict[str, Any],
    shape: Sequence[Any] = ("n", 4),
    outputs: Sequence[str] = ("y",),
) -> Any:
    """``x`` float32 through nodes to float32 outputs of unknown shapes."""
    graph = helper.make_graph(
        list(nodes),
        "made",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def types_of(path: str) -> dict[str, int]:
    """The element types of all values in the main graph."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def weight(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# -- int8 and fp8 between float16 ----------------------------------------------------------------


def test_the_recipes_are_symmetric_and_say_what_is_between_the_products() -> None:
    assert recipe("qdq-fp16").params == (
        ("activations", "int8"),
        ("calibration", "minmax"),
        ("operators", "Conv,Gemm,MatMul"),
        ("opset", "21"),
        ("per_channel", "yes"),
        ("portable", "yes"),
        ("reduce_range", "no"),
        ("rest", "fp16"),
        ("symmetric", "yes"),
        ("weights", "int8"),
    )
    fp8 = dict(recipe("fp8").params)
    assert (fp8["activations"], fp8["weights"], fp8["per_channel"]) == ("fp8", "fp8", "no")
    for name in ("qdq-fp16", "fp8"):
        with pytest.raises(UnsupportedError, match=f"{name} is symmetric"):
            recipe(name, symmetric=False)
    with pytest.raises(UnsupportedError, match="fp8 has no 7-bit weights"):
        recipe("fp8", reduce_range=True)


@pytest.mark.parametrize(("name", "packed"), [("qdq-fp16", "INT8"), ("fp8", "FLOAT8E4M3FN")])
def test_only_what_products_read_is_quantized_and_the_rest_is_float16(
    name: str, packed: str, tmp_path: Path
) -> None:
    path, notes = made(name, trt_models.mobile(), tmp_path)
    graph = onnx.load(path).graph
    types = types_of(path)
    pairs = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    readers = {
        node.op_type for pair in pairs for node in graph.node if set(pair.output) & set(node.input)
    }
    assert readers == {"Conv", "Gemm", "Add"}  # a sum reads what a product beside it does
    assert {types[pair.input[2]] for pair in pairs} == {TensorProto.DataType.Value(packed)}
    assert {types[pair.input[1]] for pair in pairs} == {TensorProto.FLOAT16}
    assert FLOAT not in {tensor.data_type for tensor in graph.initializer}
    assert {types[node.output[0]] for node in graph.node if node.op_type == "Conv"} == {
        TensorProto.FLOAT16
    }
    assert not any("fp32" in note for note in notes)


@pytest.mark.parametrize(("name", "least"), [("qdq-fp16", 0.995), ("fp8", 0.97), ("bf16", 0.999)])
@pytest.mark.parametrize("model", ["cnn", "mobile", "transformer", "recurrent", "branching"])
def test_outputs_are_near_those_of_float32(
    model: str, name: str, least: float, tmp_path: Path
) -> None:
    (case,) = trt_models.made(tmp_path, [model])
    out = str(tmp_path / "out.onnx")
    variants.make(recipe(name), str(case.path), out, case.calibration())
    onnx.checker.check_model(out, full_check=True)
    feed = list(case.calibration(9).feeds())[-1]
    (wanted,) = run(str(case.path), feed)
    if name == "bf16":
        assert cosine(run(widened(out), feed)[0], wanted) > 0.9999
        (got,) = ReferenceEvaluator(out).run(None, dict(feed))
    else:
        (got,) = run(out, feed)
    assert got.dtype == np.float32
    assert cosine(got, wanted) > least
    assert not np.array_equal(got, wanted)


@pytest.mark.parametrize("name", PRECISIONS)
def test_digits_are_told_as_well_as_by_float32(name: str, tmp_path: Path) -> None:
    data = np.load(DEMO / "digits.npz")
    images, labels = data["image"].astype(np.float32), data["labels"]
    samples = models.MemoryCalibration([{"image": images[n : n + 1]} for n in range(64)])
    out = str(tmp_path / "out.onnx")
    variants.make(recipe(name), str(DEMO / "digits.onnx"), out, samples)
    feed = {"image": images[64:264]}
    scores = ReferenceEvaluator(out).run(None, feed)[0] if name == "bf16" else run(out, feed)[0]
    reference = run(str(DEMO / "digits.onnx"), feed)[0]
    right, before = (np.mean(each.argmax(axis=1) == labels[64:264]) for each in (scores, reference))
    assert right >= before - 0.01


def test_excluded_layers_stay_in_float16(tmp_path: Path) -> None:
    path, notes = made("qdq-fp16", trt_models.cnn(), tmp_path, exclude=("conv_3",))
    assert "2 of 3 Conv quantized" in notes
    assert "1 nodes kept in fp16: conv_3" in notes
    (conv,) = (node for node in onnx.load(path).graph.node if node.name == "conv_3")
    types = types_of(path)
    assert types[conv.input[1]] == TensorProto.FLOAT16


def test_recovery_quantizes_such_a_recipe_as_it_is_made(tmp_path: Path) -> None:
    source = tmp_path / "source.onnx"
    onnx.save(trt_models.cnn(), source)
    params = dict(recipe("qdq-fp16").params)
    feeds = list(models.random_calibration(models.model_specs(trt_models.cnn())[0]).feeds())
    out, oldest = str(tmp_path / "out.onnx"), quantized.oldest_opset(params)
    with quantized.prepared_model(str(source), out, large=False, oldest=oldest) as (prepared, _):
        ranges = search.inmemory.find_ranges(prepared, params, feeds)
        found = search.inmemory.quantized(onnx.load(prepared), params, ranges, exclude=["conv_3"])
    pairs = [n for n in onnx.load_from_string(found).graph.node if n.op_type == "QuantizeLinear"]
    path, _ = made("qdq-fp16", trt_models.cnn(), tmp_path, exclude=("conv_3",))
    kept = [n for n in onnx.load(path).graph.node if n.op_type == "QuantizeLinear"]
    assert {node.output[0] for node in pairs} == {node.output[0] for node in kept}


def conv_chain(*kernels: tuple[int, ...]) -> Any:
    """Convolutions of weights of these shapes, one after the other."""
    names = ["x", *(f"c{n}" for n in range(len(kernels) - 1)), "y"]
    nodes = [
        helper.make_node(
            "Conv",
            [names[n], f"w{n}"],
            [names[n + 1]],
            f"conv{n}",
            pads=[size // 2 for size in shape[2:]] * 2,
            group=max(1, 16 // shape[1]) if shape[0] == 16 else 1,
        )
        for n, shape in enumerate(kernels)
    ]
    weights = {f"w{n}": weight(*shape, seed=n) * 0.1 for n, shape in enumerate(kernels)}
    return graph_model(nodes, weights, ("n", kernels[0][1], 12, 12))


def test_fp8_leaves_convolutions_that_no_kernel_of_it_takes(tmp_path: Path) -> None:
    chain = ((16, 16, 3, 3), (16, 1, 3, 3), (16, 16, 5, 5), (16, 16, 7, 7), (8, 16, 1, 1))
    _, notes = made("fp8", conv_chain(*chain), tmp_path)
    assert "2 of 5 Conv quantized" in notes
    assert "3 nodes kept in fp16: conv1, conv3, conv4" in notes
    _, notes = made("qdq-fp16", conv_chain(*chain), tmp_path)
    assert "5 of 5 Conv quantized" in notes


def test_the_largest_weight_is_the_largest_of_float8(tmp_path: Path) -> None:
    model = graph_model([helper.make_node("MatMul", ["x", "w"], ["y"], "m")], {"w": weight(4, 64)})
    path, _ = made("fp8", model, tmp_path)
    graph = onnx.load(path).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (pair,) = (
        node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in held
    )
    largest = np.abs(held[pair.input[0]]).max() / held[pair.input[1]]
    assert largest == pytest.approx(448, rel=2e-3)


@pytest.mark.parametrize("place", ["graph", "branch", "function"])
@pytest.mark.parametrize("name", ["qdq-fp16", "fp8"])
def test_a_model_that_is_quantized_already_is_refused(
    name: str, place: str, tmp_path: Path
) -> None:
    """Its own pairs would be taken for ours, and fp8's ranges be written over theirs."""
    node = helper.make_node
    pair = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
    ]
    out = helper.make_tensor_value_info("d", FLOAT, None)
    branch = helper.make_graph(pair, "branch", [], [out])
    held = [node("If", ["yes"], ["d"], then_branch=branch, else_branch=branch)]
    called = [node("Paired", ["x", "scale", "zero"], ["d"], domain="local")]
    nodes = {"graph": pair, "branch": held, "function": called}[place]
    weights = {"scale": np.float32(4 / 255), "zero": np.uint8(0), "yes": np.True_}
    product = node("MatMul", ["d", "w"], ["y"])
    model = graph_model([*nodes, product], {**weights, "w": weight(4, 64)})
    if place == "function":
        opsets = [helper.make_opsetid("", 17)]
        model.opset_import.append(helper.make_opsetid("local", 1))
        model.functions.append(
            helper.make_function("local", "Paired", ["x", "scale", "zero"], ["d"], pair, opsets)
        )
    with pytest.raises(UnsupportedError, match="quantized already"):
        made(name, model, tmp_path)


def test_quantized_products_are_not_told_to_be_float16(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"], "m")]
    alone = graph_model(nodes, {"w": weight(4, 64)}, outputs=("p",))
    _, notes = made("qdq-fp16", alone, tmp_path)
    assert notes == ("opset 17 converted to 21", "1 of 1 MatMul quantized")
    nodes += [helper.make_node("Tanh", ["p"], ["t"]), helper.make_node("Max", ["t", "p"], ["y"])]
    _, notes = made("qdq-fp16", graph_model(nodes, {"w": weight(4, 64)}), tmp_path)
    assert notes[2:] == ("1 of 2 nodes converted to fp16", "1 nodes kept in fp32: 1 Max")


# -- bfloat16 ------------------------------------------------------------------------------------


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_weights_are_rounded_to_8_bits_and_stay_finite(values: list[float]) -> None:
    given_values = np.array(values, np.float32)
    tensor = numpy_helper.from_array(given_values, "w")
    bf16.clip(tensor)
    low = numpy_helper.to_array(bf16.lowered(tensor, "low")).astype(np.float32)
    assert np.array_equal(np.isfinite(low), np.isfinite(given_values))
    normal = np.isfinite(given_values) & (np.abs(given_values) > 1e-37)
    error = np.abs(low[normal].astype(np.float64) - given_values[normal])
    assert np.all(error <= np.abs(given_values[normal].astype(np.float64)) * 2**-8)


def test_everything_between_is_bfloat16_and_the_ends_are_float32(tmp_path: Path) -> None:
    path, notes = made("bf16", trt_models.transformer(), tmp_path)
    graph = onnx.load(path).graph
    types = types_of(path)
    assert {types[value.name] for value in (*graph.input, *graph.output)} == {INT64, FLOAT}
    assert FLOAT not in {tensor.data_type for tensor in graph.initializer}
    casts = [node for node in graph.node if node.op_type == "Cast"]
    assert [cast.output[0] for cast in casts] == ["scores"]
    assert notes[0] == "opset 17 converted to 22"
    assert notes[1].endswith("nodes of floats converted to bf16")
    sizes = {
        name: sum(len(tensor.raw_data) for tensor in onnx.load(each).graph.initializer)
        for name, each in (("bf16", path), ("fp32", tmp_path / "source.onnx"))
    }
    assert sizes["bf16"] < 0.51 * sizes["fp32"]


def test_sizes_and_positions_stay_in_float32(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Mul", ["x", "w"], ["scaled"]),
        node("Shape", ["x"], ["shape"]),
        node("Cast", ["shape"], ["floats"], to=FLOAT),
        node("Mul", ["floats", "twice"], ["larger"]),
        node("Cast", ["larger"], ["size"], to=INT64),
        node("Slice", ["size", "one", "two"], ["length"]),
        node("Squeeze", ["length", "zero"], ["end"]),
        node("Range", ["start", "end", "step"], ["positions"]),
        node("Cast", ["positions"], ["y2"], to=FLOAT),
        node("Identity", ["scaled"], ["y"]),
    ]
    counts = {"one": [1], "two": [2], "zero": [0]}
    weights: dict[str, Any] = {name: np.array(value, np.int64) for name, value in counts.items()}
    weights |= {"start": np.int64(0), "step": np.int64(1)}
    weights |= {"twice": np.float32(2), "w": weight(301)}
    model = graph_model(nodes, weights, ("n", 301), ("y", "y2"))
    path, notes = made("bf16", model, tmp_path)
    feed = {"x": np.ones((1, 301), np.float32)}
    got, positions = ReferenceEvaluator(path).run(None, feed)
    assert np.array_equal(positions, np.arange(602))
    assert cosine(got, weights["w"]) > 0.9999
    assert "4 nodes kept in fp32: 3 Cast, 1 Mul" in notes


def test_a_mask_of_the_least_float_stays_finite(tmp_path: Path) -> None:
    least = np.finfo(np.float32).min
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("Add", ["scores", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["y"]),
    ]
    mask = np.full(4, least, np.float32)
    path, _ = made("bf16", graph_model(nodes, {"w": weight(4, 4), "mask": mask}), tmp_path)
    (got,) = ReferenceEvaluator(path).run(None, {"x": np.ones((2, 4), np.float32)})
    assert np.isfinite(got).all()


def test_a_recurrence_that_stays_reads_no_cast(tmp_path: Path) -> None:
    path, notes = made("bf16", trt_models.recurrent(), tmp_path)
    graph = onnx.load(path).graph
    makers = {name: node for node in graph.node for name in node.output}
    (gru,) = (node for node in graph.node if node.op_type == "GRU")
    assert makers[gru.input[0]].op_type == "Add"
    assert "1 nodes kept in fp32: 1 GRU" in notes


def test_weights_and_outputs_are_there_in_each_type_that_is_wanted(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Constant", [], ["shift"], value=numpy_helper.from_array(weight(4, seed=3))),
        node("Constant", [], ["half"], value_float=0.5),
        node("Mul", ["x", "half"], ["halved"]),
        node("Add", ["halved", "shift"], ["moved"]),
        node("CumSum", ["moved", "axis"], ["summed"]),
        node("CumSum", ["shift", "axis0"], ["line"]),
        node("ConstantOfShape", ["four"], ["zeros"]),
        node("Add", ["summed", "line"], ["added"]),
        node("Add", ["added", "zeros"], ["y"]),
        node("Relu", ["y"], ["rectified"]),
        node("Identity", ["shift"], ["same"]),
    ]
    weights = {"axis": np.int64(1), "axis0": np.int64(0), "four": np.array([4], np.int64)}
    outputs = ("y", "rectified", "summed", "same", "moved")
    model = graph_model(nodes, weights, outputs=outputs)
    path, _ = made("bf16", model, tmp_path)
    feed = {"x": weight(3, 4, seed=9)}
    wanted = run(str(tmp_path / "source.onnx"), feed)
    for got, near in zip(ReferenceEvaluator(path).run(None, feed), wanted, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, near, rtol=0.02, atol=0.03)
    held = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert (held["shift"], held["shift/bf16"]) == (FLOAT, BF16)
    assert "half" not in held


def test_a_weight_that_is_an_output_and_a_factor_is_there_once_by_each_name(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("CumSum", ["w", "axis"], ["summed"]),
    ]
    weights = {"w": weight(4, 4), "axis": np.int64(0)}
    path, _ = made("bf16", graph_model(nodes, weights, outputs=("y", "w", "summed")), tmp_path)
    held = [(tensor.name, tensor.data_type) for tensor in onnx.load(path).graph.initializer]
    assert sorted(held) == [("axis", INT64), ("w/bf16", BF16), ("w/fp32", FLOAT)]
    _, same, _ = run(widened(path), {"x": weight(3, 4, seed=9)})
    assert np.array_equal(same, weights["w"])


def test_branches_give_bfloat16_even_of_constants(tmp_path: Path) -> None:
    def branch(name: str, *nodes: Any) -> Any:
        out = helper.make_tensor_value_info(f"{name}_out", FLOAT, None)
        return helper.make_graph(list(nodes), name, [], [out])

    node = helper.make_node
    constant = numpy_helper.from_array(weight(1, 4, seed=2))
    nodes = [
        node("MatMul", ["x", "w"], ["product"]),
        node("ReduceMax", ["product"], ["most"], keepdims=0),
        node("Greater", ["most", "zero"], ["which"]),
        node(
            "If",
            ["which"],
            ["chosen"],
            then_branch=branch("yes", node("CumSum", ["product", "axis"], ["yes_out"])),
            else_branch=branch("no", node("Constant", [], ["no_out"], value=constant)),
        ),
        node("Add", ["chosen", "product"], ["y"]),
    ]
    weights = {"w": weight(4, 4), "zero": np.float32(0), "axis": np.int64(1)}
    path, notes = made("bf16", graph_model(nodes, weights), tmp_path)
    for sign in (1, -1):
        feed = {"x": sign * np.array([[3, 0.1, 0.2, 0.3]], np.float32)}
        (wanted,) = run(str(tmp_path / "source.onnx"), feed)
        (got,) = run(widened(path), feed)
        np.testing.assert_allclose(got, wanted, rtol=0.02, atol=0.03)
    assert "1 nodes kept in fp32: 1 CumSum" in notes


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([helper.make_node("Relu", ["x"], ["y"])], "no float32 weights"),
        (
            [
                helper.make_node("Strange", ["x"], ["made"], domain="made.up"),
                helper.make_node("Relu", ["made"], ["y"]),
            ],
            "can't tell the type of made, which Strange computes",
        ),
    ],
)
def test_what_can_not_become_bfloat16_is_refused(
    nodes: list[Any], told: str, tmp_path: Path
) -> None:
    model = graph_model(nodes, {})
    model.opset_import.append(helper.make_opsetid("made.up", 1))
    with pytest.raises(UnsupportedError, match=told):
        made("bf16", model, tmp_path)


def test_large_weights_are_beside_the_file(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(files, "LARGE_BYTES", 1000)
    for name in PRECISIONS:
        path, _ = made(name, trt_models.cnn(), tmp_path)
        assert Path(f"{path}.data").is_file()
        assert Path(path).stat().st_size < 100_000


# -- engines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model", "layers", "most"),
    [
        ("bf16", "mobile", {"bf16"}, 0.51),
        ("bf16", "recurrent", {"bf16", "fp32"}, 0.6),
        ("qdq-fp16", "mobile", {"int8"}, 0.34),
        ("qdq-fp16", "transformer", {"int8"}, 0.3),
        ("fp8", "cnn", {"fp8", "fp16"}, 0.26),
        ("fp8", "transformer", {"fp8"}, 0.3),
    ],
)
def test_engines_multiply_in_the_types_of_the_file(
    name: str, model: str, layers: set[str], most: float, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    from backends import enginefile
    from backends.trt import BACKEND
    from backends.trt.about import About

    (case,) = trt_models.made(tmp_path, [model])

    def built(path: str, precision: Precision, recipe_name: str) -> Any:
        (tmp_path / recipe_name).mkdir()
        request = BuildRequest(
            path,
            precision,
            recipe_name,
            "gpu:0",
            options=(("library", "tensorrt_rtx"),),
            profiles=(case.profile(),),
            compute_capability="8.9",
        )
        return enginefile.beside(About, BACKEND.build(request, str(tmp_path / recipe_name)))

    out = str(tmp_path / "out.onnx")
    variants.make(recipe(name), str(case.path), out, case.calibration())
    found = built(out, PRECISIONS[name], name)
    plain = built(str(case.path), Precision.FP32, "source")
    assert {share.name for share in found.layers} == layers
    assert found.weights_bytes < most * plain.weights_bytes
