"""TensorRT's sessions on fakes of the driver and of TensorRT's runtime."""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
import threading
from pathlib import Path

import fake_cuda
import fake_pycuda
import fake_trt
import numpy as np
import pytest
from fake_cuda import CUresult, FakeGpu
from fake_trt import COMPUTE_NS, SCRATCH_BYTES, WEIGHTS_BYTES, Plan
from onnx import TensorProto, helper, numpy_helper

from backends import enginefile
from backends.trt import TensorRt, cuda
from backends.trt.about import About
from backends.trt.deploy import script
from backends.trt.library import find
from backends.trt.session import opened, parse
from harness.backend import BuildRequest, DeviceMemory, DeviceTimed, Offer, Queue
from harness.errors import (
    BackendError,
    OutOfMemoryError,
    UnavailableError,
    UnsupportedError,
)
from harness.testing import BackendContract, infer
from harness.types import Engine, Precision, Settings, Share, TensorSpec
from harness.worker import SLOT_ROUNDS

DIM = 4
PROFILE = {"x": [[1, DIM], [2, DIM], [8, DIM]]}
LARGE = {"x": [[4, DIM], [32, DIM], [64, DIM]]}


@pytest.fixture
def library(driver, monkeypatch):
    fake_trt.install(monkeypatch, fake_trt.tensorrt(driver))
    return find("tensorrt")


def linear():
    """``y = x @ w``: float32 [batch, 4] -> [batch, 3]."""
    weights = np.arange(12, dtype=np.float32).reshape(DIM, 3)
    return model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", DIM])],
        [("y", TensorProto.FLOAT, ["batch", 3])],
        {"w": weights},
    )


