"""Tails and sustained load through the whole pipeline, on the null backend; void sessions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from builders import NOW, build, candidate, end, head, launch, timed_run, write
from pipeline import LAB, configure, run

from harness.analysis import analyse
from harness.cache import Cache
from harness.gpu import GpuState
from harness.recommendation import Limits, recommend
from harness.record import RoundRecord
from harness.report import Report, render
from harness.run import resume, sweep
from harness.store import read
from harness.types import Candidate, Device, Precision, Probe, Status
from harness.watch import nvidia_gpus

LOOSE = {"max_accuracy_drop": 0.5}
SPEEDS = {"latency_us": ["300", "2400"]}  # however busy the host is


def phases(results, phase):
    return [each for each in results.launches if each.phase == phase]


def test_the_best_are_launched_alone_for_their_tails(tmp_path):
    results = run(tmp_path, measure={"tail_cap_s": 0.2}, options=SPEEDS, constraints=LOOSE)
    alone = phases(results, "tail")
    best = recommend(analyse(results), Limits(max_accuracy_drop=0.5)).choice
    assert {each.candidate for each in alone} == {best.candidate.id}
    assert "latency_us=300" in best.candidate.id
    assert len(alone) == 5
    assert not any(each.interleaved or each.control for each in alone)
    assert all({s.timed for s in each.slices} == {"end-to-end"} for each in alone)
    assert best.launches == 2  # those alone are no evidence for the ranking
    assert best.tail.iterations >= 662
    assert best.tail.missing == 0
    assert best.tail.p99_ns.value > 300_000
    assert [r.phase for r in results.rounds] == ["rounds"] * 2 + ["tail"] * 5


def test_a_short_cap_says_how_many_iterations_are_missing(tmp_path):
    # 5 ms of an engine that takes 120 us are some 40 iterations.
    results = run(tmp_path, measure={"tail_cap_s": 0.005}, constraints=LOOSE)
    tail = recommend(analyse(results), Limits(max_accuracy_drop=0.5)).choice.tail
    assert tail.p99_ns is None
    assert 0 < tail.iterations < 662
    assert tail.missing + tail.iterations == 662
    report = Report(results, a := analyse(results), recommend(a, Limits(max_accuracy_drop=0.5)))
    assert "p99" in render([report], "text", width=140)


def test_a_candidate_that_fails_alone_is_not_recommended(tmp_path):
    # A turn in the rounds is some 40 runs, a launch alone a second: hundreds, on a busy host too.
    results = run(
        tmp_path,
        measure={"tail_cap_s": 1, "slice_ms": 4, "warmup_iterations": 10},
        options={"latency_us": ["1000"], "crash_at": ["run"], "good_runs": ["300"]},
        constraints=LOOSE,
    )
    (crashed,) = [each for each in results.launches if not each.ok]
    assert (crashed.phase, crashed.status) == ("tail", Status.CRASHED)
    assert results.end.why == "done"
    assert len(phases(results, "rounds")) == 4
    assert recommend(analyse(results), Limits(max_accuracy_drop=0.5)).choice is None


def test_sustained_load_is_kept_in_parts_and_reported(tmp_path):
    results = run(tmp_path, sustain="4s", options=SPEEDS, constraints=LOOSE)
    parts = phases(results, "sustain")
    assert len([r for r in results.rounds if r.phase == "sustain"]) == 10
    assert len(parts) == 10 * 3  # both, and the control
    assert len({each.open_ns for each in parts}) == 3  # one process each, all the time
    assert {each.began for each in parts} == {parts[0].round}
    analysis = analyse(results)
    stretch = analysis.sustained
    assert stretch.ranking == "held"
    assert "latency_us=300" in stretch.best
    assert len(stretch.minutes) == 10
    decided = recommend(analysis, Limits(max_accuracy_drop=0.5))
    assert decided.choice.launches == 2
    text = render([Report(results, analysis, decided)], "text", width=140)
    assert "Under load" in text
    assert "the ranking held" in text


def test_a_crash_under_load_is_a_record_and_the_others_go_on(tmp_path):
    results = run(
        tmp_path,
        sustain="8s",
        options={"latency_us": ["1000"], "crash_at": ["run"], "good_runs": ["600", "1000000"]},
        constraints=LOOSE,
    )
    crashed = [each for each in results.launches if each.status is Status.CRASHED]
    assert {each.phase for each in crashed} == {"sustain"}
    assert all("good_runs=600" in each.candidate for each in crashed)
    assert results.end.why == "done"
    assert len([r for r in results.rounds if r.phase == "sustain"]) == 10
    last = [each for each in phases(results, "sustain") if each.round == results.rounds[-1].round]
    assert {"good_runs=1000000" in each.candidate for each in last} == {True}


def test_an_interrupted_stretch_is_measured_again(tmp_path):
    config = configure(tmp_path, sustain="2s", options=SPEEDS, constraints=LOOSE)
    results = sweep(config, LAB, Cache(tmp_path / "cache"))
    lines = results.path.read_bytes().splitlines(keepends=True)
    ends = [n for n, line in enumerate(lines) if b'"kind":"round"' in line and b"sustain" in line]
    results.path.write_bytes(b"".join(lines[: ends[3] + 1]))
    resumed = resume(results.run.run_id, config.out, LAB, Cache(tmp_path / "cache"))
    assert len([r for r in resumed.rounds if r.phase == "sustain"]) == 4 + 10
    assert len(analyse(resumed).sustained.minutes) == 10


# -- void sessions ---------------------------------------------------------------------------------

A, B = candidate("a"), candidate("b", Precision.INT8)


def throttled(results, **changes):
    """The same run with a throttled round."""
    text = results.path.read_text()
    first = next(line for line in text.splitlines() if '"kind":"round"' in line)
    record = RoundRecord.model_validate_json(first).model_copy(update=changes)
    results.path.write_text(text.replace(first, record.model_dump_json()))
    return read(results.path)


def test_a_throttled_session_is_void_and_says_so(tmp_path):
    results = throttled(timed_run(tmp_path, {A: [2e6] * 5, B: [1e6] * 5}), throttled=2)
    analysis = analyse(results)
    assert "throttled for heat 2 times" in analysis.void
    decided = recommend(analysis)
    assert decided.choice is None
    assert decided.runner_up is None
    assert "void" in decided.certainty
    assert "This session is void" in render([Report(results, analysis, decided)], "text", width=120)


def test_throttling_may_be_how_the_device_runs(tmp_path):
    config = {"measure": {"rounds": 5, "allow_throttling": True}}
    run_ = timed_run(tmp_path, {A: [2e6] * 5, B: [1e6] * 5}, config=config)
    results = throttled(run_, throttled=2)
    assert recommend(analyse(results)).choice.candidate == B


def test_a_gpu_with_clocks_held_down_is_void(tmp_path):
    gpus = (GpuState(0, held_down=("heat (software)", "power cap")),)
    results = throttled(timed_run(tmp_path, {A: [2e6] * 5, B: [1e6] * 5}), gpus=gpus)
    assert "(GPU 0: heat (software))" in analyse(results).void


@pytest.mark.parametrize(("off", "void"), [(1.0, False), (1.009, False), (1.05, True)])
def test_equal_engines_that_differ_make_the_session_void(tmp_path, off, void):
    twins = [
        launch(A, number, 2e6 * off * (1 + 0.0005 * (number % 3)), control=True)
        for number in range(5)
    ]
    results = timed_run(tmp_path, {A: [2e6] * 5, B: [1e6] * 5}, more=twins)
    analysis = analyse(results)
    assert bool(analysis.void) is void
    assert (recommend(analysis).choice is None) is void


def test_a_power_cap_alone_is_how_large_gpus_run(tmp_path):
    gpus = (GpuState(0, held_down=("power cap",)),)
    results = throttled(timed_run(tmp_path, {A: [2e6] * 5, B: [1e6] * 5}), gpus=gpus)
    assert analyse(results).void is None


# -- what a review found ---------------------------------------------------------------------------


def test_a_budget_that_ends_the_rounds_spends_the_last_look_whatever_follows(tmp_path):
    results = run(tmp_path, sustain="1s", budget="3s", measure={"rounds": 100}, options=SPEEDS)
    assert results.end.why == "budget"
    assert phases(results, "sustain")
    analysis = analyse(results)
    fast = analysis.summary(next(c.id for c in results.run.candidates if "=300" in c.id))
    assert fast.speedup.high < float("inf")


def test_load_without_a_finished_round_is_no_evidence(tmp_path):
    parts = [launch(A, n, 1e6, phase="sustain", began=0) for n in range(5)]
    ended = [RoundRecord(at=NOW, round=n, phase="sustain", elapsed_s=1) for n in range(5)]
    results = write(tmp_path, [head([A], 1), build(A), *parts, *ended, end("budget")])
    summary = analyse(results).summary(A.id)
    assert (summary.launches, summary.time_ns) == (0, None)
    assert recommend(analyse(results)).choice is None


def test_only_the_gpus_that_are_used_are_watched(monkeypatch):
    setup = SimpleNamespace(
        probes={
            "cuda": Probe("cuda", (), (Device("gpu:1", "NVIDIA H100"),)),
            "arc": Probe("arc", (), (Device("gpu:0", "Intel Arc"),)),
        }
    )
    entrants = [
        SimpleNamespace(candidate=Candidate(backend, Precision.FP32, "source", device), setup=None)
        for backend, device in (("cuda", "gpu:1"), ("arc", "gpu:0"), ("cuda", "cpu"))
    ]
    assert nvidia_gpus(setup, entrants) == {1}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert nvidia_gpus(setup, entrants) == {3}
