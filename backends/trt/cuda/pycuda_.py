"""``pycuda.driver``, for those who have it already. It captures no graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from backends.trt.cuda import CURRENT, SMALLER, Action, Device, Gpu, no_driver, version_text
from harness.errors import BackendError, OutOfMemoryError, UnavailableError
from harness.types import Array

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_NS_PER_MS = 1e6


class PyCuda:
    """The driver, started. Raises ModuleNotFoundError without the package."""

    name = "pycuda"

    def __init__(self) -> None:
        try:
            from pycuda import driver
        except ModuleNotFoundError:
            raise
        except ImportError as error:  # its extension is linked to libcuda
            raise no_driver(error) from error
        self._driver = driver
        try:
            driver.init()
        except driver.Error as error:
            raise no_driver(error) from error

    def driver_version(self) -> str:
        """See :class:`backends.trt.cuda.Cuda`."""
        return version_text(self._driver.get_driver_version())

    def gpus(self) -> tuple[Gpu, ...]:
        """See :class:`backends.trt.cuda.Cuda`."""
        with faults(self._driver):
            devices = [self._driver.Device(at) for at in range(self._driver.Device.count())]
            return tuple(_gpu(index, device) for index, device in enumerate(devices))

    def open(self, index: int) -> Device:
        """See :class:`backends.trt.cuda.Cuda`."""
        with faults(self._driver):
            count = self._driver.Device.count()
            if index not in range(count):
                raise UnavailableError(f"gpu:{index}: no such GPU; the driver sees {count}")
            return PyCudaDevice(self._driver, self._driver.Device(index))


class PyCudaDevice:
    """A device by ``pycuda``; see :class:`backends.trt.cuda.Device`."""

    captures = False

    def __init__(self, driver: Any, device: Any) -> None:
        self._driver = driver
        self._context: Any = device.retain_primary_context()
        self._held: dict[int, Any] = {}
        self.activate()

    def activate(self) -> None:
        """See :class:`backends.trt.cuda.Device`; pycuda has a stack of contexts per thread."""
        if CURRENT.device is not self:
            if isinstance(CURRENT.device, PyCudaDevice):
                self._driver.Context.pop()
            self._context.push()
            CURRENT.device = self

    def allocate(self, size_bytes: int) -> int:
        """See :class:`backends.trt.cuda.Device`; no address is null, even of nothing."""
        with faults(self._driver):
            allocation = self._driver.mem_alloc(max(1, size_bytes))
        self._held[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """See :class:`backends.trt.cuda.Device`."""
        self._held.pop(address).free()

    def pinned(self, size_bytes: int) -> Array:
        """See :class:`backends.trt.cuda.Device`; pycuda frees it with the last view."""
        with faults(self._driver):
            block: Array = self._driver.pagelocked_empty(max(1, size_bytes), np.uint8)
        return block[:size_bytes]

    def upload(self, address: int, array: Array) -> None:
        """See :class:`backends.trt.cuda.Device`."""
        if array.nbytes:
            with faults(self._driver):
                self._driver.memcpy_htod(address, array)
                self._driver.Context.synchronize()  # pageable memory is but staged by then

    def to_device(self, address: int, array: Array, stream: Any) -> Action:
        """See :class:`backends.trt.cuda.Device`."""

        def copy() -> None:
            if array.nbytes:
                with faults(self._driver):
                    self._driver.memcpy_htod_async(address, array, stream)

        return copy

    def to_host(self, array: Array, address: int, stream: Any) -> Action:
        """See :class:`backends.trt.cuda.Device`."""

        def copy() -> None:
            if array.nbytes:
                with faults(self._driver):
                    self._driver.memcpy_dtoh_async(array, address, stream)

        return copy

    def memory(self) -> tuple[int, int]:
        """See :class:`backends.trt.cuda.Device`."""
        free, total = self._driver.mem_get_info()
        return int(free), int(total)

    def stream(self) -> Any:
        """See :class:`backends.trt.cuda.Device`."""
        return self._driver.Stream(_NON_BLOCKING)

    def handle(self, stream: Any) -> int:
        """See :class:`backends.trt.cuda.Device`."""
        return int(stream.handle)

    def synchronize(self, stream: Any) -> None:
        """See :class:`backends.trt.cuda.Device`."""
        with faults(self._driver):
            stream.synchronize()

    def event(self, *, timed: bool) -> Any:
        """See :class:`backends.trt.cuda.Device`."""
        flags = self._driver.event_flags
        return self._driver.Event(flags.DEFAULT if timed else flags.DISABLE_TIMING)

    def record(self, event: Any, stream: Any) -> None:
        """See :class:`backends.trt.cuda.Device`."""
        event.record(stream)

    def done(self, event: Any) -> bool:
        """See :class:`backends.trt.cuda.Device`."""
        with faults(self._driver):
            return bool(event.query())

    def elapsed_ns(self, first: Any, last: Any) -> int:
        """See :class:`backends.trt.cuda.Device`."""
        milliseconds: float = last.time_since(first)
        return round(milliseconds * _NS_PER_MS)

    def capture(self, stream: Any, enqueue: Action) -> Any:  # noqa: ARG002
        """See :class:`backends.trt.cuda.Device`."""
        raise BackendError("pycuda captures no CUDA graphs")

    def launch(self, graph: Any, stream: Any) -> None:  # noqa: ARG002
        """There is no graph to launch."""
        raise BackendError("pycuda launches no CUDA graphs")

    def destroy(self, graph: Any) -> None:
        """There is no graph to end."""

    def close(self) -> None:
        """See :class:`backends.trt.cuda.Device`."""
        context, self._context = self._context, None
        if context is None:
            return
        enter = [] if CURRENT.device is self else [context.push]
        frees = [allocation.free for allocation in self._held.values()]
        for step in (*enter, *frees, self._driver.Context.pop, context.detach):
            with contextlib.suppress(self._driver.Error):  # after a fault of the device all fail
                step()
        self._held = {}
        CURRENT.device = None


@contextlib.contextmanager
def faults(driver: Any) -> Iterator[None]:
    """Turn pycuda's errors into ours."""
    try:
        yield
    except driver.MemoryError as error:
        raise OutOfMemoryError(str(error), SMALLER) from error
    except driver.Error as error:
        raise BackendError(str(error)) from error


def _gpu(index: int, device: Any) -> Gpu:
    major, minor = device.compute_capability()
    return Gpu(index, device.name(), f"{major}.{minor}", int(device.total_memory()))
