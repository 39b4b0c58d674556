"""What a reader must know to trust a run's numbers: host noise, the null control, what went odd."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.analysis import CALL_BOUND_NS
from harness.gpu import POWER_CAP
from harness.report import format as fmt
from harness.report.value import AGREEMENT, Report
from harness.report.words import tier
from harness.stats import Answer, Interval, geometric_interval
from harness.types import Precision

NOTABLE_STEAL = 0.001
"""Less than this isn't worth a word."""

NOTABLE_STALL = 0.05

CLAIMS = {
    "green": "absolute times and ratios can both be claimed",
    "amber": "medians and ratios can be claimed, a p99 only where its own launches were quiet",
    "red": "only ratios can be claimed; absolute times are as experienced on this busy host",
}
_HOST = {"green": "quiet", "amber": "busy", "red": "very busy"}
_LEVEL: dict[str, Literal["good", "fair", "poor"]] = {
    "green": "good",
    "amber": "fair",
    "red": "poor",
}


@dataclass(frozen=True)
class Note:
    """One remark. level: ``good``, ``fair``, ``poor`` (it limits the claims) or ``info``."""

    level: Literal["good", "fair", "poor", "info"]
    title: str
    text: str


@dataclass(frozen=True)
class Noise:
    """Run-delay (the share of the time ready to run that was spent waiting for a CPU).

    tier: of the noisiest candidate, or of the hypervisor's steal where that is worse; None where
    the host doesn't tell. tiers: candidates per tier. steal: the part of the rounds' time that a
    hypervisor took, at worst. stalled: the part in which some task waited for a CPU, in the middle
    round. throttled: thermal events in all.
    """

    tier: str | None
    low: float | None = None
    median: float | None = None
    high: float | None = None
    tiers: tuple[tuple[str, int], ...] = ()
    steal: float | None = None
    stalled: float | None = None
    throttled: int | None = None


def noise(report: Report) -> Noise:
    """Over all measured candidates, and the rounds that they were compared in."""
    rounds = [each for each in report.results.rounds if each.phase == "rounds"]
    steals = [each.steal for each in rounds if each.steal is not None]
    heats = [each.throttled for each in rounds if each.throttled is not None]
    stalls = [each.stalled for each in rounds if each.stalled is not None]
    steal, throttled = max(steals, default=None), sum(heats) if heats else None
    stalled = float(np.median(stalls)) if stalls else None
    known = [s.run_delay for each in report.table if (s := each.summary).run_delay is not None]
    if not known:
        return Noise(tier(steal), steal=steal, stalled=stalled, throttled=throttled)
    worst = tier(max(*known, steal or 0.0))
    counted = Counter(str(tier(value)) for value in known)
    tiers = tuple((name, counted[name]) for name in CLAIMS if counted[name])
    middle = float(np.median(known))
    return Noise(worst, min(known), middle, max(known), tiers, steal, stalled, throttled)


def control(report: Report) -> Interval | None:
    """The null control: the hidden duplicate's time over its twin's, with its 95 % interval."""
    compared = report.compared
    return geometric_interval(np.array(compared.control)) if compared else None


def notes(report: Report) -> tuple[Note, ...]:
    """All remarks: what limits the claims before what merely informs."""
    parts = (_end, _noise, _control, _odd, _device, _info)
    made = [note for part in parts for note in part(report)]
    order = ("poor", "fair", "good", "info")
    return tuple(sorted(made, key=lambda note: order.index(note.level)))


def _end(report: Report) -> Iterator[Note]:
    ended = report.analysis.finished
    resume = f"enginepick sweep --resume {report.run.run_id}"
    words = {
        None: "This run has no end record: it is still going, or was killed.",
        "interrupted": "This run was interrupted.",
        "budget": "The time budget was spent before all rounds were measured.",
        "disk-full": "The disk was full before the run ended.",
    }
    if ended != "done":
        text = words.get(ended) or f"This run ended early ({fmt.clean(ended)})."
        yield Note("fair", "Run", f"{text} What was measured is shown; to go on: {resume}")
    for each in report.analysis.notes:
        yield Note("fair", "Records", fmt.clean(each))


