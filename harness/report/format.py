"""Numbers for people: the only place where values become text. Three significant digits at most.

Every function takes None for "not measured" and gives :data:`NONE` back.
"""

from __future__ import annotations

import math
import re

from harness.stats import Interval

NONE = "-"
"""What stands where nothing was measured."""

_KILO = 1e3
_TWO_DECIMALS = (0.1, 10.0)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: object) -> str:
    """Text from elsewhere (a runtime's error, a file's name) without control characters."""
    return _CONTROL.sub("", str(text)).replace("\t", " ")


def clean_lines(text: str) -> str:
    """As :func:`clean`, line by line."""
    return "\n".join(clean(line) for line in text.rstrip().splitlines())


def three(value: float) -> str:
    """Three significant digits in plain notation: ``0.0123``, ``1.80``, ``26.1``, ``1,230``."""
    if not math.isfinite(value):
        return "unbounded"
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    digits = 2 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(0, digits)}f}"


def _scaled(value: float, units: tuple[tuple[str, float], ...]) -> str:
    """In the largest unit in which the rounded number is at least 1."""
    for name, factor in units:
        if abs(float(f"{value:.3g}")) >= factor:
            return f"{three(value / factor)} {name}"
    return f"{value:.0f} {units[-1][0]}"


def duration(value_ns: float | None) -> str:
    """Nanoseconds as ``26.1 us`` or ``8.80 ms``."""
    if value_ns is None:
        return NONE
    if not math.isfinite(value_ns):
        return "unbounded"
    return _scaled(value_ns, (("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1.0)))


def size(value_bytes: float | None) -> str:
    """Bytes as ``62.1 KB`` (10^3) or ``8.80 MB`` (10^6); whole bytes below that."""
    if value_bytes is None:
        return NONE
    if value_bytes < _KILO:
        return f"{value_bytes:.0f} B"
    return _scaled(value_bytes, (("GB", 1e9), ("MB", 1e6), ("KB", _KILO)))


def energy(value_joules: float | None) -> str:
    """Joules as ``12.3 mJ`` or ``850 uJ``."""
    if value_joules is None:
        return NONE
    units = (("J", 1e9), ("mJ", 1e6), ("uJ", 1e3), ("nJ", 1.0))
    return _scaled(value_joules * 1e9, units)


def power(value_watts: float | None) -> str:
    """Watts as ``61.3 W``."""
    return NONE if value_watts is None else f"{three(value_watts)} W"


def rate(value_per_s: float | None) -> str:
    """Samples per second as ``38,300/s``."""
    return NONE if value_per_s is None else f"{three(value_per_s)}/s"


def factor(value: float) -> str:
    """A ratio's number: two decimals between 0.1 and 10, else three significant digits."""
    low, high = _TWO_DECIMALS
    return f"{value:.2f}" if low <= value < high else three(value)


def ratio(value: float | None) -> str:
    """A ratio as ``1.80x``."""
    return NONE if value is None else f"{factor(value)}x"


def between(interval: Interval | None) -> str:
    """A ratio's bounds as ``1.71 to 1.89``; says so where there are none yet."""
    if interval is None:
        return NONE
    if not math.isfinite(interval.high):
        return "no interval"
    return f"{factor(interval.low)} to {factor(interval.high)}"


def half_width(interval: Interval | None) -> str:
    """How wide an interval is, as ``±0.9 %`` of its value."""
    if interval is None:
        return NONE
    width = interval.half_width
    return f"±{percent(width)}" if math.isfinite(width) else "±?"


def _brief(value: float) -> str:
    """Two significant digits, no more than two decimals: ``12``, ``5.6``, ``0.14``, ``0``."""
    rounded = float(f"{value:.2g}")
    if rounded == 0:
        return "0"
    decimals = 1 - math.floor(math.log10(abs(rounded)))
    return f"{value:,.{min(2, max(0, decimals))}f}"


def percent(share: float | None) -> str:
    """A share as ``27 %``, ``0.9 %`` or ``0.04 %``."""
    return NONE if share is None else f"{_brief(share * 100)} %"


def points(share: float) -> str:
    """A difference of shares in percentage points, without the word: ``0.14``, ``5.6``, ``12``."""
    return _brief(share * 100)


def score(value: float | None, *, share: bool) -> str:
    """A metric's value: shares with three decimals, others with three significant digits."""
    if value is None:
        return NONE
    return f"{value:.3f}" if share else three(value)
