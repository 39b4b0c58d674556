"""Google's converter from PyTorch to LiteRT: ``litert-torch``."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import numpy as np

from backends.convert import checking, pt2, tflite_layout
from harness.backend import API_VERSION, Converted, ConvertRequest, Feed
from harness.errors import BackendError, UnsupportedError, first_line
from harness.types import Array, Environment, Port, Ports, Probe, TensorSpec

INSTALL = "enginepick setup litert-torch"
_MISSING = re.compile(r"Lowering not found: ([\w.:]+)")
_NARROWED = {"int64": "int32", "float64": "float32", "uint64": "uint32"}


class LiteRtTorch:
    """``.pt2`` to ``.tflite``: axes stay in PyTorch's order, and 64-bit types become 32-bit ones.

    The batch stays open where the tool can do that, which it can for few models; elsewhere all
    axes are fixed as the request says.
    """

    name = "litert-torch"
    api = API_VERSION
    source = "pt2"
    target = "tflite"
    home = "litert-torch"
    environment: Optional[Environment] = Environment(
        ("litert-torch>=0.10,<0.11", "torch>=2.13,<2.14", "ai-edge-litert>=2.3,<2.4", "numpy"),
        python=">=3.11,<3.14",
    )

    def probe(self) -> Probe:
        """Whether the converter, torch and the interpreter that checks are installed."""
        return pt2.probe(self.name, ("litert-torch", "torch", "ai-edge-litert"), INSTALL)

    def convert(self, request: ConvertRequest, workdir: str) -> Converted:
        """Convert, and check the outputs against eager PyTorch's."""
        program = pt2.load(request.model)
        given = request.ports or pt2.ports(program)
        path = str(Path(workdir, "model.tflite"))
        axes = pt2.open_axes(program)
        if axes is not None:
            try:
                return self._checked(program, given, request, path, axes)
            except Exception as fault:  # noqa: BLE001 - said below: that its axes are fixed
                pt2.refuse_memory(fault)
        made = self._checked(program, given, request, path, None)
        return replace(
            made,
            notes=(*made.notes, *checking.fixed(self.name, made.ports or given, request.inputs)),
        )

    def _checked(
        self, program: Any, given: Ports, request: ConvertRequest, path: str, axes: Optional[Any]
    ) -> Converted:
        """One conversion, held against the program on the samples.

        Where axes stay open, on one twice as large along these as well.
        """
        shapes = dict(request.shapes)
        sizes = [shapes[spec.name] for spec in request.inputs]
        _convert(program, given, sizes, path, axes)
        runner = tflite_layout.Runner(Path(path))
        tflite_layout.same_number(self.name, given.inputs, runner.inputs, "inputs")
        tflite_layout.same_number(self.name, given.outputs, runner.outputs, "outputs")
        inputs = tuple(
            _port(port.spec if axes else replace(port.spec, shape=size), *found)
            for port, size, found in zip(given.inputs, sizes, runner.inputs)
        )
        feeds = list(checking.samples(request))
        if axes:
            feeds.append(_doubled(feeds[0], given, axes[0]))
        wanted = pt2.original(program, given, feeds)
        got = [runner.run(checking.to_file(feed, Ports(inputs, ()))) for feed in feeds]
        outputs = tuple(
            _port(port.spec if axes else replace(port.spec, shape=got[0][found[0]].shape), *found)
            for port, found in zip(given.outputs, runner.outputs)
        )
        ports = Ports(inputs, outputs)
        ours = [checking.from_file(each, ports) for each in got]
        note = checking.note(checking.difference(ours, wanted), self.name, "PyTorch", len(feeds))
        return Converted(path, ports, (note,))


def _convert(
    program: Any, given: Ports, sizes: Sequence[tuple[int, ...]], path: str, axes: Optional[Any]
) -> None:
    torch = pt2.import_torch()
    example = tuple(
        torch.zeros(_traceable(size, opened), dtype=getattr(torch, port.dtype))
        for size, port, opened in zip(sizes, given.inputs, axes[0] if axes else [()] * len(sizes))
    )
    try:
        with pt2.quiet():
            import litert_torch

            module = pt2.flat(program)
            made = litert_torch.convert(module, example, dynamic_shapes=axes)
            made.export(path)
    except Exception as fault:
        pt2.refuse_memory(fault)
        raise _classified(fault) from fault


def _doubled(feed: Feed, given: Ports, axes: Sequence[Collection[int]]) -> dict[str, Array]:
    names = [port.spec.name for port in given.inputs]
    return {
        name: np.tile(feed[name], [1 + (axis in opened) for axis in range(feed[name].ndim)])
        for name, opened in zip(names, axes)
    }


def _traceable(size: tuple[int, ...], opened: Collection[int]) -> list[int]:
    """A shape whose open axes are of two or more: one alone would be taken for a constant."""
    return [max(dim, 2) if axis in opened else dim for axis, dim in enumerate(size)]


def _classified(fault: BaseException) -> BackendError:
    match = _MISSING.search(str(fault))
    if match:
        return UnsupportedError(
            f"litert-torch has no lowering for {match.group(1)}",
            "write that part of the model with other operators",
        )
    return BackendError(f"litert-torch failed: {first_line(fault)}")


def _port(spec: TensorSpec, name: str, dtype: str) -> Port:
    if dtype not in (spec.dtype, _NARROWED.get(spec.dtype)):
        raise BackendError(f"litert-torch made {dtype} of {spec}")
    return Port(spec, name, dtype)


CONVERTER = LiteRtTorch()

__all__ = ["CONVERTER", "LiteRtTorch"]
