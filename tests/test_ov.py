"""OpenVINO, for real: every offer that this host has, on models made here."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.ov import BACKEND, OFFERS
from backends.ov import compression as ov_compression
from backends.ov import device as ov_device
from backends.ov import executed as ov_executed
from backends.ov import runtime as ov_runtime
from harness import variants
from harness.backend import BuildRequest, Offer, Queue, Session
from harness.errors import (
    BackendError,
    OutOfMemoryError,
    UnavailableError,
    UnsupportedError,
)
from harness.testing import BackendContract, MemoryCalibration
from harness.testing_models import (
    conv_model,
    embedding_model,
    mlp_model,
    model_specs,
    random_calibration,
    random_feed,
    two_inputs_two_outputs_model,
)
from harness.types import Engine, Executed, Precision, Scenario, Settings, TensorSpec

for package in ("openvino", "nncf", "onnxruntime"):
    if importlib.util.find_spec(package) is None:  # an import would send openvino's telemetry
        pytest.skip(f"needs {package}", allow_module_level=True)

Array = np.ndarray[Any, Any]

FP32 = Offer(Precision.FP32, "source")
NNCF = Offer(Precision.INT8, "nncf", calibrated=True)
QDQ = Offer(Precision.INT8, "qdq", calibrated=True)
MODELS = {
    "conv": conv_model,
    "mlp": mlp_model,
    "two": two_inputs_two_outputs_model,
    "embedding": embedding_model,
}
NATIVE = {str(precision) for precision in BACKEND.probe().devices[0].precisions}
COSINE = {"fp32": 0.999999, "fp16": 0.9999, "bf16": 0.999, "int8": 0.98}
COSINE |= {"int8-weights": 0.999, "int4-weights": 0.97}


class TestContract(BackendContract):
    backend = BACKEND


def save(model: Any, folder: Path, name: str = "source.onnx") -> str:
    import onnx

    onnx.save(model, str(folder / name))
    return str(folder / name)


def shared(source: str, offer: Offer) -> str:
    """The shared variant, for a CPU that may lack exact int8 instructions."""
    if offer.recipe == "weights":
        pytest.importorskip("onnx_ir")
    resolved = variants.resolve(offer.recipe, offer.precision, isa=frozenset(), device="cpu")
    out = source.replace(".onnx", f".{offer.precision}.{offer.recipe}.onnx")
    variants.make(resolved, source, out, random_calibration(model_specs(source)[0]))
    return out


def build(source: str, offer: Offer, folder: Path, device: str = "cpu", **wishes: str) -> Engine:
    folder.mkdir()
    model = shared(source, offer) if offer.recipe in variants.SHARED else source
    calibration = random_calibration(model_specs(source)[0]) if offer.calibrated else None
    parameters = tuple(wishes.items())
    request = BuildRequest(model, offer.precision, offer.recipe, device, calibration, parameters)
    return BACKEND.build(request, str(folder))


def reference(source: str, feed: dict[str, Array]) -> dict[str, Array]:
    import onnxruntime as ort

    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def infer(session: Any, feed: dict[str, Array]) -> dict[str, Array]:
    session.bind(feed)
    session.run()
    return {name: np.array(value) for name, value in session.fetch().items()}


def what_ran(session: Session) -> Executed:
    executed = session.executed
    assert executed is not None
    return executed


def cosine(a: Array, b: Array) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.fixture
def mlp(tmp_path: Path) -> tuple[str, Engine]:
    source = save(mlp_model(), tmp_path)
    return source, build(source, FP32, tmp_path / "engine")


def small_model(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], /, **weights: Array
) -> Any:
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        outputs,
        initializer=[numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("our.domain", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def value(name: str, shape: list[Any], dtype: str = "float32") -> Any:
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, shape)


# -- what is built and what runs ---------------------------------------------------------------


@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: f"{offer.precision}-{offer.recipe}")
@pytest.mark.parametrize("name", MODELS)
def test_every_offer_is_right_and_says_what_ran(name: str, offer: Offer, tmp_path: Path) -> None:
    source = save(MODELS[name](), tmp_path)
    session = BACKEND.open(build(source, offer, tmp_path / "engine"), "cpu", Settings())
    declared_in, declared_out = model_specs(source)
    assert [(s.name, s.dtype) for s in session.inputs] == [(s.name, s.dtype) for s in declared_in]
    assert [(s.name, s.dtype) for s in session.outputs] == [(s.name, s.dtype) for s in declared_out]
    for batch, seed in ((1, 0), (3, 1), (1, 2)):
        feed = random_feed(declared_in, batch, seed)
        for key, want in reference(source, feed).items():
            got = infer(session, feed)[key]
            assert got.shape == want.shape
            assert got.dtype == want.dtype
            assert cosine(got, want) > COSINE[str(offer.precision)]
    executed = what_ran(session)
    assert [share.name for share in executed.devices] == ["cpu"]
    assert executed.devices[0].count >= 2
    asked = str(offer.precision)
    if offer.native and asked not in NATIVE:
        assert executed.share(asked) == 0.0  # the hint was dropped, and it shows
    elif asked == "int8":
        assert executed.share("int8") > 0.5
        assert {share.name for share in executed.precisions} <= {"int8", "fp32"}
    elif asked.endswith("-weights"):  # tiny ones are unpacked for good when compiled
        assert {share.name for share in executed.precisions} <= {asked, "fp32"}
    else:
        assert executed.share(asked) == 1.0
    session.close()
    session.close()


def test_f16_where_there_is_none_runs_as_what_the_compiler_chose(
    mlp: tuple[str, Engine], tmp_path: Path
) -> None:
    engine = build(mlp[0], Offer(Precision.FP16, "source"), tmp_path / "fp16")
    session = BACKEND.open(engine, "cpu", Settings())
    infer(session, random_feed(session.inputs))
    effective = session._get_compiled(pinned=True).get_property("INFERENCE_PRECISION_HINT")
    ran = {"f16": "fp16", "bf16": "bf16", "f32": "fp32"}[effective.get_type_name()]
    assert what_ran(session).share(ran) == 1.0
    assert (ran == "fp16") == ("fp16" in NATIVE)
    assert "float16" in engine.notes[0]


def test_fp16_engines_are_half_the_size_and_files_are_listed(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    from onnx import helper

    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = small_model([node], [value("x", ["n", 256])], [value("y", ["n", 256])], w=wide)
    source = save(model, tmp_path)
    full = build(source, FP32, tmp_path / "a")
    half = build(source, Offer(Precision.FP16, "source"), tmp_path / "b")
    assert half.size_bytes < 0.6 * full.size_bytes
    assert set(full.files) == {"model.xml", "model.bin", "engine.json"}
    folder = Path(full.path).parent
    assert full.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert json.loads((folder / "engine.json").read_text())["about"]["precision"] == "fp32"


def test_an_ir_of_someone_elses_opens_as_it_is(mlp: tuple[str, Engine]) -> None:
    source, engine = mlp
    (Path(engine.path).parent / "engine.json").unlink()
    session = BACKEND.open(engine, "cpu", Settings())
    feed = random_feed(session.inputs, 2)
    assert cosine(infer(session, feed)["scores"], reference(source, feed)["scores"]) > 0.999


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """An IR as openvino itself makes it of a model that isn't ONNX: only its tensors have names."""
    import openvino
    from openvino import opset13 as ops

    weights = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    features = ops.parameter([-1, 4], np.float32)
    features.output(0).set_names({"features"})
    scores = ops.relu(ops.matmul(features, ops.constant(weights), False, False))
    scores.output(0).set_names({"scores"})
    (tmp_path / "own").mkdir()
    path = tmp_path / "own" / "net.v2.xml"
    openvino.save_model(openvino.Model([scores], [features], "own"), str(path))
    return path


