"""How a model gets into a format that a backend reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.routes import NoRoute, Tool, find, on_the_way
from harness.types import Probe, Status


def tool(name: str, source: str, target: str) -> Tool:
    return Tool(name, source, target, Probe(name))


def missing(each: Tool) -> Tool:
    probe = Probe(each.name, problem=f"no {each.name}", fix=f"enginepick setup {each.name}")
    return replace(each, probe=probe)


ONNX2TF = tool("onnx2tf", "onnx", "tflite")
LITERT_TORCH = tool("litert-torch", "pt2", "tflite")
TORCH_ONNX = tool("torch-onnx", "pt2", "onnx")
ONNX2FX = tool("onnx2fx", "onnx", "pt2")
ALL = (ONNX2TF, LITERT_TORCH, TORCH_ONNX, ONNX2FX)


def names(route):
    assert not isinstance(route, NoRoute), route
    return [each.name for each in route]


def test_what_is_read_as_it_is_is_not_converted():
    assert names(find("tflite", ["onnx", "tflite"], ALL)) == []


def test_the_shortest_way_is_taken():
    assert names(find("onnx", ["tflite"], ALL)) == ["onnx2tf"]
    assert names(find("pt2", ["tflite"], ALL)) == ["litert-torch"]


def test_a_longer_way_is_taken_where_the_short_one_is_not_installed():
    tools = (ONNX2TF, missing(LITERT_TORCH), TORCH_ONNX)
    assert names(find("pt2", ["tflite"], tools)) == ["torch-onnx", "onnx2tf"]


def test_what_is_missing_is_named_with_the_command():
    found = find("onnx", ["tflite"], (missing(ONNX2TF),))
    assert isinstance(found, NoRoute)
    assert found.status is Status.UNAVAILABLE
    assert found.fix == "enginepick setup onnx2tf"
    assert "no onnx2tf" in found.reason


def test_where_nothing_converts_it_is_said():
    found = find("tflite", ["onnx"], ALL)
    assert isinstance(found, NoRoute)
    assert found.status is Status.UNSUPPORTED
    assert "from tflite" in found.reason


@pytest.mark.parametrize(
    ("given", "wanted", "converters"),
    [
        ("onnx", ["onnx"], set()),
        ("onnx", ["onnx", "tflite"], {"onnx2tf", "onnx2fx", "litert-torch"}),
        ("pt2", ["pt2", "onnx"], {"torch-onnx"}),
        ("tflite", ["tflite", "onnx"], set()),
    ],
)
def test_only_converters_on_the_way_are_of_interest(given, wanted, converters):
    assert on_the_way(given, wanted, ALL) == converters


FORMATS = st.sampled_from(["a", "b", "c", "d"])
TOOLS = st.lists(st.builds(tool, st.just("t"), FORMATS, FORMATS), max_size=8)


@given(FORMATS, st.lists(FORMATS, min_size=1), TOOLS)
def test_a_route_leads_from_one_to_the_other(given_format, wanted, tools):
    route = find(given_format, wanted, tools)
    if isinstance(route, NoRoute):
        assert given_format not in wanted
        return
    place = given_format
    for each in route:
        assert each.source == place
        place = each.target
    assert place in wanted
    assert len({each.target for each in route}) == len(route)


@pytest.mark.parametrize("wanted", [["onnx", "tflite"], ["tflite", "onnx"]])
def test_of_equal_routes_the_better_format_is_taken(wanted):
    assert find("pt2", wanted, ALL)[-1].target == wanted[0]
