"""Shared variants: real conversions of tiny models, judged by what their files and outputs are."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness import testing_models as models
from harness import variants
from harness.backend import Feed
from harness.errors import BackendError, UnavailableError, UnsupportedError
from harness.modelfile import inspect
from harness.types import FLOOR, Precision
from harness.variants import files

VNNI = frozenset({"avx2", "avx512_vnni"})
AVX2 = frozenset({"avx2"})

PRECISIONS = {
    "fp16": Precision.FP16,
    "bf16": Precision.BF16,
    "qdq": Precision.INT8,
    "qdq-all": Precision.INT8,
    "qdq-portable": Precision.INT8,
    "qdq-fp16": Precision.INT8,
    "fp8": Precision.FP8,
    "dynamic": Precision.INT8_DYNAMIC,
    "weights": Precision.INT8_WEIGHTS,
}
NEEDS = {"weights": "onnx_ir"}
"""Packages that a recipe needs beside those of the project."""
NOT_FOR_CPUS = ("bf16",)
"""Recipes whose files no runtime here runs; see test_variants_gpu."""


def recipe(
    name: str,
    isa: frozenset[str] = VNNI,
    device: str = "cpu",
    saturates: bool | None = None,
    **wishes: Any,
) -> variants.Recipe:
    return variants.resolve(
        name,
        PRECISIONS[name],
        isa=isa,
        device=device,
        wishes=variants.Wishes(**wishes),
        saturates=saturates,
    )


def write(model: Any, folder: Path, *, external: bool = False) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = str(folder / "model.onnx")
    if external:
        onnx.save_model(
            model, path, save_as_external_data=True, location="weights.bin", size_threshold=0
        )
    else:
        onnx.save(model, path)
    return path


def made(
    name: str, source: str, out: Path, isa: frozenset[str] = VNNI, **wishes: Any
) -> tuple[str, ...]:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    inputs, _ = models.model_specs(onnx.load(source))
    out.parent.mkdir(parents=True, exist_ok=True)
    samples = models.random_calibration(inputs)
    return variants.make(recipe(name, isa, **wishes), source, str(out), samples)


def outputs(path: str, feed: Feed) -> list[np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed)))


def cosine(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    a, b = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def attention_model() -> Any:
    """Tokens through one block of self-attention: products of activations, softmax, layer norm."""
    rng = np.random.default_rng(5)
    width, length = 16, 6
    weights = {name: rng.normal(size=(width, width)) * 0.3 for name in ("wq", "wk", "wv", "wo")}
    weights |= {"scale": np.array(0.25), "gain": np.ones(width), "shift": np.zeros(width)}
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q"], name="query"),
        helper.make_node("MatMul", ["x", "wk"], ["k"], name="key"),
        helper.make_node("MatMul", ["x", "wv"], ["v"], name="value"),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], name="scores"),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["weighting"], axis=-1),
        helper.make_node("MatMul", ["weighting", "v"], ["mixed"], name="mixed"),
        helper.make_node("MatMul", ["mixed", "wo"], ["projected"], name="out"),
        helper.make_node("Add", ["projected", "x"], ["residual"]),
        helper.make_node("LayerNormalization", ["residual", "gain", "shift"], ["y"], axis=-1),
    ]
    shape = ["batch", length, width]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def single_node_model(
    op: str, *, domain: str = "", opset: int = 17, weight: Sequence[int] | None = None
) -> Any:
    """``x`` float32 [n, 4] through one operator, with a weight of ones if asked."""
    initial = []
    if weight is not None:
        initial = [numpy_helper.from_array(np.ones(weight, np.float32), "w")]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *(t.name for t in initial)], ["y"], domain=domain)],
        "single",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        initial,
    )
    imports = [helper.make_opsetid("", opset)]
    if domain:
        imports.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


BUILDERS: dict[str, Callable[[], Any]] = {**models.MODELS, "attention": attention_model}


@pytest.fixture(autouse=True)
def _silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


# -- resolve -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("isa", "device", "reduced"),
    [
        (set(), "cpu", "yes"),
        ({"avx2", "avx512f"}, "cpu", "yes"),
        ({"avx2", "avx512_vnni"}, "cpu", "no"),
        ({"avx_vnni"}, "cpu", "no"),
        ({"amx_int8"}, "cpu", "no"),
        ({"neon", "neon_dotprod"}, "cpu", "no"),
        ({"neon"}, "cpu", "yes"),
        ({"avx2"}, "gpu:0", "no"),
        ({"avx2"}, "hetero:gpu,cpu", "yes"),
    ],
)
def test_reduce_range_is_for_cpus_that_saturate(isa: set[str], device: str, reduced: str) -> None:
    resolved = recipe("qdq", frozenset(isa), device)
    assert dict(resolved.params)["reduce_range"] == reduced


def test_resolving_is_pure_and_hashable() -> None:
    assert recipe("qdq", AVX2) == recipe("qdq", frozenset())
    assert recipe("qdq", AVX2) != recipe("qdq", VNNI)
    assert len({recipe(name) for name in variants.SHARED}) == len(variants.SHARED)
    assert variants.resolve("source", Precision.FP32, isa=AVX2, device="cpu") == variants.Recipe(
        "source"
    )


@pytest.mark.parametrize(("measured", "reduced"), [(True, "yes"), (False, "no")])
@pytest.mark.parametrize("isa", [AVX2, VNNI])
def test_what_was_measured_goes_before_the_instruction_set(
    measured: bool, reduced: str, isa: frozenset[str]
) -> None:
    for name in ("qdq", "qdq-all", "qdq-portable"):
        resolved = recipe(name, isa, saturates=measured)
        assert dict(resolved.params)["reduce_range"] == reduced


def test_wishes_go_before_what_suits_the_host() -> None:
    wishes: dict[str, Any] = {
        "calibration": "percentile",
        "per_channel": False,
        "symmetric": True,
        "reduce_range": True,
        "include": ("MatMul", "Conv"),
        "exclude": ("b, c", "a"),
    }
    assert recipe("qdq", VNNI, **wishes).params == (
        ("activations", "uint8"),
        ("calibration", "percentile"),
        ("exclude", '["a", "b, c"]'),
        ("operators", "Conv,MatMul"),
        ("per_channel", "no"),
        ("percentile", "99.99"),
        ("portable", "no"),
        ("reduce_range", "yes"),
        ("symmetric", "yes"),
        ("weights", "int8"),
    )
    dynamic = dict(recipe("dynamic", AVX2, per_channel=True, reduce_range=True).params)
    assert (dynamic["per_channel"], dynamic["reduce_range"]) == ("yes", "yes")
    assert recipe("fp16", **wishes) == recipe("fp16")


def test_wishes_that_a_recipe_can_not_meet_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="qdq-portable is symmetric"):
        recipe("qdq-portable", symmetric=False)
    with pytest.raises(UnsupportedError, match="qdq-all takes no choice of operators"):
        recipe("qdq-all", include=("Conv",))


def test_a_backends_own_recipe_gets_the_wishes_as_they_are() -> None:
    wishes = variants.Wishes(calibration="entropy", symmetric=True, exclude=("x",))
    assert variants.own("nncf", Precision.INT8, wishes, saturates=False).params == (
        ("calibration", "entropy"),
        ("exclude", '["x"]'),
        ("saturates", "no"),
        ("symmetric", "yes"),
    )
    nothing = variants.Wishes()
    assert variants.own("nncf", Precision.INT8, nothing, saturates=None).params == ()
    for name, precision in (("source", Precision.INT8), ("tuned", Precision.FP16)):
        assert variants.own(name, precision, wishes, saturates=True) == variants.Recipe(name)


@pytest.mark.parametrize(
    ("name", "precision"),
    [("nonsense", Precision.INT8), ("qdq", Precision.FP16), ("fp16", Precision.FP32)],
)
def test_what_no_recipe_makes_is_refused(name: str, precision: Precision) -> None:
    with pytest.raises(UnsupportedError, match=name):
        variants.resolve(name, precision, isa=AVX2, device="cpu")


def test_the_parent_imports_no_vendor_package() -> None:
    code = (
        "import sys; from harness import variants; variants.tool_versions();"
        "print([n for n in ('onnx', 'onnxruntime') if n in sys.modules])"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_tool_versions_are_those_installed() -> None:
    found = dict(variants.tool_versions())
    assert found["onnx"] == onnx.__version__
    assert found["onnxruntime"] == onnxruntime.__version__


# -- make --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", BUILDERS)
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("fp16", 0.9999),
        ("qdq", 0.97),
        ("qdq-all", 0.97),
        ("qdq-portable", 0.97),
        ("qdq-fp16", 0.97),
        ("dynamic", 0.97),
        ("weights", 0.999),
    ],
)
def test_variants_are_valid_and_agree(model: str, name: str, least: float, tmp_path: Path) -> None:
    source = write(BUILDERS[model](), tmp_path / "source")
    out = tmp_path / "variant" / "out.onnx"
    notes = made(name, source, out)
    assert notes
    onnx.checker.check_model(str(out), full_check=True)
    assert models.model_specs(onnx.load(out)) == models.model_specs(onnx.load(source))
    inputs, _ = models.model_specs(onnx.load(source))
    feed = models.random_feed(inputs, batch=3, seed=7)
    for got, wanted in zip(outputs(str(out), feed), outputs(source, feed), strict=True):
        assert not np.array_equal(got, wanted), "the variant is the source itself"
        assert cosine(got, wanted) >= least
    assert [path.name for path in out.parent.iterdir()] == [out.name], "something was left behind"
    assert [path.name for path in (tmp_path / "source").iterdir()] == ["model.onnx"]


def test_static_notes_count_what_was_quantized(tmp_path: Path) -> None:
    source = write(models.conv_model(), tmp_path)
    notes = made("qdq", source, tmp_path / "out" / "v.onnx")
    assert notes == ("2 of 2 Conv quantized", "1 of 1 Gemm quantized")


def test_dynamic_notes_name_what_was_kept(tmp_path: Path) -> None:
    source = write(attention_model(), tmp_path)
    notes = made("dynamic", source, tmp_path / "out" / "v.onnx")
    # Products of two activations have no weight to quantize beforehand.
    assert notes == ("4 of 6 MatMul quantized", "2 nodes kept in fp32: scores, mixed")


def test_dynamic_leaves_convolutions_alone(tmp_path: Path) -> None:
    out = tmp_path / "out" / "v.onnx"
    notes = made("dynamic", write(models.conv_model(), tmp_path), out)
    found = [node.op_type for node in onnx.load(out).graph.node]
    assert found.count("Conv") == 2
    assert "ConvInteger" not in found
    assert notes == ("1 of 1 Gemm quantized",)


@pytest.mark.parametrize(("isa", "most"), [(AVX2, 64), (VNNI, 127)])
def test_reduce_range_takes_a_bit_from_the_weights(
    isa: frozenset[str], most: int, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "v.onnx"
    made("qdq", write(models.conv_model(), tmp_path), out, isa)
    weights = [
        numpy_helper.to_array(tensor).astype(int)
        for tensor in onnx.load(out).graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1
    ]
    assert len(weights) == 3
    assert most - 1 <= max(int(np.abs(weight).max()) for weight in weights) <= most


def qdq_parts(path: Path) -> tuple[list[Any], dict[str, Any]]:
    """Q/DQ nodes, and the weights by name."""
    graph = onnx.load(path).graph
    pairs = [node for node in graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    return pairs, {tensor.name: tensor for tensor in graph.initializer}


@pytest.mark.parametrize("model", BUILDERS)
def test_the_portable_file_has_nothing_that_tensorrt_refuses(model: str, tmp_path: Path) -> None:
    out = tmp_path / "out" / "v.onnx"
    made("qdq-portable", write(BUILDERS[model](), tmp_path), out)
    pairs, weights = qdq_parts(out)
    assert pairs
    for node in pairs:
        zero = numpy_helper.to_array(weights[node.input[2]])
        assert zero.dtype == np.int8  # no uint8, and no bias in int32
        assert not zero.any()
        assert node.input[0] not in weights or node.op_type == "QuantizeLinear"


def test_the_default_file_has_what_tensorrt_refuses(tmp_path: Path) -> None:
    """So the portable recipe is there for a reason."""
    out = tmp_path / "out" / "v.onnx"
    made("qdq", write(models.conv_model(), tmp_path), out)
    pairs, weights = qdq_parts(out)
    kinds = {weights[n.input[0]].data_type for n in pairs if n.input[0] in weights}
    zeros = [numpy_helper.to_array(weights[node.input[2]]) for node in pairs]
    assert TensorProto.INT32 in kinds
    assert any(zero.any() for zero in zeros)


@pytest.mark.parametrize("calibration", ["entropy", "percentile"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_calibrations_by_histogram(calibration: str, symmetric: bool, tmp_path: Path) -> None:
    source = write(models.conv_model(), tmp_path)
    for method in ("minmax", calibration):
        out = tmp_path / method / "v.onnx"
        made("qdq", source, out, calibration=method, symmetric=symmetric, percentile=99.0)
    inputs, _ = models.model_specs(onnx.load(source))
    feed = models.random_feed(inputs, batch=3, seed=7)
    (plain,), (got,), (wanted,) = (
        outputs(path, feed) for path in (str(tmp_path / "minmax/v.onnx"), str(out), source)
    )
    assert cosine(got, wanted) > 0.95
    assert not np.array_equal(got, plain)
    pairs, weights = qdq_parts(out)
    zeros = {int(z) for n in pairs if not (z := numpy_helper.to_array(weights[n.input[2]])).ndim}
    assert (zeros <= {0, 127, 128}) == symmetric


def test_ranges_are_those_of_all_samples(tmp_path: Path) -> None:
    """The quantizer's CalibMaxIntermediateOutputs would have kept those of the last ones only."""
    feeds = [{"features": np.full((1, 32), value, np.float32)} for value in (9.0, 1.0, 1.0, 1.0)]
    source, out = write(models.mlp_model(), tmp_path), tmp_path / "v.onnx"
    variants.make(recipe("qdq"), source, str(out), models.MemoryCalibration(feeds))
    pairs, weights = qdq_parts(out)
    scale = next(n.input[1] for n in pairs if n.input[0] == "features")
    assert float(numpy_helper.to_array(weights[scale])) == pytest.approx(9.0 / 255, rel=0.01)


