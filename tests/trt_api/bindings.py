"""The genuine bindings of TensorRT's releases, fetched from PyPI, on libraries that do nothing.

The bindings' wheels are small and name NVIDIA's libraries, which PyPI doesn't hold. They import
once libraries of those names have the dozen functions that the bindings look up; these answer 0.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_FUNCTIONS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL"),
    *("createInferRuntime_INTERNAL", "getBuilderPluginRegistry", "getPluginRegistry"),
    *("getLogger", "getInferLibVersion", "initLibNvInferPlugins"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL"),
    "getNvOnnxParserVersion",
)
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_CACHED = f"{sys.version_info.major}.{sys.version_info.minor}"


class NotHereError(Exception):
    """The bindings can't be had here, and why."""


@dataclass(frozen=True)
class Release:
    """One release on PyPI: its distribution, its version, and its libraries' major version."""

    distribution: str
    version: str
    major: int


RELEASES = {
    "10.3": Release("tensorrt_cu12_bindings", "10.3.0", 10),
    "10.16": Release("tensorrt_cu12_bindings", "10.16.1.11", 10),
    "11.4": Release("tensorrt_cu13_bindings", "11.4.0.106", 11),
}


def environment(release: Release, cache: Path, scratch: Path) -> dict[str, str]:
    """The environment in which ``tensorrt_bindings`` is that release's.

    Raises:
        NotHereError: no network, no wheel for this Python, or no C compiler.
    """
    places = (str(_fetched(release, cache)), os.environ.get("PYTHONPATH", ""))
    libraries = (str(_compiled(release.major, scratch)), os.environ.get("LD_LIBRARY_PATH", ""))
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }


def api(module: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """What :mod:`dump` sees of a module in a process of its own."""
    return json.loads(output([str(HERE / "dump.py"), module], env))


def output(arguments: list[str], env: dict[str, str] | None = None) -> str:
    """What this Python prints for the arguments; it must end well."""
    done = subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def _fetched(release: Release, cache: Path) -> Path:
    """The folder that the wheel is unpacked in; it stays in the cache."""
    folder = cache / f"{release.distribution}-{release.version}-{_CACHED}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        download += ["--disable-pip-version-check", "--only-binary=:all:", "--retries=1"]
        wanted = f"{release.distribution}=={release.version}"
        done = subprocess.run(
            [*download, "--dest", temporary, wanted], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NotHereError(f"{wanted}: {done.stderr.strip().splitlines()[-1]}")
        (wheel,) = Path(temporary).glob("*.whl")
        unpacked = Path(temporary) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        unpacked.rename(folder)
    return folder


def _compiled(major: int, scratch: Path) -> Path:
    """A folder with the libraries of that major version, which do nothing."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise NotHereError("no C compiler (cc)")
    folder = scratch / f"libraries-{major}"
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "nothing.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _FUNCTIONS))
    for library in _LIBRARIES:
        name = f"lib{library}.so.{major}"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", name, source.name]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder
