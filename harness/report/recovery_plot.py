"""The search for mixed precision as a plot: accuracy against latency, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.record import RecoveryRecord
from harness.report import style
from harness.report.placing import Box, place
from harness.report.sections import allowed, certified_steps
from harness.report.value import Report
from harness.types import Tried

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WHOLE, PART, GOOD, BAD = style.OKABE_ITO[1], style.OKABE_ITO[0], style.OKABE_ITO[2], "#D55E00"
LINEAR = 2.0
"""Limits around zero that are shown to scale; beyond, the axis is logarithmic."""


def shown(report: Report) -> list[RecoveryRecord]:
    """The searches by the report's own metric whose steps have a time."""
    own = [e for e in report.results.recoveries if e.metric == report.metric.name]
    return [each for each in own if len(_points(each)) > 1]


def recovery(report: Report) -> Figure:
    """Each search on axes of its own."""
    records = shown(report)
    heading = style.title(report, "Int8 that failed, and what was tried")
    if not records:
        return style.empty_figure(heading, "Not searched: enginepick sweep --recover 5m")
    figure = style.new_figure(0.8 + 3.8 * len(records))
    style.head(figure, heading)
    rows = figure.subplots(len(records), 1, squeeze=False)
    handles: dict[str, Any] = {}
    for axes, record in zip(rows[:, 0], records, strict=True):
        handles |= _draw(report, axes, record)
    figure.legend(
        handles=[*handles.values()], loc="outside lower center", ncols=3, markerscale=0.75
    )
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, record in zip(rows[:, 0], records, strict=True):
        _label(report, figure, axes, record)
    return figure


def _label(report: Report, figure: Figure, axes: Axes, record: RecoveryRecord) -> None:
    """How many layers each point leaves in floating point, once for the best of each number."""
    from matplotlib.patheffects import withStroke

    best: dict[int, Tried] = {}
    for step in _points(record):
        before = best.get(len(step.layers))
        if step.layers and (before is None or _rank(step) < _rank(before)):
            best[len(step.layers)] = step
    _, scale = style.time_unit([each.time_ns or 0.0 for each in _points(record)])
    points = [_place(report, each, scale) for each in best.values()]
    to_points = 72 / figure.dpi
    frame = axes.bbox
    room = Box(*(
        value * to_points
        for value in (
            (frame.x0 + frame.x1) / 2, (frame.y0 + frame.y1) / 2, frame.width, frame.height
        )
    ))  # fmt: skip
    pixels = axes.transData.transform(points) * to_points
    sizes = [(6.0 * len(str(count)) + 1, 9.0) for count in best]
    offsets = place([(x, y) for x, y in pixels], sizes, room, [14.0] * len(best))
    for count, point, offset in zip(best, points, offsets, strict=True):
        axes.annotate(
            str(count), point, offset, textcoords="offset points", fontsize=8, ha="center",
            va="center", zorder=5, path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def _rank(step: Tried) -> tuple[float, float]:
    return step.drop or 0.0, -(step.sqnr_db or 0.0)


def _place(report: Report, step: Tried, scale: float) -> tuple[float, float]:
    return (step.time_ns or 0.0) / scale, _change(report, step.drop or 0.0)


def _change(report: Report, drop: float) -> float:
    """Of the metric, in points where it is a share."""
    factor = 100.0 if report.metric.share else 1.0
    return -factor * drop if report.metric.higher_is_better else factor * drop


def _points(record: RecoveryRecord) -> list[Tried]:
    return [each for each in record.steps if each.time_ns and each.drop is not None]


def _draw(report: Report, axes: Axes, record: RecoveryRecord) -> dict[str, Any]:
    """One search; its legend entries by what they say."""
    from matplotlib.ticker import FuncFormatter

    share, limit = report.metric.share, allowed(report)
    factor = 100.0 if share else 1.0
    steps = _points(record)
    unit, scale = style.time_unit([each.time_ns or 0.0 for each in steps])
    sure = certified_steps(report, record)
    proposed = [record.steps[place] for place in record.proposals]
    labels = {
        WHOLE: "all layers in int8, other calibrations",
        PART: "worst layers in floating point (how many)",
        GOOD: "certified by the validation samples",
        BAD: "worth validating, not certified",
    }
    handles = {}
    for step in steps:
        x, y = _place(report, step, scale)
        colour = PART if step.layers else WHOLE
        ring = GOOD if step in sure else BAD if step in proposed else None
        (mark,) = axes.plot(
            x, y, "o" if step.layers else "s", color=colour, ms=7, mec="white", ls="",
            zorder=3, label=labels[colour],
        )  # fmt: skip
        handles[labels[colour]] = mark
        if ring is not None:
            (mark,) = axes.plot(
                x, y, "o", mfc="none", mec=ring, mew=1.8, ms=13, ls="", zorder=2,
                label=labels[ring],
            )  # fmt: skip
            handles[labels[ring]] = mark
    handles["limit"] = axes.axhline(
        _change(report, limit), color=BAD, ls=":", lw=1.2, zorder=1, label="limit of the drop"
    )
    axes.set_yscale("symlog", linthresh=LINEAR * factor * limit or 1.0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    where = "points, calibration samples" if share else "calibration samples"
    axes.set_ylabel(f"change of {report.metric.noun}\n({where})")
    axes.set_xlabel(f"rough latency on ONNX Runtime ({unit}), not for ranking")
    name = f"{record.backend} {record.recipe}" if record.backend else record.recipe
    axes.set_title(f"{name}: {record.samples} calibration samples", fontsize=10)
    axes.margins(x=0.08, y=0.1)
    axes.grid()
    return handles
