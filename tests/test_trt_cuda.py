"""The layer over the GPU's memory, streams and clocks, on a fake of the driver."""

from __future__ import annotations

import builtins
import gc
import inspect
import re
import sys
import threading
from typing import Any

import fake_cuda
import fake_pycuda
import numpy as np
import pytest
from fake_cuda import CUresult, FakeDriver, FakeGpu, Op

from backends.trt import cuda
from harness.errors import BackendError, OutOfMemoryError, UnavailableError


@pytest.fixture
def device(driver):
    assert driver.leaks() == {}
    made = cuda.load().open(0)
    yield made
    made.close()


def test_the_gpus_are_listed_with_what_decides_of_engines(driver):
    driver.gpus = [FakeGpu("A", (8, 9), 24 << 30), FakeGpu("B", (12, 0), 32 << 30)]
    assert cuda.gpus() == (
        cuda.Gpu(0, "A", "8.9", 24 << 30),
        cuda.Gpu(1, "B", "12.0", 32 << 30),
    )
    assert cuda.driver_version() == "12.8"


def test_a_host_without_a_driver_is_told_what_to_install():
    pytest.importorskip("cuda.bindings")
    try:
        found: object = cuda.gpus()
    except UnavailableError as error:
        found = error
    if isinstance(found, UnavailableError):
        assert "driver" in str(found)
        assert "nvidia-smi" in found.fix


def test_without_any_library_both_are_named(monkeypatch):
    for name in ("cuda", "cuda.bindings", "cuda.bindings.driver", "pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    real = builtins.__import__

    def absent(name, *arguments: Any, **keywords):
        if name.partition(".")[0] in {"cuda", "pycuda"}:
            raise ModuleNotFoundError(name=name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UnavailableError, match="neither cuda-bindings nor pycuda") as caught:
        cuda.load()
    assert "pip install" in caught.value.fix
    with pytest.raises(UnavailableError, match="pycuda isn't installed"):
        cuda.load("pycuda")


def test_an_unknown_library_is_refused_by_name():
    with pytest.raises(UnavailableError, match="'cupy': known are cuda and pycuda"):
        cuda.load("cupy")


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (CUresult.CUDA_ERROR_NO_DEVICE, UnavailableError, "sees no GPU"),
        (CUresult.CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, UnavailableError, "differ in version"),
        (CUresult.CUDA_ERROR_INVALID_VALUE, BackendError, "cuInit: CUDA_ERROR_INVALID_VALUE"),
    ],
)
def test_a_driver_that_does_not_start_is_told_apart(driver, status, kind, says):
    driver.fails["cuInit"] = status
    with pytest.raises(BackendError, match=says) as caught:
        cuda.load()
    assert type(caught.value) is kind
    if kind is UnavailableError:
        assert caught.value.fix


def test_a_gpu_that_is_not_there_is_refused(driver):
    with pytest.raises(UnavailableError, match="gpu:99"):
        cuda.load().open(99)
    assert driver.leaks() == {}


def test_copies_run_in_order_and_only_in_the_stream(device):
    stream = device.stream()
    there = device.allocate(16)
    source, target = device.pinned(16), device.pinned(16)
    source[:] = np.arange(16)
    device.to_device(there, source, stream)()
    device.to_host(target, there, stream)()
    assert (target == fake_cuda.RUBBISH).all()
    device.synchronize(stream)
    np.testing.assert_array_equal(target, source)


def test_nothing_is_copied_of_nothing_and_has_an_address_still(driver, device):
    stream, there = device.stream(), device.allocate(0)
    nothing = device.pinned(0)
    device.to_device(there, nothing, stream)()
    device.upload(there, nothing)
    device.synchronize(stream)
    assert there
    assert "cuMemcpyHtoDAsync" not in driver.calls


@pytest.mark.parametrize("library", cuda.NAMES)
def test_an_upload_is_complete_when_it_returns(driver, monkeypatch, library):
    fake_pycuda.install(monkeypatch, driver)
    device = cuda.load(library).open(0)
    there = device.allocate(8)
    device.upload(there, np.arange(2, dtype=np.int32))
    assert bytes(driver.bytes_at(there, 8)) == np.arange(2, dtype=np.int32).tobytes()
    device.close()


def test_pinned_memory_lives_as_long_as_its_last_view_even_behind_the_device(driver):
    device = cuda.load().open(0)
    view = device.pinned(64)[8:16].view(np.float32)
    view[:] = 3
    device.close()
    assert driver.leaks() == {"pinned": 1, "contexts": 1}
    assert view.tolist() == [3, 3]
    del view
    gc.collect()
    assert driver.leaks() == {}


