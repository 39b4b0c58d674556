"""What TensorRT says while it works, and what its errors mean."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Optional

from backends.trt.library import Library
from harness.errors import BackendError, OutOfMemoryError, UnavailableError, UnsupportedError

if TYPE_CHECKING:
    import tensorrt as trt

_ERRORS = ("INTERNAL_ERROR", "ERROR")
_LONGEST = 600

AHEAD = "enginepick build MODEL --backend tensorrt --compute-capability 8.9"
NO_DRIVER = (
    "install the NVIDIA driver (nvidia-smi must list the GPU); engines for another machine can be "
    f"built without one: {AHEAD}"
)

# What a host without a GPU logs besides the fault, at any moment.
_NOISE = re.compile(
    r"cuda ?(error|failure)? ?:? ?35\b|error: 35\b|initializ\w+ CUDA|CUDA initialization",
    re.IGNORECASE,
)
_CLASSES: tuple[tuple[re.Pattern[str], type[BackendError], Optional[str]], ...] = (
    (
        re.compile(
            r"out of memory|OutOfMemory|cudaErrorMemoryAllocation|bad_alloc|insufficient memory"
            r"|insufficient workspace|(could|can) ?not allocate|failed to allocate",
            re.IGNORECASE,
        ),
        OutOfMemoryError,
        'give the build less: [candidates.options.tensorrt] workspace = "512MB"',
    ),
    (
        re.compile(
            r"driver version is insufficient|but the current CUDA driver version is"
            r"|CUDA driver.*too old|requires .*driver|cudaErrorInsufficientDriver",
            re.IGNORECASE,
        ),
        UnavailableError,
        "update the NVIDIA driver, or install a release of TensorRT that is made for it",
    ),
    (
        re.compile(
            r"no CUDA-capable|cudaErrorNoDevice|libcuda|no driver|CUDA initialization failure"
            r"|cuda ?error:? ?(35|100)\b|error: (35|100)\b|cudaErrorStubLibrary",
            re.IGNORECASE,
        ),
        UnavailableError,
        NO_DRIVER,
    ),
    (
        re.compile(
            r"zero[- ]?point|must have type FP8|QuantizeLinear|DequantizeLinear|Q/?DQ"
            r"|IQuantizeLayer|IDequantizeLayer|asymmetric",
            re.IGNORECASE,
        ),
        UnsupportedError,
        'quantize for TensorRT (symmetric, no int32 biases): the recipe "qdq-portable" does',
    ),
    (
        re.compile(
            r"version tag|magic ?tag|plan file|serialization version|different device"
            r"|which is incompatible with the version|not compatible with this version"
            r"|different from the current device|incompatible device|but got compute capability"
            r"|different GPU architecture|cannot run on this GPU|current device is not compatible"
            r"|no kernel image|same version of TensorRT|deserializ",
            re.IGNORECASE,
        ),
        UnsupportedError,
        "build it again on this machine: enginepick build MODEL --backend tensorrt",
    ),
    (
        re.compile(
            r"no importer registered|not supported|unsupported|plugin not found"
            r"|can ?not find creator|could not find any implementation|no implementation"
            r"|is not implemented|assertion failed",
            re.IGNORECASE,
        ),
        UnsupportedError,
        None,
    ),
)
"""What a line of TensorRT's means, the first that fits: its error, and the next command."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect garbage now, and none within: around what makes TensorRT's builders and runtimes.

    Both take a lock of TensorRT's and call the logger, so Python, while they hold it. If garbage is
    collected there, and an earlier builder or runtime is part of it, it waits for that lock when it
    is destroyed: for ever.
    """
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Log:
    """A logger of TensorRT's that keeps what is said and prints nothing.

    logger: the vendor's object; it must live as long as anything that was made with it. lines:
    (severity by TensorRT's name, text), in order. verbose: whether to keep VERBOSE and INFO too.
    """

    def __init__(self, library: Library, *, verbose: bool = False) -> None:
        self.lines: list[tuple[str, str]] = []
        self.logger: trt.ILogger = _logger(library.module, self.lines, verbose=verbose)

    def text(self) -> str:
        """All that was said, without the severities."""
        return "\n".join(text for _, text in self.lines)

    def errors(self) -> list[str]:
        """Every error's first line, in order."""
        return [_first_line(text) for severity, text in self.lines if severity in _ERRORS]

    def first_error(self) -> Optional[str]:
        """TensorRT's first error line, which is the truth; what follows is its echo.

        That the host has no GPU is told only if nothing else is.
        """
        return first_of(self.errors())


def first_of(errors: Iterable[str]) -> Optional[str]:
    """The first error that isn't noise; else the first; None for none."""
    found = list(errors)
    return next((line for line in found if not _NOISE.search(line)), next(iter(found), None))


def classified(text: str, fix: Optional[str] = None) -> BackendError:
    """The error that a line of TensorRT's stands for.

    fix: the next command where it isn't the class's own. A line that no class knows gives a plain
    BackendError, which is recorded as failed.
    """
    line = _first_line(text)
    for sign, kind, usual in _CLASSES:
        if sign.search(line):
            return kind(line, fix or usual)
    return BackendError(line, fix)


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or ["no message"])[0][:_LONGEST]


def _logger(trt: Any, lines: list[tuple[str, str]], *, verbose: bool) -> Any:
    """An instance of a subclass of the vendor's class, which exists only once it is imported."""
    quiet = () if verbose else ("VERBOSE", "INFO")

    class Logger(trt.ILogger):  # type: ignore[misc]  # the vendor's class is Any here
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            name = str(severity).rpartition(".")[2].strip("<>").partition(":")[0]
            if name not in quiet:
                lines.append((name, msg))

    return Logger()
