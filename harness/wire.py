"""Frozen dataclasses to JSON and back, for the pipe between the parent and its workers.

Workers may be Python 3.9 without pydantic, so this is the standard library alone. Decoding is
driven by type hints and is strict: a missing or an unknown field is a TypeError, since it means
that the two ends are of different versions.
"""

from __future__ import annotations

import dataclasses
import typing
from enum import Enum
from typing import Any, TypeVar, Union

T = TypeVar("T")


def encode(value: object) -> Any:
    """A JSON-able picture of dataclasses, enums, tuples, lists, mappings and plain values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: encode(getattr(value, field.name)) for field in fields}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{type(value).__name__} can't cross the worker's pipe")


def decode(kind: type[T], value: Any) -> T:
    """Rebuild ``kind`` from :func:`encode`'s picture of it."""
    return typing.cast("T", _decode(kind, value))


def _decode(kind: Any, value: Any) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Union:
        return _decode_union(args, value)
    if origin is tuple:
        return _decode_tuple(args, value)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value)
    return _decode_plain(kind, value)


def _decode_tuple(args: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, list):  # a string has items too
        raise TypeError(f"expected a list, got {value!r}")
    if args[-1] is Ellipsis:
        return tuple(_decode(args[0], item) for item in value)
    if len(args) != len(value):
        raise TypeError(f"expected {len(args)} items, got {len(value)}")
    return tuple(_decode(arg, item) for arg, item in zip(args, value))


def _decode_plain(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return value


def _decode_union(args: tuple[Any, ...], value: Any) -> Any:
    if value is None and type(None) in args:
        return None
    for arg in args:
        if arg is type(None):
            continue
        try:
            return _decode(arg, value)
        except (TypeError, ValueError):
            continue
    raise TypeError(f"{value!r} is none of {args}")


def _decode_dataclass(kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise TypeError(f"expected the fields of {kind.__name__}, got {value!r}")
    hints = typing.get_type_hints(kind)
    fields = {field.name for field in dataclasses.fields(kind)}
    unknown, missing = set(value) - fields, fields - set(value)
    if unknown:
        raise TypeError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
    if missing:
        raise TypeError(f"{kind.__name__} lacks its field {', '.join(sorted(missing))}")
    return kind(**{name: _decode(hints[name], item) for name, item in value.items()})
