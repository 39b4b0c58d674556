"""What several backends ask of where they run: installed versions, and which CPU it is."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Optional


def version_of(package: str) -> Optional[str]:
    """Of an installed package; None where it isn't there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions_of(*packages: str) -> tuple[tuple[str, str], ...]:
    """Of those that are installed, each with its name."""
    found = ((package, version_of(package)) for package in packages)
    return tuple((package, its) for package, its in found if its is not None)


def processor_name() -> str:
    """The CPU's name as the system gives it."""
    named = _told("model name")
    return named or platform.processor() or platform.machine() or os.name


def cpu_flags() -> Optional[frozenset[str]]:
    """The CPU's features as Linux names them; None where unknown."""
    flags = _told("flags", "features")
    return None if flags is None else frozenset(flags.split())


def _told(*keys: str) -> Optional[str]:
    """What ``/proc/cpuinfo`` has under the first of these keys, in lower case, that it has."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    pairs = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for key, _, value in pairs if key.strip().lower() in keys), None)
