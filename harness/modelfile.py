"""The user's model file: what it is, what it takes and gives, and all that is wrong with it.

Runs in a child process of the parent's interpreter: ``onnx`` is imported inside functions. Tensor
data is never loaded from external files, so a model may be larger than memory.
"""

from __future__ import annotations

import hashlib
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Optional, Union

from harness import tflitefile
from harness.errors import InputError, Problem
from harness.types import Ports, TensorSpec

PROTOBUF_LIMIT_BYTES = 2**31 - 1
"""No protobuf message can be larger; larger models keep their weights in external files."""

RUNTIME_DOMAINS = (
    "com.microsoft",
    "com.microsoft.experimental",
    "com.microsoft.nchwc",
    "com.ms.internal.nhwc",
    "org.openvinotoolkit",
)
"""Operator domains that onnx doesn't know, but some runtime does."""

_EXPECTED = "expected an ONNX or a TensorFlow Lite model"
_EXPORT = "export the model to ONNX: torch.onnx.export, tf2onnx, skl2onnx ..."

_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    # offset, bytes, what it is, the fix
    (4, b"ORTM", "a model in ONNX Runtime's own format (.ort)", "give the ONNX it was made from"),
    (4, b"ET", "an ExecuTorch program (.pte)", "give an ONNX export of the same model"),
    (0, b"PK\x03\x04", "a zip file (a PyTorch checkpoint, an .npz, an archive)", _EXPORT),
    (0, b"\x80\x02", "a Python pickle (an old PyTorch checkpoint)", _EXPORT),
    (0, b"\x89HDF", "an HDF5 file (a Keras model)", _EXPORT),
    (0, b"ftrt", "a TensorRT engine", "give the ONNX that it was built from"),
    (0, b"\x1f\x8b", "a gzip file", "gunzip it"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the model itself", "git lfs pull"),
    (0, b"<?xml", "an XML file (an OpenVINO IR?)", "give the ONNX that it was made from"),
)


@dataclass(frozen=True)
class ModelInfo:
    """A sound model file.

    path: absolute. name: the file's name without its suffix. format: ``onnx``, or ``tflite``.
    sha256: over the file and its external data. size_bytes: of both. opset: of the default
    operator domain; 0 where the format has none.
    inputs: those that the user feeds, without initializers. operators: (type, how many), the most
    frequent first, subgraphs included; ``domain.Type`` outside the default domain. ports: where
    inputs and outputs are in the file; None for ONNX. named: what the user named, where ``path``
    was made of it. quantized: whether its products are of integers, so that there is no fp32 of it.
    """

    path: str
    name: str
    format: str
    sha256: str
    size_bytes: int
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: tuple[tuple[str, int], ...]
    ports: Optional[Ports] = None
    named: Optional[str] = None
    quantized: bool = False

    @property
    def source(self) -> str:
        """What the user named."""
        return self.named or self.path


def inspect(path: str) -> ModelInfo:
    """Read and check a model file. Raises InputError with every problem found."""
    file = Path(path)
    problem = _file_problem(file, path)
    if problem is not None:
        raise InputError([problem])
    if _head(file)[4:].startswith(tflitefile.IDENTIFIER):
        return _inspect_tflite(file, path)
    model = _parse(file, path)
    problems = _beyond_the_checker(model, path)
    seen_by_checker = _before_the_checker(model, file, path)
    if not seen_by_checker and not _future_opsets(model):
        seen_by_checker = _checker_problems(file, path)
    if problems or seen_by_checker:
        raise InputError([*problems, *seen_by_checker])
    external = sorted({location for _, location, _ in _external(model)})
    files = [file, *(file.parent / location for location in external)]
    return ModelInfo(
        path=str(file.absolute()),
        name=file.stem,
        format="onnx",
        sha256=_hash(files),
        size_bytes=sum(item.stat().st_size for item in files),
        opset=_opsets(model).get("", 0),
        inputs=tuple(_spec(value) for value in _fed(model.graph)),
        outputs=tuple(_spec(value) for value in model.graph.output),
        operators=_operators(model),
    )


