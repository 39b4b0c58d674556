"""What a compiled OpenVINO model really runs, read from its runtime model.

``runtimePrecision`` there is not to be trusted; the name of the primitive that a node was given
is: ``brgconv_avx512_I8``, ``gemm_mlas_f32``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Optional

from backends.ov.device import Target, bare, device_id
from harness.types import Executed, Share

_SUFFIX = re.compile(r"(?:^|_)(bf16|fp?16|fp?32|fp?64|[iu](?:nt)?(?:4|8|16|32|64))$", re.IGNORECASE)

_NOT_WORK = {"input", "parameter", "const", "constant", "output", "result"}

_COMPUTE = {
    *(
        "convolution",
        "groupconvolution",
        "binaryconvolution",
        "deconvolution",
        "convolutionbackprop",
    ),
    *("matmul", "gemm", "fullyconnected", "gathermatmul", "embeddingbagmatmul"),
    *("scaleddotproductattention", "scaleddotproductattentionwithkvcache", "pagedattention"),
    *("qkvprojection", "llmmlp", "mha", "rnncell", "rnnseq", "lstmcell", "lstmseq", "lstmsequence"),
    *("grucell", "gruseq", "grusequence", "rnnsequence", "augru", "augrucell", "augrusequence"),
}
"""Layer types that are compute operations, lower case without underscores (GPUs write them so)."""

_BODIES = {"if", "loop", "tensoriterator"}

SOURCE_COMPUTE = ("MatMul", "Convolution", "GroupConvolution", "ConvolutionBackpropData")
"""Operations of the engine's model that may end up inside a fused ``Subgraph``."""


def primitive_precision(primitive: str) -> Optional[str]:
    """The precision in a primitive's name, as ours (``fp32``, ``int8`` ...); None without one.

    ``I8`` and ``i8`` (unsigned and signed activations) are both int8.
    """
    match = _SUFFIX.search(primitive.strip())
    if match is None:
        return None
    text = match.group(1).lower()
    if text == "bf16":
        return "bf16"
    bits = re.sub(r"\D", "", text)
    return f"fp{bits}" if text.startswith("f") else f"int{bits}"


def is_compute(layer_type: str) -> bool:
    """Whether a runtime node of this type is a convolution, a matrix product or the like."""
    return layer_type.lower().replace("_", "") in _COMPUTE


@dataclass
class _Tally:
    """Counts over one runtime model."""

    work: int = 0
    precisions: Counter[str] = field(default_factory=Counter)
    by_output: int = 0
    fused: int = 0
    bodies: int = 0

    def add(self, node: Any, origin: Origin, hint: Optional[str]) -> None:
        """Count one node; ``hint`` is the precision hint in effect."""
        info = node.get_rt_info()
        layer = _text(info, "layerType")
        if layer.lower() in _NOT_WORK:
            return
        self.work += 1
        self.bodies += layer.lower() in _BODIES
        inside = set(_text(info, "originalLayersNames").split(","))
        products = len(origin.compute & inside)
        if layer == "Subgraph" and products:
            self.fused += products
            self.precisions[_fused_precision(info, inside, origin, hint)] += products
            return
        if not is_compute(layer):
            return
        precision = primitive_precision(_text(info, "primitiveType"))
        if precision is None:
            self.by_output += 1
            precision = primitive_precision(_text(info, "outputPrecisions").split(",")[0])
        if precision is not None:
            self.precisions[_unpacking(node, precision)] += 1


def _unpacking(node: Any, precision: str) -> str:
    """``int4-weights`` for products in floating point whose weights are integers, unpacked inside.

    Quantized products take integers for both, and are named after these.
    """
    inputs = node.inputs()
    if precision.startswith("int") or len(inputs) < 2:  # noqa: PLR2004
        return precision
    weights = inputs[1].get_source_output().get_node()
    if _text(weights.get_rt_info(), "layerType").lower() not in ("const", "constant"):
        return precision
    packed = primitive_precision(str(weights.get_element_type().get_type_name()))
    return f"{packed}-weights" if packed and packed.startswith("int") else precision


def _text(info: Any, key: str) -> str:
    return str(info[key].astype(str)) if key in info else ""


