"""Whether outputs are those of one model: how far they are off, and what no tolerance allows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measure.accuracy import OutputFile
from harness.outputs import difference
from harness.worker import output_error

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),  # of the largest value
        ([0.0, 1e-4], [0.0, 0.0], 1e-4),  # of nothing: as it is
        ([NAN, 2.0], [NAN, 2.0], 0.0),
        ([INF, -INF, 1.0], [INF, -INF, 1.0], 0.0),
        ([INF], [-INF], INF),
        ([INF], [NAN], INF),
        ([1.0, 2.0], [NAN, 2.0], INF),
        ([NAN, 2.0], [1.0, 2.0], INF),
        ([INF, 2.0], [1.0, 2.0], INF),
        ([1.0], [1.0, 2.0], INF),
        ([[1.0]], [1.0], INF),
        ([3, 4], [3, 5], 0.2),
        ([True, False], [True, True], 1.0),
        (["a", "b"], ["a", "b"], 0.0),
        (["a", "c"], ["a", "b"], INF),
        ([], [], 0.0),
    ],
)
def test_a_difference_is_of_the_largest_value(ours, theirs, expected):
    found = difference({"y": np.array(ours)}, {"y": np.array(theirs)})
    assert found == pytest.approx(expected)


def test_the_worst_output_counts_and_none_may_be_missing():
    one, other = np.ones(3), np.array([1.0, 1.0, 1.5])
    assert difference({"a": one, "b": other}, {"a": one, "b": one}) == 0.5
    assert difference({"a": one}, {"a": one, "b": one}) == INF
    assert difference({"a": one, "b": one}, {"a": one}) == 0.0


def test_half_precision_does_not_overflow():
    large = np.array([60000.0], np.float16)
    assert difference({"y": -large}, {"y": large}) == pytest.approx(2.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(0.001, 1000))
def test_a_difference_does_not_depend_on_the_unit(values: list[float], factor: float) -> None:
    theirs = np.array(values)
    ours = theirs + np.linspace(-1, 1, theirs.size)
    scale = np.abs(theirs).max()
    if scale > 1e-3:
        expected = difference({"y": ours}, {"y": theirs})
        found = difference({"y": ours * factor}, {"y": theirs * factor})
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        ([[1.0, 2.0]], 0.0),
        ([[1.0, 2.0], [7.0, 7.0]], 0.0),  # of a larger batch
        ([[1.0, 2.5]], 0.25),
        ([[NAN, 2.0]], INF),
        ([[NAN, NAN]], INF),
        ([[1.0, -INF]], INF),
        ([[1.0]], None),  # its shape depends on the data
    ],
)
def test_a_launchs_outputs_are_held_to_those_of_the_accuracy_pass(tmp_path, got, expected):
    path = str(tmp_path / "kept.zip")
    with OutputFile(path, "w") as kept:
        kept.write(0, {"y": np.array([[1.0, 2.0]])})
    assert output_error({"y": np.array(got)}, path) == expected
    assert output_error({"z": np.array(got)}, path) == INF


def test_masked_values_hide_no_difference(tmp_path):
    path = str(tmp_path / "kept.zip")
    with OutputFile(path, "w") as kept:
        kept.write(0, {"y": np.array([[-INF, 2.0]])})
    assert output_error({"y": np.array([[-INF, 3.0]])}, path) == 0.5
    assert output_error({"y": np.array([[-INF, 2.0]])}, path) == 0.0
