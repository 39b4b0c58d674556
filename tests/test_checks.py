from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from harness import checks, datasets, wire
from harness.checks import Checked, check
from harness.errors import InputError, Problem
from harness.jobs import Samples
from harness.modelfile import ModelInfo, inspect
from harness.types import TensorSpec

Array = np.ndarray[Any, Any]
FLOAT = TensorProto.FLOAT


def value(name: str, shape: Any, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(nodes: Any, inputs: Any, outputs: Any, initializers: Any = ()) -> Any:
    return helper.make_graph(nodes, "g", inputs, outputs, list(initializers))


def model_of(nodes: Any, inputs: Any, outputs: Any, initializers: Any = (), **more: Any) -> Any:
    opsets = more.pop("opset_imports", [helper.make_opsetid("", 17)])
    made = graph(nodes, inputs, outputs, initializers)
    return helper.make_model(made, opset_imports=opsets, ir_version=8, **more)


X, Y = value("x", ["n", 4]), value("y", ["n", 4])
RELU = helper.make_node("Relu", ["x"], ["y"])


def save(path: Path, model: Any) -> str:
    path.write_bytes(model.SerializeToString())
    return str(path)


def refused(step: Callable[[], object]) -> tuple[Problem, ...]:
    with pytest.raises(InputError) as error:
        step()
    return error.value.problems


# the model


def matmul(path: Path, location: str = "weights.bin") -> str:
    """A model with its weights, 4 x 4 float32, in a file beside it."""
    weights = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], [X], [Y], [weights])
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    if location != "weights.bin":
        model = onnx.load(path, load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "location":
                entry.value = location
        save(path, model)
    return str(path)


def test_a_sound_model_is_described(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Relu", ["r"], ["s"]),
        helper.make_node("Gelu", ["s"], ["y"], domain="com.microsoft"),
    ]
    weights = numpy_helper.from_array(np.eye(4, dtype=np.float16).astype(np.float32), "w")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    # The weights are listed among the inputs, as old exporters do.
    inputs = [X, value("w", [4, 4])]
    path = save(
        tmp_path / "net.v2.onnx", model_of(nodes, inputs, [Y], [weights], opset_imports=opsets)
    )
    info = inspect(path)
    assert info.path == path
    assert (info.name, info.format, info.opset) == ("net.v2", "onnx", 17)
    assert info.inputs == (TensorSpec("x", "float32", ("n", 4)),)
    assert info.outputs == (TensorSpec("y", "float32", ("n", 4)),)
    assert info.operators == (("Relu", 2), ("MatMul", 1), ("com.microsoft.Gelu", 1))
    assert info.size_bytes == Path(path).stat().st_size
    assert wire.decode(ModelInfo, json.loads(json.dumps(wire.encode(info)))) == info


def test_dtypes_and_dimensions_are_numpys(tmp_path: Path) -> None:
    kinds = {
        "int64": TensorProto.INT64,
        "float16": TensorProto.FLOAT16,
        "bfloat16": TensorProto.BFLOAT16,
        "bool": TensorProto.BOOL,
        "str": TensorProto.STRING,
    }
    nodes = [helper.make_node("Identity", [f"{k}_in"], [k]) for k in kinds]
    inputs = [value(f"{name}_in", [None, -1, 3, "s"], kind) for name, kind in kinds.items()]
    outputs = [value(name, [None, None, 3, "s"], kind) for name, kind in kinds.items()]
    info = inspect(save(tmp_path / "m.onnx", model_of(nodes, inputs, outputs)))
    assert [spec.dtype for spec in info.inputs] == list(kinds)
    assert {spec.shape for spec in info.inputs} == {(None, None, 3, "s")}


def test_operators_of_subgraphs_count(tmp_path: Path) -> None:
    branch = graph([helper.make_node("Neg", ["x"], ["b"])], [], [value("b", ["n", 4])])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    model = model_of([node], [X, value("c", [], TensorProto.BOOL)], [Y])
    assert inspect(save(tmp_path / "m.onnx", model)).operators == (("Neg", 2), ("If", 1))


def test_external_data_belong_to_the_size_and_the_hash(tmp_path: Path) -> None:
    path = matmul(tmp_path / "m.onnx")
    first = inspect(path)
    weights = tmp_path / "weights.bin"
    assert first.size_bytes == Path(path).stat().st_size + weights.stat().st_size
    weights.write_bytes(b"\x01" + weights.read_bytes()[1:])
    assert inspect(path).sha256 != first.sha256
    assert inspect(path).size_bytes == first.size_bytes


def truncated_model(path: Path) -> str:
    weights = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], [X], [Y], [weights])
    path.write_bytes(model.SerializeToString()[:-20])
    return str(path)


