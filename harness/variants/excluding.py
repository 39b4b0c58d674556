"""Which nodes stay in floating point, told by names of the user's model.

Preparing a model fuses nodes, so that what the user named may be a part of another node by then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from harness.errors import UnsupportedError
from harness.variants.files import nodes_of

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""What quantization is for; the other operators follow."""

PAIR = ("QuantizeLinear", "DequantizeLinear")


def in_floats(nodes: Iterable[Any]) -> list[Any]:
    """The nodes that compute in floating point: no Q/DQ, nor what reads only dequantized values."""
    nodes = list(nodes)
    dequantized = {name for node in nodes if node.op_type == PAIR[1] for name in node.output}
    return [
        node
        for node in nodes
        if node.op_type not in PAIR
        and not dequantized.issuperset(node.input[: 2 if node.op_type in WEIGHTED else 1] or [""])
    ]


def excluded(source: str, prepared: str, params: Mapping[str, str]) -> list[str]:
    """The names of the prepared model's nodes that the recipe's ``exclude`` means.

    Each of its names is an operator type, a node or a value that a node computes, of the prepared
    model or of the source. Raises UnsupportedError for a name that is none of these.
    """
    wanted = json.loads(params.get("exclude", "[]"))
    if not wanted:
        return []
    before, after = nodes_of(source), nodes_of(prepared)
    found: set[str] = set()
    for name in wanted:
        here = {node.name for node in after if _is(node, name)}
        there = [node for node in before if _is(node, name)]
        if not here and not there and not _is_operator(name):
            raise UnsupportedError(f"exclude: no operator type, node or value is called {name!r}")
        found |= here
        is_type = any(node.op_type == name for node in there)
        # An Add that became a Gemm's bias takes no product along, when Adds are excluded.
        if name in WEIGHTED if is_type else not here:
            found |= _survivors(there, before, after)
    return sorted(found)


def _is(node: Any, name: str) -> bool:
    return name in (node.op_type, node.name, *node.output)


def _is_operator(name: str) -> bool:
    from onnx import defs

    return bool(defs.has(name))


def _survivors(nodes: Iterable[Any], before: Iterable[Any], after: Iterable[Any]) -> set[str]:
    """The prepared nodes that compute what became of these: their values, or the next ones."""
    makers = {value: node.name for node in after for value in node.output}
    readers: dict[str, list[Any]] = {}
    for node in before:
        for value in node.input:
            readers.setdefault(value, []).append(node)
    left, seen, found = list(nodes), set[str](), set[str]()
    while left:
        node = left.pop()
        made = [makers[value] for value in node.output if value in makers]
        found.update(made)
        if made:
            continue
        for value in set(node.output) - seen:
            seen.add(value)
            left += readers.get(value, [])
    return found
