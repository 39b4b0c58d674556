"""What an ONNX Runtime session really runs: its optimised graph, and who was given its nodes.

What the runtime was asked for says little: a Q/DQ model may run in float32 node by node, and a
float16 model is cast to float32 on a CPU without such kernels. So the graph is taken as it is
after all optimisations, where a quantized kernel is an operator of its own and a cast is a node.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any, Optional

from backends.ort.graph import Graph, Node, read
from backends.ort.openings import Opening, assigned
from backends.ort.operators import COMPUTE, QUANTIZED, WEIGHTS_ONLY
from backends.ort.providers import COMPILING, CPU, CUDA
from harness.types import Executed, Share

FLOAT, DOUBLE, FLOAT16, BFLOAT16 = 1, 11, 10, 16
_FLOATS = (FLOAT, FLOAT16, DOUBLE, BFLOAT16)
_NAMES = {
    FLOAT: "fp32", FLOAT16: "fp16", DOUBLE: "fp64", BFLOAT16: "bf16",
    2: "int8", 3: "int8", 4: "int16", 5: "int16", 6: "int32", 7: "int64", 12: "int32", 13: "int64",
}  # fmt: skip
"""Our names of ``TensorProto.DataType``."""

_MODEL_FILE, _WEIGHTS_FILE = "optimised.onnx", "optimised.bin"


def examine(ort: Any, path: str, opening: Opening) -> Optional[Executed]:
    """Open the engine once more with the same settings and look at what came out.

    None where the runtime tells nothing. Takes as long as loading the engine, and as much memory.
    """
    with tempfile.TemporaryDirectory(prefix="enginepick-") as folder:
        target = os.path.join(folder, _MODEL_FILE)  # noqa: PTH118 - as the runtime wants it
        options = _recording(opening.options(ort))
        options.optimized_model_filepath = target
        for key, value in (
            # Beside it, or a model beyond 2 GB could not be written.
            ("session.optimized_model_external_initializers_file_name", _WEIGHTS_FILE),
            ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ):
            options.add_session_config_entry(key, value)
        notes = []
        compiles = opening.provider in COMPILING  # and can't write its nodes
        session = None if compiles else _try(ort, path, opening, options)
        if session is None:
            target = ""
            session = _try(ort, path, opening, _recording(opening.options(ort)))
        if session is None:
            return None
        try:
            graph = read(target).graph if target else None
        except (OSError, ValueError) as fault:
            graph = None
            notes.append(f"the optimised graph can't be read: {fault}")
        providers = Counter(provider for provider, _ in assigned(session))
        del session
    return _told(graph, providers, opening, notes)


def _recording(options: Any) -> Any:
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _try(ort: Any, path: str, opening: Opening, options: Any) -> Any:
    """The session, or None: what can't be examined may run all the same."""
    try:
        return opening.session(ort, path, options)
    except Exception:  # noqa: BLE001 - whatever the reason, nothing is known
        return None


def _told(
    graph: Optional[Graph], providers: Counter[str], opening: Opening, notes: list[str]
) -> Optional[Executed]:
    operators: Counter[str] = Counter()
    precisions: Counter[str] = Counter()
    nodes = _count(graph, {}, operators, precisions) if graph is not None else 0
    devices: Counter[str] = Counter()
    for provider, count in providers.items():
        devices["cpu" if provider == CPU else opening.device] += count
    if providers:
        given = ", ".join(f"{count} nodes to {name}" for name, count in sorted(providers.items()))
        notes.append(f"its graph assignment gives {given}")
    elif nodes and (opening.provider == CPU or opening.confined):
        devices[opening.device] = nodes  # no other provider could have been given any
        notes.append(f"{opening.provider} alone was allowed")
    if operators:
        found = ", ".join(f"{count} {name}" for name, count in sorted(operators.items()))
        notes.append(f"the compute operators of its optimised graph are {found}")
    notes += _caveats(graph, opening)
    if not devices and not precisions:
        return None
    return Executed(_shares(devices), _shares(precisions), "ONNX Runtime: " + "; ".join(notes))


def _caveats(graph: Optional[Graph], opening: Opening) -> Iterator[str]:
    """What NVIDIA's providers leave unsaid."""
    if opening.provider in COMPILING:
        yield (
            f"{opening.provider} compiles its nodes and doesn't tell their precisions: its networks"
            " are strongly typed, so they are those of the model file"
        )
    yield from (f"{name}={value or 'unset'}" for name, value in opening.environment)
    if opening.provider == CUDA and graph and any(n.op == "QuantizeLinear" for n in graph.nodes):
        yield "CUDA runs Q/DQ models in floating point; provider=tensorrt has kernels for int8"
    if opening.cuda_graph:
        yield "a CUDA graph was asked for"


def _shares(counts: Counter[str]) -> tuple[Share, ...]:
    return tuple(Share(name, count) for name, count in sorted(counts.items()))


def _count(
    graph: Graph, outer: dict[str, int], operators: Counter[str], precisions: Counter[str]
) -> int:
    """Count a graph with its bodies, whose values see the ``outer`` ones; the number of nodes."""
    types = {**outer, **graph.types}
    nodes = len(graph.nodes)
    for node in graph.nodes:  # in topological order, as ONNX requires
        precision = precision_of(node, types)
        if precision is not None:
            operators[node.op] += 1
            precisions[precision] += 1
        for body in node.bodies:
            nodes += _count(body, types, operators, precisions)
        _propagate(node, types)
    return nodes


def precision_of(node: Node, types: dict[str, int]) -> Optional[str]:
    """The precision of a compute operation; None if it isn't one."""
    if node.op in QUANTIZED:
        return "int8"
    if node.op in WEIGHTS_ONLY:
        bits = node.ints.get("bits", WEIGHTS_ONLY[node.op])
        return f"int{bits}-weights"
    if node.op not in COMPUTE:
        return None
    return _NAMES.get(_leading(node, types), "unknown")


def _leading(node: Node, types: dict[str, int]) -> int:
    """The type that an operator's inputs have in common: the first floating one, else the first."""
    known = [types[name] for name in node.inputs if types.get(name)]
    floats = [element for element in known if element in _FLOATS]
    return (floats or known or [0])[0]


def _propagate(node: Node, types: dict[str, int]) -> None:
    """Give the outputs types: the optimised file declares few but those of weights and inputs.

    Right for what feeds compute operations; others may be off, and no one looks at them.
    """
    if node.op == "Cast":
        element = node.ints.get("to", 0)
    elif node.op in ("Constant", "ConstantOfShape"):
        element = node.tensor or FLOAT
    elif node.op in ("Shape", "Size", "NonZero", "ArgMax", "ArgMin"):
        element = 7
    elif node.op == "DequantizeLinear":
        element = types.get(node.inputs[1], FLOAT)
    elif node.op == "QuantizeLinear":
        element = types.get(node.inputs[2], 2) if len(node.inputs) > 2 else 2  # noqa: PLR2004
    else:
        element = _leading(node, types)
    for name in node.outputs:
        if name and element:
            types.setdefault(name, element)
