"""OpenVINO on ``.tflite`` files, against LiteRT's own interpreter on the same."""

from __future__ import annotations

import importlib.util
import runpy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.ov import BACKEND
from harness.backend import BuildRequest
from harness.errors import UnsupportedError
from harness.modelfile import ModelInfo, inspect
from harness.testing_models import random_calibration, random_feed
from harness.types import Array, Engine, Ports, Precision, Settings, Share

for package in ("openvino", "nncf", "ai_edge_litert"):
    if importlib.util.find_spec(package) is None:  # an import would send openvino's telemetry
        pytest.skip(f"needs {package}", allow_module_level=True)

from ai_edge_litert import schema_py_generated as schema  # noqa: E402
from ai_edge_litert.interpreter import Interpreter  # noqa: E402
from tflite_files import Net, Signature, dense, quantized, two_by_two  # noqa: E402

Model = Callable[[], bytes]

NATIVE = {str(precision) for precision in BACKEND.probe().devices[0].precisions}


def write(folder: Path, content: bytes) -> ModelInfo:
    (folder / "m.tflite").write_bytes(content)
    return inspect(str(folder / "m.tflite"))


def build(
    info: ModelInfo,
    precision: Precision = Precision.FP32,
    recipe: str = "source",
    *,
    ports: Ports | None = None,
    **wishes: str,
) -> Engine:
    folder = Path(info.path).parent / f"{precision}-{recipe}"
    folder.mkdir()
    calibration = random_calibration(info.inputs) if recipe == "nncf" else None
    request = BuildRequest(
        info.path,
        precision,
        recipe,
        "cpu",
        calibration,
        tuple(wishes.items()),
        ports=ports or info.ports,
    )
    return BACKEND.build(request, str(folder))


def by_litert(info: ModelInfo, feed: Mapping[str, Array]) -> dict[str, Array]:
    interpreter = Interpreter(model_path=info.path)
    inputs = list(zip(info.inputs, interpreter.get_input_details(), strict=True))
    for spec, detail in inputs:
        interpreter.resize_tensor_input(detail["index"], feed[spec.name].shape)
    interpreter.allocate_tensors()
    for spec, detail in inputs:
        interpreter.set_tensor(detail["index"], feed[spec.name])
    interpreter.invoke()
    outputs = zip(info.outputs, interpreter.get_output_details(), strict=True)
    return {spec.name: interpreter.get_tensor(detail["index"]) for spec, detail in outputs}


def infer(session: Any, feed: Mapping[str, Array]) -> dict[str, Array]:
    session.bind(feed)
    session.run()
    return {name: np.array(value) for name, value in session.fetch().items()}


def compare(ours: Mapping[str, Array], theirs: Mapping[str, Array], atol: float) -> None:
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype
        assert ours[name].shape == value.shape
        np.testing.assert_allclose(ours[name].astype(float), value.astype(float), atol=atol)


def unnamed() -> bytes:
    """Inputs and outputs without names, and an input that nothing reads."""
    net = Net()
    x, unread, y = net.tensor(""), net.tensor("unread"), net.tensor("")
    net.op("ABS", [x], [y])
    return net.bytes([x, unread], [y])


def same_names() -> bytes:
    """``a - b`` of tensors that are all called ``a``, weights and results inside among them."""
    net = Net()
    x, other, inner, y = (net.tensor("a") for _ in range(4))
    three = net.constant("a", np.full((1, 4), 3, np.float32))
    net.op("MUL", [x, three], [inner], schema.MulOptionsT())
    net.op("SUB", [inner, other], [y], schema.SubOptionsT())
    return net.bytes([x, other], [y])


def passed_on() -> bytes:
    """An output that is the input, beside one that isn't; scalars."""
    net = Net()
    x, y = net.tensor("x", shape=()), net.tensor("y", shape=())
    net.op("ABS", [x], [y])
    return net.bytes([x], [y, x])


