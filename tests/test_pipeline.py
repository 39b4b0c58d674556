"""The whole pipeline through the null backend: every way a runtime can fail becomes a record."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from pipeline import LAB, configure, run

from harness.analysis import analyse
from harness.build import Builder, Made
from harness.cache import Cache
from harness.errors import InputError
from harness.evidence import SPENT
from harness.recommendation import Limits, recommend
from harness.run import resume, sweep
from harness.stats import Verdict
from harness.store import read
from harness.types import Precision, Share, Stage, Status


def outcomes(results, option):
    """Status and stage per value of the option, of each candidate's last record."""
    found = {}
    for record in (*results.accuracies, *results.launches):
        value = dict(
            next(c for c in results.run.candidates if c.id == record.candidate).settings.options
        )[option]
        found.setdefault(value, (record.status, record.stage))
        if not record.ok:
            found[value] = (record.status, record.stage)
    return found


def test_a_sweep_recommends_and_keeps_everything(tmp_path):
    results = run(tmp_path, precisions=["fp32", "int8", "bf16"])
    assert [r.round for r in results.rounds] == [0, 1]
    assert results.end.why == "done"
    assert {b.precision: b.status for b in results.builds} == {"fp32": "ok", "int8": "ok"}
    # each candidate once a round, and the baseline's null control
    assert len(results.launches) == 2 * (2 + 1)
    assert sum(launch.control for launch in results.launches) == 2
    (skip,) = results.run.skips
    assert skip.status is Status.UNSUPPORTED
    assert "bf16" in skip.reason
    for launch in results.launches:
        numbers = results.numbers(launch.durations)
        assert numbers.size == sum(s.iterations for s in launch.slices)
        assert launch.memory.net_bytes >= 0
        assert launch.output_error == 0
        assert launch.open_ns > 0
        assert launch.first_ns > 0
    assert sum(launch.executed is not None for launch in results.launches) == 3
    analysis = analyse(results)
    decision = recommend(analysis)
    assert decision.choice.candidate.id == results.run.baseline
    assert "267 more samples would certify" in decision.unknown[0]  # 32 are too few for 1 %
    loose = recommend(analysis, Limits(max_accuracy_drop=0.2))
    assert loose.unknown == ()


def test_calibration_and_validation_samples_are_disjoint_and_counted(tmp_path):
    results = run(tmp_path, precisions=["fp32", "int8"])
    data = results.run.data
    assert (data.samples, data.calibration_samples, data.validation_samples) == (40, 8, 32)
    assert all(a.samples == 32 for a in results.accuracies)
    int8 = next(b for b in results.builds if b.precision == "int8")
    assert "calibrated on 8 samples" in int8.notes


@pytest.mark.parametrize(
    ("option", "value", "status", "stage"),
    [
        ("crash_at", "run", Status.CRASHED, Stage.OPEN),
        ("crash_at", "open", Status.CRASHED, Stage.OPEN),
        ("fail_at", "run", Status.FAILED, Stage.OPEN),
        ("exception", "memory", Status.OUT_OF_MEMORY, Stage.OPEN),
        ("exception", "unsupported", Status.UNSUPPORTED, Stage.OPEN),
        ("hang_at", "run", Status.TIMEOUT, Stage.OPEN),
        ("nondeterministic", "true", Status.INVALID, Stage.MEASURE),
        ("executed", "bf16", Status.INVALID, Stage.ACCURACY),
        ("executed_device", "gpu:0", Status.INVALID, Stage.ACCURACY),
    ],
)
def test_a_fault_in_a_launch_is_a_record_and_the_sweep_goes_on(
    tmp_path, option, value, status, stage
):
    options = {option: ["false" if option == "nondeterministic" else "", value]}
    if option == "exception":
        options = {"exception": ["runtime", value], "fail_at": ["open"]}
    results = run(tmp_path, options=options, measure={"timeout_s": 8.0})
    found = outcomes(results, option)
    assert found[value] == (status, stage)
    if option != "exception":
        sound = next(v for k, v in found.items() if k != value)
        assert sound == (Status.OK, None)
        assert len(results.rounds) == 2
    (bad,) = (
        summary
        for summary in analyse(results).summaries
        if dict(summary.candidate.settings.options)[option] == value
    )
    assert bad.status is status
    assert bad.reason


