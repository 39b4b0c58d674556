"""Launches on a device with its own clock, memory and meter: from the worker to the report."""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import replace
from itertools import combinations, count

import numpy as np
import pytest
from builders import INT8, NOW, candidate, launch, slices, timed_run
from helpers_report import GPU_CAST, GpuPart, make_run
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.transforms import Bbox
from pipeline import run
from test_nvml import MB, fake_nvml
from test_report_plots import _boxes

from backends.null import BACKEND
from harness import jobs, rounds, runner, wire, worker
from harness.analysis import analyse
from harness.backend import BuildRequest
from harness.datasets import resolve
from harness.measure import nvml
from harness.measure.device import FEWEST_ITERATIONS, Limits, timed_stretch
from harness.measure.energy import Metered
from harness.measure.warmup import Limits as WarmLimits
from harness.measure.warmup import is_level, warm_up
from harness.ondevice import Energy, energy_of, held_down, memory_of, phases_of
from harness.recommendation import BY_PRECISION, recommend
from harness.record import Block, EnergyUse, Memory, PhaseTimes, RoundRecord
from harness.report import Report, render
from harness.report import format as fmt
from harness.report.device_plot import phases as draw_phases
from harness.report.notes import notes
from harness.report.plots import figures
from harness.report.story import story
from harness.report.style import styled
from harness.types import Phases, Precision, Settings, TensorSpec
from harness.worker import Worker

MS = 1_000_000
TIMED = {
    "device_clock": ["true"],
    "h2d_us": ["30"],
    "d2h_us": ["10"],
    "enqueue_us": ["110"],
    "device_mb": ["64"],
}
LOOSE = {"max_accuracy_drop": 0.5}
SHORT = jobs.PhasesJob(warm_ns=0, min_ns=0, min_iterations=12)
NO_RAW = Block(offset=0, count=0, dtype="uint32", crc32=0)


# -- the timed stretch -----------------------------------------------------------------------------


class Timed:
    """A session whose runs take these nanoseconds of a clock of its own."""

    def __init__(self, took_ns):
        self.now = 0
        self._took_ns = took_ns
        self._number = count()

    def run_timed(self):
        self.now += self._took_ns
        return Phases(1, next(self._number), 2, 3)

    def clock(self):
        return self.now


@settings(max_examples=40, deadline=None)  # each collects garbage before it measures
@given(
    took=st.integers(MS, 400 * MS),
    warm=st.integers(0, 300 * MS),
    least=st.integers(1, 200 * MS),
    iterations=st.integers(1, 80),
)
def test_a_stretch_is_as_long_as_it_must_be_and_no_longer(took, warm, least, iterations):
    limits = Limits(warm, least, iterations, max_iterations=100, max_ns=2_000 * MS)
    session = Timed(took)
    found = timed_stretch(session, limits, session.clock)
    number = len(found)
    warmed = -(-warm // took)
    assert [each.compute_ns for each in found] == list(range(warmed, warmed + number))
    assert number <= 100

    def enough(ran):
        long = ran >= iterations and ran * took >= least
        late = ran >= FEWEST_ITERATIONS and ran * took >= 2_000 * MS
        return long or late or ran >= 100

    assert enough(number)
    assert not enough(number - 1) or number == 1


# -- the clock in the warm-up ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("readings", "level"),
    [
        ([], False),
        ([1980, 1980], False),
        ([1980, 1980, 1980], True),
        ([900, 1980, 1965, 1980], True),
        ([1980, 1700, 1980], False),
        ([None], True),
        ([1980, None, 1700], True),  # a GPU that stopped telling doesn't hold anything up
    ],
)
def test_a_clock_is_level_when_its_last_readings_agree(readings, level):
    assert is_level(readings) is level


def test_a_session_is_not_warm_while_the_clock_still_rises():
    clock = iter([600, 900, 1300, 1700, *[1980] * 99])
    steady_ms = warm_up(lambda: MS, WarmLimits())[0]
    taken, steady = warm_up(lambda: MS, WarmLimits(), clock=lambda: next(clock))
    assert steady is True
    assert taken > steady_ms