def as_is(path: Path, folder: Path) -> Engine:
    folder.mkdir()
    return BACKEND.build(BuildRequest(str(path), Precision.AS_IS, "as-is", "cpu"), str(folder))


def test_an_ir_of_ours_that_was_moved_runs_at_its_own_precision(tmp_path: Path) -> None:
    source = save(mlp_model(), tmp_path)
    (tmp_path / "built").mkdir()
    request = BuildRequest(source, Precision.FP32, "source", "cpu")
    engine = BACKEND.build(request, str(tmp_path / "built"))
    moved = as_is(Path(engine.path), tmp_path / "moved")
    assert "engine.json" in moved.files
    session = BACKEND.open(moved, "cpu", Settings(threads=1))
    session.bind(random_feed(session.inputs, 1))
    assert what_ran(session).share("fp32") == 1
    with Path(engine.path).open("a") as stream:
        stream.write("\n")  # another IR
    assert "engine.json" not in as_is(Path(engine.path), tmp_path / "other").files


@pytest.mark.parametrize("shapes", ["auto", "yes"])
def test_a_users_ir_computes_what_openvino_by_hand_does(
    shapes: str, own: Path, tmp_path: Path
) -> None:
    import openvino

    engine = as_is(own, tmp_path / "engine")
    assert engine.files == ("net.v2.xml", "net.v2.bin")
    for name in engine.files:
        assert (tmp_path / "engine" / name).read_bytes() == own.with_name(name).read_bytes()
    settings = Settings(options=(("static-shapes", shapes),))
    session = BACKEND.open(engine, "cpu", settings)
    assert (session.inputs, session.outputs) == (
        (TensorSpec("features", "float32", (None, 4)),),
        (TensorSpec("scores", "float32", (None, 3)),),
    )
    compiled = openvino.Core().compile_model(str(own), "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    feed = random_feed(session.inputs, 2)
    want = compiled(feed["features"])[0]
    got = infer(session, feed)["scores"]
    assert np.array_equal(got, want)
    found = what_ran(session)
    assert [share.name for share in found.devices] == ["cpu"]
    assert sum(share.count for share in found.precisions) == 1
    assert ("fixed shapes" in found.detail) == (shapes == "yes")
    (tmp_path / "engine" / "deploy.py").write_text(BACKEND.deploy_code(engine, "cpu", settings))
    np.save(tmp_path / "engine" / "x.npy", feed["features"])
    run = (
        "import deploy, numpy as np\n"
        "got = deploy.infer(deploy.load(), {'features': np.load('x.npy')})\n"
        "np.save('y.npy', got['scores'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", run],
        cwd=tmp_path / "engine",
        env={**os.environ, "PYTHONPATH": "", "CI": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "engine" / "y.npy"), want)