def model(nodes, inputs, outputs, weights=None):
    values = [
        [helper.make_tensor_value_info(*each) for each in ports] for ports in (inputs, outputs)
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "tiny", *values, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.fixture
def open_plan(library, tmp_path):
    """A function that opens a plan; all of it is closed in the end."""
    made = []

    def open_(plan=None, onnx=None, about=None, settings=None, device="gpu:0", library=library):
        path = tmp_path / f"{len(made)}.engine"
        (plan or Plan(profiles=(PROFILE,))).write(path, onnx or linear())
        session = opened(library, about or About(), str(path), device, settings or Settings())
        made.append(session)
        return session

    yield open_
    for session in made:
        session.close()


def feed(batch=2, seed=0):
    return {"x": np.random.default_rng(seed).normal(size=(batch, DIM)).astype(np.float32)}


def right(feeds):
    return feeds["x"] @ np.arange(12, dtype=np.float32).reshape(DIM, 3)


def assert_right(session, feeds):
    np.testing.assert_allclose(infer(session, feeds)["y"], right(feeds), rtol=1e-5)


def test_an_engine_is_opened_on_the_gpu_that_was_asked_for(open_plan, driver):
    driver.gpus = [FakeGpu("A", (8, 6), 24 << 30), FakeGpu("B", (8, 9), 24 << 30)]
    plan = Plan(profiles=(PROFILE,), capability="8.9")
    session = open_plan(plan, device="gpu:1")
    assert_right(session, feed())
    assert session.executed.devices[0].name == "gpu:1"
    assert driver.retained == {1: 1}
    with pytest.raises(UnsupportedError, match="incompatible device"):
        open_plan(plan, device="gpu:0")


# -- inferences -------------------------------------------------------------------------------


def test_outputs_follow_the_feed_through_growing_and_shrinking_shapes(open_plan):
    session = open_plan()
    for seed, batch in enumerate((1, 8, 2, 2, 2, 5, 1)):
        assert_right(session, feed(batch, seed))


def test_a_second_feed_does_not_overwrite_the_first_on_its_way(open_plan, driver):
    session = open_plan()
    session.bind(feed(seed=1))
    assert driver.calls[-1] == "cuMemcpyHtoDAsync"
    session.bind(feed(seed=2))
    session.run()
    np.testing.assert_allclose(session.fetch()["y"], right(feed(seed=2)), rtol=1e-5)


def test_an_inference_waits_once(open_plan, driver):
    session = open_plan()
    infer(session, feed())
    del driver.calls[:]
    infer(session, feed(seed=1))
    assert [name for name in driver.calls if name != "cuGetErrorString"] == [
        "cuMemcpyHtoDAsync",
        "cuStreamBeginCapture",
        "cuStreamEndCapture",
        "cuGraphInstantiate",
        "cuGraphDestroy",
        "cuGraphLaunch",
        "cuMemcpyDtoHAsync",
        "cuStreamSynchronize",
    ]
    del driver.calls[:]
    infer(session, feed(seed=2))
    assert driver.calls == [
        "cuMemcpyHtoDAsync",
        "cuGraphLaunch",
        "cuMemcpyDtoHAsync",
        "cuStreamSynchronize",
    ]


def test_same_shapes_allocate_nothing(open_plan, driver):
    session = open_plan()
    infer(session, feed(8))
    infer(session, feed(3))
    del driver.calls[:]
    for batch in (1, 8, 4):
        infer(session, feed(batch))
    assert not {"cuMemAlloc", "cuMemAllocHost", "cuMemFree"} & set(driver.calls)


def test_fetched_arrays_stay_readable_when_the_session_is_closed(open_plan, driver):
    session = open_plan()
    session.bind(feed())
    session.run()
    kept = session.fetch()["y"]
    session.close()
    np.testing.assert_allclose(kept, right(feed()), rtol=1e-5)
    assert driver.leaks() == {"pinned": 1, "contexts": 1}


def test_nothing_bound_and_closed_are_said(open_plan):
    session = open_plan()
    for action in (session.run, session.fetch, session.run_timed):
        with pytest.raises(RuntimeError, match="nothing is bound"):
            action()
    session.close()
    session.close()
    for action in (session.run, session.fetch, lambda: session.bind(feed())):
        with pytest.raises(RuntimeError, match="closed"):
            action()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "the feed lacks the input x: float32"),
        ({**feed(), "z": np.zeros(1)}, "no input 'z'"),
        ({"x": feed()["x"].astype(np.float64)}, "x: .* was given float64"),
        ({"x": feed()["x"].tolist()}, "x: .* was given list"),
        ({"x": np.zeros((2, 5), np.float32)}, r"x: .* was given the shape \[2, 5\]"),
        ({"x": np.zeros(DIM, np.float32)}, r"x: .* was given the shape \[4\]"),
        (feed(9), "x was given 9x4, its profiles take 1x4 to 8x4"),
    ],
)
def test_a_wrong_feed_is_refused_and_leaves_nothing_bound(open_plan, wrong, says):
    session = open_plan()
    infer(session, feed())
    with pytest.raises(UnsupportedError, match=says):
        session.bind(wrong)
    with pytest.raises(RuntimeError, match="nothing is bound"):
        session.run()
    assert_right(session, feed())


def test_scalars_truths_and_nothing_are_fed(open_plan):
    nodes = [
        helper.make_node("Where", ["yes", "x", "s"], ["picked"]),
        helper.make_node("Concat", ["picked", "none"], ["y"], axis=0),
    ]
    onnx = model(
        nodes,
        [
            ("yes", TensorProto.BOOL, []),
            ("x", TensorProto.INT64, [2]),
            ("s", TensorProto.INT64, []),
            ("none", TensorProto.INT64, [0]),
        ],
        [("y", TensorProto.INT64, [2])],
    )
    session = open_plan(Plan(), onnx)
    assert session.inputs[0] == TensorSpec("yes", "bool", ())
    for truth, wanted in ((True, [1, 2]), (False, [7, 7])):
        feeds = {
            "yes": np.array(truth),
            "x": np.array([1, 2]),
            "s": np.array(7),
            "none": np.zeros(0, np.int64),
        }
        assert infer(session, feeds)["y"].tolist() == wanted


