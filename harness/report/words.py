"""What is said of one candidate, in the words of people. Pure; used by every rendering."""

from __future__ import annotations

import math

from harness import noise
from harness.analysis import Summary
from harness.certificates import Drop
from harness.recommendation import Check, Judgement, Limits
from harness.report import format as fmt
from harness.report.value import Report
from harness.stats import Answer, Interval, Verdict
from harness.tails import ENOUGH_LAUNCHES
from harness.types import Executed, Precision


def tier(run_delay: float | None) -> str | None:
    """``green``, ``amber`` or ``red``: what a host this busy allows to be claimed."""
    return None if run_delay is None else str(noise.tier(run_delay))


def asked_precision(summary: Summary) -> str:
    """The precision that its compute operations should run in."""
    return summary.candidate.precision.runs_as


def executed_text(executed: Executed | None) -> str:
    """All of what ran, as ``int8 13/52, fp32 39/52``; says so where the runtime can't tell."""
    if executed is None:
        return fmt.NONE
    total = sum(share.count for share in executed.precisions)
    if not total:
        return "not told"
    return fmt.clean(", ".join(f"{s.name} {s.count}/{total}" for s in executed.precisions))


def kept_text(summary: Summary) -> str:
    """How much ran in the precision asked for, as ``int8 4/5``; all of it, where none was."""
    executed = summary.executed
    total = sum(share.count for share in executed.precisions) if executed else 0
    if executed is None or not total or summary.candidate.precision is Precision.AS_IS:
        return executed_text(executed)
    asked = asked_precision(summary)
    kept = sum(share.count for share in executed.precisions if share.name == asked)
    return f"{asked} {kept}/{total}"


def is_partly(summary: Summary) -> bool:
    """Whether some compute operations run in another precision than asked for."""
    executed = summary.executed
    known = executed is not None and bool(executed.precisions)
    if summary.candidate.precision is Precision.AS_IS:
        return False
    return known and executed is not None and executed.share(asked_precision(summary)) < 1


def time_text(report: Report, summary: Summary) -> str:
    """What is ranked: a latency, or a throughput."""
    if report.recommendation.objective == "throughput":
        return fmt.rate(summary.throughput_per_s)
    return fmt.duration(summary.time_ns.value if summary.time_ns else None)


def time_phrase(report: Report, summary: Summary) -> str | None:
    """What is ranked, as part of a sentence; None where it wasn't measured."""
    if summary.time_ns is None or summary.throughput_per_s is None:
        return None
    if report.recommendation.objective == "throughput":
        return f"{fmt.three(summary.throughput_per_s)} samples per second"
    return f"{fmt.duration(summary.time_ns.value)} per inference"


def speed_text(report: Report, summary: Summary) -> str | None:
    """Its speed against the baseline, with the verdict and the interval; None where unknown."""
    baseline, compared = report.analysis.baseline, report.compared
    if baseline is None or report.is_baseline(summary):
        return "the fp32 baseline itself" if baseline else None
    ours, theirs = summary.candidate.id, baseline.candidate.id
    if compared is None or not {ours, theirs} <= set(compared.logs):
        return None
    speed, other = compared.ratio(ours, theirs), report.name(baseline)
    value, bounds = fmt.ratio(speed.value), f"95 % {fmt.between(speed)}"
    if not math.isfinite(speed.high):
        return f"{value} the speed of {other} (too few rounds for an interval)"
    sayings = {
        Verdict.FASTER: f"{value} faster than {other} ({bounds})",
        Verdict.SLOWER: f"{value} the speed of {other} ({bounds})",
        Verdict.TIED: f"as fast as {other} ({value}, {bounds})",
        Verdict.UNRESOLVED: f"not told apart from {other} ({value}, {bounds})",
    }
    return sayings[compared.verdict(ours, theirs)]


def drop_value(report: Report, value: float) -> str:
    """A drop's size with its unit: percentage points for shares, else the metric's own."""
    return f"{fmt.points(value)} points" if report.metric.share else f"{value:.2g}"


