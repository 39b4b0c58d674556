"""``enginepick build``: engines of one precision, here or for a GPU that is elsewhere."""

from __future__ import annotations

import errno
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from pipeline import LAB, write_inputs
from rich.console import Console

from harness import buildview, jobs, ownengines, prepare
from harness.ahead import MANIFEST, build_engines
from harness.build import Builder
from harness.cache import Cache, file_sha256
from harness.config import BuildConfig, Lab, Target, load_sweep
from harness.errors import InputError
from harness.prepare import find_home
from harness.setup import Setup
from harness.testing_models import mlp_model
from harness.types import Candidate, Device, Precision, Probe, ShapeRange, Status, TensorSpec

FAR = Target(
    device="gpu:0",
    reach="ssh://lab@far",
    compute_capability="8.9",
    options={"null": {"weights": ("64",)}},
    python={"null": "/over/there/python"},
)


def build(
    folder: Path, precision="fp32", lab=LAB, /, *, data=False, wishes=None, spoil=None, **more
):
    files = write_inputs(folder)
    if spoil is not None:
        spoil(folder)
    named = {"model": files["model"], "backends": ["null"], "precisions": [precision]}
    named |= {"data": files["data"]} if data else {}
    config = load_sweep(None, {**named, **(wishes or {})}, BuildConfig)
    return build_engines(config, folder / "out", lab=lab, cache=Cache(folder / "cache"), **more)


def problems(folder: Path, precision="fp32", lab=LAB, /, **more) -> str:
    with pytest.raises(InputError) as caught:
        build(folder, precision, lab, **more)
    return str(caught.value)


def open_model(folder: Path) -> None:
    """The inputs with an open axis beyond the batch's."""
    model = mlp_model()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "width"
    onnx.save(model, folder / "model.onnx")


def test_an_engine_is_handed_out_with_a_manifest(tmp_path):
    built = build(tmp_path)
    (engine,) = built.engines
    assert built.place == "cpu of this host"
    assert engine.file == tmp_path / "out" / "model-null-fp32-cpu" / "engine.nullengine"
    facts = json.loads((engine.file.parent / MANIFEST).read_text())
    assert (facts["backend"], facts["precision"], facts["device"]) == ("null", "fp32", "cpu")
    assert facts["engine"] == engine.file.name
    assert facts["model"]["sha256"]
    assert facts["versions"] == {"numpy": np.__version__}
    assert facts["calibration"] is None
    for name, file in facts["files"].items():
        assert file["sha256"] == file_sha256(engine.file.parent / name)
    assert build(tmp_path).engines[0].record.cached  # an engine of before is replaced


def test_a_sweeps_engine_is_the_same_one(tmp_path):
    first = build(tmp_path, "int8", data=True)
    assert json.loads((first.engines[0].file.parent / MANIFEST).read_text())["calibration"]
    config = load_sweep(None, {**write_inputs(tmp_path), "backends": ["null"]})
    with Cache(tmp_path / "cache").scratch() as spool:
        prepared = prepare.prepare(config, LAB, spool)
    int8 = next(each for each in prepared.plan.candidates if each.precision is Precision.INT8)
    made = Builder(prepared.setup(), Cache(tmp_path / "cache")).make(int8)
    assert made.record.cached
    assert made.record.engine_key == first.engines[0].record.engine_key


def test_for_a_gpu_elsewhere_the_library_alone_is_needed(tmp_path, monkeypatch):
    probe = Probe("null", (("numpy", "2"),), (), "no driver", "install one")
    monkeypatch.setattr(prepare, "ask_probe", lambda *_: probe)
    built = build(tmp_path, compute_capability="8.9")
    assert built.place == "GPUs of compute capability 8.9"
    (engine,) = built.engines
    assert engine.candidate.device == "gpu:0"
    assert "for GPUs of compute capability 8.9" in engine.record.notes
    assert engine.file.parent.name.endswith("-sm89")
    facts = json.loads((engine.file.parent / MANIFEST).read_text())
    assert (facts["compute_capability"], facts["device"]) == ("8.9", None)
    assert "elsewhere: --compute-capability" in problems(tmp_path)
    missing = Probe("null", (), (), "not installed", "install it")
    monkeypatch.setattr(prepare, "ask_probe", lambda *_: missing)
    assert "not installed" in problems(tmp_path, compute_capability="8.9")


