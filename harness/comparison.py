"""Two stored runs -> what got better or worse, candidate by candidate. Pure.

The runs were not interleaved: the host may have been in another mood. Each candidate's launches are
compared unpaired, and the interval is widened by how much the level of an unchanged engine differs
from run to run: known from other runs of the same engine, else taken from how much this host's
level moves between the rounds of one run, which is the least that it can be. Measured side by side
(:mod:`harness.side_by_side`) the same question has a sharper answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from harness.analysis import (
    LEAST_LAUNCHES,
    RANKED,
    Analysis,
    Summary,
    accuracy_scores,
    analyse,
    engine_key,
    launch_value,
)
from harness.certificates import Drop
from harness.evidence import ALPHA, MARGIN, Evidence
from harness.noise import Tier, tier
from harness.record import RunRecord
from harness.scoring import drop_between
from harness.stats import (
    ENOUGH,
    Interval,
    Verdict,
    geometric_interval,
    verdict,
)
from harness.store import Results
from harness.types import Array, Scenario, Status

NOTABLE = 1.05
"""Memory and size that grew by less are the same."""

ALLOWED_DROP, TOLERATED = 0.01, 0.1
"""A metric that fell by less than a tenth of the drop that was allowed is the same."""

INPUTS, CANDIDATES = "model inputs", "candidates"
"""Differences that measuring side by side doesn't mend."""

ENOUGH_RUNS = 3
"""So many runs of one engine tell how much its level differs from run to run."""


@dataclass(frozen=True)
class Difference:
    """Something about the two runs that isn't alike. voids: times can't be compared then."""

    what: str
    base: str
    new: str
    voids: bool = False


@dataclass(frozen=True)
class Spread:
    """The SD of a run's log level. runs: of how many it is known; 0: guessed from rounds."""

    deviation: float
    freedom: int
    runs: int = 0


@dataclass(frozen=True)
class Change:
    """One candidate in both runs. time, memory: the new over the base's.

    drop: of the new run's metric against the base's on the same samples; None: not comparable.
    tolerance: a drop that certainly exceeds it is a regression. fault: why the new one couldn't be
    measured again although the base's could.
    """

    candidate: str
    base: Summary
    new: Summary
    time: Interval | None
    verdict: Verdict
    drop: Drop | None
    memory: float | None
    tolerance: float = 0.0
    fault: str | None = None

    @property
    def size(self) -> float | None:
        """The new engine's size over the base's."""
        old, fresh = self.base.size_bytes, self.new.size_bytes
        return fresh / old if old and fresh is not None else None

    @property
    def worse(self) -> tuple[str, ...]:
        """What certainly got worse, in words."""
        if self.new.status is not Status.OK:
            return (f"{self.new.status}: {self.new.reason}",)
        if self.fault is not None:
            return (self.fault,)
        return tuple(self._worse())

    def _worse(self) -> Iterator[str]:
        time, drop = self.time, self.drop
        if self.verdict is Verdict.SLOWER and time is not None:
            yield f"{time.value:.3g} times the time (95 % {time.low:.3g} to {time.high:.3g})"
        elif self.time is None and self.new.dropped and not self.base.dropped:
            yield f"now out early: {self.new.dropped}"
        if drop is not None and drop.low > self.tolerance:
            yield f"the metric is worse by {drop.value:.3g} (at least {drop.low:.3g} at 95 %)"
        for noun, ratio in (("memory", self.memory), ("engine", self.size)):
            if ratio is not None and ratio > NOTABLE:
                yield f"{noun} {ratio:.3g} times as large"


@dataclass(frozen=True)
class Comparison:
    """The answer. changes: of the candidates that both runs have; interleaved: measured together.

    missing: candidates of the base run that the new one doesn't have, and the other way round.
    rounds: of the side-by-side session. control: its null control.
    """

    base: RunRecord
    new: RunRecord
    differences: tuple[Difference, ...]
    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    spread: Spread | None
    interleaved: bool = False
    rounds: int = 0
    control: Interval | None = None

    @property
    def void(self) -> tuple[Difference, ...]:
        """Why times can't be compared; empty: they can."""
        return tuple(each for each in self.differences if each.voids)

    @property
    def regressed(self) -> tuple[Change, ...]:
        """The candidates that got worse in anything."""
        return tuple(each for each in self.changes if each.worse)


