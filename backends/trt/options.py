"""The options that engines are built with, by the names that users give them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Optional

from backends.trt.library import NAMES
from harness.errors import UnsupportedError

OPTIONS = {
    "library": f"{' or '.join(NAMES)} (default: the first of these that is there)",
    "optimization-level": "0 to 5: how long the builder looks for faster kernels",
    "timing-cache": "on or off: keep the builder's measurements of kernels (default: on)",
    "workspace": "the most scratch memory that a layer may take, such as 512MB or 1.5GB",
}

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30}
_HIGHEST_LEVEL = 5


@dataclass(frozen=True)
class Options:
    """Understood options; None: TensorRT's default."""

    library: Optional[str] = None
    optimization_level: Optional[int] = None
    timing_cache: Optional[bool] = None
    workspace_bytes: Optional[int] = None


def parse(given: Iterable[tuple[str, str]]) -> Options:
    """What the user's options mean.

    Raises:
        UnsupportedError: an unknown option, or a value that it hasn't.
    """
    values = dict(given)
    for name in values:
        if name not in OPTIONS:
            raise UnsupportedError(f"build option {name!r}: known are {', '.join(sorted(OPTIONS))}")
    library, level = values.get("library"), values.get("optimization-level")
    cache, workspace = values.get("timing-cache"), values.get("workspace")
    if library is not None and library not in NAMES:
        raise _wrong("library", library)
    if level is not None and not (level.isdecimal() and int(level) <= _HIGHEST_LEVEL):
        raise _wrong("optimization-level", level)
    if cache not in (None, "on", "off"):
        raise _wrong("timing-cache", str(cache))
    return Options(
        library,
        None if level is None else int(level),
        None if cache is None else cache == "on",
        None if workspace is None else size_bytes(workspace),
    )


def size_bytes(text: str) -> int:
    """Bytes of ``1GB``, ``512 MB`` (powers of 1000), ``2GiB`` (of 1024) or a plain number."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMG])(i?)B?|B)?\s*", text, re.IGNORECASE)
    if not match:
        raise _wrong("workspace", text)
    unit = (match[2] or "").upper()
    size = int(float(match[1]) * (_BINARY[unit] if match[3] else _UNITS[unit]))
    if not size:
        raise _wrong("workspace", text)
    return size


def _wrong(name: str, value: str) -> UnsupportedError:
    return UnsupportedError(f"{name} = {value!r}: {OPTIONS[name]}")
