"""Outputs of inferences, and what metrics take them for: samples, class scores, classes, values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional, Union

import numpy as np

from harness.types import Array

Outputs = Mapping[str, Array]
Truth = Union[Array, Outputs]


def by_sample(outputs: Outputs, fed: int, real: int, *, batched: bool) -> dict[str, Array]:
    """Outputs of one inference with the samples as their leading axis, without the padding.

    fed: how many samples the feed held; real: how many of them count (the first ones). batched:
    whether the model has a batch axis (:class:`harness.datasets.Layout`).
    With one sample fed, an output whose leading axis isn't 1 belongs to that sample as a whole.
    Otherwise an output whose leading axis isn't ``fed`` can't be told apart by sample, and is
    left out.
    """
    parted = {}
    for name, value in outputs.items():
        array = np.asarray(value)
        if batched and array.ndim and array.shape[0] == fed:
            parted[name] = array[:real]
        elif fed == 1:
            parted[name] = array[np.newaxis]
    return parted


def class_scores(output: Array) -> Optional[Array]:
    """The output as [samples, classes] if it looks like class scores, else None.

    That is: floating, two or more classes, and further axes, if any, of size 1.
    """
    classes = output.ndim > 1 and output.shape[1] > 1
    if not classes or output.dtype.kind != "f" or any(size != 1 for size in output.shape[2:]):
        return None
    return output.reshape(output.shape[:2])


def picked(scores: Array) -> Array:
    """The best class of each sample; -1 where a NaN is among the scores: argmax would pick it."""
    if not len(scores):
        return np.empty(0, dtype=np.int64)
    best: Array = np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1))
    return best


def require_classes(name: str, output: Array) -> Array:
    """The output as class scores [samples, classes]. Raises ValueError if it is none."""
    scores = class_scores(output)
    if scores is None:
        raise ValueError(
            f"{name} needs floating class scores [samples, classes];"
            f" the output is {output.dtype}{list(output.shape)}"
        )
    return scores


def class_labels(labels: Array) -> Array:
    """Class numbers, int64 [samples]. Raises ValueError for labels that are none."""
    if labels.dtype.kind not in "iub" or labels.size != len(labels):
        raise ValueError(
            f"class labels are integers [samples]; these are {labels.dtype}{list(labels.shape)}"
        )
    return labels.reshape(-1).astype(np.int64)


def classes_of(name: str, output: Array) -> Array:
    """The class of each sample: the model's own choice, or the best of its class scores."""
    if output.dtype.kind in "iu" and output.size == len(output):
        return output.reshape(-1)
    return picked(require_classes(name, output))


def rows_of(array: Array) -> Array:
    """An output as float64 [samples, elements]."""
    count = len(array)
    return array.reshape(count, array.size // count if count else 0).astype(np.float64)
