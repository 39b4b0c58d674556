"""Drive the adapter's subclasses of the bindings' interfaces as TensorRT does; what came, as JSON.

Run with ``WHAT MODULE`` in a process of its own, whose environment finds the bindings.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import native
import numpy as np

from backends.trt import calibrator
from backends.trt.buffers import output_allocator
from backends.trt.library import Library
from backends.trt.log import Log
from harness.errors import BackendError
from harness.types import ShapeRange, TensorSpec

SAMPLES = 10
ADDRESS = 1 << 40
LONG = 1 << 20  # a block of this size goes back to the system when it is freed


def log(library: Library) -> Any:
    """What a log holds of an error that the library reports."""
    trt = library.module
    kept = Log(library)
    for severity in (trt.ILogger.VERBOSE, trt.ILogger.WARNING, trt.ILogger.ERROR):
        trt.ILogger.log(kept.logger, severity, f"said at {severity}")  # through C++ and back
    return {"lines": kept.lines, "first": kept.first_error()}


def calibrators(library: Library) -> Any:
    """What each kind of calibrator answers, by the kind; its batches as they lie in memory."""
    found = {}
    for kind, base in calibrator.BASES.items():
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = _calibrated(getattr(library.module, base), Path(folder) / "cache")
    return found


def _calibrated(base: type, cache: Path) -> dict[str, Any]:
    feeds = [{"x": np.full((1, 2), number, np.float32)} for number in range(SAMPLES)]
    inputs = [TensorSpec("x", "float32", ("batch", 2))]
    profiles = [[ShapeRange("x", (1, 2), (SAMPLES, 2), (SAMPLES, 2))]]
    batches = calibrator.batches(SimpleNamespace(feeds=lambda: iter(feeds)), inputs, profiles)
    memory = np.zeros((batches.batch, 2), np.float32)

    def upload(name: str, array: Any) -> int:
        assert name == "x"
        memory[:] = array
        return memory.ctypes.data

    made = calibrator.make_calibrator(base, batches.feeds(), batches.batch, upload, cache)
    caller = native.Calibrator(made)
    before = caller.read_cache()
    told = {"kind": native.kind(made), "batch": caller.batch_size(), "before": before}
    told["batches"] = list(_batches(caller, batches.batch))
    content = bytes(range(256)) * (LONG // 256)
    caller.write_cache(content)
    told["kept"] = caller.read_cache() == content
    return told | {"algorithm": caller.algorithm(), "fault": made.fault}


def _batches(caller: native.Calibrator, count: int) -> Iterator[list[float]]:
    while addresses := caller.batch(["x"]):
        values = ctypes.cast(addresses[0], ctypes.POINTER(ctypes.c_float))
        yield [values[2 * row] for row in range(count)]


def allocator(library: Library) -> Any:
    """What an allocator of outputs answers: to a request, to one that fails, to a shape."""
    held: list[int] = []

    def hold(size: int) -> int:
        held.append(size)
        if size > LONG:
            raise BackendError("too much")
        return ADDRESS

    buffer = SimpleNamespace(hold=hold, port=SimpleNamespace(name="y"))
    made = output_allocator(library, buffer)
    caller = native.OutputAllocator(made, is_rtx=library.is_rtx)
    given = [caller.reallocate("y", 0, size, 256, 7) for size in (96, 2 * LONG)]
    caller.notify("y", (3, 4))
    told = {"kind": native.kind(made), "held": held, "given": given}
    return told | {"shape": made.found_shape(), "fault": str(made.fault)}


def main() -> None:
    """Do what the first argument names with the module that the second names."""
    sys.modules["tensorrt_libs"] = None  # type: ignore[assignment]  # not real ones, if there are
    what, name = sys.argv[1:]
    module = importlib.import_module(name)
    shown = name.removesuffix("_bindings")
    json.dump(globals()[what](Library(shown, module, module.__version__)), sys.stdout)


if __name__ == "__main__":
    main()
