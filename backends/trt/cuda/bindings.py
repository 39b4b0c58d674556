"""NVIDIA's own bindings of the driver, ``cuda.bindings.driver``."""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from typing import Any

import numpy as np

from backends.trt.cuda import CURRENT, Action, Device, Gpu, fault, no_driver, version_text
from harness.errors import OutOfMemoryError, UnavailableError
from harness.types import Array

_NAME_BYTES = 256
_NS_PER_MS = 1e6


class Bindings:
    """The driver, started. Raises ModuleNotFoundError without the package."""

    name = "cuda"

    def __init__(self) -> None:
        from cuda.bindings import driver

        self._driver = driver
        try:
            result = driver.cuInit(0)
        except RuntimeError as error:  # the package looks for libcuda at the first call
            raise no_driver(error) from error
        self._checked(result, "cuInit")

    def driver_version(self) -> str:
        """See :class:`backends.trt.cuda.Cuda`."""
        driver = self._driver
        return version_text(self._checked(driver.cuDriverGetVersion(), "cuDriverGetVersion"))

    def gpus(self) -> tuple[Gpu, ...]:
        """See :class:`backends.trt.cuda.Cuda`."""
        driver = self._driver
        count = self._checked(driver.cuDeviceGetCount(), "cuDeviceGetCount")
        return tuple(self._gpu(index) for index in range(count))

    def open(self, index: int) -> Device:
        """See :class:`backends.trt.cuda.Cuda`."""
        driver = self._driver
        count = self._checked(driver.cuDeviceGetCount(), "cuDeviceGetCount")
        if index not in range(count):
            raise UnavailableError(f"gpu:{index}: no such GPU; the driver sees {count}")
        return BindingsDevice(driver, self._checked(driver.cuDeviceGet(index), "cuDeviceGet"))

    def _gpu(self, index: int) -> Gpu:
        driver, checked = self._driver, self._checked
        device = checked(driver.cuDeviceGet(index), "cuDeviceGet")
        raw = checked(driver.cuDeviceGetName(_NAME_BYTES, device), "cuDeviceGetName")
        kinds = driver.CUdevice_attribute
        major, minor = (
            checked(driver.cuDeviceGetAttribute(kind, device), "cuDeviceGetAttribute")
            for kind in (
                kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        memory = checked(driver.cuDeviceTotalMem(device), "cuDeviceTotalMem")
        name = raw.partition(b"\0")[0].decode(errors="replace")
        return Gpu(index, name, f"{major}.{minor}", int(memory))

    def _checked(self, result: Any, call: str) -> Any:
        return checked(self._driver, result, call)


class BindingsDevice:
    """A device by ``cuda.bindings``; see :class:`backends.trt.cuda.Device`."""

    captures = True

    def __init__(self, driver: Any, number: Any) -> None:
        self._driver = driver
        self._number = number
        self._context = self._call("cuDevicePrimaryCtxRetain", number)
        self._open = True
        self._addresses: set[int] = set()
        self._made: list[Any] = []
        self._pinned_blocks = 0
        try:
            self.activate()
        except Exception:
            self.close()
            raise

    def activate(self) -> None:
        """See :class:`backends.trt.cuda.Device`."""
        if CURRENT.device is not self:
            self._call("cuCtxSetCurrent", self._context)
            CURRENT.device = self

    # -- memory -------------------------------------------------------------------------------

    def allocate(self, size_bytes: int) -> int:
        """See :class:`backends.trt.cuda.Device`; no address is null, even of nothing."""
        try:
            address = int(self._call("cuMemAlloc", max(1, size_bytes)))
        except OutOfMemoryError as error:
            free, total = self.memory()
            raise OutOfMemoryError(
                f"{error}: {size_bytes} bytes were asked, {free} of {total} are free", error.fix
            ) from error
        self._addresses.add(address)
        return address

    def free(self, address: int) -> None:
        """See :class:`backends.trt.cuda.Device`."""
        self._addresses.remove(address)
        self._call("cuMemFree", address)

    def pinned(self, size_bytes: int) -> Array:
        """See :class:`backends.trt.cuda.Device`."""
        address = int(self._call("cuMemAllocHost", max(1, size_bytes)))
        block = (ctypes.c_uint8 * size_bytes).from_address(address)
        self._pinned_blocks += 1
        # outputs may be looked at when the session is long closed: the memory lives as they do
        weakref.finalize(block, self._unpin, address).atexit = False
        return np.ctypeslib.as_array(block)

    def upload(self, address: int, array: Array) -> None:
        """See :class:`backends.trt.cuda.Device`."""
        if array.nbytes:
            self._call("cuMemcpyHtoD", address, array.ctypes.data, array.nbytes)
            self._call("cuCtxSynchronize")  # pageable memory is but staged by then

    def to_device(self, address: int, array: Array, stream: Any) -> Action:
        """See :class:`backends.trt.cuda.Device`."""
        target = self._driver.CUdeviceptr(address)
        return self._copy("cuMemcpyHtoDAsync", target, array.ctypes.data, array, stream)

    def to_host(self, array: Array, address: int, stream: Any) -> Action:
        """See :class:`backends.trt.cuda.Device`."""
        source = self._driver.CUdeviceptr(address)
        return self._copy("cuMemcpyDtoHAsync", array.ctypes.data, source, array, stream)

    def memory(self) -> tuple[int, int]:
        """See :class:`backends.trt.cuda.Device`."""
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    # -- streams, events, graphs --------------------------------------------------------------

    def stream(self) -> Any:
        """See :class:`backends.trt.cuda.Device`."""
        flag = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        return self._keep(self._call("cuStreamCreate", flag))

    def handle(self, stream: Any) -> int:
        """See :class:`backends.trt.cuda.Device`."""
        return int(stream)

    def synchronize(self, stream: Any) -> None:
        """See :class:`backends.trt.cuda.Device`."""
        (status,) = self._driver.cuStreamSynchronize(stream)
        if status:
            raise self._fault("cuStreamSynchronize", status)

    def event(self, *, timed: bool) -> Any:
        """See :class:`backends.trt.cuda.Device`."""
        flags = self._driver.CUevent_flags
        flag = flags.CU_EVENT_DEFAULT if timed else flags.CU_EVENT_DISABLE_TIMING
        return self._keep(self._call("cuEventCreate", flag))

    def record(self, event: Any, stream: Any) -> None:
        """See :class:`backends.trt.cuda.Device`."""
        (status,) = self._driver.cuEventRecord(event, stream)
        if status:
            raise self._fault("cuEventRecord", status)

    def done(self, event: Any) -> bool:
        """See :class:`backends.trt.cuda.Device`."""
        (status,) = self._driver.cuEventQuery(event)
        if status == self._driver.CUresult.CUDA_ERROR_NOT_READY:
            return False
        if status:
            raise self._fault("cuEventQuery", status)
        return True

    def elapsed_ns(self, first: Any, last: Any) -> int:
        """See :class:`backends.trt.cuda.Device`."""
        milliseconds: float = self._call("cuEventElapsedTime", first, last)
        return round(milliseconds * _NS_PER_MS)

    def capture(self, stream: Any, enqueue: Action) -> Any:
        """See :class:`backends.trt.cuda.Device`. Other threads aren't disturbed, nor disturb it."""
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)
        try:
            enqueue()
        except Exception:
            _, graph = self._driver.cuStreamEndCapture(stream)  # a broken capture has no graph
            if graph is not None and int(graph):
                self._call("cuGraphDestroy", graph)
            raise
        graph = self._call("cuStreamEndCapture", stream)
        try:
            return self._keep(self._call("cuGraphInstantiate", graph, 0))
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        """See :class:`backends.trt.cuda.Device`."""
        (status,) = self._driver.cuGraphLaunch(graph, stream)
        if status:
            raise self._fault("cuGraphLaunch", status)

    def destroy(self, graph: Any) -> None:
        """See :class:`backends.trt.cuda.Device`."""
        self._made.remove(graph)
        self._call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        """See :class:`backends.trt.cuda.Device`."""
        if not self._open:
            return
        with contextlib.suppress(Exception):  # after a fault of the device every call fails
            self.activate()
        ends = {
            self._driver.CUgraphExec: self._driver.cuGraphExecDestroy,
            self._driver.CUevent: self._driver.cuEventDestroy,
            self._driver.CUstream: self._driver.cuStreamDestroy,
        }
        for thing in reversed(self._made):
            ends[type(thing)](thing)
        for address in self._addresses:
            self._driver.cuMemFree(address)
        self._made, self._addresses = [], set()
        self._open = False
        self._release()

    # -- inside -------------------------------------------------------------------------------

    def _copy(self, call: str, target: Any, source: Any, array: Array, stream: Any) -> Action:
        if not array.nbytes:
            return _nothing
        queue, size = getattr(self._driver, call), array.nbytes

        def copy(_: Array = array) -> None:  # which keeps the memory
            (status,) = queue(target, source, size, stream)
            if status:
                raise self._fault(call, status)

        return copy

    def _unpin(self, address: int) -> None:
        with contextlib.suppress(Exception):
            self.activate()
        self._driver.cuMemFreeHost(address)
        self._pinned_blocks -= 1
        self._release()

    def _release(self) -> None:
        """Leave the context, which is the driver's, when nothing of ours is in it."""
        if self._open or self._pinned_blocks:
            return
        if CURRENT.device is self:
            CURRENT.device = None
        self._driver.cuDevicePrimaryCtxRelease(self._number)

    def _keep(self, made: Any) -> Any:
        self._made.append(made)
        return made

    def _call(self, call: str, *arguments: Any) -> Any:
        return checked(self._driver, getattr(self._driver, call)(*arguments), call)

    def _fault(self, call: str, status: Any) -> Exception:
        return fault(call, _name(status), _text(self._driver, status))


def checked(driver: Any, result: Any, call: str) -> Any:
    """What a call returned beside its status: nothing, a value, or a tuple. Raises the fault."""
    status, *values = result
    if status:
        raise fault(call, _name(status), _text(driver, status))
    return values[0] if len(values) == 1 else tuple(values)


def _name(status: Any) -> str:
    return str(getattr(status, "name", status))


def _text(driver: Any, status: Any) -> str:
    failed, text = driver.cuGetErrorString(status)
    return "" if failed or text is None else str(text.decode(errors="replace"))


def _nothing() -> None:
    """A copy of nothing."""
