"""The plots show what the tables say, nothing on top of anything else, whatever the run."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from helpers_report import CAST, Cast, make_run, many
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from harness.recommendation import Limits
from harness.report import Report, save_plots
from harness.report.durations import durations
from harness.report.placing import Box, log_ticks, place
from harness.report.plots import FIGURES, inline_svgs
from harness.report.style import OKABE_ITO, colours, styled
from harness.report.value import AGREEMENT
from harness.types import Precision

NAMES = tuple(FIGURES)
LONG = "a-model-name-that-somebody-chose-because-they-could-and-that-nobody-can-shorten"


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    folder = tmp_path_factory.mktemp("plots")
    close = [
        dataclasses.replace(each, time_us=30 + 0.05 * n, dropped=None)
        for n, each in enumerate(CAST[:9])
    ]
    return {
        "usual": make_run(folder / "usual"),
        "one": make_run(folder / "one", CAST[:1], rounds=1, skips=False),
        "two": make_run(folder / "two", (CAST[0], CAST[8]), rounds=2, skips=False),
        "many": make_run(folder / "many", many(24), skips=False),
        "crowd": make_run(folder / "crowd", many(48), skips=False, model=LONG),
        "close": make_run(folder / "close", close, limits=Limits(None)),
        "rate": make_run(folder / "rate", objective="throughput"),
        "errors": make_run(folder / "errors", metric="mae", limits=Limits(0.002)),
        "empty": make_run(folder / "empty", CAST[9:], rounds=1),
    }


RUNS = ("usual", "one", "two", "many", "crowd", "close", "rate", "errors", "empty")


def _draw(report: Report, name: str) -> Figure:
    with styled():
        figure = FIGURES[name](report)
        figure.draw_without_rendering()
    return figure


def _texts(figure: Figure) -> list[str]:
    return [each.get_text() for each in figure.findobj(Text) if isinstance(each, Text)]


def _boxes(figure: Figure) -> Iterator[tuple[str, Bbox]]:
    """Every text that is drawn, with the pixels that it covers."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if not text.get_text().strip() or not text.get_visible():
            continue
        box = Text.get_window_extent(text)  # an annotation's own text, without its line
        if box.width and box.height and _is_drawn(figure, text, box):
            yield text.get_text(), box


def _is_drawn(figure: Figure, text: Text, box: Bbox) -> bool:
    """Ticks beyond an axis' limits have labels that are never drawn."""
    for axes in figure.axes:
        ticks = (*axes.get_xticklabels(), *axes.get_yticklabels())
        if not axes.axison and text in ticks:
            return False
        if text in axes.get_xticklabels():
            centre = (box.x0 + box.x1) / 2
            return bool(axes.bbox.x0 - 1 <= centre <= axes.bbox.x1 + 1)
        if text in axes.get_yticklabels():
            centre = (box.y0 + box.y1) / 2
            drawn = axes.yaxis.get_tick_params()["labelleft"]
            return bool(drawn and axes.bbox.y0 - 1 <= centre <= axes.bbox.y1 + 1)
    return True


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("run", RUNS)
def test_no_text_lies_on_another_or_beyond_the_edge(
    runs: dict[str, Report], run: str, name: str
) -> None:
    figure = _draw(runs[run], name)
    boxes = list(_boxes(figure))
    assert boxes
    for (one, first), (other, second) in combinations(boxes, 2):
        common = Bbox.intersection(first, second)
        covered = common.width * common.height if common else 0.0
        assert covered <= 0.1 * min(first.width * first.height, second.width * second.height), (
            one,
            other,
        )
    width, height = figure.bbox.width, figure.bbox.height
    for text, box in boxes:
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text


@pytest.mark.parametrize("run", RUNS)
def test_titles_say_model_target_and_device(runs: dict[str, Report], run: str) -> None:
    for name in NAMES:
        texts = " ".join(" ".join(_texts(_draw(runs[run], name))).split())
        if run != "crowd":
            assert "digits on lab-epyc (cpu)" in texts
        else:
            assert "40 of 48 candidates" in texts