def computes(path: Path) -> dict[str, bool]:
    """The values that convolutions and products compute, and whether in int8."""
    nodes = list(onnx.load(path).graph.node)
    dequantized = {name for n in nodes if n.op_type == "DequantizeLinear" for name in n.output}
    return {
        node.output[0].removesuffix("_QuantizeLinear_Input"): set(node.input[:2]) <= dequantized
        for node in nodes
        if node.op_type in {"Conv", "Gemm", "MatMul"}
    }


@pytest.mark.parametrize("name", ["qdq", "qdq-all", "qdq-portable"])
@pytest.mark.parametrize(
    ("exclude", "kept"),
    [
        (("conv_0",), {"c1"}),  # a node
        (("c2",), {"c2"}),  # a value
        (("relu_3",), set()),  # nothing that is worth quantizing
        (("Gemm",), {"scores"}),  # a type
        (("conv_0", "scores"), {"c1", "scores"}),
        (("Softmax",), set()),  # a type that isn't there
    ],
)
def test_excluded_layers_stay_in_floating_point(
    name: str, exclude: tuple[str, ...], kept: set[str], tmp_path: Path
) -> None:
    out = tmp_path / "out" / "v.onnx"
    made(name, write(models.conv_model(), tmp_path), out, exclude=exclude)
    assert {value for value, quantized in computes(out).items() if not quantized} == kept


