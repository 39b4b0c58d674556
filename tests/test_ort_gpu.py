"""ONNX Runtime on NVIDIA GPUs: against a fake of the runtime, and its plug-in for real."""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from fake_nvidia_ort import CPU, CUDA, RTX, TENSORRT, FakeOrt
from onnx import TensorProto, helper

from backends.ort import BACKEND, openings, providers, runtime
from backends.ort.cuda import OrtCudaSession
from harness import testing_models as models
from harness.backend import BuildRequest, DeviceTimed
from harness.errors import (
    BackendError,
    OutOfMemoryError,
    UnavailableError,
    UnsupportedError,
)
from harness.testing import infer
from harness.types import Engine, Precision, Settings

BUILTIN = [TENSORRT, CUDA, CPU]
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
VERSION = (1, 32)
DRIVER_TOO_OLD = (
    "/onnxruntime_src/a.cc:63 static A A::FromProviderOptions(const B&) [ONNXRuntimeError] : 1 : "
    'FAIL : Failed to parse provider option "device_id": CUDA failure 35: CUDA driver version is '
    "insufficient for CUDA runtime version ; GPU=-1 ; hostname=vm ; file=b.cc"
)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., FakeOrt]:
    """Install a fake runtime; ``plugin`` with TensorRT-RTX's package beside it."""

    def install(builtin: list[str] = BUILTIN, *, plugin: bool = False, **more: Any) -> FakeOrt:
        fake = FakeOrt(builtin, **more)
        monkeypatch.setitem(sys.modules, "onnxruntime", fake)
        monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
        monkeypatch.setattr(providers, "DRIVER", "libc.so.6")
        monkeypatch.delitem(sys.modules, PLUGIN, raising=False)
        monkeypatch.setitem(providers.PLUGINS, RTX, PLUGIN if plugin else "no_such_module")
        if plugin:
            (tmp_path / "site").mkdir()
            module = tmp_path / "site" / f"{PLUGIN}.py"
            module.write_text("def get_library_path():\n    return '/there/lib.so'\n")
            monkeypatch.syspath_prepend(str(tmp_path / "site"))
        return fake

    yield install
    sys.modules.pop(PLUGIN, None)
    os.environ.pop("NVIDIA_TF32_OVERRIDE", None)


def build(proto: Any, folder: Path) -> Engine:
    (folder / "engine").mkdir()
    onnx.save(proto, str(folder / "model.onnx"))
    request = BuildRequest(str(folder / "model.onnx"), Precision.FP32, "source", "gpu:0")
    return BACKEND.build(request, str(folder / "engine"))


@pytest.fixture
def two(tmp_path: Path) -> Engine:
    return build(models.two_inputs_two_outputs_model(), tmp_path)


def opened(engine: Engine, device: str = "gpu:0", **options: str) -> OrtCudaSession:
    session = BACKEND.open(engine, device, chosen(**options))
    assert isinstance(session, OrtCudaSession)
    return session


def chosen(**options: str) -> Settings:
    return Settings(
        threads=1, options=tuple((name.replace("_", "-"), value) for name, value in options.items())
    )


def expected(engine: Engine, feed: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(engine.path, providers=[CPU])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def assert_right(engine: Engine, session: Any, batch: int, seed: int) -> None:
    feed = models.random_feed(session.inputs, batch, seed)
    want = expected(engine, feed)
    got = infer(session, feed)
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-6)


# -- which provider ------------------------------------------------------------------------------


def options_of(provider: str, builtin: list[str] = BUILTIN, **options: str) -> Any:
    settings = chosen(provider=provider, **options)
    return openings.opening("gpu:1", settings, [*builtin, RTX], VERSION)


