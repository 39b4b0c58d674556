"""ONNX to PyTorch's exported program, by ``onnx2fx``.

It turns a graph into Python functions, one per node, which torch.export then traces. Where that
can be made to work the batch stays open; elsewhere the functions are traced with real tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import numpy as np

from backends.convert import checking, onnxfile, pt2, shapes
from backends.convert.exporting import LARGEST_BATCH
from harness.backend import API_VERSION, Converted, ConvertRequest, Feed
from harness.errors import BackendError, UnsupportedError, first_line
from harness.types import Array, Environment, Port, Ports, Probe, TensorSpec

_FEW_INDICES = 64
_CONSTANTS_APART = 4


class Onnx2Fx:
    """``.onnx`` to ``.pt2``; the first axis stays open where the program can be traced so."""

    name = "onnx2fx"
    api = API_VERSION
    source = "onnx"
    target = "pt2"
    home = "executorch"
    environment: Optional[Environment] = None

    def probe(self) -> Probe:
        """Whether torch and the converter are installed."""
        return pt2.probe(self.name, ("torch", "onnx2fx", "onnx"))

    def convert(self, request: ConvertRequest, workdir: str) -> Converted:
        """Convert, and check the outputs against the ONNX's on the samples."""
        import onnx

        torch = pt2.import_torch()
        onnxfile.check(request.model, "the model")
        model = _distinct(onnx.load(request.model))
        _check_operators(model)
        feeds = checking.samples(request)
        tool, run = onnxfile.runner(request.model)
        path = str(Path(workdir, "model.pt2"))
        failures = []
        for batched, trace in _ways(request):
            tried = [*feeds, *([_doubled(feeds[0], batched)] if batched else [])]
            try:
                with pt2.quiet(), torch.no_grad():
                    program = trace(torch, model, tried[-1], batched)
                ports = _ports(program, request, batched)
                got = [
                    checking.from_file(pt2.runner(program)(checking.to_file(feed, ports)), ports)
                    for feed in tried
                ]
                found = checking.difference(got, [run(feed) for feed in tried])
                note = checking.note(found, self.name, tool, len(tried))
                with pt2.quiet():
                    torch.export.save(program, path)
            except UnsupportedError:
                raise
            except Exception as fault:  # noqa: BLE001 - the next way may do
                pt2.refuse_memory(fault)
                failures.append(fault)
                continue
            return Converted(path, ports, (note, *checking.fixed(self.name, ports, request.inputs)))
        plain = failures[-2]  # neither of the open batch, nor of tracing what exporting didn't take
        kind = UnsupportedError if isinstance(plain, NotImplementedError) else BackendError
        raise kind(f"{self.name}: {first_line(plain)}") from plain


_Trace = Callable[[Any, Any, Feed, Sequence[str]], Any]


def _ways(request: ConvertRequest) -> Iterator[tuple[tuple[str, ...], _Trace]]:
    """The ways to trace, the best first: the inputs whose batch stays open, and how."""
    batched = tuple(
        spec.name for spec in request.inputs if spec.shape and not isinstance(spec.shape[0], int)
    )
    if batched:
        yield batched, _exported
    yield (), _exported
    yield (), _traced


def _exported(torch: Any, model: Any, feed: Feed, batched: Sequence[str]) -> Any:
    """Sizes become plain numbers, and torch.export follows the converter's functions."""
    lifted, lines = shapes.lifted(model, feed, batched)
    module = _module(lifted)
    names = [value.name for value in model.graph.input if value.name in feed]
    _put_sizes(module, lines, names.index(batched[0]) if batched else None)
    _put_indices(torch, module)
    _drop_unused(module)
    dim = torch.export.Dim(pt2.BATCH, min=1, max=LARGEST_BATCH)
    dynamic = tuple({0: dim} if name in batched else None for name in names)
    args = _tensors(torch, feed, names)
    return torch.export.export(
        module, args, dynamic_shapes=dynamic if batched else None, strict=False
    )


def _traced(torch: Any, model: Any, feed: Feed, _batched: Sequence[str]) -> Any:
    """Real tensors go through: whatever depends on their values is fixed as it is for these."""
    from torch.fx.experimental.proxy_tensor import make_fx

    names = [value.name for value in model.graph.input if value.name in feed]
    args = _tensors(torch, feed, names)
    module = _module(model)
    _put_indices(torch, module)
    _drop_unused(module)
    return torch.export.export(make_fx(module, tracing_mode="real")(*args), args, strict=False)


def _module(model: Any) -> Any:
    import onnx2fx

    try:
        return onnx2fx.convert(model)
    except onnx2fx.UnsupportedOpError as fault:
        raise UnsupportedError(f"onnx2fx has no {fault.op_type}") from fault
    except onnx2fx.ConversionError as fault:
        raise UnsupportedError(f"onnx2fx can't convert {fault.op_type}: {fault}") from fault
    except onnx2fx.UnsupportedDTypeError as fault:
        name = fault.tensor_name
        users = {node.op_type for node in model.graph.node if name in (*node.input, *node.output)}
        raise UnsupportedError(
            f"onnx2fx can't convert {', '.join(sorted(users))}: {fault}"
        ) from fault