def bytes_of(content: bytes) -> Callable[[Path], str]:
    def make(path: Path) -> str:
        path.write_bytes(content)
        return str(path)

    return make


def made_of(*arguments: Any, **more: Any) -> Callable[[Path], str]:
    return lambda path: save(path, model_of(*arguments, **more))


def folder(path: Path) -> str:
    path.mkdir()
    return str(path)


def without_weights(path: Path) -> str:
    matmul(path)
    (path.parent / "weights.bin").unlink()
    return str(path)


def short_weights(path: Path) -> str:
    matmul(path)
    (path.parent / "weights.bin").write_bytes(bytes(10))
    return str(path)


TWICE = [RELU, helper.make_node("Neg", ["x"], ["y"])]
CUSTOM = helper.make_node("Fancy", ["x"], ["y"], domain="my.ops")
CUSTOM_OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 1)]
CONSTANT = helper.make_node("Constant", [], ["y"], value_float=1.0)
NEWEST = onnx.defs.onnx_opset_version()

BAD_MODELS: list[tuple[str, Callable[[Path], str], str]] = [
    ("missing", str, "no such file"),
    ("folder", folder, "a folder; expected an ONNX or a TensorFlow Lite model"),
    ("empty", bytes_of(b""), "the file is empty; expected an ONNX or"),
    (
        "text",
        bytes_of(b"layers:\n  - conv \xc3\xa9t\xc3\xa9\n" * 30),
        "a text file; expected an ONNX",
    ),
    ("zip", bytes_of(b"PK\x03\x04" + bytes(80)), "a zip file (a PyTorch checkpoint"),
    ("pickle", bytes_of(b"\x80\x02}q\x00." + bytes(80)), "a Python pickle"),
    (
        "tflite",
        bytes_of(b"\x1c\0\0\0TFL3" + bytes(80)),
        "a TensorFlow Lite model whose name doesn't end in .tflite",
    ),
    ("ort", bytes_of(b"\x1c\0\0\0ORTM" + bytes(80)), "ONNX Runtime's own format (.ort)"),
    ("executorch", bytes_of(b"\x1c\0\0\0ET12" + bytes(80)), "an ExecuTorch program (.pte)"),
    ("openvino", bytes_of(b"<?xml version='1.0'?><net/>"), "an XML file (an OpenVINO IR?)"),
    ("lfs", bytes_of(b"version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"),
    ("noise", bytes_of(b"\xff\xfe\x00\x01" * 40), "not an ONNX file; expected an ONNX or a"),
    ("other protobuf", bytes_of(b"\x08\x07"), "not an ONNX file; expected an ONNX or a"),
    ("truncated", truncated_model, "an incomplete or damaged ONNX file"),
    ("external missing", without_weights, 'the external data file "weights.bin" is missing'),
    ("external short", short_weights, '"weights.bin" has 10 bytes; the model needs 64'),
    (
        "external above",
        lambda path: matmul(path, "../weights.bin"),
        'external data of "w" at "../weights.bin", outside the model\'s folder',
    ),
    (
        "external within and above",
        lambda path: matmul(path, "a/../../weights.bin"),
        "outside the model's folder",
    ),
    (
        "external absolute",
        lambda path: matmul(path, "/etc/hostname"),
        'external data of "w" at "/etc/hostname", outside the model\'s folder',
    ),
    (
        "future opset",
        made_of([RELU], [X], [Y], opset_imports=[helper.make_opsetid("", 999)]),
        f"opset 999 of the default domain; the newest that the installed onnx knows is {NEWEST}",
    ),
    (
        "unknown domain",
        made_of([CUSTOM], [X], [Y], opset_imports=CUSTOM_OPSETS),
        'operators of the unknown domain "my.ops": Fancy',
    ),
    (
        "unknown operator",
        made_of([helper.make_node("Fancy", ["x"], ["y"])], [X], [Y]),
        "no such operator: Fancy",
    ),
    (
        "operator of a later opset",
        made_of([helper.make_node("Gelu", ["x"], ["y"])], [X], [Y]),
        "the operator Gelu doesn't exist yet in the model's opset 17",
    ),
    ("duplicated value", made_of(TWICE, [X], [Y]), 'the value name "y" is given 2 times'),
    (
        "output that is an input",
        made_of([helper.make_node("Relu", ["x"], ["x"])], [X], [X]),
        'the value name "x" is given 2 times',
    ),
    ("no outputs", made_of([RELU], [X], []), "the model has no outputs"),
    ("no inputs", made_of([CONSTANT], [], [value("y", [])]), "the model has no inputs"),
    (
        "sequence",
        made_of(
            [helper.make_node("SequenceConstruct", ["x"], ["y"])],
            [X],
            [helper.make_tensor_sequence_value_info("y", FLOAT, None)],
        ),
        "sequence; expected a tensor",
    ),
    ("no shape", made_of([RELU], [value("x", None)], [Y]), "declares no shape"),
    ("no dtype", made_of([RELU], [value("x", ["n", 4], 0)], [Y]), "declares no element type"),
    (
        "shapes that can't be",
        made_of([helper.make_node("MatMul", ["x", "x"], ["y"])], [value("x", [3, 4])], [Y]),
        "onnx.checker: Inference error(s): (op_type:MatMul)",
    ),
    (
        "unsorted",
        made_of([helper.make_node("Relu", ["later"], ["y"])], [X], [Y]),
        "onnx.checker: Nodes in a graph must be topologically sorted, however input 'later'",
    ),
]


@pytest.mark.parametrize(
    ("make", "what"), [case[1:] for case in BAD_MODELS], ids=[case[0] for case in BAD_MODELS]
)
def test_refuses_a_bad_model(tmp_path: Path, make: Callable[[Path], str], what: str) -> None:
    path = make(tmp_path / "m.onnx")
    (problem,) = refused(lambda: inspect(path))
    assert problem.where.startswith(path)
    assert what in problem.what
    assert problem.fix
    assert "\n" not in problem.what


def test_a_file_beyond_protobufs_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as stream:
        stream.write(b"\x08\x08")
        stream.truncate(2**31)  # sparse: takes no room
    (problem,) = refused(lambda: inspect(str(path)))
    assert problem.what == "2147483648 bytes; an ONNX file can't be larger than 2 GiB"


def test_a_folder_names_the_model_in_it(tmp_path: Path) -> None:
    save(tmp_path / "m.onnx", model_of([RELU], [X], [Y]))
    (problem,) = refused(lambda: inspect(str(tmp_path)))
    assert problem.fix == f"name the file: {tmp_path / 'm.onnx'}"
    (problem,) = refused(lambda: inspect(str(tmp_path / "n.onnx")))
    assert problem.fix == "in that folder: m.onnx"


def test_functions_of_the_model_define_their_domain(tmp_path: Path) -> None:
    function = helper.make_function(
        "my.ops", "Fancy", ["x"], ["y"], [RELU], [helper.make_opsetid("", 17)]
    )
    model = model_of([CUSTOM], [X], [Y], opset_imports=CUSTOM_OPSETS, functions=[function])
    info = inspect(save(tmp_path / "m.onnx", model))
    assert info.operators == (("Relu", 1), ("my.ops.Fancy", 1))


def test_every_problem_of_a_model_comes_at_once(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    nodes = [
        *TWICE,
        CUSTOM,
        helper.make_node("Fancy", ["w"], ["z"]),
        helper.make_node("MatMul", ["x", "w"], ["q"]),
    ]
    model = model_of(nodes, [X], [], [weights], opset_imports=CUSTOM_OPSETS)
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    (tmp_path / "w.bin").unlink()
    whats = [problem.what for problem in refused(lambda: inspect(str(tmp_path / "m.onnx")))]
    assert len(whats) == 5
    for part in ("no outputs", "my.ops", "no such operator", '"w.bin" is missing', "given 3 times"):
        assert sum(part in what for what in whats) == 1, part


# model, data and metric together


def classifier(path: Path, batch: Any = "n", classes: Any = 3, width: Any = 4) -> str:
    """image [batch, width] -> logits [batch, classes]."""
    weights = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["image", "w"], ["logits"])]
    inputs, outputs = [value("image", [batch, width])], [value("logits", [batch, classes])]
    return save(path, model_of(nodes, inputs, outputs, [weights]))


