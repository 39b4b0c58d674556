"""Two runs measured again together, on a real runtime and real graph work."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from pipeline import LAB

from harness.cache import Cache
from harness.chains import ROWS, WIDTH, write_chain
from harness.comparison import compare
from harness.config import load_sweep
from harness.errors import InputError
from harness.run import sweep
from harness.side_by_side import FOLDER, measure_again
from harness.stats import Verdict
from harness.store import Results, read

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs onnxruntime"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Runs of a chain of 20 layers, of another one like it, and of one of 30."""
    folder = tmp_path_factory.mktemp("lab")
    rng = np.random.default_rng(0)
    np.savez(folder / "data.npz", x=rng.standard_normal((12, ROWS, WIDTH)).astype(np.float32))
    found = {}
    for name, layers in (("old", 20), ("same", 20), ("longer", 30)):
        write_chain(folder / f"{name}.onnx", layers)
        config = load_sweep(
            None,
            {
                "model": str(folder / f"{name}.onnx"),
                "data": str(folder / "data.npz"),
                "out": str(folder / "results"),
                "backends": ["onnxruntime"],
                "precisions": ["fp32"],
                "candidates": {"threads": [1]},
                "measure": {
                    "rounds": 2,
                    "passes": 2,
                    "slice_ms": 20,
                    "calibration_samples": 4,
                    "tail_cap_s": 0,
                },
            },
        )
        found[name] = sweep(config, LAB, Cache(folder / "cache"))
    return folder, found


def again(lab, base, new):
    folder, runs = lab
    pair = runs[base], runs[new]
    return measure_again(compare(*pair), pair, LAB, Cache(folder / "cache"), budget_s=120)


def test_more_work_is_slower(lab):
    found = again(lab, "old", "longer")
    (change,) = found.changes
    assert change.verdict is Verdict.SLOWER
    assert 1.2 < change.time.value < 1.9
    assert found.interleaved
    assert found.regressed == (change,)


def test_equal_work_is_not(lab):
    found = again(lab, "old", "same")
    (change,) = found.changes
    assert change.verdict in (Verdict.TIED, Verdict.UNRESOLVED)
    assert not found.regressed


def test_the_session_is_kept_like_a_run(lab):
    folder, runs = lab
    again(lab, "old", "longer")
    kept = sorted((folder / "results").rglob(f"{FOLDER}/*longer*.jsonl"))
    session = read(kept[-1])
    assert [each.recipe for each in session.run.candidates] == ["source@base", "source@new"]
    assert session.end.why in ("done", "budget")
    assert len(session.launches) == 3 * len(session.rounds)  # both, and the null control
    assert runs["old"].run.run_id in session.run.run_id


def test_a_runtime_that_changed_since_is_refused(lab):
    folder, runs = lab
    old = runs["old"]
    probes = tuple(replace(each, versions=(("onnxruntime", "0.1"),)) for each in old.run.probes)
    moved = Results(**{**vars(old), "run": old.run.model_copy(update={"probes": probes})})
    pair = moved, runs["same"]
    with pytest.raises(InputError, match="onnxruntime was another version in the base run"):
        measure_again(compare(*pair), pair, LAB, Cache(folder / "cache"))


def test_one_round_is_measured_however_small_the_budget(lab):
    folder, runs = lab
    pair = runs["old"], runs["longer"]
    found = measure_again(compare(*pair), pair, LAB, Cache(folder / "cache"), budget_s=0.001)
    assert found.rounds == 1
    assert found.changes[0].verdict is Verdict.UNRESOLVED


def test_a_model_that_changed_since_is_refused(lab):
    folder, _ = lab
    before = (folder / "longer.onnx").read_bytes()
    try:
        write_chain(folder / "longer.onnx", 21)
        with pytest.raises(InputError, match="the model of the new run has changed"):
            again(lab, "old", "longer")
    finally:
        (folder / "longer.onnx").write_bytes(before)
