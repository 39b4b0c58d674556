"""The benchmarks' own parts: error rates on made-up hosts, replays; so that they don't rot."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import INT8, candidate, timed_run

from harness.analysis import analyse
from harness.recommendation import Limits, recommend

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
