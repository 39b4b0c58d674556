"""The plots, as PNG and SVG files or as SVG text for a page. Numbers are those of the tables."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis import Summary
from harness.report import format as fmt
from harness.report import style
from harness.report.device_plot import phases
from harness.report.device_section import timed
from harness.report.durations import PERCENTILES, durations
from harness.report.placing import Box, place
from harness.report.recovery_plot import recovery
from harness.report.recovery_plot import shown as recoveries_shown
from harness.report.value import Report
from harness.report.words import limit_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
NARROW = 54
"""Characters of a title that has a legend beside it."""
MARKER_PT, RING_PT = 9.0, 18.0
NEAR_PT = 18.0
"""A number farther from its point than this gets a line to it."""
FAR = 0.02
"""A limit is shown even where all points agree, if it is no farther from them than this."""
LOG_FROM = 3.0
"""A latency axis is logarithmic when its largest value is this many times its smallest."""


def save_plots(report: Report, folder: Path) -> list[Path]:
    """Write every plot as PNG and SVG into the folder, which is made. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with style.styled():
        for name, draw in figures(report).items():
            figure = draw(report)
            for path in (folder / f"{name}.png", folder / f"{name}.svg"):
                _write(figure, path)
                files.append(path)
    return files


def inline_svgs(report: Report) -> dict[str, str]:
    """Every plot by name, as an ``<svg>`` element that can stand beside the others in one page."""
    with style.styled():
        return {name: _inline(name, draw(report)) for name, draw in figures(report).items()}


def _write(figure: Figure, path: Path | StringIO, kind: str | None = None) -> None:
    """Without the time of writing, so that equal reports give equal files."""
    is_svg = kind == "svg" or (isinstance(path, Path) and path.suffix == ".svg")
    metadata = {"Date": None} if is_svg else {"Software": None}
    figure.savefig(path, format=kind, dpi=DPI, metadata=metadata)


def _inline(name: str, figure: Figure) -> str:
    stream = StringIO()
    _write(figure, stream, "svg")
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)  # ids are the page's, not the plot's
    text = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    return re.sub(r'(<svg[^>]*?) width="[^"]*"| height="[^"]*pt"', r"\1", text, count=2)


# -- latency and accuracy --------------------------------------------------------------------------


def latency_accuracy(report: Report) -> Figure:
    """Time against the metric: the front, the limit of the drop, and the choice."""
    heading = style.title(report, "Latency and accuracy", len(report.table), NARROW)
    shown = [each.summary for each in report.table if _has_point(each.summary)][: style.MOST_ROWS]
    if not shown:
        return style.empty_figure(heading, "No candidate has both a time and an accuracy.")
    figure = style.new_figure(max(4.6, 1.6 + 0.21 * _lines(report, shown)))
    axes = figure.add_subplot()
    axes.set_title(heading)
    unit, scale = style.time_unit([_time(s) for s in shown])
    handles = [_point(report, axes, s, scale) for s in shown]
    lines = [_front(report, axes, shown, scale), *_limit(report, axes, shown)]
    _time_axis(report, axes, shown, unit, scale)
    axes.set_ylabel(report.metric.title)
    axes.margins(y=0.1)
    axes.grid()
    figure.legend(handles=handles, loc="outside right upper", title="Candidates", alignment="left")
    figure.legend(handles=lines, loc="outside lower center", ncols=3)
    _number(report, figure, axes, [(_time(s) / scale, _score(s)) for s in shown], shown)
    return figure


def _has_point(summary: Summary) -> bool:
    return summary.time_ns is not None and summary.accuracy is not None


def _lines(report: Report, shown: Sequence[Summary]) -> int:
    names = [style.wrapped(report.numbers[s.candidate.id], report.name(s)) for s in shown]
    return sum(1 + name.count("\n") for name in names)


def _time(summary: Summary) -> float:
    assert summary.time_ns is not None
    return summary.time_ns.value


def _score(summary: Summary) -> float:
    assert summary.accuracy is not None
    return summary.accuracy


