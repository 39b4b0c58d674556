"""PyTorch models as users have them: a ``.pt2``, or a ``module:function`` that makes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from backends.convert import archives, pt2
from backends.convert.exporting import Example, export
from harness.backend import API_VERSION, Program
from harness.errors import InputError, Problem, first_line
from harness.functions import is_function, load_function
from harness.types import Environment, Probe

SUFFIXES = (".pt2", ".ptl", ".pt", ".pth")
_PAIR, _TRIPLE = 2, 3
_RETURN = (
    "return (model, inputs): an nn.Module, and a tuple of tensors or a dict of forward()'s "
    "arguments; as a third, dynamic_shapes as torch.export takes them"
)
_ON_CPU = "load the weights on the CPU, and export that: model.cpu(), and the inputs, too"


class TorchSource:
    """Reads what ``torch.export`` saved, and exports what a function returns.

    Any other file of PyTorch's is told apart by its content and refused with what to do.
    """

    name = "torch"
    api = API_VERSION
    home = "executorch"
    environment: Optional[Environment] = None

    def claims(self, source: str) -> bool:
        """A ``.pt2``, ``.ptl``, ``.pt`` or ``.pth``, or a function that is no path."""
        if Path(source).suffix.lower() in SUFFIXES:
            return True
        return is_function(source)

    def probe(self) -> Probe:
        """Whether torch is installed."""
        return pt2.probe(self.name, ("torch",))

    def read(self, source: str, folder: str) -> Program:
        """The program; of a function, exported for a batch of any size where that works."""
        torch = pt2.import_torch()
        is_file = Path(source).suffix.lower() in SUFFIXES
        program, notes = (_loaded if is_file else _called)(torch, source)
        problems = _problems(torch, program, source)
        if problems:
            raise InputError(problems)
        path = Path(source).absolute() if is_file else Path(folder, "model.pt2")
        if not is_file:
            _save(torch, program, str(path), source)
        found = pt2.ports(program)
        return Program(
            name=Path(source).stem if is_file else source.replace(":", "."),
            path=str(path),
            format="pt2",
            sha256=pt2.sha256(program),
            size_bytes=pt2.size_bytes(program),
            inputs=tuple(port.spec for port in found.inputs),
            outputs=tuple(port.spec for port in found.outputs),
            ports=found,
            operators=pt2.operators(program),
            notes=notes,
        )


def _loaded(torch: Any, path: str) -> tuple[Any, tuple[str, ...]]:
    archives.check(path)
    try:
        with pt2.quiet():
            return torch.export.load(path), ()
    except Exception as fault:
        pt2.refuse_memory(fault)
        wrote = archives.written_by(path)
        what = f"torch {torch.__version__} can't load it: {first_line(fault)}"
        fix = f"export it with this version of torch; {archives.EXPORT}"
        if "CUDA" in what:
            fix = _ON_CPU
        elif wrote not in (None, torch.__version__):
            what = f"torch {torch.__version__} can't load what torch {wrote} wrote"
        raise InputError([Problem(path, what, fix)]) from fault


def _save(torch: Any, program: Any, path: str, source: str) -> None:
    try:
        with pt2.quiet():
            torch.export.save(program, path)
    except Exception as fault:
        pt2.refuse_memory(fault)
        what = f"the exported program can't be saved: {first_line(fault)}"
        fix = "let forward() take and return tensors, tuples, lists and dicts of them"
        raise InputError([Problem(source, what, fix)]) from fault


def _called(torch: Any, source: str) -> tuple[Any, tuple[str, ...]]:
    """What the user's function returns, exported, and what there is to say about it."""
    with pt2.quiet():
        function = load_function(source, source)
    try:
        with pt2.quiet():
            returned = function()
    except Exception as fault:
        pt2.refuse_memory(fault)
        what = f"raised {type(fault).__name__}: {first_line(fault)}"
        raise InputError([Problem(source, what, "mend the function, and run again")]) from fault
    if isinstance(returned, torch.export.ExportedProgram):
        return returned, ()
    return export(_example(torch, returned, source), source)


