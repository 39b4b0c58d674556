"""PyTorch's exported programs: what is in one, and how it is called.

An ``ExportedProgram`` takes and gives nested structures; here they are flat and have names.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any, Optional

import numpy as np

from backends.convert import checking
from harness.backend import Feed
from harness.errors import BackendError, OutOfMemoryError, UnavailableError
from harness.types import Array, Port, Ports, Probe, TensorSpec

INSTALL = 'enginepick setup executorch, or: pip install "enginepick[executorch]"'
BATCH = "batch"
"""How the first axis is called where it is open."""

DTYPES = (
    "float32", "float16", "float64", "bool", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip
"""The element types that numpy has by the same name."""

_NO_MEMORY = "can't allocate memory"


def chain(fault: BaseException) -> Iterator[BaseException]:
    """A fault, and those that led to it; the last one was the first."""
    at: Optional[BaseException] = fault
    while at is not None:
        yield at
        at = at.__cause__ or at.__context__


def refuse_memory(fault: BaseException) -> None:
    """Raise OutOfMemoryError where that is what a fault is of; PyTorch has no class for it."""
    for each in chain(fault):
        if isinstance(each, (MemoryError, OutOfMemoryError)) or _NO_MEMORY in str(each):
            raise OutOfMemoryError(str(each) or "no memory left") from fault


def import_torch() -> Any:
    """The ``torch`` module. Raises UnavailableError with the reason."""
    try:
        with quiet():
            import torch
            import torch.export
    except Exception as fault:  # broken installations raise much more than ImportError
        refuse_memory(fault)
        raise UnavailableError(f"torch can't be imported: {fault}", INSTALL) from fault
    return torch


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings, log lines and progress of PyTorch and of what is built on it."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def probe(name: str, packages: Sequence[str], install: str = INSTALL) -> Probe:
    """Whether these distributions are installed, by their metadata: importing takes seconds."""
    found = []
    for package in packages:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            what = f"{package} isn't installed"
            return Probe(name, tuple(found), problem=what, fix=install)
    return Probe(name, tuple(found))


def load(path: str) -> Any:
    """The ExportedProgram in a file that was read before. Raises BackendError where it fails."""
    torch = import_torch()
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as fault:
        refuse_memory(fault)
        raise BackendError(f"torch {torch.__version__} can't load {path}: {fault}") from fault


def runner(program: Any) -> Callable[[Feed], dict[str, Array]]:
    """What runs a program as PyTorch does, on feeds and outputs by :func:`ports`' file names."""
    module, found = flat(program), ports(program)

    def run(feed: Feed) -> dict[str, Array]:
        torch = import_torch()
        # A copy: arrays may be read-only, which torch warns of.
        values = [torch.from_numpy(np.array(feed[port.name])) for port in found.inputs]
        with torch.no_grad(), quiet():
            outputs = module(*values)
        names = [port.name for port in found.outputs]
        return {name: value.numpy() for name, value in zip(names, outputs)}

    return run


def original(program: Any, given: Ports, feeds: Sequence[Feed]) -> list[dict[str, Array]]:
    """What a program gives for feeds of the model, in the model's own names (``given``)."""
    run, own = runner(program), ports(program)
    by_position = Ports(
        tuple(Port(at.spec, port.name, port.dtype) for at, port in zip(given.inputs, own.inputs)),
        tuple(Port(at.spec, port.name, port.dtype) for at, port in zip(given.outputs, own.outputs)),
    )
    return [
        checking.from_file(run(checking.to_file(feed, by_position)), by_position) for feed in feeds
    ]


def flat(program: Any) -> Any:
    """A module that takes a program's inputs as plain tensors, and gives a tuple of them."""
    torch = import_torch()
    from torch.utils import _pytree as pytree

    class Flat(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.program = program.module()

        def forward(self, *values: Any) -> tuple[Any, ...]:
            args, kwargs = pytree.tree_unflatten(list(values), program.call_spec.in_spec)
            return tuple(pytree.tree_leaves(self.program(*args, **kwargs)))

    made = Flat()
    made.training = False  # eval() would reach into the program, which refuses it
    return made


def ports(program: Any) -> Ports:
    """The inputs by the names of forward()'s arguments, the outputs by the keys of what it returns.

    One output without a key is ``output``, several are ``output_0`` and so on; values of nested
    structures have the keys of all levels. The first axis is ``batch`` where it is open.
    """
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    sources = [values[name] for name in program.graph_signature.user_inputs]
    named = _dimension_names(sources)
    names = list(program.graph_signature.user_inputs)
    inputs = [_spec(name, value, named) for name, value in zip(names, sources)]
    results = [values[name] for name in program.graph_signature.user_outputs]
    keys = output_names(program.call_spec.out_spec, names)
    outputs = [_spec(name, value, named) for name, value in zip(keys, results)]
    return Ports(*(tuple(Port(at, at.name, at.dtype) for at in part) for part in (inputs, outputs)))


def output_names(out_spec: Any, taken: Sequence[str] = ()) -> list[str]:
    """The names of the leaves of what forward() returns, other than those taken.

    Formats of graphs have one space of names: an output called like an input would be that.
    """
    from torch.utils import _pytree as pytree

    leaves = list(range(out_spec.num_leaves))
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(leaves, out_spec))
    found: list[str] = []
    for path, _leaf in paths:
        name = "_".join(_part(key) for key in path) or "output"
        name = f"output_{name}" if name[0].isdigit() else name
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        names = itertools.chain([name, f"output_{name}"], numbered)
        found.append(next(each for each in names if each not in (*taken, *found)))
    return found


