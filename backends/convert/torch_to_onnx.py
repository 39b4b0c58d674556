"""PyTorch's own exporter to ONNX: ``torch.onnx.export``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Optional

from backends.convert import checking, onnxfile, pt2
from harness.backend import API_VERSION, Converted, ConvertRequest
from harness.errors import BackendError, UnsupportedError, first_line
from harness.types import Environment, Ports, Probe

OPSET = 18
"""What PyTorch's operators are written in; ONNX Runtime, OpenVINO and TensorRT all take it."""

_MOST_BYTES = 2_000_000_000  # protobuf's limit is 2 GiB, the graph included
_NODE = re.compile(r"Error when translating node .*?target=torch\.ops\.([\w.]+)")
_COLOUR = re.compile(r"\x1b\[\d+m")
_MISSING = re.compile(r"No ONNX function found for (?:<OpOverload\(op=')?([\w.:]+)")


class TorchOnnx:
    """``.pt2`` to ONNX, with the program's own names and an open batch where it is open."""

    name = "torch-onnx"
    api = API_VERSION
    source = "pt2"
    target = "onnx"
    home = "executorch"
    environment: Optional[Environment] = None

    def probe(self) -> Probe:
        """Whether torch and what its exporter needs are installed."""
        return pt2.probe(self.name, ("torch", "onnxscript", "onnx"))

    def convert(self, request: ConvertRequest, workdir: str) -> Converted:
        """Export, check the file as ONNX, and its outputs against eager PyTorch's."""
        program = pt2.load(request.model)
        ports = request.ports or pt2.ports(program)
        path = str(Path(workdir, "model.onnx"))
        large = pt2.size_bytes(program) > _MOST_BYTES
        _export(program, ports, path, large)
        _finish(request, path)
        feeds = checking.samples(request)
        wanted = pt2.original(program, ports, feeds)
        tool, run = onnxfile.runner(path)
        found = checking.difference([run(feed) for feed in feeds], wanted)
        note = checking.note(found, f"{self.name} (run by {tool})", "PyTorch", len(feeds))
        return Converted(path, notes=(note,))


def _export(program: Any, ports: Ports, path: str, large: bool) -> None:
    torch = pt2.import_torch()
    try:
        with pt2.quiet():
            made = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[port.spec.name for port in ports.inputs],
                output_names=[port.spec.name for port in ports.outputs],
            )
            made.save(path, external_data=large)
    except Exception as fault:
        pt2.refuse_memory(fault)
        raise _classified(fault) from fault


def _classified(fault: BaseException) -> BackendError:
    """Exceptions of the exporter are chained: the first tell the steps, the last the reason."""
    faults = [*pt2.chain(fault)]
    text = "\n".join(map(str, faults))
    reason = f"{type(faults[-1]).__name__}: {_COLOUR.sub('', first_line(faults[-1]))}"
    missing, node = _MISSING.search(text), _NODE.search(text)
    if missing:
        what = f"torch.onnx.export has no ONNX for {missing[1]}"
    elif node:
        what = f"torch.onnx.export can't translate {node[1]}: {reason}"
    else:
        return BackendError(f"torch.onnx.export failed: {reason}")
    return UnsupportedError(
        what,
        "write that part of the model with other operators, or pass a translation of it "
        "to torch.onnx.export (custom_translation_table) and sweep the ONNX",
    )


def _finish(request: ConvertRequest, path: str) -> None:
    """Give open axes the names that the model's have, and hold the file to ONNX's rules."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    _check_values(model, request)
    renamed = _renamed(model, request)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                words = re.sub(r"[A-Za-z_]\w*", lambda m: renamed.get(m[0], m[0]), dim.dim_param)
                dim.dim_param = words
    onnx.save(model, path)
    onnxfile.check(path, "what torch.onnx.export made")


def _renamed(model: Any, request: ConvertRequest) -> dict[str, str]:
    """The exporter's names of open axes, and the model's."""
    found = {}
    for value, spec in zip(model.graph.input, request.inputs):
        for dim, ours in zip(value.type.tensor_type.shape.dim, spec.shape):
            if dim.dim_param and isinstance(ours, str):
                found[dim.dim_param] = ours
    return found


def _check_values(model: Any, request: ConvertRequest) -> None:
    """Raise BackendError where inputs or outputs aren't the model's, or have no rank or type."""
    import onnx

    for values, specs in (
        (model.graph.input, request.inputs),
        (model.graph.output, request.outputs),
    ):
        found = {}
        for value in values:
            kind = value.type.tensor_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
            found[value.name] = (dtype, len(kind.shape.dim) if kind.HasField("shape") else None)
        wanted = {spec.name: (spec.dtype, len(spec.shape)) for spec in specs}
        if found != wanted:
            text = f"{found} instead of {wanted}"
            raise BackendError(f"what torch.onnx.export made has other values: {text}")


CONVERTER = TorchOnnx()

__all__ = ["CONVERTER", "OPSET", "TorchOnnx"]
