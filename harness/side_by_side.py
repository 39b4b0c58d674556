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

from harness.analysis import Analysis, analyse
from harness.asked import Asked
from harness.build import Builder
from harness.cache import Cache
from harness.comparison import Comparison, with_session
from harness.config import Lab, SweepConfig
from harness.errors import InputError, Problem
from harness.evidence import SPENT
from harness.hostlock import only_one
from harness.judging import Judging
from harness.prepare import Prepared, engines_then_and_now, prepare
from harness.record import EndRecord, RunRecord
from harness.run import subject_of
from harness.runner import Entrant, Runner, free_memory_bytes
from harness.stats import Verdict
from harness.store import Results, Store, read
from harness.types import Candidate
from harness.watch import Watch

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

    budget_s: of the rounds; one is measured whatever it takes. Raises InputError when a run's
    model, data or runtimes are no longer what they were, and KeyboardInterrupt, with all that was
    measured kept, when the user ends it.
    """
    wanted = [each.candidate for each in stored.changes]
    with cache.scratch() as folder:
        sides = [
            _Side(each, lab, cache, folder / name) for name, each in zip(TAGS, runs, strict=True)
        ]
        name = f"comparison of {runs[0].run.run_id} and {runs[1].run.run_id}"
        with only_one(name, lambda holder: show(0, 1, f"waiting for {holder}")):
            old, fresh = (side.entrants(wanted, show) for side in sides)
            pairs = [_Pair(c, old[c], fresh[c]) for c in wanted if c in old and c in fresh]
            if not pairs:
                what = "no candidate of both runs can be measured again here"
                raise InputError([Problem("--interleave", what)])
            session = _Session(sides[1].prepared, runs, pairs, budget_s, show=show).go()
    names = {each.candidate: each.names for each in pairs}
    return with_session(stored, session, names, dict.fromkeys(set(old) - set(fresh), GONE))


TAGS = ("base", "new")
GONE = "it can't be built, or its outputs are wrong, while the base's can"


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
            ("the model", run.model.sha256, checked.model.sha256),
            ("the data", run.data.sha256, checked.data.sha256),
            *engines_then_and_now(results.builds, self.prepared),
        ):
            if before != now:
                problem = f"{what} of the {self._tag} run has changed since"
                fix = "compare without --interleave, or sweep again"
                raise InputError([Problem(run.run_id, problem, fix)])
        installed = {known.name: known.probe.versions for known in self.prepared.knowns}
        for probe in run.probes:
            if probe.versions and installed.get(probe.backend, probe.versions) != probe.versions:
                problem = f"{probe.backend} was another version in the {self._tag} run"
                fix = "give that run an interpreter of its own (python), or compare as stored"
                raise InputError([Problem(run.run_id, problem, fix)])

    def entrants(self, wanted: Sequence[str], show: Show) -> dict[str, Entrant]:
        """By candidate id, tagged; those that can't be built or judged are left out."""
        setup, run = self.prepared.setup(), self._results.run
        candidates = [each for each in self._results.candidates if each.id in wanted]
        builder, engines = Builder(setup, self._cache, self._results.added), {}
        baseline = [each for each in run.candidates if each.id == run.baseline]
        reference = [self.prepared.reference] if self.prepared.reference else []
        for each in {c.engine_key: c for c in (*reference, *baseline, *candidates)}.values():
            show(0, 1, f"{self._tag}: building {each.label}")
            made = builder.make(each)
            if made.engine is not None:
                engines[each.engine_key] = (made.engine, made.record.engine_key)
        subject = subject_of(self.prepared, run.candidates, run.baseline, builder.onnx())
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
        budget_s: float | None,
        *,
        show: Show,
    ) -> None:
        self._prepared = prepared
        self._runs = runs
        self._pairs = list(pairs)
        self._budget_s = budget_s
        self._began = monotonic()
        self._show = show
        self._done = 0

    def go(self) -> Analysis:
        """Measure; what is known at the end."""
        head = self._head()
        path = self._runs[1].path.parent / FOLDER / f"{head.run_id}.jsonl"
        why = "interrupted"
        with Store(path) as store:
            store.append(head)
            try:
                why = self._rounds(store, random.Random(head.run_id))
            finally:
                elapsed = monotonic() - self._began
                store.append(EndRecord(at=datetime.now(UTC), why=why, elapsed_s=elapsed))
        return analyse(read(path))

    def _rounds(self, store: Store, rng: random.Random) -> str:
        """Why they ended."""
        setup = self._prepared.setup()
        runner = Runner(setup, Asked.of(self._prepared.config).rules, store, rng, self._turn)
        took = 0.0
        while self._pairs and self._done < SPENT[-1].rounds:
            spent = monotonic() - self._began + took
            if self._done and self._budget_s is not None and spent > self._budget_s:
                return "budget"
            everyone = [e for pair in self._pairs for e in (pair.base, pair.new)]
            everyone.append(replace(everyone[0], control=True))
            watch = Watch(setup, everyone)
            failed = runner.round(self._done, everyone, free_memory_bytes())
            record = watch.record(self._done, "rounds")
            store.append(record)
            took = record.elapsed_s
            self._done += 1
            self._pairs = [p for p in self._pairs if not {*p.names} & {*failed}]
            self._let_go(store.path)
        return "done"

    def _let_go(self, path: Path) -> None:
        """At a planned look: pairs that are decided aren't launched again."""
        if self._done not in {look.rounds for look in SPENT}:
            return
        known = next(iter(analyse(read(path), under_way=True).comparisons.values()), None)
        if known is not None:
            self._pairs = [p for p in self._pairs if known.verdict(*p.names) is Verdict.UNRESOLVED]

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
