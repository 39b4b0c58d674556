"""The contract suite passes a right backend, the tutorial's, and finds the faults of wrong ones."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from harness.testing import BackendContract

ROOT = Path(__file__).resolve().parent.parent
TUTORIAL = ROOT / "docs" / "writing-a-backend.md"


def tutorial_code() -> str:
    text = TUTORIAL.read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(code)


def tutorial_module() -> ModuleType:
    module = ModuleType("my_plugin")
    exec(compile(tutorial_code(), str(TUTORIAL), "exec"), module.__dict__)
    return module


class TestTutorial(BackendContract):
    backend = tutorial_module().BACKEND


def test_the_tutorial_is_short_and_runs_on_python39() -> None:
    assert len([line for line in tutorial_code().splitlines() if line.strip()]) < 80
    ast.parse(tutorial_code(), feature_version=(3, 9))


# Each class below spoils the null backend in one way; the suite must fail where it says.
SPOILT = """
import os, tempfile
from dataclasses import replace
from pathlib import Path
import numpy as np
from backends import null
from harness.backend import Capabilities, Offer
from harness.errors import BackendError, UnsupportedError
from harness.testing import BackendContract, model_specs
from harness.types import Executed, Phases, Precision, Probe, Share, TensorSpec

class Plain(null.Null):
    capabilities = Capabilities(
        ("onnx",), (Offer(Precision.FP32, "source"), Offer(Precision.INT8_DYNAMIC, "source")), "x"
    )
    session = null.NullSession
    def open(self, engine, device, settings):
        return self.session(null._read_engine(engine, device, settings))

class Contract(BackendContract):
    models = ("two",)
    def reference(self, onnx_path, feed):
        inputs, outputs = ([vars(spec) for spec in specs] for specs in model_specs(onnx_path))
        engine = {"inputs": inputs, "outputs": outputs, "precision": "fp32"}
        return null.project({**engine, "behaviour": {**vars(null.Behaviour()), "error": 0.0}}, feed)

def spoil(backend=(), session=()):
    kind = type("Session", (null.NullSession,), dict(session))
    return type("Backend", (Plain,), {"session": kind, **dict(backend)})()

class TestHonest(Contract):
    backend = spoil()

def bind_without_copy(self, feed):
    null.NullSession.bind(self, feed)
    self._feed = dict(feed)
class TestNoCopy(Contract):
    backend = spoil(session={"bind": bind_without_copy})

def bind_once(self, feed):
    if self._feed is None:
        null.NullSession.bind(self, feed)
class TestStale(Contract):
    backend = spoil(session={"bind": bind_once})

def bind_crossed(self, feed):
    null.NullSession.bind(self, feed)
    self._feed["right"] = self._feed["left"]
class TestCrossed(Contract):
    backend = spoil(session={"bind": bind_crossed})

def bind_anything(self, feed):
    self._feed = {spec.name: np.array(feed[spec.name]) for spec in self.inputs}
class TestUnchecked(Contract):
    backend = spoil(session={"bind": bind_anything})

def bind_in_place(self, feed):
    null.NullSession.bind(self, feed)
    for value in feed.values():
        if value.flags.writeable:
            value *= 2
class TestWritesFeed(Contract):
    backend = spoil(session={"bind": bind_in_place})

def bind_raw(self, feed):
    null.NullSession.bind(self, feed)
    self._feed = {name: np.frombuffer(value.tobytes("A"), value.dtype).reshape(value.shape)
                  for name, value in feed.items()}
class TestLayout(Contract):
    backend = spoil(session={"bind": bind_raw})

def fetch_scaled(self):
    return {name: 2 * value for name, value in null.NullSession.fetch(self).items()}
class TestScaled(Contract):
    backend = spoil(session={"fetch": fetch_scaled})

class TestFp32InDisguise(Contract):
    backend = spoil(session={"executed": Executed((Share("cpu", 1),), (Share("fp32", 1),))})

