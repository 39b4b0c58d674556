"""An exported PyTorch program: reading it, and exporting it anew after a change.

Here a program is a graph module that takes its tensors one by one and gives a tuple, whatever
structure the model's own arguments have: ExecuTorch's programs are like that, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Optional

from backends.convert import pt2
from backends.convert.pt2 import quiet
from backends.et.runtime import classified
from harness.backend import BuildRequest, Calibration, Feed
from harness.errors import BackendError, UnsupportedError
from harness.types import Port, Ports


@dataclass(frozen=True)
class Axis:
    """An open axis: the symbol of its size, and the least and the most that it takes."""

    name: str
    min: int
    max: Optional[int]


Shape = tuple["int | Axis", ...]
Ranges = tuple[tuple[int, int], ...]
"""The least and the most of each axis."""

_TOGETHER = 32  # calibration samples
_USUAL_LEAST = 2  # what torch calls the least where nothing was said; it takes 1 all the same


@dataclass(frozen=True)
class Program:
    """graph: the module. shapes, dtypes: of its inputs; torch's dtypes."""

    graph: Any
    shapes: tuple[Shape, ...]
    dtypes: tuple[Any, ...]

    def ranges(self) -> tuple[Ranges, ...]:
        """The least and the most that each axis of each input takes."""
        return tuple(
            tuple(
                (axis.min, axis.max or 0) if isinstance(axis, Axis) else (axis, axis)
                for axis in shape
            )
            for shape in self.shapes
        )


def read(path: str) -> Program:
    """Read a ``.pt2``. Raises UnsupportedError for what is no program of tensors."""
    return of(pt2.load(path))


def of(exported: Any) -> Program:
    """Of an ``ExportedProgram``."""
    import torch

    with quiet():
        graph = alone(exported.module(check_guards=False))
    graph.graph.set_codegen(torch.fx.graph.CodeGen())  # takes tensors, gives a tuple
    graph.recompile()
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for node in inputs:
        if not isinstance(node.meta.get("val"), torch.Tensor):
            raise UnsupportedError(f"input {node.name}: ExecuTorch takes tensors only")
    ranges = {str(symbol): each for symbol, each in exported.range_constraints.items()}
    shapes = tuple(
        tuple(_axis(node.name, dim, ranges) for dim in node.meta["val"].shape) for node in inputs
    )
    return Program(graph, shapes, tuple(node.meta["val"].dtype for node in inputs))


def alone(graph: Any) -> Any:
    """The same nodes in a module that has what they read and nothing else.

    Hooks that hold calls to the structure of the model's arguments stay behind, and so do weights
    that were replaced, which would go on into the file.
    """
    import torch

    return torch.fx.GraphModule(graph, graph.graph)


def _axis(name: str, dim: Any, ranges: Any) -> Any:
    if isinstance(dim, int):
        return dim
    expression = dim.node.expr
    if not expression.is_Symbol:
        raise UnsupportedError(
            f"input {name}: an axis of the size {expression} can't be bounded; export the program "
            "with axes that are open by themselves"
        )
    known = ranges.get(str(expression))
    upper = None if known is None or not known.upper.is_Integer else int(known.upper)
    lower = 1 if known is None or known.lower <= _USUAL_LEAST else int(known.lower)
    return Axis(str(expression), lower, upper)


def bounded(program: Program, request: BuildRequest) -> Program:
    """With the bounds of what sessions will bind: memory is planned for the largest shape.

    An axis that is only ever of one size is fixed. Raises UnsupportedError for an axis without a
    bound, and for shapes that the program doesn't take.
    """
    most: dict[str, int] = {}
    names = [port.spec.name for port in request.ports.inputs] if request.ports else []
    if names and len(names) != len(program.shapes):
        raise BackendError(f"the program has {len(program.shapes)} inputs, the model {len(names)}")
    for profile in request.profiles:
        ranges = {each.name: each for each in profile}
        for name, shape in zip(names, program.shapes):
            for place, axis in enumerate(shape):
                if isinstance(axis, Axis) and name in ranges:
                    most[axis.name] = max(most.get(axis.name, 1), ranges[name].max[place])
    shapes = tuple(
        tuple(
            _bounded(names[index] if names else f"{index}", axis, most)
            if isinstance(axis, Axis)
            else axis
            for axis in shape
        )
        for index, shape in enumerate(program.shapes)
    )
    return replace(program, shapes=shapes)


