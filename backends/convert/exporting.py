"""An nn.Module as an exported program: in evaluation mode, for batches of any size if it can be."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from backends.convert import checking, pt2
from harness.errors import InputError, Problem, first_line

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
    example = _plain_outputs(_on_cpu(example, where), where)
    if example.shapes is not None:
        return _as_given(example, where), tuple(notes)
    program, reason = _batched(example)
    if program is None:
        notes.append(f"the batch is fixed: {reason}")
        program = _as_given(example, where)
    return program, tuple(notes)


def _on_cpu(example: Example, where: str) -> Example:
    from torch.utils import _pytree as pytree

    tensors = [*example.module.parameters(), *example.module.buffers()]
    tensors += pytree.tree_leaves((example.args, example.kwargs))
    if any(tensor.is_meta for tensor in tensors):
        what = "there are tensors on the device meta, which have no values"
        fix = "make and load the model, and its inputs, on the CPU"
        raise InputError([Problem(where, what, fix)])
    module = example.module.cpu().eval()
    args, kwargs = pytree.tree_map(
        lambda value: value.detach().cpu(), (example.args, example.kwargs)
    )
    return Example(module, args, kwargs, example.shapes)


def _plain_outputs(example: Example, where: str) -> Example:
    """With a module that returns tuples, lists and dicts, whatever classes this one has."""
    torch = pt2.import_torch()
    try:
        with torch.no_grad(), pt2.quiet():
            returned = example.module(*example.args, **example.kwargs)
    except Exception as fault:
        pt2.refuse_memory(fault)
        what = f"forward() raised {type(fault).__name__}: {first_line(fault)}"
        fix = "return inputs that forward() takes: model(*inputs), or model(**inputs), must work"
        raise InputError([Problem(where, what, fix)]) from fault
    return example if _is_plain(returned) else replace(example, module=_named(example.module))


def _as_given(example: Example, where: str) -> Any:
    try:
        return _exported(example)
    except Exception as fault:
        pt2.refuse_memory(fault)
        what = f"torch.export.export raised {type(fault).__name__}: {first_line(fault)}"
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
    others = [_other(leaf) for leaf in leaves]
    both = [torch.cat(pair) for pair in zip(leaves, others)]
    args, kwargs = pytree.tree_unflatten(both, spec)
    shapes = pytree.tree_map(lambda _: {0: batch}, (args, kwargs))
    try:
        program = _exported(Example(example.module, args, kwargs, _by_argument(example, shapes)))
        told = _told_apart(program, leaves, others, both)
    except Exception as fault:  # noqa: BLE001 - whatever a model does with shapes
        pt2.refuse_memory(fault)
        return None, first_line(fault)
    return (program, "") if told else (None, "the first axis isn't one of independent samples")


def _other(leaf: Any) -> Any:
    """Of other values: of integers, which may be indices, the same ones in another order."""
    torch = pt2.import_torch()
    flipped = leaf.flip(tuple(range(1, leaf.ndim)))
    if not leaf.is_floating_point():
        return flipped
    return flipped + torch.linspace(0, 1, leaf.numel(), dtype=leaf.dtype).reshape(leaf.shape)


def _by_argument(example: Example, shapes: tuple[Any, Any]) -> Any:
    """Dynamic shapes as torch.export takes them, by forward()'s arguments."""
    args, kwargs = shapes
    if not kwargs:
        parameters = inspect.signature(example.module.forward).parameters.values()
        kinds = [each.kind for each in parameters]
        if inspect.Parameter.VAR_POSITIONAL in kinds:
            own = kinds.index(inspect.Parameter.VAR_POSITIONAL)
            return (*args[:own], args[own:])
        return args
    return kwargs


def _told_apart(program: Any, *feeds: Sequence[Any]) -> bool:
    """Whether two together give what each gives, along the first axis."""
    torch = pt2.import_torch()
    module = pt2.flat(program)
    with torch.no_grad(), pt2.quiet():
        first, second, both = (module(*leaves) for leaves in feeds)
    if any(value.ndim == 0 for value in first):
        return False
    wanted = {str(at): torch.cat(pair).numpy() for at, pair in enumerate(zip(first, second))}
    got = {str(at): value.numpy() for at, value in enumerate(both)}
    return checking.difference([got], [wanted]) <= checking.AGREES


def _exported(example: Example) -> Any:
    torch = pt2.import_torch()
    with torch.no_grad(), pt2.quiet():
        return torch.export.export(
            example.module, example.args, example.kwargs,
            dynamic_shapes=example.shapes, strict=False,
        )  # fmt: skip


def _is_plain(value: Any) -> bool:
    """Whether a structure can be read where the user's classes aren't: no class, and no None."""
    if type(value) in (tuple, list):
        return all(_is_plain(item) for item in value)
    if type(value) is dict:
        return all(isinstance(key, str) for key in value) and _is_plain([*value.values()])
    return isinstance(value, (pt2.import_torch().Tensor, int, float, str))


def _named(module: Any) -> Any:
    """The module, with its outputs in a dict by their names; it takes what the module takes."""
    torch = pt2.import_torch()
    from torch.utils import _pytree as pytree

    def forward(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        leaves, spec = pytree.tree_flatten(_opened(self.module(*args, **kwargs)))
        named = zip(pt2.output_names(spec), leaves)
        return {name: leaf for name, leaf in named if leaf is not None}

    made = type("Named", (torch.nn.Module,), {"forward": forward})()
    made.module = module
    own = list(inspect.signature(module.forward).parameters.values())
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    forward.__signature__ = inspect.Signature([itself, *own])  # type: ignore[attr-defined]
    return made.eval()


def _opened(value: Any) -> Any:
    """Dataclasses as dicts, which PyTorch flattens; it knows those of other classes that it can."""
    from torch.utils import _pytree as pytree

    def fields(leaf: Any) -> Any:
        if not dataclasses.is_dataclass(leaf):
            return leaf
        return {at.name: _opened(getattr(leaf, at.name)) for at in dataclasses.fields(leaf)}

    return pytree.tree_map(fields, value)


__all__ = ["LARGEST_BATCH", "Example", "export"]
