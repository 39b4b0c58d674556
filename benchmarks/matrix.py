"""Models x backends x precisions: what converts, runs, its errors, accuracy, latency; or why not.

Each model is swept once by the project's own pipeline, in few and short rounds; what is shown is
read from the records that this leaves. Columns: what became of the conversion into a format that
the backend reads, of the build and of the run; the largest difference from the float32 reference's
outputs over all that were compared, and their least cosine; the metric on the validation samples;
the median latency, host memory to host memory, with its 95 % interval from three rounds on; in
which precisions the compute operations ran and on what; or the reason why there is none of these.
Where there is no GPU, `--compute-capability 8.6` builds TensorRT-RTX's engines for one.
Run: .venv/bin/python benchmarks/matrix.py [--models cnn ...] [--backends litert ...] [--out DIR]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from time import monotonic

from matrix_cells import Cell, cells_of
from matrix_models import CASES, Case
from matrix_view import document, overview, picture, to_json
from rich.console import Console

from harness import registry
from harness.ahead import build_engines
from harness.config import Lab, SweepConfig, Target
from harness.errors import EnginePickError, InputError
from harness.progress import Progress
from harness.run import sweep
from harness.store import Results
from harness.types import Stage, Status

BACKENDS = ("onnxruntime", "openvino", "tensorrt", "litert", "executorch")
USUAL = ("cnn", "mobile", "transformer", "magika", "pytorch")
LAB = Lab(targets={"local": Target(description="this machine")})
SHORT = {"passes": 2, "slice_ms": 50, "warmup_cap_s": 2.0, "tail_cap_s": 0.0}
SAMPLES = {"calibration_samples": 64, "validation_samples": 200}


def swept(case: Case, backends: Sequence[str], out: Path, rounds: int) -> Results:
    """The records of one sweep. Raises EnginePickError where nothing could be measured."""
    config = SweepConfig.from_dict(
        {
            "model": case.model,
            "data": case.data,
            "metric": "top1",
            "out": str(out.absolute()),
            "backends": list(backends),
            "measure": {**SHORT, **SAMPLES, "rounds": rounds, "stop_early": "never"},
        },
        case.name,
    )
    with chdir(case.folder), Progress(Console(stderr=True)) as progress:
        results = sweep(config, LAB, listen=progress)
    if results.end is None or results.end.why != "done":
        sys.exit(f"{case.name}: the sweep ended before its end")
    return results


def ahead(case: Case, cells: Iterable[Cell], out: Path, capability: str) -> Iterator[Cell]:
    """The cells; TensorRT's that can't run here say what became of their engines built ahead."""
    waiting = [each for each in cells if each.status is Status.UNAVAILABLE]
    waiting = [each for each in waiting if each.backend == "tensorrt"]
    told: dict[tuple[str, str], Cell] = {}
    for precision in dict.fromkeys(each.precision for each in waiting):
        mine = [each for each in waiting if each.precision == precision]
        told |= {
            (each.precision, each.recipe): each for each in _built(case, mine, out, capability)
        }
    for each in cells:
        kept = each not in waiting
        yield each if kept else told.get((each.precision, each.recipe), each)


def _built(case: Case, cells: Sequence[Cell], out: Path, capability: str) -> Iterator[Cell]:
    """Of one precision."""
    config = SweepConfig.from_dict(
        {
            "model": case.model,
            "data": case.data,
            "metric": "top1",
            "backends": ["tensorrt"],
            "precisions": [cells[0].precision],
            "measure": SAMPLES,
        },
        case.name,
    )
    to = (out / "engines" / case.name / cells[0].precision).absolute()
    try:
        with chdir(case.folder):
            built = build_engines(
                config,
                to,
                compute_capability=capability,
                options={"library": "tensorrt_rtx"},
                lab=LAB,
            )
    except EnginePickError as error:
        yield from (replace(each, reason=f"{each.reason}; ahead: {error}") for each in cells)
        return
    records = {each.candidate.recipe: each.record for each in built.engines}
    for cell in cells:
        record = records.get(cell.recipe)
        if record is None:
            yield cell
        elif record.ok:
            where = f"builds for GPUs of compute capability {capability}"
            reason = f"{where}; not run here: {cell.reason}"
            yield replace(cell, stage=Stage.OPEN, reason=reason, size_bytes=record.size_bytes)
        else:
            stage, reason = record.stage, record.reason or ""
            yield replace(cell, status=record.status, stage=stage, reason=reason)


def absent(case: Case, backend: str, status: Status, reason: str) -> Cell:
    """A backend of which nothing was tried."""
    return Cell(case.name, backend, "", "", status, Stage.PLAN, reason)


def cells_for(
    case: Case, backends: Sequence[str], out: Path, asked: argparse.Namespace
) -> list[Cell]:
    """One model's cells; of what isn't installed, or can't take it at all, a reason."""
    there = [each for each in backends if each in registry.names()]
    missing = [
        absent(case, each, Status.UNAVAILABLE, "no such plug-in is installed")
        for each in backends
        if each not in there
    ]
    if not there:
        return missing
    try:
        found = list(cells_of(case.name, swept(case, there, out / "results", asked.rounds)))
    except InputError as error:
        reason = "; ".join(str(each).replace("\n", " ") for each in error.problems)
        return [*(absent(case, each, Status.UNSUPPORTED, reason) for each in there), *missing]
    if asked.compute_capability:
        found = list(ahead(case, found, out, asked.compute_capability))
    return [*found, *missing]


def made(name: str, folder: Path) -> Case | str:
    """The case, or why it can't be made here."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return CASES[name](folder)
    except (ImportError, SystemExit) as fault:  # what an example says where a package is absent
        return str(fault).replace("\n", " ")


def options() -> argparse.Namespace:
    """The command line's."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(USUAL))
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--compute-capability", help="of a GPU to build TensorRT's engines for")
    parser.add_argument(
        "--out", type=Path, help="gets matrix.md, .json, .png and the runs' records"
    )
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write."""
    asked = options()
    with tempfile.TemporaryDirectory() as temporary:
        out = asked.out or Path(temporary)
        cases, cells = [], []
        for name in asked.models:
            began = monotonic()
            case = made(name, out.absolute() / "models" / name)
            if isinstance(case, str):
                print(f"{name}: left out, {case}", file=sys.stderr)
                continue
            cases.append(case)
            cells += cells_for(case, asked.backends, out, asked)
            print(f"{name}: {monotonic() - began:.0f} s", file=sys.stderr)
            if asked.out:
                (out / "matrix.md").write_text(document(cases, cells))
                (out / "matrix.json").write_text(to_json(cells))
                picture(cases, cells, out / "matrix.png")
        print(overview(cases, cells))


if __name__ == "__main__":
    main()
