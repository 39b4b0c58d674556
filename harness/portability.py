"""Does one int8 file serve every runtime? Each shared file on each backend, beside their own. Pure.

A file serves all if every backend builds it, runs most of it in int8, and keeps the accuracy with a
certificate. What that costs in speed is its time over that of the backend's own best int8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness.analysis import Analysis, Summary
from harness.evidence import Evidence
from harness.stats import Answer, Interval, Verdict
from harness.types import Precision, Scenario, Status

MOSTLY = 0.5


@dataclass(frozen=True)
class Cell:
    """One recipe on one backend: its fastest candidate. None: not known.

    share: of the compute operations that run in int8. certified: the accuracy. behind: its time
    over the backend's fastest certified int8, which is ``verdict`` against it.
    """

    summary: Summary
    share: float | None = None
    certified: Answer | None = None
    behind: Interval | None = None
    verdict: Verdict | None = None

    @property
    def serves(self) -> bool:
        """Whether it could be deployed there."""
        runs = self.summary.status is Status.OK and self.summary.time_ns is not None
        mostly = self.share is None or self.share > MOSTLY
        return runs and mostly and self.certified is Answer.MEETS


@dataclass(frozen=True)
class File:
    """One recipe. shared: it is one and the same file for all backends."""

    recipe: str
    shared: bool
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Matrix:
    """All int8 recipes on all backends. one: the shared file that serves all at the least cost.

    cost: how much longer it takes than the best int8, where that is worst; tied: within the margin
    on every backend.
    """

    backends: tuple[str, ...]
    files: tuple[File, ...]
    one: File | None = None
    cost: float | None = None
    tied: bool = False


def portability(analysis: Analysis, limit: float, *, shared: frozenset[str]) -> Matrix | None:
    """The matrix; None where fewer than two backends have int8. shared: recipes of one file."""
    compared = analysis.comparisons.get(Scenario.LATENCY)
    skipped = {each.candidate.id for each in analysis.run.skips}
    own = [
        each
        for each in analysis.summaries
        if each.candidate.precision is Precision.INT8
        and each.candidate.settings.scenario is Scenario.LATENCY
        and each.candidate.id not in skipped
    ]
    backends = tuple(dict.fromkeys(each.candidate.backend for each in own))
    if len(backends) < len(("one", "another")):
        return None
    best = {
        name: _best([s for s in own if s.candidate.backend == name], limit) for name in backends
    }
    recipes = list(dict.fromkeys(each.candidate.recipe for each in own))
    files = []
    for recipe in sorted(recipes, key=lambda recipe: not _is_shared(recipe, shared)):
        cells = {}
        for backend in backends:
            mine = [
                s for s in own if (s.candidate.backend, s.candidate.recipe) == (backend, recipe)
            ]
            if mine:
                cells[backend] = _cell(min(mine, key=_time), best[backend], compared, limit)
        files.append(File(recipe, _is_shared(recipe, shared), cells))
    return _with_one(Matrix(backends, tuple(files)))


def _is_shared(recipe: str, shared: frozenset[str]) -> bool:
    return recipe in shared


def _time(summary: Summary) -> float:
    return summary.time_ns.value if summary.time_ns else math.inf


def _certified(summary: Summary, limit: float) -> Answer | None:
    return summary.drop.judge(limit) if summary.drop is not None else None


def _best(summaries: list[Summary], limit: float) -> Summary | None:
    """The fastest certified one."""
    good = [s for s in summaries if _certified(s, limit) is Answer.MEETS and s.time_ns is not None]
    return min(good, key=_time, default=None)


def _cell(summary: Summary, best: Summary | None, compared: Evidence | None, limit: float) -> Cell:
    executed = summary.executed
    share = executed.share("int8") if executed is not None and executed.precisions else None
    behind = verdict = None
    if best is not None and compared is not None and summary.time_ns is not None:
        ours, theirs = summary.candidate.id, best.candidate.id
        if {ours, theirs} <= set(compared.logs):
            behind, verdict = compared.ratio(theirs, ours), compared.verdict(ours, theirs)
    return Cell(summary, share, _certified(summary, limit), behind, verdict)


def _with_one(matrix: Matrix) -> Matrix:
    """Find the shared file that serves every backend at the least cost."""
    found: list[tuple[float, File]] = []
    for file in matrix.files:
        cells = [file.cells.get(backend) for backend in matrix.backends]
        if file.shared and all(cell is not None and cell.serves for cell in cells):
            costs = [cell.behind.value for cell in cells if cell and cell.behind is not None]
            found.append((max(costs, default=math.inf), file))
    if not found:
        return matrix
    cost, one = min(found, key=lambda each: each[0])
    tied = all(cell.verdict in (Verdict.TIED, Verdict.FASTER) for cell in one.cells.values())
    return Matrix(matrix.backends, matrix.files, one, cost, tied)
