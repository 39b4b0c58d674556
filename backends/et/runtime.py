"""ExecuTorch's runtime: loading it, its threads, and what its errors say in words."""

from __future__ import annotations

import importlib
import re
import threading
import weakref
from typing import Any, Optional

from backends.convert.pt2 import chain, quiet, refuse_memory
from harness.errors import BackendError, OutOfMemoryError, UnavailableError, UnsupportedError

INSTALL = "enginepick setup executorch"
XNNPACK = "XnnpackBackend"

_CODES = {
    0x01: "internal error",
    0x02: "invalid state",
    0x10: "not supported, or a shape that the program wasn't made for",
    0x11: "not implemented",
    0x12: "invalid argument",
    0x13: "invalid type",
    0x14: "an operator is missing in this runtime",
    0x20: "not found: a backend or a method that this runtime lacks",
    0x21: "memory allocation failed",
    0x22: "the file can't be read",
    0x23: "it is no valid ExecuTorch program, or one of another version",
    0x24: "its external data are invalid",
    0x25: "out of resources",
    0x30: "a delegate's part was made for another version of it",
    0x31: "a delegate couldn't get memory",
    0x32: "invalid handle of a delegate",
}
"""``executorch/runtime/core/error.h``."""

_UNSUPPORTED, _MEMORY = {0x10, 0x11, 0x13, 0x14, 0x20, 0x30}, {0x21, 0x25, 0x31}

_CODE = re.compile(r"error:? 0x:?([0-9a-fA-F]+)")

_MISSING = re.compile(r"Missing out variants: \{([^}]*)\}")

_NOT_CORE = re.compile(r"Operator torch\._ops\.([\w.]+) is not in Core ATen opset")

_BY_VALUE = "GuardOnDataDependentSymNode"

_sessions: weakref.WeakSet[Any] = weakref.WeakSet()
_lock = threading.Lock()


def load() -> Any:
    """The runtime's Python module. Raises UnavailableError with the command that mends it.

    This is what ``executorch.extension.pybindings.portable_lib`` re-exports, which also imports
    ExecuTorch's compiler: seconds, and memory that no inference needs.
    """
    try:
        with quiet():
            importlib.import_module("torch")
            return importlib.import_module("executorch.extension.pybindings._C")
    except Exception as error:
        raise UnavailableError(f"executorch can't be imported: {error}", INSTALL) from error


def code_of(error: BaseException) -> Optional[int]:
    """ExecuTorch's error code in a message."""
    found = _CODE.search(str(error))
    return int(found[1], 16) if found else None


def classified(error: BaseException, what: str) -> BackendError:
    """The error of ours that says it; ``what`` is what was tried."""
    if isinstance(error, BackendError):
        return error
    operators = _operators(str(error))
    if operators:
        return UnsupportedError(f"{what}: ExecuTorch has no {operators}")
    text = re.sub(r"\s+", " ", str(error)).strip()[:600] or type(error).__name__
    code = code_of(error)
    if code is not None:
        words = _CODES.get(code, "unknown error")
        kind: type[BackendError] = BackendError
        kind = UnsupportedError if code in _UNSUPPORTED else kind
        kind = OutOfMemoryError if code in _MEMORY else kind
        return kind(f"{what}: {words} (0x{code:02x}: {text})")
    try:
        refuse_memory(error)
    except OutOfMemoryError as found:
        return OutOfMemoryError(f"{what}: {found}")
    names = {type(each).__name__ for each in chain(error)}
    if _BY_VALUE in names:
        text = f"sizes depend on values, for which memory can't be planned: {text}"
    if names & {"SpecViolationError", "ExportError", _BY_VALUE}:
        return UnsupportedError(f"{what}: {text}")
    return BackendError(f"{what}: {type(error).__name__}: {text}")


def _operators(text: str) -> str:
    """The operators that a message says are missing; empty where it says no such thing."""
    beyond = _NOT_CORE.search(text)
    if beyond:
        return f"operator {beyond[1]}"
    missing = _MISSING.search(text)
    names = sorted(each.strip(" '\"") for each in missing[1].split(",")) if missing else []
    return f"kernel for {', '.join(names)}" if names else ""


def use_threads(runtime: Any, session: object, threads: Optional[int]) -> None:
    """Give the process's one pool of threads the size that a session asks for; keep it in mind.

    A pool that sessions run on can't be made anew: they would go on with one that is freed. None:
    as it is, which is one thread per core at first.
    """
    with _lock:
        have = runtime._threadpool_get_thread_count()  # noqa: SLF001 - there is no other way
        if threads is not None and threads != have:
            if len(_sessions):
                raise BackendError(
                    f"ExecuTorch has one pool of threads per process: it has {have}, and other "
                    f"sessions run on it, so that none can be opened with {threads}"
                )
            runtime._unsafe_reset_threadpool(threads)  # noqa: SLF001
            have = runtime._threadpool_get_thread_count()  # noqa: SLF001
            if have != threads:
                raise UnsupportedError(f"asked for {threads} threads, but ExecuTorch has {have}")
        _sessions.add(session)


def release(session: object) -> None:
    """The session runs no more."""
    with _lock:
        _sessions.discard(session)
