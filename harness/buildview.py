"""What ``enginepick build`` shows: renderables for people, data for JSON. Nothing here prints."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness import wire
from harness.ahead import Built, BuiltEngine
from harness.types import Candidate, ShapeRange
from harness.views import grid, size_text


def view(built: Built) -> RenderableType:
    """The engines, what was refused and why, and what to do with them."""
    made = [each for each in built.engines if each.file is not None]
    parts: list[RenderableType] = [_head(built)]
    if made:
        parts += [Text(), _table(made), *_notes(made)]
    refused = [(each.candidate, each.record) for each in built.engines if each.file is None]
    refused += [(each.candidate, each) for each in built.skips]  # type: ignore[misc]
    if refused:
        title = "Not built:" if made else "Nothing was built:"
        parts += [Text(f"\n{title}", "bold"), _refusals(refused)]
    if made:
        where = "where the GPU is" if built.compute_capability else "to measure it"
        backend = made[0].candidate.backend
        model = shlex.quote(str(built.model))
        lines = [f"enginepick sweep {model} --data DATA --backend {backend}"]
        device = ["--device gpu:0"] if built.compute_capability else []
        lines += [f"--target {built.target}"] if built.target else device
        lines += [f"--engine {shlex.quote(str(each.file))}" for each in made]
        parts += [Text(f"\nNext, {where}:", "bold"), Text("  " + " \\\n    ".join(lines))]
    return Group(*parts)


def _head(built: Built) -> Table:
    head = grid()
    head.add_row("Model", built.model)
    head.add_row("For", built.place)
    for profile in built.profiles:
        head.add_row("Shapes", "; ".join(f"{each.name} {_range_text(each)}" for each in profile))
    for note in built.notes:
        head.add_row("Note", Text(note))
    return head


def _table(made: Sequence[BuiltEngine]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Engine", overflow="fold")
    table.add_column("Size", no_wrap=True)
    table.add_column("Built in", no_wrap=True)
    for each in made:
        took = f"{(each.record.build_ns or 0) / 1e9:.3g} s"
        kept = " (kept from before)" if each.record.cached else ""
        table.add_row(str(each.file), size_text(each.record.size_bytes), took + kept)
    return table


def _notes(made: Sequence[BuiltEngine]) -> Iterator[RenderableType]:
    for each in made:
        notes = Table.grid(padding=(0, 1))
        for note in each.record.notes:
            notes.add_row(" -", Text(note))
        if each.record.notes:
            yield Text(f"\n{each.candidate.label}:", "bold")
            yield notes


def _range_text(each: ShapeRange) -> str:
    if each.min == each.max:
        return _dims(each.opt)
    return f"{_dims(each.min)} to {_dims(each.max)}, tuned for {_dims(each.opt)}"


def _dims(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _refusals(refused: Sequence[tuple[Candidate, Any]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold", max_width=44)
    table.add_column(overflow="fold")
    for candidate, why in refused:
        fix = f"\n-> {why.fix}" if why.fix else ""
        table.add_row(Text(candidate.label), Text(f"{why.reason}{fix}"))  # [x] is no markup
    return table


def data(built: Built) -> dict[str, Any]:
    """``enginepick build --json``."""
    return {
        "schema": "enginepick-build/1",
        "model": built.model,
        "place": built.place,
        "compute_capability": built.compute_capability,
        "profiles": wire.encode(built.profiles),
        "engines": [_engine(each) for each in built.engines],
        "skips": [{"id": each.candidate.id, **wire.encode(each)} for each in built.skips],
        "notes": list(built.notes),
    }


def _engine(each: BuiltEngine) -> dict[str, Any]:
    record = each.record
    return {
        "file": str(each.file) if each.file else None,
        "backend": record.backend,
        "precision": record.precision,
        "recipe": record.recipe,
        "recipe_parameters": dict(record.recipe_parameters),
        "options": dict(record.options),
        "device": record.device,
        "status": str(record.status),
        "reason": record.reason,
        "fix": record.fix,
        "size_bytes": record.size_bytes,
        "build_ns": record.build_ns,
        "cached": record.cached,
        "notes": list(record.notes),
        "versions": dict(record.versions),
    }
