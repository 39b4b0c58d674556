"""What an adaptive sweep would have decided, and in what part of the time, against exhaustive runs.

Each exhaustive run (`enginepick sweep ... --exhaustive`) is replayed: the scheduler of a sweep asks
for launches, and gets recorded ones, round by round in random order. Its choice is compared with
that of all 20 rounds. Printed per run: how often the choice is the exhaustive one or tied with it,
the regret (how much slower the choice truly is than the best), and the launches it took.
Run: .venv/bin/python benchmarks/regret.py RUN.jsonl ... [--sessions 100]
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from harness.analysis import Analysis, analyse
from harness.asked import Asked
from harness.config import SweepConfig
from harness.evidence import MARGIN
from harness.recommendation import Recommendation, recommend
from harness.record import EndRecord, LaunchRecord
from harness.rounds import Rounds
from harness.runner import Entrant, Round
from harness.store import Results, Store, read


class Replay:
    """Stands in for the runner: a launch asked for is a recorded one."""

    def __init__(self, results: Results, store: Store, rng: random.Random) -> None:
        self._store = store
        finished = [each.round for each in results.rounds if each.phase == "rounds"]
        self._order = rng.sample(finished, len(finished))
        self._kept = {(e.candidate, e.control, e.round): e for e in results.launches}
        self._controls = {e.round: e for e in results.launches if e.control}
        self._asked = 0
        self.launches = 0.0

    def round(self, round_: Round, entrants: Sequence[Entrant], _free: int) -> list[str]:
        """Append this round's launches."""
        source = self._order[self._asked % len(self._order)]
        self._asked += 1
        for each in entrants:
            kept = self._kept.get((each.candidate.id, each.control, source))
            if kept is None and each.control:  # another candidate had a twin in the recorded run
                continue
            assert kept is not None
            self._store.append(_as_asked(kept, round_))
            self.launches += 1
        return []


def _as_asked(kept: LaunchRecord, round_: Round) -> LaunchRecord:
    """The recorded launch under another number, with as many passes as were asked for."""
    slices = kept.slices
    if round_.passes is not None:
        per_pass = len({each.timed for each in slices})
        slices = slices[: round_.passes * per_pass]
    update = {"round": round_.number, "phase": round_.phase, "slices": slices, "durations": None}
    return kept.model_copy(update=update)


@dataclass(frozen=True)
class Session:
    """One replayed sweep. share: its launches over those of the exhaustive run."""

    right: bool
    regret: float
    share: float
    rounds: int


def replay(results: Results, truth: Analysis, answer: Recommendation, seed: int) -> Session:
    """One adaptive sweep on the recorded launches."""
    rng = random.Random(seed)
    config = SweepConfig.from_dict(results.run.config)
    measure = config.measure.model_copy(update={"rounds": None, "tail_cap_s": 0.0})
    asked = Asked.of(config.model_copy(update={"measure": measure, "seed": seed}))
    run = results.run.model_copy(
        update={"config": {**run_config(results), "objective": asked.objective}}
    )
    usable = {each.candidate for each in results.launches if each.ok}
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        path = Path(folder) / "run.jsonl"
        with Store(path) as store:
            store.append(run)
            for each in results.builds:
                store.append(each)
            for judged in results.accuracies:
                scores = judged.scores
                block = store.block(results.numbers(scores)) if scores is not None else None
                store.append(judged.model_copy(update={"scores": block}))
            entrants = [
                Entrant(each, cast("Any", None), "", 0)
                for each in run.candidates
                if each.id in usable
            ]
            rounds = Rounds(
                cast("Any", None),
                asked,
                store,
                entrants,
                baseline=run.baseline,
                show=lambda *_: None,
            )
            replayed = Replay(results, store, rng)
            rounds._runner = cast("Any", replayed)  # noqa: SLF001 - the only part that isn't real
            why = rounds.run()
            store.append(EndRecord(at=run.at, why=why, elapsed_s=1.0))
        found = analyse(read(path))
    decided = recommend(found, asked.limits, asked.objective)
    exhaustive = sum(each.phase == "rounds" for each in results.launches)
    count = next(iter(found.comparisons.values())).rounds
    chosen = decided.choice.candidate.id if decided.choice else None
    best = answer.choice.candidate.id if answer.choice else None
    tied = {each.summary.candidate.id for each in decided.placed("choice", "tied")}
    regret = math.inf
    if chosen and best:
        scenario = next(iter(truth.comparisons.values()))
        regret = max(0.0, scenario.difference(chosen, best)) if chosen != best else 0.0
    return Session(best in tied, regret, replayed.launches / exhaustive, count)


def run_config(results: Results) -> dict[str, Any]:
    """As it was, without the fixed number of rounds."""
    config = dict(results.run.config)
    config["measure"] = {k: v for k, v in config.get("measure", {}).items() if k != "rounds"}
    return config


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def main() -> None:
    """Replay and print."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--sessions", type=int, default=100)
    args = parser.parse_args()
    print(
        f"{'model':<32} {'k':>3} {'winner or tie':>13} {'regret > 2 %':>12} {'mean regret':>11}"
        f" {'launches':>9} {'rounds':>7}   the exhaustive answer"
    )
    for path in args.runs:
        results = read(path)
        truth = analyse(results)
        config = SweepConfig.from_dict(results.run.config)
        answer = recommend(truth, Asked.of(config).limits, config.objective)
        found = [replay(results, truth, answer, seed) for seed in range(args.sessions)]
        right = np.mean([each.right for each in found])
        beyond = np.mean([each.regret > MARGIN for each in found])
        regret = np.mean([min(each.regret, 1.0) for each in found])
        share = np.mean([each.share for each in found])
        rounds = np.mean([each.rounds for each in found])
        tied = [truth.name(each.summary) for each in answer.placed("tied")]
        chosen = truth.name(answer.choice) if answer.choice else "none"
        told = chosen + (f", tied with {', '.join(tied)}" if tied else "")
        print(
            f"{results.run.model.name[:24]:<24} {config.objective[:7]:<7}"
            f" {len(results.run.candidates):>3} {100 * right:>11.0f} %"
            f" {100 * beyond:>10.0f} % {100 * regret:>9.2f} %"
            f" {100 * share:>7.0f} % {rounds:>7.1f}   {told}",
            flush=True,
        )


if __name__ == "__main__":
    main()
