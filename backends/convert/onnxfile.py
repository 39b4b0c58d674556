"""ONNX files, for the converters: whether they are valid, and what they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Union

import numpy as np

from harness.backend import Feed
from harness.errors import BackendError
from harness.types import Array

Runner = Callable[[Feed], Mapping[str, Array]]
_SILENT = 4


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
        import onnxruntime
    except ImportError:
        return "onnx.reference", _reference(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    try:
        session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    except Exception as fault:
        raise BackendError(f"ONNX Runtime can't run the ONNX to compare with: {fault}") from fault
    return "ONNX Runtime", _run([output.name for output in session.get_outputs()], session)


def _reference(model: Union[str, bytes]) -> Runner:
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(
        onnx.load_from_string(model) if isinstance(model, bytes) else model
    )
    return _run(evaluator.output_names, evaluator)


def _run(names: list[str], session: Any) -> Runner:
    def run(feed: Feed) -> Mapping[str, Array]:
        values = session.run(None, {name: np.asarray(value) for name, value in feed.items()})
        return dict(zip(names, values))

    return run


__all__ = ["Runner", "check", "runner"]
