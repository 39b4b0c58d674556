"""The report as people read it, top to bottom: texts only, laid out by each rendering."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.analysis import Summary
from harness.recommendation import Judgement
from harness.report import format as fmt
from harness.report import words
from harness.report.device_section import device_sections, energy_text
from harness.report.notes import Note, notes
from harness.report.sections import Section, sections
from harness.report.value import AGREEMENT, Report

PLACES = {
    "choice": "recommended",
    "tied": "tied with the best",
    "admissible": "meets every constraint",
    "unresolved": "a constraint isn't decided",
    "refused": "misses a constraint",
    "dropped": "out early",
}


@dataclass(frozen=True)
class Row:
    """One measured candidate. speed, bounds: against the baseline. kept: what really ran."""

    number: int
    id: str
    place: str
    name: str
    time: str
    half_width: str
    compute: str
    speed: str
    bounds: str
    score: str
    change: str
    memory: str
    size: str
    kept: str
    partly: bool
    verdict: str
    on_front: bool


@dataclass(frozen=True)
class Group:
    """Candidates that aren't ranked for one reason. heading: ``invalid``, ``skipped: ...``."""

    heading: str
    names: tuple[str, ...]
    reason: str
    fix: str | None


@dataclass(frozen=True)
class Story:
    """lead, chosen and rest make one sentence; chosen is empty where nothing is recommended.

    facts: (title, text) below it. question: what was asked for.
    """

    subject: str
    lead: str
    chosen: str
    rest: str
    facts: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    groups: tuple[Group, ...]
    unknown: tuple[str, ...]
    notes: tuple[Note, ...]
    sections: tuple[Section, ...]
    export: str | None
    is_throughput: bool
    score_title: str
    baseline: str


def story(report: Report) -> Story:
    """Everything that is said, in order."""
    run, decided = report.run, report.recommendation
    lead, chosen, rest = _headline(report)
    baseline = report.analysis.baseline
    return Story(
        subject=report.subject,
        lead=lead,
        chosen=chosen,
        rest=rest,
        facts=tuple(_facts(report)),
        rows=tuple(_row(report, each) for each in report.table),
        groups=tuple(_groups(report)),
        unknown=tuple(fmt.clean(each) for each in decided.unknown),
        notes=notes(report),
        sections=(*device_sections(report), *sections(report)),
        export=f"enginepick export {run.run_id}" if decided.choice else None,
        is_throughput=decided.objective == "throughput",
        score_title=report.metric.heading,
        baseline=report.name(baseline) if baseline else "fp32",
    )


def _headline(report: Report) -> tuple[str, str, str]:
    choice = report.recommendation.choice
    if choice is not None:
        device = fmt.clean(choice.candidate.device)
        name = report.name(choice)
        where = "" if device in name.split() else f" on {device}"
        return "Deploy", name, f"{where}: {words.facts(report, choice)}."
    if report.recommendation.void:
        why = fmt.clean(report.recommendation.void)
        return "This session is void, and nothing is recommended.", "", f"Measure again: {why}."
    if not report.table:
        return "Nothing can be recommended: no candidate was measured.", "", ""
    closest = report.table[0]
    why = words.why_text(report, closest)
    rest = f"The closest is {report.name(closest.summary)}: {why or 'see below'}."
    return "No candidate is certified to meet every constraint.", "", rest


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    decided, run = report.recommendation, report.run
    if decided.choice is not None and decided.certainty:
        yield "How sure", fmt.clean(decided.certainty)
    if decided.runner_up is not None:
        name = report.name(decided.runner_up)
        is_base = report.is_baseline(decided.runner_up)
        said = ", the baseline" if is_base else f": {_short(report, decided.runner_up)}"
        yield "Runner-up", f"{name}{said}"
    for each in decided.placed("choice", "tied"):
        tail = words.tail_text(report, each.summary)
        if tail is not None:
            yield "p99", f"{report.name(each.summary)}: {tail}"
    if decided.choice is not None:
        energy = energy_text(report, decided.choice)
        if energy is not None:
            yield "Energy", energy
    held = words.sustained_text(report)
    if held is not None:
        yield "Under load", held
    baseline = report.analysis.baseline
    if baseline is not None and baseline.candidate.settings.scenario is report.scenario:
        yield "Baseline", f"{report.name(baseline)}: {_short(report, baseline) or 'not measured'}"
    yield "Asked for", words.limits_text(report)
    data = run.data
    kind = "labelled" if data.labelled else "unlabelled"
    split = f"{data.validation_samples:,} {kind} samples of {fmt.clean(data.source)}"
    calibrated = f"; {data.calibration_samples:,} others to calibrate"
    split += calibrated if data.calibration_samples else ""
    yield "Judged on", split if report.metric.labelled else f"{split}; this is {AGREEMENT}"
    yield "Host", _host(report)


