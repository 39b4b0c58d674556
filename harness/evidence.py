"""What rounds of launches prove about pairs of candidates, at which look. Pure.

Launches come in rounds, and the evidence may be looked at more than once: after 3, 5, 8, 12 and 20
rounds. Looking spends error: each look has its own share of 5 % in all (an alpha-spending plan),
and what one look has decided stays decided. A fixed number of rounds is one look with all 5 %.

The number of candidates that the simultaneous intervals cover is fixed before the first look, and
does not shrink when some are dropped later, since what is dropped depends on the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from harness.stats import Interval, Verdict, geometric_interval, half_widths, verdict
from harness.types import Array

ALPHA = 0.05
MARGIN = math.log(1.02)
"""Differences of less than 2 % are ties whatever their sign."""


SURE = 0.999
"""A session in which equal engines differ so surely by more than half the margin is void."""

LEAST_CONTROLS = 3


@dataclass(frozen=True)
class Look:
    """One planned look: after how many rounds, and with what share of the error."""

    rounds: int
    alpha: float


SPENT = (Look(3, 0.005), Look(5, 0.0125), Look(8, 0.0125), Look(12, 0.01), Look(20, 0.01))
"""The shares sum up to 5 %."""


def plan_looks(fixed_rounds: int | None) -> tuple[Look, ...]:
    """Of a run under way: the spending plan, or one look at the end of a fixed number of rounds."""
    return SPENT if fixed_rounds is None else (Look(fixed_rounds, ALPHA),)


def final_looks(fixed_rounds: int | None, rounds: int) -> tuple[Look, ...]:
    """Of a run that was cut off after so many rounds: the last look spends all that is left.

    Valid because the budget or the user ended it, not its data.
    """
    if fixed_rounds is not None:
        return (Look(rounds, ALPHA),)
    before = tuple(look for look in SPENT if look.rounds < rounds)
    return (*before, Look(rounds, ALPHA - sum(look.alpha for look in before)))


@dataclass(frozen=True)
class _Seen:
    """One look's result: the candidates that were in all its rounds."""

    look: Look
    ids: tuple[str, ...]
    means: Array
    half_widths: Array

    def pair(self, ours: str, theirs: str) -> tuple[float, float]:
        """The difference and its half-width."""
        one, other = self.ids.index(ours), self.ids.index(theirs)
        difference = float(self.means[one] - self.means[other])
        return difference, float(self.half_widths[one, other])


@dataclass(frozen=True)
class Evidence:
    """The log times of candidates by round, and the plan of looks.

    logs: per candidate, per finished round, the launch's log time. numbers: of the finished rounds,
    in order. compared: how many candidates the intervals cover; at least those in ``logs``.
    control: the null control's log-ratio to its twin, per round.
    """

    logs: Mapping[str, Mapping[int, float]]
    numbers: tuple[int, ...]
    looks: tuple[Look, ...]
    compared: int
    margin: float = MARGIN
    control: tuple[float, ...] = field(default=())

    @cached_property
    def seen(self) -> tuple[_Seen, ...]:
        """The looks that the finished rounds allow."""
        return tuple(self._see(look) for look in self.looks if look.rounds <= len(self.numbers))

    @property
    def control_apart(self) -> Interval | None:
        """How far the null control was from its twin, if that is too far for equal engines.

        Its 99.9 % interval then lies outside of half the margin, on either side.
        """
        if len(self.control) < LEAST_CONTROLS:
            return None
        sure = geometric_interval(np.array(self.control), SURE)
        half = self.margin / 2
        if sure is None or (math.log(sure.low) <= half and math.log(sure.high) >= -half):
            return None
        return sure

    @property
    def rounds(self) -> int:
        """How many rounds were finished."""
        return len(self.numbers)

    def _see(self, look: Look) -> _Seen:
        numbers = self.numbers[: look.rounds]
        ids = self._in_all(numbers)
        table = np.array([[self.logs[name][n] for name in ids] for n in numbers])
        table = table.reshape(len(numbers), len(ids))
        widths = half_widths(table, 1 - look.alpha, max(self.compared, len(ids)))
        return _Seen(look, ids, table.mean(axis=0) if ids else np.empty(0), widths)

    @property
    def ids(self) -> tuple[str, ...]:
        """The candidates that were in every finished round."""
        return self._in_all(self.numbers)

    def _in_all(self, numbers: Sequence[int]) -> tuple[str, ...]:
        return tuple(
            name for name, values in self.logs.items() if all(n in values for n in numbers)
        )

    def difference(self, ours: str, theirs: str) -> float:
        """The log-ratio of two times over the rounds that both were in; NaN if there are none."""
        both = [n for n in self.numbers if n in self.logs.get(ours, {})]
        both = [n for n in both if n in self.logs.get(theirs, {})]
        if not both:
            return math.nan
        return float(np.mean([self.logs[ours][n] - self.logs[theirs][n] for n in both]))

    def verdict(self, ours: str, theirs: str) -> Verdict:
        """Ours against theirs: what the first look that could decide has decided."""
        if ours == theirs:
            return Verdict.TIED
        for seen in self.seen:
            found = self._verdict(seen, ours, theirs)
            if found is not Verdict.UNRESOLVED:
                return found
        return Verdict.UNRESOLVED

    def _verdict(self, seen: _Seen, ours: str, theirs: str) -> Verdict:
        if ours not in seen.ids or theirs not in seen.ids:
            return Verdict.UNRESOLVED
        return verdict(*seen.pair(ours, theirs), self.margin)

    def ratio(self, ours: str, theirs: str) -> Interval:
        """Their time over ours (how many times faster ours is), by the latest look that has both.

        Before any look has both: the estimate alone, with an unbounded interval.
        """
        if ours == theirs:
            return Interval(1.0, 1.0, 1.0)
        for seen in reversed(self.seen):
            if ours in seen.ids and theirs in seen.ids:
                difference, half_width = seen.pair(ours, theirs)
                return _interval(-difference, half_width)
        return _interval(-self.difference(ours, theirs), math.inf)


def _interval(log_ratio: float, half_width: float) -> Interval:
    if not math.isfinite(half_width):
        return Interval(math.exp(log_ratio), 0.0, math.inf)
    return Interval(
        math.exp(log_ratio), math.exp(log_ratio - half_width), math.exp(log_ratio + half_width)
    )
