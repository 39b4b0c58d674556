"""What the report says of int8, for programs; docs/json-schema.md describes it field by field."""

from __future__ import annotations

from typing import Any

from harness.portability import Cell, portability
from harness.record import RecoveryRecord
from harness.report.numbers import number, plain_interval
from harness.report.sections import allowed, certified_steps, one_file
from harness.report.value import Report
from harness.types import Tried


def one_file_data(report: Report) -> dict[str, Any] | None:
    """Each int8 recipe on each backend; None where fewer than two have int8."""
    matrix = portability(report.analysis, allowed(report), shared=one_file(report))
    if matrix is None:
        return None
    return {
        "serves_all": matrix.one.recipe if matrix.one else None,
        "worst_cost": number(matrix.cost),
        "tied": matrix.tied,
        "files": [
            {
                "recipe": file.recipe,
                "shared": file.shared,
                "cells": [_cell(name, cell) for name, cell in file.cells.items()],
            }
            for file in matrix.files
        ],
    }


def _cell(backend: str, cell: Cell) -> dict[str, Any]:
    return {
        "backend": backend,
        "candidate": cell.summary.candidate.id,
        "int8_share": cell.share,
        "accuracy": str(cell.certified) if cell.certified else None,
        "cost": plain_interval(cell.behind),
        "verdict": str(cell.verdict) if cell.verdict else None,
        "serves": cell.serves,
    }


def recoveries_data(report: Report) -> list[dict[str, Any]]:
    """The searches for mixed precision, in order."""
    return [_recovery(report, each) for each in report.results.recoveries]


def _recovery(report: Report, record: RecoveryRecord) -> dict[str, Any]:
    certified = certified_steps(report, record)
    return {
        "recipe": record.recipe,
        "backend": record.backend,
        "status": str(record.status),
        "reason": record.reason,
        "metric": record.metric,
        "samples": record.samples,
        "elapsed_s": record.elapsed_s,
        "stopped": record.stopped,
        "sensitivity": [
            {"layers": list(each.layers), "sqnr_db": number(each.sqnr_db)}
            for each in record.sensitivity
        ],
        "steps": [
            _step(each, proposed=place in record.proposals, certified=each in certified)
            for place, each in enumerate(record.steps)
        ],
    }


def _step(step: Tried, *, proposed: bool, certified: bool) -> dict[str, Any]:
    return {
        "what": step.what,
        "parameters": [{"name": name, "value": value} for name, value in step.parameters],
        "layers": list(step.layers),
        "drop": number(step.drop),
        "sqnr_db": number(step.sqnr_db),
        "rough_time_ns": number(step.time_ns),
        "proposed": proposed,
        "certified": certified,
    }