@pytest.mark.parametrize(
    ("old", "new", "kind", "said"),
    [
        ('version="11"', 'version="99"', UnsupportedError, "IR of a version that it knows"),
        ("<net", "hello", UnsupportedError, "doesn't recognise it as an IR"),
        ('version="opset1"', 'version="opset99"', UnsupportedError, "opset99"),
        ('type="ReLU"', 'type="Fancy"', UnsupportedError, "Fancy"),
        ("</net>", "", BackendError, "incomplete"),
    ],
)
def test_an_ir_of_another_release_or_none_is_told(
    old: str,
    new: str,
    kind: type[Exception],
    said: str,
    own: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    text = own.read_text()
    assert old in text
    own.write_text(text.replace(old, new))
    with pytest.raises(kind, match=said):
        as_is(own, tmp_path / "engine")
    assert capfd.readouterr() == ("", "")


def test_an_ir_without_its_weights_says_which_file_is_missing(own: Path, tmp_path: Path) -> None:
    weights = own.with_suffix(".bin")
    weights.write_bytes(b"12")
    with pytest.raises(BackendError, match="Incorrect weights") as caught:
        as_is(own, tmp_path / "a")
    weights.unlink()
    with pytest.raises(BackendError, match="bin file cannot be found") as caught:
        as_is(own, tmp_path / "b")
    assert caught.value.fix is not None
    assert ".bin" in caught.value.fix


def test_names_are_the_models_even_when_outputs_share_a_tensor(tmp_path: Path) -> None:
    from onnx import helper

    nodes = [
        helper.make_node("Relu", ["x"], ["zz"]),
        helper.make_node("Identity", ["zz"], ["aa"]),
        helper.make_node("Identity", ["x"], ["same/as:0"]),
    ]
    outputs = [value(name, ["n", 4]) for name in ("zz", "aa", "same/as:0")]
    source = save(small_model(nodes, [value("x", ["n", 4])], outputs), tmp_path)
    session = BACKEND.open(build(source, FP32, tmp_path / "engine"), "cpu", Settings())
    assert [spec.name for spec in session.outputs] == ["zz", "aa", "same/as:0"]
    for seed in range(2):
        feed = random_feed(session.inputs, 2, seed)
        want = reference(source, feed)
        assert all(np.array_equal(got, want[key]) for key, got in infer(session, feed).items())


def test_outputs_of_one_tensor_keep_names_of_their_own(tmp_path: Path) -> None:
    import openvino
    from openvino import opset13 as ops

    x = ops.parameter([1, 4], np.float32, name="Parameter_7")
    x.output(0).set_names({"alias:0", "x"})
    both = ops.relu(x)
    both.output(0).set_names({"activation"})
    results = [ops.result(both, name=name) for name in ("first", "second")]
    openvino.save_model(openvino.Model(results, [x], "m"), str(tmp_path / "net.xml"))
    engine = as_is(tmp_path / "net.xml", tmp_path / "engine")
    session = BACKEND.open(engine, "cpu", Settings())
    assert [spec.name for spec in session.inputs] == ["x"]
    feed = random_feed(session.inputs, 1)
    got = infer(session, feed)
    script = tmp_path / "engine" / "deploy.py"
    script.write_text(BACKEND.deploy_code(engine, "cpu", Settings()))
    deployed = runpy.run_path(str(script))
    by_script = deployed["infer"](deployed["load"](), feed)
    assert set(got) == set(by_script) == {"first", "second"}
    for outputs in (got, by_script):
        assert all(np.array_equal(each, np.maximum(feed["x"], 0)) for each in outputs.values())


def test_a_model_that_takes_only_another_batch_stays_open(tmp_path: Path) -> None:
    from onnx import helper

    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Relu", ["r"], ["y"]),
    ]
    shape = np.array([2, 6], np.int64)
    model = small_model(nodes, [value("x", ["n", 4])], [value("y", [2, 6])], shape=shape)
    source = save(model, tmp_path)
    session = BACKEND.open(build(source, FP32, tmp_path / "engine"), "cpu", Settings())
    feed = random_feed(session.inputs, 3)
    assert np.array_equal(infer(session, feed)["y"], reference(source, feed)["y"])
    assert "declared shapes" in what_ran(session).detail


# -- what is refused ---------------------------------------------------------------------------


def test_unknown_operators_and_files_that_are_no_models(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from onnx import helper

    node = helper.make_node("Fancy", ["x"], ["y"], domain="our.domain")
    source = save(small_model([node], [value("x", [1])], [value("y", [1])]), tmp_path)
    with pytest.raises(UnsupportedError, match=r"No conversion rule found .*our.domain.Fancy"):
        build(source, FP32, tmp_path / "a")
    for name, content in (("junk", b"not a model" * 10), ("empty", b"")):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(UnsupportedError, match="ONNX"):
            build(str(path), FP32, tmp_path / name)
    assert capfd.readouterr() == ("", "")


def test_an_engine_that_is_broken(mlp: tuple[str, Engine]) -> None:
    Path(mlp[1].path).write_text("<net")
    with pytest.raises((UnsupportedError, RuntimeError)):
        BACKEND.open(mlp[1], "cpu", Settings())


def test_nothing_to_quantize_is_no_int8_engine(tmp_path: Path) -> None:
    from onnx import helper

    source = save(
        small_model(
            [helper.make_node("Relu", ["x"], ["y"])], [value("x", ["n", 4])], [value("y", ["n", 4])]
        ),
        tmp_path,
    )
    with pytest.raises(UnsupportedError, match="nothing in the model was quantized"):
        build(source, NNCF, tmp_path / "a")
    request = BuildRequest(source, Precision.INT8, "nncf", "cpu", MemoryCalibration([]))
    with pytest.raises(UnsupportedError, match="calibration samples"):
        BACKEND.build(request, str(tmp_path))
    with pytest.raises(UnsupportedError, match="int8-dynamic"):
        BACKEND.build(BuildRequest(source, Precision.INT8_DYNAMIC, "dynamic", "cpu"), str(tmp_path))


def test_nncf_builds_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    engine = build(save(conv_model(), tmp_path), NNCF, tmp_path / "engine")
    assert capfd.readouterr() == ("", "")
    assert any("quantizers" in note for note in engine.notes)


def quantizers(folder: Path) -> dict[str, tuple[Array, Array]]:
    """The low and high ends of what each FakeQuantize of an engine lets through, by its name."""
    import openvino

    model = openvino.Core().read_model(str(folder / "model.xml"))
    return {
        op.get_friendly_name(): (
            op.input_value(1).get_node().data.copy(),
            op.input_value(2).get_node().data.copy(),
        )
        for op in model.get_ops()
        if op.get_type_name() == "FakeQuantize"
    }


def nncf_ranges(tmp_path: Path, name: str, **wishes: str) -> dict[str, tuple[Array, Array]]:
    build(save(conv_model(), tmp_path), NNCF, tmp_path / name, **wishes)
    return quantizers(tmp_path / name)


def test_nncf_meets_the_wishes_that_it_can(tmp_path: Path) -> None:
    plain = nncf_ranges(tmp_path, "plain")
    for number, wishes in enumerate(
        [
            {"calibration": "minmax"},
            {"calibration": "percentile", "percentile": "90"},
            {"symmetric": "no"},
        ]
    ):
        got = nncf_ranges(tmp_path, str(number), **wishes)
        same = got.keys() == plain.keys() and all(
            np.array_equal(low, plain[name][0]) and np.array_equal(high, plain[name][1])
            for name, (low, high) in got.items()
        )
        assert not same, f"{wishes} changed nothing"
    nncf_ranges(tmp_path, "by tensor", per_channel="no")
    sizes = [(tmp_path / name / "model.bin").stat().st_size for name in ("by tensor", "plain")]
    assert sizes[0] < sizes[1]  # fewer scales


@pytest.mark.parametrize(
    ("exclude", "fewer"), [("conv_0", True), ("c1", True), ("Gemm", True), ("Softmax", False)]
)
def test_nncf_leaves_excluded_layers_alone(exclude: str, fewer: bool, tmp_path: Path) -> None:
    plain = nncf_ranges(tmp_path, "plain")
    got = nncf_ranges(tmp_path, "excluded", exclude=json.dumps([exclude]))
    assert (len(got) < len(plain)) == fewer


def gemms(folder: Path) -> Any:
    """Two layers, ``fc1`` and ``fc2``, as OpenVINO reads them."""
    import openvino
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 6), "b1": (6,), "w2": (6, 4), "b2": (4,)}
    weights = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["a"], name="fc1"),
            helper.make_node("Relu", ["a"], ["r"], name="relu"),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], name="fc2"),
        ],
        "gemms",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return openvino.Core().read_model(save(model, folder))