def test_a_model_without_open_axes_needs_no_profile(open_plan):
    onnx = model(
        [helper.make_node("Neg", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [2])],
        [("y", TensorProto.FLOAT, [2])],
    )
    session = open_plan(Plan(), onnx)
    assert infer(session, {"x": np.float32([1, 2])})["y"].tolist() == [-1, -2]


def test_the_names_of_open_axes_come_from_the_build(open_plan):
    about = About(inputs=(TensorSpec("x", "float32", ("batch", DIM)),))
    session = open_plan(about=about)
    assert session.inputs == (TensorSpec("x", "float32", ("batch", DIM)),)
    assert session.outputs == (TensorSpec("y", "float32", (None, 3)),)


# -- profiles ---------------------------------------------------------------------------------


def test_the_profile_that_is_tuned_nearest_is_chosen(open_plan):
    session = open_plan(Plan(profiles=(PROFILE, LARGE)))
    for batch, profile in ((1, 0), (32, 1), (7, 0), (8, 0), (4, 0), (60, 1), (2, 0)):
        assert_right(session, feed(batch))
        assert session._lane.context.active_optimization_profile == profile


def test_shapes_outside_every_profile_are_told_with_their_ranges(open_plan):
    session = open_plan(Plan(profiles=(PROFILE, LARGE)))
    with pytest.raises(UnsupportedError) as caught:
        session.bind(feed(65))
    assert "x was given 65x4, its profiles take 1x4 to 8x4 or 4x4 to 64x4" in str(caught.value)
    assert "[shapes]" in caught.value.fix


def test_inputs_that_fit_only_apart_are_told_together(open_plan):
    onnx = model(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [(name, TensorProto.FLOAT, ["n"]) for name in "ab"],
        [("y", TensorProto.FLOAT, ["n"])],
    )
    profiles = tuple({name: [[n], [n], [n]] for name in "ab"} for n in (1, 2))
    session = open_plan(Plan(profiles=profiles), onnx)
    with pytest.raises(UnsupportedError, match=r"a was given 1, .*; b was given 2"):
        session.bind({"a": np.zeros(1, np.float32), "b": np.zeros(2, np.float32)})


# -- graphs -----------------------------------------------------------------------------------


def launched(driver):
    return driver.calls.count("cuGraphLaunch")


def test_a_graph_is_captured_at_the_second_inference_and_again_for_new_shapes(open_plan, driver):
    session = open_plan()
    for batch, graphs in ((2, 0), (2, 1), (2, 2), (3, 2), (3, 3), (2, 3), (2, 4)):
        assert_right(session, feed(batch, graphs))
        assert launched(driver) == graphs
    assert driver.calls.count("cuGraphExecDestroy") == 2
    assert "a CUDA graph from the second inference" in session.executed.detail


def test_graphs_can_be_turned_off(open_plan, driver):
    session = open_plan(settings=Settings(options=(("cuda-graph", "off"),)))
    for _ in range(3):
        assert_right(session, feed())
    assert not launched(driver)
    assert session.executed.detail.endswith("no CUDA graph")


@pytest.mark.parametrize("how", ["engine", "driver"])
def test_what_cannot_be_captured_runs_without_and_says_so(open_plan, driver, how):
    session = open_plan(Plan(profiles=(PROFILE,), capturable=how != "engine"))
    if how == "driver":
        driver.fails["cuGraphInstantiate"] = CUresult.CUDA_ERROR_INVALID_VALUE
    for seed in range(4):
        assert_right(session, feed(seed=seed))
    assert driver.calls.count("cuStreamBeginCapture") == 1
    assert not launched(driver)
    assert "no CUDA graph: " in session.executed.detail


def test_an_error_after_a_failed_capture_is_not_mistaken_for_it(open_plan):
    session = open_plan(Plan(profiles=(PROFILE,), capturable=False))
    for _ in range(2):
        assert_right(session, feed())
    session._lane._context.addresses.clear()
    with pytest.raises(BackendError, match="the address of x isn't set"):
        session.run()


# -- outputs of unknown size, and shapes as values ----------------------------------------------


