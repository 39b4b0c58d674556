"""In which types an engine multiplies, as TensorRT lists its layers.

The same list comes from two places: the builder's log, which ends with it when an engine is built
with detailed profiling verbosity (no GPU is needed), and the engine inspector, on a GPU. A layer of
an engine is often several of the model's: what is counted are layers of the engine that hold a
convolution, a matrix product, attention or a recurrence; a loop that was unrolled counts each turn.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Optional

from harness.types import Executed, Share

_TYPES = (
    ("fp8", re.compile(r"\bFP8|FP8E4M3|E4M3", re.IGNORECASE)),
    ("int8", re.compile(r"\bINT8", re.IGNORECASE)),
    ("fp4", re.compile(r"\bFP4|E2M1", re.IGNORECASE)),
    ("int4", re.compile(r"\bINT4", re.IGNORECASE)),
    ("bf16", re.compile(r"\bBF(loat)?16", re.IGNORECASE)),
    ("fp16", re.compile(r"\bHalf|\bFP16|\bFloat16", re.IGNORECASE)),
    ("fp32", re.compile(r"\bFloat\b|\bFP32|\bFloat32|\bTF32", re.IGNORECASE)),
)
"""TensorRT's names of types, in the log, in the inspector and in its formats."""

_PACKED = ("fp8", "int8", "fp4", "int4")

_MULTIPLIES = re.compile(
    r"gemm|conv(?!ert)|correlation|matrix_?multiply|matmul|\bfc\b|fully|mha|attention|rnn|einsum",
    re.IGNORECASE,
)
_FUSED = ("kgen", "runtime_fusion", "fusion", "myelin", "foreign")
_TOKEN = re.compile(r"[A-Z][a-z0-9]*")
_PRODUCTS = {"Fc", "Gemm", "Conv", "Corr", "Bmm", "Dot", "Matm", "Mha", "Attn", "Deco"}
"""Parts of the names of fused layers (``__myl_FcAddRelu_myl0_9``) that multiply."""

_LINE = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), (?P<rest>Inputs: .*)$")
_PART = re.compile(
    r"(Inputs|Constants|Outputs): \[(.*?)\](?=, (?:Constants|Outputs|TacticName):|$)"
)
_TENSOR = re.compile(r"Dimensions: \[([^\]]*)\].*?Datatype: (.*?)(?=, Format:|\s*\}|$)")
_WEIGHTS = re.compile(r'Weights: \{"Type": "(\w+)", "Count": (\d+)\}')
"""Of full TensorRT's own convolutions, which aren't among the constants."""


@dataclass(frozen=True)
class Tensor:
    """What a layer reads or writes. type: ours (``fp16``), None for indices and truths."""

    shape: tuple[int, ...]
    type: Optional[str]


@dataclass(frozen=True)
class Layer:
    """One layer of an engine."""

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...] = ()

    @property
    def multiplies(self) -> bool:
        """Whether it holds a product, as far as its kind and the name of its fusion tell."""
        fused = any(self.kind.lower().startswith(kind) for kind in _FUSED)
        if not fused:
            return bool(_MULTIPLIES.search(self.kind))
        made = self.name.startswith("__myl_")
        if made:
            parts = _TOKEN.findall(self.name.split("_")[3])
            return bool(_PRODUCTS & set(parts)) or self._sums_products(parts)
        return bool(_MULTIPLIES.search(self.name))

    def _sums_products(self, parts: Sequence[str]) -> bool:
        """Whether it is a vector times a matrix, written out as a multiplication and a sum."""
        matrix = any(sum(dim > 1 for dim in each.shape) > 1 for each in self.constants if each.type)
        return matrix and ("Mul", "Sum") in zip(parts, parts[1:])

    @property
    def type(self) -> Optional[str]:
        """The type in which it multiplies; None if that can't be told.

        Weights tell it. Packed ones (int8 ...) are multiplied as such only by an input of the same
        type, and are unpacked to the input's otherwise; without weights two inputs are multiplied.
        """
        read = [tensor.type for tensor in self.inputs if tensor.type is not None]
        weights = [each for each in self.constants if each.type and len(each.shape) > 1]
        if weights:
            largest = max(prod(each.shape) for each in weights)
            kinds = {each.type for each in weights if prod(each.shape) == largest}
            kind = next((each for each in _PACKED if each in kinds), min(map(str, kinds)))
            return kind if kind not in _PACKED or kind in read else _first_float(read)
        for kind in _PACKED:
            if read.count(kind) > 1 or set(read) == {kind}:
                return kind
        return _first_float(read)


