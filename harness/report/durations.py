"""The raw durations of a run's sidecar, reduced to what a plot shows of each candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis import Summary, raw_slices
from harness.errors import StoreError
from harness.record import LaunchRecord
from harness.report.value import Report

PERCENTILES = (1, 10, 50, 90, 99)


@dataclass(frozen=True)
class Spread:
    """By candidate id: :data:`PERCENTILES` of its durations in ns. problem: what is missing."""

    values: dict[str, tuple[float, ...]]
    problem: str | None = None


def durations(report: Report, summaries: Sequence[Summary]) -> Spread:
    """Of the launches that are ranked, settling left out; candidate by candidate, to save memory.

    A throughput slice's durations are the gaps between completions, per sample.
    """
    values, damaged = {}, 0
    for summary in summaries:
        kept = []
        for launch in _ranked(report, summary.candidate.id):
            try:
                kept += list(raw_slices(report.results, launch))
            except StoreError:
                damaged += 1
        together = np.concatenate(kept) if kept else np.empty(0)
        if together.size:
            percentiles = np.percentile(together, PERCENTILES)
            values[summary.candidate.id] = tuple(max(1.0, float(each)) for each in percentiles)
    problem = f"the raw durations of {damaged} launches are damaged or gone" if damaged else None
    return Spread(values, problem)


def _ranked(report: Report, candidate: str) -> list[LaunchRecord]:
    """The candidate's launches in finished rounds; where it has none, all (as in analyse)."""
    finished = {each.round for each in report.results.rounds if each.phase == "rounds"}
    own = [
        each
        for each in report.results.launches
        if each.candidate == candidate and each.ok and not each.control and each.durations
    ]
    ended = [each for each in own if each.round in finished]
    return ended or [each for each in own if each.phase in ("screen", "rounds")]
