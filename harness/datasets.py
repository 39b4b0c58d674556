"""Samples and labels on disk: what the user's ``--data`` and ``--calibration`` name.

A data set is one ``.npz`` or a folder of such shards. Its arrays are named as the model's inputs,
plus ``labels`` where there are any; the leading axis of every array counts the samples. Nothing is
ever unpickled, and one shard at a time is in memory, so a set may be larger than that.

Imported by workers: the standard library of Python 3.9 and numpy only.
"""

from __future__ import annotations

import errno
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from harness.backend import Feed
from harness.errors import InputError, Problem, StoreError, first_line, suggest
from harness.functions import load_function
from harness.types import Array, TensorSpec

LABELS = "labels"
"""The array of a shard that is no input of the model."""

DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, NotImplementedError)
"""What reading a damaged ``.npz`` may raise."""

SHARD_BYTES = 64 * 1024 * 1024
"""About how large :func:`spool` makes a shard."""

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Shard:
    """One ``.npz`` file: its absolute path and how many samples it holds."""

    path: str
    samples: int


@dataclass(frozen=True)
class DataRef:
    """A data set on disk.

    source: as the user wrote it. shards: in the order of their names, which numbers the samples.
    labelled: whether the shards hold ``labels``. sha256: of the file; of several shards, the
    sha256 over their hexadecimal digests in order.
    """

    source: str
    shards: tuple[Shard, ...]
    labelled: bool
    sha256: str

    @property
    def samples(self) -> int:
        """How many samples there are in all shards."""
        return sum(shard.samples for shard in self.shards)


@dataclass(frozen=True)
class Header:
    """What an array is, read without its data. shape: the leading axis counts the samples."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def kind(self) -> str:
        """The dtype's name in numpy; ``str`` and ``bytes`` whatever their width."""
        return {"U": "str", "S": "bytes"}.get(self.dtype.kind, self.dtype.name)


@dataclass(frozen=True)
class Layout:
    """How samples become the model's inputs.

    size: samples per feed. fixed: the model's leading dimension is ``size``, so that the last
    feed is padded. whole: the inputs that have no batch axis; each takes one whole sample.
    batched: whether any input has one, and the outputs so, too.
    """

    size: int
    fixed: bool
    whole: tuple[str, ...]
    batched: bool = True


def layout(
    specs: Sequence[TensorSpec], ranks: Mapping[str, int], batch: int, where: str = "--data"
) -> Layout:
    """Tell how arrays of these ranks (the sample axis included) feed a model.

    An input of the array's rank has a batch axis. Where its leading dimension is fixed, that is
    the number of samples per feed, whatever ``batch`` says. An input of one rank less takes each
    sample as a whole. Raises InputError for a rank that fits neither way, for inputs whose fixed
    batches differ, and for ``batch`` > 1 where there is no batch axis.
    """
    problems = []
    fixed: dict[str, int] = {}
    whole = []
    for spec in specs:
        rank = ranks[spec.name]
        if rank == len(spec.shape) + 1:
            whole.append(spec.name)
        elif rank != len(spec.shape) or not rank:
            problems.append(_rank_problem(spec, rank, where))
        elif isinstance(spec.shape[0], int):
            fixed[spec.name] = spec.shape[0]
    if len(set(fixed.values())) > 1:
        sizes = ", ".join(f"{name} {size}" for name, size in fixed.items())
        what = f"the model's inputs have different fixed batch sizes: {sizes}"
        problems.append(Problem(where, what, "export the model with one batch size for all"))
    size = next(iter(fixed.values()), batch)
    if whole and size != 1:
        what = f"a batch of {size} samples, but the input {whole[0]} has no batch axis"
        problems.append(Problem(where, what, "use a batch of 1, or export a batch axis"))
    if size < 1:
        problems.append(Problem(where, f"a batch of {size} samples; expected 1 or more"))
    if problems:
        raise InputError(problems)
    return Layout(size, bool(fixed), tuple(whole), len(whole) < len(specs))


