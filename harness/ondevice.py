"""What a device's own clock and counters said of a candidate. Pure.

The parts of an inference, and when something else than the computation bounds them, are those of
trtexec (NVIDIA TensorRT, samples/common/sampleReporting.cpp): medians, of which the time to enqueue
is compared with 0.8 times the computation, and each copy with all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.record import LaunchRecord

ENQUEUE_BOUND = 0.8
ENOUGH_SECONDS = 10.0
ENOUGH_UPDATES = 100
"""Of a counter, so that a step more or less is one percent at most."""


@dataclass(frozen=True)
class DevicePhases:
    """Medians over launches of each launch's median. launches: with ``iterations`` in all."""

    h2d_ns: float
    compute_ns: float
    d2h_ns: float
    enqueue_ns: float
    iterations: int
    launches: int

    @property
    def latency_ns(self) -> float:
        """What trtexec calls latency."""
        return self.h2d_ns + self.compute_ns + self.d2h_ns

    @property
    def enqueue_bound(self) -> bool:
        """Whether the host hands work over hardly faster than the device does it."""
        return self.enqueue_ns > ENQUEUE_BOUND * self.compute_ns

    @property
    def copy_bound(self) -> bool:
        """Whether inputs or outputs travel for as long as the computation takes."""
        return max(self.h2d_ns, self.d2h_ns) >= self.compute_ns


@dataclass(frozen=True)
class DeviceMemory:
    """Peak over launches. bytes: as the runtime says. process_bytes: as the driver says."""

    bytes: int | None
    process_bytes: int | None


@dataclass(frozen=True)
class Energy:
    """By the device's own counter, of all that the device did. None: the counter isn't there.

    joules: per sample. above_idle_joules: the same without what the device takes at rest with the
    engine open. watts: the mean power.
    """

    joules: float | None = None
    above_idle_joules: float | None = None
    watts: float | None = None
    idle_watts: float | None = None
    seconds: float | None = None
    updates: int = 0

    @property
    def claimed(self) -> bool:
        """Whether it was metered long enough."""
        long = self.seconds is not None and self.seconds >= ENOUGH_SECONDS
        return long and self.updates >= ENOUGH_UPDATES


def phases_of(launches: Sequence[LaunchRecord]) -> DevicePhases | None:
    """From the launches that were timed by their device; None: there were none."""
    timed = [each.phases for each in launches if each.phases is not None]
    if not timed:
        return None
    rows = [[p.h2d_ns[1], p.compute_ns[1], p.d2h_ns[1], p.enqueue_ns[1]] for p in timed]
    h2d, compute, d2h, enqueue = np.median(np.array(rows), axis=0).tolist()
    iterations = sum(each.iterations for each in timed)
    return DevicePhases(h2d, compute, d2h, enqueue, iterations, len(timed))


def memory_of(launches: Sequence[LaunchRecord]) -> DeviceMemory | None:
    """What was read at the end of launches; None: nothing was."""
    read = [each.memory for each in launches if each.memory is not None]
    own = [each.device_bytes for each in read if each.device_bytes is not None]
    all_ = [each.device_process_bytes for each in read if each.device_process_bytes is not None]
    if not own and not all_:
        return None
    return DeviceMemory(max(own, default=None), max(all_, default=None))


def energy_of(launches: Sequence[LaunchRecord]) -> Energy | None:
    """The last that was metered; None: nobody tried."""
    tried = [each for each in launches if each.energy is not None]
    if not tried:
        return None
    use, slices = tried[-1].energy, tried[-1].slices
    samples = sum(each.iterations * each.samples_per_iteration for each in slices)
    if use is None or use.joules is None or not use.seconds or not samples:
        return Energy()
    watts = use.joules / use.seconds
    sample_s = sum(each.span_ns for each in slices) / 1e9 / samples
    above = None if use.idle_watts is None else (watts - use.idle_watts) * sample_s
    return Energy(watts * sample_s, above, watts, use.idle_watts, use.seconds, use.updates)


def held_down(launches: Sequence[LaunchRecord]) -> tuple[str, ...]:
    """Whatever held the GPU's clocks down in any of these launches."""
    return tuple(sorted({why for each in launches for why in each.held_down}))
