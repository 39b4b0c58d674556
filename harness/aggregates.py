"""The value of a metric from its rows, for all samples or for many draws of them.

A row is what :meth:`harness.metrics.Metric.rows` keeps of a sample. Every value here is a function
of how often each sample counts, so that a draw with replacement is a vector of weights: what takes
long, such as sorting, is done once for all draws. Runs in the parent, which needs no alphabet and
no model for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from harness.detection import mean_average_precision
from harness.metrics import Array, parse

Options = Mapping[str, Any]
Values = Callable[[Array], Array]
"""Weights [draws, samples] -> values [draws], NaN where there is none."""

_AT_ONCE = 2_000_000
"""Weights that are looked at together: they bound the memory."""


def value_of(metric: str, rows: Array) -> float | None:
    """The metric's value for rows [samples, width]; None where they have none.

    metric: its name. That is the mean of the scores, but for the metrics of all samples together.
    None without samples, where a class that is needed doesn't occur, or where it isn't finite.
    """
    if not len(rows):
        return None
    value = float(_values(metric, rows)(np.ones((1, len(rows))))[0])
    return value if math.isfinite(value) else None


def weighted_values(metric: str, rows: Array, weights: Array) -> Array:
    """The values of many draws of rows [samples, width]: float64 [draws], NaN where there is none.

    weights: how often each sample counts, integers [draws, samples]. As :func:`value_of` of the
    rows repeated so often, but much faster.
    """
    values = _values(metric, rows)
    step = max(1, _AT_ONCE // max(1, len(rows)))
    parts = [
        values(weights[first : first + step].astype(np.float64))
        for first in range(0, len(weights), step)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def _values(metric: str, rows: Array) -> Values:
    make, options = _maker(metric)
    return make(np.asarray(rows, dtype=np.float64), options)


@lru_cache(maxsize=256)
def _maker(metric: str) -> tuple[Callable[[Array, Options], Values], Options]:
    makers: dict[str, Callable[[Array, Options], Values]] = {
        "rmse": _rmse,
        "f1": _f1,
        "auc": _auc,
        "spearman": _spearman,
        "iou": _iou,
        "map": lambda rows, _: mean_average_precision(rows),
    }
    base = metric.partition("@")[0].partition("(")[0].strip()
    return (makers[base], parse(metric).options) if base in makers else (_mean, {})


def _share(part: Array, whole: Array) -> Array:
    """Part / whole, NaN where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share: Array = np.where(whole > 0, part / whole, np.nan)
    return share


def _over_classes(values: Array) -> Array:
    """The mean over the classes that have a value, of [..., classes]; NaN where none has."""
    there = ~np.isnan(values)
    return _share(np.where(there, values, 0.0).sum(axis=-1), there.sum(axis=-1))


def _mean(rows: Array, _: Options) -> Values:
    return lambda weights: _share(weights @ rows[:, 0], weights.sum(axis=1))


def _rmse(rows: Array, options: Options) -> Values:
    mean = _mean(rows, options)
    return lambda weights: np.sqrt(mean(weights))


def _iou(rows: Array, _: Options) -> Values:
    """The mean over the classes that labels or outputs show anywhere (Everingham et al. 2010)."""

    def values(weights: Array) -> Array:
        common, either = np.split(weights @ rows, 2, axis=1)
        return _over_classes(_share(common, either))

    return values


def _f1(rows: Array, options: Options) -> Values:
    """2 TP / (2 TP + FP + FN), as scikit-learn's, of classes that labels or outputs show."""
    counted = _counts(rows) if options["threshold"] is None else _label_counts(rows)

    def values(weights: Array) -> Array:
        right, picked, wanted = counted(weights)
        if options["average"] == "micro":
            right, both = right.sum(axis=1), picked.sum(axis=1) + wanted.sum(axis=1)
            return _share(2 * right, both)
        each = _share(2 * right, picked + wanted)
        if options["average"] == "binary":
            place = options["positive"] if options["threshold"] is None else 0
            return each[:, place] if place < each.shape[1] else np.full(len(each), np.nan)
        return _over_classes(each)

    return values


def _counts(rows: Array) -> Callable[[Array], tuple[Array, Array, Array]]:
    """By class [draws, classes]: samples that are right, that are picked, that are labelled so."""
    picks, labels = rows.astype(np.int64).T
    classes = int(rows.max(initial=0)) + 1
    hit, chose = picks == labels, picks >= 0
    parts = [(labels[hit], hit), (picks[chose], chose), (labels, np.full(len(rows), True))]

    def counted(weights: Array) -> tuple[Array, Array, Array]:
        right, picked, wanted = (
            np.array([np.bincount(which, each[mask], classes) for each in weights])
            for which, mask in parts
        )
        return right, picked, wanted

    return counted


def _label_counts(rows: Array) -> Callable[[Array], tuple[Array, Array, Array]]:
    """The same of labels that each are on or off, coded 2 * label + prediction."""
    masks = [mask.astype(np.float64) for mask in (rows == 3, rows % 2 == 1, rows >= 2)]  # noqa: PLR2004

    def counted(weights: Array) -> tuple[Array, Array, Array]:
        right, picked, wanted = (weights @ mask for mask in masks)
        return right, picked, wanted

    return counted


def _auc(rows: Array, _: Options) -> Values:
    """The area under the ROC curve (Hanley, McNeil 1982): of one class, or one against the rest.

    The mean over the classes that some samples have and some haven't.
    """
    if rows.shape[1] == len(("score", "positive")):
        parts = [_ranked(rows[:, 0], rows[:, 1] > 0)]
    else:
        columns = range(rows.shape[1] - 1)
        parts = [_ranked(rows[:, each], rows[:, -1] == each) for each in columns]
    return lambda weights: _over_classes(np.stack([part(weights) for part in parts], axis=1))


def _ranked(scores: Array, positive: Array) -> Values:
    """The share of pairs of a positive and a negative sample in which the positive is higher."""
    order, start, stop = _order(scores)
    start, stop = start[positive], stop[positive]

    def values(weights: Array) -> Array:
        ours, others = weights[:, positive], np.where(positive, 0.0, weights)
        before = _running(others[:, order])
        # Ties count half.
        lower = (before[:, start] + before[:, stop]) / 2
        return _share((ours * lower).sum(axis=1), ours.sum(axis=1) * others.sum(axis=1))

    return values


def _order(values: Array) -> tuple[Array, Array, Array]:
    """The ascending order, and for each value where its ties start and stop in that order."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    new = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    starts = np.flatnonzero(new)
    group = np.empty(len(values), dtype=np.int64)
    group[order] = np.cumsum(new) - 1
    return order, starts[group], np.append(starts[1:], len(values))[group]


def _running(weights: Array) -> Array:
    """Sums of the weights before each place, and of all: [draws, samples + 1]."""
    sums = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def _spearman(rows: Array, _: Options) -> Values:
    """The correlation of ranks, ties at their mean rank (Spearman 1904)."""
    orders = [_order(column) for column in rows.T]
    if np.isnan(rows).any():
        return lambda weights: np.full(len(weights), np.nan)

    def values(weights: Array) -> Array:
        count = weights.sum(axis=1, keepdims=True)
        ours, theirs = (
            (before[:, start] + before[:, stop] - count) / 2
            for before, start, stop in (
                (_running(weights[:, order]), start, stop) for order, start, stop in orders
            )
        )
        product, own, other = (
            (weights * each).sum(axis=1) for each in (ours * theirs, ours**2, theirs**2)
        )
        return _share(product, np.sqrt(own * other))

    return values
