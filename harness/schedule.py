"""Who is launched next, who is out, and when enough is known. Pure.

A candidate is dropped only when it can be neither on the Pareto front of what was asked for (the
objective and the limited quantities) nor the choice: it is certainly slower than a candidate that
is no worse in anything else that was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.evidence import SPENT, Evidence
from harness.stats import Verdict

SCREEN_RATIO = 1.65
"""Slower than the best by more than this in two launches: no later round will turn that round."""

SCREEN_FROM = 4
"""With fewer candidates the screen costs more launches than it saves."""

MOST_ROUNDS = SPENT[-1].rounds


@dataclass(frozen=True)
class Standing:
    """What is known of a candidate besides its time, each smaller is better; None: not asked for.

    possible: it may still be the choice (no constraint is missed for certain).
    """

    possible: bool
    drop: float | None = None
    memory_bytes: float | None = None
    size_bytes: float | None = None

    def no_worse_than(self, other: Standing) -> bool:
        """In everything that was asked for; a value that isn't known is worse than any."""
        pairs = (
            (self.drop, other.drop),
            (self.memory_bytes, other.memory_bytes),
            (self.size_bytes, other.size_bytes),
        )
        return all(
            (math.inf if mine is None else mine) <= (math.inf if theirs is None else theirs)
            for mine, theirs in pairs
        )


@dataclass(frozen=True)
class Dropped:
    """A candidate that is not launched again, because of which rival, and the evidence."""

    candidate: str
    rival: str
    reason: str


def suspects(times: Mapping[str, float], standings: Mapping[str, Standing]) -> list[str]:
    """After one screening launch each (log times): who may be out, if a second one confirms it."""
    if len(times) < SCREEN_FROM:
        return []
    best = best_of(times, standings)
    limit = times[best] + math.log(SCREEN_RATIO)
    return [
        name
        for name, time in times.items()
        if time > limit and standings[best].no_worse_than(standings[name])
    ]


def confirmed(
    first: Mapping[str, float], second: Mapping[str, float], suspected: Sequence[str], best: str
) -> list[Dropped]:
    """The suspects that were as slow again, against the same rival in the same round."""
    out = []
    for name in suspected:
        if name not in second or best not in second:
            continue
        ratios = [math.exp(times[name] - times[best]) for times in (first, second)]
        if min(ratios) > SCREEN_RATIO:
            reason = f"{ratios[0]:.2g} and {ratios[1]:.2g} times slower than {best} in two launches"
            out.append(Dropped(name, best, reason))
    return out


def best_of(times: Mapping[str, float], standings: Mapping[str, Standing]) -> str:
    """The fastest that may be the choice; the fastest of all when none may."""
    possible = [name for name in times if standings[name].possible] or list(times)
    return min(possible, key=lambda name: times[name])


def hopeless(
    evidence: Evidence, standings: Mapping[str, Standing], keep: frozenset[str]
) -> list[Dropped]:
    """Who is certainly slower than a rival that is no worse in anything else that was asked for.

    keep: candidates that stay whatever their speed (the baseline).
    """
    means = {name: float(sum(evidence.logs[name].values())) for name in evidence.ids}
    counts = {name: len(evidence.logs[name]) for name in evidence.ids}
    order = sorted(evidence.ids, key=lambda name: means[name] / counts[name])
    out = []
    for name in order:
        if name in keep:
            continue
        for rival in order:
            slower = evidence.verdict(name, rival) is Verdict.SLOWER
            stronger = standings[rival].possible or not standings[name].possible
            if slower and stronger and standings[rival].no_worse_than(standings[name]):
                ratio = evidence.ratio(rival, name)
                reason = (
                    f"{rival} is {ratio.value:.3g} times faster (95 % {ratio.low:.3g} to"
                    f" {ratio.high:.3g}) and no worse in anything asked for"
                )
                out.append(Dropped(name, rival, reason))
                break
    return out


def outdone(
    evidence: Evidence, standings: Mapping[str, Standing], keep: frozenset[str]
) -> frozenset[str]:
    """Who is certainly slower than the best: more launches would tell nothing about the choice.

    They aren't out: they may be better in something else.
    """
    times = _times(evidence)
    if not evidence.seen or not times:
        return frozenset()
    best = best_of(times, standings)
    if not standings[best].possible:
        return frozenset()
    slower = {name for name in times if evidence.verdict(name, best) is Verdict.SLOWER}
    return frozenset(slower - keep)


def _times(evidence: Evidence) -> dict[str, float]:
    """The mean log time of those that were in every round."""
    return {
        name: sum(values.values()) / len(values)
        for name, values in evidence.logs.items()
        if name in evidence.ids
    }


def settled(evidence: Evidence, standings: Mapping[str, Standing]) -> bool:
    """Whether the choice is known: every possible rival is told apart from the best, or tied."""
    times = _times(evidence)
    if not evidence.seen or not times:
        return False
    best = best_of(times, standings)
    rivals = [name for name in times if standings[name].possible]
    return all(evidence.verdict(name, best) is not Verdict.UNRESOLVED for name in rivals)