@pytest.mark.parametrize(("option", "words"), [("nan", "NaN"), ("constant", "same output for all")])
def test_outputs_that_cannot_be_right_are_invalid(tmp_path, option, words):
    results = run(tmp_path, options={option: ["true"]})
    (judged,) = results.accuracies
    assert judged.status is Status.INVALID
    assert words in judged.reason
    assert not results.launches


def test_the_memory_limit_is_kept(tmp_path):
    options = {"allocate_mb": ["0", "900"]}
    results = run(tmp_path, options=options, measure={"memory_limit": "600MB"})
    found = outcomes(results, "allocate_mb")
    assert found["900"][0] is Status.OUT_OF_MEMORY
    assert found["0"] == (Status.OK, None)


def test_memory_is_net_of_the_imports(tmp_path):
    results = run(tmp_path, options={"allocate_mb": ["0", "64"]})
    net = {
        dict(s.candidate.settings.options)["allocate_mb"]: s.memory_bytes
        for s in analyse(results).summaries
    }
    assert 60 * 2**20 < net["64"] - net["0"] < 70 * 2**20


def test_what_a_runtime_prints_never_reaches_the_answers(tmp_path):
    results = run(tmp_path, options={"print": ['{"answer": "Judged"}\n']})
    assert all(launch.ok for launch in results.launches)


def test_a_known_slowdown_is_found_and_ranked(tmp_path):
    results = run(
        tmp_path,
        options={"latency_us": ["300", "450"]},
        measure={"rounds": 4, "passes": 3, "slice_ms": 20},
    )
    fast, slow = sorted(analyse(results).summaries, key=lambda s: s.time_ns.value)
    assert dict(fast.candidate.settings.options)["latency_us"] == "300"
    assert 1.2 < slow.time_ns.value / fast.time_ns.value < 1.8


def test_throughput_of_threads_queues_and_processes(tmp_path):
    results = run(
        tmp_path,
        objective="throughput",
        options={"queue": ["false", "true"], "latency_us": ["200"]},
        candidates={"streams": [1, 2], "processes": [1, 2], "batch": [1, 4], "threads": [1]},
        measure={"rounds": 1, "slice_ms": 50},
    )
    assert all(launch.ok for launch in results.launches), [x.reason for x in results.launches]
    times = {s.candidate.settings.batch: s for s in analyse(results).summaries}
    assert set(times) == {1, 4}
    for launch in results.launches:
        (slice_,) = launch.slices
        assert slice_.timed == "throughput"
        assert slice_.iterations >= 9
        if "processes" not in launch.candidate:  # of several, only the common stretch counts
            assert slice_.span_ns >= 45_000_000
        assert results.numbers(launch.durations).sum() == slice_.span_ns


def test_a_run_ends_by_itself_only_when_the_report_says_decided(tmp_path):
    results = run(
        tmp_path,
        options={"latency_us": ["200", "203", "206"], "jitter": ["0.05"]},
        measure={"rounds": None, "slice_ms": 5},
    )
    analysis = analyse(results)
    (evidence,) = analysis.comparisons.values()
    assert evidence.rounds in {look.rounds for look in SPENT}
    best = min(analysis.summaries, key=lambda s: s.time_ns.value).candidate.id
    verdicts = {evidence.verdict(name, best) for name in evidence.ids}
    assert results.end.why == "done"
    assert evidence.rounds == SPENT[-1].rounds or Verdict.UNRESOLVED not in verdicts


def test_a_budget_ends_the_run_between_rounds(tmp_path):
    results = run(tmp_path, budget="1s", measure={"rounds": 50})
    assert results.end.why == "budget"
    assert len(results.rounds) < 50


