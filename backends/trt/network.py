"""From an ONNX file to a TensorRT network with optimization profiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from backends.trt.library import Library
from backends.trt.log import Log, classified
from harness.errors import BackendError, UnsupportedError
from harness.types import ShapeRange, TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt

_OPEN = -1
_SHAPES = "give [shapes] in sweep.toml, or data with the shapes that the model will see"
_NOISE = ("[checkMacros", "ModelImporter.cpp", "Invalid Node -", "--- ")

_DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "FP8": "float8_e4m3fn",
    "INT8": "int8", "UINT8": "uint8", "INT32": "int32", "INT64": "int64", "BOOL": "bool",
}  # fmt: skip
"""TensorRT's types by the names that numpy (or, for two, ml_dtypes) has for them."""


@dataclass(frozen=True)
class Network:
    """A parsed model. parser: owns the weights, so it has to live until the engine is built."""

    definition: trt.INetworkDefinition
    parser: trt.OnnxParser

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """As TensorRT understood them; open axes have the ONNX model's names where it has any."""
        network = self.definition
        return tuple(_spec(network.get_input(index)) for index in range(network.num_inputs))

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The same of the outputs."""
        network = self.definition
        return tuple(_spec(network.get_output(index)) for index in range(network.num_outputs))


def parse(
    library: Library, builder: trt.Builder, log: Log, path: str, *, typed: bool = True
) -> Network:
    """Parse an ONNX file, with its external weights.

    typed: strongly typed, so that every type is the model's; else TensorRT chooses by flags, which
    TensorRT 10 still can.

    Raises:
        UnsupportedError: it isn't ONNX, or holds what TensorRT lacks; with the operator and node.
    """
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = library.module
    strongly = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    flags = 1 << int(strongly) if typed and strongly is not None else 0
    definition = builder.create_network(flags)
    parser = trt.OnnxParser(definition, log.logger)
    if not Path(path).is_file():
        raise BackendError(f"{path}: there is no such file")
    done = parser.parse_from_file(path)
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if errors:
        raise refusal(errors[0])
    # a file of rubbish is parsed without complaint, into nothing
    if not done or not definition.num_outputs or not definition.num_layers:
        raise UnsupportedError(f"{path}: TensorRT finds no network in it: is it an ONNX model?")
    return Network(definition, parser)


def refusal(error: trt.ParserError) -> BackendError:
    """A parser's error as ours: the operator, the node, and what is wrong with it."""
    said = _said(error.desc())
    kind, name = error.node_operator(), error.node_name()
    where = f"{kind} ({name})" if kind and name else kind or name
    code = str(error.code()).rpartition(".")[2]
    if "Plugin not found" in said or "plugin creator" in said or code == "UNSUPPORTED_NODE":
        reason = "" if said in ("false", "") or "Plugin not found" in said else f": {said}"
        what = f"the operator {where}" if kind else "the model"
        return UnsupportedError(f"TensorRT doesn't support {what}{reason}")
    known = classified(said)
    return UnsupportedError(f"{where}: {said}" if where else said, known.fix)


def add_profiles(
    library: Library,
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    network: Network,
    profiles: Sequence[Sequence[ShapeRange]],
) -> None:
    """Give the builder the shapes that the engine has to take: one profile per batch size.

    A model whose shapes are all fixed needs none.

    Raises:
        UnsupportedError: an open axis and no profile, or a profile that doesn't fit the model.
    """
    _refuse_shape_inputs(network)
    if not any(_is_open(spec) for spec in network.inputs):
        for ranges in profiles:
            _fit(network, ranges)
        return
    if not profiles:
        missing = ", ".join(str(spec) for spec in network.inputs if _is_open(spec))
        raise UnsupportedError(
            f"missing profile: TensorRT needs the smallest, usual and largest shape of {missing}",
            _SHAPES,
        )
    for ranges in profiles:
        config.add_optimization_profile(profile_of(library, builder, network, ranges))


def profile_of(
    library: Library, builder: trt.Builder, network: Network, ranges: Sequence[ShapeRange]
) -> trt.IOptimizationProfile:
    """One optimization profile."""
    _fit(network, ranges)
    profile = builder.create_optimization_profile()
    names = {spec.name for spec in network.inputs}
    for each in ranges:
        if each.name in names:
            profile.set_shape(each.name, each.min, each.opt, each.max)
    if not profile:
        raise UnsupportedError(f"{library} takes no profile of {_text(ranges)}", _SHAPES)
    return profile


def _refuse_shape_inputs(network: Network) -> None:
    definition = network.definition
    for index in range(definition.num_inputs):
        tensor = definition.get_input(index)
        if tensor.is_shape_tensor:
            raise UnsupportedError(
                f"the input {tensor.name} holds a shape, whose values an engine has to know when "
                "it is built: make it a constant of the model"
            )


def _fit(network: Network, ranges: Sequence[ShapeRange]) -> None:
    """Raise UnsupportedError for a profile that doesn't fit the network's inputs."""
    given = {each.name: each for each in ranges}
    for spec in network.inputs:
        each = given.get(spec.name)
        if each is None:
            if _is_open(spec):
                raise UnsupportedError(f"missing profile of the input {spec}", _SHAPES)
            continue
        for shape in (each.min, each.opt, each.max):
            fits = len(shape) == len(spec.shape) and all(
                not isinstance(dim, int) or dim == size for dim, size in zip(spec.shape, shape)
            )
            if not fits:
                raise UnsupportedError(
                    f"the profile's shape {list(shape)} doesn't fit the input {spec}", _SHAPES
                )


def _is_open(spec: TensorSpec) -> bool:
    return any(not isinstance(dim, int) for dim in spec.shape)


def _spec(tensor: trt.ITensor) -> TensorSpec:
    kind = str(tensor.dtype).rpartition(".")[2]
    dims = list(tensor.shape)
    named: list[Optional[str]] = [
        tensor.get_dimension_name(axis) or None for axis in range(len(dims))
    ]
    shape = tuple(name if dim == _OPEN else int(dim) for dim, name in zip(dims, named))
    return TensorSpec(tensor.name, _DTYPES.get(kind, kind.lower()), shape)


def _said(text: str) -> str:
    """The line of a parser's description that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(_NOISE)]
    return (told or lines or [""])[0]


def _text(ranges: Sequence[ShapeRange]) -> str:
    return "; ".join(
        f"{each.name} {list(each.min)}, {list(each.opt)}, {list(each.max)}" for each in ranges
    )
