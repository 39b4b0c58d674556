"""Warm-up, slices and /proc, on fakes: counts and order, never absolute times."""

from __future__ import annotations

import threading

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
    with pytest.raises(RuntimeError, match="told to"):
        slices.thread_completions([Session(), Session(fail_at)], 0, 1000)
    assert threading.active_count() == 1


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
