from __future__ import annotations

import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import datasets
from harness.datasets import (
    CalibrationSet,
    DataRef,
    Dataset,
    Shard,
    draw,
    resolve,
    split,
    spool,
    stages,
)
from harness.errors import InputError, StoreError
from harness.functions import is_function
from harness.types import TensorSpec

Array = np.ndarray[Any, Any]

X_BATCHED = TensorSpec("x", "float32", ("n", 3))
X_FIXED = TensorSpec("x", "float32", (4, 3))
X_WHOLE = TensorSpec("x", "float32", (3,))


def rows(count: int, start: int = 0) -> Array:
    """Row i holds 3 i, 3 i + 1, 3 i + 2, so that a sample tells its number."""
    return (np.arange(count * 3, dtype=np.float32) + 3 * start).reshape(count, 3)


def folder(path: Path, *counts: int, labels: bool = True) -> DataRef:
    """Shards of these many samples; sample i has the label i."""
    path.mkdir()
    start = 0
    for number, count in enumerate(counts):
        arrays: dict[str, Any] = {"x": rows(count, start)}
        if labels:
            arrays["labels"] = np.arange(start, start + count)
        np.savez(path / f"{number:03d}.npz", **arrays)
        start += count
    return resolve(str(path))


def problems(error: pytest.ExceptionInfo[InputError]) -> str:
    return str(error.value)


# resolve


def test_resolves_one_file(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=rows(5), labels=np.arange(5))
    ref = resolve(str(path))
    assert ref.shards == (Shard(str(path), 5),)
    assert ref.labelled
    assert ref.samples == len(Dataset(ref)) == 5
    assert len(ref.sha256) == 64


def test_resolves_shards_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, count in (("b.npz", 2), ("a.npz", 3), ("._a.npz", 0), ("notes.txt", 0)):
        if count:
            np.savez(tmp_path / name, x=rows(count))
        else:
            (tmp_path / name).write_text("no shard")
    ref = resolve(str(tmp_path))
    assert [(Path(shard.path).name, shard.samples) for shard in ref.shards] == [
        ("a.npz", 3),
        ("b.npz", 2),
    ]
    assert not ref.labelled


def test_paths_stay_valid_in_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "d.npz", x=rows(2))
    monkeypatch.chdir(tmp_path)
    ref = resolve("d.npz")
    monkeypatch.chdir("/")
    assert ref.source == "d.npz"
    assert [len(numbers) for _, numbers in Dataset(ref).feeds((X_BATCHED,), (0, 1), 2)] == [2]


def test_both_array_formats_are_read(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, version in (("x", (1, 0)), ("y", (2, 0))):
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, rows(2), version=version)
    assert {name: header.shape for name, header in datasets.headers(str(path)).items()} == {
        "x": (2, 3),
        "y": (2, 3),
    }


