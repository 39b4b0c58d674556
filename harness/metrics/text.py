"""Text out of outputs, and how far it is from the text that was wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from harness.errors import InputError, Problem
from harness.types import Array

Options = Mapping[str, Any]


def read_alphabet(path: str, where: str) -> tuple[str, ...]:
    """What each class stands for: one line each, UTF-8; an empty line stands for nothing.

    Raises InputError for a file that can't be read.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        what = f"the alphabet {Path(path).absolute()} can't be read: {error.strerror or error}"
        raise InputError([Problem(where, what, "line i of that file is class i")]) from error
    except UnicodeDecodeError as error:
        what = f"the alphabet {path} is not UTF-8 text, from byte {error.start}"
        raise InputError([Problem(where, what, "save it as UTF-8")]) from error
    # Not splitlines: an alphabet may hold separators that are lines to it alone.
    lines = text.replace("\r\n", "\n").split("\n")
    return tuple(lines[:-1] if not lines[-1] else lines)


def decode(output: Array, options: Options) -> list[str]:
    """The text of each sample.

    decoder ctc: the best class of each column of [samples, columns, classes], repeats as one and
    the blank as nothing (Graves et al. 2006, best path decoding). argmax: the best class of each
    column. ids: the output's own integers [samples, columns]. The last two end before the first
    class ``end``, where that is given. Raises ValueError for an output of another form.
    """
    best, alphabet = _classes(output, options), options["alphabet"]
    texts = []
    for line in best:
        if options["decoder"] == "ctc":
            changed = np.concatenate(([True], line[1:] != line[:-1]))[: len(line)]
            kept = line[changed & (line != options["blank"])]
        else:
            kept = line[: _place(line, options["end"])]
        if kept.size and not 0 <= kept.min() <= kept.max() < len(alphabet):
            odd = kept[(kept < 0) | (kept >= len(alphabet))][0]
            raise ValueError(f"class {odd} in an output; the alphabet has {len(alphabet)} lines")
        texts.append("".join(alphabet[number] for number in kept))
    return texts


def _place(line: Array, end: Optional[int]) -> int:
    """Where the first ``end`` stands; after the line where there is none."""
    if end is None or end not in line:
        return len(line)
    return int(np.flatnonzero(line == end)[0])


def _classes(output: Array, options: Options) -> Array:
    ids, alphabet = options["decoder"] == "ids", len(options["alphabet"])
    kind, axes = output.dtype.kind, output.ndim
    if ids and kind in "iu" and axes == len(("samples", "columns")):
        return output
    if not ids and kind == "f" and output.shape[2:] == (alphabet,):
        best: Array = output.argmax(axis=2)
        return best
    form = "integers [samples, columns]" if ids else f"scores [samples, columns, {alphabet}]"
    raise ValueError(
        f"the decoder {options['decoder']} needs {form}; the output is"
        f" {output.dtype}{list(output.shape)}"
    )


def edits(read: Sequence[str], text: Sequence[str]) -> int:
    """Levenshtein's distance: substitutions, insertions and deletions (Wagner, Fischer 1974).

    Row by row; within a row, insertions are a running minimum, so that numpy does them at once.
    """
    numbers = {token: number for number, token in enumerate(dict.fromkeys(text))}
    wanted = np.array([numbers[token] for token in text], dtype=np.int64)
    places = np.arange(len(text) + 1)
    costs = places
    for row, token in enumerate(read, start=1):
        kept = np.minimum(costs[1:] + 1, costs[:-1] + (wanted != numbers.get(token, -1)))
        costs = np.minimum.accumulate(np.concatenate(([row], kept)) - places) + places
    return int(costs[-1])


def error_rate(options: Options, split: Callable[[str], Sequence[str]]) -> Callable[..., Any]:
    """(all labels or None) -> the scoring function of the character or word error rate.

    The rate is all edits over the length of all texts. So each sample's score is its edits over
    the texts' mean length, which takes all labels: the mean of the scores is then the rate.
    """

    def bind(labels: Optional[Array]) -> Callable[[Array, Array], Array]:
        mean_length = None if labels is None else _mean_length(labels, split)

        def score(output: Array, texts: Array) -> Array:
            wanted = [split(str(text)) for text in texts.reshape(-1)]
            read = [split(text) for text in decode(output, options)]
            scale = _mean_length(texts, split) if mean_length is None else mean_length
            counts = [edits(ours, text) for ours, text in zip(read, wanted)]
            return np.array(counts, dtype=np.float64) / scale

        return score

    return bind


def _mean_length(labels: Array, split: Callable[[str], Sequence[str]]) -> float:
    if labels.dtype.kind != "U" or labels.size != len(labels):
        raise ValueError(
            f"labels are texts [samples]; these are {labels.dtype}{list(labels.shape)}"
        )
    lengths = [len(split(str(text))) for text in labels.reshape(-1)]
    if lengths and not sum(lengths):
        raise ValueError("all labels are empty texts: there is no error rate")
    return sum(lengths) / max(1, len(lengths))
