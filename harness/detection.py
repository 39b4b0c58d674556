"""COCO's mean average precision of detections, matched by pycocotools (the extra ``detection``)."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.errors import InputError, Problem
from harness.metrics import Array
from harness.metrics.pooled import BOX, MOST_BOXES


@dataclass(frozen=True)
class _Class:
    """One class: its detections, the best first, in which samples they are and what they match.

    matched: bool [IoU thresholds, detections]. wanted: the labels' boxes [samples].
    """

    sample: Array
    matched: Array
    wanted: Array


def mean_average_precision(rows: Array) -> Callable[[Array], Array]:
    """Weights [draws, samples] -> COCO's AP [draws], of :func:`harness.metrics.pooled.boxes` rows.

    The mean over IoU thresholds .50:.05:.95, 101 recalls, and the classes that the labels show; no
    crowds, boxes of any size. Raises InputError without pycocotools.
    """
    evaluated = _evaluate(rows.reshape(len(rows), -1, BOX))
    recalls = np.linspace(0.0, 1.0, 101)

    def values(weights: Array) -> Array:
        each = [_average_precision(one, weights, recalls) for one in evaluated]
        if not each:
            return np.full(len(weights), np.nan)
        table = np.stack(each, axis=1)
        there = ~np.isnan(table)
        sums, counts = np.where(there, table, 0.0).sum(axis=1), there.sum(axis=1)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    return values


def _average_precision(one: _Class, weights: Array, recalls: Array) -> Array:
    """As pycocotools' ``accumulate``, for samples that count several times or not at all."""
    wanted = weights @ one.wanted
    counts = weights[:, one.sample]
    total = np.zeros(len(weights))
    for matched in one.matched:
        right = np.cumsum(counts * matched, axis=1)
        found = np.cumsum(counts, axis=1)
        # numpy.spacing(1) is what pycocotools keeps from dividing by 0 with.
        precision = right / (found + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        best = np.column_stack([best, np.zeros(len(best))])  # recalls that are never reached
        recall = right / np.maximum(wanted, 1)[:, np.newaxis]
        for draw, line in enumerate(recall):
            total[draw] += best[draw, np.searchsorted(line, recalls)].mean()
    return np.where(wanted > 0, total / len(one.matched), np.nan)


def _evaluate(boxes: Array) -> list[_Class]:
    """Match each sample's detections [samples, boxes, BOX] with its labels, class by class."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        fix = "pip install 'enginepick[detection]'"
        raise InputError([Problem("--metric", "map needs pycocotools", fix)]) from None
    labelled = np.isnan(boxes[..., 0])
    classes = np.unique(boxes[labelled][:, 1])
    classes = classes[classes >= 0]
    samples = range(1, len(boxes) + 1)
    with redirect_stdout(io.StringIO()):
        wanted, given = (_coco(COCO(), boxes, each, classes) for each in (labelled, ~labelled))
        found = COCOeval(wanted, given, "bbox")
        found.params.areaRng, found.params.areaRngLbl = [[0, 1e10]], ["all"]
        found.params.maxDets = [MOST_BOXES]
        found.params.imgIds = list(samples)
        found.evaluate()
    each = len(boxes)
    return [
        _class(found.evalImgs[place * each : (place + 1) * each]) for place in range(len(classes))
    ]


def _coco(made: Any, boxes: Array, chosen: Array, classes: Array) -> Any:
    """A COCO data set of the chosen boxes. Numbers start from 1: pycocotools takes 0 for none."""
    annotations: list[dict[str, Any]] = []
    for sample, place in np.argwhere(chosen & np.isin(boxes[..., 1], classes)):
        score, kind, left, top, right, bottom = boxes[sample, place].tolist()
        width, height = right - left, bottom - top
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": int(sample) + 1,
                "category_id": int(kind),
                "bbox": [left, top, width, height],
                "area": width * height,
                "iscrowd": 0,
                "score": score,
            }
        )
    made.dataset = {
        "images": [{"id": number} for number in range(1, len(boxes) + 1)],
        "categories": [{"id": int(each)} for each in classes],
        "annotations": annotations,
    }
    made.createIndex()
    return made


def _class(evaluated: list[Any]) -> _Class:
    """What pycocotools says of one class in each sample: None where the class isn't in it."""
    there = [(sample, each) for sample, each in enumerate(evaluated) if each is not None]
    wanted = np.array([len(each["gtIds"]) if each else 0 for each in evaluated])
    scores = np.concatenate([each["dtScores"] for _, each in there])
    sample = np.concatenate([np.full(len(each["dtScores"]), number) for number, each in there])
    matched = np.concatenate([each["dtMatches"] > 0 for _, each in there], axis=1)
    order = np.argsort(-scores, kind="stable")
    return _Class(sample[order].astype(np.int64), matched[:, order], wanted)
