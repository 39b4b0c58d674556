"""What crosses the worker's pipe comes back equal, and nothing else is taken."""

from __future__ import annotations

import dataclasses
import json
import typing
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import jobs, types, wire

KINDS = [
    kind
    for module in (jobs, types)
    for kind in vars(module).values()
    if dataclasses.is_dataclass(kind) and isinstance(kind, type)
]

PLAIN = wire.encode(types.Settings())


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type hint."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Union:
        return st.one_of([st.none() if a is type(None) else values(a) for a in args])
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(values(args[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, args))
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{f.name: values(hints[f.name]) for f in dataclasses.fields(kind)})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(list(kind))
    plain = {
        str: st.text(max_size=8),
        int: st.integers(),
        bool: st.booleans(),
        float: st.floats(allow_nan=False, allow_infinity=False),
    }
    return plain[kind]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_value_comes_back(kind, data):
    value = data.draw(values(kind))
    assert wire.decode(kind, json.loads(json.dumps(wire.encode(value)))) == value


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (types.Share, {"name": "x", "count": 1, "more": 2}),
        (types.Share, {"name": "x"}),
        (types.Share, {"name": 1, "count": 1}),
        (types.Share, {"name": "x", "count": True}),
        (types.Share, {"name": "x", "count": 1.5}),
        (types.Settings, {**PLAIN, "options": [["a"]]}),
        (types.Settings, {**PLAIN, "options": [["a", "b", "c"]]}),
        (types.Settings, {**PLAIN, "threads": True}),
        (types.Settings, {**PLAIN, "scenario": "other"}),
        (types.Settings, {**PLAIN, "threads": "two"}),
    ],
)
def test_what_does_not_fit_is_refused(kind, value):
    with pytest.raises((TypeError, ValueError)):
        wire.decode(kind, value)


def test_a_whole_number_is_a_float_too():
    assert wire.decode(float, 3) == 3.0


def test_what_is_no_value_cannot_be_sent():
    with pytest.raises(TypeError, match="object can't cross"):
        wire.encode({"x": object()})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=20)
@given(data=st.data())
def test_a_field_that_lacks_or_is_too_many_is_another_versions(kind, data):
    picture = wire.encode(data.draw(values(kind)))
    name = data.draw(st.sampled_from(sorted(picture)))
    with pytest.raises(TypeError, match=f"lacks its field {name}"):
        wire.decode(kind, {key: value for key, value in picture.items() if key != name})
    with pytest.raises(TypeError, match="has no field another"):
        wire.decode(kind, {**picture, "another": 1})


@pytest.mark.parametrize("value", [None, [], ["name", "count"], "name", 3])
def test_only_an_object_is_a_dataclass(value):
    with pytest.raises(TypeError, match="expected the fields of Share"):
        wire.decode(types.Share, value)


@pytest.mark.parametrize("value", ["ab", {"a": 1}, 3, None])
def test_only_a_list_is_a_tuple(value):
    # A string of two characters would else pass for a pair of strings.
    for kind in (tuple[str, str], tuple[str, ...]):
        with pytest.raises(TypeError, match="expected a list"):
            wire.decode(kind, value)


def test_unions_take_the_first_member_that_fits():
    shape = {"name": "x", "dtype": "float32", "shape": [1, "n", None]}
    assert wire.decode(types.TensorSpec, shape).shape == (1, "n", None)
    for odd in (True, 1.5, [1]):
        with pytest.raises(TypeError, match="is none of"):
            wire.decode(types.TensorSpec, {**shape, "shape": [odd]})
