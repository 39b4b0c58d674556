"""Two runs' engines measured again together, taking turns: the sharp answer to what changed.

Each side is prepared as its own run was configured, with its own model, data and interpreters, and
what is installed there now. The session is kept like a run, beside the runs of the new one's
target; its candidates carry ``@base`` and ``@new`` in their recipes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from harness.analysis import analyse
from harness.build import Builder
from harness.cache import Cache
from harness.comparison import Comparison, with_session
from harness.config import Lab, SweepConfig
from harness.errors import InputError, Problem
from harness.evidence import SPENT, Evidence
from harness.hostlock import only_one
from harness.judging import Judging, Subject
from harness.noise import between, clock_hz, read_counters
from harness.prepare import Prepared, prepare
from harness.record import EndRecord, RoundRecord, RunRecord
from harness.rounds import Asked
from harness.runner import Entrant, Runner, free_memory_bytes
from harness.stats import Verdict
from harness.store import Results, Store, read
from harness.types import Candidate

FOLDER = "comparisons"

Show = Callable[[int, int, str], None]
"""Told of progress: rounds done, rounds at most, what runs now."""


@dataclass(frozen=True)
class _Pair:
    """One candidate, as the base run and as the new run have it."""

    candidate: str
    base: Entrant
    new: Entrant

    @property
    def names(self) -> tuple[str, str]:
        return self.base.candidate.id, self.new.candidate.id


def measure_again(
    stored: Comparison,
    runs: tuple[Results, Results],
    lab: Lab,
    cache: Cache,
    *,
    budget_s: float | None = None,
    show: Show = lambda *_: None,
) -> Comparison:
    """Measure every candidate that both runs timed, until each change is decided.

    Raises InputError when a run's model or data are no longer what they were.
    """
    deadline_s = None if budget_s is None else monotonic() + budget_s
    wanted = [each.candidate for each in stored.changes]
    with cache.scratch() as folder:
        sides = [
            _Side(each, lab, cache, folder / name) for name, each in zip(TAGS, runs, strict=True)
        ]
        with only_one(f"comparison of {runs[0].run.run_id} and {runs[1].run.run_id}"):
            entrants = [side.entrants(wanted, show) for side in sides]
            pairs = [
                _Pair(c, *(e[c] for e in entrants)) for c in wanted if all(c in e for e in entrants)
            ]
            if not pairs:
                what = "no candidate of both runs can be measured again here"
                raise InputError([Problem("--interleave", what)])
            evidence = _Session(sides[1].prepared, runs, pairs, deadline_s, show=show).go()
    return with_session(stored, evidence, {each.candidate: each.names for each in pairs})


TAGS = ("base", "new")


class _Side:
    """One run, ready to be launched again."""

    def __init__(self, results: Results, lab: Lab, cache: Cache, folder: Path) -> None:
        self._results = results
        self._cache = cache
        self._folder = folder
        self._tag = folder.name
        folder.mkdir()
        run = results.run
        config = SweepConfig.from_dict(run.config, f"{results.path.name}: config")
        self.prepared = prepare(config, lab, folder)
        checked = self.prepared.checked
        for what, before, now in (
            ("model", run.model.sha256, checked.model.sha256),
            ("data", run.data.sha256, checked.data.sha256),
        ):
            if before != now:
                problem = f"the {what} of the {self._tag} run has changed since"
                fix = "compare without --interleave, or sweep again"
                raise InputError([Problem(run.run_id, problem, fix)])

    def entrants(self, wanted: Sequence[str], show: Show) -> dict[str, Entrant]:
        """By candidate id, tagged; those that can't be built or judged are left out."""
        setup, run = self.prepared.setup(), self._results.run
        candidates = [each for each in run.candidates if each.id in wanted]
        builder, engines = Builder(setup, self._cache), {}
        baseline = [each for each in run.candidates if each.id == run.baseline]
        for each in {c.engine_key: c for c in (*baseline, *candidates)}.values():
            show(0, 1, f"{self._tag}: building {each.label}")
            made = builder.make(each)
            if made.engine is not None:
                engines[each.engine_key] = (made.engine, made.record.engine_key)
        checked = self.prepared.checked
        subject = Subject(
            checked.metric, checked.data.labelled, run.baseline, self.prepared.host.fingerprint()
        )
        with Store(self._folder / "judged.jsonl") as store:
            judging = Judging(
                setup,
                subject,
                self._cache,
                store,
                engines=engines,
                earlier=self._results.accuracies,
            )
            judged = judging.all(
                list({c.id: c for c in (*baseline, *candidates)}.values()),
                lambda done, total, text: show(done, total, f"{self._tag}: checking {text}"),
            )
        return {
            each.candidate.id: replace(
                each,
                candidate=_tagged(each.candidate, self._tag),
                setup=replace(setup, rng=random.Random(0)),
            )
            for each in judged
            if each.candidate.id in wanted
        }


