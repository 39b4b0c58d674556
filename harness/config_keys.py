"""The keys of a configuration file, and pydantic's errors about them in the user's words.

:func:`list_keys` is what the documentation's tables and the hints of errors are made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Optional, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from harness.config_values import Reader, did_you_mean, found
from harness.errors import Problem

KeyPath = tuple[Union[str, int], ...]

_MISSING: dict[KeyPath, tuple[str, str]] = {
    ("model",): ("no model is named", "enginepick sweep MODEL --data DATA"),
    ("data",): ("no data is named", "enginepick sweep MODEL --data DATA"),
    ("targets",): ("no target is defined; expected at least one", "add a table [targets.local]"),
}
_OPTIONS = {
    "model": "MODEL",
    "backends": "--backend",
    "precisions": "--precision",
    "engines": "--engine",
    "devices": "--device",
}


@dataclass(frozen=True)
class Key:
    """One key of a file. path: ``NAME`` stands for a name that the user chooses."""

    path: tuple[str, ...]
    expects: str
    default: str
    meaning: str


def list_keys(table: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[Key]:
    """Every key of a file, in the order of the models; tables are entered."""
    for name, info in _fields(table).items():
        inner, names = _inner_table(info.annotation)
        path = (*above, name, *names)
        if inner is not None:
            yield from list_keys(inner, path)
        else:
            required = "required" if info.is_required() else _shown(info)
            yield Key(path, _expects(info), required, info.description or "")


def _shown(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True)
    return "none" if value is None or value in ((), {}, "") else found(value)


def _fields(table: type[BaseModel]) -> dict[str, FieldInfo]:
    return {info.alias or name: info for name, info in table.model_fields.items()}


def _inner_table(annotation: Any) -> tuple[Optional[type[BaseModel]], tuple[str, ...]]:
    """The table below a key, and the placeholder of the names between them, if any."""
    if get_origin(annotation) is Mapping:
        inner, _ = _inner_table(get_args(annotation)[1])
        return inner, ("NAME",) if inner else ()
    if get_origin(annotation) is Union:
        return _inner_table(get_args(annotation)[0])
    is_table = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return (annotation if is_table else None), ()


def _expects(info: FieldInfo) -> str:
    readers = [one.expects for one in info.metadata if isinstance(one, Reader)]
    return readers[0] if readers else _expects_of(info.annotation)


def _expects_of(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        readers = [one.expects for one in args[1:] if isinstance(one, Reader)]
        return readers[0] if readers else _expects_of(args[0])
    if origin is Union:
        return _expects_of(args[0])
    if origin is tuple:
        return f"a list, each {_expects_of(args[0])}"
    if origin is Mapping:
        return f"a table, each {_expects_of(args[1])}"
    return str(annotation)


def explain(
    error: ValidationError,
    model: type[BaseModel],
    data: Mapping[str, Any],
    source: Optional[str],
    given: set[KeyPath],
) -> list[Problem]:
    """One Problem per mistake that pydantic found.

    data: what was validated, under the file's keys. source: the file, or None where all came from
    the command line. given: the key paths that came from there.
    """
    problems = []
    for detail in error.errors(include_url=False):
        loc = tuple(part for part in detail["loc"] if part != "[key]")
        option = next((loc[:n] for n in range(1, len(loc) + 1) if loc[:n] in given), None)
        if option is None and source is None:
            option = loc[:1]
        where = f"{source}: {_key_path(loc, data)}" if option is None else _option(option)
        problems.append(Problem(where, *_what_and_fix(detail, model, loc)))
    return problems


def _key_path(loc: KeyPath, data: Any) -> str:
    """``targets.nuc.python`` or ``precisions[2]``, as the user wrote them."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            # a single value is read as a list of one; its user wrote no list
            text += f"[{part}]" if isinstance(data, list) else ""
            data = data[part] if isinstance(data, list) and part < len(data) else None
        else:
            name = part if re.fullmatch(r"[\w-]+", part) else found(part)
            text += f".{name}" if text else name
            data = data.get(part) if isinstance(data, Mapping) else None
    return text


def _option(path: KeyPath) -> str:
    """The command line's option for a key."""
    named = ".".join(map(str, path)) if path[0] == "python" else str(path[-1])
    return _OPTIONS.get(named, f"--{named.replace('_', '-')}")


def _what_and_fix(
    detail: ErrorDetails, model: type[BaseModel], loc: KeyPath
) -> tuple[str, Optional[str]]:
    kind, value = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return _unknown_key(model, loc)
    if kind == "missing":
        nothing = f"no {loc[-1]} is given, and none is guessed"
        return _MISSING.get(loc, (nothing, None))
    if kind == "tuple_type":
        return f"found {found(value)}; expected a list, such as [{found(value)}]", None
    if kind in {"model_type", "mapping_type", "dict_type"}:
        return f"found {found(value)}; expected a table", None
    return detail["msg"], None


def _unknown_key(model: type[BaseModel], loc: KeyPath) -> tuple[str, str]:
    table, parts = model, iter(loc[:-1])
    for part in parts:
        annotation = _fields(table)[str(part)].annotation
        inner, names = _inner_table(annotation)
        for _ in names:
            next(parts, None)
        table = inner or table
    word, known = str(loc[-1]), list(_fields(table))
    fix = f"known keys here: {', '.join(known)}"
    homes = [key.path[:-1] for key in list_keys(model) if key.path[-1] == word]
    if homes:
        place = (
            f"in [{'.'.join(homes[0])}]"
            if homes[0]
            else "at the top of the file, above the first [table]"
        )
        return f"unknown key here; it belongs {place}", fix
    hint = did_you_mean(word, known)
    return "unknown key" + (f"; {hint}" if hint else ""), fix