def test_the_providers_get_what_their_documentation_names() -> None:
    cuda = options_of("cuda", cuda_graph="on")
    graph = {"device_id": "1", "use_tf32": "0", "enable_cuda_graph": "1"}
    assert cuda.providers == [(CUDA, graph)]
    assert cuda.environment == (("NVIDIA_TF32_OVERRIDE", "0"),)
    assert options_of("cuda", tf32="on").environment == (("NVIDIA_TF32_OVERRIDE", None),)
    assert options_of("cuda", tf32="on").provider_options[-1] == ("use_tf32", "1")
    trt = options_of("tensorrt")
    rest = (CUDA, {"device_id": "1", "use_tf32": "0"})
    assert trt.providers == [(TENSORRT, {"device_id": "1"}), rest]
    assert trt.environment == (("NVIDIA_TF32_OVERRIDE", "0"),)
    assert not trt.cuda_graph
    graphed = options_of("tensorrt", cuda_graph="on", tf32="on")
    assert graphed.providers == [(TENSORRT, {"device_id": "1", "trt_cuda_graph_enable": "1"})]
    assert graphed.environment == (("NVIDIA_TF32_OVERRIDE", None),)
    assert options_of("tensorrt", [TENSORRT, CPU]).companions == ()
    rtx = options_of("tensorrt-rtx", cuda_graph="on")
    assert rtx.provider_options == (("enable_cuda_graph", "1"),)
    assert rtx.cuda_graph
    assert (cuda.place, rtx.place) == (("cuda", 1), ("gpu", 1, 0x10DE))
    for each in (cuda, trt, graphed, rtx):
        assert each.confined
        assert not options_of("cuda", cpu_fallback="on").confined


@pytest.mark.parametrize(
    ("device", "options", "kind", "told"),
    [
        ("gpu:0", {"provider": "trt"}, UnsupportedError, "it is cuda, tensorrt, tensorrt-rtx"),
        ("cpu", {"provider": "cuda"}, UnsupportedError, "provider=cuda is for a gpu"),
        ("cpu", {"cuda_graph": "on"}, UnsupportedError, "no NVIDIA GPU"),
        ("gpu:0", {"cuda_graph": "yes"}, UnsupportedError, "cuda-graph"),
        ("gpu:0", {"provider": "tensorrt-rtx"}, UnavailableError, "has no tensorrt-rtx"),
    ],
)
def test_choices_that_can_not_be_are_refused(
    device: str, options: dict[str, str], kind: type[BackendError], told: str
) -> None:
    with pytest.raises(kind, match=told) as caught:
        openings.opening(device, chosen(**options), BUILTIN, VERSION)
    if kind is UnavailableError:
        assert "tensorrt-rtx-ep" in str(caught.value.fix)


