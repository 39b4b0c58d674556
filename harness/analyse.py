"""Records -> what is known of each candidate, and how each compares with the others. Pure.

The unit of evidence is the launch: its value is the mean over its passes of the log of the slice
medians. Candidates are compared within the rounds that were finished, all pairs at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.record import AccuracyRecord, Agreement, BuildRecord, LaunchRecord, RunRecord, Slice
from harness.stats import (
    Drop,
    Interval,
    Verdict,
    all_pairs_half_width,
    geometric_interval,
    paired_drop,
    verdict,
)
from harness.store import Results
from harness.types import Candidate, Executed, Scenario, Status

Array = np.ndarray[Any, Any]

MARGIN = math.log(1.02)
"""Differences of less than 2 % are ties whatever their sign."""


@dataclass(frozen=True)
class Summary:
    """One candidate of a run. None: not measured.

    status and reason: of its last fault, if it had one; such a candidate is never recommended.
    time_ns: what is ranked: per inference for latency, per sample for throughput. run_ns: compute
    alone. speedup: over the baseline, paired within rounds. memory_bytes: peak resident set less
    the import of the runtime. launches: those in finished rounds. executed: what really ran. deploy_code: the
    script that runs it in the user's program.
    """

    candidate: Candidate
    status: Status = Status.OK
    reason: str | None = None
    fix: str | None = None
    launches: int = 0
    time_ns: Interval | None = None
    run_ns: Interval | None = None
    speedup: Interval | None = None
    quantiles_ns: tuple[float, float, float] | None = None
    open_ns: float | None = None
    first_ns: float | None = None
    build_ns: int | None = None
    memory_bytes: float | None = None
    size_bytes: int | None = None
    accuracy: float | None = None
    drop: Drop | None = None
    agreement: Agreement | None = None
    executed: Executed | None = None
    deploy_code: str | None = None
    steady: bool | None = None
    run_delay: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def throughput_per_s(self) -> float | None:
        """Samples per second."""
        return None if self.time_ns is None else 1e9 / self.time_ns.value

    @property
    def label(self) -> str:
        """How people name it: backend, precision, recipe where it tells something."""
        candidate = self.candidate
        plain = candidate.recipe in ("source", "dynamic", str(candidate.precision))
        name = f"{candidate.backend} {candidate.precision}"
        return name if plain else f"{name} ({candidate.recipe})"


@dataclass(frozen=True)
class Comparisons:
    """All pairs of the candidates of one scenario, on the log of their times.

    means: [k]; half_width: of every difference, simultaneous over all pairs at 95 %. rounds: how
    many finished rounds it rests on. control: the null control's log-ratio per round.
    """

    ids: tuple[str, ...]
    means: tuple[float, ...]
    half_width: float
    rounds: int
    margin: float
    control: tuple[float, ...] = ()

    def difference(self, ours: str, theirs: str) -> float:
        """The log-ratio of two times; negative: ours is faster. KeyError-like for unknown ids."""
        return self.means[self.ids.index(ours)] - self.means[self.ids.index(theirs)]

    def verdict(self, ours: str, theirs: str) -> Verdict:
        """Ours against theirs; UNRESOLVED when they were not measured in the same rounds."""
        if ours not in self.ids or theirs not in self.ids:
            return Verdict.UNRESOLVED
        if ours == theirs:
            return Verdict.TIED
        return verdict(self.difference(ours, theirs), self.half_width, self.margin)

    def ratio(self, ours: str, theirs: str) -> Interval:
        """Their time over ours (how many times faster ours is), with the simultaneous interval."""
        difference = self.difference(ours, theirs)
        if not math.isfinite(self.half_width):
            return Interval(math.exp(-difference), 0.0, math.inf)
        return Interval(
            math.exp(-difference),
            math.exp(-difference - self.half_width),
            math.exp(-difference + self.half_width),
        )


@dataclass(frozen=True)
class Analysis:
    """All that a run's records say."""

    run: RunRecord
    summaries: tuple[Summary, ...]
    comparisons: Mapping[Scenario, Comparisons]
    finished: str | None
    notes: tuple[str, ...] = field(default=())

    def summary(self, candidate_id: str) -> Summary | None:
        """The summary of that candidate."""
        return next((each for each in self.summaries if each.candidate.id == candidate_id), None)

    @property
    def baseline(self) -> Summary | None:
        """The fp32 that speed-ups and drops refer to."""
        return self.summary(self.run.baseline) if self.run.baseline else None


