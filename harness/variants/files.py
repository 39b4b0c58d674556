"""Reading and writing ONNX files of any size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.errors import UnsupportedError

LARGE_BYTES = 1_500_000_000
"""Beyond this, weights go beside the model: one protobuf holds 2 GB, and quantizing adds nodes."""

_EMBEDDED_BYTES = 1024  # tensors smaller than this stay in the model
_CONSTANT_IR = 4  # the first in which weights needn't be inputs


def is_large(path: str, model: Any = None) -> bool:
    """Whether what is made of the model has to keep its weights beside it.

    model: what the file holds, where it was read already, without its external data.
    """
    from onnx.external_data_helper import uses_external_data

    if Path(path).stat().st_size > LARGE_BYTES:
        return True
    model = model or outline(path)
    return any(uses_external_data(tensor) for tensor in initializers(model.graph))


def initializers(graph: Any) -> Iterator[Any]:
    """The graph's weights and those of the graphs inside it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
        for part in parts(node):
            yield from initializers(part)


def parts(node: Any) -> Iterator[Any]:
    """The graphs inside a node."""
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def outline(path: str) -> Any:
    """The model without the values of its weights, read once as long as the file stays as it is.

    Not to be changed, nor saved.
    """
    found = Path(path).stat()
    return _outline(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=4)
def _outline(path: str, _mtime_ns: int, _size: int) -> Any:
    import onnx

    model = onnx.load(path, load_external_data=False)
    for tensor in initializers(model.graph):
        tensor.ClearField("raw_data")
    return model


def nodes_of(path: str) -> list[Any]:
    """The nodes of a file's main graph, in order."""
    return list(outline(path).graph.node)


def save(model: Any, out: str, *, large: bool) -> None:
    """Write a model, its weights in ``<out>.data`` if large."""
    import onnx

    if not large:
        onnx.save_model(model, out)
        return
    data = Path(f"{out}.data")
    data.unlink(missing_ok=True)  # onnx would append to it
    onnx.save_model(
        model,
        out,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=data.name,
        size_threshold=_EMBEDDED_BYTES,
    )


def opset(model: Any) -> int:
    """The version of ONNX's own operators that the model uses; 0 if it uses none."""
    versions = (each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    return max(versions, default=0)


def freeze(model: Any) -> bool:
    """Make constants of weights that are inputs too, in place; whether anything had to change.

    They are defaults, which nobody feeds (as ``harness.modelfile`` says); tools leave them alone.
    """
    graph, version = model.graph, model.ir_version
    held = {tensor.name for tensor in graph.initializer}
    held |= {tensor.values.name for tensor in graph.sparse_initializer}
    listed = [place for place, value in enumerate(graph.input) if value.name in held]
    for place in reversed(listed):
        del graph.input[place]
    model.ir_version = max(version, _CONSTANT_IR)
    return bool(listed) or version < _CONSTANT_IR


def upgraded(source: str, target: str, oldest: int, notes: list[str], *, large: bool) -> str:
    """The file to start from: the source, if its weights are constants and its opset is new enough.

    Otherwise what is made of it, at ``target``.
    """
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    version = opset(outline(source))
    model = onnx.load(source, load_external_data=False)
    if not freeze(model) and version >= oldest:
        return source
    load_external_data_for_model(model, str(Path(source).parent))
    if version < oldest:
        try:
            model = onnx.version_converter.convert_version(model, oldest)
        except Exception as fault:
            raise UnsupportedError(
                f"the recipe needs opset {oldest}, the model has {version}, and it can't be "
                f"converted: {fault}",
                "export the model again with a newer opset",
            ) from fault
        notes.append(f"opset {version} converted to {oldest}")
    save(model, target, large=large)
    return target


def inferred(source: str, folder: Path) -> Any:
    """The model with its shapes inferred, by way of files: in memory that ends at 2 GB."""
    import onnx

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        given, made = (str(Path(temporary) / name) for name in ("given.onnx", "inferred.onnx"))
        save(onnx.load(source), given, large=True)
        onnx.shape_inference.infer_shapes_path(given, made)
        return onnx.load(made)


def check(out: str, source: str, tool: str) -> None:
    """Raise UnsupportedError if a tool made a model that is not valid, types and shapes included.

    Where ONNX can't infer through the source either, only the structure is checked.
    """
    fault = _fault(out, full=True)
    if fault is None or (_fault(out, full=False) is None and _fault(source, full=True)):
        return
    text = " ".join(str(fault).split())[:500]
    raise UnsupportedError(f"{tool} made an invalid model of this one: {text}") from fault


def _fault(path: str, *, full: bool) -> Exception | None:
    """What the checker has against a model file."""
    from onnx import checker

    try:
        checker.check_model(path, full_check=full)
    except Exception as fault:  # noqa: BLE001 - checker and inference raise unrelated classes
        return fault
    return None
