"""A reader of ONNX files for workers, which have no ``onnx`` package.

It walks protobuf's wire format (https://protobuf.dev/programming-guides/encoding/) over a memory
map and takes only what the adapter asks for, so weights are never read. Field numbers are those
of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, Union

Value = Union[int, memoryview]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BITS = 64

# Field numbers, per message.
_MODEL_GRAPH, _MODEL_FUNCTION = 7, 25
_FUNCTION_NODE = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_GRAPH_VALUES = (11, 12, 13)  # input, output, value_info
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_STRING = 1, 3, 4
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH = 5, 6
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 10, 11, 22, 23
_TENSOR_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL = 2, 8, 13
_SPARSE_PARTS = (1, 2)  # values, indices
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR, _TENSOR_ELEMENT = 1, 1
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


@dataclass
class Node:
    """One operation. ints: its integer attributes. tensor: the element type of its constant.

    context: a compiled engine, or the name of its file.
    """

    op: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    ints: dict[str, int] = field(default_factory=dict)
    tensor: int = 0
    bodies: list[Graph] = field(default_factory=list)
    context: Optional[memoryview] = None


@dataclass
class Graph:
    """One graph. types: element types (``TensorProto.DataType``) of the values that declare one."""

    nodes: list[Node] = field(default_factory=list)
    types: dict[str, int] = field(default_factory=dict)


@dataclass
class Model:
    """What was read. external: locations of external data as the file names them, in order."""

    graph: Graph = field(default_factory=Graph)
    external: list[str] = field(default_factory=list)


def read(path: str) -> Model:
    """Read a model file. Raises ValueError where it is no ONNX, OSError where it can't be read."""
    with open(path, "rb") as file:  # noqa: PTH123 - mmap wants the descriptor
        if not file.seek(0, 2):
            raise ValueError("the file is empty")
        # Not closed by hand: that fails while a view is alive, as in the traceback of a fault.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    reader = _Reader()
    try:
        reader.read_model(memoryview(mapped))
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("it ends or breaks off where no ONNX file does") from error
    if not reader.found_graph:
        raise ValueError("there is no graph in it")
    return reader.model


def is_ort_format(path: Path) -> bool:
    """Whether a file is a flatbuffer of ONNX Runtime's own format."""
    with path.open("rb") as file:
        return file.read(8)[4:] == b"ORTM"


class _Reader:
    """Collects one model."""

    def __init__(self) -> None:
        self.model = Model()
        self.found_graph = False

    def read_model(self, data: memoryview) -> None:
        for number, value in _fields(data):
            if number == _MODEL_GRAPH and isinstance(value, memoryview):
                self.found_graph = True
                self.read_graph(value, self.model.graph)
            elif number == _MODEL_FUNCTION and isinstance(value, memoryview):
                for inner, node in _messages(value):
                    if inner == _FUNCTION_NODE:
                        self.read_node(node)

    def read_graph(self, data: memoryview, graph: Graph) -> None:
        for number, value in _messages(data):
            if number == _GRAPH_NODE:
                graph.nodes.append(self.read_node(value))
            elif number == _GRAPH_INITIALIZER:
                name, element = self.read_tensor(value)
                graph.types[name] = element
            elif number == _GRAPH_SPARSE:
                self.read_sparse(value)
            elif number in _GRAPH_VALUES:
                name, element = _value_info(value)
                if element:
                    graph.types[name] = element

    def read_node(self, data: memoryview) -> Node:
        node = Node()
        for number, value in _messages(data):
            if number == _NODE_INPUT:
                node.inputs.append(_text(value))
            elif number == _NODE_OUTPUT:
                node.outputs.append(_text(value))
            elif number == _NODE_OP:
                node.op = _text(value)
            elif number == _NODE_DOMAIN:
                node.domain = _text(value)
            elif number == _NODE_ATTRIBUTE:
                self.read_attribute(value, node)
        # https://onnxruntime.ai/docs/execution-providers/EP-Context-Design.html
        if node.op == "EPContext" and node.context and node.ints.get("embed_mode") == 0:
            self.add_external(_text(node.context))
        return node

    def read_attribute(self, data: memoryview, node: Node) -> None:
        name = ""
        for number, value in _fields(data):
            if isinstance(value, int):
                if number == _ATTRIBUTE_INT:
                    node.ints[name] = value
            elif number == _ATTRIBUTE_NAME:
                name = _text(value)
            elif number == _ATTRIBUTE_STRING and name == "ep_cache_context":
                node.context = value
            elif number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                node.tensor = self.read_tensor(value)[1]
            elif number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                body = Graph()
                self.read_graph(value, body)
                node.bodies.append(body)
            elif number in (_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES):
                self.read_sparse(value)

    def read_sparse(self, data: memoryview) -> None:
        for number, value in _messages(data):
            if number in _SPARSE_PARTS:
                self.read_tensor(value)

    def read_tensor(self, data: memoryview) -> tuple[str, int]:
        """The tensor's name and element type; notes where its data lie outside the file."""
        name, element = "", 0
        for number, value in _fields(data):
            if isinstance(value, int):
                element = value if number == _TENSOR_TYPE else element
            elif number == _TENSOR_NAME:
                name = _text(value)
            elif number == _TENSOR_EXTERNAL:
                entry = {inner: _text(text) for inner, text in _messages(value)}
                if entry.get(_ENTRY_KEY) == "location":
                    self.add_external(entry.get(_ENTRY_VALUE, ""))
        return name, element

    def add_external(self, location: str) -> None:
        if location not in self.model.external:
            self.model.external.append(location)


def _value_info(data: memoryview) -> tuple[str, int]:
    name, element = "", 0
    for number, value in _messages(data):
        if number == _VALUE_NAME:
            name = _text(value)
        elif number == _VALUE_TYPE:
            for kind, tensor in _messages(value):
                if kind == _TYPE_TENSOR:
                    numbers = dict(_fields(tensor))
                    found = numbers.get(_TENSOR_ELEMENT, 0)
                    element = found if isinstance(found, int) else 0
    return name, element


def _text(value: memoryview) -> str:
    return str(value, "utf-8")


def _messages(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a message."""
    for number, value in _fields(data):
        if isinstance(value, memoryview):
            yield number, value


def _fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """The fields of a message in order; fixed-width ones come as their bytes."""
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position)
        kind = key & 7
        if kind == _VARINT:
            number, position = _varint(data, position)
            yield key >> 3, number
            continue
        if kind == _BYTES:
            length, position = _varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("it is no protocol buffer")
        if position + length > end:
            raise ValueError("it breaks off in the middle")
        yield key >> 3, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return number, position
        shift += 7
        if shift >= _VARINT_BITS:
            raise ValueError("it is no protocol buffer")
