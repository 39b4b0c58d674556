"""Making an ExecuTorch engine: the ``.pte``, and what it was made for."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from backends import enginefile
from backends.convert import archives
from backends.convert.pt2 import quiet
from backends.et import half, pte, quantizing
from backends.et import program as programs
from backends.et.program import Program, Ranges
from backends.et.rewriting import rewrite
from backends.et.runtime import classified, load
from harness.backend import BuildRequest
from harness.errors import InputError, UnsupportedError
from harness.types import Engine, Port, Ports, Precision, TensorSpec

MODEL = "model.pte"


@dataclass(frozen=True)
class About:
    """What ``engine.json`` says: the model's own inputs and outputs, and their sizes.

    ports None: of a program that isn't ours.
    """

    ports: Optional[Ports] = None
    ranges: tuple[Ranges, ...] = ()


def build(request: BuildRequest, workdir: str) -> Engine:
    """Build one of the offers; see :class:`backends.et.ExecuTorch`."""
    runtime = load()
    program = programs.bounded(programs.read(request.model), request)
    notes = [f"{count} {what}" for what, count in rewrite(program).items()]
    program, made = _converted(program, request)
    notes += made
    folder = Path(workdir)
    path = folder / MODEL
    path.write_bytes(_lowered(program, request))
    told = pte.read(str(path))
    _check(runtime, str(path), told, request)
    ports = request.ports or ports_of(told)
    enginefile.write(About(ports, program.ranges()), path)
    notes += _planned(program, ports)
    return enginefile.engine_of(folder, MODEL, enginefile.FILE, notes=tuple(notes))


def _planned(program: Program, ports: Ports) -> list[str]:
    """What open axes cost: a session takes the memory of the largest shape at any shape."""
    sizes = [
        f"{port.spec.name}: {[most for _, most in ranges]}"
        for port, ranges in zip(ports.inputs, program.ranges())
        if any(low != high for low, high in ranges)
    ]
    return [f"memory is planned for {', '.join(sizes)}, whatever is fed"] if sizes else []


def _converted(program: Program, request: BuildRequest) -> tuple[Program, list[str]]:
    """In the precision that was asked for."""
    if request.precision is Precision.FP32:
        return program, []
    exported = programs.exported(program, request.recipe)  # what the rewritten nodes give is known
    program = replace(program, graph=programs.of(exported).graph)
    if request.precision is Precision.FP16:
        return program, half.convert(program)
    return quantizing.quantize(program, request)


def _lowered(program: Program, request: BuildRequest) -> bytes:
    """The program's file, with what XNNPACK takes delegated to it."""
    exported = programs.exported(program, request.recipe)
    try:
        with quiet():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
            return bytes(edge.to_executorch().buffer)
    except Exception as error:
        raise classified(error, request.recipe) from error


def _check(runtime: Any, path: str, told: pte.Program, request: BuildRequest) -> None:
    """That this runtime can load it and run it, and that it is what was asked for.

    Programs that can be loaded may be refused at their first inference.
    """
    import torch

    _, method = opened(runtime, path, told)
    largest = tuple(torch.zeros(at.shape, dtype=getattr(torch, at.dtype)) for at in told.inputs)
    try:
        method.call(largest, clone_outputs=False)
    except Exception as error:
        raise classified(error, f"{request.recipe}: the first inference failed") from error
    found = {each for part in told.parts for each in part.precisions}
    found |= {precision for _, precision in told.kernels if precision}
    wanted = request.precision.runs_as
    if wanted == "int8" and wanted not in found:
        raise UnsupportedError(f"{request.recipe}: none of the model's products became {wanted}")


def opened(runtime: Any, path: str, told: Optional[pte.Program] = None) -> tuple[Any, Any]:
    """The loaded program and its method. UnsupportedError names operators that are missing."""
    told = told or pte.read(path)
    missing = told.missing(set(runtime._get_operator_names()))  # noqa: SLF001
    if missing:
        raise UnsupportedError(f"this ExecuTorch has no kernel for {', '.join(missing)}")
    absent = {part.delegate for part in told.parts} - set(runtime._get_registered_backend_names())  # noqa: SLF001
    if absent:
        raise UnsupportedError(f"this ExecuTorch has no backend {', '.join(sorted(absent))}")
    try:
        with quiet():
            program = runtime._load_program(path)  # noqa: SLF001
            return program, program.load_method("forward")
    except Exception as error:
        raise classified(error, f"{path} can't be loaded") from error


def ports_of(told: pte.Program) -> Ports:
    """Of a program whose names nobody told. Which axes are open isn't told either."""
    dynamic = any(told.dynamic)
    return Ports(
        tuple(
            _port(f"input_{index}", spec, dynamic=told.dynamic[index])
            for index, spec in enumerate(told.inputs)
        ),
        tuple(
            _port(f"output_{index}", spec, dynamic=dynamic)
            for index, spec in enumerate(told.outputs)
        ),
    )


def _port(name: str, spec: TensorSpec, *, dynamic: bool) -> Port:
    shape = tuple(None for _ in spec.shape) if dynamic else spec.shape
    return Port(TensorSpec(name, spec.dtype, shape), name, spec.dtype)


def _refuse_archive(source: Path) -> None:
    """Say what PyTorch's own archives are."""
    if not zipfile.is_zipfile(source):
        return
    try:
        archives.check(str(source))
    except InputError as error:
        problem = error.problems[0]
        raise UnsupportedError(f"{source.name}: {problem.what}", problem.fix) from error
    raise UnsupportedError(
        f"{source.name}: it is an exported program, not yet ExecuTorch's",
        f"give it as the model: enginepick sweep {source.name}",
    )


def copy(request: BuildRequest, workdir: str) -> Engine:
    """The user's own program, unchanged, once it was seen that it can be loaded.

    What ``engine.json`` beside it says of one that we made goes on to hold.
    """
    source = Path(request.model)
    _refuse_archive(source)
    opened(load(), str(source))
    return enginefile.adopt(About, source, Path(workdir))
