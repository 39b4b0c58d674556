"""What TensorRT makes of each precision on each kind of model: ``python benchmarks/trt_matrix.py``.

Builds engines ahead with TensorRT-RTX, which needs no GPU, and prints Markdown: what was parsed and
built, in which types the layers multiply, and the sizes against float32's. Nothing is run.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from trt_models import Case, made, real

from backends import enginefile
from backends.trt import BACKEND
from backends.trt.about import About
from backends.trt.build import IMPLICIT
from harness import variants
from harness.backend import BuildRequest, Offer
from harness.errors import BackendError
from harness.types import Share

OFFERS = tuple(
    offer
    for offer in BACKEND.capabilities.offers
    if (offer.precision, offer.recipe) not in IMPLICIT
)


@dataclass(frozen=True)
class Cell:
    """One engine: what it holds, or why there is none."""

    case: str
    offer: Offer
    compute_capability: str
    layers: tuple[Share, ...] = ()
    weights_bytes: int = 0
    engine_bytes: int = 0
    why_not: str = ""


def variant(case: Case, offer: Offer, folder: Path) -> Path:
    """The file that an offer is built from; the case's own, or made beside it once."""
    if offer.recipe == variants.SOURCE:
        return case.path
    out = folder / f"{case.name}.{offer.recipe}.onnx"
    if not out.is_file():
        recipe = variants.resolve(
            offer.recipe, offer.precision, isa=frozenset(), device="gpu:0", saturates=False
        )
        variants.make(recipe, str(case.path), str(out), case.calibration())
    return out


def build(case: Case, offer: Offer, compute_capability: str, folder: Path) -> Cell:
    """Build one engine ahead."""
    try:
        model = variant(case, offer, folder)
        with tempfile.TemporaryDirectory() as workdir:
            request = BuildRequest(
                str(model),
                offer.precision,
                offer.recipe,
                "gpu:0",
                options=(("library", "tensorrt_rtx"),),
                profiles=(case.profile(),),
                compute_capability=compute_capability,
            )
            engine = BACKEND.build(request, workdir)
            about = enginefile.beside(About, engine)
    except BackendError as error:
        return Cell(case.name, offer, compute_capability, why_not=str(error))
    return Cell(
        case.name,
        offer,
        compute_capability,
        about.layers,
        about.weights_bytes or 0,
        engine.size_bytes,
    )


def matrix(
    cases: Iterable[Case], compute_capabilities: Iterable[str], folder: Path
) -> Iterator[Cell]:
    """Every offer of every case for every GPU."""
    targets = tuple(compute_capabilities)
    for case in cases:
        for offer in OFFERS:
            for compute_capability in targets:
                yield build(case, offer, compute_capability, folder)


def table(cells: Iterable[Cell]) -> Iterator[str]:
    """Markdown, a row for each offer of each case, as soon as its GPUs are done.

    Sizes are megabytes, and shares of the float32 engine's; GPUs whose layers or weights differ
    have rows of their own, and the engine's size is the first one's.
    """
    head = ("model", "precision", "recipe", "GPUs", "layers that multiply")
    head = (*head, "weights MB", "of fp32's", "engine MB", "of fp32's")
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    base: dict[tuple[str, str], Cell] = {}
    for (case, offer), group in groupby(cells, key=lambda cell: (cell.case, cell.offer)):
        rows: dict[tuple[str, ...], list[str]] = {}
        first: dict[tuple[str, ...], tuple[str, ...]] = {}
        for cell in group:
            float32 = base.setdefault((cell.case, cell.compute_capability), cell)
            told = _told(cell, float32)
            first.setdefault(told[:2], told)
            rows.setdefault(told[:2], []).append(cell.compute_capability)
        for key, targets in rows.items():
            told = first[key]
            names = (case, str(offer.precision), offer.recipe, ", ".join(targets))
            yield f"| {' | '.join((*names, *told))} |"


def _told(cell: Cell, float32: Cell) -> tuple[str, ...]:
    if cell.why_not:
        return (f"none: {cell.why_not}".replace("|", "/")[:200], "", "", "", "")
    counts = ", ".join(f"{share.count} {share.name}" for share in cell.layers) or "unknown"
    sizes = (
        (cell.weights_bytes, float32.weights_bytes),
        (cell.engine_bytes, float32.engine_bytes),
    )
    shares = (
        (f"{size / 1e6:.2f}", f"{size / whole:.0%}" if whole else "") for size, whole in sizes
    )
    return (counts, *(text for pair in shares for text in pair))


def main() -> None:
    """Print the matrix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", help="by name (default: all)")
    parser.add_argument("--compute-capability", nargs="*", default=["8.6", "12.0"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = [*made(Path(folder)), *real()]
        chosen = [case for case in cases if not asked.models or case.name in asked.models]
        for line in table(matrix(chosen, asked.compute_capability, Path(folder))):
            print(line, flush=True)


if __name__ == "__main__":
    main()