def analyse(results: Results) -> Analysis:
    """Reduce one run."""
    run = results.run
    finished = {each.round for each in results.rounds}
    paired = [each for each in results.launches if each.ok and each.round in finished]
    comparisons = {
        scenario: compared
        for scenario in Scenario
        if (compared := _compare(run.candidates, paired, scenario)) is not None
    }
    scores = _scores(results)
    summaries = tuple(
        _summarise(candidate, results, paired, comparisons, scores) for candidate in run.candidates
    )
    skipped = tuple(
        Summary(skip.candidate, skip.status, skip.reason, skip.fix) for skip in run.skips
    )
    return Analysis(
        run=run,
        summaries=summaries + skipped,
        comparisons=comparisons,
        finished=results.end.why if results.end else None,
        notes=results.notes,
    )


def launch_value(launch: LaunchRecord, timed: Iterable[str]) -> float | None:
    """A launch's log time per sample: the mean over its passes of the log of the slice value.

    A latency slice's value is its median; a throughput slice's is its span over its completions.
    """
    values = [_per_sample(slice_, timed) for slice_ in launch.slices]
    logs = [math.log(value) for value in values if value]
    return sum(logs) / len(logs) if logs else None


def _per_sample(slice_: Slice, timed: Iterable[str]) -> float | None:
    if slice_.timed not in timed or not slice_.iterations:
        return None
    if slice_.timed == "throughput":
        return float(slice_.span_ns) / slice_.iterations / slice_.samples_per_iteration
    return float(slice_.quantiles_ns[1])


RANKED = ("end-to-end", "throughput")


def _compare(
    candidates: Sequence[Candidate], paired: Sequence[LaunchRecord], scenario: Scenario
) -> Comparisons | None:
    """The candidates that were launched in every finished round of their scenario."""
    ids = [each.id for each in candidates if each.settings.scenario is scenario]
    values: dict[str, dict[int, float]] = {each: {} for each in ids}
    control: dict[int, tuple[str, float]] = {}
    for launch in paired:
        value = launch_value(launch, RANKED)
        if value is None or launch.candidate not in values:
            continue
        if launch.control:
            control[launch.round] = (launch.candidate, value)
        else:
            values[launch.candidate][launch.round] = value
    rounds = sorted({number for each in values.values() for number in each})
    complete = [each for each in ids if rounds and len(values[each]) == len(rounds)]
    if not complete:
        return None
    logs = np.array([[values[each][number] for each in complete] for number in rounds])
    null = tuple(
        value - values[twin][number]
        for number, (twin, value) in sorted(control.items())
        if number in values[twin]
    )
    return Comparisons(
        ids=tuple(complete),
        means=tuple(logs.mean(axis=0).tolist()),
        half_width=all_pairs_half_width(logs),
        rounds=len(rounds),
        margin=MARGIN,
        control=null,
    )


def _scores(results: Results) -> dict[str, Array]:
    return {
        record.candidate: results.numbers(record.scores)
        for record in results.accuracies
        if record.ok and record.scores is not None
    }


