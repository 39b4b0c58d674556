"""An opened file, run by LiteRT's interpreter: its own kernels, and XNNPACK on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Callable, Optional

import numpy as np

from backends import feeds
from backends.litert.runtime import classified
from backends.litert.slots import Shape, Slot, Slots
from harness.backend import Feed
from harness.errors import BackendError
from harness.types import Array, Executed, TensorSpec

_Put = Callable[[Array], None]
_Take = Callable[[], Array]
_Bound = tuple[str, _Put, Shape, "np.dtype[Any]"]


class LiteRtSession:
    """What all sessions share: binding, running and fetching through what ``_allocate`` gives.

    slots: where the model's values are in the file. examine: what :attr:`executed` calls, with the
    inputs' shapes in the file.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __init__(
        self, slots: Slots, device: str, examine: Callable[[Sequence[Shape]], Optional[Executed]]
    ) -> None:
        self.inputs = tuple(slot.spec for slot in slots.inputs)
        self.outputs = tuple(slot.spec for slot in slots.outputs)
        self._slots = slots
        self._device = device
        self._examine = examine
        self._executed: Optional[Executed] = None
        self._examined = False
        self._closed = False
        self._shapes: list[Shape] = []  # of the last feed: a new file's own aren't always 1
        self._unbind(_run_unbound)

    def bind(self, feed: Feed) -> None:
        """Copy the feed in; validate it and allocate when its names or shapes are new."""
        if not feeds.like(self._bound, feed):
            return self._rebind(feed)
        try:
            for name, put, _, _ in self._bound:
                put(feed[name])
        except BaseException:
            self._unbind(_run_unbound)  # so that no half of a feed can run
            raise

    def run(self) -> None:
        """One inference on what is bound."""
        try:
            self._run()
        except (RuntimeError, ValueError) as fault:
            raise classified(fault, self._device) from fault

    def fetch(self) -> dict[str, Array]:
        """The outputs in the model's layout: copies, which the next fetch may write over."""
        return {name: take() for name, take in self._takes}

    def close(self) -> None:
        """Drop the interpreter with all its memory."""
        self._unbind(_run_closed)
        if not self._closed:
            self._closed = True
            self._examine = _unexamined  # the old one may hold what is released here
            self._release()

    @property
    def executed(self) -> Optional[Executed]:
        """Examined once; see :mod:`backends.litert.executed`."""
        if not self._examined and not self._closed:
            ones = [tuple(max(dim, 1) for dim in slot.declared) for slot in self._slots.inputs]
            self._executed = self._examine(self._shapes or ones)
            self._examined = True
        return self._executed

    # -- inside -------------------------------------------------------------------------------

    def _unbind(self, run: Callable[[], None]) -> None:
        self._bound: tuple[_Bound, ...] = ()
        self._takes: tuple[tuple[str, _Take], ...] = ()
        self._run = run

    def _rebind(self, feed: Feed) -> None:
        """Validate everything and bind anew. A refused feed leaves nothing bound."""
        if self._closed:
            _run_closed()
        self._unbind(_run_unbound)
        arrays = feeds.checked(self.inputs, feed)
        shapes = [slot.shape_in_file(arrays[slot.spec.name].shape) for slot in self._slots.inputs]
        try:
            puts, takes, run = self._allocate(shapes)
            bound = []
            for slot, put in zip(self._slots.inputs, puts):
                array = arrays[slot.spec.name]
                put(array)
                bound.append((slot.spec.name, put, array.shape, array.dtype))
        except (RuntimeError, ValueError, MemoryError) as fault:
            raise classified(fault, self._device) from fault
        self._bound = tuple(bound)
        self._takes = tuple(
            (slot.spec.name, take) for slot, take in zip(self._slots.outputs, takes)
        )
        self._run = run

    def _allocate(self, shapes: list[Shape]) -> tuple[list[_Put], list[_Take], Callable[[], None]]:
        """For inputs of these shapes, the file's: how each is written, read, and how it runs."""
        raise NotImplementedError

    def _release(self) -> None:
        raise NotImplementedError


class InterpreterSession(LiteRtSession):
    """One ``Interpreter``.

    No view of its memory is kept: it may move with any run. So inputs are copied in through views
    of the moment, or by ``set_tensor``, and outputs are copied out.
    """

    def __init__(
        self,
        interpreter: Any,
        slots: Slots,
        examine: Callable[[Sequence[Shape]], Optional[Executed]],
    ) -> None:
        super().__init__(slots, "cpu", examine)
        self._interpreter = interpreter
        self._allocated = False
        try:
            interpreter.allocate_tensors()
            self._allocated = True
        except (RuntimeError, ValueError) as fault:
            # Open axes are 1 by default, which need not be a size that the model can take.
            if not slots.open:
                raise classified(fault) from fault

    def _allocate(self, shapes: list[Shape]) -> tuple[list[_Put], list[_Take], Callable[[], None]]:
        interpreter = self._interpreter
        if shapes != self._shapes or not self._allocated:
            self._allocated = False
            for slot, shape in zip(self._slots.inputs, shapes):
                interpreter.resize_tensor_input(slot.index, shape, strict=True)
            interpreter.allocate_tensors()
            self._shapes, self._allocated = shapes, True
        puts = [self._put(slot) for slot in self._slots.inputs]
        return puts, [self._take(slot) for slot in self._slots.outputs], interpreter.invoke

    def fetch(self) -> dict[str, Array]:
        """As any session's; and LiteRT reads no tensor that has no elements."""
        try:
            return {name: take() for name, take in self._takes}
        except ValueError:
            details = self._interpreter.get_output_details()
            return {
                slot.spec.name: slot.from_file(np.empty(detail["shape"], slot.dtype))
                if 0 in detail["shape"]
                else take()
                for slot, detail, (_, take) in zip(self._slots.outputs, details, self._takes)
            }

    def _put(self, slot: Slot) -> _Put:
        if not slot.axes and slot.dtype == slot.spec.dtype:
            return partial(self._interpreter.set_tensor, slot.index)
        view = self._interpreter.tensor(slot.index)

        def put(array: Array) -> None:
            value = slot.to_file(array)
            view()[...] = value

        return put

    def _take(self, slot: Slot) -> _Take:
        get = partial(self._interpreter.get_tensor, slot.index)
        if not slot.axes and slot.dtype == slot.spec.dtype:
            return get
        return lambda: slot.from_file(get())

    def _release(self) -> None:
        self._interpreter = None


def _unexamined(_: Sequence[Shape]) -> Optional[Executed]:
    return None


def _run_unbound() -> None:
    raise BackendError("bind a feed before running")


def _run_closed() -> None:
    raise BackendError("this session is closed")
