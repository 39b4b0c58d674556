"""ONNX Runtime's adapter: the contract, and what is particular to this runtime."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends.ort import BACKEND, executed, graph, openings, providers, runtime
from backends.ort.session import OrtDeviceSession, OrtSession, aligned
from harness import testing_models as models
from harness import variants
from harness.backend import BuildRequest
from harness.errors import (
    BackendError,
    OutOfMemoryError,
    UnavailableError,
    UnsupportedError,
)
from harness.testing import BackendContract, infer
from harness.types import Engine, Precision, Settings

DEMO = Path(__file__).resolve().parent.parent / "harness" / "demo"
SINGLE = Settings(threads=1)
NEWEST = (1, 32)
ON_CPU = ["CPUExecutionProvider"]

Dims = Sequence[int | str | None] | None


class TestContract(BackendContract):
    backend = BACKEND


def model(
    nodes: Sequence[Any],
    inputs: dict[str, Dims],
    outputs: dict[str, Dims],
    *,
    types: dict[str, int] | None = None,
    weights: dict[str, np.ndarray[Any, Any]] | None = None,
    imports: dict[str, int] | None = None,
) -> Any:
    """A model whose values are float32 unless ``types`` says otherwise."""

    def values(shapes: dict[str, Dims]) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, (types or {}).get(name, TensorProto.FLOAT), dims)
            for name, dims in shapes.items()
        ]

    initial = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    opsets = [helper.make_opsetid(*each) for each in (imports or {"": 17}).items()]
    made = helper.make_graph(list(nodes), "g", values(inputs), values(outputs), initial)
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


def relu(dims: Dims = ("n", 4), **more: Any) -> Any:
    return model([helper.make_node("Relu", ["x"], ["y"])], {"x": dims}, {"y": dims}, **more)


def engine(proto: Any, folder: Path, **save: Any) -> Engine:
    """The model built as fp32."""
    (folder / "source").mkdir(parents=True)
    (folder / "engine").mkdir()
    path = folder / "source" / "model.onnx"
    onnx.save_model(proto, str(path), **save)
    request = BuildRequest(str(path), Precision.FP32, "source", "cpu")
    return BACKEND.build(request, str(folder / "engine"))


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., OrtSession]]:
    """Build and open a model; closed at the end."""
    sessions: list[OrtSession] = []

    def opened(proto: Any, **settings: Any) -> OrtSession:
        built = engine(proto, tmp_path / str(len(sessions)))
        session = BACKEND.open(built, "cpu", dataclasses.replace(SINGLE, **settings))
        assert isinstance(session, OrtSession)
        sessions.append(session)
        return session

    yield opened
    for session in sessions:
        session.close()


def array(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# -- bind, run, fetch ----------------------------------------------------------------------------


def test_outputs_are_the_same_memory_while_the_shapes_are(load: Any) -> None:
    session = load(models.mlp_model())
    first = infer_views(session, {"features": array(2, 32)})
    second = infer_views(session, {"features": array(2, 32, seed=1)})
    assert np.shares_memory(first["scores"], second["scores"])
    assert first["scores"].ctypes.data % 64 == 0
    other = infer_views(session, {"features": array(3, 32)})
    assert not np.shares_memory(first["scores"], other["scores"])


def infer_views(session: OrtSession, feed: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    session.bind(feed)
    session.run()
    return session.fetch()


def test_what_is_fetched_can_be_changed_without_harm(load: Any) -> None:
    session = load(relu())
    feed = {"x": np.abs(array(2, 4))}
    session.bind(feed)
    session.run()
    session.fetch().clear()
    np.testing.assert_array_equal(session.fetch()["y"], feed["x"])


def test_memory_mapped_feeds_take_the_fast_path(load: Any, tmp_path: Path) -> None:
    session = load(relu())
    np.save(tmp_path / "x.npy", np.abs(array(2, 4)))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    session.bind({"x": array(2, 4)})
    binding = session._binding
    np.testing.assert_array_equal(infer_views(session, {"x": mapped})["y"], mapped)
    assert session._binding is binding


def test_outputs_that_depend_on_the_data_follow_it(load: Any) -> None:
    proto = model(
        [helper.make_node("NonZero", ["x"], ["where"])],
        {"x": ["n"]},
        {"where": [1, "found"]},
        types={"where": TensorProto.INT64},
    )
    session = load(proto)
    for values, where in (([0, 1, 0, 1], [1, 3]), ([1, 1, 1, 1], [0, 1, 2, 3]), ([0] * 4, [])):
        feed = {"x": np.array(values, np.float32)}
        assert infer_views(session, feed)["where"].tolist() == [where]
        session.run()
        assert session.fetch()["where"].tolist() == [where]


@pytest.mark.parametrize("declared", [["n", 2], [7, 2]])
def test_a_declared_output_shape_may_be_wrong(load: Any, declared: Dims) -> None:
    proto = model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        {"x": ["n", 4]},
        {"y": declared},
        weights={"shape": np.array([-1, 2])},
    )
    session = load(proto)
    for rows in (2, 3):
        feed = {"x": array(rows, 4)}
        np.testing.assert_array_equal(infer_views(session, feed)["y"], feed["x"].reshape(-1, 2))


def test_a_name_that_means_two_sizes_is_no_size(load: Any) -> None:
    proto = model(
        [helper.make_node("Concat", ["a", "b"], ["y"], axis=0)],
        {"a": ["n", 2], "b": ["n", 2]},
        {"y": ["n", 2]},
    )
    session = load(proto)
    feed = {"a": array(1, 2), "b": array(3, 2)}
    assert infer_views(session, feed)["y"].shape == (4, 2)


@pytest.mark.parametrize("dims", [[], None])
def test_scalars_and_unknown_ranks(load: Any, dims: Dims) -> None:
    session = load(relu(dims))
    assert infer_views(session, {"x": np.array(2, np.float32)})["y"] == 2


def test_empty_batches(load: Any) -> None:
    assert infer_views(load(relu()), {"x": array(0, 4)})["y"].shape == (0, 4)


@pytest.mark.parametrize(
    ("feed", "told"),
    [
        ({}, "lacks the input x: float32"),
        ({"x": array(2, 4), "z": array(1)}, "no input 'z'"),
        ({"x": array(2, 4).astype(np.float64)}, "x: float32.* was given float64"),
        ({"x": array(4)}, r"x: float32.*shape \[4\]"),
        ({"x": array(2, 5)}, r"x: float32.*shape \[2, 5\]"),
        ({"x": [[1.0, 2.0, 3.0, 4.0]]}, "was given list, not an array"),
        ({"x": array(2, 4).astype(">f4")}, "was given >f4"),
    ],
)
def test_a_refused_feed_leaves_nothing_to_run(load: Any, feed: Any, told: str) -> None:
    session = load(relu())
    infer(session, {"x": array(2, 4)})
    with pytest.raises(UnsupportedError, match=told):
        session.bind(feed)
    with pytest.raises(RuntimeError, match="bind a feed"):
        session.run()


def test_running_needs_a_feed_and_an_open_session(load: Any) -> None:
    session = load(relu())
    with pytest.raises(RuntimeError, match="bind a feed"):
        session.run()
    with pytest.raises(RuntimeError, match="bind a feed"):
        session.fetch()
    session.bind({"x": array(1, 4)})
    session.close()
    session.close()
    for action in (session.run, lambda: session.bind({"x": array(1, 4)})):
        with pytest.raises(RuntimeError, match="closed"):
            action()


def test_aligned_memory_of_any_shape() -> None:
    for shape in ((), (0, 3), (1,), (3, 5)):
        for dtype in ("float32", "int64", "bool", "float16"):
            memory = aligned(shape, np.dtype(dtype))
            assert memory.shape == shape
            assert memory.dtype == dtype
            assert memory.ctypes.data % 64 == 0 or memory.size == 0
            assert memory.flags.c_contiguous


def test_the_session_for_devices_rebinds_every_feed(tmp_path: Path) -> None:
    """Exercised on the CPU: what it does there is what carries a feed to another device."""
    built = engine(models.two_inputs_two_outputs_model(), tmp_path)
    how = openings.opening("cpu", SINGLE, ON_CPU, NEWEST)
    session = OrtDeviceSession(how.session(onnxruntime, built.path), how, lambda: None)
    plain = BACKEND.open(built, "cpu", SINGLE)
    for seed, batch in enumerate((1, 1, 3, 1)):
        feed = models.random_feed(session.inputs, batch, seed)
        for name, value in infer(plain, feed).items():
            np.testing.assert_allclose(infer(session, feed)[name], value, rtol=1e-6)
    with pytest.raises(UnsupportedError, match="left"):
        session.bind({})
    session.close()


# -- what ran ------------------------------------------------------------------------------------


def shares(session: OrtSession) -> dict[str, int]:
    found = session.executed
    assert found is not None
    assert [share.name for share in found.devices] == ["cpu"]
    return {share.name: share.count for share in found.precisions}


def variant(name: str, precision: Precision, source: Path, folder: Path) -> OrtSession:
    """The variant of a model, built and opened."""
    if name == "weights":
        pytest.importorskip("onnx_ir")
    path = str(folder / "variant.onnx")
    inputs, _ = models.model_specs(str(source))
    resolved = variants.resolve(name, precision, isa=frozenset(), device="cpu")
    variants.make(resolved, str(source), path, models.random_calibration(inputs))
    (folder / "engine").mkdir()
    built = BACKEND.build(BuildRequest(path, precision, name, "cpu"), str(folder / "engine"))
    session = BACKEND.open(built, "cpu", SINGLE)
    assert isinstance(session, OrtSession)
    return session


@pytest.mark.parametrize(
    ("name", "precision", "builder", "ran"),
    [
        ("qdq", Precision.INT8, models.conv_model, {"int8": 3}),
        ("qdq", Precision.INT8, models.mlp_model, {"int8": 2}),
        ("qdq-portable", Precision.INT8, models.conv_model, {"int8": 3}),
        ("dynamic", Precision.INT8_DYNAMIC, models.mlp_model, {"int8": 2}),
        ("weights", Precision.INT8_WEIGHTS, models.mlp_model, {"int8-weights": 2}),
        ("weights", Precision.INT4_WEIGHTS, models.conv_model, {"fp32": 2, "int4-weights": 1}),
        ("dynamic", Precision.INT8_DYNAMIC, models.conv_model, {"fp32": 2, "int8": 1}),
    ],
)
def test_quantized_kernels_are_seen(
    name: str, precision: Precision, builder: Any, ran: dict[str, int], tmp_path: Path
) -> None:
    source = tmp_path / "model.onnx"
    onnx.save(builder(), str(source))
    session = variant(name, precision, source, tmp_path)
    assert shares(session) == ran
    session.close()


def test_plain_models_run_in_fp32(load: Any) -> None:
    assert shares(load(models.conv_model())) == {"fp32": 3}
    assert shares(load(models.embedding_model())) == {"fp32": 2}


@pytest.mark.parametrize("builder", [models.conv_model, models.mlp_model])
def test_fp16_is_seen_as_what_its_products_run_in(builder: Any, tmp_path: Path) -> None:
    """By another way than the adapter's: the runtime's profile names each kernel's input types."""
    source = tmp_path / "model.onnx"
    onnx.save(builder(), str(source))
    session = variant("fp16", Precision.FP16, source, tmp_path)
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    profiled = onnxruntime.InferenceSession(
        str(tmp_path / "variant.onnx"), options, providers=ON_CPU
    )
    profiled.run(None, models.random_feed(session.inputs))
    assert set(shares(session)) == profile_types(Path(profiled.end_profiling()))
    assert not set(shares(session)) - {"fp16", "fp32"}
    native = BACKEND.probe().device("cpu")
    assert native is not None
    if Precision.FP16 not in native.precisions:
        assert set(shares(session)) == {"fp32"}
    session.close()