def test_the_hash_follows_the_content(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", 2, 3)
    same = folder(tmp_path / "same", 2, 3)
    other = folder(tmp_path / "other", 3, 2)
    assert one.sha256 == same.sha256 != other.sha256


def write(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


def truncated(path: Path) -> None:
    np.savez(path, x=rows(100))
    path.write_bytes(path.read_bytes()[:600])


def without_arrays(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no arrays")


def bad_member(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", "this is no array")


def single_array(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, rows(2))


MIXED = np.array([1, "a", None], dtype=object)
STRUCTURED = np.zeros(2, dtype=[("a", "f4"), ("b", "i4")])

BAD_FILES: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("empty", lambda path: path.write_bytes(b""), "--data: d.npz", "the file is empty"),
    ("text", lambda path: path.write_text("a,b\n1,2\n"), "--data: d.npz", "not an .npz file"),
    (
        "git lfs",
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid x\n"),
        "--data: d.npz",
        "Git LFS pointer",
    ),
    ("npy", single_array, "--data: d.npz", "a single array (.npy); expected an .npz"),
    ("truncated", truncated, "--data: d.npz", "a damaged .npz: File is not a zip file"),
    ("no arrays", without_arrays, "--data: d.npz", "a zip file without numpy arrays"),
    ("bad member", bad_member, "--data: d.npz", "a damaged .npz: the magic string"),
    ("pickled", lambda path: write(path, x=MIXED), "--data: d.npz: x", "Python objects (pickled)"),
    ("structured", lambda path: write(path, x=STRUCTURED), "--data: d.npz: x", "a structured"),
    ("scalar", lambda path: write(path, x=np.float32(1)), "--data: d.npz: x", "a single value"),
    ("only labels", lambda path: write(path, labels=[1]), "--data: d.npz", 'nothing but "labels"'),
    ("no samples", lambda path: write(path, x=rows(0)), "--data", "no samples"),
    (
        "lengths",
        lambda path: write(path, x=rows(3), y=rows(2)),
        "--data: d.npz",
        "different numbers of samples: x 3, y 2",
    ),
    (
        "labels' length",
        lambda path: write(path, x=rows(3), labels=[1, 2]),
        "--data: d.npz: labels",
        "2 labels for 3 samples",
    ),
]


@pytest.mark.parametrize(
    ("make", "where", "what"), [case[1:] for case in BAD_FILES], ids=[case[0] for case in BAD_FILES]
)
def test_refuses_a_bad_file(
    tmp_path: Path, make: Callable[[Path], object], where: str, what: str
) -> None:
    path = tmp_path / "d.npz"
    make(path)
    with pytest.raises(InputError) as error:
        resolve(str(path))
    (problem,) = error.value.problems
    assert problem.where == where
    assert what in problem.what


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    np.savez(tmp_path / "digits.npz", x=rows(1))
    with pytest.raises(InputError) as error:
        resolve(str(tmp_path / "digit.npz"), "--calibration")
    (problem,) = error.value.problems
    assert problem.where == "--calibration"
    assert problem.what == f"no such file or folder: {tmp_path / 'digit.npz'}"
    assert problem.fix == 'did you mean "digits.npz"?'


def test_a_folder_without_shards(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \.npz files in the folder"):
        resolve(str(tmp_path))


def test_empty_shards_beside_full_ones_are_fine(tmp_path: Path) -> None:
    ref = folder(tmp_path / "d", 2, 0, 3)
    assert [numbers.tolist() for _, numbers in Dataset(ref).feeds((X_BATCHED,), range(5), 2)] == [
        [0, 1],
        [2, 3],
        [4],
    ]


@pytest.mark.parametrize(
    ("arrays", "where", "what"),
    [
        ({"y": rows(2)}, "--data: b.npz", "holds the arrays y; the first shard, a.npz, holds x"),
        ({"x": rows(2).astype(np.float64)}, "--data: b.npz: x", "float64[2, 3]; in the first"),
        ({"x": rows(2)[:, 0]}, "--data: b.npz: x", "float32[2]; in the first shard, a.npz, float"),
    ],
    ids=["keys", "dtype", "rank"],
)
def test_shards_must_be_alike(
    tmp_path: Path, arrays: dict[str, Array], where: str, what: str
) -> None:
    write(tmp_path / "a.npz", x=rows(2))
    write(tmp_path / "b.npz", **arrays)
    with pytest.raises(InputError) as error:
        resolve(str(tmp_path))
    (problem,) = error.value.problems
    assert problem.where == where
    assert what in problem.what


def test_all_problems_of_all_shards_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"")
    write(tmp_path / "b.npz", x=MIXED, y=rows(2))
    with pytest.raises(InputError) as error:
        resolve(str(tmp_path))
    assert [problem.where for problem in error.value.problems] == [
        "--data: a.npz",
        "--data: b.npz: x",
        "--data: b.npz",
    ]


# feeds


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any),
    batch=st.integers(1, 7),
    data=st.data(),
)
def test_every_index_is_fed_exactly_once_with_its_own_sample(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], batch: int, data: st.DataObject
) -> None:
    ref = folder(tmp_path_factory.mktemp("feeds") / "d", *counts)
    total = sum(counts)
    indices = data.draw(st.lists(st.integers(0, total - 1), max_size=12))
    for spec, size in ((X_BATCHED, batch), (X_FIXED, 4)):
        fed = list(Dataset(ref).feeds((spec,), indices, batch))
        assert [index for _, numbers in fed for index in numbers.tolist()] == indices
        for feed, numbers in fed:
            assert feed["x"].flags.c_contiguous
            assert feed["x"][: len(numbers)].tolist() == [
                [3 * i, 3 * i + 1, 3 * i + 2] for i in numbers
            ]
        assert [len(numbers) for _, numbers in fed[:-1]] == [size] * (len(fed) - 1)


