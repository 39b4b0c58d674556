"""What NVIDIA GPUs say of themselves while we measure: clocks, heat, who else computes on them.

Read with ``nvidia-smi``, which comes with every driver, between rounds and only when a candidate
runs on a GPU: it takes some 50 ms and wakes an idle device.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Optional

TIMEOUT_S = 10.0
STATE = "index,uuid,clocks.sm,temperature.gpu,utilization.gpu"
HELD_DOWN = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
"""The same field's names in drivers from 535 on, and before."""

REASONS = {
    0x04: "power cap",
    0x08: "hardware slow-down",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}
"""NVML's nvmlClocksEventReasons that hold clocks down against the user's will."""

Ask = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class GpuState:
    """One GPU at one moment. None: it doesn't say.

    held_down: why its clocks are lower than they could be; empty: they aren't. others: processes
    that compute on it; read while none of ours does.
    """

    index: int
    sm_clock_hz: Optional[float] = None
    temperature_c: Optional[float] = None
    busy: Optional[float] = None
    held_down: tuple[str, ...] = ()
    others: tuple[int, ...] = ()


def read_gpus(ask: Ask | None = None) -> tuple[GpuState, ...]:
    """All GPUs now; none where there is no ``nvidia-smi``. Never raises.

    ask: what answers for ``nvidia-smi``.
    """
    ask = ask or _ask
    text = ""
    for reasons in HELD_DOWN:
        text = ask([f"--query-gpu={STATE},{reasons}", "--format=csv,noheader,nounits"])
        if text:
            break
    computing = ask(["--query-compute-apps=gpu_uuid,pid", "--format=csv,noheader,nounits"])
    return parse(text, computing) if text else ()


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
        if len(cells) != STATE.count(",") + 2 or not cells[0].isdigit():
            continue
        clock, heat, busy = (_number(cell) for cell in cells[2:5])
        found.append(
            GpuState(
                index=int(cells[0]),
                sm_clock_hz=None if clock is None else clock * 1e6,
                temperature_c=heat,
                busy=None if busy is None else busy / 100,
                held_down=_reasons(cells[5]),
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
