"""How much worse one candidate's scores are than another's, for every kind of metric."""

from __future__ import annotations

import numpy as np
import pytest
from builders import right
from hypothesis import given
from hypothesis import strategies as st

from harness.aggregates import value_of
from harness.certificates import anytime_drop, binary_drop
from harness.scoring import drop_between
from harness.stats import Answer
from harness.types import Array


def column(scores: Array) -> Array:
    return np.asarray(scores, np.float64)[:, np.newaxis]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_right_and_wrong_are_compared_in_pairs(pairs: list[tuple[bool, bool]]) -> None:
    theirs, ours = np.array(pairs, dtype=float).T
    found = drop_between("top1", column(theirs), column(ours), higher_is_better=True)
    losses, gains = int((theirs > ours).sum()), int((theirs < ours).sum())
    assert found == binary_drop(losses, gains, len(pairs))


def test_only_the_first_column_of_a_mean_counts() -> None:
    theirs, ours = column(right(50)), column(right(50, wrong=5))
    noise = np.random.default_rng(0).random((50, 1))
    wide = [np.hstack([each, noise]) for each in (theirs, ours)]
    assert drop_between("top1", *wide, higher_is_better=True) == drop_between(
        "top1", theirs, ours, higher_is_better=True
    )


def test_an_error_that_grows_is_worse() -> None:
    theirs = column(np.linspace(0.1, 0.5, 40))
    worse = drop_between("mae", theirs, theirs + 0.2, higher_is_better=False)
    better = drop_between("mae", theirs, theirs - 0.05, higher_is_better=False)
    assert worse is not None
    assert better is not None
    assert worse.value == pytest.approx(0.2)
    assert better.value == pytest.approx(-0.05)
    assert worse.judge(0.1) is Answer.MISSES


def test_a_metric_that_is_no_mean_is_computed_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    theirs = np.stack([labels, labels], axis=1).astype(float)
    ours = theirs.copy()
    ours[:40, 0] = 1 - ours[:40, 0]
    found = drop_between("f1", theirs, ours, higher_is_better=True)
    assert found is not None
    value = value_of("f1", ours)
    assert value is not None
    assert found.value == pytest.approx(1.0 - value, abs=0.01)  # the jackknife's, less its bias
    assert found.low < found.value < found.high
    assert found.losses is None
    assert found.judge(0.01) is Answer.MISSES
    # it is never decided early
    assert drop_between("f1", theirs, ours, higher_is_better=True, peeked=True) == found


def test_scores_that_were_looked_at_early_have_bounds_that_hold_at_any_time() -> None:
    theirs, ours = right(400), right(400, wrong=8)
    plain = drop_between("top1", column(theirs), column(ours), higher_is_better=True)
    peeked = drop_between("top1", column(theirs), column(ours), higher_is_better=True, peeked=True)
    assert plain is not None
    assert peeked == anytime_drop(theirs, ours, 1.0)
    assert peeked.value == plain.value
    assert peeked.low < plain.low < plain.high < peeked.high


def test_scores_without_a_scale_are_bounded_as_if_nobody_had_looked() -> None:
    theirs = column(np.linspace(-40.0, 40.0, 60))
    ours = theirs - 1.0
    assert drop_between("sqnr", theirs, ours, higher_is_better=True, peeked=True) == drop_between(
        "sqnr", theirs, ours, higher_is_better=True
    )


@given(st.integers(1, 50), st.booleans())
def test_a_pass_that_ended_early_is_compared_on_its_own_samples(seen: int, peeked: bool) -> None:
    rng = np.random.default_rng(seen)
    theirs, ours = rng.integers(0, 2, (2, 50, 1)).astype(float)
    early = drop_between("top1", theirs, ours[:seen], higher_is_better=True, peeked=peeked)
    alone = drop_between("top1", theirs[:seen], ours[:seen], higher_is_better=True, peeked=peeked)
    assert early is not None
    assert early.samples == seen
    assert early == alone


@pytest.mark.parametrize("metric", ["top1", "f1"])
@pytest.mark.parametrize("peeked", [False, True])
@pytest.mark.parametrize(
    ("theirs", "ours"), [((5, 2), (0, 2)), ((5, 2), (6, 2)), ((5, 2), (5, 1)), ((0, 2), (5, 2))]
)
def test_rows_that_do_not_belong_together_have_no_drop(
    metric: str, peeked: bool, theirs: tuple[int, int], ours: tuple[int, int]
) -> None:
    rows = np.zeros(theirs), np.zeros(ours)
    assert drop_between(metric, *rows, higher_is_better=True, peeked=peeked) is None
