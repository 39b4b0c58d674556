"""onnx2tf itself: how it is called, kept quiet, and what its faults mean.

Its function ``convert`` hides the first refusal behind a second try with custom operators, exits
the process, and changes the interpreter's settings. What it calls for this backend does none of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Callable, Optional

from harness.errors import BackendError, OutOfMemoryError, UnsupportedError

_NAME = "model"
_REPORT = f"{_NAME}_op_coverage_report.json"
_NAMED = 5  # operators in one message


def load() -> Callable[..., dict[str, Any]]:
    """The function that makes the file. Raises what importing the tool raises."""
    with quiet():
        from onnx2tf.tflite_builder import export_tflite_model_flatbuffer_direct
    made: Callable[..., dict[str, Any]] = export_tflite_model_flatbuffer_direct
    return made


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing reaches stdout, not even from native code, and warnings stop nothing."""
    sys.stdout.flush()
    kept = os.dup(1)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 1)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(sink)


def write(model: Any, folder: Path, inputs: Iterable[str], channels_last: frozenset[str]) -> Path:
    """Write a ``ModelProto`` as a float32 file in ``folder``, which need not be there.

    inputs: all of the model's. channels_last: those that the file takes as ``[N, ..., C]``.

    Raises UnsupportedError, which names the operators, or BackendError.
    """
    export = load()
    try:
        with quiet():
            made = export(
                onnx_graph=model,
                output_folder_path=str(folder),
                output_file_name=_NAME,
                keep_shape_absolutely_input_names=sorted(set(inputs) - channels_last),
                enable_rnn_unroll=True,  # the LSTM operator keeps its state from call to call
                report_op_coverage=True,
                flatbuffer_direct_allow_custom_ops=False,
                flatbuffer_direct_show_progress=False,
            )
    except (Exception, SystemExit) as fault:
        raise _classified(fault, folder / _REPORT) from fault
    return Path(made["float32_tflite_path"])


def _classified(fault: BaseException, report: Path) -> BackendError:
    if isinstance(fault, MemoryError):
        return OutOfMemoryError(str(fault) or "no memory left for onnx2tf")
    operators = _refused(report)
    if operators:
        return UnsupportedError(f"onnx2tf can't convert {'; '.join(operators)}")
    what = f"{type(fault).__name__}: {fault}"
    node = _node(fault)
    if node is not None:
        return UnsupportedError(f"onnx2tf can't convert {node}: {what}")
    return BackendError(f"onnx2tf failed: {what}")


def _refused(report: Path) -> list[str]:
    """``Type (node, node): reason``, of the tool's own report; empty where it wrote none."""
    try:
        nodes = json.loads(report.read_text())["unsupported_nodes"]
    except (OSError, ValueError, KeyError):
        return []
    reasons: dict[str, str] = {}
    names: dict[str, list[str]] = {}
    for node in nodes:
        kind = str(node.get("onnx_op", ""))
        names.setdefault(kind, []).append(str(node.get("node_name", "")))
        reasons.setdefault(kind, str(node.get("message") or node.get("reason_code", "")))
    return [f"{kind} ({_some(each)}): {reasons[kind]}" for kind, each in names.items()]


def _some(names: list[str]) -> str:
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join([*names[:_NAMED], *more])


def _node(fault: BaseException) -> Optional[str]:
    """The node that was being lowered, ``Type (name)``: the tool's IndexErrors don't say."""
    trace = fault.__traceback__
    found = None
    while trace is not None:
        node = trace.tb_frame.f_locals.get("node")
        kind = getattr(node, "op_type", None) or getattr(node, "op", None)
        found = f"{kind} ({getattr(node, 'name', '')})" if isinstance(kind, str) else found
        trace = trace.tb_next
    return found


__all__ = ["load", "quiet", "write"]
