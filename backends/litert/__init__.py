"""LiteRT (once TensorFlow Lite): CPUs by XNNPACK, GPUs and NPUs where it finds them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Optional

import numpy as np

from backends import enginefile
from backends.litert import building, compiled, deploy, executed
from backends.litert.compiled import CompiledSession, Target
from backends.litert.opening import Opening
from backends.litert.quantizing import WEIGHTED
from backends.litert.runtime import (
    INSTALL,
    classified,
    has_float16,
    load,
    native_log,
)
from backends.litert.session import InterpreterSession
from backends.litert.slots import Shape, Slots, slots_of
from backends.machine import processor_name, versions_of
from harness.backend import API_VERSION, BuildRequest, Capabilities, Offer, Session
from harness.errors import BackendError, UnsupportedError
from harness.types import Device, Engine, Environment, Executed, Precision, Probe, Settings

FP32, FP16, INT8 = Precision.FP32, Precision.FP16, Precision.INT8
INT8_DYNAMIC, INT4_WEIGHTS = Precision.INT8_DYNAMIC, Precision.INT4_WEIGHTS

_ALTERNATIVES = (
    (("symmetric", "yes"),),
    (("include", WEIGHTED),),
)


class LiteRt:
    """The LiteRT backend.

    Engines are ``.tflite`` files and ``engine.json``, which says where the model's inputs and
    outputs are in the file, and the precision to open it with. A file without, such as a user's
    own, is opened as it is, with the names and the layout that it has.

    Precisions are made by LiteRT's own quantizer, and are in the file. But float16 is stored only,
    and unpacked to float32 on a CPU: to compute in it, XNNPACK is forced, by ``CompiledModel``. So
    are weights of ``weight-only`` recipes unpacked, once, when the file is loaded: a smaller file,
    and products in float32.

    Devices: ``cpu``; ``gpu:0`` and ``npu`` where ``CompiledModel`` runs a model there.

    Options: ``delegate`` (of a CPU) is ``xnnpack`` or ``none``, for LiteRT's own kernels alone;
    ``cpu-fallback=on`` lets a CPU run what a GPU or NPU can't. A device ignores another's.
    """

    name = "litert"
    api = API_VERSION
    capabilities = Capabilities(
        formats=("tflite",),
        offers=(
            Offer(FP32, "source"),
            Offer(FP16, "float-casting", native=True),
            Offer(INT8, "static-wi8-ai8", calibrated=True, alternatives=_ALTERNATIVES),
            Offer(INT8_DYNAMIC, "dynamic-wi8-afp32"),
            Offer(Precision.INT8_WEIGHTS, "weight-only-wi8-afp32"),
            Offer(INT4_WEIGHTS, "dynamic-wi4-afp32"),
        ),
        install=INSTALL,
        settings=("threads",),
        modules=("ai_edge_litert.interpreter",),
        engine_formats=("tflite",),
        environment=Environment(
            ("ai-edge-litert>=2.3,<3", "litert-quantizer>=0.11,<1", "numpy>=1.26,<3"),
            python=">=3.10,<3.15",
        ),
    )

    def probe(self) -> Probe:
        """Each device is proved by compiling a tiny model for it alone and running it there."""
        versions = versions_of("ai-edge-litert", "litert-quantizer")
        try:
            load()
            devices = tuple(_devices())
        except BackendError as error:
            return Probe(self.name, versions, problem=str(error), fix=error.fix or INSTALL)
        except Exception as fault:  # noqa: BLE001 - a probe never raises
            return Probe(self.name, versions, problem=f"LiteRT is broken: {fault}", fix=INSTALL)
        return Probe(self.name, versions, devices)

    def build(self, request: BuildRequest, workdir: str) -> Engine:
        """Copy the file, or quantize it; see :mod:`backends.litert.building`."""
        if request.precision is Precision.AS_IS and request.ports is None:
            return building.copy(request, Path(workdir))
        offered = {(offer.precision, offer.recipe) for offer in self.capabilities.offers}
        offered.add((Precision.AS_IS, "source"))
        if (request.precision, request.recipe) not in offered:
            raise UnsupportedError(f"litert makes no {request.precision} from {request.recipe!r}")
        return building.build(request, Path(workdir))

    def open(self, engine: Engine, device: str, settings: Settings) -> Session:
        """Load the file for the device."""
        about = enginefile.beside(building.About, engine)
        how = Opening.of(device, settings, about)
        if how.target is not None:
            slots = building.inspect(engine.path, about.ports)
            return _compiled(engine.path, slots, device, how.target)
        interpreter = building.interpreter(engine.path, how.threads, delegate=how.delegate)
        examine = partial(_examine, interpreter, engine.path)
        return InterpreterSession(interpreter, slots_of(interpreter, about.ports), examine)

    def deploy_code(self, engine: Engine, device: str, settings: Settings) -> str:
        """The script; it is written for the file's own numbers of tensors."""
        about = enginefile.beside(building.About, engine)
        how = Opening.of(device, settings, about)
        return deploy.script(
            how, building.inspect(engine.path, about.ports), Path(engine.path).name
        )


def _examine(interpreter: Any, path: str, _: Sequence[Shape]) -> Optional[Executed]:
    return executed.on_cpu(interpreter, path)


def _compiled(path: str, slots: Slots, device: str, target: Target) -> CompiledSession:
    try:
        model = target.compile(path)
    except Exception as fault:
        problem = compiled.trial(target) if target.kind != "cpu" else None
        if problem is not None:
            raise compiled.absent(device, problem) from fault
        raise classified(fault, device) from fault
    if target.kind == "cpu":
        return CompiledSession(model, slots, device, partial(_examine_fp16, path, slots, target))
    whole = bool(model.is_fully_accelerated())
    told = executed.elsewhere(path, device, whole=whole, fp16=target.fp16)
    return CompiledSession(model, slots, device, lambda _: told)


def _examine_fp16(
    path: str, slots: Slots, target: Target, shapes: Sequence[Shape]
) -> Optional[Executed]:
    """The interpreter tells which operators XNNPACK takes; outputs, whether float16 ran.

    Classes are the same in both precisions: then a tiny model has to show it.
    """
    floats = any(np.dtype(slot.dtype).kind == "f" for slot in slots.outputs)
    try:
        fp16 = (
            compiled.reduced(path, slots, shapes, target.threads)
            if floats
            else compiled.trial(target) is None
        )
        interpreter = building.interpreter(path, target.threads, delegate="xnnpack")
        for slot, shape in zip(slots.inputs, shapes):
            interpreter.resize_tensor_input(slot.index, shape, strict=True)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError):
        return None
    shown = "its outputs" if floats else "a tiny model's outputs"
    return executed.on_cpu(interpreter, path, fp16=fp16, shown=shown)


def _devices() -> list[Device]:
    lines: list[str] = []  # what native code writes where there is no GPU
    building.interpreter_trial()
    native = [FP32, INT8, INT8_DYNAMIC, INT4_WEIGHTS]
    with native_log(lines):
        if has_float16() and compiled.trial(Target("cpu", fp16=True)) is None:
            native.insert(1, FP16)
        found = [Device("cpu", processor_name(), tuple(native))]
        if compiled.trial(Target("gpu")) is None:
            found.append(Device("gpu:0", "GPU by WebGPU", (FP32, FP16)))
        if compiled.trial(Target("npu")) is None:
            found.append(Device("npu", "NPU by a vendor's plug-in"))
    return found


BACKEND = LiteRt()
