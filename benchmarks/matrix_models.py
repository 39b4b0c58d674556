"""What the matrix compares: kinds of models that people deploy, each with labelled data.

Three are made here on the demo's digits (see ``heads.py``), one is PyTorch's (``torch_models.py``),
and two are real models out of packages, with the data that the examples make for them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cases
import heads
import numpy as np
import onnx
import trt_models
from onnx import numpy_helper

BENCHMARKS = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Case:
    """A model with its data. what: in words. folder: where ``model`` is understood."""

    name: str
    what: str
    model: str
    data: str
    folder: Path


def fitted(model: onnx.ModelProto, inputs: heads.Array, labels: heads.Array) -> onnx.ModelProto:
    """The same model with its last layer, a Gemm, solved for the labels [n] of inputs [n, ...]."""
    import onnxruntime as ort

    head = next(node for node in reversed(model.graph.node) if node.op_type == "Gemm")
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(head.input[0]))
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    features = session.run([head.input[0]], {model.graph.input[0].name: inputs})[0]
    stored = {each.name: each for each in model.graph.initializer}
    (outputs,) = stored[head.input[2]].dims
    for name, values in zip(head.input[1:], heads.solve(features, labels, outputs), strict=True):
        stored[name].CopyFrom(numpy_helper.from_array(values, name))
    return model


def on_digits(name: str, what: str, inputs_of: Callable[[heads.Array], heads.Array]) -> Any:
    """What makes a case of ``trt_models``' model of that name."""

    def make(folder: Path) -> Case:
        pixels, labels = heads.digits()
        inputs = inputs_of(pixels)
        count = heads.FITTED_ON
        model = fitted(trt_models.MADE[name](), inputs[:count], labels[:count])
        onnx.save(model, folder / f"{name}.onnx")
        data = {model.graph.input[0].name: inputs[count:], "labels": labels[count:]}
        np.savez(folder / f"{name}.npz", **data)
        return Case(name, what, f"{name}.onnx", f"{name}.npz", folder)

    return make


def pytorch(folder: Path) -> Case:
    """A module:function; its data are the digits as well."""
    module = importlib.import_module("torch_models")
    pixels, labels = heads.digits()
    inputs = heads.images(pixels[heads.FITTED_ON :], module.SIZE)
    path = folder / "pytorch.npz"
    np.savez(path, input=inputs, labels=labels[heads.FITTED_ON :])
    what = "residual CNN, an nn.Module of PyTorch"
    return Case("pytorch", what, "torch_models:residual", str(path), BENCHMARKS)


def filetypes(folder: Path) -> Case:
    """The classifier of file types that the package magika carries, on this machine's files."""
    cases.example("filetypes").make(folder, 12, 0)
    what = "magika's classifier of file types, a real one"
    return Case("magika", what, "magika.onnx", "filetypes.npz", folder)


def direction(folder: Path) -> Case:
    """The classifier of upside-down lines that rapidocr carries, a MobileNetV3, on drawn lines."""
    cases.make_direction(folder)
    what = "rapidocr's classifier of upside-down lines, a real MobileNetV3"
    (model,) = folder.glob("*.onnx")
    return Case("rapidocr", what, model.name, "direction.npz", folder)


CASES: dict[str, Callable[[Path], Case]] = {
    "cnn": on_digits("cnn", "CNN", lambda pixels: heads.images(pixels, 32)),
    "mobile": on_digits("mobile", "like MobileNetV2", lambda pixels: heads.images(pixels, 64)),
    "transformer": on_digits("transformer", "transformer encoder", heads.tokens),
    "magika": filetypes,
    "rapidocr": direction,
    "pytorch": pytorch,
}
