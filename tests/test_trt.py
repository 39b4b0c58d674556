"""TensorRT's building side: real engines for GPUs that aren't here, and every refusal."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from trt_builds import ADA, CUDA35, FLOAT, IMAGES, build, conv, refused, relu, request, rtx, save

from backends import enginefile
from backends.trt import (
    BACKEND,
    adopted,
    gpu,
    library,
    log,
    options,
    targets,
)
from backends.trt.about import ENGINE, About
from harness import variants
from harness.errors import BackendError, OutOfMemoryError, UnavailableError, UnsupportedError
from harness.testing import BackendContract
from harness.testing_models import (
    model_specs,
    random_calibration,
)
from harness.types import Engine, Precision, ShapeRange, Share, TensorSpec

# --- engines ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "recipe"),
    [
        (Precision.FP32, "source"),
        (Precision.TF32, "source"),
        (Precision.FP16, "fp16"),
        (Precision.BF16, "bf16"),
        (Precision.INT8, "qdq-portable"),
        (Precision.INT8, "qdq-fp16"),
    ],
)
def test_every_product_of_an_engine_is_of_the_precision_asked(tmp_path, precision, recipe):
    model = conv(tmp_path, precision, recipe)
    asked = request(model, precision=precision, recipe=recipe, profiles=(IMAGES,))
    engine, about = build(tmp_path, asked)
    assert about.layers == (Share(str(precision), 3),)
    assert about.mode == "strongly typed"
    assert about.tf32 is (precision is Precision.TF32)
    assert about.compute_capability == ADA
    assert about.executed is not None
    assert about.executed.share(precision.runs_as) == 1
    assert engine.files == (ENGINE, enginefile.FILE)
    assert engine.size_bytes == sum(path.stat().st_size for path in (tmp_path / "engine").iterdir())
    assert f"3 in {precision}" in " ".join(engine.notes)


def test_convolutions_of_few_channels_stay_in_halves_beside_fp8(tmp_path):
    model = conv(tmp_path, Precision.FP8, "fp8")
    asked = request(model, precision=Precision.FP8, recipe="fp8", profiles=(IMAGES,))
    _, about = build(tmp_path, asked)
    assert set(about.layers) == {Share("fp16", 2), Share("fp8", 1)}


def wide(folder: Path) -> str:
    """A model that is nearly all weights: 1 MB of float32."""
    weight = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)
    nodes = [("MatMul", ["x", "w"], ["y"], {})]
    shape = ["batch", 512]
    return save(folder, nodes, [("x", FLOAT, shape)], [("y", FLOAT, shape)], {"w": weight})


@pytest.mark.parametrize(
    ("precision", "recipe", "part"),
    [
        (Precision.FP16, "fp16", 0.5),
        (Precision.BF16, "bf16", 0.5),
        (Precision.INT8, "qdq-portable", 0.25),
        (Precision.INT8, "qdq-fp16", 0.25),
        (Precision.FP8, "fp8", 0.25),
    ],
)
def test_weights_take_the_part_of_float32_that_their_type_says(tmp_path, precision, recipe, part):
    source = wide(tmp_path)
    profile = (ShapeRange("x", (1, 512), (1, 512), (4, 512)),)
    _, plain = build(tmp_path, request(source, profiles=(profile,)))
    out = str(tmp_path / "variant.onnx")
    made = variants.resolve(recipe, precision, isa=frozenset(), device="gpu:0", saturates=False)
    variants.make(made, source, out, random_calibration(model_specs(source)[0]))
    (tmp_path / "second").mkdir()
    asked = request(out, precision=precision, recipe=recipe, profiles=(profile,))
    _, about = build(tmp_path / "second", asked)
    assert plain.weights_bytes == pytest.approx(2**20, rel=0.01)
    assert about.weights_bytes == pytest.approx(part * plain.weights_bytes, rel=0.02)


def test_engines_are_made_for_one_compute_capability_or_another(tmp_path):
    made = {}
    for number, target in enumerate(("8.6", "12.0")):
        folder = tmp_path / str(number)
        folder.mkdir()
        asked = request(conv(folder), profiles=(IMAGES,), compute_capability=target)
        engine, about = build(folder, asked)
        assert about.compute_capability == target
        assert f"for compute capability {target}" in engine.notes
        made[target] = Path(engine.path).read_bytes()
    assert made["8.6"] != made["12.0"]


def test_a_model_of_fixed_shapes_needs_no_profile_and_takes_one_that_fits(tmp_path):
    for number, profiles in enumerate(((), ((ShapeRange("x", (1, 4), (1, 4), (1, 4)),),))):
        folder = tmp_path / str(number)
        folder.mkdir()
        _, about = build(folder, request(relu(folder), profiles=profiles))
        assert about.inputs == (TensorSpec("x", "float32", (1, 4)),)


def test_profiles_open_axes_names_and_types_are_kept_beside_the_engine(tmp_path):
    one = (ShapeRange("image", (1, 3, 16, 16), (1, 3, 16, 16), (1, 3, 16, 16)),)
    engine, about = build(tmp_path, request(conv(tmp_path), profiles=(one, IMAGES)))
    assert about.profiles == (one, IMAGES)
    assert about.inputs == (TensorSpec("image", "float32", ("batch", 3, 16, 16)),)
    assert [spec.name for spec in about.outputs] == ["scores"]
    assert about.device_memory_bytes
    assert (about.library, about.version) == ("tensorrt_rtx", rtx().version)
    assert enginefile.beside(About, engine) == about


def test_weights_beside_the_model_are_found(tmp_path):
    weight = np.ones((64, 64), np.float32)
    model = save(
        tmp_path,
        [("MatMul", ["x", "w"], ["y"], {})],
        [("x", FLOAT, [1, 64])],
        [("y", FLOAT, [1, 64])],
        {"w": weight},
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert (tmp_path / "weights.bin").stat().st_size == weight.nbytes
    _, about = build(tmp_path, request(model))
    assert about.weights_bytes == pytest.approx(weight.nbytes, rel=0.1)


def test_a_build_prints_nothing(tmp_path, capfd):
    build(tmp_path, request(relu(tmp_path)))
    assert capfd.readouterr() == ("", "")


def test_the_level_and_the_workspace_reach_the_builder(tmp_path):
    given = (("optimization-level", "1"), ("workspace", "64MB"), ("timing-cache", "off"))
    asked = request(relu(tmp_path), options=(("library", "tensorrt_rtx"), *given))
    _, about = build(tmp_path, asked)
    assert dict(about.build_options)["workspace"] == "64MB"


def test_an_input_that_nothing_reads_is_still_one(tmp_path):
    model = save(
        tmp_path,
        [("Relu", ["x"], ["y"], {})],
        [("x", FLOAT, [1, 4]), ("unread", FLOAT, [3])],
        [("y", FLOAT, [1, 4])],
    )
    _, about = build(tmp_path, request(model))
    assert [spec.name for spec in about.inputs] == ["x", "unread"]


GARBAGE = """
import gc, sys
import tensorrt_rtx as trt
from backends.trt import BACKEND, log
from harness.backend import BuildRequest
from harness.types import Precision

