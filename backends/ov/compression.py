"""NNCF: OpenVINO's own quantization, and what the user's wishes for it mean there."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from backends.machine import cpu_flags
from backends.ov import control
from backends.ov.device import Target, parse
from backends.ov.runtime import INSTALL, classified, quiet
from harness.backend import BuildRequest, Calibration
from harness.errors import UnavailableError, UnsupportedError
from harness.types import Precision

BLOCK_SIZE = 32
"""Weights that share a scale, by default: as in the shared recipe, so that the two compare."""

_PERCENTILE = 99.99

_WISHES = {
    *("calibration", "percentile", "per_channel", "symmetric", "reduce_range"),
    *("include", "exclude", "block_size", "saturates"),
}
_MEANS = {"bias_correction", "smooth_quant", "model_type", "max_drop"}
"""Parameters that are none of the user's wishes, but of the offers' alternatives."""

_TYPES = {
    "Conv": ("Convolution", "GroupConvolution"),
    "ConvTranspose": ("ConvolutionBackpropData", "GroupConvolutionBackpropData"),
    "Gemm": ("MatMul",),
    "GlobalAveragePool": ("ReduceMean",),
    "ADD": ("Add",),
    "BATCH_MATMUL": ("MatMul",),
    "CONV_2D": ("Convolution",),
    "DEPTHWISE_CONV_2D": ("GroupConvolution",),
    "FULLY_CONNECTED": ("MatMul",),
    "MEAN": ("ReduceMean",),
    "MUL": ("Multiply",),
    "TRANSPOSE_CONV": ("ConvolutionBackpropData",),
}
"""Operator types of ONNX and TensorFlow Lite that OpenVINO has under other names."""

_PRODUCT = "/WithoutBiases"
"""What OpenVINO adds to a node's name for its product, without the bias."""

_INT8_DOT = {"avx512_vnni", "avx_vnni", "amx_int8"}


class _Feeds:
    """Calibration samples as NNCF reads them: more than once, one at a time."""

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for feed in self._calibration.feeds():
            yield dict(feed)

    def __len__(self) -> int:
        return len(self._calibration)


def quantize(model: Any, request: BuildRequest) -> tuple[Any, list[str]]:
    """NNCF's post-training quantization; the model, and what was chosen.

    Beside the user's wishes: ``bias_correction`` ``accurate``, which infers layer by layer;
    ``smooth_quant``, how much of the activations' range goes over to the weights (alpha, 0 to 1);
    ``model_type`` ``transformer``, which leaves normalization in floating point, for a model that
    doesn't look like one; ``max_drop``, of :mod:`backends.ov.control`.

    Raises:
        UnavailableError: NNCF isn't installed.
        UnsupportedError: no calibration samples, a wish that NNCF can't meet, or a model that it
            refuses.
    """
    if request.calibration is None or not len(request.calibration):
        raise UnsupportedError("nncf: needs calibration samples")
    wishes = _checked(request, _WISHES | _MEANS)
    nncf = _nncf()
    target = parse(request.device)
    fix = _overflow_fix(wishes, target)
    transformer = _is_transformer(model, wishes)
    notes = [f"nncf overflow fix {'on' if fix else 'off'}"]
    notes += ["nncf model type transformer"] if transformer else []
    options = {
        "subset_size": len(request.calibration),
        "preset": _preset(nncf, wishes),
        "fast_bias_correction": "bias_correction" not in wishes,
        "model_type": nncf.ModelType.TRANSFORMER if transformer else None,
        "target_device": _nncf_device(nncf, target),
        "ignored_scope": _ignored(nncf, model, wishes),
        "advanced_parameters": _advanced(nncf, wishes, fix=fix),
    }
    data = nncf.Dataset(_Feeds(request.calibration))
    try:
        with quiet(), classified():
            if "max_drop" in wishes:
                max_drop = float(wishes["max_drop"])
                quantized, restored = control.quantize(
                    nncf, model, request.calibration, data, max_drop=max_drop, options=options
                )
                notes += restored
            else:
                quantized = nncf.quantize(model, data, **options)
    except (nncf.UnsupportedModelError, nncf.ValidationError) as error:
        raise UnsupportedError(f"nncf: {error}") from error
    return quantized, notes