@pytest.mark.parametrize(
    ("name", "products"),
    [
        ("fc1", {"fc1"}),
        ("a", {"fc1"}),
        ("fc2", {"fc2"}),  # which makes an output, by whose name its addition is called
        ("y", {"fc2"}),
        ("Gemm", {"fc1", "fc2"}),
        ("Add", set()),  # no addition of the user's takes a layer along
        ("relu", set()),
        ("Conv", set()),
        ("LSTM", set()),
    ],
)
def test_an_excluded_name_finds_its_product(name: str, products: set[str], tmp_path: Path) -> None:
    found = ov_compression.excluded(gemms(tmp_path), name)
    ends = "/WithoutBiases"
    assert {each[: -len(ends)] for each in found if each.endswith(ends)} == products


def test_an_excluded_name_that_is_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no operator type, node or value is called 'fc3'"):
        ov_compression.excluded(gemms(tmp_path), "fc3")


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"include": "Conv"}, "no list of operators to include"),
        ({"calibration": "entropy"}, "no calibration by entropy"),
        (
            {"exclude": '["Conv", "Gemm", "GlobalAveragePool"]'},
            "nothing in the model was quantized",
        ),
    ],
)
def test_nncf_refuses_what_it_can_not_meet(
    wishes: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=said):
        nncf_ranges(tmp_path, "refused", **wishes)


@pytest.mark.parametrize(
    ("wishes", "note"),
    [
        ({"saturates": "yes"}, "on"),
        ({"saturates": "no"}, "off"),
        ({"saturates": "no", "reduce_range": "yes"}, "on"),
        ({"saturates": "yes", "reduce_range": "no"}, "off"),
    ],
)
def test_nncf_takes_7_bits_where_products_were_seen_to_saturate(
    wishes: dict[str, str], note: str, tmp_path: Path
) -> None:
    engine = build(save(mlp_model(), tmp_path), NNCF, tmp_path / "engine", **wishes)
    assert f"nncf overflow fix {note}" in engine.notes


def product_model(size: int = 128) -> Any:
    """Two products whose weights are long enough to be kept packed."""
    from onnx import helper

    rng = np.random.default_rng(0)
    weights = {
        name: (rng.normal(size=(size, size)) / 11).astype(np.float32) for name in ("w1", "w2")
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"], name="second"),
    ]
    return small_model(nodes, [value("x", ["n", size])], [value("y", ["n", size])], **weights)


@pytest.mark.parametrize("recipe", ["weights", "nncf-weights"])
@pytest.mark.parametrize("precision", [Precision.INT8_WEIGHTS, Precision.INT4_WEIGHTS])
def test_packed_weights_stay_packed(recipe: str, precision: Precision, tmp_path: Path) -> None:
    source = save(product_model(), tmp_path)
    engine = build(source, Offer(precision, recipe), tmp_path / "engine")
    session = BACKEND.open(engine, "cpu", Settings(threads=1))
    feed = random_feed(session.inputs, 2, 0)
    got = infer(session, feed)["y"]
    assert cosine(got, reference(source, feed)["y"]) > COSINE[str(precision)]
    assert what_ran(session).share(str(precision)) == 1.0
    session.close()
    kept = Offer(precision, "nncf-weights")
    if recipe == "nncf-weights":
        one = build(source, kept, tmp_path / "one", exclude='["first"]')
        assert f"1 weights stored as {precision}" in one.notes
        with pytest.raises(UnsupportedError, match="no weights of the model became"):
            build(source, kept, tmp_path / "none", exclude='["MatMul"]')


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda feed: feed.pop("left"), "the feed lacks the input left"),
        (lambda feed: feed.update(more=feed["left"]), "no input 'more'"),
        (
            lambda feed: feed.update(left=feed["left"].astype(np.float64)),
            "left: .* was given float64",
        ),
        (lambda feed: feed.update(left=feed["left"][0]), r"left: .* was given the shape \[16\]"),
        (
            lambda feed: feed.update(left=feed["left"][:, :8]),
            r"left: .* was given the shape \[1, 8\]",
        ),
        (lambda feed: feed.update(left=feed["left"].tolist()), "left: .* was given list"),
    ],
)
def test_feeds_that_openvino_would_have_taken(change: Any, said: str, tmp_path: Path) -> None:
    source = save(two_inputs_two_outputs_model(), tmp_path)
    session = BACKEND.open(build(source, FP32, tmp_path / "engine"), "cpu", Settings())
    with pytest.raises(RuntimeError, match="nothing is bound"):
        session.run()
    for bound_before in (False, True):
        feed = random_feed(session.inputs)
        if bound_before:
            infer(session, feed)
        change(feed)
        with pytest.raises(UnsupportedError, match=said):
            session.bind(feed)
        with pytest.raises(RuntimeError, match="nothing is bound"):
            session.run()


