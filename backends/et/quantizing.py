"""int8 by PyTorch's own quantization of exported programs (PT2E), as XNNPACK computes it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from backends.convert.pt2 import quiet
from backends.et.program import Program, example, samples
from backends.et.rewriting import constant, split_relus
from backends.et.runtime import classified
from harness.backend import BuildRequest
from harness.errors import UnsupportedError

_WISHES = {"calibration", "per_channel", "symmetric", "reduce_range", "include", "exclude"}
_IN_VAIN = {"saturates"}  # XNNPACK's products add in 32 bits

_CONVOLUTIONS = {"conv1d", "conv2d", "convolution"}

_TYPES = {
    "Conv": ("conv1d", "conv2d", "convolution"),
    "ConvTranspose": ("conv_transpose1d", "conv_transpose2d"),
    "Gemm": ("linear",),
    "MatMul": ("linear",),
    "Add": ("add",),
    "Mul": ("mul",),
    "Concat": ("cat",),
    "GlobalAveragePool": ("adaptive_avg_pool2d",),
}
"""ONNX's operator types, by PyTorch's."""


def quantize(program: Program, request: BuildRequest) -> tuple[Program, list[str]]:
    """The program with its quantizers, and notes.

    Raises:
        UnsupportedError: no calibration samples, a wish that can't be met, or nothing in the
            program that XNNPACK has int8 kernels for.
    """
    with quiet():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    dynamic = request.recipe == "pt2e-dynamic"
    if not dynamic and not (request.calibration and len(request.calibration)):
        raise UnsupportedError(f"{request.recipe}: needs calibration samples")
    wishes = _checked(request)
    with quiet():
        quantizer = _quantizer(wishes, program, dynamic=dynamic)
    try:
        with quiet():
            if dynamic:
                split_relus(program.graph)
            prepared = prepare_pt2e(program.graph, quantizer)
            if dynamic or request.calibration is None:
                prepared(*example(program, most=2))  # shows the observers the weights
            else:
                for sample in samples(request.calibration, request.ports, program):
                    prepared(*sample)
            converted = convert_pt2e(prepared)
    except Exception as error:
        raise classified(error, request.recipe) from error
    count = sum("quantize_per" in str(n.target) or "choose_qparams" in str(n.target)
                for n in converted.graph.nodes)  # fmt: skip
    if not count:
        raise UnsupportedError(
            f"{request.recipe}: nothing in the model was quantized: it has no operation for it"
        )
    return replace(program, graph=converted), [f"PT2E: {_told(wishes, dynamic=dynamic)}"]


def _told(wishes: Mapping[str, str], *, dynamic: bool) -> str:
    scales = "one scale per" + (
        " tensor" if wishes.get("per_channel") == "no" else " output channel"
    )
    if dynamic:
        return f"weights in int8, {scales}; activations scaled at each inference, per row"
    how = "minmax" if wishes.get("calibration") == "minmax" else "histograms of least error"
    return f"weights in int8, {scales}; ranges of activations by {how}"


def _checked(request: BuildRequest) -> dict[str, str]:
    wishes = {name: value for name, value in request.parameters if name not in _IN_VAIN}
    dynamic = request.recipe == "pt2e-dynamic"
    for name, value in wishes.items():
        if name not in _WISHES:
            raise UnsupportedError(f"{request.recipe}: has no parameter {name}")
        if name == "calibration" and (dynamic or value != "minmax"):
            raise UnsupportedError(f"{request.recipe}: has no calibration by {value}")
        if name == "reduce_range" and value == "yes":
            raise UnsupportedError(f"{request.recipe}: XNNPACK's int8 products never saturate")
        if name == "symmetric" and dynamic and value == "yes":
            raise UnsupportedError(f"{request.recipe}: XNNPACK scales rows with a zero point")
        if name == "per_channel" and dynamic and value == "no":
            raise UnsupportedError(f"{request.recipe}: XNNPACK wants a scale per output channel")
    return wishes


def _quantizer(wishes: Mapping[str, str], program: Program, *, dynamic: bool) -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    per_channel = wishes.get("per_channel", "yes") == "yes"
    config = get_symmetric_quantization_config(is_per_channel=per_channel, is_dynamic=dynamic)
    if not dynamic:
        config = replace(
            config,
            input_activation=_activation(config.input_activation, wishes),
            output_activation=_activation(config.output_activation, wishes),
        )
    quantizer = XNNPACKQuantizer().set_global(config)
    chosen = _chosen(wishes, program, _unlike(program) if dynamic else set())
    return quantizer.set_filter_function(chosen) if chosen else quantizer


def _activation(spec: Any, wishes: Mapping[str, str]) -> Any:
    """How activations are scaled; XNNPACK's quantizer has histograms and a zero point."""
    import torch
    from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver

    observer = MinMaxObserver if wishes.get("calibration") == "minmax" else HistogramObserver
    symmetric = wishes.get("symmetric") == "yes"
    return replace(
        spec,
        qscheme=torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine,
        observer_or_fake_quant_ctr=observer.with_args(eps=2**-12),
    )


def _unlike(program: Program) -> set[str]:
    """Convolutions that share an input and differ in more than their weights.

    ExecuTorch 1.5.1 computes them wrongly where the input is scaled at each inference: off by half
    of the largest value, for one of 3x3 beside one of 1x1.
    """
    readers: dict[Any, list[Any]] = {}
    for node in program.graph.graph.nodes:
        if node.op == "call_function" and _type(node) in _CONVOLUTIONS:
            readers.setdefault(node.args[0], []).append(node)

    def form(node: Any) -> object:
        weight = constant(program.graph, node.args[1])
        return None if weight is None else tuple(weight.shape[2:]), str(node.args[3:])

    groups = (group for group in readers.values() if len({form(node) for node in group}) > 1)
    return {node.name for group in groups for node in group}


def _chosen(wishes: Mapping[str, str], program: Program, unlike: Collection[str]) -> Any:
    """Which nodes may be quantized, never those ``unlike`` others; None: all."""
    include = [name for name in wishes.get("include", "").split(",") if name]
    exclude = json.loads(wishes.get("exclude", "[]"))
    if not include and not exclude and not unlike:
        return None
    wanted = {node for name in include for node in _named(program, name)}
    left = {node for name in exclude for node in _named(program, name)} | set(unlike)

    def may(node: Any) -> bool:
        return (not include or node.name in wanted) and node.name not in left

    return may


def _named(program: Program, name: str) -> set[str]:
    """The nodes that an operator type or a node's name stands for."""
    types = _TYPES.get(name, (name,))
    nodes = [node for node in program.graph.graph.nodes if node.op == "call_function"]
    found = {
        node.name for node in nodes if _type(node) in types or name in (node.name, _module(node))
    }
    if not found and name not in _TYPES:
        known = ", ".join(sorted({_type(node) for node in nodes}))
        raise UnsupportedError(
            f"exclude: the program has no operator type, node or module {name!r} (types: {known})"
        )
    return found


def _type(node: Any) -> str:
    """``linear`` of ``aten.linear.default``."""
    name = getattr(node.target, "__name__", str(node.target))
    return str(name).split(".", maxsplit=1)[0]


def _module(node: Any) -> str:
    """The path of the module that the node comes from, as ``named_modules`` has it."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]).replace("L['self'].", "") if stack else ""
