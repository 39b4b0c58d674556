"""The rounds of a run: a screen, then rounds with looks at the evidence, until enough is known.

With a fixed number of rounds (``measure.rounds``) nothing is screened or dropped, and the evidence
is looked at once, at the end. Once the decision is made, the best are launched alone for their
tails, and stay under load for as long as the user asked (``sustain``).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic

from harness import jobs
from harness.analysis import CALL_BOUND_NS, Analysis, Summary, analyse, launch_value
from harness.asked import Asked
from harness.evidence import SPENT, plan_looks
from harness.measure import slices
from harness.recommendation import Recommendation, check_limits, recommend
from harness.record import DropRecord, Phase, RoundRecord
from harness.runner import Entrant, Round, Runner, free_memory_bytes, nvidia_place
from harness.schedule import (
    SCREEN_FROM,
    Dropped,
    Standing,
    best_of,
    confirmed,
    hopeless,
    outdone,
    settled,
    suspects,
)
from harness.setup import Setup
from harness.stats import Answer
from harness.store import Results, Store, read
from harness.sustained import last_stretch
from harness.tails import ENOUGH_ITERATIONS, ENOUGH_LAUNCHES
from harness.types import Candidate, Scenario
from harness.watch import Watch

COMPARED: tuple[Phase, ...] = ("screen", "rounds")
"""The phases in which everyone is launched, so that times can be compared."""
SCREEN_PASSES = 2
MOST_FINALISTS = 3
"""How many of those tied with the best are launched for their tails."""
TAIL_NS = 1_000_000_000
"""A tail's launch measures at least so long, if its cap allows it."""
ENERGY_NS = 12_000_000_000
"""Of a metered stretch: 10 s, and 100 steps of a counter that moves every 100 ms, and the ends."""
REST_S = 3.0
"""Of the device's power with the engine open and nothing running, before that."""
MOST_SUSTAINED = 4
PARTS = 10
"""Of a sustained stretch: enough to see a trend, and long enough to be compared."""
LAUNCH_S = 1.5
"""What opening and warming up takes, before it is known."""

