"""What an engine reads and writes, and whether a feed fits it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, prod
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from backends.trt.about import About
from backends.trt.library import Library
from harness.backend import Feed
from harness.errors import UnsupportedError
from harness.types import ShapeRange, TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt

Shape = tuple[int, ...]

OPEN = -1
"""What TensorRT calls the size of an axis that isn't fixed."""

DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8",
    "INT32": "int32", "INT64": "int64", "BOOL": "bool",
}  # fmt: skip
"""TensorRT's types that numpy has; the others can't cross the boundary."""

_REBUILD = "build the engine with the shapes that it will see: [shapes] in sweep.toml"


@dataclass(frozen=True)
class Port:
    """One input or output.

    spec: as the model declares it. dtype: numpy's. shape: the engine's, with :data:`OPEN` axes.
    on_host: a tensor of shapes, which TensorRT reads and writes in the host's memory.
    """

    spec: TensorSpec
    dtype: np.dtype[Any]
    shape: Shape
    on_host: bool = False

    @property
    def name(self) -> str:
        """As the model calls it."""
        return self.spec.name

    @property
    def is_open(self) -> bool:
        """Whether an axis of it isn't fixed."""
        return OPEN in self.shape


@dataclass(frozen=True)
class Ports:
    """All inputs and outputs, in the engine's order.

    profiles: the shapes that each optimization profile of the engine takes, by input; those of
    open inputs only.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    profiles: tuple[tuple[ShapeRange, ...], ...] = ()

    @classmethod
    def of(cls, library: Library, engine: trt.ICudaEngine, about: About) -> Ports:
        """Read them off an engine.

        about: knows the names of the model's open axes, which an engine doesn't.

        Raises:
            UnsupportedError: a type or a memory layout that numpy hasn't.
        """
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = library.module
        known = {spec.name: spec for spec in (*about.inputs, *about.outputs)}
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs: list[Port] = []
        outputs: list[Port] = []
        for name in names:
            port = _port(library, engine, name, known.get(name))
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (inputs if is_input else outputs).append(port)
        wanted = [port.name for port in inputs if port.is_open]
        profiles = range(engine.num_optimization_profiles if wanted else 0)
        return cls(
            tuple(inputs),
            tuple(outputs),
            tuple(tuple(_range(engine, name, index) for name in wanted) for index in profiles),
        )

    def profile(self, arrays: Feed) -> Optional[int]:
        """The optimization profile whose tuned shapes are nearest; None where all are fixed.

        Raises:
            UnsupportedError: no profile takes these shapes, with the inputs' ranges.
        """
        if not self.profiles:
            return None
        shapes = {name: array.shape for name, array in arrays.items()}
        fitting = [
            (sum(_distance(shapes[each.name], each.opt) for each in ranges), index)
            for index, ranges in enumerate(self.profiles)
            if all(_within(shapes[each.name], each) for each in ranges)
        ]
        if not fitting:
            raise UnsupportedError(self._outside(shapes), _REBUILD)
        return min(fitting)[1]

    def _outside(self, shapes: dict[str, Shape]) -> str:
        """What is wrong, by the input that no profile takes, else by all of them."""
        wrong = [
            name
            for name in {each.name: None for each in self.profiles[0]}
            if not any(
                _within(shapes[name], each)
                for ranges in self.profiles
                for each in ranges
                if each.name == name
            )
        ] or [each.name for each in self.profiles[0]]
        parts = []
        for name in wrong:
            ranges = [each for profile in self.profiles for each in profile if each.name == name]
            takes = " or ".join(f"{_text(each.min)} to {_text(each.max)}" for each in ranges)
            parts.append(f"{name} was given {_text(shapes[name])}, its profiles take {takes}")
        return f"no optimization profile of the engine takes these shapes: {'; '.join(parts)}"


def _port(
    library: Library, engine: trt.ICudaEngine, name: str, known: Optional[TensorSpec]
) -> Port:
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = library.module
    kind = str(engine.get_tensor_dtype(name)).rpartition(".")[2]
    if kind not in DTYPES:
        raise UnsupportedError(
            f"{name} is {kind.lower()}, a type that numpy hasn't",
            "let the model's inputs and outputs stay float32 or float16",
        )
    if engine.get_tensor_format(name) != trt.TensorFormat.LINEAR:
        raise UnsupportedError(f"{name} has another memory layout than numpy's arrays")
    shape = sizes(engine.get_tensor_shape(name))
    on_host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
    named: Sequence[Any] = [None] * len(shape)
    if known is not None and len(known.shape) == len(shape):
        named = known.shape
    declared = tuple(
        size if size != OPEN else None if isinstance(dim, int) else dim
        for size, dim in zip(shape, named)
    )
    dtype = np.dtype(DTYPES[kind])
    return Port(TensorSpec(name, DTYPES[kind], declared), dtype, shape, on_host)


def _range(engine: trt.ICudaEngine, name: str, index: int) -> ShapeRange:
    low, best, high = (sizes(dims) for dims in engine.get_tensor_profile_shape(name, index))
    return ShapeRange(name, low, best, high)


def sizes(dims: Any) -> Shape:
    """TensorRT's ``Dims`` as a tuple."""
    return tuple(int(size) for size in dims)


def _within(shape: Shape, range_: ShapeRange) -> bool:
    return all(low <= size <= high for low, size, high in zip(range_.min, shape, range_.max))


def _distance(shape: Shape, best: Shape) -> float:
    """How far apart the numbers of elements are, as a ratio."""
    return abs(log((prod(shape) + 1) / (prod(best) + 1)))


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a scalar"