class Collecting(list):  # as any allocation may
    def append(self, each):
        if gc.isenabled():
            gc.collect()

class Cycle: pass

gc.set_threshold(1_000_000)
make = log._logger
log._logger = lambda trt, lines, verbose: make(trt, Collecting(), verbose=verbose)
cycle = Cycle()
cycle.me, cycle.builder = cycle, trt.Builder(trt.Logger(trt.Logger.ERROR))
del cycle
request = BuildRequest(sys.argv[1], Precision.FP32, "source", "gpu:0", compute_capability="8.9")
BACKEND.build(request, sys.argv[2])
assert gc.isenabled()
print("built")
"""


def test_an_earlier_builder_that_is_garbage_doesnt_block_the_next(tmp_path):
    rtx()
    done = subprocess.run(
        [sys.executable, "-c", GARBAGE, relu(tmp_path), str(tmp_path)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "built\n", done.stderr


# --- a user's own ----------------------------------------------------------------------------


def test_a_users_engine_is_copied_with_what_its_header_says(tmp_path):
    engine, _ = build(tmp_path, request(relu(tmp_path)))
    Path(engine.path).with_name("engine.json").unlink()
    (tmp_path / "own").mkdir()
    own = request(engine.path, precision=Precision.AS_IS, recipe="as-is", options=())
    copied = BACKEND.build(own, str(tmp_path / "own"))
    about = enginefile.beside(About, copied)
    assert Path(copied.path).read_bytes() == Path(engine.path).read_bytes()
    assert about == About("tensorrt_rtx", rtx().version, precision=Precision.AS_IS)
    assert about.executed is None


def test_an_engine_of_ours_that_was_moved_keeps_what_we_know_of_it(tmp_path):
    engine, about = build(tmp_path, request(relu(tmp_path)))
    own = request(engine.path, precision=Precision.AS_IS, recipe="as-is", options=())
    (tmp_path / "own").mkdir()
    assert enginefile.beside(About, BACKEND.build(own, str(tmp_path / "own"))) == about
    with Path(engine.path).open("ab") as stream:
        stream.write(b"another engine")  # which that file wasn't written for
    (tmp_path / "other").mkdir()
    assert enginefile.beside(About, BACKEND.build(own, str(tmp_path / "other"))).mode is None


def test_headers_tell_full_tensorrt_from_rtx_and_from_other_files(tmp_path):
    head = b"ftrt" + bytes(20) + bytes((10, 16, 1, 11))
    (tmp_path / "full.plan").write_bytes(head + b"rest")
    asked = request(
        str(tmp_path / "full.plan"), precision=Precision.AS_IS, recipe="as-is", options=()
    )
    (tmp_path / "out").mkdir()
    about = enginefile.beside(About, BACKEND.build(asked, str(tmp_path / "out")))
    assert (about.library, about.version) == ("tensorrt", "10.16.1.11")
    assert adopted._plan_version(b"PK\3\4" + bytes(40)) is None
    assert adopted._plan_version(b"ftrt") is None


def test_about_of_an_engine_that_isnt_ours_knows_nothing(tmp_path):
    assert enginefile.beside(About, Engine(str(tmp_path / "x.engine"), ("x.engine",), 1)) == About()


# --- what can't be built ---------------------------------------------------------------------


def test_an_open_axis_without_a_profile_is_refused_with_what_to_give(tmp_path):
    error = refused(tmp_path, request(relu(tmp_path, ["batch", 4])))
    assert "missing profile" in str(error)
    assert "x: float32[batch, 4]" in str(error)
    assert "[shapes] in sweep.toml" in str(error.fix)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        (((1, 5), (1, 5), (1, 5)), "[1, 5] doesn't fit the input x: float32[batch, 4]"),
        (((1,), (1,), (1,)), "[1] doesn't fit"),
        (((4, 4), (2, 4), (1, 4)), "takes no profile"),
    ],
)
def test_a_profile_that_doesnt_fit_is_refused(tmp_path, shapes, says):
    profile = (ShapeRange("x", *shapes),)
    error = refused(tmp_path, request(relu(tmp_path, ["batch", 4]), profiles=(profile,)))
    assert says in str(error)


def test_a_profile_has_to_name_every_open_input(tmp_path):
    profile = (ShapeRange("other", (1,), (1,), (1,)),)
    error = refused(tmp_path, request(relu(tmp_path, ["batch", 4]), profiles=(profile,)))
    assert "missing profile of the input x" in str(error)


def test_an_input_that_holds_a_shape_is_refused_by_name(tmp_path):
    model = save(
        tmp_path,
        [("Reshape", ["x", "wanted"], ["y"], {})],
        [("x", FLOAT, [2, 4]), ("wanted", TensorProto.INT64, [2])],
        [("y", FLOAT, None)],
    )
    assert "the input wanted holds a shape" in str(refused(tmp_path, request(model)))


def test_an_operator_that_tensorrt_lacks_is_named_with_its_node(tmp_path):
    inputs = [("x", FLOAT, [1, 4, 4])]
    model = save(tmp_path, [("Det", ["x"], ["y"], {})], inputs, [("y", FLOAT, [1])])
    assert str(refused(tmp_path, request(model))) == (
        "TensorRT doesn't support the operator Det (det_0)"
    )


def test_a_users_own_operator_is_named_with_its_node(tmp_path):
    nodes = [("Wobble", ["x"], ["y"], {"domain": "my.own"})]
    model = save(tmp_path, nodes, [("x", FLOAT, [4])], [("y", FLOAT, [4])])
    assert "the operator Wobble (wobble_0)" in str(refused(tmp_path, request(model)))


def test_types_that_dont_meet_are_refused_with_tensorrts_line(tmp_path):
    nodes = [
        ("Cast", ["x"], ["half"], {"to": TensorProto.FLOAT16}),
        ("MatMul", ["half", "w"], ["y"], {}),
    ]
    weights = {"w": np.ones((4, 4), np.float32)}
    model = save(tmp_path, nodes, [("x", FLOAT, [1, 4])], [("y", FLOAT, [1, 4])], weights)
    error = refused(tmp_path, request(model))
    assert "MatMul (matmul_1)" in str(error)
    assert "must have same input types" in str(error)
    assert "cudaError" not in str(error)


@pytest.mark.parametrize("content", [b"", b"hello rubbish" * 9], ids=["empty", "rubbish"])
def test_a_file_of_rubbish_is_not_a_model(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert "is it an ONNX model?" in str(refused(tmp_path, request(str(path))))


def test_a_file_that_isnt_there_is_told(tmp_path):
    with pytest.raises(BackendError, match="there is no such file"):
        build(tmp_path, request(str(tmp_path / "none.onnx")))


def test_asymmetric_activations_are_refused_with_the_recipe_that_isnt(tmp_path):
    nodes = [
        ("QuantizeLinear", ["x", "s", "z"], ["q"], {}),
        ("DequantizeLinear", ["q", "s", "z"], ["d"], {}),
        ("MatMul", ["d", "w"], ["y"], {}),
    ]
    weights = {"s": np.float32(0.1), "z": np.uint8(3), "w": np.ones((4, 4), np.float32)}
    model = save(tmp_path, nodes, [("x", FLOAT, [1, 4])], [("y", FLOAT, [1, 4])], weights)
    error = refused(tmp_path, request(model))
    assert "QuantizeLinear (quantizelinear_0)" in str(error)
    assert "zero point" in str(error)
    assert "qdq-portable" in str(error.fix)


def test_a_bias_of_int32_is_refused_with_the_recipe_that_has_none(tmp_path):
    nodes = [
        ("DequantizeLinear", ["b", "s", "z"], ["d"], {}),
        ("Add", ["x", "d"], ["y"], {}),
    ]
    weights = {"s": np.float32(0.1), "z": np.int32(0), "b": np.ones(4, np.int32)}
    model = save(tmp_path, nodes, [("x", FLOAT, [1, 4])], [("y", FLOAT, [1, 4])], weights)
    error = refused(tmp_path, request(model))
    assert "has type Int32 but must have type" in str(error)
    assert "DequantizeLinear (dequantizelinear_0)" in str(error)
    assert "qdq-portable" in str(error.fix)


def test_a_gpu_that_the_library_doesnt_build_for_is_refused_with_those_it_does(tmp_path):
    error = refused(tmp_path, request(relu(tmp_path), compute_capability="9.0"))
    assert "9.0" in str(error)
    assert "8.6, 8.9, 12.0" in str(error)


@pytest.mark.parametrize("text", ["sm89", "8", "8.9.1", ""])
def test_what_isnt_a_compute_capability_is_refused(tmp_path, text):
    assert "such as 8.9" in str(refused(tmp_path, request(relu(tmp_path), compute_capability=text)))


@pytest.mark.parametrize(
    ("precision", "recipe", "target"),
    [
        (Precision.FP8, "fp8", "8.6"),
        (Precision.BF16, "bf16", "7.5"),
        (Precision.TF32, "source", "7.5"),
    ],
)
def test_a_precision_that_the_gpu_lacks_is_refused(tmp_path, precision, recipe, target):
    asked = request(relu(tmp_path), precision=precision, recipe=recipe, compute_capability=target)
    assert f"{target} has no {precision}" in str(refused(tmp_path, asked))


@pytest.mark.parametrize(
    ("precision", "recipe", "instead"),
    [
        (Precision.FP16, "implicit", "fp16"),
        (Precision.INT8, "implicit-entropy", "qdq-portable"),
        (Precision.INT8, "implicit-minmax", "qdq-fp16"),
    ],
)
def test_implicit_precision_ended_with_tensorrt_10(tmp_path, precision, recipe, instead):
    error = refused(tmp_path, request(relu(tmp_path), precision=precision, recipe=recipe))
    assert instead in str(error.fix)


def test_a_recipe_that_isnt_offered_is_refused(tmp_path):
    error = refused(tmp_path, request(relu(tmp_path), precision=Precision.INT8, recipe="qdq"))
    assert "no int8 from 'qdq'" in str(error)


def test_full_tensorrt_builds_only_for_the_gpu_that_it_runs_on(tmp_path, monkeypatch):
    fake_module(monkeypatch, "tensorrt", "11.4.0.106")
    asked = request(relu(tmp_path), options=(("library", "tensorrt"),))
    with pytest.raises(UnsupportedError, match="builds only for the GPU that it runs on") as caught:
        BACKEND.build(asked, str(tmp_path))
    assert "library=tensorrt_rtx" in str(caught.value.fix)


def test_a_build_for_here_says_that_no_gpu_is_here(tmp_path):
    if BACKEND.probe().problem is None:
        pytest.skip("there is a GPU")
    with pytest.raises(UnavailableError) as caught:
        build(tmp_path, request(relu(tmp_path), compute_capability=None))
    assert "--compute-capability" in str(caught.value.fix)


# --- options ---------------------------------------------------------------------------------


def test_options_are_understood():
    given = (
        ("library", "tensorrt"),
        ("optimization-level", "4"),
        ("timing-cache", "off"),
        ("workspace", "1.5GB"),
    )
    assert options.parse(given) == options.Options("tensorrt", 4, False, 1_500_000_000)
    assert options.parse(()) == options.Options()
    assert set(BACKEND.capabilities.build_options) == set(dict(given))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("library", "tensorflow"),
        ("optimization-level", "6"),
        ("optimization-level", "high"),
        ("timing-cache", "yes"),
        ("workspace", "much"),
        ("workspace", "0"),
        ("workspace", "-1GB"),
        ("work-space", "1GB"),
    ],
)
def test_a_wrong_option_is_refused_by_name(name, value):
    with pytest.raises(UnsupportedError, match=name):
        options.parse(((name, value),))


@given(st.integers(1, 4096), st.sampled_from(["KB", "MB", "GB", "KiB", "MiB", "GiB", "k", "m", ""]))
def test_sizes_are_read_in_their_unit(count, unit):
    factor = {"k": 1000, "m": 1000**2, "g": 1000**3, "": 1}[unit[:1].lower()]
    binary = {"k": 2**10, "m": 2**20, "g": 2**30}.get(unit[:1].lower(), 1)
    wanted = count * (binary if "i" in unit else factor)
    assert options.size_bytes(f"{count}{unit}") == options.size_bytes(f"{count} {unit}") == wanted


def test_rtx_has_no_timing_cache_to_turn_on(tmp_path):
    given = (("library", "tensorrt_rtx"), ("timing-cache", "on"))
    assert "no timing cache" in str(refused(tmp_path, request(relu(tmp_path), options=given)))


# --- the library and the GPUs ----------------------------------------------------------------


def fake_module(monkeypatch: pytest.MonkeyPatch, name: str, version: str | None) -> None:
    """A module of that version, or one that can't be found."""
    module = None
    if version is not None:
        module = types.ModuleType(name)
        module.__dict__["__version__"] = version
    monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize(
    ("full", "small", "asked", "found"),
    [
        ("10.3.0", "1.7.1", None, "TensorRT 10.3.0"),
        ("11.4.0", None, None, "TensorRT 11.4.0"),
        (None, "1.7.1", None, "TensorRT-RTX 1.7.1"),
        ("8.6.1", "1.7.1", None, "TensorRT-RTX 1.7.1"),
        ("10.3.0", "1.7.1", "tensorrt_rtx", "TensorRT-RTX 1.7.1"),
    ],
)
def test_full_tensorrt_is_found_first_unless_the_other_is_named(
    monkeypatch, full, small, asked, found
):
    fake_module(monkeypatch, "tensorrt", full)
    fake_module(monkeypatch, "tensorrt_rtx", small)
    assert str(library.find(asked)) == found


