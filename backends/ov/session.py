"""An opened OpenVINO engine."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np

from backends import feeds
from backends.ov import executed as execution
from backends.ov.device import Pinning, Target
from backends.ov.runtime import classified, raise_classified, specs
from harness.backend import Feed
from harness.errors import UnsupportedError
from harness.types import Array, Executed, TensorSpec

Shapes = dict[str, tuple[int, ...]]

_SILENCE_S = 1.0  # how long nothing completes before slots in flight are looked at


@dataclass(frozen=True)
class Source:
    """What a session compiles, again for other shapes when it has to.

    path: the IR. wanted: the properties. pinning: the input shapes to compile for.
    """

    core: Any
    path: str
    target: Target
    wanted: Mapping[str, str]
    pinning: Pinning

    def read(self) -> Any:
        """The engine's model."""
        with classified():
            return self.core.read_model(self.path)

    def compile(self, model: Any, shapes: Optional[Shapes]) -> Any:
        """Compile a model that was just read, which this reshapes."""
        with classified():
            if shapes is not None:
                model.reshape({name: list(shape) for name, shape in shapes.items()})
            return self.core.compile_model(model, str(self.target), dict(self.wanted))


class OvSession:
    """One infer request on what is bound; more of them for the queue.

    Inputs are copied into the request's own tensors, which every device can read best. A model
    compiled for pinned shapes serves feeds of those; any other feed is served by a second,
    dynamic compilation, made when the first such feed is bound.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __init__(self, source: Source) -> None:
        self._source: Optional[Source] = source
        model = source.read()
        self.inputs = specs(model.inputs)
        self.outputs = specs(model.outputs)
        self._index = {spec.name: index for index, spec in enumerate(self.inputs)}
        self._dtypes = [np.dtype(spec.dtype) for spec in self.inputs]
        self._origin = execution.Origin.of(model)
        self._pinned = source.pinning.shapes
        self._last = self._pinned is not None
        self._compiled: dict[bool, Any] = {}
        self._requests: dict[bool, Any] = {}
        self._slots: list[Any] = []
        self._busy: set[int] = set()
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._unbind()
        if not source.pinning.first:
            self._compile_first(source, model)

    # -- one inference ------------------------------------------------------------------------

    def bind(self, feed: Feed) -> None:
        """Copy the feed in; validate it and allocate when its names or shapes are new."""
        if not feeds.refill(self._bound, feed):
            self._rebind(feed)

    def run(self) -> None:
        """One inference; the outputs stay in the request's own tensors."""
        try:
            self._infer(share_outputs=True)  # without it, OpenVINO copies every output
        except RuntimeError as error:
            raise_classified(error)

    def fetch(self) -> dict[str, Array]:
        """Views of the output tensors."""
        if self._views is not None:
            return dict(self._views)
        get = self._request.get_output_tensor
        return {spec.name: get(index).data for index, spec in enumerate(self.outputs)}

    def close(self) -> None:
        """Drop the requests and the compiled models."""
        self._unbind()
        self._slots = []
        self._requests = {}
        self._compiled = {}
        self._source = None

    # -- what runs ----------------------------------------------------------------------------

    @property
    def executed(self) -> Optional[Executed]:
        """Read from the compilation that served the last bound feed."""
        source = self._opened()
        compiled = self._get_compiled(pinned=self._last)
        affinity = None
        if source.target.kind == "HETERO":
            affinity = source.core.query_model(source.read(), str(source.target))
        found = execution.executed(compiled, source.target, self._origin, affinity)
        shapes = "compiled for fixed shapes" if self._last else "compiled for the declared shapes"
        return Executed(found.devices, found.precisions, f"{found.detail}; {shapes}")

    # -- in flight ----------------------------------------------------------------------------

    def bind_slots(self, feed: Feed, in_flight: int) -> None:
        """Prepare ``in_flight`` requests, each with its own copy of the feed."""
        shapes = self._validate(feed)
        compiled = self._compiled_for(shapes)
        self._done = queue.SimpleQueue()
        self._slots = []
        self._busy = set()
        with classified():
            for slot in range(in_flight):
                request = compiled.create_infer_request()
                self._fill(request, feed)
                request.set_callback(self._done.put, slot)
                self._slots.append(request)

    def start(self, slot: int) -> None:
        """Start a slot."""
        self._slots[slot].start_async()
        self._busy.add(slot)

    def wait_any(self) -> int:
        """The next slot that completes, in the order of completion."""
        try:
            slot = self._done.get(timeout=_SILENCE_S)
        except queue.Empty:
            slot = self._wait_long()
        self._busy.discard(slot)
        # the callback comes a moment before the request may be started again
        self._slots[slot].wait()
        return slot

    def _wait_long(self) -> int:
        """As ``wait_any``; looks for failed slots, since OpenVINO calls nobody back for these."""
        while True:
            try:
                for slot in self._busy:
                    self._slots[slot].wait_for(0)
            except RuntimeError as error:
                raise_classified(error)
            with contextlib.suppress(queue.Empty):
                return self._done.get(timeout=_SILENCE_S)

    # -- inside -------------------------------------------------------------------------------

    def _opened(self) -> Source:
        if self._source is None:
            raise RuntimeError("the session is closed")
        return self._source

    def _unbind(self) -> None:
        self._bound: list[feeds.Bound] = []
        self._request: Any = _Nothing()
        self._infer: Callable[..., Any] = self._request.infer
        self._views: Optional[dict[str, Array]] = None

    def _compile_first(self, source: Source, model: Any) -> None:
        """Compile what was read; for the declared shapes where the pinned ones can't be had."""
        try:
            self._compiled[self._last] = source.compile(model, self._pinned)
        except (RuntimeError, UnsupportedError):
            if self._pinned is None:
                raise
            self._pinned, self._last = None, False
            self._get_compiled(pinned=False)

    def _get_compiled(self, *, pinned: bool) -> Any:
        if pinned not in self._compiled:
            source = self._opened()
            shapes = self._pinned if pinned else None
            self._compiled[pinned] = source.compile(source.read(), shapes)
        return self._compiled[pinned]

    def _compiled_for(self, shapes: Shapes) -> Any:
        if self._opened().pinning.first and self._pinned is None:
            self._pinned = shapes
        self._last = shapes == self._pinned
        return self._get_compiled(pinned=self._last)

    def _rebind(self, feed: Feed) -> None:
        self._unbind()  # so that nothing stale can run after a refused feed
        shapes = self._validate(feed)
        compiled = self._compiled_for(shapes)
        with classified():
            if self._last not in self._requests:
                self._requests[self._last] = compiled.create_infer_request()
            request = self._requests[self._last]
            self._bound = self._fill(request, feed)
        self._request = request
        self._infer = request.infer
        # fixed outputs of a plain device stay where they are; AUTO may move to another device
        fixed = all(port.partial_shape.is_static for port in compiled.outputs)
        if fixed and not self._opened().target.meta:
            self._views = {
                spec.name: request.get_output_tensor(index).data
                for index, spec in enumerate(self.outputs)
            }

    def _fill(self, request: Any, feed: Feed) -> list[feeds.Bound]:
        """Copy a validated feed into a request's tensors, and what a later copy needs."""
        filled: list[feeds.Bound] = []
        for name, index in self._index.items():
            array = feed[name]
            tensor = request.get_input_tensor(index)
            if tuple(tensor.shape) != array.shape:
                tensor.shape = list(array.shape)
            view = tensor.data
            view[...] = array
            filled.append((name, view, array.shape, self._dtypes[index]))
        return filled

    def _validate(self, feed: Feed) -> Shapes:
        """The feed's shapes. OpenVINO itself casts dtypes and runs without an input."""
        self._opened()
        arrays = feeds.checked(self.inputs, feed)
        return {name: tuple(array.shape) for name, array in arrays.items()}


class _Nothing:
    """Stands where a request would be while none is bound."""

    def infer(self, **_: Any) -> None:
        raise RuntimeError("nothing is bound")

    def get_output_tensor(self, _: int) -> Any:
        raise RuntimeError("nothing is bound")


__all__ = ["OvSession", "Source"]
