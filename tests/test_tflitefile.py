"""What is read of a ``.tflite`` file, beside what LiteRT itself says of it; and broken files."""

from __future__ import annotations

import importlib.util
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("ai_edge_litert") is None:
    pytest.skip("needs ai_edge_litert", allow_module_level=True)

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from tflite_files import Net, Signature, quantized, two_by_two

from harness import tflitefile, tfliteops, wire
from harness.errors import InputError, Problem
from harness.modelfile import ModelInfo, inspect
from harness.types import Port, TensorSpec


def write(folder: Path, content: bytes, name: str = "m.tflite") -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


def problems(path: str) -> tuple[Problem, ...]:
    with pytest.raises(InputError) as caught:
        inspect(path)
    return caught.value.problems


def relu(inputs: int = 1) -> tuple[Net, list[int], list[int]]:
    """``x0``, ``x1`` ... -> ``y``, float32 [1, 4]."""
    net = Net()
    xs = [net.tensor(f"x{index}") for index in range(inputs)]
    y = net.tensor("y")
    net.op("RELU", xs[:1], [y])
    return net, xs, [y]


def test_a_sound_model_is_described(tmp_path: Path) -> None:
    path = write(tmp_path, two_by_two(), "net.v2.tflite")
    info = inspect(path)
    assert (info.path, info.name, info.format, info.opset) == (path, "net.v2", "tflite", 0)
    left, right = (
        TensorSpec("left", "float32", (None, 6)),
        TensorSpec("right", "float32", (None, 6)),
    )
    assert info.inputs == (left, right)
    assert [str(spec) for spec in info.outputs] == ["mixed: float32[?, 5]", "gate: float32[?, 3]"]
    assert info.operators == (("FULLY_CONNECTED", 3), ("ADD", 1))
    assert info.size_bytes == Path(path).stat().st_size
    assert info.ports is not None
    assert info.ports.inputs[0] == Port(left, "serving_default_left:0", "float32")
    assert wire.decode(ModelInfo, json.loads(json.dumps(wire.encode(info)))) == info
    assert inspect(write(tmp_path, two_by_two(batch=2))).sha256 != info.sha256


@pytest.mark.parametrize("content", [two_by_two(), two_by_two(batch=3), quantized()])
def test_litert_says_the_same(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, content)
    found = tflitefile.read(path)
    interpreter = Interpreter(model_path=path)
    for ports, details in (
        (found.ports.inputs, interpreter.get_input_details()),
        (found.ports.outputs, interpreter.get_output_details()),
    ):
        assert len(ports) == len(details)
        for port, detail in zip(ports, details, strict=True):
            assert port.name == detail["name"]
            assert port.dtype == port.spec.dtype == np.dtype(detail["dtype"]).name
            shape = [-1 if dim is None else dim for dim in port.spec.shape]
            assert shape == detail["shape_signature"].tolist()
    (signature,) = interpreter.get_signature_list().values()
    assert {port.spec.name for port in found.ports.inputs} == set(signature["inputs"])
    assert {port.spec.name for port in found.ports.outputs} == set(signature["outputs"])