@pytest.mark.parametrize(
    ("full", "asked", "says", "fix"),
    [
        (None, None, "neither", "tensorrt-rtx"),
        (None, "tensorrt", "tensorrt isn't installed|tensorrt can't be imported", "[tensorrt]"),
        ("8.6.1", None, "8.6.1 is too old", "[tensorrt]"),
        ("8.6.1", "tensorrt", "8.6.1 is too old", "[tensorrt]"),
        (None, "tensorrt_lean", "known are tensorrt and tensorrt_rtx", None),
    ],
)
def test_a_library_that_isnt_there_is_told_with_the_command(monkeypatch, full, asked, says, fix):
    fake_module(monkeypatch, "tensorrt", full)
    fake_module(monkeypatch, "tensorrt_rtx", None)
    with pytest.raises(UnavailableError, match=says) as caught:
        library.find(asked)
    assert caught.value.fix is None if fix is None else fix in str(caught.value.fix)


def test_the_probe_says_what_to_install(monkeypatch):
    fake_module(monkeypatch, "tensorrt", None)
    fake_module(monkeypatch, "tensorrt_rtx", None)
    probe = BACKEND.probe()
    assert "neither tensorrt nor tensorrt_rtx" in str(probe.problem)
    assert probe.fix == 'pip install "enginepick[tensorrt-rtx]"'