def _example(torch: Any, returned: Any, source: str) -> Example:
    """The returned model and inputs, checked. Raises InputError with all that is wrong."""
    parts = returned if isinstance(returned, tuple) else (returned,)
    if len(parts) not in (_PAIR, _TRIPLE):
        what = f"returned {_shown(returned)}; expected (model, inputs)"
        raise InputError([Problem(source, what, _RETURN)])
    model, inputs, shapes = (*parts, None)[:_TRIPLE]
    problems = []
    if not isinstance(model, torch.nn.Module):
        what = f"the first that it returned is {_shown(model)}; expected an nn.Module"
        problems.append(Problem(source, what, _RETURN))
    if not isinstance(inputs, (tuple, list, Mapping)):
        fix = "return (model, (x,))" if isinstance(inputs, torch.Tensor) else _RETURN
        what = f"the inputs are {_shown(inputs)}; expected a tuple or a dict of tensors"
        problems.append(Problem(source, what, fix))
    elif not inputs:
        problems.append(Problem(source, "there are no inputs; expected one or more tensors"))
    else:
        problems += _not_tensors(torch, inputs, source)
    if problems:
        raise InputError(problems)
    named = dict(inputs) if isinstance(inputs, Mapping) else {}
    return Example(model, () if named else tuple(inputs), named, shapes)


def _not_tensors(torch: Any, inputs: Any, source: str) -> list[Problem]:
    from torch.utils import _pytree as pytree

    leaves, _ = pytree.tree_flatten_with_path(inputs)
    fix = "give tensors alone; let a module of yours around the model set what is no tensor"
    return [
        Problem(f"{source}: inputs{pytree.keystr(path)}", f"{_shown(leaf)}, no tensor", fix)
        for path, leaf in leaves
        if not isinstance(leaf, torch.Tensor)
    ]


def _problems(torch: Any, program: Any, source: str) -> list[Problem]:
    """Whatever in a program has no equivalent in the other formats."""
    found = []
    signature = program.graph_signature
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    if not signature.user_inputs:
        found.append(Problem(source, "the program has no inputs"))
    for part, names in (("input", signature.user_inputs), ("output", signature.user_outputs)):
        for number, name in enumerate(names):
            value = values.get(name) if isinstance(name, str) else name
            where = f"{source}: {part} {name if isinstance(name, str) else number}"
            if not isinstance(value, torch.Tensor):
                what = f"{_shown(value)}, no tensor: exported as a constant"
                fix = "export a module that takes and returns tensors alone"
                found.append(Problem(where, what, fix))
            elif pt2.dtype_name(value.dtype) not in pt2.DTYPES:
                what = f"{value.dtype}, which numpy doesn't have"
                found.append(Problem(where, what, "cast it in forward(), to float32"))
    tensors = pt2.tensors(program).values()
    elsewhere = {str(each.device) for each in tensors if hasattr(each, "device")} - {"cpu"}
    if elsewhere:
        what = f"its weights are on the device {', '.join(sorted(elsewhere))}"
        found.append(Problem(source, what, _ON_CPU))
    for name in pt2.changed(program):
        what = f"forward() changes {name}: each call would depend on those before"
        fix = "make the state an input and an output; export model.eval()"
        found.append(Problem(f"{source}: {name}", what, fix))
    if _trains(torch, program):
        what = "exported in training mode: dropout is active, and outputs are random"
        found.append(Problem(source, what, "export model.eval()"))
    return found


def _trains(torch: Any, program: Any) -> bool:
    nodes = [node for graph in pt2.graphs(program) for node in graph.nodes]
    kind = torch._ops.OpOverload  # noqa: SLF001 - has no public name
    return any(isinstance(node.target, kind) and _drops(node) for node in nodes)


def _drops(node: Any) -> bool:
    """Whether an operator drops values at random: of its own, or attention or recurrent."""
    schema = node.target._schema  # noqa: SLF001 - has no public name
    given = {
        argument.name: node.args[at] if at < len(node.args) else argument.default_value
        for at, argument in enumerate(schema.arguments)
    }
    given.update(node.kwargs)
    share = given.get(
        "dropout_p", given.get("dropout", "dropout" in schema.name and given.get("p"))
    )
    return bool(share) and given.get("train", given.get("training")) is not False


def _shown(value: Any) -> str:
    """A value in a message: its type, and a short one itself."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    if isinstance(value, Sequence):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__


SOURCE = TorchSource()

__all__ = ["SOURCE", "TorchSource"]
