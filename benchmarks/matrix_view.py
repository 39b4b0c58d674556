"""The matrix for people and programs: Markdown, a picture, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from matrix_cells import Cell
from matrix_models import Case

from harness.report import format as fmt
from harness.report.style import new_figure, styled
from harness.types import Stage, Status

ALLOWED = 0.01
"""A larger drop of the metric isn't a tie: the default of ``constraints.max_accuracy_drop``."""

Row = tuple[str, str, str]
"""Backend, precision, recipe."""

KINDS = {
    "runs": "#cdebdc",
    "runs, less accurate": "#fbe3b5",
    "invalid: not as asked": "#e6d3ec",
    "can't, and says why": "#e8e8e8",
    "failed": "#f4b9a7",
}
LEFT_OUT = (Status.UNSUPPORTED, Status.UNAVAILABLE)
BEFORE_RUNNING = (None, Stage.PROBE, Stage.PLAN, Stage.CONVERT, Stage.VARIANT, Stage.BUILD)


def kind_of(cell: Cell) -> str:
    """One of :data:`KINDS`."""
    if cell.status is Status.OK and cell.ran:
        accurate = cell.drop is None or cell.drop <= ALLOWED
        return "runs" if accurate else "runs, less accurate"
    if cell.status is Status.INVALID:
        return "invalid: not as asked"
    return "can't, and says why" if cell.status in LEFT_OUT else "failed"


def document(cases: Sequence[Case], cells: Sequence[Cell]) -> str:
    """Markdown: the overview, then a table for each model."""
    parts = ["# Models, backends, precisions", "", overview(cases, cells)]
    for case in cases:
        own = [cell for cell in cells if cell.model == case.name]
        reasons = list(dict.fromkeys(cell.reason for cell in own if cell.status is not Status.OK))
        parts += ["", f"## {case.name}: {case.what}", "", *details(own, reasons), ""]
        parts += [f"{number}. {plain(reason)}" for number, reason in enumerate(reasons, 1)]
    return "\n".join(parts) + "\n"


def overview(cases: Sequence[Case], cells: Iterable[Cell]) -> str:
    """Markdown: a row for each way to deploy, a column for each model."""
    cells = list(cells)
    found = {(cell.model, *row_of(cell)): cell for cell in cells}
    lines = [_line("backend", "precision", *(case.name for case in cases))]
    lines += [_line(*["---"] * (2 + len(cases)))]
    for row in rows_of(cells):
        own = (found.get((case.name, *row)) for case in cases)
        texts = (", ".join(brief(cell)) if cell else "" for cell in own)
        lines.append(_line(row[0], named(row), *texts))
    return "\n".join(lines)


def rows_of(cells: Iterable[Cell]) -> list[Row]:
    """Every way to deploy, by backend, in the order in which the backends offer them."""
    rows = list(dict.fromkeys(row_of(cell) for cell in cells if cell.precision))
    first = {row[0]: place for place, row in reversed(list(enumerate(rows)))}
    missing = dict.fromkeys(row_of(cell) for cell in cells if cell.backend not in first)
    return [*sorted(rows, key=lambda row: first[row[0]]), *missing]


def row_of(cell: Cell) -> Row:
    """What the cell's row is."""
    return cell.backend, cell.precision, cell.recipe


def named(row: Row) -> str:
    """The precision, and the recipe where that tells something."""
    _, precision, recipe = row
    return precision if recipe in {"source", precision, ""} else f"{precision} ({recipe})"


def brief(cell: Cell) -> tuple[str, ...]:
    """The latency, the metric and the largest error; or what became of it."""
    if cell.status is Status.UNAVAILABLE and steps(cell)[1] == "yes":
        return "builds", "unavailable here"
    if cell.status is not Status.OK:
        where = f" at {cell.stage}" if cell.stage else ""
        return (f"{cell.status}{where}",)
    time = fmt.duration(cell.time_ns.value) if cell.time_ns else "not timed"
    return tuple(text for text in (time, _share(cell.metric), _error(cell)) if text)


def _error(cell: Cell) -> str:
    return "" if cell.max_abs_error is None else f"err {cell.max_abs_error:.1g}"


