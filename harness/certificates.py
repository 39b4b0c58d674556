"""Accuracy certificates: how much worse a candidate is than the reference, and how sure. Pure.

Both are scored on the same samples. Wherever the true drop lies, a bound is on the wrong side of it
in 5 % of all validation sets at most. 0.5 % of a refusal's 5 % are left to the sequential test of
:mod:`harness.evalues`: a candidate may be refused by either. docs/validation.md has the figures,
and what else was tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from harness.datasets import stage_ends
from harness.evalues import REFUSAL_ALPHA, Watch, shuffled
from harness.stats import Answer
from harness.types import Array

Value = Callable[[Array], "float | None"]
Values = Callable[[Array, Array], Array]
"""(rows [n, width], weights [draws, n]) -> the metric of each draw."""

CERTIFIED_ALPHA = 0.05
REFUSED_ALPHA = 0.05 - REFUSAL_ALPHA

FEW = 10
"""While fewer samples differ than this, their size says nothing of the size of those to come."""

NEXT_TO_MEAN = 0.1
"""Standard deviations within which the saddlepoint formula divides nothing by nothing."""

EXACT = 1e-9
"""How near a bound is found that is searched for."""

MOST = 10**7
"""More samples than anyone has: a projection ends here."""

GROUPS = 500
"""Parts that a whole metric is recomputed without: twice as many calls, and two."""


@dataclass(frozen=True)
class Drop:
    """How much worse a candidate's metric is than the reference's on the same samples.

    Positive is worse. low and high are one-sided bounds, of 95.5 and 95 %. losses and gains:
    samples that only the reference, or only the candidate, got right; None for metrics that are not
    right or wrong. spread: the standard deviation of one sample's part in the drop, where known.
    """

    value: float
    low: float
    high: float
    samples: int
    losses: int | None = None
    gains: int | None = None
    spread: float | None = None

    def judge(self, limit: float) -> Answer:
        """Whether the drop is certified to be within the limit, or to exceed it."""
        if self.high <= limit:
            return Answer.MEETS
        return Answer.MISSES if self.low > limit else Answer.UNRESOLVED

    def more_samples(self, limit: float) -> int | None:
        """How many more samples would certify, if they went on like these; None: no number would.

        A projection, not a promise: the rates and the spread seen so far are taken for the truth.
        """
        if self.high <= limit:
            return 0
        if not self.value < limit or limit <= 0:
            return None
        if self.losses is not None and self.gains is not None:
            total = _enough(self.losses / self.samples, self.gains / self.samples, limit, self)
        else:
            total = self._enough_of_spread(limit)
        return None if total is None or total > MOST else max(1, total - self.samples)

    def _enough_of_spread(self, limit: float) -> int | None:
        """The bound's distance is spread x z / sqrt(n) + rest / n: solved for n."""
        if self.spread is None or not math.isfinite(self.high):
            return None
        spread = self.spread * float(stats.norm.isf(CERTIFIED_ALPHA))
        rest = (self.high - self.value) * self.samples - spread * math.sqrt(self.samples)
        room, rest = limit - self.value, max(rest, 0.0)
        root = (spread + math.sqrt(spread * spread + 4 * rest * room)) / (2 * room)
        return math.ceil(min(root * root, 2.0 * MOST))