def test_a_closed_session_says_so_and_its_outputs_live_on(mlp: tuple[str, Engine]) -> None:
    session = BACKEND.open(mlp[1], "cpu", Settings())
    feed = random_feed(session.inputs)
    session.bind(feed)
    session.run()
    outputs = session.fetch()
    session.close()
    assert np.array_equal(
        outputs["scores"], infer(BACKEND.open(mlp[1], "cpu", Settings()), feed)["scores"]
    )
    with pytest.raises(RuntimeError, match="closed"):
        session.bind(feed)
    with pytest.raises(RuntimeError, match="closed"):
        what_ran(session)


def test_memory_that_isnt_there(tmp_path: Path) -> None:
    from onnx import helper

    node = helper.make_node("Expand", ["x", "shape"], ["y"])
    inputs = [value("x", [1]), value("shape", [2], "int64")]
    source = save(small_model([node], inputs, [value("y", ["a", "b"])]), tmp_path)
    session = BACKEND.open(build(source, FP32, tmp_path / "engine"), "cpu", Settings())
    session.bind({"x": np.ones(1, np.float32), "shape": np.array([1 << 20, 1 << 20])})
    with pytest.raises(OutOfMemoryError, match="Failed to allocate"):
        session.run()


# -- devices and settings ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "device", ["gpu:7", "npu:9", "auto:gpu.7", "hetero:foo,cpu", "auto:-cpu", "x"]
)
def test_devices_that_are_not_there(device: str, mlp: tuple[str, Engine]) -> None:
    with pytest.raises(UnavailableError, match="finds no device"):
        BACKEND.open(mlp[1], device, Settings())


@pytest.mark.parametrize(
    "device",
    ["auto", "auto:cpu", "AUTO:GPU.7,CPU", "hetero", "hetero:gpu.7,cpu", "multi:cpu", "batch:cpu"],
)
def test_devices_that_stand_for_others(device: str, mlp: tuple[str, Engine]) -> None:
    if device in ("auto", "hetero") and len(BACKEND.probe().devices) > 1:
        pytest.skip("the host has more than a CPU")
    source, engine = mlp
    settings = Settings(threads=1)
    session = BACKEND.open(engine, device, settings)
    for seed in range(2):
        feed = random_feed(session.inputs, 2, seed)
        assert np.allclose(
            infer(session, feed)["scores"], reference(source, feed)["scores"], atol=1e-4
        )
    executed = what_ran(session)
    assert [share.name for share in executed.devices] == ["cpu"]
    assert executed.share("fp32") == 1.0
    if device.lower().startswith(("auto", "multi")):
        assert "threads 1" in executed.detail


@pytest.mark.parametrize(
    ("available", "device", "means"),
    [
        (("CPU", "GPU"), "gpu", "GPU"),
        (("CPU", "GPU"), "gpu:0", "GPU.0"),
        (("CPU", "GPU.0", "GPU.1"), "gpu:1", "GPU.1"),
        (("CPU", "GPU.0", "GPU.1"), "GPU.1", "GPU.1"),
        (("CPU", "NPU"), "npu", "NPU"),
        (("CPU", "GPU"), "auto", "AUTO"),
        (("CPU", "GPU"), "auto:gpu,cpu", "AUTO:GPU,CPU"),
        (("CPU", "GPU"), "auto:-cpu", "AUTO:-CPU"),
        (("CPU",), "auto:gpu,cpu", "AUTO:CPU"),
        (("CPU", "GPU"), "hetero", "HETERO:GPU,CPU"),
        (("CPU", "GPU.0", "GPU.1"), "multi:gpu.1(2),cpu(1)", "MULTI:GPU.1(2),CPU(1)"),
        (("CPU", "GPU"), "batch:gpu(16)", "BATCH:GPU(16)"),
        (("CPU",), "gpu", None),
        (("CPU", "GPU"), "gpu:1", None),
        (("CPU",), "npu", None),
        (("CPU",), "auto:gpu", None),
        (("CPU",), "auto:-cpu", None),
        (("CPU",), "auto:cpuu,cpu", None),
        ((), "cpu", None),
        ((), "auto", None),
    ],
)
def test_device_strings(available: tuple[str, ...], device: str, means: str | None) -> None:
    if means is None:
        with pytest.raises(UnavailableError):
            ov_device.resolve(device, available)
    else:
        assert str(ov_device.resolve(device, available)) == means


def test_a_batch_device_needs_to_know_for_whom() -> None:
    with pytest.raises(UnsupportedError, match="batch:cpu"):
        ov_device.resolve("batch", ("CPU",))


def test_properties_follow_from_precision_device_and_settings() -> None:
    def of(precision: Precision | None, device: str, **settings: Any) -> dict[str, str]:
        return ov_device.properties(precision, ov_device.parse(device), Settings(**settings))

    assert of(Precision.FP32, "cpu", threads=2) == {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": "2",
        "NUM_STREAMS": "1",
    }
    assert of(Precision.INT8, "cpu")["INFERENCE_PRECISION_HINT"] == "f32"
    assert of(Precision.INT8, "auto")["INFERENCE_PRECISION_HINT"] == "f32"
    assert of(Precision.INT8, "gpu")["INFERENCE_PRECISION_HINT"] == "f16"
    assert of(Precision.BF16, "cpu")["INFERENCE_PRECISION_HINT"] == "bf16"
    assert "INFERENCE_PRECISION_HINT" not in of(None, "cpu")
    busy = of(Precision.FP32, "cpu", scenario=Scenario.THROUGHPUT, in_flight=4)
    assert busy["PERFORMANCE_HINT"] == "THROUGHPUT"
    assert busy["PERFORMANCE_HINT_NUM_REQUESTS"] == "4"
    assert "NUM_STREAMS" not in busy
    assert of(Precision.FP32, "cpu", scenario=Scenario.THROUGHPUT, streams=2)["NUM_STREAMS"] == "2"
    assert of(Precision.FP32, "cpu", options=(("num-streams", "3"),))["NUM_STREAMS"] == "3"
    assert "NUM_STREAMS" not in of(Precision.FP16, "npu")
    for device, wrong in (("gpu", {"threads": 1}), ("npu", {"streams": 2})):
        with pytest.raises(UnsupportedError):
            of(Precision.FP16, device, **wrong)


