"""The rounds of a run: a screen, then rounds with looks at the evidence, until enough is known.

With a fixed number of rounds (``measure.rounds``) nothing is screened or dropped, and the evidence
is looked at once, at the end.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Literal

from harness.analysis import Analysis, analyse, launch_value
from harness.config import SweepConfig
from harness.evidence import SPENT, plan_looks
from harness.noise import between, clock_hz, read_counters
from harness.recommendation import Limits, check_limits
from harness.record import DropRecord, RoundRecord
from harness.runner import Entrant, Rules, Runner, free_memory_bytes
from harness.schedule import (
    SCREEN_FROM,
    Dropped,
    Standing,
    best_of,
    confirmed,
    hopeless,
    settled,
    suspects,
)
from harness.setup import Setup
from harness.stats import Answer
from harness.store import Results, Store, read
from harness.types import Scenario

Phase = Literal["screen", "rounds"]
SCREEN_PASSES = 2

Shown = Callable[[int, int, str, float | None], None]
"""Told of progress: rounds done, rounds planned at most, what runs now, seconds left."""


@dataclass(frozen=True)
class Asked:
    """What the rounds are for: the part of the configuration that decides when enough is known."""

    objective: str
    limits: Limits
    fixed_rounds: int | None
    budget_s: float | None
    seed: int
    rules: Rules

    @classmethod
    def of(cls, config: SweepConfig) -> Asked:
        """From the configuration."""
        measure, limits = config.measure, config.constraints
        return cls(
            objective=config.objective,
            limits=limits_of(limits),
            fixed_rounds=measure.rounds,
            budget_s=config.budget_s,
            seed=config.seed,
            rules=Rules(
                passes=measure.passes,
                slice_ns=measure.slice_ms * 1_000_000,
                warmup_iterations=measure.warmup_iterations,
                warmup_cap_ns=int(measure.warmup_cap_s * 1e9),
                live_memory_fraction=measure.live_memory_fraction,
            ),
        )


def limits_of(constraints: object) -> Limits:
    """The constraints of a configuration as the recommendation takes them."""
    names = ("max_accuracy_drop", "max_latency_ns", "max_memory_bytes", "max_size_bytes")
    return Limits(**{name: getattr(constraints, name) for name in names})


class Rounds:
    """Launches candidates until the decision is made, or as long as the budget lasts."""

    def __init__(
        self,
        setup: Setup,
        asked: Asked,
        store: Store,
        entrants: Iterable[Entrant],
        *,
        baseline: str | None,
        began: float,
        show: Shown,
        earlier: Results | None = None,
    ) -> None:
        """Go on after ``earlier``. began: the monotonic time that the budget counts from."""
        self._asked = asked
        self._store = store
        self._entrants = {each.candidate.id: each for each in entrants}
        self._names = _short_names(self._entrants.values())
        self._baseline = baseline
        self._control = baseline
        self._began = began
        self._show = show
        self._took: list[float] = []
        launches = earlier.launches if earlier else ()
        # An interrupted round is kept, and never gone on with: the next has a number of its own.
        self._next = 1 + max((launch.round for launch in launches), default=-1)
        rng = random.Random(f"{asked.seed}/{self._next}")
        self._runner = Runner(setup, asked.rules, store, rng, self._turn)
        self._runner.remember(launches)
        self._finished = {"screen": 0, "rounds": 0}
        for record in earlier.rounds if earlier else ():
            self._finished[record.phase] += 1
        gone = {each.candidate for each in launches if not each.ok}
        gone |= {each.candidate for each in (earlier.drops if earlier else ())}
        for name in gone:
            self._entrants.pop(name, None)

    def run(self) -> str:
        """Why it ended: ``done`` or ``budget``."""
        if self._asked.fixed_rounds is None and not self._finished["rounds"] and not self._screen():
            return "budget"
        if self._asked.fixed_rounds is None:
            self._control = self._best() or self._baseline
        most = self._asked.fixed_rounds or SPENT[-1].rounds
        while self._entrants:
            done = self._finished["rounds"]
            if done >= most or self._is_settled(done):
                break
            if not self._round("rounds", self._entrants):
                return "budget"
        self._show(self._finished["rounds"], self._finished["rounds"], "done", 0.0)
        return "done"

    # -- the screen ----------------------------------------------------------------------------

    def _screen(self) -> bool:
        """Drop what is far slower in two short launches. False: the budget is spent."""
        if self._finished["screen"] or len(self._entrants) < SCREEN_FROM:
            return True
        if not self._round("screen", self._entrants):
            return False
        standings = self._standings(self._analysis())
        first = self._times(self._next - 1)
        if not first:
            return True
        best = best_of(first, standings)
        suspected = [name for name in suspects(first, standings) if name != self._baseline]
        if not suspected:
            return True
        again = {name: self._entrants[name] for name in (*suspected, best)}
        if not self._round("screen", again):
            return False
        self._drop(confirmed(first, self._times(self._next - 1), suspected, best))
        return True

    def _times(self, number: int) -> dict[str, float]:
        """The log times of one round."""
        launches = [each for each in self._results().launches if each.round == number and each.ok]
        values = {
            each.candidate: launch_value(each, ("end-to-end", "throughput"))
            for each in launches
            if not each.control
        }
        return {name: value for name, value in values.items() if value is not None}

    # -- looks ---------------------------------------------------------------------------------

    def _is_settled(self, done: int) -> bool:
        """At a planned look: drop the hopeless, and say whether the choice is known."""
        if self._asked.fixed_rounds is not None:
            return False
        if done not in {look.rounds for look in plan_looks(None)}:
            return False
        analysis = self._analysis()
        evidence = analysis.comparisons.get(self._scenario())
        if evidence is None:
            return False
        standings = self._standings(analysis)
        if self._asked.objective in ("memory", "size") or settled(evidence, standings):
            return True
        keep = frozenset({name for name in (self._baseline, self._control) if name})
        out = hopeless(evidence, standings, keep)
        self._drop([each for each in out if each.candidate in self._entrants])
        return False

    def _scenario(self) -> Scenario:
        return next(iter(self._entrants.values())).candidate.settings.scenario

    def _best(self) -> str | None:
        """The best so far by whatever was measured last."""
        times = self._times(self._next - 1) if self._next else {}
        known = {name: time for name, time in times.items() if name in self._entrants}
        return best_of(known, self._standings(self._analysis())) if known else None

    def _standings(self, analysis: Analysis) -> dict[str, Standing]:
        limits, objective = self._asked.limits, self._asked.objective
        memory = objective == "memory" or limits.max_memory_bytes is not None
        size = objective == "size" or limits.max_size_bytes is not None
        return {
            each.candidate.id: Standing(
                possible=all(
                    check.answer is not Answer.MISSES for check in check_limits(each, limits)
                ),
                drop=each.drop.value if each.drop else None,
                memory_bytes=each.memory_bytes if memory else 0.0,
                size_bytes=each.size_bytes if size else 0.0,
            )
            for each in analysis.summaries
        }

    def _drop(self, dropped: Iterable[Dropped]) -> None:
        labels = {name: each.candidate.label for name, each in self._entrants.items()}
        for each in dropped:
            self._entrants.pop(each.candidate, None)
            self._store.append(
                DropRecord(
                    at=datetime.now(UTC),
                    candidate=each.candidate,
                    round=self._next - 1,
                    reason=each.reason.replace(each.rival, labels.get(each.rival, each.rival)),
                )
            )

    # -- a round -------------------------------------------------------------------------------

    def _round(self, phase: Phase, entrants: dict[str, Entrant]) -> bool:
        """One round. False: the budget doesn't allow it."""
        if self._over_budget(len(entrants)):
            return False
        number, self._next = self._next, self._next + 1
        self._phase = phase
        everyone = [*entrants.values()]
        if self._control in entrants:
            everyone.append(replace(entrants[self._control], control=True))
        passes = min(SCREEN_PASSES, self._asked.rules.passes) if phase == "screen" else None
        began, before = monotonic(), read_counters(_now_ns())
        failed = self._runner.round(number, everyone, free_memory_bytes(), phase, passes)
        noise = between(before, read_counters(_now_ns()), clock_hz())
        for name in failed:
            self._entrants.pop(name, None)
        took = monotonic() - began
        self._took.append(took / len(everyone))
        self._finished[phase] += 1
        self._store.append(
            RoundRecord(
                at=datetime.now(UTC),
                round=number,
                phase=phase,
                elapsed_s=took,
                steal=noise.steal,
                stalled=noise.stalled,
                throttled=noise.throttled,
                clock_hz=noise.clock_hz,
            )
        )
        return True

    def _over_budget(self, entrants: int) -> bool:
        if self._asked.budget_s is None:
            return False
        expected = max(self._took, default=0.0) * (entrants + 1)
        return monotonic() - self._began + expected > self._asked.budget_s

    def _results(self) -> Results:
        return read(self._store.path)

    def _analysis(self) -> Analysis:
        return analyse(self._results(), under_way=True)

    def _turn(self, candidate_id: str, doing: str) -> None:
        done = self._finished["rounds"]
        fixed = self._asked.fixed_rounds
        goal = fixed or next((look.rounds for look in SPENT if look.rounds > done), done)
        left = None
        if self._took:
            left = (goal - done) * len(self._entrants) * sum(self._took) / len(self._took)
        name = "screen" if self._phase == "screen" else f"round {done + 1} of {goal}"
        self._show(done, goal, f"{name}: {self._names.get(candidate_id)}: {doing}", left)


def _short_names(entrants: Iterable[Entrant]) -> dict[str, str]:
    """By id: the label where it is the only one of its kind, else the id."""
    candidates = [each.candidate for each in entrants]
    counts = Counter(each.label for each in candidates)
    return {each.id: each.label if counts[each.label] == 1 else each.id for each in candidates}


def _now_ns() -> int:
    return int(monotonic() * 1e9)