def images(count: int = 6, width: int = 4) -> Array:
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


GOOD = {"image": images(), "labels": np.array([0, 1, 2, 0, 1, 2])}


def test_what_fits_is_passed_on(tmp_path: Path) -> None:
    model, data = classifier(tmp_path / "m.onnx"), npz(tmp_path / "d.npz", **GOOD)
    checked = check(model, data)
    assert checked.model == inspect(model)
    assert checked.data is not None
    assert checked.data.samples == 6
    assert (checked.metric, checked.calibration, checked.warnings) == ("top1", None, ())
    assert wire.decode(Checked, json.loads(json.dumps(wire.encode(checked)))) == checked


def test_without_data_only_the_model_is_checked(tmp_path: Path) -> None:
    checked = check(classifier(tmp_path / "m.onnx"), None)
    assert (checked.data, checked.metric, checked.warnings) == (None, "agreement", ())


@pytest.mark.parametrize(
    ("labels", "classes", "metric"),
    [
        (np.zeros(6, np.int64), 3, "top1"),
        (np.zeros((6, 1), np.uint8), 3, "top1"),
        (np.zeros((6, 3), np.float32), 3, "mae"),
        (None, 3, "agreement"),
        (None, "classes", "agreement"),
        (np.array(["a"] * 6), 3, "agreement"),
        (np.zeros((6, 2), np.int64), 3, "agreement"),
    ],
)
def test_the_default_metric_follows_labels_and_output(
    tmp_path: Path, labels: Array | None, classes: Any, metric: str
) -> None:
    arrays = {"image": images()} if labels is None else {"image": images(), "labels": labels}
    path = classifier(tmp_path / "m.onnx", classes=classes)
    checked = check(path, npz(tmp_path / "d.npz", **arrays))
    assert checked.metric == metric
    assert bool(checked.warnings) == (metric == "agreement")


