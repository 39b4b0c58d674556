"""What a candidate's outputs are worth, and whether they can be right at all.

A metric keeps a row of numbers of every sample, so that candidates can be compared in pairs on the
same samples. Mostly that is one score, and the metric's value is their mean; metrics of all
samples together (``whole``) get their value from all rows, by :mod:`harness.aggregates`. Without
labels the truth is the reference's outputs, and the score is agreement, not accuracy.

Everything here works on outputs whose leading axis counts the samples: :func:`by_sample` makes
them so. Imported by workers: the standard library of Python 3.9 and numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

import numpy as np

from harness.functions import is_function, load_function
from harness.metrics import pooled, scores, text
from harness.metrics.closeness import Comparer, Comparison, compare
from harness.metrics.names import anchored, parse, short
from harness.metrics.outputs import Outputs, Truth, by_sample, class_scores
from harness.metrics.sanity import Sanity, sanity
from harness.metrics.scores import cosines
from harness.types import Array

__all__ = [
    "Array",
    "Comparer",
    "Comparison",
    "Metric",
    "Outputs",
    "Sanity",
    "Truth",
    "anchored",
    "by_sample",
    "class_scores",
    "compare",
    "cosines",
    "get",
    "join",
    "parse",
    "sanity",
    "short",
]


@dataclass(frozen=True)
class Metric:
    """How outputs are scored.

    needs_labels: without them the truth is the reference's outputs. function: (output or all
    outputs, truth) -> scores or rows. output: the output that is scored; None: the first.
    all_outputs: whether the function gets every output by name. whole: whether the value is made
    of all rows together, else it is the mean of scores. base: the name without its options, whose
    values are ``options``. bind: makes the function, given the labels of all samples.
    """

    name: str
    base: str
    higher_is_better: bool
    needs_labels: bool
    function: Callable[[Any, Any], Any]
    output: Optional[str] = None
    all_outputs: bool = False
    whole: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    bind: Optional[Callable[[Array], Callable[[Any, Any], Any]]] = None

    def prepare(self, labels: Array) -> Metric:
        """The metric for these samples, whose labels are all given; some scores depend on them.

        Raises ValueError for labels that it can't use.
        """
        return self if self.bind is None else replace(self, function=self.bind(labels))

    def rows(self, outputs: Outputs, truth: Truth) -> Array:
        """What is kept of each sample: float64 [samples, width], width 1 where it is a score.

        outputs: by name, each [samples, ...]. truth: the labels [samples, ...], or the
        reference's outputs where the metric needs no labels. Raises ValueError where the shapes
        don't fit the metric. A NaN among class scores scores 0; errors against a NaN are NaN.
        """
        if self.all_outputs:
            samples = len(next(iter(outputs.values())))
            rows = np.asarray(self.function(dict(outputs), truth), dtype=np.float64)
        else:
            chosen = self.select(outputs)
            samples = len(chosen)
            wanted = self.select(truth) if isinstance(truth, Mapping) else np.asarray(truth)
            if len(wanted) != samples:
                raise ValueError(f"{self.name}: {samples} samples, but {len(wanted)} labels")
            rows = np.asarray(self.function(chosen, wanted), dtype=np.float64)
        if not self.whole and rows.shape != (samples,):
            raise ValueError(
                f"the metric {self.name} gave scores of shape {rows.shape};"
                f" expected one per sample, ({samples},)"
            )
        return rows.reshape(samples, -1) if samples else rows.reshape(0, 1)

    def of(self, outputs: Iterable[str]) -> Metric:
        """The metric with the output that it scores named: of all the model's, the first.

        A batch's outputs may lack it, and no other is to be scored then.
        """
        if self.output is not None or self.all_outputs:
            return self
        return replace(self, output=next(iter(outputs), None))

    def select(self, outputs: Outputs) -> Array:
        """The output that this metric scores. Raises ValueError where there is none."""
        name = self.output if self.output is not None else next(iter(outputs), None)
        if name is None or name not in outputs:
            known = ", ".join(outputs) or "none"
            raise ValueError(f"the metric {self.name} finds no output {name}; there are: {known}")
        return np.asarray(outputs[name])


def join(rows: Sequence[Array]) -> Array:
    """The rows of all batches: [samples, width]; [0, 1] where there are none."""
    return np.concatenate(rows) if rows else np.empty((0, 1))


def is_whole(name: str) -> bool:
    """Whether a metric's value is made of all samples together, rather than a mean of scores."""
    return not is_function(name) and parse(name).base in _WHOLE


def get(name: str, where: str = "--metric") -> Metric:
    """The metric of that name: a built-in (:mod:`harness.metrics.names`) or ``module:function``.

    The user's function is called with (outputs by name, labels) and returns one score per sample.
    Its attribute ``higher_is_better = False`` turns the order; ``needs_labels = False`` has it
    called with the reference's outputs instead of labels. Raises InputError.
    """
    if is_function(name):
        function = load_function(name, where)
        return Metric(
            name=name,
            base=name,
            higher_is_better=bool(getattr(function, "higher_is_better", True)),
            needs_labels=bool(getattr(function, "needs_labels", True)),
            function=function,
            all_outputs=True,
        )
    spec = parse(name, where)
    options = dict(spec.options)
    if "alphabet" in options:
        options["alphabet"] = text.read_alphabet(options["alphabet"], where)
    function, bind = _function(spec.base, options)
    return Metric(
        name=name,
        base=spec.base,
        higher_is_better=spec.base not in _LOWER_IS_BETTER,
        needs_labels=spec.base not in _AGREEMENT,
        function=function,
        output=spec.output,
        all_outputs=spec.base == "map",
        whole=spec.base in _WHOLE,
        options=options,
        bind=bind,
    )


_LOWER_IS_BETTER = ("mae", "mse", "rmse", "cer", "wer")
_SCORES: dict[str, Callable[[Array, Array], Array]] = {
    "top1": scores.top1,
    "top5": scores.top5,
    "mae": scores.mae,
    "mse": scores.mse,
    "rmse": scores.mse,
    "spearman": pooled.spearman,
}
_AGREEMENT: dict[str, Callable[[Array, Array], Array]] = {
    "agreement": scores.agreement,
    "cosine": scores.cosine,
    "sqnr": scores.sqnr,
}
_POOLED: dict[str, Callable[[Any, Array, Mapping[str, Any]], Array]] = {
    "f1": pooled.f1,
    "auc": pooled.auc,
    "iou": pooled.iou,
    "map": pooled.boxes,
}
_WHOLE = ("rmse", "spearman", *_POOLED)
_TOKENS: dict[str, Callable[[str], Any]] = {"cer": list, "wer": str.split}


def _function(base: str, options: Mapping[str, Any]) -> tuple[Callable[[Any, Any], Any], Any]:
    """The scoring function, and what binds it to the labels, if it must be bound."""
    if base in _TOKENS:
        bind = text.error_rate(options, _TOKENS[base])
        return bind(None), bind
    if base in _POOLED:
        make = _POOLED[base]
        return (lambda output, labels: make(output, labels, options)), None
    return {**_SCORES, **_AGREEMENT}[base], None