def profile_types(path: Path) -> set[str]:
    """The types that compute kernels took, by the runtime's own profile."""
    import json

    names = {"float": "fp32", "float16": "fp16"}
    found = set()
    for event in json.loads(path.read_text()):
        arguments = event.get("args", {})
        if arguments.get("op_name") in executed.COMPUTE and "input_type_shape" in arguments:
            found.add(names[next(iter(arguments["input_type_shape"][0]))])
    assert found
    return found


def test_a_quantized_model_whose_kernels_do_not_fuse_is_fp32(tmp_path: Path, load: Any) -> None:
    source = tmp_path / "model.onnx"
    onnx.save(models.conv_model(), str(source))
    session = variant("qdq", Precision.INT8, source, tmp_path)
    session.close()
    plain = load(
        onnx.load(str(tmp_path / "variant.onnx")), options=(("graph-optimization", "basic"),)
    )
    assert shares(plain) == {"fp32": 3}


def test_products_inside_branches_are_counted(load: Any) -> None:
    def body(name: str) -> Any:
        nodes = [helper.make_node("MatMul", ["x", name], [f"{name}y"])]
        return helper.make_graph(
            nodes, name, [], [helper.make_tensor_value_info(f"{name}y", 1, ["n", 4])]
        )

    proto = model(
        [helper.make_node("If", ["c"], ["y"], then_branch=body("w1"), else_branch=body("w2"))],
        {"c": [], "x": ["n", 4]},
        {"y": ["n", 4]},
        types={"c": TensorProto.BOOL},
        weights={name: array(4, 4) for name in ("w1", "w2")},
    )
    assert shares(load(proto)) == {"fp32": 2}


