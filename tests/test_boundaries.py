"""Who may import whom: the borders that keep the product installable, small and portable."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
VENDORS = (
    "onnxruntime", "openvino", "nncf", "tensorrt", "tensorrt_rtx", "torch", "tensorflow",
    "ai_edge_litert", "executorch", "pycuda", "cuda",
)  # fmt: skip
PARENTS_OWN = (
    "pydantic", "typer", "click", "rich", "pandas", "scipy", "matplotlib", "psutil", "jinja2",
    "onnx", "google", "sklearn", "pytest",
)  # fmt: skip

WORKERS = (
    "harness.__init__", "harness.worker", "harness.wire", "harness.jobs", "harness.backend",
    "harness.types", "harness.errors", "harness.functions", "harness.datasets", "harness.evalues",
    "harness.metrics", "harness.measure", "backends",
)  # fmt: skip

# Imports each module of argv[2:] where the packages of argv[1] can't be imported; prints the
# faults as JSON, one entry per module that has one.
IMPORTER = """
import importlib, json, sys, traceback
blocked = set(json.loads(sys.argv[1]))

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is blocked by the test", name=name)
        return None

assert not blocked & set(sys.modules), blocked & set(sys.modules)
sys.meta_path.insert(0, Blocker())
faults = {}
for module in sys.argv[2:]:
    try:
        importlib.import_module(module)
    except BaseException:
        faults[module] = traceback.format_exc()
print(json.dumps(faults))
"""


def modules(*packages: str) -> dict[str, Path]:
    """Every module of our packages that exists, by its dotted name."""
    found: dict[str, Path] = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[dotted] = path
    return found


def worker_modules() -> dict[str, Path]:
    """Those that a worker, perhaps in an interpreter of its own, imports."""
    return {
        name: path
        for name, path in modules("harness", "backends").items()
        if any(name == worker or name.startswith(f"{worker}.") for worker in WORKERS)
    }


def faults(names: Iterable[str], blocked: Sequence[str], python: str) -> dict[str, str]:
    """What goes wrong when a fresh interpreter imports the modules without ``blocked``."""
    importable = [name.removesuffix(".__init__") for name in names]
    done = subprocess.run(
        [python, "-c", IMPORTER, json.dumps(blocked), *importable],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


def top_level_imports(source: str) -> set[str]:
    """The packages that a module imports as it is imported.

    That is anywhere but inside functions, and in what only type checkers read.
    """
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending.extend(node.orelse)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            pending.extend(ast.iter_child_nodes(node))
    return found


def told(found: dict[str, str]) -> str:
    return "\n".join(f"{name}: {fault}" for name, fault in found.items())


@cache
def python39() -> tuple[str, str]:
    """A Python 3.9 that has numpy, and why there is none."""
    path = os.environ.get("ENGINEPICK_PYTHON39") or shutil.which("python3.9")
    if not path:
        return "", "no python3.9 is on PATH, and ENGINEPICK_PYTHON39 isn't set"
    code = "import sys, numpy; sys.exit(sys.version_info[:2] != (3, 9))"
    done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["another version of Python"])[-1]
        return "", f"{path}: {reason}"
    return path, ""


def test_discovery_finds_the_modules() -> None:
    assert {"harness.backend", "backends.null"} <= set(modules("harness", "backends"))
    assert {"harness.backend", "backends.null", "harness.types"} <= set(worker_modules())
    assert "harness.registry" not in worker_modules()


def test_a_blocked_import_is_noticed() -> None:
    found = faults(["numpy", "json"], ["numpy"], sys.executable)
    assert list(found) == ["numpy"]
    assert "blocked by the test" in found["numpy"]


def test_imports_inside_functions_are_not_top_level() -> None:
    source = (
        "import os.path\nif True:\n from pandas.api import types\n"
        "def f():\n import torch\nclass C:\n import rich\nfrom . import errors\n"
        "if TYPE_CHECKING:\n import tensorrt\n"
    )
    assert top_level_imports(source) == {"os", "pandas", "rich"}


def test_everything_imports_without_any_vendor_package() -> None:
    found = faults(modules("harness", "backends"), VENDORS, sys.executable)
    assert not found, told(found)


def test_backends_import_without_onnx() -> None:
    found = faults(modules("backends"), (*VENDORS, "onnx"), sys.executable)
    assert not found, told(found)


@pytest.mark.parametrize("name", sorted(worker_modules()))
def test_a_worker_needs_the_standard_library_and_numpy_only(name: str) -> None:
    foreign = top_level_imports(worker_modules()[name].read_text(encoding="utf-8"))
    assert foreign - sys.stdlib_module_names - {"numpy", "harness", "backends"} == set()


def test_a_worker_imports_without_the_parents_packages() -> None:
    found = faults(worker_modules(), (*VENDORS, *PARENTS_OWN), sys.executable)
    assert not found, told(found)


@pytest.mark.parametrize("name", sorted(worker_modules()))
def test_a_workers_modules_are_python39(name: str) -> None:
    source = worker_modules()[name].read_text(encoding="utf-8")
    ast.parse(source, filename=name, feature_version=(3, 9))


def test_a_worker_imports_on_python39() -> None:
    python, reason = python39()
    if not python:
        pytest.skip(reason)
    found = faults(worker_modules(), VENDORS, python)
    assert not found, told(found)


@pytest.mark.parametrize("package", ["harness", "backends"])
def test_no_other_distribution_owns_our_packages(package: str) -> None:
    # An editable install lists no files of ours, so the package may have no owner at all.
    assert set(packages_distributions().get(package, ())) <= {"enginepick"}


def test_the_layers_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    command = str(linter) if linter.is_file() else shutil.which("lint-imports")
    if not command:
        pytest.skip("import-linter isn't installed")
    done = subprocess.run(
        [command, "--config", "pyproject.toml", "--no-cache"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_numpy_arrays_have_no_parameters_at_run_time() -> None:
    """``np.ndarray[...]`` outside of annotations needs numpy 1.22; a Jetson's Python has 1.21."""
    found = [
        f"{path.name}:{node.lineno}"
        for path in [*(ROOT / "harness").rglob("*.py"), *(ROOT / "backends").rglob("*.py")]
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
        for each in ast.walk(node.value)
        if isinstance(each, ast.Subscript) and ast.unparse(each.value).endswith("ndarray")
    ]
    assert not found