def test_options_of_the_target_and_of_the_command_reach_the_build(tmp_path):
    lab = Lab(targets={"far": FAR})
    small = build(tmp_path, "fp32", lab, wishes={"target": "far"})
    assert small.place == "GPUs of compute capability 8.9 (target far)"
    assert small.engines[0].record.options == (("weights", "64"),)
    assert (small.engines[0].file.parent / "engine.bin").stat().st_size == 4 * 64
    tiny = build(tmp_path, "fp32", lab, wishes={"target": "far"}, options={"weights": "2"})
    assert (tiny.engines[0].file.parent / "engine.bin").stat().st_size == 4 * 2


def test_a_capability_is_part_of_the_engines_address(tmp_path):
    keys = {
        build(tmp_path, compute_capability=each).engines[0].record.engine_key
        for each in ("8.9", "8.6", None)
    }
    assert len(keys) == 3


def test_what_is_calibrated_needs_samples_of_any_kind(tmp_path):
    text = problems(tmp_path, "int8", compute_capability="8.9")
    assert "int8 by null-int8 is calibrated on samples" in text
    assert "--data DATA, or --calibration DATA" in text
    data = write_inputs(tmp_path)["data"]
    built = build(tmp_path, "int8", wishes={"calibration": data})
    assert "calibrated on 40 samples" in built.engines[0].record.notes


def test_open_axes_without_data_are_refused_and_shapes_say_what_they_are(tmp_path):
    wide = {"spoil": open_model}
    assert 'axis 1 ("width") is open' in problems(tmp_path, **wide)
    shape = {"min": [1, 8], "opt": [4, 32], "max": [16, 64]}
    built = build(tmp_path, wishes={"shapes": {"features": shape}}, **wide)
    assert built.profiles == ((ShapeRange("features", (1, 8), (4, 32), (16, 64)),),)
    built = build(tmp_path, data=True, **wide)
    assert built.profiles == ((ShapeRange("features", (1, 32), (1, 32), (1, 32)),),)
    narrow = {"shapes": {"features": {name: [1, 8] for name in ("min", "opt", "max")}}}
    assert "axis 1 is 32 in the data" in problems(tmp_path, data=True, wishes=narrow, **wide)
    unknown = {"shapes": {"feature": shape}}
    assert 'no input "feature"' in problems(tmp_path, wishes=unknown, **wide)


@pytest.mark.parametrize(
    ("precision", "more", "words"),
    [
        ("fp8", {}, "it has: fp32 (source), fp16 (source)"),
        ("int8", {"recipe": "qdq"}, "null has no int8 by the recipe qdq"),
        ("fp32", {"options": {"weight": "3"}}, "these: weights"),
        ("fp32", {"wishes": {"target": "nobody"}}, 'no target "nobody"'),
        ("fp32", {"wishes": {"precisions": []}}, "none named; a build is of one"),
        ("fp32", {"wishes": {"backends": ["nul"]}}, 'did you mean "null"'),
        ("bf16", {}, "does not execute bf16 natively"),
        (
            "fp32",
            {"wishes": {"target": "bench"}, "compute_capability": "8.9"},
            "both a target and a compute capability",
        ),
        ("fp32", {"compute_capability": "8"}, "expected a compute capability in quotes, such as"),
    ],
)
def test_wrong_input_is_told_before_anything_is_built(tmp_path, precision, more, words):
    text = problems(tmp_path, precision, **more)
    assert words in text
    assert not (tmp_path / "out").exists()


def test_devices_to_sweep_are_of_no_account_for_a_gpu_elsewhere(tmp_path):
    wishes = {"candidates": {"devices": ["cpu", "gpu:7"], "threads": [1, 2]}}
    (engine,) = build(tmp_path, wishes=wishes, compute_capability="8.9").engines
    assert engine.candidate.device == "gpu:0"
    built = build(tmp_path, wishes=wishes)
    assert [each.candidate.device for each in built.engines] == ["cpu"]
    assert "no device gpu:7" in built.skips[0].reason


def test_a_target_elsewhere_without_a_capability_is_told_what_it_lacks(tmp_path):
    lab = Lab(targets={"far": FAR.model_copy(update={"compute_capability": None})})
    text = problems(tmp_path, "fp32", lab, wishes={"target": "far"})
    assert "reached by ssh://lab@far" in text
    assert "add it to [targets.far]" in text


def test_a_device_beside_a_target_elsewhere_that_has_another_is_refused(tmp_path):
    lab, wishes = Lab(targets={"far": FAR}), {"target": "far"}
    assert "cpu is named" in problems(tmp_path, "fp32", lab, wishes=wishes, device="cpu")
    built = build(tmp_path, "fp32", lab, wishes=wishes, device="gpu:0")
    assert built.engines[0].candidate.device == "gpu:0"
    console = Console(width=80, file=io.StringIO())
    console.print(buildview.view(built))
    assert "--target far" in console.file.getvalue()