def _inspect_tflite(file: Path, path: str) -> ModelInfo:
    found = tflitefile.read(path)
    return ModelInfo(
        path=str(file.absolute()),
        name=file.stem,
        format="tflite",
        sha256=_hash([file]),
        size_bytes=file.stat().st_size,
        opset=0,
        inputs=tuple(port.spec for port in found.ports.inputs),
        outputs=tuple(port.spec for port in found.ports.outputs),
        operators=found.operators,
        ports=found.ports,
        quantized=found.quantized,
    )


def _file_problem(file: Path, where: str) -> Optional[Problem]:
    """Why the file can't be a model, before it is parsed; None if it may be one."""
    if file.is_dir():
        models = _models_in(file)
        fix = f"name the file: {file / models[0]}" if models else "name the model's file"
        return Problem(where, f"a folder; {_EXPECTED}", fix)
    if not file.exists():
        near = _models_in(file.parent)[:5]
        fix = f"in that folder: {', '.join(near)}" if near else "check the path"
        return Problem(where, "no such file", fix)
    try:
        head = _head(file)
    except OSError as error:
        return Problem(where, f"can't be read: {error.strerror}", "check its permissions")
    if head[4:].startswith(tflitefile.IDENTIFIER):
        return _suffix_problem(file, where)
    if file.stat().st_size > PROTOBUF_LIMIT_BYTES:
        what = f"{file.stat().st_size} bytes; an ONNX file can't be larger than 2 GiB"
        fix = "export it with external data: onnx.save(model, path, save_as_external_data=True)"
        return Problem(where, what, fix)
    return _head_problem(head, where)


def _suffix_problem(file: Path, where: str) -> Optional[Problem]:
    """Tools tell a TensorFlow Lite model by its name."""
    if file.suffix == ".tflite":
        return None
    what = "a TensorFlow Lite model whose name doesn't end in .tflite"
    return Problem(where, what, f"rename it to {file.with_suffix('.tflite').name}")


def _models_in(folder: Path) -> list[str]:
    """The names of what look like models in a folder."""
    return sorted(each.name for each in folder.glob("*") if each.suffix in (".onnx", ".tflite"))


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(256)


def _head_problem(head: bytes, where: str) -> Optional[Problem]:
    """What the file is, where its first bytes show that it is something else."""
    if not head:
        return Problem(where, f"the file is empty; {_EXPECTED}", "download or export it again")
    for offset, magic, what, fix in _SIGNATURES:
        if head[offset:].startswith(magic):
            return Problem(where, f"{what}; {_EXPECTED}", fix)
    if _is_text(head):
        return Problem(where, f"a text file; {_EXPECTED}", _EXPORT)
    return None


def _is_text(head: bytes) -> bool:
    try:
        text = head[:-3].decode("utf-8") if len(head) > 3 else head.decode("utf-8")  # noqa: PLR2004 - a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char in "\t\r\n" for char in text)


