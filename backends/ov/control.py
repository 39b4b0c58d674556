"""NNCF's accuracy control: layers go back to floating point until the outputs agree again.

It looks at calibration samples alone: how well the quantized model's first floating output agrees
with the model's own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np

from harness.backend import Calibration, Feed
from harness.errors import UnsupportedError
from harness.types import Array

RANKING_SAMPLES = 64
"""Of these, the ones that agree least, layers are ranked; all of them judge what was restored."""

MOST_MODELS = 150
"""That NNCF may ask about before it is stopped: it compiles one for each group of layers, and
ranks all groups again whenever a step made it worse."""

MOST_BYTES = 1 << 29
"""Of the model's own outputs, which are kept; samples beyond this judge nothing."""

_PRECISE = {"INFERENCE_PRECISION_HINT": "f32"}  # as NNCF compiles what it asks to be judged


class Agreement:
    """Calibration samples, each with what the unquantized model says to it.

    That is the best class where the output looks like class scores ([batch, classes] and further
    axes of size 1), and agreement is the share of classes that are the same. Otherwise it is the
    output itself, and agreement is the cosine similarity.
    """

    def __init__(self, model: Any, calibration: Calibration) -> None:
        """Raises UnsupportedError where no output is floating."""
        import openvino

        real = [port.get_element_type().is_real() for port in model.outputs]
        if not any(real):
            raise UnsupportedError("nncf: accuracy control needs a floating output")
        self._output = real.index(True)
        self._calibration = calibration
        self._own: list[Array] = []
        self._asked = 0
        compiled = openvino.compile_model(model, "CPU", _PRECISE)
        held = 0
        for feed in calibration.feeds():
            output = self._infer(compiled, feed)
            classes = _classes(output)
            self._own.append(output if classes is None else classes)
            held += self._own[-1].nbytes
            if held > MOST_BYTES:
                break

    def __iter__(self) -> Iterator[tuple[Feed, Array]]:
        yield from ((feed, own) for own, feed in zip(self._own, self._calibration.feeds()))

    def __len__(self) -> int:
        return len(self._own)

    def score(
        self, compiled: Any, samples: Iterable[tuple[Feed, Array]]
    ) -> tuple[float, list[float]]:
        """The mean agreement, and that of each sample; what NNCF calls a validation function.

        Raises UnsupportedError when it was asked too often.
        """
        self._asked += 1
        if self._asked > MOST_MODELS:
            raise UnsupportedError(f"nncf: accuracy control isn't done after {MOST_MODELS} models")
        scores = [agreement(self._infer(compiled, feed), own) for feed, own in samples]
        return float(np.mean(scores)), scores

    def _infer(self, compiled: Any, feed: Feed) -> Array:
        return np.array(compiled(dict(feed))[self._output])


def agreement(output: Array, own: Array) -> float:
    """Of an output with the model's own, or with its own classes. Not a number agrees with none."""
    if own.dtype.kind == "i":
        return float(np.mean(_classes(output) == own))
    if output.shape != own.shape:
        return 0.0
    known = ~(np.isinf(own) & (output == own))  # a mask's infinity in both says nothing
    a, b = output[known].astype(np.float64), own[known].astype(np.float64)
    with np.errstate(all="ignore"):
        cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.nan_to_num(cosine, nan=float(np.array_equal(a, b))))


def _classes(output: Array) -> Optional[Array]:
    """The best class of each row; -1 where the scores have a NaN. None for other outputs."""
    shape = output.shape
    if len(shape) < 2 or shape[1] < 2 or any(size != 1 for size in shape[2:]):  # noqa: PLR2004
        return None
    scores = output.reshape(shape[:2])
    return np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1))


def quantize(
    nncf: Any,
    model: Any,
    calibration: Calibration,
    data: Any,
    *,
    max_drop: float,
    options: Mapping[str, Any],
) -> tuple[Any, list[str]]:
    """The model with as much in int8 as the agreement allows, and what was left out of it.

    data: the calibration samples as NNCF reads them. max_drop: of the mean agreement. options: of
    NNCF's plain quantization.

    Raises:
        UnsupportedError: no output is floating, or all went back to floating point, which NNCF
            returns without a word, or it would take too long.
    """
    from nncf.quantization.advanced_parameters import (
        AdvancedAccuracyRestorerParameters,
        RestoreMode,
    )

    judge = Agreement(model, calibration)
    advanced = dict(options)
    advanced["advanced_quantization_parameters"] = advanced.pop("advanced_parameters")
    with tempfile.TemporaryDirectory() as folder:
        restored = nncf.quantize_with_accuracy_control(
            model,
            data,
            nncf.Dataset(judge),
            judge.score,
            max_drop=max_drop,
            drop_type=nncf.DropType.ABSOLUTE,
            advanced_accuracy_restorer_parameters=AdvancedAccuracyRestorerParameters(
                ranking_subset_size=RANKING_SAMPLES,
                intermediate_model_dir=folder,
                restore_mode=RestoreMode.ACTIVATIONS_AND_WEIGHTS,
            ),
            **advanced,
        )
        before = _read(folder)
    now = in_int8(restored)
    if not now:
        raise UnsupportedError("nncf: accuracy control left everything in floating point")
    left = sorted(before - now)
    note = f"nncf accuracy control: {len(left)} of {len(before)} operations left in floating point"
    return restored, [f"{note}: {', '.join(left)}" if left else note]


def _read(folder: str) -> set[str]:
    """What is in int8 in the model that NNCF kept before it restored anything."""
    import openvino

    return in_int8(openvino.Core().read_model(str(Path(folder) / "intermediate_model.xml")))


def in_int8(model: Any) -> set[str]:
    """The operations that read what was quantized to 8 bits, by name."""
    return {
        str(op.get_friendly_name())
        for op in model.get_ops()
        if op.get_type_name() not in ("FakeQuantize", *_UNPACKING)
        and any(_quantized(value.get_node()) for value in op.input_values())
    }


_UNPACKING = ("Convert", "Subtract", "Multiply")


def _quantized(op: Any) -> bool:
    """Whether an operation quantizes, or unpacks 8 bit weights."""
    while op.get_type_name() in _UNPACKING:
        op = op.input_value(0).get_node()
        if op.get_type_name() == "Constant":
            return op.get_element_type().get_type_name() in ("i8", "u8")
    return bool(op.get_type_name() == "FakeQuantize")
