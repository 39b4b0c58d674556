"""Accuracy certificates: published numbers, exact and simulated error rates at the boundary."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as distributions

from harness.certificates import (
    CERTIFIED_ALPHA,
    REFUSED_ALPHA,
    Drop,
    binary_drop,
    mean_upper,
    paired_drop,
)
from harness.stats import Answer

# -- right or wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(("losses", "samples"), [(0, 299), (1, 473), (2, 628), (3, 773)])
def test_the_samples_that_certify_one_percent(losses, samples):
    assert binary_drop(losses, 0, samples).judge(0.01) is Answer.MEETS
    assert binary_drop(losses, 0, samples - 1).judge(0.01) is Answer.UNRESOLVED


@pytest.mark.parametrize(
    ("losses", "samples"), [(0, 20), (1, 50), (7, 300), (60, 400), (299, 300), (5, 5)]
)
def test_without_gains_the_bounds_are_clopper_and_pearsons(losses, samples):
    drop = binary_drop(losses, 0, samples)
    exact = distributions.binomtest(losses, samples)
    upper = exact.proportion_ci(1 - 2 * CERTIFIED_ALPHA).high
    assert drop.high == pytest.approx(upper, abs=1e-6)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(120, 2000))
def test_a_drop_lies_within_its_bounds(losses, gains, samples):
    drop = binary_drop(losses, gains, samples)
    assert -1 <= drop.low <= drop.value + 1e-9
    assert drop.value - 1e-9 <= drop.high <= 1
    assert drop.judge(drop.high) is Answer.MEETS
    assert drop.judge(drop.low) is Answer.UNRESOLVED


@given(st.integers(0, 30), st.integers(0, 30), st.integers(100, 2000))
def test_another_loss_or_one_gain_less_is_no_better(losses, gains, samples):
    drop = binary_drop(losses, gains, samples)
    for worse in (binary_drop(losses + 1, gains, samples), binary_drop(losses, gains + 1, samples)):
        sign = 1 if worse.value > drop.value else -1
        assert sign * (worse.low - drop.low) >= -1e-7
        assert worse.high >= drop.high - 1e-7 if sign > 0 else worse.low <= drop.low + 1e-7


def test_all_samples_lost():
    drop = binary_drop(5, 0, 5)
    assert (drop.value, drop.high) == (1.0, 1.0)
    assert drop.judge(0.01) is Answer.MISSES
    assert binary_drop(0, 5, 5).low == -1.0


def rates_of_error(loss, gain, samples):
    """P(certified), P(refused) at the true drop as the limit: summed over all outcomes, exactly."""
    limit, certified, refused = loss - gain, 0.0, 0.0
    lost = distributions.binom(samples, loss)
    for losses in range(int(lost.ppf(1e-4)), int(lost.isf(1e-4)) + 1):
        won = distributions.binom(samples - losses, gain / (1 - loss))
        gains = np.arange(int(won.ppf(1e-4)), int(won.isf(1e-4)) + 1)
        drops = [binary_drop(losses, int(each), samples) for each in gains]
        chances = lost.pmf(losses) * won.pmf(gains)
        certified += chances @ np.array([drop.high <= limit + 1e-9 for drop in drops])
        refused += chances @ np.array([drop.low > limit + 1e-9 for drop in drops])
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
        (0.05, 0.0, 60),
        (0.03, 0.0, 450),
        (0.2, 0.15, 60),
        (0.02, 0.0, 150),
        (0.02, 0.0001, 1500),
        (0.005, 0.004, 2000),
    ],
)
def test_errors_at_the_boundary_summed_over_all_outcomes(loss, gain, samples):
    certified, refused = rates_of_error(loss, gain, samples)
    assert certified <= CERTIFIED_ALPHA
    assert refused <= REFUSED_ALPHA


def test_scores_that_are_right_or_wrong_are_paired():
    reference = np.array([1.0, 1.0, 0.0, 1.0])
    candidate = np.array([1.0, 0.0, 1.0, 1.0])
    drop = paired_drop(reference, candidate)
    assert (drop.losses, drop.gains, drop.value) == (1, 1, 0.0)
    turned = paired_drop(reference, np.ones(4), higher_is_better=False)
    assert (turned.losses, turned.gains) == (1, 0)


# -- means -----------------------------------------------------------------------------------------


def rare_large(rate):
    """The mean, and differences: most samples are as good, some lose 0.2 to 1."""
    return rate * 0.6, lambda rng, n: (rng.random(n) < rate) * rng.uniform(0.2, 1, n)


def both_ways(losses, gains):
    def draw(rng, n):
        lost = (rng.random(n) < losses) * rng.beta(0.6, 3, n)
        return lost - (rng.random(n) < gains) * rng.beta(0.6, 6, n)

    return losses / 6 - gains / 11, draw


def errors(mean, draw, samples, scale, sessions=400):
    """P(certified), P(refused) with the true drop as the limit."""
    rng = np.random.default_rng(1)
    drops = [judged(draw(rng, samples), scale) for _ in range(sessions)]
    certified = np.mean([drop.judge(mean) is Answer.MEETS for drop in drops])
    refused = np.mean([drop.judge(mean) is Answer.MISSES for drop in drops])
    return certified, refused


def judged(worse, scale=None):
    return paired_drop(np.zeros(len(worse)), worse, higher_is_better=False, scale=scale)


@pytest.mark.parametrize(
    ("mean", "draw"), [rare_large(0.01), rare_large(0.02), rare_large(0.1), both_ways(0.1, 0.05)]
)
@pytest.mark.parametrize("samples", [100, 300, 1000])
def test_errors_at_the_boundary_of_rare_large_losses(mean, draw, samples):
    """Up to a simulated rate of 5 % by chance; Student's t certifies 8 to 36 % of these."""
    certified, refused = errors(mean, draw, samples, scale=1.0)
    assert certified <= 0.05
    assert refused <= 0.05