def image() -> bytes:
    """A convolution of an image [batch, 8, 8, 3], and the name of its input on an inner tensor."""
    rng = np.random.default_rng(5)
    net = Net()
    x, y = net.tensor("image:0", shape=(-1, 8, 8, 3)), net.tensor("scores:0", shape=(-1, 4))
    inner = net.tensor("scores", shape=(-1, 8, 8, 6))
    kernel = net.constant("k", rng.normal(size=(6, 3, 3, 3)).astype(np.float32) / 5)
    mean, axes = (
        net.tensor("image", shape=(-1, 6)),
        net.constant("axes", np.array([1, 2], np.int32)),
    )
    conv = schema.Conv2DOptionsT()
    conv.strideH = conv.strideW = conv.dilationHFactor = conv.dilationWFactor = 1
    conv.fusedActivationFunction = schema.ActivationFunctionType.RELU
    bias = net.constant("bias", rng.normal(size=6).astype(np.float32))
    net.op("CONV_2D", [x, kernel, bias], [inner], conv)
    net.op("MEAN", [inner, axes], [mean], schema.ReducerOptionsT())
    weights = net.constant("w", dense(rng, 4, 6))
    net.op("FULLY_CONNECTED", [mean, weights, -1], [y], schema.FullyConnectedOptionsT())
    return net.bytes([x], [y], Signature({"image": x}, {"scores": y}))


def codes_of_newer_tools() -> bytes:
    """DEQUANTIZE with its code in the newer field alone, as litert-quantizer writes it."""
    rng = np.random.default_rng(6)
    net = Net()
    x, y, plain = net.tensor("x", shape=(-1, 4)), net.tensor("y", shape=(-1, 3)), net.tensor("p")
    net.graph.tensors[plain].shape = [3, 4]
    packed = rng.integers(-127, 128, size=(3, 4)).astype(np.int8)
    weights = net.constant("w", packed, ([0.01, 0.02, 0.03], [0, 0, 0], 0))
    net.op("DEQUANTIZE", [weights], [plain])
    net.op("FULLY_CONNECTED", [x, plain, -1], [y], schema.FullyConnectedOptionsT())
    net.model.operatorCodes[0].deprecatedBuiltinCode = 0
    return net.bytes([x], [y])


FLOAT: dict[str, Model] = {
    "two": two_by_two,
    "two, fixed": lambda: two_by_two(batch=2),
    "two, without a signature": lambda: two_by_two(named=False),
    "image": image,
    "unnamed": unnamed,
    "same names": same_names,
    "passed on": passed_on,
    "newer codes": codes_of_newer_tools,
}


@pytest.mark.parametrize("make", FLOAT.values(), ids=FLOAT.keys())
def test_outputs_are_litert_s(tmp_path: Path, make: Model) -> None:
    info = write(tmp_path, make())
    engine = build(info)
    script = Path(engine.path).with_name("infer.py")
    script.write_text(BACKEND.deploy_code(engine, "cpu", Settings()))
    deployed = runpy.run_path(str(script))
    session = BACKEND.open(engine, "cpu", Settings())
    assert (session.inputs, session.outputs) == (info.inputs, info.outputs)
    for batch in (1, 3):
        feed = random_feed(info.inputs, batch)
        theirs = by_litert(info, feed)
        compare(infer(session, feed), theirs, atol=1e-5)
        compare(deployed["infer"](deployed["load"](), feed), theirs, atol=1e-5)
    session.close()
    assert set(engine.files) == {"model.xml", "model.bin", "engine.json"}


@pytest.mark.parametrize("float_ports", [False, True])
def test_a_quantized_file_runs_in_int8(tmp_path: Path, *, float_ports: bool) -> None:
    info = write(tmp_path, quantized(float_ports=float_ports))
    session = BACKEND.open(build(info), "cpu", Settings())
    for batch in (1, 3):
        feed = random_feed(info.inputs, batch)
        step = 0.061 if float_ports else 1  # both round, not always alike
        compare(infer(session, feed), by_litert(info, feed), atol=step)
    executed = session.executed
    assert executed is not None
    assert executed.precisions == (Share("int8", 2),)
    assert "compiled for the declared shapes" in executed.detail  # two int8 matrix products
    session.close()


@pytest.mark.parametrize(
    ("precision", "recipe", "cosine"),
    [
        (Precision.INT8, "nncf", 0.99),
        (Precision.INT8_WEIGHTS, "nncf-weights", 0.999),
        (Precision.INT4_WEIGHTS, "nncf-weights", 0.97),
    ],
)
@pytest.mark.parametrize("make", [two_by_two, image], ids=["two", "image"])
def test_openvino_quantizes_it_too(
    tmp_path: Path, make: Model, precision: Precision, recipe: str, cosine: float
) -> None:
    info = write(tmp_path, make())
    # by default NNCF takes the mean of the samples' ranges, and these are of a few numbers each
    wishes = {"calibration": "minmax"} if recipe == "nncf" else {}
    session = BACKEND.open(build(info, precision, recipe, **wishes), "cpu", Settings())
    assert (session.inputs, session.outputs) == (info.inputs, info.outputs)
    samples = list(random_calibration(info.inputs).feeds())  # none beyond what it was made for
    feed = {name: np.concatenate([each[name] for each in samples]) for name in samples[0]}
    theirs = by_litert(info, feed)
    for name, value in infer(session, feed).items():
        a, b = value.ravel(), theirs[name].ravel()
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > cosine
    executed = session.executed
    assert executed is not None
    assert precision is not Precision.INT8 or "int8" not in NATIVE or executed.share("int8") == 1
    session.close()