def test_a_given_count_goes_on_until_the_clock_is_level():
    clock = iter([900, *[1980] * 99])
    assert warm_up(lambda: 10 * MS, WarmLimits(), 7, lambda: next(clock)) == (7 + 3 * 5, None)
    swinging = count(1000, 100)
    limits = WarmLimits(max_ns=900 * MS)
    taken, steady = warm_up(lambda: 10 * MS, limits, 7, lambda: next(swinging))
    assert steady is False
    assert 7 + 80 <= taken <= 7 + 90


# -- the worker ------------------------------------------------------------------------------------


def ask(served, job):
    message = {"job": type(job).__name__, "body": wire.encode(job)}
    answer = json.loads(served.serve(json.dumps(message)))
    return wire.decode(getattr(jobs, answer["answer"]), answer["body"])


@pytest.fixture
def opening(tmp_path):
    """Opens a null engine in this process, on a device as its behaviour says."""
    specs = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["n", 4]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["n", 3]}],
    }
    (tmp_path / "m.null").write_text(json.dumps(specs))
    np.savez(tmp_path / "x.npz", x=np.ones((3, 4), np.float32))
    (tmp_path / "engine").mkdir()
    request = BuildRequest(str(tmp_path / "m.null"), Precision.FP32, "source", "cpu")
    engine = BACKEND.build(request, str(tmp_path / "engine"))

    def opened(gpu=None, **behaviour):
        served = Worker()
        job = jobs.OpenJob(
            jobs.Location("backends.null", "BACKEND"),
            engine,
            "cpu",
            Settings(options=tuple((name, str(value)) for name, value in behaviour.items())),
            jobs.Samples(resolve(str(tmp_path / "x.npz")), "all", 0, seed=0),
            (TensorSpec("x", "float32", ("n", 4)),),
            gpu=gpu,
        )
        return served, ask(served, job)

    return opened