def test_the_budget_is_for_measuring_whatever_the_builds_took(tmp_path):
    results = run(tmp_path, budget="0.1s", measure={"rounds": 50})  # a build alone takes longer
    assert results.end.why == "budget"
    assert results.rounds


def test_without_labels_the_metric_is_agreement(tmp_path):
    config = configure(tmp_path, precisions=["fp32", "int8"])
    with np.load(config.data) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "labels"}
    np.savez(config.data, **arrays)
    results = sweep(config, LAB, Cache(tmp_path / "cache"))
    assert {a.labelled for a in results.accuracies} == {False}
    values = {a.candidate.split("/")[1]: a.value for a in results.accuracies}
    assert values["fp32"] == 1.0
    assert 0.8 < values["int8"] <= 1.0


KILLED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job begins without it
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from pipeline import LAB, configure
from harness.cache import Cache
from harness.run import sweep
folder = Path(sys.argv[1])
measure = {"rounds": 6, "live_memory_fraction": float(sys.argv[3])}
config = configure(folder, measure=measure, precisions=["fp32", "int8"])
sweep(config, LAB, Cache(folder / "cache"), lambda event: print(event.text, flush=True))
"""


def start_and_stop(folder: Path, when: str, number: int, live: float = 0.6) -> Path:
    """Start a sweep in a process of its own, and signal it once it says ``when``.

    when: a text, or the number of launch records that are kept by then.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), str(Path(__file__).parent), str(live)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    records = folder / "results" / "bench"

    def reached(line: str) -> bool:
        if not when.isdigit():
            return when in line
        kept = "".join(path.read_text() for path in records.glob("*.jsonl"))
        return kept.count('"kind":"launch"') >= int(when)

    seen = any(reached(line) for line in child.stdout)
    os.kill(child.pid, number)
    _, errors = child.communicate(timeout=60)
    assert seen, errors
    (path,) = (folder / "results").glob("*/*.jsonl")
    return path


@pytest.mark.parametrize("when", ["null int8", "round 2 of 6", "round 3 of 6"])
def test_a_killed_run_resumes_in_its_file(tmp_path, when):
    path = start_and_stop(tmp_path, when, signal.SIGKILL)
    before = path.read_bytes()
    with path.open("ab") as stream:
        stream.write(b'{"kind": "launch", "torn')
    results = resume(path.stem, str(tmp_path / "results"), LAB, Cache(tmp_path / "cache"))
    whole = before[: before.rfind(b"\n") + 1]
    assert path.read_bytes().startswith(whole)
    launches = [(x.candidate, x.round, x.control) for x in results.launches]
    assert len(launches) == len(set(launches))
    assert len(results.rounds) == 6
    assert len(results.builds) == len({(b.precision, b.recipe) for b in results.builds}) == 2
    assert len(results.accuracies) == 2
    assert results.end.why == "done"
    for launch in results.launches:
        results.numbers(launch.durations)


def test_what_ran_is_said_of_every_candidate_after_a_kill_within_a_round(tmp_path):
    path = start_and_stop(tmp_path, "1", signal.SIGKILL, live=1e-9)  # one launch after another
    assert not read(path).rounds
    assert read(path).launches
    results = resume(path.stem, str(tmp_path / "results"), LAB, Cache(tmp_path / "cache"))
    summaries = analyse(results).summaries
    assert all(summary.deploy_code for summary in summaries)
    assert all(summary.executed for summary in summaries)