def _put_sizes(module: Any, lines: dict[str, shapes.Linear], batch: Optional[int]) -> None:
    """Numbers in place of the inputs that sizes had become; what computed them falls away."""
    holders = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node in holders:
        line = lines.get(str(node.target))
        if line is None:
            continue
        with module.graph.inserting_after(holders[-1]):
            if batch is None:
                made = module.graph.call_function(_constant(line))
            else:
                made = module.graph.call_function(_of_batch(line), (holders[batch],))
        for user in list(node.users):
            if user.meta.get("onnx_op_type") == "Reshape":
                user.target = _reshape  # onnx2fx's turns sizes into plain integers
        node.replace_all_uses_with(made)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _reshape(data: Any, shape: shapes.Sizes, allow_zero: int) -> Any:
    kept = [
        data.shape[axis] if isinstance(size, int) and size == 0 and not allow_zero else size
        for axis, size in enumerate(shape)
    ]
    return data.reshape(kept)


def _constant(line: shapes.Linear) -> Callable[[], shapes.Sizes]:
    return lambda: line.at(shapes.FEW)


def _of_batch(line: shapes.Linear) -> Callable[[Any], shapes.Sizes]:
    return lambda value: line.at(value.shape[0])


def _put_indices(torch: Any, module: Any) -> None:
    """Gather of constant indices: onnx2fx takes no negative ones, which ONNX allows."""
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.meta.get("onnx_op_type") != "Gather":
            continue
        source, indices, axis = node.args
        if indices.op != "get_attr":
            continue
        values = getattr(module, indices.target)
        if values.numel() > _FEW_INDICES or (values.ndim and int(values.min()) >= 0):
            continue
        with module.graph.inserting_before(node):
            made = module.graph.call_function(_gather(torch, values), (source, axis))
        node.replace_all_uses_with(made)
        module.graph.erase_node(node)
    module.recompile()


def _drop_unused(module: Any) -> None:
    """Constants that nothing reads any more; torch.export can't save some, such as empty ones."""
    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in list(module.named_buffers(recurse=False)):
        if name not in used:
            delattr(module, name)


def _gather(torch: Any, indices: Any) -> Callable[[Any, int], Any]:
    def gather(data: Any, axis: int) -> Any:
        axis = axis % data.dim()
        if not indices.ndim:
            return data.select(axis, int(indices))
        positive = torch.where(indices < 0, indices + data.shape[axis], indices).reshape(-1)
        shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
        return data.index_select(axis, positive).reshape(shape)

    return gather


def _tensors(torch: Any, feed: Feed, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(torch.from_numpy(np.array(feed[name])) for name in names)


def _doubled(feed: Feed, batched: Sequence[str]) -> dict[str, Array]:
    """Two of the sample: one alone would be traced as the constant 1."""
    return {
        name: np.concatenate([value[:1], value[:1]]) if name in batched else value
        for name, value in feed.items()
    }


def _ports(program: Any, request: ConvertRequest, batched: Sequence[str]) -> Ports:
    """The values by position: open batches keep their names, other axes have their sizes."""
    own = pt2.ports(program)
    return Ports(
        tuple(map(_port, request.inputs, own.inputs, [bool(batched)] * len(own.inputs))),
        tuple(map(_port, request.outputs, own.outputs, [bool(batched)] * len(own.outputs))),
    )


def _port(spec: TensorSpec, own: Port, is_open: bool) -> Port:
    dims = [
        dim if isinstance(dim, int) else ours if is_open and ours is not None else dim
        for dim, ours in zip(own.spec.shape, spec.shape)
    ]
    return Port(replace(spec, shape=tuple(dims)), own.name, own.dtype)


def _check_operators(model: Any) -> None:
    """Raise UnsupportedError with every operator that the converter lacks."""
    import onnx2fx

    found = onnx2fx.analyze_model(model).unsupported_ops
    if found:
        names = ", ".join(sorted({f"{domain or 'ai.onnx'}.{kind}" for kind, domain, _ in found}))
        raise UnsupportedError(
            f"onnx2fx has no {names}",
            "start from the PyTorch model instead: a .pt2, or module:function",
        )


def _distinct(model: Any) -> Any:
    """The model, its constants no inputs, and renamed where onnx2fx takes two for one.

    It writes both ``a.b`` and ``a_b`` as ``a_b``. Before IR version 4 constants were inputs, too.
    """
    from onnx2fx.utils.names import sanitize_name

    constants = {constant.name for constant in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, _CONSTANTS_APART)
    taken = {sanitize_name(value.name) for value in inputs}
    renamed = {}
    for constant in model.graph.initializer:
        plain = sanitize_name(constant.name)
        if plain in taken:
            others = (f"{plain}_{number}" for number in range(len(taken) + 1))
            plain = next(other for other in others if other not in taken)
            renamed[constant.name] = constant.name = plain
        taken.add(plain)
    if renamed:
        _rename(model.graph, renamed)
    return model


def _rename(graph: Any, renamed: dict[str, str]) -> None:
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = renamed.get(name, name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, renamed)


CONVERTER = Onnx2Fx()

__all__ = ["CONVERTER", "Onnx2Fx"]
