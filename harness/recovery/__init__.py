"""What to do when static int8 fails the accuracy budget: mixed precision that is certified.

Variants are looked for on calibration samples alone: a shared Q/DQ file's by
:mod:`harness.recovery.search`, a backend's own recipe's among the ways that the backend offers.
Validation samples then certify the best of them, from the safest to the fastest, and stop at the
first that isn't certified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic

from harness import jobs, variants
from harness.analysis import Summary, analyse, engine_key
from harness.backend import Offer
from harness.build import Builder
from harness.certificates import Drop
from harness.judging import Judge, Judged, Judging
from harness.record import AddRecord, DropRecord, RecoveryRecord
from harness.recovery import ladder
from harness.recovery.ladder import quality_of
from harness.runner import Entrant
from harness.setup import Setup, ask_parent_side
from harness.stats import Answer
from harness.store import Results, Store, read
from harness.types import Candidate, Precision, Stage, Status, Tried

GRACE_S = 60.0
"""A search ends itself in time; beyond this it hangs."""

Show = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Failure:
    """A recipe of static int8 that failed, with the candidates that it failed for.

    backend: None for a shared recipe, whose file serves all of them.
    """

    recipe: variants.Recipe
    backend: str | None
    candidates: tuple[Candidate, ...]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.backend} {self.recipe.name}" if self.backend else self.recipe.name


def find_failures(results: Results, limit: float) -> list[Failure]:
    """The recipes of static int8 that aren't certified and come too near to the limit for it."""
    analysis = analyse(results, under_way=True)
    parameters = {engine_key(each): each.recipe_parameters for each in results.builds}
    done = {(each.recipe, each.backend) for each in results.recoveries}
    done_names = {each.candidate.recipe for each in results.added}
    groups: dict[tuple[variants.Recipe, str | None], list[Candidate]] = {}
    for summary in analysis.summaries:
        candidate = summary.candidate
        if not _failed(summary, limit) or candidate.recipe in done_names:
            continue
        recipe = variants.Recipe(candidate.recipe, parameters[candidate.engine_key])
        backend = None if candidate.recipe in variants.SHARED else candidate.backend
        if (recipe.name, backend) not in done:
            groups.setdefault((recipe, backend), []).append(candidate)
    return [Failure(recipe, backend, tuple(own)) for (recipe, backend), own in groups.items()]


def _failed(summary: Summary, limit: float) -> bool:
    drop, executed = summary.drop, summary.executed
    if summary.candidate.precision is not Precision.INT8:
        return False
    if summary.status is Status.INVALID:  # outputs that can't be right, of what did run in int8
        return executed is not None and executed.share("int8") > 0
    return (
        summary.status is Status.OK
        and drop is not None
        and drop.judge(limit) is not Answer.MEETS
        and drop.value > limit / 2
    )