def test_close_frees_everything_and_is_safe_twice(driver):
    device = cuda.load().open(0)
    device.allocate(10)
    freed = device.allocate(20)
    stream = device.stream()
    device.event(timed=True)
    device.capture(stream, lambda: driver.queue(int(stream), Op(int)))
    device.free(freed)
    device.close()
    device.close()
    assert driver.leaks() == {}


def test_out_of_memory_says_how_much_was_asked_and_how_much_there_is(device):
    device.allocate(1 << 20)
    with pytest.raises(OutOfMemoryError, match="1073741824 bytes were asked, 1072693248 of") as err:
        device.allocate(1 << 30)
    assert err.value.fix


def test_a_fault_of_the_device_comes_out_at_the_next_wait(driver, device):
    stream = device.stream()
    there, source = device.allocate(8), device.pinned(8)
    copy = device.to_device(there, source, stream)
    copy()
    driver.device.pop(there)
    with pytest.raises(BackendError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        device.synchronize(stream)
    with pytest.raises(BackendError, match="cuMemAlloc: CUDA_ERROR_ILLEGAL_ADDRESS"):
        device.allocate(1)
    device._addresses.clear()
    driver.sticky = CUresult.CUDA_SUCCESS


def test_events_tell_what_lies_between_them(driver, device):
    stream = device.stream()
    first, last = device.event(timed=True), device.event(timed=True)
    device.record(first, stream)
    driver.queue(int(stream), Op(int, 123_000))
    device.record(last, stream)
    assert not device.done(last)  # each question lets the fake do one piece of work
    assert not device.done(last)
    assert device.done(last)
    assert device.elapsed_ns(first, last) == 123_000


def test_a_graph_does_again_what_was_captured(driver, device):
    stream, done = device.stream(), []
    graph = device.capture(stream, lambda: driver.queue(int(stream), Op(lambda: done.append(1))))
    device.synchronize(stream)
    assert done == []
    for _ in range(3):
        device.launch(graph, stream)
    device.synchronize(stream)
    assert done == [1, 1, 1]
    device.destroy(graph)
    assert driver.things == []


@pytest.mark.parametrize("how", ["raises", "breaks"])
def test_a_failed_capture_leaves_the_stream_usable(driver, device, how):
    stream, done = device.stream(), []

    def enqueue():
        if how == "raises":
            raise BackendError("not now")
        driver.streams[0].broken = True

    with pytest.raises(BackendError, match=r"not now|INVALIDATED"):
        device.capture(stream, enqueue)
    driver.queue(int(stream), Op(lambda: done.append(1)))
    device.synchronize(stream)
    assert done == [1]
    assert driver.things == []


def test_each_thread_gets_the_device_made_current_once(driver, device):
    faults = []

    def work():
        try:
            for _ in range(5):
                device.activate()
                device.free(device.allocate(8))
        except BackendError as error:
            faults.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert faults == []
    assert driver.calls.count("cuCtxSetCurrent") == 2


def test_two_devices_in_one_thread_take_turns(driver):
    driver.gpus = [FakeGpu(), FakeGpu()]
    left, right = cuda.load().open(0), cuda.load().open(1)
    for device in (left, right, left):
        device.activate()
        assert int(driver._current.context) == device._number
    left.close()
    right.close()


def test_the_fake_has_the_functions_the_real_driver_has():
    real = pytest.importorskip("cuda.bindings.driver")
    made = FakeDriver().module()
    for name in vars(made):
        if name.startswith("cu"):
            signature = getattr(real, name).__doc__.splitlines()[0]
            wanted = [part for part in re.search(r"\((.*)\)", signature)[1].split(",") if part]
            plain = inspect.signature(getattr(FakeDriver, name))
            assert len(plain.parameters) - 1 == len(wanted), signature
    for kind in (
        "CUresult",
        "CUstream_flags",
        "CUevent_flags",
        "CUstreamCaptureMode",
        "CUdevice_attribute",
    ):
        for member in getattr(made, kind):
            assert getattr(getattr(real, kind), member.name) == member.value
    for name in ("CUdeviceptr", "CUstream", "CUevent", "CUgraphExec", "CUcontext"):
        assert hasattr(real, name)


def test_the_real_functions_take_the_types_that_they_are_given():
    """They convert their arguments before they look for the driver, which has to be missing."""
    real = pytest.importorskip("cuda.bindings.driver")
    try:
        real.cuInit(0)
    except RuntimeError:
        pass
    else:
        pytest.skip("there is a driver, which would act on the addresses")
    number, context, stream = real.CUdevice(0), real.CUcontext(0), real.CUstream(0)
    event, there, host = real.CUevent(0), real.CUdeviceptr(4096), 8192
    graph, launchable = real.CUgraph(0), real.CUgraphExec(0)
    mode = real.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    kind = real.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    given = {
        "cuDeviceGet": (0,),
        "cuDeviceGetName": (256, number),
        "cuDeviceGetAttribute": (kind, number),
        "cuDeviceTotalMem": (number,),
        "cuDevicePrimaryCtxRetain": (number,),
        "cuDevicePrimaryCtxRelease": (number,),
        "cuCtxSetCurrent": (context,),
        "cuMemAlloc": (16,),
        "cuMemFree": (4096,),
        "cuMemAllocHost": (16,),
        "cuMemFreeHost": (host,),
        "cuMemcpyHtoD": (4096, host, 16),
        "cuMemcpyHtoDAsync": (there, host, 16, stream),
        "cuMemcpyDtoHAsync": (host, there, 16, stream),
        "cuStreamCreate": (real.CUstream_flags.CU_STREAM_NON_BLOCKING,),
        "cuStreamDestroy": (stream,),
        "cuStreamSynchronize": (stream,),
        "cuEventCreate": (real.CUevent_flags.CU_EVENT_DISABLE_TIMING,),
        "cuEventDestroy": (event,),
        "cuEventRecord": (event, stream),
        "cuEventQuery": (event,),
        "cuEventElapsedTime": (event, event),
        "cuStreamBeginCapture": (stream, mode),
        "cuStreamEndCapture": (stream,),
        "cuGraphInstantiate": (graph, 0),
        "cuGraphDestroy": (graph,),
        "cuGraphExecDestroy": (launchable,),
        "cuGraphLaunch": (launchable, stream),
    }
    bare = {"cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuMemGetInfo", "cuGetErrorString"}
    bare |= {"cuCtxSynchronize"}
    assert given.keys() | bare == {name for name in dir(FakeDriver) if re.match("cu[A-Z]", name)}
    for name, arguments in given.items():
        with pytest.raises(RuntimeError):
            getattr(real, name)(*arguments)
    for value in (stream, event, there, launchable):
        assert int(value) in {0, 4096}


# -- pycuda -----------------------------------------------------------------------------------


@pytest.fixture
def by_pycuda(driver, monkeypatch):
    return fake_pycuda.install(monkeypatch, driver)


def test_pycuda_does_the_same_but_for_graphs(by_pycuda):
    library = cuda.load("pycuda")
    assert library.driver_version() == "12.8"
    assert library.gpus() == cuda.load("cuda").gpus()
    device = library.open(0)
    stream, there = device.stream(), device.allocate(8)
    marks = [device.event(timed=True) for _ in range(2)]
    source, target = device.pinned(8), device.pinned(8)
    source[:] = 7
    device.record(marks[0], stream)
    device.to_device(there, source, stream)()
    device.to_host(target, there, stream)()
    device.record(marks[1], stream)
    while not device.done(marks[1]):
        pass
    device.synchronize(stream)
    assert target.tolist() == [7] * 8
    assert device.elapsed_ns(*marks) > 0
    device.upload(there, np.zeros(2, np.float32))
    assert device.handle(stream) == int(stream.handle)
    assert not device.captures
    with pytest.raises(BackendError, match="no CUDA graphs"):
        device.capture(stream, int)
    with pytest.raises(BackendError, match="no CUDA graphs"):
        device.launch(None, stream)
    with pytest.raises(OutOfMemoryError):
        device.allocate(1 << 40)
    assert device.memory()[0] < device.memory()[1]
    device.free(there)
    device.allocate(4)
    del stream, marks
    gc.collect()
    device.close()
    device.close()
    assert by_pycuda.Context.stack == []


@pytest.mark.usefixtures("by_pycuda")
def test_pycuda_refuses_a_gpu_that_is_not_there():
    with pytest.raises(UnavailableError, match="gpu:5"):
        cuda.load("pycuda").open(5)


@pytest.mark.usefixtures("by_pycuda")
def test_pycuda_without_a_driver_says_so(driver):
    driver.fails["cuInit"] = CUresult.CUDA_ERROR_NO_DEVICE
    with pytest.raises(UnavailableError, match="no NVIDIA driver"):
        cuda.load("pycuda")
    driver.fails.clear()
