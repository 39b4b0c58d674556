"""An opened ExecuTorch program."""

from __future__ import annotations

from typing import Any, Callable, Optional

import numpy as np

from backends import enginefile, feeds
from backends.et import executed as execution
from backends.et import pte
from backends.et.build import About, opened, ports_of
from backends.et.program import Ranges, in_file
from backends.et.runtime import classified, release, use_threads
from harness.backend import Feed
from harness.errors import UnsupportedError
from harness.types import Array, Engine, Executed, Port, TensorSpec


class EtSession:
    """One method on what is bound.

    Inputs are copied into memory that numpy and torch share. A call passes these tensors, which
    the runtime copies to where its plan has them, and takes the outputs as views of its memory.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __init__(self, runtime: Any, engine: Engine, threads: Optional[int]) -> None:
        about = enginefile.beside(About, engine)
        self._told = pte.read(engine.path)
        use_threads(runtime, self, threads)
        try:
            self._program, self._method = opened(runtime, engine.path, self._told)
        except Exception:
            release(self)
            raise
        ports = about.ports or ports_of(self._told)
        self._ins = ports.inputs
        self.inputs = tuple(port.spec for port in self._ins)
        self.outputs = tuple(port.spec for port in ports.outputs)
        self._names = [port.spec.name for port in ports.outputs]
        orders = [np.argsort(in_file(port)).tolist() for port in ports.outputs]
        self._turned = orders if any(port.axes for port in ports.outputs) else None
        self._ranges = about.ranges or self._told.ranges()
        self._results: Any = ()
        self._unbind(_run_unbound)

    def bind(self, feed: Feed) -> None:
        """Copy the feed in; validate it and allocate when its names or shapes are new."""
        if not feeds.refill(self._bound, feed):
            self._rebind(feed)

    def run(self) -> None:
        """One inference."""
        try:
            self._results = self._run(self._tensors, False)
        except RuntimeError as error:
            raise classified(error, "the inference failed") from error

    def fetch(self) -> dict[str, Array]:
        """Views of the outputs."""
        if self._turned is None:
            return {name: each.numpy() for name, each in zip(self._names, self._results)}
        return {
            name: np.transpose(each.numpy(), order)
            for name, each, order in zip(self._names, self._results, self._turned)
        }

    def close(self) -> None:
        """Drop the program."""
        release(self)
        self._unbind(_run_closed)
        self._method = self._program = None

    @property
    def executed(self) -> Optional[Executed]:
        """Read from the program's file when it was opened."""
        return execution.told(self._told)

    # -- binding ------------------------------------------------------------------------------

    def _unbind(self, run: Callable[..., Any]) -> None:
        self._bound: tuple[feeds.Bound, ...] = ()
        self._tensors: tuple[Any, ...] = ()
        self._results = ()
        self._run: Callable[..., Any] = run

    def _rebind(self, feed: Feed) -> None:
        """Validate everything and allocate. A refused feed leaves nothing bound."""
        import torch

        if self._method is None:
            _run_closed()
        self._unbind(_run_unbound)
        arrays = self._checked(feed)
        bound, tensors = [], []
        for port, array in zip(self._ins, arrays):
            order = in_file(port)
            shape = tuple(array.shape[axis] for axis in order)
            memory = np.empty(shape, port.dtype)
            view = np.transpose(memory, np.argsort(order))  # in the model's own order of axes
            view[...] = array
            bound.append((port.spec.name, view, array.shape, array.dtype))
            tensors.append(torch.from_numpy(memory))
        self._bound, self._tensors = tuple(bound), tuple(tensors)
        self._run = self._method.call

    def _checked(self, feed: Feed) -> list[Array]:
        """The feed in order. Raises UnsupportedError, naming the input that is wrong."""
        arrays = feeds.checked(self.inputs, feed)
        sizes: dict[str, int] = {}
        for port, ranges in zip(self._ins, self._ranges):
            _refuse_outside(port, arrays[port.spec.name].shape, ranges, sizes)
        return [*arrays.values()]


def _refuse_outside(
    port: Port, shape: tuple[int, ...], ranges: Ranges, sizes: dict[str, int]
) -> None:
    """Sizes for which the program has no memory; and axes of one name that differ in size."""
    given = f"input {port.spec} was given the shape {list(shape)}"
    taken = dict(zip(in_file(port), ranges))
    for axis, (have, want) in enumerate(zip(shape, port.spec.shape)):
        if isinstance(want, str) and sizes.setdefault(want, have) != have:
            raise UnsupportedError(given)
        least, most = taken[axis]
        if not least <= have <= most:
            made = f"at most {most}" if have > most else f"at least {least}"
            raise UnsupportedError(f"{given}, but the engine was made for {made} there")


def _run_unbound(*_: Any) -> None:
    raise RuntimeError("bind a feed before running")


def _run_closed(*_: Any) -> None:
    raise RuntimeError("this session is closed")
