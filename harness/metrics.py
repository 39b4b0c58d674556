"""What a candidate's outputs are worth, and whether they can be right at all.

A metric scores every sample by itself and its value is the mean of the scores, so that candidates
can be compared in pairs on the same samples. Without labels the truth is the reference's outputs,
and the score is agreement, not accuracy.

Everything here works on outputs whose leading axis counts the samples: :func:`by_sample` makes
them so. Imported by workers: the standard library of Python 3.9 and numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np

from harness.datasets import is_function, load_function, suggest
from harness.errors import InputError, Problem

Array = np.ndarray[Any, Any]
Outputs = Mapping[str, Array]
Truth = Union[Array, Outputs]


def by_sample(outputs: Outputs, fed: int, real: int, *, batched: bool) -> dict[str, Array]:
    """Outputs of one inference with the samples as their leading axis, without the padding.

    fed: how many samples the feed held; real: how many of them count (the first ones). batched:
    whether the model has a batch axis (no ``whole`` inputs in :class:`harness.datasets.Layout`).
    With one sample fed, an output whose leading axis isn't 1 belongs to that sample as a whole.
    Otherwise an output whose leading axis isn't ``fed`` can't be told apart by sample, and is
    left out.
    """
    parted = {}
    for name, value in outputs.items():
        array = np.asarray(value)
        if batched and array.ndim and array.shape[0] == fed:
            parted[name] = array[:real]
        elif fed == 1:
            parted[name] = array[np.newaxis]
    return parted


@dataclass(frozen=True)
class Metric:
    """How outputs are scored.

    needs_labels: without them the truth is the reference's outputs. output: the output that is
    scored; None: the first. function: (output or all outputs, truth) -> scores, one per sample.
    all_outputs: whether the function is a user's, which gets every output by name.
    """

    name: str
    higher_is_better: bool
    needs_labels: bool
    function: Callable[[Any, Any], Any]
    output: Optional[str] = None
    all_outputs: bool = False

    def scores(self, outputs: Outputs, truth: Truth) -> Array:
        """Score each sample: float64 [samples]. The metric's value is their mean.

        outputs: by name, each [samples, ...]. truth: the labels [samples, ...], or the
        reference's outputs where the metric needs no labels. Raises ValueError where the shapes
        don't fit the metric. A NaN among class scores scores 0; errors against a NaN are NaN.
        """
        if self.all_outputs:
            samples = len(next(iter(outputs.values())))
            scores = np.asarray(self.function(dict(outputs), truth), dtype=np.float64)
        else:
            chosen = self.select(outputs)
            samples = len(chosen)
            wanted = self.select(truth) if isinstance(truth, Mapping) else np.asarray(truth)
            if len(wanted) != samples:
                raise ValueError(f"{self.name}: {samples} samples, but {len(wanted)} labels")
            scores = np.asarray(self.function(chosen, wanted), dtype=np.float64)
        if scores.shape != (samples,):
            raise ValueError(
                f"the metric {self.name} gave scores of shape {scores.shape};"
                f" expected one per sample, ({samples},)"
            )
        return scores

    def select(self, outputs: Outputs) -> Array:
        """The output that this metric scores. Raises ValueError where there is none."""
        name = self.output if self.output is not None else next(iter(outputs), None)
        if name is None or name not in outputs:
            known = ", ".join(outputs) or "none"
            raise ValueError(f"the metric {self.name} finds no output {name}; there are: {known}")
        return np.asarray(outputs[name])


def get(name: str, where: str = "--metric") -> Metric:
    """The metric of that name: a built-in, ``built-in@output``, or the user's ``module:function``.

    The user's function is called with (outputs by name, labels) and returns one score per sample.
    Its attribute ``higher_is_better = False`` turns the order; ``needs_labels = False`` has it
    called with the reference's outputs instead of labels. Raises InputError.
    """
    if is_function(name):
        function = load_function(name, where)
        return Metric(
            name=name,
            higher_is_better=bool(getattr(function, "higher_is_better", True)),
            needs_labels=bool(getattr(function, "needs_labels", True)),
            function=function,
            all_outputs=True,
        )
    base, _, output = name.partition("@")
    if base not in _BUILT_IN:
        what = f'no metric "{base}"; there are: {", ".join(_BUILT_IN)}, module:function'
        raise InputError([Problem(where, what, suggest(base, _BUILT_IN))])
    if "@" in name and not output:
        what = f'"{name}" names no output after the @'
        raise InputError([Problem(where, what, f"{base}, or {base}@output_name")])
    higher, needs_labels, score = _BUILT_IN[base]
    return Metric(name, higher, needs_labels, score, output or None)


def class_scores(output: Array) -> Optional[Array]:
    """The output as [samples, classes] if it looks like class scores, else None.

    That is: floating, two or more classes, and further axes, if any, of size 1.
    """
    classes = output.ndim > 1 and output.shape[1] > 1
    if not classes or output.dtype.kind != "f" or any(size != 1 for size in output.shape[2:]):
        return None
    return output.reshape(output.shape[:2])


def _top1(output: Array, labels: Array) -> Array:
    wanted = _class_labels(labels)
    if output.dtype.kind in "iu" and output.size == len(output):
        picked = output.reshape(-1)  # the model has picked the class itself
    else:
        picked = _picked(_require_classes("top1", output))
    hits: Array = np.equal(picked, wanted)
    return hits


def _top5(output: Array, labels: Array) -> Array:
    scores = _require_classes("top5", output)
    wanted = _class_labels(labels)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= scores.shape[1]):
        raise ValueError(f"a label outside the {scores.shape[1]} classes")
    scores = scores.astype(np.float64)
    own = np.take_along_axis(scores, wanted[:, np.newaxis], axis=1)
    # Ties go to the lower class, as in argmax.
    lower = np.arange(scores.shape[1]) < wanted[:, np.newaxis]
    better = np.sum((scores > own) | ((scores == own) & lower), axis=1)
    top = 5
    in_top: Array = (better < top) & ~np.isnan(scores).any(axis=1)
    return in_top


def _picked(scores: Array) -> Array:
    """The best class of each sample; -1 where a NaN is among the scores: argmax would pick it."""
    if not len(scores):
        return np.empty(0, dtype=np.int64)
    picked: Array = np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1))
    return picked


def _require_classes(name: str, output: Array) -> Array:
    scores = class_scores(output)
    if scores is None:
        raise ValueError(
            f"{name} needs floating class scores [samples, classes];"
            f" the output is {output.dtype}{list(output.shape)}"
        )
    return scores


def _class_labels(labels: Array) -> Array:
    if labels.dtype.kind not in "iub" or labels.size != len(labels):
        raise ValueError(
            f"class labels are integers [samples]; these are {labels.dtype}{list(labels.shape)}"
        )
    return labels.reshape(-1).astype(np.int64)


def _difference(output: Array, labels: Array) -> Array:
    """Differences as float64 [samples, elements]."""
    if output.size != labels.size:
        raise ValueError(
            f"labels of shape {list(labels.shape)} for an output of shape {list(output.shape)}"
        )
    count = len(output)
    width = output.size // count if count else 0
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which is what it scores
        difference: Array = output.reshape(count, width).astype(np.float64) - labels.reshape(
            count, width
        ).astype(np.float64)
    return difference


def _mae(output: Array, labels: Array) -> Array:
    return _row_mean(np.abs(_difference(output, labels)))


def _mse(output: Array, labels: Array) -> Array:
    with np.errstate(over="ignore"):
        return _row_mean(np.square(_difference(output, labels)))


def _row_mean(values: Array) -> Array:
    # A sample without elements has no error; numpy's mean of nothing is NaN with a warning.
    return values.mean(axis=1) if values.shape[1] else np.zeros(len(values))


def _agreement(output: Array, reference: Array) -> Array:
    ours = _picked(_require_classes("agreement", output))
    theirs = _picked(_require_classes("agreement", reference))
    agree: Array = (ours == theirs) & (ours >= 0)
    return agree


def _cosine(output: Array, reference: Array) -> Array:
    if output.shape != reference.shape:
        raise ValueError(
            f"outputs of shape {list(output.shape)}, the reference's {list(reference.shape)}"
        )
    ours, theirs = _rows(output), _rows(reference)
    both_infinite = np.isinf(ours) & (ours == theirs)
    return cosines(np.where(both_infinite, 0.0, ours), np.where(both_infinite, 0.0, theirs))


_BUILT_IN: dict[str, tuple[bool, bool, Callable[[Array, Array], Array]]] = {
    # name: (higher is better, needs labels, scores)
    "top1": (True, True, _top1),
    "top5": (True, True, _top5),
    "mae": (False, True, _mae),
    "mse": (False, True, _mse),
    "agreement": (True, False, _agreement),
    "cosine": (True, False, _cosine),
}


def cosines(ours: Array, theirs: Array) -> Array:
    """Cosine similarity of each row pair: float64 [rows], within [-1, 1].

    Two zero rows are equal, so 1; a zero row is like no other row, so 0; a row with NaN or
    infinity is like nothing, so 0.
    """
    finite: Array = np.all(np.isfinite(ours) & np.isfinite(theirs), axis=1)
    ours = np.where(finite[:, np.newaxis], ours, 0.0)
    theirs = np.where(finite[:, np.newaxis], theirs, 0.0)
    # Scaled by the largest magnitude first: squares of very large values would overflow.
    largest = [np.abs(rows).max(axis=1, initial=0.0) for rows in (ours, theirs)]
    ours, theirs = (
        rows / np.where(scale > 0, scale, 1.0)[:, np.newaxis]
        for rows, scale in zip((ours, theirs), largest)
    )
    norms = np.sqrt((ours * ours).sum(axis=1) * (theirs * theirs).sum(axis=1))
    similar = (ours * theirs).sum(axis=1) / np.where(norms > 0, norms, 1.0)
    both_zero = (largest[0] == 0) & (largest[1] == 0)
    clipped: Array = np.where(both_zero, 1.0, np.clip(similar, -1.0, 1.0)) * finite
    return clipped


def _rows(array: Array) -> Array:
    """An output as float64 [samples, elements]."""
    count = len(array)
    return array.reshape(count, array.size // count if count else 0).astype(np.float64)


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
    """Accumulates a :class:`Comparison` over batches."""

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
        """Compare one batch: the same outputs and shapes, each [samples, ...].

        Raises ValueError where the names or shapes differ.
        """
        _same_shapes(outputs, reference)
        names = _compared(reference)
        if not names or not len(reference[names[0]]):
            return
        ours = np.concatenate([_rows(np.asarray(outputs[name])) for name in names], axis=1)
        theirs = np.concatenate([_rows(np.asarray(reference[name])) for name in names], axis=1)
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
                self._agreed += int(_agreement(ours, theirs).sum())
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


def _same_shapes(outputs: Outputs, reference: Outputs) -> None:
    if set(outputs) != set(reference):
        raise ValueError(
            f"the outputs are {', '.join(sorted(outputs))};"
            f" the reference's are {', '.join(sorted(reference))}"
        )
    for name, array in reference.items():
        if np.shape(outputs[name]) != np.shape(array):
            raise ValueError(
                f"the output {name} has the shape {list(np.shape(outputs[name]))};"
                f" the reference's has {list(np.shape(array))}"
            )


def _compared(outputs: Outputs) -> list[str]:
    """The floating outputs, or all numeric ones where none is floating."""
    kinds = {name: np.asarray(array).dtype.kind for name, array in outputs.items()}
    floating = [name for name, kind in kinds.items() if kind == "f"]
    return floating or [name for name, kind in kinds.items() if kind in "iub"]


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
