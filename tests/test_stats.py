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
    binary_drop,
    bounded_mean_upper,
    geometric_interval,
    half_widths,
    judge_limit,
    pair_half_width,
    paired_drop,
    residual_variances,
    verdict,
)


@pytest.mark.parametrize(("losses", "samples"), [(0, 299), (1, 473), (2, 628), (3, 773)])
def test_the_samples_that_certify_one_percent(losses, samples):
    assert binary_drop(losses, 0, samples).high <= 0.01
    assert binary_drop(losses, 0, samples - 1).high > 0.01


@pytest.mark.parametrize(
    ("losses", "gains", "samples"), [(0.02, 0.01, 800), (0.012, 0.002, 1000), (0.01, 0.0, 600)]
)
def test_false_certificates_at_the_boundary(losses, gains, samples):
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(samples, [losses, gains, 1 - losses - gains], size=3000)
    truth = losses - gains
    wrong = [binary_drop(int(b), int(c), samples).high <= truth - 1e-12 for b, c, _ in drawn]
    assert np.mean(wrong) <= 0.055


@given(st.integers(0, 60), st.integers(0, 60), st.integers(120, 2000))
def test_a_drop_lies_within_its_bounds(losses, gains, samples):
    drop = binary_drop(losses, gains, samples)
    assert -1 <= drop.low <= drop.value + 1e-9
    assert drop.value - 1e-9 <= drop.high <= 1


def test_all_samples_lost():
    drop = binary_drop(5, 0, 5)
    assert (drop.value, drop.high) == (1.0, 1.0)
    assert drop.judge(0.01) is Answer.MISSES


def test_how_many_more_samples_it_takes():
    assert binary_drop(0, 0, 32).more_samples(0.01) == 267
    assert binary_drop(0, 0, 299).more_samples(0.01) == 0
    assert binary_drop(10, 0, 100).more_samples(0.01) is None  # it drops by more than that
    assert binary_drop(0, 0, 32).more_samples(0.0) is None
    more = binary_drop(8, 7, 769).more_samples(0.005)
    assert more is not None
    assert more > 0


def test_scores_that_are_right_or_wrong_are_paired():
    reference = np.array([1.0, 1.0, 0.0, 1.0])
    candidate = np.array([1.0, 0.0, 1.0, 1.0])
    drop = paired_drop(reference, candidate)
    assert (drop.losses, drop.gains, drop.value) == (1, 1, 0.0)
    turned = paired_drop(reference, np.ones(4), higher_is_better=False)
    assert (turned.losses, turned.gains) == (1, 0)


def test_equal_scores_prove_only_as_much_as_there_are_samples():
    scores = np.full(300, 0.9)
    drop = paired_drop(scores, scores)
    assert drop.value == 0
    assert drop.high == pytest.approx(1 - 0.05 ** (1 / 300), rel=1e-6)
    few = paired_drop(scores[:20], scores[:20])
    assert few.judge(0.01) is Answer.UNRESOLVED


def test_many_differences_take_students_t():
    rng = np.random.default_rng(0)
    reference = rng.random(400)
    drop = paired_drop(reference, reference - 0.05 + 0.01 * rng.standard_normal(400))
    assert drop.low < 0.05 < drop.high
    assert drop.high - drop.low < 0.005
    lower = paired_drop(reference, reference + 0.05, higher_is_better=False)
    assert lower.value == pytest.approx(0.05)


@pytest.mark.parametrize("sizes", [(0, 0), (3, 4)])
def test_scores_of_different_or_no_samples_are_refused(sizes):
    with pytest.raises(ValueError, match="samples"):
        paired_drop(np.ones(sizes[0]), np.ones(sizes[1]))


@given(st.floats(0, 1), st.integers(1, 5000))
def test_a_bounded_mean_is_bounded(mean, samples):
    bound = bounded_mean_upper(mean, samples)
    assert mean - 1e-9 <= bound <= 1


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
