from __future__ import annotations

import contextlib
import io
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn import metrics as sklearn_metrics

from harness import metrics
from harness.aggregates import value_of, weighted_values

Array = np.ndarray[Any, Any]


def rows_of(name: str, output: Array, labels: Array) -> Array:
    return metrics.get(name).rows({"y": np.asarray(output)}, np.asarray(labels))


def value(name: str, output: Array, labels: Array) -> float | None:
    return value_of(name, rows_of(name, output, labels))


def one_hot(picks: Array, classes: int) -> Array:
    return np.eye(classes, dtype=np.float32)[picks]


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


SEEDS = st.integers(0, 2**32 - 1)


# means


def test_a_metric_of_single_scores_has_their_mean() -> None:
    scores = np.array([[1.0], [0.0], [1.0], [1.0]])
    for name in ("top1", "top1@logits", "cer(alphabet=nowhere.txt)", "my.module:score"):
        assert value_of(name, scores) == 0.75


def test_there_is_no_value_without_samples_or_of_what_is_not_finite() -> None:
    assert value_of("mae", np.empty((0, 1))) is None
    assert value_of("f1", np.empty((0, 2))) is None
    assert value_of("mae", np.array([[1.0], [np.nan]])) is None
    assert value_of("rmse", np.array([[1.0], [np.inf]])) is None
    assert value_of("spearman", np.array([[1.0, 1.0], [np.nan, 2.0]])) is None


def test_rmse_is_the_root_of_the_mean_over_all_samples() -> None:
    output, labels = np.array([[0.0, 0.0], [3.0, 1.0]]), np.array([[0.0, 2.0], [0.0, 0.0]])
    assert value("rmse", output, labels) == pytest.approx(np.sqrt((4 / 2 + 10 / 2) / 2))


# F1


def test_f1_by_hand() -> None:
    labels, picks = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 0, 2])
    # Of class 0: 1 right, 2 picked, 2 labelled; of 1: 2, 3, 2; of 2: 1, 1, 2.
    assert value("f1", one_hot(picks, 3), labels) == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3)
    assert value("f1(average=micro)", picks, labels) == pytest.approx(4 / 6)
    assert value("f1(average=binary)", picks, labels) == pytest.approx(4 / 5)
    assert value("f1(average=binary,positive=2)", picks, labels) == pytest.approx(2 / 3)
    assert value("f1(average=binary,positive=7)", picks, labels) is None


def test_f1_of_a_nan_is_a_pick_of_nothing() -> None:
    scores = one_hot(np.array([0, 1]), 2)
    scores[0, 1] = np.nan
    assert value("f1", scores, np.array([0, 1])) == pytest.approx((0 + 1) / 2)


def test_f1_of_several_labels_at_once_by_hand() -> None:
    scores = np.array([[0.9, 0.2, 0.1], [0.6, 0.7, 0.0], [0.1, 0.8, 0.5]])
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0]])
    # Class 2 is neither labelled nor predicted: 0.5 isn't above the threshold.
    expected = (2 * 1 / (2 + 1) + 2 * 2 / (2 + 3)) / 2
    assert value("f1(threshold=0.5)", scores, labels) == pytest.approx(expected)
    assert value("f1(average=micro,threshold=0.5)", scores, labels) == pytest.approx(6 / 8)
    one = value("f1(average=binary,threshold=0.5)", scores[:, :1], labels[:, 0])
    assert one == pytest.approx(2 / 3)


@given(SEEDS, st.integers(1, 40), st.integers(2, 5))
def test_f1_is_that_of_scikit_learn(seed: int, samples: int, classes: int) -> None:
    rng = random(seed)
    labels, picks = rng.integers(0, classes, (2, samples))
    for average in ("macro", "micro"):
        theirs = sklearn_metrics.f1_score(labels, picks, average=average)
        assert value(f"f1(average={average})", picks, labels) == pytest.approx(theirs)
    if 1 in labels or 1 in picks:
        theirs = sklearn_metrics.f1_score(labels == 1, picks == 1)
        assert value("f1(average=binary)", picks, labels) == pytest.approx(theirs)
    flags, scores = rng.integers(0, 2, (samples, classes)), rng.random((samples, classes))
    theirs = sklearn_metrics.f1_score(flags, scores > 0.3, average="micro", zero_division=0)
    if flags.any() or (scores > 0.3).any():
        ours = value("f1(average=micro,threshold=0.3)", scores, flags)
        assert ours == pytest.approx(theirs)


