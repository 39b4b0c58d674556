"""How often our verdicts are right, and what the usual shortcuts would have said on the same data.

Sessions are cut out of recorded traces (`traces.py`): so many consecutive rounds from a random
start, or rounds drawn at random, judged as a live session would judge them. Printed: A/A, power,
coverage of the intervals, and the same sessions judged by the usual shortcuts; drawn beside each
other with --plot.
Run: .venv/bin/python benchmarks/validate.py TRACE.jsonl ... [--sessions 2000] [--plot FILE]
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from traces import BASE, EXTRA, Trace, read_trace

from harness.analysis import RANKED, launch_value
from harness.chains import CONTROL, name_of
from harness.evidence import ALPHA, MARGIN, SPENT, Evidence, Look
from harness.stats import Verdict, verdict

Array = np.ndarray[Any, Any]
BASE_NAME = f"chain-{BASE}"
FIXED = 5
"""Rounds of a session of fixed length: what the shortcuts are given too."""
ONCE = (Look(FIXED, ALPHA),)


@dataclass(frozen=True)
class Table:
    """A trace's log times [rounds, names], and each launch's durations by name and round."""

    name: str
    names: tuple[str, ...]
    logs: Array
    raw: dict[tuple[str, int], Array]
    seconds_per_launch: float


def table_of(trace: Trace) -> Table:
    """Rounds in order."""
    values = {(name_of(e), e.round): launch_value(e, RANKED) for e in trace.launches}
    names = tuple(dict.fromkeys(sorted(name for name, _ in values)))
    rounds = sorted({number for _, number in values})
    logs = np.array([[values[name, number] for name in names] for number in rounds], dtype=float)
    place = {number: row for row, number in enumerate(rounds)}
    raw = {
        (name_of(e), place[e.round]): np.concatenate(trace.durations(e)).astype(float)
        for e in trace.launches
        if name_of(e) in {BASE_NAME, CONTROL, f"chain-{BASE + 2}"}
    }
    times = [each.at for each in trace.launches]
    seconds = (max(times) - min(times)).total_seconds() / max(1, len(times) - len(names))
    return Table(trace.path.stem, names, logs, raw, seconds)


def sessions(table: Table, length: int, count: int, *, consecutive: bool) -> Iterator[Array]:
    """The rows of ``count`` sessions."""
    rng = np.random.default_rng(0)
    total = len(table.logs)
    for _ in range(count):
        if consecutive:
            start = int(rng.integers(0, total - length + 1))
            yield np.arange(start, start + length)
        else:
            yield rng.choice(total, length, replace=False)


def evidence(table: Table, rows: Array, names: Sequence[str], looks: tuple[Look, ...]) -> Evidence:
    """These rounds as a session of these candidates."""
    columns = [table.names.index(name) for name in names]
    part = table.logs[np.ix_(rows, columns)]
    logs = {name: dict(enumerate(part[:, n])) for n, name in enumerate(names)}
    return Evidence(logs, tuple(range(len(rows))), looks, len(names))


def decided_after(found: Evidence, ours: str, theirs: str) -> tuple[Verdict, int]:
    """The verdict, and after how many rounds it was reached (all, if never)."""
    for seen in found.seen:
        said = verdict(*seen.pair(ours, theirs), found.margin)
        if said is not Verdict.UNRESOLVED:
            return said, seen.look.rounds
    return Verdict.UNRESOLVED, found.rounds


def power(table: Table, count: int, *, consecutive: bool) -> None:
    """A/A and known slow-downs, all candidates in one session of up to 20 rounds."""
    names = [BASE_NAME, CONTROL, *(f"chain-{BASE + extra}" for extra in EXTRA)]
    counts: dict[str, dict[Verdict, int]] = {name: dict.fromkeys(Verdict, 0) for name in names[1:]}
    after: dict[str, list[int]] = {name: [] for name in names[1:]}
    for rows in sessions(table, SPENT[-1].rounds, count, consecutive=consecutive):
        found = evidence(table, rows, names, SPENT)
        for name in names[1:]:
            said, rounds = decided_after(found, name, BASE_NAME)
            counts[name][said] += 1
            after[name].append(rounds)
    drawn = "consecutive rounds" if consecutive else "rounds at random"
    print(f"\n{table.name}: {count} sessions of up to {SPENT[-1].rounds} {drawn}")
    head = " ".join(f"{each:>7}" for each in ("SLOWER", "FASTER", "TIED", "open"))
    print(f"{'truth':>8} {'measured':>9}  {head}   rounds  seconds/pair")
    for name in names[1:]:
        truth = "equal" if name == CONTROL else f"+{int(name.split('-')[1]) - BASE} %"
        shares = [counts[name][v] / count for v in (Verdict.SLOWER, Verdict.FASTER, Verdict.TIED)]
        shares.append(counts[name][Verdict.UNRESOLVED] / count)
        cells = " ".join(f"{100 * share:6.1f}%" for share in shares)
        rounds = float(np.mean(after[name]))
        pair_s = 2 * rounds * table.seconds_per_launch
        whole = 100 * math.expm1(true_difference(table, name))
        print(f"{truth:>8} {whole:+8.1f}%  {cells}   {rounds:6.1f}  {pair_s:8.1f}")


def true_difference(table: Table, name: str) -> float:
    """What the whole trace says of a candidate against the base: a log-ratio."""
    means = table.logs.mean(axis=0)
    return float(means[table.names.index(name)] - means[table.names.index(BASE_NAME)])


def coverage(table: Table, count: int) -> None:
    """Whether a session's 95 % interval holds what the whole trace says."""
    names = [BASE_NAME, CONTROL, *(f"chain-{BASE + extra}" for extra in EXTRA)]
    truth = {name: true_difference(table, name) for name in names}
    print(
        f"\n{table.name}: coverage of {FIXED}-round intervals (truth: all {len(table.logs)} rounds)"
    )
    for label, family in (("one pair at a time", None), ("all pairs of six at once", names)):
        inside = tried = 0
        for rows in sessions(table, FIXED, count, consecutive=True):
            all_in = True
            for name in names[1:]:
                members = family or [BASE_NAME, name]
                seen = evidence(table, rows, members, ONCE).seen[0]
                difference, half = seen.pair(name, BASE_NAME)
                within = abs(difference - truth[name]) <= half
                all_in &= within
                if family is None:
                    inside += within
                    tried += 1
            if family is not None:
                inside += all_in
                tried += 1
        print(f"  {label}: {100 * inside / tried:.1f} %")


