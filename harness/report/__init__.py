"""A recommendation for people and programs: terminal, Markdown, HTML, CSV, JSON, plots.

Only this package turns values into text. What it needs beyond the standard library (pandas,
matplotlib, Jinja2) is imported by the function that needs it.
"""

from __future__ import annotations

from harness.report.value import Report

__all__ = ["Report"]
