"""Run one sweep again and again, with other work on the machine, and see whether it answers alike.

Printed per run: the choice, those tied with it or not told apart from it yet, and the time it took;
then how many runs recommend the most frequent choice, or say that it is tied or not told apart.
Run: .venv/bin/python benchmarks/repeat.py SWEEP.toml [--runs 6] [--load 1] [--budget 2m]
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import load_lab, load_sweep, recommend, sweep
from harness.analysis import analyse
from harness.asked import Asked
from harness.stats import Verdict

BUSY = """
import random, time
while True:
    end = time.perf_counter() + random.expovariate(2)
    while time.perf_counter() < end:
        sum(range(1000))
    time.sleep(random.expovariate(2))
"""
"""Half a second of work, half a second of rest, on average: a neighbour that comes and goes."""


@contextmanager
def load(count: int) -> Iterator[None]:
    """So many neighbours."""
    neighbours = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for each in neighbours:
            each.kill()


def main() -> None:
    """Sweep and print."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--load", type=int, default=1)
    parser.add_argument("--budget", default=None)
    args = parser.parse_args()
    choices: list[str] = []
    answers: list[set[str]] = []
    with tempfile.TemporaryDirectory() as out, load(args.load):
        for number in range(args.runs):
            wishes = {"out": out, "budget": args.budget, "seed": random.randrange(1000)}
            config = load_sweep(args.config, {**wishes, "measure.tail_cap_s": 0})
            began = time.monotonic()
            results = sweep(config, load_lab(None))
            took = time.monotonic() - began
            analysis = analyse(results)
            decided = recommend(analysis, Asked.of(config).limits, config.objective)
            choice = analysis.name(decided.choice) if decided.choice else str(decided.void)
            tied = [analysis.name(each.summary) for each in decided.placed("tied")]
            near = [
                analysis.name(each.summary)
                for each in decided.placed("admissible", "unresolved")
                if each.against_best is Verdict.UNRESOLVED
            ]
            choices.append(choice)
            answers.append({choice, *tied, *near})
            launches = sum(each.phase in ("screen", "rounds") for each in results.launches)
            told = f", tied with {', '.join(tied)}" if tied else ""
            told += f", not told apart from {', '.join(near)}" if near else ""
            print(f"{number + 1}: {choice}{told} ({launches} launches, {took:.0f} s)", flush=True)
    winner, _ = Counter(choices).most_common(1)[0]
    alike = sum(winner in answer for answer in answers)
    print(f"{alike} of {len(answers)} runs recommend {winner}, or don't tell it from their choice")


if __name__ == "__main__":
    main()
