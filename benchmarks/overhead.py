"""What our measurement adds: its median against a minimal loop around the same runtime call.

Both run in one process, on two sessions with the same options, in alternating slices of random
order. Printed for a model of about 50 us and one of about 5 ms: the ratio of the medians over all
slices, for compute alone (`run`) and for host memory to host memory (`bind + run + fetch`).
Run: .venv/bin/python benchmarks/overhead.py [--passes 40]
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backends.ort import BACKEND
from harness.backend import BuildRequest
from harness.chains import write_chain
from harness.measure import slices
from harness.types import Precision, Settings

SLICE_NS = 100_000_000
MODELS = {"about 50 us": (64, 160, 3), "about 5 ms": (64, 1024, 9)}
"""rows, width and number of dense layers."""


def minimal_loops(path: Path, x: np.ndarray[Any, Any]) -> dict[str, Callable[[int], array[int]]]:
    """The loops that anyone would write by hand around onnxruntime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    source = x.copy()
    target = np.empty(x.shape, np.float32)
    name = session.get_outputs()[0].name
    binding.bind_cpu_input("x", source)
    binding.bind_output(name, "cpu", 0, np.float32, list(target.shape), target.ctypes.data)

    def run(min_ns: int) -> array[int]:
        durations = array("Q")
        end = time.perf_counter_ns() + min_ns
        while True:
            start = time.perf_counter_ns()
            session.run_with_iobinding(binding)
            stop = time.perf_counter_ns()
            durations.append(stop - start)
            if stop >= end:
                return durations

    def end_to_end(min_ns: int) -> array[int]:
        durations = array("Q")
        end = time.perf_counter_ns() + min_ns
        while True:
            start = time.perf_counter_ns()
            np.copyto(source, x)
            session.run_with_iobinding(binding)
            _ = {name: target}
            stop = time.perf_counter_ns()
            durations.append(stop - start)
            if stop >= end:
                return durations

    return {"run": run, "end-to-end": end_to_end}


def our_loops(
    path: Path, x: np.ndarray[Any, Any], workdir: Path
) -> dict[str, Callable[[int], array[int]]]:
    """What a worker runs."""
    request = BuildRequest(str(path), Precision.FP32, "source", "cpu")
    engine = BACKEND.build(request, str(workdir))
    session = BACKEND.open(engine, "cpu", Settings(threads=1))
    feed = {"x": x}
    session.bind(feed)
    return {
        "run": lambda min_ns: slices.run_only(session, min_ns, 10),
        "end-to-end": lambda min_ns: slices.end_to_end(session, feed, min_ns, 10),
    }


def compare(passes: int, shape: tuple[int, int, int]) -> list[tuple[str, float, float, float]]:
    """(what is timed, minimal median ns, our median ns, ratio of the medians of slice medians)."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path, workdir = Path(folder) / "model.onnx", Path(folder) / "engine"
        workdir.mkdir()
        rows, width, layers = shape
        write_chain(path, layers, rows, width)
        x = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
        both = {"minimal": minimal_loops(path, x), "ours": our_loops(path, x, workdir)}
        for timed in ("run", "end-to-end"):
            medians: dict[str, list[float]] = {"minimal": [], "ours": []}
            for number in range(passes + 1):
                order = list(both)
                random.shuffle(order)
                for name in order:
                    durations = both[name][timed](SLICE_NS)
                    if number:  # the first pass warms up
                        medians[name].append(statistics.median(durations[len(durations) // 10 :]))
            ratios = [b / a for a, b in zip(medians["minimal"], medians["ours"], strict=True)]
            middle = {name: statistics.median(values) for name, values in medians.items()}
            found.append((timed, middle["minimal"], middle["ours"], statistics.median(ratios)))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=40)
    passes = parser.parse_args().passes
    for name, shape in MODELS.items():
        for timed, minimal, ours, ratio in compare(passes, shape):
            print(
                f"{name:<12} {timed:<11} minimal {minimal / 1e3:9.2f} us"
                f"   ours {ours / 1e3:9.2f} us   ratio {ratio:.4f}"
            )


if __name__ == "__main__":
    main()