def _noise(report: Report) -> Iterator[Note]:
    measured = noise(report)
    if not report.table:
        return
    if measured.throttled:
        text = (
            f"the processor throttled {measured.throttled} times for heat during the rounds: cool"
            " it and measure again; or, if that is how it will run, set measure.allow_throttling"
        )
        yield Note("poor", "Heat", text)
    yield from _gpus(report)
    if measured.tier is None:
        text = "unknown: this host doesn't tell how long threads waited for a CPU"
        yield Note("fair", "Host noise", text)
        return
    text = f"{measured.tier}, a {_HOST[measured.tier]} host: {_waited(measured)}"
    text += f"; {CLAIMS[measured.tier]}"
    if len(measured.tiers) > 1:
        counted = ", ".join(f"{count} {name}" for name, count in measured.tiers)
        text += f" (candidates: {counted})"
    yield Note(_LEVEL[measured.tier], "Host noise", text)
    if measured.tier != "green":
        yield Note("info", "Steadier", "; ".join(_advice(measured)))


def _gpus(report: Report) -> Iterator[Note]:
    """Who else was on the GPUs, and what held their clocks down."""
    states = [g for each in report.results.rounds if each.phase == "rounds" for g in each.gpus]
    for index in sorted({each.index for each in states}):
        own = [each for each in states if each.index == index]
        others = sorted({pid for each in own for pid in each.others})
        if others:
            pids = ", ".join(str(pid) for pid in others)
            text = f"other processes computed on GPU {index} between the rounds: stop them ({pids})"
            yield Note("poor", "GPU", text)
        held = sorted({why for each in own for why in each.held_down})
        if held:
            text = f"GPU {index} held its clocks down: {', '.join(held)}"
            yield Note("poor", "GPU", text)


def _advice(measured: Noise) -> Iterator[str]:
    """What to change on the host, by what was seen."""
    if measured.steal is not None and measured.steal >= NOTABLE_STEAL:
        yield (
            "the machine's other guests take CPU time: ask for dedicated or pinned CPUs, or measure"
            " on the bare machine"
        )
    if measured.stalled is not None and measured.stalled >= NOTABLE_STALL:
        yield (
            f"tasks queued for a CPU {fmt.percent(measured.stalled)} of the time: stop what else"
            " runs here (top shows it), or use fewer threads than CPUs"
        )
    yield "enginepick devices lists what else would help on this host"


def _waited(measured: Noise) -> str:
    """Who waited for whom, and how much."""
    parts = []
    if measured.high is not None:
        most, middle = fmt.percent(measured.high), fmt.percent(measured.median)
        parts.append(f"ready threads waited for a CPU at most {most} of the time (median {middle})")
    if measured.steal is not None and measured.steal >= NOTABLE_STEAL:
        parts.append(f"the hypervisor took up to {fmt.percent(measured.steal)} of a round")
    return ", ".join(parts) or "nothing was taken by the hypervisor"


def _control(report: Report) -> Iterator[Note]:
    compared, null = report.compared, control(report)
    if compared is None or null is None:
        return
    margin = fmt.percent(math.exp(compared.margin) - 1)
    if not math.isfinite(null.high):
        yield Note("info", "Null control", "one round only: nothing can be said of it yet")
        return
    apart = f"{(null.value - 1) * 100:+.2f} % (95 % {_signed(null.low)} to {_signed(null.high)})"
    text = (
        f"a hidden duplicate differed from its twin by {apart};"
        f" differences within {margin} count as ties"
    )
    void = compared.control_apart is not None
    if void:
        text += ". That is too much for two equal engines: measure again before you rely on this"
    wide = math.log(null.high) > compared.margin or math.log(null.low) < -compared.margin
    yield Note("poor" if void else "fair" if wide else "good", "Null control", text)


def _signed(factor: float) -> str:
    return f"{(factor - 1) * 100:+.2f}"


