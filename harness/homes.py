"""Where backends, converters and sources of programs live, and giving them a home of their own.

A home is an interpreter: the one of devices.toml, else the environment that ``enginepick setup``
made, else the parent's. It is called by the name of a backend or converter, and others may live
there too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

from harness import environments, jobs, pythons, registry
from harness.backend import Backend, Converter, ProgramSource
from harness.child import Child
from harness.config_values import did_you_mean
from harness.environments import Made
from harness.errors import InputError, Problem, SetupError
from harness.types import Environment, Probe, Stage, Status

PROBE_TIMEOUT_S = 300.0
"""Of one look at a fresh environment, whose modules have not been compiled yet."""


@dataclass(frozen=True)
class Tenant:
    """A plug-in that lives in a home. does: what it is, for people; place: its object.

    source, target: the formats of a converter; reads: those of a backend, the best first.
    """

    name: str
    does: str
    place: registry.PlugInLocation
    source: str = ""
    target: str = ""
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class House:
    """A home that can be set up. tenants: the one that it is called after first."""

    name: str
    environment: Environment
    tenants: tuple[Tenant, ...]


class Where(StrEnum):
    """Whose interpreter a home is."""

    NAMED = "named"
    """In devices.toml."""
    OWN = "own"
    """Made by ``enginepick setup``."""
    HERE = "here"
    """The one we run on."""


@dataclass(frozen=True)
class Standing:
    """How a home is now.

    python: its interpreter, None for ours. made: what is known of the environment of its own, used
    or not. probes: of the tenants, in their order. problem, fix: why setting it up failed.
    """

    house: House
    where: Where
    python: str | None
    made: Made | None
    probes: tuple[Probe, ...]
    problem: str | None = None
    fix: str | None = None

    @property
    def usable(self) -> bool:
        """Whether all who live there are."""
        return self.problem is None and all(each.problem is None for each in self.probes)

    @property
    def outdated(self) -> bool:
        """Whether its own environment was made for other requirements than these."""
        return self.made is not None and not self.made.serves(self.house.environment)


def interpreter_of(name: str, named: Mapping[str, str]) -> tuple[str | None, Where]:
    """A home's interpreter, None for ours. named: those of devices.toml or sweep.toml."""
    if name in named:
        return named[name], Where.NAMED
    own = environments.interpreter(name)
    return own, Where.HERE if own is None else Where.OWN


def houses() -> dict[str, House]:
    """Every home that can be had from packages, by name. Loads adapters, no vendor package."""
    tenants: dict[str, list[Tenant]] = {}
    takes: dict[str, Environment] = {}
    for tenant, home, environment in _plug_ins():
        called_after = home == tenant.name
        tenants.setdefault(home, []).insert(0 if called_after else len(tenants[home]), tenant)
        if environment is not None and (called_after or home not in takes):
            takes[home] = environment
    return {name: House(name, takes[name], tuple(tenants[name])) for name in sorted(takes)}


def _plug_ins() -> Iterable[tuple[Tenant, str, Environment | None]]:
    """Every sound plug-in, its home, and what it says that this one takes."""
    for backend in registry.sound(registry.BACKENDS):
        yield _of_backend(backend), backend.name, backend.capabilities.environment
    for converter in registry.sound(registry.CONVERTERS):
        yield _of_converter(converter), converter.home, converter.environment
    for source in registry.sound(registry.SOURCES):
        yield _of_source(source), source.home, source.environment


def _of_backend(backend: Backend) -> Tenant:
    place, reads = registry.location(backend.name), backend.capabilities.formats
    return Tenant(backend.name, "backend", place, reads=reads)


def _of_converter(converter: Converter) -> Tenant:
    place = registry.location(converter.name, registry.CONVERTERS)
    does = f"{converter.source} to {converter.target}"
    return Tenant(converter.name, does, place, converter.source, converter.target)


def _of_source(source: ProgramSource) -> Tenant:
    place = registry.location(source.name, registry.SOURCES)
    return Tenant(source.name, "source of models", place)


def standing(house: House, named: Mapping[str, str]) -> Standing:
    """How a home is now, as those who live there find it."""
    python, where = interpreter_of(house.name, named)
    return Standing(house, where, python, environments.made(house.name), _probe(house, python))


def _probe(house: House, python: str | None) -> tuple[Probe, ...]:
    """Each tenant's probe, in one worker on that interpreter, or in another where it crashed."""
    packages = ("harness", *{each.place.module.partition(".")[0] for each in house.tenants})
    fix = mending(house.name, python)
    found: list[Probe] = []
    while len(found) < len(house.tenants):
        with Child(python=python, packages=packages) as child:
            for tenant in house.tenants[len(found) :]:
                place = jobs.Location(tenant.place.module, tenant.place.attribute)
                found.append(answer := probe(child, tenant.name, place, fix))
                if answer.problem is not None:
                    break  # the worker may be gone
    return tuple(found)