Shown = Callable[[int, int, str, float | None], None]
"""Told of progress: rounds done, rounds planned at most, what runs now, seconds left."""


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
        show: Shown,
        earlier: Results | None = None,
        floors: Callable[[Candidate], Entrant | None] = lambda _: None,
    ) -> None:
        """Go on after ``earlier``; the budget counts from now, whatever the builds took.

        floors: what launches a candidate's call without its work; asked where calls weigh much.
        """
        self._setup = setup
        self._asked = asked
        self._store = store
        self._entrants = {each.candidate.id: each for each in entrants}
        self._names = _short_names(self._entrants.values())
        self._baseline = baseline
        self._control = baseline
        self._began = monotonic()
        self._show = show
        self._make_floor = floors
        self._floors: dict[str, Entrant] | None = None
        self._outdone: frozenset[str] = frozenset()
        self._took: list[float] = []
        self._phase: Phase = "rounds"
        launches = earlier.launches if earlier else ()
        # An interrupted round is kept, and never gone on with: the next has a number of its own.
        self._next = 1 + max((launch.round for launch in launches), default=-1)
        rng = random.Random(f"{asked.seed}/{self._next}")
        self._runner = Runner(setup, asked.rules, store, rng, self._turn)
        self._runner.remember(launches)
        self._finished: Counter[Phase] = Counter(
            e.phase for e in (earlier.rounds if earlier else ())
        )
        whole = [e.round for e in (earlier.rounds if earlier else ()) if e.phase in COMPARED]
        self._last = whole[-1] if whole else -1
        self._sustained = len(last_stretch(earlier)) if earlier else 0
        gone = {each.candidate for each in launches if not each.ok}
        gone |= {each.candidate for each in (earlier.drops if earlier else ())}
        for name in gone:
            self._entrants.pop(name, None)

    def run(self) -> str:
        """Why it ended: ``done`` or ``budget``."""
        why = self._rank()
        if why == "done":
            self._tails()
            self._meter()
        if self._asked.sustain_s is not None:
            self._sustain(self._asked.sustain_s)
        done = self._finished["rounds"]
        self._show(done, done, "done", 0.0)
        return why

    def _rank(self) -> str:
        """Launch until the decision is made."""
        if self._asked.fixed_rounds is None and not self._finished["rounds"] and not self._screen():
            return "budget"
        if self._asked.fixed_rounds is None:
            self._control = self._best() or self._baseline
        most = self._asked.fixed_rounds or SPENT[-1].rounds
        while active := self._active():
            done = self._finished["rounds"]
            if done >= most or self._is_settled(done):
                break
            if not self._round("rounds", active):
                return "budget"
        return "done"

    def _active(self) -> dict[str, Entrant]:
        """Those whose launches may still tell something about the choice."""
        return {name: e for name, e in self._entrants.items() if name not in self._outdone}

    # -- the screen ----------------------------------------------------------------------------

    def _screen(self) -> bool:
        """Drop what is far slower in two short launches. False: the budget is spent."""
        if self._finished["screen"] > 1 or len(self._entrants) < SCREEN_FROM:
            return True
        if not self._finished["screen"] and not self._round("screen", self._entrants):
            return False
        standings = self._standings(self._analysis())
        first = self._times(self._last)
        if not first:
            return True
        best = best_of(first, standings)
        suspected = [name for name in suspects(first, standings) if name != self._baseline]
        if not suspected:
            return True
        again = {name: self._entrants[name] for name in (*suspected, best)}
        if not self._round("screen", again):
            return False
        self._drop(confirmed(first, self._times(self._last), suspected, best))
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
        self._outdone |= outdone(evidence, standings, keep)
        return False

    def _scenario(self) -> Scenario:
        return next(iter(self._entrants.values())).candidate.settings.scenario

    def _best(self) -> str | None:
        """The best so far by the last whole round."""
        times = self._times(self._last)
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

    # -- after the decision --------------------------------------------------------------------

    def _decision(self) -> Recommendation:
        return recommend(self._analysis(), self._asked.limits, self._asked.objective)

    def _among(self, summaries: Iterable[Summary | None], most: int) -> dict[str, Entrant]:
        """The first ``most`` of these that may still be launched, in order."""
        ids = dict.fromkeys(each.candidate.id for each in summaries if each is not None)
        known = {name: self._entrants[name] for name in ids if name in self._entrants}
        return dict(list(known.items())[:most])

    def _tails(self) -> None:
        """Launch the best and those tied with it, each alone, as long as the budget allows."""
        if not self._asked.tail_cap_s or self._asked.objective == "throughput":
            return
        decided = self._decision()
        best = [each.summary for each in decided.placed("choice", "tied")]
        finalists = self._among([decided.choice, *best], MOST_FINALISTS)
        times = {s.candidate.id: s.time_ns.value for s in best if s.time_ns is not None}
        cap_ns = self._asked.tail_cap_s * 1e9
        turns = {name: (tail_job(times[name], cap_ns),) for name in finalists}
        launch_s = max(LAUNCH_S, *self._took, 0.0)
        seconds = sum(
            launch_s + max(job.min_ns, job.min_iterations * times[name]) / 1e9
            for name, (job,) in turns.items()
        )
        while finalists and self._finished["tail"] < ENOUGH_LAUNCHES:
            if self._spent(seconds):
                return
            self._measure(
                Round(self._take_number("tail"), "tail", passes=1, turns=turns, alone=True),
                list(finalists.values()),
            )
            finalists = {name: e for name, e in finalists.items() if name in self._entrants}

    def _meter(self) -> None:
        """Launch the best, those tied with it and the baseline alone, with the GPU's meter read."""
        if not self._asked.tail_cap_s:
            return
        decided = self._decision()
        tied = [each.summary for each in decided.placed("choice", "tied")]
        best = self._among([decided.choice, *tied], MOST_FINALISTS)
        wanted = {**best, **self._among([self._analysis().baseline], 1)}
        done = {each.candidate for each in self._results().launches if each.phase == "energy"}
        chosen = {
            name: each
            for name, each in wanted.items()
            if name not in done
            and nvidia_place(each.setup or self._setup, each.candidate) is not None
        }
        each_s = max(LAUNCH_S, *self._took, 0.0) + REST_S + ENERGY_NS / 1e9
        killed = each_s > self._setup.timeout_s  # rather no energy than no choice
        if not chosen or killed or self._spent(each_s * len(chosen)):
            return
        turns = {name: (self._metered(each.candidate),) for name, each in chosen.items()}
        self._measure(
            Round(self._take_number("energy"), "energy", passes=1, turns=turns, alone=True),
            list(chosen.values()),
        )

    def _metered(self, candidate: Candidate) -> jobs.SliceJob:
        """What is ranked, for as long as a meter takes."""
        ranked = self._asked.rules.turn(candidate.settings.scenario)[0]
        return replace(ranked, min_ns=ENERGY_NS, rest_s=REST_S)

    def _sustain(self, span_s: float) -> None:
        """Keep the best, the runner-up and the baseline busy, to see whether the ranking holds."""
        if self._sustained >= PARTS or not self._finished["rounds"]:
            return
        decided = self._decision()
        tied = [each.summary for each in decided.placed("tied")]
        wanted = [decided.choice, decided.runner_up, self._analysis().baseline, *tied]
        ranked = [each.summary for each in decided.placed("admissible", "unresolved")]
        chosen = list(self._among([*wanted, *ranked], MOST_SUSTAINED).values())
        if not chosen:
            return
        chosen.append(replace(chosen[0], control=True))
        while len(chosen) > 1 and not self._runner.fit_together(chosen, free_memory_bytes()):
            chosen.pop(-2 if len(chosen) > 2 else -1)  # noqa: PLR2004 - the control goes last
        first = self._take_number("sustain")
        self._sustained = 0
        watch = Watch(self._setup, chosen)
        for part, failed in enumerate(
            self._runner.sustain(first, chosen, span_s / PARTS, PARTS), start=first
        ):
            self._keep(watch.record(part, "sustain"), failed)
            self._next, self._sustained = part + 1, self._sustained + 1
            watch = Watch(self._setup, chosen)

    # -- a round -------------------------------------------------------------------------------

    def _round(self, phase: Phase, entrants: dict[str, Entrant]) -> bool:
        """One round. False: the budget doesn't allow it."""
        everyone = [*entrants.values()]
        if self._control in entrants:
            everyone.append(replace(entrants[self._control], control=True))
        if phase == "rounds":
            everyone += self._call_floors(everyone)
        if self._spent(max(self._took, default=0.0) * len(everyone)):
            return False
        passes = min(SCREEN_PASSES, self._asked.rules.passes) if phase == "screen" else None
        took = self._measure(Round(self._take_number(phase), phase, passes), everyone)
        self._took.append(took / len(everyone))
        return True

    def _call_floors(self, others: Sequence[Entrant]) -> list[Entrant]:
        """Of the candidates that are so quick that the call counts, once a round has shown that.

        Not where they would keep the others from living together.
        """
        if self._floors is None and self._finished:
            times = {s.candidate.id: s.time_ns for s in self._analysis().summaries}
            quick = [
                each.candidate
                for name, each in self._entrants.items()
                if (time := times.get(name)) is not None and time.value < CALL_BOUND_NS
            ]
            timed = [each for each in quick if each.settings.scenario is Scenario.LATENCY]
            paused = monotonic()
            made = [self._make_floor(each) for each in {c.floor: c for c in timed}.values()]
            self._began += monotonic() - paused
            self._floors = {each.candidate.id: each for each in made if each is not None}
        floors = list((self._floors or {}).values())
        if not floors:
            return []
        free, fit = free_memory_bytes(), self._runner.fit_together
        apart = fit(others, free) and not fit([*others, *floors], free)
        return [] if apart else floors

    def _take_number(self, phase: Phase) -> int:
        number, self._next = self._next, self._next + 1
        self._phase = phase
        return number

    def _measure(self, round_: Round, entrants: Sequence[Entrant]) -> float:
        """Launch them, and keep the round; how long it took, in s."""
        watch = Watch(self._setup, entrants)
        failed = self._runner.round(round_, entrants, free_memory_bytes())
        return self._keep(watch.record(round_.number, round_.phase), failed)

    def _keep(self, record: RoundRecord, failed: Iterable[str]) -> float:
        """Record the end of a round, and let go of who failed."""
        for name in failed:
            self._entrants.pop(name, None)
            (self._floors or {}).pop(name, None)
        self._finished[record.phase] += 1
        self._last = record.round if record.phase in COMPARED else self._last
        self._store.append(record)
        return record.elapsed_s

    def _spent(self, seconds: float) -> bool:
        """Whether the budget doesn't allow so many seconds more."""
        budget = self._asked.budget_s
        return budget is not None and monotonic() - self._began + seconds > budget

    def _results(self) -> Results:
        return read(self._store.path)

    def _analysis(self) -> Analysis:
        return analyse(self._results(), under_way=True)

    def _name(self, candidate_id: str) -> str:
        floor = (self._floors or {}).get(candidate_id)
        known = self._names.get(candidate_id, candidate_id)
        return f"{floor.candidate.backend}, the call alone" if floor else known

    def _turn(self, candidate_id: str, doing: str) -> None:
        done = self._finished["rounds"]
        fixed = self._asked.fixed_rounds
        goal = fixed or next((look.rounds for look in SPENT if look.rounds > done), done)
        left = None
        if self._took and self._phase in ("screen", "rounds"):
            left = (goal - done) * len(self._active()) * sum(self._took) / len(self._took)
        name = {
            "screen": "screen",
            "rounds": f"round {done + 1} of {goal}",
            "tail": f"tails, launch {self._finished['tail'] + 1} of {ENOUGH_LAUNCHES}",
            "energy": "energy",
            "sustain": f"sustained load, part {self._sustained + 1} of {PARTS}",
        }[self._phase]
        self._show(done, goal, f"{name}: {self._name(candidate_id)}: {doing}", left)


def tail_job(time_ns: float, cap_ns: float) -> jobs.SliceJob:
    """One launch's share of the iterations that a p99 takes, or what the cap allows of it.

    time_ns: of one iteration.
    """
    settling = 2 + math.ceil(slices.SETTLING_NS / time_ns)
    wanted = math.ceil(ENOUGH_ITERATIONS / ENOUGH_LAUNCHES) + settling
    most = max(1, int(cap_ns / time_ns))
    return jobs.SliceJob("end-to-end", int(min(TAIL_NS, cap_ns)), min(wanted, most))


def _short_names(entrants: Iterable[Entrant]) -> dict[str, str]:
    """By id: the label where it is the only one of its kind, else the id."""
    candidates = [each.candidate for each in entrants]
    counts = Counter(each.label for each in candidates)
    return {each.id: each.label if counts[each.label] == 1 else each.id for each in candidates}