@pytest.mark.parametrize(
    ("mean", "draw"),
    [
        (0.01, lambda rng, n: 0.01 + 0.02 * rng.standard_normal(n)),
        (0.01, lambda rng, n: rng.exponential(0.01, n)),
        (0.005, lambda rng, n: 0.005 + 0.01 * rng.standard_t(3, n)),
        (math.exp(0.5), lambda rng, n: rng.lognormal(0, 1, n)),
    ],
)
@pytest.mark.parametrize("samples", [100, 300])
def test_errors_at_the_boundary_of_differences_without_a_scale(mean, draw, samples):
    certified, refused = errors(mean, draw, samples, scale=None)
    assert certified <= 0.05
    assert refused <= 0.05


def test_many_small_differences_are_bounded_closely():
    rng = np.random.default_rng(0)
    drop = judged(0.05 + 0.01 * rng.standard_normal(400))
    assert drop.low < 0.05 < drop.high
    assert drop.high - drop.low < 0.0028  # Student's t: 0.0017


@pytest.mark.parametrize(("losses", "samples"), [(0, 20), (1, 20), (3, 300), (10, 1000), (49, 50)])
def test_the_bound_of_means_is_clopper_and_pearsons_for_0_and_1(losses, samples):
    values = np.r_[np.ones(losses), np.zeros(samples - losses)]
    exact = distributions.beta.ppf(0.95, losses + 1, samples - losses)
    assert mean_upper(values, 1.0, 0.05) == pytest.approx(exact, rel=4e-3)


def test_the_bound_of_means_is_gaffkes():
    """Against the quantile of simulated Dirichlet weights."""
    rng = np.random.default_rng(0)
    values = rng.beta(0.5, 4, 30)
    weights = rng.dirichlet(np.ones(31), 200_000)
    simulated = np.quantile(weights @ np.append(values, 1.0), 0.95)
    assert mean_upper(values, 1.0, 0.05) == pytest.approx(simulated, rel=5e-3)