def probe(child: Child, name: str, place: jobs.Location, fix: str | None) -> Probe:
    """What the plug-in finds; fix: the command where the interpreter itself fails."""
    answer = child.ask(jobs.ProbeJob(place), Probe, Stage.PROBE, PROBE_TIMEOUT_S)
    if isinstance(answer, jobs.Refused):
        own = answer.fix if answer.status is not Status.TIMEOUT else None  # no setting's matter
        return Probe(name, problem=answer.reason, fix=own or fix)
    return answer


def mending(home: str, python: str | None) -> str | None:
    """What to do about an interpreter that can't run workers; None for ours."""
    if python is None:
        return None
    own = python == environments.interpreter(home)
    return f"enginepick setup {home}" if own else f"mend python.{home}"


def chosen(names: Iterable[str]) -> tuple[House, ...]:
    """The homes of these backends and converters. Raises InputError for unknown names."""
    known = houses()
    lodgers = {each.name: house for house in known.values() for each in house.tenants}
    lodgers.update(known)
    problems, found = [], {}
    for name in names:
        if name in lodgers:
            found[lodgers[name].name] = lodgers[name]
            continue
        hint = did_you_mean(name, lodgers)
        there = name in registry.names() or name in registry.names(registry.CONVERTERS)
        what = "can't be had from packages alone" if there else "is no backend or converter"
        listing = f"enginepick setup takes {', '.join(known) or 'nothing here'}"
        problems.append(Problem("NAME", f"{name} {what}; {listing}", hint))
    if problems:
        raise InputError(problems)
    return tuple(found.values())


def needed_by(house: House, others: Iterable[House]) -> tuple[House, ...]:
    """The homes of the converters that bring ONNX models to a backend that doesn't read them."""
    reads = next((each.reads for each in house.tenants if each.name == house.name), ())
    if not reads or "onnx" in reads:
        return ()
    return tuple(
        other
        for other in others
        if other.name != house.name
        and any(each.source == "onnx" and each.target in reads for each in other.tenants)
    )


def set_up_all(
    names: Iterable[str],
    named: Mapping[str, str],
    python: str | None,
    show: Callable[[str, str], None],
) -> tuple[Standing, ...]:
    """Set up each of these, and the converters from ONNX that they need and that aren't usable yet.

    python: the interpreter that these are made with, as the user wants it. show: gets a home's name
    and what happens to it. Raises InputError for the user's mistakes; what else goes wrong is the
    standing's problem.
    """
    wanted = chosen(names)
    for house in wanted if python is not None else ():
        pythons.find(house.name, house.environment.python, python)
    done = {each.name: set_up(each, named, python, partial(show, each.name)) for each in wanted}
    every = houses().values()
    for house in wanted:
        for other in needed_by(house, every):
            if other.name not in done and not standing(other, named).usable:
                show(other.name, f"{house.name} needs it for ONNX models")
                done[other.name] = set_up(other, named, None, partial(show, other.name))
    return tuple(done.values())


def set_up(
    house: House, named: Mapping[str, str], python: str | None, show: Callable[[str], None]
) -> Standing:
    """Make its environment, unless there is one that is as it should be, and look at it."""
    environment = house.environment
    if house.name in named:
        show(f"devices.toml names another Python, which counts: remove python.{house.name} there")
    try:
        before = _as_it_should_be(house, python)
        if before is not None:
            show("is there already, as it should be")
            return before
        base = pythons.find(house.name, environment.python, python)
        environments.make(house.name, environment, base, show)
    except (SetupError, InputError, OSError) as error:
        problem, fix = str(error), getattr(error, "fix", None)
        if isinstance(error, InputError):
            problem, fix = error.problems[0].what, error.problems[0].fix
        return replace(standing(house, named), problem=problem, fix=fix)
    return _in_own(house)


def _as_it_should_be(house: House, python: str | None) -> Standing | None:
    """Its own environment, if that is usable, up to date, and of the Python that is wanted."""
    made = environments.made(house.name)
    if made is None or not made.serves(house.environment):
        return None
    if environments.interpreter(house.name) is None:
        return None
    if python is not None:
        base = pythons.find(house.name, house.environment.python, python)
        if pythons.version_text(base.version) != made.python:
            return None
    now = _in_own(house)
    return now if now.usable else None


def _in_own(house: House) -> Standing:
    """As it is in its own environment, whatever devices.toml names."""
    own = environments.interpreter(house.name)
    made = environments.made(house.name)
    return Standing(house, Where.OWN, own, made, _probe(house, own))


def remove(names: Iterable[str]) -> tuple[tuple[str, bool], ...]:
    """Remove the environments of these; whether there was one."""
    return tuple((house.name, environments.remove(house.name)) for house in chosen(names))
