"""Whether a metric, the model's outputs and the labels fit together, by what is declared of them.

Shapes may hold symbols; only what can't fit whatever they stand for is a problem.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf, prod
from typing import Any, Optional

from harness.datasets import LABELS, Header
from harness.errors import Problem, suggest
from harness.metrics import Metric
from harness.types import TensorSpec

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_WHERE = "--metric"


@dataclass(frozen=True)
class Labels:
    """What the labels are: the first shard's header, and the range over all shards.

    below: the largest but one, -inf where there is none.
    """

    header: Header
    smallest: float
    largest: float
    not_finite: Optional[int]
    below: float = -inf

    @property
    def integer(self) -> bool:
        """Whether they can be class numbers by their dtype."""
        return self.header.dtype.kind in "iub"

    @property
    def per_sample(self) -> int:
        """Values per sample."""
        return prod(self.header.shape[1:])


@dataclass(frozen=True)
class Seen:
    """What is known of the data. labels: None where there are none, or they weren't read.

    whole: the model has no batch axis. place: names the labels in problems.
    """

    source: str
    labelled: bool
    labels: Optional[Labels]
    whole: bool
    place: str


@dataclass(frozen=True)
class _Output:
    """An output of the model, of one sample: ``dims`` without the batch axis."""

    spec: TensorSpec
    dims: tuple[Any, ...]

    @property
    def floating(self) -> bool:
        """Whether it holds scores or values."""
        return self.spec.dtype in _FLOATS

    @property
    def integer(self) -> bool:
        """Whether it can hold class numbers."""
        return "int" in self.spec.dtype

    @property
    def single(self) -> bool:
        """Whether it is one value per sample."""
        return all(dim == 1 for dim in self.dims)

    @property
    def picks(self) -> bool:
        """Whether it is the class number itself."""
        return self.integer and self.single

    @property
    def classes(self) -> Optional[int]:
        """How many classes it scores: None if that isn't fixed, 0 if it scores none."""
        if not self.floating or not self.dims or any(dim != 1 for dim in self.dims[1:]):
            return 0
        if not isinstance(self.dims[0], int):
            return None
        return self.dims[0] if self.dims[0] > 1 else 0

    def values(self, *, without: int = 0) -> Optional[int]:
        """Values per sample, None if that isn't fixed; without that many leading axes."""
        dims = self.dims[without:]
        return prod(dims) if all(isinstance(dim, int) for dim in dims) else None


def _of_sample(spec: TensorSpec, seen: Optional[Seen]) -> _Output:
    return _Output(spec, spec.shape if seen is not None and seen.whole else spec.shape[1:])


def default_metric(outputs: Sequence[TensorSpec], seen: Optional[Seen]) -> str:
    """The metric that fits the labels and the first output."""
    first = _of_sample(outputs[0], seen)
    labels = None if seen is None else seen.labels
    if labels is not None and labels.per_sample == 1 and labels.integer:
        if first.classes != 0 or first.picks:
            return "top1"
    elif labels is not None and labels.header.dtype.kind == "f":
        return "mae"
    return "agreement" if first.classes != 0 else "cosine"


def problems(metric: Metric, outputs: Sequence[TensorSpec], seen: Optional[Seen]) -> list[Problem]:
    """Whether the metric finds outputs and labels that it can score."""
    if metric.needs_labels and seen is not None and not seen.labelled:
        what = f'{metric.base} needs labels, and {seen.source} has no "{LABELS}" array'
        fix = "save them: np.savez(path, ..., labels=labels), or use --metric agreement or cosine"
        return [Problem(_WHERE, what, fix)]
    if metric.base == "map":
        return _box_problems(metric, {spec.name: spec for spec in outputs}, seen)
    if metric.all_outputs:
        return []
    names = [spec.name for spec in outputs]
    if metric.output is not None and metric.output not in names:
        what = f'{metric.base}: the model has no output "{metric.output}"'
        fix = suggest(metric.output, names) or f"its outputs are: {', '.join(names)}"
        return [Problem(_WHERE, what, fix)]
    spec = outputs[names.index(metric.output) if metric.output is not None else 0]
    return _score_problems(metric, _of_sample(spec, seen), seen)


def _score_problems(metric: Metric, output: _Output, seen: Optional[Seen]) -> list[Problem]:
    """Whether the metric can score this output against these labels."""
    fault = _output_fault(metric, output)
    if fault is not None:
        fix = f"name another output ({metric.base}@output), or another metric"
        what = f"{metric.base} needs {fault}; the output is {output.spec}"
        return [Problem(_WHERE, what, fix)]
    found = _alphabet_problems(metric, output)
    if seen is None or seen.labels is None or metric.base not in _LABELS:
        return found
    what_and_fix = _LABELS[metric.base](metric, seen.labels, output)
    return [*found, *([Problem(seen.place, *what_and_fix)] if what_and_fix else [])]