def _enough(loss: float, gain: float, limit: float, seen: Drop) -> int | None:
    def high(samples: int) -> float:
        losses, gains = round(loss * samples), round(gain * samples)
        return _binary_upper(losses, gains, samples, CERTIFIED_ALPHA)

    low, enough = seen.samples, seen.samples
    while high(enough) > limit:
        low, enough = enough, enough * 2
        if enough > MOST:
            return None
    while enough - low > max(1, low // 200):
        middle = (low + enough) // 2
        low, enough = (low, middle) if high(middle) <= limit else (middle, enough)
    return enough


def paired_drop(
    reference: Array,
    candidate: Array,
    *,
    higher_is_better: bool = True,
    scale: float | None = None,
    value: Value | None = None,
    values: Values | None = None,
) -> Drop:
    """Compare one metric on the same samples: scores [n], or rows [n, width] of a whole metric.

    Scores of 0 and 1 are compared by discordant pairs (:func:`binary_drop`), others by
    :func:`mean_drop`, which says what ``scale`` is: how much one sample can differ at most.
    value: a metric that is no mean (F1, AUC, mAP), of all rows; values: the same of many weighted
    draws at once, where that is quicker; see :func:`metric_drop`. Raises ValueError if the two
    aren't of one shape, or empty.
    """
    if reference.shape != candidate.shape or reference.size == 0:
        raise ValueError(f"scores of {len(reference)} and {len(candidate)} samples")
    better, worse = (candidate, reference) if higher_is_better else (reference, candidate)
    if value is not None:
        return metric_drop(worse, better, value, values)
    if _is_binary(reference) and _is_binary(candidate):
        losses, gains = int((worse > better).sum()), int((worse < better).sum())
        return binary_drop(losses, gains, reference.size)
    if scale is None and higher_is_better and _is_share(reference) and _is_share(candidate):
        scale = 1.0
    spread = float(np.ptp(np.concatenate([reference, candidate]))) or 1.0
    return mean_drop(worse - better, scale, spread)


def _is_binary(scores: Array) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


def _is_share(scores: Array) -> bool:
    return bool(scores.min() >= 0 and scores.max() <= 1)


def anytime_drop(
    reference: Array, candidate: Array, scale: float, *, higher_is_better: bool = True
) -> Drop:
    """As :func:`paired_drop` of scores, with bounds that hold however often they were looked at.

    They are the limits at which :class:`harness.evalues.Watch` would have refused, or certified.
    """
    order = _as_looked_at(len(reference))
    theirs, ours = reference[order], candidate[order]
    value = float((theirs - ours).mean()) * (1.0 if higher_is_better else -1.0)

    def says(limit: float, answer: str) -> bool:
        watch = Watch(limit, higher_is_better, scale=scale)
        watch.add(theirs, ours)
        return bool(getattr(watch, answer))

    low = _edge(lambda limit: says(limit, "refused"), -scale, value)
    high = _edge(lambda limit: says(limit, "certified"), scale, value)
    spread = float((theirs - ours).std())
    return Drop(value, low, high, len(reference), spread=spread)


def _as_looked_at(samples: int) -> Array:
    """The order in which a pass's samples were looked at: shuffled within each stage."""
    ends = [end for end in stage_ends(samples) if end < samples]
    starts = [0, *ends]
    parts = [a + shuffled(b - a) for a, b in zip(starts, [*ends, samples], strict=True)]
    return np.concatenate(parts)


def _edge(holds: Callable[[float], bool], far: float, near: float) -> float:
    """The limit nearest to ``near`` at which it holds; ``far`` if at none."""
    if not holds(far):
        return far
    while abs(far - near) > EXACT:
        middle = (far + near) / 2
        far, near = (middle, near) if holds(middle) else (far, middle)
    return far


# -- right or wrong --------------------------------------------------------------------------------


def binary_drop(losses: int, gains: int, samples: int) -> Drop:
    """The drop from ``losses`` and ``gains`` among ``samples``.

    A drop is rejected where losses - gains as low as these have a probability of 5 %, at the
    probability of a gain that is most likely under that drop. So the sum over all outcomes is
    exact, but for the estimate (Storer and Kim 1990, JASA 85:146-155). Without gains the bound is
    Clopper and Pearson's (1934): 0, 1, 2, 3 disagreements with the reference certify 1 % with 299,
    473, 628, 773 samples, with no labels at all. Tango's score interval (1998) is shorter where
    losses are rare, and wrong in up to 8 %.
    """
    low = -_binary_upper(gains, losses, samples, REFUSED_ALPHA)
    high = _binary_upper(losses, gains, samples, CERTIFIED_ALPHA)
    return Drop((losses - gains) / samples, low, high, samples, losses, gains)


def _binary_upper(losses: int, gains: int, samples: int, alpha: float) -> float:
    value = (losses - gains) / samples

    def excess(drop: float) -> float:
        return (
            _at_most(losses - gains, _gain_rate(losses, gains, samples, drop), drop, samples)
            - alpha
        )

    top = 1 - 1e-9
    if value >= top or excess(top) >= 0:
        return 1.0
    return float(optimize.brentq(excess, value, top, xtol=1e-9))


def _gain_rate(losses: int, gains: int, samples: int, drop: float) -> float:
    """The most likely P(gain) where P(loss) is more by ``drop`` (Tango 1998, Stat. Med. 17:891)."""
    a = 2.0 * samples
    b = -losses - gains + (2 * samples - losses + gains) * drop
    c = -gains * drop * (1 - drop)
    rate = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    return min(max(rate, 0.0, -drop), (1 - drop) / 2)


def _at_most(difference: int, gain: float, drop: float, samples: int) -> float:
    """P(losses - gains <= difference), summed over the losses."""
    loss = gain + drop
    spread = 7 * math.sqrt(samples * loss * (1 - loss)) + 20
    first = max(0, math.floor(samples * loss - spread))
    losses = np.arange(first, min(samples, math.ceil(samples * loss + spread)) + 1)
    rest = samples - losses
    enough_gains = stats.binom.sf(losses - difference - 1, rest, min(1.0, gain / (1 - loss)))
    return float(stats.binom.pmf(losses, samples, loss) @ enough_gains)


# -- means -----------------------------------------------------------------------------------------


def mean_drop(worse: Array, scale: float | None, spread: float) -> Drop:
    """The mean of differences [n] of scores, positive is worse.

    Rare large losses are what certificates fall for: Student's t knows nothing of those that
    aren't seen yet (6 to 58 % false certificates), nor do corrections for skewness and bootstraps.
    So one more sample is assumed, the worst possible (:func:`mean_upper`): one that loses
    ``scale``. Without a scale, twice the largest difference seen, and while fewer than 10 samples
    differ no less than ``spread``, the range of the scores. A refusal assumes one that gains as
    much as the largest difference. Differences that are no numbers bound nothing.
    """
    if not np.isfinite(worse).all():
        return Drop(math.nan, math.nan, math.nan, worse.size)
    largest = float(np.abs(worse).max())
    worst = scale if scale is not None else 2 * largest
    if scale is None and np.count_nonzero(worse) < FEW:
        worst = max(worst, spread)
    return _bounded(worse, worst, largest or worst, worse.size)


def _bounded(worse: Array, worst: float, best: float, samples: int) -> Drop:
    high = mean_upper(worse, worst, CERTIFIED_ALPHA)
    low = -mean_upper(-worse, best, REFUSED_ALPHA)
    spread = float(worse.std()) * math.sqrt(samples / worse.size)
    return Drop(float(worse.mean()), low, high, samples, spread=spread)


def mean_upper(values: Array, worst: float, alpha: float) -> float:
    """An upper bound of the mean of values [n] that are no larger than ``worst``.

    Gaffke's (2005; Learned-Miller and Thomas 2019, arXiv:1905.06208): the quantile of the mean of
    the values and ``worst``, weighted by Dirichlet(1, ..., 1). For values of 0 and 1 it is Clopper
    and Pearson's; for many values of like size it comes to Student's t. The quantile by Lugannani
    and Rice's saddlepoint, where the exponent is the logarithm of what the best bet would have won.
    """
    points = np.append(values, max(worst, float(values.max())))
    highest, span = float(points.max()), float(np.ptp(points))
    if span == 0:
        return highest
    gaps = (highest - points) / span

    def bound(log_distance: float) -> tuple[float, float]:
        """The bound's gap to the highest point, and its tail probability."""
        distance = math.exp(log_distance)
        away = distance + gaps
        gap = float((gaps / away).sum() / (1 / away).sum())
        root = math.sqrt(max(0.0, 2 * float(np.log(away / (distance + gap)).sum())))
        slope = math.sqrt(float((((gap - gaps) / away) ** 2).sum()))
        if root < NEXT_TO_MEAN:
            return gap, 0.5
        tail = stats.norm.sf(root) + stats.norm.pdf(root) * (1 / slope - 1 / root)
        return gap, float(tail)

    found = optimize.brentq(lambda x: bound(x)[1] - alpha, -60.0, 60.0, xtol=1e-6)
    return highest - span * bound(float(found))[0]


# -- metrics that are no means ---------------------------------------------------------------------


def metric_drop(better: Array, worse: Array, value: Value, values: Values | None = None) -> Drop:
    """The drop value(better) - value(worse) of a metric of all rows [n, width], by the jackknife.

    The metric is computed again without each of up to 500 random groups of samples (Tukey 1958).
    What a group adds to the drop, its pseudo-value, is then bounded as the scores of
    :func:`mean_drop` are. While fewer than 10 groups differ, one sample is assumed to count for as
    much as any does in either metric, and no less than 1. Without a value, or where a group can't
    be spared, nothing is bounded.
    """
    samples = len(better)
    groups = np.array_split(np.random.default_rng(0).permutation(samples), min(GROUPS, samples))
    size = samples / len(groups)
    theirs, ours = (_pseudo_values(rows, groups, value, values) for rows in (better, worse))
    differences = theirs - ours
    if not np.isfinite(differences).all():
        return Drop(math.nan, math.nan, math.nan, samples)
    differences[np.abs(differences) < 1e-9 * np.abs(theirs).max()] = 0.0  # of rounding
    largest = float(np.abs(differences).max())
    worst = 2 * largest
    if np.count_nonzero(differences) < FEW:
        worst = max(worst, max(1.0, float(np.ptp(np.concatenate([ours, theirs])))) / size)
    return _bounded(differences, worst, largest or worst, samples)


def _pseudo_values(rows: Array, groups: list[Array], value: Value, values: Values | None) -> Array:
    """[groups]: their mean is the metric, less its bias of order 1/n; NaN where it has no value."""
    weights = np.ones((len(groups) + 1, len(rows)), dtype=np.int64)
    for row, group in zip(weights, groups, strict=False):
        row[group] = 0
    if values is not None:
        found = np.asarray(values(rows, weights), dtype=np.float64)
    else:
        found = np.array([value(rows[row > 0]) for row in weights], dtype=np.float64)
    pseudo: Array = len(groups) * found[-1] - (len(groups) - 1) * found[:-1]
    return pseudo
