"""How often accuracy certificates are wrong with the true drop at the limit, and what they cost.

Takes runs (``results/<target>/<run>.jsonl``): each candidate's scores and the reference's on the
same samples are taken for the population, whose true drop is known, and validation sets are drawn
from it. Without runs, simulated scores. Two tables: errors at the boundary, of our bounds and, for
metrics that are means, of Student's t; then the samples that it takes to decide about a limit of
1 %: for four of five validation sets by the fixed-size test, on average by the sequential one.
Run: .venv/bin/python benchmarks/certificates.py [RUN.jsonl ...] [--sessions 1000] [--json F]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from harness.aggregates import value_of, weighted_values
from harness.analysis import accuracy_scores
from harness.certificates import CERTIFIED_ALPHA, REFUSED_ALPHA, Drop, paired_drop
from harness.evalues import Watch
from harness.record import AccuracyRecord
from harness.stats import Answer
from harness.store import Results, read

Array = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator, int], tuple[Array, Array]]

LIMIT = 0.01
MOST = 40_000
"""Samples after which a test counts as undecided."""


@dataclass(frozen=True)
class Case:
    """Where validation sets come from. draw: the reference's and the candidate's scores [n].

    scale: how much a sample can differ at most. metric: of all rows [n, width]; None: a mean.
    """

    name: str
    drop: float
    draw: Draw
    higher: bool = True
    scale: float | None = 1.0
    metric: str | None = None

    def judged(self, reference: Array, candidate: Array) -> Drop:
        """The fixed-size test."""
        better = self.higher
        if self.metric is None:
            scale = self.scale
            return paired_drop(reference, candidate, higher_is_better=better, scale=scale)
        value, values = partial(value_of, self.metric), partial(weighted_values, self.metric)
        return paired_drop(
            reference, candidate, higher_is_better=better, value=value, values=values
        )


# -- simulated -------------------------------------------------------------------------------------


def right_or_wrong(loss: float, gain: float) -> Case:
    """Scores of 0 and 1."""

    def draw(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
        chance = rng.random(count)
        lost, won = chance < loss, chance > 1 - gain
        return 1.0 - won, 1.0 - lost

    return Case(f"binary, {loss:.1%} lost, {gain:.1%} won", loss - gain, draw)


def rates_of_characters(lines: float, most: float = 1.0) -> Case:
    """Like 1 - CER: most lines are as before, some lose 0.2 to 1 of their characters."""

    def draw(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
        return np.ones(count), 1 - (rng.random(count) < lines) * rng.uniform(0.2, most, count)

    mean = lines * (0.2 + most) / 2
    return Case(f"characters, {lines:.1%} of the lines lose 20 to {100 * most:.0f} %", mean, draw)


def errors(name: str, mean: float, noise: Callable[[np.random.Generator, int], Array]) -> Case:
    """Like MAE: nearly every sample differs, by noise of that mean, and there is no scale."""

    def draw(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
        reference = rng.gamma(4.0, 0.25, count)
        return reference, reference + noise(rng, count)

    return Case(name, mean, draw, higher=False, scale=None)


BOUNDARY = [
    right_or_wrong(0.01, 0.0),
    right_or_wrong(0.011, 0.001),
    right_or_wrong(0.06, 0.05),
    right_or_wrong(0.2, 0.15),
    rates_of_characters(0.005),
    rates_of_characters(0.02),
    rates_of_characters(0.2),
    errors("errors, normal differences", 0.01, lambda rng, n: rng.normal(0.01, 0.02, n)),
    errors("errors, exponential differences", 0.01, lambda rng, n: rng.exponential(0.01, n)),
    errors(
        "errors, heavy tails (t, 3 d.o.f.)", 0.01, lambda r, n: 0.01 + 0.01 * r.standard_t(3, n)
    ),
]

POWER = [
    right_or_wrong(0.0, 0.0),
    right_or_wrong(0.002, 0.0),
    right_or_wrong(0.005, 0.005),
    right_or_wrong(0.02, 0.015),
    right_or_wrong(0.025, 0.005),
    right_or_wrong(0.05, 0.0),
    right_or_wrong(0.2, 0.0),
    right_or_wrong(0.9, 0.0),
    rates_of_characters(0.005),
    rates_of_characters(0.05),
    rates_of_characters(0.3),
]


# -- real ------------------------------------------------------------------------------------------


def populations(results: Results) -> Iterator[Case]:
    """One for each candidate that differs from the reference in some sample."""
    scores = accuracy_scores(results)
    seen = set()
    for record in results.accuracies:
        theirs, ours = scores.get(record.reference or ""), scores.get(record.candidate)
        if theirs is None or ours is None or theirs.shape != ours.shape or record.stopped:
            continue
        if (theirs == ours).all() or ours.tobytes() in seen:
            continue
        seen.add(ours.tobytes())
        name = f"{results.run.model.name[:20]} {record.candidate.split('/cpu')[0]}"
        yield _population(name, record, theirs, ours)


def _population(name: str, record: AccuracyRecord, theirs: Array, ours: Array) -> Case:
    metric, width, higher = record.metric, record.width, record.higher_is_better
    shape = (-1, width) if width > 1 else (-1,)
    reference, candidate = theirs.reshape(shape), ours.reshape(shape)

    def draw(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
        picked = rng.integers(0, len(reference), count)
        return reference[picked], candidate[picked]

    if width > 1:
        values = value_of(metric, reference), value_of(metric, candidate)
        assert None not in values
        drop = float(values[0] or 0.0) - float(values[1] or 0.0)
    else:
        drop = float((reference - candidate).mean())
    share = bool(min(theirs.min(), ours.min()) >= 0 and max(theirs.max(), ours.max()) <= 1)
    return Case(
        f"{name} ({len(reference)})",
        drop if higher else -drop,
        draw,
        higher,
        1.0 if share and higher else None,
        metric if width > 1 else None,
    )


# -- what is asked ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errors:
    """Rates with the true drop as the limit; ``t``: of Student's t, None where it isn't a mean."""

    case: str
    drop: float
    samples: int
    certified: float
    refused: float
    t_certified: float | None
    t_refused: float | None


def errors_at_the_boundary(case: Case, samples: int, sessions: int) -> Errors:
    """Of so many validation sets. Rounding doesn't decide whether a drop is within the limit."""
    rng = np.random.default_rng(0)
    ours, students = [], []
    for _ in range(sessions):
        drawn = case.draw(rng, samples)
        drop = case.judged(*drawn)
        ours.append((drop.high <= case.drop + 1e-9, drop.low > case.drop + 1e-9))
        if case.metric is None:
            low, high = _students(*drawn, higher=case.higher)
            students.append((high <= case.drop + 1e-9, low > case.drop + 1e-9))
    return Errors(
        case.name,
        case.drop,
        samples,
        *(float(rate) for rate in np.mean(ours, axis=0)),
        *([float(rate) for rate in np.mean(students, axis=0)] if students else [None, None]),
    )