def test_axes_have_units(runs: dict[str, Report]) -> None:
    labels = {
        name: [each.get_xlabel() for each in _draw(runs["usual"], name).axes] for name in NAMES
    }
    assert labels["latency-accuracy"] == ["latency (us)"]
    assert labels["latency-distribution"][0].startswith("one inference, end to end (us, logarith")
    assert labels["speedup"][0].startswith("times as fast as onnxruntime fp32")
    assert [each[-4:] for each in labels["memory"]] == ["(MB)", "(KB)"]


def test_latency_is_logarithmic_when_it_spans_more_than_threefold(
    runs: dict[str, Report],
) -> None:
    scales = {
        run: _draw(runs[run], "latency-accuracy").axes[0].get_xscale() for run in ("usual", "many")
    }
    assert scales == {"usual": "linear", "many": "log"}


def test_agreement_is_not_called_accuracy(tmp_path: Path) -> None:
    report = make_run(tmp_path, labelled=False, metric="agreement")
    assert _draw(report, "latency-accuracy").axes[0].get_ylabel() == f"{AGREEMENT} (agreement)"


def test_the_limit_is_a_line_where_the_points_are(runs: dict[str, Report], tmp_path: Path) -> None:
    baseline = runs["usual"].analysis.baseline
    assert baseline is not None
    assert baseline.accuracy is not None
    axes = _draw(runs["usual"], "latency-accuracy").axes[0]
    limit = next(line for line in axes.lines if "limit" in str(line.get_label()))
    assert np.asarray(limit.get_ydata())[0] == pytest.approx(baseline.accuracy - 0.01)
    far = _draw(make_run(tmp_path, limits=Limits(0.5)), "latency-accuracy")
    low, high = far.axes[0].get_ylim()
    assert high - low < 0.2


def test_front_never_gets_worse_with_time(runs: dict[str, Report]) -> None:
    for run in ("usual", "many"):
        axes = _draw(runs[run], "latency-accuracy").axes[0]
        front = next(line for line in axes.lines if "Pareto" in str(line.get_label()))
        times, scores = np.asarray(front.get_xdata()), np.asarray(front.get_ydata())
        assert (np.diff(times) >= 0).all()
        assert (np.diff(scores) >= 0).all()


def test_nothing_measured_is_said(runs: dict[str, Report]) -> None:
    for name in NAMES:
        assert any(
            words in text
            for text in _texts(_draw(runs["empty"], name))
            for words in ("No candidate", "No raw durations", "Nothing was measured", "Neither")
        )


def test_colours_tell_backends_apart(tmp_path: Path) -> None:
    cast = [
        Cast(f"backend{n}", Precision.FP32, "source", 30 + n) for n in range(len(OKABE_ITO) - 1)
    ]
    cast.append(Cast("openvino", Precision.FP32, "source", 50))
    chosen = colours(make_run(tmp_path, cast, rounds=2, skips=False))
    assert len(set(chosen.values())) == len(cast)


# -- files -----------------------------------------------------------------------------------------


def test_files_are_png_and_svg_and_the_same_every_time(
    runs: dict[str, Report], tmp_path: Path
) -> None:
    before = dict(rcParams)
    first, second = (save_plots(runs["usual"], tmp_path / name) for name in ("a", "b"))
    assert [each.name for each in first] == [
        f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")
    ]
    for one, other in zip(first, second, strict=True):
        raw = one.read_bytes()
        assert raw == other.read_bytes()
        if one.suffix == ".png":
            assert raw.startswith(b"\x89PNG")
        else:
            assert ET.fromstring(raw).tag.endswith("svg")
    assert dict(rcParams) == before


def test_inline_plots_are_svg_with_ids_of_their_own(runs: dict[str, Report]) -> None:
    seen: set[str] = set()
    for text in inline_svgs(runs["usual"]).values():
        root = ET.fromstring(text)
        assert "height" not in root.attrib
        assert "viewBox" in root.attrib
        ids = {each.attrib["id"] for each in root.iter() if "id" in each.attrib}
        assert not ids & seen
        seen |= ids
        links = [each.attrib.get("{http://www.w3.org/1999/xlink}href") for each in root.iter()]
        assert {link[1:] for link in links if link} <= ids


