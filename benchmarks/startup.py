"""Start-up: `enginepick --help` against `python -c pass`, alternating, as a ratio of medians.

Also lists which vendor packages that start-up imports; there must be none.
Run: .venv/bin/python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 15
VENDORS = ("onnx", "onnxruntime", "openvino", "nncf", "torch", "tensorrt", "pandas", "matplotlib")
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "enginepick --help": [sys.executable, "-m", "harness.cli", "--help"],
}


def once(command: list[str]) -> float:
    """Seconds of one whole process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def imported_vendors() -> str:
    """The vendor packages among what `--help` imports."""
    code = (
        "import sys; sys.argv = ['enginepick', '--help']\n"
        "from harness.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print('|', ' '.join(n for n in {VENDORS!r} if n in sys.modules) or 'none')"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.rpartition("|")[2].strip()


def main() -> None:
    """Measure and print."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for name, command in COMMANDS.items():
        once(command)  # warms the file cache
        times[name].clear()
    for _ in range(RUNS):
        for name, command in COMMANDS.items():
            times[name].append(once(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:<20} median {median * 1e3:6.1f} ms of {RUNS} runs")
    base, ours = medians.values()
    print(f"ratio                {ours / base:6.1f}")
    print(f"vendor packages imported by --help: {imported_vendors()}")


if __name__ == "__main__":
    main()
