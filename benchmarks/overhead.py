"""What our measurement adds: its median against a minimal loop around the same runtime's calls.

For each runtime, both run in one process, on two sessions with the same options and one thread, in
alternating slices of random order. Printed for a model of about 50 us and one of about 5 ms: the
medians and the ratio of the slices' medians, for compute alone (`run`) and for host memory to host
memory (`bind + run + fetch`). The minimal loops are what anyone would write by hand with the
runtime's Python API.
Run: .venv/bin/python benchmarks/overhead.py [--passes 40] [--runtimes litert ...]
"""

from __future__ import annotations

import argparse
import importlib
import random
import statistics
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.backend import BuildRequest, ConvertRequest, Session
from harness.chains import write_chain
from harness.errors import BackendError
from harness.measure import slices
from harness.types import Engine, Precision, Settings, TensorSpec

SLICE_NS = 100_000_000
MODELS = {"about 50 us": (64, 160, 3), "about 5 ms": (64, 1024, 9)}
"""rows, width and number of dense layers."""

Array = np.ndarray[Any, Any]
Loop = Callable[[int], "array[int]"]
"""Runs for so many nanoseconds at least; those that each iteration took."""


@dataclass(frozen=True)
class ByHand:
    """The statements to time, on these names, and the output of the last run.

    run: of compute alone. end_to_end: of new inputs, which lie in ``x``, to outputs in ``y``.
    """

    names: Mapping[str, Any]
    run: str
    end_to_end: str


LOOP = """
def loop(min_ns, {names}):
    durations = array("Q")
    end = clock() + min_ns
    while True:
        start = clock()
        {statements}
        stop = clock()
        durations.append(stop - start)
        if stop >= end:
            return durations, locals().get("y")
"""


def onnxruntime(engine: Engine, x: Array) -> ByHand:
    """IO binding, so that nothing is copied that need not be."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(engine.path, options, providers=["CPUExecutionProvider"])
    source, target = x.copy(), np.empty(x.shape, np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input("x", source)
    binding.bind_output("y", "cpu", 0, np.float32, list(target.shape), target.ctypes.data)
    run = "session.run_with_iobinding(binding)"
    names = {"session": session, "binding": binding, "source": source, "target": target}
    return ByHand(names, run, f"copyto(source, x); {run}; y = target")


def openvino(engine: Engine, x: Array) -> ByHand:
    """One infer request, whose own tensors are written and read."""
    import openvino as ov

    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = ov.Core().compile_model(engine.path, "CPU", properties).create_infer_request()
    source, target = request.get_input_tensor().data, request.get_output_tensor().data
    np.copyto(source, x)
    run = "request.infer(share_outputs=True)"
    names = {"request": request, "source": source, "target": target}
    return ByHand(names, run, f"copyto(source, x); {run}; y = target")


def litert(engine: Engine, x: Array) -> ByHand:
    """The interpreter, as its documentation shows."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(engine.path, num_threads=1)
    interpreter.allocate_tensors()
    i, o = (
        details[0]["index"]
        for details in (interpreter.get_input_details(), interpreter.get_output_details())
    )
    interpreter.set_tensor(i, x)
    run = "interpreter.invoke()"
    names = {"interpreter": interpreter, "i": i, "o": o}
    around = f"interpreter.set_tensor(i, x); {run}; y = interpreter.get_tensor(o)"
    return ByHand(names, run, around)


def executorch(engine: Engine, x: Array) -> ByHand:
    """The runtime's method, which copies the input in and the output out itself.

    The process's pool of threads is what our session has made it.
    """
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(engine.path).load_method("forward")
    assert method is not None
    run = "method.execute(inputs)"
    names = {"method": method, "inputs": [torch.from_numpy(x)], "from_numpy": torch.from_numpy}
    return ByHand(names, run, "y = method.execute([from_numpy(x)])[0].numpy()")


RUNTIMES: dict[str, tuple[str, str | None, Callable[[Engine, Array], ByHand]]] = {
    "onnxruntime": ("backends.ort", None, onnxruntime),
    "openvino": ("backends.ov", None, openvino),
    "litert": ("backends.litert", "backends.convert.onnx_to_tflite", litert),
    "executorch": ("backends.et", "backends.convert.onnx_to_torch", executorch),
}
"""The adapter's module, what converts ONNX into what it reads, and the code by hand."""


