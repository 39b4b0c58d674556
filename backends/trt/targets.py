"""GPUs by their compute capability: what they can do, and which of them a library builds for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from backends.trt.library import INSTALL, Library
from harness.errors import UnsupportedError
from harness.types import Precision

if TYPE_CHECKING:
    import tensorrt as trt

_FIRST_FP16, _NO_FP16 = (5, 3), (6, 1)  # consumer Pascal has half floats, at 1/64 of the speed
_INT8_PASCAL, _FIRST_INT8 = (6, 1), (7, 0)
_FIRST_TF32, _FIRST_FP8 = (8, 0), (8, 9)


def parsed(text: str) -> tuple[int, int]:
    """(8, 9) of ``8.9``.

    Raises:
        UnsupportedError: it isn't one.
    """
    match = re.fullmatch(r"(\d{1,2})\.(\d)", text)
    if not match:
        raise UnsupportedError(
            f"compute capability {text!r}: expected two numbers such as 8.9",
            "nvidia-smi --query-gpu=compute_cap --format=csv",
        )
    return int(match[1]), int(match[2])


def precisions(compute_capability: str) -> tuple[Precision, ...]:
    """What a GPU executes natively: "Hardware and Precision" of TensorRT's support matrices."""
    which = parsed(compute_capability)
    able = (
        (Precision.FP32, True),
        (Precision.TF32, which >= _FIRST_TF32),
        (Precision.FP16, which >= _FIRST_FP16 and which != _NO_FP16),
        (Precision.BF16, which >= _FIRST_TF32),
        (Precision.FP8, which >= _FIRST_FP8),
        (Precision.INT8, which == _INT8_PASCAL or which >= _FIRST_INT8),
    )
    return tuple(precision for precision, there in able if there)


def offered(library: Library) -> tuple[str, ...]:
    """The compute capabilities that the library builds ahead for; none for full TensorRT."""
    kinds = getattr(library.module, "ComputeCapability", None)
    names = (re.fullmatch(r"SM(\d+)(\d)", name) for name in dir(kinds))
    found = [(int(match[1]), int(match[2])) for match in names if match]
    return tuple(f"{major}.{minor}" for major, minor in sorted(found))


def aim(library: Library, config: trt.IBuilderConfig, compute_capability: str) -> None:
    """Make a builder's configuration build for one compute capability.

    Raises:
        UnsupportedError: the library doesn't build for it.
    """
    major, minor = parsed(compute_capability)
    able = offered(library)
    if f"{major}.{minor}" not in able:
        raise UnsupportedError(
            f"{library} builds no engine for compute capability {compute_capability}, "
            f"only for {', '.join(able)}",
            f"on the target itself, full TensorRT does: {INSTALL['tensorrt']}",
        )
    kinds = getattr(library.module, "ComputeCapability", None)
    if hasattr(config, "set_compute_capability") and hasattr(config, "num_compute_capabilities"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(kinds, f"SM{major}{minor}"), 0)
