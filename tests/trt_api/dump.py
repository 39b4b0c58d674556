"""What one module of TensorRT's bindings holds, as JSON: run with ``MODULE`` in a fresh process.

pybind11 writes each signature into the docstring, which is all that the bindings say of theirs.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from types import ModuleType
from typing import Any

INHERITED = set(dir(object)) | {"__module__", "__entries"}


def dumped(module: ModuleType) -> dict[str, Any]:
    """Its classes by name (``ILogger.Severity`` for a nested one), functions and values."""
    classes: dict[str, Any] = {}
    functions: dict[str, list[str]] = {}
    values: dict[str, str] = {}
    for name, value in vars(module).items():
        if inspect.isclass(value):
            _add_class(classes, name, value)
        elif inspect.ismodule(value):
            continue
        elif callable(value):
            functions[name] = signatures(value)
        elif name == "__version__" or not name.startswith("__"):
            values[name] = type(value).__name__
    return {"classes": classes, "functions": functions, "values": values}


def _add_class(classes: dict[str, Any], path: str, cls: type) -> None:
    members = {}
    for name, value in vars(cls).items():
        if name in INHERITED - {"__init__"} or "_pybind11_" in name:
            continue
        if inspect.isclass(value):
            _add_class(classes, f"{path}.{name}", value)
            members[name] = {"kind": "class"}
        else:
            members[name] = _member(cls, value)
    classes[path] = {"bases": [base.__name__ for base in cls.__bases__], "members": members}


def _member(cls: type, value: Any) -> dict[str, Any]:
    if isinstance(value, cls):
        return {"kind": "value", "type": cls.__name__}  # of an enumeration
    if isinstance(value, property):
        returned = (value.fget.__doc__ or "").strip() if value.fget else ""
        return {"kind": "property", "signatures": [returned], "written": value.fset is not None}
    if isinstance(value, staticmethod):
        return {"kind": "static", "signatures": signatures(value.__func__)}
    if callable(value):
        return {"kind": "method", "signatures": signatures(value)}
    return {"kind": "value", "type": type(value).__name__}


def signatures(function: Any) -> list[str]:
    """The signatures that the docstring of one of pybind11's functions starts with.

    Those of a function written in Python are Python's own.
    """
    name = function.__name__
    if inspect.isfunction(function):
        return [name + str(inspect.signature(function))]
    lines = (function.__doc__ or "").strip().splitlines()
    if "Overloaded function." not in lines:
        return [line for line in lines[:1] if line.startswith(f"{name}(")]
    numbered = (line.partition(". ") for line in lines)
    return [text for digits, _, text in numbered if digits.isdigit() and text.startswith(name)]


if __name__ == "__main__":
    json.dump(dumped(importlib.import_module(sys.argv[1])), sys.stdout)