def _rank_problem(spec: TensorSpec, rank: int, where: str) -> Problem:
    wanted = len(spec.shape) or 1
    what = f"the array has {rank} axes (the samples' included); the model's input is {spec}"
    if rank == wanted - 1:
        fix = f'add the missing axis: array[:, np.newaxis], saved again as "{spec.name}"'
    else:
        fix = f"save it with {wanted} axes: one sample per index of the first"
    return Problem(f"{where}: {spec.name}", what, fix)


class Dataset:
    """Reads a :class:`DataRef`. Samples are numbered from 0 through all shards in order."""

    def __init__(self, ref: DataRef) -> None:
        self.ref = ref
        self._ends = np.cumsum([shard.samples for shard in ref.shards], dtype=np.int64)

    def __len__(self) -> int:
        return self.ref.samples

    def labels(self, indices: Optional[Sequence[int]] = None) -> Array:
        """The labels of these samples (all: None), in the order of ``indices``; [samples, ...].

        Raises InputError where the set has no labels.
        """
        if not self.ref.labelled:
            raise InputError([Problem(self.ref.source, f'the data have no "{LABELS}" array')])
        numbers = np.arange(len(self)) if indices is None else self._numbers(indices)
        parts = [arrays[LABELS][rows] for arrays, rows, _ in self._runs((LABELS,), numbers)]
        if not parts:
            header = headers(self.ref.shards[0].path)[LABELS]
            return np.empty((0, *header.shape[1:]), dtype=header.dtype)
        return np.concatenate(parts)

    def layout(self, specs: Sequence[TensorSpec], batch: int = 1) -> Layout:
        """How this set feeds a model of these inputs. Raises InputError where it can't."""
        table = headers(self.ref.shards[0].path)
        absent = [spec for spec in specs if spec.name not in table]
        if absent:
            raise InputError(
                Problem(f"{self.ref.source}: {spec.name}", f"no array for the input {spec}")
                for spec in absent
            )
        ranks = {spec.name: len(table[spec.name].shape) for spec in specs}
        return layout(specs, ranks, batch, self.ref.source)

    def feeds(
        self, specs: Sequence[TensorSpec], indices: Sequence[int], batch: int = 1
    ) -> Iterator[tuple[Feed, Array]]:
        """Yield (feed, the int64 numbers of its samples) for these samples, in this order.

        Feeds are formed as :func:`layout` says. With a fixed batch the last feed is padded by
        repeating its last sample; the numbers name the real samples only, so they may be fewer.
        A feed never mixes samples of different shapes: where the next shard's differ, a shorter
        (or padded) feed comes first. Arrays are C-contiguous and in native byte order. Sorted
        indices read each shard once. Errors are raised at the call, before the first feed.
        """
        form = self.layout(specs, batch)
        numbers = self._numbers(indices)
        return self._feeds(tuple(spec.name for spec in specs), numbers, form)

    def _feeds(
        self, names: tuple[str, ...], numbers: Array, form: Layout
    ) -> Iterator[tuple[Feed, Array]]:
        pieces: list[tuple[dict[str, Array], Array]] = []
        shapes: Optional[list[tuple[int, ...]]] = None
        held = 0
        for arrays, rows, samples in self._runs(names, numbers):
            before, shapes = shapes, [array.shape[1:] for array in arrays.values()]
            if pieces and before != shapes:
                yield _join(pieces, form)
                pieces, held = [], 0
            start = 0
            while start < len(rows):
                stop = min(start + form.size - held, len(rows))
                taken = {name: array[rows[start:stop]] for name, array in arrays.items()}
                pieces.append((taken, samples[start:stop]))
                held += stop - start
                start = stop
                if held == form.size:
                    yield _join(pieces, form)
                    pieces, held = [], 0
            del arrays  # the next shard is loaded only once this one is released
        if pieces:
            yield _join(pieces, form)

    def scan(self, names: Sequence[str]) -> Iterator[tuple[Shard, int, dict[str, Array]]]:
        """Yield every shard, the number of its first sample, and these arrays of it in full."""
        first = 0
        for shard in self.ref.shards:
            yield shard, first, _load(shard, names)
            first += shard.samples

    def _numbers(self, indices: Sequence[int]) -> Array:
        numbers = np.asarray(indices, dtype=np.int64).reshape(-1)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= len(self)):
            raise IndexError(f"a sample outside 0..{len(self) - 1} of {self.ref.source}")
        return numbers

    def _runs(
        self, names: Sequence[str], numbers: Array
    ) -> Iterator[tuple[dict[str, Array], Array, Array]]:
        """Yield (a shard's arrays, rows in them, the samples' numbers), a run within one shard."""
        if not numbers.size:
            return
        owners = np.searchsorted(self._ends, numbers, side="right")
        cuts = np.flatnonzero(np.diff(owners)) + 1
        for run in np.split(np.arange(numbers.size), cuts):
            owner = int(owners[run[0]])
            shard = self.ref.shards[owner]
            first = int(self._ends[owner]) - shard.samples
            yield _load(shard, names), numbers[run] - first, numbers[run]


