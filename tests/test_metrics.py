from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness import metrics
from harness.errors import InputError
from harness.metrics import Comparer, Sanity, by_sample, class_scores, compare, cosines, sanity

Array = np.ndarray[Any, Any]
NAN, INF = float("nan"), float("inf")


def floats(*rows: Any) -> Array:
    return np.array(rows, dtype=np.float32)


def scored(name: str, output: Array, truth: Any) -> list[float]:
    scores = metrics.get(name).rows({"y": output}, truth)[:, 0]
    assert scores.dtype == np.float64
    result: list[float] = scores.tolist()
    return result


# metrics by name


def test_top1_by_hand() -> None:
    logits = floats([0.1, 0.9, 0.0], [0.5, 0.5, 0.0], [-3, -2, -1], [0, 0, 0])
    assert scored("top1", logits, np.array([1, 1, 2, 0])) == [1, 0, 1, 1]  # ties go to the first


def test_top1_takes_any_layout_that_means_one_class_per_sample() -> None:
    logits = floats([0.1, 0.9], [0.9, 0.1])
    for output in (logits, logits.reshape(2, 2, 1, 1), logits.astype(np.float16)):
        for labels in (np.array([1, 1]), np.array([[1], [1]], np.uint8), np.array([True, True])):
            assert scored("top1", output, labels) == [1, 0]
    assert scored("top1", np.array([1, 0]), np.array([1, 1])) == [1, 0]  # the class itself
    assert scored("top1", np.array([[1], [0]], np.uint64), np.array([1, 1])) == [1, 0]


def test_a_nan_among_the_scores_is_never_right() -> None:
    # argmax picks the NaN: class 1 would count as right.
    logits = floats([0.0, NAN, 0.0], [0.0, 1.0, 0.0])
    assert scored("top1", logits, np.array([1, 1])) == [0, 1]
    assert scored("top5", logits, np.array([1, 1])) == [0, 1]
    assert scored("agreement", logits, logits) == [0, 1]


def test_top5_by_hand() -> None:
    logits = floats([6, 5, 4, 3, 2, 1, 0])
    assert [scored("top5", logits, np.array([label]))[0] for label in range(7)] == [1] * 5 + [0] * 2
    tied = np.zeros((1, 7), np.float32)
    assert [scored("top5", tied, np.array([label]))[0] for label in range(7)] == [1] * 5 + [0] * 2
    assert scored("top5", floats([0, 1]), np.array([0])) == [1]  # fewer than five classes


def test_errors_by_hand() -> None:
    output = floats([1, 2], [0, -4])
    labels = floats([2, 4], [0, 0])
    assert scored("mae", output, labels) == [1.5, 2.0]
    assert scored("mse", output, labels) == [2.5, 8.0]
    assert scored("mae", floats([1], [3]), np.array([2, 1])) == [1, 2]  # [2, 1] against [2]


def test_errors_of_what_is_not_finite_are_nan_or_infinite() -> None:
    output = floats([NAN], [INF], [INF])
    scores = scored("mae", output, floats([0], [0], [INF]))
    assert math.isnan(scores[0])
    assert scores[1] == INF
    assert math.isnan(scores[2])


def test_agreement_and_cosine_need_no_labels() -> None:
    ours, theirs = floats([1, 0], [0, 1], [0, 0]), floats([2, 0], [3, 0], [0, 0])
    assert scored("agreement", ours, theirs) == [1, 0, 1]
    assert scored("agreement", ours, {"y": theirs, "z": ours}) == [1, 0, 1]
    assert scored("cosine", ours, {"y": theirs}) == [1, 0, 1]
    assert not metrics.get("agreement").needs_labels
    assert not metrics.get("cosine").needs_labels


@pytest.mark.parametrize("name", ["top1", "top5", "mae", "mse", "agreement", "cosine"])
def test_no_samples_give_no_scores(name: str) -> None:
    truth = np.empty((0, 3)) if name not in ("top1", "top5") else np.empty(0, np.int64)
    assert scored(name, np.empty((0, 3), np.float32), truth) == []


def test_a_sample_without_elements_has_no_error() -> None:
    assert scored("mae", np.empty((2, 0), np.float32), np.empty((2, 0))) == [0, 0]


@pytest.mark.parametrize("name", ["mae", "mse"])
def test_only_errors_are_better_when_lower(name: str) -> None:
    assert not metrics.get(name).higher_is_better
    assert all(
        metrics.get(other).higher_is_better for other in ("top1", "top5", "agreement", "cosine")
    )


