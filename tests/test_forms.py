"""A model in the formats that backends read: converted once, in a worker, every outcome kept."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from pipeline import write_inputs

from harness import datasets, jobs, prepare
from harness.backend import Capabilities
from harness.build import Builder
from harness.cache import Cache
from harness.plan import Known
from harness.routes import Tool
from harness.setup import Home, Setup
from harness.testing_models import mlp_model, model_specs
from harness.types import Candidate, Precision, Probe, Stage, Status

PLUGIN = '''
import dataclasses, json, os, shutil, signal, time
from pathlib import Path

from backends.null import BACKEND as NULL
from harness import wire
from harness.backend import Converted
from harness.errors import UnsupportedError
from harness.types import Port, Ports


class Shout:
    """ONNX under names in capitals, as the format "loud"."""

    def convert(self, request, workdir):
        with Path(os.environ["SHOUTED"]).open("a") as log:
            log.write(json.dumps([request.shapes, len(request.samples)]) + "\\n")
        said = os.environ.get("SHOUT_SAYS", "")
        if said == "unsupported":
            raise UnsupportedError("the operator Whisper isn't converted")
        if said == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if said == "hang":
            time.sleep(600)
        if said == "memory":
            bytearray(1 << 50)
        if said == "elsewhere":
            return Converted(request.model, None, ())
        out = Path(workdir) / "loud" / "model.onnx"
        out.parent.mkdir()
        shutil.copy(request.model, out)
        ports = Ports(*(
            tuple(Port(spec, spec.name.upper(), spec.dtype) for spec in specs)
            for specs in (request.inputs, request.outputs)
        ))
        return Converted(str(out), ports, ("shouted",))


class Ears(type(NULL)):
    """The null backend, as a reader of the format."""

    name = "ears"

    def build(self, request, workdir):
        assert request.model.endswith("loud/model.onnx")
        engine = super().build(request, workdir)
        names = [port.name for port in request.ports.inputs]
        return dataclasses.replace(engine, notes=(f"heard {names}",))


CONVERTER, BACKEND = Shout(), Ears()
'''

FP32 = Candidate("ears", Precision.FP32, "source", "cpu")
FP16 = replace(FP32, precision=Precision.FP16)

Make = Callable[..., Any]


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """A run whose one backend reads what a converter makes of ONNX."""
    (tmp_path / "shouting.py").write_text(PLUGIN)
    info = tmp_path / "ears-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ears\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[enginepick.backends]\nears = shouting:BACKEND\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shouting", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SHOUTED", str(tmp_path / "shouted"))
    files = write_inputs(tmp_path)
    inputs, outputs = model_specs(onnx.load(files["model"]))
    data = datasets.resolve(files["data"])
    size = mlp_model().graph.input[0].type.tensor_type.shape.dim[1].dim_value
    return Setup(
        model=files["model"],
        model_sha256="a model",
        inputs=inputs,
        outputs=outputs,
        validation=jobs.Samples(data, "validation", 0, 0),
        calibration=None,
        homes={
            "ears": Home(jobs.Location("shouting", "BACKEND")),
            "shout": Home(jobs.Location("shouting", "CONVERTER")),
        },
        probes={"ears": Probe("ears", (("ears", "1"),))},
        isa=frozenset(),
        timeout_s=60,
        formats={"ears": ("loud",)},
        tools=(Tool("shout", "onnx", "loud", Probe("shout", (("shout", "1"),))),),
        shapes=((inputs[0].name, (1, size)),),
    )


def shouted(folder: Path) -> list[Any]:
    log = folder / "shouted"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_a_model_is_converted_once_for_all_that_is_built_from_it(workshop, tmp_path):
    cache = Cache(tmp_path / "cache")
    builder = Builder(workshop, cache)
    made = [builder.make(each) for each in (FP32, FP16)]
    assert [each.record.reason for each in made] == [None, None]
    assert all("shouted" in each.record.notes for each in made)
    assert all(any(n.startswith("heard ['") for n in each.record.notes) for each in made)
    again = Builder(workshop, cache).make(replace(FP32, device="gpu:0"))
    assert again.record.ok
    ((shapes, samples),) = shouted(tmp_path)
    assert [tuple(each[1]) for each in shapes] == [workshop.shapes[0][1]]
    assert samples == 2


def test_another_converter_makes_another_engine(workshop, tmp_path):
    cache = Cache(tmp_path / "cache")
    newer = replace(workshop.tools[0], probe=Probe("shout", (("shout", "2"),)))
    first, second = (
        Builder(setup, cache).make(FP32).record
        for setup in (workshop, replace(workshop, tools=(newer,)))
    )
    assert first.engine_key != second.engine_key
    assert len(shouted(tmp_path)) == 2


@pytest.mark.parametrize(
    ("says", "status", "words"),
    [
        ("unsupported", Status.UNSUPPORTED, "Whisper"),
        ("crash", Status.CRASHED, "SIGSEGV"),
        ("hang", Status.TIMEOUT, "killed"),
        ("memory", Status.OUT_OF_MEMORY, "MemoryError"),
        ("elsewhere", Status.FAILED, "isn't in the folder that it was given"),
    ],
)
def test_what_goes_wrong_is_a_record_of_the_conversion(
    workshop, tmp_path, monkeypatch, says, status, words
):
    monkeypatch.setenv("SHOUT_SAYS", says)
    patience = 5 if says == "hang" else workshop.timeout_s
    builder = Builder(replace(workshop, timeout_s=patience), Cache(tmp_path / "cache"))
    for candidate in (FP32, FP16):
        made = builder.make(candidate)
        assert made.engine is None
        assert (made.record.status, made.record.stage) == (status, Stage.CONVERT)
        assert made.record.reason.startswith("shout: ")
        assert words in made.record.reason
    assert len(shouted(tmp_path)) == 1, "tried once"


def test_an_interpreter_that_is_gone_is_a_record_too(workshop, tmp_path):
    gone = str(tmp_path / "gone" / "python")
    home = replace(workshop.homes["shout"], python=gone)
    setup = replace(workshop, homes={**workshop.homes, "shout": home})
    made = Builder(setup, Cache(tmp_path / "cache")).make(FP32).record
    assert (made.status, made.stage) == (Status.UNAVAILABLE, Stage.CONVERT)
    assert made.reason == f"shout: {gone}: can't be started (No such file or directory)"


def test_shared_variants_are_made_of_onnx_and_converted(workshop, tmp_path):
    builder = Builder(workshop, Cache(tmp_path / "cache"))
    made = builder.make(FP32.floor)
    assert made.record.ok, made.record.reason
    assert "shouted" in made.record.notes
    assert builder.onnx() == workshop.model


def test_a_model_in_another_format_is_converted_to_onnx_for_variants(workshop, tmp_path):
    back = Tool("shout", "loud", "onnx", Probe("shout", (("shout", "1"),)))
    setup = replace(workshop, model_format="loud", tools=(back,))
    builder = Builder(setup, Cache(tmp_path / "cache"))
    found = builder.onnx()
    assert found is not None
    assert found.endswith("loud/model.onnx")
    assert Builder(replace(setup, tools=()), Cache(tmp_path / "cache")).onnx() is None


def test_only_converters_that_may_be_needed_are_looked_at(monkeypatch):
    asked = []
    monkeypatch.setattr(prepare, "ask_probe", lambda name, *_: asked.append(name) or Probe(name))
    for given, needed in (("onnx", []), ("pt2", ["torch-onnx"])):  # for ONNX Runtime's reference
        reader = Known("reader", Capabilities((given,), (), ""), Probe("reader"))
        tools, homes = prepare.find_tools([reader], given, {})
        assert asked == [each.name for each in tools] == list(homes) == needed
    both = Known("both", Capabilities(("onnx", "tflite"), (), ""), Probe("both"))
    assert prepare.find_tools([both], "onnx", {}) == ((), {})
