"""A driver without a GPU: ``cuda.bindings.driver`` as far as the adapter calls it.

Functions answer as NVIDIA's do, with tuples. Memory of the device is the host's, so that pointers
are real; it is filled with rubbish when it is made and when it is freed. Streams are lazy: nothing
happens until somebody waits or asks, and then in order, by a clock of their own. So what is read
too early is rubbish, and what is overwritten too early is copied wrong.
"""

# ruff: noqa: N802, N818 - names are NVIDIA's, and faults are what CUDA answers

from __future__ import annotations

import ctypes
import itertools
import sys
import threading
import types
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Callable

RUBBISH = 0xDD
COPY_NS_PER_BYTE = 1
LAUNCH_NS = 1000


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NOT_INITIALIZED = 3
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_DEVICE = 101
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_INVALID_HANDLE = 400
    CUDA_ERROR_NOT_READY = 600
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 803
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class CUstream_flags(IntEnum):  # noqa: N801
    CU_STREAM_NON_BLOCKING = 1


class CUevent_flags(IntEnum):  # noqa: N801
    CU_EVENT_DEFAULT = 0
    CU_EVENT_DISABLE_TIMING = 2


class CUstreamCaptureMode(IntEnum):
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


class CUdevice_attribute(IntEnum):  # noqa: N801
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


class Handle:
    def __init__(self, number: int) -> None:
        self.number = number

    def __int__(self) -> int:
        return self.number


class CUdeviceptr(Handle):
    pass


class CUcontext(Handle):
    pass


@dataclass(frozen=True)
class Op:
    """Work of a stream. what: raises Fault for a sticky error."""

    what: Callable[[], None]
    takes_ns: int = LAUNCH_NS


class CUstream(Handle):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.ops: list[Op] = []
        self.captured: list[Op] | None = None
        self.broken = False
        self.stalled = False


class CUevent(Handle):
    def __init__(self, number: int, flag: int) -> None:
        super().__init__(number)
        self.timed = flag != CUevent_flags.CU_EVENT_DISABLE_TIMING
        self.stream: CUstream | None = None
        self.at_ns: int | None = None


class CUgraph(Handle):
    def __init__(self, number: int, ops: list[Op]) -> None:
        super().__init__(number)
        self.ops = ops


class CUgraphExec(CUgraph):
    pass


class Fault(Exception):
    def __init__(self, status: CUresult) -> None:
        super().__init__(status.name)
        self.status = status


@dataclass(frozen=True)
class FakeGpu:
    name: str = "Fake GPU"
    capability: tuple[int, int] = (8, 9)
    memory_bytes: int = 1 << 30