def test_the_first_usable_provider_is_taken_and_every_choice_can_be_made(
    pretend: Any, two: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    fake = pretend(plugin=True)
    taken = {}
    for choice in (None, "cuda", "tensorrt", "tensorrt-rtx"):
        session = opened(two, **({} if choice is None else {"provider": choice}))
        taken[choice] = fake.sessions[-1].taken
        assert_right(two, session, 2, 0)
        session.close()
    assert taken == {
        None: [CUDA],
        "cuda": [CUDA],
        "tensorrt": [TENSORRT, CUDA],
        "tensorrt-rtx": [RTX],
    }
    assert fake.registered == {RTX: "/there/lib.so"}
    assert fake.preloaded
    assert capfd.readouterr() == ("", "")


def test_of_providers_one_whose_library_is_missing_is_passed_over(
    pretend: Any, two: Engine
) -> None:
    fake = pretend(broken={CUDA: "libcudnn.so.9: cannot open shared object file"})
    session = opened(two)
    assert session.executed is not None
    assert fake.sessions[-1].taken == [TENSORRT]
    assert f"PROVIDER = '{TENSORRT}'" in BACKEND.deploy_code(two, "gpu:0", Settings())
    with pytest.raises(UnavailableError, match=r"libcudnn.so.9: cannot open") as caught:
        opened(two, provider="cuda")
    assert caught.value.fix == 'pip install "onnxruntime-gpu[cuda,cudnn]"'
    assert fake.severity == runtime.QUIET


def test_passing_over_a_provider_loads_the_model_once_and_looks_for_plug_ins_once(
    pretend: Any, two: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = pretend(broken={CUDA: "libcudnn.so.9"})
    asked = []

    def looked(module: str) -> None:
        asked.append(module)

    monkeypatch.setattr(importlib.util, "find_spec", looked)
    opened(two)
    assert asked == ["no_such_module"]
    whole = [session.asked[0][0] for session in fake.sessions if session.model == two.path]
    assert whole == [CUDA, TENSORRT]
    BACKEND.open(two, "cpu", Settings(threads=1)).close()
    assert len(asked) == 1


def test_what_the_runtime_logs_while_it_drops_a_provider_reaches_no_terminal(
    pretend: Any, two: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    pretend([CUDA, CPU], broken={CUDA: "libcublasLt.so.12: cannot open shared object file"})
    for fallback in ("off", "on"):
        with pytest.raises(UnavailableError, match="libcublasLt"):
            opened(two, provider="cuda", cpu_fallback=fallback)
    assert capfd.readouterr() == ("", "")


def test_where_no_provider_works_the_preferred_one_says_why(pretend: Any, two: Engine) -> None:
    pretend(broken={CUDA: "libcudnn.so.9", TENSORRT: "libnvinfer.so.10"})
    with pytest.raises(UnavailableError, match=r"CUDA.*libcudnn"):
        opened(two)


@pytest.mark.parametrize("choice", ["cuda", "tensorrt"])
def test_tf32_is_what_was_asked_for_last(pretend: Any, two: Engine, choice: str) -> None:
    """A trial, an earlier session or the user's shell may have forbidden it in this process."""
    pretend()
    for tf32, value in (("off", "0"), ("on", None)):
        found = opened(two, provider=choice, tf32=tf32).executed
        assert os.environ.get("NVIDIA_TF32_OVERRIDE") == value
        assert found is not None
        assert f"NVIDIA_TF32_OVERRIDE={value or 'unset'}" in found.detail


# -- probing -------------------------------------------------------------------------------------


def test_a_gpu_offers_int8_only_where_tensorrt_compiles_for_it(
    pretend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import backends.ort as adapter

    monkeypatch.setattr(adapter, "_nvidia_models", lambda: {"NVIDIA L4"})
    monkeypatch.setattr(adapter, "_MOST_DEVICES", 2)
    pretend([CUDA, CPU])
    found = BACKEND.probe().device("gpu:0")
    assert found is not None
    assert (found.name, found.precisions) == (
        "NVIDIA L4 (cuda)",
        (Precision.FP32, Precision.FP16),
    )
    pretend(broken={CUDA: "libcudnn.so.9"})
    found = BACKEND.probe().device("gpu:1")
    assert found is not None
    assert found.name == "NVIDIA L4 (tensorrt)"
    assert Precision.INT8 in found.precisions


def test_the_plug_in_finds_as_many_gpus_as_there_are(pretend: Any, two: Engine) -> None:
    fake = pretend([CPU], plugin=True, gpus=2)
    devices = [each.id for each in BACKEND.probe().devices]
    assert devices == ["cpu", "gpu:0", "gpu:1"]
    opened(two, "gpu:1").close()
    (device, options) = fake.sessions[-1].options.attached[0]
    assert device.ep_options == {"device_id": "1"}
    assert options == {}
    for _ in range(2):
        with pytest.raises(UnavailableError, match="finds 2 GPUs"):
            opened(two, "gpu:2")


def test_a_plug_in_that_finds_no_gpu_says_so_each_time(pretend: Any, two: Engine) -> None:
    """Its library stays registered, and registering it again is a fault of its own."""
    pretend([CPU], plugin=True, gpus=0)
    for _ in range(2):
        with pytest.raises(UnavailableError, match="finds 0 GPUs"):
            opened(two)
    assert [each.id for each in BACKEND.probe().devices] == ["cpu"]


def test_without_a_driver_the_plug_in_is_not_even_imported(
    pretend: Any, monkeypatch: pytest.MonkeyPatch, two: Engine
) -> None:
    pretend([CPU], plugin=True)
    monkeypatch.setattr(providers, "DRIVER", "libno-such-driver.so.1")
    with pytest.raises(UnavailableError, match="needs NVIDIA's driver") as caught:
        opened(two)
    assert "nvidia-smi" in str(caught.value.fix)
    assert PLUGIN not in sys.modules
    assert [each.id for each in BACKEND.probe().devices] == ["cpu"]


def test_a_plug_in_that_does_not_load_is_unavailable(pretend: Any, two: Engine) -> None:
    pretend([CPU], plugin=True, broken={RTX: "libcudart.so.13: cannot open"})
    with pytest.raises(UnavailableError, match="libcudart"):
        opened(two)


# -- where the nodes run -------------------------------------------------------------------------


def test_nodes_that_would_run_on_the_cpu_are_refused_by_name(pretend: Any, two: Engine) -> None:
    fake = pretend([CUDA, CPU], lacks={CUDA: {"MatMul", "Gemm"}})
    with pytest.raises(UnsupportedError, match=r"(Gemm|MatMul) \w+") as caught:
        opened(two)
    assert "cpu-fallback=on" in str(caught.value.fix)
    with pytest.raises(UnsupportedError, match="products; they went to CPU"):
        opened(two, cpu_fallback="on")
    fake.lacks[CUDA] = {"Sigmoid"}
    session = opened(two, cpu_fallback="on")
    found = session.executed
    assert found is not None
    assert {share.name for share in found.devices} == {"cpu", "gpu:0"}


def test_nodes_inside_of_branches_are_verified_too(pretend: Any, two: Engine) -> None:
    """The runtime's own check passes these."""
    operators = {"MatMul", "Gemm"}
    pretend([CUDA, CPU], lacks={CUDA: operators}, inside=operators)
    with pytest.raises(UnsupportedError, match="would run on the CPU"):
        opened(two)


def test_what_tensorrt_leaves_to_cuda_is_told_and_all_of_it_is_refused(
    pretend: Any, two: Engine
) -> None:
    fake = pretend(lacks={TENSORRT: {"Sigmoid"}})
    found = opened(two, provider="tensorrt").executed
    assert found is not None
    assert {share.name for share in found.devices} == {"gpu:0"}
    assert found.precisions == ()  # unknown, which is not replaced
    assert "1 nodes to CUDAExecutionProvider" in found.detail
    assert "strongly typed" in found.detail
    assert "NVIDIA_TF32_OVERRIDE=0" in found.detail
    fake.lacks[TENSORRT] = {"Gemm", "MatMul", "FusedGemm", "FusedMatMul"}
    with pytest.raises(UnsupportedError, match="none of the model's products; they went to CUDA"):
        opened(two, provider="tensorrt")


def test_q_dq_on_cuda_is_told_to_be_floating_point(pretend: Any, tmp_path: Path) -> None:
    """Also what TensorRT leaves to CUDA, such as zero points that aren't zero."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    weights = [
        helper.make_tensor("s", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("z", TensorProto.INT8, [], [0]),
    ]
    body = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    pretend(lacks={TENSORRT: {"QuantizeLinear", "DequantizeLinear"}})
    engine = build(proto, tmp_path)
    found = opened(engine).executed
    assert found is not None
    assert "provider=tensorrt" in found.detail
    with pytest.raises(UnsupportedError, match="none of the model's Q/DQ nodes"):
        opened(engine, provider="tensorrt")


def test_where_the_nodes_of_an_ort_file_run_can_not_be_verified(
    pretend: Any, two: Engine, tmp_path: Path
) -> None:
    """The runtime's own check passes them, and it lists none of them."""
    own = tmp_path / "net.ort"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(own)
    onnxruntime.InferenceSession(two.path, options, providers=[CPU])
    pretend([CUDA, CPU], lacks={CUDA: {"MatMul", "Gemm"}})
    for fallback in ("off", "on"):
        with pytest.raises(UnsupportedError, match="can't be verified") as caught:
            opened(Engine(str(own), (own.name,), 1), cpu_fallback=fallback)
        assert ".onnx" in str(caught.value.fix)


@pytest.mark.parametrize("choice", ["cuda", "tensorrt", "tensorrt-rtx"])
def test_a_runtime_that_does_not_tell_where_nodes_run_is_too_old(
    pretend: Any, two: Engine, choice: str
) -> None:
    pretend(plugin=True, assigns=False)
    with pytest.raises(UnavailableError, match="can't be verified") as caught:
        opened(two, provider=choice)
    assert "1.24.1" in str(caught.value.fix)


# -- bind, run, fetch ----------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["cuda", "tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("graph", ["off", "on"])
def test_shapes_may_change_with_and_without_a_graph(
    pretend: Any, two: Engine, choice: str, graph: str
) -> None:
    fake = pretend(plugin=True)
    session = opened(two, provider=choice, cuda_graph=graph)
    found = session.executed
    assert found is not None
    assert ("a CUDA graph was asked for" in found.detail) == (graph == "on")
    before = len(fake.sessions)
    for seed, batch in enumerate((1, 1, 3, 3, 1)):
        assert_right(two, session, batch, seed)
    assert len(fake.sessions) - before == (2 if graph == "on" else 0)
    with pytest.raises(UnsupportedError, match="left"):
        session.bind({})
    assert_right(two, session, 1, 9)
    session.close()
    with pytest.raises(RuntimeError, match="closed"):
        session.bind({})


def test_run_computes_on_the_device_and_leaves_copying_to_bind_and_fetch(
    pretend: Any, two: Engine
) -> None:
    pretend()
    session = opened(two)
    feed = models.random_feed(session.inputs, 2)
    session.bind(feed)
    binding = session._binding
    assert set(binding.places.values()) == {("cuda", 0)}
    session.bind(models.random_feed(session.inputs, 2, 1))
    assert session._binding is binding
    session.run()
    assert binding.synchronized == 1
    first = session.fetch()
    kept = {name: value.copy() for name, value in first.items()}
    session.bind(feed)
    session.run()
    assert all(np.array_equal(first[name], kept[name]) for name in kept)
    assert not isinstance(session, DeviceTimed)  # no events in Python, so no parts by events


def test_outputs_of_unknown_shape_stay_on_the_device_too(pretend: Any, tmp_path: Path) -> None:
    node = helper.make_node("NonZero", ["x"], ["where"])
    found = [1, "found"]
    body = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("where", TensorProto.INT64, found)],
    )
    proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    engine = build(proto, tmp_path)
    pretend([CUDA, CPU])
    session = opened(engine)
    for values, where in (([0, 1, 0, 1], [1, 3]), ([1, 1, 1, 1], [0, 1, 2, 3]), ([0] * 4, [])):
        feed = {"x": np.array(values, np.float32)}
        assert infer(session, feed)["where"].tolist() == [where]
    with pytest.raises(UnsupportedError, match="cuda-graph: the shapes"):
        opened(engine, cuda_graph="on").bind({"x": np.zeros(4, np.float32)})


def test_feeds_in_any_layout_arrive(pretend: Any, two: Engine) -> None:
    pretend()
    session = opened(two)
    feed = models.random_feed(session.inputs, 4)
    strided = {name: np.repeat(value, 2, axis=0)[::2] for name, value in feed.items()}
    want = expected(two, feed)
    for _ in range(2):
        got = infer(session, strided)
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-6)


def test_memory_that_the_gpu_refuses_is_out_of_memory(
    pretend: Any, two: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = pretend()

    def refuse(*_: Any) -> None:
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")

    session = opened(two)
    feed = models.random_feed(session.inputs, 1)
    session.bind(feed)
    monkeypatch.setattr(fake.OrtValue, "update_inplace", refuse)
    with pytest.raises(OutOfMemoryError):
        session.bind(feed)
    monkeypatch.setattr(fake.OrtValue, "ortvalue_from_numpy", refuse)
    with pytest.raises(OutOfMemoryError):
        session.bind(models.random_feed(session.inputs, 2))


@pytest.mark.parametrize(
    ("text", "kind", "fix"),
    [
        (DRIVER_TOO_OLD, UnavailableError, "nvidia-smi"),
        (
            "/onnxruntime_src/a.cc:729 void RegisterPlugins(B&) Please install TensorRT libraries",
            UnavailableError,
            "enginepick devices",
        ),
        ("CUDA initialization failure with error: 35", UnavailableError, "nvidia-smi"),
        ("libcuda.so.1: cannot open shared object file", UnavailableError, "nvidia-smi"),
        ("NvTensorRTRTX EP does not support GPU with Compute Capability 7.5", UnavailableError, ""),
        (
            (
                "[NvTensorRTRTX EP] The execution provider only supports RTX devices with compute"
                " capabilities 7.5 and later"
            ),
            UnavailableError,
            "enginepick devices",
        ),
        *((f"CUDA failure {n}: x ; GPU=0", UnavailableError, "nvidia-smi") for n in (222, 803)),
        *((f"CUDA failure {n}: x ; GPU=0", UnavailableError, "devices") for n in (46, 209)),
        ("CUDA initialization failure with error: 803", UnavailableError, "nvidia-smi"),
        ("Cuda Runtime (out of memory)", OutOfMemoryError, None),
        (
            (
                "BFCArena::AllocateRawInternal(size_t) Available memory of 64 is smaller than"
                " requested bytes of 256"
            ),
            OutOfMemoryError,
            None,
        ),
        (
            (
                "This session cannot use the graph capture feature as requested by the user as the"
                " model has control flow nodes which can't be supported by CUDAExecutionProvider"
            ),
            UnsupportedError,
            "cuda-graph=off",
        ),
        (
            (
                "The requested API version [28] is not available, only API versions [1, 26] are"
                " supported in this build. Current ORT Version is: 1.26.0"
            ),
            UnavailableError,
            "--upgrade onnxruntime",
        ),
        ("QuantizeLinear: Non-zero zero point is not supported", UnsupportedError, None),
    ],
)
def test_what_nvidias_providers_say(text: str, kind: type[BackendError], fix: str | None) -> None:
    found = runtime.classified(RuntimeError(text), "gpu:0")
    assert isinstance(found, kind)
    assert "onnxruntime_src" not in str(found)
    assert "hostname" not in str(found)
    assert (found.fix is None) if fix is None else (fix in str(found.fix))


# -- deployment ----------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["cuda", "tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("graph", ["off", "on"])
def test_the_script_opens_and_computes_as_the_session_does(
    pretend: Any, two: Engine, choice: str, graph: str
) -> None:
    fake = pretend(plugin=True)
    session = opened(two, provider=choice, cuda_graph=graph)
    by_session = fake.sessions[-1]
    settings = chosen(provider=choice, cuda_graph=graph)
    script = Path(two.path).with_name("deployed.py")
    script.write_text(BACKEND.deploy_code(two, "gpu:0", settings))
    fake.registered.clear()
    os.environ.pop("NVIDIA_TF32_OVERRIDE", None)
    deployed = runpy.run_path(str(script))
    runner = deployed["load"]()
    by_script = fake.sessions[-1]
    assert by_script.asked == by_session.asked
    recorded = "session.record_ep_graph_assignment_info"
    assert by_script.options.entries == {
        name: value for name, value in by_session.options.entries.items() if name != recorded
    }
    for name in ("graph_optimization_level", "intra_op_num_threads", "inter_op_num_threads"):
        assert getattr(by_script.options, name) == getattr(by_session.options, name)
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    for seed, batch in enumerate((1, 1, 2, 1)):
        feed = models.random_feed(session.inputs, batch, seed)
        got = deployed["infer"](runner, feed)
        for name, value in expected(two, feed).items():
            np.testing.assert_allclose(got[name], value, rtol=1e-6)
    assert set(runner.binding.places.values()) == {by_session_place(choice)}


def by_session_place(choice: str) -> tuple[Any, ...]:
    return ("gpu", 0, 0x10DE) if choice == "tensorrt-rtx" else ("cuda", 0)


# -- the plug-in for real ------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec(PLUGIN) is None, reason=f"{PLUGIN} isn't installed")
def test_the_real_plug_in_says_what_it_misses_and_harms_nothing(tmp_path: Path) -> None:
    """In a process of its own, which it must not crash; with a GPU it has to run the model."""
    engine = build(models.conv_model(), tmp_path)
    code = (
        "import sys, onnxruntime\n"
        "from backends.ort import BACKEND\n"
        "from backends.ort.providers import available\n"
        "from harness.errors import UnavailableError\n"
        "from harness.types import Engine, Settings\n"
        f"assert {RTX!r} in available(onnxruntime)\n"
        "probe = BACKEND.probe()\n"
        "assert probe.problem is None, probe.problem\n"
        "engine = Engine(sys.argv[1], ('model.onnx',), 1)\n"
        "settings = Settings(options=(('provider', 'tensorrt-rtx'),))\n"
        "try:\n"
        "    BACKEND.open(engine, 'gpu:0', settings).close()\n"
        "    print('opened')\n"
        "except UnavailableError as error:\n"
        "    print('unavailable', error, error.fix)\n"
        "BACKEND.open(engine, 'cpu', Settings()).close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, engine.path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("opened", "unavailable gpu:0"))


# -- wherever there is a GPU ---------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("choice", ["cuda", "tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("graph", ["off", "on"])
@pytest.mark.parametrize("builder", [models.conv_model, models.two_inputs_two_outputs_model])
def test_on_a_gpu_session_and_script_compute_what_the_cpu_does(
    choice: str, graph: str, builder: Callable[[], Any], tmp_path: Path
) -> None:
    engine = build(builder(), tmp_path)
    try:
        session = opened(engine, provider=choice, cuda_graph=graph)
    except UnavailableError as error:
        pytest.skip(str(error))
    found = session.executed
    assert found is not None
    assert {share.name for share in found.devices} == {"gpu:0"}
    script = Path(engine.path).with_name("deployed.py")
    settings = chosen(provider=choice, cuda_graph=graph)
    script.write_text(BACKEND.deploy_code(engine, "gpu:0", settings))
    deployed = runpy.run_path(str(script))
    runner = deployed["load"]()
    for seed, batch in enumerate((1, 1, 3, 1)):
        feed = models.random_feed(session.inputs, batch, seed)
        by_session, by_script = infer(session, feed), deployed["infer"](runner, feed)
        for name, value in expected(engine, feed).items():
            np.testing.assert_allclose(by_session[name], value, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(by_script[name], value, rtol=1e-3, atol=1e-4)
    session.close()
