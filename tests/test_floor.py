"""The call without the work: same inputs, same outputs, no model between them."""

from __future__ import annotations

import onnx
import pytest
from builders import candidate
from pipeline import run

from harness import rounds
from harness.analysis import analyse
from harness.errors import UnsupportedError
from harness.recommendation import recommend
from harness.report import Report
from harness.report import notes as notes_module
from harness.report.notes import notes
from harness.testing_models import MODELS, model_specs, random_feed
from harness.types import FLOOR
from harness.variants import Recipe, make


@pytest.mark.parametrize("name", MODELS)
def test_the_floor_of_every_signature_has_its_outputs_shapes(tmp_path, name):
    ort = pytest.importorskip("onnxruntime")
    source, out = str(tmp_path / "model.onnx"), str(tmp_path / "floor.onnx")
    onnx.save(MODELS[name](), source)
    try:
        make(Recipe(FLOOR), source, out, None)
    except UnsupportedError as error:
        pytest.skip(str(error))
    inputs, _ = model_specs(source)
    feed = random_feed(inputs, 3, 0)
    shapes = []
    for path in (source, out):
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        whole = {each.name: feed[each.name] for each in session.get_inputs()}
        shapes.append([(r.dtype, r.shape) for r in session.run(None, whole)])
    assert shapes[0] == shapes[1]
    assert len(onnx.load(out).graph.initializer) == 0


def test_an_output_that_depends_on_more_than_shapes_is_refused(tmp_path):
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("NonZero", ["x"], ["y"])
    inputs = [value("x", onnx.TensorProto.FLOAT, ["n"])]
    graph = onnx.helper.make_graph(
        [node], "g", inputs, [value("y", onnx.TensorProto.INT64, [1, "found"])]
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match="axis 1 of the output y"):
        make(Recipe(FLOOR), str(tmp_path / "m.onnx"), str(tmp_path / "f.onnx"), None)


def test_quick_candidates_are_shown_beside_their_call(tmp_path, monkeypatch):
    for module in (rounds, notes_module):  # on a slow host the fake isn't as quick as it should be
        monkeypatch.setattr(module, "CALL_BOUND_NS", 5_000_000)
    results = run(tmp_path, measure={"rounds": 4}, options={"latency_us": ["10"]})
    who = results.run.candidates[0]
    floors = [each for each in results.launches if each.candidate == who.floor.id]
    assert [each.round for each in floors] == [1, 2, 3]  # the first round showed that it is quick
    analysis = analyse(results)
    assert analysis.summary(who.id).floor_ns.value < analysis.summary(who.id).time_ns.value * 1.5
    assert who.floor.id not in {each.candidate.id for each in analysis.summaries}
    report = Report(results, analysis, recommend(analysis))
    assert any("The same call without the work" in each.text for each in notes(report))


def test_slow_candidates_are_not(tmp_path):
    results = run(tmp_path, options={"latency_us": ["400"]})
    assert not [each for each in results.launches if FLOOR in each.candidate]


def test_a_floor_is_known_by_where_it_runs():
    assert candidate("a", threads=2).floor.id == f"a/fp32/{FLOOR}/cpu/threads=2"
