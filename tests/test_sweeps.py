"""Real runtimes end to end on models of every kind of signature."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest
from pipeline import LAB

from harness.analysis import analyse
from harness.cache import Cache
from harness.config import load_sweep
from harness.recommendation import recommend
from harness.run import sweep
from harness.testing_models import MODELS, model_specs, random_feed
from harness.types import Status

INSTALLED = [
    name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name) is not None
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(len(INSTALLED) < 2, reason="needs onnxruntime and openvino"),
]


def write(folder, name, samples=24):
    """The model, and unlabelled samples for all its inputs."""
    path = folder / "model.onnx"
    onnx.save(MODELS[name](), path)
    inputs, _ = model_specs(str(path))
    np.savez(folder / "data.npz", **random_feed(inputs, samples, 0))
    return {"model": str(path), "data": str(folder / "data.npz")}


@pytest.mark.parametrize("name", MODELS)
def test_every_signature_goes_through_both_runtimes(tmp_path, name):
    config = load_sweep(
        None,
        {
            **write(tmp_path, name),
            "out": str(tmp_path / "results"),
            "backends": INSTALLED,
            "measure": {"rounds": 1, "passes": 1, "slice_ms": 10, "calibration_samples": 6},
        },
    )
    results = sweep(config, LAB, Cache(tmp_path / "cache"))
    analysis = analyse(results)
    by_id = {each.candidate.id: each for each in analysis.summaries}
    assert set(by_id) == {c.id for c in results.run.candidates} | {
        s.candidate.id for s in results.run.skips
    }
    fp32 = [each for each in by_id.values() if each.candidate.precision == "fp32"]
    assert {each.candidate.backend for each in fp32} == set(INSTALLED)
    for each in fp32:
        assert each.status is Status.OK, each.reason
        assert each.accuracy == pytest.approx(1.0)  # agreement with the reference
    for each in by_id.values():
        assert each.status is Status.OK or each.reason
        if each.status is Status.OK and each.candidate.precision == "int8":
            assert each.executed.share("int8") > 0
    decision = recommend(analysis)
    assert decision.choice is not None
    assert not any(record.labelled for record in results.accuracies)
    assert np.isfinite(decision.choice.time_ns.value)
