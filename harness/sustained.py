"""Whether the ranking of the first minute still holds after a long stretch of load. Pure.

The best candidates took turns without a pause, so that heat and whatever else builds up met all of
them alike. Their times are compared at the end as they were at the start; how much a part's value
jumps about is taken from successive parts, which a slow drift hardly touches (von Neumann 1941).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from harness.evidence import MARGIN
from harness.record import LaunchRecord, RoundRecord
from harness.stats import CONFIDENCE, Interval, Verdict, verdict
from harness.store import Results
from harness.types import Array

ENDS = 2
"""So many parts at either end are the start and the end."""

LEAST_PARTS = 2 * ENDS + 1

Held = Literal["held", "changed", "unclear"]


@dataclass(frozen=True)
class Sustained:
    """A stretch of load in parts. Times are per inference, or per sample for throughput.

    minutes: the parts' middles since the first began. times_ns: by candidate id, one value a part.
    change: by candidate id, the time at the end over that at the start. best: the fastest at the
    start. ahead: who is faster than it at the end. control: the duplicate's time over its twin's,
    a value a part. clock_hz: at each part's end, None where the host doesn't say.
    """

    minutes: tuple[float, ...]
    times_ns: Mapping[str, tuple[float, ...]]
    change: Mapping[str, Interval]
    best: str
    ahead: tuple[str, ...]
    ranking: Held
    control: tuple[float, ...]
    clock_hz: tuple[float | None, ...]
    throttled: int


def last_stretch(results: Results) -> tuple[int, ...]:
    """The finished parts of the last stretch of load, by their round numbers."""
    parts = [each for each in results.launches if each.phase == "sustain"]
    began = max((each.began or 0 for each in parts), default=0)
    ended = {each.round for each in results.rounds if each.phase == "sustain"}
    own = {each.round for each in parts if (each.began or 0) == began}
    return tuple(sorted(own & ended))


def sustained(
    launches: Sequence[LaunchRecord], rounds: Sequence[RoundRecord], values: Mapping[int, float]
) -> Sustained | None:
    """From the launches of the phase ``sustain``, all of one stretch.

    values: by the launch's place in ``launches``, its log time. None: too few parts.
    """
    ended = {each.round: each for each in rounds if each.phase == "sustain"}
    logs: dict[str, dict[int, float]] = {}
    control: dict[int, float] = {}
    began: dict[int, float] = {}
    for place, each in enumerate(launches):
        if each.round not in ended or place not in values:
            continue
        (control if each.control else logs.setdefault(each.candidate, {}))[each.round] = values[
            place
        ]
        middle = (each.slices[0].started_ns + each.slices[-1].started_ns) / 2
        began[each.round] = min(began.get(each.round, math.inf), middle)
    parts = sorted(began)
    whole = {name: own for name, own in logs.items() if all(part in own for part in parts)}
    if len(parts) < LEAST_PARTS or not whole:
        return None
    table = {name: np.array([own[part] for part in parts]) for name, own in whole.items()}
    start = min(each.slices[0].started_ns for each in launches if each.slices)
    best = min(table, key=lambda name: float(table[name][:ENDS].mean()))
    ranks = {name: _at_end(table[name] - table[best], len(table) - 1) for name in table}
    twin = next((each.candidate for each in launches if each.control), None)
    compared = [part for part in parts if part in control and twin in table]
    return Sustained(
        minutes=tuple((began[part] - start) / 60e9 for part in parts),
        times_ns={name: tuple(np.exp(own).tolist()) for name, own in table.items()},
        change={name: _change(own) for name, own in table.items()},
        best=best,
        ahead=tuple(name for name, rank in ranks.items() if name != best and rank == "changed"),
        ranking=_overall([rank for name, rank in ranks.items() if name != best]),
        control=tuple(
            math.exp(control[part] - table[str(twin)][parts.index(part)]) for part in compared
        ),
        clock_hz=tuple(ended[part].clock_hz for part in parts),
        throttled=sum(ended[part].throttled or 0 for part in parts),
    )


def _jumps(series: Array) -> float:
    """The SD of a part's value about its slow course, from successive differences."""
    return math.sqrt(float((np.diff(series) ** 2).mean()) / 2)


def _half_width(series: Array, families: int = 1) -> float:
    """Of the mean of ``ENDS`` parts, simultaneous for so many series (Bonferroni)."""
    quantile = 1 - (1 - CONFIDENCE) / 2 / max(1, families)
    return float(stats.t.ppf(quantile, len(series) - 1)) * _jumps(series) / math.sqrt(ENDS)


def _at_end(difference: Array, families: int) -> Held:
    """Whether a candidate that was no faster than the best at the start still isn't."""
    end, half = float(difference[-ENDS:].mean()), _half_width(difference, families)
    if verdict(end, half, MARGIN) is Verdict.FASTER:
        return "changed"
    return "held" if end - half > -MARGIN else "unclear"


def _overall(ranks: Sequence[Held]) -> Held:
    if "changed" in ranks:
        return "changed"
    return "unclear" if "unclear" in ranks else "held"


def _change(series: Array) -> Interval:
    move = float(series[-ENDS:].mean() - series[:ENDS].mean())
    half = _half_width(series) * math.sqrt(2)
    return Interval(math.exp(move), math.exp(move - half), math.exp(move + half))
