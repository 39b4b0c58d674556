"""What a file really runs: which operators XNNPACK took, and what the products are made in.

The interpreter keeps the file's operators and adds one for each part that a delegate took. Which
operators these stand for follows from their inputs and outputs: all that lies between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from backends.litert.flatfile import Graph, read
from harness.types import Executed, Share

_XNNPACK, _BUILTIN = "cpu:xnnpack", "cpu:builtin"


def on_cpu(
    interpreter: Any, path: str, *, fp16: Optional[bool] = None, shown: str = "its outputs"
) -> Optional[Executed]:
    """From an interpreter whose tensors are allocated.

    fp16: whether XNNPACK was seen to compute its part in float16; None where that wasn't asked.
    shown: what that was seen by.
    """
    graphs = read(path)
    main = graphs[0]
    try:
        details = interpreter._get_ops_details()  # noqa: SLF001 - nothing public tells
    except (AttributeError, ValueError, RuntimeError):
        return None
    nodes, delegates = details[: len(main.operators)], details[len(main.operators) :]
    if [node["op_name"] for node in nodes] != [op.name for op in main.operators]:
        return None  # not the order that this reads
    taken = _taken(main, delegates)
    devices = Counter(_XNNPACK if n in taken else _BUILTIN for n in range(len(nodes)))
    precisions: Counter[str] = Counter()
    for number, operator in enumerate(main.operators):
        precision = main.precision(operator)
        if precision is not None:
            half = fp16 and precision == "fp32" and number in taken
            precisions["fp16" if half else precision] += 1
    for body in graphs[1:]:
        precisions.update(each for each in map(body.precision, body.operators) if each)
    left = [op.name for number, op in enumerate(main.operators) if number not in taken]
    notes = [_parts(len(taken), len(nodes), len(delegates)), *_notes(graphs, left, fp16, shown)]
    return Executed(shares(devices), shares(precisions), "LiteRT: " + "; ".join(notes))


def elsewhere(path: str, device: str, *, whole: bool, fp16: bool) -> Executed:
    """On a GPU or NPU, where LiteRT tells no more than whether it took the whole model."""
    count = len(read(path)[0].operators)
    name, notes = device, "all operators are accelerated"
    if not whole:
        name = device.partition(":")[0] + ":or cpu"
        notes = "it doesn't tell which operators run on the CPU"
    if device.startswith("gpu"):
        notes += "; float16 is allowed" if fp16 else "; float32 is enforced"
    return Executed(
        (Share(name, count),), (), f"LiteRT's CompiledModel: {notes}; it doesn't tell precisions"
    )


def _taken(graph: Graph, delegates: Iterable[Mapping[str, Any]]) -> set[int]:
    """The operators that delegates took, by their places."""
    producers = {
        tensor: number for number, op in enumerate(graph.operators) for tensor in op.outputs
    }
    found: set[int] = set()
    for delegate in delegates:
        seen = {int(tensor) for tensor in delegate["inputs"]}
        left = [int(tensor) for tensor in delegate["outputs"]]
        while left:
            tensor = left.pop()
            number = producers.get(tensor)
            if tensor in seen or number is None:
                continue
            seen.add(tensor)
            found.add(number)
            left += graph.operators[number].inputs
    return found


def _parts(taken: int, total: int, parts: int) -> str:
    return f"XNNPACK runs {taken} of {total} operators" + (
        f" in {parts} parts" if parts > 1 else ""
    )


def _notes(
    graphs: tuple[Graph, ...], left: list[str], fp16: Optional[bool], shown: str
) -> list[str]:
    notes = []
    if left:
        counts = ", ".join(f"{count} {name}" for name, count in Counter(left).most_common())
        notes.append(f"LiteRT's own kernels run {counts}")
    unpacked = Counter(() if fp16 else graphs[0].unpacked)
    for kind, count in sorted(unpacked.items()):
        notes.append(
            f"{count} weights stored as {kind} are unpacked to float32 once, when it loads"
        )
    if fp16 is not None:
        notes.append(
            f"XNNPACK was forced to float16, and {shown} show it"
            if fp16
            else f"XNNPACK was forced to float16, but {shown} are those of float32"
        )
    if len(graphs) > 1:
        notes.append(f"what runs {len(graphs) - 1} bodies of operators isn't told")
    return notes


def shares(counts: Counter[str]) -> tuple[Share, ...]:
    """As values, in the order of their names."""
    return tuple(Share(name, count) for name, count in sorted(counts.items()))
