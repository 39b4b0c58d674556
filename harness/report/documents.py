"""The report as a Markdown document and as one HTML page that needs nothing beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.story import PLACES, story
from harness.report.value import Report

TITLES = {
    "latency-accuracy": "Latency and accuracy",
    "latency-distribution": "Latency distribution",
    "speedup": "Speed-up over fp32",
    "memory": "Memory and engine size",
    "device-phases": "On the device: the parts of an inference",
    "sustained": "Under sustained load",
    "recovery": "Int8 that failed, and what was tried",
}
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#~])")


def render_markdown(report: Report, plots: Sequence[str] = ()) -> str:
    """Markdown with tables (GitHub's). plots: links of images, relative to where it will lie."""
    links = [{"title": _title(link), "link": link} for link in plots]
    text = _render("report.md.j2", report, plots=links, code=report.deploy_code)
    return re.sub(r"\n{3,}", "\n\n", text)


def render_html(report: Report, plots: Mapping[str, str] | None = None) -> str:
    """One page. plots: ``<svg>`` elements by name; drawn here when not given."""
    from markupsafe import Markup

    if plots is None:
        from harness.report.plots import inline_svgs

        plots = inline_svgs(report)
    drawn = [
        {"title": TITLES.get(name, name), "svg": Markup(svg)}  # noqa: S704 - drawn by us, escaped
        for name, svg in plots.items()
    ]
    return _render("report.html.j2", report, plots=drawn, code=report.deploy_code)


def _title(link: str) -> str:
    stem = link.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return TITLES.get(stem, stem)


def _render(template: str, report: Report, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("harness.report"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": escape_markdown, "code": escape_code}
    known = {"told": story(report), "places": PLACES, "run": report.run}
    return environment.get_template(template).render(**known, **values)


def escape_markdown(text: object) -> str:
    """Text that Markdown shows as it is, in a table's cell too."""
    return _MARKDOWN.sub(r"\\\1", re.sub(r"\s+", " ", str(text)))


def escape_code(text: object) -> str:
    """Text within backquotes."""
    return " ".join(str(text).split()).replace("`", "'")