def test_operators_without_weights_may_be_all_that_is_quantized(tmp_path: Path) -> None:
    source = write(models.conv_model(), tmp_path)
    notes = made("qdq", source, tmp_path / "v.onnx", include=("GlobalAveragePool",))
    assert "1 of 1 GlobalAveragePool quantized" in notes
    assert "0 of 1 Gemm quantized" in notes


def test_what_became_a_part_of_another_node_is_excluded_with_it(tmp_path: Path) -> None:
    """MatMul and Add become Gemm before quantization."""
    source = write(models.mlp_model(), tmp_path)
    for index, (exclude, kept) in enumerate(
        [(("matmul_0",), {"a1"}), (("m2",), {"scores"}), (("Add",), set()), (("a1",), {"a1"})]
    ):
        out = tmp_path / str(index) / "v.onnx"
        made("qdq", source, out, exclude=exclude)
        assert {value for value, quantized in computes(out).items() if not quantized} == kept
    with pytest.raises(UnsupportedError, match="nothing could be quantized"):
        made("qdq", source, tmp_path / "all" / "v.onnx", exclude=("MatMul",))
    assert made("dynamic", source, tmp_path / "d" / "v.onnx", exclude=("m2",)) == (
        "1 of 2 Gemm quantized",
        "1 nodes kept in fp32: matmul_3/MatMulAddFusion",
    )


