"""What NVIDIA's driver says of one GPU, read inside a worker: memory, clock, limits, energy.

Through ``pynvml`` (the package nvidia-ml-py), imported only where a worker is told that it runs on
an NVIDIA GPU. A host without it, or a GPU that doesn't tell, gives None: nothing here raises.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any, Optional, TypeVar

from harness.gpu import REASONS

T = TypeVar("T")

BUS_ID_BYTES = 32
"""Room for a PCI bus id such as ``00000000:3B:00.0`` and its end."""


def start() -> bool:
    """Import and initialise NVML: before memory is first read, so that it isn't the engine's."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - no package, no driver, or one that refuses
        return False
    return True


def cuda_bus_id(ordinal: int) -> Optional[str]:
    """The PCI bus id of this process's CUDA device ``ordinal``; None where there is none.

    CUDA counts as CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER say, NVML by bus ids: only the driver
    knows which is which.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, text = ctypes.c_int(), ctypes.create_string_buffer(BUS_ID_BYTES)
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), ordinal)
        or driver.cuDeviceGetPCIBusId(text, BUS_ID_BYTES, device)
    )
    return None if failed else text.value.decode("ascii", "replace")


def find(ordinal: Optional[int]) -> Optional[Gpu]:
    """This process's CUDA device ``ordinal``, once :func:`start` went well; None: not known."""
    if ordinal is None:
        return None
    bus_id = cuda_bus_id(ordinal)
    if bus_id is None:
        return None
    try:
        import pynvml

        return Gpu(pynvml, pynvml.nvmlDeviceGetHandleByPciBusId(bus_id))
    except Exception:  # noqa: BLE001 - as in start
        return None


class Gpu:
    """One GPU. Every reading is None where the GPU or its driver doesn't give it."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        """``nvml``: the module ``pynvml``. ``handle``: its own of the device."""
        self._nvml = nvml
        self._handle = handle

    def _read(self, ask: Callable[[Any, Any], T]) -> Optional[T]:
        try:
            return ask(self._nvml, self._handle)
        except Exception:  # noqa: BLE001 - a function that this driver or package lacks
            return None

    def process_bytes(self) -> Optional[int]:
        """The memory of this process; None in a container that has process ids of its own."""
        own = os.getpid()
        processes = self._read(lambda nvml, gpu: nvml.nvmlDeviceGetComputeRunningProcesses(gpu))
        used = [each.usedGpuMemory for each in processes or () if each.pid == own]
        return int(used[0]) if used and used[0] is not None else None

    def clock_mhz(self) -> Optional[int]:
        """The clock of the multiprocessors now."""
        return self._read(
            lambda nvml, gpu: int(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM))
        )

    def held_down(self) -> tuple[str, ...]:
        """Why the clocks are lower now than they could be; empty: they aren't, or it isn't told."""
        bits = self._read(lambda nvml, gpu: int(nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)))
        if bits is None:  # an older driver or package
            bits = self._read(
                lambda nvml, gpu: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))
            )
        return tuple(name for bit, name in REASONS.items() if (bits or 0) & bit)

    def energy_mj(self) -> Optional[int]:
        """Millijoules since the driver was loaded (Volta and later)."""
        return self._read(lambda nvml, gpu: int(nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)))

    def counts_energy(self) -> bool:
        """Whether the counter is this device's alone: a part of a GPU (MIG) has none of its own."""
        mode = self._read(lambda nvml, gpu: nvml.nvmlDeviceGetMigMode(gpu)[0])
        return not mode and self.energy_mj() is not None