def limit_value(report: Report, limit: float) -> str:
    """A limit of the drop, as the user gave it."""
    if not report.metric.share:
        return f"{limit:g}"
    text = f"{limit * 100:g}"
    return f"{text} point" if text == "1" else f"{text} points"


def change_text(report: Report, drop: Drop | None) -> str:
    """``drop 0.17 points``, ``gain 0.3 points``, ``no drop``; ``worse by 0.002`` for errors."""
    if drop is None:
        return "drop unknown"
    if drop.value == 0:
        return "no drop"
    worse, better = ("drop", "gain") if report.metric.share else ("worse by", "better by")
    word = worse if drop.value > 0 else better
    return f"{word} {drop_value(report, abs(drop.value))}"


def accuracy_text(report: Report, summary: Summary) -> str | None:
    """The metric's value, its drop, and whether that is certified; None where unknown."""
    if summary.accuracy is None:
        return None
    metric = report.metric
    text = f"{metric.noun} {fmt.score(summary.accuracy, share=metric.share)}"
    if report.is_baseline(summary):
        return text
    limit = report.recommendation.limits.max_accuracy_drop
    parts = [change_text(report, summary.drop)]
    if summary.drop is not None:
        parts.append(certainty_text(report, summary.drop, limit))
    return f"{text} ({', '.join(parts)})"


def certainty_text(report: Report, drop: Drop, limit: float | None) -> str:
    """What is certified of a drop, at 95 %."""
    if limit is None:
        return f"at most {drop_value(report, drop.high)} at 95 %"
    words = {
        Answer.MEETS: f"certified to be at most {limit_value(report, limit)}",
        Answer.MISSES: f"over the limit of {limit_value(report, limit)}",
        Answer.UNRESOLVED: f"not certified to be at most {limit_value(report, limit)}",
    }
    return words[drop.judge(limit)]


def engine_text(report: Report, summary: Summary) -> str | None:
    """The engine's size, and its part of the baseline's."""
    if summary.size_bytes is None:
        return None
    text = f"engine {fmt.size(summary.size_bytes)}"
    baseline = report.analysis.baseline
    if baseline is None or not baseline.size_bytes or report.is_baseline(summary):
        return text
    share = fmt.percent(summary.size_bytes / baseline.size_bytes)
    return f"{text} ({share} of the baseline's)"


def memory_text(summary: Summary) -> str | None:
    """Peak memory."""
    return None if summary.memory_bytes is None else f"{fmt.size(summary.memory_bytes)} of memory"


def tail_text(report: Report, summary: Summary) -> str | None:
    """Its p99, or why that is withheld and how much more it takes; None where nobody asked."""
    tail = summary.tail
    if tail is None:
        return None
    ran = f"{tail.iterations:,} iterations in {tail.launches} launches alone on the host"
    if tail.p99_ns is None or tail.missing:
        cap = report.run.config.get("measure", {}).get("tail_cap_s", 0)
        wanted = math.ceil(cap * (1 + tail.missing / max(1, tail.iterations)))
        fix = f"measure.tail_cap_s = {max(1, wanted)} allows them"
        if tail.launches < ENOUGH_LAUNCHES:
            fix = "measure without a budget, or with a larger one"
        return f"withheld after {ran}: {tail.missing:,} more are needed ({fix})"
    low, high = fmt.duration(tail.p99_ns.low), fmt.duration(tail.p99_ns.high)
    value = f"{fmt.duration(tail.p99_ns.value)} (95 % {low} to {high}), {ran}"
    if tail.claimed:
        return value
    host = f"this {tail.tier} host" if tail.tier else "a host that doesn't tell how busy it is"
    return f"as experienced on {host}, not claimed: {value}"