@given(
    st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=50),
    st.floats(0.01, 0.4),
    st.floats(0.1, 10),
)
@settings(max_examples=60)
def test_the_bound_of_means_is_no_less_than_the_mean_and_scales(values, alpha, factor):
    values = np.round(np.array(values), 6)
    bound = mean_upper(values, 1.0, alpha)
    assert values.mean() - 1e-9 <= bound <= 1.0 + 1e-12
    scaled = mean_upper(values * factor + 3, factor + 3, alpha)
    assert scaled == pytest.approx(bound * factor + 3, abs=1e-5)
    assert mean_upper(values, 2.0, alpha) >= bound - 1e-9


def test_equal_scores_prove_only_as_much_as_there_are_samples():
    scores = np.full(300, 0.9)
    drop = paired_drop(scores, scores)
    assert drop.value == 0
    assert drop.high == pytest.approx(1 - 0.05 ** (1 / 300), rel=4e-3)
    few = paired_drop(scores[:20], scores[:20])
    assert few.judge(0.01) is Answer.UNRESOLVED
    assert few.more_samples(0.01) == pytest.approx(279, rel=0.1)


def test_shares_may_lose_all_and_errors_what_was_seen():
    reference, candidate = np.full(100, 0.5), np.linspace(0.48, 0.5, 100)
    share = paired_drop(reference, candidate)
    error = paired_drop(candidate, reference, higher_is_better=False)
    told = paired_drop(candidate, reference, higher_is_better=False, scale=1.0)
    assert share.value == error.value == told.value == pytest.approx(0.01)
    assert share.high == told.high > 0.02 > error.high
    assert share.low == error.low


def test_scores_beyond_one_lose_at_most_their_range_while_few_differ():
    reference = np.array([3.0, 5.0, 1.0, 2.0])
    same = paired_drop(reference, reference)
    assert same.high == pytest.approx(4.0 * (1 - 0.05 ** (1 / 4)), rel=5e-3)
    assert same.low <= -same.high
    alike = paired_drop(np.full(4, 7.0), np.full(4, 7.0))
    assert alike.high == pytest.approx(1 - 0.05 ** (1 / 4), rel=5e-3)


def test_scores_that_are_no_numbers_decide_nothing():
    scores = np.array([0.5, 0.2, math.nan])
    for drop in (
        paired_drop(scores, np.array([0.5, 0.2, 0.1])),
        paired_drop(np.tile(scores, 9), np.full(27, 0.3)),
        paired_drop(np.array([1.0, math.inf]), np.ones(2), higher_is_better=False),
    ):
        assert drop.judge(0.01) is Answer.UNRESOLVED
        assert drop.more_samples(0.01) is None


@pytest.mark.parametrize("sizes", [(0, 0), (3, 4)])
def test_scores_of_different_or_no_samples_are_refused(sizes):
    with pytest.raises(ValueError, match="samples"):
        paired_drop(np.ones(sizes[0]), np.ones(sizes[1]))


# -- metrics that are no means ---------------------------------------------------------------------


def f1(rows):
    wanted, picked = rows.T > 0.5
    return 2 * (wanted & picked).sum() / (wanted.sum() + picked.sum())


def weighted_f1(rows, weights):
    wanted, picked = rows.T > 0.5
    return 2 * (weights @ (wanted & picked)) / (weights @ (wanted * 1 + picked * 1))


def labels_and_picks(rng, samples):
    """The reference is wrong in 10 %; the candidate loses 2 % of all samples, and gains 1 %."""
    wanted = rng.random(samples) < 0.2
    chance = rng.random((2, samples))
    right = chance[0] < 0.9
    also = np.where(right, chance[1] > 0.02 / 0.9, chance[1] < 0.01 / 0.1)
    rows = [np.stack([wanted, np.where(hit, wanted, ~wanted)], axis=1) for hit in (right, also)]
    return rows[0] * 1.0, rows[1] * 1.0


def test_errors_at_the_boundary_of_f1():
    reference, candidate = labels_and_picks(np.random.default_rng(9), 1_000_000)
    truth = f1(reference) - f1(candidate)
    rng = np.random.default_rng(0)
    drops = [
        paired_drop(*labels_and_picks(rng, 1000), value=f1, values=weighted_f1) for _ in range(200)
    ]
    assert np.mean([drop.judge(truth) is Answer.MEETS for drop in drops]) <= 0.05
    assert np.mean([drop.judge(truth) is Answer.MISSES for drop in drops]) <= 0.05
    assert np.mean([drop.judge(truth + 0.05) is Answer.MEETS for drop in drops]) >= 0.9


