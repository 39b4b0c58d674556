"""The sequential test: its errors under continuous peeking, its power, and when it is silent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.evalues import Watch


def watched(worse, limit=0.01, scale=1.0, **more):
    watch = Watch(limit, scale=scale, **more)
    watch.add(np.asarray(worse, float), np.zeros(len(worse)))
    return watch


def right_or_wrong(loss, gain):
    return lambda rng, count: rng.choice(
        [1.0, -1.0, 0.0], size=count, p=[loss, gain, 1 - loss - gain]
    )


def rare_large(rng, count):
    """One of 40 samples loses 0.2 to 1: a mean of 0.015."""
    return (rng.random(count) < 0.025) * rng.uniform(0.2, 1, count)


BOUNDARY = [
    (right_or_wrong(0.01, 0.0), 0.01),
    (right_or_wrong(0.06, 0.05), 0.01),
    (right_or_wrong(0.3, 0.25), 0.05),
    (rare_large, 0.015),
    (lambda rng, count: 0.01 + 0.02 * rng.standard_normal(count).clip(-3, 3), 0.01),
]


@pytest.mark.parametrize(("draw", "limit"), BOUNDARY)
def test_errors_at_the_boundary_with_a_look_after_every_sample(draw, limit):
    rng = np.random.default_rng(0)
    seen = [watched(draw(rng, 2000), limit) for _ in range(800)]
    assert np.mean([each.certified for each in seen]) <= 0.05
    assert np.mean([each.refused for each in seen]) <= 0.005


@pytest.mark.parametrize(
    ("draw", "samples", "claim"),
    [
        (right_or_wrong(0.0, 0.0), 500, "certified"),
        (right_or_wrong(0.02, 0.02), 8000, "certified"),
        (right_or_wrong(0.05, 0.0), 800, "refused"),
        (right_or_wrong(0.5, 0.0), 40, "refused"),
    ],
)
def test_so_many_samples_are_enough_for_a_clear_case(draw, samples, claim):
    rng = np.random.default_rng(0)
    other = {"certified": "refused", "refused": "certified"}[claim]
    seen = [watched(draw(rng, samples)) for _ in range(100)]
    assert np.mean([getattr(each, claim) for each in seen]) >= 0.95
    assert not any(getattr(each, other) for each in seen)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.integers(1, 59))
def test_batches_change_nothing(worse, cut):
    at_once, parted = watched(worse), Watch(0.01, scale=1.0)
    for part in (worse[:cut], worse[cut:]):
        parted.add(np.array(part), np.zeros(len(part)))
    assert parted.samples == at_once.samples == len(worse)
    assert (parted.refused, parted.certified) == (at_once.refused, at_once.certified)
    assert parted._above.most == pytest.approx(at_once._above.most)


@given(st.lists(st.floats(-2, 2), max_size=60), st.floats(-0.5, 0.5), st.floats(0.1, 3))
@settings(max_examples=50)
def test_scores_that_are_better_when_lower_mirror_it(worse, limit, scale):
    scores, nothing = np.array(worse), np.zeros(len(worse))
    higher = Watch(limit, scale=scale)
    higher.add(scores, nothing)
    lower = Watch(limit, higher_is_better=False, scale=scale)
    lower.add(nothing, scores)
    assert (higher.refused, higher.certified) == (lower.refused, lower.certified)


def test_a_claim_stands_once_it_was_made():
    watch = watched(np.ones(50))
    assert watch.refused
    watch.add(np.zeros(5000), np.zeros(5000))
    assert watch.refused


def test_without_a_scale_nothing_is_claimed():
    watch = watched(np.ones(5000), scale=None)
    assert watch.samples == 5000
    assert not watch.refused
    assert not watch.certified


def test_worse_than_the_scale_still_refuses_and_never_certifies():
    watch = watched(np.full(50, 7.0))
    assert watch.refused
    watch = watched(np.r_[np.zeros(5000), 1.5, np.zeros(5000)])
    assert not watch.certified
    assert watched(np.full(50, math.inf)).refused


def test_better_than_the_scale_still_certifies_and_never_refuses():
    assert watched(np.full(50, -7.0)).certified
    assert not watched(np.r_[-7.0, np.ones(5000)]).refused


def test_a_score_that_is_no_number_withdraws_both_claims():
    for claim in (1.0, 0.0):
        watch = watched(np.full(2000, claim))
        assert watch.refused or watch.certified
        watch.add(np.array([math.nan]), np.zeros(1))
        watch.add(np.full(2000, claim), np.zeros(2000))
        assert not watch.refused
        assert not watch.certified
    watch = Watch(0.01, scale=1.0)
    watch.add(np.full(50, math.inf), np.full(50, math.inf))
    assert not watch.refused


def test_limits_beyond_the_scale():
    assert watched(np.zeros(50), limit=3.0).certified
    assert watched(np.zeros(50), limit=-3.0).refused
    assert not watched(np.ones(5000), limit=1.0).refused


def test_no_samples_claim_nothing():
    watch = watched([])
    assert (watch.samples, watch.refused, watch.certified) == (0, False, False)


@pytest.mark.parametrize("shapes", [((2,), (3,)), ((2, 1), (2, 1))])
def test_scores_are_one_per_sample(shapes):
    with pytest.raises(ValueError, match="shape"):
        Watch(0.01, scale=1.0).add(*(np.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan])
def test_a_scale_is_positive(scale):
    with pytest.raises(ValueError, match="scale"):
        Watch(0.01, scale=scale)
