"""Models, requests and builds for the tests of TensorRT's building side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends import enginefile
from backends.trt import (
    BACKEND,
    library,
)
from backends.trt.about import About
from harness import variants
from harness.backend import BuildRequest
from harness.errors import UnavailableError, UnsupportedError
from harness.testing_models import (
    conv_model,
    model_specs,
    random_calibration,
)
from harness.types import Engine, Precision, ShapeRange

FLOAT = TensorProto.FLOAT
ADA = "8.9"
CUDA35 = "(cudaError 35: CUDA driver version is insufficient for CUDA runtime version)"
IMAGES = (ShapeRange("image", (1, 3, 16, 16), (4, 3, 16, 16), (8, 3, 16, 16)),)


def rtx() -> library.Library:
    try:
        return library.find("tensorrt_rtx")
    except UnavailableError as error:
        pytest.skip(f"{error}; {error.fix}")


def save(
    folder: Path, nodes: Any, inputs: Any, outputs: Any, weights: Any = None, **model: Any
) -> str:
    """An ONNX file of nodes (operator, inputs, outputs, attributes), unchecked."""
    graph = helper.make_graph(
        [
            helper.make_node(kind, ins, outs, f"{kind.lower()}_{number}", **attributes)
            for number, (kind, ins, outs, attributes) in enumerate(nodes)
        ],
        "graph",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [
            numpy_helper.from_array(np.asarray(array), name)
            for name, array in (weights or {}).items()
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.own", 1)]
    made = helper.make_model(graph, opset_imports=opsets)
    made.ir_version = 8
    path = folder / "model.onnx"
    onnx.save(made, path, **model)
    return str(path)


def request(model: str, **changes: Any) -> BuildRequest:
    values = {
        "precision": Precision.FP32,
        "recipe": "source",
        "device": "gpu:0",
        "options": (("library", "tensorrt_rtx"),),
        "compute_capability": ADA,
        **changes,
    }
    return BuildRequest(model, **values)


def build(tmp_path: Path, asked: BuildRequest) -> tuple[Engine, About]:
    rtx()
    folder = tmp_path / "engine"
    folder.mkdir()
    engine = BACKEND.build(asked, str(folder))
    return engine, enginefile.beside(About, engine)


def refused(tmp_path: Path, asked: BuildRequest) -> UnsupportedError:
    with pytest.raises(UnsupportedError) as caught:
        build(tmp_path, asked)
    return caught.value


def relu(folder: Path, shape: Any = (1, 4)) -> str:
    return save(folder, [("Relu", ["x"], ["y"], {})], [("x", FLOAT, shape)], [("y", FLOAT, shape)])


def conv(folder: Path, precision: Precision = Precision.FP32, recipe: str = "source") -> str:
    """The CNN of the contract suite, as a variant."""
    source = str(folder / "conv.onnx")
    onnx.save(conv_model(), source)
    if recipe == "source":
        return source
    if recipe not in variants.RECIPES:
        pytest.skip(f"there is no recipe {recipe}")
    out = str(folder / f"conv.{recipe}.onnx")
    made = variants.resolve(recipe, precision, isa=frozenset(), device="gpu:0", saturates=False)
    variants.make(made, source, out, random_calibration(model_specs(source)[0]))
    return out
