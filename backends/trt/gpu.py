"""The GPU that an engine is built for: one that is here, or one that is known by its number."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from backends.trt import cuda, targets
from backends.trt.library import Library, version_of
from backends.trt.log import AHEAD, NO_DRIVER
from harness.errors import UnavailableError
from harness.types import Device, Probe

_UPDATE = (
    "update the NVIDIA driver, or install the TensorRT that is made for its CUDA: "
    "pip install tensorrt-cu12"
)


@dataclass(frozen=True)
class Place:
    """Where an engine will run.

    index: of a GPU that is here, None for one elsewhere. gpu: its name and compute capability, or
    the latter alone. driver: this host's, if the GPU is here.
    """

    compute_capability: str
    index: Optional[int] = None
    gpu: str = ""
    driver: Optional[str] = None

    @contextmanager
    def current(self) -> Iterator[Optional[Uploads]]:
        """Make the GPU the current one, if it is here, and hand out its memory (None if not)."""
        if self.index is None:
            yield None
            return
        device = cuda.load().open(self.index)
        try:
            yield Uploads(device)
        finally:
            device.close()


class Uploads:
    """Memory of a GPU that holds the last array of each name."""

    def __init__(self, device: cuda.Device) -> None:
        self._device = device
        self._held: dict[str, tuple[int, int]] = {}

    def upload(self, name: str, array: np.ndarray[Any, Any]) -> int:
        """Copy a contiguous array there; its address, which is kept where the memory suffices."""
        address, size = self._held.get(name, (0, -1))
        if size < array.nbytes:
            if size >= 0:
                self._device.free(address)
            address = self._device.allocate(array.nbytes)
            self._held[name] = (address, array.nbytes)
        self._device.upload(address, array)
        return address


def place(device: str, compute_capability: Optional[str]) -> Place:
    """The GPU to build for.

    Raises:
        UnavailableError: it should be here, and isn't.
    """
    if compute_capability is not None:
        major, minor = targets.parsed(compute_capability)
        return Place(f"{major}.{minor}", gpu=f"{major}.{minor}")
    index = index_of(device)
    try:
        gpus = cuda.gpus()
    except UnavailableError as error:
        raise UnavailableError(str(error), _fix(error)) from error
    found = next((gpu for gpu in gpus if gpu.index == index), None)
    if found is None:
        there = ", ".join(f"gpu:{gpu.index}" for gpu in gpus) or "none"
        raise UnavailableError(f"{device}: there is no such GPU here (there are: {there})", AHEAD)
    name = f"{found.name} {found.compute_capability}"
    return Place(found.compute_capability, index, name, driver_version())


def probe(name: str, library: Library) -> Probe:
    """The GPUs that the library can use here, or what is missing. Never raises."""
    versions = [(library.name, library.version)]
    driver = driver_version()
    versions += [("driver", driver)] if driver else []
    try:
        gpus = cuda.gpus()
        api = cuda.driver_version()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the answer
        there = "" if driver is None else f" (driver {driver}, {library})"
        return Probe(name, tuple(versions), (), f"{error}{there}", _fix(error))
    versions.append(("cuda", api))
    problem = too_old(library, driver, api)
    if problem:
        return Probe(name, tuple(versions), (), problem, _UPDATE)
    if not gpus:
        return Probe(name, tuple(versions), (), "the NVIDIA driver sees no GPU", NO_DRIVER)
    return Probe(name, tuple(versions), tuple(map(_device, gpus)))


def too_old(library: Library, driver: Optional[str], api: str) -> Optional[str]:
    """Why the driver can't serve the library: CUDA's major version has to be the driver's, or less.

    api: the CUDA version that the driver offers (``12.8``).
    """
    needed = cuda_major(library.name)
    if needed is None or version_of(api)[0] >= needed:
        return None
    return (
        f"{library} is made for CUDA {needed}, and the NVIDIA driver {driver or 'here'} offers "
        f"CUDA {api} only"
    )


def cuda_major(name: str) -> Optional[int]:
    """The CUDA that a library's packages are made for, by their names (``tensorrt_cu12``)."""
    for major in (13, 12):
        for part in ("libs", "bindings"):
            try:
                importlib.metadata.version(f"{name}_cu{major}_{part}")
            except importlib.metadata.PackageNotFoundError:
                continue
            return major
    return None


def driver_version() -> Optional[str]:
    """The NVIDIA driver's version (``580.65.06``), from the kernel's module; None without one."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"Kernel Module[^\d\n]*(?:x86_64|aarch64)?\s+(\d+\.\d+(?:\.\d+)?)", text)
    return found[1] if found else None


def _fix(error: Exception) -> str:
    """The next command; without a driver there is more than one."""
    fix = getattr(error, "fix", None)
    return NO_DRIVER if fix is None or fix == cuda.DRIVER else str(fix)


def _device(gpu: cuda.Gpu) -> Device:
    able = targets.precisions(gpu.compute_capability)
    return Device(f"gpu:{gpu.index}", f"{gpu.name} ({gpu.compute_capability})", able)


def index_of(device: str) -> int:
    """0 of ``gpu:0`` and of ``gpu``.

    Raises:
        UnavailableError: it isn't a GPU's name.
    """
    kind, _, number = device.partition(":")
    if kind != "gpu" or not (number or "0").isdecimal():
        raise UnavailableError(f"{device}: TensorRT runs on GPUs only: gpu:0, gpu:1 ...")
    return int(number or "0")
