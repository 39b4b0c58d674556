"""A sequential test of an accuracy drop: it may be looked at after every sample.

Whoever looks at a fixed-size test again and again, and stops when it says yes, is wrong far more
often than it says. Here a gambler bets against the hypothesis with money that can't grow under it:
by Ville's inequality (1939) it ever grows 1/alpha-fold with probability alpha at most, however
often one looks. The bets are those of Waudby-Smith and Ramdas (2024, JRSS-B 86:1-27), a mixture
over a fixed grid. Imported by workers: the standard library of Python 3.9 and numpy only.
"""

from __future__ import annotations

import math
from typing import Optional

import numpy as np

from harness.types import Array

REFUSAL_ALPHA = 0.005
CERTIFICATE_ALPHA = 0.05

COSINE_SCALE = 2.0
"""A cosine can fall from 1 to -1, whatever was seen."""

_BETS = 0.99 * 0.5 ** np.arange(6.0)
"""Parts of the most that may be bet. All of it: one loss of the whole scale would end the game."""


class Watch:
    """Whether the mean drop is above, or below, a limit; asked at any time, of any metric's scores.

    The samples must come in random order, from the population that the claim is about. ``scale``
    is how much better or worse one sample can get at most: 1 for scores within 0 and 1. Nothing
    can be said of the mean of unbounded differences (Bahadur and Savage 1956), so without a scale
    neither claim is ever made. A claim needs one side of it alone: :attr:`refused` that no sample
    gets better by more (worse ones count as the scale), :attr:`certified` that none gets worse by
    more (better ones count as the scale). A sample that breaks this withdraws the claim for good;
    a difference that is no number withdraws both. So for errors, which can't fall below 0, the
    largest score of the reference is scale enough for a refusal.
    """

    def __init__(
        self, limit: float, higher_is_better: bool = True, *, scale: Optional[float]
    ) -> None:
        """limit: of the mean drop, positive is worse. Raises ValueError for no positive scale."""
        if scale is not None and not scale > 0:
            raise ValueError(f"a scale of {scale}; how much a sample can differ is more than 0")
        self._limit = limit
        self._sign = 1.0 if higher_is_better else -1.0
        self._scale = scale
        self._above = _Wealth(_most(scale, limit))
        self._below = _Wealth(_most(scale, -limit))
        self.samples = 0

    def add(self, reference_scores: Array, scores: Array) -> None:
        """The next samples: the reference's and the candidate's scores, each [n].

        Raises ValueError if the two aren't of one length.
        """
        ours, theirs = np.asarray(scores, np.float64), np.asarray(reference_scores, np.float64)
        if ours.ndim != 1 or ours.shape != theirs.shape:
            raise ValueError(f"scores of shape {ours.shape}, the reference's {theirs.shape}")
        self.samples += len(ours)
        if self._scale is None or not len(ours):
            return
        with np.errstate(invalid="ignore"):  # inf - inf is no number, which withdraws the claims
            worse = self._sign * (theirs - ours)
        kept = np.clip(worse, -self._scale, self._scale)
        self._above.add(kept - self._limit, sound=bool((worse >= -self._scale).all()))
        self._below.add(self._limit - kept, sound=bool((worse <= self._scale).all()))

    @property
    def refused(self) -> bool:
        """The drop exceeds the limit: wrong in 0.5 % of all runs at most, however often asked."""
        return self._above.most >= -math.log(REFUSAL_ALPHA)

    @property
    def certified(self) -> bool:
        """The drop is below the limit: wrong in 5 % of all runs at most, however often asked."""
        return self._below.most >= -math.log(CERTIFICATE_ALPHA)


def _most(scale: Optional[float], limit: float) -> float:
    """What bets are parts of: the largest loss of one; half of the scale caps them."""
    scale = 1.0 if scale is None else scale
    return max(scale + limit, scale / 2)


class _Wealth:
    """The mixture's money in logs, betting that values of a mean of 0 or less are larger.

    most: the largest it has been after any sample; -inf once a value broke the assumption.
    """

    def __init__(self, largest_loss: float) -> None:
        self._bets = _BETS / largest_loss
        self._logs = np.zeros(len(_BETS))
        self.most = 0.0

    def add(self, values: Array, *, sound: bool) -> None:
        if not sound or self.most == -math.inf:
            self.most = -math.inf
            return
        walk = self._logs + np.log1p(np.outer(values, self._bets)).cumsum(axis=0)
        self._logs = walk[-1]
        mixed = np.logaddexp.reduce(walk, axis=1) - math.log(len(_BETS))
        self.most = max(self.most, float(mixed.max()))


def scale_of(theirs: Array, *, higher_is_better: bool) -> Optional[float]:
    """How much a sample's score can change, as far as the reference's scores tell; None: unknown.

    Scores within 0 and 1 are taken to stay there; an error of 0 or more can shrink by no more than
    there is. A score that breaks this is seen, and nothing is concluded then.
    """
    if not theirs.size or not np.isfinite(theirs).all() or theirs.min() < 0:
        return None
    if theirs.max() <= 1:
        return 1.0
    return None if higher_is_better else float(theirs.max())


def shuffled(count: int) -> Array:
    """An order of so many samples that has nothing to do with theirs; always the same."""
    return np.random.default_rng(count).permutation(count)
