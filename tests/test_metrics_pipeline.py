"""Metrics of every kind through a whole sweep on the null backend."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline import run

from harness.aggregates import value_of


@pytest.mark.parametrize(
    ("metric", "width", "whole"),
    [("auc", 9, True), ("sqnr", 1, False)],
)
def test_a_record_has_the_value_of_the_rows_that_are_kept(
    tmp_path: Path, metric: str, width: int, whole: bool
) -> None:
    results = run(tmp_path, metric=metric)
    judged = [each for each in results.accuracies if each.ok]
    assert judged
    for each in judged:
        assert (each.metric, each.width) == (metric, width)
        assert each.scores is not None
        rows = results.numbers(each.scores).reshape(-1, each.width)
        assert len(rows) == each.samples
        assert each.value == pytest.approx(value_of(metric, rows), abs=1e-6)
        assert whole or each.value == pytest.approx(float(rows.mean()), abs=1e-6)