@dataclass(frozen=True)
class _Side:
    """One of the two runs. scores: of each validation sample, by candidate id."""

    results: Results
    analysis: Analysis
    scores: Mapping[str, Array]

    @classmethod
    def of(cls, results: Results) -> _Side:
        return cls(results, analyse(results), accuracy_scores(results))

    @property
    def run(self) -> RunRecord:
        return self.results.run


def compare(base: Results, new: Results, others: Iterable[Results] = ()) -> Comparison:
    """Compare two runs as they were stored. others: further runs that tell the host's moods."""
    before, after = _Side.of(base), _Side.of(new)
    spread = run_spread([base, new, *others]) or _round_spread(before.analysis, after.analysis)
    timed = {s.candidate.id: s for s in before.analysis.summaries if _was_timed(s)}
    planned = {each.id for each in new.candidates}
    common = [
        s for s in after.analysis.summaries if s.candidate.id in timed and s.candidate.id in planned
    ]
    limit = new.run.config.get("constraints", {}).get("max_accuracy_drop", ALLOWED_DROP)
    tolerance = TOLERATED * limit
    changes = tuple(
        Change(
            s.candidate.id,
            timed[s.candidate.id],
            s,
            *_unpaired(before.analysis, after.analysis, s, spread, len(common)),
            _drop(before, after, s.candidate.id),
            _memory(before, after, s.candidate.id),
            tolerance,
        )
        for s in common
    )
    return Comparison(
        base=base.run,
        new=new.run,
        differences=tuple(_differences(before, after)),
        changes=changes,
        missing=tuple(sorted({each.id for each in base.candidates} ^ planned)),
        spread=spread,
    )


def with_session(
    stored: Comparison,
    session: Analysis,
    names: Mapping[str, tuple[str, str]],
    faults: Mapping[str, str],
) -> Comparison:
    """The same with the times of a side-by-side session.

    names: candidate id to (base's, new's) in the session. faults: why a new one wasn't in it.
    """
    evidence = next(iter(session.comparisons.values()), None)
    changes = tuple(_again(each, session, evidence, names, faults) for each in stored.changes)
    kept = [
        each if each.what in (INPUTS, CANDIDATES) else replace(each, voids=False)
        for each in stored.differences
    ]
    if session.void:
        kept.append(Difference("side by side", "", f"void: {session.void}", voids=True))
    return replace(
        stored,
        differences=tuple(kept),
        changes=changes,
        spread=None,
        interleaved=True,
        rounds=evidence.rounds if evidence else 0,
        control=geometric_interval(np.array(evidence.control)) if evidence else None,
    )


def _again(
    change: Change,
    session: Analysis,
    evidence: Evidence | None,
    names: Mapping[str, tuple[str, str]],
    faults: Mapping[str, str],
) -> Change:
    if change.candidate not in names:
        fault = faults.get(change.candidate)
        return replace(change, time=None, verdict=Verdict.UNRESOLVED, fault=fault)
    old, fresh = names[change.candidate]
    summaries = session.summary(old), session.summary(fresh)
    broke = [s is not None and s.status is not Status.OK for s in summaries]
    fault = None
    if broke == [False, True] and summaries[1] is not None:
        fault = f"{summaries[1].status} in the session: {summaries[1].reason}"
    if evidence is None or not {old, fresh} <= set(evidence.logs) or any(broke):
        return replace(change, time=None, verdict=Verdict.UNRESOLVED, fault=fault)
    # The speed of the base's over the new's is the time of the new over the base's.
    time, said = evidence.ratio(old, fresh), evidence.verdict(fresh, old)
    return replace(change, time=time, verdict=said, fault=fault)


# -- times -----------------------------------------------------------------------------------------


