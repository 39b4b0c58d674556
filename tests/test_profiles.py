"""Ranges of shapes that engines are built for: every shape that is fed lies within one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError
from harness.profiles import Samples, derive, problems_of
from harness.types import ShapeRange, TensorSpec

IMAGE = TensorSpec("x", "float32", ("n", 3, "h", "w"))
FIXED = TensorSpec("x", "float32", (4, 3))
TOKENS = (
    TensorSpec("ids", "int64", ("n", "length")),
    TensorSpec("mask", "int64", ("n", "length")),
)


def images(*sizes: tuple[int, int, int]) -> list[Samples]:
    return [Samples(count, (("x", (3, high, wide)),)) for count, high, wide in sizes]


def sizes(ranges) -> list[tuple[int, ...]]:
    return [ranges.min, ranges.opt, ranges.max]


def test_there_is_one_profile_per_batch_size_and_the_smaller_last_batch_fits():
    one, eight = derive((IMAGE,), images((5, 32, 48), (7, 64, 40)), (8, 1, 8), {})
    assert sizes(one[0]) == [(1, 3, 32, 40), (1, 3, 64, 40), (1, 3, 64, 48)]
    assert sizes(eight[0]) == [(1, 3, 32, 40), (8, 3, 64, 40), (8, 3, 64, 48)]


def test_without_a_most_usual_shape_the_median_is():
    ((ranges,),) = derive((IMAGE,), images((2, 30, 9), (2, 10, 8), (2, 20, 7)), (1,), {})
    assert ranges.opt == (1, 3, 20, 8)


def test_a_fixed_batch_stays_and_alike_profiles_are_one():
    (profile,) = derive((FIXED,), [Samples(9, (("x", (3,)),))], (1, 4), {})
    assert sizes(profile[0]) == [(4, 3)] * 3


def test_samples_that_are_whole_inputs_have_no_batch_axis():
    spec = TensorSpec("x", "float32", ("length",))
    ((ranges,),) = derive(
        (spec,), [Samples(1, (("x", (5,)),)), Samples(2, (("x", (7,)),))], (1,), {}
    )
    assert sizes(ranges) == [(5,), (7,), (7,)]


def test_scalars_have_no_axes():
    spec = TensorSpec("x", "float32", ())
    ((ranges,),) = derive((spec,), [Samples(1, (("x", ()),))], (1,), {})
    assert sizes(ranges) == [()] * 3


def test_given_ranges_go_before_and_name_axes_of_other_inputs():
    given = {"ids": ShapeRange("ids", (1, 8), (2, 16), (4, 32))}
    ((ids, mask),) = derive(TOKENS, (), (1,), given)
    assert sizes(ids) == [(1, 8), (2, 16), (4, 32)]
    assert sizes(mask) == [(1, 8), (2, 16), (4, 32)]


def test_without_data_the_batch_is_open_and_nothing_else_is_guessed():
    ((ranges,),) = derive((TensorSpec("x", "float32", (None, 3)),), (), (2,), {})
    assert sizes(ranges) == [(1, 3), (2, 3), (2, 3)]
    with pytest.raises(InputError, match="nothing says what sizes") as caught:
        derive((IMAGE,), (), (1, 2), {})
    (problem,) = caught.value.problems
    assert '("h")' in problem.what
    assert "--data" in problem.fix
    assert "[shapes] x" in problem.fix


def test_a_state_follows_the_names_of_other_axes_and_starts_at_one():
    state = TensorSpec("h", "float32", ("n", "past", 16))
    ids, _ = TOKENS
    ((_, held),) = derive((ids, state), [Samples(3, (("ids", (7,)),))], (2,), {}, {"h"})
    assert sizes(held) == [(1, 1, 16), (2, 1, 16), (2, 1, 16)]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        ((1, 3, 32, 40), (8, 3, 64, 44), "axis 3 is 40 to 48 in the data; the range given is 40"),
        ((1, 3, 33, 40), (8, 3, 64, 48), "axis 2 is 32 to 64 in the data; the range given is 33"),
        ((2, 3, 32, 40), (8, 3, 64, 48), "axis 0 is 1 to 8 in the feeds"),
        ((1, 3, 32, 40), (7, 3, 64, 48), "the last feed may have one sample"),
    ],
)
def test_data_outside_of_a_given_range_are_a_mistake(low, high, words):
    given = {"x": ShapeRange("x", low, high, high)}
    with pytest.raises(InputError, match=words):
        derive((IMAGE,), images((5, 32, 48), (7, 64, 40)), (8,), given)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("y", (1, 3, 4, 4), 'no input "y"'),
        ("x", (1, 3, 4), "3 sizes"),
        ("x", (1, 4, 4, 4), "axis 1 is fixed at 3"),
    ],
)
def test_given_ranges_fit_the_model(name, shape, words):
    (problem,) = problems_of({name: ShapeRange(name, shape, shape, shape)}, (IMAGE,))
    assert problem.where == f"shapes.{name}"
    assert words in problem.what
    assert problem.fix


dims = st.integers(1, 9)


@given(
    st.lists(st.tuples(dims, dims, dims), min_size=1, max_size=6),
    st.lists(st.integers(1, 8), min_size=1, max_size=3),
)
def test_every_feed_lies_within_the_profile_of_its_batch_size(shapes, batches):
    profiles = derive((IMAGE,), images(*shapes), batches, {})
    assert len(profiles) == len(set(batches))
    for batch, (ranges,) in zip(sorted(set(batches)), profiles, strict=True):
        for held in range(1, batch + 1):
            for _, high, wide in shapes:
                fed = (held, 3, high, wide)
                assert all(a <= b <= c for a, b, c in zip(ranges.min, fed, ranges.max, strict=True))
        assert all(a <= b <= c for a, b, c in zip(*sizes(ranges), strict=True))
