"""The TensorRT adapter against the genuine bindings of each TensorRT, which need no GPU.

Each release's bindings are dumped into a stub of names, and mypy checks the adapter against it:
what an adapter touches is there, or is asked for first. See trt_api/accesses.py for the idioms.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from trt_api import bindings, sources, stubs

from backends.trt import calibrator, deploy
from backends.trt.about import About
from backends.trt.build import IMPLICIT
from harness.types import Settings

REPOSITORY = Path(__file__).parent.parent
ADAPTER = REPOSITORY / "backends" / "trt"
MODULE, ANY, OTHER = "<module>", "<Any>", "<other>"
VERSIONS = (*bindings.RELEASES, "rtx")
FAULTS = {"attr-defined", "union-attr", "call-arg", "call-overload", "override"}
_ERROR = re.compile(r"^[^:]+\.py:(?P<line>\d+): error: (?P<text>.*?) +\[(?P<code>[\w-]+)\]$")

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Findings:
    """What mypy found in a package: faults as "file:line: text", and all accesses."""

    faults: list[str]
    accesses: list[dict[str, Any]]

    def pairs(self, *, has: bool) -> set[tuple[str, str]]:
        """(class, attribute), once each."""
        return {
            (each["owner"], each["name"])
            for each in self.accesses
            if each["owner"] not in {ANY, OTHER} and each["name"] and each["has"] == has
        }


@pytest.fixture(scope="module")
def environments(request, tmp_path_factory):
    """The environment of each release's bindings; TensorRT-RTX's are installed."""
    cache = Path(request.config.cache.mkdir("tensorrt"))
    scratch = tmp_path_factory.mktemp("libraries")
    try:
        return {
            name: bindings.environment(release, cache, scratch)
            for name, release in bindings.RELEASES.items()
        }
    except bindings.NotHereError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def apis(environments):
    """What each version's module holds."""
    pytest.importorskip("tensorrt_rtx")
    found = {name: bindings.api("tensorrt_bindings", env) for name, env in environments.items()}
    return found | {"rtx": bindings.api("tensorrt_rtx")}


@pytest.fixture(scope="module")
def check(apis, tmp_path_factory):
    """A function: the findings in a package, against one version."""
    folders = {}
    for version, api in apis.items():
        folders[version] = tmp_path_factory.mktemp("stub")
        (folders[version] / "tensorrt.pyi").write_text(stubs.stub(api))
        (folders[version] / "numpy.pyi").write_text(stubs.NUMPY)

    def findings(package: Path, version: str) -> Findings:
        root = tmp_path_factory.mktemp("copy")
        files = sources.copied(package, root)
        path = os.pathsep.join(map(str, (root, folders[version], REPOSITORY)))
        script = str(bindings.HERE / "accesses.py")
        answer = bindings.output([script, "backends.trt"], os.environ | {"MYPYPATH": path})
        return _findings(json.loads(answer), files)

    return findings


@pytest.fixture(scope="module")
def adapter(check):
    """The findings in the adapter, by version."""
    return {version: check(ADAPTER, version) for version in VERSIONS}


def _findings(answer: dict[str, Any], files: dict[int, Path]) -> Findings:
    def place(line: int) -> str:
        return f"{files[line // sources.LINES].name}:{line % sources.LINES}"

    faults = []
    for match in filter(None, map(_ERROR.match, answer["errors"])):
        text, line = match["text"], int(match["line"])
        if line >= sources.LINES and _is_fault(match["code"], text):
            faults.append(f"{place(line)}: {text.strip()}")
    accesses = [
        {**each, "place": place(each["line"])}
        for each in answer["accesses"]
        if each["line"] >= sources.LINES
    ]
    return Findings(faults, accesses)


def _is_fault(code: str, text: str) -> bool:
    """Whether an error is a misuse of the vendor's API: where None may come from isn't."""
    if code in FAULTS:
        return not text.startswith('Item "None"')
    return "is read-only" in text or (code == "name-defined" and '"trt.' in text)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_attribute_that_the_adapter_touches_exists_or_is_guarded(adapter, version):
    found = adapter[version]
    missing = found.pairs(has=False)
    guarded = [pair for pair in missing if not any(f'"{pair[1]}"' in at for at in found.faults)]
    logging.getLogger(__name__).info(
        "%s: %d attributes used, %d missing but guarded, %d missing unguarded",
        *(version, len(found.pairs(has=True) | missing), len(guarded), len(found.faults)),
    )
    assert not found.faults, "\n".join(found.faults)