def _students(reference: Array, candidate: Array, *, higher: bool) -> tuple[float, float]:
    worse = (reference - candidate) if higher else (candidate - reference)
    error = worse.std(ddof=1) / np.sqrt(len(worse))
    below, above = stats.t.isf([REFUSED_ALPHA, CERTIFIED_ALPHA], len(worse) - 1)
    return worse.mean() - below * error, worse.mean() + above * error


@dataclass(frozen=True)
class Samples:
    """How many it takes to decide; None: more than ``MOST``, or it is never decided.

    fixed: that four of five validation sets decide. sequential: on average, claims at any time.
    wrong: the part of the sequential sessions that claimed what isn't true.
    """

    case: str
    drop: float
    claim: str
    fixed: int | None
    sequential: int | None
    wrong: float


def samples_to_decide(case: Case, sessions: int) -> Samples:
    """About the limit of 1 %."""
    claim = "certified" if case.drop < LIMIT else "refused"
    stops = [_stopped(case, claim, seed) for seed in range(sessions)]
    means = [count for count, _ in stops]
    return Samples(
        case.name,
        case.drop,
        claim,
        _fixed(case, claim, sessions),
        None if max(means) >= MOST else round(float(np.mean(means))),
        float(np.mean([wrong for _, wrong in stops])),
    )


def _stopped(case: Case, claim: str, seed: int) -> tuple[int, bool]:
    """The samples until a claim, looked at 22 times per doubling, and whether it was the other."""
    rng = np.random.default_rng(seed)
    watch = Watch(LIMIT, case.higher, scale=case.scale)
    other = {"certified": "refused", "refused": "certified"}[claim]
    while watch.samples < MOST and not getattr(watch, claim):
        watch.add(*case.draw(rng, max(1, watch.samples // 32)))
        if getattr(watch, other):
            return watch.samples, True
    return watch.samples, False


def _fixed(case: Case, claim: str, sessions: int) -> int | None:
    """Searched on a grid with steps of 5 %."""
    wanted = {"certified": Answer.MEETS, "refused": Answer.MISSES}[claim]
    rng = np.random.default_rng(0)

    def decides(samples: int) -> bool:
        answers = [case.judged(*case.draw(rng, samples)).judge(LIMIT) for _ in range(sessions)]
        return float(np.mean([answer is wanted for answer in answers])) >= 0.8

    grid = np.unique(np.geomspace(2, MOST, 200).round().astype(int))
    low, high = -1, len(grid)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(int(grid[middle])) else (middle, high)
    return int(grid[high]) if high < len(grid) else None


# -- printed ---------------------------------------------------------------------------------------


def _show_errors(found: Sequence[Errors]) -> None:
    print(f"{'errors at the boundary':<52} {'drop':>7} {'n':>5} {'certified':>9} {'refused':>8}")
    for each in found:
        told = ""
        if each.t_certified is not None and each.t_refused is not None:
            told = f"   (t: {each.t_certified:.1%}, {each.t_refused:.1%})"
        print(
            f"{each.case:<52} {each.drop:>7.4f} {each.samples:>5}"
            f" {each.certified:>9.1%} {each.refused:>8.1%}{told}"
        )


def _show_samples(found: Sequence[Samples]) -> None:
    print(
        f"\n{'samples to decide about 1 %':<52} {'drop':>7} {'':>9} {'fixed':>6} {'sequential':>10}"
    )
    for each in found:
        fixed, sequential = (
            f"> {MOST}" if count is None else str(count) for count in (each.fixed, each.sequential)
        )
        wrong = f"   (wrong: {each.wrong:.1%})" if each.wrong else ""
        print(
            f"{each.case:<52} {each.drop:>7.4f} {each.claim:>9} {fixed:>6} {sequential:>10}{wrong}"
        )


def main() -> None:
    """Measure and print."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    real = [case for path in args.runs for case in populations(read(path))]
    boundary, power = (real, real) if args.runs else (BOUNDARY, POWER)
    wrong = [
        errors_at_the_boundary(case, samples, args.sessions)
        for case in boundary
        for samples in args.samples
    ]
    _show_errors(wrong)
    decisions = [
        samples_to_decide(case, max(2, args.sessions // 10)) for case in power if not case.metric
    ]
    _show_samples(decisions)
    if args.json:
        found = {"errors": [*map(asdict, wrong)], "samples": [*map(asdict, decisions)]}
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