# AUC


def test_auc_by_hand() -> None:
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    assert value("auc", scores, labels) == 0.75
    assert value("auc", np.array([0.5, 0.5]), np.array([0, 1])) == 0.5  # ties count half
    assert value("auc", scores, np.zeros(4, int)) is None
    assert value("auc(positive=0)", -scores, labels) == 0.75


def brute_auc(scores: Array, positive: Array) -> float:
    pairs = list(itertools.product(scores[positive], scores[~positive]))
    return sum((high > low) + (high == low) / 2 for high, low in pairs) / len(pairs)


@given(SEEDS, st.integers(2, 30))
def test_auc_is_the_share_of_pairs_in_order(seed: int, samples: int) -> None:
    rng = random(seed)
    scores = rng.integers(0, 6, (samples, 1)).astype(np.float32)
    labels = rng.integers(0, 2, samples)
    expected = brute_auc(scores[:, 0], labels == 1) if len(set(labels)) == 2 else None
    assert value("auc", scores, labels) == pytest.approx(expected)
    both = np.concatenate([np.zeros_like(scores), scores], axis=1)
    assert value("auc", both, labels) == pytest.approx(expected)


def test_auc_of_two_classes_is_the_same_for_logits_and_what_softmax_makes_of_them() -> None:
    rng = random(3)
    logits, labels = rng.normal(size=(50, 2)) * 3, rng.integers(0, 2, 50)
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert value("auc", logits, labels) == pytest.approx(value("auc", odds, labels))


@given(SEEDS, st.integers(6, 30))
def test_auc_of_many_classes_is_that_of_scikit_learn(seed: int, samples: int) -> None:
    rng = random(seed)
    labels = np.concatenate([np.arange(3), rng.integers(0, 3, samples - 3)])
    scores = rng.random((samples, 3))
    scores /= scores.sum(axis=1, keepdims=True)
    theirs = sklearn_metrics.roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    assert value("auc", scores, labels) == pytest.approx(theirs)
    one = sklearn_metrics.roc_auc_score(labels == 2, scores[:, 2])
    assert value("auc(positive=2)", scores, labels) == pytest.approx(one)


# Spearman


@given(SEEDS, st.integers(2, 40))
def test_spearman_is_that_of_scipy(seed: int, samples: int) -> None:
    rng = random(seed)
    ours, theirs = rng.integers(0, 9, (2, samples)).astype(np.float64)
    got = value("spearman", ours[:, np.newaxis], theirs)
    if len(set(ours)) == 1 or len(set(theirs)) == 1:
        assert got is None
    else:
        ranks = scipy_stats.rankdata(ours), scipy_stats.rankdata(theirs)
        assert got == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)
        assert got == pytest.approx(scipy_stats.spearmanr(ours, theirs).statistic, abs=1e-12)


# IoU


def test_iou_by_hand() -> None:
    labels = np.array([[[0, 0], [1, 1]], [[2, 255], [1, 1]]])
    masks = np.array([[[0, 1], [1, 1]], [[0, 0], [1, 2]]])
    # Without the pixel that is ignored: 0: 1 of 3, 1: 3 of 5, 2: 0 of 2.
    expected = (1 / 3 + 3 / 5 + 0 / 2) / 3
    assert value("iou(classes=3)", masks, labels) == pytest.approx(expected)
    scores = np.moveaxis(one_hot(masks, 4), -1, 1)
    assert value("iou", scores, labels) == pytest.approx(expected)  # class 3 is nowhere
    object_scores = np.where(masks == 1, 0.9, 0.1)[:, np.newaxis]
    ours = value("iou(threshold=0.5)", object_scores, (labels == 1).astype(np.uint8))
    assert ours == pytest.approx((3 / 5 + 3 / 5) / 2)  # background: 3 of 5
    assert value("iou(classes=3,ignore=1)", masks, np.ones((2, 2, 2), int)) is None