def test_settings_reach_the_runtime(mlp: tuple[str, Engine]) -> None:
    settings = Settings(threads=1, streams=1, options=(("enable-cpu-pinning", "NO"),))
    session = BACKEND.open(mlp[1], "cpu", settings)
    compiled = session._get_compiled(pinned=True)
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("PERFORMANCE_HINT") == "LATENCY"
    assert compiled.get_property("ENABLE_CPU_PINNING") is False
    assert "threads 1" in what_ran(session).detail
    for name, wrong in (("no-such-thing", "1"), ("available_devices", "1"), ("static-shapes", "?")):
        with pytest.raises(UnsupportedError, match=name):
            BACKEND.open(mlp[1], "cpu", Settings(options=((name, wrong),)))
    with pytest.raises(UnsupportedError, match="streams"):
        BACKEND.open(mlp[1], "cpu", Settings(options=(("num_streams", "many"),)))


@pytest.mark.parametrize(
    ("mode", "batch", "compiled"),
    [("auto", 1, {True}), ("auto", 2, {True, False}), ("yes", 1, {True}), ("no", 1, {False})],
)
def test_static_shapes(mode: str, batch: int, compiled: set[bool], mlp: tuple[str, Engine]) -> None:
    source, engine = mlp
    session = BACKEND.open(engine, "cpu", Settings(options=(("static-shapes", mode),)))
    feed = random_feed(session.inputs, batch)
    assert np.allclose(infer(session, feed)["scores"], reference(source, feed)["scores"], atol=1e-4)
    assert set(session._compiled) == compiled
    assert session.inputs[0].shape[0] is None  # as declared, whatever is compiled


def test_int8_matrix_products_are_not_compiled_for_fixed_shapes_unasked(tmp_path: Path) -> None:
    engine = build(save(embedding_model(), tmp_path), NNCF, tmp_path / "engine")
    assert any("left open" in note for note in engine.notes)
    unfused = (("static-shapes", "yes"), ("snippets-mode", "DISABLE"))
    for options, pinned in (((), False), (unfused, True)):
        session = BACKEND.open(engine, "cpu", Settings(threads=1, options=options))
        feed = random_feed(session.inputs)
        want = reference(str(tmp_path / "source.onnx"), feed)
        assert cosine(infer(session, feed)["scores"], want["scores"]) > COSINE["int8"]
        assert set(session._compiled) == {pinned}


@pytest.mark.parametrize("threads", [1, 2])  # one thread: the layers are fused into one kernel
def test_fused_matrix_products_are_counted_with_their_precision(
    threads: int, mlp: tuple[str, Engine], tmp_path: Path
) -> None:
    for precision in (Precision.FP32, Precision.BF16):
        if str(precision) not in NATIVE:
            continue
        engine = build(mlp[0], Offer(precision, "source"), tmp_path / str(precision))
        session = BACKEND.open(engine, "cpu", Settings(threads=threads))
        infer(session, random_feed(session.inputs))
        executed = what_ran(session)
        assert [(share.name, share.count) for share in executed.precisions] == [(str(precision), 2)]


def test_other_open_axes_are_compiled_for_the_first_feed_when_asked(tmp_path: Path) -> None:
    from onnx import helper

    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weights = np.eye(4, 3, dtype=np.float32)
    model = small_model([node], [value("x", ["n", "s", 4])], [value("y", ["n", "s", 3])], w=weights)
    engine = build(save(model, tmp_path), FP32, tmp_path / "engine")
    plain = BACKEND.open(engine, "cpu", Settings())
    pinned = BACKEND.open(engine, "cpu", Settings(options=(("static-shapes", "yes"),)))
    for length in (5, 7, 5):
        feed = {"x": np.random.default_rng(length).random((2, length, 4), np.float32)}
        for session in (plain, pinned):
            assert np.allclose(infer(session, feed)["y"], feed["x"] @ weights, atol=1e-6)
    assert set(plain._compiled) == {False}
    assert set(pinned._compiled) == {True, False}


def test_shapes_are_pinned_only_where_the_batch_alone_is_open() -> None:
    def pins(*shapes: tuple[Any, ...], batch: int = 4) -> Any:
        inputs = [TensorSpec(f"i{n}", "float32", shape) for n, shape in enumerate(shapes)]
        return ov_device.pinning(inputs, Settings(batch=batch)).shapes

    assert pins((None, 3)) == {"i0": (4, 3)}
    assert pins((None, 3), (2, 2)) == {"i0": (4, 3), "i1": (2, 2)}
    assert pins((None, None)) is None
    assert pins((1, 3)) is None
    assert pins() is None


# -- in flight ---------------------------------------------------------------------------------


@pytest.mark.parametrize("in_flight", [1, 3])
def test_the_queue_completes_every_slot_with_the_right_outputs(
    in_flight: int, mlp: tuple[str, Engine]
) -> None:
    source, engine = mlp
    settings = Settings(scenario=Scenario.THROUGHPUT, in_flight=in_flight)
    session = BACKEND.open(engine, "cpu", settings)
    assert isinstance(session, Queue)
    feed = random_feed(session.inputs)
    with pytest.raises(UnsupportedError):
        session.bind_slots({}, in_flight)
    session.bind_slots(feed, in_flight)
    started = [0] * in_flight
    for slot in range(in_flight):
        session.start(slot)
    for _ in range(50):
        slot = session.wait_any()
        started[slot] += 1
        session.start(slot)
    for _ in range(in_flight):
        started[session.wait_any()] += 1
    assert sum(started) == 50 + in_flight
    assert all(started)
    for request in session._slots:
        got = request.get_output_tensor(0).data
        assert np.allclose(got, reference(source, feed)["scores"], atol=1e-4)
    session.close()