def test_operators_are_excluded_by_the_names_of_the_file(tmp_path: Path) -> None:
    info = write(tmp_path, image())
    engine = build(info, Precision.INT8, "nncf", exclude='["FULLY_CONNECTED"]')
    session = BACKEND.open(engine, "cpu", Settings())
    executed = session.executed
    assert executed is not None
    assert executed.precisions == (Share("fp32", 1), Share("int8", 1))
    session.close()


@pytest.mark.parametrize(
    ("option", "batch", "shapes"),
    [
        ("auto", 2, "compiled for fixed shapes"),
        ("auto", 3, "compiled for the declared shapes"),
        ("no", 2, "compiled for the declared shapes"),
    ],
)
def test_shapes_are_fixed_as_of_any_model(
    tmp_path: Path, option: str, batch: int, shapes: str
) -> None:
    info = write(tmp_path, two_by_two())
    settings = Settings(batch=2, options=(("static-shapes", option),))
    session = BACKEND.open(build(info), "cpu", settings)
    feed = random_feed(info.inputs, batch)
    compare(infer(session, feed), by_litert(info, feed), atol=1e-5)
    executed = session.executed
    assert executed is not None
    assert shapes in executed.detail
    session.close()


def test_what_is_quantized_already_is_not_quantized_again(tmp_path: Path) -> None:
    info = write(tmp_path, quantized())
    with pytest.raises(UnsupportedError, match="nncf: the model is quantized already"):
        build(info, Precision.INT8, "nncf")


@pytest.mark.parametrize("old_code", [32, 0])
def test_an_operator_that_openvino_lacks_is_named(tmp_path: Path, old_code: int) -> None:
    net = Net()
    x, y = net.tensor("x"), net.tensor("y")
    net.op("Fancy", [x], [y])
    net.model.operatorCodes[0].deprecatedBuiltinCode = old_code
    with pytest.raises(UnsupportedError, match="Fancy"):
        build(write(tmp_path, net.bytes([x], [y])))


def test_one_tensor_as_two_outputs_is_refused(tmp_path: Path) -> None:
    net = Net()
    x, y = net.tensor("x"), net.tensor("y")
    net.op("ABS", [x], [y])
    with pytest.raises(UnsupportedError, match="finds 1 of the model's 2 outputs"):
        build(write(tmp_path, net.bytes([x], [y, y])))


def test_tensors_that_have_no_place_for_a_name_are_refused(tmp_path: Path) -> None:
    net = Net()
    x, y = net.tensor("x"), net.tensor("y")
    net.op("ABS", [x], [y])
    for tensor in net.graph.tensors:
        tensor.name = None
    with pytest.raises(UnsupportedError, match="needs tensors with names"):
        build(write(tmp_path, net.bytes([x], [y])))


def test_another_layout_or_type_in_the_file_is_refused(tmp_path: Path) -> None:
    info = write(tmp_path, two_by_two())
    assert info.ports is not None
    left, right = info.ports.inputs
    for number, odd in enumerate((replace(left, axes=(1, 0)), replace(left, dtype="int32"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        ports = replace(info.ports, inputs=(odd, right))
        with pytest.raises(UnsupportedError, match="left: has another layout or type"):
            build(write(folder, two_by_two()), ports=ports)
    swapped = replace(info.ports, inputs=(right, left))
    with pytest.raises(UnsupportedError, match=r"right: is serving_default_right:0 in the file"):
        build(info, ports=swapped)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"garbage" * 40):
        path = tmp_path / "m.tflite"
        path.write_bytes(content)
        request = BuildRequest(str(path), Precision.FP32, "source", "cpu")
        with pytest.raises(UnsupportedError, match="doesn't recognise it as a TensorFlow Lite"):
            BACKEND.build(request, str(tmp_path))