def run_spread(runs: Sequence[Results]) -> Spread | None:
    """How much an unchanged baseline's level differs between runs; None: too few such runs."""
    levels: dict[tuple[str, ...], dict[str, float]] = {}
    for each in runs:
        level = _baseline_level(each)
        if level is not None:
            levels.setdefault(level[0], {})[each.run.run_id] = level[1]
    groups = [list(own.values()) for own in levels.values() if len(own) >= ENOUGH]
    freedom = sum(len(own) - 1 for own in groups)
    if freedom < ENOUGH_RUNS - 1:
        return None
    squares = sum(float(np.var(own)) * len(own) for own in groups)
    return Spread(math.sqrt(squares / freedom), freedom, sum(len(own) for own in groups))


def _baseline_level(results: Results) -> tuple[tuple[str, ...], float] | None:
    """What identifies the baseline's engine and host, and its mean log time."""
    run = results.run
    baseline = next((each for each in run.candidates if each.id == run.baseline), None)
    if baseline is None:
        return None
    build = next((b for b in results.builds if engine_key(b) == baseline.engine_key), None)
    finished = {each.round for each in results.rounds if each.phase == "rounds"}
    values = [
        value
        for each in results.launches
        if each.ok and each.candidate == baseline.id and each.round in finished
        if not each.control and (value := launch_value(each, RANKED)) is not None
    ]
    if build is None or not values:
        return None
    return (run.host_fingerprint, baseline.id, build.engine_key), float(np.mean(values))


def _round_spread(before: Analysis, after: Analysis) -> Spread | None:
    """From the rounds of these runs: the SD of all candidates' common level."""
    squares, freedom = 0.0, 0
    for analysis in (before, after):
        for evidence in analysis.comparisons.values():
            ids = evidence.ids
            if len(evidence.numbers) < ENOUGH or not ids:
                continue
            table = np.array([[evidence.logs[i][n] for i in ids] for n in evidence.numbers])
            moods = table.mean(axis=1)
            squares += float(((moods - moods.mean()) ** 2).sum())
            freedom += len(moods) - 1
    return Spread(math.sqrt(squares / freedom), freedom) if freedom else None


def _unpaired(
    before: Analysis, after: Analysis, summary: Summary, spread: Spread | None, family: int
) -> tuple[Interval | None, Verdict]:
    """The new time over the base's, and the verdict; simultaneous over ``family`` candidates.

    Welch's interval (1947) on the launches' log times, with the run-to-run variance of both runs
    as a third component; degrees of freedom after Satterthwaite (1946).
    """
    scenario = summary.candidate.settings.scenario
    old, fresh = (_logs(each, scenario, summary.candidate.id) for each in (before, after))
    if not old.size or not fresh.size:
        return None, Verdict.UNRESOLVED
    move = float(fresh.mean() - old.mean())
    if min(old.size, fresh.size) < ENOUGH or spread is None:
        return Interval(math.exp(move), 0.0, math.inf), Verdict.UNRESOLVED
    parts = [
        (float(old.var(ddof=1)) / old.size, old.size - 1),
        (float(fresh.var(ddof=1)) / fresh.size, fresh.size - 1),
        (2 * spread.deviation**2, spread.freedom),
    ]
    variance = sum(part for part, _ in parts)
    weight = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / weight if weight else math.inf
    half = float(stats.t.ppf(1 - ALPHA / 2 / max(1, family), freedom)) * math.sqrt(variance)
    said = verdict(move, half, MARGIN)
    return Interval(math.exp(move), math.exp(move - half), math.exp(move + half)), said


def _logs(analysis: Analysis, scenario: Scenario, candidate: str) -> Array:
    evidence = analysis.comparisons.get(scenario)
    return np.array(list(evidence.logs.get(candidate, {}).values()) if evidence else [])


# -- everything else -------------------------------------------------------------------------------


def _was_timed(summary: Summary) -> bool:
    return summary.status is Status.OK and summary.time_ns is not None


def _drop(base: _Side, new: _Side, candidate: str) -> Drop | None:
    """Paired on the same samples, judged by the same metric."""
    old, fresh = base.scores.get(candidate), new.scores.get(candidate)
    if not _same_samples(base.run, new.run) or old is None or fresh is None:
        return None
    judged = next((each for each in new.results.accuracies if each.ok), None)
    if judged is None:
        return None
    first, higher = min(len(old), len(fresh)), judged.higher_is_better
    early = len(old) != len(fresh)  # one of the passes ended when it was decided
    return drop_between(
        judged.metric, old[:first], fresh[:first], higher_is_better=higher, peeked=early
    )