@given(SEEDS, st.integers(1, 6))
def test_iou_is_that_of_scikit_learn(seed: int, samples: int) -> None:
    labels, masks = random(seed).integers(0, 4, (2, samples, 3, 3))
    shown = np.union1d(labels, masks)
    theirs = sklearn_metrics.jaccard_score(
        labels.ravel(), masks.ravel(), labels=shown, average="macro"
    )
    assert value("iou(classes=4)", masks, labels) == pytest.approx(theirs)


# mAP


def scene(seed: int, samples: int = 12, most: int = 4, classes: int = 3) -> tuple[Any, Array]:
    """Noisy detections of random boxes, some missed, some of nothing."""
    rng = random(seed)
    corners = rng.uniform(0, 100, (samples, most, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 40, corners.shape)], axis=2)
    kinds = rng.integers(0, classes, (samples, most, 1))
    kinds[rng.random(kinds.shape) < 0.3] = -1
    labels = np.concatenate([kinds, boxes], axis=2)
    near = boxes + rng.normal(0, 3, boxes.shape)
    far = boxes + rng.normal(0, 25, boxes.shape)
    found = np.concatenate(
        [near, np.sort(far.reshape(samples, most, 2, 2), 2).reshape(far.shape)], 1
    )
    guesses = np.concatenate([kinds[..., 0], rng.integers(0, classes, (samples, most))], axis=1)
    # In steps: scores that are tied are common.
    scores = rng.integers(1, 20, guesses.shape) / 20
    return {"boxes": found, "scores": scores, "labels": guesses}, labels