def test_only_the_included_types_are_quantized(tmp_path: Path) -> None:
    source = write(models.conv_model(), tmp_path)
    for name in ("qdq", "qdq-portable"):
        out = tmp_path / name / "v.onnx"
        made(name, source, out, include=("Conv",))
        assert {value for value, quantized in computes(out).items() if not quantized} == {"scores"}
    attention = write(attention_model(), tmp_path / "attention")
    with pytest.raises(UnsupportedError, match="covers Gemm, and the model has none"):
        made("dynamic", attention, tmp_path / "d" / "v.onnx", include=("Gemm",))
    gemm = made("dynamic", source, tmp_path / "gemm" / "v.onnx", include=("Gemm",))
    assert gemm == ("1 of 1 Gemm quantized",)


def int4(**wishes: Any) -> variants.Recipe:
    return variants.resolve(
        "weights",
        Precision.INT4_WEIGHTS,
        isa=VNNI,
        device="cpu",
        wishes=variants.Wishes(**wishes),
    )


def test_weights_are_packed_by_blocks(tmp_path: Path) -> None:
    pytest.importorskip("onnx_ir")
    source = write(attention_model(), tmp_path)
    out = tmp_path / "out.onnx"
    notes = variants.make(int4(block_size=16), source, str(out), None)
    # Products of two activations have no weights.
    assert notes == ("4 of 6 MatMul quantized", "2 nodes kept in fp32: scores, mixed")
    packed = [node for node in onnx.load(out).graph.node if node.op_type == "MatMulNBits"]
    found = [{a.name: a.i for a in node.attribute} for node in packed]
    assert found == 4 * [{"K": 16, "N": 16, "bits": 4, "block_size": 16}]
    notes = variants.make(int4(exclude=("query", "projected")), source, str(out), None)
    assert notes[0] == "2 of 6 MatMul quantized"


