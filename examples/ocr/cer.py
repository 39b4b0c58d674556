"""The metric of the text-recognition example: 1 - the character error rate of each line.

``enginepick sweep --metric examples.ocr.cer:score``, run at the root of the repository. Workers
import this file: the standard library of Python 3.9 and numpy only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

CHARACTERS = "OCR_CHARACTERS"
"""The environment variable that names characters.txt when it isn't in ``data`` beside this file."""

BLANK = 0


def score(outputs: Mapping[str, Array], labels: Array) -> Array:
    """Score each line: 1 - its character error rate, not below 0; float64 [samples].

    outputs: the recogniser's only one, [samples, columns, classes]. labels: the texts [samples].
    Raises ValueError for an output of another number of classes than there are characters.
    """
    (output,) = outputs.values()
    known = characters()
    if output.ndim != 3 or output.shape[2] != len(known):
        raise ValueError(
            f"expected an output [samples, columns, {len(known)}], found {list(output.shape)}"
        )
    pairs = zip(output.argmax(axis=2), labels)
    return np.array(
        [max(0.0, 1.0 - error_rate(decode(best, known), str(text))) for best, text in pairs]
    )


def decode(best: Sequence[int], known: Sequence[str]) -> str:
    """Read the best class of each column as CTC means it: repeats are one, blanks are none."""
    before = [BLANK, *best[:-1]]
    return "".join(known[this] for last, this in zip(before, best) if this not in (last, BLANK))


def error_rate(read: str, text: str) -> float:
    """The edits (Levenshtein) from ``read`` to ``text`` per character of ``text``."""
    costs = list(range(len(text) + 1))
    for place, ours in enumerate(read, start=1):
        diagonal, costs[0] = costs[0], place
        for column, theirs in enumerate(text, start=1):
            kept = diagonal + (ours != theirs)
            diagonal = costs[column]
            costs[column] = min(kept, costs[column] + 1, costs[column - 1] + 1)
    return costs[-1] / max(1, len(text))


@lru_cache(maxsize=1)
def characters() -> tuple[str, ...]:
    """What each class stands for, from the file that make_data.py wrote."""
    own = Path(__file__).resolve().parent / "data" / "characters.txt"
    path = Path(os.environ.get(CHARACTERS, own))
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: run make_data.py, or name the file in {CHARACTERS}")
    text = path.read_bytes().decode("utf-8")
    return tuple(text.split("\n")[:-1])
