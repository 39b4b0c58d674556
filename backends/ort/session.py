"""An opened ONNX Runtime session, called in the cheapest way that Python has.

The inputs and outputs are bound once per set of shapes to memory that numpy sees, so an inference
is a copy in, ``run_with_iobinding``, and a dictionary of views out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Callable, Optional

import numpy as np

from backends import feeds
from backends.ort.openings import Opening
from backends.ort.runtime import classified, specs
from harness.backend import Feed
from harness.types import Array, Executed, TensorSpec

_ALIGNMENT_BYTES = 64
"""Of a cache line, and what ONNX Runtime gives its own tensors: latencies then don't depend on
where the allocator happened to put an input."""

_WRONG_OUTPUT_SHAPE = re.compile(
    r"for output: |output OrtValue provided for output|OrtValue shape verification failed"
)


class OrtSession:
    """One ``InferenceSession`` and its binding.

    Outputs whose declared shape follows from the inputs' get memory of their own. The others, and
    those whose declared shape turns out to be wrong, are allocated by the runtime and copied.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __init__(
        self, session: Any, opening: Opening, examine: Callable[[], Optional[Executed]]
    ) -> None:
        self.inputs = specs(session.get_inputs(), "input")
        self.outputs = specs(session.get_outputs(), "output")
        self._session = session
        self._device = opening.device
        self._examine = examine
        self._executed: Optional[Executed] = None
        self._examined = False
        self._allocates = False  # the runtime allocates the outputs, whatever they declare
        self._unbind(_run_unbound)

    def bind(self, feed: Feed) -> None:
        """Copy the feed in; validate it and allocate when its names or shapes are new."""
        if not feeds.refill(self._bound, feed):
            self._rebind(feed)
        elif self._views is None:
            self._bind_outputs()

    def run(self) -> None:
        """One inference on what is bound."""
        try:
            self._run()
        except Exception as fault:  # noqa: BLE001 - the runtime's classes have no other base
            self._recover(fault)

    def fetch(self) -> dict[str, Array]:
        """Views of the outputs' memory, or copies where the runtime allocated it."""
        if self._views is not None:
            return self._views.copy()
        return self._fetch_allocated()

    def close(self) -> None:
        """Drop the session with all its memory."""
        self._unbind(_run_closed)
        self._session = None

    @property
    def executed(self) -> Optional[Executed]:
        """Examined once, in a session of its own: loads the model a second time."""
        if not self._examined and self._session is not None:
            self._executed = self._examine()
            self._examined = True
        return self._executed

    # -- binding --------------------------------------------------------------------------------

    def _unbind(self, run: Callable[[], None]) -> None:
        self._bound: tuple[feeds.Bound, ...] = ()
        self._views: Optional[dict[str, Any]] = None
        self._binding: Any = None
        self._run = run

    def _rebind(self, feed: Feed) -> None:
        """Validate everything and bind anew. A refused feed leaves nothing bound."""
        if self._session is None:
            _run_closed()
        self._unbind(_run_unbound)
        # No dimensions: a scalar, or a model that doesn't tell; the runtime checks the former.
        arrays = feeds.checked(self.inputs, feed, ranks_told=False)
        binding = self._session.io_binding()
        bound = []
        try:
            for name, array in arrays.items():
                buffer = self._buffer(array)
                buffer[...] = array
                self._bind_input(binding, name, buffer)
                bound.append((name, buffer, array.shape, array.dtype))
            self._binding = binding
            self._bind_outputs({name: array.shape for name, array in arrays.items()})
        except Exception as fault:
            self._unbind(_run_unbound)
            raise classified(fault, self._device) from fault
        self._bound = tuple(bound)
        self._run = self._runner(binding)

    def _runner(self, binding: Any) -> Callable[[], None]:
        return partial(self._session.run_with_iobinding, binding)

    def _buffer(self, array: Array) -> Any:
        """Where inputs of this shape and type are copied to."""
        return aligned(array.shape, array.dtype)

    def _bind_input(self, binding: Any, name: str, buffer: Any) -> None:
        binding.bind_input(name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)

    def _bind_outputs(self, shapes: Optional[dict[str, tuple[int, ...]]] = None) -> None:
        """Bind the outputs to memory of ours where ``shapes``, the inputs', tell how much.

        Without shapes the runtime allocates. It does so for one run only: in the next it would
        write into what it allocated, so this has to be repeated.
        """
        self._views = None
        if shapes is not None and not self._allocates:
            self._views = preallocated(self.outputs, symbols(self.inputs, shapes))
        for spec in self.outputs:
            if self._views is None:
                self._binding.bind_output(spec.name, "cpu")
                continue
            view = self._views[spec.name]
            self._binding.bind_output(
                spec.name, "cpu", 0, view.dtype.type, view.shape, view.ctypes.data
            )

    def _recover(self, fault: Exception) -> None:
        """Let the runtime allocate if an output's shape was not what it declares; else raise."""
        if self._binding is None or not _WRONG_OUTPUT_SHAPE.search(str(fault)):
            raise classified(fault, self._device) from fault
        self._allocates = True
        self._bind_outputs()
        try:
            self._run()
        except Exception as second:
            raise classified(second, self._device) from second

    def _fetch_allocated(self) -> dict[str, Array]:
        if self._binding is None:
            self._run()  # raises: nothing is bound
        arrays = self._binding.copy_outputs_to_cpu()
        return {spec.name: array for spec, array in zip(self.outputs, arrays)}


class OrtDeviceSession(OrtSession):
    """For devices with memory of their own: binding an input is what carries it there."""

    def bind(self, feed: Feed) -> None:
        """Copy the feed in, and from there to the device."""
        super().bind(feed)
        for name, buffer, _, _ in self._bound:
            self._binding.bind_cpu_input(name, buffer)

    def _bind_input(self, binding: Any, name: str, buffer: Any) -> None:
        """Left to :meth:`bind`, which does it for every feed."""


def symbols(inputs: Sequence[TensorSpec], shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """What the symbolic dimensions of the inputs stand for; without those that contradict."""
    known: dict[str, int] = {}
    torn = set()
    for spec in inputs:
        for dim, size in zip(spec.shape, shapes[spec.name]):
            if isinstance(dim, str) and known.setdefault(dim, size) != size:
                torn.add(dim)
    return {dim: size for dim, size in known.items() if dim not in torn}


def preallocated(
    outputs: Sequence[TensorSpec], known: dict[str, int]
) -> Optional[dict[str, Array]]:
    """Memory for every output, or None if the shape of any isn't known."""
    views = {}
    for spec in outputs:
        sizes = [known.get(dim) if isinstance(dim, str) else dim for dim in spec.shape]
        shape = tuple(size for size in sizes if size is not None)
        if not spec.shape or len(shape) < len(sizes):  # no shape: a scalar, or it isn't told
            return None
        views[spec.name] = aligned(shape, np.dtype(spec.dtype))
    return views


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Zeros that start at a cache line."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.zeros(size + _ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[start : start + size].view(dtype).reshape(shape)


def _run_unbound() -> None:
    raise RuntimeError("bind a feed before running")


def _run_closed() -> None:
    raise RuntimeError("this session is closed")