def _output_fault(metric: Metric, output: _Output) -> Optional[str]:
    """What the metric needs instead of this output, None if it will do."""
    base, options = metric.base, metric.options
    if base in ("top5", "agreement") or (base in ("top1", "f1") and not output.picks):
        scored = output.classes != 0 or options.get("threshold") is not None
        return None if scored else "class scores [batch, classes]"
    if base == "auc" and output.classes == 0 and not (output.floating and output.single):
        return "class scores [batch, classes], or one score per sample"
    if base == "spearman" and not output.single:
        return "one value per sample"
    if base in ("cer", "wer"):
        return _text_fault(options["decoder"], output)
    return _mask_fault(metric, output) if base == "iou" else None


def _text_fault(decoder: str, output: _Output) -> Optional[str]:
    if decoder == "ids":
        fits = output.integer and len(output.dims) == len(("columns",))
        return None if fits else "integers [batch, columns] for decoder=ids"
    fits = output.floating and len(output.dims) == len(("columns", "classes"))
    return None if fits else f"class scores [batch, columns, classes] for decoder={decoder}"


def _mask_fault(metric: Metric, output: _Output) -> Optional[str]:
    if metric.options["threshold"] is not None:
        return None if output.floating else "floating scores for a threshold"
    if output.integer:
        return None if metric.options["classes"] is not None else "classes=N for integer masks"
    axes = len(("classes", "height", "width"))
    if output.floating and len(output.dims) == axes and output.dims[0] != 1:
        return None
    return "class scores [batch, classes, height, width], integer masks, or a threshold=X"


def _alphabet_problems(metric: Metric, output: _Output) -> list[Problem]:
    if metric.base not in ("cer", "wer") or metric.options["decoder"] == "ids":
        return []
    lines, classes = len(metric.options["alphabet"]), output.dims[-1]
    if not isinstance(classes, int) or classes == lines:
        return []
    what = f"{metric.base}: the alphabet has {lines} lines; the output {output.spec} has {classes}"
    fix = "line i is what class i stands for; the blank's line, and other marks', is empty"
    return [Problem(_WHERE, f"{what} classes", fix)]


_Fault = Optional[tuple[str, str]]
"""What is wrong with the labels, and its fix."""


def _class_labels(metric: Metric, labels: Labels, output: _Output) -> _Fault:
    if metric.options.get("threshold") is not None:
        return _flags(metric, labels, output)
    kind = labels.header.kind
    if not labels.integer:
        what = f"dtype {kind}; {metric.base} needs integers, the class of each sample"
        numeric = labels.header.dtype.kind == "f"
        return what, "labels.astype(np.int64)" if numeric else "save each label's class number"
    if labels.per_sample != 1:
        what = f"{labels.per_sample} values per sample; {metric.base} needs one, the sample's class"
        flags = ", or of several classes at once: f1(threshold=0.5)" if metric.base == "f1" else ""
        return what, f"from one-hot labels: labels.argmax(axis=1){flags}"
    classes = output.classes or None  # picked classes and single scores say nothing of them
    low, high = int(labels.smallest), int(labels.largest)
    if low >= 0 and (classes is None or high < classes):
        return _positive_class(metric, labels)
    expected = "0 and up" if classes is None else f"0..{classes - 1}, the model's {classes} classes"
    what = f"labels {low}..{high}; expected {expected}"
    shifted = low == 1 and high == classes
    return (
        what,
        "labels - 1" if shifted else "save class numbers in the order of the model's output",
    )


def _positive_class(metric: Metric, labels: Labels) -> _Fault:
    options = metric.options
    positive = options.get("positive") if options.get("average", "binary") == "binary" else None
    if positive is None or labels.smallest <= positive <= labels.largest:
        return None
    what = f"labels {int(labels.smallest)}..{int(labels.largest)}; the positive class is {positive}"
    return what, "name a class that occurs: positive=N"


def _flags(metric: Metric, labels: Labels, output: _Output) -> _Fault:
    fix = "save labels [samples, classes] of 0 and 1: labels.astype(np.uint8)"
    if not labels.integer:
        what = f"dtype {labels.header.kind}; {metric.base} with a threshold needs integers, 0 or 1"
        return what, fix
    if labels.smallest < 0 or labels.largest > 1:
        found = f"labels {int(labels.smallest)}..{int(labels.largest)}"
        return f"{found}; {metric.base} with a threshold needs 0 or 1", fix
    return _other_size(labels, output, output.values(), fix)


def _other_size(labels: Labels, output: _Output, values: Optional[int], fix: str) -> _Fault:
    if values is None or values == labels.per_sample:
        return None
    return f"{labels.per_sample} values per sample; the output {output.spec} has {values}", fix


def _value_labels(metric: Metric, labels: Labels, output: _Output) -> _Fault:
    if labels.header.dtype.kind not in "iubf":
        what = f"dtype {labels.header.kind}; {metric.base} needs numbers"
        return what, "labels.astype(np.float32)"
    if labels.not_finite is not None:
        what = f"NaN or infinity, first in sample {labels.not_finite}"
        return what, "mend or leave out those samples: np.isfinite(labels)"
    fix = f"save labels of the output's shape, or name the output: {metric.base}@output"
    if labels.header.dtype.kind == "f" and labels.per_sample == 1 and output.classes:
        fix = f"class numbers are integers: labels.astype(np.int64); else {fix}"
    return _other_size(labels, output, output.values(), fix)


def _text_labels(metric: Metric, labels: Labels, _: _Output) -> _Fault:
    if labels.header.dtype.kind == "U" and labels.per_sample == 1:
        return None
    what = f"{labels.header.kind}{list(labels.header.shape)}; {metric.base} needs texts [samples]"
    return what, "save the texts themselves: np.array(texts)"


def _mask_labels(metric: Metric, labels: Labels, output: _Output) -> _Fault:
    if not labels.integer:
        what = f"dtype {labels.header.kind}; {metric.base} needs integers, the class of each pixel"
        return what, "labels.astype(np.uint8)"
    options = metric.options
    scored = output.floating and options["threshold"] is None
    count = output.dims[0] if scored else options["classes"] or len(("background", "object"))
    high = labels.below if labels.largest == options["ignore"] else labels.largest
    if labels.smallest < 0 or (isinstance(count, int) and high >= count):
        expected = f"0..{count - 1}" if isinstance(count, int) else "0 and up"
        what = f"labels {labels.smallest:.0f}..{high:.0f}; expected {expected}"
        return what, f"pixels that don't count are {options['ignore']}, or iou(ignore=N)"
    fix = "resize the labels to the output's height and width, by nearest neighbours"
    return _other_size(labels, output, output.values(without=1 if scored else 0), fix)


_LABELS: dict[str, Callable[[Metric, Labels, _Output], _Fault]] = {
    "top1": _class_labels,
    "top5": _class_labels,
    "f1": _class_labels,
    "auc": _class_labels,
    "mae": _value_labels,
    "mse": _value_labels,
    "rmse": _value_labels,
    "spearman": _value_labels,
    "cer": _text_labels,
    "wer": _text_labels,
    "iou": _mask_labels,
}


def _box_problems(
    metric: Metric, specs: dict[str, TensorSpec], seen: Optional[Seen]
) -> list[Problem]:
    found = []
    if find_spec("pycocotools") is None:
        fix = "pip install 'enginepick[detection]'"
        found.append(Problem(_WHERE, "map is computed by pycocotools, which isn't installed", fix))
    for option, name in metric.options.items():
        if name not in specs:
            what = f'map: the model has no output "{name}"; they are: {", ".join(specs)}'
            found.append(
                Problem(_WHERE, what, f"name the one that holds {option}: map({option}=...)")
            )
            continue
        dims = _of_sample(specs[name], seen).dims
        # A model without a batch axis may declare one sample's boxes, whose count is unknown.
        if option == "boxes" and dims and isinstance(dims[-1], int) and dims[-1] != len("xyxy"):
            what = f"map: the output {specs[name]} isn't boxes [batch, n, 4] as x1, y1, x2, y2"
            found.append(Problem(_WHERE, what, "name another output: map(boxes=...)"))
    if seen is not None and seen.labels is not None:
        header, values = seen.labels.header, len(("class", *"xyxy"))
        if header.dtype.kind not in "iuf" or header.shape[2:] != (values,):
            what = f"{header.kind}{list(header.shape)}; map needs [samples, m, {values}]"
            fix = "a row of class, x1, y1, x2, y2 per box, padded by rows of class -1"
            found.append(Problem(seen.place, what, fix))
        elif seen.labels.not_finite is not None:
            what = f"NaN or infinity, first in sample {seen.labels.not_finite}"
            found.append(Problem(seen.place, what, "pad by rows of class -1 instead"))
    return found