def _parse(file: Path, where: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(file, load_external_data=False)
    except DecodeError as error:
        # The first field of a ModelProto is its ir_version: tag 8.
        with file.open("rb") as stream:
            begins_as_onnx = stream.read(1) == b"\x08"
        if begins_as_onnx:
            what = "an incomplete or damaged ONNX file"
            fix = "download or export it again: it may be cut short"
        else:
            what, fix = f"not an ONNX file; {_EXPECTED}", _EXPORT
        raise InputError([Problem(where, what, fix)]) from error
    if not model.ir_version or not model.HasField("graph"):
        raise InputError([Problem(where, f"not an ONNX file; {_EXPECTED}", _EXPORT)])
    return model


def _beyond_the_checker(model: Any, where: str) -> list[Problem]:
    """What onnx.checker lets pass, and runtimes refuse or, worse, run."""
    graph = model.graph
    problems = [
        Problem(where, f"the model has no {kind}", "export it again with its inputs and outputs")
        for kind, values in (("inputs", list(_fed(graph))), ("outputs", graph.output))
        if not values
    ]
    for value in [*_fed(graph), *graph.output]:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            what = f"{(kind or 'a value without a type').replace('_type', '')}; expected a tensor"
            fix = "export it with plain tensors (skl2onnx: zipmap=False)"
            problems.append(Problem(f"{where}: {value.name}", what, fix))
    for domain, version, newest in _future_opsets(model):
        what = (
            f"opset {version} of {domain or 'the default domain'};"
            f" the newest that the installed onnx knows is {newest}"
        )
        fix = f"pip install --upgrade onnx, or export with opset {newest}"
        problems.append(Problem(where, what, fix))
    for domain, types in _unknown_domains(model).items():
        what = f'operators of the unknown domain "{domain}": {", ".join(sorted(types))}'
        fix = "export without custom operators"
        problems.append(Problem(where, what, fix))
    return problems


def _before_the_checker(model: Any, file: Path, where: str) -> list[Problem]:
    """All that onnx.checker would stop at one by one, in our words and all at once."""
    problems = _unknown_operators(model, where) + _external_problems(model, file, where)
    for value in [*_fed(model.graph), *model.graph.output]:
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") or (
            tensor.elem_type and tensor.HasField("shape")
        ):
            continue
        what = f"declares no {'shape' if tensor.elem_type else 'element type'}"
        fix = "onnx.save(onnx.shape_inference.infer_shapes(onnx.load(path)), path), or export again"
        problems.append(Problem(f"{where}: {value.name}", what, fix))
    for graph in _graphs(model):
        counts = Counter(name for node in graph.node for name in node.output if name)
        fed = {value.name for value in graph.input} | {item.name for item in graph.initializer}
        for name, count in counts.items():
            if count + (name in fed) > 1:
                what = f'the value name "{name}" is given {count + (name in fed)} times'
                fix = "rename one: some runtimes refuse such a model, others run it wrongly"
                problems.append(Problem(where, what, fix))
    return problems


def _checker_problems(file: Path, where: str) -> list[Problem]:
    import onnx

    # Both errors derive from Exception alone; the path keeps external data out of memory.
    errors = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError)
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except errors as error:
        text = " ".join(str(error).split()).removeprefix("[ShapeInferenceError] ")
        what = f"onnx.checker: {textwrap.shorten(text, 300)}"
        return [Problem(where, what, "mend the export, and check it with onnx.checker")]
    return []