def test_what_is_asked_for_by_name_exists_in_some_version(adapter):
    asked, existing = {}, set()
    for found in adapter.values():
        existing |= found.pairs(has=True)
        for each in found.accesses:
            if each["how"] != "name" and each["name"] and each["owner"] not in {ANY, OTHER}:
                asked[each["owner"], each["name"]] = each["place"]
    assert {place: pair for pair, place in asked.items() if pair not in existing} == {}


def test_few_vendor_objects_hide_from_the_check(adapter, apis):
    names = _names(apis)
    touched = {
        (f"{file.name}:{line}", name)
        for file in ADAPTER.rglob("*.py")
        for line, name in sources.attributes(file)
        if name in names
    }
    understood = {
        (each["place"], each["name"])
        for found in adapter.values()
        for each in found.accesses
        if each["owner"] != ANY
    }
    hidden = sorted(touched - understood)
    logging.getLogger(__name__).info(
        "%d of %d accesses hide: %s", len(hidden), len(touched), hidden
    )
    assert len(hidden) <= 0.05 * len(touched), f"of {len(touched)} accesses: {hidden}"


def _names(apis: dict[str, Any]) -> set[str]:
    """All names of members that are TensorRT's and few others'."""
    names = set()
    for api in apis.values():
        names |= api["classes"].keys() | api["functions"].keys()
        for described in api["classes"].values():
            names |= described["members"].keys()
    return {name for name in names if "_" in name.strip("_") or name[0].isupper()}


# A line that ends in "# caught: VERSIONS" is a misuse there; all others are sound everywhere.
MISUSES = """
from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt as trt


def unguarded(trt: Any, config: trt.IBuilderConfig, engine: trt.ICudaEngine) -> None:
    config.set_flag(trt.BuilderFlag.FP16)  # caught: 11.4 rtx
    config.int8_calibrator = None  # caught: 11.4 rtx
    trt.IInt8EntropyCalibrator2  # caught: 11.4 rtx
    engine.get_engine_stat(0)  # caught: 10.3
    config.num_compute_capabilities = 1  # caught: 10.3 10.16 11.4


def guarded(library: Any, config: trt.IBuilderConfig, engine: trt.ICudaEngine) -> int:
    trt = library.module
    if hasattr(trt.BuilderFlag, "FP16"):
        config.set_flag(trt.BuilderFlag.FP16)
    if hasattr(config, "int8_calibrator") and hasattr(trt, "IInt8EntropyCalibrator2"):
        config.int8_calibrator = trt.IInt8EntropyCalibrator2()
    if not hasattr(engine, "get_engine_stat"):
        return int(getattr(engine, "device_memory_size", 0))
    return int(engine.get_engine_stat(0))


class Session:
    def __init__(self, library: Any, context: trt.IExecutionContext) -> None:
        self.library = library
        self.context = context

    def run(self, stream: int) -> None:
        self.context.execute_async_v2([], stream)  # caught: 10.3 10.16 11.4 rtx
        self.context.execute_async_v3(stream)
        self.context.execute_async_v3()  # caught: 10.3 10.16 11.4 rtx
        self.context.execute_async_v3(stream=stream)  # caught: 10.3 10.16 11.4 rtx
        self.context.set_input_shap("x", (1,))  # caught: 10.3 10.16 11.4 rtx
        self.context.engine.num_io_tensors = 1  # caught: 10.3 10.16 11.4 rtx
        print(self.library.module.BuilderFlag.TF33)  # caught: 10.3 10.16 11.4 rtx


def chained(trt: Any, logger: trt.ILogger) -> Any:
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    config = builder.create_builder_config()
    config.add_optimisation_profile(None)  # caught: 10.3 10.16 11.4 rtx
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)  # caught: 10.3 10.16 11.4 rtx
    for index in range(network.num_inputs):
        print(network.get_input(index).nam)  # caught: 10.3 10.16 11.4 rtx
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        print(config.max_workspace_size)  # caught: 10.3 10.16 11.4 rtx
    return trt.ICudaEngine()  # caught: 10.3 10.16 11.4 rtx


def subclass(trt: Any) -> Any:
    class Logger(trt.ILogger):
        def log(self, severity: Any) -> None: ...  # caught: 10.3 10.16 11.4 rtx

    return Logger()  # type: ignore[abstract]
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_each_planted_misuse_is_caught_and_nothing_else_is(check, tmp_path, version):
    package = tmp_path / "trt"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "planted.py").write_text(MISUSES)
    caught = {int(fault.split(":")[1]) for fault in check(package, version).faults}
    planted = {
        number
        for number, line in enumerate(MISUSES.splitlines(), 1)
        if version in line.partition("# caught: ")[2].split()
    }
    assert caught == planted


@pytest.fixture(scope="module")
def drive(environments):
    """A function: what one of drive.py's tells of one version, in a process of its own."""

    def driven(what: str, version: str) -> Any:
        module = "tensorrt_rtx" if version == "rtx" else "tensorrt_bindings"
        script = str(bindings.HERE / "drive.py")
        return json.loads(bindings.output([script, what, module], environments.get(version)))

    return driven


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_library_says_reaches_the_log(drive, version):
    told = drive("log", version)
    assert [severity for severity, _ in told["lines"]] == ["WARNING", "ERROR"]
    assert told["first"].startswith("said at ")


