"""What OpenVINO's backend offers for a model that NNCF's plain int8 costs too much accuracy."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.ov import BACKEND, compression, control
from harness.backend import BuildRequest
from harness.errors import UnsupportedError
from harness.testing import MemoryCalibration
from harness.types import Engine, Precision, Settings

for package in ("openvino", "nncf"):
    if importlib.util.find_spec(package) is None:  # an import would send openvino's telemetry
        pytest.skip(f"needs {package}", allow_module_level=True)

Array = np.ndarray[Any, Any]

WIDTH = 64
(ALTERNATIVES,) = (
    offer.alternatives for offer in BACKEND.capabilities.offers if offer.recipe == "nncf"
)


def small_model(nodes: list[Any], shape: list[Any], **weights: Array) -> Any:
    """From x to y, both of this shape."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "g",
        *([helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in "xy"),
        initializer=[numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def products(*shape: object) -> Any:
    """Two products; the first reads a column that is large and of no weight."""
    from onnx import helper

    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, WIDTH, WIDTH)).astype(np.float32) / 8
    first[0] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"], name="second"),
    ]
    return small_model(nodes, ["n", *shape, WIDTH], w1=first, w2=second)


def samples(*shape: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(24, 1, *shape, WIDTH)).astype(np.float32)
    x[..., 0] *= 3000
    return [{"x": each} for each in x]


def build(model: Any, feeds: list[dict[str, Array]], folder: Path, **parameters: str) -> Engine:
    import onnx

    folder.mkdir()
    onnx.save(model, str(folder.with_suffix(".onnx")))
    request = BuildRequest(
        str(folder.with_suffix(".onnx")),
        Precision.INT8,
        "nncf",
        "cpu",
        MemoryCalibration(feeds),
        tuple(parameters.items()),
    )
    return BACKEND.build(request, str(folder))


def error(engine: Engine, model: Any, feeds: list[dict[str, Array]]) -> float:
    """Of the outputs, relative to the model's own."""
    import onnxruntime

    own = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    session = BACKEND.open(engine, "cpu", Settings(threads=1))
    noise = signal = 0.0
    for feed in feeds:
        session.bind(feed)
        session.run()
        wanted = own.run(None, feed)[0]
        noise += float(np.square(session.fetch()["y"] - wanted).sum())
        signal += float(np.square(wanted).sum())
    session.close()
    return noise / signal


@pytest.mark.parametrize("shape", [(), (3,)])  # class scores, and other outputs
def test_accuracy_control_leaves_in_floating_point_what_int8_spoils(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    model, feeds = products(*shape), samples(*shape)
    plain = build(model, feeds, tmp_path / "plain")
    restored = build(model, feeds, tmp_path / "restored", max_drop="0.05")
    assert error(plain, model, feeds) > 0.1
    assert error(restored, model, feeds) < 0.01
    (note,) = (each for each in restored.notes if "accuracy control" in each)
    assert note == "nncf accuracy control: 1 of 2 operations left in floating point: first"
    assert set(restored.files) == {"model.xml", "model.bin", "engine.json"}


def test_accuracy_control_that_leaves_nothing_in_int8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="left everything in floating point"):
        build(products(3), samples(3), tmp_path / "engine", max_drop="1e-9")


def test_accuracy_control_that_takes_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MOST_MODELS", 3)
    with pytest.raises(UnsupportedError, match="isn't done after 3 models"):
        build(products(3), samples(3), tmp_path / "engine", max_drop="0.05")


def test_accuracy_control_has_nothing_to_do_where_int8_is_good_enough(tmp_path: Path) -> None:
    engine = build(products(), samples(), tmp_path / "engine", max_drop="1")
    assert any("0 of 2 operations left" in note for note in engine.notes)


def test_accuracy_control_keeps_no_more_outputs_than_memory_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    import openvino

    onnx.save(products(3), str(tmp_path / "model.onnx"))
    model = openvino.Core().read_model(str(tmp_path / "model.onnx"))
    assert len(control.Agreement(model, MemoryCalibration(samples(3)))) == len(samples(3))
    monkeypatch.setattr(control, "MOST_BYTES", 4 * 3 * WIDTH)
    judge = control.Agreement(model, MemoryCalibration(samples(3)))
    assert len(judge) == len(list(judge)) == 2


