"""The model's own names, put on what OpenVINO made of a file that isn't ONNX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from backends.ov.mending import MARK
from backends.ov.runtime import specs
from harness.errors import UnsupportedError
from harness.types import Port, Ports


def adopt(model: Any, ports: Ports) -> None:
    """Rename a model's inputs and outputs, in place; nothing after it has to know of the file.

    Raises:
        UnsupportedError: they aren't those of the model in order, type and layout.
    """
    for kind, wanted, found in (
        ("input", ports.inputs, model.inputs),
        ("output", ports.outputs, model.outputs),
    ):
        _check(kind, wanted, found)
    taken = {port.spec.name for port in (*ports.inputs, *ports.outputs)}
    for output in (output for op in model.get_ops() for output in op.outputs()):
        tensor = output.get_tensor()  # of inner ones, none may have a name that is given below
        tensor.set_names(set(tensor.get_names()) - taken)
    _name(ports.inputs, model.inputs, taken)
    _name(ports.outputs, model.outputs, taken, "/sink_port_0")  # as in what was made of ONNX


def _name(wanted: Iterable[Port], found: Iterable[Any], taken: set[str], suffix: str = "") -> None:
    for port, value in zip(wanted, found):
        value.get_node().set_friendly_name(port.spec.name + suffix)
        tensor = value.get_tensor()  # an output that is an input shares its tensor
        tensor.set_names(set(tensor.get_names()) & taken | {port.spec.name})


def _check(kind: str, wanted: Sequence[Port], found: Sequence[Any]) -> None:
    """OpenVINO tells a file's tensors apart by their names, and makes one of two that share it."""
    if len(wanted) != len(found):
        raise UnsupportedError(
            f"OpenVINO finds {len(found)} of the model's {len(wanted)} {kind}s: it takes those"
            " for one that have one name in the file, or are one tensor"
        )
    for port, value, spec in zip(wanted, found, specs(found)):
        name = port.spec.name
        if port.axes or port.dtype != port.spec.dtype:
            raise UnsupportedError(f"{name}: has another layout or type in the file")
        names = set(value.get_names())
        if port.name and port.name not in names | {each.split(MARK)[0] for each in names}:
            said = ", ".join(sorted(names))
            raise UnsupportedError(f"{name}: is {port.name} in the file, and {said} to OpenVINO")
        if spec.dtype != port.dtype:
            raise UnsupportedError(f"{name}: is {port.dtype}, and {spec.dtype} to OpenVINO")