def test_a_metric_of_draws_is_the_metric():
    rows = labels_and_picks(np.random.default_rng(0), 1200)
    slow, fast = paired_drop(*rows, value=f1), paired_drop(*rows, value=f1, values=weighted_f1)
    assert slow == fast
    assert slow.value == pytest.approx(f1(rows[0]) - f1(rows[1]), abs=1e-3)
    turned = paired_drop(*rows, value=f1, higher_is_better=False)
    assert turned.value == pytest.approx(-slow.value)


def test_a_mean_as_a_metric_of_rows_is_bounded_as_a_mean():
    rng = np.random.default_rng(0)
    reference, candidate = rng.random((2, 300, 1)) * 3
    drop = paired_drop(reference, candidate, value=lambda rows: float(rows.mean()))
    plain = paired_drop(reference[:, 0], candidate[:, 0])
    assert (drop.value, drop.low, drop.high) == pytest.approx((plain.value, plain.low, plain.high))


def test_equal_rows_certify_with_enough_of_them():
    rows, _ = labels_and_picks(np.random.default_rng(0), 20_000)
    drop = paired_drop(rows, rows, value=f1, values=weighted_f1)
    assert drop.value == 0
    assert drop.judge(0.01) is Answer.MEETS
    few = paired_drop(rows[:100], rows[:100], value=f1)
    assert few.judge(0.01) is Answer.UNRESOLVED
    assert few.more_samples(0.01) > 200


def test_a_metric_without_a_value_decides_nothing():
    rows = np.ones((20, 2))
    drop = paired_drop(rows, rows, value=lambda _: None)
    assert drop.judge(0.01) is Answer.UNRESOLVED
    assert drop.more_samples(0.01) is None


# -- how many more ---------------------------------------------------------------------------------


def test_how_many_more_samples_it_takes():
    assert binary_drop(0, 0, 32).more_samples(0.01) == 267
    assert binary_drop(0, 0, 299).more_samples(0.01) == 0
    assert binary_drop(10, 0, 100).more_samples(0.01) is None  # it drops by more than that
    assert binary_drop(0, 0, 32).more_samples(0.0) is None
    assert binary_drop(20, 10, 1000).more_samples(0.01 + 1e-6) is None  # more than anyone has
    assert Drop(0.0, -0.1, 0.1, 50).more_samples(0.01) is None  # its spread isn't known


@given(st.integers(0, 8), st.integers(0, 8), st.integers(20, 400), st.floats(0.005, 0.2))
@settings(max_examples=60, deadline=None)
def test_more_samples_are_enough_and_fewer_for_a_looser_limit(losses, gains, samples, limit):
    drop = binary_drop(losses, gains, samples)
    more = drop.more_samples(limit)
    if drop.judge(limit) is Answer.MEETS:
        assert more == 0
        return
    if drop.value >= limit:
        assert more is None
        return
    if more is None:  # beyond ten million
        assert limit - drop.value < 0.001
        return
    total = samples + more
    projected = binary_drop(round(losses / samples * total), round(gains / samples * total), total)
    assert projected.judge(limit) is Answer.MEETS
    looser = drop.more_samples(2 * limit)
    assert looser is not None
    assert looser <= more


@pytest.mark.parametrize("scale", [1.0, None])
@pytest.mark.parametrize("parts", [50, 200])
def test_as_many_more_as_were_foretold_certify_a_mean(parts, scale):
    worse = np.tile(np.r_[0.3, -0.1, 0.05, np.zeros(37)], parts // 40 + 1)
    more = judged(worse, scale).more_samples(0.012)
    assert more > 0
    longer = np.resize(worse, round(1.15 * (len(worse) + more)))
    assert judged(longer, scale).judge(0.012) is Answer.MEETS
    shorter = np.resize(worse, round(0.85 * (len(worse) + more)))
    assert judged(shorter, scale).judge(0.012) is Answer.UNRESOLVED
