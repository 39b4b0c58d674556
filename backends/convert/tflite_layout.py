"""What a ``.tflite`` says of its layout, its batch axis opened, and its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import BackendError
from harness.types import Array

LAST: Mapping[int, tuple[int, ...]] = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
"""By rank: the axes of ``[N, C, ...]`` in the order of ``[N, ..., C]``."""


def load() -> tuple[Any, Any]:
    """The schema of the files and the class that runs them. Raises what importing raises."""
    from ai_edge_litert import schema_py_generated
    from ai_edge_litert.interpreter import Interpreter

    return schema_py_generated, Interpreter


class Graph:
    """A file's one subgraph, and its bytes, which can be changed in place."""

    def __init__(self, path: Path) -> None:
        self._schema, _ = load()
        self.data = bytearray(path.read_bytes())
        self._model = self._schema.Model.GetRootAs(self.data, 0)
        self._graph = self._model.Subgraphs(0)

    def transposes(self) -> int:
        """How many there are: each moves a whole tensor at run time."""
        return sum(1 for _ in self._operators("TRANSPOSE"))

    def made_last(self) -> frozenset[str]:
        """Inputs that the file first of all transposes to channels-last."""
        inputs = {int(index) for index in self._graph.InputsAsNumpy()}
        found = set()
        for operator in self._operators("TRANSPOSE"):
            order = self._constant(operator.Inputs(1))
            tensor = self._graph.Tensors(operator.Inputs(0))
            if operator.Inputs(0) in inputs and tuple(order) == LAST.get(len(order)):
                found.add(tensor.Name().decode())
        return frozenset(found)

    def custom(self) -> list[str]:
        """Operators that no runtime has by itself."""
        codes = [self._model.OperatorCodes(n) for n in range(self._model.OperatorCodesLength())]
        return sorted(code.CustomCode().decode() for code in codes if code.CustomCode() is not None)

    def open_batch(self, size: int) -> None:
        """Let the first axis, which is ``size`` now, be of any size.

        It becomes -1 in what the inputs and outputs declare, and in the shapes that RESHAPE and
        SLICE have as constants; all others take their shapes from their inputs. Whether an axis
        was the batch can't be seen here: run the file to know.
        """
        for operator in self._operators("RESHAPE"):
            self._open_reshape(operator)
        for operator in self._operators("SLICE"):
            self._open_slice(operator, size)
        for index in (*self._graph.InputsAsNumpy(), *self._graph.OutputsAsNumpy()):
            self._open_tensor(int(index), size)

    def _open_reshape(self, operator: Any) -> None:
        """The first axis is then what is left: the same, whatever it was, for a fixed input."""
        shape = self._constant(operator.Inputs(operator.InputsLength() - 1))
        if not len(shape) or (shape < 1).any():
            return
        shape[0] = -1
        if operator.BuiltinOptions() is not None:
            options = self._schema.ReshapeOptions()
            options.Init(operator.BuiltinOptions().Bytes, operator.BuiltinOptions().Pos)
            if options.NewShapeLength():
                options.NewShapeAsNumpy()[0] = -1

    def _open_slice(self, operator: Any, size: int) -> None:
        sizes = self._constant(operator.Inputs(2))
        ends = (self._graph.Tensors(index) for index in (operator.Inputs(0), operator.Outputs(0)))
        if len(sizes) and all(end.ShapeLength() and end.Shape(0) == size for end in ends):
            sizes[0] = -1
            self._open_tensor(operator.Outputs(0), size)  # it keeps to what its output declares

    def _open_tensor(self, index: int, size: int) -> None:
        tensor = self._graph.Tensors(index)
        if tensor.ShapeSignatureLength() and tensor.Shape(0) == size:
            tensor.ShapeSignatureAsNumpy()[0] = -1

    def _operators(self, kind: str) -> Iterator[Any]:
        wanted = getattr(self._schema.BuiltinOperator, kind)
        for number in range(self._graph.OperatorsLength()):
            operator = self._graph.Operators(number)
            code = self._model.OperatorCodes(operator.OpcodeIndex())
            if max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) == wanted:
                yield operator

    def _constant(self, index: int) -> Array:
        """An int32 tensor's values, to be read and written; empty where it is computed."""
        tensor = self._graph.Tensors(index)
        buffer = self._model.Buffers(tensor.Buffer())
        if tensor.Type() != self._schema.TensorType.INT32 or not buffer.DataLength():
            return np.zeros(0, np.int32)
        data: Array = buffer.DataAsNumpy().view(np.int32)
        return data


class Runner:
    """The file in LiteRT's interpreter, as it opens it by itself."""

    def __init__(self, path: Path) -> None:
        _, interpreter = load()
        self._interpreter = interpreter(model_path=str(path))
        self._inputs = {each["name"]: each for each in self._interpreter.get_input_details()}
        self.inputs = _described(self._interpreter.get_input_details())
        self.outputs = _described(self._interpreter.get_output_details())

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by their names in the file. Raises what the interpreter raises."""
        for name, value in feed.items():
            self._interpreter.resize_tensor_input(self._inputs[name]["index"], value.shape)
        self._interpreter.allocate_tensors()
        for name, value in feed.items():
            self._interpreter.set_tensor(self._inputs[name]["index"], value)
        self._interpreter.invoke()
        outputs = self._interpreter.get_output_details()
        return {each["name"]: self._interpreter.get_tensor(each["index"]) for each in outputs}


def same_number(tool: str, wanted: Sequence[Any], found: Sequence[Any], kind: str) -> None:
    """Raise BackendError unless a file has as many ``kind`` as the model."""
    if len(wanted) != len(found):
        names = ", ".join(name for name, _ in found)
        raise BackendError(f"what {tool} made has other {kind} than the model: {names}")


def _described(details: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Name and dtype of each, in the file's order."""
    return tuple((each["name"], np.dtype(each["dtype"]).name) for each in details)


__all__ = ["LAST", "Graph", "Runner", "load", "same_number"]
