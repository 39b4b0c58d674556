"""What users of LiteRT rely on: what its own API gives, their names and layout, and the truth."""

import dataclasses
import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest

from backends import litert
from backends.litert import BACKEND, building, compiled, deploy, executed
from backends.litert.compiled import CompiledSession, Target
from backends.litert.opening import Opening
from backends.litert.runtime import classified
from harness import tflitefile
from harness.backend import BuildRequest
from harness.errors import BackendError, OutOfMemoryError, UnavailableError, UnsupportedError
from harness.runner import silently_replaced
from harness.testing import MemoryCalibration, infer
from harness.types import Candidate, Engine, Port, Ports, Precision, Settings, TensorSpec

_PROBE = BACKEND.probe()
pytestmark = pytest.mark.skipif(_PROBE.problem is not None, reason=str(_PROBE.problem))
litert_files = pytest.importorskip("litert_files")

ONE = Settings(threads=1)
RECIPES = {offer.recipe: offer for offer in BACKEND.capabilities.offers}
CPU = _PROBE.device("cpu")
needs_fp16 = pytest.mark.skipif(
    CPU is None or Precision.FP16 not in CPU.precisions, reason="this CPU has no float16"
)


def image(seed=0, batch=1):
    return np.random.default_rng(seed).standard_normal((batch, 8, 8, 32)).astype("f4")


@pytest.fixture
def cnn(tmp_path):
    return litert_files.cnn(tmp_path / "cnn.tflite")


def build(path, workdir, recipe="source", ports=None, name="the_image", **parameters):
    workdir.mkdir()
    offer = RECIPES[recipe]
    feeds = [{name: image(seed)} for seed in range(8)]
    request = BuildRequest(
        path,
        offer.precision,
        recipe,
        "cpu",
        calibration=MemoryCalibration(feeds) if offer.calibrated else None,
        parameters=tuple(parameters.items()),
        ports=ports,
    )
    return BACKEND.build(request, str(workdir))


def as_is(path, workdir):
    workdir.mkdir()
    return BACKEND.build(BuildRequest(path, Precision.AS_IS, "as-is", "cpu"), str(workdir))


def operators(path):
    (graph,) = building.flatfile.read(str(path))
    return {each.name: graph.precision(each) for each in graph.operators}


def test_a_users_own_file_keeps_its_names_and_its_layout(cnn, tmp_path):
    session = BACKEND.open(as_is(cnn, tmp_path / "engine"), "cpu", ONE)
    assert session.inputs == (TensorSpec("the_image", "float32", (1, 8, 8, 32)),)
    assert session.outputs == (TensorSpec("the_scores", "float32", (1, 8, 8, 10)),)
    plain = litert_files.cnn(tmp_path / "plain.tflite", signed=False, open_batch=True)
    session = BACKEND.open(as_is(plain, tmp_path / "other"), "cpu", ONE)
    assert session.inputs == (TensorSpec("image", "float32", (None, 8, 8, 32)),)


def by_hand(path, recipe, x):
    """The vendor's API as its own documentation has it."""
    from ai_edge_litert.compiled_model import (
        CompiledModel,
        CpuOptions,
        HardwareAccelerator,
        Options,
    )
    from ai_edge_litert.interpreter import Interpreter

    if recipe == "float-casting":
        cpu = CpuOptions(num_threads=1, xnnpack_flags=4)
        options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
        model = CompiledModel.from_file(path, options=options)
        ins, outs = model.create_input_buffers(0), model.create_output_buffers(0)
        ins[0].write(x)
        model.run_by_index(0, ins, outs)
        return outs[0].read(640, np.float32).reshape(1, 8, 8, 10)
    runner = Interpreter(model_path=path, num_threads=1).get_signature_runner("serving_default")
    return runner(the_image=x)["the_scores"]


def quantized_by_hand(path, recipe):
    """The vendor's quantizer by its own recipes, as these names say."""
    from litert_quantizer import calibrator, quantizer, recipe_manager
    from litert_quantizer import recipe as recipes
    from litert_quantizer.utils import qsv_utils

    tool = quantizer.Quantizer(path)
    ranges = None
    if recipe == "source":
        return Path(path).read_bytes()
    if recipe == "float-casting":
        tool.add_weight_only_config(".*", "*", 16, algorithm_key="float_casting")
    else:
        tool.load_quantization_recipe(getattr(recipes, recipe.replace("-", "_"))())
    if recipe == "static-wi8-ai8":
        for name in ("INPUT", "OUTPUT"):
            tool.update_quantization_recipe(".*", name, None, "no_quantize")
        rules = recipe_manager.RecipeManager()
        rules.load_quantization_recipe(tool.get_quantization_recipe())
        content = Path(path).read_bytes()
        found = calibrator.Calibrator(content, qsv_update_func=qsv_utils.min_max_update)
        feeds = [{"the_image": image(seed)} for seed in range(8)]
        found.calibrate({"serving_default": feeds}, rules)
        ranges = found.get_model_qsvs()
    return bytes(tool.quantize(ranges, enable_progress_report=False).quantized_model)


@pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`")
@pytest.mark.parametrize(
    "recipe",
    [pytest.param(each, marks=needs_fp16 if each == "float-casting" else ()) for each in RECIPES],
)
def test_outputs_are_those_of_the_vendors_own_api_to_the_bit(recipe, cnn, tmp_path):
    if recipe != "source":
        pytest.importorskip("litert_quantizer")
    engine = build(cnn, tmp_path / "engine", recipe)
    hand = tmp_path / "hand.tflite"
    hand.write_bytes(quantized_by_hand(cnn, recipe))
    session = BACKEND.open(engine, "cpu", ONE)
    got = infer(session, {"the_image": image(99)})["the_scores"]
    assert np.array_equal(got, by_hand(str(hand), recipe, image(99)))
    assert recipe == "source" or engine.size_bytes < 0.8 * Path(cnn).stat().st_size


@pytest.mark.parametrize(
    ("recipe", "precision", "said"),
    [
        ("source", "fp32", "XNNPACK runs 2 of 2 operators"),
        pytest.param(
            "float-casting", "fp16", "forced to float16, and its outputs show it", marks=needs_fp16
        ),
        ("static-wi8-ai8", "int8", "XNNPACK runs 4 of 4 operators"),
        ("dynamic-wi8-afp32", "int8", "XNNPACK runs 2 of 2 operators"),
        ("dynamic-wi4-afp32", "int4-weights", "operators"),
        ("weight-only-wi8-afp32", "fp32", "2 weights stored as int8 are unpacked to float32"),
    ],
)
def test_executed_tells_the_products_and_who_makes_them(recipe, precision, said, cnn, tmp_path):
    if recipe != "source":
        pytest.importorskip("litert_quantizer")
    session = BACKEND.open(build(cnn, tmp_path / "engine", recipe), "cpu", ONE)
    executed = session.executed
    assert {share.name: share.count for share in executed.precisions} == {precision: 2}
    assert said in executed.detail
    assert {share.name.split(":")[0] for share in executed.devices} == {"cpu"}


@needs_fp16
def test_float16_is_told_where_outputs_are_classes(tmp_path):
    """They are the same in float32."""
    pytest.importorskip("litert_quantizer")
    path = litert_files.classes(tmp_path / "classes.tflite")
    engine = build(path, tmp_path / "e", "float-casting")
    assert BACKEND.open(engine, "cpu", ONE).executed.share("fp16") == 1


@pytest.mark.parametrize(
    ("file", "seen", "share", "said"),
    [
        (litert_files.cnn, True, 1, "and its outputs show it"),
        (litert_files.cnn, False, 0, "but its outputs are those of float32"),
        (litert_files.classes, False, 1, "and a tiny model's outputs show it"),
    ],
)
def test_only_a_models_own_outputs_show_float16_where_they_are_floats(
    file, seen, share, said, tmp_path, monkeypatch
):
    monkeypatch.setattr(compiled, "reduced", lambda *_: seen)
    monkeypatch.setattr(compiled, "trial", lambda _: None)
    path = file(tmp_path / "m.tflite")
    slots = building.inspect(path, None)
    shapes = [slot.declared for slot in slots.inputs]
    told = litert._examine_fp16(path, slots, Target("cpu", fp16=True), shapes)
    assert told.share("fp16") == share
    assert said in told.detail


def test_executed_knows_custom_operators_by_their_names(tmp_path):
    path = litert_files.spectrogram(tmp_path / "s.tflite")
    session = BACKEND.open(as_is(path, tmp_path / "engine"), "cpu", ONE)
    assert "LiteRT's own kernels run 1 AudioSpectrogram" in session.executed.detail


@pytest.mark.parametrize("device", ["gpu:0", "npu"])
def test_what_a_device_took_is_claimed_only_where_it_is_known(device, cnn):
    whole = executed.elsewhere(cnn, device, whole=True, fp16=False)
    part = executed.elsewhere(cnn, device, whole=False, fp16=False)
    assert [(share.name, share.count) for share in whole.devices] == [(device, 2)]
    assert [share.name for share in part.devices] == [device.split(":")[0] + ":or cpu"]
    for told in (whole, part):
        candidate = Candidate("litert", Precision.FP32, "source", device)
        assert silently_replaced(candidate, told) is None


def test_executed_names_the_operators_that_fell_back(tmp_path):
    path = litert_files.table(tmp_path / "table.tflite")
    session = BACKEND.open(as_is(path, tmp_path / "engine"), "cpu", ONE)
    assert "LiteRT's own kernels run 1 GATHER" in session.executed.detail
    assert [share.name for share in session.executed.devices] == ["cpu:builtin"]


def test_the_delegate_can_be_left_out(cnn, tmp_path):
    engine = as_is(cnn, tmp_path / "engine")
    feed = {"the_image": image()}
    plain = BACKEND.open(engine, "cpu", ONE)
    bare = BACKEND.open(engine, "cpu", dataclasses.replace(ONE, options=(("delegate", "none"),)))
    assert [share.name for share in bare.executed.devices] == ["cpu:builtin"]
    left, right = (infer(session, feed)["the_scores"] for session in (plain, bare))
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


def compiled_session(path):
    """As on a GPU, on the one accelerator that is everywhere."""
    slots = building.inspect(path, None)
    return CompiledSession(Target("cpu").compile(path), slots, "cpu", lambda _: None)


def test_the_first_batch_is_the_feeds_whatever_the_file_has(tmp_path):
    path = litert_files.batches(tmp_path / "b.tflite", 4)
    engine = as_is(path, tmp_path / "e")
    for session in (BACKEND.open(engine, "cpu", ONE), compiled_session(path)):
        for batch in (1, 4, 1):
            x = np.full((batch, 6), -batch, "f4")
            assert np.array_equal(infer(session, {"x": x})["y"], -x)


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({1: "a", 0: "b"}, "the_x"),
        ({1: "", 0: "b"}, "the_x"),
        ({1: "a", 0: ""}, "x"),
        ({0: "b", 1: "a"}, "the_x"),
    ],
)
def test_of_several_signatures_the_first_graphs_runs(keys, name, tmp_path):
    path = litert_files.entries(tmp_path / "e.tflite", keys)
    engine = as_is(path, tmp_path / "e")
    session = BACKEND.open(engine, "cpu", ONE)
    feed = {name: np.ones((1, 4), "f4")}
    assert infer(session, feed).popitem()[1].tolist() == [[1, 1, 1, 1]]
    assert "bodies" not in session.executed.detail
    slots = building.inspect(path, None)
    if not keys[0]:
        with pytest.raises(UnsupportedError, match="none of the file's signatures"):
            compiled_session(path)
        return
    assert infer(compiled_session(path), feed)["the_y"].tolist() == [[1, 1, 1, 1]]
    target = Target("cpu")
    (got,) = compiled.once(target, path, list(feed.values()), compiled.key_of(slots))
    assert got.view("f4").tolist() == [1, 1, 1, 1]
    script = deploy.script(Opening("cpu", 1, target=target), slots, Path(engine.path).name)
    scope = defined(script, tmp_path / "e" / "script.py")
    assert scope["infer"](scope["load"](), feed)["the_y"].tolist() == [[1, 1, 1, 1]]


NCHW = (0, 2, 3, 1)


def channels_first(dtype="float32"):
    return Ports(
        (Port(TensorSpec("x", dtype, ("n", 32, 8, 8)), "image", "float32", NCHW),),
        (Port(TensorSpec("y", "float32", ("n", 10, 8, 8)), "scores", "float32", NCHW),),
    )


@pytest.mark.parametrize("recipe", ["source", pytest.param("float-casting", marks=needs_fp16)])
def test_a_converted_model_keeps_its_own_names_and_layout(recipe, tmp_path):
    path = litert_files.cnn(tmp_path / "cnn.tflite", open_batch=True)
    own = BACKEND.open(as_is(path, tmp_path / "own"), "cpu", ONE)
    session = BACKEND.open(build(path, tmp_path / "e", recipe, channels_first()), "cpu", ONE)
    assert session.inputs == (TensorSpec("x", "float32", ("n", 32, 8, 8)),)
    assert session.outputs == (TensorSpec("y", "float32", ("n", 10, 8, 8)),)
    for batch in (1, 3, 1):
        x = image(batch, batch)
        wanted = infer(own, {"the_image": x})["the_scores"].transpose(0, 3, 1, 2)
        got = infer(session, {"x": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})["y"]
        exact = recipe == "source"
        np.testing.assert_allclose(got, wanted, rtol=0 if exact else 0.1, atol=0 if exact else 0.1)
        assert got.flags.c_contiguous


def test_calibration_samples_have_the_models_own_layout(tmp_path):
    pytest.importorskip("litert_quantizer")
    path = litert_files.cnn(tmp_path / "cnn.tflite", signed=False, open_batch=True)
    (tmp_path / "engine").mkdir()
    feeds = [{"x": np.ascontiguousarray(image(seed).transpose(0, 3, 1, 2))} for seed in range(8)]
    request = BuildRequest(
        path,
        Precision.INT8,
        "static-wi8-ai8",
        "cpu",
        calibration=MemoryCalibration(feeds),
        ports=channels_first(),
    )
    quantized = BACKEND.open(BACKEND.build(request, str(tmp_path / "engine")), "cpu", ONE)
    plain = BACKEND.open(build(path, tmp_path / "plain", ports=channels_first()), "cpu", ONE)
    left, right = (infer(session, feeds[0])["y"].ravel() for session in (quantized, plain))
    assert left @ right > 0.999 * np.linalg.norm(left) * np.linalg.norm(right)


def test_a_fixed_batch_is_fixed_in_what_the_session_shows_and_takes(cnn, tmp_path):
    session = BACKEND.open(build(cnn, tmp_path / "e", ports=channels_first()), "cpu", ONE)
    assert session.inputs[0].shape == (1, 32, 8, 8)
    assert session.outputs[0].shape == (1, 10, 8, 8)
    with pytest.raises(UnsupportedError, match=r"input x: .* was given the shape \[2, 32, 8, 8\]"):
        session.bind({"x": np.zeros((2, 32, 8, 8), "f4")})


def test_integers_that_the_file_cant_hold_are_refused(tmp_path):
    path = litert_files.table(tmp_path / "table.tflite")
    ports = Ports(
        (Port(TensorSpec("ids", "int64", (1, 4)), "ids", "int32"),),
        (Port(TensorSpec("rows", "float32", (1, 4, 16)), "rows", "float32"),),
    )
    session = BACKEND.open(build(path, tmp_path / "e", ports=ports), "cpu", ONE)
    rows = infer(session, {"ids": np.array([[3, 1, 2, 0]])})["rows"]
    assert rows[0, :, 0].tolist() == [48, 16, 32, 0]
    for feed in (np.array([[0, 0, 0, 2**32 + 1]]), np.array([[0, 0, 0, -(2**40)]])):
        with pytest.raises(UnsupportedError, match="ids: has values"):
            session.bind({"ids": feed})
        with pytest.raises(BackendError, match="bind a feed"):
            session.run()  # nothing stale runs


@pytest.mark.parametrize(
    ("names", "signed"),
    [(("a", "b"), ("b", "a")), (("a", "a"), ("the_left", "the_right")), (("a", "a"), ("", ""))],
    ids=["crossed", "repeated", "without names"],
)
def test_inputs_are_the_files_by_place_whatever_they_are_called_there(names, signed, tmp_path):
    path = litert_files.difference(tmp_path / "d.tflite", names, signed)
    ports = tflitefile.read(path).ports
    left, right = (port.spec.name for port in ports.inputs)
    session = BACKEND.open(build(path, tmp_path / "e", ports=ports), "cpu", ONE)
    feed = {right: np.full((1, 4), 2, "f4"), left: np.full((1, 4), 5, "f4")}
    (got,) = infer(session, feed).values()
    assert got.tolist() == [[3, 3, 3, 3]]


def test_ports_of_another_file_are_refused(cnn, tmp_path):
    port = dataclasses.replace(channels_first().inputs[0], dtype="int8")
    ports = Ports((port,), channels_first().outputs)
    with pytest.raises(BackendError, match="x: is float32 in the file, not int8"):
        build(cnn, tmp_path / "e", ports=ports)


def test_outputs_that_depend_on_values_may_be_empty(tmp_path):
    engine = as_is(litert_files.found(tmp_path / "found.tflite"), tmp_path / "e")
    session = BACKEND.open(engine, "cpu", ONE)
    scope = deployed(engine, tmp_path / "e" / "script.py", ONE)
    for x, places in (
        ([1, 0, 1, 0, 0, 0], [[0, 0], [0, 2]]),
        ([0] * 6, []),
        ([0] * 5 + [1], [[0, 5]]),
    ):
        feed = {"x": np.array([x], "f4")}
        got = infer(session, feed)["places"]
        assert got.tolist() == places
        assert (got.shape, got.dtype) == ((len(places), 2), np.dtype("int64"))
        assert np.array_equal(scope["infer"](scope["load"](), feed)["places"], got)


def test_a_closed_session_lets_go_of_its_interpreter(cnn, tmp_path):
    session = BACKEND.open(as_is(cnn, tmp_path / "e"), "cpu", ONE)
    kept = weakref.ref(session._interpreter)
    session.close()
    gc.collect()
    assert kept() is None
    assert session.executed is None


def test_outputs_may_be_kept_while_the_session_runs_on(cnn, tmp_path):
    session = BACKEND.open(as_is(cnn, tmp_path / "engine"), "cpu", ONE)
    session.bind({"the_image": image(1)})
    session.run()
    kept = session.fetch()
    session.bind({"the_image": image(2)})
    session.run()  # which LiteRT refuses while a view of its memory is held
    assert not np.array_equal(kept["the_scores"], session.fetch()["the_scores"])


def test_compiled_models_serve_every_batch_and_type(tmp_path):
    """As on a GPU, on the one accelerator that is everywhere."""
    path = litert_files.cnn(tmp_path / "cnn.tflite", open_batch=True)
    slots = building.inspect(path, channels_first())
    session = CompiledSession(Target("cpu").compile(path), slots, "cpu", lambda _: None)
    own = BACKEND.open(as_is(path, tmp_path / "own"), "cpu", ONE)
    for batch in (1, 3, 1):
        x = image(batch, batch)
        wanted = infer(own, {"the_image": x})["the_scores"].transpose(0, 3, 1, 2)
        assert np.array_equal(infer(session, {"x": x.transpose(0, 3, 1, 2)})["y"], wanted)
    with pytest.raises(UnsupportedError, match="x"):
        session.bind({"x": np.zeros((1, 32, 8, 9), "f4")})
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run()


def test_a_device_that_isnt_there_is_refused_by_its_name(cnn, tmp_path):
    engine = as_is(cnn, tmp_path / "engine")
    for device in {"gpu:0", "gpu:99", "npu"} - {each.id for each in _PROBE.devices}:
        with pytest.raises(UnavailableError, match=device):
            BACKEND.open(engine, device, ONE)


def test_a_probe_is_silent(capfd):
    assert BACKEND.probe() == _PROBE
    assert "cpu" in {device.id for device in _PROBE.devices}
    noise = [line for line in capfd.readouterr().err.splitlines() if "XNNPACK" not in line]
    assert noise == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((("delegate", "gpu"),), "delegate=gpu: expected xnnpack or none"),
        ((("cpu-fallback", "yes"),), "cpu-fallback=yes: expected on or off"),
        ((("fallback", "on"),), "no option fallback; it has delegate, cpu-fallback"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "gpu:0"])
def test_wrong_options_are_refused(device, options, said, cnn, tmp_path):
    engine = as_is(cnn, tmp_path / "engine")
    with pytest.raises(UnsupportedError, match=said):
        BACKEND.open(engine, device, Settings(options=options))


def test_a_device_ignores_the_options_of_another():
    settings = Settings(options=(("delegate", "none"), ("cpu-fallback", "on")))
    half = building.About(Precision.FP16)
    on_cpu = Opening.of("cpu", settings, building.About(Precision.FP32))
    assert (on_cpu.delegate, on_cpu.target) == ("none", None)
    for device, kind in (("gpu:0", "gpu"), ("npu", "npu")):
        assert Opening.of(device, settings, half).target == Target(kind, 1, True, True)
    fallback = Settings(options=(("cpu-fallback", "on"),))
    assert Opening.of("cpu", fallback, half).target == Target("cpu", 1, True)
    with pytest.raises(UnsupportedError, match="only XNNPACK computes in float16"):
        Opening.of("cpu", settings, half)


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "options", "said"),
    [
        ("MyOp", {}, "no kernel for the custom operator MyOp"),
        ("FlexErf", {}, "no kernel for TensorFlow's operator Erf"),
        ("ABS", {"version": 99}, "no operator ABS of version 99"),
    ],
)
def test_an_operator_that_litert_lacks_is_named(operator, options, said, tmp_path):
    path = litert_files.of_operator(tmp_path / "one.tflite", operator, **options)
    with pytest.raises(UnsupportedError, match=said) as refused:
        as_is(path, tmp_path / "engine")
    assert refused.value.fix


def test_a_file_for_another_device_isnt_tried_on_the_cpu(tmp_path):
    path = litert_files.of_operator(tmp_path / "one.tflite", "MyOp")
    (tmp_path / "engine").mkdir()
    request = BuildRequest(path, Precision.AS_IS, "as-is", "gpu:0")
    assert BACKEND.build(request, str(tmp_path / "engine")).files == ("one.tflite",)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("tflite/core/subgraph.cc:1268 tensor->dims->size != dims.size() (0 != 1)", RuntimeError),
        ("tflite/kernels/while.cc:1 cond_subgraph->inputs().size() != 1", RuntimeError),
        ("Did not get tensors in subgraph 0.", BackendError),
        ("No subgraph in the model.", BackendError),
        ("flatbuffer model has invalid input index in subgraph: 7", BackendError),
        ("Signature references an unknown subgraph", BackendError),
    ],
)
def test_only_what_is_wrong_with_a_file_is_damage(text, meant):
    assert type(classified(RuntimeError(text))) is meant


@pytest.mark.parametrize(
    "content", [b"", b"no model at all\n" * 99, None], ids=["0", "text", "cut"]
)
def test_a_damaged_file_is_an_error_that_says_so(content, cnn, tmp_path):
    path = tmp_path / "bad.tflite"
    path.write_bytes(Path(cnn).read_bytes()[:2000] if content is None else content)
    with pytest.raises(BackendError, match=r"damaged, or isn't a \.tflite file"):
        as_is(str(path), tmp_path / "engine")


def test_a_quantized_file_isnt_quantized_again_and_isnt_called_fp32(cnn, tmp_path):
    pytest.importorskip("litert_quantizer")
    quantized = build(cnn, tmp_path / "q", "dynamic-wi8-afp32").path
    for recipe in set(RECIPES) - {"source"}:
        with pytest.raises(UnsupportedError, match="quantized already"):
            build(quantized, tmp_path / recipe, recipe)
    engine = build(quantized, tmp_path / "source")
    assert "isn't float32 throughout" in engine.notes[0]
    assert BACKEND.open(engine, "cpu", ONE).executed.share("fp32") == 0


# -- wishes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "conv", "dense"),
    [
        ({}, "int8", "int8"),
        ({"exclude": json.dumps(["Conv"])}, "fp32", "int8"),
        ({"exclude": json.dumps(["FULLY_CONNECTED"])}, "int8", "fp32"),
        ({"exclude": json.dumps(["features"])}, "fp32", "int8"),
        ({"include": "Gemm,MatMul"}, "fp32", "int8"),
        ({"symmetric": "yes", "per_channel": "no", "calibration": "minmax"}, "int8", "int8"),
    ],
)
def test_wishes_for_int8_are_kept(wishes, conv, dense, cnn, tmp_path):
    pytest.importorskip("litert_quantizer")
    engine = build(cnn, tmp_path / "engine", "static-wi8-ai8", **wishes)
    found = operators(engine.path)
    assert (found["CONV_2D"], found["FULLY_CONNECTED"]) == (conv, dense)
    model = building.flatfile.parse(engine.path)
    tensors = {each.name.decode(): each.quantization for each in model.subgraphs[0].tensors}
    if conv == "int8":
        assert len(tensors["filter"].scale) == (1 if wishes.get("per_channel") == "no" else 32)
        assert (tensors["features"].zeroPoint[0] == 0) == (wishes.get("symmetric") == "yes")


def test_blocks_of_weights_are_as_wide_as_wished(cnn, tmp_path):
    pytest.importorskip("litert_quantizer")
    engine = build(cnn, tmp_path / "engine", "dynamic-wi4-afp32", block_size="32")
    assert operators(engine.path) == {"CONV_2D": "int4-weights", "FULLY_CONNECTED": "int4-weights"}
    session = BACKEND.open(engine, "cpu", ONE)
    assert np.isfinite(infer(session, {"the_image": image()})["the_scores"]).all()


@pytest.mark.parametrize(
    ("recipe", "wish", "said"),
    [
        ("static-wi8-ai8", {"calibration": "entropy"}, "entropy"),
        ("static-wi8-ai8", {"reduce_range": "yes"}, "7 bits"),
        ("static-wi8-ai8", {"percentile": "99"}, "percentile"),
        ("static-wi8-ai8", {"exclude": '["nothing_like_it"]'}, "nothing_like_it"),
        ("static-wi8-ai8", {"include": "LSTM"}, "LSTM"),
        ("dynamic-wi4-afp32", {"block_size": "16"}, "blocks may have 32"),
        ("weight-only-wi8-afp32", {"block_size": "32"}, "block_size"),
    ],
)
def test_wishes_that_cant_be_met_are_refused(recipe, wish, said, cnn, tmp_path):
    pytest.importorskip("litert_quantizer")
    with pytest.raises(UnsupportedError, match=said):
        build(cnn, tmp_path / "engine", recipe, **wish)


def in_float_and_int8(path, folder, **shapes):
    """A file's outputs on one feed, as it is and in full int8 that was calibrated on eight."""
    draws = [np.random.default_rng(seed) for seed in range(8)]
    feeds = [
        {name: draw.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
        for draw in draws
    ]
    for offer in (RECIPES["source"], RECIPES["static-wi8-ai8"]):
        own = folder / offer.recipe
        own.mkdir()
        data = MemoryCalibration(feeds)
        request = BuildRequest(path, offer.precision, offer.recipe, "cpu", data)
        yield infer(BACKEND.open(BACKEND.build(request, str(own)), "cpu", ONE), feeds[0])


def test_products_of_constant_weights_stay_right_in_int8(tmp_path):
    """The vendor's own recipe scales these by channel, which the kernel doesn't read."""
    pytest.importorskip("litert_quantizer")
    path = litert_files.product(tmp_path / "product.tflite")
    found = in_float_and_int8(path, tmp_path, the_left=(1, 4, 16))
    left, right = (each["the_right"].ravel() for each in found)
    assert left @ right > 0.995 * np.linalg.norm(left) * np.linalg.norm(right)


@pytest.mark.parametrize("outputs", [["z", "y"], ["y", "z"], ["z", "x"], ["z", "z"], ["z"]])
@pytest.mark.parametrize("recipe", ["static-wi8-ai8", "dynamic-wi8-afp32"])
def test_outputs_that_the_model_reads_itself_stay_what_they_are(recipe, outputs, tmp_path):
    pytest.importorskip("litert_quantizer")
    path = litert_files.layers(tmp_path / "layers.tflite", outputs)
    ports = tflitefile.read(path).ports
    (given,) = (port.spec.name for port in ports.inputs)
    feeds = [
        {given: np.random.default_rng(seed).standard_normal((1, 6)).astype("f4")}
        for seed in range(8)
    ]
    got = []
    for each in ("source", recipe):
        (tmp_path / each).mkdir()
        request = BuildRequest(
            path, RECIPES[each].precision, each, "cpu", MemoryCalibration(feeds), ports=ports
        )
        session = BACKEND.open(BACKEND.build(request, str(tmp_path / each)), "cpu", ONE)
        assert session.outputs == tuple(port.spec for port in ports.outputs)
        got.append(infer(session, feeds[0]))
    for name, wanted in got[0].items():
        np.testing.assert_allclose(got[1][name], wanted, atol=0.05 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("exclude", "left"), [([], []), (["y"], ["RELU6"]), (["s"], ["RELU"]), (["Relu"], ["RELU"])]
)
def test_activations_after_int8_products_are_part_of_them(exclude, left, tmp_path):
    """Else each is a kernel of LiteRT's own between two parts of XNNPACK."""
    pytest.importorskip("litert_quantizer")
    path = litert_files.clamped(tmp_path / "clamped.tflite")
    found = []
    for recipe in ("source", "static-wi8-ai8"):
        folder = tmp_path / recipe
        folder.mkdir()
        feeds = [
            {"x": np.random.default_rng(seed).standard_normal((1, 6)).astype("f4")}
            for seed in range(16)
        ]
        wishes = (("exclude", json.dumps(exclude)),) if recipe != "source" else ()
        offer, data = RECIPES[recipe], MemoryCalibration(feeds)
        request = BuildRequest(path, offer.precision, recipe, "cpu", data, wishes)
        session = BACKEND.open(BACKEND.build(request, str(folder)), "cpu", ONE)
        found.append(np.concatenate([infer(session, feed)["y"] for feed in feeds]))
    assert [name for name in operators(folder / "model.tflite") if name.startswith("RELU")] == left
    assert exclude or "cpu:builtin" not in str(session.executed)
    wanted, got = found
    assert (wanted == 0).any()
    assert (wanted == 6).any()
    np.testing.assert_allclose(got, wanted, atol=0.5)


def test_a_constant_of_fewer_axes_than_what_it_limits_is_quantized(tmp_path):
    pytest.importorskip("litert_quantizer")
    path = litert_files.limited(tmp_path / "limited.tflite")
    wanted, got = (each["y"] for each in in_float_and_int8(path, tmp_path, x=(1, 3, 6)))
    assert (wanted == 0.5).any()
    np.testing.assert_allclose(got, wanted, atol=0.03 * wanted.max())


@pytest.mark.parametrize("include", [None, "Gemm,Div"])
def test_divisions_are_int8_only_where_that_is_wished(include, tmp_path):
    """LiteRT's kernel fails at a divisor that rounds to zero, which only some samples have."""
    pytest.importorskip("litert_quantizer")
    path = litert_files.quotient(tmp_path / "quotient.tflite")
    feed = {"x": np.array([[-1, 1, 0.5, -0.5, 1, 0.001]], "f4")}
    wishes = (("include", include),) if include else ()
    (tmp_path / "e").mkdir()
    data = MemoryCalibration([feed])
    request = BuildRequest(path, Precision.INT8, "static-wi8-ai8", "cpu", data, wishes)
    engine = BACKEND.build(request, str(tmp_path / "e"))
    assert any("1 DIV stay in float32" in note for note in engine.notes) == (not include)
    session = BACKEND.open(engine, "cpu", ONE)
    if include:
        with pytest.raises(RuntimeError, match="zero_point"):
            infer(session, feed)
    else:
        assert np.isfinite(infer(session, feed)["y"]).all()


@pytest.mark.parametrize("names", [("the", "same"), ("x", "x"), ("", "")])
def test_tensors_may_share_a_name_or_have_none(names, tmp_path):
    pytest.importorskip("litert_quantizer")
    path = litert_files.layers(tmp_path / "layers.tflite", ["z"])
    model = building.flatfile.parse(path)
    model.subgraphs[0].tensors[1].name, model.subgraphs[0].tensors[4].name = (
        name.encode() for name in names
    )
    Path(path).write_bytes(bytes(litert_files.File().tools.convert_object_to_bytearray(model)))
    engine = build(path, tmp_path / "e", "dynamic-wi8-afp32")
    assert BACKEND.open(engine, "cpu", ONE).executed.share("int8") == 1


def test_float16_that_xnnpack_refuses_names_the_operator(tmp_path):
    pytest.importorskip("litert_quantizer")
    path = litert_files.product(tmp_path / "product.tflite")
    with pytest.raises(UnsupportedError, match="can't compute this model in float16: BATCH_MATMUL"):
        build(path, tmp_path / "engine", "float-casting", name="the_left")


def test_other_faults_in_float16_are_what_they_are(cnn, tmp_path, monkeypatch):
    odd = litert_files.batches(tmp_path / "b.tflite", 4, fixed=True)
    building._try(odd, building.inspect(odd, None))
    building._try_fp16(odd, building.inspect(odd, None))  # a batch of 1 fails, which tells nothing

    def full(*_: object):
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(building, "once", full)
    with pytest.raises(OutOfMemoryError):
        building._try_fp16(cnn, building.inspect(cnn, None))


def test_faults_of_the_samples_arent_the_quantizers(cnn, tmp_path):
    pytest.importorskip("litert_quantizer")

    class Lost(MemoryCalibration):
        def feeds(self):
            yield from super().feeds()
            raise ValueError("the second shard is gone")

    (tmp_path / "e").mkdir()
    data = Lost([{"the_image": image()}])
    request = BuildRequest(cnn, Precision.INT8, "static-wi8-ai8", "cpu", data)
    with pytest.raises(ValueError, match="the second shard is gone"):
        BACKEND.build(request, str(tmp_path / "e"))


def test_our_own_engine_that_a_user_brings_keeps_its_names(cnn, tmp_path):
    engine = build(cnn, tmp_path / "e", ports=channels_first())
    again = as_is(engine.path, tmp_path / "again")
    assert set(again.files) == {"model.tflite", "engine.json"}
    assert BACKEND.open(again, "cpu", ONE).inputs[0].name == "x"
    other = tmp_path / "e" / "other.tflite"  # beside an engine.json that isn't its own
    other.write_bytes(Path(litert_files.cnn(tmp_path / "b.tflite", seed=5)).read_bytes())
    assert as_is(str(other), tmp_path / "third").files == ("other.tflite",)


def deployed(engine, script, settings):
    """What the script defines."""
    return defined(BACKEND.deploy_code(engine, "cpu", settings), script)


def defined(code, script):
    script.write_text(code, encoding="utf-8")
    scope = {"__file__": str(script), "__name__": "deployed"}
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), scope)
    return scope


def test_the_script_can_leave_the_delegate_out(cnn, tmp_path):
    engine = build(cnn, tmp_path / "e", ports=channels_first())
    settings = Settings(threads=1, options=(("delegate", "none"),))
    scope = deployed(engine, tmp_path / "e" / "script.py", settings)
    feed = {"x": np.ascontiguousarray(image().transpose(0, 3, 1, 2))}
    session = BACKEND.open(engine, "cpu", settings)
    assert np.array_equal(scope["infer"](scope["load"](), feed)["y"], infer(session, feed)["y"])


def test_the_script_keeps_scalars(tmp_path):
    path = litert_files.scalar(tmp_path / "scalar.tflite")
    engine = as_is(path, tmp_path / "e")
    slots, feed = building.inspect(path, None), {"x": np.array(-2, "f4")}
    for target in (None, Target("cpu")):
        code = deploy.script(Opening("cpu", 1, target=target), slots, Path(engine.path).name)
        scope = defined(code, tmp_path / "e" / "script.py")
        got = scope["infer"](scope["load"](), feed)["y"]
        assert (got.shape, float(got)) == ((), 2)


@needs_fp16
def test_float16_shows_in_what_a_tiny_model_gives():
    assert compiled.trial(Target("cpu", fp16=True)) is None
    assert compiled.trial(Target("cpu")) is None


def test_the_engine_is_only_what_lies_beside_it(cnn, tmp_path):
    engine = build(cnn, tmp_path / "e", ports=channels_first())
    (tmp_path / "e" / "engine.json").unlink()
    bare = Engine(engine.path, ("model.tflite",), 1)
    assert BACKEND.open(bare, "cpu", ONE).inputs[0].name == "the_image"
