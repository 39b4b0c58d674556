"""Live sessions of the real protocol on engines whose truth is known.

Each session has a chain of dense layers, a hidden duplicate of it, and one with 2 % more real work,
launched in rounds until both are told or tied, with the looks and the error of a sweep. Printed:
how often each verdict came, after how many rounds and seconds.
Run: .venv/bin/python benchmarks/live.py [--backend onnxruntime] [--sessions 30] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import monotonic

from traces import build

from harness.cache import Cache
from harness.chains import CONTROL, Kept, evidence
from harness.evidence import SPENT
from harness.hostlock import only_one
from harness.stats import Verdict

LAYERS, MORE = 50, 51


def main() -> None:
    """Measure and print."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--out", type=Path, help="keeps a JSON line per session")
    args = parser.parse_args()
    looks = {look.rounds for look in SPENT}
    base, other = f"chain-{LAYERS}", f"chain-{MORE}"
    found = []
    with Cache().scratch() as models, only_one("benchmarks/live.py"):
        chains = build(args.backend, models, [LAYERS, MORE])
        for number in range(args.sessions):
            with Kept(models / f"{number}.jsonl") as store:
                began = monotonic()
                for rounds, _ in enumerate(chains.rounds(store, seed=number), start=1):
                    if rounds not in looks:
                        continue
                    said = evidence(store.launches, SPENT)
                    verdicts = [said.verdict(name, base) for name in (CONTROL, other)]
                    if Verdict.UNRESOLVED not in verdicts or rounds == max(looks):
                        break
                row = {
                    "backend": args.backend,
                    "equal": str(verdicts[0]),
                    "more": str(verdicts[1]),
                    "apart": said.difference(CONTROL, base),
                    "slower": said.difference(other, base),
                    "rounds": rounds,
                    "seconds": monotonic() - began,
                }
                found.append(row)
                print(json.dumps(row), flush=True)
                if args.out:
                    with args.out.open("a") as stream:
                        stream.write(json.dumps(row) + "\n")
    for what in ("equal", "more"):
        counts = {each: sum(row[what] == each for row in found) for each in map(str, Verdict)}
        print(what, {name: count for name, count in counts.items() if count})
    print(f"median {sorted(row['seconds'] for row in found)[len(found) // 2]:.0f} s a session")


if __name__ == "__main__":
    main()
