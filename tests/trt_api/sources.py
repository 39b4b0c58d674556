"""A copy of a package in which mypy can follow TensorRT's module, with one place per line.

The adapter gets the module at run time (``library.module``, or a parameter ``trt: Any``), which no
type says. In the copy those places mean the imported module, line by line as they were. Each file
starts at a line of its own ten thousand, so that a line alone says the file.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

LINES = 10_000
_FUTURE = "from __future__ import annotations"


def copied(package: Path, root: Path) -> dict[int, Path]:
    """Copy ``package`` to ``root/backends/NAME``; its files by the number of their ten thousand."""
    target = root / "backends" / package.name
    files = sorted(package.rglob("*.py"))
    for number, file in enumerate(files, 1):
        place = target / file.relative_to(package)
        place.parent.mkdir(parents=True, exist_ok=True)
        text = with_module(file.read_text(encoding="utf-8"))
        place.write_text("\n" * (number * LINES) + text, encoding="utf-8")
    (root / "backends" / "__init__.py").touch()
    return dict(enumerate(files, 1))


def attributes(file: Path) -> Iterator[tuple[int, str]]:
    """(line, name) of every attribute that the source touches when it runs.

    Annotations aren't run; a class's bases are bound before mypy knows types.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    apart: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation:
            apart.append(node.annotation)
        elif isinstance(node, ast.FunctionDef) and node.returns:
            apart.append(node.returns)
        elif isinstance(node, ast.ClassDef):
            apart += node.bases
    skipped = {child for node in apart for child in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node not in skipped:
            yield node.lineno, node.attr


def with_module(text: str) -> str:
    """The source in which ``x.module`` and a parameter ``trt`` are the module ``tensorrt``."""
    lines = [line.encode() for line in text.splitlines()]
    for line, start, end, new in sorted(_edits(ast.parse(text)), reverse=True):
        lines[line - 1] = lines[line - 1][:start] + new.encode() + lines[line - 1][end:]
    changed = b"\n".join(lines).decode() + "\n"
    changed = changed.replace("# type: ignore", "# nothing is ignored here:")
    return changed.replace(_FUTURE, f"{_FUTURE}; import tensorrt as trt", 1)


def _edits(tree: ast.AST) -> Iterator[tuple[int, int, int, str]]:
    """(line, first column, end, what to put there); none overlaps another."""
    taken = [node for node in ast.walk(tree) if _takes_module(node)]
    for node in taken:
        yield node.lineno, node.col_offset, node.end_col_offset, "pass"
    inside = {child for node in taken for child in ast.walk(node)}
    for node in ast.walk(tree):
        if node in inside:
            continue
        if _is_module(node):
            yield node.lineno, node.col_offset, node.end_col_offset, "trt"
        elif isinstance(node, (ast.arg, ast.keyword)) and node.arg == "trt":
            yield node.lineno, node.col_offset, node.col_offset + len("trt"), "_trt"


def _is_module(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "module"


def _takes_module(node: ast.AST) -> bool:
    """``trt = library.module``."""
    return (
        isinstance(node, ast.Assign)
        and _is_module(node.value)
        and [target.id for target in node.targets if isinstance(target, ast.Name)] == ["trt"]
    )
