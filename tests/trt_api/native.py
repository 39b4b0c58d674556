"""Call the virtual functions of an object of TensorRT's bindings as TensorRT itself does.

A Python subclass of one of the bindings' interfaces (a calibrator, an allocator) is called by the
library through a C++ table of virtual functions, where the bindings turn arguments and results
into Python's and back. No GPU is needed for that. The tables' layout is that of NvInfer.h,
NvInferRuntime.h and NvInferRuntimeBase.h (10 and 11): after the four functions of
``IVersionedInterface``, an interface's own in the order of its declaration.
"""

from __future__ import annotations

import ctypes
from typing import Any

_VALUE = 16  # pybind11's instance: the object's head, then the pointer to the C++ object
_POINTER = ctypes.sizeof(ctypes.c_void_p)
_MOST_DIMS = 8
_KIND, _FIRST = 1, 4


class _Info(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_char_p),
        ("major", ctypes.c_int32),
        ("minor", ctypes.c_int32),
    )


class _Dims(ctypes.Structure):
    _fields_ = (("count", ctypes.c_int32), ("sizes", ctypes.c_int64 * _MOST_DIMS))


def kind(thing: Any) -> str:
    """The interface's name, as the object tells TensorRT; proves that the layout is right."""
    return _virtual(thing, _KIND, _Info)().kind.decode()


class Calibrator:
    """What TensorRT does with an ``IInt8Calibrator``."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def batch_size(self) -> int:
        """getBatchSize."""
        return _virtual(self.thing, _FIRST, ctypes.c_int32)()

    def batch(self, names: list[str]) -> list[int] | None:
        """getBatch: the addresses of the inputs' data, None when there are no more batches."""
        addresses = (ctypes.c_void_p * len(names))()
        texts = (ctypes.c_char_p * len(names))(*(name.encode() for name in names))
        arguments = (ctypes.addressof(addresses), ctypes.addressof(texts), len(names))
        types = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)
        more = _virtual(self.thing, _FIRST + 1, ctypes.c_bool, *types)(*arguments)
        return [address or 0 for address in addresses] if more else None

    def read_cache(self) -> bytes | None:
        """readCalibrationCache: None for none."""
        length = ctypes.c_size_t()
        read = _virtual(self.thing, _FIRST + 2, ctypes.c_void_p, ctypes.c_void_p)
        address = read(ctypes.addressof(length))
        return ctypes.string_at(address, length.value) if address else None

    def write_cache(self, cache: bytes) -> None:
        """writeCalibrationCache."""
        types = (ctypes.c_char_p, ctypes.c_size_t)
        _virtual(self.thing, _FIRST + 3, None, *types)(cache, len(cache))

    def algorithm(self) -> int:
        """getAlgorithm."""
        return _virtual(self.thing, _FIRST + 4, ctypes.c_int32)()


class OutputAllocator:
    """What TensorRT does with an ``IOutputAllocator``.

    TensorRT-RTX has dropped ``reallocateOutput``, which TensorRT 10 and 11 declare first.
    """

    def __init__(self, thing: Any, *, is_rtx: bool) -> None:
        self.thing = thing
        self.first = _FIRST if is_rtx else _FIRST + 1

    def reallocate(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int:
        """reallocateOutputAsync: the address of the output's memory, 0 for none."""
        types = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64)
        call = _virtual(self.thing, self.first, ctypes.c_void_p, *types, ctypes.c_void_p)
        return call(name.encode(), memory, size, alignment, stream) or 0

    def notify(self, name: str, shape: tuple[int, ...]) -> None:
        """notifyShape."""
        dims = _Dims(len(shape), (ctypes.c_int64 * _MOST_DIMS)(*shape))
        call = _virtual(self.thing, self.first + 1, None, ctypes.c_char_p, ctypes.c_void_p)
        call(name.encode(), ctypes.addressof(dims))


def _virtual(thing: Any, slot: int, result: Any, *arguments: Any) -> Any:
    this = ctypes.c_void_p.from_address(id(thing) + _VALUE).value
    assert this is not None
    table = ctypes.c_void_p.from_address(this).value or 0
    function = ctypes.c_void_p.from_address(table + slot * _POINTER).value
    assert function is not None
    call = ctypes.CFUNCTYPE(result, ctypes.c_void_p, *arguments)(function)
    return lambda *values: call(this, *values)
