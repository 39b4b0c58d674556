"""Whether two sets of outputs are those of one model.

Imported by workers: the standard library of Python 3.9 and numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.types import Array


def difference(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> float:
    """The largest of any output of theirs, relative to its largest value.

    An infinity or NaN in the same place of both is no difference; one in a single place, another
    shape, or an output that isn't there is an infinite one.
    """
    return max((_of_one(ours.get(name), value) for name, value in theirs.items()), default=0.0)


def _of_one(ours: object, theirs: Array) -> float:
    if not isinstance(ours, (np.ndarray, np.generic)) or ours.shape != theirs.shape:
        return float("inf")
    if theirs.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(ours, theirs) else float("inf")
    got, want = np.asarray(ours).astype(np.float64), theirs.astype(np.float64)
    odd = ~(np.isfinite(got) & np.isfinite(want))
    if not np.array_equal(got[odd], want[odd], equal_nan=True):
        return float("inf")
    scale = float(np.abs(want[~odd]).max(initial=0.0)) or 1.0
    return float(np.abs(got[~odd] - want[~odd]).max(initial=0.0)) / scale