class Recovery:
    """Looks for certified mixed precision, as long as ``seconds`` allow."""

    def __init__(
        self,
        setup: Setup,
        store: Store,
        builder: Builder,
        judging: Judging,
        calibrating: Judge,
        *,
        offers: Iterable[tuple[str, Offer]],
        limit: float,
        seconds: float,
        show: Show,
    ) -> None:
        """calibrating: judges on the calibration samples. offers: with their backends' names."""
        self._setup = setup
        self._store = store
        self._builder = builder
        self._judging = judging
        self._calibrating = calibrating
        self._ways = {(name, each.recipe): each.alternatives for name, each in offers}
        self._limit = limit
        self._deadline = monotonic() + seconds
        self._show = show

    def run(self) -> list[Entrant]:
        """The certified variants, which may be timed."""
        failures = find_failures(read(self._store.path), self._limit)
        entrants: list[Entrant] = []
        for done, failure in enumerate(failures):
            self._show(done, len(failures), f"why {failure.name} fails")
            seconds = (self._deadline - monotonic()) / (len(failures) - done)
            if seconds <= 0:
                refusal = RecoveryRecord(
                    at=datetime.now(UTC),
                    status=Status.TIMEOUT,
                    reason="the time for recovery was over before",
                    recipe=failure.recipe.name,
                    backend=failure.backend,
                )
                self._store.append(refusal)
                continue
            record = self._search(failure, seconds)
            self._store.append(record)
            self._show(done, len(failures), f"certifying what may replace {failure.name}")
            entrants += self._validate(failure, record)
        self._show(len(failures), len(failures), "done")
        return entrants

    # -- on calibration samples ----------------------------------------------------------------

    def _search(self, failure: Failure, seconds: float) -> RecoveryRecord:
        start = monotonic()
        found = (
            self._in_file(failure, seconds)
            if failure.backend is None
            else self._own(failure, start + seconds)
        )
        record = RecoveryRecord(
            at=datetime.now(UTC),
            recipe=failure.recipe.name,
            backend=failure.backend,
            elapsed_s=monotonic() - start,
        )
        if isinstance(found, jobs.Refused):
            return record.model_copy(update=found.outcome())
        names = ("metric", "samples", "steps", "sensitivity", "proposals", "stopped")
        return record.model_copy(update={name: getattr(found, name) for name in names})

    def _in_file(self, failure: Failure, seconds: float) -> jobs.Searched | jobs.Refused:
        setup = self._setup
        model = self._builder.onnx()
        assert setup.calibration is not None
        assert model is not None, "what failed was made of it"
        job = jobs.SearchJob(
            recipe=failure.recipe.name,
            parameters=failure.recipe.params,
            source=model,
            inputs=setup.inputs,
            calibration=setup.calibration,
            metric=self._calibrating.metric,
            limit=self._limit,
            seconds=seconds,
            threads=failure.candidates[0].settings.threads or 0,
        )
        return ask_parent_side(job, jobs.Searched, Stage.VARIANT, seconds + GRACE_S)

    def _own(self, failure: Failure, deadline: float) -> jobs.Searched | jobs.Refused:
        """The ways that the backend itself offers, each judged on the calibration samples."""
        candidate, judge = failure.candidates[0], self._calibrating
        reference = self._judging.on(judge)
        if reference is None:
            return jobs.Refused(Status.FAILED, Stage.ACCURACY, "there is no reference", None)
        steps: list[Tried] = []
        stopped = None
        for way in self._ways.get((candidate.backend, candidate.recipe), ()):
            if monotonic() > deadline:
                stopped = "its time was over"
                break
            step = self._try(failure, candidate, way, reference)
            steps += [step] if step is not None else []
        known = [(place, quality_of(each)) for place, each in enumerate(steps)]
        return jobs.Searched(
            samples=judge.samples,
            metric=judge.metric,
            steps=tuple(steps),
            sensitivity=(),
            proposals=tuple(ladder.proposals(known, self._limit, samples=judge.samples)),
            stopped=stopped,
        )

    def _try(
        self,
        failure: Failure,
        candidate: Candidate,
        way: tuple[tuple[str, str], ...],
        reference: Judged,
    ) -> Tried | None:
        """One way of the backend's; None where it can't be built or run."""
        start = monotonic()
        filled = [(name, value or f"{self._limit / 2:g}") for name, value in way]
        params = tuple(sorted({**dict(failure.recipe.params), **dict(filled)}.items()))
        what = " ".join(f"{name} {value}" for name, value in filled).replace("_", " ")
        trial = replace(candidate, recipe=f"{candidate.recipe} by {what}")
        self._builder.add(_added(trial, candidate, failure.recipe.name, params))
        made = self._builder.make(trial)
        if made.engine is None:
            return None
        judged = self._calibrating.candidate(
            trial, made.engine, made.record.engine_key, reference.as_reference
        )
        drop = judged.worse_than(reference)
        sqnr = judged.record.agreement.sqnr_db if judged.record.agreement else None
        return Tried(what, params, (), drop, sqnr, None, int((monotonic() - start) * 1e9))

    # -- on validation samples -----------------------------------------------------------------

    def _validate(self, failure: Failure, record: RecoveryRecord) -> list[Entrant]:
        """Of each candidate, the proposals in order until the first that isn't certified."""
        entrants: list[Entrant] = []
        going = failure.candidates
        for place in record.proposals:
            step = record.steps[place]
            name = recipe_name(failure.recipe, step)
            still = []
            for candidate in going:
                new = replace(candidate, recipe=name)
                found = self._certify(new, candidate, failure, step)
                entrants += found or []
                still += [candidate] if found is None or found else []
            going = tuple(still)
        return entrants

    def _certify(
        self, new: Candidate, origin: Candidate, failure: Failure, step: Tried
    ) -> list[Entrant] | None:
        """The entrant; none if it isn't certified; None where nothing was judged."""
        added = _added(new, origin, failure.recipe.name, step.parameters)
        self._store.append(added)
        self._builder.add(added)
        made = self._builder.make(new)
        self._store.append(made.record)
        if made.engine is None:
            return None
        entrants = self._judging.one(new, (made.engine, made.record.engine_key))
        if not entrants:
            return None
        drop = drop_of(read(self._store.path), new)
        if drop is not None and drop.judge(self._limit) is Answer.MEETS:
            return entrants
        more = drop.more_samples(self._limit) if drop is not None else None
        told = f"; about {more:,} more would" if more else ""
        reason = f"not certified by the validation samples, and so not timed{told}"
        self._store.append(
            DropRecord(at=datetime.now(UTC), candidate=new.id, round=-1, reason=reason)
        )
        return []


def drop_of(results: Results, candidate: Candidate) -> Drop | None:
    """How much worse a candidate is than the reference, by the records so far."""
    summary = analyse(results, under_way=True).summary(candidate.id)
    return summary.drop if summary else None


def recipe_name(failed: variants.Recipe, step: Tried) -> str:
    """What a variant is called: what failed, and what was changed of it."""
    before, now = dict(failed.params), dict(step.parameters)
    changed = {key: value for key, value in now.items() if before.get(key) != value}
    parts = [failed.name]
    if {"calibration", "percentile"} & set(changed):
        parts.append(now["calibration"] + now.get("percentile", ""))
    parts += ["7bit"] if changed.get("reduce_range") == "yes" else []
    usual = ("calibration", "percentile", "reduce_range", "exclude")
    parts += [
        f"{key}-{value}".replace("_", "-") for key, value in changed.items() if key not in usual
    ]
    parts += [f"keep{len(step.layers)}"] if step.layers else []
    return "-".join(parts)


def _added(
    new: Candidate, origin: Candidate, recipe: str, params: tuple[tuple[str, str], ...]
) -> AddRecord:
    return AddRecord(
        at=datetime.now(UTC),
        candidate=new,
        origin=origin.id,
        recipe=recipe,
        recipe_parameters=params,
    )