@pytest.mark.parametrize(
    ("name", "output", "truth", "message"),
    [
        ("top1", floats([1], [2]), np.array([0, 0]), "top1 needs floating class scores"),
        ("top1", floats([1, 2]), np.array([0.0]), "class labels are integers"),
        ("top1", floats([1, 2]), np.array([[0, 1]]), "class labels are integers"),
        ("top1", floats([1, 2]), np.array([0, 1]), "1 samples, but 2 labels"),
        ("top5", floats([1, 2]), np.array([2]), "a label outside the 2 classes"),
        ("mae", floats([1, 2]), floats([1, 2, 3]), "labels of shape"),
        ("cosine", floats([1, 2]), floats([1, 2, 3]), "outputs of shape"),
        ("agreement", np.ones((1, 3, 2)), np.ones((1, 3, 2)), "agreement needs floating class"),
        ("top1@z", floats([1, 2]), np.array([0]), "finds no output z; there are: y"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, output: Array, truth: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scored(name, output, truth)


def test_an_output_is_chosen_by_name() -> None:
    outputs = {"boxes": floats([9, 9, 9]), "serving:0": floats([0, 1])}
    assert metrics.get("top1@serving:0").rows(outputs, np.array([1])).tolist() == [[1]]
    assert metrics.get("top1@serving:0").name == "top1@serving:0"


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("cosin", 'no metric "cosin"; there are: top1, top5, mae, mse', 'did you mean "cosine"?'),
        ("nonsense", 'no metric "nonsense"', None),
        ("top1@", '"top1@" names no output', "top1, or top1@output_name"),
        ("", 'no metric ""', None),
    ],
)
def test_an_unknown_metric_lists_the_known(name: str, what: str, fix: str | None) -> None:
    with pytest.raises(InputError) as error:
        metrics.get(name)
    (problem,) = error.value.problems
    assert problem.where == "--metric"
    assert what in problem.what
    assert problem.fix == fix


# the user's own


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"user_metric_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(
        "import numpy as np\n"
        "def first_column(outputs, labels):\n"
        "    return outputs['y'][:, 0] - labels\n"
        "def distance(outputs, reference):\n"
        "    return [abs(a - b) for a, b in zip(outputs['y'][:, 0], reference['y'][:, 0])]\n"
        "distance.higher_is_better = False\n"
        "distance.needs_labels = False\n"
        "def whole(outputs, labels):\n"
        "    return np.float32(0.5)\n"
    )
    return name


def test_the_users_metric(user_module: str) -> None:
    outputs = {"y": floats([1, 5], [2, 6])}
    metric = metrics.get(f"{user_module}:first_column")
    assert metric.higher_is_better
    assert metric.needs_labels
    assert metric.rows(outputs, np.array([1, 0])).tolist() == [[0], [2]]
    distance = metrics.get(f"{user_module}:distance")
    assert not distance.higher_is_better
    assert not distance.needs_labels
    assert distance.rows(outputs, {"y": floats([0, 0], [2, 0])}).tolist() == [[1], [0]]


def test_the_users_metric_must_score_each_sample(user_module: str) -> None:
    with pytest.raises(ValueError, match=r"gave scores of shape \(\); expected one per sample"):
        metrics.get(f"{user_module}:whole").rows({"y": floats([1], [2])}, np.zeros(2))


def test_the_users_metric_must_exist(user_module: str) -> None:
    with pytest.raises(InputError, match="has no function distanc"):
        metrics.get(f"{user_module}:distanc")


# by sample


def test_padding_is_cut_off() -> None:
    outputs = {"y": floats([1], [2], [3], [3]), "h": np.zeros((2, 4))}
    parted = by_sample(outputs, fed=4, real=3, batched=True)
    assert list(parted) == ["y"]  # h has no axis of 4 in front
    assert parted["y"].tolist() == [[1], [2], [3]]


def test_one_sample_owns_its_outputs() -> None:
    outputs = {"y": floats([1, 2]), "t": np.zeros((7, 1, 5)), "s": np.asarray(np.float32(3))}
    batched = by_sample(outputs, fed=1, real=1, batched=True)
    assert {name: array.shape for name, array in batched.items()} == {
        "y": (1, 2),
        "t": (1, 7, 1, 5),
        "s": (1,),
    }
    assert by_sample(outputs, fed=1, real=1, batched=False)["y"].shape == (1, 1, 2)