def test_a_fixed_batch_is_padded_by_its_last_sample(tmp_path: Path) -> None:
    ref = folder(tmp_path / "d", 3, 3)
    first, last = Dataset(ref).feeds((X_FIXED,), range(6))
    assert first[1].tolist() == [0, 1, 2, 3]
    assert last[1].tolist() == [4, 5]
    assert last[0]["x"][:, 0].tolist() == [12, 15, 15, 15]


def test_a_dynamic_batch_is_not_padded(tmp_path: Path) -> None:
    ref = folder(tmp_path / "d", 5)
    shapes = [feed["x"].shape for feed, _ in Dataset(ref).feeds((X_BATCHED,), range(5), 4)]
    assert shapes == [(4, 3), (1, 3)]


def test_without_a_batch_axis_each_sample_is_whole(tmp_path: Path) -> None:
    write(tmp_path / "d.npz", x=rows(2), s=np.array([5, 6], dtype=np.int64))
    specs = (X_WHOLE, TensorSpec("s", "int64", ()))
    ref = resolve(str(tmp_path / "d.npz"))
    fed = list(Dataset(ref).feeds(specs, (1, 0)))
    assert [feed["x"].shape for feed, _ in fed] == [(3,), (3,)]
    assert [feed["s"].shape for feed, _ in fed] == [(), ()]
    assert [int(feed["s"]) for feed, _ in fed] == [6, 5]
    with pytest.raises(InputError, match="the input x has no batch axis"):
        Dataset(ref).feeds(specs, (0, 1), batch=2)
    assert not Dataset(ref).layout(specs).batched
    mixed = Dataset(ref).layout((X_BATCHED, specs[1]))  # a scalar beside an input with a batch axis
    assert (mixed.batched, mixed.whole) == (True, ("s",))


def test_samples_of_different_shapes_are_never_mixed(tmp_path: Path) -> None:
    for name, width in (("a", 2), ("b", 2), ("c", 5)):
        write(tmp_path / f"{name}.npz", x=np.zeros((2, width), np.float32))
    ref = resolve(str(tmp_path))
    spec = TensorSpec("x", "float32", ("n", "width"))
    shapes = [feed["x"].shape for feed, _ in Dataset(ref).feeds((spec,), range(6), 3)]
    assert shapes == [(3, 2), (1, 2), (2, 5)]
    padded = TensorSpec("x", "float32", (3, "width"))
    shapes = [feed["x"].shape for feed, _ in Dataset(ref).feeds((padded,), range(6))]
    assert shapes == [(3, 2), (3, 2), (3, 5)]


def test_feeds_are_contiguous_and_in_native_byte_order(tmp_path: Path) -> None:
    turned = np.asfortranarray(rows(4).astype(">f4"))
    write(tmp_path / "d.npz", x=turned)
    ((feed, _),) = Dataset(resolve(str(tmp_path / "d.npz"))).feeds((X_FIXED,), range(4))
    assert feed["x"].flags.c_contiguous
    assert feed["x"].dtype.isnative
    assert feed["x"].tolist() == rows(4).tolist()


def test_one_shard_is_read_at_a_time_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = folder(tmp_path / "d", 3, 3, 3)
    opened = []
    load = datasets._load

    def counting(shard: Shard, names: Any) -> Any:
        opened.append(Path(shard.path).name)
        return load(shard, names)

    monkeypatch.setattr(datasets, "_load", counting)
    feeds = Dataset(ref).feeds((X_BATCHED,), range(9), 2)
    next(feeds)
    assert opened == ["000.npz"]
    list(feeds)
    assert opened == ["000.npz", "001.npz", "002.npz"]


def test_data_may_be_larger_than_memory(tmp_path: Path) -> None:
    shards, shape = 20, (50, 5_000)
    shard_bytes = int(np.prod(shape)) * 4
    tracemalloc.start()
    try:
        writer = datasets.ShardWriter(str(tmp_path), shard_bytes)
        for number in range(shards * shape[0]):
            writer.add({"x": np.full((1, shape[1]), number, np.float32)}, "here")
        writer.flush()
        ref = resolve(str(tmp_path))
        wide = TensorSpec("x", "float32", ("n", shape[1]))
        seen = [int(n) for _, ns in Dataset(ref).feeds((wide,), range(ref.samples), 7) for n in ns]
        for _, first, arrays in Dataset(ref).scan(("x",)):
            assert arrays["x"][0, 0] == first
            del arrays  # else two shards live at once
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(ref.shards) == shards
    assert seen == list(range(shards * shape[0]))
    assert peak < 5 * shard_bytes


