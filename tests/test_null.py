"""The fake keeps the contract, and misbehaves exactly as it is told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import null
from backends.null import BACKEND, Behaviour
from harness.backend import BuildRequest, Feed, Queue, Session
from harness.errors import BackendError, OutOfMemoryError, UnsupportedError
from harness.testing import BackendContract, MemoryCalibration, infer, model_specs
from harness.types import Engine, Precision, Settings

SPEC_X = {"name": "x", "dtype": "float32", "shape": ["batch", 4]}
SPEC_Y = {"name": "y", "dtype": "float32", "shape": ["batch", 3]}
FEED = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}


class TestNull(BackendContract):
    backend = BACKEND

    def reference(self, onnx_path: str, feed: Feed) -> dict[str, Any]:
        inputs, outputs = model_specs(onnx_path)
        engine = {
            "inputs": [vars(spec) for spec in inputs],
            "outputs": [vars(spec) for spec in outputs],
            "precision": "fp32",
            "behaviour": {**vars(Behaviour()), "error": 0.0},
        }
        return null.project(engine, feed)


class TestNullQueue(TestNull):
    models = ("two",)

    def settings(self) -> Settings:
        return Settings(threads=1, options=(("queue", "true"),))


class TestNullDevice(TestNull):
    models = ("two",)

    def settings(self) -> Settings:
        options = {"device_clock": "true", "latency_us": "5", "device_mb": "1"}
        return Settings(threads=1, options=tuple(options.items()))


def build(folder: Path, precision: Precision = Precision.FP32, /, **description: Any) -> Engine:
    model = folder / "model.null"
    model.write_text(json.dumps({"inputs": [SPEC_X], "outputs": [SPEC_Y], **description}))
    workdir = folder / str(precision)
    workdir.mkdir()
    recipe = "null-int8" if precision is Precision.INT8 else "source"
    samples = MemoryCalibration([{"x": FEED["x"][:1]}] * 5)
    request = BuildRequest(str(model), precision, recipe, "cpu", samples)
    return BACKEND.build(request, str(workdir))


def opened(engine: Engine, **options: Any) -> Session:
    texts = tuple((name, str(value)) for name, value in options.items())
    return BACKEND.open(engine, "cpu", Settings(options=texts))


def test_outputs_are_the_same_in_every_process_and_session(tmp_path: Path) -> None:
    session = opened(build(tmp_path))
    first = infer(session, FEED)["y"]
    assert first.shape == (2, 3)
    np.testing.assert_array_equal(infer(opened(build_again(tmp_path)), FEED)["y"], first)
    np.testing.assert_allclose(infer(session, {"x": FEED["x"][1:]})["y"][0], first[1], rtol=1e-6)


def build_again(folder: Path) -> Engine:
    (folder / "again").mkdir()
    return build(folder / "again")


def test_every_element_of_an_input_matters(tmp_path: Path) -> None:
    wide = {"name": "x", "dtype": "float32", "shape": ["batch", 3, 50]}
    session = opened(build(tmp_path, inputs=[wide]))
    plain = np.ones((1, 3, 50), np.float32)
    wanted = infer(session, {"x": plain})["y"]
    for index in range(0, 150, 7):
        changed = plain.copy()
        changed.flat[index] += 1
        assert not np.allclose(infer(session, {"x": changed})["y"], wanted)


def test_open_axes_follow_the_input_and_integers_are_served(tmp_path: Path) -> None:
    tokens = {"name": "x", "dtype": "int64", "shape": ["batch", "length"]}
    outputs = [
        {"name": "states", "dtype": "float32", "shape": ["batch", "length", 2]},
        {"name": "label", "dtype": "int64", "shape": ["batch"]},
        {"name": "total", "dtype": "float32", "shape": []},
    ]
    session = opened(build(tmp_path, inputs=[tokens], outputs=outputs))
    got = infer(session, {"x": np.arange(10).reshape(2, 5)})
    assert {name: (value.shape, str(value.dtype)) for name, value in got.items()} == {
        "states": ((2, 5, 2), "float32"),
        "label": ((2,), "int64"),
        "total": ((), "float32"),
    }


def test_precisions_differ_by_their_error(tmp_path: Path) -> None:
    exact = infer(opened(build(tmp_path)), FEED)["y"]
    engine = build(tmp_path, Precision.INT8)
    assert engine.notes == ("calibrated on 5 samples",)
    distances = [
        float(np.linalg.norm(infer(opened(engine, **options), FEED)["y"] - exact))
        for options in ({"error": 0}, {}, {"error": 0.5})
    ]
    assert distances[0] == 0
    assert 0 < distances[1] < distances[2]


def test_int8_without_calibration_is_refused(tmp_path: Path) -> None:
    build(tmp_path)
    request = BuildRequest(str(tmp_path / "model.null"), Precision.INT8, "null-int8", "cpu")
    with pytest.raises(BackendError, match="calibration"):
        BACKEND.build(request, str(tmp_path))


def test_behaviour_is_scripted_per_precision(tmp_path: Path) -> None:
    script: Mapping[str, Any] = {
        "behaviour": {"constant": True},
        "by_precision": {"fp16": {"nan": True}},
    }
    plain = infer(opened(build(tmp_path, **script)), FEED)["y"]
    half = infer(opened(build(tmp_path, Precision.FP16, **script)), FEED)["y"]
    assert np.isfinite(plain).all()
    np.testing.assert_array_equal(plain[0], plain[1])
    assert np.isnan(half).any()


@pytest.mark.parametrize("stage", ["build", "open", "run"])
def test_it_fails_at_the_stage_it_is_told(tmp_path: Path, stage: str) -> None:
    script = {"behaviour": {"fail_at": stage, "exception": "out-of-memory"}}
    reached = []
    with pytest.raises(OutOfMemoryError, match=stage):  # noqa: PT012 - the stage is what counts
        engine = build(tmp_path, **script)
        reached.append("build")
        session = opened(engine)
        reached.append("open")
        infer(session, FEED)
    assert reached == ["build", "open", "run"][: ["build", "open", "run"].index(stage)]


@pytest.mark.parametrize("name", null.EXCEPTIONS)
def test_it_raises_the_exception_it_is_told(tmp_path: Path, name: str) -> None:
    engine = build(tmp_path)
    with pytest.raises(null.EXCEPTIONS[name]):
        opened(engine, fail_at="open", exception=name)


def test_a_crash_is_a_signal(tmp_path: Path) -> None:
    engine = build(tmp_path)
    code = (
        "import resource, sys; from backends.null import BACKEND;"
        "from harness.types import Engine, Settings;"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0));"
        "BACKEND.open(Engine(sys.argv[1], (), 0), 'cpu', Settings(options=(('crash_at', 'open'),)))"
    )
    done = subprocess.run([sys.executable, "-c", code, engine.path], check=False)
    assert done.returncode == -signal.SIGSEGV


def test_it_is_busy_for_its_latency_and_hangs_when_told(tmp_path: Path) -> None:
    engine = build(tmp_path)

    def duration_s(**options: Any) -> float:
        session = opened(engine, **options)
        session.bind(FEED)
        start = time.perf_counter()
        session.run()
        return time.perf_counter() - start

    assert duration_s(latency_us=20_000) >= 0.02
    assert duration_s(hang_at="run", hang_s=0.02) >= 0.02


def test_jitter_is_the_same_in_every_session(tmp_path: Path) -> None:
    engine = build(tmp_path)

    def latencies_s(jitter: float) -> list[float]:
        session = opened(engine, latency_us=100, jitter=jitter)
        assert isinstance(session, null.NullSession)
        return [session._latency_s() for _ in range(5)]

    assert latencies_s(0.0) == [1e-4] * 5
    assert len(set(latencies_s(0.3))) == 5
    assert latencies_s(0.3) == latencies_s(0.3)


def test_memory_is_really_held_until_close(tmp_path: Path) -> None:
    def resident_mb() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096 / null.MEBIBYTE

    engine = build(tmp_path)
    before = resident_mb()
    session = opened(engine, allocate_mb=64)
    assert resident_mb() - before > 48
    session.close()
    assert resident_mb() - before < 48


def test_outputs_go_wrong_as_told(tmp_path: Path) -> None:
    engine = build(tmp_path)
    right = infer(opened(engine), FEED)["y"]
    assert not np.allclose(infer(opened(engine, wrong_output=True), FEED)["y"], right, rtol=0.1)
    session = opened(engine, nondeterministic="true")
    assert not np.array_equal(infer(session, FEED)["y"], infer(session, FEED)["y"])


def test_executed_can_be_another_precision_or_device_or_unknown(tmp_path: Path) -> None:
    engine = build(tmp_path, Precision.INT8)
    honest = opened(engine).executed
    replaced = opened(engine, executed="fp32", executed_device="gpu:0").executed
    assert honest is not None
    assert honest.share("int8") == 1
    assert replaced is not None
    assert replaced.share("int8") == 0
    assert replaced.devices[0].name == "gpu:0"
    assert opened(engine, executed="none").executed is None


def test_noise_goes_to_the_file_descriptor(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    session = opened(build(tmp_path), print="noise\n")
    infer(session, FEED)
    assert capfd.readouterr().out == "noise\n" * 2


def test_a_queue_is_there_only_when_asked_for(tmp_path: Path) -> None:
    engine = build(tmp_path)
    assert not isinstance(opened(engine), Queue)
    queue = opened(engine, queue=1)
    assert isinstance(queue, Queue)
    queue.bind_slots(FEED, 2)
    queue.start(1)
    queue.start(0)
    assert [queue.wait_any(), queue.wait_any()] == [1, 0]
    with pytest.raises(BackendError, match="no slot"):
        queue.wait_any()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"latency": 5}, "latency"),
        ({"latency_us": "soon"}, "latency_us"),
        ({"allocate_mb": 1.5}, "allocate_mb"),
        ({"latency_us": True}, "latency_us"),
        ({"nan": "perhaps"}, "nan"),
        ({"nan": 1}, "nan"),
        ({"fail_at": "lunch"}, "fail_at"),
        ({"exception": "KeyboardInterrupt"}, "exception"),
    ],
)
def test_a_behaviour_that_means_nothing_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(BackendError, match=named):
        Behaviour().but(changes)


def test_behaviours_are_typed_from_text() -> None:
    behaviour = Behaviour().but(
        {"latency_us": "5", "nan": "TRUE", "allocate_mb": "3", "print": "x"}
    )
    assert behaviour == Behaviour(latency_us=5.0, nan=True, allocate_mb=3, print="x")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"inputs": [{"name": "x"}], "outputs": []}', '{"inputs": 1}']
)
def test_a_malformed_description_is_refused(tmp_path: Path, text: str) -> None:
    model = tmp_path / "model.null"
    model.write_text(text)
    with pytest.raises(BackendError, match=r"model\.null"):
        BACKEND.build(BuildRequest(str(model), Precision.FP32, "source", "cpu"), str(tmp_path))


def test_an_unknown_key_of_a_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="behavior"):
        build(tmp_path, behavior={})


def test_other_files_and_offers_are_unsupported(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"TFL3")
    request = BuildRequest(str(tmp_path / "model.tflite"), Precision.FP32, "source", "cpu")
    with pytest.raises(UnsupportedError, match=r"model\.tflite"):
        BACKEND.build(request, str(tmp_path))
    build(tmp_path)
    request = BuildRequest(str(tmp_path / "model.null"), Precision.FP32, "qdq", "cpu")
    with pytest.raises(UnsupportedError, match="qdq"):
        BACKEND.build(request, str(tmp_path))


def test_running_out_of_order_is_refused(tmp_path: Path) -> None:
    session = opened(build(tmp_path))
    with pytest.raises(BackendError, match="bound"):
        session.run()
    session.bind(FEED)
    with pytest.raises(BackendError, match="run"):
        session.fetch()
