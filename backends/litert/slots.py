"""The inputs and outputs of a file, under the model's own names and in its own layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from harness.errors import BackendError, UnsupportedError
from harness.types import Array, Port, Ports, TensorSpec

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Slot:
    """One input or output.

    spec: the model's, with the axes fixed that the file fixes. name: the file's, in its signature
    where it has one. index: the tensor's number. dtype: the file's. axes, inverse: the order of
    the file's axes in the model's and back; empty where both have the same. declared: the file's
    shape, -1 where it is open.
    """

    spec: TensorSpec
    name: str
    index: int
    dtype: str
    axes: Shape
    inverse: Shape
    declared: Shape

    def to_file(self, array: Array) -> Array:
        """An array of the model as the file takes it; a view where that is enough.

        Raises UnsupportedError for integers that the file's smaller type can't hold.
        """
        if self.axes:
            array = array.transpose(self.axes)
        return array if self.dtype == self.spec.dtype else self._cast(array)

    def from_file(self, array: Array) -> Array:
        """An array of the file as the model has it, in memory of its own order."""
        if self.inverse:
            array = np.ascontiguousarray(array.transpose(self.inverse))
        return array.astype(self.spec.dtype, copy=False)

    def _cast(self, array: Array) -> Array:
        if array.dtype.kind in "iu" and np.dtype(self.dtype).kind in "iu" and array.size:
            limits = np.iinfo(self.dtype)
            least, most = array.min(), array.max()
            if least < limits.min or most > limits.max:
                raise UnsupportedError(
                    f"{self.spec.name}: has values from {least} to {most}; the converted file takes"
                    f" {self.dtype}"
                )
        return array.astype(self.dtype)

    def shape_in_file(self, shape: Shape) -> Shape:
        """A shape of the model's as the file has it."""
        return tuple(shape[axis] for axis in self.axes) if self.axes else shape

    @property
    def open(self) -> bool:
        """Whether the file leaves any axis open."""
        return -1 in self.declared


@dataclass(frozen=True)
class Slots:
    """All of a file. signature: its key; empty where the file has none of the model's."""

    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    signature: str = ""

    @property
    def open(self) -> bool:
        """Whether any input leaves an axis open."""
        return any(slot.open for slot in self.inputs)


def slots_of(interpreter: Any, ports: Optional[Ports]) -> Slots:
    """Read from a file that was opened; without ports the model is the file.

    Raises:
        UnsupportedError: a type that numpy hasn't.
        BackendError: the ports aren't this file's.
    """
    key, names = _signature(interpreter)
    found: list[tuple[Slot, ...]] = []
    for kind, details in (
        ("inputs", interpreter.get_input_details()),
        ("outputs", interpreter.get_output_details()),
    ):
        # A quantizer may forget that an output's axis is open: with open inputs it says nothing.
        told = not any(slot.open for slots in found for slot in slots)
        given: tuple[Optional[Port], ...] = (
            getattr(ports, kind) if ports else (None,) * len(details)
        )
        named = [names[kind].get(int(each["index"]), str(each["name"])) for each in details]
        found.append(tuple(_slots(details, _unique(named), given, kind, told=told)))
    return Slots(found[0], found[1], key)


def _signature(interpreter: Any) -> tuple[str, dict[str, dict[int, str]]]:
    """The first subgraph's signature, which has a key: that, and its names by tensor."""
    wanted = {int(each["index"]) for each in interpreter.get_input_details()}
    outputs = {int(each["index"]) for each in interpreter.get_output_details()}
    for key in filter(None, interpreter.get_signature_list()):
        runner = interpreter.get_signature_runner(key)
        if runner._subgraph_index:  # noqa: SLF001 - nothing public tells
            continue
        both = {
            "inputs": runner.get_input_details(),
            "outputs": runner.get_output_details(),
        }
        names = {
            kind: {int(each["index"]): str(name) for name, each in details.items()}
            for kind, details in both.items()
        }
        if set(names["inputs"]) == wanted and set(names["outputs"]) == outputs:
            return str(key), names
    return "", {"inputs": {}, "outputs": {}}


def _unique(names: list[str]) -> list[str]:
    return [
        name if names.count(name) == 1 else f"{name}:{place}" for place, name in enumerate(names)
    ]


def _slots(
    details: list[dict[str, Any]],
    names: list[str],
    ports: tuple[Optional[Port], ...],
    kind: str,
    *,
    told: bool,
) -> Iterator[Slot]:
    """By place, which is the file's and the model's: names may be repeated, or a signature's."""
    if len(ports) != len(details):
        raise BackendError(f"the file has {len(details)} {kind}, the model {len(ports)}")
    for detail, name, port in zip(details, names, ports):
        yield _slot(detail, name, port, told=told)


def _slot(detail: Mapping[str, Any], name: str, port: Optional[Port], *, told: bool) -> Slot:
    dtype = np.dtype(detail["dtype"])
    if dtype.kind not in "fiubc" or dtype.name == "bfloat16":
        raise UnsupportedError(f"{name}: numpy has no counterpart of {dtype.name}")
    if port is not None and port.dtype != dtype.name:
        raise BackendError(f"{port.spec.name}: is {dtype.name} in the file, not {port.dtype}")
    declared = tuple(int(dim) for dim in detail["shape_signature"])
    axes = port.axes if port is not None else ()
    inverse = tuple(int(axis) for axis in np.argsort(axes)) if axes else ()
    ours = tuple(declared[axis] for axis in inverse) if axes else declared
    if port is None:
        shape: tuple[Any, ...] = tuple(dim if dim >= 0 else None for dim in ours)
        spec = TensorSpec(name, dtype.name, shape)
    else:
        spec = _fixed(port.spec, ours, told=told)
    return Slot(spec, name, int(detail["index"]), dtype.name, axes, inverse, declared)


def _fixed(spec: TensorSpec, declared: Shape, *, told: bool) -> TensorSpec:
    """The model's spec with those of its open axes fixed that the file fixes, if that is told."""
    if len(spec.shape) != len(declared):
        raise BackendError(f"{spec}: has {len(declared)} axes in the converted file")
    shape = tuple(
        have if told and not isinstance(want, int) and have >= 0 else want
        for want, have in zip(spec.shape, declared)
    )
    return TensorSpec(spec.name, spec.dtype, shape)
