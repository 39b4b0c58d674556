"""What metrics of all samples together keep of each: :mod:`harness.aggregates` makes the value.

Every function gives float64 [samples, width], from which the value of any choice of samples
follows: also of those that are drawn again and again for an interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import numpy as np

from harness.metrics.outputs import (
    Outputs,
    class_labels,
    class_scores,
    classes_of,
    require_classes,
    rows_of,
)
from harness.types import Array

Options = Mapping[str, Any]

_PAIR = 2
"""Classes, of which one is positive."""

BOX = 6
"""Values of a box in a row: score (NaN: a label's), class (-1: padding), x1, y1, x2, y2."""

MOST_BOXES = 100
"""Detections of a sample that count, the best ones: COCO's limit."""


def f1(output: Array, labels: Array, options: Options) -> Array:
    """(picked class or -1, label's class); with a threshold, by class 2 * label + prediction."""
    if options["threshold"] is None:
        wanted = _within(class_labels(labels))
        return np.stack([classes_of("f1", output), wanted], axis=1).astype(np.float64)
    if labels.dtype.kind not in "iub" or labels.size != output.size:
        raise ValueError(
            f"f1 with a threshold needs labels of 0 and 1 for each of the output's values; the"
            f" output is {output.dtype}{list(output.shape)}, the labels are"
            f" {labels.dtype}{list(labels.shape)}"
        )
    wanted = rows_of(labels)
    if options["average"] == "binary" and labels.size != len(labels):
        raise ValueError("f1(average=binary) with a threshold needs one value per sample")
    if not np.isin(wanted, (0, 1)).all():
        raise ValueError("f1 with a threshold needs labels of 0 and 1; there are others")
    coded: Array = 2 * wanted + (rows_of(output) > options["threshold"])
    return coded


def auc(output: Array, labels: Array, options: Options) -> Array:
    """(score of the positive class, 1 where it is the label's); else (all scores, label's class).

    Of two classes the score is the one's lead on the other, which orders samples alike by
    probabilities and by what softmax makes of logits.
    """
    wanted, positive = class_labels(labels), options["positive"]
    scores = class_scores(output)
    if scores is None:
        if output.dtype.kind != "f" or output.size != len(output):
            require_classes("auc", output)
        is_positive = wanted == (1 if positive is None else positive)
        return np.stack([output.reshape(-1).astype(np.float64), is_positive], axis=1)
    scores = scores.astype(np.float64)
    count = scores.shape[1]
    if positive is None and count > _PAIR:
        return np.column_stack([scores, _within(wanted, count)])
    positive = 1 if positive is None else positive
    if positive >= count:
        raise ValueError(f"auc: there is no class {positive} among the output's {count}")
    own = scores[:, positive]
    lead = own - scores[:, 1 - positive] if count == _PAIR else own
    return np.stack([lead, wanted == positive], axis=1)


def spearman(output: Array, labels: Array) -> Array:
    """(output, label), one value each."""
    if not output.size == labels.size == len(output) or labels.dtype.kind not in "iubf":
        raise ValueError(
            f"spearman needs one value per sample; the output is {output.dtype}"
            f"{list(output.shape)}, the labels are {labels.dtype}{list(labels.shape)}"
        )
    return np.column_stack([rows_of(output), rows_of(labels)])


def iou(output: Array, labels: Array, options: Options) -> Array:
    """By class the pixels of the intersection, then by class those of the union."""
    masks, count = _masks(output, options)
    if labels.dtype.kind not in "iub" or labels.size != masks.size:
        raise ValueError(
            f"iou needs integer labels of the masks' size; the masks are {list(masks.shape)},"
            f" the labels {labels.dtype}{list(labels.shape)}"
        )
    rows = np.empty((len(masks), 2 * count))
    for row, mask, label in zip(rows, masks, labels):
        wanted = label.reshape(-1).astype(np.int64)
        counted = wanted != options["ignore"]
        wanted, found = _within(wanted[counted], count), mask.reshape(-1)[counted]
        hits = np.bincount(wanted[found == wanted], minlength=count)
        known = found[(found >= 0) & (found < count)]
        both = np.bincount(wanted, minlength=count) + np.bincount(known, minlength=count)
        row[:count], row[count:] = hits, both - hits
    return rows


def _masks(output: Array, options: Options) -> tuple[Array, int]:
    """The class of each pixel, and how many classes there are."""
    if options["threshold"] is not None:
        return (output > options["threshold"]).astype(np.int64), 2
    scored = 4
    if output.dtype.kind == "f" and output.ndim == scored and output.shape[1] > 1:
        return output.argmax(axis=1), output.shape[1]
    if output.dtype.kind in "iu" and options["classes"] is not None:
        return output.astype(np.int64), options["classes"]
    raise ValueError(
        "iou needs scores [samples, classes, height, width], or integer masks and classes=N, or"
        f" scores of one class and threshold=X; the output is {output.dtype}{list(output.shape)}"
    )


def boxes(outputs: Outputs, labels: Array, options: Options) -> Array:
    """``MOST_BOXES`` detections, the best first, then the label's boxes; ``BOX`` values each.

    outputs: boxes [samples, n, 4] as x1, y1, x2, y2, scores and labels [samples, n]. labels:
    [samples, m, 5] as class, x1, y1, x2, y2, padded by class -1.
    """
    found = [_output(outputs, options[name]) for name in ("boxes", "scores", "labels")]
    corners, scores, classes = found
    axes, values = 3, BOX - 1
    if corners.ndim == axes - 1:  # the only box of an output that has no axis of samples
        corners, scores, classes = found = [each[:, np.newaxis] for each in found]
    fits = corners.ndim == axes and corners.shape[2] == BOX - 2
    if not fits or not scores.shape == classes.shape == corners.shape[:2]:
        shapes = ", ".join(str(list(each.shape)) for each in found)
        raise ValueError(
            f"map needs boxes [samples, n, 4], scores and labels [samples, n]; found {shapes}"
        )
    if labels.ndim != axes or labels.shape[2] != values or labels.dtype.kind not in "iuf":
        raise ValueError(
            "map needs labels [samples, m, 5]: class, x1, y1, x2, y2;"
            f" these are {labels.dtype}{list(labels.shape)}"
        )
    detected = np.concatenate(
        [scores[..., np.newaxis], classes[..., np.newaxis], corners], axis=2, dtype=np.float64
    )
    order = np.argsort(-detected[..., 0], axis=1, kind="stable")[:, :MOST_BOXES, np.newaxis]
    detected = np.take_along_axis(detected, order, axis=1)
    detected[..., 1][np.isnan(detected[..., 0])] = -1
    missing = MOST_BOXES - detected.shape[1]
    detected = np.pad(detected, ((0, 0), (0, missing), (0, 0)), constant_values=-1.0)
    wanted = np.concatenate([np.full((*labels.shape[:2], 1), np.nan), labels], axis=2)
    return np.concatenate([detected, wanted], axis=1).reshape(len(labels), -1)


def _output(outputs: Outputs, name: str) -> Array:
    if name not in outputs:
        raise ValueError(f"map finds no output {name}; there are: {', '.join(outputs) or 'none'}")
    return np.asarray(outputs[name])


def _within(labels: Array, classes: Optional[int] = None) -> Array:
    """The labels. Raises ValueError for one that is no class's number."""
    if labels.size and (labels.min() < 0 or (classes is not None and labels.max() >= classes)):
        expected = "0 and up" if classes is None else f"0..{classes - 1}"
        raise ValueError(f"labels {labels.min()}..{labels.max()}; expected {expected}")
    return labels