def _bounded(name: str, axis: Axis, most: dict[str, int]) -> Any:
    wanted = most.get(axis.name, axis.max)
    if wanted is None:
        raise UnsupportedError(
            f"input {name}: the axis {axis.name} has no upper bound, and memory is planned for the "
            "largest shape",
            "give [shapes] in sweep.toml, or export with torch.export.Dim(..., max=...)",
        )
    if axis.max is not None and wanted > axis.max:
        raise UnsupportedError(
            f"input {name}: the program takes at most {axis.max} there, but {wanted} was asked for",
            "export it with a larger torch.export.Dim(..., max=...)",
        )
    if wanted < axis.min:
        raise UnsupportedError(
            f"input {name}: the program takes at least {axis.min} there, not {wanted}",
            "export it with torch.export.Dim(..., min=1)",
        )
    return wanted if wanted == axis.min else replace(axis, max=wanted)


def exported(program: Program, what: str) -> Any:
    """The ``ExportedProgram`` of a program that was changed. what: for an error's text.

    The example is as large as can be: some kernels' choices hold for sizes beyond a limit, and the
    program is taken for limited to that side of it, which the largest shape must be on.
    """
    import torch

    dims: dict[str, Any] = {}
    for shape in program.shapes:
        for axis in shape:
            if isinstance(axis, Axis):
                # No range where there is none: torch calls [2, 2] a constant.
                dims[axis.name] = torch.export.Dim(axis.name, min=axis.min, max=axis.max)
    dynamic = tuple(
        {place: dims[axis.name] for place, axis in enumerate(shape) if isinstance(axis, Axis)}
        for shape in program.shapes
    )
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(
                alone(program.graph),
                example(program),
                dynamic_shapes=dynamic if dims else None,
                strict=False,
            )
    except Exception as error:
        raise classified(error, what) from error


def samples(calibration: Calibration, ports: Optional[Ports], program: Program) -> Iterator[Any]:
    """The calibration samples as the program takes them, a tuple of tensors each.

    Several together where one open axis leads all inputs: observers see them at once.
    """
    import torch

    firsts = {shape[0] if shape else None for shape in program.shapes}
    first = firsts.pop() if len(firsts) == 1 else None
    most = min(_TOGETHER, first.max or 1) if isinstance(first, Axis) else 1
    waiting: list[tuple[Any, ...]] = []
    for feed in calibration.feeds():
        sample = _sample(feed, ports, program)
        if waiting and not _fits(waiting, sample, most):
            yield tuple(torch.cat(each) if len(each) > 1 else each[0] for each in zip(*waiting))
            waiting = []
        waiting.append(sample)
    if waiting:
        yield tuple(torch.cat(each) if len(each) > 1 else each[0] for each in zip(*waiting))


def _fits(waiting: list[tuple[Any, ...]], sample: tuple[Any, ...], most: int) -> bool:
    """Whether one more sample may go along."""
    if most == 1 or any(a.shape[1:] != b.shape[1:] for a, b in zip(sample, waiting[0])):
        return False
    return sum(int(each[0].shape[0]) for each in (*waiting, sample)) <= most


def _sample(feed: Feed, ports: Optional[Ports], program: Program) -> tuple[Any, ...]:
    import numpy as np
    import torch

    values = list(feed.values())
    if ports:
        values = [np.transpose(feed[port.spec.name], in_file(port)) for port in ports.inputs]
    return tuple(
        torch.from_numpy(np.array(value, order="C")).to(dtype)
        for value, dtype in zip(values, program.dtypes)
    )


def in_file(port: Port) -> tuple[int, ...]:
    """The model's axis that each axis of the file is."""
    return port.axes or tuple(range(len(port.spec.shape)))


def example(program: Program, most: Optional[int] = None) -> tuple[Any, ...]:
    """Zeros of the largest shapes, or with open axes of ``most`` where these are larger."""
    import torch

    def size(axis: int | Axis) -> int:
        if not isinstance(axis, Axis):
            return axis
        largest = axis.max or 1
        return max(axis.min, min(largest, most or largest))

    return tuple(
        torch.zeros([size(axis) for axis in shape], dtype=dtype)
        for shape, dtype in zip(program.shapes, program.dtypes)
    )
