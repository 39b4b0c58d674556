"""Known traps of quantization tools: each sprung here, and what keeps a user out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends.ort import BACKEND as ORT
from backends.ort.openings import opening
from backends.ov import BACKEND as OV
from harness import testing_models as models
from harness import variants
from harness.backend import BuildRequest
from harness.errors import UnsupportedError
from harness.runner import silently_replaced
from harness.types import Candidate, Executed, Precision, Settings, Share

SINGLE = Settings(threads=1)
ON_CPU = ["CPUExecutionProvider"]


def product_model(inner: int, outer: int = 16, bias: tuple[int, ...] = ()) -> Any:
    """``x`` float32 [n, inner] through one product, a Gemm where there is a bias."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(inner, outer)).astype(np.float32)}
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    if bias:
        weights["b"] = rng.normal(size=bias).astype(np.float32)
        node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="product")
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inner])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outer])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def made(name: str, precision: Precision, model: Any, folder: Path) -> str:
    """The variant's path."""
    source, out = str(folder / "source.onnx"), str(folder / f"{name}.onnx")
    onnx.save(model, source)
    inputs, _ = models.model_specs(model)
    recipe = variants.resolve(name, precision, isa=frozenset(), device="cpu")
    variants.make(recipe, source, out, models.random_calibration(inputs))
    return out


def what_ran(backend: Any, model: str, precision: Precision, recipe: str, folder: Path) -> Executed:
    folder.mkdir()
    engine = backend.build(BuildRequest(model, precision, recipe, "cpu"), str(folder))
    session = backend.open(engine, "cpu", SINGLE)
    executed: Executed = session.executed
    session.close()
    return executed


@pytest.mark.parametrize("recipe", ["qdq", "qdq-all", "qdq-portable"])
def test_a_bias_with_an_axis_too_many_is_quantized_by_channel(recipe: str, tmp_path: Path) -> None:
    """ONNX Runtime's quantizer alone fails on it: it takes the bias for a vector."""
    model = product_model(32, bias=(1, 16))
    path = made(recipe, Precision.INT8, model, tmp_path)
    feed = models.random_feed(models.model_specs(model)[0], batch=4)
    got, want = (
        onnxruntime.InferenceSession(file, providers=ON_CPU).run(None, feed)[0]
        for file in (path, str(tmp_path / "source.onnx"))
    )
    assert np.abs(got - want).max() < 0.05 * np.abs(want).max()


def test_int8_that_was_asked_for_and_did_not_run_is_told(tmp_path: Path) -> None:
    """OpenVINO unpacks weights for good where blocks don't divide a row: then fp32 runs."""
    pytest.importorskip("onnx_ir")
    pytest.importorskip("openvino")
    precision = Precision.INT8_WEIGHTS
    candidate = Candidate("openvino", precision, "weights", "cpu")
    told = []
    for inner in (64, 40):
        folder = tmp_path / str(inner)
        folder.mkdir()
        path = made("weights", precision, product_model(inner), folder)
        ran = what_ran(OV, path, precision, "weights", folder / "engine")
        told.append(silently_replaced(candidate, ran))
    assert told[0] is None
    assert "asked for int8-weights, but the compute operations ran: 1 in fp32" in str(told[1])


@pytest.mark.parametrize(
    ("precision", "ran", "replaced"),
    [
        (Precision.INT8, "int8", False),
        (Precision.INT8, "fp32", True),
        (Precision.INT8_DYNAMIC, "int8", False),
        (Precision.INT8_WEIGHTS, "int8", True),
        (Precision.INT8_WEIGHTS, "int8-weights", False),
        (Precision.INT4_WEIGHTS, "int8-weights", True),
    ],
)
def test_weights_alone_are_not_taken_for_products(
    precision: Precision, ran: str, replaced: bool
) -> None:
    executed = Executed((Share("cpu", 1),), (Share(ran, 1),))
    assert bool(silently_replaced(Candidate("a", precision, "r", "cpu"), executed)) == replaced


