"""Memory, clocks and energy by NVML, against a module that stands in for the driver."""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.gpu import POWER_CAP, cuda_ordinal
from harness.measure import nvml
from harness.measure.energy import Meter, at_rest

MB = 1_000_000


class NVMLError(Exception):
    """What the real module raises for everything."""


def fake_nvml(**changes):
    """``pynvml`` with one GPU, on which this process and another compute."""

    def by_bus_id(bus_id):
        if bus_id != "0000:3B:00.0":
            raise NVMLError("Not Found")
        return "gpu"

    def counter(_):  # 100 W in steps of 5 ms
        return int(time.monotonic() * 200) * 500

    members = {
        "NVML_CLOCK_SM": 1,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByPciBusId": by_bus_id,
        "nvmlDeviceGetComputeRunningProcesses": lambda *_: [
            SimpleNamespace(pid=1, usedGpuMemory=7 * MB),
            SimpleNamespace(pid=os.getpid(), usedGpuMemory=410 * MB),
        ],
        "nvmlDeviceGetClockInfo": lambda *_: 1980,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda *_: 0x04 | 0x40,
        "nvmlDeviceGetTotalEnergyConsumption": counter,
        "nvmlDeviceGetMigMode": lambda *_: [0, 0],
    }
    return SimpleNamespace(**{k: v for k, v in {**members, **changes}.items() if v is not None})


@pytest.fixture
def install(monkeypatch):
    """Puts a fake in the place of the module, and says which GPU CUDA counts first."""

    def installed(bus_id="0000:3B:00.0", **changes):
        monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(**changes))
        monkeypatch.setattr(nvml, "cuda_bus_id", lambda *_: bus_id)

    return installed


def failing(*_: object):
    raise NVMLError("Not Supported")


def test_everything_that_a_gpu_says(install):
    install()
    assert nvml.start()
    gpu = nvml.find(0)
    assert gpu.process_bytes() == 410 * MB
    assert gpu.clock_mhz() == 1980
    assert gpu.held_down() == (POWER_CAP, "heat (hardware)")
    assert gpu.counts_energy()
    assert gpu.energy_mj() > 0


def test_a_gpu_that_says_nothing_gives_none(install):
    names = ("ComputeRunningProcesses", "ClockInfo", "CurrentClocksEventReasons")
    install(
        **{f"nvmlDeviceGet{name}": failing for name in (*names, "TotalEnergyConsumption")},
        nvmlDeviceGetMigMode=failing,
    )
    gpu = nvml.find(0)
    assert (gpu.process_bytes(), gpu.clock_mhz(), gpu.energy_mj()) == (None, None, None)
    assert gpu.held_down() == ()
    assert not gpu.counts_energy()


def test_an_older_module_calls_reasons_throttling(install):
    install(
        nvmlDeviceGetCurrentClocksEventReasons=None,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda *_: 0x08,
    )
    assert nvml.find(0).held_down() == ("hardware slow-down",)


@pytest.mark.parametrize("processes", [[], [SimpleNamespace(pid=1, usedGpuMemory=MB)]])
def test_a_container_hides_which_process_is_ours(install, processes):
    install(nvmlDeviceGetComputeRunningProcesses=lambda *_: processes)
    assert nvml.find(0).process_bytes() is None


def test_a_driver_may_not_tell_a_processs_memory(install):
    own = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)]
    install(nvmlDeviceGetComputeRunningProcesses=lambda *_: own)
    assert nvml.find(0).process_bytes() is None


def test_a_part_of_a_gpu_has_no_counter_of_its_own(install):
    install(nvmlDeviceGetMigMode=lambda *_: [1, 1])
    assert not nvml.find(0).counts_energy()


