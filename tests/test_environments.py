"""Interpreters of their own: which Python, what is in them, and that a failure leaves nothing bad.

Wheels are made by hand and pip is kept from any index, so that only the exhaustive test needs one.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomllib
from pipeline import run as sweep_null
from rich.console import Console

from backends.litert import tiny
from harness import cli, environments, homes, prepare, pythons, registry, setupview, views
from harness.environments import Made
from harness.errors import InputError
from harness.homes import House, Tenant, Where
from harness.host import probe_host
from harness.plan import Known
from harness.types import Environment, Probe

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = f"{sys.version_info[0]}.{sys.version_info[1]}"

PLUG_IN = """
from importlib.metadata import PackageNotFoundError, version

from harness.backend import Capabilities
from harness.types import Device, Environment, Probe

TOOL = {tool!r}

class Plugin:
    name = "plugin"
    api = 1
    capabilities = Capabilities(
        ("thing",), (), "pip install", environment=Environment((TOOL,), alone=("loose",))
    )
    def probe(self):
        try:
            import faketool
            import loose
        except ImportError as error:
            return Probe("plugin", problem=str(error), fix="enginepick setup plugin")
        return Probe("plugin", (("faketool", faketool.VERSION),), (Device("cpu", "a cpu"),))
    def build(self, request, workdir): ...
    def open(self, engine, device, settings): ...
    def deploy_code(self, engine, device, settings): return ""

class Brings:
    name, api, source, target, home, environment = "brings", 1, "onnx", "thing", "brings", {env}
    def probe(self): return Probe("brings", problem="never", fix="enginepick setup brings")
    def convert(self, request, workdir): ...

BACKEND, CONVERTER = Plugin(), Brings()
"""


def wheel(folder: Path, name: str, files: dict[str, str], *meta: str, version: str = "1.0") -> None:
    """A wheel with these files; meta: further lines of its metadata."""
    info = f"{name}-{version}.dist-info"
    about = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *meta, ""])
    kind = "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    whole = {**files, f"{info}/METADATA": about, f"{info}/WHEEL": kind}
    record = "".join(f"{each},,\n" for each in [*whole, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as out:
        for path, text in {**whole, f"{info}/RECORD": record}.items():
            out.writestr(path, text)


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """A backend and a converter for it, and wheels of what they take; gives the module's file."""
    wheels, numpy = tmp_path / "wheels", tmp_path / "numpy"
    wheels.mkdir()
    numpy.mkdir()
    wheel(wheels, "faketool", {"faketool.py": "VERSION = '7.5'\n"})
    # What alone is for: pins that can't be met, and a Python that isn't this one.
    wheel(wheels, "loose", {"loose.py": ""}, "Requires-Dist: nowhere==1", "Requires-Python: <3")
    for each in (Path(np.__file__).parent, Path(np.__file__).parents[1] / "numpy.libs"):
        if each.exists():
            (numpy / each.name).symlink_to(each)
    wheel(wheels, "numpy", {"numpy_of_ours.pth": f"{numpy}\n"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    monkeypatch.setenv("ENGINEPICK_ENVIRONMENTS", str(tmp_path / "environments"))
    site, name = tmp_path / "site", "plugin_for_setup"
    info = site / "plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{registry.BACKENDS.group}]\nplugin = {name}:BACKEND\n"
        f"[{registry.CONVERTERS.group}]\nbrings = {name}:CONVERTER\n"
    )
    package = site / name / "__init__.py"
    package.parent.mkdir()
    package.write_text(PLUG_IN.format(tool="faketool", env="Environment(('absent',))"))
    monkeypatch.syspath_prepend(str(site))
    yield package
    sys.modules.pop(name, None)


def text_of(view, width: int) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    console.print(view)
    console.file.close()
    return console.export_text()


def run(*args: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100", "PYTHONPATH": sys.path[0]},
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


# -- which Python ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "version", "taken"),
    [
        ("", (3, 9, 0), True),
        ("", (3, 8, 18), False),  # the workers' own limit
        (">=3.10,<3.14", (3, 10, 0), True),
        (">=3.10,<3.14", (3, 13, 9), True),
        (">=3.10,<3.14", (3, 14, 0), False),
        (">=3.10,<3.14", (3, 9, 18), False),
        ("==3.12", (3, 12, 7), True),
        (">=3.9, !=3.11", (3, 11, 1), False),
    ],
)
def test_a_python_fits_or_not(spec, version, taken):
    assert pythons.fits(spec, version) is taken


@pytest.mark.parametrize("spec", ["3.10", "~=3.10", ">=3", "<=3.12"])
def test_what_is_no_specifier_of_ours_is_told(spec):
    with pytest.raises(ValueError, match=r"none of >=X\.Y"):
        pythons.fits(spec, (3, 11))


def test_the_python_that_we_run_on_goes_first():
    assert pythons.find("x", f"=={OURS}").path == sys.executable


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("/nowhere/python3", ("No such file", "x takes Python ==3.99")),
        (shutil.which("true"), ("is no Python",)),
        (sys.executable, (f"is Python {OURS}", "but x takes Python ==3.99")),
    ],
)
def test_a_named_python_that_wont_do_is_the_users_mistake(wanted, words):
    with pytest.raises(InputError) as caught:
        pythons.find("x", "==3.99", wanted)
    for word in ("--python", *words):
        assert word in str(caught.value)


