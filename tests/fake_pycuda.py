"""``pycuda.driver`` on the fake driver, as far as the adapter calls it."""

from __future__ import annotations

import sys
import types
from contextlib import suppress
from typing import Any, Callable, ClassVar

import numpy as np
from fake_cuda import CUresult, FakeDriver, Op


class Error(Exception):
    pass


class MemoryError(Error):  # noqa: A001 - pycuda's name
    pass


class OnDriver:
    call: ClassVar[Callable[..., Any]]
    fake: ClassVar[FakeDriver]


class Allocation(OnDriver):
    def __init__(self, size: int) -> None:
        self.address = int(self.call("cuMemAlloc", size))

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self.call("cuMemFree", self.address)


class Context(OnDriver):
    stack: ClassVar[list[Any]] = []

    def __init__(self, number: int) -> None:
        self.number = number
        self.raw = self.call("cuDevicePrimaryCtxRetain", number)

    def push(self) -> None:
        self.stack.append(self)
        self.call("cuCtxSetCurrent", self.raw)

    @classmethod
    def pop(cls) -> None:
        cls.stack.pop()

    @classmethod
    def synchronize(cls) -> None:
        cls.call("cuCtxSynchronize")

    def detach(self) -> None:
        self.call("cuDevicePrimaryCtxRelease", self.number)


class Device(OnDriver):
    context: ClassVar[Any]

    def __init__(self, index: int) -> None:
        self.index, self.gpu = index, self.fake.gpus[index]

    @classmethod
    def count(cls) -> int:
        return cls.call("cuDeviceGetCount")

    def name(self) -> str:
        return self.gpu.name

    def compute_capability(self) -> tuple[int, int]:
        return self.gpu.capability

    def total_memory(self) -> int:
        return self.gpu.memory_bytes

    def retain_primary_context(self) -> Any:
        return self.context(self.index)


class Stream(OnDriver):
    def __init__(self, flags: int) -> None:
        self.raw = self.call("cuStreamCreate", flags)
        self.handle = int(self.raw)

    def synchronize(self) -> None:
        self.call("cuStreamSynchronize", self.raw)

    def __del__(self) -> None:
        with suppress(Error):  # where pycuda prints a warning
            self.call("cuStreamDestroy", self.raw)


class Event(OnDriver):
    def __init__(self, flags: int) -> None:
        self.raw = self.call("cuEventCreate", flags)

    def record(self, stream: Stream) -> None:
        self.call("cuEventRecord", self.raw, stream.raw)

    def query(self) -> bool:
        try:
            self.call("cuEventQuery", self.raw)
        except Error:
            return False
        return True

    def time_since(self, other: Event) -> float:
        return self.call("cuEventElapsedTime", other.raw, self.raw)

    def __del__(self) -> None:
        with suppress(Error):
            self.call("cuEventDestroy", self.raw)


class Copies(OnDriver):
    """What are functions of pycuda's module."""

    @classmethod
    def pagelocked_empty(cls, size: int, dtype: type) -> Any:
        block = cls.fake.pinned.pop(cls.call("cuMemAllocHost", size))  # it lives as its array does
        return np.ctypeslib.as_array(block).view(dtype)

    @classmethod
    def memcpy_htod(cls, target: int, source: Any) -> None:
        cls.call("cuMemcpyHtoD", target, source.ctypes.data, source.nbytes)

    @classmethod
    def memcpy_htod_async(cls, target: int, source: Any, stream: Stream) -> None:
        def copy() -> None:
            cls.fake.bytes_at(target, source.nbytes)[:] = source.tobytes()

        cls.fake.queue(stream.handle, Op(copy))

    @classmethod
    def memcpy_dtoh_async(cls, target: Any, source: int, stream: Stream) -> None:
        def copy() -> None:
            data = bytes(cls.fake.bytes_at(source, target.nbytes))
            target[...] = np.frombuffer(data, target.dtype).reshape(target.shape)

        cls.fake.queue(stream.handle, Op(copy))


def install(patch: Any, fake: FakeDriver) -> types.ModuleType:
    """Stand in for the real package, by pytest's monkeypatch; the module."""
    functions = fake.module()

    def call(name: str, *arguments: Any) -> Any:
        status, *values = getattr(functions, name)(*arguments)
        if status:
            kind = MemoryError if status == CUresult.CUDA_ERROR_OUT_OF_MEMORY else Error
            raise kind(f"{name} failed: {status.name}")
        return values[0] if len(values) == 1 else tuple(values)

    made = types.ModuleType("pycuda.driver")
    parts: dict[str, Any] = {"Error": Error, "MemoryError": MemoryError}
    for base in (Allocation, Context, Device, Stream, Event, Copies):
        parts[base.__name__] = type(
            base.__name__, (base,), {"call": staticmethod(call), "fake": fake, "stack": []}
        )
    parts["Device"].context = parts["Context"]
    parts |= {
        name: getattr(parts["Copies"], name) for name in vars(Copies) if not name.startswith("_")
    }
    parts["mem_alloc"] = parts["Allocation"]
    parts["event_flags"] = types.SimpleNamespace(DEFAULT=0, DISABLE_TIMING=2)
    parts["init"] = lambda: call("cuInit", 0)
    parts["get_driver_version"] = lambda: call("cuDriverGetVersion")
    parts["mem_get_info"] = lambda: call("cuMemGetInfo")
    vars(made).update(parts)
    package = types.ModuleType("pycuda")
    package.driver = made  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "pycuda", package)
    patch.setitem(sys.modules, "pycuda.driver", made)
    return made
