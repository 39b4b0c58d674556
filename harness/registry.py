"""Plug-ins by name, found through entry points: backends, converters and sources of programs.

Listing loads nothing. Loading imports the adapter's module, which imports no vendor package. A
plug-in that is broken is a :class:`~harness.types.Probe` that says so, never a crash and never a
silent absence.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar, Union

from harness.backend import API_VERSION, Backend, Converter, ProgramSource
from harness.errors import InputError, Problem, UnavailableError, suggest
from harness.types import Probe

_HIDDEN = frozenset({"null"})  # a fake, for tests: it must never win a sweep by default


class _PlugIn(Protocol):
    name: str
    api: int

    def probe(self) -> Probe: ...


P = TypeVar("P", bound=_PlugIn)


@dataclass(frozen=True)
class Kind(Generic[P]):
    """A group of entry points, what people call its objects, and the members that these have."""

    group: str
    noun: str
    members: tuple[str, ...]


BACKENDS: Kind[Backend] = Kind(
    "enginepick.backends",
    "backend",
    ("name", "api", "capabilities", "probe", "build", "open", "deploy_code"),
)
CONVERTERS: Kind[Converter] = Kind(
    "enginepick.converters",
    "converter",
    ("name", "api", "source", "target", "home", "environment", "probe", "convert"),
)
SOURCES: Kind[ProgramSource] = Kind(
    "enginepick.sources",
    "source",
    ("name", "api", "home", "environment", "claims", "probe", "read"),
)


@dataclass(frozen=True)
class PlugInLocation:
    """Where a plug-in's object is, as its distribution's entry point says."""

    name: str
    module: str
    attribute: str
    distribution: str

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"


def names(kind: Kind[Any] = BACKENDS) -> tuple[str, ...]:
    """Every installed plug-in, hidden and broken ones too, in alphabetical order."""
    return tuple(sorted({point.name for point in entry_points(group=kind.group)}))


def hidden(name: str) -> bool:
    """Whether the backend takes part only where it is asked for by name."""
    return name in _HIDDEN


def location(name: str, kind: Kind[Any] = BACKENDS) -> PlugInLocation:
    """Where the plug-in is, without loading it.

    Raises:
        InputError: none has this name.
        UnavailableError: two distributions claim it, or its entry point names no object.
    """
    found = [_location(point) for point in entry_points(group=kind.group) if point.name == name]
    if not found:
        raise InputError([_unknown(name, kind)])
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


def load(name: str, kind: Kind[P]) -> P:
    """Import the plug-in's module and check its object.

    Raises:
        InputError: none has this name.
        UnavailableError: the plug-in is broken, or made for another version of the boundary.
    """
    place = location(name, kind)
    try:
        candidate: Any = importlib.import_module(place.module)
        for part in place.attribute.split("."):
            candidate = getattr(candidate, part)
    except Exception as error:  # a plug-in may raise anything at import
        what = f"{type(error).__name__}: {error}"
        raise UnavailableError(f"{place} can't be loaded: {what}", _upgrade(place)) from error
    lacks = [member for member in kind.members if not hasattr(candidate, member)]
    if lacks:
        raise UnavailableError(
            f"{place} is no {kind.noun}: it lacks {', '.join(lacks)}", _upgrade(place)
        )
    plug_in: P = candidate
    if plug_in.api != API_VERSION:
        raise UnavailableError(
            f"{place} is made for version {plug_in.api} of the backend boundary; "
            f"this is version {API_VERSION}",
            f"pip install --upgrade enginepick {place.distribution}",
        )
    if plug_in.name != name:
        # Records carry the object's name, and a resumed run looks them up by the entry point's.
        raise UnavailableError(
            f"{place} calls itself {plug_in.name!r}, but is installed as {name!r}", _upgrade(place)
        )
    return plug_in


def safe_load(name: str) -> Union[Backend, Probe]:
    """The backend, or a probe with the problem and its fix when the plug-in is broken.

    Raises:
        InputError: no backend has this name.
    """
    return _safely(name, BACKENDS)


def sound(kind: Kind[P]) -> tuple[P, ...]:
    """Every plug-in of a kind that isn't broken, in the order of the names."""
    found = (_safely(name, kind) for name in names(kind))
    return tuple(each for each in found if not isinstance(each, Probe))


def broken(kind: Kind[Any]) -> tuple[Probe, ...]:
    """Why those of a kind that are broken are."""
    found = (_safely(name, kind) for name in names(kind))
    return tuple(each for each in found if isinstance(each, Probe))


def _safely(name: str, kind: Kind[P]) -> Union[P, Probe]:
    try:
        return load(name, kind)
    except UnavailableError as error:
        return Probe(backend=name, problem=str(error), fix=error.fix)


def _location(point: EntryPoint) -> PlugInLocation:
    distribution = point.dist.name if point.dist is not None else "an unknown distribution"
    return PlugInLocation(point.name, point.module, point.attr or "", distribution)


def _unknown(name: str, kind: Kind[Any]) -> Problem:
    known = names(kind)
    listing = ", ".join(known) or "none is installed"
    hint = suggest(name, known) or "enginepick devices"
    what = f"there is no {kind.noun} {name!r}; the {kind.noun}s are: {listing}"
    return Problem("--backend", what, hint)


def _upgrade(place: PlugInLocation) -> str:
    return f"pip install --upgrade --force-reinstall {place.distribution}"
