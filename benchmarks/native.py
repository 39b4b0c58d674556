"""Our medians against those of native tools, alternating, each time in fresh processes.

ONNX Runtime: a loop in C (`native.c`, built with the machine's `cc` against the library in the
installed package), and the plain loop that anyone would write in Python. OpenVINO: its own
`benchmark_app` (no hint, one request, synchronous, one stream). LiteRT: its own `litert-benchmark`.
ExecuTorch: a loop in C++ (`native_et.cpp`, built with the machine's `c++` against the headers and
libraries in the installed package). One thread each. Printed: the ratio of the medians, ours over
theirs, with its 95 % interval over the pairs. Ours is compute alone (`run`), which is what native
tools time.
Run: .venv/bin/python benchmarks/native.py [--pairs 12] [--seconds 3] [--runtimes litert ...]
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import overhead
from scipy import stats

from harness.chains import write_chain
from harness.errors import BackendError
from harness.hostlock import only_one

ROWS, WIDTH, LAYERS = 128, 512, 64
"""Some 20 ms: benchmark_app and litert-benchmark round to 0.01 ms."""
USUAL_S = 0.02

OURS = """
import json, sys, tempfile, time
import numpy as np
from importlib import import_module
from harness.backend import BuildRequest
from harness.measure import slices
from harness.types import Precision, Settings
module, model, rows, width, seconds = sys.argv[1:]
backend = import_module(module).BACKEND
with tempfile.TemporaryDirectory() as folder:
    how = (Precision.FP32, "source") if model.endswith(".onnx") else (Precision.AS_IS, "own")
    engine = backend.build(BuildRequest(model, *how, "cpu"), folder)
    session = backend.open(engine, "cpu", Settings(threads=1))
    count = int(rows) * int(width)
    x = ((np.arange(count, dtype=np.uint64) * 2654435761) % 1000).astype(np.float32)
    x = (x / np.float32(500) - np.float32(1)).reshape(int(rows), int(width))
    session.bind({session.inputs[0].name: x})
    slices.run_only(session, int(0.3e9), 10)
    took = np.asarray(slices.run_only(session, int(float(seconds) * 1e9), 10))
    y = session.fetch()[session.outputs[0].name]
    print(json.dumps([float(np.median(took)), float(y.sum())]))
"""


PLAIN = """
import json, sys, time
import numpy as np
import onnxruntime as ort
model, rows, width, seconds = sys.argv[1:]
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
x = ((np.arange(int(rows) * int(width), dtype=np.uint64) * 2654435761) % 1000).astype(np.float32)
x = (x / np.float32(500) - np.float32(1)).reshape(int(rows), int(width))
warm = time.perf_counter_ns() + int(0.3e9)
end, took, stop = warm + int(float(seconds) * 1e9), [], 0
while stop < end:
    start = time.perf_counter_ns()
    y = session.run(None, {"x": x})
    stop = time.perf_counter_ns()
    if start >= warm:
        took.append(stop - start)
print(json.dumps([float(np.median(took)), float(y[0].sum())]))
"""


def in_python(code: str, model: Path, seconds: float, *first: str) -> tuple[float, float]:
    """The median in ns that a script found in a fresh interpreter, and its output's sum."""
    arguments = [*first, str(model), str(ROWS), str(WIDTH), str(seconds)]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    median, total = json.loads(done.stdout.splitlines()[-1])
    return median, total


def compiled(compiler: str, source: str, folder: Path, *flags: str) -> Path:
    """Build one of the loops beside this file."""
    tool = shutil.which(compiler)
    if tool is None:
        raise FileNotFoundError(f"the loop needs a compiler, {compiler}")
    target = folder / Path(source).stem
    path = Path(__file__).with_name(source)
    subprocess.run([tool, "-O2", "-w", str(path), *flags, "-o", str(target)], check=True)
    return target


def ort_loop(folder: Path) -> Path:
    """The loop in C around ONNX Runtime."""
    import onnxruntime

    capi = Path(onnxruntime.__file__).parent / "capi"
    library = next(capi.glob("libonnxruntime.so.*"), None)
    if library is None:
        raise FileNotFoundError("the loop in C needs a package that has libonnxruntime.so")
    program = compiled("cc", "native.c", folder, "-std=gnu11", str(library), f"-Wl,-rpath,{capi}")
    # The library names itself by its short version, which the package doesn't hold.
    soname = capi / "libonnxruntime.so.1"
    if not soname.exists():
        (folder / soname.name).symlink_to(library)
    return program


def et_loop(folder: Path) -> Path:
    """The loop in C++ around ExecuTorch, whose delegates and kernels register when loaded."""
    (root,) = importlib.import_module("executorch").__path__
    include, lib = Path(root, "include"), Path(root, "lib")
    parts = ("", "_threadpool", "_backend_xnnpack", "_kernels_optimized")
    libraries = [str(lib / f"libexecutorch{part}.so") for part in parts]
    return compiled(
        "c++",
        "native_et.cpp",
        folder,
        "-std=c++17",
        "-DC10_USING_CUSTOM_GENERATED_MACROS",
        "-DET_EVENT_TRACER_ENABLED",
        f"-I{include}",
        f"-I{include / 'executorch/runtime/core/portable_type/c10'}",
        "-Wl,--no-as-needed",
        *libraries,
        f"-Wl,-rpath,{lib}",
    )


