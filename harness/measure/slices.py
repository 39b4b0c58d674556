"""The timed loops. Nothing else in the project reads a clock around a runtime's calls.

Every loop uses :func:`time.perf_counter_ns` (CLOCK_MONOTONIC on Linux, which the processes of one
host share), keeps raw durations in a preallocated-friendly ``array``, and runs with the garbage
collector off.
"""

from __future__ import annotations

import gc
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter_ns

from harness.backend import Feed, Queue, Session

SETTLING_ITERATIONS = 2
SETTLING_NS = 10_000_000
THROUGHPUT_RAMP = 10
"""A throughput slice counts at least this many completions for each inference in flight."""


@contextmanager
def no_collector() -> Iterator[None]:
    """Collect now, then keep the collector off."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def end_to_end(session: Session, feed: Feed, min_ns: int, min_iterations: int) -> array[int]:
    """Nanoseconds of each ``bind`` + ``run`` + ``fetch``: host memory to host memory."""
    clock, bind, run, fetch = perf_counter_ns, session.bind, session.run, session.fetch
    durations = array("Q")
    keep = durations.append
    with no_collector():
        end = clock() + min_ns
        left = min_iterations
        while True:
            start = clock()
            bind(feed)
            run()
            fetch()
            stop = clock()
            keep(stop - start)
            left -= 1
            if stop >= end and left <= 0:
                return durations


def run_only(session: Session, min_ns: int, min_iterations: int) -> array[int]:
    """Nanoseconds of each ``run`` on what is bound: compute alone."""
    clock, run = perf_counter_ns, session.run
    durations = array("Q")
    keep = durations.append
    with no_collector():
        end = clock() + min_ns
        left = min_iterations
        while True:
            start = clock()
            run()
            stop = clock()
            keep(stop - start)
            left -= 1
            if stop >= end and left <= 0:
                return durations


def settling(durations: Sequence[int]) -> int:
    """How many of a slice's first iterations to leave out: at least 2, and those of 10 ms.

    At least half of the slice stays in.
    """
    total = 0
    count = 0
    for count, duration in enumerate(durations):
        if count >= SETTLING_ITERATIONS and total >= SETTLING_NS:
            break
        total += duration
    return min(count, len(durations) // 2)


def queue_completions(queue: Queue, in_flight: int, min_ns: int, min_count: int) -> array[int]:
    """Completion times of a runtime's own queue with a constant number in flight."""
    clock = perf_counter_ns
    marks = array("Q")
    count = max(min_count, THROUGHPUT_RAMP * in_flight)
    with no_collector():
        end = clock() + min_ns
        for slot in range(in_flight):
            queue.start(slot)
        while True:
            slot = queue.wait_any()
            now = clock()
            marks.append(now)
            if now >= end and len(marks) >= count:
                break
            queue.start(slot)
        for _ in range(in_flight - 1):  # drained, not counted: the number in flight falls here
            queue.wait_any()
    return marks


def thread_completions(sessions: Sequence[Session], min_ns: int, min_count: int) -> array[int]:
    """Completion times of sessions side by side, one thread each, all of them always busy."""
    clock = perf_counter_ns
    count = max(-(-min_count // len(sessions)), THROUGHPUT_RAMP)
    marks = [array("Q") for _ in sessions]
    ready = threading.Barrier(len(sessions))
    busy = [True] * len(sessions)
    errors: list[BaseException] = []

    def loop(index: int) -> None:
        run, keep = sessions[index].run, marks[index].append
        try:
            ready.wait()
            end = clock() + min_ns
            done = 0
            while any(busy):  # go on under full load until the slowest has enough
                run()
                now = clock()
                keep(now)
                done += 1
                if now >= end and done >= count:
                    busy[index] = False
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            errors.append(error)
            busy[:] = [False] * len(busy)
            ready.abort()

    threads = [threading.Thread(target=loop, args=(index,)) for index in range(len(sessions))]
    with no_collector():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return array("Q", sorted(mark for each in marks for mark in each))
