"""Google's converter from PyTorch to LiteRT: ``litert-torch``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from backends.convert import checking, pt2
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
            except BackendError:
                pass  # said below: that its axes are fixed
        made = self._checked(program, given, request, path, None)
        if axes is None:
            return made
        fixed = ", ".join(str(port.spec) for port in (made.ports or given).inputs)
        note = f"{self.name} can't keep this model's axes open: fixed to {fixed}"
        return Converted(made.path, made.ports, (*made.notes, note))

    def _checked(
        self, program: Any, given: Ports, request: ConvertRequest, path: str, axes: Optional[Any]
    ) -> Converted:
        """One conversion, held against the program on the samples.

        Where axes stay open, on a batch of two as well.
        """
        shapes = dict(request.shapes)
        sizes = [shapes[spec.name] for spec in request.inputs]
        _convert(program, given, sizes, path, axes)
        interpreter = _interpreter(path)
        ports = _ports(interpreter, given, sizes, axes is not None)
        feeds = [_fitting(feed, ports) for feed in checking.samples(request)]
        if axes is not None:
            feeds += [{name: np.concatenate([v, v]) for name, v in feeds[0].items()}]
        wanted = pt2.original(program, given, feeds)
        got = [_run(interpreter, feed, ports) for feed in feeds]
        note = checking.note(checking.difference(got, wanted), self.name, "PyTorch", len(feeds))
        return Converted(path, ports, (note,))


def _fitting(feed: Feed, ports: Ports) -> dict[str, Array]:
    """A user's sample cut to the sizes that the file takes, where these are fixed."""
    found = {}
    for port in ports.inputs:
        kept = [slice(dim if isinstance(dim, int) else None) for dim in port.spec.shape]
        found[port.spec.name] = np.asarray(feed[port.spec.name])[tuple(kept)]
    return found


def _convert(
    program: Any, given: Ports, sizes: Sequence[tuple[int, ...]], path: str, axes: Optional[Any]
) -> None:
    torch = pt2.import_torch()
    example = tuple(
        torch.zeros(_traceable(size) if axes else size, dtype=getattr(torch, port.dtype))
        for size, port in zip(sizes, given.inputs)
    )
    try:
        with pt2.quiet():
            import litert_torch

            module = pt2.flat(program)
            made = litert_torch.convert(module, example, dynamic_shapes=axes)
            made.export(path)
    except Exception as fault:
        raise _classified(fault) from fault


def _traceable(size: tuple[int, ...]) -> tuple[int, ...]:
    """A shape with a first axis of two: one alone would be taken for a constant."""
    return (2, *size[1:]) if size else size


def _classified(fault: BaseException) -> BackendError:
    match = _MISSING.search(str(fault))
    if match:
        return UnsupportedError(
            f"litert-torch has no lowering for {match.group(1)}",
            "write that part of the model with other operators",
        )
    return BackendError(f"litert-torch failed: {first_line(fault)}")


def _interpreter(path: str) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    with pt2.quiet():
        return Interpreter(model_path=path)


def _ports(
    interpreter: Any, given: Ports, sizes: Sequence[tuple[int, ...]], is_open: bool
) -> Ports:
    """The file's values by position. Open axes keep their names, fixed ones have their sizes."""
    details = interpreter.get_input_details()
    inputs = tuple(
        _port(port.spec if is_open else _fixed(port.spec, size), detail)
        for port, size, detail in zip(given.inputs, sizes, details)
    )
    results = interpreter.get_output_details()
    outputs = tuple(
        _port(port.spec if is_open else _fixed(port.spec, tuple(detail["shape"])), detail)
        for port, detail in zip(given.outputs, results)
    )
    if (len(inputs), len(outputs)) != (len(details), len(results)):
        raise BackendError("litert-torch made a file with another number of inputs or outputs")
    return Ports(inputs, outputs)


def _fixed(spec: TensorSpec, size: Sequence[int]) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, tuple(int(dim) for dim in size))


def _port(spec: TensorSpec, detail: Any) -> Port:
    dtype = np.dtype(detail["dtype"]).name
    if dtype not in (spec.dtype, _NARROWED.get(spec.dtype)):
        raise BackendError(f"litert-torch made {dtype} of {spec}")
    return Port(spec, detail["name"], dtype)


def _run(interpreter: Any, feed: Feed, ports: Ports) -> dict[str, Array]:
    values = checking.to_file(feed, ports)
    details = interpreter.get_input_details()
    for detail, port in zip(details, ports.inputs):
        interpreter.resize_tensor_input(detail["index"], values[port.name].shape)
    interpreter.allocate_tensors()
    for detail, port in zip(details, ports.inputs):
        interpreter.set_tensor(detail["index"], values[port.name])
    interpreter.invoke()
    results = interpreter.get_output_details()
    got = {
        port.name: interpreter.get_tensor(at["index"]) for at, port in zip(results, ports.outputs)
    }
    return checking.from_file(got, ports)


CONVERTER = LiteRtTorch()

__all__ = ["CONVERTER", "LiteRtTorch"]
