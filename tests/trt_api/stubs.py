"""A name-level stub of TensorRT's bindings out of what :mod:`dump` saw.

It says which classes, members and functions there are, how many parameters they take and how
those are named, and of which of the bindings' classes the results are. Everything else is Any.
A result is ``Class | Any``: its attributes are checked, and ``is None`` stays a question.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from typing import Any

NUMPY = """from typing import Any, Generic, TypeVar
S, T = TypeVar("S"), TypeVar("T")
class ndarray(Generic[S, T]):
    def __getattr__(self, name: str) -> Any: ...
def __getattr__(name: str) -> Any: ...
"""
"""Arrays of which nothing is checked: numpy itself takes mypy seconds each time."""

_OPENING, _CLOSING = "([{<", ")]}>"


def stub(api: dict[str, Any]) -> str:
    """The text of ``tensorrt.pyi``."""
    lines = ["from typing import Any, ClassVar, Never, overload"]
    known = {path.rpartition(".")[2]: path for path in sorted(api["classes"], reverse=True)}
    for path in api["classes"]:
        if "." not in path:
            lines += _class(api, known, path)
    for name, signatures in api["functions"].items():
        lines += _function(known, name, signatures, [])
    lines += [f"{name}: {_result(known, kind)}" for name, kind in api["values"].items()]
    return "\n".join(lines) + "\n"


def _class(api: dict[str, Any], known: dict[str, str], path: str) -> list[str]:
    described = api["classes"][path]
    bases = [base for base in described["bases"] if base in known]
    lines = [f"class {path.rpartition('.')[2]}({', '.join(bases)}):", "    pass"]
    for name, member in described["members"].items():
        body = (
            _class(api, known, f"{path}.{name}")
            if member["kind"] == "class"
            else _member(known, name, member)
        )
        lines += ["    " + line for line in body]
    return lines


def _member(known: dict[str, str], name: str, member: dict[str, Any]) -> list[str]:
    kind = member["kind"]
    if kind == "value" or name == "__members__":
        return [f"{name}: ClassVar[{_result(known, member.get('type', ''))}]"]
    if kind == "property":
        result = _result(known, member["signatures"][0].rpartition("->")[2])
        if member["written"]:
            return [f"{name}: {result}"]
        return ["@property", f"def {name}(self) -> {result}: ..."]
    if name == "__init__" and not member["signatures"]:  # made by the library's own functions
        return ["def __init__(self, no_constructor: Never) -> None: ..."]
    decorators = ["@staticmethod"] if kind == "static" else []
    return _function(known, name, member["signatures"], decorators)


def _function(
    known: dict[str, str], name: str, signatures: list[str], decorators: list[str]
) -> list[str]:
    if not signatures:
        return [*decorators, f"def {name}(*args: Any, **kwargs: Any) -> Any: ..."]
    lines = []
    for signature in signatures:
        lines += ["@overload"] if len(signatures) > 1 else []
        parameters = ", ".join(_parameters(signature))
        result = "None" if name == "__init__" else _result(known, returned(signature))
        lines += [*decorators, f"def {name}({parameters}) -> {result}: ..."]
    return lines


def _result(known: dict[str, str], name: str) -> str:
    """The class that the bindings call so, or that C++ does (``nvonnxparser::IParserError``)."""
    last = re.split(r"[.:]", name.strip())[-1]
    path = known.get(last) or known.get(last.removeprefix("I"))
    return f"{path} | Any" if path else "Any"


def returned(signature: str) -> str:
    """What is behind the arrow, "" where there is none."""
    return signature.rpartition(") -> ")[2] if ") -> " in signature else ""


def _parameters(signature: str) -> list[str]:
    texts = [text.strip() for text in split(signature)]
    parameters = []
    optional = False  # C++ has required ones after those with a default
    for position, text in enumerate(texts):
        name = text.partition(":")[0].partition("=")[0].strip()
        bare = name.lstrip("*")
        if text in {"*", "/"}:
            parameters.append(text)
            continue
        optional = optional or "=" in text
        name += "_" if keyword.iskeyword(bare) else ""
        parameters.append(f"{name}: Any" + (" = ..." if optional else ""))
        unnamed = bool(re.fullmatch(r"arg\d+", bare))
        last = position + 1 == len(texts)
        if unnamed and (last or not re.match(r"arg\d+\b", texts[position + 1])):
            parameters.append("/")
    return parameters


def split(signature: str) -> Iterator[str]:
    """The parameters of ``name(self: A, b: List[int, str] = <E.X: 0>) -> R``, one by one."""
    depth, part = 0, ""
    for char in signature.partition("(")[2]:
        depth += (char in _OPENING) - (char in _CLOSING)
        if depth < 0:
            break
        if char == "," and depth == 0:
            yield part
            part = ""
        else:
            part += char
    if part.strip():
        yield part
