"""ONNX Runtime itself: how it is imported, its types, and what its faults mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Optional

from harness.errors import (
    BackendError,
    OutOfMemoryError,
    UnavailableError,
    UnsupportedError,
)
from harness.types import TensorSpec

INSTALL = 'pip install "enginepick[onnxruntime]"'
QUIET = 4  # fatal faults only: what matters is raised as well
_WORST_TEXT = 1500

DTYPES = {
    "float": "float32", "float16": "float16", "double": "float64", "bool": "bool",
    "int8": "int8", "int16": "int16", "int32": "int32", "int64": "int64",
    "uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "uint64": "uint64",
}  # fmt: skip
"""The element types that numpy has too, by their names in ``tensor(...)``."""


def import_runtime() -> Any:
    """The ``onnxruntime`` module, silenced. Raises UnavailableError with the reason."""
    try:
        import onnxruntime

        onnxruntime.set_default_logger_severity(QUIET)
    except Exception as fault:  # broken installations raise much more than ImportError
        raise UnavailableError(f"onnxruntime can't be imported: {fault}", INSTALL) from fault
    return onnxruntime


def version_of(text: str) -> tuple[int, int]:
    """(1, 32) of "1.32.0"."""
    numbers = [int(number) for number in re.findall(r"\d+", text)[:2]]
    return (numbers[0], numbers[1]) if len(numbers) > 1 else (0, 0)


def specs(arguments: Iterable[Any], kind: str) -> tuple[TensorSpec, ...]:
    """The specs of a session's inputs or outputs (``kind``, for the message).

    Raises UnsupportedError for what isn't a tensor of one of numpy's types.
    """
    found = []
    for argument in arguments:
        match = re.fullmatch(r"tensor\((\w+)\)", argument.type)
        dtype = DTYPES.get(match.group(1)) if match else None
        if dtype is None:
            raise UnsupportedError(
                f"{kind} {argument.name} is {argument.type}, which has no numpy equivalent here"
            )
        shape = tuple(dim if isinstance(dim, (int, str)) else None for dim in argument.shape or ())
        found.append(TensorSpec(argument.name, dtype, shape))
    return tuple(found)


FALLBACK = "assigned to the default CPU EP"
GET_DRIVER = "install an NVIDIA driver that is new enough, so that nvidia-smi lists the GPU"
LET_THEM = "set the option cpu-fallback=on to let those nodes run on the CPU"

_SIGNS: tuple[tuple[str, type[BackendError], str, Optional[str]], ...] = (
    (
        (
            r"Failed to allocate memory|bad_alloc|out of ?memory|ALLOC_FAILED"
            r"|cudaErrorMemoryAllocation"
            r"|Available memory of \d+ is smaller than requested bytes"
        ),
        OutOfMemoryError,
        "",
        None,
    ),
    (
        (
            r"libcuda\.so|no CUDA-capable device|driver version is insufficient"
            r"|CUDA failure (35|100|222|803)\b"
            r"|initialization failure with error: (35|100|222|803)\b"
        ),
        UnavailableError,
        "{device}: ",
        GET_DRIVER,
    ),
    (
        (
            r"Failed to create \w+ExecutionProvider|invalid device ordinal"
            r"|CUDA failure (46|101|209)\b|only supports RTX devices"
            r"|Please install TensorRT libraries"
            r"|Error loading .*providers|LoadLibrary failed|Failed to load library"
            r"|does not support GPU with Compute Capability"
        ),
        UnavailableError,
        "{device}: ",
        "enginepick devices",
    ),
    (
        r"The requested API version \[\d+\] is not available",
        UnavailableError,
        "{device}: onnxruntime is older than the plug-in wants: ",
        "pip install --upgrade onnxruntime",
    ),
    (
        "cannot use the graph capture feature",
        UnsupportedError,
        "",
        "set the option cuda-graph=off",
    ),
    (FALLBACK, UnsupportedError, "{device} can't run every node of this model: ", LET_THEM),
    (
        r"ORT format model version \[\d+\] is not supported",
        UnsupportedError,
        "",
        "convert the model to .ort again, with this onnxruntime",
    ),
    (
        r"ORT model verification failed|Protobuf parsing failed",
        BackendError,
        "the model file is damaged, or of another kind than its suffix says: ",
        None,
    ),
    (
        (
            r"is not a registered function/op|No Op registered for"
            r"|Could not find an implementation for|Failed to find kernel for"
            r"|guarantees\W* support for models stamped with"
            r"|under development and support for this is limited|Unsupported model IR version"
            r"|Non-zero zero point is not supported|NOT_IMPLEMENTED"
        ),
        UnsupportedError,
        "",
        None,
    ),
)
"""What a text means: a pattern, the error, what goes before the text, and the next command."""


def classified(fault: Exception, device: str) -> Exception:
    """What a fault of the runtime means: one of our errors, or itself where it is just a fault.

    ONNX Runtime's classes derive from Exception alone and say little: the text decides.
    """
    if isinstance(fault, BackendError):
        return fault
    text = _said(str(fault))
    if isinstance(fault, MemoryError):
        return OutOfMemoryError(text or "out of memory")
    for pattern, kind, before, fix in _SIGNS:
        if re.search(pattern, text, re.IGNORECASE):
            return kind(before.format(device=device) + text, fix)
    return fault


def _said(text: str) -> str:
    """What a text says, without the functions of the runtime's source that it passed through."""
    text = " ".join(text.split())
    text = re.sub(r"^.*(?=CUDA failure \d+:)| ; hostname=\S+", "", text)
    text = re.sub(r"^/onnxruntime_src/.*(?=\[ONNXRuntimeError\]|Please install )", "", text)
    return text[:_WORST_TEXT]