def test_packed_weights_need_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    module = "onnxruntime.quantization.matmul_nbits_quantizer"
    monkeypatch.delitem(sys.modules, module, raising=False)
    source = write(models.mlp_model(), tmp_path)
    with pytest.raises(UnavailableError, match="needs the package onnx_ir") as caught:
        variants.make(int4(), source, str(tmp_path / "out.onnx"), None)
    assert caught.value.fix == "pip install onnx-ir"


def test_a_name_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    source = write(models.mlp_model(), tmp_path)
    with pytest.raises(UnsupportedError, match="no operator type, node or value is called 'm3'"):
        made("qdq", source, tmp_path / "out" / "v.onnx", exclude=("m3",))


def test_fp16_names_what_it_keeps_and_clips(tmp_path: Path) -> None:
    model = models.mlp_model()
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[0, :3] = 1e6
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w1"))
    assert "3 weights beyond the range of float16 were clipped" in made(
        "fp16", write(model, tmp_path), tmp_path / "out" / "v.onnx"
    )


def test_making_twice_gives_the_same_outputs(tmp_path: Path) -> None:
    source = write(models.conv_model(), tmp_path)
    inputs, _ = models.model_specs(onnx.load(source))
    feed = models.random_feed(inputs, batch=2)
    for name in set(variants.SHARED) - set(NEEDS) - set(NOT_FOR_CPUS):
        paths = [tmp_path / f"{name}{index}" / "v.onnx" for index in (0, 1)]
        for path in paths:
            made(name, source, path)
        left, right = (outputs(str(path), feed) for path in paths)
        np.testing.assert_array_equal(left[0], right[0])


