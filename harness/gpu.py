"""What NVIDIA GPUs say of themselves while we measure: clocks, heat, who else computes on them.

Read with ``nvidia-smi``, which comes with every driver, between rounds and only when a candidate
runs on a GPU: it takes some 50 ms and wakes an idle device.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Optional

TIMEOUT_S = 10.0
STATE = "index,uuid,clocks.sm,temperature.gpu,utilization.gpu"
POWER_CAP = "power cap"
"""Usual for a large GPU under load, and no fault; the other reasons are."""

REASONS = {
    0x04: POWER_CAP,
    0x08: "hardware slow-down",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}
"""NVML's nvmlClocksEventReasons that hold clocks down against the user's will."""

COUNTED = {
    "clocks_event_reasons_counters.sw_power_cap": POWER_CAP,
    "clocks_event_reasons_counters.sw_thermal_slowdown": "heat (software)",
    "clocks_event_reasons_counters.hw_thermal_slowdown": "heat (hardware)",
    "clocks_event_reasons_counters.hw_power_brake_slowdown": "power brake",
}
"""Microseconds of each since the driver was loaded: a moment's reasons are gone when work stops."""

QUERIES = (
    ",".join([STATE, "clocks_event_reasons.active", *COUNTED]),
    f"{STATE},clocks_event_reasons.active",
    f"{STATE},clocks_throttle_reasons.active",
)
"""Of newer drivers, of those from 535 on, and of older ones."""

Ask = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class GpuState:
    """One GPU at one moment. None: it doesn't say.

    held_down: why its clocks are lower than they could be; empty: they aren't. held_us: for how
    long each reason held so far, where it is counted. others: processes that compute on it; read
    while none of ours does.
    """

    index: int
    sm_clock_hz: Optional[float] = None
    temperature_c: Optional[float] = None
    busy: Optional[float] = None
    held_down: tuple[str, ...] = ()
    held_us: tuple[tuple[str, int], ...] = ()
    others: tuple[int, ...] = ()


def cuda_ordinal(device: str, name: str) -> Optional[int]:
    """The number that CUDA gives a device of ours in a process; None: it is no NVIDIA GPU.

    device: its id. name: as its backend's probe calls it, by which others' GPUs are told.
    """
    kind, _, number = device.partition(":")
    known = name.lower()
    if kind != "gpu" or "intel" in known or "amd" in known:
        return None
    return int(number) if number.isdigit() else 0


def read_gpus(ask: Ask | None = None) -> tuple[GpuState, ...]:
    """All GPUs now; none where there is no ``nvidia-smi``. Never raises.

    ask: what answers for ``nvidia-smi``.
    """
    ask = ask or _ask
    text = ""
    for query in QUERIES:
        text = ask([f"--query-gpu={query}", "--format=csv,noheader,nounits"])
        if text:
            break
    computing = ask(["--query-compute-apps=gpu_uuid,pid", "--format=csv,noheader,nounits"])
    return parse(text, computing) if text else ()


def during(
    before: Sequence[GpuState], after: Sequence[GpuState], used: frozenset[int]
) -> tuple[GpuState, ...]:
    """What happened to the used GPUs in between: whatever held their clocks, whoever was there."""
    earlier = {each.index: each for each in before}
    found = []
    for each in after:
        first = earlier.get(each.index)
        if each.index not in used or first is None:
            continue
        counted = dict(first.held_us)
        grew = [name for name, held in each.held_us if held > counted.get(name, held)]
        held_down = dict.fromkeys([*first.held_down, *each.held_down, *grew])
        others = tuple(sorted({*first.others, *each.others}))
        found.append(replace(each, held_down=tuple(held_down), others=others))
    return tuple(found)


def parse(states: str, computing: str) -> tuple[GpuState, ...]:
    """From the two csv answers; rows that aren't understood are left out."""
    processes: dict[str, list[int]] = {}
    for line in computing.splitlines():
        uuid, _, pid = (cell.strip() for cell in line.partition(","))
        if pid.isdigit():
            processes.setdefault(uuid, []).append(int(pid))
    found = []
    for line in states.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) not in {q.count(",") + 1 for q in QUERIES} or not cells[0].isdigit():
            continue
        clock, heat, busy = (_number(cell) for cell in cells[2:5])
        found.append(
            GpuState(
                index=int(cells[0]),
                sm_clock_hz=None if clock is None else clock * 1e6,
                temperature_c=heat,
                busy=None if busy is None else busy / 100,
                held_down=_reasons(cells[5]),
                held_us=tuple(
                    (name, int(cell))
                    for name, cell in zip(COUNTED.values(), cells[6:], strict=False)
                    if cell.isdigit()
                ),
                others=tuple(processes.get(cells[1], ())),
            )
        )
    return tuple(found)


def _reasons(cell: str) -> tuple[str, ...]:
    try:
        bits = int(cell, 16)
    except ValueError:
        return ()  # [N/A]
    return tuple(name for bit, name in REASONS.items() if bits & bit)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _ask(arguments: Sequence[str]) -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    try:
        done = subprocess.run(
            [command, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""