@pytest.mark.parametrize("indices", [(-1,), (5,), (0, 7)])
def test_an_index_outside_the_set_is_refused_before_the_first_feed(
    tmp_path: Path, indices: tuple[int, ...]
) -> None:
    ref = folder(tmp_path / "d", 5)
    with pytest.raises(IndexError, match=r"a sample outside 0\.\.4"):
        Dataset(ref).feeds((X_BATCHED,), indices)


def test_an_absent_input_is_refused_before_the_first_feed(tmp_path: Path) -> None:
    ref = folder(tmp_path / "d", 5)
    with pytest.raises(InputError, match=r"no array for the input y: float32\[n\]"):
        Dataset(ref).feeds((X_BATCHED, TensorSpec("y", "float32", ("n",))), (0,))


def test_a_file_that_changed_since_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    write(path, x=rows(5))
    ref = resolve(str(path))
    write(path, x=rows(4))
    with pytest.raises(InputError, match="4 samples, but 5 when it was checked"):
        list(Dataset(ref).feeds((X_BATCHED,), range(5)))


def test_different_fixed_batches_are_refused() -> None:
    specs = (TensorSpec("x", "float32", (4, 3)), TensorSpec("y", "float32", (2, 3)))
    with pytest.raises(InputError, match="different fixed batch sizes: x 4, y 2"):
        datasets.layout(specs, {"x": 2, "y": 2}, 1)


def test_labels_follow_the_indices(tmp_path: Path) -> None:
    ref = folder(tmp_path / "d", 2, 3)
    assert Dataset(ref).labels().tolist() == [0, 1, 2, 3, 4]
    assert Dataset(ref).labels((4, 0, 3)).tolist() == [4, 0, 3]
    none = Dataset(ref).labels(())
    assert (none.shape, none.dtype) == ((0,), np.dtype(np.int64))
    with pytest.raises(InputError, match='no "labels" array'):
        Dataset(folder(tmp_path / "u", 2, labels=False)).labels()


def test_calibration_feeds_one_sample_each_and_can_start_again(tmp_path: Path) -> None:
    ref = folder(tmp_path / "d", 3, 3)
    calibration = CalibrationSet(ref, (X_BATCHED,), (1, 4, 5))
    for _ in range(2):
        fed = [feed["x"] for feed in calibration.feeds()]
        assert [array.shape for array in fed] == [(1, 3)] * 3
        assert [array[0, 0] for array in fed] == [3, 12, 15]
    assert len(calibration) == 3


@pytest.mark.parametrize(("samples", "feeds"), [(0, 0), (1, 1), (4, 1), (5, 2)])
def test_calibration_feeds_the_models_fixed_batch(tmp_path: Path, samples: int, feeds: int) -> None:
    ref = folder(tmp_path / "d", 6)
    calibration = CalibrationSet(ref, (X_FIXED,), tuple(range(samples)))
    assert [feed["x"].shape for feed in calibration.feeds()] == [(4, 3)] * feeds
    assert len(calibration) == feeds


# split