def test_where_no_python_fits_it_says_which_ones_do_and_how_to_name_one():
    with pytest.raises(InputError) as caught:
        pythons.find("x", "==3.99")
    for word in ("x takes Python ==3.99", sys.executable, OURS, "setup x --python /path"):
        assert word in str(caught.value)


def test_the_newest_that_fits_is_found_on_the_path(tmp_path, monkeypatch):
    for minor in (97, 98, 99):
        path = tmp_path / f"python3.{minor}"
        path.write_text(f"#!/bin/sh\necho '[\"cpython\", 3, {minor}, 1]'\n")
        path.chmod(0o755)
    (tmp_path / "python3.98").write_text("#!/bin/sh\necho 'not installed' >&2; exit 127\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(pythons, "NEWEST_MINOR", 120)
    found = pythons.find("x", ">=3.97,<3.99")  # 3.99 is too new, 3.98 is a broken shim
    assert found == pythons.Python(str(tmp_path / "python3.97"), (3, 97, 1))


def test_its_folder_follows_the_users_wishes(monkeypatch, tmp_path):
    monkeypatch.delenv("ENGINEPICK_ENVIRONMENTS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert environments.folder("x") == tmp_path / "enginepick" / "environments" / "x"
    monkeypatch.setenv("ENGINEPICK_ENVIRONMENTS", str(tmp_path / "own"))
    assert environments.folder("x") == tmp_path / "own" / "x"


def declared() -> dict[str, Environment]:
    """What each home of this repository takes, whatever is installed."""
    found: dict[str, Environment] = {}
    for group, entries in PROJECT["entry-points"].items():
        for place in entries.values():
            module, attribute = place.split(":")
            plug_in = getattr(importlib.import_module(module), attribute)
            owner = plug_in.capabilities if group.endswith("backends") else plug_in
            if owner.environment is not None:
                assert found.setdefault(getattr(plug_in, "home", plug_in.name), owner.environment)
    return found


def test_the_extras_are_what_the_environments_take():
    extras = PROJECT["optional-dependencies"]
    takes = declared()
    assert {"litert", "onnx2tf", "executorch", "litert-torch"} <= set(takes)
    for name, environment in takes.items():
        if environment.alone:  # pins that pip can't meet beside ours
            assert name not in extras
        else:
            assert extras[name] == list(environment.requirements), name


def test_what_the_makefile_installs_alone_is_what_the_converter_takes():
    makefile = (ROOT / "Makefile").read_text()
    for each in (each for one in declared().values() for each in one.alone):
        assert f"--no-deps --ignore-requires-python {each}\n" in makefile


def test_every_environment_takes_some_python_that_workers_run_on():
    for name, environment in declared().items():
        versions = [(3, minor) for minor in range(9, 20)]
        assert any(pythons.fits(environment.python, each) for each in versions), name


# -- the life of one -------------------------------------------------------------------------------


def test_the_life_of_an_environment(plug_in):
    said: list[str] = []
    before = homes.standing(homes.houses()["plugin"], {})
    assert (before.where, before.usable) == (Where.HERE, False)

    show = lambda *words: said.append(": ".join(words))  # noqa: E731
    made, brings = homes.set_up_all(["plugin"], {}, None, show)
    assert (made.where, made.usable, made.outdated) == (Where.OWN, True, False)
    assert made.probes[0].devices[0].id == "cpu"
    assert {("faketool", "1.0"), ("loose", "1.0")} <= set(made.made.versions)
    assert any("pip install faketool numpy" in line for line in said)
    # The converter that ONNX models need is set up with it; what it takes is nowhere.
    assert brings.house.name == "brings"
    assert "No matching distribution found for absent" in brings.problem
    assert "brings: plugin needs it for ONNX models" in said

    own = str(environments.folder("plugin") / "bin" / "python")
    assert prepare.find_home("plugin", {}).python == own
    assert prepare.find_home("plugin", {"plugin": "/opt/python"}).python == "/opt/python"
    assert prepare.find_backend("plugin", prepare.find_home("plugin", {})).probe.problem is None

    again: list[str] = []
    homes.set_up(homes.houses()["plugin"], {}, None, again.append)
    assert again == ["is there already, as it should be"]

    # A new version of the plug-in that takes something else, which can't be had.
    plug_in.write_text(PLUG_IN.format(tool="faketool>=2", env=None))
    sys.modules.pop("plugin_for_setup")
    house = homes.houses()["plugin"]
    now = homes.standing(house, {})
    assert (now.usable, now.outdated) == (True, True)
    for width in (80, 120):
        text = " ".join(text_of(setupview.view([now]), width).split())
        assert "enginepick setup plugin" in text
        assert "another version" in text
    failed = homes.set_up(house, {}, None, again.append)
    assert "pip failed with exit code 1" in failed.problem
    assert "faketool>=2" in failed.problem
    assert str(environments.log_file("plugin")) in failed.fix
    assert failed.where is Where.OWN  # the former one is back
    assert failed.probes[0].problem is None
    assert environments.interpreter("plugin") == own

    assert homes.remove(["plugin"]) == (("plugin", True),)
    assert homes.remove(["plugin"]) == (("plugin", False),)
    left = [each.name for each in environments.root().iterdir() if "plugin" in each.name]
    assert left == [".plugin.lock"]


@pytest.mark.usefixtures("plug_in")
def test_one_that_was_put_aside_by_a_killed_setup_is_removed_too():
    former = environments.root() / ".plugin.former"
    former.mkdir(parents=True)
    (former / environments.MARKER).write_text("{}")
    assert homes.remove(["plugin"]) == (("plugin", True),)
    assert not former.exists()


@pytest.mark.usefixtures("plug_in")
def test_an_unfinished_one_is_nobodys_home_and_is_made_again():
    place = environments.folder("plugin")
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").symlink_to(sys.executable)
    (place / environments.MARKER).write_text("unfinished\n")
    assert environments.interpreter("plugin") is None
    made = homes.set_up(homes.houses()["plugin"], {}, None, lambda _: None)
    assert made.usable


@pytest.mark.usefixtures("plug_in")
def test_one_whose_python_is_gone_is_no_home():
    place = environments.folder("plugin")
    (place / "bin").mkdir(parents=True)
    environment = homes.houses()["plugin"].environment
    python = place / "bin" / "python"
    python.symlink_to(sys.executable)
    made = Made(environment, f"{OURS}.0", (), "2026-01-01T00:00:00+00:00")
    (place / environments.MARKER).write_text(json.dumps(environments.wire.encode(made)))
    assert environments.interpreter("plugin") == str(python)
    python.unlink()
    python.symlink_to("/nowhere/python3")
    assert environments.interpreter("plugin") is None
    assert homes.standing(homes.houses()["plugin"], {}).where is Where.HERE


@pytest.mark.usefixtures("plug_in")
@pytest.mark.parametrize("text", ["#!/bin/sh\necho no numpy >&2; exit 1\n", None])
def test_an_interpreter_that_cant_run_workers_is_named_with_what_to_do(tmp_path, text):
    python = tmp_path / "python3"
    if text is not None:
        python.write_text(text)
        python.chmod(0o755)
    (probe,) = homes.standing(homes.houses()["plugin"], {"plugin": str(python)}).probes
    assert probe.problem.startswith(f"{python}: ")
    assert probe.problem.endswith("no numpy" if text else "(No such file or directory)")
    assert probe.fix == "mend python.plugin"


def test_an_interpreter_of_ours_that_fails_is_made_again(monkeypatch):
    monkeypatch.setattr(environments, "interpreter", lambda name: f"/ours/{name}")
    assert homes.mending("plugin", "/ours/plugin") == "enginepick setup plugin"
    assert homes.mending("plugin", "/theirs") == "mend python.plugin"
    assert homes.mending("plugin", None) is None


@pytest.mark.usefixtures("plug_in")
def test_a_folder_that_isnt_ours_is_left_alone():
    kept = environments.folder("plugin") / "thesis.tex"
    kept.parent.mkdir(parents=True)
    kept.write_text("x")
    failed = homes.set_up(homes.houses()["plugin"], {}, None, lambda _: None)
    assert "was not made by enginepick setup" in failed.problem
    with pytest.raises(InputError):
        homes.remove(["plugin"])
    assert kept.read_text() == "x"


@pytest.mark.usefixtures("plug_in")
def test_two_at_once_dont_meet():
    python = pythons.look(sys.executable)
    environment = homes.houses()["plugin"].environment
    with environments._claimed("plugin"), pytest.raises(InputError, match="another enginepick"):
        environments.make("plugin", environment, python, lambda _: None)


# -- what is shown ---------------------------------------------------------------------------------


def house(name: str, *tenants: Tenant) -> House:
    return House(name, Environment((f"{name}>=1",), python=">=3.10,<3.14"), tenants)


def tenant(name: str, does: str, **more) -> Tenant:
    return Tenant(name, does, registry.PlugInLocation(name, "m", "A", "d"), **more)


def test_a_backend_needs_the_converters_from_onnx_into_what_it_reads():
    lite = house("lite", tenant("lite", "backend", reads=("tflite",)))
    both = house("both", tenant("both", "backend", reads=("onnx", "tflite")))
    brings_own = tenant("o2p", "", source="onnx", target="pt2")
    own = house("own", tenant("own", "backend", reads=("pt2",)), brings_own)
    into = house("into", tenant("into", "", source="onnx", target="tflite"))
    other = house("other", tenant("other", "", source="pt2", target="tflite"))
    every = (lite, both, own, into, other)
    assert homes.needed_by(lite, every) == (into,)
    assert [homes.needed_by(each, every) for each in (both, own, into)] == [(), (), ()]


@pytest.mark.usefixtures("plug_in")
def test_unknown_names_and_idle_options_are_the_users_mistakes():
    done = run("setup", "plugn", "null", code=2)
    assert 'did you mean "plugin"?' in done.stderr
    assert "null can't be had from packages alone" in done.stderr
    for idle, words in ({"python": "x"}, "nothing is made"), ({"remove": True}, "of which one"):
        with pytest.raises(InputError, match=words):
            cli.setup(None, **idle)


@pytest.mark.usefixtures("plug_in")
def test_devices_says_who_lives_elsewhere_and_what_is_out_of_date():
    made = Made(Environment(("older",)), f"{OURS}.0", (), "2026-01-01T00:00:00+00:00")
    place = environments.folder("plugin")
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").symlink_to(sys.executable)
    (place / environments.MARKER).write_text(json.dumps(environments.wire.encode(made)))
    known = Known(
        "plugin", registry.load("plugin", registry.BACKENDS).capabilities, Probe("plugin")
    )
    other = replace(known, name="other")
    named = {"other": "/opt/python3"}
    text = text_of(views.devices_view(probe_host(), "local", [known, other], named), 80)
    assert "In interpreters of their own" in text
    assert "enginepick setup plugin" in text
    assert "/opt/python3" in text
    data = views.devices_data(probe_host(), "local", [known, other], named)["backends"]
    assert [(each["python"], each["outdated"]) for each in data] == [
        (str(place / "bin" / "python"), True),
        ("/opt/python3", False),
    ]


@pytest.mark.usefixtures("plug_in")
def test_the_command_shows_all_in_json_as_documented():
    data = json.loads(run("setup", "--json").stdout)
    text = (ROOT / "docs" / "json-commands.md").read_text()
    section = text.partition(data["schema"])[2].partition("\n`enginepick")[0]
    home = next(each for each in data["homes"] if each["name"] == "plugin")
    for field in (*data, *(f"homes[].{field}" for field in home if field != "tenants")):
        assert f"`{field}" in section, field
    assert (home["where"], home["usable"]) == ("here", False)
    assert home["command"] == "enginepick setup plugin"


@pytest.mark.exhaustive
def test_litert_runs_in_another_version_of_python(tmp_path, monkeypatch):
    """Set up from an index, asked, and measured there; the parent has another Python."""
    monkeypatch.setenv("ENGINEPICK_ENVIRONMENTS", str(tmp_path / "environments"))
    pytest.importorskip("ai_edge_litert")  # writes the model
    house = homes.houses().get("litert")
    if house is None:
        pytest.skip("the backend litert is not installed")
    spec = f"{house.environment.python},!={OURS}"
    try:
        python = pythons.find("litert", spec)
    except InputError as error:
        pytest.skip(str(error))
    made = homes.set_up(house, {}, python.path, lambda _: None)
    assert made.usable, (made.problem, made.probes)
    assert made.made.python == pythons.version_text(python.version)
    assert not made.made.python.startswith(f"{OURS}.")
    (tmp_path / "model.tflite").write_bytes(tiny.content())
    samples = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=samples, labels=np.zeros(40, np.int64))
    monkeypatch.chdir(tmp_path)
    asked = ("--backend", "litert", "--precision", "fp32", "--rounds", "2", "--quiet")
    run("sweep", "model.tflite", "--data", "data.npz", *asked)
    assert pythons_in(next(tmp_path.glob("results/*/*.jsonl"))) == {made.made.python}


@pytest.mark.exhaustive
@pytest.mark.parametrize("minor", [9, 13])
def test_a_sweep_crosses_versions_of_python(minor, tmp_path, monkeypatch):
    if minor == sys.version_info[1]:
        pytest.skip("the parent's own")
    monkeypatch.setenv("ENGINEPICK_ENVIRONMENTS", str(tmp_path / "environments"))
    wanted = Environment(("numpy", "onnx"), python=f"==3.{minor}")
    try:
        python = pythons.find("null", wanted.python)
    except InputError as error:
        pytest.skip(str(error))
    made = environments.make("null", wanted, python, lambda _: None)
    results = sweep_null(tmp_path)  # finds the environment by the backend's name
    assert made.python.startswith(f"3.{minor}.")
    assert pythons_in(results.path) == {made.python}


def pythons_in(records: Path) -> set[str]:
    """The versions that candidates ran on."""
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    launches = [each for each in lines if each["kind"] == "launch"]
    return {dict(each["versions"])["python"] for each in launches}
