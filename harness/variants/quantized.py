"""int8: ONNX Runtime's quantizer, static (Q/DQ, calibrated) and dynamic."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.backend import Calibration
from harness.errors import BackendError, UnsupportedError
from harness.variants.excluding import WEIGHTED, excluded, in_floats
from harness.variants.files import check, is_large, nodes_of, outline, upgraded

OLDEST_OPSET = 13
"""For per-channel Q/DQ, with an axis for DequantizeLinear; of recipes that don't say another."""

FROM_GEMM = "_MatMul"
"""What ONNX Runtime's quantizers append to a Gemm's name when they make it MatMul and Add."""

_NAMED = 5  # nodes that a note names before it says "and N more"

TYPES = {"uint8": "QUInt8", "int8": "QInt8", "fp8": "QInt8"}
METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
"""What the quantizer calls our parameters' values. fp8 begins as int8, see ``variants.typed``."""


class _Reader:
    """A calibration reader over :meth:`Calibration.feeds`, which are read once, in order."""

    def __init__(self, calibration: Calibration) -> None:
        self._feeds = calibration.feeds()
        self._count = self._left = len(calibration)

    def __len__(self) -> int:
        return self._count

    def set_range(self, start_index: int, end_index: int) -> None:
        """Pause after so many samples."""
        self._left = end_index - start_index

    def get_next(self) -> dict[str, Any] | None:
        feed = next(self._feeds, None) if self._left else None
        self._left -= feed is not None
        return None if feed is None else dict(feed)


def make_static(
    source: str, out: str, params: Mapping[str, str], calibration: Calibration
) -> tuple[str, ...]:
    """Insert Q/DQ pairs by the ranges that the calibration samples show."""
    from onnxruntime import quantization

    large = is_large(source)
    with prepared_model(source, out, large=large, oldest=oldest_opset(params)) as (prepared, notes):
        operators = None if params["operators"] == "all" else params["operators"].split(",")
        quantization.quantize_static(
            prepared,
            out,
            _Reader(calibration),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=operators,
            nodes_to_exclude=excluded(source, prepared, params),
            activation_type=getattr(quantization.QuantType, TYPES[params["activations"]]),
            weight_type=getattr(quantization.QuantType, TYPES[params["weights"]]),
            per_channel=params["per_channel"] == "yes",
            reduce_range=params["reduce_range"] == "yes",
            calibrate_method=getattr(
                quantization.CalibrationMethod, METHODS[params["calibration"]]
            ),
            use_external_data_format=large,
            extra_options=quantizer_options(params),
        )
        check(out, prepared, "the static quantizer")
    nodes = nodes_of(out)
    wanted, kept = (
        [node for node in each if node.op_type in {*WEIGHTED, *(operators or ())}]
        for each in (nodes, in_floats(nodes))
    )
    return (*notes, *told(wanted, kept, params.get("rest", "fp32")))


def oldest_opset(params: Mapping[str, str]) -> int:
    """The opset that a recipe needs at least."""
    return int(params.get("opset", OLDEST_OPSET))


def quantizer_options(params: Mapping[str, str]) -> dict[str, Any]:
    """The quantizer's further options.

    No CalibMaxIntermediateOutputs: in 1.32 it forgets the ranges of the samples before instead of
    merging them. Ranges are two numbers a tensor, so all of them fit; histograms are filled sample
    by sample, since otherwise every tensor of every sample is held at once.
    """
    symmetric = params["symmetric"] == "yes"
    options: dict[str, Any] = {
        "ActivationSymmetric": symmetric,
        "CalibTensorRangeSymmetric": symmetric,
    }
    if params["calibration"] != "minmax":
        options["CalibStridedMinMax"] = 1
    if "percentile" in params:
        options["CalibPercentile"] = float(params["percentile"])
    if params["portable"] == "yes":
        options |= {
            "WeightSymmetric": True,
            "QuantizeBias": False,  # as int32, which TensorRT refuses
            "AddQDQPairToWeight": True,
            "DedicatedQDQPair": True,
        }
    if "rest" in params:  # products give the type of the rest; only what they read is quantized
        options["OpTypesToExcludeOutputQuantization"] = params["operators"].split(",")
    return options