def test_types_are_carried_to_products_of_activations() -> None:
    node, half, single = graph.Node, executed.FLOAT16, executed.FLOAT
    body = graph.Graph(
        nodes=[
            node("Softmax", inputs=["h"], outputs=["a"]),
            node("MatMul", inputs=["a", "a"], outputs=["b"]),
            node("Cast", inputs=["b"], outputs=["c"], ints={"to": single}),
            node("MatMul", inputs=["c", "c"], outputs=["d"]),
            node("MatMul", inputs=["nowhere"], outputs=["e"]),
            node("MatMulNBits", "com.microsoft", ["d", "q"], ["f"], {"bits": 8}),
            node("MatMulInteger", inputs=["q", "q"], outputs=["g"]),
        ],
        types={"h": half, "q": 2},
    )
    operators: Counter[str] = Counter()
    precisions: Counter[str] = Counter()
    assert executed._count(body, {}, operators, precisions) == len(body.nodes)
    assert precisions == {"fp16": 1, "fp32": 1, "unknown": 1, "int8-weights": 1, "int8": 1}


def test_an_older_runtime_is_judged_by_its_only_provider(tmp_path: Path) -> None:
    how = openings.opening("cpu", SINGLE, ON_CPU, NEWEST)
    body = graph.Graph([graph.Node("Relu")], {})
    told = executed._told(body, Counter(), how, [])
    assert told is not None
    assert [(share.name, share.count) for share in told.devices] == [("cpu", 1)]
    open_to_others = openings.opening(
        "gpu:0",
        Settings(options=(("cpu-fallback", "on"),)),
        ["CUDAExecutionProvider"],
        NEWEST,
    )
    assert executed._told(body, Counter(), open_to_others, []) is None
    missing = str(tmp_path / "missing.onnx")
    assert executed.examine(onnxruntime, missing, how) is None