def _same_samples(base: RunRecord, new: RunRecord) -> bool:
    names = ("sha256", "metric", "labelled", "calibration_samples", "validation_samples", "seed")
    own = (base.data.calibration_source is None) == (new.data.calibration_source is None)
    return own and all(getattr(base.data, name) == getattr(new.data, name) for name in names)


def _memory(base: _Side, new: _Side, candidate: str) -> float | None:
    """The new peak over the base's, if no launch of the one was like any of the other."""
    old, fresh = (
        [
            each.memory.net_bytes
            for each in side.results.launches
            if each.candidate == candidate and each.ok and each.phase == "rounds" and each.memory
            if each.memory.net_bytes
        ]
        for side in (base, new)
    )
    alike = base.run.host_fingerprint == new.run.host_fingerprint
    if not alike or min(len(old), len(fresh)) < LEAST_LAUNCHES:
        return None
    apart = min(fresh) > max(old) or max(fresh) < min(old)
    return float(np.median(fresh) / np.median(old)) if apart else 1.0


def _differences(base: _Side, new: _Side) -> Iterator[Difference]:
    """First what makes times incomparable, then what may explain them."""
    old, fresh = base.run, new.run
    if base.analysis.void:
        yield Difference("session", f"void: {base.analysis.void}", "", voids=True)
    if new.analysis.void:
        yield Difference("session", "", f"void: {new.analysis.void}", voids=True)
    if old.host_fingerprint != fresh.host_fingerprint:
        yield Difference("hardware", _hardware(old), _hardware(fresh), voids=True)
    if _inputs(old) != _inputs(fresh):
        yield Difference(INPUTS, _inputs(old), _inputs(fresh), voids=True)
    if not {c.id for c in old.candidates} & {c.id for c in fresh.candidates}:
        yield Difference(CANDIDATES, "none in common", "", voids=True)
    told = _told(base), _told(new)
    for what in dict.fromkeys([*told[0], *told[1]]):
        one, other = (each.get(what, "not there") for each in told)
        if one != other:
            yield Difference(what, one, other)


def _told(side: _Side) -> dict[str, str]:
    """What a reader must know of a run to compare its figures with another's."""
    run = side.run
    return {
        "model": f"{run.model.name} {run.model.sha256[:8]}",
        "data or split": _data(run),
        "protocol": _protocol(run),
        "enginepick": run.enginepick_version,
        "target": run.target,
        "host noise": _tier(side.analysis),
        **{name: version for probe in run.probes for name, version in probe.versions},
    }


def _inputs(run: RunRecord) -> str:
    return ", ".join(
        f"{s.name} {s.dtype} [{', '.join('?' if d is None else str(d) for d in s.shape)}]"
        for s in run.model.inputs
    )


def _hardware(run: RunRecord) -> str:
    cpu = run.host.get("cpu")
    known = cpu if isinstance(cpu, dict) else {}
    name, cpus = known.get("model") or "unknown CPU", known.get("available_cpus")
    return f"{name}, {cpus} CPUs ({run.host_fingerprint[:8]})"


def _data(run: RunRecord) -> str:
    data = run.data
    split = f"{data.calibration_samples}+{data.validation_samples}, seed {data.seed}"
    return f"{Path(data.source).name} {data.sha256[:8]} ({split}), {data.metric}"


def _protocol(run: RunRecord) -> str:
    measure = run.config.get("measure", {})
    names = ("passes", "slice_ms", "warmup_iterations", "warmup_cap_s", "live_memory_fraction")
    return ", ".join(f"{name} {measure[name]}" for name in names if name in measure)


def _tier(analysis: Analysis) -> str:
    known = [s.run_delay for s in analysis.summaries if s.run_delay is not None]
    return str(tier(max(known, default=0.0)) if known else Tier.GREEN)