class TestEmptyExecuted(Contract):
    backend = spoil(session={"executed": Executed((), ())})

def swap_names(self, content):
    null.NullSession.__init__(self, content)
    self.outputs = tuple(replace(spec, name=spec.name + ":0") for spec in self.outputs)
class TestRenamed(Contract):
    backend = spoil(session={"__init__": swap_names})

def noisy_run(self):
    os.write(1, b"[INFO] running")
    null.NullSession.run(self)
class TestNoisy(Contract):
    backend = spoil(session={"run": noisy_run})

def close_once(self):
    assert not vars(self).setdefault("closed", False), "closed twice"
    self.closed = True
class TestCloseOnce(Contract):
    backend = spoil(session={"close": close_once})

SHARED = []
def run_shared(self):
    SHARED[:] = [self._feed]
    for _ in range(50):
        null.project(self._content, SHARED[0])
    self._results = null.project(self._content, SHARED[0])
class TestSharedState(Contract):
    backend = spoil(session={"run": run_shared})

def littering_build(self, request, workdir):
    Path("timing.cache").write_text("")
    return null.Null.build(self, request, workdir)
class TestLitter(Contract):
    backend = spoil({"build": littering_build})

def littering_temp(self, request, workdir):
    os.close(tempfile.mkstemp()[0])
    return null.Null.build(self, request, workdir)
class TestTempLitter(Contract):
    backend = spoil({"build": littering_temp})

def wrong_size(self, request, workdir):
    return replace(null.Null.build(self, request, workdir), size_bytes=1)
class TestWrongSize(Contract):
    backend = spoil({"build": wrong_size})

def build_with_link(self, request, workdir):
    engine = null.Null.build(self, request, workdir)
    body = Path(engine.path).read_text()
    (Path(workdir) / "real.json").write_text(body)
    Path(engine.path).write_text(str(Path(workdir) / "real.json"))
    size = sum((Path(workdir) / name).stat().st_size for name in engine.files)
    return replace(engine, size_bytes=size)
def open_link(self, engine, device, settings):
    text = Path(engine.path).read_text()
    real = replace(engine, path=text) if text.startswith("/") else engine
    return Plain.open(self, real, device, settings)
class TestNotRelocatable(Contract):
    backend = spoil({"build": build_with_link, "open": open_link})

def refuse(self, request, workdir):
    raise UnsupportedError("no MatMul")
class TestRefusesFp32(Contract):
    backend = spoil({"build": refuse})

def any_device(self, engine, device, settings):
    return Plain.open(self, engine, "cpu", settings)
class TestAnyDevice(Contract):
    backend = spoil({"open": any_device})

def any_option(self, engine, device, settings):
    return Plain.open(self, engine, device, replace(settings, options=()))
class TestAnyOption(Contract):
    backend = spoil({"open": any_option})

def deploy_other(self, engine, device, settings):
    return null.Null.deploy_code(self, engine, device, settings).replace("/ 8.0", "/ 7.0")
class TestDeploysOther(Contract):
    backend = spoil({"deploy_code": deploy_other})

def deploy_with_harness(self, engine, device, settings):
    code = null.Null.deploy_code(self, engine, device, settings)
    return code.replace("import json", "import json, harness")
class TestDeploysHarness(Contract):
    backend = spoil({"deploy_code": deploy_with_harness})

def takes_all(self, engine, device, settings):
    try:
        return Plain.open(self, engine, device, settings)
    except BackendError as error:
        if "no engine" in str(error):
            return None
        raise
class TestTakesRubbish(Contract):
    backend = spoil({"open": takes_all})

def raising_probe(self):
    raise RuntimeError("no driver")
class TestProbeRaises(Contract):
    backend = spoil({"probe": raising_probe})

class TestProbeWithoutFix(Contract):
    backend = spoil({"probe": lambda self: Probe("null", problem="not installed")})

