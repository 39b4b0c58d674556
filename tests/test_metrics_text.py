from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import metrics
from harness.aggregates import value_of
from harness.errors import InputError
from harness.metrics.text import decode, edits, read_alphabet

Array = np.ndarray[Any, Any]
ALPHABET = ("", "a", "b", " ")


def options(decoder: str = "ctc", **more: Any) -> dict[str, Any]:
    return {"decoder": decoder, "alphabet": ALPHABET, "blank": 0, "end": None, **more}


def scores(*lines: Any) -> Array:
    """Class scores whose best classes are these."""
    return np.eye(len(ALPHABET), dtype=np.float32)[np.array(lines, dtype=int)]


@pytest.fixture
def alphabet(tmp_path: Path) -> Path:
    path = tmp_path / "characters.txt"
    path.write_text("".join(f"{each}\n" for each in ALPHABET), encoding="utf-8")
    return path


# edits


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        ("", "", 0),
        ("abc", "abc", 0),
        ("", "abc", 3),
        ("abcdef", "abc", 3),
        ("sitting", "kitten", 3),
        ("ab", "ba", 2),
        ("xabc", "abc", 1),
        ("ac", "abc", 1),
        ("abcdefgh", "a", 7),
    ],
)
def test_known_distances(read: str, text: str, expected: int) -> None:
    assert edits(read, text) == expected


def table(read: str, text: str) -> int:
    """Wagner and Fischer's whole table."""
    costs = np.add.outer(np.arange(len(read) + 1), np.arange(len(text) + 1))
    for i, j in np.ndindex(len(read), len(text)):
        kept = costs[i, j] + (read[i] != text[j])
        costs[i + 1, j + 1] = min(kept, costs[i, j + 1] + 1, costs[i + 1, j] + 1)
    return int(costs[-1, -1])


@given(st.text("abc", max_size=9), st.text("abcd", max_size=9))
def test_edits_are_those_of_the_whole_table(read: str, text: str) -> None:
    assert edits(read, text) == table(read, text)


# decoders


def test_ctc_takes_repeats_as_one_and_blanks_as_nothing() -> None:
    lines = scores([0, 1, 1, 0, 1, 2, 2, 0], [0] * 8, [1] * 8, [2, 0, 2, 3, 1, 1, 2, 1])
    assert decode(lines, options()) == ["aab", "", "a", "bb aba"]
    assert decode(lines[:1], options(blank=1)) == ["b"]


def test_argmax_takes_every_column_up_to_the_end() -> None:
    lines = scores([1, 1, 2, 3], [1, 2, 2, 1])
    assert decode(lines, options("argmax")) == ["aab ", "abba"]
    assert decode(lines, options("argmax", end=2)) == ["aa", "a"]


def test_ids_are_the_outputs_own() -> None:
    ids = np.array([[1, 1, 2, -1], [3, 2, 2, 2]])
    assert decode(ids[:1, :3], options("ids")) == ["aab"]
    assert decode(ids, options("ids", end=2)) == ["aa", " "]
    with pytest.raises(ValueError, match="class -1 in an output; the alphabet has 4 lines"):
        decode(ids, options("ids"))


@pytest.mark.parametrize(
    ("decoder", "output", "message"),
    [
        (
            "ctc",
            np.zeros((1, 4, 5)),
            r"scores \[samples, columns, 4\]; the output is float64\[1, 4",
        ),
        ("argmax", np.zeros((1, 4), int), r"scores \[samples, columns, 4\]"),
        ("ids", np.zeros((1, 4, 4)), r"integers \[samples, columns\]"),
    ],
)
def test_an_output_of_another_form_is_refused(decoder: str, output: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(output, options(decoder))


# alphabets


def test_an_alphabet_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for raw, lines in (
        ("\na\n \n\u3000\n", ("", "a", " ", "\u3000")),
        ("\na\n\u2028\n\x0b", ("", "a", "\u2028", "\x0b")),  # not ends of lines here
        ("\r\na\r\n", ("", "a")),
        ("", ()),
    ):
        path.write_bytes(raw.encode())
        assert read_alphabet(str(path), "--metric") == lines


def test_an_alphabet_that_cannot_be_read_is_said_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    (tmp_path / "latin.txt").write_bytes("\u00e9\n".encode("latin-1"))
    for name, what in (("no.txt", "can't be read: No such file"), ("latin.txt", "not UTF-8 text")):
        with pytest.raises(InputError) as caught:
            metrics.get(f"cer(alphabet={tmp_path / name})", "sweep.toml: metric")
        assert caught.value.problems[0].where == "sweep.toml: metric"
        assert what in caught.value.problems[0].what


# rates


def test_the_error_rate_is_all_edits_over_all_characters(alphabet: Path) -> None:
    metric = metrics.get(f"cer(alphabet={alphabet})")
    labels = np.array(["a b", "b", "aabb"])
    output = scores([1, 3, 2, 0], [1, 0, 1, 2], [0, 0, 0, 0])  # "a b", "aab", ""
    rows = metric.prepare(labels).rows({"y": output}, labels)
    assert rows.shape == (3, 1)
    assert rows[:, 0].tolist() == pytest.approx([0, 2 * 3 / 8, 4 * 3 / 8])
    assert value_of(metric.name, rows) == pytest.approx((0 + 2 + 4) / (3 + 1 + 4))


def test_samples_count_the_same_in_any_batch(alphabet: Path) -> None:
    metric = metrics.get(f"cer(alphabet={alphabet})")
    labels = np.array(["a b", "b", "aabb"])
    output = scores([1, 3, 2, 0], [1, 0, 1, 2], [0, 0, 0, 0])
    metric = metric.prepare(labels)
    one_by_one = [metric.rows({"y": output[i : i + 1]}, labels[i : i + 1]) for i in range(3)]
    assert np.array_equal(metrics.join(one_by_one), metric.rows({"y": output}, labels))


def test_the_word_error_rate_counts_words(alphabet: Path) -> None:
    metric = metrics.get(f"wer(decoder=argmax,alphabet={alphabet})")
    labels = np.array(["a b a", "bb b"])
    output = scores([1, 3, 1, 3, 1], [3, 2, 2, 3, 3])  # "a a a", " bb  "
    rows = metric.prepare(labels).rows({"y": output}, labels)
    assert value_of(metric.name, rows) == pytest.approx((1 + 1) / 5)


def test_labels_that_are_no_texts_or_all_empty_are_refused(alphabet: Path) -> None:
    metric = metrics.get(f"cer(alphabet={alphabet})")
    with pytest.raises(ValueError, match=r"labels are texts \[samples\]; these are int64\[2\]"):
        metric.prepare(np.array([1, 2]))
    with pytest.raises(ValueError, match="all labels are empty texts"):
        metric.prepare(np.array(["", ""]))
    nothing = metric.rows({"y": np.zeros((0, 4, 4), np.float32)}, np.empty(0, "U1"))
    assert value_of(metric.name, nothing) is None