def nonzero():
    return model(
        [
            helper.make_node("NonZero", ["x"], ["rows"]),
            helper.make_node("Transpose", ["rows"], ["found"], perm=[1, 0]),
        ],
        [("x", TensorProto.FLOAT, ["n"])],
        [("found", TensorProto.INT64, ["k", 1])],
    )


def ones(*at: int, size=6):
    value = np.zeros(size, np.float32)
    value[list(at)] = 1
    return {"x": value}


def test_outputs_whose_size_depends_on_the_data_get_memory_when_it_is_known(open_plan, driver):
    plan = Plan(profiles=({"x": [[1], [6], [8]]},), unknown=("found",))
    session = open_plan(plan, nonzero())
    for at in ((1,), (0, 2, 3), (), (5,), (0, 1, 2, 3, 4, 5)):
        assert infer(session, ones(*at))["found"].ravel().tolist() == list(at)
    assert infer(session, ones(7, size=8))["found"].tolist() == [[7]]
    assert not launched(driver)
    assert "the shapes of outputs depend on the data" in session.executed.detail
    assert session.run_timed().compute_ns > 0


def test_no_memory_for_such_an_output_is_out_of_memory(open_plan, driver):
    plan = Plan(profiles=({"x": [[1], [6], [8]]},), unknown=("found",))
    session = open_plan(plan, nonzero())
    session.bind(ones(0, 1))
    driver.fails["cuMemAlloc"] = CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(OutOfMemoryError):
        session.run()
    driver.fails.clear()
    assert infer(session, ones(3))["found"].tolist() == [[3]]
    session._lane._context.addresses.clear()  # what fails now is told as what it is
    with pytest.raises(BackendError, match="the address of x isn't set"):
        session.run()


def test_slots_have_their_own_outputs_of_unknown_size(open_plan):
    plan = Plan(profiles=({"x": [[1], [6], [8]]},), unknown=("found",))
    session = open_plan(plan, nonzero())
    session.bind_slots(ones(1, 4), 2)
    for _ in range(2):
        session.start(0)
        session.start(1)
        assert {session.wait_any(), session.wait_any()} == {0, 1}
    for lane in session._slots:
        assert lane.fetch()["found"].ravel().tolist() == [1, 4]


@pytest.mark.parametrize("how", ["raises", "misses"])
def test_shapes_that_tensorrt_does_not_infer_are_an_error(open_plan, monkeypatch, how):
    session = open_plan()

    def infer_shapes(context):
        if how == "misses":
            return ["x"]
        context.engine.logger.fault("shapes don't match")
        raise RuntimeError("infer_shapes failed")

    monkeypatch.setattr(fake_trt.Context, "infer_shapes", infer_shapes)
    with pytest.raises(BackendError, match=r"shapes don't match|misses the shape of x"):
        session.bind(feed())


def test_tensors_of_shapes_stay_in_the_hosts_memory(open_plan):
    onnx = model(
        [
            helper.make_node("Expand", ["x", "to"], ["y"]),
            helper.make_node("Shape", ["y"], ["shape"]),
        ],
        [("x", TensorProto.FLOAT, [1, 2]), ("to", TensorProto.INT64, [2])],
        [("y", TensorProto.FLOAT, ["n", 2]), ("shape", TensorProto.INT64, [2])],
    )
    session = open_plan(Plan(on_host=("to", "shape")), onnx)
    for rows in (1, 3, 2):
        got = infer(session, {"x": np.float32([[5, 6]]), "to": np.array([rows, 2])})
        assert got["y"].tolist() == [[5, 6]] * rows
        assert got["shape"].tolist() == [rows, 2]


# -- the queue --------------------------------------------------------------------------------


def test_slots_complete_each_with_its_own_memory(open_plan):
    session = open_plan()
    assert isinstance(session, Queue)
    session.bind_slots(feed(3), 3)
    for _ in range(3):
        for slot in range(3):
            session.start(slot)
        assert {session.wait_any() for _ in range(3)} == {0, 1, 2}
    for lane in session._slots:
        np.testing.assert_allclose(lane.fetch()["y"], right(feed(3)), rtol=1e-5)
    assert_right(session, feed(2))
    with pytest.raises(RuntimeError, match="no slot is started"):
        session.wait_any()