@pytest.fixture
def nvidia(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    monkeypatch.setattr(nvml, "cuda_bus_id", lambda *_: "0000:3B:00.0")
    monkeypatch.setattr(worker, "REST_PAUSE_S", 0.0)


def test_a_worker_times_the_parts_of_an_inference(opening):
    told = {"device_clock": True, "latency_us": 20, "h2d_us": 7, "d2h_us": 3, "enqueue_us": 5}
    served, opened = opening(**told, device_mb=64)
    assert opened.device_timed
    assert not opened.counts_energy
    phased = ask(served, SHORT)
    parts = np.frombuffer(base64.b64decode(phased.numbers), "<u8").reshape(4, -1)
    assert parts.T.tolist() == [[7000, 20_000, 3000, 5000]] * 12
    finished = ask(served, jobs.FinishJob(None, explain=False))
    assert finished.device_bytes == 64 << 20
    assert (finished.device_process_bytes, finished.held_down) == (None, ())


def test_a_worker_without_a_device_refuses_and_goes_on(opening):
    served, opened = opening()
    assert not opened.device_timed
    refused = ask(served, SHORT)
    assert "isn't timed" in refused.reason
    sliced = ask(served, jobs.SliceJob("end-to-end", 0, 3, rest_s=0.0))
    assert (sliced.energy, sliced.rest) == (None, None)
    assert ask(served, jobs.FinishJob(None, explain=False)).device_bytes is None


@pytest.mark.usefixtures("nvidia")
def test_a_worker_on_an_nvidia_gpu_reads_memory_limits_and_energy(opening):
    served, opened = opening(gpu=0, latency_us=50)
    assert opened.counts_energy
    assert not opened.device_timed
    warm = jobs.WarmJob(None, 3, MS, 300, 200 * MS)
    assert ask(served, warm).steady in {True, False}  # a busy host may unsettle it
    sliced = ask(served, jobs.SliceJob("end-to-end", 600 * MS, 3, rest_s=0.3))
    assert sliced.energy.joules > 0
    assert sliced.rest.seconds > 0
    finished = ask(served, jobs.FinishJob(None, explain=False))
    assert finished.device_process_bytes == 410 * MB
    assert finished.held_down == ("power cap", "heat (hardware)")


@pytest.mark.usefixtures("nvidia")
def test_a_device_that_is_no_nvidia_gpu_is_not_looked_up(opening):
    served, opened = opening(gpu=None)
    assert not opened.counts_energy
    assert ask(served, jobs.FinishJob(None, explain=False)).device_process_bytes is None


# -- through the pipeline --------------------------------------------------------------------------


def test_every_ranked_launch_ends_with_a_timed_stretch(tmp_path):
    results = run(tmp_path, options=TIMED)
    ranked = [each for each in results.launches if not each.control]
    assert all(each.phases is not None for each in ranked)
    assert all(each.phases is None for each in results.launches if each.control)
    one = ranked[0].phases
    assert one.h2d_ns == (30_000, 30_000, 30_000)
    raw = results.numbers(one.raw).reshape(4, -1)
    assert raw.shape[1] == one.iterations >= 50
    assert np.unique(raw[3]).tolist() == [110_000]
    summary = analyse(results).summaries[0]
    assert summary.phases.latency_ns == 30_000 + 120_000 + 10_000
    assert summary.phases.launches == len(ranked)
    assert summary.phases.enqueue_bound  # 110 of 120 us
    assert summary.device_memory.bytes == 64 << 20
    assert summary.energy is None
    assert "Bound by the host" in render([report_of(results)], "text", width=120)


def test_a_session_without_a_clock_has_no_parts(tmp_path):
    results = run(tmp_path)
    assert all(each.phases is None for each in results.launches)
    report = report_of(results)
    assert "On the device" not in render([report], "text", width=120)
    assert "device-phases" not in figures(report)


def test_the_best_and_the_baseline_are_metered_once_where_they_run_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "nvidia_place", lambda *_: 0)
    results = run(tmp_path, measure={"tail_cap_s": 0.02}, constraints=LOOSE)
    (metered,) = [each for each in results.launches if each.phase == "energy"]
    assert metered.ok
    assert metered.energy == EnergyUse(source="unavailable")  # no GPU here
    assert metered.slices == ()
    assert [each.phase for each in results.rounds][-1] == "energy"
    summary = analyse(results).summaries[0]
    assert summary.energy == Energy()
    assert summary.launches == 2  # those that are metered are no evidence for the ranking
    assert "unavailable" in render([report_of(results)], "text", width=120)


@pytest.mark.parametrize("why", ["tail_cap_s", "timeout_s"])
def test_metering_never_costs_the_choice(tmp_path, monkeypatch, why):
    monkeypatch.setattr(rounds, "nvidia_place", lambda *_: 0)
    limits = {"tail_cap_s": 0.02, why: {"tail_cap_s": 0, "timeout_s": 14}[why]}
    results = run(tmp_path, measure=limits, constraints=LOOSE)
    assert "energy" not in {each.phase for each in results.launches}


def sliced(**changes):
    values = {"started_ns": 0, "numbers": "", "settling": 0, "run_delay_ns": None}
    more = {"involuntary_switches": None, "cpu_ns": None}
    return jobs.Sliced("end-to-end", **{**values, **more, **changes})


def test_what_a_worker_metered_is_kept():
    job = jobs.SliceJob("end-to-end", 1, 1, rest_s=3.0)
    met, rest = Metered(1150.0, 11.5, 410), Metered(180.0, 3.0, 100)
    assert runner._energy(job, sliced(energy=met, rest=rest)) == use(1150.0, 11.5, 410)
    assert runner._energy(job, sliced(energy=met)).idle_watts is None
    assert runner._energy(job, sliced()) == EnergyUse(source="unavailable")
    assert runner._energy(jobs.SliceJob("end-to-end", 1, 1), sliced()) is None


def test_nothing_is_metered_where_nothing_runs_on_a_gpu(tmp_path):
    results = run(tmp_path, measure={"tail_cap_s": 0.02}, constraints=LOOSE)
    assert {each.phase for each in results.launches} == {"rounds", "tail"}


