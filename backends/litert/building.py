"""Making an engine: a ``.tflite`` file, and what it was made for."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from backends import enginefile
from backends.litert import flatfile, quantizing, tiny
from backends.litert.compiled import Target, key_of, once
from backends.litert.runtime import INSTALL, classified, load, native_log
from backends.litert.slots import Slots, slots_of
from harness.backend import BuildRequest
from harness.errors import UnavailableError, UnsupportedError
from harness.types import Engine, Ports, Precision

MODEL = "model.tflite"


@dataclass(frozen=True)
class About:
    """What ``engine.json`` says: where the model's inputs and outputs are, and how to open it.

    precision AS_IS, and no ports: a file that isn't ours.
    """

    precision: Precision = Precision.AS_IS
    ports: Optional[Ports] = None


def interpreter(path: str, threads: int = 1, *, delegate: str) -> Any:
    """An ``Interpreter`` that has no tensors allocated. Raises what LiteRT's errors mean."""
    module = load()
    kinds = module.OpResolverType
    kernels = kinds.BUILTIN if delegate == "xnnpack" else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        return module.Interpreter(
            model_path=path, num_threads=threads, experimental_op_resolver_type=kernels
        )
    except (RuntimeError, ValueError, MemoryError) as fault:
        raise classified(fault) from fault


def interpreter_trial() -> None:
    """Run a tiny model. Raises UnavailableError where that gives something wrong."""
    try:
        trial = load().Interpreter(model_content=tiny.content())
        trial.allocate_tensors()
        trial.set_tensor(0, np.ones((1, 4), np.float32))
        trial.invoke()
        got = float(trial.get_tensor(1)[0, 0])
    except (RuntimeError, ValueError) as fault:
        raise UnavailableError(f"LiteRT can't run on this CPU: {fault}", INSTALL) from fault
    if got != 2:  # noqa: PLR2004
        raise UnavailableError(f"LiteRT can't run on this CPU: 1 + 1 was {got}", INSTALL)


def inspect(path: str, ports: Optional[Ports]) -> Slots:
    """Where the model's inputs and outputs are in a file."""
    return slots_of(interpreter(path, delegate="none"), ports)


def copy(request: BuildRequest, folder: Path) -> Engine:
    """The user's own file, unchanged, once it was seen that it can be opened.

    What ``engine.json`` says of one that we made goes on to hold.
    """
    source = Path(request.model)
    slots = inspect(request.model, None)
    if request.device == "cpu":
        _try(request.model, slots)
    return enginefile.adopt(About, source, folder)


def build(request: BuildRequest, folder: Path) -> Engine:
    """Build one of the offers; see :class:`backends.litert.LiteRt`."""
    slots = inspect(request.model, request.ports)
    target = folder / MODEL
    if request.recipe == "source":
        shutil.copyfile(request.model, target)
        notes = _source_notes(request.model)
    else:
        content, notes = quantizing.quantize(request, slots)
        target.write_bytes(content)
    if request.device == "cpu":
        _try(str(target), slots)
        if request.precision is Precision.FP16:
            _try_fp16(str(target), inspect(str(target), request.ports))
    enginefile.write(About(request.precision, request.ports), target)
    return enginefile.engine_of(folder, MODEL, enginefile.FILE, notes=tuple(notes))


def _source_notes(path: str) -> list[str]:
    """Whether what is called fp32 is."""
    found = Counter(name for graph in flatfile.read(path) for name in graph.quantized)
    if not found:
        return []
    names = ", ".join(f"{count} {name}" for name, count in found.most_common(5))
    return [f"the file isn't float32 throughout: it has quantized or smaller tensors at {names}"]


def _try(path: str, slots: Slots) -> None:
    """An operator that LiteRT lacks is refused now, not when the engine is opened."""
    trial = interpreter(path, delegate="xnnpack")
    try:
        trial.allocate_tensors()
    except (RuntimeError, ValueError) as fault:
        _judge(fault, slots)


def _judge(fault: Exception, slots: Slots) -> None:
    """Raise what a fault means, unless it may be that of sizes that were made up."""
    known = classified(fault)
    if not slots.open or "no kernel" in str(known):
        raise known from fault


def _try_fp16(path: str, slots: Slots) -> None:
    """XNNPACK refuses at the first run what it can't compute in float16; its log says what."""
    inputs = [np.ones([max(dim, 1) for dim in slot.declared], slot.dtype) for slot in slots.inputs]
    lines: list[str] = []
    try:
        with native_log(lines):
            once(Target("cpu", fp16=True), path, inputs, key_of(slots))
    except (RuntimeError, ValueError) as fault:
        names = re.findall(r"failed to delegate (\w+) node", "\n".join(lines))
        if not names:
            return _judge(fault, slots)
        why = ", ".join(sorted(set(names)))
        raise UnsupportedError(f"XNNPACK can't compute this model in float16: {why}") from fault