def make_dynamic(source: str, out: str, params: Mapping[str, str]) -> tuple[str, ...]:
    """Quantize weights now, and leave activations to be quantized as they come."""
    from onnxruntime import quantization

    operators = params["operators"].split(",")
    if not any(node.op_type in operators for node in nodes_of(source)):
        raise UnsupportedError(
            f"dynamic quantization covers {' and '.join(operators)}, and the model has none"
        )
    large = is_large(source)
    with prepared_model(source, out, large=large) as (prepared, notes):
        nodes = nodes_of(prepared)
        before = [node for node in nodes if node.op_type in operators]
        stay = [node.name for node in nodes if node.op_type not in operators]
        stay += excluded(source, prepared, params)
        quantization.quantize_dynamic(
            prepared,
            out,
            op_types_to_quantize=[*operators, "MatMul"],  # the quantizer makes Gemm MatMul and Add
            nodes_to_exclude=[*stay, *(name + FROM_GEMM for name in stay)],
            per_channel=params["per_channel"] == "yes",
            reduce_range=params["reduce_range"] == "yes",
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=large,
        )
        check(out, prepared, "the dynamic quantizer")
    left = {node.name.removesuffix(FROM_GEMM) for node in nodes_of(out)}
    return (*notes, *told(before, [node for node in before if node.name in left]))


@contextlib.contextmanager
def prepared_model(
    source: str, out: str, *, large: bool, oldest: int = OLDEST_OPSET
) -> Iterator[tuple[str, list[str]]]:
    """The model folded and with its shapes inferred, in a file that lives as long as the context.

    Quantizing finds weights only where they are constants, and tensors whose shape is known.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    notes: list[str] = []
    with tempfile.TemporaryDirectory(dir=Path(out).parent) as folder:
        given = upgraded(source, str(Path(folder) / "upgraded.onnx"), oldest, notes, large=large)
        prepared = str(Path(folder) / "prepared.onnx")
        Path(f"{out}.data").unlink(missing_ok=True)  # the quantizer would append to it
        for skip in (False, True):
            try:
                quant_pre_process(
                    given,
                    prepared,
                    skip_symbolic_shape=skip,
                    save_as_external_data=large,
                    all_tensors_to_one_file=large,
                    external_data_location="prepared.onnx.data" if large else None,
                )
                break
            except Exception as fault:  # sympy is missing, or an operator is strange to it
                if skip:
                    raise BackendError(f"the model can't be prepared: {fault}") from fault
                Path(f"{prepared}.data").unlink(missing_ok=True)
        _tidy(prepared)
        yield prepared, notes


def _tidy(path: str) -> None:
    """Name every node, and write Gemm's biases of shape [1, n] as [n].

    Nodes are excluded by name. The biases are the same by broadcasting; onnxruntime 1.32's
    quantizer adjusts per-channel scales by them, and expects vectors.
    """
    import onnx

    model = outline(path)
    place = 2  # Gemm's inputs are A, B and the bias
    users = Counter(name for node in model.graph.node for name in node.input)
    biases = Counter(
        node.input[place]
        for node in model.graph.node
        if node.op_type == "Gemm" and len(node.input) > place
    )
    flat = {
        tensor.name
        for tensor in model.graph.initializer
        if biases[tensor.name] == users[tensor.name] > 0 and list(tensor.dims[:-1]) == [1]
    }
    if not flat and all(node.name for node in model.graph.node):
        return
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.name in flat:
            tensor.dims[:] = tensor.dims[1:]
    for value in [value for value in model.graph.value_info if value.name in flat]:
        model.graph.value_info.remove(value)
    for node in model.graph.node:
        node.name = node.name or f"{node.op_type} {node.output[0]}"
    onnx.save_model(model, path)


def told(weighted: list[Any], kept: list[Any], rest: str = "fp32") -> Iterator[str]:
    """What was quantized, as notes. rest: the type of what wasn't.

    Raises UnsupportedError if nothing was.
    """
    if len(kept) >= len(weighted):
        found = ", ".join(sorted({node.op_type for node in weighted})) or "none that could be"
        raise UnsupportedError(f"nothing could be quantized (operators: {found})")
    total = Counter(node.op_type for node in weighted)
    left = Counter(node.op_type for node in kept)
    for name, count in sorted(total.items()):
        yield f"{count - left[name]} of {count} {name} quantized"
    if kept:
        names = [node.name for node in kept]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield f"{len(kept)} nodes kept in {rest}: {', '.join(names[:_NAMED])}{more}"