def test_class_scores_are_recognised() -> None:
    found = class_scores(np.zeros((2, 3, 1, 1), np.float16))
    assert found is not None
    assert found.shape == (2, 3)
    for array in (np.zeros((2, 1)), np.zeros(2), np.zeros((2, 3), int), np.zeros((2, 3, 4))):
        assert class_scores(array) is None


# comparison


def test_a_comparison_by_hand() -> None:
    reference = {"a": floats([3, 4], [1, 0]), "b": floats([0], [0])}
    outputs = {"a": floats([3, 4], [0, 1]), "b": floats([0], [0])}
    found = compare(outputs, reference)
    assert (found.samples, found.broken) == (2, 0)
    assert found.cosine_mean == pytest.approx(0.5)
    assert found.cosine_min == pytest.approx(0.0)
    assert found.max_abs_error == 1.0
    # signal 9 + 16 + 1, noise 1 + 1
    assert found.sqnr_db == pytest.approx(10 * math.log10(26 / 2))
    assert found.top1 == 0.5


def test_a_tenth_of_noise_is_twenty_decibels() -> None:
    reference = floats([1, 1, 1, 1])
    found = compare({"y": reference * np.float32(1.1)}, {"y": reference})
    assert found.sqnr_db == pytest.approx(20, abs=1e-4)
    assert found.cosine_mean == pytest.approx(1.0)


def test_batches_add_up(rng: np.random.Generator) -> None:
    reference = rng.normal(size=(10, 4)).astype(np.float32)
    outputs = reference + rng.normal(size=(10, 4)).astype(np.float32)
    comparer = Comparer()
    for part in (slice(0, 3), slice(3, 3), slice(3, 9), slice(9, 10)):
        comparer.add({"y": outputs[part]}, {"y": reference[part]})
    whole, parts = compare({"y": outputs}, {"y": reference}), comparer.result()
    for name in ("samples", "cosine_mean", "cosine_min", "sqnr_db", "max_abs_error", "top1"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name))
    assert whole.top1 not in (0, 1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_no_samples_compare_to_nothing() -> None:
    empty = Comparer().result()
    assert empty == compare({"y": np.empty((0, 3))}, {"y": np.empty((0, 3))})
    assert empty.samples == 0
    assert (empty.cosine_mean, empty.cosine_min, empty.sqnr_db) == (None, None, None)
    assert (empty.max_abs_error, empty.top1) == (None, None)


def test_equal_outputs_have_no_noise_to_divide_by() -> None:
    found = compare({"y": floats([1, 2])}, {"y": floats([1, 2])})
    assert (found.cosine_mean, found.max_abs_error, found.sqnr_db) == (1.0, 0.0, None)


@pytest.mark.parametrize(
    ("ours", "theirs", "cosine"),
    [([0, 0], [0, 0], 1.0), ([0, 0], [1, 0], 0.0), ([1, 0], [0, 0], 0.0), ([-1, 0], [2, 0], -1.0)],
)
def test_zero_norms(ours: list[float], theirs: list[float], cosine: float) -> None:
    found = compare({"y": floats(ours)}, {"y": floats(theirs)})
    assert found.cosine_min == cosine
    assert found.broken == 0


@pytest.mark.parametrize("odd", [NAN, INF, -INF])
def test_a_broken_sample_is_counted_and_makes_the_totals_unknown(odd: float) -> None:
    found = compare({"y": floats([odd, 1], [1, 1])}, {"y": floats([1, 1], [1, 1])})
    assert (found.samples, found.broken) == (2, 1)
    assert found.cosine_mean == pytest.approx(0.5)
    assert found.cosine_min == 0.0
    assert (found.sqnr_db, found.max_abs_error) == (None, None)


def test_a_broken_reference_is_broken_too() -> None:
    assert compare({"y": floats([NAN, 1])}, {"y": floats([NAN, 1])}).broken == 1


def test_a_mask_of_infinities_in_both_is_no_error() -> None:
    found = compare({"y": floats([-INF, 1.5])}, {"y": floats([-INF, 1])})
    assert (found.broken, found.max_abs_error, found.cosine_mean) == (0, 0.5, 1.0)


def test_only_floating_outputs_are_compared_where_there_are_any() -> None:
    both = compare(
        {"y": floats([1, 0]), "id": np.array([[900]])}, {"y": floats([1, 0]), "id": np.array([[0]])}
    )
    assert both.max_abs_error == 0.0
    only = compare({"id": np.array([[9]])}, {"id": np.array([[3]])})
    assert (only.max_abs_error, only.top1) == (6.0, None)


def test_only_outputs_of_both_in_one_shape_are_compared() -> None:
    assert compare({"y": floats([1])}, {"z": floats([1])}).samples == 0
    assert compare({"y": floats([1, 2])}, {"y": floats([1])}).samples == 0
    found = compare(
        {"y": floats([1, 2]), "n": floats([1])},
        {"y": floats([1]), "n": floats([3]), "z": floats([9])},
    )
    assert (found.samples, found.max_abs_error) == (1, 2.0)


def test_very_large_and_very_small_values_have_a_cosine() -> None:
    large = np.array([[1e300, -1e300], [1e-300, 1e-300]])
    assert cosines(large, large).tolist() == pytest.approx([1, 1])
    found = compare({"y": large}, {"y": -large})
    assert found.cosine_mean == pytest.approx(-1)
    assert found.sqnr_db is None  # the energy is beyond float64


ANY_FLOAT = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 4).flatmap(
        lambda count: st.tuples(
            hnp.arrays(np.float32, (count, 3), elements=ANY_FLOAT),
            hnp.arrays(np.float32, (count, 3), elements=ANY_FLOAT),
        )
    )
)
def test_a_comparison_is_finite_or_none_whatever_comes(pair: tuple[Array, Array]) -> None:
    found = compare({"y": pair[0]}, {"y": pair[1]})
    assert found.samples == len(pair[0])
    for value in (found.cosine_mean, found.cosine_min, found.sqnr_db, found.max_abs_error):
        assert value is None or math.isfinite(value)
    if found.cosine_mean is not None and found.cosine_min is not None:
        assert -1 <= found.cosine_min <= found.cosine_mean + 1e-12 <= 1 + 1e-12


