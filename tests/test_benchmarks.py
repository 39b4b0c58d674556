"""The benchmarks' own parts: error rates on made-up hosts, replays; so that they don't rot."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import INT8, candidate, timed_run

from harness.analysis import analyse
from harness.recommendation import Limits, recommend
from harness.record import Skip
from harness.types import Stage, Status

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def benchmark_of():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("host", ["drifting", "bimodal", "autocorrelated"])
def test_error_rates_on_made_up_hosts(benchmark_of, host):
    validate = benchmark_of("validate")
    seen = validate.rates(validate.HOSTS[host], 400)
    assert seen.false <= 0.05
    assert seen.found >= 0.95
    assert seen.covered >= 0.92
    assert seen.tied >= 0.5


def test_a_replayed_sweep_finds_the_exhaustive_answer_in_less_time(benchmark_of, tmp_path):
    regret = benchmark_of("regret")
    crowd = [candidate("a"), *(candidate(f"b{n}", INT8) for n in range(6))]
    times = {
        who: [1e6 * (2.0 - 0.2 * place) * (1 + 0.001 * (n % 5)) for n in range(20)]
        for place, who in enumerate(crowd)
    }
    config = {"model": "m.onnx", "data": "d.npz", "measure": {"rounds": 20}}
    results = timed_run(tmp_path, times, config=config)
    truth = analyse(results)
    answer = recommend(truth, Limits())
    assert answer.choice.candidate == crowd[-1]
    for seed in range(3):
        session = regret.replay(results, truth, answer, seed)
        assert session.right
        assert session.regret == 0
        assert session.share < 0.4


def test_every_case_has_a_maker(benchmark_of, tmp_path):
    cases = benchmark_of("cases")
    cases.make_digits_throughput(tmp_path)
    assert 'objective = "throughput"' in (tmp_path / "sweep.toml").read_text()
    assert set(cases.CASES) >= {"digits", "filetypes", "ocr", "direction", "detection"}


def test_certificates_are_measured_on_scores_made_up_and_stored(benchmark_of, tmp_path):
    certificates = benchmark_of("certificates")
    case = certificates.rates_of_characters(0.02)
    found = certificates.errors_at_the_boundary(case, 100, 200)
    assert found.certified <= 0.05 < found.t_certified
    decided = certificates.samples_to_decide(certificates.right_or_wrong(0.2, 0.0), 10)
    assert decided.claim == "refused"
    assert decided.fixed < decided.sequential < 200
    base, other = candidate("a"), candidate("b", INT8)
    scores = {base: np.ones(200), other: np.r_[np.zeros(4), np.ones(196)]}
    results = timed_run(tmp_path, {who: [1e6] * 3 for who in scores}, judged=scores)
    (population,) = certificates.populations(results)
    assert population.drop == pytest.approx(0.02)
    assert certificates.errors_at_the_boundary(population, 300, 50).certified <= 0.1


def test_a_solved_head_classifies_what_it_has_not_seen(benchmark_of):
    heads, models = benchmark_of("heads"), benchmark_of("trt_models")
    ort = pytest.importorskip("onnxruntime")
    pixels, labels = heads.digits()
    inputs, count = heads.images(pixels, 32), heads.FITTED_ON
    model = benchmark_of("matrix_models").fitted(models.cnn(), inputs[:count], labels[:count])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"image": inputs[count:]})
    assert (scores.argmax(axis=1) == labels[count:]).mean() > 0.9
    tokens = heads.tokens(pixels)
    assert tokens.max() < models.VOCABULARY
    assert len(np.unique(tokens // 8)) == tokens.shape[1]  # each place has tokens of its own


def test_the_matrix_tells_a_run_by_cells(benchmark_of, tmp_path):
    cells, view = benchmark_of("matrix_cells"), benchmark_of("matrix_view")
    case = benchmark_of("matrix_models").Case("m", "a model", "m.onnx", "d.npz", tmp_path)
    base, worse = candidate("a"), candidate("litert", INT8)
    broken = Skip(
        candidate=candidate("executorch"), status=Status.UNAVAILABLE, reason="no | torch", fix=None
    )
    scores = {base: np.ones(1000), worse: np.r_[np.zeros(50), np.ones(950)]}
    times = {base: [1e6, 1.01e6, 1e6], worse: [5e5, 5e5, 5.1e5]}
    found = list(cells.cells_of("m", timed_run(tmp_path, times, judged=scores, skips=(broken,))))
    assert [view.kind_of(cell) for cell in found] == [
        "runs",
        "runs, less accurate",
        "can't, and says why",
    ]
    assert found[1].drop == pytest.approx(0.05)
    assert found[1].converted  # LiteRT doesn't read ONNX
    text = view.document([case], found)
    assert "503 us, 95.0 % |" in view.overview([case], found)
    assert "| unavailable, see 1 |" in text
    assert "\n1. no \\| torch\n" in text
    view.picture([case], found, tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").stat().st_size > 5_000
    assert [each["backend"] for each in json.loads(view.to_json(found))] == [
        "a",
        "litert",
        "executorch",
    ]


@pytest.mark.parametrize(
    ("status", "stage", "converted", "steps"),
    [
        (Status.UNSUPPORTED, Stage.CONVERT, True, ("no", "not tried", "not tried")),
        (Status.FAILED, Stage.BUILD, True, ("yes", "no", "not tried")),
        (Status.CRASHED, Stage.ACCURACY, False, ("not needed", "yes", "no")),
        (Status.UNAVAILABLE, None, False, ("not tried", "not tried", "not tried")),
    ],
)
def test_a_cell_says_how_far_it_came(benchmark_of, status, stage, converted, steps):
    cells, view = benchmark_of("matrix_cells"), benchmark_of("matrix_view")
    cell = cells.Cell("m", "b", "fp32", "source", status, stage, "why", converted)
    assert view.steps(cell) == steps
    assert view.brief(cell)[0].startswith(str(status))


def test_what_was_built_for_a_device_elsewhere_is_told(benchmark_of):
    cells, view = benchmark_of("matrix_cells"), benchmark_of("matrix_view")
    cell = cells.Cell("m", "b", "fp32", "source", Status.UNAVAILABLE, Stage.OPEN, "no GPU")
    assert view.brief(cell) == ("builds", "unavailable here")
    assert view.steps(cell) == ("not needed", "yes", "no")


def test_the_matrix_goes_on_without_what_is_not_there(benchmark_of, tmp_path, monkeypatch):
    matrix = benchmark_of("matrix")

    def gone(_):
        raise SystemExit("magika is not installed\n    -> pip install magika")

    monkeypatch.setitem(matrix.CASES, "magika", gone)
    assert "magika is not installed" in matrix.made("magika", tmp_path)
    case = benchmark_of("matrix_models").Case("m", "a model", "absent.onnx", "d.npz", tmp_path)
    asked = argparse.Namespace(rounds=1, compute_capability=None)
    found = matrix.cells_for(case, ["onnxruntime", "nobody"], tmp_path, asked)
    assert [(cell.backend, cell.status) for cell in found] == [
        ("onnxruntime", Status.UNSUPPORTED),
        ("nobody", Status.UNAVAILABLE),
    ]
    assert "absent.onnx" in found[0].reason


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "litert"])
def test_overheads_are_of_equal_outputs(benchmark_of, tmp_path, monkeypatch, runtime):
    overhead = benchmark_of("overhead")
    for package in {"litert": ("ai_edge_litert", "onnx2tf")}.get(runtime, (runtime,)):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    monkeypatch.setattr(overhead, "SLICE_NS", 1_000_000)
    x = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    overhead.write_chain(tmp_path / "m.onnx", 2, 4, 32)
    timed = {}
    for what, loops in overhead.both_loops(runtime, tmp_path / "m.onnx", x, tmp_path):
        timed[what] = overhead.alternated(loops, 2)
    assert set(timed) == {"run", "end-to-end"}
    assert all(min(values) > 0 for values in timed.values())