# -- how it is opened ----------------------------------------------------------------------------


def entries(version: tuple[int, int] = NEWEST, **options: str) -> dict[str, str]:
    chosen = tuple((name.replace("_", "-"), value) for name, value in options.items())
    return dict(openings.opening("cpu", Settings(options=chosen), ON_CPU, version).entries)


def test_idle_threads_stop_spinning() -> None:
    duration, stop = "session.intra_op.spin_duration_us", "session.force_spinning_stop"
    assert entries() == {duration: "200"}
    assert entries((1, 19)) == {duration: "200", stop: "1"}
    assert entries(spin="50") == {duration: "50"}
    assert entries(spin="0") == {"session.intra_op.allow_spinning": "0"}
    assert entries(spin="default") == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spin", "-1"),
        ("spin", "fast"),
        ("graph-optimization", "most"),
        ("tf32", "1"),
        ("cpu-fallback", "yes"),
        ("threadz", "1"),
    ],
)
def test_options_that_mean_nothing_are_refused(name: str, value: str) -> None:
    with pytest.raises(UnsupportedError, match=name):
        openings.opening("cpu", Settings(options=((name, value),)), ON_CPU, NEWEST)


def test_levels_are_those_of_the_runtime() -> None:
    for level, member in openings.LEVELS.items():
        how = openings.opening(
            "cpu", Settings(options=(("graph-optimization", level),)), ON_CPU, NEWEST
        )
        options = how.options(onnxruntime)
        wanted = getattr(onnxruntime.GraphOptimizationLevel, member)
        assert options.graph_optimization_level == wanted


