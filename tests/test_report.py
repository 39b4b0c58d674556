"""The report says what was measured, in every form, and never more than that."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers_report import CAST, GPU_CAST, SKIPS, Cast, make_results, make_run
from rich.console import Console

from harness.analysis import analyse
from harness.errors import StoreError
from harness.recommendation import Limits, recommend
from harness.report import (
    Report,
    frame,
    render,
    render_html,
    render_markdown,
    save_all,
    to_csv,
    to_json,
)
from harness.report import format as fmt
from harness.report.documents import escape_markdown
from harness.report.notes import CLAIMS, Note, noise, notes
from harness.report.story import story
from harness.report.value import AGREEMENT
from harness.report.words import tier
from harness.stats import Interval
from harness.types import Precision, Stage, Status

DOC = Path(__file__).parents[1] / "docs" / "json-schema.md"
CHOICE = "openvino/int8/nncf/cpu/threads=2"


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return make_run(tmp_path_factory.mktemp("run"))


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0 ns"),
        (850.0, "850 ns"),
        (999.6, "1.00 us"),
        (26_123.0, "26.1 us"),
        (8_800_000.0, "8.80 ms"),
        (999_990_000.0, "1.00 s"),
        (61e9, "61.0 s"),
        (math.inf, "unbounded"),
    ],
)
def test_durations(value: float | None, text: str) -> None:
    assert fmt.duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (512, "512 B"),
        (62_100, "62.1 KB"),
        (999_900, "1.00 MB"),
        (12_345_678, "12.3 MB"),
        (2.5e9, "2.50 GB"),
    ],
)
def test_sizes(value: float | None, text: str) -> None:
    assert fmt.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.8, "1.80x"), (0.9943, "0.99x"), (0.0123, "0.0123x"), (12.34, "12.3x"), (1234.0, "1,230x")],
)
def test_ratios(value: float, text: str) -> None:
    assert fmt.ratio(value) == text


def test_intervals() -> None:
    assert fmt.between(Interval(1.8, 1.7, 1.9)) == "1.70 to 1.90"
    assert fmt.half_width(Interval(100.0, 98.0, 102.0)) == "±2.0 %"
    unknown = Interval(1.8, 0.0, math.inf)
    assert (fmt.between(unknown), fmt.half_width(unknown)) == ("no interval", "±?")
    assert (fmt.between(None), fmt.half_width(None)) == ("-", "-")


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.27, "27 %"), (0.0091, "0.91 %"), (0.00004, "0.00 %"), (2.714, "271 %")],
)
def test_percentages(share: float, text: str) -> None:
    assert fmt.percent(share) == text


def test_foreign_text_can_not_steer_a_terminal() -> None:
    assert fmt.clean("a\x1b[31mred\x1b[0m\x07\tb\x9b") == "ared b"


# -- names and order -------------------------------------------------------------------------------


def test_names_tell_candidates_apart_and_say_nothing_else(tmp_path: Path) -> None:
    first = Cast("openvino", Precision.FP32, "source", 40)
    cast = [
        first,
        dataclasses.replace(first, threads=1),
        dataclasses.replace(first, device="gpu:0"),
        Cast("onnxruntime", Precision.FP32, "source", 44),
    ]
    names = list(make_run(tmp_path, cast, skips=False).names.values())
    assert len(set(names)) == len(names)
    assert "onnxruntime fp32" in names
    assert "openvino fp32 on cpu, threads=1" in names
    assert "openvino fp32 on gpu:0" in names


def test_table_has_the_choice_first_then_what_meets_then_what_does_not(report: Report) -> None:
    places = [each.place for each in report.table]
    assert places == ["choice", *["admissible"] * 5, "refused", "dropped"]
    assert report.table[0].summary.candidate.id == CHOICE
    assert list(report.numbers.values()) == list(range(1, 9))


# -- the story -------------------------------------------------------------------------------------


def test_headline_says_what_to_deploy_and_what_it_costs(report: Report) -> None:
    told = story(report)
    choice = report.recommendation.choice
    assert choice is not None
    assert choice.speedup is not None
    assert (told.lead, told.chosen) == ("Deploy", "openvino int8 (nncf)")
    for part in (
        " on cpu: ",
        f"{fmt.duration(choice.time_ns.value if choice.time_ns else None)} per inference",
        f"{fmt.ratio(choice.speedup.value)} faster than onnxruntime fp32",
        f"(95 % {fmt.between(choice.speedup)})",
        "engine 62.0 KB (27 % of the baseline's)",
        "accuracy 0.990 (no drop, certified to be at most 1 point)",
    ):
        assert part in told.rest


def test_invalid_failed_and_skipped_are_never_rows(report: Report) -> None:
    rows = {row.id for row in story(report).rows}
    for summary in report.analysis.summaries:
        assert (summary.candidate.id in rows) == (summary.status is Status.OK)


def test_equal_reasons_are_told_once(report: Report) -> None:
    groups = story(report).groups
    tensorrt = next(each for each in groups if "tensorrt fp32" in each.names)
    assert tensorrt.heading == "skipped: unavailable"
    assert tensorrt.names == ("tensorrt fp32", "tensorrt fp16", "tensorrt int8 (qdq)")
    assert tensorrt.fix == "enginepick devices"
    headings = [each.heading.partition(":")[0] for each in groups]
    assert headings == ["misses a limit", "out early", "failed", "invalid", "skipped", "skipped"]
    assert sum(len(each.names) for each in groups) == 4 + len(SKIPS)


def test_refusal_gives_the_figures_and_the_limit(report: Report) -> None:
    (refused,) = (each for each in story(report).groups if each.heading == "misses a limit")
    assert refused.reason.startswith("accuracy 0.964, drop 2.6 points, at least ")
    assert refused.reason.endswith("limit 1 point")


@pytest.mark.parametrize(
    ("limits", "part"),
    [
        (Limits(None, max_latency_ns=10_000), "latency 20.8 us (95 %"),
        (Limits(None, max_memory_bytes=1e6), "memory 36.0 MB, limit 1.00 MB"),
        (Limits(None, max_size_bytes=5e4), "engine 62.0 KB, limit 50.0 KB"),
    ],
)
def test_without_a_choice_the_closest_is_named(tmp_path: Path, limits: Limits, part: str) -> None:
    told = story(make_run(tmp_path, limits=limits))
    assert told.chosen == ""
    assert told.export is None
    assert "No candidate is certified" in told.lead
    assert any(part in group.reason for group in told.groups)
    assert "The closest is" in told.rest


def test_what_is_not_certified_is_listed_apart(tmp_path: Path) -> None:
    report = make_run(tmp_path, samples=250)
    told = story(report)
    undecided = {row.name for row in told.rows if row.place == "unresolved"}
    assert undecided
    text = render([report], "text", width=100)
    for name in undecided:
        assert any(each.startswith(f"{name}:") for each in told.unknown)
    assert "Not known yet" in text


def test_a_tie_is_marked(tmp_path: Path) -> None:
    cast = [dataclasses.replace(each, time_us=30.0, dropped=None) for each in CAST[5:8]]
    report = make_run(tmp_path, cast, skips=False, spread=0.001)
    assert [row.place for row in story(report).rows].count("tied") >= 1
    assert "= tied with the best" in render([report], "text", width=100)


def test_errors_are_worse_not_dropped(tmp_path: Path) -> None:
    report = make_run(tmp_path, metric="mae", limits=Limits(0.003))
    rows = {row.name: row for row in story(report).rows}
    assert rows["onnxruntime int8-dynamic"].change == "worse by 0.0031"
    assert story(report).score_title == "mae"


def test_throughput_is_told_per_second(tmp_path: Path) -> None:
    report = make_run(tmp_path, objective="throughput")
    assert "samples per second" in story(report).rest
    text = render([report], "text", width=100)
    assert "Throughput" in text
    assert "Latency" not in text
    assert re.search(r"\d/s", text)


def test_a_latency_run_says_nothing_of_throughput(tmp_path: Path) -> None:
    analysis = analyse(results := make_results(tmp_path))
    report = Report(results, analysis, recommend(analysis, objective="throughput"))
    told = story(report)
    assert (told.chosen, told.rows) == ("", ())
    assert "per second" not in render([report], "text", width=100)
    assert any("throughput was not measured" in each for each in told.unknown)


# -- trust -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "name"),
    [(None, None), (0.0, "green"), (0.0099, "green"), (0.01, "amber"), (0.2, "red"), (0.9, "red")],
)
def test_tiers(share: float | None, name: str | None) -> None:
    assert tier(share) == name


@pytest.mark.parametrize(("run_delay", "name"), [(0.004, "green"), (0.05, "amber"), (0.6, "red")])
def test_noise_limits_what_is_claimed(tmp_path: Path, run_delay: float, name: str) -> None:
    report = make_run(tmp_path, run_delay=run_delay)
    (note,) = _titled(report, "Host noise")
    assert noise(report).tier == name
    assert note.text.startswith(f"{name}, ")
    assert CLAIMS[name] in note.text


def test_steal_counts_as_noise(tmp_path: Path) -> None:
    report = make_run(tmp_path, steal=0.3)
    (note,) = _titled(report, "Host noise")
    assert noise(report).tier == "red"
    assert "the hypervisor took up to 30 % of a round" in note.text


def test_unknown_noise_is_not_called_quiet(tmp_path: Path) -> None:
    report = make_run(tmp_path, run_delay=None, steal=None, throttled=None)
    (note,) = _titled(report, "Host noise")
    assert (note.level, noise(report).tier) == ("fair", None)
    assert "unknown" in note.text


def _titled(report: Report, title: str) -> list[Note]:
    return [each for each in notes(report) if each.title == title]


def test_everything_odd_is_said(tmp_path: Path) -> None:
    report = make_run(
        tmp_path, end="interrupted", torn=True, steady=False, interleaved=False, throttled=2
    )
    said = {each.title: each.text for each in notes(report)}
    assert f"enginepick sweep --resume {report.run.run_id}" in said["Run"]
    assert "torn last line" in said["Records"]
    assert "openvino int8 (nncf)" in said["Warm-up"]
    assert "one after another" in said["Rounds"]
    assert "throttled 10 times" in said["Heat"]
    assert notes(report)[0].level == "poor"


def test_a_run_without_an_end_is_not_called_done(tmp_path: Path) -> None:
    (note,) = _titled(make_run(tmp_path, end=None), "Run")
    assert "no end record" in note.text


def test_a_quiet_whole_run_has_no_complaint(report: Report) -> None:
    assert {each.level for each in notes(report)} <= {"good", "info"}


def test_an_unequal_null_control_voids_the_run(report: Report) -> None:
    biased = dataclasses.replace(report.analysis)
    (scenario,) = biased.comparisons
    evidence = dataclasses.replace(
        biased.comparisons[scenario], control=(0.050, 0.051, 0.049, 0.050, 0.0505)
    )
    biased = dataclasses.replace(biased, comparisons={scenario: evidence})
    (note,) = _titled(Report(report.results, biased, report.recommendation), "Null control")
    assert note.level == "poor"
    assert "measure again" in note.text


# -- text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100, 140])
def test_text_fits_and_cuts_nothing_off(report: Report, width: int) -> None:
    text = render([report], "text", width=width)
    assert "\x1b" not in text
    assert "…" not in text
    export = f"enginepick export {report.run.run_id}"
    assert all(len(line) <= width for line in text.splitlines() if export not in line)
    assert all(line == line.rstrip() for line in text.splitlines())
    words = set(text.replace("(", " (").split())
    for row in story(report).rows:
        assert set(row.name.split()) <= words
        assert row.time in text
        assert row.kept in text


def test_text_comes_in_order(tmp_path: Path) -> None:
    text = render([make_run(tmp_path, samples=600)], "text", width=100)
    parts = ("Deploy", "How sure", "\nCandidates", "Not ranked", "Not known yet",
             "How far to trust this", "To deploy it")  # fmt: skip
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_narrow_text_leaves_out_the_least_important_columns(report: Report) -> None:
    wide, narrow = (render([report], "text", width=width) for width in (100, 80))
    for name in ("Compute", "Size"):
        assert name in wide
        assert not re.search(rf" {name} ", narrow)
    for name in ("Latency", "Speed-up", "Accuracy", "Memory", "Really ran"):
        assert name in narrow


def test_text_for_a_terminal_is_coloured(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    assert "\x1b[" in render([report], "text")


def test_text_for_an_ascii_terminal(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    text = render([report], "text", width=100)
    assert text.isascii()
    assert "?" not in text.replace("~?", "")  # what can't be encoded would be one
    assert " 1 * openvino" in text


def test_long_tables_say_where_the_rest_is(tmp_path: Path) -> None:
    cast = [Cast("onnxruntime", Precision.FP32, f"recipe{n}", 30 + n, threads=1) for n in range(45)]
    report = make_run(tmp_path, cast, rounds=2, skips=False)
    text = render([report], "text", width=100)
    assert "5 more are in --format csv" in text
    assert len(frame(report)) == 45


@pytest.mark.parametrize("form", ["text", "md", "html"])
def test_agreement_is_never_called_accuracy(tmp_path: Path, form: str) -> None:
    report = make_run(tmp_path, labelled=False, metric="agreement")
    text = " ".join(re.sub(r"[│\\]", "", render([report], form, width=140)).split())
    assert AGREEMENT in text
    table = text.replace(AGREEMENT, "").replace("accuracy-control", "")
    table = re.sub(r"<(style|svg)\b.*?</\1>|latency-accuracy|Latency and accuracy", "", table)
    assert "ccuracy" not in table


# -- documents -------------------------------------------------------------------------------------

NASTY = "<script>alert(1)</script> | *bold* `code`\nnext [link](x)"


@pytest.fixture
def nasty(tmp_path: Path) -> Report:
    """Foreign text with everything that Markdown and HTML take for themselves."""
    fault = dataclasses.replace(
        CAST[0],
        backend="<b>backend|1</b>",
        status=Status.CRASHED,
        stage=Stage.MEASURE,
        reason=NASTY,
    )
    return make_run(tmp_path, (*CAST, fault), target="<i>target</i>|x".replace("/", "_"))


class _Tags(HTMLParser):
    """Collects tags and attributes, and checks that they nest."""

    VOID = frozenset({"meta", "br", "link", "hr", "path", "use", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def _tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser.seen


def test_html_is_whole_and_needs_nothing_beside_it(report: Report) -> None:
    seen = _tags(render_html(report))
    assert [tag for tag, _ in seen].count("svg") == 4
    ids = [attrs["id"] for _, attrs in seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in seen:
        assert tag not in {"script", "link", "img", "iframe"}
        for name in ("src", "href", "xlink:href"):
            assert (attrs.get(name) or "#").startswith("#")
            assert (attrs.get(name) or f"#{ids[0]}")[1:] in ids


def test_html_of_several_runs_is_one_page(report: Report) -> None:
    page = render([report, report], "html")
    assert [tag for tag, _ in _tags(page)].count("html") == 1
    assert page.count("<h1>") == 2


def test_html_shows_foreign_text_as_text(nasty: Report) -> None:
    page = render_html(nasty, {})
    assert {tag for tag, _ in _tags(page)}.isdisjoint({"script", "b1", "i"})
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_markdown_shows_foreign_text_as_text(nasty: Report) -> None:
    text = render_markdown(nasty)
    assert "<script>" not in text
    assert r"\<script\>alert(1)\</script\> \| \*bold\* \`code\` next \[link\](x)" in text
    assert escape_markdown("a\n|b") == r"a \|b"


def test_markdown_tables_are_regular(report: Report, nasty: Report) -> None:
    for each in (report, nasty):
        lines = render_markdown(each).splitlines()
        blocks = [[*b] for is_row, b in groupby(lines, lambda t: t.startswith("|")) if is_row]
        (ranked,) = (block for block in blocks if block[0].startswith("| # |"))
        for block in blocks:
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block}) == 1
        assert len(ranked) == 2 + len(each.table)


def test_markdown_links_its_plots(report: Report) -> None:
    assert "![Speed-up over fp32](plots/speedup.svg)" in render_markdown(
        report, ["plots/speedup.svg"]
    )
    assert "![" not in render_markdown(report)


# -- data ------------------------------------------------------------------------------------------


def test_frame_has_a_row_for_every_candidate(report: Report) -> None:
    table = frame(report)
    assert len(table) == len(CAST) + len(SKIPS)
    assert set(table["candidate"]) == {s.candidate.id for s in report.analysis.summaries}
    first = table.iloc[0]
    choice = report.recommendation.choice
    assert choice is not None
    assert choice.time_ns is not None
    assert choice.speedup is not None
    assert first["latency_ns"] == choice.time_ns.value
    assert first["latency_low_ns"] < first["latency_ns"] < first["latency_high_ns"]
    assert first["speedup_low"] == choice.speedup.low
    assert first["place"] == "choice"
    failed = table[table["status"] != "ok"]
    assert failed["reason"].notna().all()


def test_frame_without_evidence_has_no_interval(tmp_path: Path) -> None:
    table = frame(make_run(tmp_path, CAST[:3], rounds=1, skips=False))
    assert table["latency_ns"].notna().all()
    assert table[["latency_low_ns", "latency_high_ns"]].isna().all(axis=None)
    assert table["speedup_low"].notna().to_list() == [s == 1 for s in table["speedup"]]
    assert set(table.dtypes[table.columns.str.endswith("_ns")].astype(str)) == {"float64"}


def test_csv_reads_back(report: Report) -> None:
    table = pd.read_csv(io.StringIO(to_csv(report)))
    expected = frame(report)
    assert list(table.columns) == list(expected.columns)
    assert table["latency_ns"].to_list() == pytest.approx(
        expected["latency_ns"].to_list(), nan_ok=True
    )


def test_csv_says_which_numbers_are_claimed(tmp_path: Path) -> None:
    table = pd.read_csv(io.StringIO(to_csv(make_run(tmp_path, GPU_CAST, tails=5, metered=True))))
    for number, claimed in (("p99_ns", "p99_claimed"), ("energy_j", "energy_claimed")):
        known = table[number].notna()
        assert known.any()
        assert table.loc[known, claimed].isin([True, False]).all()


def test_csv_of_several_runs_has_one_header(report: Report) -> None:
    table = pd.read_csv(io.StringIO(render([report, report], "csv")))
    assert len(table) == 2 * len(frame(report))


def test_json_of_several_runs(report: Report) -> None:
    one = json.loads(render([report], "json"))
    both = json.loads(render([report, report], "json"))
    assert one["schema"] == "enginepick-report/1"
    assert both == {"schema": "enginepick-reports/1", "reports": [one, one]}


def test_unknown_form(report: Report) -> None:
    with pytest.raises(ValueError, match="no form 'pdf'"):
        render([report], "pdf")


# -- the JSON and its page -------------------------------------------------------------------------

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


def _documented() -> dict[str, str]:
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", DOC.read_text(), flags=re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return {path: kind.strip() for path, kind in rows}


def _walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field; elements of an array that are no objects are ``path[]``."""
    if path and not (path.endswith("[]") and isinstance(value, dict)):
        yield path, value
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _walk(each, f"{path}.{name}" if path else name)
    if isinstance(value, list) and not path.endswith(".shape"):
        for each in value:
            yield from _walk(each, f"{path}[]")