def test_of_an_engine_as_it_is_only_the_device_is_asked() -> None:
    candidate = Candidate("a", Precision.AS_IS, "m.engine", "gpu:0")
    ran = Executed((Share("gpu", 1),), (Share("int8", 1), Share("fp16", 2)))
    assert silently_replaced(candidate, ran) is None
    elsewhere = Executed((Share("cpu", 1),), ran.precisions)
    assert "asked for gpu:0" in str(silently_replaced(candidate, elsewhere))


def test_a_q_dq_model_whose_pairs_do_not_meet_runs_in_fp32_and_says_so(tmp_path: Path) -> None:
    """Weights alone in Q/DQ form: a smaller file, and no product in int8."""
    model = product_model(32)
    path = made("qdq", Precision.INT8, model, tmp_path)
    quantized = onnx.load(path)
    product = next(node for node in quantized.graph.node if node.op_type == "MatMul")
    product.input[0] = "x"  # past the activation's pair
    onnx.save(quantized, path)
    ran = what_ran(ORT, path, Precision.INT8, "qdq", tmp_path / "engine")
    assert "asked for int8" in str(
        silently_replaced(Candidate("onnxruntime", Precision.INT8, "qdq", "cpu"), ran)
    )


def test_nncf_can_return_fp32_and_it_is_refused(tmp_path: Path) -> None:
    """Its accuracy control gives up quantizer by quantizer, to the last, and says nothing."""
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    from backends.ov import build, compression
    from backends.ov.runtime import quiet

    onnx.save(models.mlp_model(), tmp_path / "source.onnx")
    model = openvino.Core().read_model(str(tmp_path / "source.onnx"))
    nncf = compression._nncf()
    inputs, _ = models.model_specs(str(tmp_path / "source.onnx"))
    feeds = [models.random_feed(inputs, seed=seed) for seed in range(8)]
    calls: list[int] = []

    def score(_: Any, rows: Any) -> tuple[float, list[float]]:
        """Perfect for the original, which is tried on one sample and then on all; else nothing."""
        calls.append(len(list(rows)))
        value = float(len(calls) <= 2)
        return value, [value] * calls[-1]

    with quiet():
        dataset = nncf.Dataset(feeds)
        model = nncf.quantize_with_accuracy_control(
            model, dataset, dataset, score, max_drop=0.01, subset_size=len(feeds)
        )
    assert not any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
    with pytest.raises(UnsupportedError, match="nothing in the model was quantized"):
        build._quantized(model)


def test_nncfs_packed_onnx_is_refused_by_onnx_runtime_and_ours_is_not(tmp_path: Path) -> None:
    nncf = pytest.importorskip("nncf")
    pytest.importorskip("onnx_ir")
    model = product_model(64)
    packed = nncf.compress_weights(
        model, mode=nncf.CompressWeightsMode.INT4_ASYM, group_size=32, all_layers=True
    )
    onnx.save(packed, tmp_path / "nncf.onnx")
    with pytest.raises(Exception, match="zero_points initializer shape"):
        onnxruntime.InferenceSession(str(tmp_path / "nncf.onnx"), providers=ON_CPU)
    path = made("weights", Precision.INT4_WEIGHTS, product_model(64), tmp_path)
    onnxruntime.InferenceSession(path, providers=ON_CPU)


def test_onnx_runtime_is_not_made_exact_by_its_costly_switch() -> None:
    """``session.x64quantprecision`` costs a quarter to a half: 7-bit weights cost nothing."""
    entries = opening("cpu", SINGLE, ON_CPU, (1, 32)).entries
    assert "session.x64quantprecision" not in dict(entries)


def test_dynamic_weights_keep_their_8_bits_where_products_saturate() -> None:
    """The eighth bit costs a transformer more than saturation does."""
    recipe = variants.resolve(
        "dynamic", Precision.INT8_DYNAMIC, isa=frozenset({"avx2"}), device="cpu"
    )
    assert dict(recipe.params)["reduce_range"] == "no"
