"""How near outputs are to the reference's, whatever the metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

from harness.metrics.outputs import Outputs, class_scores, rows_of
from harness.metrics.scores import agreement, cosines
from harness.types import Array


@dataclass(frozen=True)
class Comparison:
    """How near outputs are to the reference's on the same samples.

    Over all floating outputs of a sample, concatenated (all numeric ones where none is floating).
    broken: samples with a NaN or an infinity that the reference hasn't in the same place; their
    cosine is 0. cosine_mean, cosine_min: over the samples. sqnr_db: 10 log10 of the reference's
    energy over the error's, all samples together; None where there is no error to divide by, no
    signal, or a broken sample. max_abs_error: None where a sample is broken. top1: the part of
    the samples whose best class is the same, by the first output that looks like class scores;
    None where none does. With no samples everything is None.
    """

    samples: int
    broken: int
    cosine_mean: Optional[float]
    cosine_min: Optional[float]
    sqnr_db: Optional[float]
    max_abs_error: Optional[float]
    top1: Optional[float]


class Comparer:
    """Accumulates a :class:`Comparison` over batches.

    Compared are the outputs that both have, in one shape: how many boxes a detector finds depends
    on the data. Samples without any such output are left out.
    """

    def __init__(self) -> None:
        self._samples = 0
        self._broken = 0
        self._cosine_sum = 0.0
        self._cosine_min = np.inf
        self._signal = 0.0
        self._noise = 0.0
        self._largest = 0.0
        self._judged = 0
        self._agreed = 0

    def add(self, outputs: Outputs, reference: Outputs) -> None:
        """Compare one batch of outputs, each [samples, ...]."""
        reference = _alike(reference, outputs)
        names = _compared(reference)
        if not names or not len(reference[names[0]]):
            return
        ours = np.concatenate([rows_of(np.asarray(outputs[name])) for name in names], axis=1)
        theirs = np.concatenate([rows_of(np.asarray(reference[name])) for name in names], axis=1)
        # A mask's -inf in both is no error, and has no place in a product.
        same_infinity = np.isinf(theirs) & (ours == theirs)
        ours, theirs = np.where(same_infinity, 0.0, ours), np.where(same_infinity, 0.0, theirs)
        sound: Array = np.all(np.isfinite(ours) & np.isfinite(theirs), axis=1)
        similar = cosines(ours, theirs)
        self._samples += len(ours)
        self._broken += int((~sound).sum())
        self._cosine_sum += float(similar.sum())
        self._cosine_min = min(self._cosine_min, float(similar.min()))
        with np.errstate(over="ignore"):
            error = ours[sound] - theirs[sound]
            self._signal += float(np.square(theirs[sound]).sum())
            self._noise += float(np.square(error).sum())
        self._largest = max(self._largest, float(np.abs(error).max(initial=0.0)))
        self._add_top1(outputs, reference)

    def _add_top1(self, outputs: Outputs, reference: Outputs) -> None:
        for name, array in reference.items():
            theirs, ours = class_scores(np.asarray(array)), class_scores(np.asarray(outputs[name]))
            if theirs is not None and ours is not None:
                self._judged += len(theirs)
                self._agreed += int(agreement(ours, theirs).sum())
                return

    def result(self) -> Comparison:
        """The comparison of all that was added."""
        some, sound = self._samples > 0, self._samples > 0 and not self._broken
        sqnr = None
        ratio_known = 0 < self._noise < np.inf and 0 < self._signal < np.inf
        if sound and ratio_known:
            sqnr = float(10 * (np.log10(self._signal) - np.log10(self._noise)))
        return Comparison(
            samples=self._samples,
            broken=self._broken,
            cosine_mean=self._cosine_sum / self._samples if some else None,
            cosine_min=self._cosine_min if some else None,
            sqnr_db=sqnr,
            max_abs_error=self._largest if sound else None,
            top1=self._agreed / self._judged if self._judged else None,
        )


def compare(outputs: Outputs, reference: Outputs) -> Comparison:
    """Compare one batch with the reference's; :class:`Comparer` takes several."""
    comparer = Comparer()
    comparer.add(outputs, reference)
    return comparer.result()


def _alike(reference: Outputs, outputs: Outputs) -> Outputs:
    """The reference's outputs that the others have too, in the same shape."""
    return {
        name: array
        for name, array in reference.items()
        if name in outputs and np.shape(outputs[name]) == np.shape(array)
    }


def _compared(outputs: Outputs) -> list[str]:
    """The floating outputs, or all numeric ones where none is floating."""
    kinds = {name: np.asarray(array).dtype.kind for name, array in outputs.items()}
    floating = [name for name, kind in kinds.items() if kind == "f"]
    return floating or [name for name, kind in kinds.items() if kind in "iub"]
