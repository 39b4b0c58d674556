"""Joules over a stretch of work, from a counter that is read beside it.

The counter moves in steps (every 20 to 100 ms on a GPU), so a stretch counts from one step to
another, both of them seen within a few milliseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns, sleep
from typing import Optional

POLL_S = 0.005
"""How often the counter is read: a step is seen at most so late."""


@dataclass(frozen=True)
class Metered:
    """What a device's own counter said of a stretch, from one of its steps to a later one.

    updates: how many steps that is.
    """

    joules: float
    seconds: float
    updates: int


@dataclass
class Meter:
    """Steps of a counter in mJ as they are seen."""

    counter: Callable[[], Optional[int]]
    clock: Callable[[], int] = perf_counter_ns
    _value: Optional[int] = None
    _first: Optional[tuple[int, int]] = None
    _last: Optional[tuple[int, int]] = None
    _updates: int = 0

    def look(self) -> None:
        """Read the counter once."""
        value, now = self.counter(), self.clock()
        if value is None or value == self._value:
            return
        seen_before, self._value = self._value, value
        if seen_before is None:
            return  # it may be anywhere between two steps
        if self._first is None:
            self._first = (now, value)
        else:
            self._updates += 1
            self._last = (now, value)

    @property
    def reading(self) -> Optional[Metered]:
        """From the first step to the last; None before there are two."""
        if self._first is None or self._last is None:
            return None
        (began, low), (ended, high) = self._first, self._last
        return Metered((high - low) / 1e3, (ended - began) / 1e9, self._updates)

    @contextmanager
    def running(self) -> Iterator[Meter]:
        """Look every few milliseconds from a thread of its own, as long as the block lasts."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(POLL_S):
                self.look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()


def at_rest(
    counter: Callable[[], Optional[int]], pause_s: float, for_s: float
) -> Optional[Metered]:
    """What is used with the engine open and nothing running, after a pause to let clocks fall."""
    sleep(pause_s)
    with Meter(counter).running() as meter:
        sleep(for_s)
    return meter.reading
