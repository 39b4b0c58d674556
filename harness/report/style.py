"""How the plots look: colours, shapes, fonts, axes. No pyplot, no state that outlives a plot."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from harness.report import format as fmt
from harness.report.placing import log_ticks
from harness.report.value import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 9.0
MOST_ROWS = 40
"""More rows than this can't be read; the title then says how many there are."""
NAME_WIDTH = 30

INK, FAINT, GRID = "#222222", "#777777", "#dddddd"
# Okabe and Ito's palette (2008), told apart with any colour vision; yellow is too faint on white.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_OWN_COLOURS = {
    "onnxruntime": OKABE_ITO[0],
    "openvino": OKABE_ITO[1],
    "tensorrt": OKABE_ITO[2],
    "litert": OKABE_ITO[3],
    "executorch": OKABE_ITO[4],
}
MARKERS = {
    "fp32": "o",
    "fp16": "s",
    "bf16": "D",
    "tf32": "p",
    "fp8": "<",
    "as-is": "*",
    "int8": "^",
    "int8-dynamic": "v",
    "int8-weights": "P",
    "int4-weights": "X",
}

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,  # a $ in a name is a $
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "enginepick",  # equal reports give equal files
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in our style. Names in scripts that the font lacks become boxes, not warnings."""
    import warnings

    from matplotlib import rc_context

    with rc_context(_RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        yield


def new_figure(height_in: float) -> Figure:
    """An empty figure that makes room for its labels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH_IN, height_in), layout="constrained")


def empty_figure(title: str, why: str) -> Figure:
    """A plot that says that there is nothing to show."""
    figure = new_figure(2.2)
    head(figure, title)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", color=FAINT, transform=axes.transAxes)
    return figure


def title(report: Report, what: str, rows: int | None = None, width: int = 88) -> str:
    """``Speed-up: digits on lab (cpu)``, and how many candidates there is no room for.

    width: of its lines, in characters.
    """
    text = f"{what}: {report.subject}"
    if rows is not None and rows > MOST_ROWS:
        text += f", {MOST_ROWS} of {rows} candidates"
    return "\n".join(textwrap.wrap(text, width)[:3])


def colours(report: Report) -> dict[str, str]:
    """By backend; those that we don't know take what is left, in order of appearance."""
    backends = list(dict.fromkeys(each.summary.candidate.backend for each in report.table))
    own = {name: _OWN_COLOURS[name] for name in backends if name in _OWN_COLOURS}
    free = [colour for colour in OKABE_ITO if colour not in own.values()]
    others = [name for name in backends if name not in own]
    return own | {name: free[n % len(free)] for n, name in enumerate(others)}


def wrapped(number: int, name: str) -> str:
    """A numbered name in lines that fit beside a plot."""
    lines = textwrap.wrap(name, NAME_WIDTH, break_long_words=True) or [""]
    return "\n".join([f"{number}  {lines[0]}", *(f"     {line}" for line in lines[1:])])


def head(figure: Figure, heading: str) -> None:
    """A title over the whole width: beside long names an axis has no room for one."""
    figure.suptitle(heading, x=0.01, ha="left", fontsize=11, fontweight="bold")


def row_axis(report: Report, axes: Axes, ids: Sequence[str]) -> None:
    """A row per candidate, the first on top, each with its number and name."""
    choice = report.recommendation.choice
    labels = [wrapped(report.numbers[each], report.names[each]) for each in ids]
    axes.set_yticks(range(len(ids)), labels)
    axes.set_ylim(len(ids) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    for label, each in zip(axes.get_yticklabels(), ids, strict=True):
        label.set_horizontalalignment("right")
        if choice is not None and each == choice.candidate.id:
            label.set_fontweight("bold")
    axes.grid(axis="x")


def rows_height(report: Report, ids: Sequence[str]) -> float:
    """Inches for that many rows of names, some of them wrapped."""
    lines = sum(1 + wrapped(report.numbers[each], report.names[each]).count("\n") for each in ids)
    return 1.5 + 0.1 * len(ids) + 0.16 * lines


def time_unit(values_ns: Sequence[float]) -> tuple[str, float]:
    """The unit in which most of these are between 1 and 1,000, and its nanoseconds."""
    middle = sorted(values_ns)[len(values_ns) // 2]
    units = (("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1.0))
    return next(((name, factor) for name, factor in units if middle >= factor), units[-1])


def log_axis(
    axes: Axes, low: float, high: float, suffix: str = "", axis: Literal["x", "y"] = "x"
) -> None:
    """A logarithmic axis with round numbers, whatever its range."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set(**{f"{axis}scale": "log", f"{axis}lim": (low, high)})
    scale = axes.xaxis if axis == "x" else axes.yaxis
    scale.set_major_locator(FixedLocator(log_ticks(low, high)))
    scale.set_minor_locator(NullLocator())

    def label(value: float, _: Any) -> str:
        text = fmt.three(value)
        return (text.rstrip("0").rstrip(".") if "." in text else text) + suffix

    scale.set_major_formatter(FuncFormatter(label))
