"""Programs as XNNPACK likes them: the same outputs, from operators that it takes whole.

Programs that were made from ONNX have matrix products with constant weights, clamps by tensors
and arithmetic on constants; attention without a mask is lowered with a guard against masked rows
that five kernels outside of XNNPACK would run. XNNPACK's quantizer knows ``linear`` alone.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import Any, Optional

from backends.et.program import Program

_MATRIX = 2
_HEADS = 4  # samples, heads, positions, features
_GROWS = 2  # how much larger a folded constant may be than what it is made of


def rewrite(program: Program) -> dict[str, int]:
    """Change the program's graph in place; how often each rewriting was made."""
    graph = program.graph
    counts = {
        "constants folded": _folded(graph),
        "attentions spelled out": _attention(graph),
        "products to linear": _linear(graph),
        "clamps by tensors": _clamps(graph),
    }
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    return {what: count for what, count in counts.items() if count}


def calls(graph: Any, *targets: Any) -> list[Any]:
    """The nodes that call one of these, in order."""
    return [n for n in graph.graph.nodes if n.op == "call_function" and n.target in targets]


def constant(graph: Any, node: Any) -> Optional[Any]:
    """The tensor that a node reads from the module; None where it is no such node."""
    import torch

    if getattr(node, "op", None) != "get_attr":
        return None
    found = graph
    for name in node.target.split("."):
        found = getattr(found, name, None)
    return found.detach() if isinstance(found, torch.Tensor) else None


def hold(graph: Any, value: Any, like: Any) -> Any:
    """A node that reads a new constant. like: the node that it is for, where it is inserted."""
    number = 0
    while hasattr(graph, f"_rewritten_{number}"):
        number += 1
    graph.register_buffer(f"_rewritten_{number}", value.contiguous())
    with graph.graph.inserting_before(like):
        return graph.graph.get_attr(f"_rewritten_{number}")


def _swap(graph: Any, node: Any, target: Any, args: tuple[Any, ...]) -> Any:
    with graph.graph.inserting_before(node):
        other = graph.graph.call_function(target, args)
    other.meta = dict(node.meta)
    node.replace_all_uses_with(other)
    graph.graph.erase_node(node)
    return other


def _folded(graph: Any) -> int:
    """Compute once what depends on constants alone; drop products with 1."""
    import torch

    aten = torch.ops.aten
    written = _written(graph)
    count = 0
    for node in list(graph.graph.nodes):
        if node in written or not _is_operator(node):
            continue
        if node.target is aten._assert_tensor_metadata.default:  # noqa: SLF001
            graph.graph.erase_node(node)
            continue
        if _is_times_one(node, aten) and not written & {*_bases(node.args[0])}:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
            count += 1
            continue
        values = {each: constant(graph, each) for each in node.all_input_nodes}
        if not values or any(each is None for each in values.values()) or written & {*values}:
            continue
        made = _computed(node, values)
        if made is None:
            continue
        node.replace_all_uses_with(hold(graph, made, node))
        graph.graph.erase_node(node)
        count += 1
    return count


def _is_operator(node: Any) -> bool:
    import torch

    return node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)  # noqa: SLF001


def _written(graph: Any) -> set[Any]:
    """What writes to a tensor, and all that the tensor is a view of."""
    import torch

    found = set()
    for node in filter(_is_operator, graph.graph.nodes):
        writes = node.target._schema.is_mutable  # noqa: SLF001
        if writes and node.target is not torch.ops.aten.detach_.default:
            found |= {node}.union(*map(_bases, node.all_input_nodes))
    return found


def _bases(node: Any) -> Iterator[Any]:
    """A node, and what its value may be a view of."""
    while True:
        yield node
        returns = node.target._schema.returns if _is_operator(node) else ()  # noqa: SLF001
        if not (node.target is operator.getitem or any(each.alias_info for each in returns)):
            return
        node = node.all_input_nodes[0]


def _is_times_one(node: Any, aten: Any) -> bool:
    if node.target not in (aten.mul.Tensor, aten.div.Tensor, aten.mul.Scalar, aten.div.Scalar):
        return False
    left, right = node.args[:2]
    if isinstance(right, bool) or not isinstance(right, (int, float)) or right != 1:
        return False
    return "val" in node.meta and left.meta["val"].dtype == node.meta["val"].dtype


def _computed(node: Any, values: dict[Any, Any]) -> Optional[Any]:
    """The node's value; None for several, random or much larger ones."""
    import torch

    if torch.Tag.nondeterministic_seeded in node.target.tags:
        return None
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda each: values[each])
    made = node.target(*args, **kwargs)
    if not isinstance(made, torch.Tensor):
        return None
    if made.numel() > _GROWS * sum(each.numel() for each in values.values()):
        return None
    return made.clone()