def test_an_output_that_is_no_class_scores_defaults_to_cosine(tmp_path: Path) -> None:
    wide = [value("x", ["n", 2, 4])], [value("y", ["n", 2, 4])]
    path = save(tmp_path / "m.onnx", model_of([RELU], *wide))
    data = {"x": np.ones((3, 2, 4), np.float32)}
    checked = check(path, npz(tmp_path / "d.npz", **data))
    assert checked.metric == "cosine"
    assert checked.warnings == (
        "cosine is agreement with the fp32 reference, not accuracy (without labels)",
    )
    # No default metric takes integer labels here.
    checked = check(path, npz(tmp_path / "l.npz", labels=np.arange(3), **data))
    assert checked.metric == "cosine"
    assert "the default metrics don't use these labels" in checked.warnings[0]


def test_an_output_that_is_the_class_itself_defaults_to_top1(tmp_path: Path) -> None:
    node = helper.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)
    model = model_of([node], [X], [value("y", ["n"], TensorProto.INT64)])
    data = npz(tmp_path / "d.npz", x=images(), labels=np.arange(6))
    assert check(save(tmp_path / "m.onnx", model), data).metric == "top1"


def with_nan(sample: int, odd: float = float("nan")) -> Array:
    array = images()
    array[sample, 2] = odd
    return array