# -- the usual shortcuts, on the same data ---------------------------------------------------------

Judge = Callable[[Table, Array, str], bool]
"""Whether ``other`` is called different from the base."""


def by_ours(table: Table, rows: Array, other: str) -> bool:
    """Launches of both in every round, paired."""
    found = evidence(table, rows[:FIXED], [BASE_NAME, other], ONCE)
    return found.verdict(other, BASE_NAME) in (Verdict.FASTER, Verdict.SLOWER)


def by_one_run(table: Table, rows: Array, other: str) -> bool:
    """One run of each, one after the other: the medians differ by more than 2 %."""
    first, second = table.raw[BASE_NAME, rows[0]], table.raw[other, rows[1]]
    return abs(math.log(np.median(second) / np.median(first))) > MARGIN


def by_iterations(table: Table, rows: Array, other: str) -> bool:
    """Mann and Whitney's test over the iterations of one run of each."""
    first, second = table.raw[BASE_NAME, rows[0]], table.raw[other, rows[1]]
    return bool(stats.mannwhitneyu(first, second).pvalue < ALPHA)


def by_pooled_iterations(table: Table, rows: Array, other: str) -> bool:
    """Welch's t test over the iterations of all runs of each, the runs in blocks."""
    half = FIXED
    first = np.concatenate([table.raw[BASE_NAME, row] for row in rows[:half]])
    second = np.concatenate([table.raw[other, row] for row in rows[half : 2 * half]])
    return bool(stats.ttest_ind(first, second, equal_var=False).pvalue < ALPHA)


def by_blocks(table: Table, rows: Array, other: str) -> bool:
    """All runs of one, then all of the other; Welch's t test over the runs' medians."""
    base, theirs = table.names.index(BASE_NAME), table.names.index(other)
    first = table.logs[rows[:FIXED], base]
    second = table.logs[rows[FIXED : 2 * FIXED], theirs]
    return bool(stats.ttest_ind(first, second, equal_var=False).pvalue < ALPHA)


SHORTCUTS: dict[str, Judge] = {
    "one run each,\nmedians 2 % apart": by_one_run,
    "one run each, iterations,\nMann-Whitney": by_iterations,
    "5 runs each in blocks,\niterations, t test": by_pooled_iterations,
    "5 runs each in blocks,\nmedians, t test": by_blocks,
    "ours: 5 rounds in turns,\nlaunches in pairs": by_ours,
}


def shortcuts(table: Table, count: int) -> dict[str, tuple[float, float]]:
    """By judge: the share of sessions that call equal engines, and 2 % more work, different."""
    found = {}
    print(f"\n{table.name}: called different, of {count} sessions   equal engines   2 % more work")
    for name, judge in SHORTCUTS.items():
        shares = []
        for other in (CONTROL, f"chain-{BASE + 2}"):
            drawn = sessions(table, 2 * FIXED, count, consecutive=True)
            shares.append(sum(judge(table, rows, other) for rows in drawn) / count)
        found[name] = (shares[0], shares[1])
        flat = name.replace("\n", " ")
        print(f"  {flat:<55} {100 * shares[0]:10.1f} % {100 * shares[1]:13.1f} %")
    return found