def _summarise(
    candidate: Candidate,
    results: Results,
    paired: Sequence[LaunchRecord],
    comparisons: Mapping[Scenario, Comparisons],
    scores: Mapping[str, Array],
) -> Summary:
    launches = [each for each in results.launches if each.candidate == candidate.id]
    own = [each for each in paired if each.candidate == candidate.id and not each.control]
    build = _last(results.builds, lambda each: engine_key(each) == candidate.engine_key)
    judged = _last(results.accuracies, lambda each: _shares_engine(each, candidate, results))
    fault = next(
        (each for each in (build, judged, *launches) if each is not None and not each.ok), None
    )
    compared = comparisons.get(candidate.settings.scenario)
    baseline = results.run.baseline
    speedup = None
    if compared and baseline in compared.ids and candidate.id in compared.ids:
        speedup = compared.ratio(candidate.id, baseline)
    said = [*([judged] if judged else []), *launches]
    executed = [each.executed for each in said if each.executed is not None]
    return Summary(
        candidate=candidate,
        status=fault.status if fault else Status.OK,
        reason=_reason(fault),
        fix=fault.fix if fault else None,
        launches=len(own),
        time_ns=_interval(own, RANKED),
        run_ns=_interval(own, ("run",)),
        speedup=speedup,
        quantiles_ns=_quantiles(own),
        open_ns=_median(each.open_ns for each in own),
        first_ns=_median(each.first_ns for each in own),
        build_ns=build.build_ns if build else None,
        memory_bytes=_median(each.memory.net_bytes for each in own if each.memory),
        size_bytes=build.size_bytes if build else None,
        accuracy=judged.value if judged else None,
        drop=_drop(judged, baseline, scores, results),
        agreement=judged.agreement if judged else None,
        executed=executed[0] if executed else None,
        deploy_code=next((each.deploy_code for each in launches if each.deploy_code), None),
        steady=all(each.steady is not False for each in own) if own else None,
        run_delay=_run_delay(own),
        notes=build.notes if build else (),
    )


def engine_key(build: BuildRecord) -> tuple[str, str, str, str]:
    """As :attr:`harness.types.Candidate.engine_key`."""
    return (build.backend, build.precision, build.recipe, build.device)


def _shares_engine(record: AccuracyRecord, candidate: Candidate, results: Results) -> bool:
    """Accuracy is judged once per engine, on the first candidate that uses it."""
    if record.candidate == candidate.id:
        return True
    judged = next((c for c in results.run.candidates if c.id == record.candidate), None)
    return judged is not None and judged.engine_key == candidate.engine_key


def _last(records: Iterable[Any], wanted: Any) -> Any:
    found = None
    for record in records:
        if wanted(record):
            found = record
    return found


def _reason(fault: Any) -> str | None:
    if fault is None:
        return None
    where = f"{fault.stage}: " if fault.stage else ""
    return f"{where}{fault.reason}"


def _interval(launches: Sequence[LaunchRecord], timed: Iterable[str]) -> Interval | None:
    values = [launch_value(each, timed) for each in launches]
    return geometric_interval(np.array([value for value in values if value is not None]))


def _quantiles(launches: Sequence[LaunchRecord]) -> tuple[float, float, float] | None:
    """The median over all slices of each of their quantiles."""
    rows = [s.quantiles_ns for each in launches for s in each.slices if s.timed in RANKED]
    if not rows:
        return None
    low, middle, high = np.median(np.array(rows), axis=0)
    return float(low), float(middle), float(high)


def _run_delay(launches: Sequence[LaunchRecord]) -> float | None:
    """The part of the slices' CPU-ready time that was spent waiting for a CPU."""
    known = [s for each in launches for s in each.slices if None not in (s.run_delay_ns, s.cpu_ns)]
    waited = sum(s.run_delay_ns or 0 for s in known)
    ran = sum(s.cpu_ns or 0 for s in known)
    return waited / (waited + ran) if waited + ran else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _drop(
    judged: AccuracyRecord | None,
    baseline: str | None,
    scores: Mapping[str, Array],
    results: Results,
) -> Drop | None:
    if judged is None or baseline is None or judged.candidate not in scores:
        return None
    base = next((c for c in results.run.candidates if c.id == baseline), None)
    twin = _last(results.accuracies, lambda each: base and _shares_engine(each, base, results))
    if twin is None or twin.candidate not in scores:
        return None
    ours, theirs = scores[judged.candidate], scores[twin.candidate]
    if ours.shape != theirs.shape or not ours.size:
        return None
    return paired_drop(theirs, ours, higher_is_better=judged.higher_is_better)