def test_a_failure_in_flight_is_raised(tmp_path: Path) -> None:
    from onnx import helper

    node = helper.make_node("Expand", ["x", "shape"], ["y"])
    inputs = [value("x", [1]), value("shape", [2], "int64")]
    source = save(small_model([node], inputs, [value("y", ["a", "b"])]), tmp_path)
    session = BACKEND.open(build(source, FP32, tmp_path / "engine"), "cpu", Settings())
    feed = {"x": np.ones(1, np.float32), "shape": np.array([1 << 20, 1 << 20])}
    session.bind_slots(feed, 1)
    session.start(0)
    with pytest.raises(OutOfMemoryError):
        session.wait_any()


# -- deployment --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "device", "options"),
    [
        (FP32, "cpu", ()),
        (FP32, "auto:gpu.7,cpu", ()),
        (FP32, "hetero", (("static-shapes", "no"),)),
        (NNCF, "cpu", (("static-shapes", "yes"),)),
    ],
    ids=str,
)
def test_the_deployed_script_computes_the_same(
    offer: Offer, device: str, options: Any, tmp_path: Path
) -> None:
    engine = build(save(two_inputs_two_outputs_model(), tmp_path), offer, tmp_path / "engine")
    settings = Settings(threads=1, options=options)
    folder = Path(engine.path).parent
    (folder / "deploy.py").write_text(BACKEND.deploy_code(engine, device, settings))
    session = BACKEND.open(engine, device, settings)
    for batch in (1, 2):
        feed = random_feed(session.inputs, batch)
        kept: dict[str, Any] = {"feed": feed, "want": infer(session, feed)}
        for name, arrays in kept.items():
            np.savez(folder / f"{name}{batch}.npz", **arrays)
    check = (
        "import deploy, numpy as np\n"
        "session = deploy.load()\n"
        "for batch in '12':\n"
        "    want = np.load(f'want{batch}.npz')\n"
        "    got = deploy.infer(session, dict(np.load(f'feed{batch}.npz')))\n"
        "    assert set(got) == set(want.files)\n"
        "    assert all(np.array_equal(got[name], want[name]) for name in got)\n"
        "print('same')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", check],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": "", "CI": "true"},  # CI: no telemetry
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "same\n", done.stderr


# -- the pure parts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("primitive", "precision"),
    [
        ("brgconv_avx512_f32", "fp32"),
        ("brgconv_avx512_dw_bf16", "bf16"),
        ("brgconv_avx512_I8", "int8"),
        ("brgconv_avx512_i8", "int8"),
        ("brgconv_avx512_core_amx_I8", "int8"),
        ("jit_avx2_f16", "fp16"),
        ("jit_avx2_FP32", "fp32"),
        ("jit_gemm_BF16", "bf16"),
        ("gemm_mlas_f32", "fp32"),
        ("undef_i8", "int8"),
        ("undef_bf16", "bf16"),
        ("ref_any_f32", "fp32"),
        ("fully_connected_gpu_bf_tiled__f16", "fp16"),
        ("convolution_gpu_mmad_b_fs_yx_fsv32__u8", "int8"),
        ("unknown_i32", "int32"),
        ("unknown_dynamic", None),
        ("brgconv_avx512_core_vnni", None),
        ("bf16", "bf16"),
        ("xf32", None),
        ("", None),
    ],
)
def test_the_precision_in_a_primitives_name(primitive: str, precision: str | None) -> None:
    assert ov_executed.primitive_precision(primitive) == precision


def test_compute_operations_by_layer_type() -> None:
    for layer in (
        "Convolution",
        "FullyConnected",
        "fully_connected",
        "MatMul",
        "RNNSeq",
        "LSTMCell",
    ):
        assert ov_executed.is_compute(layer)
    for layer in ("Reorder", "Eltwise", "Pooling", "Reduce", "Subgraph", "FakeQuantize", "Const"):
        assert not ov_executed.is_compute(layer)


class _Text:
    def __init__(self, text: str) -> None:
        self.text = text

    def astype(self, _: type) -> str:
        return self.text


class _Compiled:
    """A compiled model as it would be on devices that this host lacks."""

    def __init__(self, nodes: list[dict[str, str]] | None, **properties: Any) -> None:
        self.nodes, self.properties = nodes, properties

    def get_property(self, name: str) -> Any:
        if name not in self.properties:
            raise RuntimeError(f"not supported property {name}")
        return self.properties[name]

    def get_runtime_model(self) -> Any:
        if self.nodes is None:
            raise RuntimeError("not implemented")
        return self

    def get_ordered_ops(self) -> list[Any]:
        class Node:
            def __init__(self, info: dict[str, str]) -> None:
                self.info = {key: _Text(text) for key, text in info.items()}

            def get_rt_info(self) -> dict[str, _Text]:
                return self.info

            def inputs(self) -> list[Any]:
                return []

        return [Node(info) for info in self.nodes or []]


def test_executed_falls_back_to_outputs_and_says_so() -> None:
    nodes = [
        {"layerType": "Input", "primitiveType": "unknown_f32"},
        {"layerType": "Convolution", "primitiveType": "vnni", "outputPrecisions": "u8"},
        {"layerType": "Convolution", "primitiveType": "jit_f32", "runtimePrecision": "u8"},
        {"layerType": "Subgraph", "primitiveType": "jit_bf16", "originalLayersNames": "a,product"},
        {"layerType": "Subgraph", "primitiveType": "jit_f32", "originalLayersNames": "fq,product"},
        {"layerType": "Subgraph", "primitiveType": "jit_i8", "originalLayersNames": "a,b"},
        {"layerType": "Loop", "primitiveType": "unknown_f32"},
    ]
    compiled = _Compiled(nodes, EXECUTION_DEVICES=["(CPU)"])
    origin = ov_executed.Origin(frozenset({"product"}), frozenset({"fq"}))
    found = ov_executed.executed(compiled, ov_device.Target("AUTO"), origin)
    assert [(share.name, share.count) for share in found.devices] == [("cpu", 6)]
    assert {share.name: share.count for share in found.precisions} == {
        "int8": 2,
        "fp32": 1,
        "bf16": 1,
    }
    for said in ("1 primitive(s) name no precision", "2 inside fused", "1 loop"):
        assert said in found.detail