def _load(shard: Shard, names: Sequence[str]) -> dict[str, Array]:
    with np.load(shard.path, allow_pickle=False) as archive:
        arrays = {name: _native(archive[name]) for name in names}
    for name, array in arrays.items():
        if len(array) != shard.samples:
            what = f"{len(array)} samples, but {shard.samples} when it was checked"
            raise InputError([Problem(f"{shard.path}: {name}", what, "start the run again")])
    return arrays


def _native(array: Array) -> Array:
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _join(pieces: list[tuple[dict[str, Array], Array]], form: Layout) -> tuple[Feed, Array]:
    samples = np.concatenate([numbers for _, numbers in pieces])
    feed = {}
    for name in pieces[0][0]:
        rows = np.concatenate([taken[name] for taken, _ in pieces])
        if name in form.whole:
            # asarray, not ascontiguousarray: the latter makes a vector of a scalar.
            feed[name] = np.asarray(rows[0], order="C")
            continue
        missing = form.size - len(rows) if form.fixed else 0
        if missing:
            rows = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
        feed[name] = np.ascontiguousarray(rows)
    return feed, samples


@dataclass(frozen=True)
class CalibrationSet:
    """The samples of a set that calibrate, as :class:`harness.backend.Calibration`.

    Each feed holds one sample, or the model's fixed batch (the last one padded by its last
    sample); ``len`` counts the feeds of a set whose samples all have one shape.
    """

    ref: DataRef
    specs: tuple[TensorSpec, ...]
    indices: tuple[int, ...]

    def feeds(self) -> Iterator[Feed]:
        """Yield the feeds in the order of ``indices``, from the start at each call."""
        for feed, _ in Dataset(self.ref).feeds(self.specs, self.indices, batch=1):
            yield feed

    def __len__(self) -> int:
        size = Dataset(self.ref).layout(self.specs).size
        return (len(self.indices) + size - 1) // size