def test_a_gpu_may_not_fall_back_to_the_cpu_unless_told_to() -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    strict = openings.opening("gpu:1", Settings(), providers, NEWEST)
    assert strict.providers == [("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"})]
    assert ("session.disable_cpu_ep_fallback", "1") in strict.entries
    options = (("cpu-fallback", "on"), ("tf32", "on"))
    loose = openings.opening("gpu:1", Settings(options=options), providers, NEWEST)
    assert loose.providers == [("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "1"})]
    assert ("session.disable_cpu_ep_fallback", "1") not in loose.entries


@pytest.mark.parametrize("device", ["gpu:0", "npu", "cpu:1", "gpu:x", "toaster"])
def test_devices_that_are_not_here_are_unavailable(device: str) -> None:
    providers = ON_CPU if device != "gpu:x" else ["CUDAExecutionProvider"]
    with pytest.raises(UnavailableError, match=device):
        openings.opening(device, Settings(), providers, NEWEST)


def test_a_provider_that_is_not_taken_is_an_error(tmp_path: Path) -> None:
    """The package drops an unknown provider with a warning and would run on the CPU."""
    built = engine(relu(), tmp_path)
    how = openings.opening("gpu:0", Settings(), ["CUDAExecutionProvider"], NEWEST)
    with pytest.warns(UserWarning, match="CUDA"), pytest.raises(UnavailableError, match="took CPU"):
        how.session(onnxruntime, built.path)


# -- build ---------------------------------------------------------------------------------------


def test_external_data_belongs_to_the_engine(tmp_path: Path) -> None:
    built = engine(
        models.mlp_model(),
        tmp_path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert built.files == ("model.onnx", "weights.bin")
    source = tmp_path / "source" / "weights.bin"
    assert built.size_bytes > source.stat().st_size
    source.unlink()
    session = BACKEND.open(built, "cpu", SINGLE)
    assert infer(session, {"features": array(1, 32)})["scores"].shape == (1, 8)
    found = session.executed
    assert found is not None
    assert found.share("fp32") == 1
    session.close()


@pytest.mark.parametrize("location", ["../weights.bin", "/weights.bin"])
def test_data_outside_the_models_folder_are_refused(location: str, tmp_path: Path) -> None:
    proto = models.mlp_model()
    tensor = proto.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    with pytest.raises(UnsupportedError, match="outside its folder"):
        engine(proto, tmp_path)


def test_the_engine_outlives_changes_of_the_source(tmp_path: Path) -> None:
    built = engine(relu(), tmp_path)
    (tmp_path / "source" / "model.onnx").write_bytes(b"")
    BACKEND.open(built, "cpu", SINGLE).close()


def test_only_what_is_offered_is_built(tmp_path: Path) -> None:
    request = BuildRequest(str(tmp_path / "m.onnx"), Precision.FP16, "source", "cpu")
    with pytest.raises(UnsupportedError, match="fp16"):
        BACKEND.build(request, str(tmp_path))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A model in ONNX Runtime's format, as ONNX Runtime itself writes it."""
    onnx.save(models.conv_model(), str(tmp_path / "net.onnx"))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "net.ort")
    onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), options, providers=ON_CPU)
    return tmp_path / "net.ort"


def as_is(path: Path, folder: Path) -> Engine:
    folder.mkdir()
    return BACKEND.build(BuildRequest(str(path), Precision.AS_IS, "as-is", "cpu"), str(folder))


