"""p99: when it may be claimed, and what it takes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from harness.noise import Tier
from harness.rounds import tail_job
from harness.tails import ENOUGH_ITERATIONS, tail, upper_bound


def launches(count: int, iterations: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [1e6 * rng.lognormal(0, 0.1, iterations) for _ in range(count)]


def test_enough_evidence_is_a_claim():
    found = tail(launches(5, 200), (0.001, 0.002, None))
    assert found.claimed
    assert (found.iterations, found.launches, found.missing) == (1000, 5, 0)
    truth = 1e6 * stats.lognorm.ppf(0.99, 0.1)
    assert found.p99_ns.low < truth < found.p99_ns.high
    assert found.most_ns > truth


def test_too_few_iterations_withhold_it_and_say_how_many_more():
    found = tail(launches(5, 60))
    assert not found.claimed
    assert found.p99_ns is None
    assert found.missing == ENOUGH_ITERATIONS - 300


def test_too_few_launches_withhold_it_however_many_iterations():
    found = tail(launches(3, 1000))
    assert found.p99_ns is None
    assert found.missing == 2000


@pytest.mark.parametrize(
    ("noise", "throttled", "tier"),
    [
        ((0.05, 0.0, 0.0), False, Tier.AMBER),
        ((0.0, 0.02, 0.0), False, Tier.AMBER),
        ((0.0, 0.0, 0.5), False, Tier.RED),
        ((0.0, 0.0, 0.0), True, Tier.RED),
        ((None, None, 0.0), False, None),
    ],
)
def test_a_busy_host_shows_a_value_that_is_not_claimed(noise, throttled, tier):
    found = tail(launches(5, 200), noise, throttled=throttled)
    assert found.p99_ns is not None
    assert found.tier is tier
    assert not found.claimed


def test_nothing_measured():
    found = tail([])
    assert (found.p99_ns, found.most_ns, found.iterations) == (None, None, 0)
    assert found.missing == ENOUGH_ITERATIONS


@pytest.mark.parametrize(("iterations", "above"), [(458, None), (459, 0), (661, 0), (662, 1)])
def test_the_bound_is_that_of_early_stopping(iterations, above):
    # MLPerf LoadGen: 459 queries with none over the percentile, 662 with one.
    values = np.arange(float(iterations))
    assert upper_bound(values) == (None if above is None else values[-1 - above])


def test_the_bound_holds_in_99_of_100_sessions():
    rng = np.random.default_rng(0)
    truth = stats.expon.ppf(0.99)
    missed = sum(upper_bound(rng.exponential(size=800)) < truth for _ in range(2000))
    assert missed <= 30  # 1 % of 2000, and luck


def test_a_launch_has_its_share_of_the_iterations_and_keeps_its_cap():
    quick = tail_job(1e5, 10e9)
    assert quick.min_ns == 1e9
    slow = tail_job(50e6, 10e9)
    assert slow.min_iterations >= 133 + 2
    slower = tail_job(1e9, 10e9)
    assert slower.min_iterations == 10
