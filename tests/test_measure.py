"""Warm-up, slices and /proc, on fakes: counts and order, never absolute times."""

from __future__ import annotations

import gc
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measure import process, slices
from harness.measure.warmup import Limits, is_steady, warm_up, windows

MS = 1_000_000


def steps(values):
    """A step function that takes these nanoseconds, the last one for ever."""
    pending = list(values)
    return lambda: pending.pop(0) if len(pending) > 1 else pending[0]


def test_a_constant_session_is_warm_after_three_windows():
    count, steady = warm_up(steps([MS]), Limits())
    assert steady is True
    assert count == 200  # 0.2 s of 1 ms each


def test_a_slow_start_is_waited_for():
    falling = [int(MS * (5 - 4 * place / 80)) for place in range(80)]
    count, steady = warm_up(steps([*falling, MS]), Limits())
    assert steady is True
    assert count >= 80 + 100  # three windows of 50 ms, the first perhaps begun before


def test_a_drifting_session_is_given_up_and_told():
    drift = [int(MS * 1.002**i) for i in range(3000)]
    count, steady = warm_up(steps(drift), Limits())
    assert steady is False
    assert count >= 300


def test_a_very_slow_model_is_cut_by_time():
    count, steady = warm_up(steps([2_000 * MS, 3_000 * MS] * 50), Limits())
    assert steady is False
    assert count <= 10


def test_a_given_count_is_kept():
    assert warm_up(steps([MS]), Limits(), iterations=7) == (7, None)


def test_windows_are_at_least_50_ms_and_whole():
    cut = windows([20 * MS] * 8)
    assert [len(each) for each in cut] == [3, 3]
    assert windows([]) == []
    assert not is_steady([MS] * 10)


class Session:
    """Counts calls; fails when told."""

    def __init__(self, fail_at=None):
        self.calls = []
        self.fail_at = fail_at

    def bind(self, _feed):
        self.calls.append("bind")

    def run(self):
        self.calls.append("run")
        if self.fail_at is not None and len(self.calls) >= self.fail_at:
            raise RuntimeError("told to")

    def fetch(self):
        self.calls.append("fetch")
        return {}


def test_end_to_end_is_bind_run_fetch():
    session = Session()
    durations = slices.end_to_end(session, {}, 0, 12)
    assert len(durations) == 12
    assert session.calls == ["bind", "run", "fetch"] * 12


def test_a_slice_lasts_its_time_and_its_count():
    session = Session()
    durations = slices.run_only(session, 3 * MS, 5)
    assert len(durations) == len(session.calls) >= 5
    assert set(session.calls) == {"run"}


@given(st.lists(st.integers(1, 50 * MS), max_size=50))
def test_settling_leaves_at_least_half(durations):
    count = slices.settling(durations)
    assert 0 <= count <= len(durations) // 2
    if 0 < count < len(durations) // 2:
        assert count >= 2
        assert sum(durations[:count]) >= slices.SETTLING_NS


def test_threads_are_all_counted_in_order():
    sessions = [Session() for _ in range(3)]
    marks = slices.thread_completions(sessions, 0, 30)
    assert list(marks) == sorted(marks)
    assert len(marks) == sum(len(s.calls) for s in sessions)
    assert all(len(s.calls) >= 10 for s in sessions)


@pytest.mark.parametrize("fail_at", [1, 5])
def test_a_thread_that_fails_ends_the_slice(fail_at):
    before = threading.active_count()  # of runtimes that other tests loaded, too
    with pytest.raises(RuntimeError, match="told to"):
        slices.thread_completions([Session(), Session(fail_at)], 0, 1000)
    assert threading.active_count() == before


class FakeQueue:
    """Completes in the order of starting, and watches how many are in flight."""

    def __init__(self, in_flight):
        self.wanted = in_flight
        self.busy = []
        self.waits = 0

    def start(self, slot):
        assert slot not in self.busy
        self.busy.append(slot)

    def wait_any(self):
        self.waits += 1
        return self.busy.pop(0)