def compress_weights(model: Any, request: BuildRequest) -> tuple[Any, list[str]]:
    """NNCF's weight-only compression, of every layer alike; the model, and what was chosen.

    int8 has a scale for each output, int4 one for each block, or a smaller one where a layer's
    rows don't divide by it. Raises as :func:`quantize`.
    """
    wishes = _checked(request, _WISHES)
    nncf = _nncf()
    _rows_first(model)
    int4 = request.precision is Precision.INT4_WEIGHTS
    options: dict[str, Any] = {"mode": nncf.CompressWeightsMode.INT8_ASYM}
    if int4:
        adjust = nncf.GroupSizeFallbackMode.ADJUST
        options = {
            "mode": nncf.CompressWeightsMode.INT4_ASYM,
            "ratio": 1.0,
            "group_size": int(wishes.get("block_size", BLOCK_SIZE)),
            "all_layers": True,
            "advanced_parameters": nncf.AdvancedCompressionParameters(
                group_size_fallback_mode=adjust, min_adjusted_group_size=1
            ),
        }
    try:
        with quiet(), classified():
            compressed = nncf.compress_weights(
                model, ignored_scope=_ignored(nncf, model, wishes), **options
            )
    except (nncf.UnsupportedModelError, nncf.ValidationError, nncf.InvalidGroupSizeError) as error:
        raise UnsupportedError(f"nncf: {error}") from error
    return compressed, [f"nncf {options['mode'].value}"]


def _rows_first(model: Any) -> None:
    """Store the weights of matrix products by output, as OpenVINO's kernels take packed ones.

    ONNX has them by input; of such the CPU plug-in (2026.4.1) unpacks packed ones for good when it
    compiles, and the products run on float32 weights.
    """
    import numpy as np
    from openvino import opset13

    for product in [op for op in model.get_ops() if op.get_type_name() == "MatMul"]:
        attributes = product.get_attributes()
        weights = product.input_value(1).get_node()
        is_matrix = weights.get_type_name() == "Constant" and len(weights.shape) == 2  # noqa: PLR2004
        if attributes["transpose_b"] or not is_matrix:
            continue
        turned = opset13.constant(np.ascontiguousarray(weights.data.T))
        other = opset13.matmul(
            product.input_value(0), turned, attributes["transpose_a"], transpose_b=True
        )
        other.set_friendly_name(product.get_friendly_name())
        other.output(0).get_tensor().set_names(product.output(0).get_names())
        for reader in list(product.output(0).get_target_inputs()):
            reader.replace_source_output(other.output(0))
    model.validate_nodes_and_infer_types()


def _checked(request: BuildRequest, known: set[str]) -> dict[str, str]:
    """The parameters. Raises UnsupportedError where one means nothing here."""
    wishes = dict(request.parameters)
    unknown = sorted(set(wishes) - known)
    if unknown:
        raise UnsupportedError(f"{request.recipe}: has no parameter {', '.join(unknown)}")
    for name, only in (("bias_correction", "accurate"), ("model_type", "transformer")):
        if wishes.get(name, only) != only:
            raise UnsupportedError(f"{request.recipe}: has no {name} {wishes[name]}")
    return wishes


def _is_transformer(model: Any, wishes: Mapping[str, str]) -> bool:
    """Whether NNCF shall take it for one. Raises UnsupportedError where a parameter is in vain."""
    looks = looks_like_transformer(model)
    if looks and "model_type" in wishes:
        raise UnsupportedError("nncf: the model is taken for a transformer already")
    told = looks or "model_type" in wishes
    if "smooth_quant" in wishes and not told:
        raise UnsupportedError("nncf: smooths the activations of transformers only")
    return told


def _overflow_fix(wishes: Mapping[str, str], target: Target) -> bool:
    """The user's wish, else what was measured, else what the CPU's features tell."""
    told = wishes.get("reduce_range", wishes.get("saturates"))
    return needs_overflow_fix(target, cpu_flags()) if told is None else told == "yes"


def _preset(nncf: Any, wishes: Mapping[str, str]) -> Any:
    """NNCF's own names for symmetric activations, and for those that need not be."""
    presets = nncf.QuantizationPreset
    if "symmetric" not in wishes:
        return None
    return presets.PERFORMANCE if wishes["symmetric"] == "yes" else presets.MIXED


def _advanced(nncf: Any, wishes: Mapping[str, str], *, fix: bool) -> Any:
    from nncf.quantization.advanced_parameters import (
        AdvancedSmoothQuantParameters,
        QuantizationParameters,
    )

    fixes = nncf.OverflowFix
    options: dict[str, Any] = {"overflow_fix": fixes.ENABLE if fix else fixes.DISABLE}
    if "per_channel" in wishes:
        weights = QuantizationParameters(per_channel=wishes["per_channel"] == "yes")
        options["weights_quantization_params"] = weights
    if "smooth_quant" in wishes:
        options["smooth_quant_alphas"] = AdvancedSmoothQuantParameters(
            matmul=float(wishes["smooth_quant"])
        )
    if "calibration" in wishes:
        options["activations_range_estimator_params"] = _ranges(wishes)
    return nncf.AdvancedQuantizationParameters(**options)