def native_loop(program: Path, model: Path, seconds: float) -> tuple[float, float]:
    """A loop's median in ns, and the output's sum."""
    done = subprocess.run(
        [str(program), str(model), str(ROWS), str(WIDTH), str(seconds)],
        capture_output=True, text=True, check=True,
        env={"LD_LIBRARY_PATH": str(program.parent)},
    )  # fmt: skip
    median, _, total = done.stdout.split()
    return float(median), float(total)


def benchmark_app(model: Path, seconds: float) -> tuple[float, float]:
    """benchmark_app's median in ns; it doesn't show its output."""
    tool = Path(sys.executable).with_name("benchmark_app")
    with tempfile.TemporaryDirectory() as folder:
        flags = ["-hint", "none", "-nireq", "1", "-api", "sync", "-nstreams", "1", "-nthreads", "1"]
        report = ["-report_type", "no_counters", "-json_stats", "-report_folder", folder]
        # Its own default for inference is bf16 where the CPU has it; ours asks for fp32.
        precision = ["-infer_precision", "f32"]
        command = [str(tool), "-m", str(model), "-d", "CPU", "-t", str(math.ceil(seconds))]
        subprocess.run(
            [*command, *flags, *report, *precision], capture_output=True, text=True, check=True
        )
        written = json.loads(next(Path(folder).glob("*.json")).read_text())
    return float(written["execution_results"]["latency (ms)"]) * 1e6, math.nan


def litert_benchmark(model: Path, seconds: float) -> tuple[float, float]:
    """litert-benchmark's median in ns; its inputs are random, so there is no output to compare."""
    tool = Path(sys.executable).with_name("litert-benchmark")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        runs = ["--warmup_runs", "15", "--num_runs", str(max(20, int(seconds / USUAL_S)))]
        command = [str(tool), "--model", str(model), "--num_threads", "1", *runs]
        command += ["--result_json", str(report)]
        subprocess.run(command, capture_output=True, text=True, check=True)
        written = json.loads(report.read_text())
    return float(written["latency"]["median_ms"]) * 1e6, math.nan


def converted(runtime: str, model: Path, folder: Path) -> Path:
    """The engine that both sides run, of what doesn't read ONNX."""
    place = folder / runtime
    place.mkdir()
    x = np.zeros((ROWS, WIDTH), np.float32)
    engine, session = overhead.opened(runtime, model, x, place)
    session.close()
    return Path(engine.path)


def alternate(
    name: str,
    mine: Callable[[], tuple[float, float]],
    native: Callable[[], tuple[float, float]],
    pairs: int,
) -> None:
    """Pairs in random order; print the ratio."""
    logs, medians = [], []
    for _ in range(pairs):
        both = {"ours": mine, "native": native}
        order = random.sample(list(both), 2)
        found = {each: both[each]() for each in order}
        logs.append(math.log(found["ours"][0] / found["native"][0]))
        medians.append((found["ours"][0], found["native"][0]))
        if not math.isnan(found["native"][1]):
            assert math.isclose(found["ours"][1], found["native"][1], rel_tol=1e-3)
    mean, error = float(np.mean(logs)), float(stats.sem(logs))
    half = float(stats.t.ppf(0.975, pairs - 1)) * error
    low, middle, high = (math.exp(each) for each in (mean - half, mean, mean + half))
    both_medians = np.median(np.array(medians), axis=0) / 1e6
    print(
        f"{name:<36} ours {both_medians[0]:7.3f} ms  theirs {both_medians[1]:7.3f} ms"
        f"   ratio {middle:.4f} (95 % {low:.4f} to {high:.4f})"
    )


Side = Callable[[], tuple[float, float]]
"""Gives the median in ns, and the sum of the output if it can be seen."""


def onnxruntime(model: Path, seconds: float, folder: Path) -> Iterator[tuple[str, str, Side, Path]]:
    """Against C, and against plain Python."""
    program = ort_loop(folder)
    yield "a loop in C", "backends.ort", lambda: native_loop(program, model, seconds), model
    plain = partial(in_python, PLAIN, model, seconds)
    yield "session.run in Python", "backends.ort", plain, model


def openvino(model: Path, seconds: float, _: Path) -> Iterator[tuple[str, str, Side, Path]]:
    """Against its own tool."""
    yield "benchmark_app", "backends.ov", lambda: benchmark_app(model, seconds), model


def litert(model: Path, seconds: float, folder: Path) -> Iterator[tuple[str, str, Side, Path]]:
    """Against its own tool."""
    own = converted("litert", model, folder)
    yield "litert-benchmark", "backends.litert", lambda: litert_benchmark(own, seconds), own


def executorch(model: Path, seconds: float, folder: Path) -> Iterator[tuple[str, str, Side, Path]]:
    """Against C++."""
    program, own = et_loop(folder), converted("executorch", model, folder)
    yield "a loop in C++", "backends.et", lambda: native_loop(program, own, seconds), own


RUNTIMES = {each.__name__: each for each in (onnxruntime, openvino, litert, executorch)}


def main() -> None:
    """Measure and print."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, only_one("benchmarks/native.py"):
        folder = Path(name)
        model = folder / "chain.onnx"
        write_chain(model, LAYERS, ROWS, WIDTH)
        for runtime in args.runtimes:
            try:
                for what, module, theirs, file in RUNTIMES[runtime](model, args.seconds, folder):
                    ours = partial(in_python, OURS, file, args.seconds, module)
                    alternate(f"{runtime}, {what}", ours, theirs, args.pairs)
            except (ImportError, FileNotFoundError, BackendError) as error:
                print(f"{runtime}: left out, {error}")


if __name__ == "__main__":
    main()