@pytest.mark.parametrize("suffix", [".ort", ".onnx"])
def test_a_users_engine_computes_what_onnx_runtime_by_hand_does(
    suffix: str, own: Path, tmp_path: Path
) -> None:
    path = own.with_suffix(suffix)
    built = as_is(path, tmp_path / "engine")
    assert built.files == (path.name,)
    assert Path(built.path).read_bytes() == path.read_bytes()
    session = BACKEND.open(built, "cpu", SINGLE)
    assert isinstance(session, OrtSession)
    feed = models.random_feed(session.inputs, 2)
    by_hand = onnxruntime.InferenceSession(str(path), providers=ON_CPU).run(["scores"], feed)
    np.testing.assert_array_equal(infer(session, feed)["scores"], by_hand[0])
    assert shares(session) == {"fp32": 3}
    session.close()
    script = Path(built.path).with_name("deployed.py")
    script.write_text(BACKEND.deploy_code(built, "cpu", SINGLE))
    np.save(script.with_name("image.npy"), feed["image"])
    run = "import deployed as d, numpy as np; feed = {'image': np.load('image.npy')}"
    run += "; np.save('got.npy', d.infer(d.load(), feed)['scores'])"
    subprocess.run([sys.executable, "-c", run], cwd=script.parent, check=True)
    np.testing.assert_array_equal(np.load(script.with_name("got.npy")), by_hand[0])


@pytest.mark.parametrize("fallback", ["off", "on"])
@pytest.mark.parametrize("suffix", [".ort", ".onnx"])
def test_what_the_cpu_runs_for_another_device_is_refused_in_both_formats(
    suffix: str, fallback: str, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Azure's provider takes none of these nodes; of a .ort file the runtime lets all pass."""
    azure = "AzureExecutionProvider"
    if azure not in onnxruntime.get_available_providers():
        pytest.skip(f"no {azure}")
    monkeypatch.setitem(providers.PROVIDERS, "npu", (azure,))
    built = as_is(own.with_suffix(suffix), tmp_path / "engine")
    settings = Settings(threads=1, options=(("cpu-fallback", fallback),))
    with pytest.raises(UnsupportedError, match="verified" if suffix == ".ort" else "CPU"):
        BACKEND.open(built, "npu", settings)


def test_a_users_onnx_brings_the_files_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()

    def compiled(context: bytes | str, embed_mode: int) -> Any:
        attributes = {"ep_cache_context": context, "embed_mode": embed_mode}
        node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", **attributes)
        return model([node], {"x": [1]}, {"y": [1]}, imports={"com.microsoft": 1})

    path = tmp_path / "own" / "net_ctx.onnx"
    path.with_name("net_ctx.bin").write_bytes(b"engine")
    onnx.save(compiled("net_ctx.bin", 0), str(path))
    assert as_is(path, tmp_path / "engine").files == ("net_ctx.onnx", "net_ctx.bin")
    assert (tmp_path / "engine" / "net_ctx.bin").read_bytes() == b"engine"
    onnx.save(compiled(b"\xff\xfe", 1), str(path))  # the engine itself
    assert as_is(path, tmp_path / "embedded").files == ("net_ctx.onnx",)


def test_a_users_engine_of_another_release_or_none_is_told(own: Path, tmp_path: Path) -> None:
    whole = own.read_bytes()
    newer = tmp_path / "newer.ort"
    at = whole.index(b"\x01\x00\x00\x006\x00") + 4  # the version of the format, a string
    newer.write_bytes(whole[:at] + b"9" + whole[at + 1 :])
    with pytest.raises(UnsupportedError, match=r"version \[9\] is not supported") as caught:
        BACKEND.open(as_is(newer, tmp_path / "newer"), "cpu", SINGLE)
    assert "this onnxruntime" in str(caught.value.fix)
    cut = tmp_path / "cut.ort"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BackendError, match="damaged"):
        BACKEND.open(as_is(cut, tmp_path / "cut"), "cpu", SINGLE)
    for name, told in (("junk.ort", "not in ONNX Runtime's format"), ("junk.onnx", "not an ONNX")):
        (tmp_path / name).write_bytes(b"not an engine" * 9)
        with pytest.raises(BackendError, match=told):
            as_is(tmp_path / name, tmp_path / name.replace(".", "-"))