D = "--data: d.npz"
LABELS = {"labels": GOOD["labels"]}
BAD_DATA: list[tuple[str, dict[str, Any], dict[str, Any], str, str, str]] = [
    # name, arrays, further arguments of check and classifier, where, what, fix
    ("missing input", {"pixels": images()}, {}, f"{D}: image",
     "no array for the model's input image: float32[n, 4]; the arrays are: pixels",
     'rename the array "pixels" to "image"'),
    ("misspelt input", {"imag": images(), "other": images()}, {}, f"{D}: image",
     "no array for the model's input image", 'did you mean "imag"?'),
    ("extra array", {**GOOD, "weight": images()}, {}, f"{D}: weight",
     "the model has no such input; its inputs are: image", "leave this array out"),
    ("dtype", {"image": images().astype(np.float64)}, {}, f"{D}: image",
     "dtype float64; the model's input is image: float32[n, 4]", "array.astype(np.float32)"),
    ("strings", {"image": images().astype(str)}, {}, f"{D}: image",
     "dtype str; the model's input is image", "array.astype(np.float32)"),
    ("rank too low", {"image": images()[:, 0]}, {}, f"{D}: image",
     "the array has 1 axes (the samples' included); the model's input is image: float32[n, 4]",
     "array[:, np.newaxis]"),
    ("rank too high", {"image": np.ones((2, 1, 1, 4), np.float32)}, {}, f"{D}: image",
     "the array has 4 axes", "save it with 2 axes"),
    ("dimension", {"image": images(width=5)}, {}, f"{D}: image",
     "axis 1 of the array has the size 5; the model's image: float32[n, 4] has 4",
     "resize or pad the samples to 4"),
    ("nan", {"image": with_nan(3)}, {}, f"{D}: image",
     "NaN or infinity in 1 samples, first in sample 3", "np.isfinite(array)"),
    ("infinity", {"image": with_nan(0, np.inf)}, {}, f"{D}: image",
     "NaN or infinity in 1 samples, first in sample 0", "np.isfinite(array)"),
    ("no labels", {"image": images()}, {"metric_name": "top1"}, "--metric",
     'has no "labels" array', "np.savez(path, ..., labels=labels)"),
    ("float labels", {"image": images(), "labels": np.zeros(6)}, {"metric_name": "top1"},
     f"{D}: labels", "dtype float64; top1 needs integers", "labels.astype(np.int64)"),
    ("text labels", {"image": images(), "labels": ["cat"] * 6}, {"metric_name": "top5"},
     f"{D}: labels", "dtype str; top5 needs integers", "save each label's class number"),
    ("one-hot labels", {"image": images(), "labels": np.zeros((6, 3), int)},
     {"metric_name": "top1"}, f"{D}: labels", "3 values per sample; top1 needs one",
     "labels.argmax(axis=1)"),
    ("labels from 1", {"image": images(), "labels": [1, 2, 3, 1, 2, 3]}, {}, f"{D}: labels",
     "labels 1..3; expected 0..2, the model's 3 classes", "labels - 1"),
    ("labels too high", {"image": images(), "labels": [0, 1, 9, 1, 2, 3]}, {}, f"{D}: labels",
     "labels 0..9; expected 0..2", "in the order of the model's output"),
    ("negative labels", {"image": images(), "labels": [0, 1, -1, 1, 2, 0]},
     {"classes": "c"}, f"{D}: labels", "labels -1..2; expected 0 and up", "class numbers"),
    ("labels of another size", {"image": images(), "labels": np.zeros((6, 2))}, {},
     f"{D}: labels", "2 values per sample; the output logits: float32[n, 3] has 3",
     "save labels of the output's shape"),
    ("nan labels", {"image": images(), "labels": np.full((6, 3), np.nan)}, {}, f"{D}: labels",
     "NaN or infinity, first in sample 0", "np.isfinite(labels)"),
    ("unknown metric", GOOD, {"metric_name": "top2"}, "--metric", 'no metric "top2"',
     "did you mean"),
    ("unknown output", GOOD, {"metric_name": "top1@logit"}, "--metric",
     'the model has no output "logit"', 'did you mean "logits"?'),
    ("metric without classes", {"image": images(), "labels": [0] * 6},
     {"metric_name": "top1", "classes": 1}, "--metric",
     "top1 needs class scores [batch, classes]; the output is logits: float32[n, 1]",
     "another metric"),
    ("batch over the fixed one", {"image": images()}, {"batch": 8, "model_batch": 2}, "batch",
     "8 samples asked for; the model's is fixed at 2: image: float32[2, 4]", "use a batch of 2"),
    ("batch without an axis", {"image": np.ones((3, 2, 4), np.float32)},
     {"batch": 4, "model_batch": 2}, "batch",
     "4 samples asked for, but the input image has no batch axis", "use a batch of 1"),
    ("no batch", GOOD, {"batch": 0}, "batch", "0; expected 1 or more", ""),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_DATA, ids=[case[0] for case in BAD_DATA])
