"""Backends by name, found through the entry points of the group ``enginepick.backends``.

Listing loads nothing. Loading imports the adapter's module, which imports no vendor package. A
plug-in that is broken is a :class:`~harness.types.Probe` that says so, never a crash and never a
silent absence.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Union, cast

from harness.backend import API_VERSION, Backend
from harness.errors import InputError, Problem, UnavailableError
from harness.types import Probe

GROUP = "enginepick.backends"

_HIDDEN = frozenset({"null"})  # a fake, for tests: it must never win a sweep by default
_MEMBERS = ("name", "api", "capabilities", "probe", "build", "open", "deploy_code")


@dataclass(frozen=True)
class BackendLocation:
    """Where a backend's object is, as its distribution's entry point says."""

    name: str
    module: str
    attribute: str
    distribution: str

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"


def names() -> tuple[str, ...]:
    """Every installed backend, hidden and broken ones too, in alphabetical order."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def hidden(name: str) -> bool:
    """Whether the backend takes part only where it is asked for by name."""
    return name in _HIDDEN


def location(name: str) -> BackendLocation:
    """Where the backend is, without loading it.

    Raises:
        InputError: no backend has this name.
        UnavailableError: two distributions claim it, or its entry point names no object.
    """
    found = [_location(point) for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        raise InputError([_unknown(name)])
    first, *others = found
    if others:
        claims = " and ".join(f"{place.distribution} ({place})" for place in found)
        others_names = " ".join(sorted({place.distribution for place in others}))
        raise UnavailableError(
            f"the name {name!r} is claimed by {claims}", f"pip uninstall {others_names}"
        )
    if not first.attribute:
        raise UnavailableError(
            f"{first.distribution} declares {name!r} as {first.module!r}, without the object: "
            "expected module:attribute",
            _upgrade(first),
        )
    return first


def load(name: str) -> Backend:
    """Import the backend's module and check its object.

    Raises:
        InputError: no backend has this name.
        UnavailableError: the plug-in is broken, or made for another version of the boundary.
    """
    place = location(name)
    try:
        candidate: object = importlib.import_module(place.module)
        for part in place.attribute.split("."):
            candidate = getattr(candidate, part)
    except Exception as error:  # a plug-in may raise anything at import
        what = f"{type(error).__name__}: {error}"
        raise UnavailableError(f"{place} can't be loaded: {what}", _upgrade(place)) from error
    lacks = [member for member in _MEMBERS if not hasattr(candidate, member)]
    if lacks:
        raise UnavailableError(
            f"{place} is no backend: it lacks {', '.join(lacks)}", _upgrade(place)
        )
    backend = cast("Backend", candidate)
    if backend.api != API_VERSION:
        raise UnavailableError(
            f"{place} is made for version {backend.api} of the backend boundary; "
            f"this is version {API_VERSION}",
            f"pip install --upgrade enginepick {place.distribution}",
        )
    if backend.name != name:
        # Records carry the object's name, and a resumed run looks them up by the entry point's.
        raise UnavailableError(
            f"{place} calls itself {backend.name!r}, but is installed as {name!r}", _upgrade(place)
        )
    return backend


def safe_load(name: str) -> Union[Backend, Probe]:
    """The backend, or a probe with the problem and its fix when the plug-in is broken.

    Raises:
        InputError: no backend has this name.
    """
    try:
        return load(name)
    except UnavailableError as error:
        return Probe(backend=name, problem=str(error), fix=error.fix)


def source_root(module: str) -> Path:
    """The folder that a worker in another interpreter needs on ``sys.path`` to import ``module``.

    Nothing is imported.

    Raises:
        UnavailableError: the module isn't there, or isn't a file.
    """
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is not None and spec.submodule_search_locations is not None:
        # A namespace package has several folders: the one that holds the module counts.
        for folder in map(Path, spec.submodule_search_locations):
            inner = folder.joinpath(*rest)
            if inner.is_dir() or inner.with_suffix(".py").is_file():
                return folder.parent
    elif spec is not None and spec.origin and Path(spec.origin).is_file() and not rest:
        return Path(spec.origin).parent
    raise UnavailableError(f"no source file of the module {module} was found")


def _location(point: EntryPoint) -> BackendLocation:
    distribution = point.dist.name if point.dist is not None else "an unknown distribution"
    return BackendLocation(point.name, point.module, point.attr or "", distribution)


def _unknown(name: str) -> Problem:
    known = names()
    close = difflib.get_close_matches(name, known, n=1)
    listing = ", ".join(known) or "none is installed"
    hint = f"did you mean {close[0]!r}?" if close else "enginepick devices"
    return Problem("--backend", f"there is no backend {name!r}; the backends are: {listing}", hint)


def _upgrade(place: BackendLocation) -> str:
    return f"pip install --upgrade --force-reinstall {place.distribution}"