def details(cells: Iterable[Cell], reasons: Sequence[str]) -> Iterator[str]:
    """Markdown: all that is known of one model's cells; reasons are numbered from 1."""
    head = ("backend", "precision", "converts", "builds", "runs", "max error", "least cosine")
    head = (*head, "top1", "drop", "median latency (95 %)", "size", "executed", "why not")
    yield _line(*head)
    yield _line(*["---"] * len(head))
    for backend, group in groupby(cells, key=lambda cell: cell.backend):
        for cell in group:
            why = reasons.index(cell.reason) + 1 if cell.status is not Status.OK else 0
            told = f"{cell.status}, see {why}" if why else ""
            yield _line(backend, named(row_of(cell)), *steps(cell), *_values(cell), told)


def steps(cell: Cell) -> tuple[str, str, str]:
    """Whether it was converted, built and run: yes, no, or not tried."""
    if cell.status is Status.OK or cell.ran:
        return ("yes" if cell.converted else "not needed"), "yes", "yes"
    if cell.stage in {None, Stage.PROBE, Stage.PLAN}:
        return "not tried", "not tried", "not tried"
    if cell.stage is Stage.CONVERT:
        return "no", "not tried", "not tried"
    converted = "yes" if cell.converted else "not needed"
    if cell.stage in BEFORE_RUNNING:
        return converted, "no", "not tried"
    return converted, "yes", "no"


def _values(cell: Cell) -> tuple[str, ...]:
    error, cosine = cell.max_abs_error, cell.cosine_min
    return (
        "" if error is None else f"{error:.2g}",
        "" if cosine is None else f"{cosine:.6f}",
        _share(cell.metric),
        "" if cell.drop is None else f"{100 * cell.drop:+.1f} points",
        fmt.duration(cell.time_ns.value) + _interval(cell) if cell.time_ns else "",
        fmt.size(cell.size_bytes) if cell.size_bytes is not None else "",
        cell.executed,
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _interval(cell: Cell) -> str:
    """Only where three launches or more say something of a spread."""
    time = cell.time_ns
    if time is None or time.low <= 0:
        return ""
    return f" ({fmt.duration(time.low)} to {fmt.duration(time.high)})"


def _line(*texts: str) -> str:
    return f"| {' | '.join(plain(text) for text in texts)} |"


def plain(text: str) -> str:
    """On one line, and no table's column."""
    return " ".join(text.split()).replace("|", "\\|")


def to_json(cells: Iterable[Cell]) -> str:
    """All fields of all cells."""
    return json.dumps([asdict(cell) for cell in cells], indent=1, default=str) + "\n"


def picture(cases: Sequence[Case], cells: Sequence[Cell], path: Path) -> None:
    """The overview as a picture: colours say what became of each."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    rows = rows_of(cells)
    found = {(cell.model, *row_of(cell)): cell for cell in cells}
    kinds = list(KINDS)
    with styled():
        figure = new_figure(1.2 + 0.36 * len(rows))
        figure.set_figwidth(3.2 + 1.75 * len(cases))
        axes = figure.add_subplot()
        colours = [
            [
                kinds.index(kind_of(cell)) if (cell := found.get((case.name, *row))) else -1
                for case in cases
            ]
            for row in rows
        ]
        palette = ListedColormap(["white", *KINDS.values()])
        axes.imshow(colours, palette, vmin=-1, vmax=len(kinds) - 1, aspect="auto")
        for y, row in enumerate(rows):
            for x, case in enumerate(cases):
                cell = found.get((case.name, *row))
                text = _lines(brief(cell)) if cell else ""
                axes.text(x, y, text, ha="center", va="center", fontsize=7, linespacing=1.15)
        axes.set_xticks(range(len(cases)), [case.name for case in cases], fontweight="bold")
        axes.set_yticks(range(len(rows)), [f"{row[0]}  {named(row)}" for row in rows])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for number in range(1, len(rows)):
            ends = rows[number][0] != rows[number - 1][0]
            axes.axhline(number - 0.5, color="#777777" if ends else "white", lw=1 if ends else 2)
        for number in range(1, len(cases)):
            axes.axvline(number - 0.5, color="white", lw=2)
        patches = [Patch(color=colour, label=kind) for kind, colour in KINDS.items()]
        figure.legend(handles=patches, loc="outside lower center", ncols=3)
        figure.savefig(path, dpi=150)


def _lines(texts: tuple[str, ...]) -> str:
    """Two lines: the latency, and what it costs."""
    return "\n".join([texts[0], ", ".join(texts[1:])]).strip()
