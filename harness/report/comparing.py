"""A comparison of two runs for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from harness.comparison import Change, Comparison
from harness.report import format as fmt
from harness.report.numbers import number, plain_interval
from harness.stats import Interval, Verdict

SCHEMA = "enginepick-comparison/1"
"""Fields may be added within a version; none is renamed, removed, or given another meaning."""

_STYLES = {Verdict.SLOWER: "bold red", Verdict.FASTER: "green", Verdict.TIED: ""}


def view(found: Comparison) -> RenderableType:
    """What ``enginepick compare`` prints."""
    parts: list[RenderableType] = [_head(found)]
    if found.differences:
        parts += [Text("\nNot alike", "bold"), _differences(found)]
    if found.changes and not found.void:
        parts += [Text("\nCandidates", "bold"), _table(found)]
    worse = [each for each in found.regressed if not found.void]
    if worse:
        parts += [Text("\nWorse", "bold red"), _worse(worse)]
    return Group(*parts)


def sentence(found: Comparison) -> str:
    """The answer in a line."""
    if found.void:
        return "The times of these runs can't be compared."
    if not found.changes:
        return "Nothing can be compared: no candidate was timed in both runs."
    if found.regressed:
        return f"{len(found.regressed)} of {len(found.changes)} candidates got worse."
    undecided = sum(each.verdict is Verdict.UNRESOLVED for each in found.changes)
    if undecided:
        return f"Nothing is known to be worse; {undecided} of {len(found.changes)} aren't decided."
    return "Nothing got worse."


def how(found: Comparison) -> str:
    """How the times were compared, and how far to trust that."""
    if found.interleaved:
        text = f"measured again side by side, {found.rounds} rounds in turns"
        if found.control is not None and math.isfinite(found.control.high):
            text += f"; a hidden duplicate differed from its twin by {_percent(found.control)}"
        return text
    text = "as stored, one run after the other, so the host's mood is in the figures"
    if found.spread is None:
        return f"{text}; --interleave measures both side by side"
    share = fmt.percent(found.spread.deviation)
    known = (
        f"from {found.spread.runs} runs of one engine"
        if found.spread.runs
        else "guessed from the rounds of these runs, the least it can be"
    )
    return f"{text}: intervals allow for {share} between runs ({known}); --interleave is sharper"


def data(found: Comparison) -> dict[str, Any]:
    """What ``enginepick compare --json`` prints; docs/json-commands.md describes it."""
    return {
        "schema": SCHEMA,
        "summary": sentence(found),
        "base": found.base.run_id,
        "new": found.new.run_id,
        "void": [each.what for each in found.void],
        "regressed": [each.candidate for each in found.regressed] if not found.void else [],
        "interleaved": found.interleaved,
        "rounds": found.rounds,
        "null_control": plain_interval(found.control),
        "run_to_run": None
        if found.spread is None
        else {"deviation": found.spread.deviation, "runs": found.spread.runs},
        "differences": [
            {"what": each.what, "base": each.base, "new": each.new, "voids": each.voids}
            for each in found.differences
        ],
        "missing": list(found.missing),
        "candidates": [_change(each) for each in found.changes],
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "id": change.candidate,
        "base_time_ns": plain_interval(change.base.time_ns),
        "new_time_ns": plain_interval(change.new.time_ns),
        "time_ratio": plain_interval(change.time),
        "verdict": str(change.verdict),
        "base_accuracy": number(change.base.accuracy),
        "new_accuracy": number(change.new.accuracy),
        "accuracy_drop": None
        if change.drop is None
        else {
            "value": number(change.drop.value),
            "low": number(change.drop.low),
            "high": number(change.drop.high),
        },
        "memory_ratio": change.memory,
        "size_ratio": change.size,
        "worse": list(change.worse),
    }


def _head(found: Comparison) -> Panel:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("Answer", Text(sentence(found), _mood(found)))
    for title, run in (("Base", found.base), ("New", found.new)):
        grid.add_row(title, f"{fmt.clean(run.run_id)}, {run.at:%Y-%m-%d %H:%M} UTC")
    if not found.void:
        grid.add_row("Times", how(found))
    if found.missing:
        grid.add_row("In one run only", ", ".join(fmt.clean(each) for each in found.missing))
    return Panel(grid, title="Comparison", title_align="left", padding=(1, 1))


def _mood(found: Comparison) -> str:
    if found.void or found.regressed:
        return "bold red"
    decided = all(each.verdict is not Verdict.UNRESOLVED for each in found.changes)
    return "bold green" if decided and found.changes else "bold yellow"


def _differences(found: Comparison) -> Table:
    table = _plain("What", "Base", "New")
    for each in found.differences:
        style = "bold red" if each.voids else ""
        table.add_row(*(fmt.clean(x) for x in (each.what, each.base, each.new)), style=style)
    return table


def _table(found: Comparison) -> Table:
    table = _plain("Candidate", "Base", "New", "Time", "95 %", "Verdict", "Metric")
    for each in found.changes:
        table.add_row(
            fmt.clean(each.new.label),
            fmt.duration(each.base.time_ns.value if each.base.time_ns else None),
            fmt.duration(each.new.time_ns.value if each.new.time_ns else None),
            fmt.NONE if each.time is None else f"{(each.time.value - 1) * 100:+.1f} %",
            _bounds(each.time),
            Text(str(each.verdict), _STYLES.get(each.verdict, "yellow")),
            " ".join(_metric(each)),
        )
    return table


def _metric(change: Change) -> Iterator[str]:
    old, fresh = change.base.accuracy, change.new.accuracy
    if fresh is None:
        yield fmt.NONE
    elif old is None or old == fresh:
        yield f"{fresh:.4g}"
    else:
        yield f"{old:.4g} -> {fresh:.4g}"


def _worse(changes: list[Change]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for each in changes:
        grid.add_row(fmt.clean(each.new.label), "; ".join(fmt.clean(x) for x in each.worse))
    return grid


def _bounds(interval: Interval | None) -> str:
    if interval is None or not math.isfinite(interval.high):
        return "no interval"
    return f"{(interval.low - 1) * 100:+.1f} to {(interval.high - 1) * 100:+.1f}"


def _percent(interval: Interval) -> str:
    return f"{(interval.value - 1) * 100:+.2f} % (95 % {_bounds(interval)})"


def _plain(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table