def test_workers_die_with_their_parent(tmp_path):
    start_and_stop(tmp_path, "measuring", signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        alive = subprocess.run(
            ["pgrep", "-f", "harness.worker"], capture_output=True, text=True, check=False
        )
        mine = [
            pid
            for pid in alive.stdout.split()
            if f"{tmp_path}" in Path(f"/proc/{pid}/environ").read_bytes().decode(errors="ignore")
        ]
        if not mine:
            return
        time.sleep(0.1)
    pytest.fail(f"workers {mine} outlived their parent")


def test_interrupting_keeps_what_there_is(tmp_path):
    path = start_and_stop(tmp_path, "round 2 of 6", signal.SIGINT)
    results = read(path)
    assert results.end.why == "interrupted"
    assert len(results.rounds) == 1
    assert analyse(results).summaries[0].time_ns is not None


def test_resuming_with_another_model_is_refused(tmp_path):
    results = run(tmp_path)
    data = Path(results.run.data.source)
    with np.load(data) as archive:
        arrays = dict(archive)
    arrays["labels"] = arrays["labels"][::-1].copy()
    np.savez(data, **arrays)
    with pytest.raises(InputError, match="the data changed"):
        resume(results.run.run_id, str(tmp_path / "results"), LAB, Cache(tmp_path / "cache"))


def test_resuming_with_other_code_that_makes_the_engines_is_refused(tmp_path, monkeypatch):
    results = run(tmp_path)
    monkeypatch.setattr("harness.setup.source_sha256", lambda _: "another")
    with pytest.raises(InputError, match="what makes null fp32 source changed since this run"):
        resume(results.run.run_id, str(tmp_path / "results"), LAB, Cache(tmp_path / "cache"))


def test_a_build_that_failed_is_tried_again_and_then_counts(tmp_path, monkeypatch):
    make = Builder.make

    def slow(self, candidate):
        made = make(self, candidate)
        if candidate.precision is Precision.FP32:
            return made
        late = {"status": Status.TIMEOUT, "reason": "killed"}
        return Made(None, made.record.model_copy(update=late))

    with monkeypatch.context() as patch:
        patch.setattr(Builder, "make", slow)
        first = run(tmp_path, precisions=["fp32", "int8"])
    assert [each.status for each in analyse(first).summaries] == [Status.OK, Status.TIMEOUT]
    results = resume(first.run.run_id, str(tmp_path / "results"), LAB, Cache(tmp_path / "cache"))
    assert [each.status for each in analyse(results).summaries] == [Status.OK, Status.OK]
    assert [each.ok for each in results.builds] == [True, False, True]


def test_a_full_disk_ends_the_run_and_loses_nothing(tmp_path, monkeypatch):
    from harness.store import Store

    kept = Store.append
    count = 0

    def append(self, record):
        nonlocal count
        count += 1
        if count == 6:
            real = os.fsync

            def full(_):
                monkeypatch.setattr(os, "fsync", real)
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(os, "fsync", full)
        kept(self, record)

    monkeypatch.setattr(Store, "append", append)
    with pytest.raises(InputError, match="disk is full") as caught:
        run(tmp_path, precisions=["fp32", "int8"])
    assert "sweep --resume" in caught.value.problems[0].fix
    (path,) = (tmp_path / "results").glob("*/*.jsonl")
    assert read(path).end is None
    results = resume(path.stem, str(tmp_path / "results"), LAB, Cache(tmp_path / "cache"))
    assert results.end.why == "done"
    assert len(results.rounds) == 2


def test_only_what_is_calibrated_is_built_again_for_other_calibration_samples(tmp_path):
    wishes = {"precisions": ["fp32", "int8"]}
    first = run(tmp_path, **wishes)
    second = run(tmp_path, **wishes, measure={"calibration_samples": 6})
    assert {(each.precision, each.cached) for each in first.builds} == {
        ("fp32", False),
        ("int8", False),
    }
    assert {(each.precision, each.cached) for each in second.builds} == {
        ("fp32", True),
        ("int8", False),
    }


def test_a_cached_engine_is_used_again_and_a_damaged_one_rebuilt(tmp_path):
    first = run(tmp_path)
    assert not first.builds[0].cached
    assert run(tmp_path).builds[0].cached
    engine = tmp_path / "cache" / "engines" / first.builds[0].engine_key / "files" / "engine.bin"
    engine.write_bytes(engine.read_bytes()[:-1] + b"x")
    third = run(tmp_path)
    assert not third.builds[0].cached
    assert all(launch.ok for launch in third.launches)


def test_a_launch_of_a_fixed_batch_is_compared_on_the_same_samples(tmp_path):
    config = configure(tmp_path)
    model = onnx.load(config.model)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, config.model)
    results = sweep(config, LAB, Cache(tmp_path / "cache"))
    assert results.launches
    assert all(launch.output_error == 0 for launch in results.launches)