def test_without_a_driver_the_probe_says_how_to_build_for_another_machine():
    found = rtx()
    probe = BACKEND.probe()
    if probe.problem is None:
        pytest.skip("there is a GPU")
    assert (found.name, found.version) in probe.versions
    assert "driver" in str(probe.problem)
    assert "enginepick build MODEL --backend tensorrt --compute-capability" in str(probe.fix)


@pytest.mark.parametrize(("api", "fits"), [("13.0", True), ("14.1", True), ("12.8", False)])
def test_a_driver_that_is_too_old_is_told_with_both_versions(api, fits):
    found = rtx()
    if gpu.cuda_major(found.name) != 13:
        pytest.skip("made for another CUDA")
    problem = gpu.too_old(found, "570.10", api)
    assert (problem is None) == fits
    assert fits or all(text in str(problem) for text in ("CUDA 13", "570.10", "CUDA 12.8"))


@pytest.mark.parametrize(
    ("target", "lacks"),
    [
        ("5.3", {"int8", "tf32", "bf16", "fp8"}),
        ("6.1", {"fp16", "tf32", "bf16", "fp8"}),
        ("6.2", {"int8", "tf32", "bf16", "fp8"}),
        ("7.5", {"tf32", "bf16", "fp8"}),
        ("8.6", {"fp8"}),
        ("8.7", {"fp8"}),
        ("8.9", set()),
        ("12.0", set()),
    ],
)
def test_precisions_of_a_gpu_follow_from_its_compute_capability(target, lacks):
    able = {str(each) for each in targets.precisions(target)}
    assert able == {"fp32", "tf32", "fp16", "bf16", "fp8", "int8"} - lacks


