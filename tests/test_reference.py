"""The fp32 that everything is compared with: where it comes from, and who checks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pipeline import LAB, configure

from harness import jobs, judging, reference
from harness.cache import Cache
from harness.datasets import resolve
from harness.errors import UnsupportedError
from harness.measure.accuracy import OutputFile
from harness.reference import AGREES, cross_check
from harness.run import sweep
from harness.setup import Setup
from harness.store import Results
from harness.testing_models import conv_model, embedding_model, mlp_model, model_specs, random_feed
from harness.types import Candidate, Precision, Settings, Status

Array = np.ndarray[Any, Any]

# -- the cross-check -------------------------------------------------------------------------------


def checking(model: Any, folder: Path, off: float = 0.0) -> jobs.CrossCheckJob:
    """What ONNX Runtime says of five samples, off by so much of each value, and a job to check."""
    import onnxruntime

    path = str(folder / "model.onnx")
    onnx.save(model, path)
    inputs, _ = model_specs(model)
    feed = random_feed(inputs, batch=5)
    np.savez(folder / "data.npz", **feed)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, feed), strict=True))
    with OutputFile(str(folder / "kept.zip"), "w") as kept:
        kept.write_samples(0, {name: each * (1 + off) for name, each in outputs.items()}, 5)
    samples = jobs.Samples(resolve(str(folder / "data.npz")), "all", 0, 0)
    return jobs.CrossCheckJob(path, samples, inputs, str(folder / "kept.zip"), None)


def said(job: jobs.CrossCheckJob) -> str:
    """The note for the record, of a child."""
    setup = Setup(
        model=job.model,
        model_sha256="",
        inputs=job.inputs,
        validation=job.samples,
        calibration=None,
        homes={},
        probes={},
        isa=frozenset(),
        timeout_s=60,
    )
    return judging.cross_check(setup, job.model, job.samples, Path(job.kept))


def normalizing_model() -> Any:
    """Batch normalization of an opset whose operator has a mode of training, too."""
    rng = np.random.default_rng(0)
    names = ("scale", "bias", "mean", "var")
    held = [
        numpy_helper.from_array(rng.uniform(0.5, 2.0, 3).astype(np.float32), name) for name in names
    ]
    node = helper.make_node("BatchNormalization", ["x", *names], ["y"], epsilon=0.01)
    shape = ["batch", 3, 4, 4]
    graph = helper.make_graph(
        [node],
        "normalizing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        initializer=held,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=8)


def contributed_model() -> Any:
    """One operator of ONNX Runtime's own domain, which onnx's evaluator doesn't have."""
    node = helper.make_node("QuickGelu", ["x"], ["y"], domain="com.microsoft", alpha=1.7)
    graph = helper.make_graph(
        [node],
        "contributed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("make", [conv_model, mlp_model, embedding_model, normalizing_model])
def test_two_implementations_agree_on_a_sound_model(make, tmp_path):
    found = cross_check(checking(make(), tmp_path))
    assert found.samples == 3
    assert found.agrees
    assert found.worst < AGREES / 10


def test_outputs_that_are_off_are_found(tmp_path):
    found = cross_check(checking(mlp_model(), tmp_path, off=0.01))
    assert not found.agrees
    assert found.worst == pytest.approx(0.01, rel=0.02)


def test_a_large_model_is_not_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "LARGEST_BYTES", 100)
    with pytest.raises(UnsupportedError, match="too large"):
        cross_check(checking(mlp_model(), tmp_path))


@pytest.mark.parametrize(
    ("make", "off", "expected"),
    [
        (mlp_model, 0.0, "agrees with onnx's reference evaluator on 3 samples"),
        (mlp_model, 0.5, "DIFFERS FROM onnx's reference evaluator on 3 samples (largest diff"),
        (contributed_model, 0.0, "was not checked by onnx's reference evaluator: "),
    ],
)
def test_the_note_says_who_agrees(make, off, expected, tmp_path):
    assert said(checking(make(), tmp_path, off)).startswith(expected)


# -- in a sweep ------------------------------------------------------------------------------------


def run(folder: Path, backend: str, cache: Cache) -> Results:
    wishes = {"backends": [backend], "measure": {"rounds": 1}, "candidates": {"threads": [1]}}
    config = configure(folder, **wishes)
    return sweep(config, LAB, cache)


def test_the_reference_comes_first_and_is_kept_from_run_to_run(tmp_path):
    cache = Cache(tmp_path / "cache")
    first = run(tmp_path, "onnxruntime", cache)
    assert first.run.reference is not None
    judged, *others = first.accuracies
    assert judged.candidate == first.run.reference.id
    assert judged.reference is None
    (note,) = judged.notes
    assert note.startswith("agrees with onnx's reference evaluator on 3 samples")
    assert others
    assert {each.reference for each in others} == {judged.candidate}
    assert judged.candidate not in {each.candidate for each in first.launches}  # it isn't timed
    assert judged.candidate not in {each.id for each in first.run.candidates}

    (manifest,) = (tmp_path / "cache" / "references").glob("*/manifest.json")
    manifest.write_text(manifest.read_text().replace("agrees with", "was found to agree with"))
    again, *_ = run(tmp_path, "onnxruntime", cache).accuracies
    (note,) = again.notes
    assert note.startswith("was found to agree with")  # what was kept is what is said
    assert again.value == judged.value
    assert again.at > judged.at


def test_another_backend_alone_is_compared_with_onnx_runtime_too(tmp_path):
    results = run(tmp_path, "openvino", Cache(tmp_path / "cache"))
    assert results.run.reference is not None
    assert results.run.reference.backend == "onnxruntime"
    assert {each.backend for each in results.run.candidates} == {"openvino"}
    first, *others = results.accuracies
    assert first.candidate == results.run.reference.id
    assert [each.candidate for each in others] == [results.run.baseline]
    assert others[0].reference == first.candidate
    assert others[0].agreement is not None
    assert others[0].agreement.cosine_min == pytest.approx(1.0, abs=1e-5)
    assert {each.candidate for each in results.launches} == {results.run.baseline}


def test_the_baseline_stands_in_for_a_reference_that_fails(tmp_path, monkeypatch):
    options = (("graph-optimization", "no such level"),)
    bad = Candidate(
        "onnxruntime", Precision.FP32, "source", "cpu", Settings(threads=1, options=options)
    )
    monkeypatch.setattr("harness.prepare.reference_candidate", lambda *_: bad)
    results = run(tmp_path, "onnxruntime", Cache(tmp_path / "cache"))
    first, second = results.accuracies
    assert first.candidate == bad.id
    assert first.status is not Status.OK
    assert first.reason
    assert second.candidate == results.run.baseline
    assert second.ok
    assert second.reference is None
    assert results.launches


def test_the_null_backend_alone_is_compared_with_its_own_fp32(tmp_path):
    config = configure(tmp_path, precisions=["fp32", "int8"], measure={"rounds": 1})
    results = sweep(config, LAB, Cache(tmp_path / "cache"))
    assert results.run.reference is None
    first, second = results.accuracies
    assert first.candidate == results.run.baseline
    assert first.reference is None
    assert second.reference == first.candidate