def _host(report: Report) -> str:
    run = report.run
    cpu = run.host.get("cpu")
    known = cpu if isinstance(cpu, dict) else {}
    model = fmt.clean(known.get("model") or "unknown CPU")
    cpus = known.get("available_cpus")
    count = f", {cpus} CPU{'' if cpus == 1 else 's'}" if cpus else ""
    return f"{model}{count}; {run.at:%Y-%m-%d}; run {fmt.clean(run.run_id)}"


def _short(report: Report, summary: Summary) -> str:
    parts = (
        words.time_phrase(report, summary),
        None if report.is_baseline(summary) else words.speed_text(report, summary),
        words.accuracy_head(report, summary)
        if summary.accuracy is not None and not report.is_baseline(summary)
        else words.accuracy_text(report, summary),
        words.memory_text(summary),
    )
    return ", ".join(part for part in parts if part)


def _row(report: Report, judgement: Judgement) -> Row:
    summary = judgement.summary
    is_base = report.is_baseline(summary)
    metric = report.metric
    return Row(
        number=report.numbers[summary.candidate.id],
        id=summary.candidate.id,
        place=judgement.place,
        name=report.name(summary),
        time=words.time_text(report, summary),
        half_width=fmt.half_width(summary.time_ns),
        compute=fmt.duration(summary.run_ns.value if summary.run_ns else None),
        speed="1x" if is_base else fmt.ratio(summary.speedup.value if summary.speedup else None),
        bounds="baseline" if is_base else fmt.between(summary.speedup),
        score=fmt.score(summary.accuracy, share=metric.share),
        change="baseline" if is_base else _change(report, summary),
        memory=fmt.size(summary.memory_bytes),
        size=fmt.size(summary.size_bytes),
        kept=words.kept_text(summary),
        partly=words.is_partly(summary),
        verdict=str(judgement.against_best or fmt.NONE),
        on_front=judgement.on_front,
    )


def _change(report: Report, summary: Summary) -> str:
    """``drop 0.17 pt``: as narrow as a table's cell."""
    if summary.drop is None:
        return fmt.NONE
    text = words.change_text(report, summary.drop)
    return text.replace(" points", " pt").replace(" point", " pt")


def _groups(report: Report) -> Iterator[Group]:
    """Refused ones each with its own figures, then equal reasons together."""
    for each in report.recommendation.placed("refused"):
        why = words.why_text(report, each)
        yield Group("misses a limit", (report.name(each.summary),), why, None)
    early: dict[str, list[str]] = {}
    for each in report.recommendation.placed("dropped"):
        early.setdefault(fmt.clean(each.why), []).append(report.name(each.summary))
    for why, out in early.items():
        yield Group("out early", tuple(out), why, None)
    grouped: dict[tuple[str, str, str | None], list[str]] = {}
    for each in report.recommendation.placed("failed"):
        summary = each.summary
        skipped = summary.candidate.id in report.skipped
        heading = f"skipped: {summary.status}" if skipped else str(summary.status)
        key = (heading, _reason(summary), fmt.clean(summary.fix) if summary.fix else None)
        grouped.setdefault(key, []).append(report.name(summary))
    for (heading, reason, fix), names in sorted(grouped.items(), key=_failures_first):
        yield Group(heading, tuple(dict.fromkeys(names)), reason, fix)


def _failures_first(item: tuple[tuple[str, str, str | None], Iterable[str]]) -> tuple[bool, str]:
    heading = item[0][0]
    return heading.startswith("skipped"), heading


def _reason(summary: Summary) -> str:
    reason = summary.reason
    if reason is None or reason.rpartition(": ")[2] == "None":  # a stage, and no reason after it
        return "no reason was given"
    return fmt.clean(reason)
