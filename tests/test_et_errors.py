"""What ExecuTorch's errors are taken for; needs no ExecuTorch."""

from __future__ import annotations

import sys

import pytest

from backends.et import BACKEND
from backends.et.runtime import classified
from backends.flatbuffer import Table
from harness.errors import BackendError, OutOfMemoryError, UnsupportedError


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("Missing out variants: {'aten::foo', 'aten::bar'}", UnsupportedError, "aten::bar, aten"),
        (
            "Operator torch._ops.aten.erfinv.default is not in Core ATen opset (https://...)",
            UnsupportedError,
            "no operator aten.erfinv.default",
        ),
        ("Failed to load program, error: 0x:23", BackendError, "no valid ExecuTorch program"),
        ("Failed to execute method forward, error: 0x10", UnsupportedError, "shape"),
        (
            "loading method forward failed with error 0x14, error: 0x14",
            UnsupportedError,
            "operator",
        ),
        ("Failed to load method, error: 0x:21", OutOfMemoryError, "memory"),
        ("method->execute() failed with error 0x1", BackendError, "internal error"),
        ("DefaultCPUAllocator: can't allocate memory: you tried", OutOfMemoryError, "you tried"),
        ("something else", BackendError, "something else"),
    ],
)
def test_codes_are_said_in_words(text: str, kind: type[BackendError], says: str):
    found = classified(RuntimeError(text), "it failed")
    assert type(found) is kind
    assert says in str(found)
    assert str(found).startswith("it failed: ")


def test_a_violation_of_the_dialect_is_unsupported_however_deep():
    class SpecViolationError(Exception):
        pass

    error = RuntimeError("lowering failed: aten.foo")
    error.__cause__ = SpecViolationError("operator aten.foo is not in the core set")
    assert isinstance(classified(error, "source"), UnsupportedError)


def test_sizes_that_depend_on_values_are_unsupported():
    kind = type("GuardOnDataDependentSymNode", (Exception,), {})
    found = classified(kind("Could not guard on u7 < 1"), "source")
    assert isinstance(found, UnsupportedError)
    assert "sizes depend on values" in str(found)


def test_without_the_runtime_the_probe_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "executorch.extension.pybindings._C", None)
    probe = BACKEND.probe()
    assert "executorch" in (probe.problem or "")
    assert probe.fix == "enginepick setup executorch"


@pytest.mark.parametrize("data", [b"", b"\x04\0\0\0", b"\xff" * 64, b"\x08\0\0\0" + b"\0" * 4])
def test_a_broken_flatbuffer_is_a_value_error(data: bytes):
    def read() -> None:
        table = Table.root(memoryview(data))
        for field in range(8):
            table.number(field)
            table.table(field)
            table.numbers(field)
            list(table.tables(field))
            table.text(field)
        raise ValueError("nothing is there")

    with pytest.raises(ValueError, match=r"beyond|before|longer|nothing|ends"):
        read()