def _part(key: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _dimension_names(values: Sequence[Any]) -> dict[Any, str]:
    """Of the symbols: the first open first axis is the batch, others are called as torch does."""
    for value in values:
        first = value.shape[0] if len(value.shape) else 1
        if not isinstance(first, int) and first.node.expr.is_Symbol:
            return {first.node.expr: BATCH}
    return {}


def _spec(name: str, value: Any, named: dict[Any, str]) -> TensorSpec:
    dims = tuple(
        dim if isinstance(dim, int) else _dimension(dim.node.expr, named) for dim in value.shape
    )
    return TensorSpec(name, dtype_name(value.dtype), dims)


def _dimension(expression: Any, named: dict[Any, str]) -> str:
    renamed = {symbol: type(symbol)(name) for symbol, name in named.items()}
    return str(expression.subs(renamed))


def dtype_name(dtype: Any) -> str:
    """``float32`` of ``torch.float32``."""
    return str(dtype).rpartition(".")[2]


def tensors(program: Any) -> dict[str, Any]:
    """The weights, buffers and constants by name."""
    return {**program.state_dict, **program.constants}


def graphs(program: Any) -> list[Any]:
    """The program's graph, and those that its control flow branches to."""
    torch = import_torch()
    modules = program.graph_module.modules()
    return [module.graph for module in modules if isinstance(module, torch.fx.GraphModule)]


def operators(program: Any) -> tuple[tuple[str, int], ...]:
    """(``aten.conv2d``, how many), the most frequent first."""
    torch = import_torch()
    counts: Counter[str] = Counter()
    for graph in graphs(program):
        for node in graph.nodes:
            target = node.target
            if isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - has no public name
                counts[str(target.overloadpacket)] += 1
            elif isinstance(target, torch._ops.HigherOrderOperator):  # noqa: SLF001 - as above
                counts[str(target)] += 1
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def changed(program: Any) -> list[str]:
    """The buffers and inputs that a call changes.

    The signature says it, of a program as it is exported only when operators that write in place
    have been replaced, which takes seconds.
    """
    torch = import_torch()
    targets = [node.target for graph in graphs(program) for node in graph.nodes]
    operators = [at for at in targets if isinstance(at, torch._ops.OpOverload)]  # noqa: SLF001
    signature = program.graph_signature
    if any(operator._schema.is_mutable for operator in operators):  # noqa: SLF001
        with quiet():
            signature = program.run_decompositions({}).graph_signature
    return [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]


def size_bytes(program: Any) -> int:
    """Of the weights, those that are shared counted once."""
    parts = {}
    for value in tensors(program).values():
        if hasattr(value, "untyped_storage"):
            storage = value.untyped_storage()
            parts[storage.data_ptr()] = storage.nbytes()
    return sum(parts.values())


def sha256(program: Any) -> str:
    """Of the graph, the weights and how it is called; archives hold more than that."""
    digest = hashlib.sha256()
    for graph in graphs(program):
        for node in graph.nodes:
            value = None if node.op == "output" else node.meta.get("val")  # filled by loading
            digest.update(f"{node.format_node()}{_kind(value)}\n".encode())
    called = (program.graph_signature, program.call_spec, program.range_constraints)
    digest.update(str(called).encode())
    for name, value in tensors(program).items():
        digest.update(f"{name} {getattr(value, 'dtype', type(value))}".encode())
        if hasattr(value, "untyped_storage"):
            digest.update(f"{tuple(value.shape)}".encode())
            digest.update(_bytes(value))
    return digest.hexdigest()


def _kind(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if hasattr(value, "shape") else str(value)


def _bytes(value: Any) -> Any:
    torch = import_torch()
    if value.numel() == 0:
        return b""
    plain = value.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data


def open_axes(program: Any) -> Optional[Any]:
    """The dynamic shapes of :func:`flat`'s inputs, for exporting again; None where none is open."""
    torch = import_torch()
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    found = tuple(
        {
            axis: torch.export.Dim.DYNAMIC
            for axis, size in enumerate(values[name].shape)
            if not isinstance(size, int)
        }
        for name in program.graph_signature.user_inputs
    )
    return (found,) if any(found) else None


__all__ = [
    "BATCH", "DTYPES", "INSTALL", "chain", "changed", "dtype_name", "flat", "graphs",
    "import_torch", "load", "open_axes", "operators", "original", "output_names", "ports", "probe",
    "quiet", "refuse_memory", "runner", "sha256", "size_bytes", "tensors",
]  # fmt: skip