@pytest.mark.parametrize("builder", [*models.MODELS.values(), relu])
def test_the_reader_agrees_with_onnx(builder: Any, tmp_path: Path) -> None:
    proto = builder()
    onnx.save(proto, str(tmp_path / "m.onnx"))
    read = graph.read(str(tmp_path / "m.onnx"))
    assert [(n.op, n.inputs, n.outputs) for n in read.graph.nodes] == [
        (n.op_type, list(n.input), list(n.output)) for n in proto.graph.node
    ]
    wanted = {t.name: t.data_type for t in proto.graph.initializer}
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        wanted[value.name] = value.type.tensor_type.elem_type
    assert read.graph.types == wanted
    assert read.external == []


def test_a_truncated_or_damaged_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    whole = models.conv_model().SerializeToString()
    rng = np.random.default_rng(0)
    path = tmp_path / "m.onnx"
    faults = 0
    for _ in range(200):
        damaged = bytearray(whole[: int(rng.integers(1, len(whole)))])
        damaged[int(rng.integers(len(damaged)))] ^= 0xFF
        path.write_bytes(damaged)
        try:
            graph.read(str(path))
        except ValueError:
            faults += 1
    assert faults > 100


# -- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proto", "told"),
    [
        (
            model(
                [helper.make_node("Foo", ["x"], ["y"], domain="acme")],
                {"x": ["n", 4]},
                {"y": ["n", 4]},
                imports={"": 17, "acme": 1},
            ),
            "acme:Foo",
        ),
        (
            model([helper.make_node("Foo", ["x"], ["y"])], {"x": ["n"]}, {"y": ["n"]}),
            "No Op registered for Foo",
        ),
        (relu(imports={"": 99}), "opset 99|opset"),
        (
            model(
                [helper.make_node("Sin", ["x"], ["y"])],
                {"x": ["n"]},
                {"y": ["n"]},
                types={"x": TensorProto.BFLOAT16, "y": TensorProto.BFLOAT16},
                imports={"": 22},
            ),
            "Could not find an implementation for Sin",
        ),
        (
            model(
                [helper.make_node("Identity", ["x"], ["y"])],
                {"x": ["n"]},
                {"y": ["n"]},
                types={"x": TensorProto.STRING, "y": TensorProto.STRING},
            ),
            r"input x is tensor\(string\)",
        ),
    ],
    ids=["domain", "operator", "opset", "kernel", "strings"],
)
def test_what_the_runtime_lacks_is_unsupported(proto: Any, told: str, tmp_path: Path) -> None:
    built = engine(proto, tmp_path)
    with pytest.raises(UnsupportedError, match=told):
        BACKEND.open(built, "cpu", SINGLE)


@pytest.mark.parametrize("known", [True, False], ids=["ours", "the-runtimes"])
def test_memory_that_is_refused_is_out_of_memory(load: Any, known: bool) -> None:
    """The output's memory is allocated by us where its shape is known, else by the runtime."""
    huge = np.array([1 << 22, 1 << 22])
    proto = model(
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        {"x": [1, 1]} if known else {"x": [1, 1], "shape": [2]},
        {"y": ["a", "b"]},
        types={"shape": TensorProto.INT64},
        weights={"shape": huge} if known else {},
    )
    session = load(proto)
    feed = {"x": array(1, 1)} if known else {"x": array(1, 1), "shape": huge}
    with pytest.raises(OutOfMemoryError, match="allocate"):
        infer(session, feed)