def split_off(wanted: int, samples: int) -> int:
    """How many samples calibrate: as many as wanted, but at most a third of the data."""
    return min(wanted, samples // 3)


def split(samples: int, calibration: int, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Part ``samples`` into (calibration, validation): disjoint, sorted, together all of them.

    Sample i gets the key ``mix(mix(seed) + i)`` modulo 2**64, where ``mix`` is the output function
    of SplitMix64 (Steele, Lea and Flood, 2014); the ``calibration`` smallest keys calibrate. So
    the seed and the count say it all, on every version of Python and numpy, and a smaller
    calibration set is part of a larger one. ``mix`` is a bijection, so that no two keys tie.
    Raises InputError when nothing would be left to validate with.
    """
    if calibration < 0 or (calibration and calibration >= samples):
        what = f"{calibration} calibration samples asked for, and the data hold {samples}"
        fix = "ask for fewer, or name calibration data of their own with --calibration"
        raise InputError([Problem("--data", what, fix)])
    order = np.argsort(_keys(np.arange(samples), seed), kind="stable")
    chosen, rest = np.sort(order[:calibration]), np.sort(order[calibration:])
    return tuple(chosen.tolist()), tuple(rest.tolist())


FIRST_STAGE = 64
STAGE_GROWTH = 4


def stages(numbers: Sequence[int], seed: int) -> tuple[tuple[int, ...], ...]:
    """Sample numbers parted at random into stages; together all of them, each sorted.

    After each stage what was seen is a random draw, whatever order the data have, and a stage reads
    each shard once. The first has 64 samples, and each next one makes it four times as many.
    """
    own = np.asarray(numbers, dtype=np.int64)
    # Not the order of the split, of which these are the last ones.
    order = own[np.argsort(_keys(own, ~seed), kind="stable")]
    parts = np.split(order, stage_ends(len(order)))
    return tuple(tuple(np.sort(part).tolist()) for part in parts if part.size)


def stage_ends(samples: int) -> list[int]:
    """Where the stages of so many samples end, but for the last."""
    ends, end = [], FIRST_STAGE
    while end < samples:
        ends.append(end)
        end *= STAGE_GROWTH
    return ends


def draw(samples: int, count: int, seed: int) -> tuple[int, ...]:
    """``count`` of the samples 0.. at random (all, if there are no more), sorted."""
    return split(samples, count, seed)[0] if count < samples else tuple(range(samples))


def _keys(numbers: Array, seed: int) -> Array:
    start = _mix(np.array([seed & _MASK], dtype=np.uint64))
    mixed: Array = _mix(numbers.astype(np.uint64) + start)
    return mixed


def _mix(keys: Array) -> Array:
    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = keys ^ (keys >> np.uint64(31))
    return mixed


def headers(path: str, where: str = "--data") -> dict[str, Header]:
    """The arrays of an ``.npz`` by name, without their data. Raises InputError if it isn't one."""
    place = f"{where}: {Path(path).name}"
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(64)
        if not head.startswith(b"PK"):
            raise InputError([_not_npz(head, place)])
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
            table = {name[: -len(".npy")]: _header(archive, name) for name in members}
    except DAMAGE as error:
        what = f"a damaged .npz: {first_line(error)}"
        fix = "save it again with np.savez, or copy it again: it may be cut short"
        raise InputError([Problem(place, what, fix)]) from error
    if not table:
        fix = "np.savez(path, **{input_name: array}, labels=labels)"
        raise InputError([Problem(place, "a zip file without numpy arrays; expected .npz", fix)])
    return table


def _header(archive: zipfile.ZipFile, member: str) -> Header:
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"{member} has the array format {version}; expected 1.0 or 2.0")
    return Header(dtype, shape)


def _not_npz(head: bytes, place: str) -> Problem:
    save = "np.savez(path, **{input_name: array}, labels=labels)"
    if not head:
        return Problem(place, "the file is empty; expected an .npz", save)
    if head.startswith(b"\x93NUMPY"):
        what = "a single array (.npy); expected an .npz, whose arrays have the inputs' names"
        return Problem(place, what, save)
    if head.startswith(b"version https://git-lfs"):
        return Problem(place, "a Git LFS pointer, not the file itself", "git lfs pull")
    return Problem(place, "not an .npz file (a zip of numpy arrays)", save)


def resolve(source: str, where: str = "--data") -> DataRef:
    """Find the data set at a path and check its structure, without loading the arrays.

    source: an ``.npz``, or a folder of them. where: the option that the problems name.
    Raises InputError with all problems at once. What the model makes of it is
    :func:`harness.checks.check`'s business. A ``module:function`` must be spooled first.
    """
    paths = _shard_paths(source, where)
    problems: list[Problem] = []
    tables: dict[str, dict[str, Header]] = {}
    for path in paths:
        try:
            tables[path] = headers(path, where)
        except InputError as error:
            problems += error.problems
    for path, table in tables.items():
        problems += _array_problems(table, f"{where}: {Path(path).name}")
    if not problems:
        problems += _unlike_shards(tables, where)
    if not problems and not any(_samples(table) for table in tables.values()):
        problems.append(Problem(where, f"no samples in {source}; expected at least one"))
    if problems:
        raise InputError(problems)
    digests = [_hash_file(path) for path in paths]
    joined = hashlib.sha256("".join(digests).encode()).hexdigest()
    return DataRef(
        source=source,
        shards=tuple(Shard(path, _samples(table)) for path, table in tables.items()),
        labelled=LABELS in tables[paths[0]],
        sha256=digests[0] if len(digests) == 1 else joined,
    )


def _shard_paths(source: str, where: str) -> list[str]:
    path = Path(source).absolute()
    if path.is_file():
        return [str(path)]
    if not path.is_dir():
        near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = suggest(Path(source).name, near)
        raise InputError([Problem(where, f"no such file or folder: {source}", hint)])
    # A copy from a Mac leaves "._name.npz" beside each shard.
    shards = sorted(shard for shard in path.glob("*.npz") if not shard.name.startswith("."))
    if not shards:
        fix = "np.savez(folder/000.npz, **{input_name: array}, labels=labels)"
        raise InputError([Problem(where, f"no .npz files in the folder {source}", fix)])
    return [str(shard) for shard in shards]


def _samples(table: Mapping[str, Header]) -> int:
    return next(iter(table.values())).shape[0]


def _array_problems(table: Mapping[str, Header], place: str) -> list[Problem]:
    """What is wrong with one shard's arrays, whatever the model."""
    problems = []
    for name, header in table.items():
        if header.dtype.hasobject:
            what = "an array of Python objects (pickled), which is never loaded"
            fix = "save an array of numbers, or of fixed-width strings: array.astype(str)"
            problems.append(Problem(f"{place}: {name}", what, fix))
        elif header.dtype.names:
            fix = "save each field as an array of its own"
            problems.append(Problem(f"{place}: {name}", "a structured array", fix))
        if not header.shape:
            what = "a single value; expected an array whose leading axis counts the samples"
            problems.append(Problem(f"{place}: {name}", what, "leave it out, or np.stack it"))
    if not set(table) - {LABELS}:
        what = f'nothing but "{LABELS}"; expected an array for each of the model\'s inputs'
        problems.append(Problem(place, what))
    counts = {name: header.shape[0] for name, header in table.items() if header.shape}
    lengths = {name: count for name, count in counts.items() if name != LABELS}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in lengths.items())
        what = f"arrays of different numbers of samples: {found}"
        problems.append(Problem(place, what, "save as many samples in every array"))
    elif lengths and counts.get(LABELS, next(iter(lengths.values()))) not in lengths.values():
        what = f"{counts[LABELS]} labels for {next(iter(lengths.values()))} samples"
        problems.append(Problem(f"{place}: {LABELS}", what, "save one label per sample"))
    return problems


