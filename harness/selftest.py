"""What this host can resolve: equal engines and known slow-downs of real work, by the protocol.

The models are chains of equal dense layers: one of 50, a hidden duplicate of it, and longer ones.
A layer more is 2 % more real work, so the truth is known without trusting a clock.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from harness import datasets, jobs
from harness.analysis import RANKED, launch_value
from harness.build import Builder
from harness.cache import Cache
from harness.errors import EnginePickError
from harness.evidence import MARGIN, SPENT, Evidence, final_looks
from harness.hostlock import only_one
from harness.noise import Tier, tier
from harness.record import LaunchRecord
from harness.runner import Entrant, Rules, Runner, free_memory_bytes
from harness.setup import Home, Setup
from harness.stats import Interval, Verdict, pair_half_width
from harness.store import Store
from harness.types import Candidate, Precision, Probe, Settings, TensorSpec

LAYERS = 50
ROWS, WIDTH = 32, 256
EXTRA_LAYERS = (1, 3, 5)
SAMPLES = 4
TIMEOUT_S = 120.0
GAPS = (0.01, 0.02, 0.03, 0.05, 0.10, 0.20)
"""Differences that a user may want decided."""


@dataclass(frozen=True)
class Trial:
    """A chain with more work against the base. ratio: its time over the base's."""

    name: str
    true_ratio: float
    ratio: Interval
    verdict: Verdict


@dataclass(frozen=True)
class Resolution:
    """How long it takes here until a difference of this size is decided; None: more than 20 rounds.

    seconds: for one pair of candidates.
    """

    gap: float
    rounds: int | None
    seconds: float | None


@dataclass(frozen=True)
class SelfTest:
    """The findings. control: the duplicate's time over its twin's. residual: the SD of a launch."""

    backend: str
    rounds: int
    elapsed_s: float
    control: Interval | None
    control_verdict: Verdict
    trials: tuple[Trial, ...]
    resolutions: tuple[Resolution, ...]
    residual: float
    run_delay: float | None
    tier: Tier

    @property
    def passed(self) -> bool:
        """Whether nothing was called faster or slower that is not."""
        wrong = self.control_verdict in (Verdict.FASTER, Verdict.SLOWER)
        return not wrong and all(trial.verdict is not Verdict.FASTER for trial in self.trials)