@pytest.mark.parametrize("name", ["cpu", "gpu:x", "npu"])
def test_only_gpus_are_devices(name):
    with pytest.raises(UnavailableError, match="GPUs only"):
        gpu.index_of(name)


# --- what TensorRT says ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kind", "fix"),
    [
        ("Error Code 2: OutOfMemory (no further information)", OutOfMemoryError, "workspace"),
        ("Error Code 1: Cuda Runtime (out of memory)", OutOfMemoryError, "workspace"),
        (f"Error Code 1: Cuda Runtime {CUDA35}", UnavailableError, "driver"),
        ("CUDA initialization failure with error: 100", UnavailableError, "compute-capability"),
        ("Error Code 1: no CUDA-capable device is detected", UnavailableError, "driver"),
        (("The engine plan file is generated on an incompatible device, expecting compute 8.9 got "
         "compute 8.6, please rebuild."), UnsupportedError, "build it again"),
        (("The engine plan file is not compatible with this version of TensorRT, expecting library "
         "version 10.3.0 got 10.16.1"), UnsupportedError, "build it again"),
        ("Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.",
         UnsupportedError, "build it again"),
        ("Version tag does not match. Note: Current Version: 239, Serialized Engine Version: 236",
         UnsupportedError, "build it again"),
        ("The engine cannot run on this GPU, which has compute capability 8.6", UnsupportedError,
         "build it again"),
        ("dlb: input has type Int32 but must have type FP8, FP4, Int4, Int8, or UInt8.",
         UnsupportedError, "qdq-portable"),
        ("Could not find any implementation for node conv_1", UnsupportedError, None),
        ("something else went wrong", BackendError, None),
    ],
)  # fmt: skip
def test_lines_are_classified_with_the_next_command(line, kind, fix):
    error = log.classified(f"{line}\nand more")
    assert type(error) is kind
    assert str(error) == line
    assert error.fix is None if fix is None else fix in str(error.fix)


