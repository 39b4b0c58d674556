"""The parts of an inference on a device as a plot: stacked, with the host's time to enqueue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.report import format as fmt
from harness.report import style
from harness.report.device_section import timed
from harness.report.value import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"H2D": style.OKABE_ITO[4], "compute": style.OKABE_ITO[0], "D2H": style.OKABE_ITO[2]}
MARK = style.OKABE_ITO[5]


def phases(report: Report) -> Figure:
    """A bar a candidate, in the order of the tables; the mark must stay left of the computation."""
    shown = timed(report)
    heading = style.title(report, "On the device", len(shown))
    shown = shown[: style.MOST_ROWS]
    if not shown:
        return style.empty_figure(heading, "No candidate's device has a clock of its own.")
    ids = [s.candidate.id for s in shown]
    figure = style.new_figure(style.rows_height(report, ids) + 0.6)
    axes = figure.add_subplot()
    style.head(figure, heading)
    known = [s.phases for s in shown if s.phases is not None]
    unit, scale = style.time_unit([each.latency_ns for each in known])
    handles: dict[str, Any] = {}
    for row, each in enumerate(known):
        left = 0.0
        parts = {"H2D": each.h2d_ns, "compute": each.compute_ns, "D2H": each.d2h_ns}
        for name, value in parts.items():
            (bar,) = axes.barh(
                row, value / scale, left=left / scale, height=0.62, color=COLOURS[name], alpha=0.85
            )
            handles.setdefault(name, bar)
            left += value
        (mark,) = axes.plot(
            each.enqueue_ns / scale, row, "|", color=MARK, ms=16, mew=2.2, zorder=4, clip_on=False
        )
        handles["enqueue (host)"] = mark
        text = fmt.duration(each.latency_ns) + ("  enqueue bound" if each.enqueue_bound else "")
        axes.text(1.02, row, text, va="center", fontsize=8, transform=axes.get_yaxis_transform())
    widest = max(max(each.latency_ns, each.enqueue_ns) for each in known)
    axes.set_xlim(0, widest / scale * 1.04)
    axes.set_xlabel(f"one inference by the device's own events, median over launches ({unit})")
    style.row_axis(report, axes, ids)
    figure.legend(
        [*handles.values()], [*handles], loc="outside lower right", ncols=4, markerscale=0.6
    )
    return figure