class _Kept(Store):
    """A store whose launches can be read back as they come."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.launches: list[LaunchRecord] = []

    def append(self, record: Any) -> None:
        if isinstance(record, LaunchRecord):
            self.launches.append(record)
        super().append(record)


def selftest(
    backend: str,
    home: Home,
    probe: Probe,
    *,
    budget_s: float,
    isa: frozenset[str] = frozenset(),
    show: Callable[[int, str], None] = lambda *_: None,
) -> SelfTest:
    """Run it on one backend's CPU, within about ``budget_s``.

    Raises EnginePickError when the backend can't build or run the chains.
    """
    began = monotonic()
    cache = Cache()
    with cache.scratch() as folder:
        chains = {
            LAYERS + extra: folder / f"chain-{LAYERS + extra}.onnx" for extra in (0, *EXTRA_LAYERS)
        }
        for layers, path in chains.items():
            write_chain(path, layers)
        setup = _setup(backend, home, probe, isa, folder)
        entrants = [
            _entrant(setup, cache, backend, path, layers) for layers, path in chains.items()
        ]
        base = entrants[0].candidate.id
        with only_one("selftest"), _Kept(folder / "launches.jsonl") as store:
            rng = random.Random(0)
            took: list[float] = []
            runner = Runner(
                setup, Rules(), store, rng, lambda *doing: show(len(took), ": ".join(doing))
            )
            everyone = [*entrants, replace(entrants[0], control=True)]
            while len(took) < SPENT[-1].rounds:
                if took and monotonic() - began + max(took) > budget_s:
                    break
                start = monotonic()
                if runner.round(len(took), everyone, free_memory_bytes()):
                    raise EnginePickError(_first_fault(store.launches))
                took.append(monotonic() - start)
        return _conclude(backend, store.launches, base, monotonic() - began, took)


def write_chain(path: Path, layers: int, rows: int = ROWS, width: int = WIDTH) -> None:
    """A chain of equal dense layers with ReLU: input ``x`` float32 [rows, width], output ``y``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for layer in range(layers):
        matrix = rng.standard_normal((width, width)) * math.sqrt(2 / width)
        weights.append(numpy_helper.from_array(matrix.astype(np.float32), f"w{layer}"))
        result = "y" if layer == layers - 1 else f"r{layer}"
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [result]))
        last = result
    value, shape = helper.make_tensor_value_info, [rows, width]
    inputs, outputs = (value(name, TensorProto.FLOAT, shape) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "chain", [inputs], [outputs], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


def _setup(backend: str, home: Home, probe: Probe, isa: frozenset[str], folder: Path) -> Setup:
    data = folder / "data.npz"
    rng = np.random.default_rng(1)
    np.savez(data, x=rng.standard_normal((SAMPLES, ROWS, WIDTH)).astype(np.float32))
    return Setup(
        model="",
        model_sha256="",
        inputs=(TensorSpec("x", "float32", (ROWS, WIDTH)),),
        validation=jobs.Samples(datasets.resolve(str(data)), "all", 0, 0),
        calibration=None,
        homes={backend: home},
        probes={backend: probe},
        isa=isa,
        timeout_s=TIMEOUT_S,
    )


def _entrant(setup: Setup, cache: Cache, backend: str, path: Path, layers: int) -> Entrant:
    """Built from its own model; the settings' option tells the chains apart in ids."""
    sha256 = datasets.resolve(setup.validation.data.source).sha256 + str(layers)
    own = replace(setup, model=str(path), model_sha256=sha256)
    candidate = Candidate(backend, Precision.FP32, "source", "cpu", Settings(threads=1))
    made = Builder(own, cache).make(candidate)
    if made.engine is None:
        raise EnginePickError(f"{backend}: {made.record.reason}")
    named = replace(candidate, recipe=f"chain-{layers}")
    return Entrant(named, made.engine, fixed="", need_bytes=200 * 2**20)


def _first_fault(launches: list[LaunchRecord]) -> str:
    return next(f"{each.candidate}: {each.reason}" for each in launches if not each.ok)


def _conclude(
    backend: str,
    launches: list[LaunchRecord],
    base: str,
    elapsed_s: float,
    took: list[float],
) -> SelfTest:
    rounds = len(took)
    logs: dict[str, dict[int, float]] = {}
    for each in launches:
        value = launch_value(each, RANKED)
        if value is not None:
            logs.setdefault("control" if each.control else each.candidate, {})[each.round] = value
    evidence = Evidence(logs, tuple(range(rounds)), final_looks(None, rounds), len(logs))
    residual = _residual(evidence)
    delays = [s for each in launches for s in each.slices if s.run_delay_ns is not None]
    waited, ran = sum(s.run_delay_ns or 0 for s in delays), sum(s.cpu_ns or 0 for s in delays)
    run_delay = waited / (waited + ran) if waited + ran else None
    trials = tuple(
        Trial(
            name=f"{LAYERS + extra} layers",
            true_ratio=(LAYERS + extra) / LAYERS,
            ratio=evidence.ratio(base, base.replace(f"chain-{LAYERS}", f"chain-{LAYERS + extra}")),
            verdict=evidence.verdict(
                base.replace(f"chain-{LAYERS}", f"chain-{LAYERS + extra}"), base
            ),
        )
        for extra in EXTRA_LAYERS
    )
    per_launch_s = sum(took) / rounds / len(logs)
    return SelfTest(
        backend=backend,
        rounds=rounds,
        elapsed_s=elapsed_s,
        control=evidence.ratio(base, "control"),
        control_verdict=evidence.verdict("control", base),
        trials=trials,
        resolutions=tuple(resolve(gap, residual, per_launch_s) for gap in GAPS),
        residual=residual,
        run_delay=run_delay,
        tier=tier(run_delay),
    )


def _residual(evidence: Evidence) -> float:
    """The SD of one launch's log time about its candidate's and its round's."""
    table = np.array([[evidence.logs[name][n] for name in evidence.ids] for n in evidence.numbers])
    rounds, groups = table.shape
    if min(rounds, groups) <= 1:
        return math.inf
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    return math.sqrt(float((rest**2).sum()) / ((rounds - 1) * (groups - 1)))


def resolve(gap: float, residual: float, per_launch_s: float) -> Resolution:
    """After how many rounds a true difference is decided in 95 of 100 sessions, for one pair.

    A difference within the margin is decided as a tie, one beyond it as a win: the interval's half
    width, and twice the standard error of the estimate for luck, must fit in what is left.
    """
    truth = math.log1p(gap)
    for look in SPENT:
        half = pair_half_width(residual, look.rounds, 1 - look.alpha)
        luck = 2 * residual * math.sqrt(2 / look.rounds)
        room = truth if truth >= MARGIN * 0.99 else MARGIN - truth
        if half + luck <= room:
            return Resolution(gap, look.rounds, look.rounds * 2 * per_launch_s)
    return Resolution(gap, None, None)
