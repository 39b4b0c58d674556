"""What is kept survives: torn lines, damaged blocks, full disks, second writers."""

from __future__ import annotations

import gc
import json
import math
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline import run

from harness.errors import InputError, StoreError
from harness.record import DropRecord, EndRecord, RoundRecord, from_json, to_json
from harness.store import Store, read, read_block
from harness.types import Candidate, Precision

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = Path(__file__).parent.parent


def end(why="done"):
    return EndRecord(at=NOW, why=why, elapsed_s=1.0)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run(tmp_path_factory.mktemp("run"), precisions=["fp32", "int8", "bf16"])


def records(results):
    return [from_json(line) for line in results.path.read_bytes().splitlines()]


def test_every_kind_of_record_survives_its_line(results):
    found = records(results)
    assert {each.kind for each in found} == {"run", "build", "accuracy", "launch", "round", "end"}
    for each in found:
        assert from_json(to_json(each)) == each


def test_records_are_frozen(results):
    with pytest.raises(ValueError, match="frozen"):
        results.run.run_id = "other"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"kind":"end"', '"kind":"ending"'),
        ('"schema_version":1', '"schema_version":2'),
        ('"why":', '"extra":1,"why":'),
    ],
)
def test_unknown_records_are_refused(old, new):
    line = to_json(end())
    assert old in line
    with pytest.raises(ValueError, match="validation error"):
        from_json(line.replace(old, new))


def test_unknown_fields_inside_are_refused(results):
    line = to_json(results.run)
    with pytest.raises(ValueError, match="extra"):
        from_json(line.replace('"recipe":', '"extra":1,"recipe":', 1))


def test_candidates_ids_are_unique_in_what_they_differ():
    one = Candidate("a", Precision.FP32, "source", "cpu")
    assert one.id != Candidate("a", Precision.INT8, "source", "cpu").id
    assert one.label == "a fp32"


def test_a_torn_line_is_told_and_cut_on_resume(results, tmp_path):
    whole = results.path.read_bytes()
    path = tmp_path / "torn.jsonl"
    path.write_bytes(whole + b'{"kind": "la')
    path.with_suffix(".bin").write_bytes(results.path.with_suffix(".bin").read_bytes() + b"xyz")
    assert "torn last line of 12 bytes" in read(path).notes[0]
    store, again = Store.resume(path)
    store.close()
    assert path.read_bytes() == whole
    assert again.notes == ()
    assert (
        path.with_suffix(".bin").stat().st_size == results.path.with_suffix(".bin").stat().st_size
    )


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1))
def test_a_file_cut_anywhere_reads_as_a_prefix(results, tmp_path_factory, cut):
    whole = results.path.read_bytes()
    path = tmp_path_factory.mktemp("cut") / "run.jsonl"
    path.write_bytes(whole[: int(cut * len(whole))])
    if b"\n" not in path.read_bytes():  # not even the head is whole
        with pytest.raises(InputError, match="not a run"):
            read(path)
        return
    found = read(path)
    assert found.run == results.run
    assert found.launches == results.launches[: len(found.launches)]


def test_what_is_no_run_is_refused(tmp_path):
    for text in ("", "hello\n", to_json(end()) + "\n"):
        (tmp_path / "x.jsonl").write_text(text)
        with pytest.raises(InputError):
            read(tmp_path / "x.jsonl")
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="no run at"):
        Store.resume(tmp_path / "none.jsonl")


def test_blocks_come_back(tmp_path):
    with Store(tmp_path / "r.jsonl") as store:
        small = store.block(np.array([1, 2, 3], "<u8"))
        large = store.block(np.array([1, 2**40], "<u8"))
        scores = store.block(np.array([0.5, np.nan]))
        empty = store.block(np.array([], "<u8"))
    sidecar = tmp_path / "r.bin"
    assert (small.dtype, large.dtype, scores.dtype) == ("uint32", "uint64", "float32")
    assert read_block(sidecar, small).tolist() == [1, 2, 3]
    assert read_block(sidecar, large).tolist() == [1, 2**40]
    assert np.array_equal(read_block(sidecar, scores), [0.5, np.nan], equal_nan=True)
    assert read_block(sidecar, empty).size == 0


def test_a_damaged_block_is_told(tmp_path):
    with Store(tmp_path / "r.jsonl") as store:
        block = store.block(np.arange(100, dtype="<u8"))
    sidecar = tmp_path / "r.bin"
    raw = bytearray(sidecar.read_bytes())
    raw[7] ^= 1
    sidecar.write_bytes(raw)
    with pytest.raises(StoreError, match="damaged"):
        read_block(sidecar, block)
    sidecar.write_bytes(raw[:20])
    with pytest.raises(StoreError, match="damaged"):
        read_block(sidecar, block)
    sidecar.unlink()
    with pytest.raises(StoreError, match="No such file"):
        read_block(sidecar, block)


