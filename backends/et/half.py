"""float16 programs: weights and products in float16, what float16 can't hold in float32."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

from backends.et.program import Program
from backends.et.rewriting import constant, hold

_LARGEST = 65504.0
_WINDOW = 64  # MobileNet's and ResNet's last pooling is of 49
_OPERANDS = ("number", "Tensor")  # tensors may be given as numbers


def convert(program: Program) -> list[str]:
    """Change the program's graph in place; notes. Inputs and outputs keep their types.

    Normalizations and reductions stay in float32, by casts around them, and what one of them gives
    another: the square of 300 is beyond float16. ExecuTorch's own kernels take the variance of
    float16 as the difference of two means, which cancels where the mean is large beside the
    deviation.
    """
    from torchao.quantization.pt2e.utils import _fuse_conv_bn_

    graph = program.graph
    _fuse_conv_bn_(graph)
    nodes = [node for node in graph.graph.nodes if _is_float(node)]
    kept = _kept(nodes)
    count = len(kept)
    kept |= {part for node in kept for part in node.users if part.target is operator.getitem}
    clipped = _weights(graph, kept)
    clipped += sum(_clip_scalars(node) for node in nodes if node not in kept)
    for node in list(graph.graph.nodes):
        if node.op == "placeholder" and _is_float(node):
            _cast_after(graph, node, kept)
        elif node.op == "output":
            _cast_outputs(graph, node, kept)
        elif node in kept:
            _keep(graph, node, kept)
        elif node.op == "call_function":
            _replace_dtype(node)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    notes = [f"{count} normalizations and reductions kept in float32"] if count else []
    return notes + ([f"{clipped} constants clipped to float16's range"] if clipped else [])


def _kept(nodes: Iterable[Any]) -> set[Any]:
    """What is computed in float32 all the same."""
    import torch

    aten = torch.ops.aten
    wide = _named(
        aten,
        *("layer_norm.default", "native_layer_norm.default", "group_norm.default"),
        *("batch_norm.default", "instance_norm.default", "rms_norm.default"),
        *("_native_batch_norm_legit_no_training.default", "linalg_vector_norm.default"),
        *("mean.default", "mean.dim", "sum.default", "sum.dim_IntList", "cumsum.default"),
        *("var.default", "var.dim", "var.correction", "std.correction", "var_mean.correction"),
        *("pow.Tensor_Scalar", "pow.Tensor_Tensor", "square.default"),
        *("sqrt.default", "rsqrt.default"),
    )
    between = _named(aten, "add.Tensor", "add.Scalar", "clamp.default", "clamp_min.default")
    kept = {node for node in nodes if node.target in wide or _is_wide_pool(node)}
    kept |= {
        node  # such as the addition of epsilon
        for node in nodes
        if node.target in between and kept & {*node.all_input_nodes} and kept >= {*node.users}
    }
    return kept | {
        node  # a square, too
        for node in nodes
        if node.target is aten.mul.Tensor and node.args[0] is node.args[1] and kept & {*node.users}
    }


def _named(aten: Any, *names: str) -> set[Any]:
    return {getattr(getattr(aten, name.split(".")[0]), name.split(".")[1]) for name in names}


def _is_wide_pool(node: Any) -> bool:
    """Whether it averages so many values that XNNPACK's sum of them in float16 loses too much."""
    import torch

    aten = torch.ops.aten
    if node.target not in (aten.avg_pool1d.default, aten.avg_pool2d.default):
        return False
    window = list(node.args[1])
    if node.target is aten.avg_pool2d.default and len(window) == 1:
        window *= 2
    return bool(math.prod(window) > _WINDOW)


def _is_float(node: Any) -> bool:
    import torch

    value = node.meta.get("val")
    value = value[0] if isinstance(value, (tuple, list)) else value
    return isinstance(value, torch.Tensor) and value.dtype is torch.float32


def _weights(graph: Any, kept: set[Any]) -> int:
    """Constants to float16 but for what ``kept`` reads; how many values had to be clipped."""
    import torch

    clipped = 0
    for node in list(graph.graph.nodes):
        value = constant(graph, node)
        if value is None or value.dtype is not torch.float32:
            continue
        readers = [reader for reader in node.users if reader not in kept]
        if not readers:
            continue
        finite = torch.isfinite(value)
        clipped += int((finite & (value.abs() > _LARGEST)).sum())
        limited = torch.where(finite, value.clamp(-_LARGEST, _LARGEST), value)
        other = hold(graph, limited.half(), node)
        for reader in readers:
            reader.replace_input_with(node, other)
    return clipped


def _clip_scalars(node: Any) -> int:
    """Numbers that a node computes with, such as those that mask attention; how many."""
    import torch

    if not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - has no public name
        return 0
    clipped = 0
    for place, argument in enumerate(node.target._schema.arguments):  # noqa: SLF001 - as above
        value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
        if str(argument.type) not in _OPERANDS or not isinstance(value, (int, float)):
            continue  # axes and sizes have other types
        limited = max(-_LARGEST, min(_LARGEST, value))
        if limited == value or math.isinf(value):
            continue
        if place < len(node.args):
            node.update_arg(place, limited)
        else:
            node.update_kwarg(argument.name, limited)
        clipped += 1
    return clipped


def _cast(graph: Any, node: Any, dtype: Any) -> Any:
    """Nodes keep saying what they were before the conversion, which is how casts are found."""
    import torch

    cast = graph.graph.call_function(torch.ops.aten.to.dtype, (node, dtype))
    cast.meta = {"val": node.meta.get("val")}
    return cast


def _cast_after(graph: Any, node: Any, kept: set[Any]) -> None:
    """To float16, for all readers that aren't kept in float32, as outputs are."""
    import torch

    readers = [each for each in node.users if each not in kept and each.op != "output"]
    with graph.graph.inserting_after(node):
        cast = _cast(graph, node, torch.float16)
    for reader in readers:
        reader.replace_input_with(node, cast)


def _cast_outputs(graph: Any, output: Any, kept: set[Any]) -> None:
    import torch

    casts = {}
    for node in output.all_input_nodes:
        if _is_half(node, kept):
            with graph.graph.inserting_before(output):
                casts[node] = _cast(graph, node, torch.float32)
    for node, cast in casts.items():
        output.replace_input_with(node, cast)


def _keep(graph: Any, node: Any, kept: set[Any]) -> None:
    """Cast what a node reads to float32, and what it gives to float16."""
    import torch

    for each in node.all_input_nodes:
        if _is_half(each, kept) and each.op != "get_attr":
            with graph.graph.inserting_before(node):
                node.replace_input_with(each, _cast(graph, each, torch.float32))
    if isinstance(node.meta["val"], torch.Tensor):
        _cast_after(graph, node, kept)


def _is_half(node: Any, kept: set[Any]) -> bool:
    """Whether what was float32 before is float16 now, as all is but inputs and what is kept."""
    return _is_float(node) and node not in kept and node.op != "placeholder"


def _replace_dtype(node: Any) -> None:
    """What the program casts to float32, or makes as such, is float16 now."""
    import torch

    swap = {torch.float32: torch.float16}
    node.args = tuple(
        swap.get(each, each) if isinstance(each, torch.dtype) else each for each in node.args
    )
    node.kwargs = {
        name: swap.get(each, each) if isinstance(each, torch.dtype) else each
        for name, each in node.kwargs.items()
    }