def test_there_is_no_gpu_without_the_package_the_driver_or_the_device(install, monkeypatch):
    install(nvmlInit=failing)
    assert not nvml.start()
    assert nvml.find(None) is None
    install(bus_id="0000:5E:00.0")  # of a GPU that NVML doesn't list
    assert nvml.find(0) is None
    install(bus_id=None)
    assert nvml.find(0) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert not nvml.start()
    monkeypatch.setattr(nvml, "cuda_bus_id", lambda *_: "0000:3B:00.0")
    assert nvml.find(0) is None


class FakeDriver:
    """``libcuda``, whose functions answer 0 when they went well."""

    def __init__(self, failing=""):
        self._failing = failing

    def __getattr__(self, name):
        def call(*arguments: Any):
            if name == self._failing:
                return 100
            if name == "cuDeviceGet":
                arguments[0]._obj.value = arguments[1]
            if name == "cuDeviceGetPCIBusId":
                text, _, device = arguments
                text.value = f"0000:{device.value:02X}:00.0".encode()
            return 0

        return call


def test_the_driver_says_which_gpu_cuda_means(monkeypatch):
    monkeypatch.setattr(nvml.ctypes, "CDLL", lambda *_: FakeDriver())
    assert nvml.cuda_bus_id(1) == "0000:01:00.0"
    for call in ("cuInit", "cuDeviceGet", "cuDeviceGetPCIBusId"):
        monkeypatch.setattr(nvml.ctypes, "CDLL", lambda *_, call=call: FakeDriver(call))
        assert nvml.cuda_bus_id(0) is None


def test_a_host_without_a_driver_has_no_cuda_device(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(nvml.ctypes, "CDLL", missing)
    assert nvml.cuda_bus_id(0) is None


@pytest.mark.parametrize(
    ("device", "name", "ordinal"),
    [
        ("gpu:1", "NVIDIA H100", 1),
        ("gpu", "NVIDIA RTX 4090", 0),
        ("gpu:0", "Intel(R) Arc(TM)", None),
        ("gpu:0", "AMD Instinct", None),
        ("cpu", "NVIDIA Grace", None),
        ("npu", "", None),
    ],
)
def test_only_nvidia_gpus_have_a_number_in_cuda(device, name, ordinal):
    assert cuda_ordinal(device, name) == ordinal


# -- the meter -------------------------------------------------------------------------------------


@given(
    step_ms=st.integers(5, 100),
    watts=st.integers(20, 900),
    looks=st.lists(st.integers(1, 9), min_size=400, max_size=600),
    start_ms=st.integers(0, 10**6),
)
def test_a_meter_reads_the_mean_power_from_step_to_step(step_ms, watts, looks, start_ms):
    now = start_ms
    meter = Meter(
        counter=lambda: now // step_ms * step_ms * watts,  # W x ms are mJ
        clock=lambda: now * 1_000_000,
    )
    for wait in looks:
        now += wait
        meter.look()
    reading = meter.reading
    late = 9  # a step is seen at the next look
    span_ms = reading.seconds * 1e3
    assert abs(reading.joules * 1e3 - watts * span_ms) <= watts * late
    assert reading.updates <= span_ms / step_ms + 1
    assert reading.updates >= span_ms / max(step_ms, late) - 2


@pytest.mark.parametrize("values", [[], [None] * 4, [5] * 9, [5, 6, 6]])
def test_a_counter_that_hardly_moves_gives_no_reading(values):
    told = iter(values)
    meter = Meter(lambda: next(told, None))
    for _ in values:
        meter.look()
    assert meter.reading is None


def test_a_meter_looks_by_itself_while_work_goes_on(install):
    install()
    gpu = nvml.find(0)
    with Meter(gpu.energy_mj).running() as meter:
        time.sleep(0.3)
    assert meter.reading.updates > 3
    assert meter.reading.joules > 0


def test_a_meter_ends_with_the_work_that_fails():
    meter = Meter(lambda: 1)
    with pytest.raises(ValueError, match="broken"), meter.running():
        raise ValueError("broken")
    assert meter.reading is None


def test_power_at_rest_is_none_where_it_is_not_counted():
    assert at_rest(lambda: None, 0.0, 0.02) is None