def test_a_second_writer_is_locked_out(tmp_path):
    with Store(tmp_path / "r.jsonl"), pytest.raises(StoreError, match="another process"):
        Store(tmp_path / "r.jsonl")
    Store(tmp_path / "r.jsonl").close()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        Store(tmp_path / "file" / "r.jsonl")


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    with Store(tmp_path / "r.jsonl") as store:
        store.append(RoundRecord(at=NOW, round=0, elapsed_s=1.0))
        before = (tmp_path / "r.jsonl").read_bytes()
        real = os.fsync

        def full(_descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="disk is full"):
            store.append(end())
        assert (tmp_path / "r.jsonl").read_bytes() == before
        monkeypatch.setattr(os, "fsync", real)
        store.append(end())
    assert (tmp_path / "r.jsonl").read_bytes() == before + to_json(end()).encode() + b"\n"


def test_a_file_that_is_no_run_is_left_as_it_is(tmp_path):
    path = tmp_path / "model.xml"
    path.write_text("<net/>")  # no line break: all of it looks like a torn last line
    path.with_suffix(".bin").write_bytes(b"weights")
    with pytest.raises(InputError, match="not a run"):
        Store.resume(path)
    assert path.read_text() == "<net/>"
    assert path.with_suffix(".bin").read_bytes() == b"weights"
    path.write_text("<net/>\n")
    with pytest.raises(InputError, match=r"model\.xml:1: not a record"):
        Store.resume(path)
    assert path.with_suffix(".bin").read_bytes() == b"weights"


def test_a_store_that_cannot_open_leaves_nothing_open(tmp_path):
    (tmp_path / "r.bin").mkdir()
    with pytest.raises(StoreError, match="Is a directory"):
        Store(tmp_path / "r.jsonl")
    gc.collect()  # an unclosed file is a ResourceWarning, which is an error here
    (tmp_path / "r.bin").rmdir()
    Store(tmp_path / "r.jsonl").close()  # and no lock is left


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from harness.errors import StoreError
from harness.record import EndRecord, from_json
from harness.store import Store

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
line = EndRecord(at="2026-01-01T00:00:00Z", why="done", elapsed_s=1.0)
with Store(path) as store:
    store.append(line)
    block = store.block(np.arange(8, dtype="<u8"))
    before = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    # Half of the next record and of the next block fit: a short write, then an error.
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size, write in (
        (len(before[0]) * 3 // 2, lambda: store.append(line)),
        (len(before[1]) + 6, lambda: store.block(np.arange(8, dtype="<u8"))),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            write()
        except StoreError as error:
            assert "all earlier results are kept" in str(error), error
        else:
            raise SystemExit("nothing was refused")
        assert (path.read_bytes(), path.with_suffix(".bin").read_bytes()) == before
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    store.append(line)
    assert store.block(np.arange(8, dtype="<u8")).offset == block.offset + 32
assert path.read_bytes() == before[0] * 2
"""


def test_a_write_that_is_cut_short_is_taken_back(tmp_path):
    """For real: the kernel refuses the second half of each write."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "r.jsonl")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


def test_infinite_and_undefined_numbers_come_back(results):
    """Infinity is an outcome (outputs that can't be one model's); None would be "not measured"."""
    launch = results.launches[0]
    for value in (math.inf, -math.inf):
        odd = launch.model_copy(update={"output_error": value})
        assert from_json(to_json(odd)) == odd
        assert "Infinity" in json.loads(to_json(odd))["output_error"]  # a string: JSON has no such
    nan = launch.model_copy(update={"output_error": math.nan})
    assert math.isnan(from_json(to_json(nan)).output_error)


RECORDS = st.one_of(
    st.builds(EndRecord, at=st.just(NOW), why=st.text(max_size=20), elapsed_s=st.floats()),
    st.builds(RoundRecord, at=st.just(NOW), round=st.integers(), elapsed_s=st.floats(0, 9)),
    st.builds(DropRecord, at=st.just(NOW), candidate=st.text(), round=st.just(1), reason=st.text()),
)


@settings(max_examples=40, deadline=None)
@given(kept=st.lists(RECORDS, max_size=6), cut=st.floats(0, 1), torn=st.binary(max_size=9))
def test_any_appends_cut_anywhere_go_on_where_they_were(results, tmp_path_factory, kept, cut, torn):
    """Text with any line break of any alphabet stays on its line."""
    path = tmp_path_factory.mktemp("any") / "run.jsonl"
    with Store(path) as store:
        store.append(results.run)
        first = path.stat().st_size
        for each in kept:
            store.append(each)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + len(kept)
    size = first + int(cut * (path.stat().st_size - first))
    whole = [line for n, line in enumerate(lines) if sum(map(len, lines[: n + 1])) <= size]
    path.write_bytes(path.read_bytes()[:size] + torn.replace(b"\n", b""))
    store, found = Store.resume(path)
    with store:
        assert path.read_bytes() == b"".join(whole)
        assert len(found.rounds) == sum(b'"kind":"round"' in line for line in whole)
        store.append(end())
    assert read(path).end == end()
    assert path.read_bytes() == b"".join(whole) + to_json(end()).encode() + b"\n"
