"""The memory of one input or output of an engine."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from backends.trt.cuda import Device
from backends.trt.library import Library
from backends.trt.ports import Port, Shape, sizes
from harness.errors import BackendError
from harness.types import Array


class Buffer:
    """Memory of one input or output: on the device, and pinned on the host. It only grows.

    address: on the device; 0 before the first use, and where TensorRT reads the host's.
    """

    def __init__(self, port: Port, device: Device) -> None:
        self.port = port
        self.address = 0
        self.view: Array = np.empty(0, port.dtype)
        self._device = device
        self._held_bytes = 0
        self._pinned: Array = np.empty(0, np.uint8)

    @property
    def device_bytes(self) -> int:
        """How much of the device's memory it takes."""
        return self._held_bytes

    def fit(self, shape: Shape) -> None:
        """Have room for a shape, on both sides."""
        if not self.port.on_host:
            self.hold(prod(shape) * self.port.dtype.itemsize)
        self.show(shape)

    def hold(self, size_bytes: int) -> int:
        """Have room on the device; the address."""
        if not self.address or size_bytes > self._held_bytes:
            if self.address:
                address, self.address = self.address, 0
                self._device.free(address)
            self.address = self._device.allocate(size_bytes)
            self._held_bytes = size_bytes
        return self.address

    def show(self, shape: Shape) -> None:
        """Have room on the host, seen as an array of this shape."""
        size_bytes = prod(shape) * self.port.dtype.itemsize
        if size_bytes > self._pinned.nbytes or not self._pinned.nbytes:
            self._pinned = self._device.pinned(max(1, size_bytes))
        self.view = self._pinned[:size_bytes].view(self.port.dtype).reshape(shape)

    @property
    def seen_by_tensorrt(self) -> int:
        """The address that TensorRT is told."""
        return int(self._pinned.ctypes.data) if self.port.on_host else self.address


def output_allocator(library: Library, buffer: Buffer) -> Any:
    """What gives TensorRT memory for an output once it knows how much; its base is the vendor's.

    No exception passes through TensorRT's calls: a fault is kept, and taken by who called TensorRT.
    """
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = library.module

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]  # the vendor's class is Any here
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.fault: Optional[BackendError] = None
            self.shape: Optional[Shape] = None

        def reallocate_output(
            self, tensor_name: str, memory: int, size: int, alignment: int
        ) -> Optional[int]:
            del tensor_name, memory, alignment  # memory is the buffer's; CUDA aligns to 256 bytes
            try:
                return buffer.hold(size)
            except BackendError as error:
                self.fault = error
                return None

        def reallocate_output_async(
            self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
        ) -> Optional[int]:
            del stream
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            del tensor_name
            self.shape = sizes(shape)

        def take_fault(self) -> Optional[BackendError]:
            fault, self.fault = self.fault, None
            return fault

        def found_shape(self) -> Shape:
            if self.shape is None:
                raise BackendError(f"TensorRT didn't say the shape of {buffer.port.name}")
            return self.shape

    return Allocator()