def test_executed_splits_hetero_by_operation_and_is_honest_without_a_runtime_model() -> None:
    compiled = _Compiled(None, EXECUTION_DEVICES=["GPU.0", "CPU"])
    affinity = {"conv": "GPU.0", "relu": "GPU.0", "odd": "CPU"}
    found = ov_executed.executed(
        compiled, ov_device.Target("HETERO"), ov_executed.Origin(), affinity
    )
    assert {share.name: share.count for share in found.devices} == {"gpu:0": 2, "cpu": 1}
    assert found.precisions == ()
    assert "no runtime model" in found.detail


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        (
            "Exception from a.cpp:1:\nSummary:\n-- No conversion rule found for operations: X\n",
            UnsupportedError,
            "No conversion rule found for operations: X",
        ),
        (
            'Exception from a.cpp:1:\nUnable to read the model: "a"',
            UnsupportedError,
            'Unable to read the model: "a"',
        ),
        ("Model can't be parsed", UnsupportedError, "Model can't be parsed"),
        ("std::bad_alloc", OutOfMemoryError, "std::bad_alloc"),
        (
            "Check 'ptr' failed at b.cpp:2:\nFailed to allocate 9 bytes",
            OutOfMemoryError,
            "Failed to allocate 9 bytes",
        ),
        ("Cannot load library x: y.so", UnavailableError, "Cannot load library x: y.so"),
        ("something else", None, ""),
        ("", None, ""),
    ],
)
def test_errors_by_their_text(text: str, kind: type[Exception] | None, said: str) -> None:
    found = ov_runtime.classify(text)
    assert type(found) is (kind or type(None))
    assert found is None or str(found) == said


def test_overflow_fix_is_for_x86_without_int8_dot_products() -> None:
    cpu, gpu = ov_device.parse("cpu"), ov_device.parse("gpu:0")
    avx2 = frozenset({"sse2", "avx2", "fma"})
    assert ov_compression.needs_overflow_fix(cpu, avx2)
    assert ov_compression.needs_overflow_fix(ov_device.parse("auto"), avx2)
    assert ov_compression.needs_overflow_fix(cpu, None)
    assert not ov_compression.needs_overflow_fix(gpu, avx2)
    assert not ov_compression.needs_overflow_fix(cpu, avx2 | {"avx_vnni"})
    assert not ov_compression.needs_overflow_fix(cpu, avx2 | {"avx512_vnni"})
    assert not ov_compression.needs_overflow_fix(cpu, frozenset({"asimd", "asimddp"}))


def test_transformers_are_told_from_others(tmp_path: Path) -> None:
    from onnx import helper

    rng = np.random.default_rng(0)
    weights = {name: rng.random((8, 8), np.float32) for name in ("wq", "wk", "wv")}
    scale = {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    product = helper.make_node("MatMul", ["p", "v"], ["y"])
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale", "bias"], ["n"]),
        *[helper.make_node("MatMul", ["n", f"w{c}"], [c]) for c in "qkv"],
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"]),
        product,
    ]
    x, y = value("x", ["n", "s", 8]), value("y", ["n", "s", 8])
    attention = save(small_model(nodes, [x], [y], **{**weights, **scale}), tmp_path)
    core = ov_runtime.load().Core()
    assert ov_compression.looks_like_transformer(core.read_model(attention))
    plain = save(mlp_model(), tmp_path, "plain.onnx")
    assert not ov_compression.looks_like_transformer(core.read_model(plain))
    (tmp_path / "engine").mkdir()
    feeds = [{"x": rng.random((1, 5, 8), np.float32)} for _ in range(16)]
    request = BuildRequest(attention, Precision.INT8, "nncf", "cpu", MemoryCalibration(feeds))
    engine = BACKEND.build(request, str(tmp_path / "engine"))
    assert "nncf model type transformer" in engine.notes
    session = BACKEND.open(engine, "cpu", Settings())
    feed = {"x": rng.random((2, 5, 8), np.float32)}
    assert cosine(infer(session, feed)["y"], reference(attention, feed)["y"]) > 0.97


# -- the import --------------------------------------------------------------------------------


def in_a_fresh_process(code: str, home: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_module_imports_no_runtime_and_probing_leaves_no_trace(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from backends.ov import BACKEND\n"
        "assert 'openvino' not in sys.modules and BACKEND.capabilities.offers\n"
        "probe = BACKEND.probe()\n"
        "assert probe.problem is None and probe.device('cpu'), probe\n"
        "assert dict(probe.versions)['openvino'] and 'nncf' not in sys.modules\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
    )
    assert in_a_fresh_process(code, tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_building_with_nncf_outside_of_pytest_sends_and_keeps_nothing(tmp_path: Path) -> None:
    source = save(mlp_model(), tmp_path)  # nncf stubs its own telemetry where pytest is imported
    (tmp_path / "home").mkdir()
    (tmp_path / "engine").mkdir()
    code = (
        "import sys, numpy as np\n"
        "from backends.ov import BACKEND\n"
        "from harness.backend import BuildRequest\n"
        "from harness.types import Precision\n"
        "class Samples:\n"
        "    def feeds(self):\n"
        "        yield {'features': np.ones((1, 32), np.float32)}\n"
        "    def __len__(self):\n"
        "        return 1\n"
        f"request = BuildRequest({source!r}, Precision.INT8, 'nncf', 'cpu', Samples())\n"
        f"BACKEND.build(request, {str(tmp_path / 'engine')!r})\n"
        "assert 'nncf' in sys.modules and 'openvino_telemetry' not in sys.modules\n"
    )
    assert in_a_fresh_process(code, tmp_path / "home") == ""
    assert list((tmp_path / "home").iterdir()) == []


def test_without_openvino_the_probe_says_what_to_do(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['openvino'] = None\n"
        "from backends.ov import BACKEND\n"
        "probe = BACKEND.probe()\n"
        "assert 'imported' in probe.problem and 'pip install' in probe.fix and not probe.devices\n"
    )
    assert in_a_fresh_process(code, tmp_path) == ""