@given(samples=st.integers(1, 300), seed=st.integers(-(2**70), 2**70), data=st.data())
def test_a_split_parts_all_samples_without_overlap(
    samples: int, seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, samples - 1))
    calibration, validation = split(samples, count, seed)
    assert len(calibration) == count
    assert sorted((*calibration, *validation)) == list(range(samples))
    assert list(calibration) == sorted(calibration)
    assert list(validation) == sorted(validation)
    assert all(type(index) is int for index in (*calibration, *validation))
    smaller, _ = split(samples, count // 2, seed)
    assert set(smaller) <= set(calibration)


def reference_mix(key: int) -> int:
    """SplitMix64's output function in plain integers."""
    mask = 2**64 - 1
    key = (key + 0x9E3779B97F4A7C15) & mask
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & mask
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & mask
    return key ^ (key >> 31)


def test_a_split_is_what_its_documentation_says() -> None:
    # The first output of SplitMix64 seeded with 1234567, from its reference implementation.
    assert reference_mix(1234567) == 6457827717110365317
    start = reference_mix(7)
    keys = [reference_mix((start + i) % 2**64) for i in range(50)]
    expected = sorted(sorted(range(50), key=keys.__getitem__)[:10])
    assert split(50, 10, 7)[0] == tuple(expected)


def test_a_split_depends_on_the_seed_and_is_spread() -> None:
    chosen = {split(1000, 100, seed)[0] for seed in range(20)}
    assert len(chosen) == 20
    means = [float(np.mean(part)) for part in chosen]
    assert 480 < np.mean(means) < 520  # the mean of 2,000 uniform draws has an SD of 6


@pytest.mark.parametrize(("samples", "calibration"), [(5, 5), (5, 6), (5, -1), (0, 1)])
def test_a_split_that_leaves_nothing_is_refused(samples: int, calibration: int) -> None:
    with pytest.raises(InputError, match=f"{calibration} calibration samples asked for"):
        split(samples, calibration, 0)


# stages and draws


@given(
    numbers=st.lists(st.integers(0, 10**6), unique=True, max_size=1500).map(sorted),
    seed=st.integers(-(2**70), 2**70),
)
def test_stages_part_the_samples_and_each_is_sorted(numbers: list[int], seed: int) -> None:
    parts = stages(numbers, seed)
    assert sorted(number for part in parts for number in part) == numbers
    assert all(list(part) == sorted(part) for part in parts)
    assert all(type(number) is int for part in parts for number in part)
    assert stages(numbers, seed) == parts


@pytest.mark.parametrize(
    ("samples", "sizes"),
    [
        (0, []),
        (1, [1]),
        (64, [64]),
        (65, [64, 1]),
        (256, [64, 192]),
        (5000, [64, 192, 768, 3072, 904]),
    ],
)
def test_each_stage_makes_the_samples_four_times_as_many(samples: int, sizes: list[int]) -> None:
    assert [len(part) for part in stages(range(samples), 0)] == sizes


def test_another_seed_stages_other_samples() -> None:
    assert len({stages(range(500), seed)[0] for seed in range(20)}) == 20


def test_each_stage_is_a_random_draw_even_of_data_sorted_by_class() -> None:
    labels = np.arange(4000) // 1000
    for calibration in (0, 300):
        _, validation = split(4000, calibration, 3)
        for part in stages(validation, 3):
            if len(part) < 64:
                continue
            share = np.bincount(labels[list(part)], minlength=4) / len(part)
            # five standard deviations of a draw with replacement
            assert np.abs(share - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / len(part))


@given(samples=st.integers(0, 300), count=st.integers(0, 400), seed=st.integers(0, 2**32))
def test_a_draw_is_sorted_and_never_holds_a_sample_twice(
    samples: int, count: int, seed: int
) -> None:
    drawn = draw(samples, count, seed)
    assert len(drawn) == min(samples, count)
    assert list(drawn) == sorted(set(drawn))
    assert set(drawn) <= set(range(samples))


# spool


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a user's module into the working directory; its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def make(body: str) -> str:
        name = f"user_data_{len(set(sys.modules) - before)}_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text("import numpy as np\n" + body)
        return name

    return make


def test_spools_what_a_function_yields(tmp_path: Path, module: Callable[[str], str]) -> None:
    name = module(
        "def load():\n"
        "    buffer = np.zeros((4, 3), np.float32)\n"
        "    for batch in range(5):\n"
        "        buffer[:] = batch\n"  # the same buffer every time
        "        yield {'file': buffer, 'a/b:0': buffer[:, 0]}, np.full(4, batch)\n"
    )
    out = tmp_path / "spooled"
    spool(f"{name}:load", str(out), shard_bytes=200)
    ref = resolve(str(out))
    assert ref.samples == 20
    # 24 bytes a sample: three float32, one float32, one int64.
    assert [shard.samples for shard in ref.shards] == [8, 8, 4]
    dataset = Dataset(ref)
    assert dataset.labels().tolist() == np.repeat(range(5), 4).tolist()
    specs = (TensorSpec("file", "float32", ("n", 3)), TensorSpec("a/b:0", "float32", ("n",)))
    for feed, numbers in dataset.feeds(specs, range(20), 3):
        assert feed["file"][:, 2].tolist() == feed["a/b:0"].tolist() == (numbers // 4).tolist()


def test_a_batch_larger_than_a_shard_is_parted(
    tmp_path: Path, module: Callable[[str], str]
) -> None:
    name = module(
        "def load():\n"
        "    yield {'x': np.arange(5.0)}, None\n"
        "    yield {'x': np.arange(5.0, 7)}, None\n"
    )
    for limit, sizes in ((16, [2, 2, 2, 1]), (1, [1] * 7)):
        out = tmp_path / str(limit)
        spool(f"{name}:load", str(out), shard_bytes=limit)
        ref = resolve(str(out))
        assert [shard.samples for shard in ref.shards] == sizes
        found = np.concatenate([arrays["x"] for _, _, arrays in Dataset(ref).scan(("x",))])
        assert found.tolist() == list(range(7))


def test_spools_without_labels_and_by_shape(tmp_path: Path, module: Callable[[str], str]) -> None:
    name = module(
        "def load():\n"
        "    for width in (2, 2, 3):\n"
        "        yield {'x': np.zeros((2, width), np.float32)}, None\n"
    )
    spool(f"{name}:load", str(tmp_path / "out"))
    ref = resolve(str(tmp_path / "out"))
    assert [shard.samples for shard in ref.shards] == [4, 2]
    assert not ref.labelled
    with pytest.raises(ValueError, match="already holds shards"):
        spool(f"{name}:load", str(tmp_path / "out"))


BAD_FUNCTIONS: list[tuple[str, str, str, str]] = [
    ("absent", "load = 1", "load:er", "is not of the form"),
    ("not callable", "load = 1", "load", "has no function load"),
    ("import fails", "1 / 0", "load", "raised ZeroDivisionError: division by zero"),
    ("other import", "import no_such_package_at_all", "load", "raised ModuleNotFoundError"),
    ("raises", "def load():\n    raise KeyError('k')\n    yield", "load", "raised KeyError: 'k'"),
    ("nothing", "def load():\n    yield from ()", "load", "yielded no samples"),
    ("no pair", "def load():\n    yield np.zeros(3)", "load", "batch 0: yielded ndarray; expected"),
    (
        "lengths",
        "def load():\n    yield {'x': np.zeros((3, 1))}, [1]",
        "load",
        "batch 0: labels: 1 labels for 3 samples",
    ),
    (
        "labels twice",
        "def load():\n    yield {'x': np.zeros(1), 'labels': [1]}, [1]",
        "load",
        'batch 0: "labels" both in the feed and beside it',
    ),
    ("objects", "def load():\n    yield {'x': [None]}, None", "load", "batch 0: x: an array of Py"),
    ("ragged", "def load():\n    yield {'x': [[1], [1, 2]]}, None", "load", "batch 0: no array"),
    (
        "other arrays",
        "def load():\n    yield {'x': np.zeros(1)}, None\n    yield {'x': np.zeros(1)}, [1]",
        "load",
        "batch 1: holds x (float64), labels (int64); the first batch held x (float64)",
    ),
]


@pytest.mark.parametrize(
    ("body", "function", "what"),
    [case[1:] for case in BAD_FUNCTIONS],
    ids=[case[0] for case in BAD_FUNCTIONS],
)
def test_a_bad_function_is_the_users_error(
    tmp_path: Path, module: Callable[[str], str], body: str, function: str, what: str
) -> None:
    name = module(body)
    with pytest.raises(InputError) as error:
        spool(f"{name}:{function}", str(tmp_path / "out"))
    assert problems(error).startswith("--data: ")
    assert what in problems(error)


def test_a_module_that_is_not_there(tmp_path: Path, module: Callable[[str], str]) -> None:
    module("")
    with pytest.raises(InputError, match=f"no module no_such_loader in {tmp_path}, nor installed"):
        spool("no_such_loader:load", str(tmp_path / "out"))


def test_a_misspelt_function(tmp_path: Path, module: Callable[[str], str]) -> None:
    name = module("def batches():\n    yield")
    with pytest.raises(InputError) as error:
        spool(f"{name}:batchs", str(tmp_path / "out"))
    assert error.value.problems[0].fix == 'did you mean "batches"?'


def test_a_full_disk_is_said(
    tmp_path: Path, module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = module("def load():\n    yield {'x': np.zeros(3)}, None")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(StoreError, match="no room left on the disk"):
        spool(f"{name}:load", str(tmp_path / "out"))


def test_a_function_is_told_from_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:name").write_text("")
    assert is_function("package.module:function")
    assert not is_function("odd:name")
    assert not is_function("folder/data.npz")