def _opsets(model: Any) -> dict[str, int]:
    return {_domain(item.domain): int(item.version) for item in model.opset_import}


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _future_opsets(model: Any) -> list[tuple[str, int, int]]:
    """(domain, version, newest known) of each import that is too new."""
    import onnx

    newest = {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": onnx.defs.onnx_ml_opset_version()}
    return [
        (domain, version, newest[domain])
        for domain, version in _opsets(model).items()
        if version > newest.get(domain, version)
    ]


def _local_functions(model: Any) -> set[tuple[str, str]]:
    return {(_domain(function.domain), function.name) for function in model.functions}


def _unknown_domains(model: Any) -> dict[str, set[str]]:
    """Operator types by domain, where neither onnx, a runtime nor the model defines it."""
    import onnx

    known = {schema.domain for schema in onnx.defs.get_all_schemas()} | set(RUNTIME_DOMAINS)
    local = _local_functions(model)
    unknown: dict[str, set[str]] = {}
    for node in _nodes(model):
        domain = _domain(node.domain)
        if domain not in known and (domain, node.op_type) not in local:
            unknown.setdefault(domain, set()).add(node.op_type)
    return unknown


def _unknown_operators(model: Any, where: str) -> list[Problem]:
    """Operators that onnx's own domains don't have, or don't have yet in the model's opset."""
    import onnx

    newest: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas():
        newest[schema.domain] = max(newest.get(schema.domain, 0), schema.since_version)
    opsets, local = _opsets(model), _local_functions(model)
    problems = []
    for domain, kind in sorted({(_domain(node.domain), node.op_type) for node in _nodes(model)}):
        if domain not in newest or (domain, kind) in local or domain not in opsets:
            continue
        if onnx.defs.has(kind, opsets[domain], domain):
            continue
        label = f"{domain}.{kind}" if domain else kind
        if onnx.defs.has(kind, domain=domain):
            what = f"the operator {label} doesn't exist yet in the model's opset {opsets[domain]}"
            fix = "export with a newer opset"
        else:
            what, fix = f"no such operator: {label}", "export without custom operators"
        problems.append(Problem(where, what, fix))
    return problems


def _external_problems(model: Any, file: Path, where: str) -> list[Problem]:
    """External data that is absent, too short, or outside the model's folder."""
    problems: dict[str, Problem] = {}
    needed: dict[str, int] = {}
    for tensor, location, end in _external(model):
        path = PurePosixPath(location)
        if not location or path.is_absolute() or ".." in path.parts:
            what = (
                f'external data of "{tensor}" at "{location}", outside the model\'s folder;'
                " such a path is never followed"
            )
            fix = "save the model again with its data beside it"
            problems.setdefault(location, Problem(where, what, fix))
        elif not (file.parent / location).is_file():
            what = f'the external data file "{location}" is missing (it holds "{tensor}")'
            fix = f"copy it to {file.parent / location}"
            problems.setdefault(location, Problem(where, what, fix))
        else:
            needed[location] = max(needed.get(location, 0), end)
    for location, end in needed.items():
        size = (file.parent / location).stat().st_size
        if size < end:
            what = f'the external data file "{location}" has {size} bytes; the model needs {end}'
            problems[location] = Problem(where, what, "copy it again: it may be cut short")
    return list(problems.values())


def _external(model: Any) -> Iterator[tuple[str, str, int]]:
    """Yield (tensor, location, the byte where its data ends, 0 if unsaid) of external tensors."""
    import onnx

    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
            yield tensor.name, entries.get("location", ""), end


def _tensors(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t


def _graphs(model: Any) -> Iterator[Any]:
    """The main graph and every subgraph of it and of the model's functions."""
    pending = [model.graph]
    bodies = [node for function in model.functions for node in function.node]
    pending += _subgraphs(bodies)
    while pending:
        graph = pending.pop()
        yield graph
        pending += _subgraphs(graph.node)


def _subgraphs(nodes: Any) -> list[Any]:
    found = []
    for node in nodes:
        for attribute in node.attribute:
            found += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
    return found


def _nodes(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _operators(model: Any) -> tuple[tuple[str, int], ...]:
    counts = Counter(
        f"{_domain(node.domain)}.{node.op_type}" if _domain(node.domain) else str(node.op_type)
        for node in _nodes(model)
    )
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _fed(graph: Any) -> Iterator[Any]:
    """The inputs that have no initializer: what the user feeds."""
    initialised = {item.name for item in graph.initializer}
    initialised |= {item.values.name for item in graph.sparse_initializer}
    return (value for value in graph.input if value.name not in initialised)


def _spec(value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    dims = tuple(_dimension(dim) for dim in tensor.shape.dim)
    return TensorSpec(value.name, _dtype(tensor.elem_type), dims)


def _dimension(dim: Any) -> Union[int, str, None]:
    if dim.HasField("dim_value"):
        # Some exporters write -1 for a dimension that isn't fixed.
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    # paddle2onnx names every open dimension "?", which doesn't make them equal.
    return None if dim.dim_param in {"", "?"} else dim.dim_param


def _dtype(element: int) -> str:
    import onnx

    if element == onnx.TensorProto.STRING:
        return "str"
    return str(onnx.helper.tensor_dtype_to_np_dtype(element).name)


def _hash(files: list[Path]) -> str:
    """The sha256 of the file; with external data, over the files' hexadecimal digests in order."""
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
