"""Records -> what is known of each candidate, and how each compares with the others. Pure.

The unit of evidence is the launch: its value is the mean over its passes of the log of the slice
medians. Candidates are compared within the rounds that were finished, all pairs at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.certificates import Drop
from harness.errors import StoreError
from harness.evidence import Evidence, Look, final_looks, plan_looks
from harness.gpu import POWER_CAP
from harness.lottery import Lottery, lotteries
from harness.ondevice import (
    DeviceMemory,
    DevicePhases,
    Energy,
    energy_of,
    held_down,
    memory_of,
    phases_of,
)
from harness.record import (
    AccuracyRecord,
    Agreement,
    BuildRecord,
    DropRecord,
    LaunchRecord,
    Outcome,
    RunRecord,
    Slice,
)
from harness.scoring import drop_between
from harness.stats import Interval, geometric_interval
from harness.store import Results
from harness.sustained import Sustained, last_stretch, sustained
from harness.tails import Tail, tail
from harness.types import Array, Candidate, EngineKey, Executed, Scenario, Status


@dataclass(frozen=True)
class Summary:
    """One candidate of a run. None: not measured.

    status and reason: of its first fault, if it had one; such a candidate is never recommended.
    time_ns: what is ranked: per inference for latency, per sample for throughput. run_ns: compute
    alone. speedup: over the baseline, paired within rounds. memory_bytes: peak resident set less
    the import of the runtime. launches: those in finished rounds. executed: what
    really ran. deploy_code: the script that runs it in the user's program.
    dropped: why it was not launched to the end; its figures are of fewer launches.
    floor_ns: the same call without the work, where that was measured.
    preempted: the part of the iterations during which the scheduler took the CPU away. tail: of
    launches that had the host to themselves. lotteries: what other calibration samples gave.
    phases, device_memory, energy: where it runs on a device that has its own clock, memory, counter
    of energy. held_down: what held that device's clocks down in its launches.
    """

    candidate: Candidate
    status: Status = Status.OK
    reason: str | None = None
    fix: str | None = None
    launches: int = 0
    time_ns: Interval | None = None
    run_ns: Interval | None = None
    floor_ns: Interval | None = None
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
    preempted: float | None = None
    tail: Tail | None = None
    notes: tuple[str, ...] = ()
    dropped: str | None = None
    lotteries: tuple[Lottery, ...] = ()
    phases: DevicePhases | None = None
    device_memory: DeviceMemory | None = None
    energy: Energy | None = None
    held_down: tuple[str, ...] = ()

    @property
    def throughput_per_s(self) -> float | None:
        """Samples per second."""
        return None if self.time_ns is None else 1e9 / self.time_ns.value

    @property
    def label(self) -> str:
        """How people name it."""
        return self.candidate.label


@dataclass(frozen=True)
class Analysis:
    """All that a run's records say.

    void: why nothing may be concluded from this session, if so.
    """

    run: RunRecord
    summaries: tuple[Summary, ...]
    comparisons: Mapping[Scenario, Evidence]
    finished: str | None
    sustained: Sustained | None = None
    void: str | None = None
    notes: tuple[str, ...] = field(default=())

    def summary(self, candidate_id: str) -> Summary | None:
        """The summary of that candidate."""
        return next((each for each in self.summaries if each.candidate.id == candidate_id), None)

    def name(self, summary: Summary) -> str:
        """Its label, with the settings where others have the same label."""
        alike = sum(each.label == summary.label for each in self.summaries)
        settings = summary.candidate.settings.label()
        return f"{summary.label}, {settings}" if alike > 1 and settings else summary.label

    @property
    def baseline(self) -> Summary | None:
        """The fp32 that speed-ups and drops refer to."""
        return self.summary(self.run.baseline) if self.run.baseline else None


def analyse(results: Results, *, under_way: bool = False) -> Analysis:
    """Reduce one run. under_way: more rounds may come, so no look spends more than is planned."""
    run = results.run
    index = _Index(results)
    why = results.end.why if results.end else "interrupted"
    cut = not under_way and (why == "budget" or (why != "done" and not _was_decided(results)))
    comparisons = gather(results, index.paired, cut=cut)
    summaries = tuple(_summarise(each, index, comparisons) for each in results.candidates)
    skipped = tuple(
        Summary(skip.candidate, skip.status, skip.reason, skip.fix) for skip in run.skips
    )
    return Analysis(
        run=run,
        summaries=summaries + skipped,
        comparisons=comparisons,
        finished=results.end.why if results.end else None,
        sustained=_sustained(results),
        void=_void(results, comparisons.values()),
        notes=results.notes,
    )


def _was_decided(results: Results) -> bool:
    """Whether the rounds had come to their end before the run was interrupted."""
    after = [each.round for each in results.launches if each.phase in ("tail", "energy", "sustain")]
    rounds = [each.round for each in results.rounds if each.phase == "rounds"]
    return bool(after) and max(rounds, default=-1) < max(after)


def _void(results: Results, comparisons: Iterable[Evidence]) -> str | None:
    """Why the rounds prove nothing: equal engines differed, or the device was throttled."""
    for each in comparisons:
        if each.control_apart is not None:
            return (
                "a hidden duplicate differed from its twin by"
                f" {100 * (each.control_apart.value - 1):+.2f} % (99.9 %"
                f" {100 * (each.control_apart.low - 1):+.2f} to"
                f" {100 * (each.control_apart.high - 1):+.2f}), which is too much for equal engines"
            )
    if results.run.config.get("measure", {}).get("allow_throttling"):
        return None
    rounds = [each for each in results.rounds if each.phase == "rounds"]
    events = sum(each.throttled or 0 for each in rounds)
    if events:
        return f"the processor was throttled for heat {events} times during the rounds"
    held = {
        f"GPU {g.index}: {why}"
        for each in rounds
        for g in each.gpus
        for why in g.held_down
        if why != POWER_CAP
    }
    if held:
        return f"the clocks were held down during the rounds ({', '.join(sorted(held))})"
    return None


def _sustained(results: Results) -> Sustained | None:
    """The last stretch of load."""
    numbers = last_stretch(results)
    last = [each for each in results.launches if each.round in numbers and each.ok]
    values = {
        place: value
        for place, each in enumerate(last)
        if (value := launch_value(each, RANKED)) is not None
    }
    return sustained(last, results.rounds, values)


def launch_value(launch: LaunchRecord, timed: Iterable[str]) -> float | None:
    """A launch's log time per sample: the mean over its passes of the log of the slice value.

    A latency slice's value is its median; a throughput slice's is its span over its completions.
    """
    values = [_per_sample(slice_, timed) for slice_ in launch.slices]
    logs = [math.log(value) for value in values if value]
    return sum(logs) / len(logs) if logs else None


def raw_slices(results: Results, launch: LaunchRecord) -> Iterator[Array]:
    """Each ranked slice's durations per sample, in ns, without those at its start that settle.

    Raises StoreError where they are damaged.
    """
    numbers = results.numbers(launch.durations) if launch.durations else np.empty(0)
    start = 0
    for each in launch.slices:
        part = numbers[start + each.settling : start + each.iterations]
        start += each.iterations
        if each.timed in RANKED:
            yield part / each.samples_per_iteration


def _per_sample(slice_: Slice, timed: Iterable[str]) -> float | None:
    if slice_.timed not in timed or not slice_.iterations:
        return None
    if slice_.timed == "throughput":
        return float(slice_.span_ns) / slice_.iterations / slice_.samples_per_iteration
    return float(slice_.quantiles_ns[1])


RANKED = ("end-to-end", "throughput")
LEAST_LAUNCHES = 3

CALL_BOUND_NS = 100_000
"""Below this the cost of a call weighs as much as the compute."""


def gather(
    results: Results, paired: Sequence[LaunchRecord], *, cut: bool
) -> dict[Scenario, Evidence]:
    """The launches of finished rounds, as evidence for each scenario that was measured.

    cut: the budget or the user ended the run, whatever its data, so that the last look may spend
    what is left of the error.
    """
    fixed = results.run.config.get("measure", {}).get("rounds")
    scenarios = {each.id: each.settings.scenario for each in results.candidates}
    found = {}
    for scenario in Scenario:
        own = [each for each in paired if scenarios.get(each.candidate) is scenario]
        timed = [(each, value) for each in own if (value := launch_value(each, RANKED)) is not None]
        numbers = tuple(sorted({each.round for each, _ in timed}))
        if numbers:
            looks = final_looks(fixed, len(numbers)) if cut else plan_looks(fixed)
            found[scenario] = _evidence(timed, numbers, looks)
    return found


def _evidence(
    timed: Sequence[tuple[LaunchRecord, float]], numbers: tuple[int, ...], looks: tuple[Look, ...]
) -> Evidence:
    logs: dict[str, dict[int, float]] = {}
    control: dict[int, tuple[str, float]] = {}
    for launch, value in timed:
        if launch.control:
            control[launch.round] = (launch.candidate, value)
        else:
            logs.setdefault(launch.candidate, {})[launch.round] = value
    return Evidence(
        logs=logs,
        numbers=numbers,
        looks=looks,
        compared=sum(numbers[0] in values for values in logs.values()),
        control=tuple(
            value - logs[twin][number]
            for number, (twin, value) in sorted(control.items())
            if number in logs.get(twin, {})
        ),
    )


class _Index:
    """A run's records by what they are of, each read once. paired: launches of finished rounds."""

    def __init__(self, results: Results) -> None:
        finished = {each.round for each in results.rounds if each.phase == "rounds"}
        self.results = results
        self.run = results.run
        self.paired = [each for each in results.launches if each.ok and each.round in finished]
        self.launches: dict[str, list[LaunchRecord]] = {}
        for launch in results.launches:
            self.launches.setdefault(launch.candidate, []).append(launch)
        self.finished = finished
        self.lotteries = lotteries(results.draws)
        self.builds = {engine_key(each): each for each in results.builds}
        self.dropped = {each.candidate: _dropped(each, finished) for each in results.drops}
        self.scores = {
            each.candidate: results.numbers(each.scores).reshape(-1, each.width)
            for each in results.accuracies
            if each.ok and each.scores is not None
        }
        self._judged = {each.candidate: each for each in results.accuracies}
        reference = results.run.reference
        known = {each.id: each for each in results.candidates}
        known |= {reference.id: reference} if reference else {}
        self._shared = {
            known[each.candidate].accuracy_key: each
            for each in results.accuracies
            if each.ok and each.candidate in known
        }
        self.references = {results.run.baseline, reference.id if reference else None}

    def accuracy(self, candidate: Candidate) -> AccuracyRecord | None:
        """The candidate's own accuracy pass, or the good one that it shares with others."""
        return self._judged.get(candidate.id) or self._shared.get(candidate.accuracy_key)

    def tail(self, candidate: Candidate) -> Tail | None:
        """Of its launches alone; None where there were none, or their durations are gone."""
        alone = [x for x in self.launches.get(candidate.id, ()) if x.ok and x.phase == "tail"]
        if not alone:
            return None
        try:
            durations = [np.concatenate(list(raw_slices(self.results, x))) for x in alone]
        except StoreError:
            return None
        numbers = {each.round for each in alone}
        rounds = [each for each in self.results.rounds if each.round in numbers]
        steals = [each.steal for each in rounds if each.steal is not None]
        noise = (_run_delay(alone), _preempted(alone), max(steals, default=None))
        hot = any(each.throttled for each in rounds)
        return tail(durations, noise, throttled=hot)

    def own(self, candidate: Candidate) -> list[LaunchRecord]:
        """Its launches in finished rounds; if it has none (screened out), all that are good."""
        good = [x for x in self.launches.get(candidate.id, ()) if x.ok and not x.control]
        finished = [each for each in good if each.round in self.finished]
        return finished or [each for each in good if each.phase in ("screen", "rounds")]