@pytest.fixture(scope="session")
def outputs(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Sequence[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("outputs")
    base = CAST[0]
    cast = [
        base,
        dataclasses.replace(base, backend="openvino", options=(("hint", "LATENCY"),)),
        dataclasses.replace(base, backend="litert", time_us=37.71),
    ]
    return [
        to_json(report),
        to_json(make_run(folder / "tie", cast, spread=0.0005)),
        to_json(make_run(folder / "few", samples=100, rounds=1, labelled=False, end=None)),
        to_json(make_run(folder / "rate", objective="throughput", run_delay=None, steal=None)),
        to_json(make_run(folder / "none", CAST[9:], rounds=1, throttled=None)),
        to_json(make_run(folder / "mae", metric="mae")),
        to_json(
            make_run(
                folder / "hot",
                (CAST[8], *CAST[:3]),
                tails=5,
                sustained=(1, 1, 1.1, 1.2, 1.3, 1.5, 1.6, 1.6),
            )
        ),
        to_json(make_run(folder / "void", throttled=3)),
        to_json(make_run(folder / "recovered", recovered=True)),
        to_json(make_run(folder / "gpu", GPU_CAST, metered=True)),
    ]


def test_every_field_is_documented_and_every_documented_field_exists(
    outputs: Sequence[dict[str, Any]],
) -> None:
    found = {path for output in outputs for path, _ in _walk(output)}
    assert found == set(_documented())


def test_values_are_of_the_documented_types(outputs: Sequence[dict[str, Any]]) -> None:
    documented = _documented()
    for output in outputs:
        for path, value in _walk(output):
            kinds = documented[path].split(" or ")
            allowed = tuple(kind for name in kinds for kind in TYPES[name])
            assert isinstance(value, allowed), (path, value)
            assert not isinstance(value, bool) or "boolean" in kinds, (path, value)


def test_json_is_strict(outputs: Sequence[dict[str, Any]]) -> None:
    for output in outputs:
        assert json.loads(json.dumps(output, allow_nan=False)) == output


def test_fields_are_present_whatever_the_run(outputs: Sequence[dict[str, Any]]) -> None:
    first = outputs[0]
    for output in outputs[1:]:
        assert output.keys() == first.keys()
        for candidate in output["candidates"]:
            assert candidate.keys() == first["candidates"][0].keys()


# -- the whole -------------------------------------------------------------------------------------


def test_save_all_writes_every_form(report: Report, tmp_path: Path) -> None:
    files = save_all(report, tmp_path / "deep" / "folder")
    names = {each.name for each in files}
    assert {"report.html", "report.md", "report.json", "report.csv", "speedup.png"} <= names
    assert all(each.stat().st_size for each in files)
    linked = re.findall(r"\]\((plots/[^)]+)\)", (tmp_path / "deep/folder/report.md").read_text())
    assert len(linked) == 4
    assert all((tmp_path / "deep/folder" / link).is_file() for link in linked)


def test_save_all_says_when_it_can_not_write(report: Report, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(StoreError, match="the records are kept"):
        save_all(report, blocked)


def test_other_constraints_change_the_answer_not_the_figures(tmp_path: Path) -> None:
    analysis = analyse(results := make_results(tmp_path))
    small = Report(results, analysis, recommend(analysis, Limits(max_memory_bytes=20e6)))
    assert story(small).chosen == "onnxruntime int8 (qdq)"
    rows = {row.name: row.time for row in story(small).rows}
    whole = Report(results, analysis, recommend(analysis))
    assert rows == {row.name: row.time for row in story(whole).rows}


def test_printing_and_rendering_agree(report: Report) -> None:
    from harness.report import render_text

    stream = io.StringIO()
    render_text(report, Console(file=stream, width=100, no_color=True))
    printed = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert printed == render([report], "text", width=100).splitlines()


def test_importing_the_report_loads_no_heavy_library() -> None:
    code = (
        "import sys, harness.report;"
        "print(sorted({'pandas', 'matplotlib', 'jinja2', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