def test_refuses_what_does_not_fit(
    tmp_path: Path, case: tuple[str, dict[str, Any], dict[str, Any], str, str, str]
) -> None:
    _, arrays, arguments, where, what, fix = case
    more = dict(arguments)
    shapes = {"classes": more.pop("classes", 3), "batch": more.pop("model_batch", "n")}
    if shapes["classes"] == 1:
        node = helper.make_node("ReduceMax", ["image"], ["logits"], axes=[1], keepdims=1)
        made = model_of([node], [value("image", ["n", 4])], [value("logits", ["n", 1])])
        model = save(tmp_path / "m.onnx", made)
    else:
        model = classifier(tmp_path / "m.onnx", **shapes)
    data = npz(tmp_path / "d.npz", **arrays)
    found = [p for p in refused(lambda: check(model, data, **more)) if p.where == where]
    assert len(found) == 1
    assert what in found[0].what
    assert fix in (found[0].fix or "")


def two_inputs(path: Path, **dims: Any) -> str:
    """ids [n, seq] and mask [n, seq] -> y [n, seq]."""
    shapes = {"ids": ["n", "seq"], "mask": ["n", "seq"], **dims}
    nodes = [helper.make_node("Add", ["ids", "mask"], ["y"])]
    inputs = [value(name, shape) for name, shape in shapes.items()]
    return save(path, model_of(nodes, inputs, [value("y", [None, None])]))


def test_a_symbolic_dimension_has_one_size_per_shard(tmp_path: Path) -> None:
    model = two_inputs(tmp_path / "m.onnx")
    (tmp_path / "d").mkdir()
    npz(tmp_path / "d" / "a.npz", ids=images(2, 4), mask=images(2, 4))
    npz(tmp_path / "d" / "b.npz", ids=images(2, 8), mask=images(2, 8))
    assert check(model, str(tmp_path / "d")).metric == "agreement"
    npz(tmp_path / "d" / "c.npz", ids=images(2, 8), mask=images(2, 6))
    (problem,) = refused(lambda: check(model, str(tmp_path / "d")))
    assert problem.where == "--data: c.npz: mask"
    assert problem.what == '"seq" is 6 here and 8 in ids; expected one size'


def test_inputs_with_different_fixed_batches(tmp_path: Path) -> None:
    model = two_inputs(tmp_path / "m.onnx", ids=[4, "seq"], mask=[1, "seq"])
    data = npz(tmp_path / "d.npz", ids=images(), mask=images())
    (problem,) = refused(lambda: check(model, data))
    assert problem.where == D
    assert problem.what == "the model's inputs have different fixed batch sizes: ids 4, mask 1"


def test_a_fixed_batch_is_said(tmp_path: Path) -> None:
    model, data = classifier(tmp_path / "m.onnx", batch=4), npz(tmp_path / "d.npz", **GOOD)
    for batch in (1, 4):
        assert check(model, data, batch=batch).warnings == (
            "the model's batch is fixed at 4: 4 samples are fed at a time, the last feed padded",
        )