@dataclass(frozen=True)
class Layers:
    """The layers of an engine, counted.

    products: those that multiply, per type, the most frequent first; without those whose type
    can't be told, of which there are ``untold``. total: all.
    """

    products: tuple[Share, ...]
    total: int
    source: str
    untold: int = 0

    @property
    def detail(self) -> str:
        """How it is known."""
        count = sum(share.count for share in self.products) + self.untold
        said = f"{self.source}: {count} of {self.total} layers multiply"
        said += f", {self.untold} of them in types that it doesn't tell" if self.untold else ""
        tf32 = any(share.name == "tf32" for share in self.products)
        return f"{said}; TF32 is allowed, whether a kernel uses it isn't told" if tf32 else said

    def executed(self, device: str) -> Executed:
        """As the record has it."""
        return Executed((Share(device, self.total),), self.products, self.detail)

    def __str__(self) -> str:
        each = ", ".join(f"{share.count} in {share.name}" for share in self.products)
        return f"{self.detail} ({each})" if each else self.detail


def from_log(text: str, *, tf32: bool) -> Optional[Layers]:
    """The layers that the builder's log ends with; None if it lists none.

    tf32: whether float32 products may be rounded to TF32, so that they count as that.
    """
    matches = (_LINE.match(line) for line in text.splitlines())
    layers = [_from_line(match) for match in matches if match]
    return _counted(layers, "build log", tf32=tf32) if layers else None


def from_inspector(text: str, *, tf32: bool) -> Optional[Layers]:
    """The layers of ``IEngineInspector.get_engine_information`` as JSON; None without details.

    An engine that was built with less than detailed verbosity has names only.
    """
    try:
        listed = json.loads(text, strict=False).get("Layers", [])
    except ValueError:  # some versions write control characters, or worse
        return None
    layers = [_from_json(each) for each in listed if isinstance(each, Mapping)]
    return _counted(layers, "engine inspector", tf32=tf32) if layers else None


def _counted(layers: Iterable[Layer], source: str, *, tf32: bool) -> Layers:
    found = list(layers)
    kinds = [layer.type for layer in found if layer.multiplies]
    named = Counter("tf32" if tf32 and kind == "fp32" else kind for kind in kinds if kind)
    products = tuple(Share(name, count) for name, count in named.most_common())
    return Layers(products, len(found), source, kinds.count(None))


def _from_line(match: re.Match[str]) -> Layer:
    parts = {name: _tensors(text) for name, text in _PART.findall(match["rest"])}
    apart = [
        Tensor((int(count), 2), _type(kind)) for kind, count in _WEIGHTS.findall(match["rest"])
    ]
    constants = (*parts.get("Constants", ()), *(each for each in apart if each.shape[0]))
    return Layer(match["name"], match["kind"], parts.get("Inputs", ()), constants)


def _tensors(text: str) -> tuple[Tensor, ...]:
    return tuple(Tensor(_shape(dims), _type(kind)) for dims, kind in _TENSOR.findall(text))


def _from_json(values: Mapping[str, Any]) -> Layer:
    constants = [*values.get("Constants", ()), *_old_weights(values)]
    return Layer(
        str(values.get("Name", "")),
        str(values.get("LayerType", values.get("ParameterType", ""))),
        tuple(map(_json_tensor, values.get("Inputs", ()))),
        tuple(map(_json_tensor, constants)),
    )


def _old_weights(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The weights of a convolution of TensorRT's own, which aren't among the constants."""
    weights = values.get("Weights")
    if not isinstance(weights, Mapping):
        return []
    count = int(weights.get("Count", 0))
    return [{"Dimensions": [count, 1], "Datatype": weights.get("Type", "")}] if count else []


def _json_tensor(values: Mapping[str, Any]) -> Tensor:
    kind = values.get("Datatype") or values.get("Format/Datatype") or values.get("Format", "")
    return Tensor(tuple(int(dim) for dim in values.get("Dimensions", ())), _type(str(kind)))


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(dim) for dim in text.split(",") if dim.strip())


def _type(text: str) -> Optional[str]:
    return next((name for name, sign in _TYPES if sign.search(text)), None)


def _first_float(kinds: Iterable[str]) -> Optional[str]:
    return next((kind for kind in kinds if kind not in _PACKED), None)
