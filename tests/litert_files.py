"""``.tflite`` files made by hand, operator by operator, so that tests know what is in them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np


class File:
    """A model of one subgraph. Tensors are named; the numbers of all are in ``numbers``."""

    def __init__(self) -> None:
        from ai_edge_litert.tools import flatbuffer_utils

        self.tools = flatbuffer_utils
        self.schema = flatbuffer_utils.schema_fb
        self.model = self.schema.ModelT()
        self.model.version = 3
        self.model.buffers = [self.schema.BufferT()]
        self.model.operatorCodes = []
        self.graph = self.schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]
        self.numbers: dict[str, int] = {}

    def tensor(self, name: str, shape: Any, dtype: str = "FLOAT32", *, open_batch: bool = False):
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name.encode(), list(shape), 0
        tensor.type = getattr(self.schema.TensorType, dtype)
        if open_batch:
            tensor.shapeSignature = [-1, *shape[1:]]
        self.numbers[name] = len(self.graph.tensors)
        self.graph.tensors.append(tensor)
        return self.numbers[name]

    def constant(self, name: str, value: np.ndarray):
        dtype = {"f4": "FLOAT32", "i4": "INT32"}[value.dtype.str[1:]]
        number = self.tensor(name, value.shape, dtype)
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(value.tobytes(), np.uint8)
        self.graph.tensors[number].buffer = len(self.model.buffers)
        self.model.buffers.append(buffer)
        return number

    def operator(self, name: str, inputs: list[str], outputs: list[str], **options: Any) -> None:
        """options: fields of its options object, ``kind`` that object's name."""
        code = self.schema.OperatorCodeT()
        known = getattr(self.schema.BuiltinOperator, name, None)
        if known is None:
            code.builtinCode, code.customCode = self.schema.BuiltinOperator.CUSTOM, name.encode()
        else:
            code.builtinCode = known
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = options.pop("version", 1)
        operator = self.schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes)
        operator.inputs = [self.numbers[each] for each in inputs]
        operator.outputs = [self.numbers[each] for each in outputs]
        operator.customOptions = options.pop("custom", None)
        kind = options.pop("kind", None)
        if kind is not None:
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, kind)
            operator.builtinOptions = getattr(self.schema, kind + "T")()
            for key, value in options.items():
                setattr(operator.builtinOptions, key, value)
        self.model.operatorCodes.append(code)
        self.graph.operators.append(operator)

    def write(self, path: Path, inputs: list[str], outputs: list[str], *, signed: bool) -> str:
        self.graph.inputs = [self.numbers[name] for name in inputs]
        self.graph.outputs = [self.numbers[name] for name in outputs]
        if signed:
            signature = self.schema.SignatureDefT()
            signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
            signature.inputs = [self._named(name) for name in inputs]
            signature.outputs = [self._named(name) for name in outputs]
            self.model.signatureDefs = [signature]
        path.write_bytes(bytes(self.tools.convert_object_to_bytearray(self.model)))
        return str(path)

    def _named(self, name: str) -> Any:
        tensor = self.schema.TensorMapT()
        tensor.name, tensor.tensorIndex = f"the_{name}".encode(), self.numbers[name]
        return tensor


def cnn(path: Path, *, signed: bool = True, open_batch: bool = False, seed: int = 0) -> str:
    """``image`` [1, 8, 8, 32] -> conv -> relu -> ``features`` -> dense -> ``scores`` [1, 64, 10].

    The dense layer is applied at each place of the image. With a signature its names are
    ``the_image`` and ``the_scores``.
    """
    rng = np.random.default_rng(seed)
    file = File()
    file.tensor("image", (1, 8, 8, 32), open_batch=open_batch)
    file.constant("filter", rng.standard_normal((32, 3, 3, 32)).astype("f4") / 17)
    file.constant("bias", rng.standard_normal(32).astype("f4"))
    file.tensor("features", (1, 8, 8, 32), open_batch=open_batch)
    file.constant("dense", rng.standard_normal((10, 32)).astype("f4") / 6)
    file.constant("offset", rng.standard_normal(10).astype("f4"))
    file.tensor("scores", (1, 8, 8, 10), open_batch=open_batch)
    conv = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    relu = file.schema.ActivationFunctionType.RELU
    file.operator(
        "CONV_2D",
        ["image", "filter", "bias"],
        ["features"],
        kind="Conv2DOptions",
        fusedActivationFunction=relu,
        **conv,
    )
    file.operator(
        "FULLY_CONNECTED",
        ["features", "dense", "offset"],
        ["scores"],
        kind="FullyConnectedOptions",
        keepNumDims=True,
    )
    return file.write(path, ["image"], ["scores"], signed=signed)