def test_agreement_is_of_classes_or_of_directions() -> None:
    scores = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)
    assert control.agreement(scores, np.array([1, 1])) == 0.5
    assert control.agreement(np.full((1, 2), np.nan, np.float32), np.array([0])) == 0
    values = np.array([[[3.0, 4.0, -np.inf]]], np.float32)
    assert control.agreement(values * 2, values) == pytest.approx(1)
    assert control.agreement(np.array([[[3.0, np.nan, -np.inf]]], np.float32), values) == 0
    assert control.agreement(np.zeros((1, 1, 2), np.float32), np.zeros((1, 1, 2), np.float32)) == 1
    assert control.agreement(np.zeros((1, 1, 2), np.float32), values) == 0


def test_a_model_told_to_be_a_transformer_keeps_its_normalization(tmp_path: Path) -> None:
    from onnx import helper

    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)}
    weights |= {"eps": np.float32([1e-5]), "scale": np.exp(rng.normal(size=WIDTH)).astype("f")}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ReduceMean", ["h"], ["mean"], axes=[-1]),
        helper.make_node("Sub", ["h", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["variance"], axes=[-1]),
        helper.make_node("Add", ["variance", "eps"], ["positive"]),
        helper.make_node("Sqrt", ["positive"], ["deviation"]),
        helper.make_node("Div", ["centred", "deviation"], ["normal"]),
        helper.make_node("Mul", ["normal", "scale"], ["y"]),
    ]
    model = small_model(nodes, ["n", WIDTH], **weights)
    feeds = [{"x": rng.normal(size=(1, WIDTH)).astype(np.float32)} for _ in range(24)]
    plain = build(model, feeds, tmp_path / "plain")
    told = build(model, feeds, tmp_path / "told", model_type="transformer")
    assert "nncf model type transformer" in told.notes
    assert error(told, model, feeds) < error(plain, model, feeds) / 2


def weights_of(engine: Engine) -> bytes:
    return Path(engine.path).with_suffix(".bin").read_bytes()


def test_accurate_bias_correction_is_what_nncf_did(tmp_path: Path) -> None:
    for name, told, fast in (("plain", {}, True), ("slow", {"bias_correction": "accurate"}, False)):
        engine = build(products(), samples(), tmp_path / name, **told)
        assert f'<fast_bias_correction value="{fast}" />' in Path(engine.path).read_text()


def test_smoothing_is_another_model_for_transformers(tmp_path: Path) -> None:
    model, feeds = products(3), samples(3)
    told = {"model_type": "transformer"}
    plain = build(model, feeds, tmp_path / "plain", **told)
    smoothed = build(model, feeds, tmp_path / "smoothed", **told, smooth_quant="0.5")
    assert weights_of(plain) != weights_of(smoothed)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"smooth_quant": "0.5"}, "smooths the activations of transformers only"),
        ({"bias_correction": "fast"}, "has no bias_correction fast"),
        ({"model_type": "cnn"}, "has no model_type cnn"),
        ({"levels": "16"}, "has no parameter levels"),
    ],
)
def test_parameters_that_would_do_nothing_are_refused(
    parameters: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=said):
        build(products(), samples(), tmp_path / "engine", **parameters)


def test_a_model_that_looks_like_a_transformer_needs_not_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "looks_like_transformer", lambda _: True)
    with pytest.raises(UnsupportedError, match="taken for a transformer already"):
        build(products(), samples(), tmp_path / "engine", model_type="transformer")


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_every_alternative_is_known_to_the_build(
    alternative: tuple[tuple[str, str], ...], tmp_path: Path
) -> None:
    filled = {name: value or "1" for name, value in alternative}
    if "smooth_quant" in filled:
        filled["model_type"] = "transformer"
    assert build(products(), samples(), tmp_path / "engine", **filled).files