def test_strings_and_a_model_without_a_batch_axis(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    model = model_of(nodes, [value("x", [2], 8)], [value("y", [2], 8)])
    data = npz(tmp_path / "d.npz", x=np.array([["a", "b"], ["c", "long"]]))
    assert check(save(tmp_path / "m.onnx", model), data).metric == "cosine"


def test_nan_is_found_in_a_later_shard_by_its_number(tmp_path: Path) -> None:
    folder_ = tmp_path / "d"
    folder_.mkdir()
    npz(folder_ / "a.npz", image=images())
    npz(folder_ / "b.npz", image=with_nan(2))
    npz(folder_ / "c.npz", image=with_nan(1))
    (problem,) = refused(lambda: check(classifier(tmp_path / "m.onnx"), str(folder_)))
    assert problem.where == "--data: b.npz: image"
    assert problem.what == "NaN or infinity in 2 samples, first in sample 8"


def test_damage_within_an_array_is_found(tmp_path: Path) -> None:
    data = npz(tmp_path / "d.npz", image=images(500))
    content = bytearray(Path(data).read_bytes())
    content[1000] ^= 0xFF
    Path(data).write_bytes(content)
    (problem,) = refused(lambda: check(classifier(tmp_path / "m.onnx"), data))
    assert problem.where == D
    assert "a damaged .npz: Bad CRC-32" in problem.what


def test_bfloat16_has_no_npz(tmp_path: Path) -> None:
    kind = TensorProto.BFLOAT16
    model = model_of(
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", ["n"], kind)],
        [value("y", ["n"], kind)],
    )
    data = npz(tmp_path / "d.npz", x=np.ones(3, np.float32))
    (problem,) = refused(lambda: check(save(tmp_path / "m.onnx", model), data))
    assert problem.what == "dtype float32; the model's input is x: bfloat16[n]"
    assert problem.fix == "numpy files can't hold bfloat16: export the model with a float32 input"


@pytest.mark.parametrize(
    ("kind", "name"), [(TensorProto.STRING, "str"), (TensorProto.BOOL, "bool")]
)
def test_strings_and_booleans_convert_to_pythons_types(
    tmp_path: Path, kind: int, name: str
) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    model = model_of(nodes, [value("x", ["n"], kind)], [value("y", ["n"], kind)])
    path = save(tmp_path / "m.onnx", model)
    data = npz(tmp_path / "d.npz", x=np.ones(3, np.float32))
    (problem,) = refused(lambda: check(path, data))
    assert problem.fix == f"array.astype({name})"


def test_errors_need_labels_that_are_numbers(tmp_path: Path) -> None:
    data = npz(tmp_path / "d.npz", image=images(), labels=["a"] * 6)
    (problem,) = refused(lambda: check(classifier(tmp_path / "m.onnx"), data, "mse"))
    assert (problem.where, problem.what) == (f"{D}: labels", "dtype str; mse needs numbers")


# calibration


def test_calibration_is_checked_like_data(tmp_path: Path) -> None:
    model, data = classifier(tmp_path / "m.onnx"), npz(tmp_path / "d.npz", **GOOD)
    good = npz(tmp_path / "c.npz", image=images() + 100)  # needs no labels
    checked = check(model, data, calibration_source=good)
    assert checked.calibration is not None
    assert checked.calibration.samples == 6
    bad = npz(tmp_path / "c.npz", image=images().astype(np.int32))
    (problem,) = refused(lambda: check(model, data, calibration_source=bad))
    assert problem.where == "--calibration: c.npz: image"


def test_shapes_of_all_samples_are_counted_from_the_headers(tmp_path: Path) -> None:
    model = open_model(tmp_path / "m.onnx")
    folder = tmp_path / "shards"
    folder.mkdir()
    for number, (count, width) in enumerate([(3, 4), (2, 9), (4, 4)]):
        npz(folder / f"{number}.npz", image=images(count, width) + number * 1000)
    own = npz(tmp_path / "c.npz", image=images(5, 9) + 9000)
    seen = check(model, str(folder), calibration_source=own).shapes
    assert {each.shapes: each.count for each in seen} == {
        (("image", (4,)),): 7,
        (("image", (9,)),): 7,
    }
    assert check(model, None).shapes == ()


def open_model(path: Path) -> str:
    shape = [value("image", ["n", "width"])], [value("y", ["n", "width"])]
    return save(path, model_of([helper.make_node("Relu", ["image"], ["y"])], *shape))


@pytest.mark.parametrize("how", ["itself", "a copy", "compressed", "a part"])
def test_calibration_must_not_be_the_data(tmp_path: Path, how: str) -> None:
    model, data = classifier(tmp_path / "m.onnx"), npz(tmp_path / "d.npz", **GOOD)
    other = tmp_path / "c.npz"
    if how == "itself":
        other = Path(data)
    elif how == "a copy":
        other.write_bytes(Path(data).read_bytes())
    elif how == "compressed":
        np.savez_compressed(other, image=GOOD["image"], labels=GOOD["labels"])
    else:
        npz(other, image=images()[1:3])
    (problem,) = refused(lambda: check(model, data, calibration_source=str(other)))
    assert problem.where == "--calibration"
    if how in ("itself", "a copy"):
        assert problem.what == f"the same content as --data, {data}"
    else:
        assert problem.what.endswith(f"are also validation samples, in {data}")


def test_calibration_samples_that_validate_are_left_out(tmp_path: Path) -> None:
    model, data = classifier(tmp_path / "m.onnx"), npz(tmp_path / "d.npz", **GOOD)
    both = npz(tmp_path / "c.npz", image=np.concatenate([images()[:2], images() + 100]))
    checked = check(model, data, calibration_source=both)
    assert checked.excluded == (0, 1)
    assert checked.warnings[0].startswith("2 of 8 calibration samples were left out")
    assert checked.calibration is not None
    samples = Samples(checked.calibration, "all", 0, 0, excluded=checked.excluded)
    assert samples.indices() == (2, 3, 4, 5, 6, 7)
    assert samples.key() != Samples(checked.calibration, "all", 0, 0).key()


def test_repeated_samples_calibrate_nothing_and_are_no_error(tmp_path: Path) -> None:
    model = classifier(tmp_path / "m.onnx")
    data = npz(tmp_path / "d.npz", image=np.repeat(images()[:1], 12, axis=0))
    checked = check(model, data, calibration_samples=4)
    assert len(checked.excluded) == 4
    assert any(
        note.startswith("4 of 4 calibration samples were left out") for note in checked.warnings
    )


@given(
    contents=st.lists(st.integers(0, 9), min_size=3, max_size=40),
    wanted=st.integers(1, 20),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=50)
def test_no_content_of_a_split_is_on_both_sides(
    contents: list[int], wanted: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("split")
    model = classifier(folder / "m.onnx")
    rows = np.repeat(np.array(contents, np.float32)[:, np.newaxis], 4, axis=1)
    data = npz(folder / "d.npz", image=rows)
    count = datasets.split_off(wanted, len(contents))
    part = {
        use: Samples(datasets.resolve(data), use, count, seed)
        for use in ("calibration", "validation")
    }
    validating = {contents[each] for each in part["validation"].indices()}
    checked = check(model, data, calibration_samples=wanted, seed=seed)
    kept = replace(part["calibration"], excluded=checked.excluded).indices()
    assert not {contents[each] for each in kept} & validating
    assert {*kept, *checked.excluded} == {*part["calibration"].indices()}
    assert bool(checked.excluded) == any("left out" in note for note in checked.warnings)


# the user's functions, and everything at once


def test_functions_are_spooled_and_keep_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_data_and_metric.py").write_text(
        "import numpy as np\n"
        "def load():\n"
        "    for start in range(3):\n"
        "        yield {'image': np.full((2, 4), start, np.float32)}, [start, start]\n"
        "def calibration():\n"
        "    yield {'image': np.full((2, 4), 9, np.float32)}, None\n"
        "def score(outputs, labels):\n"
        "    return outputs['logits'][:, 0] - labels\n"
    )
    module = "own_data_and_metric"
    model = classifier(tmp_path / "m.onnx")
    arguments = (model, f"{module}:load", f"{module}:score", 1, f"{module}:calibration")
    with pytest.raises(ValueError, match="needs a folder to be spooled into"):
        check(*arguments)
    spool = tmp_path / "spool"
    first, again = (check(*arguments, spool_folder=str(spool)) for _ in range(2))
    assert first.data is not None
    assert again.data is not None
    assert first.calibration is not None
    assert (first.data.source, first.data.samples) == (f"{module}:load", 6)
    assert first.calibration.source == f"{module}:calibration"
    assert first.metric == f"{module}:score"
    assert all(Path(shard.path).is_relative_to(spool) for shard in first.data.shards)
    assert first.data.sha256 == again.data.sha256


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    data = npz(tmp_path / "d.npz", image=images(), labels=[0])
    found = refused(
        lambda: check(str(tmp_path / "m.onnx"), data, "top2", 1, str(tmp_path / "c.npz"))
    )
    assert [problem.where for problem in found] == [
        str(tmp_path / "m.onnx"),
        "--data: d.npz: labels",
        "--calibration",
        "--metric",
    ]
    model = classifier(tmp_path / "m.onnx")
    wrong = with_nan(1).astype(np.float64)[:, :3]
    data = npz(tmp_path / "d.npz", image=wrong, other=images(), labels=np.full(6, 7))
    whats = [problem.what for problem in refused(lambda: check(model, data))]
    assert len(whats) == 5
    for part in ("no such input", "dtype float64", "has the size 3", "first in sample 1", "7..7"):
        assert sum(part in what for what in whats) == 1, part


def test_the_demo_fits() -> None:
    demo = Path(checks.__file__).parent / "demo"
    assert check(str(demo / "digits.onnx"), str(demo / "digits.npz")).metric == "top1"