def test_a_fix_of_the_callers_is_the_one_that_is_told():
    assert log.classified("out of memory", "buy more").fix == "buy more"
    assert str(log.classified("")) == "no message"


def test_the_first_error_is_the_truth_and_a_missing_gpu_is_noise():
    noise, truth = f"Error Code 1: Cuda Runtime {CUDA35}", "Error Code 4: wrong type"
    assert log.first_of([noise, truth, "echo"]) == truth
    assert log.first_of([noise]) == noise
    assert log.first_of([]) is None


def test_a_log_keeps_what_is_said_and_prints_nothing(capfd):
    found = rtx()
    quiet, full = log.Log(found), log.Log(found, verbose=True)
    severity = found.module.ILogger.Severity
    for each in (quiet, full):
        each.logger.log(severity.VERBOSE, "details")
        each.logger.log(severity.WARNING, "careful")
        each.logger.log(severity.ERROR, "broken\nreally")
    assert quiet.lines == [("WARNING", "careful"), ("ERROR", "broken\nreally")]
    assert full.text() == "details\ncareful\nbroken\nreally"
    assert quiet.errors() == ["broken"] == [quiet.first_error()]
    assert capfd.readouterr() == ("", "")


# --- on a GPU --------------------------------------------------------------------------------


@pytest.mark.gpu
class TestTensorRt(BackendContract):
    """Skipped with the probe's reason where there is no GPU."""

    backend = BACKEND
