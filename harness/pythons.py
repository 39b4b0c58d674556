"""Which Pythons there are on this host, and which one a set of packages takes."""

from __future__ import annotations

import json
import operator
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from harness.errors import InputError, Problem

OLDEST = (3, 9)
"""The workers' own."""
NEWEST_MINOR = 30
LOOK_S = 60.0

_CLAUSE = re.compile(r"(>=|<|==|!=)\s*(\d+)\.(\d+)")
_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<": operator.lt,
    "==": operator.eq,
    "!=": operator.ne,
}
_LOOK = (
    "import sys, json, venv, ensurepip;"
    "print(json.dumps([sys.implementation.name, *sys.version_info[:3]]))"
)


@dataclass(frozen=True)
class Python:
    """An interpreter that can make virtual environments."""

    path: str
    version: tuple[int, ...]


def fits(spec: str, version: tuple[int, ...]) -> bool:
    """Whether a version is one that a specifier such as ``>=3.10,<3.14`` takes.

    Its clauses are about (major, minor); empty: what workers run on. Raises ValueError for others.
    """
    pair = version[:2]
    for clause in filter(None, (part.strip() for part in spec.split(","))):
        found = _CLAUSE.fullmatch(clause)
        if found is None:
            raise ValueError(f"{clause!r} in {spec!r} is none of >=X.Y, <X.Y, ==X.Y and !=X.Y")
        if not _COMPARE[found[1]](pair, (int(found[2]), int(found[3]))):
            return False
    return pair >= OLDEST


def find(name: str, spec: str, wanted: str | None = None) -> Python:
    """A Python for the environment ``name``: the one we run on if it fits, else the newest found.

    wanted: the one that the user names. Raises InputError, which says which ones it takes.
    """
    takes = f"{name} takes Python {spec or '>=' + version_text(OLDEST)}"
    if wanted is not None:
        found = look(shutil.which(wanted) or wanted)
        if isinstance(found, str):
            raise InputError([Problem("--python", f"{wanted}: {found}", takes)])
        if not fits(spec, found.version):
            what = f"{wanted} is Python {version_text(found.version)}, but {takes}"
            raise InputError([Problem("--python", what)])
        return found
    seen = []
    for path in chain([sys.executable], _others(spec)):
        found = look(path)
        if isinstance(found, Python) and fits(spec, found.version):
            return found
        seen.append(f"{path}: {found if isinstance(found, str) else version_text(found.version)}")
    what = f"{takes}, and none was found ({'; '.join(seen)})"
    fix = f"enginepick setup {name} --python /path/to/python3"
    raise InputError([Problem("setup", what, fix)])


def look(path: str) -> Python | str:
    """The interpreter there, or what is wrong with it."""
    try:
        done = subprocess.run(
            [path, "-c", _LOOK],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=clean_environ(),
            timeout=LOOK_S,
            check=False,
        )
    except OSError as error:
        return error.strerror or str(error)
    except subprocess.TimeoutExpired:
        return f"no answer within {LOOK_S:g} s"
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        if any("ensurepip" in line or "venv" in line for line in said[-1:]):
            return "lacks venv (Debian: apt install python3-venv)"
        return said[-1] if said else f"exit code {done.returncode}"
    try:
        kind, *version = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return "is no Python"
    return Python(path, tuple(version)) if kind == "cpython" else f"is {kind}, not CPython"


def _others(spec: str) -> Iterator[str]:
    """Those of versions that may fit, the newest first: on the PATH, or kept by pyenv or uv."""
    home = Path.home()
    kept = (
        Path(os.environ.get("PYENV_ROOT") or home / ".pyenv", "versions"),
        Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share", "uv", "python"),
    )
    for minor in range(NEWEST_MINOR, OLDEST[1] - 1, -1):
        if not fits(spec, (3, minor)):
            continue
        name = f"python3.{minor}"
        on_path = shutil.which(name)
        if on_path is not None:
            yield on_path
        for folder in kept:
            yield from (str(path) for path in sorted(folder.glob(f"*/bin/{name}"), reverse=True))


def clean_environ() -> dict[str, str]:
    """Ours, without what would show another interpreter packages of this one."""
    ours = ("PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__")
    return {name: value for name, value in os.environ.items() if name not in ours}


def version_text(version: tuple[int, ...]) -> str:
    """As ``3.12.1``."""
    return ".".join(str(part) for part in version)
