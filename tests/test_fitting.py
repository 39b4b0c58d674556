"""Whether metric, outputs and labels fit: cases beyond those of test_checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import fitting, metrics
from harness.datasets import Header
from harness.errors import Problem
from harness.fitting import Labels, Seen
from harness.types import TensorSpec

Array = np.ndarray[Any, Any]
PLACE = "--data: d.npz: labels"


def seen(labels: Any, *, whole: bool = False) -> Seen:
    array = np.asarray(labels)
    numbers = array.dtype.kind in "iubf" and array.size > 0
    low, high = (float(array.min()), float(array.max())) if numbers else (np.inf, -np.inf)
    header = Header(array.dtype, array.shape)
    bad = None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.argwhere(~np.isfinite(array))[0][0])
    below = float(max(array[array < high], default=-np.inf)) if numbers else -np.inf
    known = Labels(header, low, high, bad, below)
    return Seen("d.npz", labelled=True, labels=known, whole=whole, place=PLACE)


def outputs(**shapes: Any) -> list[TensorSpec]:
    """Floating, or integer where the shape starts with ``int``."""
    return [
        TensorSpec(name, "int64", tuple(shape[1:]))
        if shape[0] == "int"
        else TensorSpec(name, "float32", tuple(shape))
        for name, shape in shapes.items()
    ]


@pytest.fixture
def alphabet(tmp_path: Path) -> str:
    (tmp_path / "a.txt").write_text("\na\nb\n")
    return str(tmp_path / "a.txt")


def found(name: str, specs: list[TensorSpec], data: Seen | None) -> tuple[Problem, ...]:
    return tuple(fitting.problems(metrics.get(name), specs, data))


TEXTS = np.array(["ab", "b"])
BOXES = {"boxes": ("n", "d", 4), "scores": ("n", "d"), "labels": ("int", "n", "d")}
MASKS = np.zeros((2, 4, 4), int)
STRAY = np.where(np.arange(16).reshape(4, 4) < 8, MASKS, [[[30]], [[255]]])

FIT: list[tuple[str, dict[str, Any], Any]] = [
    ("f1", {"y": ("n", 3)}, [0, 2]),
    ("f1", {"y": ("int", "n")}, [0, 7]),
    ("f1(threshold=0)", {"y": ("n", 3)}, np.ones((2, 3), int)),
    ("f1(threshold=0)", {"y": ("n", "c")}, np.ones((2, 3), bool)),
    ("f1(average=binary,threshold=0)", {"y": ("n", 1)}, [0, 1]),
    ("auc", {"y": ("n", 2)}, [0, 1]),
    ("auc", {"y": ("n",)}, [0, 1]),
    ("auc@z", {"y": ("n", 5, 5), "z": ("n", 1)}, [0, 1]),
    ("auc(positive=2)", {"y": ("n", 3)}, [0, 2]),
    ("f1(average=binary)", {"y": ("int", "n")}, [0, 1]),
    ("spearman", {"y": ("n", 1)}, [0.5, 1]),
    ("rmse", {"y": ("n", 2)}, np.zeros((2, 2))),
    ("cer", {"y": ("n", "t", 3)}, TEXTS),
    ("cer", {"y": ("n", "t", "c")}, TEXTS),
    ("wer(decoder=argmax", {"y": ("n", 9, 3)}, TEXTS),
    ("cer(decoder=ids", {"y": ("int", "n", "t")}, TEXTS),
    ("iou", {"y": ("n", 3, 4, 4)}, MASKS),
    ("iou", {"y": ("n", 3, "h", "w")}, MASKS + 255),
    ("iou(classes=2)", {"y": ("int", "n", 4, 4)}, MASKS),
    ("iou(threshold=0)", {"y": ("n", 1, 4, 4)}, MASKS + 1),
    ("map", BOXES, np.zeros((2, 3, 5))),
    ("map(labels=kinds)", {**BOXES, "kinds": ("n", "d")}, np.full((2, 3, 5), -1)),
    ("sqnr@y", {"x": ("n", 3), "y": ("n", 2, 2)}, [0, 1]),
]


def complete(name: str, alphabet: str) -> str:
    """The name with its alphabet."""
    if name[:3] not in ("cer", "wer"):
        return name
    return f"{name}{',' if '(' in name else '('}alphabet={alphabet})"


@pytest.mark.parametrize("case", FIT, ids=[f"{each[0]} {each[1]}" for each in FIT])
def test_what_fits_has_no_problems(alphabet: str, case: tuple[str, dict[str, Any], Any]) -> None:
    name, shapes, labels = case
    name = complete(name, alphabet)
    assert found(name, outputs(**shapes), seen(labels)) == ()
    assert found(name, outputs(**shapes), None) == ()


OTHER, M, P = "name another output", "--metric", PLACE
UNFIT: list[tuple[str, dict[str, Any], Any, str, str, str]] = [
    ("f1", {"y": ("n", 3, 4)}, [0, 1], M, "f1 needs class scores", OTHER),
    ("f1", {"y": ("n", 3)}, [0, 3], P, "labels 0..3; expected 0..2", "class numbers"),
    ("f1", {"y": ("n", 3)}, np.ones((2, 3), int), P, "3 values per sample", "f1(threshold=0.5)"),
    ("f1(threshold=0)", {"y": ("n", 3)}, [0, 1], P, "the output y: float32[n, 3] has 3", "0 and"),
    ("f1(threshold=0)", {"y": ("n", 3)}, 2 * np.ones((2, 3), int), P, "labels 2..2", "0 and 1"),
    ("f1(threshold=0)", {"y": ("n", 3)}, np.ones((2, 3)), P, "dtype float64", "np.uint8"),
    ("auc", {"y": ("n", 3, 4)}, [0, 1], M, "or one score per sample", OTHER),
    ("auc", {"y": ("int", "n")}, [0, 1], M, "or one score per sample", OTHER),
    ("auc", {"y": ("n", 2)}, [0.0, 1.0], P, "auc needs integers", "astype(np.int64)"),
    ("spearman", {"y": ("n", 2)}, [0, 1], M, "needs one value per sample", OTHER),
    ("spearman", {"y": ("n", 1)}, np.ones((2, 2)), P, "2 values per sample", "spearman@output"),
    ("rmse", {"y": ("n", 2)}, [np.nan, 1], P, "NaN or infinity, first in sample 0", "isfinite"),
    ("cer", {"y": ("n", 3)}, TEXTS, M, "columns, classes] for decoder=ctc", OTHER),
    ("cer(decoder=ids", {"y": ("n", 3)}, TEXTS, M, "integers [batch, columns]", OTHER),
    ("cer", {"y": ("n", 9, 5)}, TEXTS, M, "the alphabet has 3 lines;", "line i"),
    ("wer", {"y": ("n", 9, 3)}, [0, 1], P, "int64[2]; wer needs texts", "np.array(texts)"),
    ("iou", {"y": ("n", 3)}, MASKS, M, "needs class scores [batch, classes, hei", OTHER),
    ("iou", {"y": ("int", "n", 4, 4)}, MASKS, M, "classes=N for integer masks", OTHER),
    ("iou(threshold=0)", {"y": ("int", "n", 4, 4)}, MASKS, M, "floating scores", OTHER),
    ("iou", {"y": ("n", 3, 4, 4)}, MASKS + 3, P, "labels 3..3; expected 0..2", "iou(ignore=N)"),
    ("iou", {"y": ("n", 3, 4, 4)}, STRAY, P, "labels 0..30; expected 0..2", "iou(ignore=N)"),
    ("auc(positive=77)", {"y": ("n", 3)}, [0, 2], P, "0..2; the positive class is 77", "occurs"),
    ("auc(positive=7)", {"y": ("n", 1)}, [0, 2], P, "0..2; the positive class is 7", "occurs"),
    ("f1(average=binary,positive=7)", {"y": ("n", 9)}, [0, 2], P, "positive class is 7", "occurs"),
    ("mae", {"y": ("n", 3)}, [0.0, 2.0], P, "1 values per sample", "labels.astype(np.int64)"),
    ("iou", {"y": ("n", 3, 8, 8)}, MASKS, P, "16 values per sample", "nearest neighbours"),
    ("iou", {"y": ("n", 3, 4, 4)}, MASKS * 0.5, P, "the class of each pixel", "np.uint8"),
    ("map", {"boxes": ("n", "d", 4), "scores": ("n", "d")}, np.zeros((2, 3, 5)), M,
     'no output "labels"; they are: boxes, scores', "map(labels=...)"),
    ("map", {**BOXES, "boxes": ("n", "d", 6)}, np.zeros((2, 3, 5)), M, "isn't boxes", "boxes="),
    ("map", BOXES, np.zeros((2, 4)), P, "float64[2, 4]; map needs [samples, m, 5]", "class -1"),
    ("map", BOXES, np.full((2, 3, 5), np.nan), P, "NaN or infinity", "rows of class -1"),
    ("top1@z", {"y": ("n", 3)}, [0, 1], M, 'the model has no output "z"', "outputs are: y"),
]  # fmt: skip


@pytest.mark.parametrize("case", UNFIT, ids=[f"{each[0]} {each[4]}" for each in UNFIT])
def test_what_does_not_fit_is_said_with_its_fix(
    alphabet: str, case: tuple[str, dict[str, Any], Any, str, str, str]
) -> None:
    name, shapes, labels, where, what, fix = case
    (problem,) = found(complete(name, alphabet), outputs(**shapes), seen(labels))
    assert problem.where == where
    assert what in problem.what
    assert fix in (problem.fix or "")


def test_a_model_without_a_batch_axis_has_one_sample_an_output(alphabet: str) -> None:
    name = f"cer(alphabet={alphabet})"
    assert found(name, outputs(y=("t", 3)), seen(TEXTS, whole=True)) == ()
    assert found(name, outputs(y=("t", 3)), seen(TEXTS)) != ()
    boxes = {"boxes": ("d", 4), "scores": ("d",), "labels": ("int", "d")}
    assert found("map", outputs(**boxes), seen(np.zeros((2, 3, 5)), whole=True)) == ()


def test_a_metric_of_labels_needs_them() -> None:
    unlabelled = Seen("d.npz", labelled=False, labels=None, whole=False, place=PLACE)
    (problem,) = found("spearman", outputs(y=("n", 1)), unlabelled)
    assert problem.what == 'spearman needs labels, and d.npz has no "labels" array'
    assert found("sqnr", outputs(y=("n", 1)), unlabelled) == ()


def test_map_without_its_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "find_spec", lambda _: None)
    (problem,) = found("map", outputs(**BOXES), seen(np.zeros((2, 3, 5))))
    assert problem.fix == "pip install 'enginepick[detection]'"
