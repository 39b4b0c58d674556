"""Sizes that an ONNX graph computes, as constants or multiples of the batch.

Exporters write ``Reshape(x, Concat(Shape(x)[0], 12, 32))``. Tracers of PyTorch lose what is
computed in tensors, so that the batch would be fixed. Here each such tensor is read off two runs,
of two and of three samples, as ``factor * batch + constant``; what the program then gives is
compared with the original on further batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from backends.convert import onnxfile
from harness.backend import Feed
from harness.types import Array

_SLOTS: Mapping[str, tuple[int, ...]] = {
    "Reshape": (1,), "Expand": (1,), "Slice": (1, 2, 3, 4), "Unsqueeze": (1,), "Squeeze": (1,),
    "Tile": (1,), "ConstantOfShape": (0,), "Pad": (1,), "Split": (1,), "Resize": (3,),
    "ReduceMean": (1,), "ReduceSum": (1,), "ReduceMax": (1,), "ReduceMin": (1,), "ReduceL2": (1,),
}  # fmt: skip
"""Which inputs of which operators are sizes or axes."""

FEW, MORE = 2, 3
PREFIX = "enginepick_sizes_"


class Sizes(list):  # type: ignore[type-arg] # numpy's and torch's both call it list
    """Numbers where the converter looks for a tensor."""

    def tolist(self) -> list[Any]:
        """Itself: what is asked of tensors."""
        return list(self)


@dataclass(frozen=True)
class Linear:
    """``factor * batch + constant``, of each number of a vector."""

    factor: tuple[int, ...]
    constant: tuple[int, ...]

    def at(self, batch: Any) -> Sizes:
        """The numbers for a batch, which may be symbolic."""
        pairs = zip(self.factor, self.constant)
        return Sizes(
            factor * batch + constant if factor else constant for factor, constant in pairs
        )


def lifted(model: Any, feed: Feed, batched: Sequence[str]) -> tuple[Any, dict[str, Linear]]:
    """A copy of the model whose sizes are inputs, and what each of these is.

    feed: one sample. batched: the inputs whose first axis is the batch; where there are none,
    everything is constant.
    """
    import onnx

    names = sorted({node.input[slot] for node, slot in _uses(model)})
    if not names:
        return model, {}
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    values = _values(probed, [_tiled(feed, batched, size) for size in (FEW, MORE)])
    found = {name: line for name in names for line in [_line(*values[name])] if line is not None}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for node, slot in list(_uses(made)):
        if node.input[slot] in found:
            node.input[slot] = PREFIX + str(names.index(node.input[slot]))
    lines = {PREFIX + str(names.index(name)): line for name, line in found.items()}
    for name, line in lines.items():
        shape = [len(line.constant)]
        made.graph.input.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, shape)
        )
    return made, lines


def _uses(model: Any) -> Iterator[tuple[Any, int]]:
    outer = {value.name for value in model.graph.input}
    for node in model.graph.node:
        for slot in _SLOTS.get(node.op_type, ()) if not node.domain else ():
            if slot < len(node.input) and node.input[slot] and node.input[slot] not in outer:
                yield node, slot


def _values(model: Any, feeds: Sequence[Feed]) -> dict[str, list[Array]]:
    """Of every output of the model, for every feed."""
    _, run = onnxfile.runner(model.SerializeToString())
    ran = [run(feed) for feed in feeds]
    return {name: [np.asarray(values[name]) for values in ran] for name in ran[0]}


def _tiled(feed: Feed, batched: Sequence[str], size: int) -> dict[str, Array]:
    return {
        name: np.repeat(value[:1], size, axis=0) if name in batched else value
        for name, value in feed.items()
    }


def _line(few: Array, more: Array) -> Optional[Linear]:
    """What both values say; None for what is no vector of integers."""
    if few.shape != more.shape or few.ndim != 1 or few.dtype.kind != "i":
        return None
    factor = more.astype(object) - few.astype(object)
    constant = few.astype(object) - FEW * factor
    return Linear(tuple(map(int, factor)), tuple(map(int, constant)))


__all__ = ["FEW", "PREFIX", "Linear", "Sizes", "lifted"]
