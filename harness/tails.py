"""p99 of the finalists: claimed with enough evidence, else withheld with how much more it takes.

Processes that take turns disturb each other's tails, so these come from launches that had the host
to themselves. The number of iterations is MLPerf LoadGen's early-stopping bound for a 99th
percentile at 99 % confidence, which assumes that iterations are independent; the spread between
launches, which doesn't, gives the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from harness.noise import Tier, tier
from harness.stats import Interval, geometric_interval
from harness.types import Array

ENOUGH_ITERATIONS = 662
ENOUGH_LAUNCHES = 5
PERCENTILE = 0.99
CONFIDENCE = 0.99


@dataclass(frozen=True)
class Tail:
    """A candidate's p99, host memory to host memory, alone on the host.

    p99_ns: over the launches. most_ns: what the true p99 doesn't exceed at 99 % confidence if
    iterations are independent. missing: how many more iterations a claim takes. tier: of the
    launches' noise, None where the host doesn't tell; a tail can be claimed on a green host only.
    """

    p99_ns: Interval | None
    most_ns: float | None
    iterations: int
    launches: int
    missing: int
    tier: Tier | None

    @property
    def claimed(self) -> bool:
        """Whether the value holds for this machine, not just for these moments on it."""
        return self.p99_ns is not None and not self.missing and self.tier is Tier.GREEN


def tail(
    launches: Sequence[Array],
    noise: tuple[float | None, float | None, float | None] = (None, None, None),
    *,
    throttled: bool = False,
) -> Tail:
    """From each launch's durations [iterations] in ns.

    noise: of these launches, as :func:`harness.noise.tier` takes it (run-delay, the part of the
    iterations that were preempted, steal). throttled: the processor was, for heat.
    """
    known = [each for each in launches if each.size]
    together = np.concatenate(known) if known else np.empty(0)
    enough = len(known) >= ENOUGH_LAUNCHES
    logs = [math.log(np.quantile(each, PERCENTILE, method="higher")) for each in known]
    missing = max(0, ENOUGH_ITERATIONS - together.size)
    if not enough and not missing:
        missing = together.size // max(1, len(known)) * (ENOUGH_LAUNCHES - len(known))
    return Tail(
        p99_ns=geometric_interval(np.array(logs)) if enough and not missing else None,
        most_ns=upper_bound(together),
        iterations=together.size,
        launches=len(known),
        missing=missing,
        tier=_tier(noise, throttled=throttled),
    )


def _tier(noise: tuple[float | None, ...], *, throttled: bool) -> Tier | None:
    if throttled:
        return Tier.RED
    known = [each for each in noise[:2] if each is not None]
    return tier(*noise) if known else None


def upper_bound(durations: Array) -> float | None:
    """The order statistic that the p99 doesn't exceed at 99 % confidence; None: too few.

    Of n independent values, the number above the p99 is binomial(n, 1 %); the bound is the value
    that has so many above it that fewer would be a surprise at 1 %.
    """
    above = int(stats.binom.ppf(1 - CONFIDENCE, durations.size, 1 - PERCENTILE))
    while above >= 0 and stats.binom.cdf(above, durations.size, 1 - PERCENTILE) > 1 - CONFIDENCE:
        above -= 1
    if above < 0:
        return None
    return float(np.sort(durations)[-1 - above])
