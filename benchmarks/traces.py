"""Record long interleaved traces of engines whose true differences are known.

Chains of dense layers, each with so many percent more real work than the first, and a hidden
duplicate of the first, round after round by the real protocol. `validate.py` cuts sessions out of
such a trace, to see how often the verdicts are right.
Run: .venv/bin/python benchmarks/traces.py FOLDER [--backend onnxruntime] [--rounds 60]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from harness import prepare
from harness.cache import Cache
from harness.chains import Chains, Kept, name_of
from harness.host import probe_host
from harness.hostlock import only_one
from harness.record import LaunchRecord, from_json
from harness.store import read_block

BASE = 100
EXTRA = (1, 2, 5, 10)
"""Layers more than the base: percent of more work."""


@dataclass(frozen=True)
class Trace:
    """A recorded trace. Its sidecar has the raw durations."""

    path: Path
    launches: tuple[LaunchRecord, ...]

    def durations(self, launch: LaunchRecord) -> list[np.ndarray[Any, Any]]:
        """Of each end-to-end slice, in order, without what settles at its start; ns."""
        assert launch.durations is not None
        numbers = read_block(self.path.with_suffix(".bin"), launch.durations)
        ends = np.cumsum([each.iterations for each in launch.slices])[:-1]
        parts = zip(np.split(numbers, ends), launch.slices, strict=True)
        return [part[each.settling :] for part, each in parts if each.timed == "end-to-end"]


def read_trace(path: Path) -> Trace:
    """The launches of a trace's file."""
    records = [from_json(line) for line in path.read_bytes().splitlines()]
    return Trace(path, tuple(each for each in records if isinstance(each, LaunchRecord)))


def build(backend: str, folder: Path, lengths: list[int]) -> Chains:
    """The chains for one backend of this host."""
    home = prepare.find_home(backend, {})
    if home is None:
        sys.exit(f"no backend {backend}")
    known = prepare.find_backend(backend, home)
    if known.probe.problem is not None:
        sys.exit(f"{backend}: {known.probe.problem}")
    isa = frozenset(probe_host().cpu.isa)
    return Chains.build(backend, home, known.probe, lengths, folder, isa=isa)


def main() -> None:
    """Record."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder / f"{args.backend}.jsonl"
    if path.exists():
        sys.exit(f"{path} exists")
    with Cache().scratch() as models, only_one("benchmarks/traces.py"), Kept(path) as store:
        chains = build(args.backend, models, [BASE + extra for extra in (0, *EXTRA)])
        began = monotonic()
        for number, _ in enumerate(chains.rounds(store), start=1):
            print(f"\r{number} rounds, {monotonic() - began:.0f} s", end="", flush=True)
            if number >= args.rounds:
                break
    names = {name_of(each) for each in store.launches}
    print(f"\n{path}: {len(store.launches)} launches of {', '.join(sorted(names))}")


if __name__ == "__main__":
    main()