def test_an_engine_as_it_is_is_compared_like_the_others(tmp_path):
    first = run(tmp_path, precisions=["fp32", "int8"])
    made = {each.precision: each.engine_key for each in first.builds}
    for name, precision in (("a", "fp32"), ("b", "int8")):
        kept = tmp_path / "cache" / "engines" / made[precision] / "files"
        shutil.copytree(kept, tmp_path / name)
    files = [str(tmp_path / name / "engine.nullengine") for name in "ab"]
    results = run(tmp_path, engines=files)
    own = [each for each in results.run.candidates if each.precision is Precision.AS_IS]
    assert [each.recipe for each in own] == ["a/engine.nullengine", "b/engine.nullengine"]
    summaries = {each.candidate.recipe: each for each in analyse(results).summaries}
    exact, worse = (summaries[each.recipe] for each in own)
    assert exact.accuracy == summaries["source"].accuracy
    assert worse.executed.precisions == (Share("int8", 1),)
    assert all(each.status is Status.OK for each in summaries.values())
    assert all(build.ok and build.size_bytes for build in results.builds)
    assert run(tmp_path, engines=files).builds[-1].cached
    Path(files[1]).with_name("engine.bin").write_bytes(b"another")
    with pytest.raises(InputError, match=r"the engine b/engine\.nullengine changed"):
        resume(results.run.run_id, str(tmp_path / "results"), LAB, Cache(tmp_path / "cache"))


def test_engines_that_no_backend_reads_are_refused_before_anything_runs(tmp_path):
    (tmp_path / "m.engine").write_bytes(b"ftrt")
    wanted = [str(tmp_path / "m.engine"), str(tmp_path / "none.nullengine")]
    with pytest.raises(InputError) as caught:
        run(tmp_path, engines=wanted)
    text = str(caught.value)
    assert "m.engine: none of the chosen backends reads such engines" in text
    assert ".nullengine (null)" in text
    assert "none.nullengine: no such file" in text
    assert not (tmp_path / "results").exists()


def test_engines_take_every_shape_and_batch_that_the_data_feed(tmp_path):
    config = configure(
        tmp_path,
        precisions=["fp32", "int8"],
        objective="throughput",
        candidates={"batch": [8], "threads": [1]},
        measure={"calibration_samples": 4},
    )
    model = onnx.load(config.model)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "width"
    onnx.save(model, config.model)
    folder = tmp_path / "shards"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, (count, width) in enumerate([(11, 32), (9, 40), (2, 16)]):
        features = rng.standard_normal((count, width)).astype(np.float32)
        labels = rng.integers(0, 2, count)
        np.savez(folder / f"{number}.npz", features=features, labels=labels)
    config = config.model_copy(update={"data": str(folder)})
    results = sweep(config, LAB, Cache(tmp_path / "cache"))
    assert results.accuracies
    assert all(each.ok for each in (*results.builds, *results.accuracies, *results.launches))
    engine = tmp_path / "cache" / "engines" / results.builds[0].engine_key
    profiles = json.loads((engine / "files" / "engine.nullengine").read_text())["profiles"]
    own = {"name": "features", "min": [1, 16], "max": [8, 40], "opt": [8, 32]}
    one = {"name": "features", "min": [1, 16], "max": [1, 40], "opt": [1, 32]}
    assert profiles == [[one], [own]]  # the build calibrates on feeds of one sample


def test_every_line_is_versioned_json(tmp_path):
    results = run(tmp_path)
    for line in results.path.read_text().splitlines():
        assert json.loads(line)["schema_version"] == 1