@pytest.mark.parametrize("in_flight", [1, 4])
def test_a_queue_is_kept_full_and_drained(in_flight):
    queue = FakeQueue(in_flight)
    marks = slices.queue_completions(queue, in_flight, 0, 25)
    assert len(marks) == max(25, slices.THROUGHPUT_RAMP * in_flight)
    assert queue.busy == []
    assert queue.waits == len(marks) + in_flight - 1


def test_proc_is_read_and_summed(tmp_path):
    for name, (ran, waited, switches) in {"1": (10, 5, 2), "2": (30, 7, 1)}.items():
        task = tmp_path / "task" / name
        task.mkdir(parents=True)
        (task / "schedstat").write_text(f"{ran} {waited} 9\n")
        (task / "status").write_text(f"Name:\tx\nnonvoluntary_ctxt_switches:\t{switches}\n")
    (tmp_path / "task" / "3").mkdir()  # a thread that has just ended
    assert process.scheduled(tmp_path) == process.Scheduled(40, 12, 3)
    later = process.Scheduled(50, 11, 4)
    assert later.since(process.Scheduled(40, 12, 3)) == process.Scheduled(10, 0, 1)
    (tmp_path / "status").write_text("VmHWM:\t  2048 kB\nVmRSS:\t 1024 kB\n")
    (tmp_path / "smaps_rollup").write_text("Rss: 9 kB\nPss:  7 kB\n")
    assert process.peak_rss_bytes(tmp_path) == 2 * 2**20
    assert process.pss_bytes(tmp_path) == 7 * 1024


def test_what_the_kernel_does_not_say_is_none(tmp_path):
    assert process.scheduled(tmp_path) is None
    assert process.peak_rss_bytes(tmp_path) is None
    assert process.pss_bytes(tmp_path) is None
    assert process.reset_peak(tmp_path / "none") is False


def test_the_peak_can_be_reset():
    block = np.ones(8 * 2**20, np.uint8)
    before = process.peak_rss_bytes()
    del block
    if before is None or not process.reset_peak():
        pytest.skip("this kernel has no clear_refs")
    assert process.peak_rss_bytes() <= before


@pytest.mark.parametrize(("high", "steady"), [(1.01, True), (1.5, False)])
def test_two_speeds_in_turns_are_steady_only_if_they_are_alike(high, steady):
    window = [MS] * 50
    speeds = (window + [int(MS * high)] * 50) * 60
    _, found = warm_up(steps(speeds), Limits())
    assert found is steady


def test_a_shift_that_the_windows_medians_hide_is_seen():
    """Two speeds, the slower one more and more often: its share passes a half only between."""
    quick, slow = 985_000, 1_034_000
    first = [quick, slow] * 24 + [quick] * 2
    middle = [quick] * 25 + [slow] * 24 + [quick]
    assert [len(each) for each in windows(first + middle + first)] == [50, 50, 50]
    assert not is_steady(first + middle + first)
    assert is_steady(first * 3)


def test_the_least_is_done_even_if_it_is_steady():
    assert warm_up(steps([100 * MS]), Limits(min_iterations=25)) == (25, True)
    count, _ = warm_up(steps([MS]), Limits(min_ns=900 * MS))
    assert count >= 900


@given(st.lists(st.integers(1, 90 * MS), max_size=60))
def test_windows_lose_and_change_nothing(durations):
    cut = windows(durations)
    joined = [each for window in cut for each in window]
    assert joined == durations[: len(joined)]
    assert all(sum(window) >= 50 * MS > sum(window[:-1]) for window in cut)
    assert sum(durations[len(joined) :]) < 50 * MS