def test_the_operators_are_the_schemas() -> None:
    known = {k: v for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
    assert known == {name: code for code, name in enumerate(tfliteops.BUILTINS)}


def test_the_types_are_the_schemas() -> None:
    known = {k: v for k, v in vars(schema.TensorType).items() if not k.startswith("_")}
    ours = {name: code for code, name in enumerate(tflitefile._DTYPES)}
    assert {"STRING": 5, **{n.upper(): c for n, c in ours.items() if n != "str"}} == known


def names_of(path: str) -> tuple[list[str], list[str]]:
    info = inspect(path)
    return [spec.name for spec in info.inputs], [spec.name for spec in info.outputs]


def test_of_several_signatures_the_default_one_gives_the_names(tmp_path: Path) -> None:
    net, (x,), (y,) = relu()
    other = Signature({"o": x}, {"p": y}, key="other")
    default = Signature({"a": x}, {"b": y})
    elsewhere = Signature({"q": x}, {"r": y}, key="elsewhere", subgraph=1)
    body = schema.SubGraphT()
    body.tensors, body.operators = net.graph.tensors, net.graph.operators
    body.inputs, body.outputs = [x], [y]
    net.model.subgraphs.append(body)
    assert names_of(write(tmp_path, net.bytes([x], [y], other))) == (["o"], ["p"])
    assert names_of(write(tmp_path, net.bytes([x], [y], other, default))) == (["a"], ["b"])
    assert names_of(write(tmp_path, net.bytes([x], [y], elsewhere, other))) == (["o"], ["p"])
    assert names_of(write(tmp_path, net.bytes([x], [y], elsewhere))) == (["x0"], ["y"])
    info = inspect(write(tmp_path, net.bytes([x], [y])))
    assert info.operators == (("RELU", 2),)  # those of all subgraphs


def test_a_signature_that_leaves_something_out_gives_no_names(tmp_path: Path) -> None:
    net, (x, unnamed), (y,) = relu(inputs=2)
    part = Signature({"a": x}, {"b": y})
    assert names_of(write(tmp_path, net.bytes([x, unnamed], [y], part))) == (["x0", "x1"], ["y"])
    twice = Signature({"a": x}, {"a": y})  # as nothing else could tell them apart
    assert names_of(write(tmp_path, net.bytes([x], [y], twice))) == (["x0"], ["y"])


def test_one_tensor_may_be_two_outputs(tmp_path: Path) -> None:
    net, (x,), (y,) = relu()
    assert names_of(write(tmp_path, net.bytes([x], [y, y])))[1] == ["y", "y_2"]
    named = Signature({"a": x}, {"first": y, "second": y})
    assert names_of(write(tmp_path, net.bytes([x], [y, y], named)))[1] == ["first", "second"]


def test_tensors_without_names_of_their_own_get_some(tmp_path: Path) -> None:
    net = Net()
    x, y = (
        [net.tensor(name) for name in ("", "a", "a", "a_2", "")],
        [net.tensor(""), net.tensor("z")],
    )
    net.op("RELU", x[:1], y[:1])
    found = names_of(write(tmp_path, net.bytes(x, [*y, x[1]])))
    assert found == (["input_0", "a", "a_2_2", "a_2", "input_4"], ["output_0", "z", "a_7"])


def test_scalars_and_plain_types(tmp_path: Path) -> None:
    kinds = ["float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    net = Net()
    xs = [net.tensor(f"{kind}_x", kind, ()) for kind in kinds]
    y = net.tensor("y", "float32", (2, -1, 3))
    net.op("RELU", xs[:1], [y])
    info = inspect(write(tmp_path, net.bytes(xs, [y])))
    assert [(spec.dtype, spec.shape) for spec in info.inputs] == [(kind, ()) for kind in kinds]
    assert info.outputs[0].shape == (2, None, 3)


def test_custom_and_future_operators_have_names(tmp_path: Path) -> None:
    net, xs, ys = relu()
    net.op("FlexErf", xs, ys)
    net.op("CAST", xs, ys)
    net.model.operatorCodes[-1].builtinCode = 9999
    info = inspect(write(tmp_path, net.bytes(xs, ys)))
    assert info.operators == (("BUILTIN_9999", 1), ("RELU", 1), ("custom.FlexErf", 1))


def test_old_files_have_the_operators_code_in_one_byte(tmp_path: Path) -> None:
    net, xs, ys = relu()
    net.model.operatorCodes[0].builtinCode = 0
    assert inspect(write(tmp_path, net.bytes(xs, ys))).operators == (("RELU", 1),)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    net = Net()
    text, state = net.tensor("text", "str"), net.tensor("state")
    handle = net.tensor("handle", "resource", ())
    net.graph.tensors[state].isVariable = True
    net.op("VAR_HANDLE", [], [handle])
    net.model.version = 2
    path = write(tmp_path, net.bytes([text, text], []))
    found = [(each.where, each.what) for each in problems(path)]
    assert found == [
        (path, "version 2 of TensorFlow Lite's schema; tools read version 3"),
        (path, "one tensor is more than one of the model's inputs"),
        (f"{path}: text", "an input of type str; expected one that numpy has"),
        (path, "the model has no outputs"),
        (path, "it keeps variables from one inference to the next (VAR_HANDLE)"),
        (path, "1 tensors keep state from one inference to the next: state"),
    ]
    assert all(each.fix for each in problems(path))


def test_nothing_to_feed(tmp_path: Path) -> None:
    net, _, ys = relu()
    (problem,) = problems(write(tmp_path, net.bytes([], ys)))
    assert problem.what == "the model has no inputs"


def test_it_must_be_called_what_it_is(tmp_path: Path) -> None:
    (problem,) = problems(write(tmp_path, two_by_two(), "net.onnx"))
    assert problem.what == "a TensorFlow Lite model whose name doesn't end in .tflite"
    assert problem.fix == "rename it to net.tflite"


def test_a_folder_names_the_model_in_it(tmp_path: Path) -> None:
    path = write(tmp_path, two_by_two())
    assert problems(str(tmp_path))[0].fix == f"name the file: {path}"


def test_data_behind_the_flatbuffer_must_be_there(tmp_path: Path) -> None:
    net, xs, ys = relu()
    buffer = schema.BufferT()
    buffer.offset, buffer.size = 4096, 64
    net.model.buffers.append(buffer)
    content = net.bytes(xs, ys).ljust(4096 + 64, b"\0")
    assert inspect(write(tmp_path, content)).format == "tflite"
    (problem,) = problems(write(tmp_path, content[:-1]))
    assert problem.what == (
        "an incomplete or damaged TensorFlow Lite file: it refers to byte 4160, and has 4159"
    )
    assert problem.fix


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda net: net.graph.operators[0].inputs.append(7), "tensor 7 of 2"),
        (lambda net: setattr(net.graph.tensors[0], "buffer", 9), "buffer 9 of 1"),
        (lambda net: setattr(net.graph.operators[0], "opcodeIndex", 3), "operator code 3 of 1"),
        (lambda net: setattr(net.graph.tensors[0], "type", 99), "a tensor of the unknown type 99"),
        (lambda net: net.model.subgraphs.clear(), "it has no subgraph"),
    ],
)
def test_what_refers_to_nothing_is_damage(tmp_path: Path, change: Any, what: str) -> None:
    net, xs, ys = relu()
    change(net)
    (problem,) = problems(write(tmp_path, net.bytes(xs, ys)))
    assert problem.what.startswith("an incomplete or damaged TensorFlow Lite file: ")
    assert problem.what.endswith(what)