def _summarise(
    candidate: Candidate, index: _Index, comparisons: Mapping[Scenario, Evidence]
) -> Summary:
    launches, own = index.launches.get(candidate.id, []), index.own(candidate)
    build, judged = index.builds.get(candidate.engine_key), index.accuracy(candidate)
    steps: tuple[Outcome | None, ...] = (build, judged, *launches)
    fault = next((each for each in steps if each is not None and not each.ok), None)
    compared = comparisons.get(candidate.settings.scenario)
    baseline = index.run.baseline
    speedup = None
    if compared and baseline and {baseline, candidate.id} <= set(compared.logs):
        speedup = compared.ratio(candidate.id, baseline)
    said: list[AccuracyRecord | LaunchRecord] = [*([judged] if judged else []), *launches]
    executed = [each.executed for each in said if each.executed is not None]
    return Summary(
        candidate=candidate,
        status=fault.status if fault else Status.OK,
        reason=_reason(fault),
        fix=fault.fix if fault else None,
        launches=len(own),
        time_ns=_interval(own, RANKED),
        run_ns=_interval(own, ("run",)),
        floor_ns=_interval(index.own(candidate.floor), RANKED),
        speedup=speedup,
        quantiles_ns=_quantiles(own),
        open_ns=_median(each.open_ns for each in own),
        first_ns=_median(each.first_ns for each in own),
        build_ns=build.build_ns if build else None,
        memory_bytes=_median(each.memory.net_bytes for each in own if each.memory),
        size_bytes=build.size_bytes if build else None,
        accuracy=judged.value if judged else None,
        drop=_drop(judged, index),
        agreement=judged.agreement if judged else None,
        executed=executed[0] if executed else None,
        deploy_code=next((each.deploy_code for each in launches if each.deploy_code), None),
        steady=all(each.steady is not False for each in own) if own else None,
        run_delay=_run_delay(own),
        preempted=_preempted(own),
        tail=index.tail(candidate),
        notes=build.notes if build else (),
        dropped=index.dropped.get(candidate.id),
        lotteries=index.lotteries.get(candidate.id, ()),
        phases=phases_of(own),
        device_memory=memory_of(own),
        energy=energy_of([each for each in launches if each.ok]),
        held_down=held_down(own),
    )