def _odd(report: Report) -> Iterator[Note]:
    unsteady = [report.name(s) for each in report.table if (s := each.summary).steady is False]
    if unsteady:
        text = f"never got steady in their warm-up: {', '.join(unsteady)}"
        yield Note("fair", "Warm-up", text)
    finished = {each.round for each in report.results.rounds if each.phase == "rounds"}
    alone = [e for e in report.results.launches if e.round in finished and not e.interleaved]
    if alone:
        text = (
            "memory doesn't hold all candidates at once, so launches ran one after another:"
            " differences are less sharp than when they take turns"
        )
        yield Note("info", "Rounds", text)


def _device(report: Report) -> Iterator[Note]:
    """What bounds candidates beside the computation, and what held their clocks down."""
    shown = [each.summary for each in report.table]
    bound = [report.name(s) for s in shown if s.phases and s.phases.enqueue_bound]
    if bound:
        text = (
            "the host takes over 80 % of the device's time to hand the work over:"
            f" {'; '.join(bound)}. CUDA graphs, where they aren't in use already (TensorRT's option"
            " cuda-graph = on), or larger batches need fewer calls"
        )
        yield Note("info", "Enqueue", text)
    copied = [report.name(s) for s in shown if s.phases and s.phases.copy_bound]
    if copied:
        text = f"copies take as long as the computation or longer: {'; '.join(copied)}"
        yield Note("info", "Copies", text)
    held = [s for s in shown if s.held_down]
    if held:
        told = "; ".join(f"{report.name(s)} ({', '.join(s.held_down)})" for s in held)
        only_power = {why for s in held for why in s.held_down} == {POWER_CAP}
        text = f"the GPU's clocks were held down during launches of {told}"
        yield Note("info" if only_power else "poor", "Clocks", text)
    rounds = [each for each in report.results.rounds if each.phase == "energy"]
    if any(gpu.others for each in rounds for gpu in each.gpus):
        text = "other processes computed on the GPU that was metered: the energy is theirs too"
        yield Note("fair", "Energy", text)


def _info(report: Report) -> Iterator[Note]:
    for each in report.run.data.notes:
        yield Note("info", "Data", fmt.clean(each))
    if not report.metric.labelled:
        yield Note("info", "Metric", f"there were no labels: {AGREEMENT}")
    early = [
        f"{report.name(s)} after {s.drop.samples:,}"
        for each in report.table
        if (s := each.summary).drop is not None
        and 0 < s.drop.samples < report.run.data.validation_samples
    ]
    if early:
        text = "decided before all samples were seen, so that this is the accuracy of the first"
        yield Note("info", "Early", f"{text}: {', '.join(early)}")
    for record in report.results.accuracies:
        for each in record.notes:
            level: Literal["fair", "info"] = "fair" if "DIFFERS" in each else "info"
            yield Note(level, "Reference", f"the reference {fmt.clean(each)}")
    failed = [
        report.name(each.summary)
        for each in report.recommendation.placed("refused")
        if each.summary.candidate.precision is Precision.INT8
        and each.summary.drop is not None
        and any(c.name == "accuracy" and c.answer is Answer.MISSES for c in each.checks)
    ]
    if failed and not report.results.recoveries:
        text = f"{', '.join(failed)} cost too much accuracy: --recover 5m looks for mixed precision"
        yield Note("info", "Int8", text)
    times = [s.time_ns.value for each in report.table if (s := each.summary).time_ns]
    backends = {each.summary.candidate.backend for each in report.table}
    timed = report.recommendation.objective != "throughput"
    floors = {
        s.candidate.backend: s.floor_ns.value
        for each in report.table
        if (s := each.summary).floor_ns is not None
    }
    several = len(backends) > 1 or floors
    if timed and several and times and min(times) < CALL_BOUND_NS:
        text = (
            "below 100 us the cost of a call from Python weighs as much as the compute: see the"
            " compute-only times too if your program calls the runtime from another language"
        )
        if floors:
            told = ", ".join(f"{fmt.duration(v)} with {name}" for name, v in floors.items())
            text += f". The same call without the work (an identity model) takes {told}"
        yield Note("info", "Calls", text)