@pytest.mark.parametrize(("streams", "used"), [(1, [0, 0, 0, 0]), (3, [0, 1, 2, 0])])
def test_slots_take_turns_in_as_many_streams_as_are_asked(open_plan, streams, used):
    session = open_plan(settings=Settings(streams=streams, in_flight=4))
    session.bind_slots(feed(), 4)
    assert [session._streams.index(lane._stream) for lane in session._slots] == used
    for _ in range(3):
        for slot in range(4):
            session.start(slot)
        assert {session.wait_any() for _ in range(4)} == {0, 1, 2, 3}
    for lane in session._slots:
        np.testing.assert_allclose(lane.fetch()["y"], right(feed()), rtol=1e-5)


def test_the_slot_that_is_done_first_comes_first(open_plan):
    session = open_plan(settings=Settings(streams=2))
    session.bind_slots(feed(), 2)
    session._slots[0]._stream.stalled = True
    session.start(0)
    session.start(1)
    assert session.wait_any() == 1
    session._slots[0]._stream.stalled = False
    assert session.wait_any() == 0


def test_an_inference_of_the_queue_takes_the_input_there_too(open_plan, driver):
    session = open_plan()
    session.bind_slots(feed(), 1)
    for _ in range(2):
        del driver.calls[:]
        session.start(0)
        session.wait_any()
        assert driver.calls.count("cuMemcpyHtoDAsync") == 1
        assert driver.calls.count("cuMemcpyDtoHAsync") == 1


def test_slots_capture_nothing_any_more_after_a_workers_rounds(open_plan, driver):
    session = open_plan(settings=Settings(streams=2))
    session.bind_slots(feed(), 3)
    captures = []
    for _ in range(SLOT_ROUNDS + 2):
        for slot in range(3):
            session.start(slot)
        for _ in range(3):
            session.wait_any()
        captures.append(driver.calls.count("cuStreamBeginCapture"))
    assert captures[SLOT_ROUNDS - 1 :] == [3, 3, 3]


def test_new_slots_wait_for_what_is_under_way(open_plan):
    session = open_plan()
    session.bind_slots(feed(), 2)
    session.start(0)
    session.bind_slots(feed(5), 3)
    for slot in range(3):
        session.start(slot)
    assert {session.wait_any() for _ in range(3)} == {0, 1, 2}
    np.testing.assert_allclose(session._slots[2].fetch()["y"], right(feed(5)), rtol=1e-5)


def test_closing_waits_for_what_is_under_way(open_plan, driver):
    session = open_plan()
    session.bind_slots(feed(), 2)
    session.start(0)
    session.bind(feed())
    session.close()
    assert not driver.sticky
    assert driver.leaks() == {}


# -- timing and memory ------------------------------------------------------------------------


def test_an_inference_is_timed_in_its_parts_by_the_devices_clock(open_plan):
    session = open_plan()
    assert isinstance(session, DeviceTimed)
    session.bind(feed(8))
    for _ in range(3):
        phases = session.run_timed()
        assert phases.h2d_ns == 8 * DIM * 4 * fake_cuda.COPY_NS_PER_BYTE
        assert phases.compute_ns == COMPUTE_NS
        assert phases.d2h_ns == 8 * 3 * 4
        assert phases.enqueue_ns > 0
    np.testing.assert_allclose(session.fetch()["y"], right(feed(8)), rtol=1e-5)


def test_device_memory_is_weights_once_and_the_rest_per_lane(open_plan):
    session = open_plan()
    assert isinstance(session, DeviceMemory)
    session.bind(feed(8))
    ports = 8 * (DIM + 3) * 4
    assert session.device_bytes == WEIGHTS_BYTES + SCRATCH_BYTES + ports
    session.bind_slots(feed(8), 2)
    assert session.device_bytes == WEIGHTS_BYTES + 3 * (SCRATCH_BYTES + ports)


