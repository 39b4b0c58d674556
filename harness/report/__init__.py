"""A recommendation for people and programs: terminal, Markdown, HTML, CSV, JSON, plots.

Only this package turns values into text. What it needs beyond the standard library (rich, pandas,
matplotlib, Jinja2) is imported by the function that needs it, so that importing it costs little.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.errors import StoreError
from harness.report.data import SCHEMA, frame, to_csv, to_json
from harness.report.documents import render_html, render_markdown
from harness.report.plots import figures, inline_svgs, save_plots
from harness.report.value import Report

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "SCHEMA",
    "Form",
    "Report",
    "frame",
    "render",
    "render_html",
    "render_markdown",
    "render_text",
    "save_all",
    "save_plots",
    "to_csv",
    "to_json",
]

Form = Literal["text", "md", "html", "json", "csv"]
SEVERAL = "enginepick-reports/1"
"""The JSON of several runs: ``{"schema": ..., "reports": [...]}``."""


def render_text(report: Report, console: Console) -> None:
    """Print the report on a terminal; see :mod:`harness.report.text`."""
    from harness.report.text import render_text as print_text

    print_text(report, console)


def render(reports: Sequence[Report], form: str, *, width: int | None = None) -> str:
    """One or several runs in a form; raises ValueError for an unknown one.

    width: of plain text without colours; None: for the terminal, in colours.
    """
    if form == "text":
        return "\n".join(_text(each, width) for each in reports)
    if form == "md":
        return "\n".join(render_markdown(each) for each in reports)
    if form == "html":
        return _joined_html(reports)
    if form == "csv":
        return _joined_csv(reports)
    if form == "json":
        one = to_json(reports[0]) if len(reports) == 1 else None
        data = one or {"schema": SEVERAL, "reports": [to_json(each) for each in reports]}
        return json.dumps(data, indent=2, allow_nan=False) + "\n"
    raise ValueError(f"no form {form!r}; there are text, md, html, json, csv")


def _text(report: Report, width: int | None) -> str:
    """In the encoding that standard output has, so that nothing in it can't be printed there."""
    from rich.console import Console

    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    raw = BytesIO()
    stream = TextIOWrapper(raw, encoding=encoding, errors="replace", newline="\n")
    live = width is None
    console = Console(
        file=stream, width=width, force_terminal=live, no_color=None if live else True,
        highlight=False,
    )  # fmt: skip
    render_text(report, console)
    stream.flush()
    text = raw.getvalue().decode(encoding)
    if live:
        return text
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _joined_csv(reports: Sequence[Report]) -> str:
    """One header line; the run's id is a column."""
    parts = [to_csv(each) for each in reports]
    return "".join([*parts[:1], *(part.partition("\n")[2] for part in parts[1:])])


def _joined_html(reports: Sequence[Report]) -> str:
    """The pages after one another in one page: each has the same head."""
    pages = [render_html(each) for each in reports]
    bodies = [page.partition("<body>")[2].rpartition("</body>")[0] for page in pages]
    head, _, _ = pages[0].partition("<body>") if pages else ("", "", "")
    return f"{head}<body>{'<hr>'.join(bodies)}</body>\n</html>\n"


def save_all(report: Report, folder: Path) -> list[Path]:
    """Write every form and the plots into a folder, which is made. Returns the files.

    Raises StoreError when they can't be written; the run's records are not touched.
    """
    try:
        plots = save_plots(report, folder / "plots")
        links = [f"plots/{name}.svg" for name in figures(report)]
        texts = {
            "report.html": render_html(report, inline_svgs(report)),
            "report.md": render_markdown(report, links),
            "report.json": render([report], "json"),
            "report.csv": to_csv(report),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}; the records are kept") from error
    return [*(folder / name for name in texts), *plots]
