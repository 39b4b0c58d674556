"""An nn.Module as an exported program: in evaluation mode, for batches of any size if it can be."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from backends.convert import checking, pt2
from harness.errors import InputError, Problem

LARGEST_BATCH = 1024
"""The bound of an open batch: ExecuTorch plans memory for bounded sizes only."""


@dataclass(frozen=True)
class Example:
    """A module, and inputs that its forward() takes. shapes: ``dynamic_shapes``, or None."""

    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: Optional[Any] = None


def export(example: Example, where: str) -> tuple[Any, tuple[str, ...]]:
    """The program, and notes. Raises InputError with what torch.export says."""
    notes = []
    if any(module.training for module in example.module.modules()):
        notes.append("the model was in training mode: exported in evaluation mode (model.eval())")
    example = _on_cpu(example)
    if example.shapes is not None:
        return _plain(example, where), tuple(notes)
    program, reason = _batched(example)
    if program is None:
        notes.append(f"the batch is fixed: {reason}")
        program = _plain(example, where)
    return program, tuple(notes)


def _on_cpu(example: Example) -> Example:
    from torch.utils import _pytree as pytree

    module = example.module.cpu().eval()
    args, kwargs = pytree.tree_map(
        lambda value: value.detach().cpu(), (example.args, example.kwargs)
    )
    return Example(module, args, kwargs, example.shapes)


def _plain(example: Example, where: str) -> Any:
    try:
        return _exported(example)
    except Exception as fault:
        what = f"torch.export.export raised {type(fault).__name__}: {pt2.first_line(fault)}"
        fix = "the same call in Python shows the whole error and where in the model it is"
        raise InputError([Problem(where, what, fix)]) from fault


def _batched(example: Example) -> tuple[Any, str]:
    """A program whose first axes are open, or None and why there is none."""
    torch = pt2.import_torch()
    from torch.utils import _pytree as pytree

    leaves, spec = pytree.tree_flatten((example.args, example.kwargs))
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
    if len(sizes) != 1 or None in sizes:
        return None, "the inputs have no first axis of one size"
    batch = torch.export.Dim(pt2.BATCH, min=1, max=LARGEST_BATCH)
    # One sample alone would be exported as the constant 1.
    double = [torch.cat([leaf, leaf]) for leaf in leaves]
    args, kwargs = pytree.tree_unflatten(double, spec)
    shapes = pytree.tree_map(lambda _: {0: batch}, (args, kwargs))
    try:
        program = _exported(Example(example.module, args, kwargs, _by_argument(example, shapes)))
        told = _told_apart(program, leaves, double)
    except Exception as fault:  # noqa: BLE001 - whatever a model does with shapes
        return None, pt2.first_line(fault)
    return (program, "") if told else (None, "the first axis isn't one of independent samples")


def _by_argument(example: Example, shapes: tuple[Any, Any]) -> Any:
    """Dynamic shapes as torch.export takes them, by forward()'s arguments."""
    args, kwargs = shapes
    if not kwargs:
        parameters = inspect.signature(example.module.forward).parameters.values()
        fixed = [each for each in parameters if each.kind is not each.VAR_POSITIONAL]
        many = len(fixed) != len(parameters)
        return (*args[: len(fixed)], args[len(fixed) :]) if many else args
    return kwargs


def _told_apart(program: Any, leaves: Sequence[Any], double: Sequence[Any]) -> bool:
    """Whether two of the same give twice the same, along the first axis."""
    torch = pt2.import_torch()
    module = pt2.flat(program)
    with torch.no_grad(), pt2.quiet():
        once, twice = module(*leaves), module(*double)
    if any(value.ndim == 0 for value in once):
        return False
    wanted = {str(at): torch.cat([value, value]).numpy() for at, value in enumerate(once)}
    got = {str(at): value.numpy() for at, value in enumerate(twice)}
    return checking.difference([got], [wanted]) <= checking.AGREES


def _exported(example: Example) -> Any:
    torch = pt2.import_torch()
    with torch.no_grad(), pt2.quiet():
        program = _export(example.module, example)
        if not _is_plain(program.call_spec.out_spec):
            program = _export(_named(example.module), example)
    return program


def _export(module: Any, example: Example) -> Any:
    torch = pt2.import_torch()
    return torch.export.export(
        module, example.args, example.kwargs, dynamic_shapes=example.shapes, strict=False
    )


def _is_plain(spec: Any) -> bool:
    """Whether a structure can be read where the user's classes aren't: no class, and no None."""
    from torch.utils import _pytree as pytree

    value = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    return _is_plain_value(value)


def _is_plain_value(value: Any) -> bool:
    if type(value) in (tuple, list):
        return all(_is_plain_value(item) for item in value)
    if type(value) is dict:
        return all(isinstance(key, str) for key in value) and _is_plain_value([*value.values()])
    return type(value) is int


def _named(module: Any) -> Any:
    """The module, with its outputs in a dict by their names; it takes what the module takes."""
    torch = pt2.import_torch()
    from torch.utils import _pytree as pytree

    def forward(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        leaves, spec = pytree.tree_flatten(self.module(*args, **kwargs))
        named = zip(pt2.output_names(spec), leaves)
        return {name: leaf for name, leaf in named if leaf is not None}

    made = type("Named", (torch.nn.Module,), {"forward": forward})()
    made.module = module
    own = list(inspect.signature(module.forward).parameters.values())
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    forward.__signature__ = inspect.Signature([itself, *own])  # type: ignore[attr-defined]
    return made.eval()


__all__ = ["LARGEST_BATCH", "Example", "export"]