def test_a_former_engine_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    file = build(tmp_path).engines[0].file
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy2", full)
        with pytest.raises(OSError, match="No space"):
            build(tmp_path)
    assert file.read_bytes() == before
    assert build(tmp_path).engines[0].file == file
    assert [each.name for each in (tmp_path / "out").iterdir()] == [file.parent.name]


def test_nothing_that_is_no_engine_is_overwritten(tmp_path):
    folder = tmp_path / "out" / "model-null-fp32-cpu"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    assert "holds no engine" in problems(tmp_path)
    assert (folder / "thesis.txt").read_text() == "mine"


def test_a_refusal_of_the_backend_is_in_the_result(tmp_path, monkeypatch):
    refusal = jobs.Refused(Status.UNSUPPORTED, "build", "no such operator: Foo", "replace it")
    monkeypatch.setattr(Setup, "ask_once", lambda *_: refusal)
    (engine,) = build(tmp_path).engines
    assert engine.file is None
    assert (engine.record.status, engine.record.fix) == (Status.UNSUPPORTED, "replace it")


# -- addresses -------------------------------------------------------------------------------------


def address(tmp_path, candidate=None, **changes) -> str:
    """Of an engine that a setup, changed so, would build."""
    versions = (("tensorrt", "10.16"), ("driver", "580.1"))
    probe = Probe("null", versions, (Device("gpu:0", "RTX 4090"),))
    nothing = jobs.Samples(prepare._NO_DATA, "all", 0, 0)
    setup = Setup(
        model="m.onnx",
        model_sha256="0",
        inputs=(TensorSpec("x", "float32", (1,)),),
        validation=nothing,
        calibration=None,
        homes={"null": find_home("null", {})},
        probes={"null": replace(probe, **changes.pop("probe", {}))},
        isa=frozenset(),
        timeout_s=1.0,
    )
    builder = Builder(replace(setup, **changes), Cache(tmp_path))
    asked = candidate or Candidate("null", Precision.FP16, "source", "gpu:0")
    return builder._record(asked, builder._recipe(asked)).engine_key


def test_engines_of_another_gpu_driver_or_version_are_never_used_again(tmp_path):
    shape = ShapeRange("x", (1,), (1,), (1,))
    changed = [
        {},
        {"probe": {"versions": (("tensorrt", "10.16"), ("driver", "580.2"))}},
        {"probe": {"versions": (("tensorrt", "11.4"), ("driver", "580.1"))}},
        {"probe": {"devices": (Device("gpu:0", "RTX 4080"),)}},
        {"compute_capability": "8.9"},
        {"compute_capability": "12.0"},
        {"profiles": {"null": ((shape,),)}},
        {"profiles": {"null": ((replace(shape, max=(2,)),),)}},
    ]
    assert len({address(tmp_path, **each) for each in changed}) == len(changed)
    assert address(tmp_path, profiles={"another": ((shape,),)}) == address(tmp_path)
    # built ahead, the device that happens to be here is of no account
    ahead = {"compute_capability": "8.9"}
    other = {"probe": {"devices": (Device("gpu:0", "RTX 4080"),)}}
    assert address(tmp_path, **ahead) == address(tmp_path, **ahead, **other)


def test_an_engine_as_it_is_has_the_address_of_all_its_files(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("model.xml", "model.bin", "other.bin"):
        (folder / name).write_text(name)
    candidate = Candidate("null", Precision.AS_IS, "model.xml", "gpu:0")

    def found() -> str:
        return address(tmp_path, candidate, engines=ownengines.find([str(folder / "model.xml")]))

    first = found()
    (folder / "other.bin").write_text("changed")
    assert found() == first
    for name in ("model.bin", "engine.json", "model.xml.data"):
        (folder / name).write_text("changed")
        assert found() != first
        first = found()
    assert candidate.label == "null as-is (model.xml)"


def test_alike_names_of_engines_get_as_much_of_their_path_as_it_takes():
    files = ["/a/x/m.engine", "/b/x/m.engine", "/b/m.engine", "/c/n.engine", "/c/n.engine"]
    assert ownengines.names(files) == {
        "a/x/m.engine": "/a/x/m.engine",
        "b/x/m.engine": "/b/x/m.engine",
        "b/m.engine": "/b/m.engine",
        "n.engine": "/c/n.engine",
    }