@given(st.lists(st.integers(1, 3000 * MS), min_size=1, max_size=40), st.integers(1, 400))
def test_a_warm_up_ends_within_its_limits(cycle, most):
    calls = []

    def step():
        calls.append(cycle[len(calls) % len(cycle)] + MS)
        return calls[-1]

    limits = Limits(max_iterations=most, max_ns=4_000 * MS)
    count, steady = warm_up(step, limits)
    assert count == len(calls)
    assert sum(calls[:-1]) < limits.max_ns
    assert steady is is_steady(calls) or not steady
    if steady:
        assert count >= limits.min_iterations
        assert sum(calls) >= limits.min_ns


@pytest.mark.parametrize(
    "measure", [slices.end_to_end, lambda s, _f, t, n: slices.run_only(s, t, n)]
)
def test_a_slice_by_a_clock_that_stands_still_between_calls(monkeypatch, measure):
    """Each reading of the clock is 1 ms later: both conditions are needed, and no more is run."""
    now = iter(range(0, 10**12, MS))
    monkeypatch.setattr(slices, "perf_counter_ns", lambda: next(now))
    assert list(measure(Session(), {}, 0, 7)) == [MS] * 7
    # The clock is read once before, and twice in an iteration: after n, it is 2 n ms later.
    assert len(measure(Session(), {}, 100 * MS, 7)) == 50


def test_the_collector_is_off_within_and_as_before_after():
    class Watching(Session):
        def run(self):
            assert not gc.isenabled()
            super().run()

    slices.run_only(Watching(), 0, 3)
    assert gc.isenabled()
    gc.disable()
    try:
        slices.run_only(Watching(), 0, 3)
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(RuntimeError, match="told to"):
        slices.run_only(Session(fail_at=2), 0, 3)
    assert gc.isenabled()


def test_threads_are_all_busy_until_the_last_has_enough():
    class Slow(Session):
        def run(self):
            time.sleep(0.001)
            super().run()

    quick, slow = Session(), Slow()
    marks = slices.thread_completions([quick, slow], 0, 20)
    assert len(slow.calls) >= 10
    assert len(quick.calls) > len(slow.calls)
    assert len(marks) == len(quick.calls) + len(slow.calls)


def test_a_queue_that_fails_says_so():
    class Failing(FakeQueue):
        def wait_any(self):
            if self.waits == 3:
                raise RuntimeError("lost the device")
            return super().wait_any()

    with pytest.raises(RuntimeError, match="lost the device"):
        slices.queue_completions(Failing(2), 2, 0, 5)
    assert gc.isenabled()


def test_a_field_that_the_kernel_leaves_out_is_none(tmp_path):
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\tmuch kB\n")
    (tmp_path / "smaps_rollup").write_text("Rss: 9 kB\n")
    assert process.pss_bytes(tmp_path) is None
    assert process.peak_rss_bytes(tmp_path) is None
    task = tmp_path / "task" / "1"
    task.mkdir(parents=True)
    (task / "schedstat").write_text("4 5 6\n")
    (task / "status").write_text("Name:\tx\n")
    assert process.scheduled(tmp_path) == process.Scheduled(4, 5, 0)
    (task / "schedstat").write_text("4\n")
    assert process.scheduled(tmp_path) is None


@pytest.mark.skipif(not process.SELF.exists(), reason="this host has no /proc")
def test_this_process_has_sane_values():
    before = process.scheduled()
    block = np.ones(16 * 2**20, np.uint8)
    peak, pss = process.peak_rss_bytes(), process.pss_bytes()
    assert peak is not None
    assert peak > block.nbytes
    assert pss is None or 0 < pss <= peak
    if before is not None:
        after = before
        for _ in range(2000):  # until the kernel has counted
            np.sort(np.random.default_rng(0).random(10_000))
            after = process.scheduled()
            if after != before:
                break
        else:
            pytest.skip("this kernel counts no CPU time of threads")
        assert after.since(before).cpu_ns > 0
        assert before.since(after) == process.Scheduled(0, 0, 0)
