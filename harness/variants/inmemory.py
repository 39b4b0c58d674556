"""Quantizing again and again in memory: the same model and ranges, other layers.

The same quantizer and options as :mod:`harness.variants.quantized`, whose parameters these are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.variants.quantized import METHODS, TYPES, quantizer_options

STRIDE = 1
"""Samples whose histograms are held at once."""


class _Reader:
    def __init__(self, feeds: Iterable[Mapping[str, Any]]) -> None:
        self._feeds = iter(feeds)
        self._left = -1

    def stop_after(self, count: int) -> _Reader:
        self._left = count
        return self

    def get_next(self) -> dict[str, Any] | None:
        if not self._left:
            return None
        self._left -= 1
        feed = next(self._feeds, None)
        return None if feed is None else dict(feed)


def operators(params: Mapping[str, str]) -> list[str]:
    """The operator types that the recipe quantizes."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    if params["operators"] == "all":
        return sorted({*QLinearOpsRegistry, *QDQRegistry})
    return params["operators"].split(",")


def find_ranges(
    prepared: str, params: Mapping[str, str], feeds: Sequence[Mapping[str, Any]]
) -> Any:
    """The ranges of all tensors, by the recipe's way of calibrating."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    symmetric = params["symmetric"] == "yes"
    extra: dict[str, Any] = {"symmetric": symmetric}
    if "percentile" in params:
        extra["percentile"] = float(params["percentile"])
    with tempfile.TemporaryDirectory() as folder:
        calibrator = create_calibrator(
            Path(prepared),
            operators(params),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=getattr(CalibrationMethod, METHODS[params["calibration"]]),
            extra_options=extra,
        )
        reader = _Reader(feeds)
        by_sample = params["calibration"] != "minmax"
        for _ in range(len(feeds) if by_sample else 1):
            calibrator.collect_data(reader.stop_after(STRIDE if by_sample else -1))
        return calibrator.compute_data()


def quantized(
    model: Any,
    params: Mapping[str, str],
    ranges: Any,
    *,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> bytes:
    """The prepared ``model`` with Q/DQ pairs, serialized; ``model`` itself stays as it is.

    only: the nodes to quantize; all that the recipe covers if empty. exclude: those left out.
    """
    import copy

    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    quantizer = QDQQuantizer(
        copy.deepcopy(model),
        params["per_channel"] == "yes",
        params["reduce_range"] == "yes",
        getattr(QuantType, TYPES[params["weights"]]),
        getattr(QuantType, TYPES[params["activations"]]),
        ranges,
        list(only),
        list(exclude),
        operators(params),
        quantizer_options(params),
    )
    quantizer.quantize_model()
    made: bytes = quantizer.model.model.SerializeToString()
    return made
