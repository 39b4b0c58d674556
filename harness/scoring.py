"""How much worse one candidate's scores are than another's, whatever the metric. Pure.

Brings together what a metric's rows mean (:mod:`harness.aggregates`) and how sure one can be of a
difference (:mod:`harness.certificates`).
"""

from __future__ import annotations

import zlib
from functools import lru_cache, partial

import numpy as np

from harness.aggregates import value_of, weighted_values
from harness.certificates import Drop, anytime_drop, paired_drop
from harness.evalues import COSINE_SCALE, scale_of
from harness.metrics import is_whole
from harness.types import Array


class _Rows:
    """Rows that are equal by what they hold, as a key of what was computed of them."""

    def __init__(self, rows: Array) -> None:
        self.rows = np.ascontiguousarray(rows)
        self._key = (self.rows.shape, zlib.crc32(self.rows.tobytes()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Rows) or self._key != other._key:
            return False
        return np.array_equal(self.rows, other.rows, equal_nan=True)

    def __hash__(self) -> int:
        return hash(self._key)


@lru_cache(maxsize=64)
def _whole_drop(metric: str, theirs: _Rows, ours: _Rows, *, higher_is_better: bool) -> Drop:
    """Takes seconds for many samples, and is asked for at every look at a run's records."""
    return paired_drop(
        theirs.rows,
        ours.rows,
        higher_is_better=higher_is_better,
        value=partial(value_of, metric),
        values=partial(weighted_values, metric),
    )


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
        rows = _Rows(first), _Rows(ours)
        return _whole_drop(metric, *rows, higher_is_better=higher_is_better)
    reference, candidate = first[:, 0], ours[:, 0]
    own = COSINE_SCALE if metric.partition("@")[0] == "cosine" else None
    scale = own or scale_of(theirs[:, 0], higher_is_better=higher_is_better)
    if peeked and scale is not None:
        return anytime_drop(reference, candidate, scale, higher_is_better=higher_is_better)
    return paired_drop(reference, candidate, higher_is_better=higher_is_better, scale=own)