def product(path: Path) -> str:
    """``left`` [1, 4, 16] times constant weights in a BATCH_MATMUL -> ``right`` [1, 4, 8]."""
    rng = np.random.default_rng(1)
    file = File()
    file.tensor("left", (1, 4, 16))
    scales = np.logspace(-2, 0, 8)
    file.constant("weights", (rng.standard_normal((1, 16, 8)) * scales).astype("f4"))
    file.tensor("right", (1, 4, 8))
    file.operator("BATCH_MATMUL", ["left", "weights"], ["right"], kind="BatchMatMulOptions")
    return file.write(path, ["left"], ["right"], signed=True)


def layers(path: Path, outputs: list[str]) -> str:
    """``x`` [1, 6] -> dense -> ``y`` -> dense -> ``z``; no signature."""
    rng = np.random.default_rng(2)
    file = File()
    for name in ("x", "y", "z"):
        file.tensor(name, (1, 6))
    for source, weights, target in (("x", "w", "y"), ("y", "v", "z")):
        file.constant(weights, rng.standard_normal((6, 6)).astype("f4"))
        kind = "FullyConnectedOptions"
        file.operator("FULLY_CONNECTED", [source, weights], [target], kind=kind)
    return file.write(path, ["x"], outputs, signed=False)


def classes(path: Path) -> str:
    """``x`` [1, 6] -> dense -> argmax -> ``class`` int64 [1]."""
    file = File()
    file.tensor("x", (1, 6))
    file.tensor("y", (1, 4))
    file.tensor("class", (1,), "INT64")
    file.constant("w", np.random.default_rng(3).standard_normal((4, 6)).astype("f4"))
    file.constant("axis", np.array([1], "i4"))
    file.operator("FULLY_CONNECTED", ["x", "w"], ["y"], kind="FullyConnectedOptions")
    integers = {"kind": "ArgMaxOptions", "outputType": file.schema.TensorType.INT64}
    file.operator("ARG_MAX", ["y", "axis"], ["class"], **integers)
    return file.write(path, ["x"], ["class"], signed=False)


def clamped(path: Path) -> str:
    """``x`` [1, 6] -> dense -> reshape -> ``s`` -> relu -> reshape -> dense -> relu6 -> ``y``."""
    rng = np.random.default_rng(4)
    file = File()
    shapes = {"x": (1, 6), "m": (1, 6), "s": (2, 3), "r": (2, 3), "t": (1, 6), "n": (1, 6)}
    for name, shape in {**shapes, "y": (1, 6)}.items():
        file.tensor(name, shape)
    for name in ("w", "v"):
        file.constant(name, rng.standard_normal((6, 6)).astype("f4"))
    for name, shape in (("to_s", (2, 3)), ("to_t", (1, 6))):
        file.constant(name, np.array(shape, "i4"))
    dense = {"kind": "FullyConnectedOptions"}
    file.operator("FULLY_CONNECTED", ["x", "w"], ["m"], **dense)
    file.operator("RESHAPE", ["m", "to_s"], ["s"], kind="ReshapeOptions", newShape=[2, 3])
    file.operator("RELU", ["s"], ["r"])
    file.operator("RESHAPE", ["r", "to_t"], ["t"], kind="ReshapeOptions", newShape=[1, 6])
    file.operator("FULLY_CONNECTED", ["t", "v"], ["n"], **dense)
    file.operator("RELU6", ["n"], ["y"])
    return file.write(path, ["x"], ["y"], signed=False)


def limited(path: Path) -> str:
    """``x`` [1, 3, 6] -> dense -> at least 0.5, a constant [1] -> ``y``."""
    file = File()
    for name in ("x", "m", "y"):
        file.tensor(name, (1, 3, 6))
    file.constant("w", np.random.default_rng(5).standard_normal((6, 6)).astype("f4"))
    file.constant("least", np.array([0.5], "f4"))
    dense = {"kind": "FullyConnectedOptions", "keepNumDims": True}
    file.operator("FULLY_CONNECTED", ["x", "w"], ["m"], **dense)
    file.operator("MAXIMUM", ["least", "m"], ["y"], kind="MaximumMinimumOptions")
    return file.write(path, ["x"], ["y"], signed=False)


def quotient(path: Path) -> str:
    """``x`` [1, 6] -> dense -> divided by ``x`` -> ``y``."""
    file = File()
    for name in ("x", "m", "y"):
        file.tensor(name, (1, 6))
    file.constant("w", np.random.default_rng(6).standard_normal((6, 6)).astype("f4"))
    file.operator("FULLY_CONNECTED", ["x", "w"], ["m"], kind="FullyConnectedOptions")
    file.operator("DIV", ["m", "x"], ["y"], kind="DivOptions")
    return file.write(path, ["x"], ["y"], signed=False)