def loop_of(by_hand: ByHand, timed: str, x: Array) -> Callable[[int], tuple[array[int], Any]]:
    """The minimal loop around statements, compiled with all its names as locals."""
    names = {"array": array, "clock": time.perf_counter_ns, "copyto": np.copyto, "x": x}
    names |= by_hand.names
    statements = by_hand.run if timed == "run" else by_hand.end_to_end
    code = LOOP.format(names=", ".join(f"{name}={name}" for name in names), statements=statements)
    exec(code, names)
    loop: Callable[[int], tuple[array[int], Any]] = names["loop"]
    return loop


def opened(runtime: str, model: Path, x: Array, folder: Path) -> tuple[Engine, Session]:
    """What a worker runs: the model converted where need be, built, and opened for one thread."""
    module, converter, _ = RUNTIMES[runtime]
    backend = importlib.import_module(module).BACKEND
    path, ports = str(model), None
    if converter is not None:
        specs = tuple((TensorSpec(name, "float32", x.shape),) for name in "xy")
        request = ConvertRequest(path, *specs, (("x", x.shape),), ({"x": x},))
        workdir = folder / "converted"
        workdir.mkdir()
        made = importlib.import_module(converter).CONVERTER.convert(request, str(workdir))
        path, ports = made.path, made.ports
    workdir = folder / "engine"
    workdir.mkdir()
    asked = BuildRequest(path, Precision.FP32, "source", "cpu", ports=ports)
    engine = backend.build(asked, str(workdir))
    return engine, backend.open(engine, "cpu", Settings(threads=1))


def both_loops(
    runtime: str, model: Path, x: Array, folder: Path
) -> Iterator[tuple[str, dict[str, Loop]]]:
    """What is timed, and the two loops that time it. Their outputs are compared first."""
    engine, session = opened(runtime, model, x, folder)
    feed = {"x": x}
    session.bind(feed)
    session.run()
    by_hand = RUNTIMES[runtime][2](engine, x)
    _, y = loop_of(by_hand, "end-to-end", x)(0)
    np.testing.assert_array_equal(session.fetch()["y"], y)
    ours = {
        "run": lambda min_ns: slices.run_only(session, min_ns, 10),
        "end-to-end": lambda min_ns: slices.end_to_end(session, feed, min_ns, 10),
    }
    for timed, our_loop in ours.items():
        minimal = loop_of(by_hand, timed, x)
        yield timed, {"minimal": lambda min_ns, loop=minimal: loop(min_ns)[0], "ours": our_loop}
    session.close()


def alternated(loops: Mapping[str, Loop], passes: int) -> tuple[float, float, float]:
    """The minimal median and ours in ns, and the median of the slices' ratios."""
    medians: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(passes + 1):
        for name in random.sample(list(loops), len(loops)):
            durations = loops[name](SLICE_NS)
            if number:  # the first pass warms up
                medians[name].append(statistics.median(durations[len(durations) // 10 :]))
    ratios = [b / a for a, b in zip(medians["minimal"], medians["ours"], strict=True)]
    minimal, ours = (statistics.median(medians[name]) for name in ("minimal", "ours"))
    return minimal, ours, statistics.median(ratios)


def compare(runtime: str, what: str, passes: int) -> None:
    """Print one runtime's ratios for one model."""
    rows, width, layers = MODELS[what]
    x = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.onnx"
        write_chain(model, layers, rows, width)
        for timed, loops in both_loops(runtime, model, x, folder):
            minimal, ours, ratio = alternated(loops, passes)
            print(
                f"{runtime:<12} {what:<12} {timed:<11} minimal {minimal / 1e3:9.2f} us"
                f"   ours {ours / 1e3:9.2f} us   ratio {ratio:.4f}",
                flush=True,
            )


def main() -> None:
    """Measure and print."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--passes", type=int, default=40)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    asked = parser.parse_args()
    for runtime in asked.runtimes:
        for what in MODELS:
            try:
                compare(runtime, what, asked.passes)
            except (BackendError, ImportError) as error:
                print(f"{runtime:<12} {what:<12} left out: {error}")


if __name__ == "__main__":
    main()
