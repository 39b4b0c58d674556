from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness import metrics

Array = np.ndarray[Any, Any]


def refused(name: str, output: Array, labels: Array) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        metrics.get(name).rows({"y": output}, labels)
    return str(caught.value)


CLASSES = np.eye(3, dtype=np.float32)
BAD: list[tuple[str, Array, Array, str]] = [
    ("f1", np.zeros((3, 1), np.float32), np.arange(3), "f1 needs floating class scores"),
    ("f1", CLASSES, np.array([0, -1, 2]), "labels -1..2; expected 0 and up"),
    ("f1", CLASSES, np.zeros((3, 3), int), "class labels are integers [samples]"),
    ("f1(threshold=0)", CLASSES, np.arange(3), "labels of 0 and 1 for each of the output's values"),
    ("f1(threshold=0)", CLASSES, 2 * np.ones((3, 3), int), "labels of 0 and 1; there are others"),
    ("f1(threshold=0,average=binary)", CLASSES, np.ones((3, 3), int), "one value per sample"),
    ("auc", np.zeros((3, 2, 2), np.float32), np.arange(3), "auc needs floating class scores"),
    ("auc", np.zeros(3, int), np.arange(3), "auc needs floating class scores"),
    ("auc", CLASSES, np.array([0, 1, 3]), "labels 0..3; expected 0..2"),
    ("auc(positive=3)", CLASSES, np.arange(3), "no class 3 among the output's 3"),
    ("spearman", CLASSES, np.arange(3), "spearman needs one value per sample"),
    ("spearman", np.zeros(3), np.array(["a", "b", "c"]), "spearman needs one value per sample"),
    ("iou", np.zeros((1, 2, 2), int), np.zeros((1, 2, 2), int), "integer masks and classes=N"),
    ("iou", np.zeros((1, 1, 2, 2)), np.zeros((1, 2, 2), int), "of one class and threshold=X"),
    ("iou(classes=2)", np.zeros((1, 2, 2), int), np.zeros((1, 4, 4), int), "the masks' size"),
    ("iou(classes=2)", np.zeros((1, 2, 2), int), np.zeros((1, 2, 2)), "needs integer labels"),
    (
        "iou(classes=2)",
        np.zeros((1, 2, 2), int),
        2 * np.ones((1, 2, 2), int),
        "2..2; expected 0..1",
    ),
]


@pytest.mark.parametrize("case", BAD, ids=[f"{each[0]}: {each[3]}" for each in BAD])
def test_outputs_and_labels_that_a_metric_cannot_use_are_refused(
    case: tuple[str, Array, Array, str],
) -> None:
    name, output, labels, message = case
    assert message in refused(name, output, labels)


def test_detections_of_another_form_are_refused() -> None:
    metric = metrics.get("map")
    good = {"boxes": np.zeros((1, 2, 4)), "scores": np.zeros((1, 2)), "labels": np.zeros((1, 2))}
    labels = np.zeros((1, 3, 5))
    assert metric.rows(good, labels).shape == (1, 6 * (100 + 3))
    for change, message in (
        ({"boxes": np.zeros((1, 2, 5))}, r"found \[1, 2, 5\], \[1, 2\], \[1, 2\]"),
        ({"scores": np.zeros((1, 3))}, r"found \[1, 2, 4\], \[1, 3\], \[1, 2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.rows({**good, **change}, labels)
    with pytest.raises(ValueError, match=r"labels \[samples, m, 5\]"):
        metric.rows(good, labels[..., :4])
    with pytest.raises(ValueError, match="map finds no output boxes; there are: scores"):
        metric.rows({"scores": good["scores"]}, labels)


def test_a_metric_scores_the_output_that_it_names() -> None:
    outputs = {"aux": np.zeros((2, 3), np.float32), "y": CLASSES[:2]}
    labels = np.array([0, 1])
    for name in ("f1", "auc", "top1", "mae"):
        named = metrics.get(f"{name}@y")
        wanted = CLASSES[:2] if name == "mae" else labels
        alone = metrics.get(name).rows({"y": CLASSES[:2]}, wanted)
        assert np.array_equal(named.rows(outputs, wanted), alone)


def test_no_samples_give_no_rows() -> None:
    for name, shape in (("f1", (0, 3)), ("auc", (0, 3)), ("spearman", (0, 1)), ("rmse", (0, 2))):
        labels = np.zeros(shape if name == "rmse" else (0,), int)
        rows = metrics.get(name).rows({"y": np.zeros(shape, np.float32)}, labels)
        assert len(rows) == 0
    assert metrics.join([]).shape == (0, 1)


def test_sqnr_by_hand() -> None:
    reference = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
    output = np.array([[3.0, 4.5], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [np.nan, 0.0], [9.0, 9.0]])
    rows = metrics.get("sqnr").rows({"y": output}, {"y": reference})
    assert rows[:, 0].tolist() == pytest.approx([20.0, 100.0, 100.0, 0.0, 0.0, 0.0])


def test_sqnr_stays_within_its_bounds_whatever_the_outputs() -> None:
    largest = np.finfo(np.float64).max
    for value in (largest, -largest, np.inf, -np.inf, np.nan, 5e-324, 1 + 1e-15):
        with np.errstate(all="raise"):
            ours = metrics.get("sqnr").rows({"y": np.array([[value, 1.0]])}, {"y": np.ones((1, 2))})
            same = np.array([[value, 1.0]])
            twice = metrics.get("sqnr").rows({"y": same}, {"y": same})
        assert 0 <= ours[0, 0] <= 100
        assert twice[0, 0] == (0 if np.isnan(value) else 100)