def _point(report: Report, axes: Axes, summary: Summary, scale: float) -> Any:
    """One candidate with the intervals of its time and of its drop; returns its legend entry."""
    from matplotlib.lines import Line2D

    assert summary.time_ns is not None
    colour = style.colours(report)[summary.candidate.backend]
    marker = style.MARKERS.get(str(summary.candidate.precision), "P")
    x, y, time = _time(summary) / scale, _score(summary), summary.time_ns
    if math.isfinite(time.high):
        axes.hlines(y, time.low / scale, time.high / scale, color=colour, lw=1, alpha=0.7)
    if summary.drop is not None and not report.is_baseline(summary):
        sign = -1 if report.metric.higher_is_better else 1
        middle = y - sign * summary.drop.value
        bounds = [middle + sign * summary.drop.low, middle + sign * summary.drop.high]
        axes.vlines(x, min(bounds), max(bounds), color=colour, lw=1, alpha=0.7)
    chosen = summary is report.recommendation.choice
    axes.plot(x, y, marker, color=colour, ms=MARKER_PT - 1, mec="white", mew=0.8, zorder=4)
    if chosen:
        axes.plot(x, y, "o", ms=RING_PT - 1, mfc="none", mec=style.INK, mew=1.6, zorder=3)
    name = style.wrapped(report.numbers[summary.candidate.id], report.name(summary))
    label = f"{name}\n     recommended" if chosen else name
    edge, width = (style.INK, 1.4) if chosen else ("white", 0.8)
    return Line2D(
        [], [], color=colour, marker=marker, ls="", ms=7, label=label, mec=edge, mew=width
    )


def _front(report: Report, axes: Axes, shown: Sequence[Summary], scale: float) -> Any:
    """The candidates that none beats in both time and metric."""
    sign = 1 if report.metric.higher_is_better else -1
    front: list[Summary] = []
    for summary in sorted(shown, key=lambda s: (_time(s), -sign * _score(s))):
        if not front or sign * _score(summary) > sign * _score(front[-1]):
            front.append(summary)
    xs, ys = [_time(s) / scale for s in front], [_score(s) for s in front]
    xs.append(max(_time(s) for s in shown) / scale)  # from the best on, more time buys nothing
    ys.append(ys[-1])
    (line,) = axes.plot(
        xs, ys, drawstyle="steps-post", color=style.FAINT, lw=1.2, ls="--", zorder=1,
        label="Pareto front: best for the time",
    )  # fmt: skip
    return line


def _limit(report: Report, axes: Axes, shown: Sequence[Summary]) -> list[Any]:
    """The line that the accuracy drop must not cross; left out where it is far from all points."""
    limit, baseline = report.recommendation.limits.max_accuracy_drop, report.analysis.baseline
    if limit is None or baseline is None or baseline.accuracy is None:
        return []
    level = (
        baseline.accuracy - limit if report.metric.higher_is_better else baseline.accuracy + limit
    )
    scores = [_score(s) for s in shown]
    span = max(2 * (max(scores) - min(scores)), FAR if report.metric.share else 0.0)
    if not min(scores) - span <= level <= max(scores) + span:
        return []
    label = f"limit: drop of {limit_value(report, limit)}"
    return [axes.axhline(level, color="#D55E00", lw=1.2, ls=":", zorder=1, label=label)]


def _time_axis(
    report: Report, axes: Axes, shown: Sequence[Summary], unit: str, scale: float
) -> None:
    lows = [(s.time_ns.low if s.time_ns and s.time_ns.low else _time(s)) / scale for s in shown]
    times = [_time(s) / scale for s in shown]
    highs = [s.time_ns.high / scale for s in shown if s.time_ns and math.isfinite(s.time_ns.high)]
    low, high = min([*lows, *times]), max([*highs, *times])
    what = "time per sample" if report.recommendation.objective == "throughput" else "latency"
    if max(times) > LOG_FROM * min(times):
        style.log_axis(axes, low / 1.15, high * 1.15)
        axes.set_xlabel(f"{what} ({unit}, logarithmic)")
        return
    margin = 0.08 * (high - low) or 0.05 * high
    axes.set_xlim(low - margin, high + margin)
    axes.set_xlabel(f"{what} ({unit})")


def _number(
    report: Report,
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[float, float]],
    shown: Sequence[Summary],
) -> None:
    """Write each point's number beside it, once the layout is known."""
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    to_points = 72 / figure.dpi
    pixels = axes.transData.transform(points) * to_points
    frame = axes.bbox
    room = Box(
        (frame.x0 + frame.x1) / 2 * to_points,
        (frame.y0 + frame.y1) / 2 * to_points,
        frame.width * to_points,
        frame.height * to_points,
    )
    texts = [str(report.numbers[s.candidate.id]) for s in shown]
    chosen = report.recommendation.choice
    markers = [RING_PT if s is chosen else MARKER_PT for s in shown]
    sizes = [(6.0 * len(text) + 1, 9.0) for text in texts]
    offsets = place([(x, y) for x, y in pixels], sizes, room, markers)
    for text, point, offset in zip(texts, points, offsets, strict=True):
        far = math.hypot(*offset) > NEAR_PT
        axes.annotate(
            text, point, offset, textcoords="offset points", ha="center", va="center",
            fontsize=8, zorder=5, path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": style.FAINT, "lw": 0.6} if far else None,
        )  # fmt: skip


# -- the distribution of single inferences ---------------------------------------------------------


