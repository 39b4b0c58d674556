"""Models that keep a state: the wires, the steps, and whole sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline import LAB, SMALL

from harness import jobs, metrics, stateful
from harness.cache import Cache
from harness.checks import check
from harness.config import load_sweep
from harness.datasets import CalibrationSet, Dataset, Header, resolve
from harness.errors import InputError, Problem
from harness.run import sweep
from harness.stateful import STEPS, Sequences, StatefulSession, Wire
from harness.store import Results
from harness.testing_models import model_specs, recurrent_model
from harness.types import Executed, TensorSpec
from harness.unrolling import unroll

Array = np.ndarray[Any, Any]
FRAME = TensorSpec("frame", "float32", ("batch", 6))
H_IN = TensorSpec("h_in", "float32", ("batch", 8))
WIRES = (Wire(H_IN, "h_out"),)
SEQUENCES = Sequences((TensorSpec("frame", "float32", ("batch", STEPS, 6)),), WIRES)
STATE = {"h_in": "h_out"}


def evaluate(feed: Mapping[str, Array]) -> dict[str, Array]:
    """The recurrent model in plain numpy."""
    w = {
        each.name: onnx.numpy_helper.to_array(each) for each in recurrent_model().graph.initializer
    }
    frame, h = feed["frame"], feed["h_in"]
    z = 1 / (1 + np.exp(-(frame @ w["wz"] + h @ w["uz"])))
    h = z * h + (1 - z) * np.tanh(frame @ w["wn"] + h @ w["un"])
    return {"h_out": h.astype(np.float32), "scores": (h @ w["wo"]).astype(np.float32)}


def by_hand(frames: Array, start: Array | None = None) -> list[dict[str, Array]]:
    """Outputs of each step of [batch, steps, 6]."""
    h = np.zeros((len(frames), 8), np.float32) if start is None else start
    made = []
    for step in range(frames.shape[1]):
        made.append(evaluate({"frame": frames[:, step], "h_in": h}))
        h = made[-1]["h_out"]
    return made


def frames(samples: int, steps: int = 5, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(samples, steps, 6)).astype(np.float32)


class Recorder:
    """A session of the model that reuses its output buffers, as runtimes do."""

    inputs = (FRAME, H_IN)
    outputs = (TensorSpec("h_out", "float32", ("batch", 8)),)
    executed = Executed((), (), "here")

    def __init__(self) -> None:
        self.fed: list[dict[str, Array]] = []
        self.closed = False
        self._buffers: dict[str, Array] = {}

    def bind(self, feed: Mapping[str, Array]) -> None:
        assert all(array.flags.c_contiguous for array in feed.values())
        self.fed.append({name: array.copy() for name, array in feed.items()})

    def run(self) -> None:
        for name, array in evaluate(self.fed[-1]).items():
            self._buffers.setdefault(name, array.copy())[...] = array

    def fetch(self) -> dict[str, Array]:
        return self._buffers

    def close(self) -> None:
        self.closed = True


def refused(step: Any) -> tuple[Problem, ...]:
    with pytest.raises(InputError) as caught:
        step()
    return caught.value.problems


# the wires


def test_wires_join_inputs_and_outputs() -> None:
    assert stateful.wire(*model_specs(recurrent_model()), STATE) == WIRES


@pytest.mark.parametrize(
    ("state", "wheres", "what"),
    [
        ({"h_im": "h_out"}, ["state.h_im"], 'no input "h_im"'),
        ({"h_in": "h"}, ["state.h_in"], 'no output "h"'),
        ({"no": "none"}, ["state.no", "state.no"], "no input"),
        ({"h_in": "scores"}, ["state.h_in"], "can't be the next step's"),
        ({"h_in": "h_out", "frame": "scores"}, ["state.frame"], "can't be the next step's"),
    ],
)
def test_wires_that_do_not_fit_are_refused(
    state: dict[str, str], wheres: list[str], what: str
) -> None:
    problems = refused(lambda: stateful.wire(*model_specs(recurrent_model()), state))
    assert [problem.where for problem in problems] == wheres
    assert what in problems[0].what


def test_open_axes_fit_anything_and_something_must_be_fed() -> None:
    cache = TensorSpec("past", "float32", ("batch", "past", 4))
    grown = TensorSpec("present", "float32", (1, "past + 1", 4))
    wires = stateful.wire((FRAME, cache), (grown,), {"past": "present"})
    assert wires == (Wire(cache, "present"),)
    (problem,) = refused(lambda: stateful.wire((cache,), (grown,), {"past": "present"}))
    assert problem.where == "state"


def test_arrays_have_a_steps_axis() -> None:
    def table(**shapes: tuple[int, ...]) -> dict[str, Header]:
        return {name: Header(np.dtype("f4"), shape) for name, shape in shapes.items()}

    rate = TensorSpec("rate", "int64", ())
    specs = (FRAME, H_IN, rate)
    held = table(frame=(9, 5, 6), rate=(9, 5))
    found = stateful.fed(specs, WIRES, held, "--data")
    assert [spec.shape for spec in found] == [("batch", STEPS, 6), (STEPS,)]
    assert stateful.steps_of(found, held) == 5
    whole = table(frame=(9, 5, 1, 6), h_in=(9, 8), rate=(9, 5))
    found = stateful.fed(specs, WIRES, whole, "--data")
    assert [spec.shape for spec in found] == [(STEPS, "batch", 6), ("batch", 8), (STEPS,)]
    wrong = table(frame=(9, 6), rate=(9,))
    problems = refused(lambda: stateful.fed(specs, WIRES, wrong, "--data"))
    assert [problem.where for problem in problems] == ["--data: frame", "--data: rate"]
    (problem,) = refused(lambda: stateful.fed((FRAME,), (), table(frame=(9, 0, 6)), "--data"))
    assert problem.what == "sequences without steps"


# the session


@given(batch=st.integers(1, 4), steps=st.integers(1, 6), timed=st.integers(0, 20))
def test_each_bind_is_the_next_step_and_the_first_one_starts_again(
    batch: int, steps: int, timed: int
) -> None:
    recorder = Recorder()
    session = StatefulSession(recorder, SEQUENCES)
    feed = {"frame": frames(batch, steps)}
    expected = by_hand(feed["frame"])
    for number in range(timed):
        session.bind(feed)
        session.run()
        session.run()  # timing the compute alone repeats a step and keeps its state
        outputs = session.fetch()
        for name, array in expected[number % steps].items():
            np.testing.assert_array_equal(outputs[name], array)
    session.reset()
    session.bind(feed)
    assert not recorder.fed[-1]["h_in"].any()
    np.testing.assert_array_equal(recorder.fed[-1]["frame"], feed["frame"][:, 0])


def test_sequences_go_through_from_their_start() -> None:
    recorder = Recorder()
    session = StatefulSession(recorder, SEQUENCES)
    for seed, steps in ((0, 4), (1, 3)):
        feed = {"frame": frames(2, steps, seed)}
        made = session.through(feed)
        assert [list(outputs) for outputs in made] == [["scores", "h_out"]] * steps
        for outputs, expected in zip(made, by_hand(feed["frame"]), strict=True):
            for name, array in expected.items():
                np.testing.assert_array_equal(outputs[name], array)
    assert session.executed == Recorder.executed
    session.close()
    assert recorder.closed


def test_states_start_at_the_datas_or_at_zeros_of_the_right_size() -> None:
    fed = (*SEQUENCES.fed, H_IN)
    start = np.ones((3, 8), np.float32)
    feed = {"frame": frames(3, 2), "h_in": start}
    session = StatefulSession(Recorder(), Sequences(fed, WIRES))
    np.testing.assert_array_equal(
        session.through(feed)[-1]["h_out"], by_hand(feed["frame"], start)[-1]["h_out"]
    )
    layers = TensorSpec("h", "float32", (2, "batch", None, "left"))
    sized = (TensorSpec("x", "float32", ("batch", STEPS, "left")),)
    taken: list[Any] = []
    stateful.through(
        lambda step: taken.append(step["h"].shape) or {"h": step["h"]},  # type: ignore[func-returns-value]
        Sequences(sized, (Wire(layers, "h"),)),
        {"x": np.zeros((3, 1, 7), np.float32)},
    )
    assert taken == [(2, 3, 1, 7)]


def test_axes_without_a_name_have_nothing_to_do_with_each_other() -> None:
    state = TensorSpec("h", "float32", (None, 8, None))
    sized = (TensorSpec("x", "float32", (None, STEPS, None)),)
    taken: list[Any] = []
    stateful.through(
        lambda step: taken.append(step["h"].shape) or {"h": step["h"]},  # type: ignore[func-returns-value]
        Sequences(sized, (Wire(state, "h"),)),
        {"x": np.zeros((3, 1, 40), np.float32)},
    )
    assert taken == [(3, 8, 1)]


# scores


def test_labels_of_steps_score_every_step_and_others_the_last() -> None:
    scores = np.zeros((2, 3, 4), np.float32)
    scores[0, :, 1] = 1
    scores[1, 0, 2] = scores[1, 1, 3] = scores[1, 2, 3] = 1
    outputs = {"scores": scores}
    top1 = metrics.get("top1")
    assert stateful.rows(top1, outputs, np.array([1, 2])).tolist() == [[1.0], [0.0]]
    steps = np.array([[1, 1, 0], [2, 3, 3]])
    np.testing.assert_allclose(stateful.rows(top1, outputs, steps), [[2 / 3], [1.0]])
    agreement = metrics.get("agreement")
    assert stateful.rows(agreement, outputs, outputs).tolist() == [[1.0], [1.0]]
    with pytest.raises(ValueError, match="one label per sequence"):
        stateful.rows(metrics.get("f1"), outputs, steps)


def test_outputs_that_grow_with_the_steps_are_left_out() -> None:
    steps = [{"y": np.full((2, 1), n), "past": np.zeros((2, n))} for n in range(3)]
    joined = stateful.by_sequence(steps)
    assert joined["y"].tolist() == [[[0], [1], [2]]] * 2
    assert list(joined) == ["y"]


# checks


def files(folder: Path, samples: int = 30, steps: int = 5, **more: Array) -> tuple[str, str]:
    folder.mkdir(exist_ok=True)
    onnx.save(recurrent_model(), folder / "model.onnx")
    arrays = {"frame": frames(samples, steps), **more}
    np.savez(folder / "data.npz", **arrays)
    return str(folder / "model.onnx"), str(folder / "data.npz")


def truth(samples: int, steps: int = 5) -> Array:
    """What the fp32 model says at each step: [samples, steps]."""
    made = by_hand(frames(samples, steps))
    return np.stack([outputs["scores"].argmax(axis=1) for outputs in made], axis=1)


def test_sequences_are_checked(tmp_path: Path) -> None:
    checked = check(*files(tmp_path, labels=truth(30)), state=STATE)
    assert checked.metric == "top1"
    assert checked.sequences == SEQUENCES
    assert "all times are per step" in checked.warnings[-2]
    assert checked.warnings[-1].startswith("the metric scores every step")
    checked = check(*files(tmp_path, labels=truth(30)[:, -1]), state=STATE)
    assert checked.warnings[-1].startswith("the metric scores the last step")
    assert check(*files(tmp_path), state=STATE).metric == "agreement"


def test_what_is_wrong_with_sequences_is_said(tmp_path: Path) -> None:
    model, data = files(tmp_path, labels=truth(30) + 4)
    (problem,) = refused(lambda: check(model, data, state=STATE))
    assert problem.what.startswith("labels 4..7")
    (problem,) = refused(lambda: check(model, data, state={"h_in": "h"}))
    assert problem.where == "state.h_in"
    model, data = files(tmp_path, labels=truth(30))
    (problem,) = refused(lambda: check(model, data, "f1", state=STATE))
    assert problem.where == "--metric"
    np.savez(tmp_path / "data.npz", frame=frames(30)[:, 0])
    (problem,) = refused(lambda: check(model, data, state=STATE))
    assert "[samples, steps, ...]" in problem.what
    folder = tmp_path / "shards"
    folder.mkdir()
    for steps in (5, 4):
        np.savez(folder / f"{steps}.npz", frame=frames(9, steps), labels=np.zeros((9, 5), int))
    (problem,) = refused(lambda: check(model, str(folder), state=STATE))
    assert "several lengths: 4, 5" in problem.what


# calibration


def test_calibration_is_of_single_steps_with_their_states(tmp_path: Path) -> None:
    model, data = files(tmp_path, samples=12)

    def job(folder: str, keep: int) -> jobs.UnrollJob:
        chosen = jobs.Samples(resolve(data), "calibration", 4, 0)
        return jobs.UnrollJob(model, chosen, (FRAME, H_IN), WIRES, keep, str(tmp_path / folder))

    every, again, some = unroll(job("a", 99)), unroll(job("b", 99)), unroll(job("c", 7))
    assert (every.samples, some.samples) == (4 * 5, 7)
    assert every.sha256 == again.sha256
    feeds = list(CalibrationSet(every, (FRAME, H_IN), tuple(range(20))).feeds())
    indices = job("a", 0).samples.indices()
    for number, sample in enumerate(indices):
        states = [np.zeros((1, 8)), *(made["h_out"] for made in by_hand(frames(12)[[sample]]))]
        for step in range(5):
            feed = feeds[5 * number + step]
            np.testing.assert_array_equal(feed["frame"], frames(12)[[sample], step])
            np.testing.assert_allclose(feed["h_in"], states[step], atol=1e-5)


def fixed(model: str, batch: int) -> None:
    proto = onnx.load(model)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    onnx.save(proto, model)


def test_calibration_feeds_a_fixed_batch_of_sequences(tmp_path: Path) -> None:
    model, data = files(tmp_path, samples=12)
    fixed(model, 4)
    inputs = tuple(
        TensorSpec(each.name, each.dtype, (4, *each.shape[1:])) for each in (FRAME, H_IN)
    )
    chosen = jobs.Samples(resolve(data), "all", 0, 0)
    wires = (Wire(inputs[1], "h_out"),)
    found = unroll(jobs.UnrollJob(model, chosen, inputs, wires, 20, str(tmp_path / "steps")))
    feeds = list(CalibrationSet(found, inputs, tuple(range(found.samples))).feeds())
    assert len(feeds) == 5  # of 15, with 4 samples each
    for feed in feeds:
        assert [feed[each.name].shape for each in inputs] == [(4, 6), (4, 8)]


# whole sweeps


def run(folder: Path, **wishes: Any) -> Results:
    model, data = files(folder, samples=wishes.pop("samples", 60), labels=wishes.pop("labels"))
    config = {
        "model": model,
        "data": data,
        "out": str(folder / "results"),
        "state": STATE,
        "measure": SMALL,
        **wishes,
    }
    return sweep(load_sweep(None, config), LAB, Cache(folder / "cache"))


def test_a_sweep_times_steps_and_compares_the_first(tmp_path: Path) -> None:
    options = {"null": {"latency_us": ["120"]}}
    results = run(
        tmp_path,
        labels=truth(60),
        backends=["null"],
        precisions=["fp32", "int8"],
        candidates={"options": options},
    )
    assert [record.reason for record in results.launches if not record.ok] == []
    assert results.accuracies
    assert all(record.ok for record in results.accuracies)
    assert all(record.output_error == 0 for record in results.launches)
    assert any("per step" in note for note in results.run.data.notes)
    assert results.run.data.calibration_samples == 8
    codes = [record.deploy_code for record in results.launches if record.deploy_code]
    assert codes
    assert all("STATE = {'h_in': 'h_out'}" in code for code in codes)


def test_a_fixed_batch_of_sequences_is_the_same_in_launches(tmp_path: Path) -> None:
    model, data = files(tmp_path, labels=truth(30))
    fixed(model, 4)
    wishes = {"model": model, "data": data, "out": str(tmp_path / "results"), "state": STATE}
    config = load_sweep(
        None, {**wishes, "backends": ["null"], "precisions": ["fp32"], "measure": SMALL}
    )
    results = sweep(config, LAB, Cache(tmp_path / "cache"))
    assert results.launches
    assert all(record.output_error == 0 for record in results.launches)


def test_throughput_is_refused(tmp_path: Path) -> None:
    problems = refused(
        lambda: run(tmp_path, labels=truth(60), backends=["null"], objective="throughput")
    )
    assert [problem.where for problem in problems] == ["--objective"]


@pytest.mark.slow
def test_real_runtimes_carry_the_state(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        labels=truth(60),
        backends=["onnxruntime", "openvino"],
        precisions=["fp32", "int8"],
        measure={**SMALL, "rounds": 1, "calibration_samples": 20},
    )
    assert [record.reason for record in results.builds if not record.ok] == []
    passed = {record.candidate: record for record in results.accuracies if record.ok}
    assert {each.split("/")[0] for each in passed} == {"onnxruntime", "openvino"}
    for name, record in passed.items():
        assert record.value is not None
        assert record.value > (0.99 if "/fp32/" in name else 0.8), name
        assert record.samples == 40
    assert [record.reason for record in results.launches if not record.ok] == []
    assert Dataset(resolve(results.run.data.source)).ref.samples == 60
