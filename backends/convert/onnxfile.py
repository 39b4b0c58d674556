"""ONNX files, for the converters: whether they are valid, and what they give."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from harness.backend import Feed
from harness.errors import BackendError, UnsupportedError
from harness.types import Array

Runner = Callable[[Feed], Mapping[str, Array]]
_SILENT = 4
_OLD_OR_NEW = (
    "opset",
    "ir_version",
    "ir version",
    "is not a registered function",
    "no op registered",
)


def check(path: str, where: str) -> None:
    """Hold a file to all of ONNX's rules; ``where`` it is from. Raises BackendError."""
    import onnx

    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as fault:
        text = " ".join(str(fault).split())
        raise BackendError(f"{where} is no valid ONNX: {text}") from fault


def runner(model: Union[str, bytes]) -> tuple[str, Runner]:
    """What runs a file or its bytes, and its name: ONNX Runtime, else ONNX's own reference."""
    try:
        import onnxruntime  # noqa: F401 - whether it is here
    except ImportError:
        return "onnx.reference", _reference(model)
    opened = session(model)
    return "ONNX Runtime", _run([output.name for output in opened.get_outputs()], opened)


def session(model: Union[str, bytes], optimized: Optional[Path] = None) -> Any:
    """ONNX Runtime's, on the CPU; ``optimized`` gets the model as ONNX with constants folded."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    if optimized is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = os.fspath(optimized)
    try:
        return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    except Exception as fault:  # ONNX Runtime raises kinds of its own
        text = str(fault)
        if any(sign in text.lower() for sign in _OLD_OR_NEW):
            raise UnsupportedError(f"ONNX Runtime can't read the model: {text}") from fault
        raise BackendError(f"ONNX Runtime can't open the model: {text}") from fault


def _reference(model: Union[str, bytes]) -> Runner:
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(
        onnx.load_from_string(model) if isinstance(model, bytes) else model
    )
    return _run(evaluator.output_names, evaluator)


def _run(names: list[str], session: Any) -> Runner:
    def run(feed: Feed) -> Mapping[str, Array]:
        try:
            values = session.run(None, {name: np.asarray(value) for name, value in feed.items()})
        except Exception as fault:  # as above
            raise BackendError(f"the ONNX model can't be run on a sample: {fault}") from fault
        return dict(zip(names, values))

    return run


__all__ = ["Runner", "check", "runner", "session"]
