"""OpenVINO itself: how it is imported, how a model is read, what its errors mean."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, Optional

from harness.errors import BackendError, OutOfMemoryError, UnavailableError, UnsupportedError
from harness.types import TensorSpec

INSTALL = 'pip install "enginepick[openvino]"'

_TELEMETRY = "openvino_telemetry"

_MEMORY = ("bad_alloc", "failed to allocate", "out of memory", "cl_out_of", "allocation_failure")
_ABSENT = (
    *("is not registered in the openvino runtime", "cannot load library", "no supported devices"),
    *("no available devices", "can not find device", "failed to create plugin"),
)
_UNSUPPORTED = (
    *("no conversion rule found", "wasn't fully converted", "opconversionfailure"),
    *("can't be parsed", "unable to read the model", "unsupported property", "wrong value"),
    *("not supported property", "could not read number", "not implemented", "is not supported"),
    *("unsupported operation", "unsupported element type", "does not support", "not_implemented"),
    "is supported only for",  # transposed packed weights of a .tflite
    *("from unsupported opset", "doesn't contain the operation with type"),  # a newer release's IR
)
_BROKEN = ("empty weights data in bin file", "incorrect weights in bin file", "pugi::status_ok")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed, warned about or sent home while a vendor package is imported or works.

    ``import openvino`` sends an event over the network and keeps a file in the user's home if
    ``openvino_telemetry`` can be imported; both openvino and nncf do without it when it can't.
    """
    absent = object()
    before: Any = sys.modules.get(_TELEMETRY, absent)
    if before is absent:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # what makes an import fail
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        if before is absent:
            sys.modules.pop(_TELEMETRY, None)


def load() -> Any:
    """The ``openvino`` module.

    Raises:
        UnavailableError: it can't be imported, and the command that changes that.
    """
    try:
        with quiet():
            import openvino
    except Exception as error:  # a broken installation raises anything
        raise UnavailableError(f"openvino can't be imported: {error}", fix=INSTALL) from error
    return openvino


def read(core: Any, path: str) -> Any:
    """An ONNX file, a ``.tflite``, or an IR (``.xml``), as an OpenVINO model.

    Raises:
        UnsupportedError: it is none of these, or has operators that OpenVINO lacks.
        BackendError: its weights aren't there, or it is damaged.
    """
    from openvino.frontend import FrontEndManager

    with classified():
        # asked first, since for a file that isn't what its name says read_model tries every other
        # front end, and these print their complaints
        kind = {".onnx": "onnx", ".tflite": "tflite", ".xml": "ir"}.get(path[path.rfind(".") :])
        if kind and not FrontEndManager().load_by_framework(kind).supported(path):
            what = {
                "onnx": "an ONNX model",
                "tflite": "a TensorFlow Lite model",
                "ir": "an IR of a version that it knows",
            }[kind]
            raise UnsupportedError(f"{path}: OpenVINO doesn't recognise it as {what}")
        return core.read_model(path)


@contextlib.contextmanager
def classified() -> Iterator[None]:
    """Turn the runtime's errors, nearly all RuntimeError, into ours where the text tells."""
    try:
        yield
    except BackendError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(str(error) or "no memory left") from error
    except Exception as error:
        known = classify(str(error))
        if known is None:
            raise
        raise known from error


def raise_classified(error: RuntimeError) -> NoReturn:
    """Raise what :func:`classify` makes of an error, or the error itself."""
    known = classify(str(error))
    if known is None:
        raise error
    raise known from error


def classify(text: str) -> Optional[BackendError]:
    """The error that a text of OpenVINO's stands for, or None where it is a plain fault."""
    lower = text.lower()
    if any(sign in lower for sign in _MEMORY):
        return OutOfMemoryError(core_message(text))
    if any(sign in lower for sign in _ABSENT):
        return UnavailableError(core_message(text))
    if any(sign in lower for sign in _UNSUPPORTED):
        return UnsupportedError(core_message(text))
    if any(sign in lower for sign in _BROKEN):
        fix = "put the whole .xml beside its .bin, both as they were written and of the same name"
        return BackendError(f"the IR is incomplete: {core_message(text)}", fix)
    return None


def core_message(text: str) -> str:
    """What a text of OpenVINO's says, without the places in its source that it passed through."""
    noise = re.compile(
        r"^(Exception from \S+:\d*|Check '.*' failed at \S+|Summary:|.* failed with \w+:)$"
    )
    lines = [line.strip().lstrip("- ") for line in text.splitlines() if line.strip()]
    said = [line for line in lines if not noise.match(line)]
    return " ".join(said or lines) or "no message"


def specs(ports: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """The inputs or outputs of a model, under the names that the ONNX model has for them.

    Raises:
        UnsupportedError: an element type that numpy has not.
    """
    return tuple(_spec(port, name) for port, name in zip(ports, port_names(ports)))


def _spec(port: Any, name: str) -> TensorSpec:
    if port.partial_shape.rank.is_dynamic:
        raise UnsupportedError(f"{name}: has no fixed number of axes")
    return TensorSpec(name, _dtype(port, name), tuple(_dim(dim) for dim in port.partial_shape))


def port_names(ports: Sequence[Any]) -> list[str]:
    """The ONNX names. A port may carry several; its node's is the one that the model declares.

    Where a model came from elsewhere its nodes are ``Result_12``, and its tensors have the names,
    plain ones beside such as ``name:0``. Outputs of one tensor share these: then the nodes' count.
    """
    nodes = [str(p.get_node().get_friendly_name()).rsplit("/sink_port_", 1)[0] for p in ports]
    found = [
        node if node in names or not names else str(min(names, key=lambda n: (":" in n, n)))
        for node, names in zip(nodes, (port.get_names() for port in ports))
    ]
    return [node if found.count(name) > 1 else name for node, name in zip(nodes, found)]


def _dim(dim: Any) -> Optional[int]:
    return int(dim.get_length()) if dim.is_static else None


def _dtype(port: Any, name: str) -> str:
    element = port.get_element_type()
    kind = element.get_type_name()
    if kind in ("bf16", "string", "dynamic") or "4" in re.sub("64", "", kind):
        raise UnsupportedError(f"{name}: numpy has no counterpart of {kind}")
    return str(element.to_dtype().name)