class TestTwiceOffered(Contract):
    backend = spoil({"capabilities": replace(
        Plain.capabilities, offers=2 * (Offer(Precision.FP32, "source"),))})

class LossyQueue(null.QueueSession):
    def wait_any(self):
        slot = null.QueueSession.wait_any(self)
        return 0 if slot == 1 and len(self._started) < 2 else slot
class TestLossyQueue(Contract):
    backend = spoil({"session": LossyQueue})

class IdleDevice(null.DeviceSession):
    def run_timed(self):
        if self._results is None:
            self.run()
        return Phases(1, 1, 1, 1)
    def bind(self, feed):
        before = self._results
        null.DeviceSession.bind(self, feed)
        self._results = before
class TestIdleDevice(Contract):
    backend = spoil({"session": IdleDevice})
"""

FOUND_BY: Mapping[str, str] = {
    "TestHonest": "",
    "TestNoCopy": "the_feed_is_copied_and_left_alone",
    "TestStale": "a_run_repeats_and_follows_its_feed",
    "TestCrossed": "each_input_matters",
    "TestUnchecked": "a_wrong_feed_is_refused_by_name",
    "TestWritesFeed": "the_feed_is_copied_and_left_alone",
    "TestLayout": "the_memory_layout_of_a_feed_is_free",
    "TestScaled": "outputs_agree_with_the_reference",
    "TestFp32InDisguise": "executed_says_what_ran",
    "TestEmptyExecuted": "executed_says_what_ran",
    "TestRenamed": "sessions_show_the_models_own_inputs_and_outputs",
    "TestNoisy": "outputs_agree_with_the_reference",
    "TestCloseOnce": "close_is_safe_twice_and_leaves_others_open",
    "TestSharedState": "sessions_run_side_by_side_in_threads",
    "TestLitter": "build_writes_what_it_names_and_nothing_else",
    "TestTempLitter": "build_writes_what_it_names_and_nothing_else",
    "TestWrongSize": "build_writes_what_it_names_and_nothing_else",
    "TestNotRelocatable": "an_engine_can_be_moved",
    "TestRefusesFp32": "outputs_agree_with_the_reference",
    "TestAnyDevice": "unknown_options_and_devices_are_refused",
    "TestAnyOption": "unknown_options_and_devices_are_refused",
    "TestDeploysOther": "deploy_code_does_what_the_session_does",
    "TestDeploysHarness": "deploy_code_does_what_the_session_does",
    "TestTakesRubbish": "rubbish_is_an_error_and_not_a_crash",
    "TestProbeRaises": "probe_says_what_is_here_or_what_to_do",
    "TestProbeWithoutFix": "probe_says_what_is_here_or_what_to_do",
    "TestTwiceOffered": "describes_itself",
    "TestIdleDevice": "a_device_that_times_computes_too",
    "TestLossyQueue": "an_asynchronous_queue_completes_every_slot",
}


@cache
def failures(folder: Path) -> dict[str, set[str]]:
    """The tests that failed, per class of :data:`SPOILT`."""
    (folder / "test_spoilt.py").write_text(SPOILT)
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), str(folder)],
        cwd=folder,  # one of the spoilt backends leaves a file here
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "400"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    found: dict[str, set[str]] = {name: set() for name in FOUND_BY}
    line = re.compile(r"^(?:FAILED|ERROR) \S*?::(\w+)::test_(\w+)", re.MULTILINE)
    for kind, test in line.findall(done.stdout):
        found[kind].add(test)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spoilt")


@pytest.mark.parametrize("kind", [kind for kind, test in FOUND_BY.items() if test])
def test_the_suite_finds_a_spoilt_backend(kind: str, folder: Path) -> None:
    assert FOUND_BY[kind] in failures(folder)[kind]


def test_the_suite_passes_an_honest_backend(folder: Path) -> None:
    assert failures(folder)["TestHonest"] == set()