def latency_distribution(report: Report) -> Figure:
    """What single inferences took: all raw durations after each slice's settling."""
    rows = [each.summary for each in report.table]
    what = "Latency distribution"
    spread = durations(report, rows[: style.MOST_ROWS])
    heading = style.title(report, what, len(rows))
    if not spread.values:
        return style.empty_figure(heading, spread.problem or "No raw durations were kept.")
    ids = sorted(spread.values, key=lambda each: spread.values[each][PERCENTILES.index(50)])
    figure = style.new_figure(style.rows_height(report, ids) + 0.5)
    axes = figure.add_subplot()
    style.head(figure, heading)
    unit, scale = style.time_unit([spread.values[each][2] for each in ids])
    colours, handles = style.colours(report), {}
    for row, each in enumerate(ids):
        summary = report.analysis.summary(each)
        assert summary is not None
        colour = colours[summary.candidate.backend]
        p1, p10, p50, p90, p99 = (value / scale for value in spread.values[each])
        axes.hlines(row, p1, p99, color=colour, lw=1.2)
        axes.hlines(row, p10, p90, color=colour, lw=8, alpha=0.55)
        handles["p50"] = axes.plot(p50, row, "o", color="white", mec=style.INK, ms=5, zorder=4)[0]
        handles["p90"] = axes.plot(p90, row, "|", color=style.INK, ms=10, mew=1.6, zorder=4)[0]
    lowest = min(spread.values[each][0] for each in ids) / scale
    highest = max(spread.values[each][-1] for each in ids) / scale
    style.log_axis(axes, lowest / 1.1, highest * 1.1)
    throughput = report.recommendation.objective == "throughput"
    noun = "time between completions, per sample" if throughput else "one inference, end to end"
    note = f"\n{spread.problem}" if spread.problem else ""
    axes.set_xlabel(f"{noun} ({unit}, logarithmic); bar: p10 to p90, line: p1 to p99{note}")
    style.row_axis(report, axes, ids)
    figure.legend(list(handles.values()), list(handles), loc="outside lower right", ncols=2)
    return figure


# -- speed-up --------------------------------------------------------------------------------------


def speedup(report: Report) -> Figure:
    """How many times as fast as the baseline, with intervals that hold for all pairs at once."""
    rows = [each.summary for each in report.table if each.summary.speedup is not None]
    heading = style.title(report, "Speed-up over fp32", len(rows))
    rows = rows[: style.MOST_ROWS]
    compared, baseline = report.compared, report.analysis.baseline
    if not rows or compared is None or baseline is None:
        return style.empty_figure(heading, "Nothing was measured in the same rounds as fp32.")
    rows.sort(key=lambda s: -(s.speedup.value if s.speedup else 0))
    ids = [s.candidate.id for s in rows]
    figure = style.new_figure(style.rows_height(report, ids) + 0.3)
    axes = figure.add_subplot()
    style.head(figure, heading)
    margin = math.exp(compared.margin)
    band = axes.axvspan(1 / margin, margin, color=style.GRID, zorder=0)
    axes.axvline(1, color=style.FAINT, lw=1)
    ends = [1 / margin, margin]
    for row, summary in enumerate(rows):
        ends += _speed_row(report, axes, row, summary)
    if max(ends) > LOG_FROM * min(ends):
        style.log_axis(axes, min(ends) / 1.1, max(ends) * 1.1, "x")
    else:
        room = 0.05 * (max(ends) - min(ends))
        axes.set_xlim(min(ends) - room, max(ends) + room)
        axes.xaxis.set_major_formatter("{x:g}x")
    axes.set_xlabel(f"times as fast as {report.name(baseline)} (95 % interval over all pairs)")
    style.row_axis(report, axes, ids)
    tie = f"within {fmt.percent(margin - 1)}: a tie"
    figure.legend([band], [tie], loc="outside lower right")
    return figure


def _speed_row(report: Report, axes: Axes, row: int, summary: Summary) -> list[float]:
    """One candidate; returns what the axis must span."""
    speed = summary.speedup
    assert speed is not None
    colour = style.colours(report)[summary.candidate.backend]
    is_base = report.is_baseline(summary)
    bounded = math.isfinite(speed.high)
    if bounded and not is_base:
        axes.hlines(row, speed.low, speed.high, color=colour, lw=2.2)
        axes.plot([speed.low, speed.high], [row, row], "|", color=colour, ms=12, mew=1.2)
    face = colour if bounded and not is_base else "white"
    axes.plot(speed.value, row, "o", color=face, mec=colour, ms=5.5, mew=1.4, zorder=4)
    text = "baseline" if is_base else f"{fmt.ratio(speed.value)}  ({fmt.between(speed)})"
    axes.text(1.02, row, text, va="center", fontsize=8, transform=axes.get_yaxis_transform())
    return [speed.value, *([speed.low, speed.high] if bounded else [])]


