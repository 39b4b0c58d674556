"""The statistics of the decisions: small pure units, each with its source.

Times enter as natural logs, so that differences are ratios.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import optimize, stats

Array = np.ndarray[Any, Any]

CONFIDENCE = 0.95
ENOUGH = 2
"""Of anything whose spread is asked for: rounds, launches, candidates."""

EXACT_BELOW = 10
"""With fewer discordant pairs than this the exact binomial bound is used, else Tango's."""


class Verdict(StrEnum):
    """One candidate against another, by the objective."""

    FASTER = "FASTER"
    SLOWER = "SLOWER"
    TIED = "TIED"
    UNRESOLVED = "UNRESOLVED"


class Answer(StrEnum):
    """A candidate against a constraint."""

    MEETS = "MEETS"
    MISSES = "MISSES"
    UNRESOLVED = "UNRESOLVED"


@dataclass(frozen=True)
class Interval:
    """An estimate and its two-sided 95 % interval; unbounded where there is too little evidence."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval's width, relative to the value."""
        return (self.high - self.low) / 2 / abs(self.value) if self.value else math.inf


def geometric_interval(logs: Array, confidence: float = CONFIDENCE) -> Interval | None:
    """Student's t interval of the mean of logs [n], given back as exponentials; None for n = 0."""
    logs = np.asarray(logs, dtype=np.float64)
    if logs.size == 0:
        return None
    mean = float(logs.mean())
    half = _t_half_width(logs, confidence)
    high = math.exp(mean + half) if math.isfinite(half) else math.inf
    return Interval(math.exp(mean), math.exp(mean - half), high)


def _t_half_width(values: Array, confidence: float) -> float:
    if values.size < ENOUGH:
        return math.inf
    error = float(values.std(ddof=1)) / math.sqrt(values.size)
    return float(stats.t.ppf((1 + confidence) / 2, values.size - 1)) * error


@lru_cache(maxsize=256)
def _studentized_range(confidence: float, groups: int, freedom: int) -> float:
    return float(stats.studentized_range.ppf(confidence, groups, freedom))


def half_widths(logs: Array, confidence: float = CONFIDENCE, compared: int | None = None) -> Array:
    """Simultaneous half-widths [k, k] of the differences of column means of logs [rounds, k].

    Model: round effect + candidate effect + residual; Tukey's studentized range with
    (k - 1)(rounds - 1) degrees of freedom. Each candidate counts with its own residual variance
    where that is larger than the pooled one: with the pooled alone, one noisy candidate among
    quiet ones is called different too often (simulated: 16 to 27 % instead of 5 %; this way 2 to
    7 %, and 12 % wider where all are alike). compared: how many candidates the family has, where
    some are no longer in ``logs``. Infinite below two rounds or two candidates.
    """
    rounds, groups = logs.shape
    if rounds < ENOUGH or groups < ENOUGH:
        return np.full((groups, groups), math.inf)
    freedom = (groups - 1) * (rounds - 1)
    variances = residual_variances(logs)
    family = max(groups, compared or groups)
    scale = _studentized_range(confidence, family, freedom) / math.sqrt(rounds)
    widths: Array = scale * np.sqrt((variances[:, np.newaxis] + variances) / 2)
    return widths


def residual_variances(logs: Array) -> Array:
    """Each candidate's residual variance [k], and no less than the pooled one; logs [rounds, k].

    A candidate's own is solved from the residuals' expected squares, into which the round's mean
    carries a part of the others' noise. Two candidates share one: their residuals mirror each
    other.
    """
    rounds, groups = logs.shape
    residuals = logs - logs.mean(axis=1, keepdims=True) - logs.mean(axis=0) + logs.mean()
    squares = (residuals**2).sum(axis=0) / (rounds - 1)
    pooled = squares.sum() / (groups - 1)
    if groups == ENOUGH:
        return np.full(groups, pooled)
    total = squares.sum() / (1 - 1 / groups)
    own: Array = np.maximum((squares - total / groups**2) / (1 - 2 / groups), pooled)
    return own


def pair_half_width(deviation: float, rounds: int, confidence: float = CONFIDENCE) -> float:
    """The half-width that :func:`half_widths` will give two candidates after ``rounds``.

    deviation: the SD of a launch's residual.
    """
    if rounds < ENOUGH or not math.isfinite(deviation):
        return math.inf
    return _studentized_range(confidence, 2, rounds - 1) * deviation / math.sqrt(rounds)


def verdict(difference: float, half_width: float, margin: float) -> Verdict:
    """Judge a log-ratio (ours over theirs, of time) by its interval and the margin (a log-ratio).

    TIED: the whole interval lies within the margin. FASTER or SLOWER: it excludes 0 otherwise.
    """
    if abs(difference) + half_width <= margin:
        return Verdict.TIED
    if difference + half_width < 0:
        return Verdict.FASTER
    if difference - half_width > 0:
        return Verdict.SLOWER
    return Verdict.UNRESOLVED


def judge_limit(value: Interval, limit: float) -> Answer:
    """Whether a value is at most a limit, by its interval."""
    if value.high <= limit:
        return Answer.MEETS
    if value.low > limit:
        return Answer.MISSES
    return Answer.UNRESOLVED


