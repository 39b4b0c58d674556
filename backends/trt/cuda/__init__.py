"""The memory, streams and clocks of a GPU: one small interface over whichever library is there.

``cuda.bindings`` (NVIDIA's own, :mod:`backends.trt.cuda.bindings`) or ``pycuda``
(:mod:`backends.trt.cuda.pycuda_`), which can't capture graphs. Both work in the device's primary
context, which is the one that TensorRT uses.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Callable, Optional, Protocol

from harness.errors import BackendError, OutOfMemoryError, UnavailableError
from harness.types import Array

Action = Callable[[], None]

NAMES = ("cuda", "pycuda")
"""The libraries, in the order in which they are looked for."""

INSTALL = {
    "cuda": 'pip install "cuda-bindings>=12.6"',
    "pycuda": 'pip install "pycuda>=2024.1"',
}
DRIVER = "install the NVIDIA driver: nvidia-smi must list the GPU"
UPDATE = "update the NVIDIA driver"
SMALLER = "take a smaller batch or fewer inferences in flight, or stop what else uses the GPU"

_MISSING = {
    "CUDA_ERROR_NO_DEVICE": ("the NVIDIA driver sees no GPU", DRIVER),
    "CUDA_ERROR_STUB_LIBRARY": ("no NVIDIA driver on this host, only its stub", DRIVER),
    "CUDA_ERROR_INVALID_DEVICE": ("there is no such GPU", DRIVER),
    "CUDA_ERROR_DEVICE_UNAVAILABLE": ("the GPU is taken by another process", "nvidia-smi"),
    "CUDA_ERROR_SYSTEM_NOT_READY": ("the GPU isn't ready yet", "nvidia-smi"),
    "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER": ("the NVIDIA driver is too old", UPDATE),
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": ("parts of the NVIDIA driver differ in version", UPDATE),
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": ("the NVIDIA driver is too old", UPDATE),
}


@dataclass(frozen=True)
class Gpu:
    """A GPU that the driver lists. compute_capability: as ``8.9``."""

    index: int
    name: str
    compute_capability: str
    memory_bytes: int


class Device(Protocol):
    """A GPU in use. Streams, events and graphs are objects of the library's own.

    Everything that was made here ends at :meth:`close`; pinned memory when its last view does.
    """

    captures: bool
    """Whether :meth:`capture` works."""

    def activate(self) -> None:
        """Make the device the calling thread's; every other method wants that. Cheap if it is."""
        ...

    def allocate(self, size_bytes: int) -> int:
        """Memory on the device; its address. Raises OutOfMemoryError."""
        ...

    def free(self, address: int) -> None:
        """Give it back."""
        ...

    def pinned(self, size_bytes: int) -> Array:
        """Page-locked memory of the host, as bytes. Raises OutOfMemoryError."""
        ...

    def upload(self, address: int, array: Array) -> None:
        """Copy a contiguous array there, and wait."""
        ...

    def to_device(self, address: int, array: Array, stream: Any) -> Action:
        """What queues a copy of pinned memory to the device each time it is called."""
        ...

    def to_host(self, array: Array, address: int, stream: Any) -> Action:
        """What queues a copy back."""
        ...

    def stream(self) -> Any:
        """A stream that doesn't wait for the default one."""
        ...

    def handle(self, stream: Any) -> int:
        """The stream as TensorRT wants it."""
        ...

    def synchronize(self, stream: Any) -> None:
        """Wait until all that was queued is done. Raises what went wrong with it."""
        ...

    def event(self, *, timed: bool) -> Any:
        """A mark in a stream. Untimed ones are cheaper."""
        ...

    def record(self, event: Any, stream: Any) -> None:
        """Queue the mark."""
        ...

    def done(self, event: Any) -> bool:
        """Whether the stream got there."""
        ...

    def elapsed_ns(self, first: Any, last: Any) -> int:
        """Between two timed events that are done. Resolution: about 500 ns."""
        ...

    def capture(self, stream: Any, enqueue: Action) -> Any:
        """What ``enqueue`` queues in the stream, as a graph; nothing of it is run.

        Raises what ``enqueue`` raises, or BackendError for what can't be captured. The stream can
        be used again in any case.
        """
        ...

    def launch(self, graph: Any, stream: Any) -> None:
        """Queue a graph."""
        ...

    def destroy(self, graph: Any) -> None:
        """End a graph before the device is closed."""
        ...

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the device."""
        ...

    def close(self) -> None:
        """Free everything. Safe to call twice."""
        ...


class Cuda(Protocol):
    """A library that talks to the driver."""

    name: str

    def driver_version(self) -> str:
        """The CUDA version that the driver offers (``12.8``)."""
        ...

    def gpus(self) -> tuple[Gpu, ...]:
        """All that the driver lists."""
        ...

    def open(self, index: int) -> Device:
        """Use a GPU: it becomes the calling thread's. Raises UnavailableError."""
        ...


def load(name: Optional[str] = None) -> Cuda:
    """The library of that name; without one, the first of :data:`NAMES` that is installed.

    Raises:
        UnavailableError: there is none, or no driver.
    """
    if name is not None and name not in NAMES:
        raise UnavailableError(f"device library {name!r}: known are {' and '.join(NAMES)}")
    for each in (name,) if name is not None else NAMES:
        try:
            return _started(each)
        except ModuleNotFoundError as error:
            if name is not None or each == NAMES[-1]:
                what = f"{name} isn't" if name else "neither cuda-bindings nor pycuda is"
                raise UnavailableError(f"{what} installed", INSTALL[name or NAMES[0]]) from error
    raise AssertionError("unreachable: the last library either starts or raises")


def name_of(name: Optional[str] = None) -> str:
    """Of the library that :func:`load` gives here; the first of them where it gives none."""
    try:
        return load(name).name
    except BackendError:
        return name or NAMES[0]


def gpus() -> tuple[Gpu, ...]:
    """All GPUs that the driver lists. Raises UnavailableError without a driver."""
    return load().gpus()


def driver_version() -> str:
    """The CUDA version that the driver offers (``12.8``). Raises UnavailableError without one."""
    return load().driver_version()


def fault(call: str, name: str, text: str = "") -> BackendError:
    """The error that one of CUDA's stands for. name: CUDA's (``CUDA_ERROR_NO_DEVICE``)."""
    if name == "CUDA_ERROR_OUT_OF_MEMORY":
        return OutOfMemoryError(f"{call}: {name}", SMALLER)
    if name in _MISSING:
        what, fix = _MISSING[name]
        return UnavailableError(f"{what} ({name})", fix)
    return BackendError(f"{call}: {name}" + (f" ({text})" if text else ""))


def no_driver(error: Exception) -> UnavailableError:
    """What a library that finds no driver says."""
    return UnavailableError(f"no NVIDIA driver on this host ({error})", DRIVER)


def version_text(number: int) -> str:
    """12.8 of 12080."""
    return f"{number // 1000}.{number % 1000 // 10}"


class Current(threading.local):
    """Which device each thread works on, so that it is made current only when it changes."""

    device: Optional[object] = None


CURRENT = Current()


def _started(name: str) -> Cuda:
    if name == "cuda":
        from backends.trt.cuda.bindings import Bindings

        return Bindings()
    from backends.trt.cuda.pycuda_ import PyCuda

    return PyCuda()