@pytest.mark.parametrize("version", ["10.3", "10.16"])
def test_calibrators_answer_tensorrt_through_their_real_base_class(drive, version):
    told = drive("calibrators", version)
    assert told["entropy"]["kind"] == "IInt8EntropyCalibrator2"
    assert told["minmax"]["kind"] == "IInt8MinMaxCalibrator"
    for answers in told.values():
        assert answers["batches"] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
        assert (answers["batch"], answers["before"], answers["fault"]) == (5, None, None)
        assert answers["kept"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_allocator_of_outputs_answers_through_its_real_base_class(drive, version):
    told = drive("allocator", version)
    assert told["kind"] == "IOutputAllocator"
    assert told["held"] == [96, 2 << 20]
    assert told["given"] == [1 << 40, 0]  # no exception passes TensorRT, which gets no memory
    assert (told["shape"], told["fault"]) == ([3, 4], "too much")


# In the adapter's own source: what stands there, and what is a misuse of TensorRT 11.
PLANTED = (
    ("lane.py", ".execute_async_v3(self._handle)", ".execute_async_v2(self._handle)"),
    ("lane.py", ".execute_async_v3(self._handle)", ".execute_async_v3()"),
    ("lane.py", ".set_input_shape(", ".set_input_shap("),
    ("build.py", "getattr(trt.BuilderFlag, name)", "trt.BuilderFlag.FP16"),
    ("build.py", 'if hasattr(config, "int8_calibrator")', "if config"),
)


@pytest.mark.parametrize("number", range(len(PLANTED)))
def test_a_misuse_planted_in_the_adapter_is_caught(check, tmp_path, number):
    name, text, misuse = PLANTED[number]
    package = tmp_path / "trt"
    shutil.copytree(ADAPTER, package, ignore=shutil.ignore_patterns("__pycache__"))
    source = (package / name).read_text()
    assert text in source
    (package / name).write_text(source.replace(text, misuse))
    faults = check(package, "11.4").faults
    assert faults
    assert all(fault.startswith(f"{name}:") for fault in faults)


# What deployed scripts guard by one question: whether there is a CudaGraphStrategy.
WITH_GRAPH_STRATEGY = {
    *("create_runtime_config", "cuda_graph_strategy", "DynamicShapesKernelSpecializationStrategy"),
    "dynamic_shapes_kernel_specialization_strategy",
}


@pytest.mark.parametrize("version", VERSIONS)
def test_deployed_scripts_touch_what_exists(check, apis, tmp_path, version):
    library = "tensorrt_rtx" if version == "rtx" else "tensorrt"
    text = deploy.script(About(library=library), "model.engine", "gpu:0", Settings())
    compile(text, "script.py", "exec")
    package = tmp_path / "trt"
    package.mkdir()
    (package / "__init__.py").touch()
    for plain, typed in (
        (f"import {library} as trt", "import tensorrt as trt"),
        ("def make_context(self):", "def make_context(self) -> trt.IExecutionContext:"),
    ):
        assert plain in text
        text = text.replace(plain, typed)
    (package / "script.py").write_text(text)
    found = check(package, version)
    assert ("IExecutionContext", "execute_async_v3") in found.pairs(has=True)
    guarded = set() if "CudaGraphStrategy" in apis[version]["classes"] else WITH_GRAPH_STRATEGY
    unguarded = [at for at in found.faults if not any(f'"{name}"' in at for name in guarded)]
    assert not unguarded, "\n".join(unguarded)


def test_names_that_are_computed_exist_where_they_are_used(adapter, apis):
    computed = {
        each["owner"]
        for found in adapter.values()
        for each in found.accesses
        if each["name"] is None and each["owner"] not in {ANY, OTHER}
    }
    assert computed <= {MODULE, "BuilderFlag", "ComputeCapability"}
    flags = {flag for chosen, _ in IMPLICIT.values() for flag in chosen}
    for version in ("10.3", "10.16"):
        classes = apis[version]["classes"]
        assert set(calibrator.BASES.values()) <= classes.keys()
        assert flags <= classes["BuilderFlag"]["members"].keys()