def test_plots_need_no_display_and_no_pyplot(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from helpers_report import CAST, make_run\n"
        "from harness.report import save_plots\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "save_plots(make_run(folder, CAST[:2], rounds=2), folder)\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["$x$ and $", "模型", "a" * 200])
def test_any_name_can_be_drawn(tmp_path: Path, name: str) -> None:
    (tmp_path / "r").mkdir()
    report = make_run(tmp_path / "r", CAST[:2], rounds=2, skips=False)
    run = report.run.model_copy(
        update={"model": report.run.model.model_copy(update={"name": name})}
    )
    renamed = dataclasses.replace(report, analysis=dataclasses.replace(report.analysis, run=run))
    assert len(save_plots(renamed, tmp_path / "plots")) == 2 * len(NAMES)


# -- durations -------------------------------------------------------------------------------------


def test_durations_leave_settling_compute_and_controls_out(runs: dict[str, Report]) -> None:
    report = runs["usual"]
    choice = report.recommendation.choice
    assert choice is not None
    expected = []
    for launch in report.results.launches:
        if launch.candidate != choice.candidate.id or launch.control or launch.durations is None:
            continue
        numbers, start = report.results.numbers(launch.durations), 0
        for each in launch.slices:
            if each.timed == "end-to-end":
                expected.append(numbers[start + each.settling : start + each.iterations])
            start += each.iterations
    (spread,) = durations(report, [choice]).values.values()
    assert spread == pytest.approx(np.percentile(np.concatenate(expected), (1, 10, 50, 90, 99)))


def test_damaged_durations_are_said_not_raised(tmp_path: Path) -> None:
    report = make_run(tmp_path, CAST[:2], rounds=2, skips=False)
    report.results.path.with_suffix(".bin").write_bytes(b"")
    summaries = [each.summary for each in report.table]
    found = durations(report, summaries)
    assert found.values == {}
    texts = " ".join(_texts(_draw(report, "latency-distribution")))
    assert "the raw durations of 4 launches are damaged or gone" in texts


# -- placing ---------------------------------------------------------------------------------------

_FRAME = Box(300, 200, 600, 400)
_POINTS = st.lists(st.tuples(st.floats(20, 580), st.floats(20, 380)), min_size=1, max_size=24)


@given(points=_POINTS)
@settings(max_examples=60, deadline=None)
def test_labels_do_not_cover_each_other(points: list[tuple[float, float]]) -> None:
    sizes = [(12.0, 9.0)] * len(points)
    offsets = place(points, sizes, _FRAME, [9.0] * len(points))
    boxes = [Box(x + dx, y + dy, 12, 9) for (x, y), (dx, dy) in zip(points, offsets, strict=True)]
    assert all(one.overlap(other) < 20 for one, other in combinations(boxes, 2))
    assert all(each.outside(_FRAME) < 60 for each in boxes)


def test_labels_of_one_point_spread_around_it() -> None:
    points = [(300.0, 200.0)] * 24
    offsets = place(points, [(12.0, 9.0)] * 24, _FRAME, [9.0] * 24)
    boxes = [Box(dx, dy, 12, 9) for dx, dy in offsets]
    assert all(one.overlap(other) == 0 for one, other in combinations(boxes, 2))


def test_a_label_is_nearest_to_its_own_point() -> None:
    points = [(300.0, 200.0), (303.0, 200.0)]
    (left, _), (right, _) = place(points, [(7.0, 9.0)] * 2, _FRAME, [9.0] * 2)
    assert 300 + left < 303 + right


def test_boxes() -> None:
    small, large = Box(0, 0, 2, 2), Box(0, 0, 10, 10)
    assert small.overlap(large) == 4
    assert small.outside(large) == 0
    assert Box(6, 0, 4, 2).outside(large) == 6
    assert Box(20, 20, 2, 2).overlap(large) == 0


@pytest.mark.parametrize(
    ("low", "high"), [(0.5, 2.0), (1.0, 1.4), (0.98, 1.02), (3.0, 3000.0), (0.02, 0.09)]
)
def test_logarithmic_ticks_are_few_and_inside(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert 3 <= len(ticks) <= 15
    assert ticks == sorted(ticks)
    assert all(low <= tick <= high for tick in ticks)