def _ranges(wishes: Mapping[str, str]) -> Any:
    """How the ranges of activations follow from the samples; without a wish, NNCF's own way."""
    from nncf.quantization import range_estimator as ranges

    if wishes["calibration"] == "minmax":
        return ranges.RangeEstimatorParametersSet.MINMAX
    if wishes["calibration"] != "percentile":
        raise UnsupportedError(f"nncf: has no calibration by {wishes['calibration']}")
    beyond = 1 - float(wishes.get("percentile", _PERCENTILE)) / 100
    both = ranges.StatisticsCollectorParameters(
        statistics_type=ranges.StatisticsType.QUANTILE,
        aggregator_type=ranges.AggregatorType.MEAN,
        quantile_outlier_prob=beyond,
    )
    return ranges.RangeEstimatorParameters(min=both, max=both)


def _ignored(nncf: Any, model: Any, wishes: Mapping[str, str]) -> Any:
    """What stays in floating point. Raises UnsupportedError for what NNCF can't be told."""
    if "include" in wishes:
        raise UnsupportedError("nncf: takes no list of operators to include; exclude the others")
    wanted = json.loads(wishes.get("exclude", "[]"))
    names = {name for each in wanted for name in excluded(model, each)}
    return nncf.IgnoredScope(names=sorted(names)) if names else None


def excluded(model: Any, name: str) -> set[str]:
    """The operations that an operator type, node or value of the model's file stands for.

    The node of a product with a bias is the addition here, and the product an operation before it
    that is called after the node. The addition is called after the model's output where it makes
    that. None for an operator type that the model hasn't. Raises UnsupportedError for a name that
    is nothing at all.
    """
    types = _TYPES.get(name, (name,))
    of_type, named = [], []
    for op in model.get_ops():
        if op.get_type_name() in types:
            of_type.append(op)
        elif op.get_friendly_name() in (name, name + _PRODUCT) or any(
            name in output.get_names() for output in op.outputs()
        ):
            named.append(op)
    named += [each for op in named if op.get_type_name() == "Add" for each in _products(op)]
    if not of_type and not named and name not in _TYPES and not _is_operator(name):
        raise UnsupportedError(f"exclude: no operator type, node or value is called {name!r}")
    return {str(op.get_friendly_name()) for op in (*of_type, *named)}


def _products(addition: Any) -> list[Any]:
    """Of a node whose bias this adds; Gemm's factors are between the two."""
    found, left = [], [value.get_node() for value in addition.input_values()]
    for op in left:
        if op.get_friendly_name().endswith(_PRODUCT):
            found.append(op)
        elif op.get_type_name() == "Multiply":
            left += [value.get_node() for value in op.input_values()]
    return found


def _is_operator(name: str) -> bool:
    """Of ONNX's. Anything may be one where onnx isn't installed, beside a runtime alone."""
    try:
        from onnx import defs
    except ImportError:
        return True
    return bool(defs.has(name))


def _nncf() -> Any:
    try:
        with quiet():
            import nncf

            nncf.set_log_level(logging.ERROR)
    except Exception as error:  # a broken installation raises anything
        raise UnavailableError(f"nncf can't be imported: {error}", fix=INSTALL) from error
    return nncf


def _nncf_device(nncf: Any, target: Target) -> Any:
    """NNCF's set of rules for the device; ANY (those of a CPU) where it can be several."""
    only = next(iter(target.types)) if len(target.types) == 1 else "ANY"
    return getattr(nncf.TargetDevice, only, nncf.TargetDevice.ANY)


def needs_overflow_fix(target: Target, flags: Optional[frozenset[str]]) -> bool:
    """Whether int8 products may saturate: x86 CPUs without an int8 dot product add in int16.

    Weights of 7 bits are then exact, at no cost. Where nothing is known of the CPU: yes.
    """
    if target.types and "CPU" not in target.types:
        return False
    if flags is None:
        return True
    if not {"sse2", "avx", "avx2"} & flags:  # not x86; the kernels of other CPUs widen to int32
        return False
    return not flags & _INT8_DOT


def looks_like_transformer(model: Any) -> bool:
    """Whether the graph has attention (a matrix product of a softmax) and layer normalization."""
    kinds = {op.get_type_name() for op in model.get_ops()}
    normalized = "MVN" in kinds or {"ReduceMean", "SquaredDifference"} <= kinds
    normalized = normalized or ("ReduceMean" in kinds and bool({"Sqrt", "Power"} & kinds))
    if "ScaledDotProductAttention" in kinds:
        return True
    softmax = [op for op in model.get_ops() if op.get_type_name() in ("Softmax", "SoftMax")]
    return normalized and any(_feeds_matmul(op) for op in softmax)


def _feeds_matmul(op: Any, depth: int = 4) -> bool:
    """Whether an operation's result goes into a matrix product, perhaps through a reshape."""
    through = {
        "Convert",
        "FakeQuantize",
        "Identity",
        "Multiply",
        "Reshape",
        "Select",
        "Squeeze",
        "Transpose",
    }
    for consumer in (
        port.get_node() for output in op.outputs() for port in output.get_target_inputs()
    ):
        kind = consumer.get_type_name()
        if kind == "MatMul" or (depth and kind in through and _feeds_matmul(consumer, depth - 1)):
            return True
    return False