def coco(outputs: Any, labels: Array) -> float:
    """COCO's own chain on the same boxes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def annotation(number: int, image: int, kind: float, box: Array, score: float) -> Any:
        left, top, right, bottom = map(float, box)
        size = [right - left, bottom - top]
        return {
            "id": number, "image_id": image, "category_id": int(kind), "iscrowd": 0,
            "bbox": [left, top, *size], "area": size[0] * size[1], "score": score,
        }  # fmt: skip

    wanted, found = [], []
    for image, rows in enumerate(labels):
        for kind, *box in rows:
            if kind >= 0:
                wanted.append(annotation(len(wanted) + 1, image, kind, box, 1.0))
        each = (outputs[name][image] for name in ("boxes", "scores", "labels"))
        for box, score, kind in zip(*each, strict=True):
            found.append(annotation(len(found) + 1, image, kind, box, float(score)))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": image} for image in range(len(labels))],
            "categories": [{"id": kind} for kind in range(3)],
            "annotations": wanted,
        }
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(found), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return float(run.stats[0])


def box_rows(outputs: Any, labels: Array) -> Array:
    return metrics.get("map").rows(outputs, labels)


@pytest.mark.parametrize("seed", range(4))
def test_map_is_that_of_pycocotools(seed: int) -> None:
    outputs, labels = scene(seed)
    ours = value_of("map", box_rows(outputs, labels))
    assert ours == pytest.approx(coco(outputs, labels), abs=1e-12)
    assert 0.05 < coco(outputs, labels) < 0.95


def test_map_is_1_where_all_is_found_and_none_where_there_is_nothing_to_find() -> None:
    _, labels = scene(0)
    perfect = {"boxes": labels[..., 1:], "scores": np.ones(labels.shape[:2])}
    rows = box_rows({**perfect, "labels": labels[..., 0].astype(int)}, labels)
    assert value_of("map", rows) == pytest.approx(1.0)
    nothing = np.full_like(labels, -1.0)
    assert value_of("map", box_rows({**perfect, "labels": labels[..., 0]}, nothing)) is None


def test_map_counts_the_best_hundred_detections_of_a_sample() -> None:
    outputs, labels = scene(1)
    many = {name: np.repeat(array, 20, axis=1) for name, array in outputs.items()}
    assert box_rows(many, labels).shape == (12, 6 * (100 + labels.shape[1]))
    assert box_rows(outputs, labels).shape == (12, 6 * (100 + labels.shape[1]))


def test_map_takes_outputs_by_other_names() -> None:
    outputs, labels = scene(2)
    renamed = {"b": outputs["boxes"], "s": outputs["scores"], "labels": outputs["labels"]}
    metric = metrics.get("map(boxes=b,scores=s)")
    assert np.array_equal(metric.rows(renamed, labels), box_rows(outputs, labels), equal_nan=True)


# many draws


def cases() -> dict[str, Array]:
    rng = random(7)
    labels, scores = rng.integers(0, 4, 60), rng.random((60, 4))
    masks = rng.integers(0, 3, (2, 60, 2, 2))
    flags = rng.integers(0, 2, (60, 3))
    return {
        "top1": rows_of("top1", scores, labels),
        "rmse": rows_of("rmse", scores[:, :1], labels),
        "f1": rows_of("f1", scores, labels),
        "f1(average=micro)": rows_of("f1", scores, labels),
        "f1(average=binary,positive=3)": rows_of("f1", scores, labels),
        "f1(threshold=0.4)": rows_of("f1(threshold=0.4)", scores[:, :3], flags),
        "auc": rows_of("auc", scores, labels),
        "auc@y": rows_of("auc", scores[:, 0].round(1), labels > 1),
        "spearman": rows_of("spearman", scores[:, :1].round(1), labels),
        "iou(classes=3)": rows_of("iou(classes=3)", *masks),
    }


def counts(picks: Array, samples: int) -> Array:
    return np.array([np.bincount(pick, minlength=samples) for pick in picks])


@pytest.mark.parametrize("name", cases())
def test_draws_have_the_values_of_the_rows_that_they_pick(name: str) -> None:
    rows = cases()[name]
    picks = random(1).integers(0, len(rows), (20, len(rows)))
    each = np.array([value_of(name, rows[pick]) for pick in picks], dtype=np.float64)
    assert weighted_values(name, rows, counts(picks, len(rows))) == pytest.approx(each)
    # Leaving one sample out, as a jackknife does.
    weights = 1 - np.eye(len(rows), dtype=int)[:5]
    each = np.array([value_of(name, rows[weight > 0]) for weight in weights])
    assert weighted_values(name, rows, weights) == pytest.approx(each)


def test_draws_of_boxes_have_the_values_of_the_rows_that_they_pick() -> None:
    rows = box_rows(*scene(5))
    # Each sample once or never: several at the same score have no order that repeats.
    picks = np.array([np.sort(random(draw).permutation(12)[:8]) for draw in range(5)])
    each = np.array([value_of("map", rows[pick]) for pick in picks], dtype=np.float64)
    assert weighted_values("map", rows, counts(picks, 12)) == pytest.approx(each)


def test_a_draw_without_a_value_is_nan() -> None:
    rows = rows_of("auc", np.array([0.1, 0.9, 0.5]), np.array([0, 1, 0]))
    found = weighted_values("auc", rows, np.array([[2, 0, 1], [1, 1, 1]]))
    assert np.isnan(found).tolist() == [True, False]
    assert weighted_values("auc", rows, np.empty((0, 3), dtype=int)).shape == (0,)


@settings(max_examples=20)
@given(SEEDS)
def test_many_draws_are_looked_at_in_parts(seed: int) -> None:
    rng = random(seed)
    rows, weights = rng.random((3, 1)), rng.integers(1, 3, (7, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.aggregates._AT_ONCE", 6)
        found = weighted_values("mae", rows, weights)
    assert found == pytest.approx(weights @ rows[:, 0] / weights.sum(axis=1))