def difference(path: Path, names: tuple[str, str], signed: tuple[str, str]) -> str:
    """The first input [1, 4] less the second -> ``y``. names: the inputs', and in a signature."""
    file = File()
    for name in ("left", "right", "y"):
        file.tensor(name, (1, 4))
    file.operator("SUB", ["left", "right"], ["y"], kind="SubOptions")
    file.write(path, ["left", "right"], ["y"], signed=True)
    for tensor, name in zip(file.graph.tensors, names):
        tensor.name = name.encode()
    for each, name in zip(file.model.signatureDefs[0].inputs, signed):
        each.name = name.encode()
    path.write_bytes(bytes(file.tools.convert_object_to_bytearray(file.model)))
    return str(path)


def found(path: Path) -> str:
    """``x`` [1, 6] -> ``places`` int64 [n, 2] where it is above 0."""
    file = File()
    file.tensor("x", (1, 6))
    file.constant("zero", np.zeros((1, 6), "f4"))
    file.tensor("above", (1, 6), "BOOL")
    file.tensor("places", (1, 2), "INT64", open_batch=True)
    file.operator("GREATER", ["x", "zero"], ["above"], kind="GreaterOptions")
    file.operator("WHERE", ["above"], ["places"], kind="WhereOptions")
    return file.write(path, ["x"], ["places"], signed=False)


def table(path: Path) -> str:
    """``ids`` int32 [1, 4] -> GATHER from a table -> ``rows`` [1, 4, 16]: no delegate takes it."""
    file = File()
    file.tensor("ids", (1, 4), "INT32")
    file.constant("table", np.arange(160, dtype="f4").reshape(10, 16))
    file.tensor("rows", (1, 4, 16))
    file.operator("GATHER", ["table", "ids"], ["rows"], kind="GatherOptions")
    return file.write(path, ["ids"], ["rows"], signed=True)


def spectrogram(path: Path) -> str:
    """``x`` [16, 1] -> a custom operator that LiteRT has -> ``y`` [1, 2, 5]."""
    from flatbuffers import flexbuffers

    file = File()
    file.tensor("x", (16, 1))
    file.tensor("y", (1, 2, 5))
    wanted = {"window_size": 8, "stride": 8, "magnitude_squared": True}
    file.operator("AudioSpectrogram", ["x"], ["y"], custom=list(flexbuffers.Dumps(wanted)))
    return file.write(path, ["x"], ["y"], signed=False)


def scalar(path: Path) -> str:
    """``x`` [] -> abs -> ``y`` []."""
    file = File()
    file.tensor("x", ())
    file.tensor("y", ())
    file.operator("ABS", ["x"], ["y"])
    return file.write(path, ["x"], ["y"], signed=False)


def batches(path: Path, size: int, *, fixed: bool = False) -> str:
    """``x`` [-1, 6], of that size at first -> ``y``. fixed: inside, and LiteRT isn't told."""
    file = File()
    file.tensor("x", (size, 6), open_batch=True)
    file.tensor("y", (size, 6), open_batch=not fixed)
    if fixed:
        file.constant("shape", np.array([size, 6], "i4"))
        file.operator("RESHAPE", ["x", "shape"], ["y"], kind="ReshapeOptions")
    else:
        file.operator("ABS", ["x"], ["y"])
    return file.write(path, ["x"], ["y"], signed=False)


def entries(path: Path, keys: dict[int, str]) -> str:
    """Two subgraphs of ``x`` [1, 4] -> ``y``: abs, and neg. keys: of signatures, by subgraph."""
    file = File()
    file.tensor("x", (1, 4))
    file.tensor("y", (1, 4))
    for name in ("ABS", "NEG"):
        file.operator(name, ["x"], ["y"])
    file.write(path, ["x"], ["y"], signed=True)
    (signature,) = file.model.signatureDefs
    file.model.subgraphs = [copy.copy(file.graph) for _ in keys]
    file.model.signatureDefs = []
    for number, graph in enumerate(file.model.subgraphs):
        graph.operators = [file.graph.operators[number]]
    for number, key in keys.items():
        its = copy.copy(signature)
        its.subgraphIndex, its.signatureKey = number, key.encode()
        file.model.signatureDefs.append(its)
    path.write_bytes(bytes(file.tools.convert_object_to_bytearray(file.model)))
    return str(path)


def of_operator(path: Path, name: str, **options: Any) -> str:
    """One operator from ``x`` [1, 4] to ``y``: for those that LiteRT hasn't."""
    file = File()
    file.tensor("x", (1, 4))
    file.tensor("y", (1, 4))
    file.operator(name, ["x"], ["y"], **options)
    return file.write(path, ["x"], ["y"], signed=False)
