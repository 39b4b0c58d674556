"""What this host can resolve: equal engines and known slow-downs of real work, by the protocol.

The models are chains of equal dense layers: one of 50, a hidden duplicate of it, and longer ones.
A layer more is 2 % more real work, so the truth is known without trusting a clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import numpy as np

from harness.cache import Cache
from harness.chains import CONTROL, Chains, Kept, evidence
from harness.evidence import MARGIN, SPENT, Evidence, final_looks
from harness.hostlock import only_one
from harness.noise import Tier, tier
from harness.record import LaunchRecord
from harness.setup import Home
from harness.stats import Interval, Verdict, pair_half_width
from harness.types import Probe

LAYERS = 50
EXTRA_LAYERS = (1, 3, 5)
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
    lengths = [LAYERS + extra for extra in (0, *EXTRA_LAYERS)]
    cache = Cache()
    with cache.scratch() as folder:
        chains = Chains.build(backend, home, probe, lengths, folder, cache=cache, isa=isa)
        with only_one("selftest"), Kept(folder / "launches.jsonl") as store:
            took: list[float] = []
            rounds = chains.rounds(store, show=lambda *doing: show(len(took), ": ".join(doing)))
            while len(took) < SPENT[-1].rounds:
                if took and monotonic() - began + max(took) > budget_s:
                    break
                took.append(next(rounds))
        return _conclude(backend, store.launches, monotonic() - began, took)


def _conclude(
    backend: str,
    launches: list[LaunchRecord],
    elapsed_s: float,
    took: list[float],
) -> SelfTest:
    rounds, base = len(took), f"chain-{LAYERS}"
    found = evidence(launches, final_looks(None, rounds))
    residual = _residual(found)
    delays = [s for each in launches for s in each.slices if s.run_delay_ns is not None]
    waited, ran = sum(s.run_delay_ns or 0 for s in delays), sum(s.cpu_ns or 0 for s in delays)
    run_delay = waited / (waited + ran) if waited + ran else None
    trials = tuple(
        Trial(
            name=f"{LAYERS + extra} layers",
            true_ratio=(LAYERS + extra) / LAYERS,
            ratio=found.ratio(base, f"chain-{LAYERS + extra}"),
            verdict=found.verdict(f"chain-{LAYERS + extra}", base),
        )
        for extra in EXTRA_LAYERS
    )
    per_launch_s = sum(took) / rounds / len(found.logs)
    return SelfTest(
        backend=backend,
        rounds=rounds,
        elapsed_s=elapsed_s,
        control=found.ratio(base, CONTROL),
        control_verdict=found.verdict(CONTROL, base),
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