# -- memory and size -------------------------------------------------------------------------------


def memory(report: Report) -> Figure:
    """Peak memory and engine size, side by side: they differ by orders of magnitude."""
    rows = [each.summary for each in report.table]
    rows = [s for s in rows if s.memory_bytes is not None or s.size_bytes is not None]
    heading = style.title(report, "Memory and size", len(rows))
    rows = rows[: style.MOST_ROWS]
    if not rows:
        return style.empty_figure(heading, "Neither memory nor size was measured.")
    ids = [s.candidate.id for s in rows]
    figure = style.new_figure(style.rows_height(report, ids))
    left, right = figure.subplots(1, 2, sharey=True)
    style.head(figure, heading)
    colours = [style.colours(report)[s.candidate.backend] for s in rows]
    _bars(
        left, [s.memory_bytes for s in rows], colours, "peak memory, without the runtime's import"
    )
    _bars(right, [s.size_bytes for s in rows], colours, "engine size")
    style.row_axis(report, left, ids)
    right.tick_params(axis="y", length=0)
    right.grid(axis="x")
    return figure


def _bars(axes: Axes, values: Sequence[float | None], colours: Sequence[str], what: str) -> None:
    highest = max((value for value in values if value), default=1.0)
    units = (("GB", 1e9), ("MB", 1e6), ("KB", 1e3), ("B", 1.0))
    unit, scale = next(((u, f) for u, f in units if highest >= f), units[-1])
    for row, (value, colour) in enumerate(zip(values, colours, strict=True)):
        axes.barh(row, (value or 0) / scale, height=0.62, color=colour, alpha=0.8)
        text = "not measured" if value is None else fmt.size(value)
        axes.annotate(
            text, ((value or 0) / scale, row), (4, 0), textcoords="offset points", va="center",
            fontsize=8,
        )  # fmt: skip
    axes.set_xlim(0, highest / scale * 1.28)
    axes.locator_params(axis="x", nbins=5)  # as many in any width: room is made for them once
    axes.set_xlabel(f"{what} ({unit})")


# -- a stretch of load -----------------------------------------------------------------------------


def sustained(report: Report) -> Figure:
    """Each candidate's time through the stretch, and the clock where the host shows it."""
    stretch = report.analysis.sustained
    heading = style.title(report, "Under sustained load")
    if stretch is None:
        return style.empty_figure(heading, "Not measured: enginepick sweep --sustain 10m")
    known_clock = [each for each in stretch.clock_hz if each is not None]
    figure = style.new_figure(4.6 + (1.2 if known_clock else 0))
    style.head(figure, heading)
    ratios = [3, 1] if known_clock else [1]
    rows = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)
    axes = rows[0][0]
    unit, scale = style.time_unit([value for own in stretch.times_ns.values() for value in own])
    colours, handles = style.colours(report), []
    for name, own in stretch.times_ns.items():
        summary = report.analysis.summary(name)
        assert summary is not None
        (line,) = axes.plot(
            stretch.minutes, [value / scale for value in own], lw=1.4, ms=6, mec="white",
            marker=style.MARKERS.get(str(summary.candidate.precision), "P"),
            color=colours.get(summary.candidate.backend, style.INK), label=report.names[name],
        )  # fmt: skip
        handles.append(line)
    values = [value / scale for own in stretch.times_ns.values() for value in own]
    if max(values) > LOG_FROM * min(values):
        style.log_axis(axes, min(values) / 1.1, max(values) * 1.1, axis="y")
    what = "time per sample" if report.recommendation.objective == "throughput" else "latency"
    axes.set_ylabel(f"{what} ({unit})")
    axes.grid()
    if known_clock:
        clock = rows[1][0]
        clock.plot(
            stretch.minutes, [(c or math.nan) / 1e9 for c in stretch.clock_hz], color=style.INK
        )
        clock.set_ylabel("clock (GHz)")
        clock.grid()
    rows[-1][0].set_xlabel("minutes of load; each point is a tenth of the stretch")
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


FIGURES: dict[str, Callable[[Report], Figure]] = {
    "latency-accuracy": latency_accuracy,
    "latency-distribution": latency_distribution,
    "speedup": speedup,
    "memory": memory,
}
"""Of every report."""


def figures(report: Report) -> dict[str, Callable[[Report], Figure]]:
    """The plots that this report has, by name."""
    more = {"device-phases": phases} if timed(report) else {}
    more |= {"sustained": sustained} if report.analysis.sustained else {}
    more |= {"recovery": recovery} if recoveries_shown(report) else {}
    return FIGURES | more