def _unlike_shards(tables: Mapping[str, Mapping[str, Header]], where: str) -> list[Problem]:
    """How shards differ from the first in names, dtypes, ranks, or the shape of a label."""
    problems = []
    (first_path, first), *others = tables.items()
    origin = Path(first_path).name
    for path, table in others:
        place = f"{where}: {Path(path).name}"
        if set(table) != set(first):
            found, expected = ", ".join(sorted(table)), ", ".join(sorted(first))
            what = f"holds the arrays {found}; the first shard, {origin}, holds {expected}"
            problems.append(Problem(place, what, "save the same arrays in every shard"))
            continue
        for name, header in table.items():
            model = first[name]
            kept = slice(1, None) if name == LABELS else slice(0, 0)
            if (header.kind, len(header.shape), header.shape[kept]) != (
                model.kind,
                len(model.shape),
                model.shape[kept],
            ):
                what = f"{_describe(header)}; in the first shard, {origin}, {_describe(model)}"
                fix = "save an array with the same dtype and axes in every shard"
                problems.append(Problem(f"{place}: {name}", what, fix))
    return problems


def _describe(header: Header) -> str:
    return f"{header.kind}[{', '.join(map(str, header.shape))}]"


def _hash_file(path: str) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def spool(
    function_spec: str, folder: str, where: str = "--data", shard_bytes: int = SHARD_BYTES
) -> None:
    """Write what the user's ``module:function`` yields into ``folder`` as shards.

    The function takes nothing and yields ``(feed, label)`` batches: a mapping of arrays by input
    name, whose leading axes count the batch's samples, and their labels or None. ``folder`` is
    made if it isn't there and must hold no shards yet (ValueError), as they would join the data.
    A shard has some ``shard_bytes``, at least one sample, and samples of one shape. Raises
    InputError for what the function raises or yields wrongly, StoreError when the disk is full.
    """
    function = load_function(function_spec, where)
    Path(folder).mkdir(parents=True, exist_ok=True)
    if any(Path(folder).glob("*.npz")):
        raise ValueError(f"{folder} already holds shards")
    place = f"{where}: {function_spec}"
    writer = ShardWriter(folder, shard_bytes)
    for number, item in enumerate(_yielded(function, place)):
        writer.add(_batch(item, number, place), f"{place}: batch {number}")
    writer.flush()
    if not writer.shards:
        fix = "yield ({input_name: array}, labels) at least once"
        raise InputError([Problem(place, "yielded no samples", fix)])