# sanity


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ({"y": floats([1, 2], [3, 4])}, None),
        ({"y": floats([1, 2], [3, NAN])}, "the output y holds NaN, first at sample 1"),
        ({"y": floats([1, -INF], [3, 0])}, "the output y holds infinity, first at sample 0"),
        ({"y": floats([0, 0], [0, -0.0])}, "all zero in all 2 samples: y"),
        ({"y": floats([0, 0])}, "all zero in all 1 samples: y"),
        ({"y": floats([1, 2], [1, 2])}, "the same output for all 2 samples: y"),
        ({"y": floats([1, 2])}, None),  # one sample can't vary
        ({"y": floats([1, 2], [1, 2]), "z": floats([1], [2])}, None),
        ({"y": floats([0, 0], [0, 0]), "z": floats([1], [2])}, None),
        ({"y": floats([0], [0]), "z": floats([0], [0])}, "all zero in all 2 samples: y, z"),
        ({"id": np.array([3, 3])}, None),
        ({"y": np.empty((2, 0), np.float32)}, None),
        ({"y": np.empty((0, 2), np.float32)}, None),
        ({}, None),
    ],
)
def test_sanity_of_one_batch(outputs: Mapping[str, Array], reason: str | None) -> None:
    assert sanity(outputs) == reason


def test_sanity_can_judge_the_metrics_output_alone() -> None:
    outputs = {"y": floats([0, 0], [0, 0]), "z": floats([1], [2])}
    assert sanity(outputs, "y") == "all zero in all 2 samples: y"
    assert sanity(outputs, "z") is None


def test_sanity_adds_up_over_batches() -> None:
    constant, varied, shaped, late = Sanity(), Sanity(), Sanity(), Sanity()
    for watch, last in ((constant, [1, 2]), (varied, [1, 3]), (late, [1, NAN])):
        watch.add({"y": floats([1, 2])})
        watch.add({"y": floats([1, 2], last)})
    shaped.add({"y": floats([1, 1])})
    shaped.add({"y": floats([1, 1, 1])})
    assert constant.result() == "the same output for all 3 samples: y"
    assert varied.result() is None
    assert shaped.result() is None
    assert late.result() == "the output y holds NaN, first at sample 2"
    assert Sanity().result() is None


def test_sanity_keeps_no_view_of_a_buffer_that_is_written_again() -> None:
    watch, buffer = Sanity(), floats([1, 2])
    watch.add({"y": buffer})
    buffer[:] = 5
    watch.add({"y": buffer})
    assert watch.result() is None