def reads(path: Path, content: bytes) -> bool:
    """Whether it can be read; whatever else than InputError comes fails the test."""
    path.write_bytes(content)
    try:
        inspect(str(path))
    except InputError:
        return False
    return True


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    content = two_by_two()
    end = len(content.rstrip(b"\0"))  # beyond that is only padding
    lengths = [*range(8, end, 64), end - 1]
    assert not any(reads(tmp_path / "m.tflite", content[:length]) for length in lengths)


def test_no_change_of_bytes_leads_to_anything_but_a_refusal(tmp_path: Path) -> None:
    draw = random.Random(0)
    whole = [two_by_two(), quantized(float_ports=True)]
    refused = 0
    for case in range(2000):
        content = bytearray(whole[case % 2])
        for _ in range(draw.choice((1, 1, 4, 32))):
            at = draw.randrange(8, len(content))
            if draw.random() < 0.5:
                content[at] = draw.randrange(256)
            else:  # an extreme where an offset or a length may be
                at -= at % 4
                odd = draw.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(content) - 1))
                content[at : at + 4] = struct.pack("<I", odd)
        refused += not reads(tmp_path / "m.tflite", bytes(content))
    assert 200 < refused < 1900  # neither is everything taken, nor everything refused


class Once:
    """A table that is written once, and referred to again and again."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._at = None

    def Pack(self, builder: Any) -> Any:  # noqa: N802  # the writer's name
        self._at = self._table.Pack(builder) if self._at is None else self._at
        return self._at


def test_parts_that_are_referred_to_again_and_again_are_not_read_without_end(
    tmp_path: Path,
) -> None:
    net, xs, ys = relu()
    net.graph.operators *= 1000
    net.model.subgraphs = [Once(net.graph)] * 3
    assert reads(tmp_path / "m.tflite", net.bytes(xs, ys))
    net.graph.operators = [Once(net.graph.operators[0])] * 1000
    net.model.subgraphs = [Once(net.graph)] * 1000
    (problem,) = problems(write(tmp_path, net.bytes(xs, ys)))
    assert problem.what.endswith("its parts refer to each other without end")