def test_an_old_tensorrt_tells_its_memory_with_the_weights_of_the_build(
    open_plan, driver, monkeypatch
):
    fake_trt.install(monkeypatch, fake_trt.tensorrt(driver, old=True))
    session = open_plan(about=About(weights_bytes=77), library=find("tensorrt"))
    assert session.device_bytes == 77 + SCRATCH_BYTES
    unknown = open_plan(library=find("tensorrt"))
    assert unknown.device_bytes is None


# -- what ran ---------------------------------------------------------------------------------


def test_what_ran_comes_from_the_inspector(open_plan):
    half = {"Name": "t", "Dimensions": [DIM, 3], "Format/Datatype": "Half"}
    layer = {"Name": "m", "LayerType": "gemm", "Inputs": [half], "Outputs": [], "Constants": []}
    session = open_plan(Plan(profiles=(PROFILE,), layers=(layer,)))
    executed = session.executed
    assert executed.precisions == (Share("fp16", 1),)
    assert executed.devices == (Share("gpu:0", 1),)
    assert executed.detail.startswith("engine inspector")


def test_without_details_in_the_engine_the_build_is_asked(open_plan):
    about = About(layers=(Share("int8", 3),), layers_detail="build log: 3 of 5 layers multiply")
    executed = open_plan(Plan(profiles=(PROFILE,), layers=("m",)), about=about).executed
    assert executed.precisions == (Share("int8", 3),)
    assert executed.devices == (Share("gpu:0", 1),)
    unknown = open_plan(Plan(profiles=(PROFILE,))).executed
    assert unknown.precisions == ()
    assert "no details" in unknown.detail


# -- opening ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((("no_such_option", "1"),), "'no_such_option': known are cuda-graph, device-library"),
        ((("cuda-graph", "maybe"),), "cuda-graph = 'maybe': on or off"),
        ((("device-library", "cupy"),), "device-library = 'cupy': cuda or pycuda"),
    ],
)
def test_options_are_refused_by_name(options, says):
    with pytest.raises(UnsupportedError, match=says):
        parse(options)


def test_a_file_that_is_no_engine_is_refused(library, tmp_path):
    path = tmp_path / "x.engine"
    path.write_bytes(b"rubbish")
    with pytest.raises(UnsupportedError, match="magicTag") as caught:
        opened(library, About(), str(path), "gpu:0", Settings())
    assert "build it again" in caught.value.fix


def test_an_engine_for_another_gpu_says_for_which(open_plan, driver):
    about = About(library="tensorrt", version="10.3.0", compute_capability="12.0")
    with pytest.raises(UnsupportedError) as caught:
        open_plan(Plan(capability="12.0"), about=about)
    assert "incompatible device" in str(caught.value)
    assert "made by tensorrt 10.3.0 for compute capability 12.0" in str(caught.value)
    assert caught.value.fix
    assert driver.leaks() == {}


@pytest.mark.parametrize("device", ["gpu:99", "cpu", "gpu:x"])
def test_a_device_that_is_not_there_is_refused(open_plan, device):
    with pytest.raises(UnavailableError, match=device):
        open_plan(device=device)


def test_no_driver_is_told(open_plan, driver):
    driver.fails["cuInit"] = CUresult.CUDA_ERROR_NO_DEVICE
    with pytest.raises(UnavailableError, match="sees no GPU"):
        open_plan()


def test_an_engine_that_does_not_fit_is_out_of_memory(open_plan, driver):
    driver.gpus = [FakeGpu(memory_bytes=SCRATCH_BYTES - 1)]
    with pytest.raises(OutOfMemoryError) as caught:
        open_plan()
    assert caught.value.fix == cuda.SMALLER
    gc.collect()
    assert driver.leaks() == {}


def test_an_engine_that_cannot_be_loaded_for_lack_of_memory_gets_no_advice_for_builds(
    open_plan, monkeypatch
):
    def refused(runtime, _content):
        runtime.logger.fault("[virtualMemoryBuffer.cpp] Error Code 2: OutOfMemory (Requested 9)")

    monkeypatch.setattr(fake_trt.Runtime, "deserialize_cuda_engine", refused)
    with pytest.raises(OutOfMemoryError) as caught:
        open_plan()
    assert caught.value.fix == cuda.SMALLER


