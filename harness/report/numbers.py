"""Numbers as JSON can hold them, which has neither infinity nor NaN."""

from __future__ import annotations

import math

from harness.stats import Interval


def number(value: float | None) -> float | None:
    """None for what isn't finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def plain_interval(interval: Interval | None) -> dict[str, float | None] | None:
    """``value``, ``low`` and ``high``; bounds are None where there is too little evidence."""
    if interval is None:
        return None
    low, high = _bounds(interval)
    return {"value": interval.value, "low": low, "high": high}


def _bounds(interval: Interval) -> tuple[float | None, float | None]:
    """An unbounded interval's lower end is 0, which says nothing either."""
    if not math.isfinite(interval.high):
        return None, None
    return interval.low, interval.high