def _dropped(drop: DropRecord, finished: set[int]) -> str:
    """The evidence, and when it was enough."""
    if drop.round < 0:
        return drop.reason
    rounds = sum(number <= drop.round for number in finished)
    when = f"after {rounds} round{'s' if rounds != 1 else ''}" if rounds else "in the screen"
    return f"{drop.reason} ({when})"


def engine_key(build: BuildRecord) -> EngineKey:
    """As :attr:`harness.types.Candidate.engine_key`."""
    return (build.backend, build.precision, build.recipe, build.device, build.options)


def _reason(fault: Outcome | None) -> str | None:
    if fault is None:
        return None
    where = f"{fault.stage}: " if fault.stage else ""
    return f"{where}{fault.reason or 'no reason was given'}"


def _interval(launches: Sequence[LaunchRecord], timed: Iterable[str]) -> Interval | None:
    """Without bounds below three launches: two say nothing of a spread."""
    values = [launch_value(each, timed) for each in launches]
    found = geometric_interval(np.array([value for value in values if value is not None]))
    if found is None or len(launches) >= LEAST_LAUNCHES:
        return found
    return Interval(found.value, 0.0, math.inf)


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


def _preempted(launches: Sequence[LaunchRecord]) -> float | None:
    """The part of the iterations during which the CPU was taken away, at most."""
    known = [s for each in launches for s in each.slices if s.involuntary_switches is not None]
    iterations = sum(s.iterations for s in known)
    switches = sum(min(s.involuntary_switches or 0, s.iterations) for s in known)
    return switches / iterations if iterations else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def accuracy_scores(results: Results) -> dict[str, Array]:
    """By candidate id: rows [samples, width] of the metric, of its own pass or a shared one."""
    index = _Index(results)
    judged = {each.id: index.accuracy(each) for each in results.candidates}
    return {
        name: index.scores[each.candidate]
        for name, each in judged.items()
        if each is not None and each.candidate in index.scores
    }


def _drop(judged: AccuracyRecord | None, index: _Index) -> Drop | None:
    if judged is None or judged.candidate not in index.scores:
        return None
    if judged.reference is None:  # the reference itself, or there was none to compare with
        is_reference = judged.candidate in index.references
        return Drop(0.0, 0.0, 0.0, judged.samples) if is_reference else None
    if judged.reference not in index.scores:
        return None
    ours, theirs = index.scores[judged.candidate], index.scores[judged.reference]
    # The baseline is the user's model as it is: what gives the same scores needs no certificate.
    if judged.candidate == index.run.baseline and np.array_equal(ours, theirs):
        return Drop(0.0, 0.0, 0.0, judged.samples)
    early = index.run.config.get("measure", {}).get("stop_early") == "decided"
    return drop_between(
        judged.metric,
        theirs,
        ours,
        higher_is_better=judged.higher_is_better,
        peeked=judged.stopped is not None or (early and judged.higher_is_better),
    )
