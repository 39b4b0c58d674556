"""What the host does while a round is measured: read before and after, never in between."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from time import monotonic

from harness.gpu import during, read_gpus
from harness.noise import between, clock_hz, read_counters
from harness.record import Phase, RoundRecord
from harness.runner import Entrant, nvidia_place
from harness.setup import Setup


class Watch:
    """Begins when it is made."""

    def __init__(self, setup: Setup, entrants: Iterable[Entrant]) -> None:
        """Look around. The entrants say which GPUs are to be watched."""
        self._used = nvidia_gpus(setup, entrants)
        self._gpus = read_gpus() if self._used else ()
        self._counters = read_counters(_now_ns())
        self._began = monotonic()

    def record(self, number: int, phase: Phase) -> RoundRecord:
        """The end of the round."""
        took = monotonic() - self._began
        noise = between(self._counters, read_counters(_now_ns()), clock_hz())
        return RoundRecord(
            at=datetime.now(UTC),
            round=number,
            phase=phase,
            elapsed_s=took,
            steal=noise.steal,
            stalled=noise.stalled,
            throttled=noise.throttled,
            clock_hz=noise.clock_hz,
            gpus=during(self._gpus, read_gpus(), self._used) if self._used else (),
        )


def nvidia_gpus(setup: Setup, entrants: Iterable[Entrant]) -> frozenset[int]:
    """The indices of NVIDIA's tools for the GPUs that these run on.

    A device that its backend calls Intel's or AMD's is none of them. Devices are numbered among
    those that CUDA_VISIBLE_DEVICES lets a process see.
    """
    visible = [
        v.strip() for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v.strip()
    ]
    found = set()
    for each in entrants:
        place = nvidia_place(each.setup or setup, each.candidate)
        if place is None:
            continue
        chosen = visible[place] if place < len(visible) else str(place)
        found |= {int(chosen)} if chosen.isdigit() else set()
    return frozenset(found)


def _now_ns() -> int:
    return int(monotonic() * 1e9)
