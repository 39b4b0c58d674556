"""Whether outputs can be right at all, whatever the labels say."""

from __future__ import annotations

from typing import Optional

import numpy as np

from harness.metrics.outputs import Outputs
from harness.types import Array


class Sanity:
    """Watches outputs over batches for what can't be right, whatever the labels say.

    Only floating outputs are judged: a class number may well be the same for all samples.
    output: judge only this one (the metric's); None: NaN or infinity in any, and zeros or
    constancy only where every output has it, as a state or a mask may well be constant.
    """

    def __init__(self, output: Optional[str] = None) -> None:
        self._output = output
        self._samples = 0
        self._first: dict[str, Array] = {}
        self._varied: set[str] = set()
        self._non_zero: set[str] = set()
        self._non_finite: Optional[str] = None

    def add(self, outputs: Outputs) -> None:
        """Look at one batch of outputs, each [samples, ...], of different samples."""
        count = 0
        for name, value in outputs.items():
            array = np.asarray(value)
            if array.dtype.kind != "f" or (self._output not in (None, name)) or not len(array):
                continue
            count = max(count, len(array))
            if name not in self._first:
                self._first[name] = array[0].copy()
            first = self._first[name]
            # An empty output (nothing detected) is neither a zero nor a constant.
            if array.shape[1:] != first.shape or not first.size or not np.all(array == first):
                self._varied.add(name)
            if not first.size or array.any():
                self._non_zero.add(name)
            if self._non_finite is None:
                self._look_for_non_finite(name, array)
        self._samples += count

    def _look_for_non_finite(self, name: str, array: Array) -> None:
        odd = ~np.isfinite(array)
        if odd.any():
            sample = int(np.flatnonzero(odd.reshape(len(array), -1).any(axis=1))[0])
            kind = "NaN" if np.isnan(array[sample]).any() else "infinity"
            self._non_finite = (
                f"the output {name} holds {kind}, first at sample {self._samples + sample}"
            )

    def result(self) -> Optional[str]:
        """Why the outputs can't be right, or None. With no samples: None."""
        if self._non_finite is not None:
            return self._non_finite
        judged = set(self._first)
        if not judged:
            return None
        names = ", ".join(self._first)
        if not judged & self._non_zero:
            return f"all zero in all {self._samples} samples: {names}"
        constant_from = 2
        if self._samples >= constant_from and not judged & self._varied:
            return f"the same output for all {self._samples} samples: {names}"
        return None


def sanity(outputs: Outputs, output: Optional[str] = None) -> Optional[str]:
    """Why one batch of outputs can't be right, or None; :class:`Sanity` takes several batches."""
    watch = Sanity(output)
    watch.add(outputs)
    return watch.result()
