"""Which TensorRT there is: full TensorRT 10 or 11, or TensorRT-RTX, behind one API."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from typing import Any, Optional

from harness.errors import UnavailableError

NAMES = ("tensorrt", "tensorrt_rtx")
"""The modules, in the order in which they are looked for."""

INSTALL = {
    "tensorrt": 'pip install "enginepick[tensorrt]"',
    "tensorrt_rtx": 'pip install "enginepick[tensorrt-rtx]"',
}
FIRST_MAJOR = 10


@dataclass(frozen=True)
class Library:
    """An imported TensorRT.

    name: its module's. version: as the module says (``10.16.1.11``). is_rtx: TensorRT-RTX, whose
    versions count from 1 and whose API is that of TensorRT 11.
    """

    name: str
    module: Any
    version: str

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT for RTX, which builds without a GPU."""
        return self.name == "tensorrt_rtx"

    @property
    def major(self) -> int:
        """10 of ``10.16.1.11``."""
        return version_of(self.version)[0]

    def __str__(self) -> str:
        return f"{'TensorRT-RTX' if self.is_rtx else 'TensorRT'} {self.version}"


def find(name: Optional[str] = None) -> Library:
    """The library of that name; without one, the first of :data:`NAMES` that can be used.

    Raises:
        UnavailableError: there is none, it is too old or it doesn't start, and what to install.
    """
    if name is not None and name not in NAMES:
        raise UnavailableError(f"library {name!r}: known are {' and '.join(NAMES)}")
    faults: dict[str, UnavailableError] = {}
    for each in (name,) if name is not None else NAMES:
        try:
            return _imported(each)
        except UnavailableError as error:
            faults[each] = error
    broken = [error for error in faults.values() if not _is_missing(error)]
    if broken:
        raise broken[0]
    if name is not None:
        raise faults[name]
    raise UnavailableError(
        "neither tensorrt nor tensorrt_rtx is installed", INSTALL["tensorrt_rtx"]
    )


def beside(library: Library) -> tuple[tuple[str, str], ...]:
    """The packages of the other TensorRT, which a build may choose, with their versions."""
    (other,) = (name for name in NAMES if name != library.name)
    names = (other, *(f"{other}_{cuda}" for cuda in ("cu11", "cu12", "cu13")))
    found = ((name, _package(name)) for name in names)
    return tuple((name, version) for name, version in found if version is not None)


def _package(name: str) -> Optional[str]:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def version_of(text: str) -> tuple[int, int]:
    """(10, 16) of ``10.16.1.11``."""
    numbers = [int(number) for number in re.findall(r"\d+", text)[:2]]
    return (numbers[0], numbers[1]) if len(numbers) > 1 else (0, 0)


def _imported(name: str) -> Library:
    try:
        if name == "tensorrt":
            import tensorrt as module
        else:
            import tensorrt_rtx as module
    except ModuleNotFoundError as error:
        if error.name == name:
            raise UnavailableError(f"{name} isn't installed", INSTALL[name]) from error
        raise UnavailableError(f"{name} can't be imported: {error}", INSTALL[name]) from error
    except Exception as error:  # a broken installation raises anything
        raise UnavailableError(f"{name} can't be imported: {error}", INSTALL[name]) from error
    version = str(module.__version__)
    if name == "tensorrt" and version_of(version)[0] < FIRST_MAJOR:
        raise UnavailableError(
            f"tensorrt {version} is too old: {FIRST_MAJOR}.0 or later is needed", INSTALL[name]
        )
    return Library(name, module, version)


def _is_missing(error: UnavailableError) -> bool:
    return str(error).endswith("isn't installed")