def sustained_text(report: Report) -> str | None:
    """Whether the ranking held under load; None where that wasn't measured."""
    stretch = report.analysis.sustained
    if stretch is None:
        return None
    best = report.names[stretch.best]
    ahead = ", ".join(report.names[each] for each in stretch.ahead)
    sayings = {
        "held": f"the ranking held: {best} stayed the fastest, or as fast as any",
        "changed": f"the ranking changed: {ahead} overtook {best}, the fastest at first",
        "unclear": f"not clear whether {best}, the fastest at first, stayed so",
    }
    change = stretch.change[stretch.best]
    moved = f"{(change.value - 1) * 100:+.1f} %"
    bounds = f"95 % {(change.low - 1) * 100:+.1f} to {(change.high - 1) * 100:+.1f}"
    minutes = len(stretch.minutes) * (stretch.minutes[1] - stretch.minutes[0])
    text = f"{fmt.three(minutes)} min: {sayings[stretch.ranking]}"
    return f"{text}; its time moved by {moved} ({bounds}) from start to end"


def facts(report: Report, summary: Summary) -> str:
    """One candidate in a line, in the order in which people ask."""
    known = (
        time_phrase(report, summary),
        speed_text(report, summary),
        engine_text(report, summary),
        memory_text(summary),
        accuracy_text(report, summary),
    )
    return ", ".join(part for part in known if part)


def limits_text(report: Report) -> str:
    """The question: the objective and every constraint."""
    wanted = {
        "latency": "the lowest latency",
        "throughput": "the highest throughput",
        "memory": "the least memory",
        "size": "the smallest engine",
    }
    limits: Limits = report.recommendation.limits
    parts = [wanted[report.recommendation.objective]]
    if limits.max_accuracy_drop is not None:
        drop = limit_value(report, limits.max_accuracy_drop)
        noun = report.metric.noun
        less = (
            f"at most {drop} less {noun}" if report.metric.share else f"{noun} at most {drop} worse"
        )
        parts.append(less)
    if limits.max_latency_ns is not None:
        parts.append(f"latency at most {fmt.duration(limits.max_latency_ns)}")
    if limits.max_memory_bytes is not None:
        parts.append(f"memory at most {fmt.size(limits.max_memory_bytes)}")
    if limits.max_size_bytes is not None:
        parts.append(f"engine at most {fmt.size(limits.max_size_bytes)}")
    return "; ".join(parts)


def why_text(report: Report, judgement: Judgement) -> str:
    """Why a measured candidate isn't admissible: the constraints it misses or may miss."""
    wanted = Answer.MISSES if judgement.place == "refused" else Answer.UNRESOLVED
    return "; ".join(
        _check_text(report, judgement.summary, check)
        for check in judgement.checks
        if check.answer is wanted
    )


def _check_text(report: Report, summary: Summary, check: Check) -> str:
    limits = report.recommendation.limits
    if check.name == "accuracy" and summary.drop and limits.max_accuracy_drop is not None:
        drop, limit = summary.drop, limits.max_accuracy_drop
        least = drop_value(report, drop.low if check.answer is Answer.MISSES else drop.high)
        bound = f"at {'least' if check.answer is Answer.MISSES else 'most'} {least} at 95 %"
        told = f"{accuracy_head(report, summary)}, {bound}, limit {limit_value(report, limit)}"
        total = report.run.data.validation_samples
        early = f"; {drop.samples:,} of {total:,} samples were enough to tell"
        return told + (early if drop.samples < total else "")
    if check.name == "latency" and summary.time_ns and limits.max_latency_ns is not None:
        value: Interval = summary.time_ns
        spread = f"{fmt.duration(value.low)} to {fmt.duration(value.high)}"
        limit_text = fmt.duration(limits.max_latency_ns)
        return f"latency {fmt.duration(value.value)} (95 % {spread}), limit {limit_text}"
    given = {"memory": limits.max_memory_bytes, "size": limits.max_size_bytes}.get(check.name)
    value_bytes = {"memory": summary.memory_bytes, "size": summary.size_bytes}.get(check.name)
    if given is not None and value_bytes is not None:
        noun = "engine" if check.name == "size" else "memory"
        return f"{noun} {fmt.size(value_bytes)}, limit {fmt.size(given)}"
    return fmt.clean(check.text)


def accuracy_head(report: Report, summary: Summary) -> str:
    """The metric's value and the drop, without certainty."""
    metric = report.metric
    value = fmt.score(summary.accuracy, share=metric.share)
    return f"{metric.noun} {value}, {change_text(report, summary.drop)}"
