"""Live sessions of the real protocol on engines whose truth is known.

Each session has a chain of dense layers, a hidden duplicate of it, and one with 2 % more real work,
launched in rounds until both are told or tied, with the looks and the error of a sweep. Printed:
how often each verdict came, and after how many seconds.
Run: .venv/bin/python benchmarks/live.py [--backend onnxruntime] [--sessions 30] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from traces import build

from harness.cache import Cache
from harness.chains import CONTROL, Chains, Kept, evidence
from harness.evidence import SPENT
from harness.hostlock import only_one
from harness.stats import Verdict

LAYERS, MORE = 50, 51
BASE, OTHER = f"chain-{LAYERS}", f"chain-{MORE}"
LOOKS = {look.rounds for look in SPENT}


def session(chains: Chains, store: Kept, seed: int) -> dict[str, Any]:
    """One session: the verdicts, the estimates, and after how many seconds each was decided."""
    began = monotonic()
    after: dict[str, float] = {}
    rounds = 0
    verdicts = {}
    for rounds, _ in enumerate(chains.rounds(store, seed=seed), start=1):
        if rounds not in LOOKS:
            continue
        said = evidence(store.launches, SPENT)
        verdicts = {"equal": said.verdict(CONTROL, BASE), "more": said.verdict(OTHER, BASE)}
        for name, verdict in verdicts.items():
            if verdict is not Verdict.UNRESOLVED:
                after.setdefault(name, monotonic() - began)
        if Verdict.UNRESOLVED not in verdicts.values() or rounds == max(LOOKS):
            break
    return {
        **{name: str(verdict) for name, verdict in verdicts.items()},
        "apart": said.difference(CONTROL, BASE),
        "slower": said.difference(OTHER, BASE),
        "rounds": rounds,
        "seconds": monotonic() - began,
        "decided_s": after,
    }


def summarise(found: Sequence[dict[str, Any]]) -> None:
    """Print how often each verdict came, and when."""
    for what in ("equal", "more"):
        print(what, dict(Counter(row[what] for row in found)))
        took = sorted(row["decided_s"][what] for row in found if what in row["decided_s"])
        if took:
            print(
                f"  decided after {took[len(took) // 2]:.0f} s (median), {took[-1]:.0f} s at most"
            )


def main() -> None:
    """Measure and print."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--out", type=Path, help="keeps a JSON line per session")
    args = parser.parse_args()
    found = []
    with Cache().scratch() as models, only_one("benchmarks/live.py"):
        chains = build(args.backend, models, [LAYERS, MORE])
        for number in range(args.sessions):
            with Kept(models / f"{number}.jsonl") as store:
                row = {"backend": args.backend, **session(chains, store, number)}
            found.append(row)
            print(json.dumps(row), flush=True)
            if args.out:
                with args.out.open("a") as stream:
                    stream.write(json.dumps(row) + "\n")
    summarise(found)


if __name__ == "__main__":
    main()