def _linear(graph: Any) -> int:
    """Products with a constant matrix, and the constant vector that is added to them."""
    import torch

    aten = torch.ops.aten
    nodes = calls(graph, aten.matmul.default, aten.mm.default, aten.addmm.default)
    count = 0
    for node in nodes:
        whole = node.target is aten.addmm.default
        left, right = node.args[1:3] if whole else node.args[:2]
        weights = constant(graph, right)
        if weights is None or weights.dim() != _MATRIX or constant(graph, left) is not None:
            continue
        bias = node.args[0] if whole else None
        if whole and (node.kwargs or not _is_bias(graph, bias, weights)):
            continue
        turned = hold(graph, weights.t(), node)
        linear = _swap(graph, node, aten.linear.default, (left, turned, *([bias] if whole else [])))
        if not whole:
            _take_bias(graph, linear, weights)
        count += 1
    return count


def _is_bias(graph: Any, node: Any, weights: Any) -> bool:
    value = constant(graph, node)
    return value is not None and tuple(value.shape) == (weights.shape[1],)


def _take_bias(graph: Any, linear: Any, weights: Any) -> None:
    """Make the addition that follows a product the bias of the product."""
    import torch

    readers = list(linear.users)
    if len(readers) != 1 or readers[0].target is not torch.ops.aten.add.Tensor or readers[0].kwargs:
        return
    add = readers[0]
    bias = next((each for each in add.args if each is not linear), None)
    if bias is None or not _is_bias(graph, bias, weights):
        return
    with graph.graph.inserting_before(linear):  # before what reads it
        held = graph.graph.get_attr(bias.target)
    linear.args = (*linear.args[:2], held)
    add.replace_all_uses_with(linear)
    graph.graph.erase_node(add)


def _clamps(graph: Any) -> int:
    """Clamps whose limits are constant tensors of one element."""
    import torch

    aten = torch.ops.aten
    count = 0
    for node in calls(graph, aten.clamp.Tensor):
        low, high = (_scalar(graph, node, place, name) for place, name in ((1, "min"), (2, "max")))
        value = node.args[0].meta.get("val")
        floats = value is not None and value.dtype.is_floating_point
        if math.isnan(low) or math.isnan(high) or not floats:
            continue
        if low == 0 and high == math.inf:
            _swap(graph, node, aten.relu.default, (node.args[0],))
        else:
            _swap(graph, node, aten.hardtanh.default, (node.args[0], low, high))
        count += 1
    return count


def split_relus(graph: Any) -> None:
    """Rectifiers that read one value alone as clamps, which come after it.

    XNNPACK's quantizer leaves a convolution to its pattern with the rectifier that follows, and
    that one it doesn't have for activations that are scaled at each inference.
    """
    import torch

    aten = torch.ops.aten
    for node in calls(graph, aten.relu.default, aten.relu_.default):
        if len(node.args[0].users) == 1:
            _swap(graph, node, aten.hardtanh.default, (node.args[0], 0.0, math.inf))
    graph.recompile()


def _scalar(graph: Any, node: Any, place: int, name: str) -> float:
    """A limit; infinite where there is none, NaN where it isn't known."""
    found = node.args[place] if len(node.args) > place else node.kwargs.get(name)
    if found is None:
        return -math.inf if name == "min" else math.inf
    value = constant(graph, found)
    return float(value) if value is not None and value.numel() == 1 else math.nan


def _attention(graph: Any) -> int:
    """Attention without a mask, as its two products and the softmax between."""
    import torch

    aten = torch.ops.aten
    count = 0
    for node in calls(graph, aten.scaled_dot_product_attention.default):
        said = dict(zip(("query", "key", "value", "mask", "dropout", "causal"), node.args))
        options = {**said, **node.kwargs}
        if any(options.get(each) for each in ("mask", "attn_mask", "dropout", "dropout_p")):
            continue
        if any(options.get(each) for each in ("causal", "is_causal", "enable_gqa")):
            continue
        _spell_out(graph, node, options.get("scale"))
        count += 1
    return count


def _spell_out(graph: Any, node: Any, scale: Optional[float]) -> None:
    """As products of three dimensions where the sizes are known: others are expanded first."""
    import torch

    aten = torch.ops.aten
    query, key, value = node.args[:3]
    sizes = [each.meta["val"].shape for each in (query, key, value)]
    flat = all(isinstance(dim, int) for size in sizes for dim in size[1:])
    flat = flat and all(len(size) == _HEADS and size[:-2] == sizes[0][:-2] for size in sizes)
    product = aten.bmm.default if flat else aten.matmul.default
    with graph.graph.inserting_before(node):
        call = graph.graph.call_function
        if flat:
            query, key, value = (
                call(aten.reshape.default, (each, [-1, *size[2:]]))
                for each, size in zip((query, key, value), sizes)
            )
        scaled = call(aten.mul.Tensor, (query, float(scale or sizes[0][-1] ** -0.5)))
        logits = call(product, (scaled, call(aten.transpose.int, (key, -2, -1))))
        made = call(product, (call(aten.softmax.int, (logits, -1)), value))
    if flat:
        _swap(graph, node, aten.reshape.default, (made, [-1, *node.meta["val"].shape[1:]]))
    else:
        node.replace_all_uses_with(made)
        graph.graph.erase_node(node)
