"""Type-check sources against a stub of TensorRT's; say each attribute of its that they touch.

Run with ``FOLDER STUBS PACKAGE`` in a fresh process; the answer is JSON on stdout. In sources:

- vendor objects are annotated by their class (``config: trt.IBuilderConfig``);
- what not every version has stands behind ``hasattr(owner, "name")``, on which mypy narrows: for
  objects (``engine``, ``self.engine``), classes (``trt.BuilderFlag``) and the module (``trt``),
  in conditions, behind an early return and in ``and``; or it is asked for by
  ``getattr(owner, "name", default)``;
- a class of the module that not every version has can't be a base by its name, since mypy binds
  bases before it narrows: ``base = getattr(trt, "IInt8Calibrator", None)``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from mypy.build import build
from mypy.main import process_options
from mypy.nodes import CallExpr, Expression, MemberExpr, MypyFile, NameExpr, RefExpr, StrExpr
from mypy.types import AnyType, CallableType, Instance, Type, TypeType, UnionType, get_proper_type

VENDOR = "tensorrt"
MODULE, ANY, OTHER = "<module>", "<Any>", "<other>"
_ARGUMENTS = [
    "--config-file=",
    "--no-site-packages",
    "--ignore-missing-imports",
    "--follow-imports=silent",
    "--check-untyped-defs",
    "--no-incremental",
    "--no-pretty",
    "--hide-error-context",
    "--no-color-output",
]


def accesses(types: dict[Expression, Type]) -> Iterator[dict[str, Any]]:
    """Every attribute that is touched: by name, or by hasattr and getattr.

    line: of the expression. how: "name", "hasattr" or "getattr". owner: the vendor's
    class, MODULE, ANY, or OTHER for a class of another's. name: None where it is computed. has:
    whether this version's owner has it.
    """
    for node in types:
        if isinstance(node, MemberExpr):
            asked = ("name", node.expr, node.name)
        elif (
            isinstance(node, CallExpr)
            and isinstance(node.callee, NameExpr)
            and node.callee.name in {"hasattr", "getattr"}
            and len(node.args) > 1
        ):
            name = node.args[1]
            constant = name.value if isinstance(name, StrExpr) else None
            asked = (node.callee.name, node.args[0], constant)
        else:
            continue
        how, expression, name = asked
        for owner, has in _owners(types, expression, name):
            yield {"line": node.line, "how": how, "owner": owner, "name": name, "has": has}


def _owners(
    types: dict[Expression, Type], expression: Expression, name: str | None
) -> Iterator[tuple[str, bool]]:
    if isinstance(expression, RefExpr) and isinstance(expression.node, MypyFile):
        vendor = expression.node.fullname == VENDOR
        yield (MODULE, name in expression.node.names) if vendor else (OTHER, True)
        return
    kind = get_proper_type(types.get(expression))
    union = kind.items if isinstance(kind, UnionType) else [kind]
    items = [get_proper_type(item) for item in union]
    classes = [info for item in items if (info := _class_of(item))]
    vendors = [info for info in classes if info.module_name == VENDOR]
    for info in vendors:
        has = name is not None and info.get(name) is not None
        yield info.fullname.removeprefix(f"{VENDOR}."), has
    if not vendors:
        hidden = not classes and any(isinstance(item, AnyType) for item in items)
        yield (ANY, False) if hidden else (OTHER, True)


def _class_of(kind: Any) -> Any:
    """The class of an object, or that a class object is."""
    if isinstance(kind, Instance):
        return kind.type
    if isinstance(kind, TypeType) and isinstance(kind.item, Instance):
        return kind.item.type
    if isinstance(kind, CallableType) and kind.is_type_obj():
        return kind.type_object()
    return None


def checked(package: str) -> dict[str, Any]:
    """mypy's errors, and the accesses, in the modules of a package."""
    sources, options = process_options([*_ARGUMENTS, "-p", package])
    options.export_types = True
    result = build(sources, options)
    return {"errors": result.errors, "accesses": list(accesses(result.types))}


if __name__ == "__main__":
    json.dump(checked(sys.argv[1]), sys.stdout)
