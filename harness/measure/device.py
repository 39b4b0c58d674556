"""The stretch that a launch on a device ends with: each inference in its parts, by events.

The definitions are trtexec's, so that its figures can be compared: latency is H2D + compute + D2H;
the time to enqueue is the host's and overlaps them. One inference at a time, outside the slices
that are ranked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns

from harness.backend import DeviceTimed
from harness.measure.slices import no_collector
from harness.types import Phases

FEWEST_ITERATIONS = 10
"""However long one takes; trtexec's least, too."""


@dataclass(frozen=True)
class Limits:
    """How long: at least ``min_ns`` and ``min_iterations`` after ``warm_ns``.

    No more than ``max_iterations``, nor, from the tenth on, than ``max_ns``.
    """

    warm_ns: int
    min_ns: int
    min_iterations: int
    max_iterations: int
    max_ns: int


def timed_stretch(
    session: DeviceTimed, limits: Limits, clock: Callable[[], int] = perf_counter_ns
) -> tuple[Phases, ...]:
    """Inferences on what is bound."""
    run = session.run_timed
    found: list[Phases] = []
    with no_collector():
        end = clock() + limits.warm_ns
        while clock() < end:
            run()
        began = clock()
        while True:
            found.append(run())
            took, count = clock() - began, len(found)
            enough = count >= limits.min_iterations and took >= limits.min_ns
            late = count >= FEWEST_ITERATIONS and took >= limits.max_ns
            if enough or late or count >= limits.max_iterations:
                return tuple(found)
