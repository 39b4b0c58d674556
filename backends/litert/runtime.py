"""LiteRT itself: how it is imported, what its errors mean, and whether it has float16 here."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
import warnings
from collections.abc import Iterator
from typing import Any, Optional

from backends.machine import cpu_flags
from harness.errors import BackendError, OutOfMemoryError, UnavailableError, UnsupportedError

INSTALL = 'pip install "enginepick[litert]"'
SETUP = "enginepick setup litert"
UPGRADE = "pip install --upgrade ai-edge-litert"
CONVERT_AGAIN = "convert the model again without it: only LiteRT's built-in operators can be run"
LET_THEM = "set the option cpu-fallback=on to let those operators run on the CPU"

_WORST_TEXT = 1500


def load() -> Any:
    """The module ``ai_edge_litert.interpreter``. Raises UnavailableError with the reason."""
    try:
        with quiet():
            from ai_edge_litert import interpreter
    except Exception as fault:  # broken installations raise much more than ImportError
        raise UnavailableError(f"ai_edge_litert can't be imported: {fault}", INSTALL) from fault
    return interpreter


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What Python code of the vendor's prints and warns about, such as progress, is dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield


_BROKEN = "the model file is damaged, or isn't a .tflite file: "  # the runtime's words follow

_SIGNS: tuple[tuple[str, type[BackendError], str, Optional[str]], ...] = (
    (
        r"bad_alloc|out of memory|OutOfMemory|cannot allocate|MemoryAllocation",
        OutOfMemoryError,
        "",
        None,
    ),
    (
        r"unresolved custom op: (?P<op>[^\s]+?)\.?(\s|$)",
        UnsupportedError,
        "LiteRT has no kernel for the custom operator {op}",
        CONVERT_AGAIN,
    ),
    (
        r"Select TensorFlow op.*number \d+ \((Flex)?(?P<op>\w+)\)",
        UnsupportedError,
        "LiteRT has no kernel for TensorFlow's operator {op} (it needs the Flex delegate)",
        CONVERT_AGAIN,
    ),
    (
        r"Didn't find op for builtin opcode '(?P<op>\w+)' version '(?P<version>\d+)'",
        UnsupportedError,
        "this LiteRT has no operator {op} of version {version}",
        UPGRADE,
    ),
    (
        r"Op builtin_code out of range: (?P<op>\d+)",
        UnsupportedError,
        "this LiteRT has no operator of the number {op}: the file is newer",
        UPGRADE,
    ),
    (
        r"Some ops are not accelerated",
        UnsupportedError,
        "{device} can't run every operator of this model",
        LET_THEM,
    ),
    (
        (
            r"valid Flatbuffer|is null/empty|mmap of size 0|Did not get \w+|no subgraph"
            r"|invalid (subgraph|tensor|input|output) index|(invalid|unknown) subgraph"
        ),
        BackendError,
        _BROKEN + "{text}",
        None,
    ),
    (
        r"Node number \d+ \((?P<op>\w+)\) failed to prepare",
        UnsupportedError,
        "LiteRT can't prepare the operator {op}: {text}",
        None,
    ),
    (
        r"Failed to set custom allocation for output",
        UnsupportedError,
        "the shape of an output depends on the inputs' values, which CompiledModel can't give",
        None,
    ),
    (
        r"ResizeInputTensorStrict|failed to prepare|Failed to resize",
        UnsupportedError,
        "{text}",
        None,
    ),
)
"""What a text means: a pattern, the error, its words, the next command. The first one counts."""


def classified(fault: Exception, device: str = "cpu") -> Exception:
    """What a fault of the runtime means: one of our errors, or itself where it is just a fault.

    LiteRT raises RuntimeError and ValueError alike: the text decides.
    """
    if isinstance(fault, BackendError):
        return fault
    text = said(str(fault))
    if isinstance(fault, MemoryError):
        return OutOfMemoryError(text or "out of memory")
    for pattern, kind, words, fix in _SIGNS:
        match = re.search(pattern, text, re.IGNORECASE)
        if match:
            return kind(words.format(device=device, text=text, **match.groupdict()), fix)
    return fault


def said(text: str) -> str:
    """What a text says, in one line, without the places in the source that it passed through."""
    text = re.sub(r"ERROR: \[[^\]]*\]|[└\n]|See instructions: \S+", " ", text)
    return " ".join(text.split())[:_WORST_TEXT]


def has_float16() -> bool:
    """Whether the CPU computes in float16 itself; False where the system doesn't tell."""
    if platform.machine().lower() == "arm64" and platform.system() == "Darwin":
        return True  # all of Apple's do
    return bool({"avx512_fp16", "asimdhp"} & (cpu_flags() or frozenset()))


@contextlib.contextmanager
def native_log(lines: list[str]) -> Iterator[None]:
    """Collect what native code writes to stderr: it names operators that errors don't."""
    import tempfile

    with tempfile.TemporaryFile() as log:
        before = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            log.seek(0)
            lines += log.read().decode("utf-8", errors="replace").splitlines()
