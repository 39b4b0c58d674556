"""How much worse one candidate's scores are than another's, whatever the metric. Pure.

Brings together what a metric's rows mean (:mod:`harness.aggregates`) and how sure one can be of a
difference (:mod:`harness.certificates`).
"""

from __future__ import annotations

from functools import partial

from harness.aggregates import value_of, weighted_values
from harness.certificates import Array, Drop, anytime_drop, paired_drop
from harness.evalues import scale_of
from harness.metrics import is_whole


def drop_between(
    metric: str,
    theirs: Array,
    ours: Array,
    *,
    higher_is_better: bool,
    peeked: bool = False,
) -> Drop | None:
    """How much worse ``ours`` are than ``theirs``, rows [samples, width] of the same samples.

    ours may hold the first samples only. peeked: the pass could end once it was decided, so that
    the bounds must hold at any time; metrics that are no mean are never decided early. None where
    the rows don't belong together, or there are none.
    """
    first = theirs[: len(ours)]
    if not len(ours) or first.shape != ours.shape:
        return None
    if is_whole(metric):
        return paired_drop(
            first,
            ours,
            higher_is_better=higher_is_better,
            value=partial(value_of, metric),
            values=partial(weighted_values, metric),
        )
    if peeked:
        scale = scale_of(theirs[:, 0], higher_is_better=higher_is_better)
        if scale is not None:
            return anytime_drop(first[:, 0], ours[:, 0], scale, higher_is_better=higher_is_better)
    return paired_drop(first[:, 0], ours[:, 0], higher_is_better=higher_is_better)
