"""What the kernel says of a process: memory, CPU time, run-delay, switches.

All of it from /proc; a host without it (macOS, a hardened container) gives None, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

SELF = Path("/proc/self")


@dataclass(frozen=True)
class Scheduled:
    """Sums over all live threads. run_delay_ns: runnable but waiting for a CPU."""

    cpu_ns: int
    run_delay_ns: int
    involuntary_switches: int

    def since(self, earlier: Scheduled) -> Scheduled:
        """The difference, never below 0 (a thread that ended takes its share along)."""
        return Scheduled(
            max(0, self.cpu_ns - earlier.cpu_ns),
            max(0, self.run_delay_ns - earlier.run_delay_ns),
            max(0, self.involuntary_switches - earlier.involuntary_switches),
        )


def scheduled(process: Path = SELF) -> Optional[Scheduled]:
    """Read ``task/*/schedstat`` and ``task/*/status``; None where the kernel has none."""
    cpu = delay = switches = 0
    found = False
    try:
        tasks = list((process / "task").iterdir())
    except OSError:
        return None
    for task in tasks:
        try:
            running, waiting = (task / "schedstat").read_text().split()[:2]
            status = (task / "status").read_text()
        except (OSError, ValueError):
            continue  # the thread ended meanwhile, or the kernel lacks the file
        found = True
        cpu += int(running)
        delay += int(waiting)
        switches += _field(status, "nonvoluntary_ctxt_switches") or 0
    return Scheduled(cpu, delay, switches) if found else None


def _field(text: str, name: str) -> Optional[int]:
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    return None


def _kib(path: Path, name: str) -> Optional[int]:
    try:
        value = _field(path.read_text(), name)
    except (OSError, ValueError):
        return None
    return None if value is None else value * 1024


def peak_rss_bytes(process: Path = SELF) -> Optional[int]:
    """VmHWM. ``ru_maxrss`` is no substitute: it inherits the parent's."""
    return _kib(process / "status", "VmHWM")


def pss_bytes(process: Path = SELF) -> Optional[int]:
    """Proportional set size: shared pages counted in part."""
    return _kib(process / "smaps_rollup", "Pss")


def reset_peak(process: Path = SELF) -> bool:
    """Set VmHWM back to the current resident set, so that an import's peak is not ours."""
    try:
        (process / "clear_refs").write_text("5")
    except OSError:
        return False
    return True
