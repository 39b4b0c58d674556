"""What is said of int8 beside the ranking: one file for all, what was recovered, what was luck."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from harness.analysis import Summary
from harness.lottery import Lottery
from harness.metrics import short
from harness.portability import Cell, portability
from harness.record import RecoveryRecord
from harness.report import format as fmt
from harness.report.value import Report
from harness.report.words import change_text, drop_value, limit_value, time_text
from harness.stats import Answer
from harness.types import Status, Tried
from harness.variants import SHARED

MOST_LAYERS = 8
"""Of a list of layers; a report has the rest as JSON."""
DEFAULT_LIMIT = 0.01
LOTTERY = "How much depends on the calibration samples"


@dataclass(frozen=True)
class Section:
    """A titled table with a sentence above it and remarks below."""

    title: str
    lead: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()


def sections(report: Report) -> tuple[Section, ...]:
    """Those that this run has something for."""
    return (*_portability(report), *_recoveries(report), *_lotteries(report))


def allowed(report: Report) -> float:
    """The drop that int8 may have; one point where there is no such constraint."""
    limit = report.recommendation.limits.max_accuracy_drop
    return DEFAULT_LIMIT if limit is None else limit


# -- one file for all ------------------------------------------------------------------------------


def one_file(report: Report) -> frozenset[str]:
    """The shared recipes that were made alike for every backend."""
    made: dict[str, set[tuple[tuple[str, str], ...]]] = {}
    for each in report.results.builds:
        made.setdefault(each.recipe, set()).add(each.recipe_parameters)
    base = {each.candidate.recipe: each.recipe for each in report.results.added}
    return frozenset(
        name for name, kinds in made.items() if len(kinds) == 1 and base.get(name, name) in SHARED
    )


def _portability(report: Report) -> Iterator[Section]:
    matrix = portability(report.analysis, allowed(report), shared=one_file(report))
    if matrix is None:
        return
    rows = [
        (
            fmt.clean(file.recipe),
            "one file" if file.shared else "its own",
            *(_cell(report, file.cells.get(name)) for name in matrix.backends),
        )
        for file in matrix.files
    ]
    one = matrix.one
    if one is None:
        lead = "No single int8 file serves every runtime here with a certified accuracy."
    elif matrix.tied:
        lead = f"One file serves all: {fmt.clean(one.recipe)}, as fast as each runtime's best int8."
    else:
        cost = fmt.three(matrix.cost or 1.0)
        lead = (
            f"One file serves all: {fmt.clean(one.recipe)}; at worst it takes {cost} times as long"
            " as that runtime's best int8."
        )
    heads = ("Recipe", "Made as", *matrix.backends)
    yield Section("One int8 file for every runtime", lead, heads, tuple(rows))


def _cell(report: Report, cell: Cell | None) -> str:
    if cell is None:
        return fmt.NONE
    summary = cell.summary
    if summary.status is not Status.OK:
        return str(summary.status)
    share = "int8 not told" if cell.share is None else f"int8 {fmt.percent(cell.share)}"
    certified = {
        Answer.MEETS: "certified",
        Answer.MISSES: "refused",
        Answer.UNRESOLVED: "not certified",
        None: "not judged",
    }[cell.certified]
    time = time_text(report, summary) if summary.time_ns else "not timed"
    return f"{time}, {share}, {certified} ({change_text(report, summary.drop)})"


# -- recovery --------------------------------------------------------------------------------------


def _recoveries(report: Report) -> Iterator[Section]:
    for record in report.results.recoveries:
        name = f"{record.backend} {record.recipe}" if record.backend else record.recipe
        title = f"Why int8 by {fmt.clean(name)} failed, and what was done"
        if not record.ok:
            yield Section(title, f"The search failed: {fmt.clean(record.reason or '')}", (), ())
            continue
        yield Section(
            title,
            _found(report, record),
            ("Tried on calibration samples", "Change", "SQNR", "Rough latency"),
            tuple(_step(report, record, each) for each in record.steps),
            tuple(_remarks(report, record)),
        )


def _found(report: Report, record: RecoveryRecord) -> str:
    """What came of it: the fastest that is certified."""
    if not record.proposals:
        return "Nothing that was tried keeps the accuracy on the calibration samples."
    best = _best(report, record)
    if best is None and any(_certified(report, record)):
        return "What was found is certified by the validation samples, and wasn't timed."
    if best is None:
        return "What kept the accuracy on calibration samples wasn't certified by the others."
    summary, _ = best
    return (
        f"Certified by the validation samples, and the fastest of these: {report.name(summary)},"
        f" {time_text(report, summary)}, {change_text(report, summary.drop)}."
    )


def _best(report: Report, record: RecoveryRecord) -> tuple[Summary, Tried] | None:
    """The fastest certified variant of a search."""
    timed = [each for each in _certified(report, record) if each[0].time_ns is not None]
    return min(
        timed, key=lambda each: each[0].time_ns.value if each[0].time_ns else 0, default=None
    )


def certified_steps(report: Report, record: RecoveryRecord) -> list[Tried]:
    """The steps whose variant is certified on any backend."""
    return [step for _, step in _certified(report, record)]


def _certified(report: Report, record: RecoveryRecord) -> Iterator[tuple[Summary, Tried]]:
    limit = allowed(report)
    steps = {record.steps[place].parameters: record.steps[place] for place in record.proposals}
    for each in report.results.added:
        summary = report.analysis.summary(each.candidate.id)
        step = steps.get(each.recipe_parameters) if each.recipe == record.recipe else None
        if step is None or summary is None or summary.drop is None:
            continue
        if summary.drop.judge(limit) is Answer.MEETS:
            yield summary, step


def _step(report: Report, record: RecoveryRecord, step: Tried) -> tuple[str, ...]:
    change = "can't be scored" if step.drop is None else _signed(report, record, -step.drop)
    sqnr = fmt.NONE if step.sqnr_db is None else f"{step.sqnr_db:.1f} dB"
    return fmt.clean(step.what), change, sqnr, fmt.duration(step.time_ns)


def _signed(report: Report, record: RecoveryRecord, change: float) -> str:
    """Of the metric that the search went by, which needs no labels where there are none."""
    if abs(change) < 1e-12:  # noqa: PLR2004 - no change at all
        return "none"
    own = record.metric == report.metric.name
    if not own:
        return f"{change:+.2g} {fmt.clean(short(record.metric))}"
    value = change if report.metric.higher_is_better else -change
    return f"{'+' if value > 0 else '-'}{drop_value(report, abs(value))}"


def _remarks(report: Report, record: RecoveryRecord) -> Iterator[str]:
    known = [each for each in record.sensitivity if each.sqnr_db is not None]
    cut = _common([layer for each in known for layer in each.layers])
    worst = sorted(known, key=lambda each: each.sqnr_db or 0.0)[:MOST_LAYERS]
    if worst:
        told = "; ".join(f"{_layers(each.layers, cut)} ({each.sqnr_db:.1f} dB)" for each in worst)
        yield f"The most harmful layers, each alone in int8: {told}"
    best = _best(report, record)
    if best is not None and best[1].layers:
        layers = best[1].layers
        yield f"It leaves {len(layers)} layers in floating point: {_layers(layers, cut)}"
    if cut:
        yield f"The names of layers are without {fmt.clean(cut)}"
    yield (
        f"Searched {fmt.three(record.elapsed_s)} s on {record.samples} calibration samples"
        f" by {fmt.clean(short(record.metric))}" + (f"; {record.stopped}" if record.stopped else "")
    )


def _common(names: Sequence[str]) -> str:
    """What all names begin with, up to a slash."""
    if len(names) < len(("one", "another")):
        return ""
    shared = takewhile(
        lambda parts: len(set(parts)) == 1, zip(*(n.split("/") for n in names), strict=False)
    )
    return "".join(f"{parts[0]}/" for parts in shared)


def _layers(layers: Sequence[str], cut: str) -> str:
    shown = ", ".join(fmt.clean(each.removeprefix(cut)) for each in layers[:MOST_LAYERS])
    more = len(layers) - MOST_LAYERS
    return f"{shown} and {more} more" if more > 0 else shown


# -- calibration by lottery ------------------------------------------------------------------------


def _lotteries(report: Report) -> Iterator[Section]:
    limit = allowed(report)
    drawn = [each for each in report.analysis.summaries if each.lotteries]
    if not drawn and report.run.config.get("calibration_seeds"):
        few = "Not known: nothing is calibrated, or there are too few samples to draw from."
        yield Section(LOTTERY, few, (), ())
    if not drawn:
        return
    sizes = sorted({e.calibrated_on for s in drawn for e in s.lotteries}, reverse=True)
    rows, lucky = [], []
    for summary in drawn:
        by_size = {each.calibrated_on: each for each in summary.lotteries}
        first = summary.lotteries[0]
        if first.spread > limit or first.failed:
            lucky.append(report.name(summary))
        rows.append((report.name(summary), *(_spread(report, by_size.get(n)) for n in sizes)))
    told = limit_value(report, limit)
    lead = f"No recipe's spread exceeds the allowed drop of {told}."
    if lucky:
        lead = f"A matter of luck, by more than the allowed drop of {told}: {', '.join(lucky)}."
    heads = ("Candidate", *(f"{n} samples" for n in sizes))
    draws = max(each.draws for s in drawn for each in s.lotteries)
    remark = f"Lowest and highest of {draws} draws each, on the same validation samples."
    yield Section(LOTTERY, lead, heads, tuple(rows), (remark,))


def _spread(report: Report, lottery: Lottery | None) -> str:
    if lottery is None:
        return fmt.NONE
    if not lottery.draws:
        return f"all {lottery.failed} failed"
    share = report.metric.share
    text = f"{fmt.score(lottery.lowest, share=share)} to {fmt.score(lottery.highest, share=share)}"
    return f"{text}, {lottery.failed} failed" if lottery.failed else text
