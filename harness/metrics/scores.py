"""Scores of one sample each, given its output and its truth: their mean is the metric's value."""

from __future__ import annotations

import numpy as np

from harness.metrics.outputs import class_labels, classes_of, picked, require_classes, rows_of
from harness.types import Array

MOST_DB = 100.0
"""The highest SQNR that is told apart: fp32 kernels of other runtimes come near it."""


def top1(output: Array, labels: Array) -> Array:
    """1 where the best class, or the class that the model picked, is the label's."""
    hits: Array = np.equal(classes_of("top1", output), class_labels(labels))
    return hits


def top5(output: Array, labels: Array) -> Array:
    """1 where the label is among the five best classes."""
    scores = require_classes("top5", output)
    wanted = class_labels(labels)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= scores.shape[1]):
        raise ValueError(f"a label outside the {scores.shape[1]} classes")
    scores = scores.astype(np.float64)
    own = np.take_along_axis(scores, wanted[:, np.newaxis], axis=1)
    # Ties go to the lower class, as in argmax.
    lower = np.arange(scores.shape[1]) < wanted[:, np.newaxis]
    better = np.sum((scores > own) | ((scores == own) & lower), axis=1)
    top = 5
    in_top: Array = (better < top) & ~np.isnan(scores).any(axis=1)
    return in_top


def _difference(output: Array, labels: Array) -> Array:
    """Differences as float64 [samples, elements]."""
    if output.size != labels.size:
        raise ValueError(
            f"labels of shape {list(labels.shape)} for an output of shape {list(output.shape)}"
        )
    count = len(output)
    width = output.size // count if count else 0
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which is what it scores
        difference: Array = output.reshape(count, width).astype(np.float64) - labels.reshape(
            count, width
        ).astype(np.float64)
    return difference


def mae(output: Array, labels: Array) -> Array:
    """Mean absolute error of the sample's values."""
    return _row_mean(np.abs(_difference(output, labels)))


def mse(output: Array, labels: Array) -> Array:
    """Mean squared error of the sample's values."""
    with np.errstate(over="ignore"):
        return _row_mean(np.square(_difference(output, labels)))


def _row_mean(values: Array) -> Array:
    # A sample without elements has no error; numpy's mean of nothing is NaN with a warning.
    return values.mean(axis=1) if values.shape[1] else np.zeros(len(values))


def agreement(output: Array, reference: Array) -> Array:
    """1 where the best class is the reference's."""
    ours = picked(require_classes("agreement", output))
    theirs = picked(require_classes("agreement", reference))
    agree: Array = (ours == theirs) & (ours >= 0)
    return agree


def cosine(output: Array, reference: Array) -> Array:
    """Cosine similarity with the reference's output; see :func:`cosines`."""
    return cosines(*_compared(output, reference))


def sqnr(output: Array, reference: Array) -> Array:
    """Signal to quantization noise against the reference's output, in dB, within [0, MOST_DB].

    10 log10 of the reference's energy over the error's. Without an error MOST_DB; with NaN or
    infinity, or an error where the reference is all zero, 0.
    """
    ours, theirs = _compared(output, reference)
    largest = np.abs(theirs).max(axis=1, initial=0.0, keepdims=True)
    scale = np.where(np.isfinite(largest) & (largest > 0), largest, 1.0)
    with np.errstate(all="ignore"):  # squares of what is not finite, and logarithms of zero
        noise = np.square((ours - theirs) / scale).sum(axis=1)
        decibels = 10 * np.log10(np.square(theirs / scale).sum(axis=1) / noise)
    decibels = np.where(noise == 0, MOST_DB, np.nan_to_num(decibels, nan=0.0, neginf=0.0))
    clipped: Array = np.clip(decibels, 0.0, MOST_DB)
    return clipped


def _compared(output: Array, reference: Array) -> tuple[Array, Array]:
    """Both as float64 [samples, elements]; a mask's infinity in both is no error, so 0 in both."""
    if output.shape != reference.shape:
        raise ValueError(
            f"outputs of shape {list(output.shape)}, the reference's {list(reference.shape)}"
        )
    ours, theirs = rows_of(output), rows_of(reference)
    both_infinite = np.isinf(ours) & (ours == theirs)
    return np.where(both_infinite, 0.0, ours), np.where(both_infinite, 0.0, theirs)


def cosines(ours: Array, theirs: Array) -> Array:
    """Cosine similarity of each row pair: float64 [rows], within [-1, 1].

    Two zero rows are equal, so 1; a zero row is like no other row, so 0; a row with NaN or
    infinity is like nothing, so 0.
    """
    finite: Array = np.all(np.isfinite(ours) & np.isfinite(theirs), axis=1)
    ours = np.where(finite[:, np.newaxis], ours, 0.0)
    theirs = np.where(finite[:, np.newaxis], theirs, 0.0)
    # Scaled by the largest magnitude first: squares of very large values would overflow.
    largest = [np.abs(rows).max(axis=1, initial=0.0) for rows in (ours, theirs)]
    ours, theirs = (
        rows / np.where(scale > 0, scale, 1.0)[:, np.newaxis]
        for rows, scale in zip((ours, theirs), largest)
    )
    norms = np.sqrt((ours * ours).sum(axis=1) * (theirs * theirs).sum(axis=1))
    similar = (ours * theirs).sum(axis=1) / np.where(norms > 0, norms, 1.0)
    both_zero = (largest[0] == 0) & (largest[1] == 0)
    clipped: Array = np.where(both_zero, 1.0, np.clip(similar, -1.0, 1.0)) * finite
    return clipped