def test_inputs_that_do_not_fit_are_out_of_memory_and_leave_nothing_bound(open_plan, driver):
    driver.gpus = [FakeGpu(memory_bytes=SCRATCH_BYTES + 60)]
    session = open_plan()
    assert_right(session, feed(1))
    with pytest.raises(OutOfMemoryError, match="bytes were asked"):
        session.bind(feed(8))
    assert_right(session, feed(1))


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (Plan(profiles=(PROFILE,), kinds=(("y", "BF16"),)), "y is bf16, a type that numpy hasn't"),
        (Plan(profiles=(PROFILE,), formats=(("x", "CHW4"),)), "x has another memory layout"),
    ],
)
def test_what_numpy_has_not_is_refused(open_plan, plan, says):
    with pytest.raises(UnsupportedError, match=says):
        open_plan(plan)


def test_a_fault_of_the_device_is_told_by_cudas_name(open_plan, driver):
    session = open_plan()
    session.bind(feed())
    driver.sticky = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(BackendError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        session.run()
    session.close()


@pytest.mark.parametrize("library_of_device", ["cuda", "pycuda"])
def test_closing_works_on_a_device_that_has_failed(
    open_plan, driver, monkeypatch, library_of_device
):
    fake_pycuda.install(monkeypatch, driver)
    session = open_plan(settings=Settings(options=(("device-library", library_of_device),)))
    for _ in range(2):
        infer(session, feed())
    driver.sticky = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    session.close()
    assert not sum(driver.retained.values())


def test_a_session_can_be_used_in_another_thread_than_it_was_opened_in(open_plan):
    session, got = open_plan(), []
    thread = threading.Thread(target=lambda: got.append(infer(session, feed())["y"]))
    thread.start()
    thread.join()
    np.testing.assert_allclose(got[0], right(feed()), rtol=1e-5)


@pytest.mark.parametrize("wanted", ["on", "off"])
def test_tensorrt_rtx_captures_itself_and_compiles_at_once(open_plan, driver, monkeypatch, wanted):
    fake_trt.install(monkeypatch, fake_trt.tensorrt(driver, rtx=True))
    rtx = find("tensorrt_rtx")
    settings = Settings(options=(("cuda-graph", wanted),))
    session = open_plan(library=rtx, settings=settings)
    for _ in range(3):
        assert_right(session, feed())
    assert not launched(driver)
    config = fake_trt.RtxEngine.config
    assert (
        config.cuda_graph_strategy.name == {"on": "WHOLE_GRAPH_CAPTURE", "off": "DISABLED"}[wanted]
    )
    assert config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
    assert ("by TensorRT-RTX" in session.executed.detail) == (wanted == "on")


def test_pycuda_runs_without_graphs_and_says_so(open_plan, driver, monkeypatch):
    fake_pycuda.install(monkeypatch, driver)
    session = open_plan(settings=Settings(options=(("device-library", "pycuda"),)))
    for seed in range(3):
        assert_right(session, feed(seed=seed))
    assert session.run_timed().compute_ns == COMPUTE_NS
    assert "no CUDA graph: pycuda" in session.executed.detail
    assert not launched(driver)


# -- the script -------------------------------------------------------------------------------


@pytest.fixture
def deployed(driver, monkeypatch, tmp_path):
    """A function that runs the script for a plan, in this process."""
    fake_pycuda.install(monkeypatch, driver)

    def load(plan, onnx, library="tensorrt", options=()):
        fake_trt.install(monkeypatch, fake_trt.tensorrt(driver, rtx=library == "tensorrt_rtx"))
        plan.write(tmp_path / "model.engine", onnx)
        settings = Settings(options=options)
        code = script(About(library=library), str(tmp_path / "model.engine"), "gpu:0", settings)
        namespace = {"__file__": str(tmp_path / "run.py"), "__name__": "deployed"}
        exec(compile(code, "run.py", "exec"), namespace)
        loaded = namespace["load"]()
        return lambda feeds: namespace["infer"](loaded, feeds)

    yield load
    for left in (driver.device, driver.pinned, driver.streams, driver.things, driver.retained):
        left.clear()  # a script ends with its process


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("wanted", ["cuda", "pycuda"])
def test_the_script_serves_changing_shapes(deployed, driver, library, wanted):
    plan = Plan(profiles=(PROFILE, LARGE))
    run = deployed(plan, linear(), library, (("device-library", wanted),))
    for seed, batch in enumerate((2, 2, 2, 40, 8, 8, 1)):
        feeds = feed(batch, seed)
        np.testing.assert_allclose(run(feeds)["y"], right(feeds), rtol=1e-5)
    captured = library == "tensorrt" and wanted == "cuda"
    assert launched(driver) == (3 if captured else 0)
    with pytest.raises(ValueError, match="takes"):
        run(feed(65))
    with pytest.raises(ValueError, match="takes"):
        run({})
    with pytest.raises(TypeError, match="float64"):
        run({"x": np.zeros((1, DIM))})


@pytest.mark.parametrize("there", cuda.NAMES)
def test_the_script_uses_the_device_library_that_is_there(driver, monkeypatch, there):
    fake_pycuda.install(monkeypatch, driver)
    if there == "pycuda":
        monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    text = script(About(), "model.engine", "gpu:0", Settings())
    assert ("from pycuda import driver" in text) == (there == "pycuda")
    assert ("from cuda.bindings import driver" in text) == (there == "cuda")


def test_the_script_does_without_graphs_where_they_are_off_or_fail(deployed, driver):
    for plan, options in (
        (Plan(profiles=(PROFILE,), capturable=False), ()),
        (Plan(profiles=(PROFILE,)), (("cuda-graph", "off"),)),
    ):
        run = deployed(plan, linear(), options=options)
        for seed in range(3):
            np.testing.assert_allclose(run(feed(seed=seed))["y"], right(feed(seed=seed)), rtol=1e-5)
    assert not launched(driver)


def test_the_script_gives_outputs_of_unknown_size_their_memory(deployed):
    run = deployed(Plan(profiles=({"x": [[1], [6], [8]]},), unknown=("found",)), nonzero())
    for at in ((1,), (0, 2, 3), (), (0, 1, 2, 3, 4, 5)):
        assert run(ones(*at))["found"].ravel().tolist() == list(at)


# -- the contract -----------------------------------------------------------------------------


class OnFakes(TensorRt):
    """The backend as it is, but for what builds: engines are ONNX models."""

    capabilities = dataclasses.replace(
        TensorRt.capabilities, offers=(Offer(Precision.FP32, "source"),)
    )

    def build(self, request: BuildRequest, workdir: str) -> Engine:
        import onnx

        source = onnx.load(request.model)
        if not source.graph.node:
            raise UnsupportedError("no model")
        profiles = tuple(
            {each.name: [each.min, each.opt, each.max] for each in ranges}
            for ranges in request.profiles
        )
        path = Path(workdir) / "model.engine"
        Plan(profiles=profiles).write(path, source)
        enginefile.write(About(library="tensorrt", precision=request.precision), path)
        files = ("model.engine", "engine.json")
        size = sum((path.parent / name).stat().st_size for name in files)
        return Engine(str(path), files, size)


SITE = """
import sys, types
import fake_cuda, fake_trt

class Patch:
    setitem = staticmethod(lambda modules, name, value: modules.__setitem__(name, value))

driver = fake_cuda.FakeDriver()
driver.install(Patch)
fake_trt.install(Patch, fake_trt.tensorrt(driver))
"""


class TestContractOnFakes(BackendContract):
    backend = OnFakes()
    devices = ("gpu:0",)

    @pytest.fixture(autouse=True)
    def _fakes(self, monkeypatch, tmp_path, library):
        """For this process, and for those that run the deployed scripts."""
        assert library
        (tmp_path / "sitecustomize.py").write_text(SITE)
        here = str(Path(__file__).parent)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), here)))
