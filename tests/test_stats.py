"""Intervals, bounds and verdicts: published numbers, hand-made cases, simulated error rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as distributions

from harness import stats as stats_module
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
    assert binary_drop(20, 10, 1000).more_samples(0.01 + 1e-6) is None  # more than anyone has
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


def tango_limits(monkeypatch, losses, gains, samples):
    """The two-sided 95 % interval: one-sided bounds at 97.5 % each."""
    monkeypatch.setattr(stats_module, "CONFIDENCE", 0.975)
    upper = stats_module._tango_upper(losses, gains, samples)
    return -stats_module._tango_upper(gains, losses, samples), upper


def test_tangos_interval_as_published(monkeypatch):
    """Airway hyper-responsiveness before and after a transplantation: 1, 1, 7, 12 of 21.

    Fagerland, Lydersen, Laake 2014, Statistics in Medicine 33:2850-2875.
    """
    low, high = tango_limits(monkeypatch, 1, 7, 21)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize(("pairs", "samples"), [(0, 32), (0, 299), (5, 80), (12, 400)])
def test_tangos_interval_where_losses_equal_gains(pairs, samples):
    """The closed form of Yang, Sun, Hardin 2013, Statistics in Medicine 32:1336-1342."""
    g = float(distributions.norm.ppf(0.95)) ** 2
    limit = math.sqrt(2 * pairs / g + 1) / (samples / g + 1)
    assert -binary_drop(pairs, pairs, samples).low == pytest.approx(limit)


@pytest.mark.parametrize(
    ("losses", "gains", "samples"), [(12, 2, 50), (3, 0, 40), (0, 9, 60), (20, 18, 500), (5, 0, 5)]
)
def test_tangos_limits_solve_the_score_equation(losses, gains, samples):
    """At the limit the score statistic is 1.645, with P(gain) by maximum likelihood found anew."""

    def statistic(delta):
        rates = np.linspace(max(0.0, -delta), (1 - delta) / 2, 200_001)[1:-1]
        likelihood = (
            losses * np.log(rates + delta)
            + gains * np.log(rates)
            + (samples - losses - gains) * np.log1p(-2 * rates - delta)
        )
        gain = rates[np.argmax(likelihood)]
        error = math.sqrt(samples * (2 * gain + delta * (1 - delta)))
        return (losses - gains - samples * delta) / error

    drop = binary_drop(losses, gains, samples)
    assert statistic(drop.low) == pytest.approx(1.645, abs=5e-3)
    if losses + gains >= 10:
        assert statistic(drop.high) == pytest.approx(-1.645, abs=5e-3)


def rates_of_error(loss, gain, samples):
    """P(certified), P(refused) at the true drop as the limit: summed over all outcomes, exactly."""
    limit, certified, refused = loss - gain, 0.0, 0.0
    lost = distributions.binom(samples, loss)
    for losses in range(int(lost.ppf(1e-5)), int(lost.isf(1e-5)) + 1):
        won = distributions.binom(samples - losses, gain / (1 - loss))
        for gains in range(int(won.ppf(1e-5)), int(won.isf(1e-5)) + 1):
            chance = float(lost.pmf(losses) * won.pmf(gains))
            drop = binary_drop(losses, gains, samples)
            certified += chance * (drop.high <= limit + 1e-12)
            refused += chance * (drop.low > limit + 1e-12)
    return certified, refused


@pytest.mark.parametrize(
    ("loss", "gain", "samples"),
    [
        (0.01, 0.0, 299),
        (0.01, 0.0, 1200),
        (0.011, 0.001, 600),
        (0.015, 0.005, 1000),
        (0.02, 0.01, 1000),
        (0.02, 0.01, 300),
        (0.06, 0.05, 800),
        (0.05, 0.0, 60),
        (0.03, 0.0, 450),
        (0.2, 0.15, 60),
    ],
)
def test_errors_at_the_boundary_in_all(loss, gain, samples):
    certified, refused = rates_of_error(loss, gain, samples)
    assert certified <= 0.055
    assert refused <= 0.09  # Tango's lower bound is a little short where next to nothing is lost


def test_scores_that_are_no_numbers_decide_nothing():
    scores = np.array([0.5, 0.2, math.nan])
    for drop in (
        paired_drop(scores, np.array([0.5, 0.2, 0.1])),
        paired_drop(np.tile(scores, 9), np.full(27, 0.3)),
    ):
        assert drop.judge(0.01) is Answer.UNRESOLVED
        assert drop.more_samples(0.01) is None


def test_scores_beyond_one_lose_at_most_their_range():
    reference = np.array([3.0, 5.0, 1.0, 2.0])
    same = paired_drop(reference, reference)
    assert same.high == pytest.approx(4.0 * (1 - 0.05 ** (1 / 4)))
    assert same.low == -same.high
    alike = paired_drop(np.full(4, 7.0), np.full(4, 7.0))
    assert alike.high == pytest.approx(1 - 0.05 ** (1 / 4))


@given(st.integers(0, 8), st.integers(0, 8), st.integers(20, 400), st.floats(0.005, 0.2))
def test_more_samples_are_enough_and_fewer_for_a_looser_limit(losses, gains, samples, limit):
    drop = binary_drop(losses, gains, samples)
    more = drop.more_samples(limit)
    if drop.value >= limit:
        assert more is None
        return
    if drop.judge(limit) is Answer.MEETS:
        assert more == 0
    if more is None:  # beyond a hundred million
        assert limit - drop.value < 0.001
        return
    total = samples + more
    projected = binary_drop(round(losses / samples * total), round(gains / samples * total), total)
    assert projected.judge(limit) is Answer.MEETS
    looser = drop.more_samples(2 * limit)
    assert looser is not None
    assert looser <= more


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
    drop = binary_drop(1, 0, 3)
    assert drop.judge(drop.high) is Answer.MEETS
    assert drop.judge(drop.low) is Answer.UNRESOLVED


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
