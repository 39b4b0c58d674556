"""A session on an NVIDIA GPU, whose inputs and outputs lie in the GPU's memory.

So ``bind`` copies to the device, ``run`` computes and ``fetch`` copies back: each costs what it is
called, and the three together go from host memory to host memory. ONNX Runtime shows no events in
Python, so these parts aren't told by the device's own clock.
"""

from __future__ import annotations

from typing import Any, Callable, Optional

import numpy as np

from backends.ort.openings import Opening
from backends.ort.runtime import classified
from backends.ort.session import OrtSession, preallocated, symbols
from harness.errors import UnsupportedError
from harness.types import Array, Executed


class OrtCudaSession(OrtSession):
    """Addresses stay the same while the shapes do, as CUDA graphs want them.

    A graph replays what it captured, whatever is bound later. So with ``cuda-graph`` other shapes
    are served by a new ``InferenceSession``, which ``reopen`` makes.
    """

    def __init__(
        self,
        session: Any,
        opening: Opening,
        examine: Callable[[], Optional[Executed]],
        values: Any,
        reopen: Callable[[], Any],
    ) -> None:
        super().__init__(session, opening, examine)
        self._opening = opening
        self._values = values
        self._reopen = reopen
        self._captured = False

    def _rebind(self, feed: Any) -> None:
        if self._captured and self._session is not None:
            self.close()
            self._session = self._reopen()
            self._captured = False
        super()._rebind(feed)
        self._captured = self._opening.cuda_graph

    def _runner(self, binding: Any) -> Callable[[], None]:
        run, session, complete = (
            self._session.run_with_iobinding,
            binding,
            binding.synchronize_outputs,
        )

        def both() -> None:
            run(session)
            complete()

        return both

    def _buffer(self, array: Array) -> Any:
        return _OnDevice(self._value(array), self._device)

    def _value(self, array: Array) -> Any:
        contiguous = np.ascontiguousarray(array).reshape(array.shape)  # which makes 0-d arrays 1-d
        return self._values.ortvalue_from_numpy(contiguous, *self._opening.place)

    def _bind_input(self, binding: Any, name: str, buffer: Any) -> None:
        binding.bind_ortvalue_input(name, buffer.value)

    def _bind_outputs(self, shapes: Optional[dict[str, tuple[int, ...]]] = None) -> None:
        self._views = None
        if shapes is not None and not self._allocates:
            empty = preallocated(self.outputs, symbols(self.inputs, shapes))
            if empty is not None:
                self._views = {name: self._value(array) for name, array in empty.items()}
        if self._views is None and self._opening.cuda_graph:
            raise UnsupportedError("cuda-graph: the shapes of the model's outputs aren't declared")
        for spec in self.outputs:
            if self._views is None:
                self._binding.bind_output(spec.name, "cuda", self._opening.number)
            else:
                self._binding.bind_ortvalue_output(spec.name, self._views[spec.name])

    def fetch(self) -> dict[str, Array]:
        """Copies of the outputs."""
        return self._fetch_allocated()


class _OnDevice:
    """Memory of the device that is written to like an array."""

    def __init__(self, value: Any, device: str) -> None:
        self.value = value
        self._device = device

    def __setitem__(self, _: object, array: Array) -> None:
        try:
            self.value.update_inplace(np.ascontiguousarray(array))
        except Exception as fault:
            raise classified(fault, self._device) from fault