def _fused_precision(info: Any, inside: set[str], origin: Origin, hint: Optional[str]) -> str:
    """The precision of matrix products inside a fused subgraph.

    Its primitive is named after its input, which may be float32 and quantized inside. So: int8
    where it takes int8 or holds quantizers, else what the compiler was told.
    """
    by_name = primitive_precision(_text(info, "primitiveType"))
    if by_name == "int8" or origin.quantizers & inside:
        return "int8"
    return hint or by_name or "unknown"


@dataclass(frozen=True)
class Origin:
    """Names of operations of the engine's model, to be found again in the runtime model."""

    compute: frozenset[str] = frozenset()
    quantizers: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: Any) -> Origin:
        """Collect them."""

        def names(*kinds: str) -> frozenset[str]:
            ops = model.get_ops()
            return frozenset(op.get_friendly_name() for op in ops if op.get_type_name() in kinds)

        return cls(names(*SOURCE_COMPUTE), names("FakeQuantize"))


def executed(
    compiled: Any, target: Target, origin: Origin, affinity: Optional[Any] = None
) -> Executed:
    """Read a compiled model.

    affinity: for HETERO, the device of each operation by its name (``Core.query_model``).
    """
    tally = _Tally()
    hint = _hint(compiled)
    notes = []
    try:
        for node in compiled.get_runtime_model().get_ordered_ops():
            tally.add(node, origin, hint)
    except RuntimeError:
        notes.append("the device shows no runtime model")
    names = [bare(name) for name in _property(compiled, "EXECUTION_DEVICES") or [target.kind]]
    if affinity and len(names) > 1:
        counts = Counter(str(device) for device in dict(affinity).values())
        devices = tuple(Share(device_id(name), count) for name, count in sorted(counts.items()))
        notes.append("devices by operation of the model, as HETERO assigns them")
    else:
        devices = tuple(Share(device_id(name), max(tally.work, 1)) for name in names)
        if len(names) > 1:
            notes.append("each inference runs whole on one of the devices")
    precisions = tuple(Share(name, count) for name, count in sorted(tally.precisions.items()))
    return Executed(
        devices, precisions, "; ".join([*_source(tally), *notes, *_effective(compiled)])
    )


def _source(tally: _Tally) -> Iterable[str]:
    if tally.precisions:
        yield "precisions by the primitives of OpenVINO's runtime model"
    if tally.fused:
        yield f"{tally.fused} inside fused subgraphs: by their quantizers, else by the hint"
    if tally.by_output:
        yield f"{tally.by_output} primitive(s) name no precision: the output's is taken"
    if tally.bodies:
        yield f"{tally.bodies} loop or branch bodies are not looked into"


def _effective(compiled: Any) -> Iterable[str]:
    """What became of the hints."""
    keys = {
        "INFERENCE_PRECISION_HINT": "precision hint",
        "NUM_STREAMS": "streams",
        "INFERENCE_NUM_THREADS": "threads",
    }
    under = _property(compiled, "DEVICE_PROPERTIES")
    for device, values in dict(under or {}).items():
        text = ", ".join(f"{keys[key]} {_plain(values[key])}" for key in keys if key in values)
        yield f"in effect on {device_id(str(device))}: {text}"
    if not under:
        values = {key: _property(compiled, key) for key in keys}
        known = [
            f"{keys[key]} {_plain(value)}" for key, value in values.items() if value is not None
        ]
        if known:
            yield "in effect: " + ", ".join(known)


def _hint(compiled: Any) -> Optional[str]:
    """The precision hint in effect, as ours; None where several devices differ or none says."""
    under = dict(_property(compiled, "DEVICE_PROPERTIES") or {}).values()
    found = {values.get("INFERENCE_PRECISION_HINT") for values in map(dict, under)}
    found = found or {_property(compiled, "INFERENCE_PRECISION_HINT")}
    names = {primitive_precision(_plain(value)) for value in found if value is not None}
    return names.pop() if len(names) == 1 else None


def _plain(value: Any) -> str:
    """``<Type: 'bfloat16'>`` as bf16, anything else as it prints."""
    return str(value.get_type_name()) if hasattr(value, "get_type_name") else str(value)


def _property(compiled: Any, name: str) -> Any:
    try:
        return compiled.get_property(name)
    except RuntimeError:  # the device has none of that name
        return None
