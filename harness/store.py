"""Append-only results: ``<out>/<target>/<run-id>.jsonl`` and its binary sidecar ``.bin``.

The sidecar is synced before the record that refers to it, and every record is synced before the
sweep goes on, so that a crash loses at most the line being written. A torn last line is reported
and cut off when the run is resumed; nothing else is ever rewritten.
"""

from __future__ import annotations

import errno
import fcntl
import os
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Optional, Self

import numpy as np

from harness.errors import InputError, Problem, StoreError
from harness.record import (
    AccuracyRecord,
    AddRecord,
    Block,
    BuildRecord,
    DrawRecord,
    DropRecord,
    EndRecord,
    LaunchRecord,
    RecoveryRecord,
    RoundRecord,
    RunRecord,
    from_json,
    to_json,
)
from harness.types import Candidate

UINT32_MAX = 2**32 - 1


@dataclass(frozen=True)
class Results:
    """One run as read from disk. ``path`` is the record file; notes say what was odd in it."""

    path: Path
    run: RunRecord
    builds: tuple[BuildRecord, ...]
    accuracies: tuple[AccuracyRecord, ...]
    launches: tuple[LaunchRecord, ...]
    rounds: tuple[RoundRecord, ...]
    drops: tuple[DropRecord, ...]
    end: Optional[EndRecord]
    notes: tuple[str, ...] = ()
    added: tuple[AddRecord, ...] = ()
    recoveries: tuple[RecoveryRecord, ...] = ()
    draws: tuple[DrawRecord, ...] = ()

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Those that were planned, and those that the run came up with."""
        return (*self.run.candidates, *(each.candidate for each in self.added))

    def numbers(self, block: Block) -> np.ndarray[Any, Any]:
        """The numbers of a block, shape [count]. Raises StoreError if they are damaged."""
        return read_block(self.path.with_suffix(".bin"), block)


def read_block(sidecar: Path, block: Block) -> np.ndarray[Any, Any]:
    """Read one block of a sidecar and check its sum."""
    dtype = np.dtype(block.dtype).newbyteorder("<")
    try:
        with sidecar.open("rb") as stream:
            stream.seek(block.offset)
            raw = stream.read(block.count * dtype.itemsize)
    except OSError as error:
        raise StoreError(f"{sidecar}: {error.strerror}") from error
    if len(raw) != block.count * dtype.itemsize or zlib.crc32(raw) != block.crc32:
        raise StoreError(f"{sidecar}: the block at {block.offset} is damaged")
    return np.frombuffer(raw, dtype)


def read(path: str | Path) -> Results:
    """Read a run. Raises InputError for a file that isn't one."""
    path = Path(path)
    records, notes, _ = _read_lines(path)
    return _results(path, records, notes)


def siblings(paths: Iterable[Path], most: int = 20) -> list[Results]:
    """The newest other runs in these runs' folders, as far as they can be read."""
    own = {path.resolve() for path in paths}
    folders = {path.parent for path in own}
    others = [path for folder in folders for path in folder.glob("*.jsonl") if path not in own]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    found = []
    for path in others[:most]:
        with suppress(InputError):
            found.append(read(path))
    return found


def _results(path: Path, records: list[Any], notes: Iterable[str]) -> Results:
    if not records or not isinstance(records[0], RunRecord):
        fix = "enginepick sweep writes such files to results/<target>/"
        raise InputError([Problem(str(path), "not a run: its first line is no run record", fix)])
    ends = _only(records, EndRecord)
    return Results(
        path=path,
        run=records[0],
        builds=_only(records, BuildRecord),
        accuracies=_only(records, AccuracyRecord),
        launches=_only(records, LaunchRecord),
        rounds=_only(records, RoundRecord),
        drops=_only(records, DropRecord),
        end=ends[-1] if ends and records[-1] is ends[-1] else None,
        notes=tuple(notes),
        added=_only(records, AddRecord),
        recoveries=_only(records, RecoveryRecord),
        draws=_only(records, DrawRecord),
    )


