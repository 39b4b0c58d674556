"""How quiet the host is: counters read between slices, and the tiers of what may be claimed.

Everything is read from /proc and /sys below ``root``, so that it is tested on synthetic trees; a
virtual machine shows only a part of it, and what isn't there is None.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

ROOT = Path("/")
GREEN_BELOW = 0.01
AMBER_BELOW = 0.20


class Tier(StrEnum):
    """What may be claimed of measurements on this host, from its noise.

    green: everything. amber: medians and ratios. red: ratios only; absolute values are "as
    experienced here", and no limit is certified by them.
    """

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


@dataclass(frozen=True)
class HostCounters:
    """The host's running totals at one moment. None: this host doesn't say.

    steal_ticks, total_ticks: of /proc/stat over all CPUs, with a virtual machine's stolen time.
    stalled_us: PSI, the time in which some task waited for a CPU. throttled: thermal throttle
    events of all cores and packages.
    """

    at_ns: int
    steal_ticks: int | None = None
    total_ticks: int | None = None
    stalled_us: int | None = None
    throttled: int | None = None


@dataclass(frozen=True)
class HostNoise:
    """What happened between two moments. Fractions are of the time between them."""

    steal: float | None
    stalled: float | None
    throttled: int | None
    clock_hz: float | None


def read_counters(at_ns: int, root: Path = ROOT) -> HostCounters:
    """Read the totals; never raises."""
    steal, total = _cpu_ticks(root / "proc/stat")
    return HostCounters(
        at_ns=at_ns,
        steal_ticks=steal,
        total_ticks=total,
        stalled_us=_stalled_us(root / "proc/pressure/cpu"),
        throttled=_sum(
            (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
        ),
    )


def clock_hz(root: Path = ROOT) -> float | None:
    """The CPUs' mean frequency now."""
    files = list((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    total = _sum(files)
    return total * 1000 / len(files) if total is not None else None


def between(before: HostCounters, after: HostCounters, hertz: float | None = None) -> HostNoise:
    """The noise from ``before`` to ``after``."""
    ticks = _difference(before.total_ticks, after.total_ticks)
    stolen = _difference(before.steal_ticks, after.steal_ticks)
    waited = _difference(before.stalled_us, after.stalled_us)
    elapsed_us = (after.at_ns - before.at_ns) / 1e3
    return HostNoise(
        steal=stolen / ticks if stolen is not None and ticks else None,
        stalled=min(1.0, waited / elapsed_us) if waited is not None and elapsed_us > 0 else None,
        throttled=_difference(before.throttled, after.throttled),
        clock_hz=hertz,
    )


def tier(
    run_delay: float | None, preempted: float | None = None, steal: float | None = None
) -> Tier:
    """The tier of a measurement, by the worst of what is known of it.

    run_delay: the part of the time runnable that was spent waiting for a CPU. preempted: the part
    of the iterations during which the scheduler took the CPU away. steal: as in HostNoise.
    """
    known = [value for value in (run_delay, preempted, steal) if value is not None]
    worst = max(known, default=0.0)
    if worst < GREEN_BELOW:
        return Tier.GREEN
    return Tier.AMBER if worst < AMBER_BELOW else Tier.RED


def _cpu_ticks(stat: Path) -> tuple[int | None, int | None]:
    """(stolen, all) ticks of the line that sums all CPUs; guest time is part of user time."""
    try:
        first = stat.read_text().splitlines()[0].split()
        numbers = [int(field) for field in first[1:9]]
    except (OSError, ValueError, IndexError):
        return None, None
    complete = 8  # user nice system idle iowait irq softirq steal
    return (numbers[7], sum(numbers)) if len(numbers) == complete else (None, None)


def _stalled_us(pressure: Path) -> int | None:
    try:
        for line in pressure.read_text().splitlines():
            if line.startswith("some"):
                return int(line.rpartition("total=")[2])
    except (OSError, ValueError):
        pass
    return None


def _sum(files: Iterable[Path]) -> int | None:
    total = None
    for file in files:
        try:
            total = (total or 0) + int(file.read_text())
        except (OSError, ValueError):
            continue
    return total


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(0, after - before)