def _tagged(candidate: Candidate, tag: str) -> Candidate:
    return replace(candidate, recipe=f"{candidate.recipe}@{tag}")


class _Session:
    """Rounds of all pairs that aren't decided yet."""

    def __init__(
        self,
        prepared: Prepared,
        runs: tuple[Results, Results],
        pairs: Sequence[_Pair],
        deadline_s: float | None,
        *,
        show: Show,
    ) -> None:
        self._prepared = prepared
        self._runs = runs
        self._pairs = list(pairs)
        self._deadline_s = deadline_s
        self._began = monotonic()
        self._show = show
        self._done = 0

    def go(self) -> Evidence:
        """Measure; what is known at the end."""
        head = self._head()
        path = self._runs[1].path.parent / FOLDER / f"{head.run_id}.jsonl"
        why = "done"
        with Store(path) as store:
            store.append(head)
            rules = Asked.of(self._prepared.config).rules
            rng = random.Random(head.run_id)
            runner = Runner(self._prepared.setup(), rules, store, rng, self._turn)
            took = 0.0
            try:
                while self._pairs and self._done < SPENT[-1].rounds:
                    if self._deadline_s and monotonic() + took > self._deadline_s:
                        why = "budget"
                        break
                    started, before = monotonic(), read_counters(_now_ns())
                    everyone = [e for pair in self._pairs for e in (pair.base, pair.new)]
                    control = replace(everyone[0], control=True)
                    failed = runner.round(self._done, [*everyone, control], free_memory_bytes())
                    took = monotonic() - started
                    noise = between(before, read_counters(_now_ns()), clock_hz())
                    store.append(
                        RoundRecord(
                            at=datetime.now(UTC),
                            round=self._done,
                            elapsed_s=took,
                            steal=noise.steal,
                            stalled=noise.stalled,
                            throttled=noise.throttled,
                            clock_hz=noise.clock_hz,
                        )
                    )
                    self._done += 1
                    self._pairs = [p for p in self._pairs if not {*p.names} & {*failed}]
                    self._let_go(path)
            except KeyboardInterrupt:
                why = "interrupted"
            elapsed = monotonic() - self._began
            store.append(EndRecord(at=datetime.now(UTC), why=why, elapsed_s=elapsed))
        return self._evidence(read(path))

    def _let_go(self, path: Path) -> None:
        """At a planned look: pairs that are decided aren't launched again."""
        if self._done in {look.rounds for look in SPENT}:
            known = self._evidence(read(path))
            self._pairs = [p for p in self._pairs if known.verdict(*p.names) is Verdict.UNRESOLVED]

    def _evidence(self, results: Results) -> Evidence:
        analysis = analyse(results, under_way=results.end is None)
        return next(iter(analysis.comparisons.values()))

    def _turn(self, candidate_id: str, doing: str) -> None:
        text = f"round {self._done + 1}: {candidate_id}: {doing}"
        self._show(self._done, SPENT[-1].rounds, text)

    def _head(self) -> RunRecord:
        """That of the new run, with both runs' candidates."""
        now, (base, new) = datetime.now(UTC), self._runs
        entrants = [each for pair in self._pairs for each in (pair.base, pair.new)]
        measure = {k: v for k, v in new.run.config.get("measure", {}).items() if k != "rounds"}
        return new.run.model_copy(
            update={
                "at": now,
                "run_id": f"{base.run.run_id}-vs-{new.run.run_id}-{now:%H%M%S}",
                "candidates": tuple(each.candidate for each in entrants),
                "skips": (),
                "baseline": self._pairs[0].base.candidate.id,
                "config": {**new.run.config, "measure": measure},
            }
        )


def _now_ns() -> int:
    return int(monotonic() * 1e9)