def test_other_faults_stay_what_they_are(load: Any, tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        {"x": ["n", 4], "shape": [1]},
        {"y": ["m"]},
        types={"shape": TensorProto.INT64},
    )
    session = load(proto)
    session.bind({"x": array(1, 4), "shape": np.array([3])})
    with pytest.raises(RuntimeError, match="Reshape"):
        session.run()
    with pytest.raises(Exception, match=r"doesn't exist|NO_SUCHFILE") as caught:
        BACKEND.open(Engine(str(tmp_path / "none.onnx"), ("none.onnx",), 0), "cpu", SINGLE)
    assert not isinstance(caught.value, BackendError)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA failure 2: out of memory ; GPU=0", OutOfMemoryError),
        ("std::bad_alloc", OutOfMemoryError),
        ("CUDA failure 101: invalid device ordinal", UnavailableError),
        ("CUDA failure 35: CUDA driver version is insufficient", UnavailableError),
        (
            "This session contains graph nodes that are assigned to the default CPU EP",
            UnsupportedError,
        ),
        ("CUDA failure 700: an illegal memory access", RuntimeError),
    ],
)
def test_texts_that_other_devices_give(text: str, kind: type[Exception]) -> None:
    assert type(runtime.classified(RuntimeError(text), "gpu:0")) is kind


# -- probe ---------------------------------------------------------------------------------------


def test_the_tiny_model_is_valid() -> None:
    proto = onnx.load_from_string(openings.TINY_MODEL)
    onnx.checker.check_model(proto, full_check=True)
    assert [node.op_type for node in proto.graph.node] == ["Add"]


def test_a_missing_runtime_is_a_problem_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    probe = BACKEND.probe()
    assert probe.problem is not None
    assert "can't be imported" in probe.problem
    assert probe.fix == 'pip install "enginepick[onnxruntime]"'
    with pytest.raises(UnavailableError):
        BACKEND.open(Engine("m.onnx", ("m.onnx",), 1), "cpu", SINGLE)


def test_a_broken_runtime_is_a_problem_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = SimpleNamespace(set_default_logger_severity=lambda _: None)
    monkeypatch.setitem(sys.modules, "onnxruntime", broken)  # such as an empty folder of that name
    probe = BACKEND.probe()
    assert probe.problem is not None
    assert probe.fix


def test_a_provider_that_is_only_built_in_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = ["CUDAExecutionProvider", "QNNExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: claimed)
    with pytest.warns(UserWarning, match="not in available"):
        probe = BACKEND.probe()
    assert [device.id for device in probe.devices] == ["cpu"]


# -- deployment ----------------------------------------------------------------------------------


def test_the_script_opens_with_the_same_options(tmp_path: Path) -> None:
    built = engine(models.conv_model(), tmp_path)
    settings = Settings(threads=2, options=(("graph-optimization", "basic"), ("spin", "0")))
    code = BACKEND.deploy_code(built, "cpu", settings)
    script = Path(built.path).with_name("deployed.py")
    script.write_text(code)
    driver = (
        "import deployed; o = deployed.load().get_session_options();"
        "print(o.intra_op_num_threads, o.inter_op_num_threads, o.graph_optimization_level.name,"
        " o.get_session_config_entry('session.intra_op.allow_spinning'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", driver],
        cwd=script.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["2", "1", "ORT_ENABLE_BASIC", "0"]


# -- the demo ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("source", Precision.FP32),
        ("fp16", Precision.FP16),
        ("qdq", Precision.INT8),
        ("qdq-portable", Precision.INT8),
        ("dynamic", Precision.INT8_DYNAMIC),
        ("weights", Precision.INT8_WEIGHTS),
        ("weights", Precision.INT4_WEIGHTS),
    ],
)
def test_the_demo_keeps_its_accuracy(name: str, precision: Precision, tmp_path: Path) -> None:
    source = DEMO / "digits.onnx"
    with np.load(DEMO / "digits.npz") as data:
        images, labels = data["image"], data["labels"]
    held = models.MemoryCalibration([{"image": images[i : i + 1]} for i in range(100)])
    path = str(source)
    if name == "weights":
        pytest.importorskip("onnx_ir")
    if name != "source":
        path = str(tmp_path / "variant.onnx")
        resolved = variants.resolve(name, precision, isa=frozenset(), device="cpu")
        variants.make(resolved, str(source), path, held)
    (tmp_path / "engine").mkdir()
    built = BACKEND.build(BuildRequest(path, precision, name, "cpu"), str(tmp_path / "engine"))
    session = BACKEND.open(built, "cpu", SINGLE)
    logits = infer(session, {"image": images[100:]})["logits"]
    session.close()
    assert np.mean(logits.argmax(axis=1) == labels[100:]) > 0.97