def draw(found: dict[str, dict[str, tuple[float, float]]], path: Path) -> None:
    """The plot that explains the product."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    figure.suptitle(
        "The same recorded launches, judged in five ways", x=0.01, ha="left", fontweight="bold"
    )
    titles = ("equal engines called different\n(should be 5 % at most)", "2 % more work noticed\n")
    names = list(SHORTCUTS)
    height = 0.8 / len(found)
    for side, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        for number, (trace, shares) in enumerate(found.items()):
            colour = ("#0072B2", "#E69F00", "#009E73")[number % 3]
            places = [row + number * height for row in range(len(names))]
            values = [100 * shares[name][side] for name in names]
            axis.barh(places, values, height * 0.92, color=colour, label=trace)
            for place, value in zip(places, values, strict=True):
                axis.text(value + 1, place, f"{value:.0f} %", va="center", fontsize=8)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlim(0, 115)
        axis.set_xlabel("% of the sessions")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", color="#dddddd")
        axis.set_axisbelow(True)
    axes[0].axvline(5, color="#D55E00", ls="--", lw=1)
    axes[0].set_yticks([row + height * (len(found) - 1) / 2 for row in range(len(names))], names)
    axes[0].get_yticklabels()[-1].set_fontweight("bold")
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(found), frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


# -- made-up hosts, which are worse than this one --------------------------------------------------


def drifting(rng: np.random.Generator, rounds: int, names: int) -> Array:
    """All of a round slow down together by a tenth over the session, and jitter by 0.5 %."""
    trend = np.linspace(0, 0.1, rounds)[:, np.newaxis]
    return trend + rng.normal(0, 0.005, (rounds, names))


def bimodal(rng: np.random.Generator, rounds: int, names: int) -> Array:
    """A launch in four lands on a layout that is 3 % slower."""
    return 0.03 * (rng.random((rounds, names)) < 0.25) + rng.normal(0, 0.003, (rounds, names))


def autocorrelated(rng: np.random.Generator, rounds: int, names: int) -> Array:
    """The host's mood wanders (AR(1), 0.9), each launch feels it a little differently."""
    mood = np.zeros(rounds)
    for number in range(1, rounds):
        mood[number] = 0.9 * mood[number - 1] + rng.normal(0, 0.03)
    felt = 1 + rng.normal(0, 0.05, (rounds, names))
    return mood[:, np.newaxis] * felt + rng.normal(0, 0.005, (rounds, names))


HOSTS = {"drifting": drifting, "bimodal": bimodal, "autocorrelated": autocorrelated}


@dataclass(frozen=True)
class Rates:
    """Shares of the sessions. false: some equal pair was called different. tied: of the pairs.

    found: the candidate that is 5 % slower was called so. covered: all pairs' intervals hold the
    truth.
    """

    false: float
    tied: float
    found: float
    covered: float


def rates(make: Callable[[np.random.Generator, int, int], Array], count: int) -> Rates:
    """Sessions of equal candidates on a made-up host, and one that is 5 % slower."""
    rng, names = np.random.default_rng(1), 6
    false = tied = hit = inside = 0
    pairs = math.comb(names - 1, 2)
    for _ in range(count):
        logs = make(rng, SPENT[-1].rounds, names)
        logs[:, -1] += math.log(1.05)
        ids = [str(n) for n in range(names)]
        by_name = {each: dict(enumerate(logs[:, n])) for n, each in enumerate(ids)}
        found = Evidence(by_name, tuple(range(len(logs))), SPENT, names)
        said = [found.verdict(a, b) for n, a in enumerate(ids[:-1]) for b in ids[n + 1 : -1]]
        false += any(each in (Verdict.FASTER, Verdict.SLOWER) for each in said)
        tied += said.count(Verdict.TIED)
        hit += found.verdict(ids[-1], ids[0]) is Verdict.SLOWER
        once = Evidence(by_name, tuple(range(FIXED)), ONCE, names).seen[0]
        inside += all(
            abs(difference - (math.log(1.05) if b == ids[-1] else 0.0)) <= half
            for n, a in enumerate(ids)
            for b in ids[n + 1 :]
            for difference, half in [once.pair(b, a)]
        )
    return Rates(false / count, tied / count / pairs, hit / count, inside / count)


def synthetic(count: int) -> None:
    """Print the rates on each made-up host."""
    print(f"\nmade-up hosts, {count} sessions each, 6 candidates, the last 5 % slower")
    print(f"{'host':>16}  any equal pair called different   tied   5 % found   coverage")
    for name, make in HOSTS.items():
        seen = rates(make, count)
        print(
            f"{name:>16}  {100 * seen.false:20.1f} %  {100 * seen.tied:14.1f} %"
            f" {100 * seen.found:9.1f} % {100 * seen.covered:9.1f} %"
        )


def main() -> None:
    """Judge the traces."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("traces", type=Path, nargs="*")
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    drawn = {}
    for path in args.traces:
        table = table_of(read_trace(path))
        if len(table.logs) < SPENT[-1].rounds:
            sys.exit(
                f"{path}: only {len(table.logs)} rounds; {SPENT[-1].rounds} and more are needed"
            )
        power(table, args.sessions, consecutive=True)
        power(table, args.sessions, consecutive=False)
        coverage(table, args.sessions // 4)
        drawn[table.name] = shortcuts(table, args.sessions // 10)
    synthetic(args.sessions // 4)
    if args.plot and drawn:
        draw(drawn, args.plot)


if __name__ == "__main__":
    main()
