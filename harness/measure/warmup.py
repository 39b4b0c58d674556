"""When is a session warm? The rule, separate from what runs.

At least 10 iterations and 0.2 s; then until the medians of the last three windows (at least 50 ms
each) agree within 2 % and the two halves of these windows show no shift of more than 2 %. Given up,
and said so, after 10 s, or after 300 iterations once 2 s have passed. On a GPU whose clock can be
read, the last three readings of it agree within 2 % too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Optional

WINDOW_NS = 50_000_000
WINDOWS = 3
AGREEMENT = 0.02
PATIENCE_NS = 2_000_000_000


@dataclass(frozen=True)
class Limits:
    """The numbers of the rule that a user can change."""

    min_iterations: int = 10
    min_ns: int = 200_000_000
    max_iterations: int = 300
    max_ns: int = 10_000_000_000


def windows(durations: Sequence[int]) -> list[list[int]]:
    """Cut durations into consecutive windows of at least 50 ms; an unfinished one is left out."""
    done: list[list[int]] = []
    current: list[int] = []
    total = 0
    for duration in durations:
        current.append(duration)
        total += duration
        if total >= WINDOW_NS:
            done.append(current)
            current, total = [], 0
    return done


def is_steady(durations: Sequence[int]) -> bool:
    """Whether the last three windows agree and show no shift."""
    last = windows(durations)[-WINDOWS:]
    if len(last) < WINDOWS:
        return False
    medians = [median(window) for window in last]
    joined = [duration for window in last for duration in window]
    half = len(joined) // 2
    first, second = median(joined[:half]), median(joined[half:])
    return max(medians) <= min(medians) * (1 + AGREEMENT) and abs(second - first) <= (
        AGREEMENT * min(first, second)
    )


def is_level(readings: Sequence[Optional[float]]) -> bool:
    """Whether the last three readings of a clock agree; one that isn't told doesn't disagree."""
    known = [each for each in readings[-WINDOWS:] if each is not None]
    if len(known) < len(readings[-WINDOWS:]):
        return True
    return len(known) == WINDOWS and max(known) <= min(known) * (1 + AGREEMENT)


def warm_up(
    step: Callable[[], int],
    limits: Limits,
    iterations: Optional[int] = None,
    clock: Callable[[], Optional[float]] = lambda: None,
) -> tuple[int, Optional[bool]]:
    """Warm up: ``step`` runs one iteration and returns its nanoseconds.

    clock: the device's, in any unit. Returns the number of iterations and whether the session
    became steady; None for the latter when ``iterations`` fixes the count, unless the clock never
    got level.
    """
    if iterations is not None:
        return _again(step, limits, iterations, clock)
    durations: list[int] = []
    clocks: list[Optional[float]] = []
    total = since_check = 0
    while True:
        duration = step()
        durations.append(duration)
        total += duration
        since_check += duration
        enough = len(durations) >= limits.min_iterations and total >= limits.min_ns
        if enough and since_check >= WINDOW_NS:
            since_check = 0
            clocks.append(clock())
            if is_level(clocks) and is_steady(durations):
                return len(durations), True
        if total >= limits.max_ns:
            return len(durations), False
        if len(durations) >= limits.max_iterations and total >= max(PATIENCE_NS, limits.min_ns):
            return len(durations), False


def _again(
    step: Callable[[], int],
    limits: Limits,
    iterations: int,
    clock: Callable[[], Optional[float]],
) -> tuple[int, Optional[bool]]:
    """The count that was found earlier, and more until the clock is level."""
    total = sum(step() for _ in range(iterations))
    count, clocks = iterations, [clock()]
    while not is_level(clocks):
        if total >= limits.max_ns:
            return count, False
        window = 0
        while window < WINDOW_NS:
            window += step()
            count += 1
        total += window
        clocks.append(clock())
    return count, None
