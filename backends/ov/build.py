"""Making an OpenVINO engine: the IR, and what it was made for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from backends import enginefile
from backends.ov import compression
from backends.ov.mending import mend
from backends.ov.ports import adopt
from backends.ov.runtime import classified, read, specs
from harness.backend import BuildRequest
from harness.errors import UnsupportedError
from harness.types import Engine, Precision, TensorSpec

MODEL = "model.xml"

WEIGHT_TYPES = {
    Precision.INT8_WEIGHTS: ("i8", "u8"),
    Precision.INT4_WEIGHTS: ("i4", "u4"),
}
"""OpenVINO's element types of packed weights."""

_FUSED_FROM = 2  # matrix products that OpenVINO may fuse into one kernel


@dataclass(frozen=True)
class About:
    """What ``engine.json`` beside the IR says, since an engine is opened without its candidate.

    precision None, and no inputs: an IR that isn't ours. static: whether fixed shapes are safe.
    """

    precision: Optional[Precision] = None
    inputs: tuple[TensorSpec, ...] = ()
    static: bool = True


def build(openvino: Any, request: BuildRequest, workdir: str) -> Engine:
    """Build one of the offers; see :class:`backends.ov.OpenVino`."""
    folder = Path(workdir)
    path = request.model
    notes: list[str] = []
    if path.endswith(".tflite"):
        path, notes = mend(path, folder)
    model = read(openvino.Core(), path)
    if request.ports is not None:
        adopt(model, request.ports)
    inputs = specs(model.inputs)
    specs(model.outputs)  # refuses what no session could hand out
    if request.recipe in ("nncf", "nncf-weights") and _count(model, "FakeQuantize"):
        raise UnsupportedError(f"{request.recipe}: the model is quantized already")
    if request.recipe == "nncf":
        model, made = compression.quantize(model, request)
        notes += made
    elif request.recipe == "nncf-weights":
        model, made = compression.compress_weights(model, request)
        notes += made
    if request.precision is Precision.INT8:
        notes.append(_quantized(model))
    elif request.precision in WEIGHT_TYPES:
        notes.append(_packed(model, request.precision))
    # float16 weights change nothing for a run in float16, which rounds them anyway; for bf16
    # they would (less range), so these stay float32
    compress = request.precision is Precision.FP16
    notes += ["weights stored as float16"] if compress else []
    with classified():
        openvino.save_model(model, str(folder / MODEL), compress_to_fp16=compress)
    if path != request.model:
        Path(path).unlink()
    static = not _count(model, "FakeQuantize") or _count(model, "MatMul") < _FUSED_FROM
    notes += [] if static else ["shapes left open: several int8 matrix products"]
    enginefile.write(About(request.precision, inputs, static), folder / MODEL)
    others = sorted({path.name for path in folder.iterdir()} - {MODEL})
    return enginefile.engine_of(folder, MODEL, *others, notes=tuple(notes))


def copy(openvino: Any, request: BuildRequest, workdir: str) -> Engine:
    """The user's own IR with its weights, unchanged, once it was seen that it can be read.

    What ``engine.json`` says of one that we made goes on to hold.
    """
    model = read(openvino.Core(), request.model)
    specs(model.inputs)
    specs(model.outputs)
    source = Path(request.model)
    weights = source.with_suffix(".bin")
    return enginefile.adopt(About, source, Path(workdir), *([weights] if weights.is_file() else []))


def _packed(model: Any, precision: Precision) -> str:
    """How many weights are stored so, not counting their zero points."""
    count = sum(
        op.get_type_name() == "Constant"
        and op.get_element_type().get_type_name() in WEIGHT_TYPES[precision]
        and not _is_zero_point(op)
        for op in model.get_ops()
    )
    if not count:
        raise UnsupportedError(f"no weights of the model became {precision}")
    return f"{count} weights stored as {precision}"


def _is_zero_point(constant: Any) -> bool:
    """Whether it is converted, and then subtracted."""
    readers = [target.get_node() for target in constant.output(0).get_target_inputs()]
    return any(
        target.get_index() == 1 and target.get_node().get_type_name() == "Subtract"
        for reader in readers
        for target in reader.output(0).get_target_inputs()
    )


def _count(model: Any, kind: str) -> int:
    return sum(op.get_type_name() == kind for op in model.get_ops())


def _quantized(model: Any) -> str:
    """How many quantizers the model has; NNCF can return a model with none and say nothing."""
    count = _count(model, "FakeQuantize")
    if not count:
        raise UnsupportedError("nothing in the model was quantized: it has no operation for it")
    return f"{count} quantizers"
