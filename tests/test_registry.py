"""Backends are found by entry points, and a broken plug-in is a row that says why."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline import LAB, configure

from harness import registry
from harness.errors import InputError, UnavailableError
from harness.prepare import prepare
from harness.types import Probe

Install = Callable[..., Path]

GOOD = """
from harness.backend import Capabilities
from harness.types import Probe

class Plugin:
    name = "plugin"
    api = {api}
    capabilities = Capabilities(("onnx",), (), "pip install plugin")
    def probe(self): return Probe("plugin")
    def build(self, request, workdir): ...
    def open(self, engine, device, settings): ...
    def deploy_code(self, engine, device, settings): return ""

class place:
    BACKEND = Plugin()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution with one module and one entry point, for this test only."""

    def add(module: str, source: str, *, entry: str, name: str = "plugin", dist: str = "") -> Path:
        dist = dist or f"dist-{module}"
        folder = tmp_path / dist
        info = folder / f"{dist.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{registry.BACKENDS.group}]\n{name} = {entry}\n")
        (folder / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, module, raising=False)
        return folder

    return add


def test_our_backends_are_listed_in_order() -> None:
    assert registry.names() == tuple(sorted(registry.names()))
    assert {"null", "onnxruntime", "openvino"} <= set(registry.names())


def test_listing_and_locating_import_nothing() -> None:
    code = (
        "import sys; from harness import registry;"
        "places = [registry.location(name) for name in registry.names()];"
        "assert len(places) >= 3;"
        "print([name for name in sys.modules if name.split('.')[0] in"
        " ('backends', 'onnxruntime', 'openvino', 'onnx')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_null_backend_is_loaded_and_hidden() -> None:
    assert registry.location("null") == registry.PlugInLocation(
        "null", "backends.null", "BACKEND", "enginepick"
    )
    assert registry.load("null", registry.BACKENDS).name == "null"
    assert registry.hidden("null")
    assert not registry.hidden("onnxruntime")


@pytest.mark.parametrize("call", [registry.location, registry.safe_load])
def test_an_unknown_name_is_the_users_mistake(call: Callable[[str], object]) -> None:
    with pytest.raises(InputError) as caught:
        call("openvinno")
    (problem,) = caught.value.problems
    assert "onnxruntime" in problem.what
    assert problem.fix == 'did you mean "openvino"?'


def test_a_name_like_no_other_gets_the_list() -> None:
    with pytest.raises(InputError) as caught:
        registry.load("qqq", registry.BACKENDS)
    (problem,) = caught.value.problems
    assert "null, onnxruntime, openvino" in problem.what
    assert problem.fix == "enginepick devices"


def test_a_third_partys_plugin_is_a_backend_like_ours(install: Install) -> None:
    install("plugin_good", GOOD.format(api=1), entry="plugin_good:place.BACKEND")
    assert "plugin" in registry.names()
    assert registry.location("plugin").distribution == "dist-plugin_good"
    assert registry.load("plugin", registry.BACKENDS).name == "plugin"
    assert registry.safe_load("plugin") is registry.load("plugin", registry.BACKENDS)
    assert not registry.hidden("plugin")


@pytest.mark.parametrize(
    ("source", "entry", "name", "says"),
    [
        ("import no_such_runtime", "plugin_bad:BACKEND", "plugin", "no_such_runtime"),
        ("raise ValueError('boom')", "plugin_bad:BACKEND", "plugin", "ValueError: boom"),
        ("def (", "plugin_bad:BACKEND", "plugin", "SyntaxError"),
        ("", "plugin_bad:BACKEND", "plugin", "no attribute 'BACKEND'"),
        ("BACKEND = 1", "plugin_bad:BACKEND", "plugin", "lacks name, api, capabilities"),
        ("", "no_such_module_here:BACKEND", "plugin", "no_such_module_here"),
        ("", "plugin_bad", "plugin", "module:attribute"),
        (GOOD.format(api=99), "plugin_bad:place.BACKEND", "plugin", "version 99"),
        (GOOD.format(api=1), "plugin_bad:place.BACKEND", "other", "calls itself 'plugin'"),
    ],
)
def test_a_broken_plugin_is_a_probe_that_says_why(
    install: Install, source: str, entry: str, name: str, says: str
) -> None:
    install("plugin_bad", source, entry=entry, name=name)
    assert name in registry.names()
    probe = registry.safe_load(name)
    assert isinstance(probe, Probe)
    assert probe.backend == name
    assert probe.problem is not None
    assert says in probe.problem
    assert probe.fix is not None
    assert "dist-plugin_bad" in probe.fix
    assert probe.devices == ()
    with pytest.raises(UnavailableError):
        registry.load(name, registry.BACKENDS)


def test_a_broken_plugin_is_said_in_the_sweep_and_alone_refuses_it(
    install: Install, tmp_path: Path
) -> None:
    install("plugin_bad", "import no_such_runtime", entry="plugin_bad:BACKEND")
    config = configure(tmp_path, backends=["null", "plugin"])
    (warning,) = prepare(config, LAB, tmp_path).checked.warnings
    assert warning.startswith("plugin takes no part: ")
    assert "no_such_runtime" in warning
    with pytest.raises(InputError, match="no_such_runtime"):
        prepare(configure(tmp_path, backends=["plugin"]), LAB, tmp_path)


def test_two_distributions_with_one_name_are_both_named(install: Install) -> None:
    install("plugin_one", GOOD.format(api=1), entry="plugin_one:place.BACKEND")
    install("plugin_two", GOOD.format(api=1), entry="plugin_two:place.BACKEND")
    assert registry.names().count("plugin") == 1
    probe = registry.safe_load("plugin")
    assert isinstance(probe, Probe)
    assert probe.problem is not None
    assert "dist-plugin_one" in probe.problem
    assert "dist-plugin_two" in probe.problem
    assert probe.fix is not None
    assert probe.fix.startswith("pip uninstall dist-plugin_")
