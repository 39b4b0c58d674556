"""Intervals, bounds and verdicts: published numbers, hand-made cases, simulated error rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats import (
    Answer,
    Interval,
    Verdict,
    geometric_interval,
    half_widths,
    judge_limit,
    pair_half_width,
    residual_variances,
    verdict,
)


def test_geometric_intervals():
    assert geometric_interval(np.array([])) is None
    one = geometric_interval(np.log([5.0]))
    assert one.value == pytest.approx(5)
    assert (one.low, one.high) == (0.0, math.inf)
    equal = geometric_interval(np.log([5.0, 5.0, 5.0]))
    assert equal.low == pytest.approx(5)
    assert equal.half_width == pytest.approx(0)


def test_geometric_intervals_cover():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        found = geometric_interval(rng.normal(1.0, 0.1, 5))
        inside += found.low <= math.e <= found.high
    assert 0.93 <= inside / 1000 <= 0.97


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (0, 0)])
def test_too_little_for_a_width(shape):
    assert np.isinf(half_widths(np.zeros(shape))).all()


def test_widths_are_symmetric_and_grow_with_the_family():
    table = np.random.default_rng(0).normal(0, 0.01, (5, 4))
    widths = half_widths(table)
    assert np.allclose(widths, widths.T)
    assert (half_widths(table, compared=10) > widths).all()
    assert (half_widths(table, confidence=0.99) > widths).all()


def test_a_rounds_mood_is_no_noise():
    table = np.random.default_rng(0).normal(0, 0.01, (6, 3))
    moody = table + np.random.default_rng(1).normal(0, 1, (6, 1))
    assert np.allclose(half_widths(table), half_widths(moody))


def test_own_variances_are_recovered():
    rng = np.random.default_rng(0)
    truth = np.array([0.01, 0.01, 0.01, 0.05, 0.01])
    mean = np.mean(
        [residual_variances(rng.normal(0, 1, (12, 5)) * truth) for _ in range(400)], axis=0
    )
    assert mean[3] == pytest.approx(truth[3] ** 2, rel=0.1)
    assert mean[0] >= truth[0] ** 2


def test_a_pairs_width_is_foretold():
    rng = np.random.default_rng(0)
    table = rng.normal(0, 0.01, (8, 2))
    deviation = math.sqrt(residual_variances(table)[0])
    assert pair_half_width(deviation, 8) == pytest.approx(half_widths(table)[0, 1])
    assert pair_half_width(deviation, 1) == math.inf


@pytest.mark.parametrize(
    ("difference", "half_width", "found"),
    [
        (0.0, 0.01, Verdict.TIED),
        (0.015, 0.004, Verdict.TIED),  # excludes 0, and is too small to matter
        (0.05, 0.01, Verdict.SLOWER),
        (-0.05, 0.01, Verdict.FASTER),
        (0.05, 0.06, Verdict.UNRESOLVED),
        (0.0, 0.03, Verdict.UNRESOLVED),
        (1.0, math.inf, Verdict.UNRESOLVED),
        (math.nan, 0.01, Verdict.UNRESOLVED),
    ],
)
def test_verdicts(difference, half_width, found):
    assert verdict(difference, half_width, margin=0.02) is found


@given(st.floats(-1, 1), st.floats(0, 1))
def test_verdicts_mirror(difference, half_width):
    turned = {Verdict.FASTER: Verdict.SLOWER, Verdict.SLOWER: Verdict.FASTER}
    found = verdict(difference, half_width, 0.02)
    assert verdict(-difference, half_width, 0.02) is turned.get(found, found)


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [(1, 2, Answer.MEETS), (2, 5, Answer.UNRESOLVED), (4, 5, Answer.MISSES)],
)
def test_limits_by_intervals(low, high, answer):
    assert judge_limit(Interval((low + high) / 2, low, high), 3.0) is answer


@pytest.mark.parametrize("values", [[math.nan], [1.0, math.nan, 2.0]])
def test_an_interval_of_no_number_decides_nothing(values):
    found = geometric_interval(np.array(values))
    assert judge_limit(found, 5.0) is Answer.UNRESOLVED


def test_half_widths_at_their_edges():
    assert judge_limit(Interval(2.0, 1.0, 3.0), 3.0) is Answer.MEETS  # at most: its end counts
    assert judge_limit(Interval(4.0, 3.0, 5.0), 3.0) is Answer.UNRESOLVED
    assert verdict(0.02, 0.02, margin=0.0) is Verdict.UNRESOLVED  # touches 0
    assert verdict(0.01, 0.01, margin=0.02) is Verdict.TIED  # touches the margin
    assert verdict(0.0, 0.0, margin=0.0) is Verdict.TIED
    assert Interval(0.0, -1.0, 1.0).half_width == math.inf
    assert Interval(-2.0, -3.0, -1.0).half_width == 0.5
    assert pair_half_width(math.inf, 5) == math.inf


@pytest.mark.parametrize("groups", [2, 4])
def test_all_pairs_are_covered_at_once(groups):
    rng = np.random.default_rng(0)
    effects = rng.normal(0, 0.1, groups)
    truth = effects[:, np.newaxis] - effects
    missed, sessions = 0, 1500
    for _ in range(sessions):
        table = effects + rng.normal(0, 0.02, (5, 1)) + rng.normal(0, 0.01, (5, groups))
        means = table.mean(axis=0)
        error = np.abs(means[:, np.newaxis] - means - truth)
        np.fill_diagonal(error, 0.0)
        missed += bool((error > half_widths(table)).any())
    assert missed / sessions <= 0.055