def _yielded(function: Callable[..., Any], place: str) -> Iterator[Any]:
    """The items of the user's generator; what it raises becomes an InputError."""
    try:
        yield from function()
    except Exception as error:
        what = f"raised {type(error).__name__}: {first_line(error)}"
        raise InputError([Problem(place, what, "mend the function, and run again")]) from error


def _batch(item: Any, number: int, place: str) -> dict[str, Array]:
    """One yielded ``(feed, label)`` as arrays by name, checked by themselves."""
    where = f"{place}: batch {number}"
    if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], Mapping)):  # noqa: PLR2004 - a pair
        what = f"yielded {type(item).__name__}; expected a pair ({{input_name: array}}, labels)"
        raise InputError([Problem(where, what, "yield (feed, None) where there are no labels")])
    feed, labels = item
    if labels is not None and LABELS in feed:
        what = f'"{LABELS}" both in the feed and beside it'
        raise InputError([Problem(where, what, "yield the labels beside the feed only")])
    try:
        # A copy: generators often fill and yield the same buffer again.
        arrays = {str(name): np.array(value) for name, value in feed.items()}
        if labels is not None:
            arrays[LABELS] = np.array(labels)
    except ValueError as error:
        what = f"no array: {first_line(error)}"
        raise InputError([Problem(where, what, "yield arrays, one row per sample")]) from error
    problems = _array_problems({n: Header(a.dtype, a.shape) for n, a in arrays.items()}, where)
    if problems:
        raise InputError(problems)
    return arrays


class ShardWriter:
    """Gathers batches and writes a shard when it is large enough or the samples' shape changes."""

    def __init__(self, folder: str, shard_bytes: int = SHARD_BYTES) -> None:
        self.shards = 0
        self._folder = Path(folder)
        self._limit = shard_bytes
        self._pending: list[dict[str, Array]] = []
        self._bytes = 0
        self._first: Optional[dict[str, str]] = None
        self._shapes: Optional[dict[str, tuple[int, ...]]] = None

    def add(self, arrays: dict[str, Array], where: str) -> None:
        """Take over a batch, arrays [samples, ...]. Raises InputError if it is unlike the first."""
        count = len(next(iter(arrays.values())))
        if not count:
            return
        kinds = {name: Header(array.dtype, array.shape).kind for name, array in arrays.items()}
        self._first = self._first or kinds
        if kinds != self._first:
            what = f"holds {_listed(kinds)}; the first batch held {_listed(self._first)}"
            raise InputError([Problem(where, what, "yield the same arrays in every batch")])
        shapes = {name: array.shape[1:] for name, array in arrays.items()}
        if shapes != self._shapes:
            self.flush()
            self._shapes = shapes
        each = max(1, sum(array.nbytes for array in arrays.values()) // count)
        start = 0
        while start < count:
            room = (self._limit - self._bytes) // each
            if room < 1 and self._pending:
                self.flush()
                continue
            stop = min(count, start + max(1, room))
            self._pending.append({name: array[start:stop] for name, array in arrays.items()})
            self._bytes += each * (stop - start)
            start = stop

    def flush(self) -> None:
        """Write what is pending. A shard appears whole or not at all."""
        if not self._pending:
            return
        path = self._folder / f"shard-{self.shards:06d}.npz"
        part = path.with_suffix(".part")
        try:
            # Not np.savez(**arrays): an input may well be named as its parameter, "file".
            with zipfile.ZipFile(part, "w", allowZip64=True) as archive:
                for name in self._pending[0]:
                    array = np.concatenate([rows[name] for rows in self._pending])
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                        np.lib.format.write_array(stream, array, allow_pickle=False)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise StoreError(f"no room left on the disk for {path}") from error
        part.replace(path)
        self.shards += 1
        self._pending, self._bytes = [], 0


def _listed(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
