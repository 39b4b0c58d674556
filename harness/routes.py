"""How a model gets into a format that a backend reads: pure.

A route is the converters to go through, none where the backend reads the model as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.types import Probe, Status


@dataclass(frozen=True)
class Tool:
    """A converter: what it turns into what, and whether it is usable here."""

    name: str
    source: str
    target: str
    probe: Probe


Route = tuple[Tool, ...]


@dataclass(frozen=True)
class NoRoute:
    """Why a model can't be had in a format, and the command that changes that.

    reason: a sentence without its subject, what reads the format.
    """

    status: Status
    reason: str
    fix: str | None = None


def find(given: str, wanted: Sequence[str], tools: Sequence[Tool]) -> Route | NoRoute:
    """The best route from the format ``given`` to one of the ``wanted``, which are best first.

    A route of usable converters goes before others, then the shortest one.
    """
    routes = [route for target in wanted for route in _routes(given, target, tools)]
    if not routes:
        reason = f"reads {' and '.join(wanted)}, and there is no converter from {given}"
        return NoRoute(Status.UNSUPPORTED, reason)
    best = min(routes, key=lambda route: (_missing(route) is not None, len(route)))
    missing = _missing(best)
    if missing is None:
        return best
    what = f"{missing.source} is converted into it by {missing.name}"
    reason = f"reads {missing.target}; {what}: {missing.probe.problem}"
    return NoRoute(Status.UNAVAILABLE, reason, missing.probe.fix)


def on_the_way(given: str, wanted: Iterable[str], tools: Sequence[Tool]) -> set[str]:
    """The names of the converters that some route from ``given`` to a wanted format has."""
    routes = (route for target in wanted for route in _routes(given, target, tools))
    return {tool.name for route in routes for tool in route}


def _routes(given: str, target: str, tools: Sequence[Tool]) -> Iterator[Route]:
    """Every way that passes no format twice."""
    if given == target:
        yield ()
        return
    for tool in tools:
        if tool.source == given:
            others = [each for each in tools if given not in {each.source, each.target}]
            for rest in _routes(tool.target, target, others):
                yield (tool, *rest)


def _missing(route: Route) -> Tool | None:
    return next((tool for tool in route if tool.probe.problem is not None), None)
