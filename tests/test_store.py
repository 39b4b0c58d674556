"""What is kept survives: torn lines, damaged blocks, full disks, second writers."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline import run

from harness.errors import InputError, StoreError
from harness.record import EndRecord, RoundRecord, from_json, to_json
from harness.store import Store, read, read_block
from harness.types import Candidate, Precision

NOW = datetime(2026, 1, 1, tzinfo=UTC)


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