def _only(records: Iterable[Any], kind: type[Any]) -> tuple[Any, ...]:
    return tuple(record for record in records if isinstance(record, kind))


def _read_lines(path: Path) -> tuple[list[Any], list[str], int]:
    """Records, notes, and the length in bytes of the whole lines."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError([Problem(str(path), error.strerror or "can't be read")]) from error
    whole = raw.rfind(b"\n") + 1
    notes = []
    if whole < len(raw):
        torn = len(raw) - whole
        notes.append(f"{path.name}: a torn last line of {torn} bytes was left out")
    records = []
    for number, line in enumerate(raw[:whole].splitlines(), start=1):
        try:
            records.append(from_json(line))
        except ValueError as error:
            what = f"not a record of a version known here ({str(error).splitlines()[0]})"
            raise InputError([Problem(f"{path}:{number}", what)]) from error
    return records, notes, whole


class Store:
    """Appends to one run. Locked: a second process that opens the same run gets a StoreError."""

    def __init__(self, path: Path) -> None:
        """Open for appending; creates the folder and both files."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what a failed write left behind is in the file alone, and can be cut off.
            self._lines = path.open("ab", buffering=0)
            self._blocks = path.with_suffix(".bin").open("ab", buffering=0)
        except OSError as error:
            self.close()
            raise StoreError(f"{path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise StoreError(f"{path}: another process is writing to this run") from error

    @classmethod
    def resume(cls, path: Path) -> tuple[Store, Results]:
        """Go on with a run: cut off what a crash left torn, and read the rest."""
        if not path.is_file():
            raise InputError([Problem("--resume", f"no run at {path}")])
        store = cls(path)
        try:
            records, _, whole = _read_lines(path)
            results = _results(path, records, ())  # what is no run is refused, and left as it is
            os.truncate(path, whole)
            blocks = [getattr(r, name, None) for r in records for name in ("durations", "scores")]
            ends = [b.offset + b.count * np.dtype(b.dtype).itemsize for b in blocks if b]
            os.truncate(path.with_suffix(".bin"), max(ends, default=0))
        except BaseException:
            store.close()
            raise
        return store, results

    def append(self, record: Any) -> None:
        """Write one record and sync it."""
        self._write(self._lines, to_json(record).encode() + b"\n")

    def block(self, numbers: np.ndarray[Any, Any]) -> Block:
        """Append numbers to the sidecar and sync it.

        Integers become uint32 where they fit (durations under 4.29 s), else uint64; floats become
        float32.
        """
        if numbers.dtype.kind == "f":
            kept = numbers.astype("<f4")
        else:
            fits = numbers.size == 0 or int(numbers.max()) <= UINT32_MAX
            kept = numbers.astype("<u4" if fits else "<u8")
        raw = kept.tobytes()
        offset = self._write(self._blocks, raw)
        return Block.model_validate(
            {
                "offset": offset,
                "count": kept.size,
                "dtype": kept.dtype.name,
                "crc32": zlib.crc32(raw),
            }
        )

    @staticmethod
    def _write(stream: FileIO, raw: bytes) -> int:
        """Append and sync, or leave the file as it was. Returns the offset written at."""
        start = stream.seek(0, os.SEEK_END)
        try:
            rest = memoryview(raw)
            while rest:
                rest = rest[stream.write(rest) :]
            os.fsync(stream.fileno())
        except OSError as error:
            os.truncate(stream.fileno(), start)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            what = "the disk is full" if full else error.strerror
            raise StoreError(f"{stream.name}: {what}; all earlier results are kept") from error
        return start

    def close(self) -> None:
        """Close both files and give up the lock."""
        for name in ("_lines", "_blocks"):
            stream = getattr(self, name, None)
            if stream is not None and not stream.closed:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