@pytest.mark.parametrize("name", variants.SHARED)
def test_external_data_is_read_and_written(name: str, tmp_path: Path) -> None:
    embedded = write(models.mlp_model(), tmp_path / "embedded")
    source = write(models.mlp_model(), tmp_path / "source", external=True)
    out = tmp_path / "variant" / "v.onnx"
    notes = made(name, source, out)
    again = made(name, source, out)  # must replace the weights, not append to them
    assert notes == again
    assert notes == made(name, embedded, tmp_path / "plain" / "v.onnx")
    assert sorted(path.name for path in out.parent.iterdir()) == ["v.onnx", "v.onnx.data"]
    assert sorted(p.name for p in (tmp_path / "source").iterdir()) == ["model.onnx", "weights.bin"]
    if name in NOT_FOR_CPUS:
        return
    inputs, _ = models.model_specs(onnx.load(embedded))
    feed = models.random_feed(inputs, batch=2)
    np.testing.assert_allclose(
        outputs(str(out), feed)[0],
        outputs(str(tmp_path / "plain" / "v.onnx"), feed)[0],
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_model_beyond_the_limit_is_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(models.conv_model(), tmp_path)
    assert not files.is_large(source)
    monkeypatch.setattr(files, "LARGE_BYTES", 100)
    assert files.is_large(source)
    made("qdq", source, tmp_path / "out" / "v.onnx")
    assert (tmp_path / "out" / "v.onnx.data").is_file()


def test_an_old_opset_is_converted_for_quantization(tmp_path: Path) -> None:
    model = models.mlp_model()
    model.opset_import[0].version = 11  # its operators are the same there
    onnx.checker.check_model(model, full_check=True)
    source = write(model, tmp_path)
    out = tmp_path / "out" / "v.onnx"
    assert made("qdq", source, out)[0] == "opset 11 converted to 13"
    assert files.opset(onnx.load(out)) == 13


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize(("ir_version", "opset"), [(3, 8), (8, 17)])
@pytest.mark.parametrize("name", [FLOOR, *variants.SHARED])
def test_weights_that_are_inputs_too_become_constants(
    name: str, ir_version: int, opset: int, external: bool, tmp_path: Path
) -> None:
    model = models.conv_model()
    model.ir_version, model.opset_import[0].version = ir_version, opset
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(value)
    source = write(model, tmp_path, external=external)
    info = inspect(source)
    assert [each.name for each in info.inputs] == ["image"]
    samples, out = models.random_calibration(info.inputs), tmp_path / "out" / "v.onnx"
    out.parent.mkdir()
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    resolved = variants.Recipe(FLOOR) if name == FLOOR else recipe(name)
    notes = variants.make(resolved, source, str(out), samples)
    variant = onnx.load(out)
    assert [value.name for value in variant.graph.input] == ["image"]
    assert variant.ir_version >= 4
    if name in (FLOOR, *NOT_FOR_CPUS):
        return
    assert any(each.startswith(("1 of 1 Gemm", "7 of 7 nodes")) for each in notes)
    feed = models.random_feed(info.inputs, batch=2)
    assert cosine(outputs(str(out), feed)[0], outputs(source, feed)[0]) > 0.99


def test_without_sympy_shapes_are_inferred_by_onnx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.quantization import shape_inference

    real, skipped = shape_inference.quant_pre_process, []

    def without_sympy(*args: Any, skip_symbolic_shape: bool, **kwargs: Any) -> None:
        skipped.append(skip_symbolic_shape)
        if not skip_symbolic_shape:
            raise ImportError("sympy is required")
        real(*args, skip_symbolic_shape=True, **kwargs)

    monkeypatch.setattr(shape_inference, "quant_pre_process", without_sympy)
    notes = made("qdq", write(models.mlp_model(), tmp_path), tmp_path / "out" / "v.onnx")
    assert notes == ("2 of 2 Gemm quantized",)  # each MatMul and Add became one Gemm
    assert skipped == [False, True]


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model", "reason"),
    [
        ("dynamic", single_node_model("Relu"), "Gemm and MatMul, and the model has none"),
        ("weights", single_node_model("Relu"), "Gemm and MatMul, and the model has none"),
        ("qdq", single_node_model("Relu"), "nothing could be quantized"),
        ("fp16", single_node_model("Relu"), "no float32 weights"),
        ("qdq", single_node_model("Foo", domain="acme", weight=[4, 4]), "not a registered"),
    ],
)
def test_nothing_to_do_is_unsupported(name: str, model: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        made(name, write(model, tmp_path), tmp_path / "out" / "v.onnx")


def test_a_product_of_activations_alone_is_not_quantized_dynamically(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in "ab"],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(UnsupportedError, match="nothing could be quantized"):
        made("dynamic", write(model, tmp_path), tmp_path / "out" / "v.onnx")


@pytest.mark.parametrize("samples", [None, models.MemoryCalibration([])])
def test_static_needs_samples(samples: models.MemoryCalibration | None, tmp_path: Path) -> None:
    source = write(models.mlp_model(), tmp_path)
    with pytest.raises(BackendError, match="needs calibration samples"):
        variants.make(recipe("qdq"), source, str(tmp_path / "v.onnx"), samples)


def test_samples_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    source = write(models.mlp_model(), tmp_path)
    wrong = models.MemoryCalibration([{"features": np.zeros((1, 5), np.float32)}])
    with pytest.raises(BackendError, match="qdq failed"):
        variants.make(recipe("qdq"), source, str(tmp_path / "v.onnx"), wrong)


def test_the_source_is_not_made(tmp_path: Path) -> None:
    source = write(models.mlp_model(), tmp_path)
    with pytest.raises(UnsupportedError, match="source"):
        variants.make(variants.Recipe("source"), source, str(tmp_path / "v.onnx"), None)


def test_streams_and_logging_are_as_before_afterwards(tmp_path: Path) -> None:
    before = (logging.root.manager.disable, sys.stdout, sys.stderr)
    made("fp16", write(models.mlp_model(), tmp_path), tmp_path / "out" / "v.onnx")
    assert (logging.root.manager.disable, sys.stdout, sys.stderr) == before