def report_of(results):
    analysis = analyse(results)
    return Report(results, analysis, recommend(analysis))


# -- what follows ----------------------------------------------------------------------------------

A, B = candidate("a"), candidate("b", INT8)


def parts(h2d, compute, d2h, enqueue, iterations=50):
    middles = {"h2d_ns": h2d, "compute_ns": compute, "d2h_ns": d2h, "enqueue_ns": enqueue}
    spread = {name: (0.9 * value, value, 2.0 * value) for name, value in middles.items()}
    return PhaseTimes(iterations=iterations, raw=NO_RAW, **spread)


@pytest.mark.parametrize(
    ("told", "enqueue_bound", "copy_bound"),
    [
        ((10, 100, 5, 80), False, False),
        ((10, 100, 5, 81), True, False),
        ((100, 100, 5, 10), False, True),
        ((5, 100, 100, 10), False, True),
        ((99, 100, 99, 10), False, False),
    ],
)
def test_what_bounds_an_inference_is_told_by_trtexecs_rule(told, enqueue_bound, copy_bound):
    found = phases_of([launch(A, 0, phases=parts(*told))])
    assert (found.enqueue_bound, found.copy_bound) == (enqueue_bound, copy_bound)
    assert found.latency_ns == sum(told[:3])


def test_parts_are_the_medians_over_launches():
    told = [(10, 100, 5, 8), (12, 90, 6, 9), (99, 300, 7, 99)]
    found = phases_of([launch(A, n, phases=parts(*each)) for n, each in enumerate(told)])
    assert (found.h2d_ns, found.compute_ns, found.d2h_ns, found.enqueue_ns) == (12, 100, 6, 9)
    assert (found.iterations, found.launches) == (150, 3)
    assert phases_of([launch(A, 0)]) is None
    assert phases_of([]) is None


def test_the_devices_memory_is_the_most_of_any_launch():
    read = [(None, 5), (7, None), (6, 4)]
    launches = [
        launch(
            A,
            n,
            memory=Memory(
                peak_rss_bytes=1,
                import_only_bytes=1,
                device_bytes=own,
                device_process_bytes=whole,
            ),
        )
        for n, (own, whole) in enumerate(read)
    ]
    found = memory_of(launches)
    assert (found.bytes, found.process_bytes) == (7, 5)
    assert memory_of([launch(A, 0)]) is None


def use(joules=1500.0, seconds=11.5, updates=115, idle=60.0):
    return EnergyUse(
        source="counter", joules=joules, seconds=seconds, updates=updates, idle_watts=idle
    )


def test_energy_is_power_times_the_time_of_a_sample():
    one = launch(A, 0, energy=use(1150.0, 11.5), slices=slices(2e6, batch=4))
    found = energy_of([one])
    assert found.watts == 100
    assert found.joules == pytest.approx(100 * 2e-3 / 4)
    assert found.above_idle_joules == pytest.approx(40 * 2e-3 / 4)
    assert found.claimed
    no_rest = energy_of([launch(A, 0, energy=use(idle=None))])
    assert no_rest.above_idle_joules is None


@pytest.mark.parametrize(
    ("seconds", "updates", "claimed"),
    [(10.0, 100, True), (9.9, 500, False), (60.0, 99, False), (11.0, 101, True)],
)
def test_a_short_stretch_claims_no_energy(seconds, updates, claimed):
    found = energy_of([launch(A, 0, energy=use(seconds=seconds, updates=updates))])
    assert found.claimed is claimed


def test_what_was_not_metered_is_not_zero():
    assert energy_of([launch(A, 0)]) is None
    unavailable = EnergyUse(source="unavailable")
    assert energy_of([launch(A, 0, energy=unavailable, slices=())]) == Energy()
    assert energy_of([launch(A, 0, energy=use(), slices=())]) == Energy()
    assert not Energy().claimed