@dataclass(frozen=True)
class Drop:
    """How much worse a candidate's metric is than the reference's on the same samples.

    Positive is worse. low and high are one-sided 95 % bounds each. losses and gains: samples that
    only the reference, or only the candidate, got right; None for metrics that are not right or
    wrong.
    """

    value: float
    low: float
    high: float
    samples: int
    losses: int | None = None
    gains: int | None = None

    def judge(self, limit: float) -> Answer:
        """Whether the drop is certified to be within the limit, or to exceed it."""
        if self.high <= limit:
            return Answer.MEETS
        return Answer.MISSES if self.low > limit else Answer.UNRESOLVED

    def more_samples(self, limit: float) -> int | None:
        """How many more samples would certify, if they went on like these; None: no number would.

        A projection, not a promise: the rates seen so far are taken for the truth.
        """
        if self.losses is None or self.gains is None or self.value >= limit > 0 or limit <= 0:
            return None
        rates = self.losses / self.samples, self.gains / self.samples
        low, high = self.samples, self.samples
        while _project(rates, high) > limit:
            low, high = high, high * 2
            if high > 10**8:
                return None
        while high - low > max(1, low // 200):
            middle = (low + high) // 2
            low, high = (low, middle) if _project(rates, middle) <= limit else (middle, high)
        return high - self.samples


def _project(rates: tuple[float, float], samples: int) -> float:
    losses, gains = (round(rate * samples) for rate in rates)
    return binary_drop(losses, gains, samples).high


def paired_drop(reference: Array, candidate: Array, *, higher_is_better: bool = True) -> Drop:
    """Compare per-sample scores [n] of one metric on the same samples.

    Scores of 0 and 1 are compared by discordant pairs, others by Student's t on their differences.
    While fewer than 10 samples differ, a t interval knows nothing of those to come; the bound is
    then Hoeffding's (1963, theorem 1) for the mean loss of scores within their range. Raises
    ValueError if the two aren't of one length, or empty.
    """
    if reference.shape != candidate.shape or reference.size == 0:
        raise ValueError(f"scores of {reference.size} and {candidate.size} samples")
    if _is_binary(reference) and _is_binary(candidate):
        losses = int(((reference == 1) & (candidate == 0)).sum())
        gains = int(((reference == 0) & (candidate == 1)).sum())
        if not higher_is_better:
            losses, gains = gains, losses
        return binary_drop(losses, gains, reference.size)
    worse = (reference - candidate) if higher_is_better else (candidate - reference)
    mean = float(worse.mean())
    if np.count_nonzero(worse) < EXACT_BELOW:
        most = _range(np.concatenate([reference, candidate]))
        high = most * bounded_mean_upper(float(np.maximum(worse, 0).mean()) / most, worse.size)
        low = -most * bounded_mean_upper(float(np.maximum(-worse, 0).mean()) / most, worse.size)
        return Drop(mean, low, high, worse.size)
    half = _t_half_width(worse, 2 * CONFIDENCE - 1)  # two-sided 90 % = one-sided 95 %
    return Drop(mean, mean - half, mean + half, worse.size)


def _range(scores: Array) -> float:
    """What a sample can lose at most: 1 for scores within 0 and 1, else the range seen."""
    if scores.min() >= 0 and scores.max() <= 1:
        return 1.0
    return float(np.ptp(scores)) or 1.0


def bounded_mean_upper(mean: float, samples: int, confidence: float = CONFIDENCE) -> float:
    """The upper bound of the mean of values within 0 and 1: samples x KL(mean, bound) = ln 1/alpha.

    With a mean of 0 it is Clopper and Pearson's for no event.
    """
    budget = math.log(1 / (1 - confidence)) / samples

    def excess(bound: float) -> float:
        kept = mean * math.log(mean / bound) if mean > 0 else 0.0
        lost = (1 - mean) * math.log((1 - mean) / (1 - bound)) if mean < 1 else 0.0
        return kept + lost - budget

    top = 1 - 1e-12
    if mean >= top or excess(top) < 0:
        return 1.0
    return float(optimize.brentq(excess, max(mean, 1e-12), top))


def _is_binary(scores: Array) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


def binary_drop(losses: int, gains: int, samples: int) -> Drop:
    """The drop from ``losses`` and ``gains`` among ``samples``, with one-sided 95 % bounds.

    The score interval for paired proportions (Tango 1998, Statistics in Medicine 17:891-908); with
    few discordant pairs the upper bound is that of P(loss), which no drop exceeds, and exact
    (Clopper and Pearson 1934): no loss in 299 samples certifies 1 %.
    """
    value = (losses - gains) / samples
    few = losses + gains < EXACT_BELOW
    high = _exact_upper(losses, samples) if few else _tango_upper(losses, gains, samples)
    low = -_tango_upper(gains, losses, samples)
    return Drop(value, low, high, samples, losses, gains)


def _exact_upper(events: int, samples: int) -> float:
    if events >= samples:
        return 1.0
    return float(stats.beta.ppf(CONFIDENCE, events + 1, samples - events))


def _tango_upper(losses: int, gains: int, samples: int) -> float:
    z = float(stats.norm.ppf(CONFIDENCE))

    def excess(delta: float) -> float:
        a = 2.0 * samples
        b = -losses - gains + (2 * samples - losses + gains) * delta
        c = -gains * delta * (1 - delta)
        nuisance = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        variance = samples * (2 * nuisance + delta * (1 - delta))
        return (losses - gains - samples * delta) + z * math.sqrt(max(0.0, variance))

    # At the estimate itself the equation has a root of no meaning where no, or every, pair differs.
    start = (losses - gains) / samples + 1e-12
    return float(optimize.brentq(excess, start, 1.0)) if excess(1.0) < 0 else 1.0