@dataclass
class FakeDriver:
    """The functions of the module, and what happened.

    fails: the status that a function answers from now on, by its name.
    """

    gpus: list[FakeGpu] = field(default_factory=lambda: [FakeGpu()])
    fails: dict[str, CUresult] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    device: dict[int, Any] = field(default_factory=dict)
    pinned: dict[int, Any] = field(default_factory=dict)
    streams: list[CUstream] = field(default_factory=list)
    things: list[Handle] = field(default_factory=list)
    retained: dict[int, int] = field(default_factory=dict)
    clock_ns: int = 0
    sticky: CUresult = CUresult.CUDA_SUCCESS

    def __post_init__(self) -> None:
        self._current = threading.local()
        self._numbers = itertools.count(1)
        self._started = False
        self._freed: list[Any] = []
        self._staged: list[Callable[[], None]] = []
        self._lock = threading.RLock()

    # -- for tests and for the fake of TensorRT ---------------------------------------------

    def leaks(self) -> dict[str, int]:
        """What is left of each kind."""
        left = {
            "device": len(self.device),
            "pinned": len(self.pinned),
            "streams": len(self.streams),
            "things": len(self.things),
            "contexts": sum(self.retained.values()),
        }
        return {kind: count for kind, count in left.items() if count}

    def bytes_at(self, address: int, size: int, *, pinned: bool = False) -> Any:
        """A view of live memory, which faults for any other."""
        for start, block in (self.pinned if pinned else self.device).items():
            if start <= address and address + size <= start + len(block):
                return memoryview(block).cast("B")[address - start : address - start + size]
        raise Fault(CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)

    def queue(self, stream: int, op: Op) -> None:
        """Give a stream work, as TensorRT does; ``capturing`` says whether it is run."""
        with self._lock:
            self._queue(self._stream(stream), op)

    def capturing(self, stream: int) -> bool:
        return self._stream(stream).captured is not None

    def drain(self, stream: int) -> None:
        """Wait for a stream."""
        with self._lock:
            self._drain(self._stream(stream))

    def module(self) -> types.ModuleType:
        """This as ``cuda.bindings.driver``."""
        made = types.ModuleType("cuda.bindings.driver")
        for name, value in globals().items():
            if name.startswith("CU"):
                setattr(made, name, value)
        for name in dir(self):
            if name.startswith("cu") and name[2].isupper():
                setattr(made, name, self._function(name))
        return made

    def install(self, patch: Any) -> None:
        """Stand in for the real package, by pytest's monkeypatch."""
        package, bindings = types.ModuleType("cuda"), types.ModuleType("cuda.bindings")
        bindings.driver = package.driver = self.module()  # type: ignore[attr-defined]
        package.bindings = bindings  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "cuda", package)
        patch.setitem(sys.modules, "cuda.bindings", bindings)
        patch.setitem(sys.modules, "cuda.bindings.driver", bindings.driver)

    def _function(self, name: str) -> Callable[..., tuple[Any, ...]]:
        plain = getattr(self, name)

        def function(*arguments: Any) -> tuple[Any, ...]:
            with self._lock:
                return answer(*arguments)

        def answer(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            fault = self.fails.get(name) or self._refusal(name)
            if not fault:
                try:
                    value = plain(*arguments)
                except Fault as error:
                    fault = error.status
            if fault:
                return (fault,) if name in SILENT else (fault, None)
            if value is None:
                return (CUresult.CUDA_SUCCESS,)
            return (CUresult.CUDA_SUCCESS, *(value if isinstance(value, tuple) else (value,)))

        return function

    def _refusal(self, name: str) -> CUresult:
        """Why the thread or the device can't do it at all."""
        if not self._started and name not in {"cuInit", "cuGetErrorString"}:
            return CUresult.CUDA_ERROR_NOT_INITIALIZED
        if name in FREE:
            return CUresult.CUDA_SUCCESS
        if getattr(self._current, "context", None) is None:
            return CUresult.CUDA_ERROR_INVALID_CONTEXT
        return self.sticky

    @property
    def current_gpu(self) -> FakeGpu:
        """The one whose context is the thread's."""
        return self.gpus[int(self._current.context)]

    # -- the driver ---------------------------------------------------------------------------

    def cuInit(self, flags: int) -> None:
        assert flags == 0
        if not self.gpus:
            raise Fault(CUresult.CUDA_ERROR_NO_DEVICE)
        self._started = True

    def cuGetErrorString(self, status: CUresult) -> bytes:
        return f"text of {status.name}".encode()

    def cuDriverGetVersion(self) -> int:
        return 12080

    def cuDeviceGetCount(self) -> int:
        return len(self.gpus)

    def cuDeviceGet(self, index: int) -> int:
        if index >= len(self.gpus):
            raise Fault(CUresult.CUDA_ERROR_INVALID_DEVICE)
        return index

    def cuDeviceGetName(self, length: int, number: int) -> bytes:
        return self.gpus[number].name.encode().ljust(length, b"\0")

    def cuDeviceGetAttribute(self, kind: CUdevice_attribute, number: int) -> int:
        is_minor = kind is CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        return self.gpus[number].capability[is_minor]

    def cuDeviceTotalMem(self, number: int) -> int:
        return self.gpus[number].memory_bytes

    def cuDevicePrimaryCtxRetain(self, number: int) -> CUcontext:
        self.retained[number] = self.retained.get(number, 0) + 1
        return CUcontext(number)

    def cuDevicePrimaryCtxRelease(self, number: int) -> None:
        assert self.retained[number] > 0, "a context is released more often than it was retained"
        self.retained[number] -= 1
        if self.sticky:  # nothing can be freed any more: it ends with its context
            for kept in (self.device, self.pinned, self.streams, self.things):
                kept.clear()
        elif not any(self.retained.values()):
            left = self.leaks()
            assert not left, f"the context ends, and so does what is left in it: {left}"

    def cuCtxSetCurrent(self, context: CUcontext) -> None:
        assert self.retained[int(context)], "a context that has ended is made current"
        self._current.context = context

    def cuMemAlloc(self, size: int) -> CUdeviceptr:
        self._no_capture()
        if size <= 0:
            raise Fault(CUresult.CUDA_ERROR_INVALID_VALUE)
        if size > self.cuMemGetInfo()[0]:
            raise Fault(CUresult.CUDA_ERROR_OUT_OF_MEMORY)
        return CUdeviceptr(self._allocate(self.device, size))

    def cuMemFree(self, address: Any) -> None:
        self._no_capture()
        for stream in self.streams:  # as CUDA does
            self._drain(stream)
        self._free(self.device, int(address))

    def cuMemAllocHost(self, size: int) -> int:
        self._no_capture()
        if size <= 0:
            raise Fault(CUresult.CUDA_ERROR_INVALID_VALUE)
        return self._allocate(self.pinned, size)

    def cuMemFreeHost(self, address: int) -> None:
        self._free(self.pinned, address)

    def cuMemGetInfo(self) -> tuple[int, int]:
        total = self.current_gpu.memory_bytes
        return total - sum(len(block) for block in self.device.values()), total

    def cuMemcpyHtoD(self, target: Any, source: int, size: int) -> None:
        """From pageable memory: what was staged may arrive later."""
        there, data = self.bytes_at(int(target), size), ctypes.string_at(source, size)
        self._staged.append(lambda: there.__setitem__(slice(None), data))

    def cuCtxSynchronize(self) -> None:
        for stream in self.streams:
            self._drain(stream)
        while self._staged:
            self._staged.pop(0)()

    def cuMemcpyHtoDAsync(self, target: Any, source: int, size: int, stream: Any) -> None:
        self._copy(stream, size, (int(target), False), (int(source), True))

    def cuMemcpyDtoHAsync(self, target: int, source: Any, size: int, stream: Any) -> None:
        self._copy(stream, size, (int(target), True), (int(source), False))

    def cuStreamCreate(self, flags: int) -> CUstream:
        assert flags == CUstream_flags.CU_STREAM_NON_BLOCKING
        self.streams.append(CUstream(next(self._numbers)))
        return self.streams[-1]

    def cuStreamDestroy(self, stream: CUstream) -> None:
        self._drain(stream)
        self.streams.remove(stream)

    def cuStreamSynchronize(self, stream: CUstream) -> None:
        self._drain(self._stream(int(stream)))
        if self.sticky:
            raise Fault(self.sticky)

    def cuEventCreate(self, flags: int) -> CUevent:
        return self._thing(CUevent(next(self._numbers), flags))

    def cuEventDestroy(self, event: CUevent) -> None:
        self.things.remove(event)

    def cuEventRecord(self, event: CUevent, stream: CUstream) -> None:
        event.stream, event.at_ns = stream, None

        def mark() -> None:
            event.at_ns = self.clock_ns

        self._queue(stream, Op(mark, 0))

    def cuEventQuery(self, event: CUevent) -> None:
        assert event.stream is not None, "an event is asked that was never recorded"
        if event.at_ns is None:
            self._step(event.stream)
        if self.sticky:
            raise Fault(self.sticky)
        if event.at_ns is None:
            raise Fault(CUresult.CUDA_ERROR_NOT_READY)

    def cuEventElapsedTime(self, first: CUevent, last: CUevent) -> float:
        if not (first.timed and last.timed):
            raise Fault(CUresult.CUDA_ERROR_INVALID_HANDLE)
        if first.at_ns is None or last.at_ns is None:
            raise Fault(CUresult.CUDA_ERROR_NOT_READY)
        return (last.at_ns - first.at_ns) / 1e6

    def cuStreamBeginCapture(self, stream: CUstream, mode: CUstreamCaptureMode) -> None:
        assert mode == CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        stream.captured, stream.broken = [], False

    def cuStreamEndCapture(self, stream: CUstream) -> CUgraph:
        ops, stream.captured = stream.captured, None
        if stream.broken or ops is None:
            raise Fault(CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
        return self._thing(CUgraph(next(self._numbers), ops))

    def cuGraphInstantiate(self, graph: CUgraph, flags: int) -> CUgraphExec:
        assert flags == 0
        return self._thing(CUgraphExec(next(self._numbers), graph.ops))

    def cuGraphDestroy(self, graph: CUgraph) -> None:
        self.things.remove(graph)

    def cuGraphExecDestroy(self, graph: CUgraphExec) -> None:
        self.things.remove(graph)

    def cuGraphLaunch(self, graph: CUgraphExec, stream: CUstream) -> None:
        assert graph in self.things, "a graph is launched that has ended"
        for op in graph.ops:
            self._queue(stream, op)

    # -- inside -------------------------------------------------------------------------------

    def _thing(self, made: Any) -> Any:
        self.things.append(made)
        return made

    def _allocate(self, blocks: dict[int, Any], size: int) -> int:
        block = (ctypes.c_ubyte * size)()
        ctypes.memset(block, RUBBISH, size)
        blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def _free(self, blocks: dict[int, Any], address: int) -> None:
        assert address in blocks, "memory is freed that isn't held"
        block = blocks.pop(address)
        ctypes.memset(block, RUBBISH, len(block))
        self._freed.append(block)  # its address is never given again

    def _stream(self, number: int) -> CUstream:
        found = [stream for stream in self.streams if int(stream) == number]
        assert found, "a stream is used that has ended"
        return found[0]

    def _no_capture(self) -> None:
        for stream in self.streams:
            if stream.captured is not None:
                stream.broken = True
                raise Fault(CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)

    def _copy(
        self, stream: CUstream, size: int, target: tuple[int, bool], source: tuple[int, bool]
    ) -> None:
        for address, pinned in (target, source):
            try:
                self.bytes_at(address, size, pinned=pinned)
            except Fault:
                raise Fault(CUresult.CUDA_ERROR_INVALID_VALUE) from None

        def copy() -> None:
            data = bytes(self.bytes_at(source[0], size, pinned=source[1]))
            self.bytes_at(target[0], size, pinned=target[1])[:] = data

        self._queue(stream, Op(copy, size * COPY_NS_PER_BYTE))

    def _queue(self, stream: CUstream, op: Op) -> None:
        (stream.ops if stream.captured is None else stream.captured).append(op)

    def _drain(self, stream: CUstream) -> None:
        if stream.captured is not None:
            stream.broken = True
            raise Fault(CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
        while stream.ops:
            self._step(stream, waiting=True)

    def _step(self, stream: CUstream, *, waiting: bool = False) -> None:
        """The next piece of a stream's work; a stalled one goes on only when it is waited for."""
        if not stream.ops or (stream.stalled and not waiting):
            return
        op = stream.ops.pop(0)
        self.clock_ns += op.takes_ns
        try:
            if not self.sticky:
                op.what()
        except Fault as fault:
            self.sticky = fault.status


FREE = {
    "cuInit", "cuGetErrorString", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet",
    "cuDeviceGetName", "cuDeviceGetAttribute", "cuDeviceTotalMem", "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease", "cuCtxSetCurrent",
}  # fmt: skip
"""What works without a current context."""

SILENT = {
    "cuInit", "cuDevicePrimaryCtxRelease", "cuCtxSetCurrent", "cuMemFree", "cuMemFreeHost",
    "cuMemcpyHtoD", "cuCtxSynchronize", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuStreamDestroy",
    "cuStreamSynchronize", "cuEventDestroy", "cuEventRecord", "cuEventQuery",
    "cuStreamBeginCapture", "cuGraphDestroy", "cuGraphExecDestroy", "cuGraphLaunch",
}  # fmt: skip
"""What returns a status alone."""