def test_what_held_clocks_down_is_told_of_any_launch():
    launches = [launch(A, 0, held_down=("power cap",)), launch(A, 1)]
    assert held_down(launches) == ("power cap",)
    assert held_down(launches[1:]) == ()


def test_of_equals_with_equal_memory_the_one_that_takes_less_energy_is_chosen(tmp_path):
    times = {A: [1e6, 1.001e6, 0.999e6] * 2, B: [1e6, 0.999e6, 1.001e6] * 2}

    def metered(joules_a, joules_b):
        more = [
            launch(who, 9, phase="energy", energy=use(joules))
            for who, joules in ((A, joules_a), (B, joules_b))
        ]
        folder = tmp_path / f"{joules_a}-{joules_b}"
        folder.mkdir()
        ended = RoundRecord(at=NOW, round=9, phase="energy", elapsed_s=1.0)
        return recommend(analyse(timed_run(folder, times, more=[*more, ended])))

    lean = metered(1500.0, 1200.0)
    assert {each.place for each in lean.judgements} == {"choice", "tied"}
    assert lean.choice.candidate == B
    assert "less energy" in lean.certainty
    alike = metered(1500.0, 1490.0)
    assert alike.choice.candidate == A  # the higher precision
    half = metered(1500.0, None)
    assert half.choice.candidate == A  # what isn't known of all decides nothing


def test_every_precision_has_its_place_in_the_choice():
    assert set(BY_PRECISION) == set(Precision)


# -- the report ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpu_report(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("gpu"), GPU_CAST, metered=True)


@pytest.mark.parametrize("form", ["text", "md", "html"])
def test_the_report_shows_parts_memory_and_energy(gpu_report, form):
    text = " ".join(render([gpu_report], form, width=100).split())
    for told in ("H2D", "Enqueue", "51.7 us", "402 MB", "15.6 mJ", "62.0 W", "unavailable"):
        assert told in text
    assert "Bound by the host" in text


def test_the_report_says_what_bounds_and_what_throttles(gpu_report):
    told = {each.title: each for each in notes(gpu_report)}
    assert "tensorrt int8 (qdq)" in told["Enqueue"].text
    assert "tf32" not in told["Enqueue"].text
    assert "cuda-graph" in told["Enqueue"].text
    assert "tensorrt int8 (qdq)" in told["Copies"].text
    assert told["Clocks"].level == "info"  # a power cap is usual
    assert "power cap" in told["Clocks"].text


def test_heat_limits_the_claims(tmp_path):
    part = GpuPart((1, 2, 3, 4), held_down=("heat (hardware)",))
    report = make_run(tmp_path, [replace(GPU_CAST[1], on_gpu=part)])
    (note,) = [each for each in notes(report) if each.title == "Clocks"]
    assert note.level == "poor"


def test_the_choices_energy_is_told_beside_its_time(gpu_report):
    facts = dict(story(gpu_report).facts)
    assert "15.6 mJ per sample, 8.24 mJ of it above idle" in facts["Energy"]


def test_the_plot_of_the_parts_has_room_for_every_text(gpu_report):
    assert "device-phases" in figures(gpu_report)
    with styled():
        figure = draw_phases(gpu_report)
        figure.draw_without_rendering()
    boxes = list(_boxes(figure))
    for (one, first), (other, second) in combinations(boxes, 2):
        common = Bbox.intersection(first, second)
        covered = common.width * common.height if common else 0.0
        assert covered <= 0.1 * min(first.width * first.height, second.width * second.height), (
            one,
            other,
        )
    assert all(box.x1 <= figure.bbox.width + 1 for _, box in boxes)
    assert sum("enqueue bound" in text for text, _ in boxes) == 3


@pytest.mark.parametrize(
    ("joules", "text"),
    [(None, "-"), (12.34, "12.3 J"), (0.0156, "15.6 mJ"), (8.5e-7, "850 nJ"), (0.0, "0 nJ")],
)
def test_energies(joules, text):
    assert fmt.energy(joules) == text


def test_powers():
    assert (fmt.power(None), fmt.power(61.27)) == ("-", "61.3 W")
